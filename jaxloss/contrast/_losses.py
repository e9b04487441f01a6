"""From the statistics of each query to the reduced loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxloss._core.arguments.tail import Tail, mean
from jaxloss._core.sweeps.blocks import Facts, Operands, Rule
from jaxloss._core.sweeps.pairs import statistics, sum_over_ring, sum_queries
from jaxloss.contrast._arguments import Batch

# Takes the statistics of queries and real numbers that they have of their own; returns
# the losses, and what each query adds to the denominator of a mean.
Loss = Callable[[Any, Any], tuple[jax.Array, jax.Array]]


def reduce_pairs(
    rule: Rule,
    loss: Loss,
    batch: Batch,
    scale: jax.Array,
    shifts: jax.Array | None = None,
    own: Any = None,
) -> jax.Array:
    """The losses of all queries, weighted and reduced.

    With all keys on one device, one sweep gives the sum and its gradient. For a rule
    that is additive, whose statistics are the losses, one round over a ring of devices
    does too. Elsewhere, and for the reduction "none", the backward pass makes the
    logits again: a slope needs the statistics of its whole query, and each query may
    have a cotangent of its own.
    """
    operands = Operands(batch.queries, batch.keys, scale, shifts)
    facts = Facts(batch.example, batch.key, batch.dropped)
    tail, options = batch.tail, batch.options
    if tail.reduction != "none" and rule.additive and not batch.on_one_device:
        ones = jnp.ones(batch.queries.shape[0], batch.dtype)
        share = Tail(tail.keep, tail.weights, "none").reduce(ones)
        if tail.reduction == "mean":
            share = mean(share, jnp.sum(share))
        return sum_over_ring(rule, operands, share, facts, options)
    if tail.reduction == "none" or not batch.on_one_device:
        found, _ = statistics(rule, operands, facts, options)
        return tail.reduce(*loss(found, own))

    def finish(found, own, example):
        weights, numbers = own
        value, mass = loss(found, numbers)
        return Tail(example.keep, weights, "none").reduce(value), mass

    n = batch.queries.shape[0]
    weights = None
    if tail.weights is not None:
        weights = jnp.broadcast_to(tail.weights, (n,))
    own = weights, own
    total, mass = sum_queries(rule, finish, operands, own, facts, options)
    if tail.reduction == "sum":
        return total
    return mean(total, Tail(tail.keep, weights, "sum").reduce(mass))

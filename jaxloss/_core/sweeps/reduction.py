"""Weights and reduction of a linear loss, within its sweep.

"none" is a sweep for the values and one for the gradients. "sum" and "mean" are sums of
numbers per row, whose gradient one sweep makes together with the value: so the weights
and the mean's denominator are factors of each row's number.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxloss._core.arguments.tail import Tail
from jaxloss._core.rule.analytic import pointwise
from jaxloss._core.sweeps.linear import Rule, map_rows, sum_rows
from jaxloss._core.sweeps.operands import Operands, Options


def dropped(tail: Tail, batch: tuple[int, ...]) -> jax.Array | None:
    """True in the examples of weight 0, [...]; None where there are no weights."""
    if tail.weights is None:
        return None
    return jnp.broadcast_to(tail.weights, batch) == 0


def weighted_losses(
    rule: Rule,
    operands: Operands,
    fixed: Any,
    tail: Tail,
    options: Options,
    share: jax.Array | None = None,
) -> jax.Array:
    """The weighted losses per example, or their sum for "sum" and "mean".

    Takes the arguments of `map_rows`, with a spread tail in place of its mask. `share`
    is the first of `share_of_mean`; what is returned needs `reduced`.
    """
    if tail.reduction == "none":
        loss = map_rows(rule, operands, fixed, tail.keep, options)
        return tail.reduce(loss)
    batch = operands.first[0].shape[:-1]
    factors = [x for x in (tail.weights, share) if x is not None]
    weights = None
    if factors:
        weights = functools.reduce(
            jnp.multiply, (jnp.broadcast_to(x, batch) for x in factors)
        )
    weighted = _Weighted(operands.own, weights)
    operands = dataclasses.replace(operands, own=weighted)
    return sum_rows(_with_weights(rule), operands, fixed, tail.keep, options)


class _Weighted(NamedTuple):
    own: Any  # what the rule takes as its own
    weights: jax.Array | None


def _with_weights(rule: Rule) -> Rule:
    """The rule of the weighted numbers, 0 in excluded rows."""

    def reduced(loss, own, keep):
        return Tail(keep, own.weights, "none").reduce(loss)

    def by_row(x, own, shared, fixed, keep, axis_name):
        loss = rule.by_row(x, own.own, shared, fixed, keep, axis_name)
        return reduced(loss, own, keep)

    if rule.by_class is None:
        return Rule(by_row)
    inner = rule.by_class

    def finish(sums, top, own, shared, fixed, keep, *classes):
        loss = inner.finish(sums, top, own.own, shared, fixed, keep, *classes)
        return reduced(loss, own, keep)

    return Rule(by_row, dataclasses.replace(inner, finish=finish))


def share_of_mean(tail, mass, batch, dtype):
    """What an example of weight 1 adds to the mean, and what the mean divides by.

    Both are None for another reduction. The sweep multiplies by the first, and nothing
    behind the sweep: so the gradient leaves it as it is, and is rounded once.
    """
    if tail.reduction != "mean":
        return None, None
    summed = dataclasses.replace(tail, reduction="sum")
    counted = summed.reduce(jnp.ones(batch, dtype) if mass is None else mass)
    share = 1 / jnp.where(counted == 0, 1, counted)
    return jax.lax.stop_gradient(share), counted


def reduced(loss, counted):
    """The loss, given the sum of the shares; `counted` is of `share_of_mean`."""
    return loss if counted is None else _mean(loss, counted)


# The mean M = S / n of the sum S, whose share 1/n is constant within M: so
# dM = dS / n - M dn / n, of which the first term is the derivative of M as given. It is
# 0 with a zero gradient where nothing counts.
@pointwise
def _mean(mean, counted):
    nothing = counted == 0
    by_count = -mean / jnp.where(nothing, 1, counted)
    return mean, (
        jnp.where(nothing, 0, jnp.ones_like(mean)),
        jnp.where(nothing, 0, by_count),
    )

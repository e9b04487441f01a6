"""Divergences of one chunk of examples, from the outputs of linear layers."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxloss._core.rule.dropped import guard
from jaxloss._core.sweeps.linear import Rule
from jaxloss._core.sweeps.logits import guard_rows, logits
from jaxloss._core.sweeps.reduction import (
    dropped,
    reduced,
    share_of_mean,
    weighted_losses,
)
from jaxloss.distillation._divergences import (
    beta_array,
    divergence_of_logits,
    one_per_example,
)
from jaxloss.distillation._sparse import Teacher, sparse_divergence


class Known(NamedTuple):
    """Real arrays with the teacher's numbers of each example."""

    log_probs: jax.Array  # [..., K]
    log_tail: jax.Array | None  # [...]
    beta: jax.Array | None  # [...]


class Fixed(NamedTuple):
    """Integer and boolean arrays of each example."""

    dropped: jax.Array | None  # of weight 0
    ids: jax.Array | None = None  # [..., K], as are those below but the last
    counted: jax.Array | None = None
    valid: jax.Array | None = None  # [...]


def of_two_layers(divergence, x, beta, shared, fixed, keep, axis_name):
    """The rule of `linear_distillation_loss`, of the outputs of both layers."""
    student, teacher = (
        _logits(x, options._replace(temperature=None), fixed)
        for x, options in zip(x, shared, strict=True)
    )
    temperature = shared[0].temperature
    if temperature is not None:
        temperature = one_per_example(temperature, student)
    beta, temperature = _guarded((beta, temperature), fixed)
    return divergence_of_logits(
        divergence, student, teacher, beta, axis_name, temperature
    )


def of_known_classes(divergence, kind, x, known, shared, fixed, keep, axis_name):
    """The rule of `linear_sparse_distillation_loss`."""
    x, known = _logits(x, shared, fixed), _guarded(known, fixed)
    teacher = Teacher(
        fixed.ids, known.log_probs, fixed.counted, fixed.valid, known.log_tail
    )
    return sparse_divergence(divergence, kind, x, teacher, known.beta, keep, axis_name)


def _logits(x, options, fixed):
    if fixed.dropped is not None:
        x, options = guard_rows((x, options), x, fixed.dropped)
    return logits(x, options)


def _guarded(own, fixed):
    """Numbers of each example, with finite derivatives where its weight is 0."""
    if fixed.dropped is None:
        return own

    def each(x):
        return guard(x, jnp.expand_dims(fixed.dropped, tuple(range(1, x.ndim))))

    return jax.tree.map(each, own)


def beta_by_row(divergence, beta, batch, dtype):
    """`beta` as a number per example, so that weights of 0 exclude some; or None."""
    if divergence != "jensen_shannon":
        return None
    return jnp.broadcast_to(beta_array(beta, dtype), batch)


def reduced_losses(rule, operands, fixed, tail, options, batch, dtype):
    """The losses of a rule by row, weighted and reduced."""
    share, counted = share_of_mean(tail, None, batch, dtype)
    tail = tail.spread(batch)
    fixed = Fixed(dropped(tail, batch), *fixed)
    loss = weighted_losses(Rule(rule), operands, fixed, tail, options, share)
    return reduced(loss, counted)

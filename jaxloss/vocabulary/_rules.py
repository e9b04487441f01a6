"""The rules of the linear losses, by rows of logits and by sums over the classes."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxloss._core.rule.dropped import guard
from jaxloss._core.softmax import (
    distances_to,
    entropy,
    entropy_of_sums,
    excess_of_sums,
    exponentials_but,
    maximum,
    surprisal,
    surprisal_of_sums,
)
from jaxloss._core.sweeps.classes import ByClass
from jaxloss._core.sweeps.linear import Rule
from jaxloss._core.sweeps.logits import logits
from jaxloss._core.sweeps.operands import Operands
from jaxloss._core.sweeps.reduction import dropped, weighted_losses
from jaxloss.vocabulary._layer import (
    Fixed,
    Own,
    clip_labels,
    composed,
    cross_entropy,
    guarded,
    mean_gap,
    needs_excess,
    total_weight,
)


def losses(hidden, kernel, labels, shared, tail, mass, options, share=None):
    """The weighted losses per example, or their sum for "sum" and "mean".

    Args:
        hidden: [..., D].
        kernel: [D, C].
        labels: Integer, [...].
        shared: The options of the logits and of the loss.
        tail: The checked tail.
        mass: The class weight of each label, or None.
        options: How the sweep runs.
        share: The first of `share_of_mean`; what is returned needs `reduced`.
    """
    tail = tail.spread(labels.shape)
    fixed = Fixed(labels, dropped(tail, labels.shape))
    operands = Operands(hidden, kernel, Own(mass), shared)
    return weighted_losses(_CROSS_ENTROPY, operands, fixed, tail, options, share)


class _Sums(NamedTuple):
    """Sums over the classes, [N] each, relative to the largest logit m."""

    own: jax.Array  # the label's logit
    others: jax.Array  # of e^{x_j - m}, without the label
    gap: jax.Array | None = None  # of w_j (m - x_j) / C
    weight: jax.Array | None = None  # of w_j / C
    spread: jax.Array | None = None  # of e^{x_j - m} (m - x_j), without the label


def _logits(x, shared, fixed):
    if fixed.dropped is not None:
        x, _, shared = guarded(x, None, shared, fixed.dropped)
    return logits(x, shared), shared


def _sums(x, shared, fixed, top, first, classes, *, with_spread=False):
    hit, below = _at_label(x, fixed, first, classes), top[:, None]
    e = exponentials_but(hit, x, below)
    sums = _Sums(jnp.sum(jnp.where(hit, x, 0), axis=1), jnp.sum(e, axis=1))
    if with_spread:
        spread = jnp.sum(e * distances_to(below, x), axis=1)
        sums = sums._replace(spread=spread)
    if shared.label_smoothing is None:
        return sums
    weights = 1 if shared.class_weights is None else shared.class_weights
    weight = jnp.sum(jnp.broadcast_to(weights / classes, x.shape), axis=1)
    return sums._replace(gap=mean_gap(x, top, shared, classes), weight=weight)


def _at_label(x, fixed, first, classes):
    """True at the label, clipped to the classes, in the block that has it."""
    labels = jnp.clip(fixed.labels, 0, classes - 1).astype(jnp.int32) - first
    return jax.lax.broadcasted_iota(jnp.int32, x.shape, 1) == labels[:, None]


def _raised(sums, by):
    shrink = jnp.exp(-by)
    others, spread, gap = sums.others * shrink, sums.spread, sums.gap
    if spread is not None:
        moved = jnp.where(shrink == 0, 0, by * shrink)
        spread = spread * shrink + moved * sums.others
    if gap is not None:
        gap = gap + sums.weight * by
    return sums._replace(others=others, spread=spread, gap=gap)


def _cross_entropy_of_sums(sums, top, own, shared, fixed, keep, classes, axis_name):
    mass, total = own.mass, total_weight(shared, classes, axis_name)
    if fixed.dropped is not None:

        def by_row(value):
            if value is None:
                return None
            return guard(jnp.broadcast_to(value, top.shape), fixed.dropped)

        mass, total = by_row(mass), by_row(total)
        shared = shared._replace(
            label_smoothing=by_row(shared.label_smoothing),
            z_loss=by_row(shared.z_loss),
        )
        sums = jax.tree.map(by_row, sums)
    loss = surprisal_of_sums(sums.own, sums.others, top)
    above = excess_of_sums(sums.own, sums.others, top) if needs_excess(shared) else None
    loss = composed(loss, top, above, sums.gap, total, mass, shared)
    return jnp.where(_is_class(fixed.labels, classes), loss, jnp.nan)


def _is_class(labels, classes):
    return (labels >= 0) & (labels < classes)


_CROSS_ENTROPY = Rule(
    cross_entropy, ByClass(_logits, _sums, _raised, _cross_entropy_of_sums)
)


def _log_probs_by_row(x, own, shared, fixed, keep, axis_name):
    axis = {"axis": 1, "axis_name": axis_name}
    x = logits(x, shared)
    labels, valid = clip_labels(x, fixed.labels, axis_name)
    top = maximum(x, **axis)
    log_probs = jnp.where(valid, -surprisal(x, labels, **axis, top=top), jnp.nan)
    return _kept((log_probs, entropy(x, labels, top, **axis)), keep)


def _kept(numbers, keep):
    if keep is None:
        return numbers
    return tuple(jnp.where(keep, x, 0) for x in numbers)


def _log_probs_of_sums(sums, top, own, shared, fixed, keep, classes, axis_name):
    log_probs = -surprisal_of_sums(sums.own, sums.others, top)
    log_probs = jnp.where(_is_class(fixed.labels, classes), log_probs, jnp.nan)
    numbers = sums.own, sums.others, sums.spread, top
    return _kept((log_probs, entropy_of_sums(*numbers)), keep)


# `linear_statistics` has both numbers too, but by rows alone. By this rule, and by that
# one with its other fields dropped: 2,048 x 512 x 50,304 in float32 on one core of a
# CPU, value and gradient, take 5.3 and 5.7 s, in 206 and 205 MiB of temporaries. Of
# 8,192 x 4,096 x 128,256 in bfloat16 the compilers plan MiB of temporaries and of what
# is moved: for a v5e 1,632, 24,375 and 3,135, 99,775; for an H100 1,005, 40,987 and
# 2,892, 124,682.
_SUMS_WITH_SPREAD = functools.partial(_sums, with_spread=True)
LOG_PROBS = Rule(
    _log_probs_by_row, ByClass(_logits, _SUMS_WITH_SPREAD, _raised, _log_probs_of_sums)
)

"""The log-sum-exp over a class axis with all its digits, and the surprisals from it."""

import functools

import jax
import jax.numpy as jnp

from jaxloss._core.compilers.order import own_pass_if, recomputed
from jaxloss._core.devices import sum_over_devices
from jaxloss._core.numerics.exact import (
    difference_from_own,
    exp_from_own,
    two_finite_difference,
)
from jaxloss._core.rule.analytic import analytic
from jaxloss._core.softmax import Axes, like_softmax, maximum, widen


# log Σ_j e^{x_j - m} with m the maximum. It is near 0 where one class has nearly all of
# the probability: with r the sum without one class at the maximum, log1p(r) keeps its
# digits. The gradient is softmax(x), at the maximum's class too: its term e - 1 is 0,
# and has the derivative of e, which the second derivative needs.
def _excess_forward(logits, top, *, axis, axis_name):
    rest = _sum_of_rest(logits, top, axis, axis_name)
    return jnp.log1p(rest), (logits, top, rest)


def _sum_of_rest(logits, top, axis, axis_name):
    gap, lost = difference_from_own(logits, jnp.expand_dims(top, axis))
    first = gap == 0
    e = jnp.exp(gap)
    rest = jnp.sum(jnp.where(first, e - 1, e * (1 + lost)), axis=axis)
    ties = jnp.sum(first, axis=axis, dtype=rest.dtype)
    return sum_over_devices(rest, axis_name) + (sum_over_devices(ties, axis_name) - 1)


def _excess_backward(residuals, cotangent, *, axis, axis_name):
    logits, top, rest = residuals
    none = rest == -1  # no class is possible
    share = jnp.expand_dims(1 / jnp.where(none, 1, 1 + rest), axis)
    slope = exp_from_own(logits, jnp.expand_dims(recomputed(top), axis)) * share
    slope = like_softmax(slope, logits, axis, axis_name)
    return jnp.expand_dims(cotangent, axis) * slope, None


_excess = analytic(_excess_forward, _excess_backward)


# m + log(1 + r), with the same gradient. With s the sum of all, s - 1 has the digits of
# r where r >= 1, and those that the result needs where it is far from 0.
def _log_sum_exp_forward(logits, top, *, axis, axis_name):
    if axis_name is not None:
        rest = _sum_of_rest(logits, top, axis, axis_name)
        return top + jnp.log1p(rest), (logits, top, rest)
    short = jnp.sum(exp_from_own(logits, jnp.expand_dims(top, axis)), axis=axis) - 1
    needed = (short < 1) & (jnp.abs(top + jnp.log1p(short)) < 4)
    alone = functools.partial(_rest_alone, axis)

    def beside(logits, top, *_):
        return _sum_of_rest(logits, top, axis, None)

    arrays = logits, top, short, needed
    rest = own_pass_if(jnp.any(needed), alone, beside, short, *arrays)
    return top + jnp.log1p(rest), (logits, top, rest)


# XLA for CPU stores what a select gives for a sum. Here it needs no array: m is between
# -5 and 4, so that a bound takes the infinities away, and floor(e) is 1 at a maximum.
def _rest_alone(axis, logits, top, short, needed):
    """r where it is `needed`, else `short`."""
    top = jnp.expand_dims(top, axis)
    gap, lost = two_finite_difference(jnp.clip(logits, top - 1000, top), top)
    e = jnp.exp(gap) * (1 + lost)
    return jnp.where(needed, jnp.sum(e - jnp.floor(e), axis=axis), short)


_log_sum_exp = analytic(_log_sum_exp_forward, _excess_backward)


def surprisals(logits: jax.Array, *, axis: Axes) -> jax.Array:
    """-log softmax(logits) of every class, in the shape of `logits`."""
    top = maximum(logits, axis)
    logits = widen(logits)
    excess = jnp.expand_dims(_excess(logits, top, axis=axis, axis_name=None), axis)
    # An impossible class has a logit without a gradient.
    logits = jnp.where(jnp.isneginf(logits), -jnp.inf, logits)
    gap, _ = difference_from_own(logits, jnp.expand_dims(top, axis))
    return excess - gap


def log_sum_exp(
    logits: jax.Array, *, axis: Axes, axis_name: str | None = None
) -> jax.Array:
    """log Σ exp(logits), 0 with a zero gradient where no class is possible."""
    top = maximum(logits, axis, axis_name)
    value = _log_sum_exp(widen(logits), top, axis=axis, axis_name=axis_name)
    return jnp.where(jnp.isneginf(value), 0, value)

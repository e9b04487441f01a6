"""Cross entropy with a label per class: the analytic rules of the dense class losses.

Shapes: `logits` and `labels` have the class axes `axis`; per-example arrays lack them.
"""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.compilers.order import own_pass_if, recomputed
from jaxloss._core.compilers.terms import capped_product, stored_exponential
from jaxloss._core.devices import sum_over_devices
from jaxloss._core.numerics.exact import difference_from_own, with_derivative_of
from jaxloss._core.rule.analytic import analytic
from jaxloss._core.rule.varying import vary_as
from jaxloss._core.softmax import Axes, maximum, softmax


# e^{x_j - m} and r, their sum without one class at the maximum m, which keeps its
# digits where that class has all the mass. Rounding x_j - m costs e^{x_j - m} as much
# as x_j - m is large; what it took is put back. e - floor(e) is e, 0 at a maximum, and
# has the slope of e everywhere. With ties the whole sum is at least 2.
def _exponentials(logits, top):
    gap, lost = difference_from_own(logits, top)
    return stored_exponential(gap, lost)


def _sum_of_rest(exponentials, axis, axis_name):
    whole = sum_over_devices(jnp.sum(exponentials, axis=axis, keepdims=True), axis_name)
    below = exponentials - jnp.floor(exponentials)
    below = sum_over_devices(jnp.sum(below, axis=axis, keepdims=True), axis_name)
    return jnp.where(whole >= 2, whole - 1, below)


# Σ_j q_j (log Σ_k e^{x_k} - x_j) with soft labels q of sum Q, which need not be 1:
#     loss = Σ_j q_j (m - x_j) + Q log1p(r),           no negative term,
#     d loss / d x_j = Q p_j - q_j,   p_j = e^{x_j - m} / (1 + r), and at a maximum
#                    = Σ_{k != j} q_k - Q r / (1 + r), which has its digits as p_j -> 1,
#     d loss / d q_j = (m - x_j) + log1p(r).
# Where x_j = -inf, a label of 0 adds 0. One pass writes e and one the slope, without a
# temporary: the broadcast of m would be one if the value did not use that of -m.
def _soft_forward(logits, labels, top, *, axis, axis_name):
    top = jnp.expand_dims(top, axis)
    rest = _sum_of_rest(_exponentials(logits, top), axis, axis_name)
    mass = sum_over_devices(jnp.sum(labels, axis=axis, keepdims=True), axis_name)
    # By halves: m - x_j may overflow where q_j times it does not.
    behind = capped_product(labels, -(logits / 2 + -top / 2))
    behind = sum_over_devices(jnp.sum(behind, axis=axis), axis_name)
    behind = jnp.where(behind == 0, 0, 2 * behind)
    value = behind + jnp.squeeze(mass * jnp.log1p(rest), axis)
    apart = jnp.expand_dims(behind, axis) != 0
    others = _sum_below(logits, labels, top, rest, apart, axis, axis_name)
    return value, (logits, labels, top, rest, mass, others)


# Where r < 1/2, one class is dominant: it alone has the maximum, and more than 2/3 of
# the probability. Elsewhere Q p_j - q_j is as accurate as the other form.
def _dominant(rest):
    return rest < 0.5


def _sum_below(logits, labels, top, rest, apart, axis, axis_name):
    """The sum of the labels below the maximum; anything where it is not needed.

    Q minus the label of a dominant class would lose the digits of this sum. It is 0
    where Σ q_j (m - x_j) = 0, as with labels on dominant classes alone, and `apart` is
    False there. So only a batch with a dominant class and other labels beside it needs
    it.
    """

    def below(logits, labels, top):
        # XLA for CPU would materialise a select, and under `vmap` the broadcast of m.
        below = labels * jnp.sign(-(logits + -top))
        return jnp.sum(below, axis=axis, keepdims=True)

    def alone(logits, labels, _):
        # Takes the maximum again: kept until here, it would be one array more.
        return below(logits, labels, jnp.expand_dims(maximum(logits, axis), axis))

    if axis_name is not None:
        return sum_over_devices(below(logits, labels, top), axis_name)
    needed = jnp.any(_dominant(rest) & apart)
    nothing = vary_as(jnp.zeros_like(rest), rest)
    return own_pass_if(needed, alone, below, nothing, logits, labels, top)


def _soft_slope(logits, labels, top, rest, mass, others):
    """The slope by the logits: Q p_j - q_j with all its digits."""
    share = mass / (1 + rest)
    e = _exponentials(logits, top)
    others = jnp.broadcast_to(stop_gradient(others), labels.shape)
    # At a maximum e is 1; 1 - e adds nothing but e's slope to the second derivative.
    at_top = with_derivative_of(others, mass - labels) - (rest + (1 - e)) * share
    slope = jnp.where((e == 1) & _dominant(rest), at_top, e * share - labels)
    return jnp.where(jnp.isneginf(logits), 0, slope)


def _soft_backward(residuals, cotangent, *, axis, axis_name):
    logits, labels, top, rest, mass, others = residuals
    top, cotangent = recomputed(top), jnp.expand_dims(cotangent, axis)
    slope = _soft_slope(logits, labels, top, rest, mass, others)
    # Not inf there, even under a label: times a class weight of 0 it would be NaN.
    gap, _ = difference_from_own(logits, top)
    surprise = jnp.where(jnp.isneginf(logits), 0, jnp.log1p(rest) - gap)
    return cotangent * slope, cotangent * surprise, None


_soft_cross_entropy = analytic(_soft_forward, _soft_backward)


def soft_cross_entropy(
    logits: jax.Array, labels: jax.Array, *, axis: Axes, axis_name: str | None = None
) -> jax.Array:
    """-Σ labels · log softmax(logits) over `axis`, in float32 or float64.

    Args:
        logits: Floating, of any precision, with the class axes `axis` (canonical).
        labels: Real, of the shape of `logits` and the dtype to compute in.
        axis: The class axis or axes, counted from the front.
        axis_name: The mesh axis of `shard_map` over which the classes are split.
    """
    top = maximum(logits, axis, axis_name).astype(labels.dtype)
    return _soft_cross_entropy(
        logits.astype(labels.dtype), labels, top, axis=axis, axis_name=axis_name
    )


# Σ_j v_j (1 - p_j), with e_j, m and r as above and 1 - p_j = (r + (1 - e_j)) / (1 + r):
#     loss = (V r + Σ_j v_j (1 - e_j)) / (1 + r),   V = Σ_j v_j,
#     d loss / d x_j = p_j (h - v_j),   h = Σ_k v_k p_k, and at a dominant class
#                    = (Σ_{k != j} v_k e_k - v_j r) / (1 + r)²,
# which has its digits as p_j -> 1. The sum of the v at the maximum and two over the
# rest, of v and of v e, give all of these without a difference that loses digits: where
# e_j is near 1, and 1 - e_j is not known well, r is not small. They are a part of the
# pass that makes r; with one sum more, XLA for GPU would take two passes.
def _miss_forward(logits, scale, top, *, axis):
    e = _exponentials(logits, jnp.expand_dims(top, axis))
    rest = _sum_of_rest(e, axis, None)

    first = jnp.floor(e)  # 1 at a maximum
    at_top, others, below = (
        jnp.sum(scale * x, axis=axis, keepdims=True)
        for x in (first, 1 - first, e - first)
    )
    value = (rest * (at_top + others) + (others - below)) / (1 + rest)
    return jnp.squeeze(value, axis), (logits, scale, top, rest, at_top, below)


def _miss_backward(residuals, cotangent, *, axis):
    logits, scale, top, rest, at_top, below = residuals
    cotangent = jnp.expand_dims(cotangent, axis)
    top = jnp.expand_dims(recomputed(top), axis)
    e = _exponentials(logits, top)
    share = 1 / (1 + rest)
    dominant = (below - scale * rest) * (share * share)
    slope = (e * share) * ((below + at_top) * share - scale)
    slope = jnp.where((e == 1) & _dominant(rest), dominant, slope)
    alike = _miss_slope(logits, scale, top, axis)
    slope = with_derivative_of(stop_gradient(slope), alike)
    return cotangent * slope, cotangent * ((rest + (1 - e)) * share), None


# As d p_j = -p_j d surprisal_j, the slope by the logits is also that of the cross
# entropy with the labels v p. Its derivatives have more digits.
def _miss_slope(logits, scale, top, axis):
    labels = scale * softmax(logits, axis)
    mass = jnp.sum(labels, axis=axis, keepdims=True)
    rest = _sum_of_rest(_exponentials(logits, top), axis, None)
    others = _sum_below(logits, labels, top, rest, mass != 0, axis, None)
    return _soft_slope(logits, labels, top, rest, mass, others)


_weighted_miss = analytic(_miss_forward, _miss_backward)


def weighted_miss(logits: jax.Array, scale: jax.Array, *, axis: Axes) -> jax.Array:
    """Σ scale · (1 - softmax(logits)) over `axis`, of arrays of one shape and dtype."""
    top = maximum(logits, axis).astype(scale.dtype)
    return _weighted_miss(logits, scale, top, axis=axis)

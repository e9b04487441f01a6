"""Cross entropy over a class axis: the analytic rules behind the class losses.

Shapes: `logits` has the class axis `axis`; per-example arrays lack it. `stop_gradient`
on a maximum is exact: the maximum only scales a sum of exponentials, and the result
does not depend on it.
"""

import functools
from math import nan

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.compilers.order import recomputed
from jaxloss._core.compilers.places import gather, number_in_a_pass
from jaxloss._core.devices import (
    class_count,
    is_split,
    max_over_devices,
    own_index,
    placement,
    sum_over_devices,
)
from jaxloss._core.numerics.exact import difference_from_own, with_derivative_of
from jaxloss._core.rule.analytic import analytic, pointwise

Axes = int | tuple[int, ...]


def at_label(
    logits: jax.Array, labels: jax.Array, axis: int, axis_name: str | None = None
) -> jax.Array:
    """Boolean array of the shape of `logits`, True at each example's label.

    A comparison, since a scatter would be a pass of its own over memory.
    """
    classes = jax.lax.broadcasted_iota(
        jnp.int32, logits.shape, axis, out_sharding=placement(logits)
    )
    return classes == jnp.expand_dims(own_index(labels, logits, axis, axis_name), axis)


def _logit_of(labels, logits, axis, axis_name, hit=None):
    """The logit of each label; any number, or NaN, for one that is no class.

    `hit` is `at_label`, from a caller that also sums over the logits.
    """
    if is_split(logits, axis):  # a gather does not know where to put its result
        hit = at_label(logits, labels, axis) if hit is None else hit
        return jnp.sum(jnp.where(hit, logits, 0), axis=axis)
    index = own_index(labels, logits, axis, axis_name)
    if hit is None:
        picked = gather(logits, index, axis)
    else:
        picked = number_in_a_pass(logits, index, axis, hit)
    if axis_name is None:
        return picked
    return sum_over_devices(
        jnp.where(is_class(logits, index, axis), picked, 0), axis_name
    )


def is_class(
    logits: jax.Array, labels: jax.Array, axis: int, axis_name: str | None = None
) -> jax.Array:
    """True where a label lies in [0, classes)."""
    classes = class_count(logits, (axis,), axis_name)
    if labels.dtype.itemsize < 4:  # int8 may not hold the bound
        labels = labels.astype(jnp.int32)
    return (labels >= 0) & (labels < jnp.asarray(classes, labels.dtype))


def widen(x: jax.Array) -> jax.Array:
    """Half precision as float32, to compute in."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


@pointwise
def divide_logits(x: jax.Array, temperature: jax.Array):
    """x / temperature; where x is -inf, the derivative by the temperature is 0."""
    finite = jnp.where(jnp.isneginf(x), 0, x)
    return x / temperature, (1 / temperature, -finite / jnp.square(temperature))


def maximum(logits: jax.Array, axis: Axes, axis_name: str | None = None) -> jax.Array:
    """The largest logit; carries no derivative.

    It is 0 where no class is possible, and NaN where a logit is inf: the loss of an
    overflow is NaN.

    Taken before the logits are widened, which is exact: the compiler would else write
    a float32 copy of half-precision logits for this one reduction.
    """
    empty = -jnp.inf if logits.size == 0 else None
    top = widen(stop_gradient(jnp.max(logits, axis=axis, initial=empty)))
    return to_subtract(max_over_devices(top, axis_name))


def to_subtract(top: jax.Array) -> jax.Array:
    """A largest logit, 0 for -inf and NaN for inf."""
    return jnp.where(top == jnp.inf, jnp.nan, jnp.where(jnp.isneginf(top), 0, top))


# d p = p (dx - Σ p dx). For p near 1 the difference cancels and leaves its rounding in
# the direction of p, from which a second projection removes it: twice is enough.
@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def softmax(logits: jax.Array, axis: Axes, axis_name: str | None = None) -> jax.Array:
    """softmax(logits) within 4 ulp, with accurate derivatives; 0 if all are -inf."""
    top = jnp.expand_dims(maximum(logits, axis, axis_name), axis)
    gap, lost = difference_from_own(logits, top)
    e = jnp.exp(gap) * (1 + lost)
    total = sum_over_devices(jnp.sum(e, axis=axis, keepdims=True), axis_name)
    return e / jnp.where(total == 0, 1, total)


@softmax.defjvp
def _softmax_jvp(axis, axis_name, primals, tangents):
    p, (slope,) = softmax(*primals, axis, axis_name), tangents
    for _ in range(2):
        mean = jnp.sum(p * slope, axis=axis, keepdims=True)
        slope = slope - sum_over_devices(mean, axis_name)
    return p, p * slope


# The logit of the label. The gather reads one number an example; its gradient is
# written by comparison.
def _pick_forward(logits, labels, *, axis, axis_name=None):
    return _logit_of(labels, logits, axis, axis_name), (logits, labels)


def _pick_backward(residuals, cotangent, *, axis, axis_name=None):
    logits, labels = residuals
    cotangent = jnp.expand_dims(cotangent, axis)
    return jnp.where(at_label(logits, labels, axis, axis_name), cotangent, 0), None


pick = analytic(_pick_forward, _pick_backward)


# -log softmax(x)_y, the surprisal at the label y, is the binary cross entropy of the
# label against the rest. With m the maximum over all classes, s the sum of e^{x_j - m}
# over those other than y, and a = m - x_y >= 0,
#     surprisal = log(1 + s e^a) = a + log(s + e^-a),
#     d surprisal / d x_y = -(1 - p_y) = -s / (s + e^-a),
#     d surprisal / d x_j = p_j = e^{x_j - m} / (s + e^-a),    j != y.
# Where the label is the maximum, a = 0 and the loss is log1p(s), elsewhere s >= 1: the
# label's own term never rounds the others away, and a loss of 1e-20 keeps its digits,
# where log-sum-exp - x_y gives 0. x_j - m is rounded, by up to half a unit in its last
# place, which for a large difference is a large relative error of e^{x_j - m}: the
# rounding error is known exactly and multiplied in again. That costs no time, since
# these loops wait for memory. The backward rule writes the same expression as the
# forward rule: the compiler computes it once, in the buffer of the gradient, and needs
# no temporary array.
def _rest(logits, labels, top, axis, axis_name):
    hit = at_label(logits, labels, axis, axis_name)
    return hit, exponentials_but(hit, logits, top)


def exponentials_but(hit: jax.Array, logits: jax.Array, top: jax.Array) -> jax.Array:
    """e^{x_j - m}, 0 where `hit`; the maximum `top` is broadcastable to the logits."""
    gap, lost = difference_from_own(logits, top)
    return jnp.where(hit, 0, jnp.exp(gap) * (1 + lost))


def _at_label(logits, labels, top, axis, axis_name):
    """x_y, e^-a, s, log(s + e^-a) and 1 / (s + e^-a), one number an example each."""
    hit, rest = _rest(logits, labels, jnp.expand_dims(top, axis), axis, axis_name)
    others = sum_over_devices(jnp.sum(rest, axis=axis), axis_name)

    valid = is_class(logits, labels, axis, axis_name)
    own = jnp.where(valid, _logit_of(labels, logits, axis, axis_name, hit), nan)
    behind, own_share, excess, share = _terms(own, others, top)
    return own, behind, own_share, others, excess, share


def _terms(own, others, top):
    """a, e^-a, log(s + e^-a) and 1 / (s + e^-a), given x_y, s and m."""
    behind = -difference_from_own(own, top)[0]
    own_share = jnp.exp(-behind)
    # Where the label has the largest logit, own_share is 1, and 0 after the brackets.
    ahead = (others == 0) | (behind == 0)
    rest = jnp.where(ahead, others + (own_share - 1), (others - 1) + own_share)
    total = others + own_share
    none = total == 0  # no class is possible
    excess = jnp.log1p(jnp.where(none, 0, rest))
    return behind, own_share, excess, 1 / jnp.where(none, 1, total)


def _surprisal_forward(logits, labels, top, *, axis, axis_name):
    own, behind, _, others, excess, share = _at_label(
        logits, labels, top, axis, axis_name
    )
    return behind + excess, (logits, labels, top, _miss(own, others, share), share)


def _miss(own, others, share):
    """1 - p_y; 0 for an impossible label, whose logit has no gradient."""
    return jnp.where(jnp.isneginf(own), 0, others * share)


def _surprisal_backward(residuals, cotangent, *, axis, axis_name):
    logits, labels, top, miss, share = residuals
    top = jnp.expand_dims(recomputed(top), axis)
    hit, rest = _rest(logits, labels, top, axis, axis_name)
    miss, share, cotangent = (
        jnp.expand_dims(x, axis) for x in (miss, share, cotangent)
    )
    slope = jnp.where(hit, -miss, rest * share)
    return cotangent * like_softmax(slope, logits, axis, axis_name), None, None


def like_softmax(
    slope: jax.Array, logits: jax.Array, axis: Axes, axis_name: str | None
) -> jax.Array:
    """A slope that is softmax(logits) up to constants, with its derivative."""
    p = softmax(logits, axis, axis_name)
    return with_derivative_of(stop_gradient(slope), p)


_surprisal = analytic(_surprisal_forward, _surprisal_backward)


def surprisal(
    logits: jax.Array,
    labels: jax.Array,
    *,
    axis: int,
    axis_name: str | None = None,
    top: jax.Array | None = None,
) -> jax.Array:
    """-log softmax(logits) at the labels, [...] in float32 or float64.

    Args:
        logits: Floating, of any precision, with the class axis `axis` (canonical).
        labels: Integer, [...]; NaN is the answer to one outside [0, classes).
        axis: The class axis, counted from the front.
        axis_name: The mesh axis of `shard_map` over which the classes are split.
        top: The maximum over the classes, where it is known.
    """
    top = maximum(logits, axis, axis_name) if top is None else top
    return _surprisal(widen(logits), labels, top, axis=axis, axis_name=axis_name)


# log Σ_j e^{x_j - m}, whose gradient is softmax(x), for a loss that needs the surprisal
# as well. Both are made of the same exponentials, so that the compiler reads the logits
# once for the two. It has the arguments of the surprisal.
def _excess_beside_forward(logits, labels, top, *, axis, axis_name):
    *_, own_share, _, excess, share = _at_label(logits, labels, top, axis, axis_name)
    return excess, (logits, labels, top, own_share, share)


def _excess_beside_backward(residuals, cotangent, *, axis, axis_name):
    logits, labels, top, own_share, share = residuals
    top = jnp.expand_dims(recomputed(top), axis)
    hit, rest = _rest(logits, labels, top, axis, axis_name)
    own_share, share, cotangent = (
        jnp.expand_dims(x, axis) for x in (own_share, share, cotangent)
    )
    slope = jnp.where(hit, own_share, rest) * share
    return cotangent * like_softmax(slope, logits, axis, axis_name), None, None


excess = analytic(_excess_beside_forward, _excess_beside_backward)


# The same two for a caller that has made the sums, with the derivatives by x_y and s.
# Their second derivatives are not accurate; those of the functions above are.
@pointwise
def surprisal_of_sums(own: jax.Array, others: jax.Array, top: jax.Array):
    """The surprisal, given the label's logit, the sum s of the others and m."""
    behind, _, above, share = _terms(own, others, top)
    return behind + above, (-_miss(own, others, share), share, jnp.zeros_like(top))


@pointwise
def excess_of_sums(own: jax.Array, others: jax.Array, top: jax.Array):
    """log(s + e^-a), given the same."""
    _, own_share, above, share = _terms(own, others, top)
    return above, (own_share * share, share, jnp.zeros_like(top))


# With e the excess and s_j the surprisals,
#     entropy = Σ_j p_j s_j = e + Σ_j p_j (m - x_j),                no negative term,
#     d entropy / d x_j = p_j (s_j - entropy):
# of d p_k / d x_j = p_k ([j = k] - p_j); d s_k / d x_j = p_j - [j = k] adds -p_j + p_j.
# A class with a logit of -inf adds nothing. The sum leaves out the label, as the sum of
# the surprisal does, and the compiler needs one array beside the logits. An entropy
# near 0 keeps its digits if the label is the most probable class; to leave out the most
# probable class in any case would take three arrays beside the logits.
def _entropy_forward(logits, labels, top, *, axis, axis_name):
    own, behind_own, own_share, _, excess, share = _at_label(
        logits, labels, top, axis, axis_name
    )
    behind_own = jnp.where(jnp.isneginf(own), 0, behind_own)
    _, rest = _rest(logits, labels, jnp.expand_dims(top, axis), axis, axis_name)
    behind = distances_to(jnp.expand_dims(top, axis), logits)
    others = sum_over_devices(jnp.sum(rest * behind, axis=axis), axis_name)
    value = excess + share * (others + own_share * behind_own)
    return value, (logits, labels, top, own_share * share, share, excess, value)


def _entropy_backward(residuals, cotangent, *, axis, axis_name):
    logits, labels, top, *numbers = residuals
    top = recomputed(top)
    top, at_own, share, excess, value, cotangent = (
        jnp.expand_dims(x, axis) for x in (top, *numbers, cotangent)
    )
    hit, rest = _rest(logits, labels, top, axis, axis_name)
    p = jnp.where(hit, at_own, rest * share)
    p = like_softmax(p, logits, axis, axis_name)
    surprisals = excess + distances_to(top, logits)
    return cotangent * p * (surprisals - value), None, None


entropy = analytic(_entropy_forward, _entropy_backward)


# For a caller that has made the sums: with S the sum of e^{x_j - m} (m - x_j), j != y,
#     entropy = e + (S + e^-a a) / (s + e^-a).
@pointwise
def entropy_of_sums(own, others, spread, top):
    """The entropy, given x_y, the sums s and S over the other classes, and m."""
    behind, own_share, above, share = _terms(own, others, top)
    behind = jnp.where(jnp.isneginf(own), 0, behind)
    value = above + share * (spread + own_share * behind)
    by_own = own_share * share * (above + behind - value)
    by_others = share * (1 - (value - above))
    return value, (by_own, by_others, share, jnp.zeros_like(top))


def distances_to(top: jax.Array, logits: jax.Array) -> jax.Array:
    """m - x_j, 0 for an impossible class."""
    gap, _ = difference_from_own(logits, top)
    return jnp.where(jnp.isneginf(logits), 0, -gap)

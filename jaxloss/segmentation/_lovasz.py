"""The Lovász losses of all classes of an image, one class after the other."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxloss._core.numerics.exact import difference_from_own
from jaxloss._core.rule.analytic import analytic
from jaxloss.segmentation._ranks import ranked


class Pixels(NamedTuple):
    """What the loss is made of, [N, P] unless it says otherwise."""

    logits: jax.Array  # [N, ..., C] in float32 or float64, classes along some axis
    weights: jax.Array  # 0 where excluded
    labels: jax.Array  # integer, in [0, C)
    keep: jax.Array  # boolean
    classes: tuple[jax.Array, ...]  # no mask, or one of the logits' shape

    def logit(self, c, axis):
        """The logits of one class; -inf where it is excluded, 0 where its pixel is."""
        x = _slice(self.logits, c, axis, self.labels.shape)
        for mask in self.classes:
            x = jnp.where(_slice(mask, c, axis, self.labels.shape), x, -jnp.inf)
        return jnp.where(self.keep, x, 0)

    def weight(self, c, axis):
        """The weights of the pixels for one class."""
        weights = self.weights
        for mask in self.classes:
            own = _slice(mask, c, axis, self.labels.shape)
            weights = jnp.where(own, weights, 0)
        return weights


class _Softmax(NamedTuple):
    """The softmax of each pixel, [N, P]."""

    top: jax.Array  # the largest logit
    total: jax.Array  # the sum of exponentials relative to it
    miss: jax.Array  # the probability of all classes but the label


def _slice(x, c, axis, shape):
    return jax.lax.dynamic_index_in_dim(x, c, axis, keepdims=False).reshape(shape)


def sizes(pixels: Pixels, axis: int) -> tuple[jax.Array, jax.Array]:
    """The weight of each class, and of all pixels that count for it; both [N, C]."""

    def one(_, c):
        weights = pixels.weight(c, axis)
        own = jnp.where(pixels.labels == c, weights, 0)
        return None, (jnp.sum(own, axis=-1), jnp.sum(weights, axis=-1))

    _, (own, every) = jax.lax.scan(one, None, _ids(pixels, axis))
    return own.T, every.T


def _ids(pixels, axis):
    return jax.lax.iota(jnp.int32, pixels.logits.shape[axis])


def _nothing(x):
    """Zeros: a sum of no arrays like x, which has its place on a mesh."""
    return jnp.sum(x[None][:0], axis=0)


def _softmax(pixels, axis):
    ids = _ids(pixels, axis)
    first = jax.lax.stop_gradient(pixels.logit(0, axis))
    zero = _nothing(first)

    def largest(top, c):
        return jnp.maximum(top, jax.lax.stop_gradient(pixels.logit(c, axis))), None

    top, _ = jax.lax.scan(largest, first, ids)
    top = jnp.where(jnp.isneginf(top), 0, top)

    def add(sums, c):
        others, own = sums
        power = jnp.exp(difference_from_own(pixels.logit(c, axis), top)[0])
        hit = pixels.labels == c
        return (others + jnp.where(hit, 0, power), own + jnp.where(hit, power, 0)), None

    (others, own), _ = jax.lax.scan(add, (zero, zero), ids)
    total = others + own
    total = jnp.where(total == 0, 1, total)
    return _Softmax(top, total, others / total)


def _errors(pixels, softmax, c, axis):
    """The probability p of class c, its error, and whether it is the label.

    The error is p, and 1 - p for the label, as the sum of all other classes. A pixel of
    weight 0 may hold NaN.
    """
    hit = pixels.labels == c
    p = jnp.exp(pixels.logit(c, axis) - softmax.top) / softmax.total
    errors = jnp.where(hit, softmax.miss, p)
    nothing = (pixels.weights == 0) & ~jnp.isfinite(errors)
    return p, jnp.where(nothing, 0, errors), hit


def class_losses(pixels: Pixels, axis: int) -> jax.Array:
    """The loss of each class, [N, C], by plain differentiation."""
    softmax = _softmax(pixels, axis)

    @jax.checkpoint
    def one(c):
        _, errors, hit = _errors(pixels, softmax, c, axis)
        return ranked(errors, hit, pixels.weight(c, axis))[0]

    return jax.lax.map(one, _ids(pixels, axis)).T


# With L_c the loss of class c, v_c its factor, g_c >= 0 its gradient by the errors, y
# the label, h_y = -v_y g_y and h_c = v_c g_c for the others, h is the gradient of the
# sum Σ v_c L_c by the probabilities, and
#     d loss / d x_j = p_j (h_j - Σ_k p_k h_k) = p_j ((h_j - h_y) - s),
#     s = Σ_{k ≠ y} p_k h_k - h_y (1 - p_y),
# where no term of s is negative. The forward pass makes h class by class, of which XLA
# computes nothing where no gradient is asked for.
def _forward(logits, factors, weights, labels, keep, *classes, axis_of_class):
    pixels = Pixels(logits, weights, labels, keep, classes)
    softmax = _softmax(pixels, axis_of_class)
    zero = _nothing(softmax.top)

    def one(sums, inputs):
        (c, factor), (of_label, rest) = inputs, sums
        p, errors, hit = _errors(pixels, softmax, c, axis_of_class)
        loss, slope = ranked(errors, hit, pixels.weight(c, axis_of_class))
        slope = factor[:, None] * slope
        of_label = jnp.where(hit, -slope, of_label)
        rest = rest + jnp.where(hit, 0, p * slope)
        return (of_label, rest), (loss, jnp.where(hit, -slope, slope))

    ids = _ids(pixels, axis_of_class)
    sums, (losses, slopes) = jax.lax.scan(one, (zero, zero), (ids, factors.T))
    loss = jnp.sum(jnp.where(factors == 0, 0, losses.T) * factors, axis=-1)
    return loss, (pixels, factors, softmax, sums, losses.T, slopes)


def _backward(residuals, cotangent, *, axis_of_class):
    pixels, factors, softmax, (of_label, rest), losses, slopes = residuals
    logits = pixels.logits
    shape = [n for a, n in enumerate(logits.shape) if a != axis_of_class]

    def spread(x):
        return jnp.expand_dims(x.reshape(shape), axis_of_class)

    steep = rest - of_label * softmax.miss
    slopes = slopes.reshape(-1, *shape)
    slopes = jnp.moveaxis(slopes, 0, axis_of_class)
    x = jnp.where(spread(pixels.weights == 0), 0, logits)
    for mask in pixels.classes:
        x = jnp.where(mask, x, -jnp.inf)
    p = jnp.exp(x - spread(softmax.top)) / spread(softmax.total)
    each = cotangent[:, None] * jnp.ones_like(pixels.weights)
    slope = p * ((slopes - spread(of_label)) - spread(steep))
    slope = jnp.where(spread(pixels.weights == 0), 0, spread(each) * slope)

    def of_weights(weights):
        found = class_losses(pixels._replace(weights=weights), axis_of_class)
        return jnp.sum(jnp.where(factors == 0, 0, found) * factors, axis=-1)

    _, pull_back = jax.vjp(of_weights, pixels.weights)
    nothing = (None,) * (2 + len(pixels.classes))
    return slope, cotangent[:, None] * losses, *pull_back(cotangent), *nothing


# Σ_c factors_c L_c, [N], of logits [N, ..., C], factors [N, C] and weights [N, P].
weighted_loss = analytic(_forward, _backward)

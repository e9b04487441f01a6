"""Regions as probabilities per pixel, and the share of pixels where two differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.classes import mask_classes, per_class
from jaxloss._core.arguments.tail import reduce_loss, weigh
from jaxloss._core.compilers.terms import times_complement, times_one_minus
from jaxloss._core.numerics.exact import share
from jaxloss._core.numerics.probability import sigmoid
from jaxloss._core.softmax import softmax


class _Pixels(NamedTuple):
    """Arrays over pixels and classes, in the shape [..., C] of the predictions."""

    p: jax.Array  # predicted probability, 0 where excluded
    t: jax.Array  # target, 0 where excluded
    missed: jax.Array  # t (1 - p)
    weight: jax.Array | None  # [..., 1], 0 where excluded
    counts: jax.Array | None  # boolean, neither excluded nor of weight 0


def to_pixels(predictions, targets, apply_softmax, where, weights, reduction):
    predictions, _ = checks.class_array("predictions", predictions, -1)
    targets = checks.to_array("targets", targets)
    given = targets.shape
    if predictions.ndim == targets.ndim - 1:
        predictions = predictions[..., None]
    elif targets.ndim == predictions.ndim - 1:
        targets = targets[..., None]
    axes = (predictions.ndim - 1,)
    if targets.shape[-1:] != predictions.shape[-1:]:
        raise ValueError(
            f"`targets` must have the classes of predictions {predictions.shape} on "
            f"their last axis, got shape {given}; for class indices use "
            "`jax.nn.one_hot(targets, classes)`."
        )
    checks.check_broadcast("targets", targets.shape, "predictions", predictions.shape)
    dtype = checks.compute_dtype(predictions, targets)
    t = checks.broadcast_to(targets.astype(dtype), predictions)
    masked, examples = mask_classes(
        predictions, axes, where, weights, reduction, dtype, name="predictions"
    )
    t = examples.select(t)
    classes, keep, weights = examples.classes, examples.tail.keep, examples.tail.weights
    if not apply_softmax:
        p = _probabilities(examples.select(predictions.astype(dtype)), examples)
        missed = t * (1 - p)
    elif predictions.shape[-1] == 1:
        # One cast for both uses, so that their gradients are summed before rounding.
        logits = masked.astype(dtype)
        p, missed = sigmoid(logits), t * sigmoid(-logits)
    else:
        p = softmax(masked.astype(dtype), axes)
        missed = times_complement(t, p, axes)

    counts = classes if classes is not None or keep is None else keep[..., None]
    weight = None
    if weights is not None:
        weight = weights if keep is None else jnp.where(keep, weights, 0)
        weight = jnp.broadcast_to(weight, predictions.shape[:-1])[..., None]
        counts = weight != 0 if counts is None else counts & (weight != 0)
    return _Pixels(examples.select(p), t, missed, weight, counts)


# Rounding, for instance by resampling an image, may put a probability slightly outside
# [0, 1], where the loss is still well defined. A value farther outside must be a logit
# and gives NaN.
_TOLERANCE = 1e-3


def _probabilities(p, examples):
    inside = (p >= -_TOLERANCE) & (p <= 1 + _TOLERANCE)
    p = checks.check_values(
        "predictions", p, examples.holds(inside), "probabilities in [0, 1]"
    )
    return jnp.where(inside, p, jnp.nan)


def tversky_per_class(pixels, axis, alpha, beta, smooth):
    """The Tversky loss per class, and where any pixel counts (None: everywhere).

    The hits Σ w p t, false positives Σ w p (1 - t) and false negatives Σ w t (1 - p)
    are summed separately: a difference of sums would round small losses to 0.
    """
    p, t, missed, weight, counts = pixels
    axes = _summed_axes(axis, p.ndim)
    hit, extra, missed = (
        jnp.sum(part if weight is None else weigh(part, weight), axis=axes)
        for part in (p * t, times_one_minus(p, t), missed)
    )
    alpha = parameter("alpha", alpha, hit)
    beta = parameter("beta", beta, hit)
    smooth = parameter("smooth", smooth, hit)
    loss = share(alpha * extra + beta * missed, hit + smooth)
    if counts is not None:
        counts = jnp.any(checks.broadcast_to(counts, p), axis=axes)
    return loss, counts


def reduce_classes(
    loss, counts, class_weights, ignore_background, reduction, axis: int | None = -1
):
    if class_weights is not None:
        axes = (loss.ndim - 1,)
        loss = loss * per_class("class_weights", class_weights, loss, axes, loss.dtype)
    if ignore_background and loss.shape[-1] > 1:
        loss = loss[..., 1:]
        counts = None if counts is None else counts[..., 1:]
    return reduce_loss(loss, counts, None, reduction, axis=axis)


def _summed_axes(axis, ndim):
    """The axes of one region: by default all but the first and the last."""
    if axis is None:
        return tuple(range(1, ndim - 1))
    several = tuple(axis) if isinstance(axis, Sequence) else (axis,)
    axes = checks.canonical_axes("axis", several, ndim) if several else ()
    if ndim - 1 in axes:
        raise ValueError(f"`axis` must not contain the class axis, got {axis}.")
    return axes


def parameter(name, value, like):
    array = checks.to_array(name, value).astype(like.dtype)
    checks.check_broadcast(name, array.shape, "the loss per class", like.shape)
    return checks.broadcast_to(array, like)

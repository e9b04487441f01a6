"""Arguments of losses that compare scores `[..., C]`, and helpers for them."""

from __future__ import annotations

import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.classes import integer_arguments
from jaxloss._core.softmax import is_class, pick, widen


def score_arguments(scores, labels, where, weights, reduction):
    """Checked and masked class labels and scores, the scores in float32 or float64."""
    scores, (axis,) = checks.class_array("scores", scores, -1)
    scores, labels, examples = integer_arguments(
        "scores", scores, labels, axis, where, weights, reduction
    )
    return widen(scores), labels, examples


def own_score(scores, labels):
    """The label's score; NaN where the label is out of range."""
    own = pick(scores, labels, axis=scores.ndim - 1)
    return jnp.where(is_class(scores, labels, scores.ndim - 1), own, jnp.nan)


def count_classes(classes, scores):
    """The number of classes not excluded: [..., 1], or an int without a class mask.

    Divide by it before the sum over the classes: the sum may overflow where the mean is
    finite.
    """
    if classes is None:
        return scores.shape[-1]
    return jnp.maximum(jnp.sum(classes, axis=-1, keepdims=True), 1).astype(scores.dtype)

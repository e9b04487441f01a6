"""Scores with a class axis, and class labels."""

from __future__ import annotations

import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.classes import integer_arguments
from jaxloss._core.softmax import is_class, pick, widen


def score_arguments(scores, labels, where, weights, reduction):
    """Scores in float32 or wider and class labels, checked and masked."""
    scores, (axis,) = checks.class_array("scores", scores, -1)
    scores, labels, examples = integer_arguments(
        "scores", scores, labels, axis, where, weights, reduction
    )
    return widen(scores), labels, examples


def own_score(scores, labels):
    """The label's score, NaN for a label that is no class."""
    own = pick(scores, labels, axis=scores.ndim - 1)
    return jnp.where(is_class(scores, labels, scores.ndim - 1), own, jnp.nan)


def count_classes(classes, scores):
    """How many classes count for each example, [..., 1], or one number for all.

    To divide by before the sum over the classes, which may be inf where the mean is
    not.
    """
    if classes is None:
        return scores.shape[-1]
    return jnp.maximum(jnp.sum(classes, axis=-1, keepdims=True), 1).astype(scores.dtype)

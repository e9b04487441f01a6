"""Arguments of losses with dense labels, and label smoothing."""

from __future__ import annotations

import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.classes import mask_classes
from jaxloss._core.devices import broadcast_to, class_count, sum_over_devices


def dense_arguments(logits, labels, axis, where, weights, reduction, name="logits"):
    """Checked and masked logits (or scores) and dense labels, in the same shape."""
    if axis is None:
        axis = tuple(range(checks.to_array(name, logits).ndim))
    logits, axes = checks.class_array(name, logits, axis)
    labels = checks.to_array("labels", labels)
    batch = tuple(n for a, n in enumerate(logits.shape) if a not in axes)
    way_out = ""
    if labels.shape == batch and jnp.issubdtype(labels.dtype, jnp.integer):
        way_out = (
            "for class indices use `softmax_cross_entropy_with_integer_labels`, "
            "or pass `jax.nn.one_hot` of them"
        )
    checks.check_broadcast("labels", labels.shape, name, logits.shape, way_out)
    dtype = checks.compute_dtype(logits, labels)
    labels = jnp.broadcast_to(labels.astype(dtype), logits.shape)
    logits, examples = mask_classes(
        logits, axes, where, weights, reduction, dtype, name=name
    )
    labels = examples.select(labels)
    valid = examples.holds(labels >= 0)
    labels = checks.check_values("labels", labels, valid, "at least 0")
    return logits, labels, examples


# With α the smoothing, C the classes and w the class weights, the labels are
#     w_j ((1 - α) l_j + α / C) = (1 - α) w_j l_j + α w_j / C.
# The derivative of a loss by α is a mean over the classes of its derivative by each
# label, m - x_j + log1p(r), up to 3.4e38 where a mask is the lowest float. So w_j / C
# multiplies each term before the sum: reverse mode sums the cotangents of an α that is
# broadcast first, and otherwise would sum before it divides, which may overflow.
def smooth(labels, label_smoothing, examples, scale=None):
    """Mixes the labels with the uniform distribution over the classes not excluded.

    Multiplies them by `scale`, the class weights in the shape of `labels`, if given.
    """
    weighted = labels if scale is None else labels * scale
    if is_zero(label_smoothing):
        return weighted
    axes, classes, axis_name = examples.axes, examples.classes, examples.axis_name
    alpha = checks.scalar("label_smoothing", label_smoothing, labels.dtype)
    alpha = broadcast_to(examples.share(alpha, labels), labels)
    if classes is None:
        count = jnp.asarray(class_count(labels, axes, axis_name), labels.dtype)
        share = 1 / count
    else:
        count = sum_over_devices(jnp.sum(classes, axis=axes, keepdims=True), axis_name)
        share = 1 / jnp.maximum(count, 1).astype(labels.dtype)
        share = jnp.where(classes, share, 0)
    share = share if scale is None else share * scale
    return (1 - alpha) * weighted + alpha * share


def is_zero(parameter):
    """Whether a parameter is a Python 0, so that its term can be left out."""
    return isinstance(parameter, int | float) and parameter == 0

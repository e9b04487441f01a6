"""Arguments of losses with dense labels, and label smoothing."""

from __future__ import annotations

import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.classes import mask_classes
from jaxloss._core.compilers.terms import capped_product
from jaxloss._core.devices import broadcast_to, class_count, sum_over_devices
from jaxloss._core.rule.analytic import analytic


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
    alpha = checks.scalar("label_smoothing", label_smoothing, labels.dtype)
    alpha = broadcast_to(examples.share(alpha, labels), labels)
    share = _uniform(labels, examples)
    share = share if scale is None else share * scale
    return (1 - alpha) * weighted + alpha * share


# Σ_j s_j (m - x_j) with s_j = 1/K for the K classes that count, else 0, and m the
# largest logit. Its slope is -s_j; an impossible class has a logit without a gradient.
def _mean_gap_forward(logits, share, top, *, axis, axis_name):
    # By halves: m - x_j may overflow. Adding -m instead of subtracting m keeps XLA for
    # CPU from storing the broadcast of m.
    gap = capped_product(share, -(logits / 2 + -jnp.expand_dims(top, axis) / 2))
    gap = sum_over_devices(jnp.sum(gap, axis=axis), axis_name)
    return 2 * gap, (logits, share)


def _mean_gap_backward(residuals, cotangent, *, axis, axis_name):
    logits, share = residuals
    slope = jnp.expand_dims(-cotangent, axis) * share
    return jnp.where(jnp.isneginf(logits), 0, slope), None, None


_mean_gap = analytic(_mean_gap_forward, _mean_gap_backward)


def mean_gap(logits, top, examples):
    """The mean distance from the largest logit, over the classes that count."""
    share = broadcast_to(_uniform(logits, examples), logits)
    return _mean_gap(
        logits, share, top, axis=examples.axes, axis_name=examples.axis_name
    )


def _uniform(like, examples):
    """1/K at each of the K classes that count and 0 elsewhere, to broadcast to `like`.

    Multiplied, not selected: XLA for CPU would materialise the select (see
    `capped_product`).
    """
    axes, axis_name = examples.axes, examples.axis_name
    if examples.classes is None:
        return 1 / jnp.asarray(class_count(like, axes, axis_name), like.dtype)
    classes = examples.classes.astype(like.dtype)
    count = jnp.sum(examples.classes, axis=axes, keepdims=True)
    count = jnp.maximum(sum_over_devices(count, axis_name), 1)
    return classes * (1 / count.astype(like.dtype))


def is_zero(parameter):
    """Whether a parameter is a Python 0, so that its term can be left out."""
    return isinstance(parameter, int | float) and parameter == 0

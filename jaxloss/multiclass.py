"""Multiclass losses: a class axis of logits or log-probabilities for each example."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxloss._core import checks
from jaxloss._core.classes import (
    class_weight_array,
    drop,
    flatten_classes,
    integer_arguments,
    mask_classes,
    weight_of,
)
from jaxloss._core.derivative import pointwise
from jaxloss._core.numerics import (
    expm1,
    expm1_ratio,
    expm1_ratio_slope,
    product,
)
from jaxloss._core.reduction import Reduction, reduce_loss
from jaxloss._core.softmax import (
    at_label,
    is_class,
    log_sum_exp,
    pick,
    soft_cross_entropy,
    surprisal,
    surprisals,
    widen,
)


def softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
    *,
    class_weights: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    z_loss: ArrayLike = 0.0,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """Cross entropy of label distributions and softmax(logits)."""
    checks.check_number("label_smoothing", label_smoothing, minimum=0, maximum=1)
    logits, labels, axes, classes, keep, weights = _dense_arguments(
        logits, labels, axis, where, weights, reduction
    )
    labels = _smooth(labels, label_smoothing, classes, axes)
    if class_weights is not None:
        labels = labels * class_weight_array(class_weights, logits, axes, labels.dtype)
    loss = soft_cross_entropy(logits, labels, axis=axes)
    loss = loss + _z_loss(logits, z_loss, axes, labels.dtype)
    return reduce_loss(loss, keep, weights, reduction)


def safe_softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
    *,
    class_weights: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    z_loss: ArrayLike = 0.0,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """`softmax_cross_entropy` under the name that optax gives its safe variant."""
    return softmax_cross_entropy(
        logits,
        labels,
        axis,
        where,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        weights=weights,
        reduction=reduction,
    )


def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
    *,
    class_weights: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    z_loss: ArrayLike = 0.0,
    ignore_index: int | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """Cross entropy of class labels and softmax(logits)."""
    checks.check_number("label_smoothing", label_smoothing, minimum=0, maximum=1)
    logits, labels, axis, where = flatten_classes("logits", logits, labels, axis, where)
    logits, labels, classes, keep, weights, dtype = integer_arguments(
        "logits", logits, labels, axis, where, weights, reduction, ignore_index
    )
    scale = mass = None
    if class_weights is not None:
        scale = class_weight_array(class_weights, logits, (axis,), dtype)
        mass = weight_of(scale, labels)
    if _is_zero(label_smoothing):
        loss = surprisal(logits, labels, axis=axis)
        loss = loss if mass is None else product(mass, loss)
    else:
        hot = _one_hot(logits, labels, axis, dtype)
        hot = _smooth(
            drop(hot, classes, keep, (axis,)), label_smoothing, classes, (axis,)
        )
        hot = hot if scale is None else hot * scale
        loss = soft_cross_entropy(logits, hot, axis=(axis,))
        loss = jnp.where(is_class(logits, labels, axis), loss, jnp.nan)
    loss = loss + _z_loss(logits, z_loss, (axis,), dtype)
    return reduce_loss(loss, keep, weights, reduction, mass)


def nll_loss(
    log_probs: ArrayLike,
    labels: ArrayLike,
    axis: int = -1,
    *,
    class_weights: ArrayLike | None = None,
    ignore_index: int | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """Negative log-likelihood of class labels under log-probabilities."""
    log_probs, (axis,) = checks.class_array("log_probs", log_probs, axis)
    log_probs, labels, _, keep, weights, dtype = integer_arguments(
        "log_probs", log_probs, labels, axis, where, weights, reduction, ignore_index
    )
    loss = -widen(pick(log_probs, labels, axis=axis))
    loss = jnp.where(is_class(log_probs, labels, axis), loss, jnp.nan)
    mass = None
    if class_weights is not None:
        scale = class_weight_array(class_weights, log_probs, (axis,), dtype)
        mass = weight_of(scale, labels)
        loss = product(mass, loss)
    return reduce_loss(loss, keep, weights, reduction, mass)


def softmax_focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int = -1,
    *,
    gamma: ArrayLike = 2.0,
    class_weights: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """Focal loss (1 - p_label)^gamma · cross entropy on softmax(logits)."""
    checks.check_number("gamma", gamma, minimum=0)
    checks.check_number("label_smoothing", label_smoothing, minimum=0, maximum=1)
    logits, (axis,) = checks.class_array("logits", logits, axis)
    logits, labels, classes, keep, weights, dtype = integer_arguments(
        "logits", logits, labels, axis, where, weights, reduction, None
    )
    gamma = checks.to_array("gamma", gamma).astype(dtype)
    checks.check_broadcast("gamma", gamma.shape, "the per-example loss", labels.shape)
    scale = None
    if class_weights is not None:
        scale = class_weight_array(class_weights, logits, (axis,), dtype)
    if _is_zero(label_smoothing):
        loss = _focal(surprisal(logits, labels, axis=axis), gamma)
        if scale is not None:
            loss = product(weight_of(scale, labels), loss)
    else:
        hot = _one_hot(logits, labels, axis, dtype)
        hot = _smooth(
            drop(hot, classes, keep, (axis,)), label_smoothing, classes, (axis,)
        )
        hot = hot if scale is None else hot * scale
        per_class = jnp.expand_dims(jnp.broadcast_to(gamma, labels.shape), axis)
        focal = _focal(surprisals(logits, axis=axis), per_class)
        loss = jnp.sum(product(hot, focal), axis=axis)
        loss = jnp.where(is_class(logits, labels, axis), loss, jnp.nan)
    return reduce_loss(loss, keep, weights, reduction)


def _focal(surprise, gamma):
    return _modulated(surprise, jnp.broadcast_to(gamma, surprise.shape))


# With the surprisal h = -log p and miss = 1 - p = -expm1(-h):
#     f = h · miss^gamma,   df/dh = miss^gamma (1 + gamma h/expm1(h)),
#     df/dgamma = f log(miss).
# h/expm1(h) goes from 1 at h = 0 to 0, and no difference 1 - p is ever formed.
@pointwise
def _modulated(h, gamma):
    miss = -expm1(-h)
    factor = miss**gamma
    value = h * factor
    inner = (h > 0) & (h < 80)
    held = jnp.where(inner, h, 1)
    ratio = jnp.where(inner, held / expm1(held), jnp.where(h >= 80, 0, 1))
    high = miss > 0.5
    log_miss = jnp.where(
        high,
        jnp.log1p(-jnp.exp(-jnp.where(high, h, 1))),
        jnp.log(jnp.where(high | (miss == 0), 0.25, miss)),
    )
    return value, (factor * (1 + gamma * ratio), product(log_miss, value))


def poly_loss_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    epsilon: ArrayLike = 2.0,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
    *,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """Cross entropy plus epsilon times the probability of a miss."""
    logits, labels, axes, _, keep, weights = _dense_arguments(
        logits, labels, axis, where, weights, reduction
    )
    epsilon = checks.scalar("epsilon", epsilon, labels.dtype)
    miss = -expm1(-surprisals(logits, axis=axes))
    loss = soft_cross_entropy(logits, labels, axis=axes)
    loss = loss + epsilon * jnp.sum(labels * miss, axis=axes)
    return reduce_loss(loss, keep, weights, reduction)


def generalized_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int = -1,
    *,
    q: ArrayLike = 0.7,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """(1 - p_label^q) / q: cross entropy for q -> 0, the probability of a miss at 1."""
    checks.check_number("q", q, minimum=0, maximum=1, open_minimum=True)
    logits, (axis,) = checks.class_array("logits", logits, axis)
    logits, labels, _, keep, weights, dtype = integer_arguments(
        "logits", logits, labels, axis, where, weights, reduction, None
    )
    q = checks.scalar("q", q, dtype)
    surprise = surprisal(logits, labels, axis=axis)
    loss = _generalized(surprise, jnp.broadcast_to(q, surprise.shape))
    return reduce_loss(loss, keep, weights, reduction)


# With the surprisal h = -log p and y = q h:
#     f = (1 - e^-y)/q = h r(-y),   df/dh = e^-y,   df/dq = -h² r'(-y),
# r(z) = (e^z - 1)/z. An impossible label, h = inf, costs 1/q.
@pointwise
def _generalized(h, q):
    impossible = jnp.isposinf(h)
    h = jnp.where(impossible, 0, h)
    y = q * h
    value = jnp.where(impossible, 1 / q, h * expm1_ratio(-y))
    h_slope = jnp.where(impossible, 0, jnp.exp(-y))
    q_slope = jnp.where(impossible, -1 / (q * q), -h * (h * expm1_ratio_slope(-y)))
    return value, (h_slope, q_slope)


def smooth_labels(
    labels: ArrayLike,
    alpha: ArrayLike,
    *,
    axis: int | tuple[int, ...] | None = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Label distributions mixed with the uniform one: (1 - alpha) labels + alpha/C."""
    checks.check_number("alpha", alpha, minimum=0, maximum=1)
    labels = checks.to_array("labels", labels)
    if not jnp.issubdtype(labels.dtype, jnp.floating):
        raise TypeError(
            f"`labels` must be floating, got {labels.dtype}; for class indices use "
            "`jax.nn.one_hot(labels, classes)`."
        )
    every = tuple(range(labels.ndim))
    axes = every if axis is None else checks.canonical_axes("axis", axis, labels.ndim)
    alpha = checks.to_array("alpha", alpha).astype(labels.dtype)
    if where is None:
        count = math.prod(labels.shape[a] for a in axes)
    else:
        where = checks.to_mask("where", where)
        checks.check_broadcast("where", where.shape, "labels", labels.shape)
        where = jnp.broadcast_to(where, labels.shape)
        count = jnp.sum(where, axis=axes, keepdims=True).astype(labels.dtype)
    return (1 - alpha) * labels + alpha / count


def _dense_arguments(logits, labels, axis, where, weights, reduction):
    """Logits and label distributions of one shape, checked and masked."""
    logits, axes = checks.class_array("logits", logits, axis)
    labels = checks.to_array("labels", labels)
    checks.check_broadcast("labels", labels.shape, "logits", logits.shape)
    dtype = checks.compute_dtype(logits, labels)
    labels = jnp.broadcast_to(labels.astype(dtype), logits.shape)
    logits, classes, keep, weights = mask_classes(
        logits, axes, where, weights, reduction, dtype
    )
    labels = drop(labels, classes, keep, axes)
    return logits, labels, axes, classes, keep, weights


def _smooth(labels, label_smoothing, classes, axes):
    """Mixes the labels with the uniform distribution over the classes that count."""
    if _is_zero(label_smoothing):
        return labels
    alpha = checks.scalar("label_smoothing", label_smoothing, labels.dtype)
    if classes is None:
        count = math.prod(labels.shape[a] for a in axes)
        return (1 - alpha) * labels + alpha / count
    count = jnp.maximum(jnp.sum(classes, axis=axes, keepdims=True), 1)
    share = jnp.where(classes, alpha / count.astype(labels.dtype), 0)
    return (1 - alpha) * labels + share


def _one_hot(logits, labels, axis, dtype):
    return at_label(logits, labels, axis).astype(dtype)


def _z_loss(logits, z_loss, axes, dtype):
    """z_loss · log(Σ exp(logits))²; a plain 0, no pass over the logits, if not used."""
    if _is_zero(z_loss):
        return 0
    factor = checks.scalar("z_loss", z_loss, dtype)
    log_normalizer = log_sum_exp(logits, axis=axes)
    return factor * log_normalizer * log_normalizer


def _is_zero(parameter):
    """Whether a parameter is a Python 0, its term absent from the program."""
    return isinstance(parameter, int | float) and parameter == 0

"""Arguments with a class axis: labels, masks by example or by class, class weights."""

import jax.numpy as jnp

from jaxloss._core import checks
from jaxloss._core.mesh import class_count, own_index, placement, total
from jaxloss._core.reduction import select
from jaxloss._core.softmax import is_class


def flatten_classes(name, logits, labels, axis, where):
    """Several class axes as one, the last: a label is a flat index into them."""
    logits, axes = checks.class_array(name, logits, axis)
    if not isinstance(axis, tuple):
        return logits, labels, axes[0], where
    batch = tuple(a for a in range(logits.ndim) if a not in axes)
    shape = (*(logits.shape[a] for a in batch), -1)
    mask = None if where is None else checks.to_mask("where", where)
    if mask is not None and mask.ndim == logits.ndim:
        checks.check_broadcast("where", mask.shape, name, logits.shape)
        mask = jnp.broadcast_to(mask, logits.shape)
        where = mask.transpose(batch + axes).reshape(shape)
    logits = logits.transpose(batch + axes).reshape(shape)
    return logits, labels, len(batch), where


def integer_arguments(
    name, logits, labels, axis, where, weights, reduction, ignore_index, axis_name=None
):
    """Logits and class labels, checked, with what does not count made harmless."""
    labels = checks.integer_array("labels", labels)
    batch = logits.shape[:axis] + logits.shape[axis + 1 :]
    checks.check_broadcast(
        "labels", labels.shape, f"{name} without its class axis", batch
    )
    labels = jnp.broadcast_to(labels, batch)
    dtype = checks.compute_dtype(logits)
    logits, classes, keep, weights = mask_classes(
        logits,
        (axis,),
        where,
        weights,
        reduction,
        dtype,
        ignored(labels, ignore_index),
        axis_name=axis_name,
    )
    if keep is not None:
        labels = jnp.where(keep, labels, 0)
    valid = is_class(logits, labels, axis, axis_name)
    count = class_count(logits, (axis,), axis_name)
    checks.check_values("labels", valid, f"in [0, {count})")
    return logits, labels, classes, keep, weights, dtype


def ignored(labels, ignore_index):
    """True at the examples to ignore; None if there can be none."""
    if ignore_index is None:
        return None
    checks.check_integer("ignore_index", ignore_index)
    bounds = jnp.iinfo(labels.dtype)
    if not bounds.min <= ignore_index <= bounds.max:  # uint8 never holds -100
        return None
    return labels == ignore_index


def mask_classes(
    logits,
    axes,
    where,
    weights,
    reduction,
    dtype,
    ignored=None,
    name="logits",
    axis_name=None,
):
    """Applies `where` to the logits: by class if it has their rank, else by example.

    Returns the logits, the mask of classes and that of examples (None: keep all), and
    the weights. A dropped class becomes an impossible one, a dropped example harmless.
    """
    batch = tuple(n for a, n in enumerate(logits.shape) if a not in axes)
    classes = None
    if where is not None:
        where = checks.to_mask("where", where)
        if where.ndim == logits.ndim:
            checks.check_broadcast("where", where.shape, name, logits.shape)
            classes = jnp.broadcast_to(where, logits.shape)
            where = total(jnp.sum(classes, axis=axes, dtype=jnp.int32), axis_name) > 0
            logits = jnp.where(classes, logits, -jnp.inf)
    keep, weights = checks.tail(where, weights, reduction, shape=batch, dtype=dtype)
    if ignored is not None:
        keep = ~ignored if keep is None else keep & ~ignored
    if keep is not None:
        keep = jnp.broadcast_to(keep, batch)
        (logits,) = select(jnp.expand_dims(keep, axes), logits)
    return logits, classes, keep, weights


def drop(labels, classes, keep, axes, nothing=0.0):
    """Label distributions without the classes and examples that do not count.

    `nothing` is what takes their place: 0, or -inf among log-probabilities.
    """
    if classes is not None:
        labels = jnp.where(classes, labels, nothing)
    if keep is not None:
        labels = jnp.where(jnp.expand_dims(keep, axes), labels, nothing)
    return labels


def class_weight_array(class_weights, logits, axes, dtype):
    """Class weights, checked, in a shape that broadcasts to the logits."""
    array = checks.to_array("class_weights", class_weights)
    expected = tuple(logits.shape[a] for a in axes)
    if array.shape != expected:
        raise ValueError(
            f"`class_weights` must have one weight a class, shape {expected}, "
            f"got shape {array.shape}."
        )
    shape = [n if a in axes else 1 for a, n in enumerate(logits.shape)]
    order = sorted(range(len(axes)), key=lambda i: axes[i])
    return array.astype(dtype).transpose(order).reshape(shape)


def weight_of(scale, labels, axis_name=None):
    """Each example's class weight."""
    scale = scale.reshape(-1)
    index = own_index(labels, scale, 0, axis_name)
    pick = scale.at[index].get(mode="clip", out_sharding=placement(labels))
    if axis_name is None:
        return pick
    return total(jnp.where(is_class(scale, index, 0), pick, 0), axis_name)

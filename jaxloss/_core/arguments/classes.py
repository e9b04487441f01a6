"""Arguments with a class axis: labels, masks by example or by class, class weights."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.tail import Tail
from jaxloss._core.devices import class_count, own_index, placement, sum_over_devices
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


@dataclasses.dataclass(frozen=True)
class Examples:
    """Which examples and which classes of a call count, and its tail.

    Attributes:
        axes: The class axes of the logits, counted from the front.
        classes: Boolean, of the shape of the logits, or None: all classes count.
        tail: `where` by example, `weights` and `reduction`.
        dtype: The dtype to compute in.
        axis_name: The mesh axis of `shard_map` over which the classes are split.
    """

    axes: tuple[int, ...]
    classes: jax.Array | None
    tail: Tail
    dtype: Any
    axis_name: str | None = None

    def select(self, x: jax.Array, nothing: float = 0.0) -> jax.Array:
        """An array over the classes without what is excluded.

        `nothing` takes the place of excluded entries: 0 among probabilities, -inf
        among their logarithms.
        """
        if self.classes is not None:
            x = jnp.where(self.classes, x, nothing)
        return self.tail.select(x, axes=self.axes, nothing=nothing)[0]

    def guard(self, x: jax.Array) -> jax.Array:
        """An array over the classes whose derivatives are finite at weight 0."""
        return self.tail.guard(x, self.axes)

    def holds(self, x: jax.Array) -> jax.Array:
        """Whether a condition on classes holds for each example; excluded ones do."""
        return self.tail.counts(jnp.all(x, axis=self.axes))

    def share(self, x: jax.Array, like: jax.Array) -> jax.Array:
        """A hyperparameter that multiplies an array over the classes."""
        return self.tail.share(x, like, self.axes)


def integer_arguments(
    name, logits, labels, axis, where, weights, reduction,
    ignore_index=None, axis_name=None,
):  # fmt: skip
    """Logits, class labels and which examples count, checked and made safe."""
    batch = logits.shape[:axis] + logits.shape[axis + 1 :]
    way_out = _way_out(name, logits.shape, labels, axis)
    labels = checks.integer_array("labels", labels, way_out)
    checks.check_broadcast(
        "labels", labels.shape, f"{name} without its class axis", batch, way_out
    )
    labels = jnp.broadcast_to(labels, batch)
    logits, examples = mask_classes(
        logits,
        (axis,),
        where,
        weights,
        reduction,
        checks.compute_dtype(logits),
        ignored(labels, ignore_index),
        name=name,
        axis_name=axis_name,
    )
    if examples.tail.keep is not None:
        labels = jnp.where(examples.tail.keep, labels, 0)
    valid = is_class(logits, labels, axis, axis_name)
    count = class_count(logits, (axis,), axis_name)
    labels = checks.check_values(
        "labels", labels, examples.tail.counts(valid), f"in [0, {count})"
    )
    return logits, labels, examples


def _way_out(name, shape, labels, axis):
    """What a message on labels says of the two common mistakes."""
    found = np.shape(labels)
    if found == shape and shape:
        return (
            f"for one-hot labels pass `jnp.argmax(labels, {axis})`, "
            "for soft ones use `softmax_cross_entropy`"
        )
    if name == "logits" and axis != 1 and found == shape[:1] + shape[2:]:
        return "if the classes are on axis 1, pass `axis=1`"
    return ""


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

    An excluded class becomes an impossible one, an excluded example harmless.
    """
    batch = tuple(n for a, n in enumerate(logits.shape) if a not in axes)
    classes = None
    if where is not None:
        where = checks.to_mask("where", where)
        if where.ndim == logits.ndim:
            checks.check_broadcast("where", where.shape, name, logits.shape)
            classes = jnp.broadcast_to(where, logits.shape)
            where = (
                sum_over_devices(
                    jnp.sum(classes, axis=axes, dtype=jnp.int32), axis_name
                )
                > 0
            )
            logits = jnp.where(classes, logits, -jnp.inf)
    tail = checks.tail(where, weights, reduction, shape=batch, dtype=dtype)
    if ignored is not None:
        tail = tail.without(ignored)
    tail = tail.spread(batch)
    (logits,) = tail.select(logits, axes=axes)
    return logits, Examples(axes, classes, tail, dtype, axis_name)


def class_weight_array(class_weights, logits, examples):
    """Class weights, checked, in a shape that broadcasts to the logits."""
    return per_class(
        "class_weights", class_weights, logits, examples.axes, examples.dtype
    )


def per_class(name, value, logits, axes, dtype):
    """One number per class, checked, in a shape that broadcasts to the logits."""
    array = checks.to_array(name, value)
    expected = tuple(logits.shape[a] for a in axes)
    if array.shape != expected:
        raise ValueError(
            f"`{name}` must have one number per class, shape {expected}, "
            f"got shape {array.shape}."
        )
    shape = [n if a in axes else 1 for a, n in enumerate(logits.shape)]
    order = sorted(range(len(axes)), key=lambda i: axes[i])
    return array.astype(dtype).transpose(order).reshape(shape)


def weight_of_label(scale, labels, examples):
    """The class weight of each example's label."""
    axis_name = examples.axis_name
    scale = scale.reshape(-1)
    index = own_index(labels, scale, 0, axis_name)
    picked = scale.at[index].get(mode="clip", out_sharding=placement(labels))
    if axis_name is not None:
        picked = sum_over_devices(
            jnp.where(is_class(scale, index, 0), picked, 0), axis_name
        )
    return examples.tail.guard(picked)

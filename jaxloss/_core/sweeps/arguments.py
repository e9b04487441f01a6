"""The arguments of losses of a linear layer, checked and masked."""

from __future__ import annotations

import dataclasses
import operator

import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.classes import per_class as per_class_array
from jaxloss._core.devices import check_shared, check_split
from jaxloss._core.sweeps.logits import LogitOptions
from jaxloss._core.sweeps.operands import Options


def layer_arguments(hidden, kernel, axis_name, class_axis, whose=""):
    """Checks hidden [..., D] and the kernel; finds the loss dtype.

    Returns them with the loss dtype and the class axis of the kernel, 0 or 1. `whose`
    comes before their names, as in "teacher_".
    """
    names = f"{whose}hidden", f"{whose}kernel"
    hidden, _ = checks.class_array(names[0], hidden, -1, "feature")
    kernel = floating_array(names[1], kernel, hidden)
    class_axis = _check_kernel(kernel, hidden.shape[-1], class_axis, names)
    check_split(names[1], kernel, axis_name)
    check_shared(names[0], hidden, axis_name)
    dtype = checks.compute_dtype(hidden, kernel)
    # A matrix product needs operands of one dtype: if they differ, both are widened.
    operand = hidden.dtype if hidden.dtype == kernel.dtype else dtype
    return hidden.astype(operand), kernel.astype(operand), dtype, class_axis


def _check_kernel(kernel, features, class_axis, names):
    """The class axis of the kernel, counted from the front."""
    checks.check_integer("class_axis", class_axis)
    if class_axis not in (-2, -1, 0, 1):
        raise ValueError(
            "`class_axis` must be 1 or -1 for a kernel (features, classes), or 0 or -2 "
            f"for one of (classes, features), got {class_axis}."
        )
    axis = operator.index(class_axis) % 2
    if kernel.ndim != 2 or kernel.shape[1 - axis] != features:
        other = kernel.ndim == 2 and kernel.shape[axis] == features
        asked = "(features, classes)" if axis else "(classes, features)"
        way = "for an embedding table [C, D] pass `class_axis=0`"
        way = way if axis else "for a kernel [D, C] leave out `class_axis`"
        end = f"; {way}." if other else "."
        raise ValueError(
            f"`{names[1]}` must have the shape {asked} with the {features} features of "
            f"`{names[0]}`, got shape {kernel.shape}{end}"
        )
    if not kernel.shape[axis]:
        raise ValueError(
            f"`{names[1]}` must have at least one class, got shape {kernel.shape} "
            f"with class_axis={class_axis}."
        )
    return axis


def logit_options(per_class, bias, logit_softcap, temperature, dtype, whose=""):
    cap = None
    if logit_softcap is not None:
        cap = checks.scalar(f"{whose}logit_softcap", logit_softcap, dtype)
    return LogitOptions(
        bias=per_class(f"{whose}bias", bias),
        logit_softcap=cap,
        temperature=unless(1, "temperature", temperature, dtype),
    )


def per_class_of(kernel, class_axis, dtype, name, value):
    """One number per class, [1, C], or None."""
    if value is None:
        return None
    array = per_class_array(name, value, kernel, (class_axis,), dtype)
    return array if class_axis else array.T


def unless(neutral, name, value, dtype):
    """A parameter as a scalar; None if it is the Python number that changes nothing."""
    if isinstance(value, int | float) and value == neutral:
        return None
    return checks.scalar(name, value, dtype)


def floating_array(name, value, hidden):
    """A floating array with a class axis; converts integers and booleans."""
    return checks.class_array(name, real_array(name, value, hidden), -1)[0]


def real_array(name, value, hidden):
    """A floating array; integers and booleans get the dtype of the loss."""
    array = checks.to_array(name, value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(checks.compute_dtype(hidden))
    return array


def label_array(labels, hidden):
    labels = checks.integer_array("labels", labels)
    batch = hidden.shape[:-1]
    checks.check_broadcast(
        "labels", labels.shape, "hidden without its feature axis", batch
    )
    if labels.dtype.itemsize < 4:  # so that it can hold the number of classes
        labels = labels.astype(jnp.int32)
    return jnp.broadcast_to(labels, batch)


def sweep_options(chunk_size, precision, axis_name=None, class_axis=1, share=1):
    """How the sweep runs; `share` arrays of the logits' size share its memory."""
    if chunk_size is not None:
        checks.check_integer("chunk_size", chunk_size)
        checks.at_least(1).check("chunk_size", chunk_size)
        chunk_size = operator.index(chunk_size)
    return Options(chunk_size, share, precision, axis_name, class_axis)


def mask_rows(hidden, tail):
    """Replaces the features of excluded examples, and non-finite ones of weight 0.

    The gradient of the kernel sums hidden · cotangent over all examples, where
    NaN · 0 would be NaN.
    """
    (hidden,) = tail.select(hidden, axes=-1)
    if tail.weights is None:
        return hidden
    finite = jnp.all(jnp.isfinite(hidden), axis=-1)
    keep = finite | (tail.weights != 0)
    return dataclasses.replace(tail, keep=keep, weights=None).select(hidden, axes=-1)[0]

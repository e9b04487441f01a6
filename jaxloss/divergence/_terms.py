"""What the divergences share: the check of their arguments."""

from __future__ import annotations

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.classes import mask_classes


def divergence_arguments(
    name, first, other_name, second, axis, where, weights, reduction, fill
):
    """Two checked and masked arrays over the classes, in the same shape and dtype.

    `fill` holds, for each of the two, the value that replaces excluded entries.
    """
    if axis is None:
        axis = tuple(range(checks.to_array(name, first).ndim))
    first, axes = checks.class_array(name, first, axis)
    second = checks.to_array(other_name, second)
    checks.check_broadcast(other_name, second.shape, name, first.shape)
    dtype = checks.compute_dtype(first, second)
    second = checks.broadcast_to(second.astype(dtype), first)
    first, examples = mask_classes(
        first, axes, where, weights, reduction, dtype, name=name
    )
    first = examples.select(first.astype(dtype), fill[0])
    second = examples.select(second, fill[1])
    return first, second, examples

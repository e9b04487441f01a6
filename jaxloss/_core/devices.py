"""Arrays spread over devices: what their types say, and sums over a split axis.

A class axis can be split in two ways. Under `jit` on a mesh whose axes are explicit
the type of an array says how; JAX moves what has to move, and only a gather needs to be
told. In `jax.shard_map` each device sees its own classes alone, and `axis_name` names
the mesh axis over which the functions below add up.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxloss._core.rule.varying import varying


def placement(x: jax.Array) -> NamedSharding | None:
    """Where an array lies on an explicit mesh; None elsewhere, where JAX decides."""
    sharding = jax.typeof(x).sharding
    return sharding if any(sharding.spec) else None


def automatic_devices(x: jax.Array) -> int:
    """The devices of the array's mesh among which XLA may divide it.

    XLA decides how, after the trace. A chunk has to be large enough to be divided among
    all of them.
    """
    mesh = jax.typeof(x).sharding.mesh
    sizes = zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    return math.prod(size for size, kind in sizes if kind == AxisType.Auto)


def broadcast_to(array: jax.Array, like: jax.Array) -> jax.Array:
    """Broadcasts to the shape of `like`, and to its placement on an explicit mesh."""
    target = placement(like)
    if array.shape != like.shape:
        return jnp.broadcast_to(array, like.shape, out_sharding=target)
    if target is not None and placement(array) is None:
        return jax.sharding.reshard(array, target)
    return array


def broadcast_batch(
    x: jax.Array, like: jax.Array, batch: int, core: tuple[int, ...]
) -> jax.Array:
    """Broadcasts to the first `batch` axes of `like`, with the axes `core` behind."""
    shape, sharding = like.shape[:batch] + core, placement(like)
    if sharding is not None:
        spec = PartitionSpec(*sharding.spec[:batch], *(None for _ in core))
        sharding = sharding.update(spec=spec)
    if x.shape == shape and (sharding is None or placement(x) is not None):
        return x
    return jnp.broadcast_to(x, shape, out_sharding=sharding)


def is_split(x: jax.Array, axis: int) -> bool:
    """Whether an axis is spread over an explicit mesh."""
    return jax.typeof(x).sharding.spec[axis] is not None


def whole(x: jax.Array, axis: int) -> jax.Array:
    """The same array with an axis on every device: to sort or to sum up along it."""
    if not is_split(x, axis):
        return x
    sharding = jax.typeof(x).sharding
    spec = [None if a == axis % x.ndim else s for a, s in enumerate(sharding.spec)]
    return jax.sharding.reshard(x, sharding.update(spec=PartitionSpec(*spec)))


def on_each_device(
    function: Callable[..., Any],
    arrays: tuple[Any, ...],
    specs: tuple[Any, ...],
    out_specs: Any,
) -> Any:
    """function(*arrays) of each device's part, on an explicit mesh.

    The mesh comes from the arrays' types, so that no `jax.set_mesh` is needed.

    Args:
        function: Of the parts; sums over the devices where the result is to be whole.
        arrays: Trees of arrays, at least one of which is spread over the mesh.
        specs: A `PartitionSpec` for each array, in trees of the same structure.
        out_specs: Those of the result.
    """
    placements = map(placement, jax.tree.leaves(arrays))
    mesh = next(found.mesh for found in placements if found is not None)
    arrays = jax.tree.map(
        lambda x, spec: jax.sharding.reshard(x, NamedSharding(mesh, spec)),
        arrays,
        specs,
    )
    mapped = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out_specs)
    return mapped(*arrays)


def check_split(name: str, x: jax.Array, axis_name: str | None) -> None:
    """Raises unless, inside `shard_map`, an array is split over `axis_name`.

    `check_vma=False` takes from the types what the derivative is built on.
    """
    if axis_name is not None and axis_name not in varying(x):
        raise ValueError(
            f"`axis_name` must name the mesh axis over which the classes of `{name}` "
            f"are split inside `jax.shard_map`, got {axis_name!r}, but `{name}` differ "
            f"over {sorted(varying(x))}; name the axis in `in_specs`, and leave "
            "`check_vma` at True."
        )


def check_shared(name: str, x: jax.Array, axis_name: str | None) -> None:
    """Raises if the devices that split the classes have examples of their own."""
    if axis_name is not None and axis_name in varying(x):
        raise ValueError(
            f"`{name}` must be the same on all devices that split the classes, got one "
            f"that differs over {axis_name!r}; leave that axis out of its `in_specs`."
        )


def agree_as(x: jax.Array, other: jax.Array) -> jax.Array:
    """The sum of x over the mesh axes that another array does not vary over."""
    split = tuple(sorted(varying(x) - varying(other)))
    return jax.lax.psum(x, split) if split else x


def sum_over_devices(x: jax.Array, axis_name: str | None) -> jax.Array:
    """The sum of what each device has; `x` itself where one has all classes."""
    return x if axis_name is None else jax.lax.psum(x, axis_name)


def max_over_devices(x: jax.Array, axis_name: str | None) -> jax.Array:
    """The same for the maximum."""
    return x if axis_name is None else jax.lax.pmax(x, axis_name)


def class_count(logits: jax.Array, axes: tuple[int, ...], axis_name: str | None) -> int:
    """The number of classes on all devices."""
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    return math.prod(logits.shape[a] for a in axes) * devices


def own_index(labels: jax.Array, logits: jax.Array, axis: int, axis_name: str | None):
    """Labels counted from this device's first class, in int32."""
    labels = labels.astype(jnp.int32)
    if axis_name is None:
        return labels
    return labels - jax.lax.axis_index(axis_name) * logits.shape[axis]

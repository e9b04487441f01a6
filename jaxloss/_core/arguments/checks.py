"""Argument checks at trace time, in one message style.

A message names the argument, what came and what was expected. Only what a trace
knows is checked here (types, shapes, Python numbers), so that a call fails alike
under `jit`, under `vmap` and without them. Values that a trace cannot see are left
to `jax.experimental.checkify`: see `check_values`.
"""

import dataclasses
import math
import operator
from collections.abc import Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss._core.arguments.tail import Reduction, Tail
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.devices import broadcast_to
from jaxloss._core.rule.checked import checked


def real_arrays(**arguments: ArrayLike) -> tuple[jax.Array, ...]:
    """Converts real arguments to arrays of one dtype and one shape.

    The first argument sets the shape and has to be floating (a Python number or list
    counts as floating); the others broadcast to it, never it to them, and may be
    integer or boolean too. Half precision becomes float32: the compiler fuses the
    conversion into the first pass over the data, and into the gradient's last.

    Args:
        **arguments: The arguments by their public names, which the messages use.

    Returns:
        The arrays, float32 or float64, all of the first one's shape.

    Raises:
        TypeError: if a dtype is complex, not numeric, or the first is not floating.
        ValueError: if a shape does not broadcast to the first one's.
    """
    lead, *_ = arguments
    arrays = {name: to_array(name, value) for name, value in arguments.items()}
    if not _is_floating(arrays[lead]) and hasattr(arguments[lead], "dtype"):
        raise TypeError(
            f"`{lead}` must be floating, got {arrays[lead].dtype}; "
            f"convert it with `{lead}.astype(jnp.float32)`."
        )
    dtype = compute_dtype(*arrays.values())
    shape = arrays[lead].shape
    for name, array in arrays.items():
        check_broadcast(name, array.shape, lead, shape)
    return tuple(
        broadcast_to(array.astype(dtype), arrays[lead]) for array in arrays.values()
    )


def to_array(name: str, value: ArrayLike) -> jax.Array:
    """Converts a real or boolean argument to an array.

    Integers that do not fit JAX's count as floating: NumPy's would wrap around.
    """
    if isinstance(value, np.ndarray | np.generic) and not fits_integer(value):
        value = value.astype(float)
    try:
        array = jnp.asarray(value)
    except OverflowError:  # of Python's integers
        array = jnp.asarray(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`{name}` must be an array of numbers, got {type(value).__name__}."
        ) from error
    if not (_is_floating(array) or _is_integer(array) or array.dtype == bool):
        raise TypeError(f"`{name}` must be real, got {array.dtype}.")
    return array


def compute_dtype(*arrays: jax.Array) -> Any:
    """The dtype to compute in: float64 if an array asks for it, float32 otherwise."""
    strong = [x for x in arrays if _is_floating(x) and not _is_weak(x)]
    if not strong:
        return jnp.result_type(float)
    return jnp.float64 if any(x.dtype == jnp.float64 for x in strong) else jnp.float32


def check_broadcast(
    name: str,
    shape: tuple[int, ...],
    to: str,
    to_shape: tuple[int, ...],
    way_out: str = "",
) -> None:
    """Raises unless `shape` broadcasts to `to_shape` and leaves it as it is.

    The message ends with `way_out`, or with how to drop an axis of size 1 where that is
    all that is wrong.
    """
    if _broadcasts(shape, to_shape):
        return
    if not way_out and shape[-1:] == (1,) and _broadcasts(shape[:-1], to_shape):
        way_out = f"drop its last axis with `{name}[..., 0]`"
    if not way_out and to_shape[-1:] == (1,) and shape == to_shape[:-1]:
        way_out = f"drop the last axis of {to}, or add one with `{name}[..., None]`"
    end = f"; {way_out}." if way_out else "."
    raise ValueError(
        f"`{name}` must broadcast to the shape of {to} {to_shape}, "
        f"got shape {shape}{end}"
    )


def _broadcasts(shape, to_shape):
    return len(shape) <= len(to_shape) and all(
        own in (1, other)
        for own, other in zip(shape[::-1], to_shape[::-1], strict=False)
    )


def tail(
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction,
    *,
    shape: tuple[int, ...],
    dtype: Any,
) -> Tail:
    """Checks the tail that every loss has, for per-example losses of `shape`."""
    check_option("reduction", reduction, get_args(Reduction))
    if where is not None:
        where = to_mask("where", where)
        check_broadcast("where", where.shape, "the per-example loss", shape)
        where = jax.lax.broadcast_to_rank(where, len(shape))
    if weights is not None:
        weights = to_array("weights", weights)
        check_broadcast("weights", weights.shape, "the per-example loss", shape)
        weights = jax.lax.broadcast_to_rank(weights.astype(dtype), len(shape))
    return Tail(where, weights, reduction)


def elementwise(
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction,
    **arguments: ArrayLike,
) -> tuple[tuple[jax.Array, ...], Tail]:
    """The arguments of an elementwise loss, checked, masked and in one shape."""
    lead, *rest = real_arrays(**arguments)
    last = tail(where, weights, reduction, shape=lead.shape, dtype=lead.dtype)
    return last.select(lead, *rest), last


def to_mask(name: str, value: ArrayLike, weighted: bool = True) -> jax.Array:
    """Converts a mask to a boolean array.

    `weighted` is whether the function has `weights`, which the message then offers.
    """
    mask = to_array(name, value)
    if mask.dtype != bool:
        end = ", or pass real factors as `weights`." if weighted else "."
        raise TypeError(
            f"`{name}` must be boolean, got {mask.dtype}; write `{name} != 0`{end}"
        )
    return mask


def unweighted_mask(where: ArrayLike | None) -> jax.Array | None:
    """Converts the `where`, if given, of a function that has no `weights`."""
    return None if where is None else to_mask("where", where, weighted=False)


def check_option(name: str, value: Any, options: Sequence[Any]) -> None:
    """Raises unless a named option is one of those offered."""
    if value not in options:
        offered = ", ".join(repr(option) for option in options)
        raise ValueError(f"`{name}` must be one of {offered}, got {value!r}.")


@dataclasses.dataclass(frozen=True)
class Interval:
    """What a hyperparameter may be."""

    minimum: float = -math.inf
    maximum: float = math.inf
    open_minimum: bool = False
    open_maximum: bool = False

    def check(self, name: str, value: Any) -> None:
        """Raises if a Python or NumPy number, or array, leaves the interval."""
        number = np.asarray(value)
        if number.dtype.kind not in "biuf":
            raise TypeError(f"`{name}` must be real, got {number.dtype}.")
        number = number.astype(np.float64)
        low = number > self.minimum if self.open_minimum else number >= self.minimum
        high = number < self.maximum if self.open_maximum else number <= self.maximum
        if not np.all(low & high):
            left = "(" if self.open_minimum else "["
            right = ")" if self.open_maximum else "]"
            raise ValueError(
                f"`{name}` must be in {left}{self.minimum}, {self.maximum}{right}, "
                f"got {value}."
            )


def at_least(minimum: float) -> Interval:
    return Interval(minimum)


def above(minimum: float) -> Interval:
    return Interval(minimum, open_minimum=True)


def inside(minimum: float, maximum: float) -> Interval:
    return Interval(minimum, maximum, open_minimum=True, open_maximum=True)


def between(minimum: float, maximum: float) -> Interval:
    return Interval(minimum, maximum)


def fits_integer(value: np.ndarray | np.generic) -> bool:
    """Whether JAX can hold a NumPy value's integers: without x64 it takes 32 bits."""
    if value.dtype.kind not in "iu" or value.dtype.itemsize < 8 or not value.size:
        return True
    bounds = np.iinfo(jnp.result_type(int))
    return bool(value.min() >= bounds.min and value.max() <= bounds.max)


def integer_array(
    name: str, value: ArrayLike, way_out: str = "", kind: str = "class"
) -> jax.Array:
    """Converts an argument of indices to an integer array.

    NumPy integers that do not fit JAX's are out of range: they become the smallest one.
    `way_out` and `kind`, which says what is counted, are for the message.
    """
    if isinstance(value, int | list | tuple):
        value = np.asarray(value)
    if isinstance(value, np.ndarray | np.generic) and not fits_integer(value):
        bounds = np.iinfo(jnp.result_type(int))
        fits = (value >= bounds.min) & (value <= bounds.max)
        value = np.where(fits, value, bounds.min).astype(bounds.dtype)
    array = to_array(name, value)
    if not _is_integer(array):
        end = f"; {way_out}." if way_out else "."
        raise TypeError(
            f"`{name}` must be integer {kind} indices, got {array.dtype}{end}"
        )
    return array


def scalar(name: str, value: ArrayLike, dtype: Any) -> jax.Array:
    """Converts a hyperparameter that has to be a scalar."""
    array = to_array(name, value)
    if array.ndim:
        raise ValueError(f"`{name}` must be a scalar, got shape {array.shape}.")
    return array.astype(dtype)


def check_integer(name: str, value: Any) -> None:
    """Raises unless a static argument is an integer."""
    try:
        operator.index(value)
    except TypeError as error:
        raise TypeError(f"`{name}` must be an int or None, got {value!r}.") from error


def class_array(
    name: str, value: ArrayLike, axis: Any, kind: str = "class"
) -> tuple[jax.Array, tuple[int, ...]]:
    """Checks floating logits, scores or log-probabilities with a class axis.

    Returns:
        The array, in its own precision, and its class axes counted from the front.
        `kind` is what the axis counts, for the messages.
    """
    array = to_array(name, value)
    if not _is_floating(array):
        if hasattr(value, "dtype"):
            raise TypeError(
                f"`{name}` must be floating, got {array.dtype}; "
                f"convert it with `{name}.astype(jnp.float32)`."
            )
        array = array.astype(jnp.result_type(float))
    if not array.ndim:
        raise ValueError(f"`{name}` must have a {kind} axis, got a scalar.")
    axes = canonical_axes("axis", axis, array.ndim)
    if math.prod(array.shape[a] for a in axes) == 0:
        axis = axis[0] if isinstance(axis, tuple) and len(axis) == 1 else axis
        raise ValueError(
            f"`{name}` must have at least one {kind}, got shape {array.shape} with "
            f"axis={axis}."
        )
    return array, axes


def canonical_axis(name: str, axis: Any, ndim: int) -> int:
    """Returns `axis` counted from the front."""
    try:
        index = operator.index(axis)
    except TypeError as error:
        raise TypeError(f"`{name}` must be an int, got {axis!r}.") from error
    if not -ndim <= index < ndim:
        raise ValueError(
            f"`{name}` must be in [-{ndim}, {ndim}) for {ndim} axes, got {index}."
        )
    return index % ndim


def canonical_axes(name: str, axis: Any, ndim: int) -> tuple[int, ...]:
    """Returns an int or a tuple of ints as a tuple of axes counted from the front."""
    given = axis if isinstance(axis, tuple) else (axis,)
    axes = tuple(canonical_axis(name, one, ndim) for one in given)
    if not axes or len(set(axes)) != len(axes):
        raise ValueError(f"`{name}` must name each axis once, got {axis!r}.")
    return axes


def check_values(
    name: str, value: jax.Array, holds: jax.Array, expected: str
) -> jax.Array:
    """The value, with a condition that raises under `checkify` alone.

    Args:
        name: The argument that the condition is about.
        value: An array of the loss, which the check stays with.
        holds: Boolean array, True where the argument is right.
        expected: What the message says of the right values.
    """
    return checked(value, holds, f"`{name}` must be {expected}.")


def check_probability(name: str, value: jax.Array, tail: Tail) -> jax.Array:
    """The value, which raises outside [0, 1] under `checkify` alone.

    A label of 2 or -1 has a formula's value there, not NaN: the select would cost every
    caller a pass over the labels.
    """
    inside = (value >= 0) & (value <= 1)
    return check_values(name, value, tail.counts(inside), "in [0, 1]")


def _is_floating(array: jax.Array) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)


def _is_integer(array: jax.Array) -> bool:
    return jnp.issubdtype(array.dtype, jnp.integer)


def _is_weak(array: jax.Array) -> bool:
    return bool(getattr(array, "weak_type", False))

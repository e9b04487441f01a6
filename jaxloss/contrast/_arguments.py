"""Arguments of the losses that compare every example with every other."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import PrecisionLike

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.tail import Reduction, Tail
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.devices import whole
from jaxloss._core.rule.varying import varying
from jaxloss._core.sweeps.blocks import Options
from jaxloss._core.sweeps.pairs import spread_over
from jaxloss.contrast._rules import Example

# Value and gradients of SigLIP at N = 8192 and D = 512 in float32 on two CPU cores: a
# smaller chunk repeats the reading of all keys too often, a larger one takes memory.
_QUERIES = 256
_QUERIES_ON_GPU = 1024


class Batch(NamedTuple):
    """The checked arguments of a call.

    Attributes:
        queries: `[N, D]`, safe for the mathematics.
        keys: `[N, D]`, likewise.
        example: The position and the mask of each example as a query.
        key: The same as a key.
        dropped: Boolean `[N]`, queries of weight 0, or None.
        tail: `where`, `weights` and `reduction`.
        dtype: The dtype to compute in.
        options: How the sweep runs.
    """

    queries: jax.Array
    keys: jax.Array
    example: Example
    key: Example
    dropped: jax.Array | None
    tail: Tail
    dtype: Any
    options: Options

    @property
    def on_one_device(self) -> bool:
        """Whether the keys of all examples are at hand."""
        return self.options.axis_name is None and not _spread(self.queries, self.keys)

    def with_labels(self, labels: jax.Array) -> Batch:
        """The batch whose examples have labels."""
        return self._replace(
            example=self.example._replace(label=labels),
            key=self.key._replace(label=labels),
        )


def batch_of(
    where: ArrayLike | None,
    weights: ArrayLike | None,
    reduction: Reduction,
    chunk_size: int | None,
    axis_name: str | None,
    precision: PrecisionLike,
    *,
    both_ways: bool = False,
    **embeddings: ArrayLike,
) -> Batch:
    """Checks the arguments that all pair losses have.

    `embeddings` are one array, both query and key, or two of one shape, by their names.
    With `both_ways` the keys are queries too.
    """
    arrays, dtype = _embeddings(embeddings)
    factors = next(iter(arrays.values())).dtype
    # On an explicit mesh each device has all features of its examples.
    x, *y = (whole(array.astype(dtype), 1) for array in arrays.values())
    n = x.shape[0]
    if axis_name is not None:
        for name, array in arrays.items():
            check_spread(name, array, axis_name)
    tail = checks.tail(where, weights, reduction, shape=(n,), dtype=dtype).spread((n,))
    position = jnp.arange(n, dtype=jnp.int32)
    if axis_name is not None:
        position = position + n * jax.lax.axis_index(axis_name)
    queries, keys = (mask_rows(v, tail.keep) for v in (x, *(y or [x])))
    dropped = None
    if tail.weights is not None and not both_ways:
        dropped = jnp.broadcast_to(tail.weights == 0, (n,))
        # A query of weight 0 has no gradient; as a key it stays what it is.
        finite = jnp.all(jnp.isfinite(queries), axis=1)
        queries = mask_rows(queries, finite | ~dropped)
    every = jnp.ones_like(position, bool) if tail.keep is None else tail.keep
    on_gpu = _QUERIES_ON_GPU if chunk_size is None else None
    options = Options(chunk_of(chunk_size), precision, factors, axis_name, on_gpu)
    return Batch(
        queries, keys, Example(position, every), Example(position, tail.keep),
        dropped, tail, dtype, options,
    )  # fmt: skip


def _embeddings(given):
    """Arrays [N, D] of one shape, in one dtype, and the dtype to compute in."""
    arrays = {}
    for name, value in given.items():
        if arrays:  # the first is floating; behind it integers count as real
            value = checks.to_array(name, value)
            if not jnp.issubdtype(value.dtype, jnp.floating):
                value = value.astype(next(iter(arrays.values())).dtype)
        array, _ = checks.class_array(name, value, -1, "feature")
        if array.ndim != 2:
            raise ValueError(f"`{name}` must have shape [N, D], got {array.shape}.")
        arrays[name] = array
    (lead, first), *others = arrays.items()
    for name, array in others:
        if array.shape != first.shape:
            raise ValueError(
                f"`{name}` must have the shape of `{lead}` {first.shape}, one row per "
                f"example, got {array.shape}."
            )
    dtype = checks.compute_dtype(*arrays.values())
    if any(array.dtype != first.dtype for array in arrays.values()):
        arrays = {name: array.astype(dtype) for name, array in arrays.items()}
    return arrays, dtype


def mask_rows(x: jax.Array, keep: jax.Array | None) -> jax.Array:
    """The rows to keep, zeros in the place of the others."""
    return x if keep is None else jnp.where(keep[:, None], x, jnp.zeros((), x.dtype))


def _spread(queries, keys):
    return spread_over(queries, keys) is not None


def check_spread(name, x, axis_name):
    """Raises unless, inside `shard_map`, the examples are spread over `axis_name`.

    `check_vma=False` takes from the types what the derivative is built on.
    """
    if axis_name not in varying(x):
        raise ValueError(
            f"`axis_name` must name the mesh axis over which the examples of `{name}` "
            f"are spread inside `jax.shard_map`, got {axis_name!r}, but `{name}` "
            f"differs over {sorted(varying(x))}; name the axis in `in_specs`, and "
            "leave `check_vma` at True."
        )


def chunk_of(chunk_size):
    if chunk_size is None:
        return _QUERIES
    checks.check_integer("chunk_size", chunk_size)
    checks.at_least(1).check("chunk_size", chunk_size)
    return operator.index(chunk_size)


def label_array(labels: ArrayLike, batch: Batch) -> jax.Array:
    """Integer labels [N]."""
    labels = checks.integer_array("labels", labels)
    n = batch.queries.shape[:1]
    if labels.shape != n:
        raise ValueError(
            f"`labels` must have one label per example, shape {n}, got shape "
            f"{labels.shape}."
        )
    return labels

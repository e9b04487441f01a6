"""Rows in chunks of one size."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxloss._core.rule.batch import largest_of_batch
from jaxloss._core.rule.varying import vary_as


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which chunk a row belongs to: [N, ...] to [count, size, ...] and back.

    Row i goes to chunk i mod count. Where a block of rows lies on each device, every
    chunk has its share of each block, and no step moves a row. With `order`, the rows
    that count come first and fill the first chunks; the other chunks are skipped.
    """

    rows: int
    count: int
    size: int
    order: jax.Array | None

    @classmethod
    def of(cls, rows: int, largest: int, keep: jax.Array | None) -> "Layout":
        """As few chunks as have at most `largest` rows, all of one size."""
        if rows == largest:  # also a number that is not known when JAX traces
            return cls(rows, 1, rows, None)
        if not isinstance(rows, int):
            raise ValueError(
                "`hidden` must have a number of examples that is known when the "
                f"function is traced, since they are cut into chunks, got {rows}."
            )
        count = max(1, math.ceil(rows / largest))
        order = None
        if keep is not None and count > 1:
            order = jnp.argsort(~keep, stable=True)
        return cls(rows, count, math.ceil(rows / count), order)

    @property
    def shape(self) -> tuple[int, int]:
        return self.count, self.size

    def split(self, x: jax.Array) -> jax.Array:
        x = jnp.asarray(x)  # under `jit`, constants come as arrays of NumPy
        x = x if self.order is None else _permute(x, self.order)
        padding = self.count * self.size - self.rows
        x = jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1))
        if self.order is not None:
            return x.reshape(*self.shape, *x.shape[1:])
        return x.reshape(*self.shape[::-1], *x.shape[1:]).swapaxes(0, 1)

    def join(self, x: jax.Array) -> jax.Array:
        x = x.swapaxes(0, 1) if self.order is None else x
        x = x.reshape(self.count * self.size, *x.shape[2:])[: self.rows]
        return x if self.order is None else _permute(x, jnp.argsort(self.order))


def _permute(x, order):
    return x.at[order].get(unique_indices=True, mode="promise_in_bounds")


@dataclasses.dataclass(frozen=True)
class KeptFirst:
    """The rows to keep in chunks, as many as they fill; the other rows stay unread.

    The arrays stay as they are: a chunk is read from and written to the places of its
    rows.
    """

    rows: jax.Array  # those to keep first, and indices beyond the last row behind them
    size: int
    count: jax.Array  # of the rows to keep

    @classmethod
    def of(cls, keep: jax.Array, size: int) -> "KeptFirst":
        beyond = jnp.arange(size, dtype=jnp.int32) + keep.shape[0]
        order = jnp.argsort(~keep, stable=True).astype(jnp.int32)
        count = largest_of_batch(jnp.sum(keep, dtype=jnp.int32))
        return cls(jnp.concatenate([order, vary_as(beyond, keep)]), size, count)

    def loop(self, body: Callable[[Any, jax.Array], Any], sofar: Any) -> Any:
        """body(sofar, index), index [size] or smaller, until all rows are visited.

        A chunk of `size` rows that would be filled to three quarters is worth its time;
        of an eighth are those for the rest. A chunk costs some 36 rows' time more than
        its rows (`default_rows`), and half a chunk is empty on average.
        """
        small = math.ceil(self.size / 8)
        large = (self.count + self.size // 4) // self.size
        done = large * self.size
        left = (self.count - done + small - 1) // small

        def visit(first, size):
            def step(i, sofar):
                return body(
                    sofar, lax.dynamic_slice_in_dim(self.rows, first + i * size, size)
                )

            return step

        sofar = lax.fori_loop(0, large, visit(0, self.size), sofar)
        return lax.fori_loop(0, left, visit(done, small), sofar)

    def at(self, tree: Any, index: jax.Array) -> Any:
        """The rows of each array; an index beyond the last row takes that one again."""
        last = self.rows.size - self.size - 1
        index = jnp.minimum(index, last)
        return jax.tree.map(
            lambda x: jnp.asarray(x).at[index].get(mode="promise_in_bounds"), tree
        )

    def zeros(self, tree: Any) -> Any:
        """Arrays for all rows, given those of a chunk."""
        rows = self.rows.size - self.size
        return jax.tree.map(lambda x: jnp.zeros((rows, *x.shape[1:]), x.dtype), tree)

    def put(self, tree: Any, index: jax.Array, chunk: Any) -> Any:
        """The arrays of `zeros` with these rows, without those beyond the last."""
        return jax.tree.map(
            lambda x, part: x.at[index].set(part, unique_indices=True, mode="drop"),
            tree,
            chunk,
        )


@dataclasses.dataclass(frozen=True)
class Fold:
    """Rows in chunks that are cut out where they are used: [N, ...] as [size, count].

    Row i goes to chunk i mod count, as in `Layout`, but the array is not rearranged: a
    chunk is read and written in its place, which saves a copy of the array.
    """

    rows: int
    count: int
    size: int

    @classmethod
    def of(cls, rows: int, largest: int) -> "Fold":
        """Chunks of at most `largest` rows, of a size that divides the rows if it can.

        A number of rows that is not known when the function is traced is one chunk.
        """
        if not isinstance(rows, int) or rows <= largest:
            return cls(rows, 1, rows)
        for size in range(largest, largest // 2, -1):
            if rows % size == 0:
                return cls(rows, rows // size, size)
        count = math.ceil(rows / largest)
        return cls(rows, count, math.ceil(rows / count))

    def split(self, x: jax.Array) -> jax.Array:
        """[N, ...] to [size, count, ...], with zeros behind the last row."""
        padding = self.count * self.size - self.rows
        if isinstance(padding, int) and padding:
            x = jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(self.size, self.count, *x.shape[1:])

    def join(self, x: jax.Array) -> jax.Array:
        """[size, count, ...] back to [N, ...]."""
        return x.reshape(self.size * self.count, *x.shape[2:])[: self.rows]

    def at(self, tree: Any, index: jax.Array | int) -> Any:
        """One chunk of each array, [size, ...]."""
        return jax.tree.map(
            lambda x: lax.dynamic_index_in_dim(x, index, 1, keepdims=False), tree
        )

    def put(self, tree: Any, index: jax.Array | int, chunk: Any) -> Any:
        """The arrays with another chunk."""
        return jax.tree.map(
            lambda x, part: lax.dynamic_update_index_in_dim(x, part, index, 1),
            tree,
            chunk,
        )

"""Sequences of tokens: the whole last axis, or several packed into it."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.devices import broadcast_to


@dataclasses.dataclass(frozen=True)
class Segments:
    """Which tokens of the last axis belong to which sequence.

    Attributes:
        ids: Integer, of the shape of the tokens. Tokens whose id is outside
            [0, count) belong to none. None: the last axis is one sequence.
        count: The number of sequences in the last axis.
    """

    ids: jax.Array | None
    count: int

    def outside(self) -> jax.Array | None:
        """True at the tokens of no sequence; None if there can be none."""
        if self.ids is None:
            return None
        return (self.ids < 0) | (self.ids >= self.count)

    def sum(self, x: jax.Array) -> jax.Array:
        """The sum over each sequence, `[...]`, or `[..., count]` with ids."""
        if self.ids is None:
            return jnp.sum(x, axis=-1)
        hit = _at_segment(self.ids, self.count)
        return jnp.sum(jnp.where(hit, jnp.expand_dims(x, -2), 0), axis=-1)

    def spread(self, x: jax.Array, like: jax.Array) -> jax.Array:
        """One number per sequence as one per token, 0 at tokens of no sequence."""
        if self.ids is None:
            return broadcast_to(jnp.expand_dims(x, -1), like)
        hit = _at_segment(self.ids, self.count)
        return jnp.sum(jnp.where(hit, jnp.expand_dims(x, -1), 0), axis=-2)


# A comparison per token and sequence, which XLA fuses into the sums. A scatter has no
# rule for explicitly sharded arrays, and costs more on accelerators.
def _at_segment(ids, count):
    numbers = jnp.arange(count, dtype=ids.dtype)
    numbers = numbers.reshape(*(1,) * (ids.ndim - 1), count, 1)
    return jnp.expand_dims(ids, -2) == numbers


def segments(
    segment_ids: ArrayLike | None, num_segments: Any, tokens: jax.Array, name: str
) -> Segments:
    """Checks the two arguments; `tokens` is the array `name`."""
    if segment_ids is None:
        if num_segments is not None:
            raise ValueError(
                "`num_segments` must be None without `segment_ids`, "
                f"got {num_segments}."
            )
        return Segments(None, 1)
    if num_segments is None:
        raise ValueError(
            "`num_segments` must be the number of sequences in the last axis, got None "
            "with `segment_ids`; it is a part of the result's shape."
        )
    checks.check_integer("num_segments", num_segments)
    if num_segments < 1:
        raise ValueError(f"`num_segments` must be at least 1, got {num_segments}.")
    ids = checks.integer_array("segment_ids", segment_ids, kind="sequence")
    if jnp.issubdtype(ids.dtype, jnp.unsignedinteger) and ids.dtype.itemsize >= 4:
        ids = jnp.minimum(ids, jnp.asarray(2**31 - 1, ids.dtype))
    if ids.dtype != jnp.int64:  # int8 may not hold the number of sequences
        ids = ids.astype(jnp.int32)
    checks.check_broadcast("segment_ids", ids.shape, name, tokens.shape)
    return Segments(broadcast_to(ids, tokens), int(num_segments))


def check_token_axis(name: str, tokens: jax.Array) -> None:
    """Raises for a scalar, which has no axis of tokens."""
    if not tokens.ndim:
        raise ValueError(f"`{name}` must have a token axis, got a scalar.")


def token_counts(of_answers, keep, like):
    """The number of tokens in each sequence, at least 1."""
    counted = jnp.ones_like(like) if keep is None else keep.astype(like.dtype)
    return jnp.maximum(jax.lax.stop_gradient(of_answers.sum(counted)), 1)

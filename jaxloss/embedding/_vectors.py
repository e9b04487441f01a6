"""Helpers shared by the losses on embeddings."""

from __future__ import annotations

import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.arguments import checks
from jaxloss._core.devices import broadcast_to
from jaxloss._core.numerics.exact import scale_of, squarable


# XLA for GPU keeps a row on the chip from the maximum to the loss, and again to the
# gradient, so that it reads the vectors twice: but not behind a select of arrays of
# their shape, nor where two operations use the sum of squares. Hence the inverse that
# is 0 and the bound of the sum, which concern the zero vector alone: for every other
# vector the sum is at least 1. The rows of `cosine_distance` in tests/test_accelerators
# would notice.
def unit_vector(x, axes, epsilon=None):
    """x / sqrt(max(|x|², epsilon)), and whether the result has length 1.

    Dividing by the largest component first keeps the squares of 1e-30 and 1e30 in
    range; the result does not depend on that divisor, so its gradient is stopped. The
    zero vector stays 0 with a zero gradient. Without `epsilon` all others have length
    1.
    """
    largest = stop_gradient(jnp.max(jnp.abs(x), axis=axes, keepdims=True, initial=0))
    zero = largest == 0
    inverse = jnp.where(zero, 0, 1 / scale_of(largest))
    small = squarable(x, broadcast_to(inverse, x))
    square = jnp.sum(small * small, axis=axes, keepdims=True)
    norm = jnp.sqrt(jnp.maximum(square, 0.5))
    unit = ~zero
    if epsilon is not None:
        # At 0 the root has an infinite slope, which the select removes.
        floor = jnp.sqrt(jnp.where(epsilon == 0, 0, epsilon)) * inverse
        short = norm < floor
        unit, norm = unit & ~short, jnp.where(short, floor, norm)
    return small / norm, jnp.squeeze(unit, axes)


def clamp(x):
    """max(x, 0) with derivative 1 at 0, as in PyTorch's clamp."""
    return jnp.where(x < 0, 0, x)


def per_example(name, value, batch, dtype):
    """Checks a real argument with one value per example and broadcasts it."""
    array = checks.to_array(name, value).astype(dtype)
    checks.check_broadcast(name, array.shape, "the per-example loss", batch)
    return jnp.broadcast_to(array, batch)

"""The tail that every loss shares: `where`, `weights` and `reduction`.

A mask selects inputs, not results: what it drops is replaced before the mathematics,
so that a NaN or an infinity in padding reaches neither the value nor a derivative.
"""

from typing import Literal

import jax
import jax.numpy as jnp

Reduction = Literal["none", "mean", "sum"]

# Inside the domain of every argument of every loss: a probability, a quantile, a
# scale, a variance, a finite logit.
HARMLESS = 0.5


def select(keep: jax.Array | None, *inputs: jax.Array) -> tuple[jax.Array, ...]:
    """Replaces the entries that `keep` drops by a value that harms no formula.

    Args:
        keep: Boolean, broadcastable to each input, or None to keep everything.
        *inputs: Real arrays.

    Returns:
        The inputs; the gradient of a dropped entry is exactly 0.
    """
    if keep is None:
        return inputs
    return tuple(jnp.where(keep, x, jnp.asarray(HARMLESS, x.dtype)) for x in inputs)


def reduce_loss(
    loss: jax.Array,
    keep: jax.Array | None,
    weights: jax.Array | None,
    reduction: Reduction,
    mass: jax.Array | None = None,
    axis: int | None = None,
) -> jax.Array:
    """Weighs the per-example losses and reduces them.

    Args:
        loss: The per-example losses, unmasked and unweighted.
        keep: Boolean, broadcastable to `loss`; False entries count nowhere.
        weights: Real, broadcastable to `loss`.
        reduction: "none", "sum" or "mean": the weighted sum over the sum of the
            weights that count, 0 with a zero gradient when nothing counts.
        mass: What each example adds to the mean's denominator, if not 1: its class
            weight, which `loss` already contains.
        axis: The axis that the reduction runs over; None for all of them.

    Returns:
        The losses, in the shape of `loss`, or their sum or mean, a scalar if `axis`
        is None.
    """
    if weights is not None:
        if keep is not None:
            weights = jnp.where(keep, weights, 0)
        # An example of weight 0 adds 0 even where its loss is infinite.
        dead = (weights == 0) & ~jnp.isfinite(loss)
        loss = jnp.where(dead, 0, loss) * weights
    if keep is not None:
        loss = jnp.where(keep, loss, 0)
    if reduction == "none":
        return loss
    total = jnp.sum(loss, axis=axis)
    if reduction == "sum":
        return total
    if keep is None and weights is None and mass is None:
        return total / max(loss.size // max(total.size, 1), 1)
    counted = jnp.ones_like(loss)
    for factor in (weights, mass):
        counted = counted if factor is None else counted * factor
    if keep is not None:
        counted = jnp.where(keep, counted, 0)
    denominator = jnp.sum(counted, axis=axis)
    nothing = denominator == 0
    return jnp.where(nothing, 0, total / jnp.where(nothing, 1, denominator))

"""The tail that every loss shares: `where`, `weights` and `reduction`.

A mask selects inputs, not results: what it excludes is replaced before the mathematics,
so that a NaN or an infinity in padding reaches neither the value nor a derivative.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from jaxloss._core.devices import broadcast_to
from jaxloss._core.rule.dropped import guard

Reduction = Literal["none", "mean", "sum"]
Axes = int | tuple[int, ...]

# Inside the domain of every argument of every loss: a probability, a quantile, a
# scale, a variance, a finite logit.
HARMLESS = 0.5


@dataclasses.dataclass(frozen=True)
class Tail:
    """The checked `where`, `weights` and `reduction` of one call.

    Attributes:
        keep: Boolean, of the rank of the per-example loss; False entries are excluded.
            None keeps all.
        weights: Real, of the rank of the per-example loss, or None.
        reduction: "none", "sum" or "mean".
    """

    keep: jax.Array | None
    weights: jax.Array | None
    reduction: Reduction

    def select(
        self, *inputs: jax.Array, axes: Axes = (), nothing: float = HARMLESS
    ) -> tuple[jax.Array, ...]:
        """Real inputs of a loss, made safe for the mathematics.

        Where `keep` is False the input is replaced by `nothing`, and its gradient is 0.
        Where the weight is 0 the input stays, and its derivatives are finite.

        Args:
            *inputs: Real arrays of the shape of the per-example loss, with the axes
                `axes` inserted.
            axes: The axes that the per-example loss lacks: class or feature axes.
            nothing: A value that harms no formula.
        """
        if self.keep is not None:
            keep = jnp.expand_dims(self.keep, axes)
            inputs = tuple(
                jnp.where(keep, x, jnp.asarray(nothing, x.dtype)) for x in inputs
            )
        return tuple(self.guard(x, axes) for x in inputs)

    def guard(self, x: jax.Array, axes: Axes = ()) -> jax.Array:
        """x, with derivatives that are finite where the weight is 0."""
        if self.weights is None:
            return x
        return guard(x, jnp.expand_dims(self.weights == 0, axes))

    def share(self, x: jax.Array, like: jax.Array, axes: Axes = ()) -> jax.Array:
        """A hyperparameter of all examples, with a finite gradient.

        Its gradient is a sum over the examples, so that it needs an entry per example,
        in the shape of `like`, to exclude those of weight 0.
        """
        return x if self.weights is None else self.guard(broadcast_to(x, like), axes)

    def without(self, ignored: jax.Array) -> "Tail":
        """The tail that excludes the ignored examples as well."""
        keep = ~ignored if self.keep is None else self.keep & ~ignored
        return dataclasses.replace(self, keep=keep)

    def spread(self, batch: tuple[int, ...]) -> "Tail":
        """The tail with a mask of the whole batch's shape."""
        if self.keep is None:
            return self
        return dataclasses.replace(self, keep=jnp.broadcast_to(self.keep, batch))

    def counts(self, x: jax.Array) -> jax.Array:
        """A condition on examples, True also where the example is excluded."""
        if self.keep is not None:
            x = x | ~self.keep
        return x if self.weights is None else x | (self.weights == 0)

    def reduce(self, loss: jax.Array, mass: jax.Array | None = None) -> jax.Array:
        """Weighs the per-example losses and reduces them.

        Args:
            loss: The per-example losses, neither masked nor weighted.
            mass: What each example adds to the mean's denominator, if not 1: its class
                weight, which `loss` already contains.

        Returns:
            The losses, their sum, or their weighted mean, which is 0 with a zero
            gradient where nothing counts.
        """
        return reduce_loss(loss, self.keep, self.weights, self.reduction, mass)


def reduce_loss(
    loss: jax.Array,
    keep: jax.Array | None,
    weights: jax.Array | None,
    reduction: Reduction,
    mass: jax.Array | None = None,
    axis: int | None = None,
) -> jax.Array:
    """The same over the axis `axis` alone, or over all axes if it is None."""
    if weights is not None:
        if keep is not None:
            weights = jnp.where(keep, weights, 0)
        loss = weigh(loss, weights)
    if keep is not None:
        loss = jnp.where(keep, loss, 0)
    if reduction == "none":
        return loss
    total = jnp.sum(loss, axis=axis)
    if reduction == "sum":
        return total
    if keep is None and weights is None and mass is None:
        each = max(loss.size // max(total.size, 1), 1)
        # JAX takes an int for an int32, which 2^31 losses exceed.
        return total / (float(each) if isinstance(each, int) else each)
    counted = jnp.ones_like(loss)
    for factor in (weights, mass):
        counted = counted if factor is None else counted * factor
    if keep is not None:
        counted = jnp.where(keep, counted, 0)
    return mean(total, jnp.sum(counted, axis=axis))


def weigh(x: jax.Array, weights: jax.Array) -> jax.Array:
    """weights · x, where a weight of 0 makes 0 of an infinity and of NaN too."""
    x = guard(x, weights == 0)
    return jnp.where((weights == 0) & ~jnp.isfinite(x), 0, x) * weights


def mean(total: jax.Array, denominator: jax.Array) -> jax.Array:
    """total / denominator, and 0 with a zero gradient where nothing counts."""
    nothing = denominator == 0
    return jnp.where(nothing, 0, total / jnp.where(nothing, 1, denominator))

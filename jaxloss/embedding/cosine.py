"""Losses on the angle between two embeddings."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import at_least, between
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.numerics.exact import with_derivative_of
from jaxloss.embedding._vectors import clamp, per_example, unit_vector

Axis = int | tuple[int, ...] | None


@public(epsilon=at_least(0))
def cosine_similarity(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: ArrayLike = 0.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Cosine similarity: the cosine of the angle between two vectors.

    Choose it as a score. To minimise, take `cosine_distance`, which stays accurate for
    vectors that nearly agree.

    With $a$ the predictions and $b$ the targets:

    $$ \sum_i \frac{a_i}{\sqrt{\max(\lVert a \rVert^2, \text{epsilon})}}
       \frac{b_i}{\sqrt{\max(\lVert b \rVert^2, \text{epsilon})}} $$

    PyTorch: `nn.CosineSimilarity`; Keras: `CosineSimilarity`.

    Args:
        predictions: Floating, `[..., D]`, in any unit.
        targets: Real, in any unit, broadcastable to `predictions`.
        epsilon: Scalar, at least 0, a lower bound for each squared length. 0.0 as in
            optax.
        axis: The feature axis or axes; None means all axes.
        where: Boolean mask; False entries are excluded. A mask of the rank of
            `predictions` excludes single features.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in [-1, 1], and 0 for a zero vector; a scalar if reduced.

    Gradient:
        With $u$ and $v$ the unit vectors of $a$ and $b$,
        $(v - \langle u, v \rangle u) / \lVert a \rVert$ for `predictions` and likewise
        for `targets`; 0 at a zero vector.

    Example:
        >>> import jaxloss as jl
        >>> predictions, targets = [[3.0, 0.0], [1.0, 1.0]], [[2.0, 0.0], [0.0, 0.0]]
        >>> print(jl.cosine_similarity(predictions, targets))
        [1. 0.]

    References:
        Hieu V. Nguyen and Li Bai, "Cosine Similarity Metric Learning for Face
        Verification", ACCV 2010, https://doi.org/10.1007/978-3-642-19309-5_55
    """
    pair, axes, tail = _directions(
        predictions, targets, epsilon, axis, where, weights, reduction
    )
    return tail.reduce(_cosine(pair, axes))


@public(epsilon=at_least(0))
def cosine_distance(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    epsilon: ArrayLike = 0.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Cosine distance: one minus the cosine of the angle between two vectors.

    Choose it over `squared_error` where the direction of an embedding matters and its
    length does not.

    With $a$ the predictions and $b$ the targets:

    $$ 1 - \text{cosine\_similarity}(a, b) $$

    Args:
        predictions: Floating, `[..., D]`, in any unit.
        targets: Real, in any unit, broadcastable to `predictions`.
        epsilon: Scalar, at least 0, a lower bound for each squared length. 0.0 as in
            optax.
        axis: The feature axis or axes; None means all axes.
        where: Boolean mask; False entries are excluded. A mask of the rank of
            `predictions` excludes single features.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in [0, 2], and 1 for a zero vector; a scalar if reduced.

    Gradient:
        The negative gradient of `cosine_similarity`; 0 at a zero vector.

    Example:
        >>> import jaxloss as jl
        >>> predictions, targets = [[3.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [1.0, 0.0]]
        >>> print(jl.cosine_distance(predictions, targets))
        [0. 1.]

    References:
        Hieu V. Nguyen and Li Bai, "Cosine Similarity Metric Learning for Face
        Verification", ACCV 2010, https://doi.org/10.1007/978-3-642-19309-5_55
    """
    pair, axes, tail = _directions(
        predictions, targets, epsilon, axis, where, weights, reduction
    )
    return tail.reduce(_one_minus_cosine(pair, axes))


class _Pair(NamedTuple):
    """Two arrays of vectors, divided by their lengths."""

    u: jax.Array  # [..., D]
    v: jax.Array  # [..., D]
    unit: jax.Array  # [...], whether both have length 1
    bounded: bool  # whether vectors other than 0 may have another length


def _pair_of(a, b, axes, epsilon=None):
    (u, u_unit), (v, v_unit) = (unit_vector(x, axes, epsilon) for x in (a, b))
    return _Pair(u, v, u_unit & v_unit, epsilon is not None)


def _directions(predictions, targets, epsilon, axis, where, weights, reduction):
    """Checks and masks both arguments, and scales them to unit length."""
    a, b = checks.real_arrays(predictions=predictions, targets=targets)
    every = tuple(range(a.ndim))
    axes = every if axis is None else checks.canonical_axes("axis", axis, a.ndim)
    if isinstance(epsilon, int | float) and epsilon == 0:  # the default, and static
        epsilon = None
    else:
        epsilon = checks.scalar("epsilon", epsilon, a.dtype)
    batch = tuple(n for i, n in enumerate(a.shape) if i not in axes)
    if where is not None:
        where = checks.to_mask("where", where)
        if where.ndim == a.ndim and axes:
            checks.check_broadcast("where", where.shape, "predictions", a.shape)
            features = jnp.broadcast_to(where, a.shape)
            a, b = jnp.where(features, a, 0), jnp.where(features, b, 0)
            where = jnp.any(features, axis=axes)
    tail = checks.tail(where, weights, reduction, shape=batch, dtype=a.dtype)
    tail = tail.spread(batch)
    a, b = tail.select(a, b, axes=axes)
    if epsilon is not None:
        epsilon = tail.share(epsilon, jnp.sum(a, axis=axes, keepdims=True), axes)
    return _pair_of(a, b, axes, epsilon), axes, tail


def _one_minus_cosine(pair, axes):
    """1 - <u, v>; for unit vectors |u - v|²/2, which is accurate near 0."""
    u, v, unit, bounded = pair
    gap = u - v
    half_square = 0.5 * jnp.sum(gap * gap, axis=axes)
    # Beside a zero vector it is 1, unless the other one is NaN.
    other = 1 - jnp.sum(u * v, axis=axes) if bounded else 1 + 0 * half_square
    return _bounded(jnp.where(unit, half_square, other), 0, 2)


def _cosine(pair, axes):
    return _bounded(jnp.sum(pair.u * pair.v, axis=axes), -1, 1)


# Rounding moves the length of a unit vector by some 1e-7, and so takes the cosine of
# parallel vectors beyond 1. That is an error of the value alone: the derivative of a
# clip would be 0 there, and the second derivative, which is not 0, would be lost.
def _bounded(value, low, high):
    """The value within its true range, with the derivative that it has without it."""
    return with_derivative_of(jnp.clip(stop_gradient(value), low, high), value)


@public(margin=between(-1, 1))
def cosine_embedding_loss(
    x1: ArrayLike,
    x2: ArrayLike,
    targets: ArrayLike,
    *,
    margin: ArrayLike = 0.0,
    axis: int = -1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Cosine embedding loss: small angles for like pairs, large ones for unlike pairs.

    Choose it over `cosine_distance` where some pairs should be far apart.

    With $c$ the cosine of the angle between $x_1$ and $x_2$:

    $$ 1 - c \text{ for target } 1, \qquad
       \max(0, c - \text{margin}) \text{ for target } -1 $$

    PyTorch: `nn.CosineEmbeddingLoss`.

    Args:
        x1: Floating, `[..., D]`, in any unit.
        x2: Real, in any unit, broadcastable to `x1`.
        targets: Real, broadcastable to `[...]`: 1 for a like pair, -1 for an unlike
            pair.
        margin: In [-1, 1], broadcastable to `[...]`, the cosine up to which an unlike
            pair has loss 0. 0.0 as in PyTorch.
        axis: The feature axis.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in [0, 2]; a scalar if reduced. The cosine of a zero vector is 0.

    Gradient:
        For `x1` and `x2`, the gradient of the cosine for an unlike pair with positive
        loss or at the kink, as in PyTorch, and its negative for a like pair; 0 at a
        zero vector. For `margin`, -1 for the same unlike pairs. None for `targets`.

    Example:
        >>> import jaxloss as jl
        >>> x1, x2 = [[1.0, 0.0], [3.0, 4.0]], [[2.0, 0.0], [3.0, 0.0]]
        >>> print(jl.cosine_embedding_loss(x1, x2, [1, -1]))
        [0.  0.6]

    References:
        PyTorch, "torch.nn.CosineEmbeddingLoss",
        https://docs.pytorch.org/docs/stable/generated/torch.nn.CosineEmbeddingLoss.html
    """
    a, b = checks.real_arrays(x1=x1, x2=x2)
    if not a.ndim:
        raise ValueError("`x1` must have a feature axis, got a scalar.")
    axes = (checks.canonical_axis("axis", axis, a.ndim),)
    batch = tuple(n for i, n in enumerate(a.shape) if i not in axes)
    t = per_example("targets", targets, batch, a.dtype)
    margin = per_example("margin", margin, batch, a.dtype)
    tail = checks.tail(where, weights, reduction, shape=batch, dtype=a.dtype)
    tail = tail.spread(batch)
    a, b = tail.select(a, b, axes=axes)
    margin, t = tail.select(margin, t)
    t = checks.check_values("targets", t, tail.counts(jnp.abs(t) == 1), "1 or -1")
    pair = _pair_of(a, b, axes)
    together = _one_minus_cosine(pair, axes)
    apart = clamp(_cosine(pair, axes) - margin)
    loss = jnp.where(t == 1, together, jnp.where(t == -1, apart, jnp.nan))
    return tail.reduce(loss)

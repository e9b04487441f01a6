"""Margins between two scores or two distances."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import above, at_least
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.compilers.order import recomputed, short_cut
from jaxloss._core.numerics.exact import (
    scale_of,
    squarable,
    squarable_value,
    two_difference,
)
from jaxloss._core.rule.analytic import analytic
from jaxloss.embedding._vectors import clamp, per_example


@public()
def margin_ranking_loss(
    x1: ArrayLike,
    x2: ArrayLike,
    targets: ArrayLike,
    *,
    margin: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Margin ranking loss: how far two scores fall short of their order by a margin.

    Choose it over `ranking_softmax_loss` where the data are ordered pairs, not lists.

    $$ \max(0,\; \text{margin} - \text{targets} \cdot (x_1 - x_2)) $$

    PyTorch: `nn.MarginRankingLoss`.

    Args:
        x1: Floating, `[...]`, a score in any unit.
        x2: Real, in the same unit, broadcastable to `x1`.
        targets: Real, broadcastable to `x1`: 1 if `x1` should rank higher, -1 if `x2`.
            Any other value follows the formula, and `checkify` reports it.
        margin: Real, in the unit of the scores, broadcastable to `x1`. 0.0 as in
            PyTorch.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0; a scalar if reduced.

    Gradient:
        Where the loss is positive, and at the kink as in PyTorch: -targets for `x1`,
        targets for `x2`, 1 for `margin` and $x_2 - x_1$ for `targets`. 0 elsewhere.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.margin_ranking_loss([2.0, 0.5], [1.0, 1.0], [1, 1], margin=0.25))
        [0.   0.75]

    References:
        PyTorch, "torch.nn.MarginRankingLoss",
        https://docs.pytorch.org/docs/stable/generated/torch.nn.MarginRankingLoss.html
    """
    (a, b, t, margin), tail = checks.elementwise(
        where, weights, reduction, x1=x1, x2=x2, targets=targets, margin=margin
    )
    signs = jnp.abs(t) == 1
    t = checks.check_values("targets", t, tail.counts(signs), "1 or -1")
    lead, lost = two_difference(a, b)
    return tail.reduce(clamp((margin - t * lead) - t * lost))


@public(static=("norm_degree",), norm_degree=above(0), eps=at_least(0))
def triplet_margin_loss(
    anchors: ArrayLike,
    positives: ArrayLike,
    negatives: ArrayLike,
    axis: int = -1,
    norm_degree: ArrayLike = 2,
    margin: ArrayLike = 1.0,
    eps: ArrayLike = 1e-6,
    *,
    swap: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Triplet margin loss: a positive should be nearer than a negative by a margin.

    Choose it over `ntxent` where the triplets are chosen by hand or mined. For a
    distance of your own, use `triplet_margin_with_distance_loss`.

    With $d(x, y) = (\sum_i \lvert x_i - y_i \rvert^p + \text{eps})^{1/p}$, $p$ the
    degree of the norm:

    $$ \max(0,\; d(\text{anchors}, \text{positives}) - d(\text{anchors},
       \text{negatives}) + \text{margin}) $$

    PyTorch: `nn.TripletMarginLoss`.

    Args:
        anchors: Floating, `[..., D]`, in any unit.
        positives: Real, in the same unit, broadcastable to `anchors`.
        negatives: Real, in the same unit, broadcastable to `anchors`.
        axis: The feature axis.
        norm_degree: Above 0, the degree of the norm; inf takes the largest component. 2
            as in optax.
        margin: Real, in the unit of the distance, broadcastable to `[...]`. 1.0 as in
            optax.
        eps: Scalar, at least 0, added to the sum of powers. 1e-6 as in optax.
        swap: Whether to replace the distance of anchor and negative by the distance of
            positive and negative where that is smaller (distance swap). False as in
            PyTorch.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0; a scalar if reduced.

    Gradient:
        Where the loss is positive, and at the kink as in PyTorch: the gradient of the
        difference of the two distances, for the vectors, `norm_degree` and `eps`, and 1
        for `margin`. 0 elsewhere. A distance of 0 has gradient 0.

    Example:
        >>> import jaxloss as jl
        >>> anchors, positives, negatives = [[0.0, 0.0]], [[3.0, 4.0]], [[0.0, 4.5]]
        >>> print(jl.triplet_margin_loss(anchors, positives, negatives, eps=0.0))
        [1.5]

    References:
        Vassileios Balntas et al., "Learning local feature descriptors with triplets and
        shallow convolutional neural networks", BMVC 2016,
        https://bmva-archive.org.uk/bmvc/2016/papers/paper119/
    """
    a, p, n = checks.real_arrays(
        anchors=anchors, positives=positives, negatives=negatives
    )
    if not a.ndim:
        raise ValueError("`anchors` must have a feature axis, got a scalar.")
    axis = checks.canonical_axis("axis", axis, a.ndim)
    eps = checks.scalar("eps", eps, a.dtype)
    degree = norm_degree
    if not isinstance(norm_degree, int | float):
        degree = checks.scalar("norm_degree", norm_degree, a.dtype)

    def distance(x, y, tail):
        lengths = jnp.sum(x, axis=axis)
        each = degree
        if not isinstance(each, int | float):
            each = tail.guard(checks.broadcast_to(jnp.asarray(each), lengths))
        return _distance(
            x, y, axis, each, tail.guard(checks.broadcast_to(eps, lengths))
        )

    return _triplet(a, p, n, (axis,), distance, margin, swap, where, weights, reduction)


def triplet_margin_with_distance_loss(
    anchors: ArrayLike,
    positives: ArrayLike,
    negatives: ArrayLike,
    *,
    distance_fn: Callable[[jax.Array, jax.Array], jax.Array],
    margin: ArrayLike = 1.0,
    swap: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Triplet margin loss with a distance function of your own.

    Choose it over `triplet_margin_loss` where the distance is not a norm: a cosine, a
    divergence, a learned distance.

    With $d$ the distance function:

    $$ \max(0,\; d(\text{anchors}, \text{positives}) - d(\text{anchors},
       \text{negatives}) + \text{margin}) $$

    PyTorch: `nn.TripletMarginWithDistanceLoss`.

    Args:
        anchors: Floating, `[..., D]`, in any unit; an example may have several axes.
        positives: Real, in the same unit, broadcastable to `anchors`.
        negatives: Real, in the same unit, broadcastable to `anchors`.
        distance_fn: Differentiable JAX function of two arrays of the shape of `anchors`
            that returns their distances `[...]`, reducing trailing axes. It gets
            excluded examples as vectors of 0.5.
        margin: Real, in the unit of the distance, broadcastable to `[...]`. 1.0 as in
            PyTorch.
        swap: Whether to replace the distance of anchor and negative by the distance of
            positive and negative where that is smaller (distance swap). False as in
            PyTorch.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0; a scalar if reduced.

    Gradient:
        Where the loss is positive, and at the kink as in PyTorch: the gradient of the
        difference of the two distances, by differentiating `distance_fn`, and 1 for
        `margin`. 0 elsewhere.

    Raises:
        TypeError: If `distance_fn` is not callable.
        ValueError: If `distance_fn` does not reduce trailing axes.

    Example:
        >>> import jaxloss as jl
        >>> anchors, positives, negatives = [[1.0, 0.0]], [[1.0, 1.0]], [[0.0, 2.0]]
        >>> loss = jl.triplet_margin_with_distance_loss(
        ...     anchors, positives, negatives, distance_fn=jl.cosine_distance
        ... )
        >>> print(loss)
        [0.293]

    References:
        PyTorch, "torch.nn.TripletMarginWithDistanceLoss",
        https://docs.pytorch.org/docs/stable/generated/torch.nn.TripletMarginWithDistanceLoss.html
    """
    if not callable(distance_fn):
        raise TypeError(f"`distance_fn` must be callable, got {distance_fn!r}.")
    a, p, n = checks.real_arrays(
        anchors=anchors, positives=positives, negatives=negatives
    )
    batch = jax.eval_shape(distance_fn, a, p).shape
    if batch != a.shape[: len(batch)]:
        raise ValueError(
            "`distance_fn` must reduce trailing axes of its arguments: from shape "
            f"{a.shape} it made {batch}."
        )
    axes = tuple(range(len(batch), a.ndim))

    def distance(x, y, _):
        return distance_fn(x, y)

    return _triplet(a, p, n, axes, distance, margin, swap, where, weights, reduction)


def _triplet(a, p, n, axes, distance, margin, swap, where, weights, reduction):
    """max(d(a, p) - d(a, n) + margin, 0); `swap` takes min(d(a, n), d(p, n))."""
    batch = tuple(n for i, n in enumerate(a.shape) if i not in axes)
    margin = per_example("margin", margin, batch, a.dtype)
    tail = checks.tail(where, weights, reduction, shape=batch, dtype=a.dtype)
    tail = tail.spread(batch)
    a, p, n = tail.select(a, p, n, axes=axes)
    (margin,) = tail.select(margin)
    near, far = distance(a, p, tail), distance(a, n, tail)
    if swap:
        far = jnp.minimum(far, distance(p, n, tail))
    return tail.reduce(clamp((near - far) + margin))


def _distance(x, y, axis, degree, eps):
    """(Σ |x - y|^degree + eps)^(1/degree), with all terms divided by the largest.

    The result does not depend on that divisor, so its gradient is stopped. Where all
    terms are 0 the distance is 0, and so is its gradient.
    """
    if isinstance(degree, int | float) and degree == 2:
        eps = checks.broadcast_to(eps, jnp.sum(x, axis=axis))
        return _euclidean(x, y, eps, axis=axis)
    gap = jnp.abs(x - y)
    largest = stop_gradient(jnp.max(gap, axis=axis, initial=0))
    if isinstance(degree, int | float) and math.isinf(degree):
        return jnp.max(gap, axis=axis, initial=0)
    inverse = 1 / degree
    root = jnp.where(eps > 0, jnp.where(eps > 0, eps, 1) ** inverse, 0)
    scale = scale_of(jnp.maximum(largest, stop_gradient(root)))
    shrink = jnp.expand_dims(1 / scale, axis)
    ratio = squarable(gap, checks.broadcast_to(shrink, gap))
    power = degree if isinstance(degree, int | float) else jnp.expand_dims(degree, axis)
    powers = jnp.where(ratio == 0, 0, jnp.where(ratio == 0, 1, ratio) ** power)
    offset = jnp.where(eps > 0, eps / jnp.where(eps > 0, scale, 1) ** degree, 0)
    total = jnp.sum(powers, axis=axis) + offset
    positive = jnp.where(total == 0, 1, total)
    distance = jnp.where(total == 0, 0, scale * positive**inverse)
    return jnp.where(jnp.isinf(largest), jnp.inf, distance)


# d = (Σ (x - y)² + eps)^(1/2) and ∂d/∂x = (x - y)/d, which is taken as 0 at d = 0.
# Where that sum over- or underflows, one of two others does not, of vectors that a
# power of two makes smaller or larger (Blue's three accumulators, as LAPACK has them).
# On CPU the one that is needed is another pass over the vectors, only taken if some sum
# in the batch leaves the range; XLA for TPU makes all three sums in one pass. A GPU
# makes one in float64.
# Passes use y - x and x - y by turns: XLA for CPU would store a difference that two of
# them share, one more array of the vectors' size.
def _euclidean_forward(x, y, eps, *, axis):
    gap = y - x
    total = jnp.sum(gap * gap, axis=axis) + eps
    info = jnp.finfo(x.dtype)
    # The squares that underflow lose at most D · tiny together: less than eps / 8 of a
    # sum above `least`.
    least = 8 * x.shape[axis] * float(info.tiny / info.eps)
    in_range = ~jnp.any((total <= least) | jnp.isinf(total))
    down, up = 2.0 ** -int(0.55 * info.maxexp), 2.0 ** int(-0.8 * info.minexp)

    def direct(total, *_):
        return jnp.sqrt(total)

    def scaled(total, x, y, eps):
        factor = jnp.where(total <= least, up, jnp.where(jnp.isinf(total), down, 1))
        return _scaled_distance(y - x, eps, axis, factor.astype(x.dtype))

    def at_once(total, x, y, eps):
        far = _scaled_distance(y - x, eps, axis, jnp.full_like(total, down))
        near = _scaled_distance(x - y, eps, axis, jnp.full_like(total, up))
        d = jnp.where(jnp.isinf(total), far, jnp.sqrt(total))
        return jnp.where(total <= least, near, d)

    def in_double(total, x, y, eps):
        features = x.shape[axis]
        if x.dtype != jnp.float32 or not isinstance(features, int) or features == 0:
            return at_once(total, x, y, eps)
        return _distance_in_double(y - x, eps, axis)

    forms = direct, scaled, at_once, in_double
    d = short_cut(in_range, *forms, total, x, y, eps)
    return d, (x, y, eps)


def _scaled_distance(gap, eps, axis, factor):
    """The distance by way of vectors times a power of two."""
    # The square of the bound is infinite, and so is an infinite distance.
    bound = float(jnp.finfo(gap.dtype).max)
    ratio = squarable_value(gap, jnp.expand_dims(factor, axis), bound)
    offset = squarable_value(jnp.sqrt(eps), factor, bound)
    return jnp.sqrt(jnp.sum(ratio * ratio, axis=axis) + offset * offset) / factor


# The range of float64 holds the squares of all float32. XLA for GPU takes the root and
# the rounding to float32 into the kernel of the sum, unless they have another operand:
# so eps is spread over the terms.
def _distance_in_double(gap, eps, axis):
    """The distance of float32 vectors by way of float64, also where JAX has none."""
    with jax.enable_x64(True):
        gap, share = gap.astype(jnp.float64), eps.astype(jnp.float64) / gap.shape[axis]
        total = jnp.sum(gap * gap + jnp.expand_dims(share, axis), axis=axis)
        return jnp.sqrt(total).astype(jnp.float32)


def _euclidean_backward(residuals, cotangent, *, axis):
    x, y, eps = residuals
    d = recomputed(_euclidean(x, y, eps, axis=axis))
    d = jnp.where(d == 0, 1, d)
    # XLA turns the division into a product with 1/d, which for d > 8.5e37 is subnormal
    # and flushed to 0. With k the divisor stays below that.
    k = jnp.where(d > 1, 0.25, 1)
    unit = ((x - y) * jnp.expand_dims(k, axis)) / jnp.expand_dims(k * d, axis)
    slope = jnp.expand_dims(cotangent, axis) * unit
    return slope, -slope, cotangent * (0.5 / d)


_euclidean = analytic(_euclidean_forward, _euclidean_backward)

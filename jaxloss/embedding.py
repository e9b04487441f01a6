"""Losses on embeddings: angles, margins between distances, pairs within a batch."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.typing import ArrayLike

from jaxloss._core import checks
from jaxloss._core.derivative import analytic
from jaxloss._core.mesh import is_split, whole
from jaxloss._core.numerics import softplus, two_difference
from jaxloss._core.probability import sigmoid
from jaxloss._core.reduction import Reduction, reduce_loss, select

Axis = int | tuple[int, ...] | None


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
    r"""Returns the cosine of the angle between two vectors.

    Choose it as a score; as a loss to minimise take `cosine_distance`, which keeps its
    digits for vectors that nearly agree.

    With $a$ the predictions and $b$ the targets:

    $$ \sum_i \frac{a_i}{\sqrt{\max(\lVert a \rVert^2, \text{epsilon})}}
       \frac{b_i}{\sqrt{\max(\lVert b \rVert^2, \text{epsilon})}} $$

    Args:
        predictions: Floating, `[..., D]`, in any unit.
        targets: Real, in any unit, broadcastable to `predictions`.
        epsilon: A scalar, at least 0: the least squared length to divide by. 0.0 as in
            optax.
        axis: The feature axis or axes; None takes all.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). A mask of the rank of
            `predictions` drops single features.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, in [-1, 1]; a scalar if reduced.

    Gradient:
        With unit vectors $u$ and $v$, $(v - \langle u, v \rangle u) / \lVert a \rVert$
        for `predictions` and likewise for `targets`; 0 at a zero vector.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. Each vector is scaled before it is squared, so
        that lengths of 1e-30 and 1e30 are right. A zero vector has similarity 0. An
        empty or fully masked input has sum and mean 0.

    Raises:
        TypeError: If an input is not real, `predictions` not floating, or `where` not
            boolean.
        ValueError: If an input does not fit the shapes above, `epsilon` is negative, or
            `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> predictions, targets = [[3.0, 0.0], [1.0, 1.0]], [[2.0, 0.0], [0.0, 0.0]]
        >>> print(jl.cosine_similarity(predictions, targets))
        [1. 0.]

    References:
        Hieu V. Nguyen and Li Bai, "Cosine Similarity Metric Learning for Face
        Verification", ACCV 2010, https://doi.org/10.1007/978-3-642-19309-5_55
    """
    u, v, _, axes, keep, weights = _directions(
        predictions, targets, epsilon, axis, where, weights, reduction
    )
    return reduce_loss(jnp.sum(u * v, axis=axes), keep, weights, reduction)


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
    r"""Returns one minus the cosine of the angle between two vectors.

    Choose it over `squared_error` where only the direction of an embedding means
    anything, not its length.

    With $a$ the predictions and $b$ the targets:

    $$ 1 - \text{cosine\_similarity}(a, b) $$

    Args:
        predictions: Floating, `[..., D]`, in any unit.
        targets: Real, in any unit, broadcastable to `predictions`.
        epsilon: A scalar, at least 0: the least squared length to divide by. 0.0 as in
            optax.
        axis: The feature axis or axes; None takes all.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). A mask of the rank of
            `predictions` drops single features.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, in [0, 2]; a scalar if reduced.

    Gradient:
        The negative of that of `cosine_similarity`; 0 at a zero vector.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. Between unit vectors it is half their squared
        distance, so that a distance of 1e-12 keeps digits. A zero vector has distance 1
        from any. An empty or fully masked input has sum and mean 0.

    Raises:
        TypeError: If an input is not real, `predictions` not floating, or `where` not
            boolean.
        ValueError: If an input does not fit the shapes above, `epsilon` is negative, or
            `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> predictions, targets = [[3.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [1.0, 0.0]]
        >>> print(jl.cosine_distance(predictions, targets))
        [0. 1.]

    References:
        Hieu V. Nguyen and Li Bai, "Cosine Similarity Metric Learning for Face
        Verification", ACCV 2010, https://doi.org/10.1007/978-3-642-19309-5_55
    """
    u, v, unit, axes, keep, weights = _directions(
        predictions, targets, epsilon, axis, where, weights, reduction
    )
    return reduce_loss(_one_minus_cosine(u, v, unit, axes), keep, weights, reduction)


def _directions(predictions, targets, epsilon, axis, where, weights, reduction):
    """Both arguments at unit length, checked and masked; by feature or by example."""
    checks.check_number("epsilon", epsilon, minimum=0)
    a, b = checks.real_arrays(predictions=predictions, targets=targets)
    every = tuple(range(a.ndim))
    axes = every if axis is None else checks.canonical_axes("axis", axis, a.ndim)
    epsilon = checks.scalar("epsilon", epsilon, a.dtype)
    batch = tuple(n for i, n in enumerate(a.shape) if i not in axes)
    if where is not None:
        where = checks.to_mask("where", where)
        if where.ndim == a.ndim and axes:
            checks.check_broadcast("where", where.shape, "predictions", a.shape)
            features = jnp.broadcast_to(where, a.shape)
            a, b = jnp.where(features, a, 0), jnp.where(features, b, 0)
            where = jnp.any(features, axis=axes)
    keep, weights = checks.tail(where, weights, reduction, shape=batch, dtype=a.dtype)
    if keep is not None:
        keep = jnp.broadcast_to(keep, batch)
        a, b = select(jnp.expand_dims(keep, axes), a, b)
    u, u_unit = _direction(a, epsilon, axes)
    v, v_unit = _direction(b, epsilon, axes)
    return u, v, u_unit & v_unit, axes, keep, weights


def _direction(x, epsilon, axes):
    """x / sqrt(max(|x|², epsilon)), and whether its length is 1.

    Scaled by the largest component first, a constant that the result does not depend
    on, so that 1e-30 and 1e30 square to something. The zero vector stays 0 with a
    zero gradient.
    """
    largest = stop_gradient(jnp.max(jnp.abs(x), axis=axes, keepdims=True, initial=0))
    zero = largest == 0
    scaled = x / jnp.where(zero, 1, largest)
    square = jnp.sum(scaled * scaled, axis=axes, keepdims=True)
    norm = jnp.sqrt(jnp.where(zero, 1, square))
    floor = jnp.sqrt(epsilon) / jnp.where(zero, 1, largest)
    unit = ~zero & (norm >= floor)
    direction = jnp.where(zero, 0, scaled / jnp.where(unit | zero, norm, floor))
    return direction, jnp.squeeze(unit, axes)


def _one_minus_cosine(u, v, unit, axes):
    """1 - <u, v>, between unit vectors as |u - v|²/2, which keeps small digits."""
    gap = u - v
    return jnp.where(
        unit, 0.5 * jnp.sum(gap * gap, axis=axes), 1 - jnp.sum(u * v, axis=axes)
    )


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
    r"""Returns the loss of a pair by its angle: small if alike, large enough if not.

    Choose it over `cosine_distance` where some pairs should be far apart.

    With $c$ the cosine of the angle between $x_1$ and $x_2$:

    $$ 1 - c \text{ for target } 1, \qquad
       \max(0, c - \text{margin}) \text{ for target } -1 $$

    Args:
        x1: Floating, `[..., D]`, in any unit.
        x2: Real, in any unit, broadcastable to `x1`.
        targets: Real, broadcastable to `[...]`: 1 for a pair that belongs together, -1
            for one that does not.
        margin: In [-1, 1], the cosine up to which an unlike pair costs nothing. 0.0 as
            in PyTorch.
        axis: The feature axis.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, in [0, 2]; a scalar if reduced.

    Gradient:
        That of the cosine, negated for target 1, for `x1` and `x2`; -1 for `margin`
        where an unlike pair costs something. At the margin itself it is that of the
        cosine, as in PyTorch; 0 at a zero vector. None for `targets`.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. Lengths of 1e-30 and 1e30 are right, a zero
        vector has cosine 0. A target other than 1 and -1 gives NaN, and raises under
        `checkify`. An empty or fully masked input has sum and mean 0.

    Raises:
        TypeError: If an input is not real, `x1` not floating, or `where` not boolean.
        ValueError: If an input does not fit the shapes above, `margin` is not in
            [-1, 1], or `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> x1, x2 = [[1.0, 0.0], [3.0, 4.0]], [[2.0, 0.0], [3.0, 0.0]]
        >>> print(jl.cosine_embedding_loss(x1, x2, [1, -1]))
        [0.  0.6]

    References:
        PyTorch, "torch.nn.CosineEmbeddingLoss",
        https://docs.pytorch.org/docs/stable/generated/torch.nn.CosineEmbeddingLoss.html
    """
    checks.check_number("margin", margin, minimum=-1, maximum=1)
    a, b = checks.real_arrays(x1=x1, x2=x2)
    if not a.ndim:
        raise ValueError("`x1` must have a feature axis, got a scalar.")
    axes = (checks.canonical_axis("axis", axis, a.ndim),)
    batch = tuple(n for i, n in enumerate(a.shape) if i not in axes)
    t = _per_example("targets", targets, batch, a.dtype)
    margin = _per_example("margin", margin, batch, a.dtype)
    keep, weights = checks.tail(where, weights, reduction, shape=batch, dtype=a.dtype)
    if keep is not None:
        keep = jnp.broadcast_to(keep, batch)
        a, b = select(jnp.expand_dims(keep, axes), a, b)
        (margin,) = select(keep, margin)
        t = jnp.where(keep, t, 1)
    checks.check_values("targets", jnp.abs(t) == 1, "1 or -1")
    zero = jnp.zeros((), a.dtype)
    u, u_unit = _direction(a, zero, axes)
    v, v_unit = _direction(b, zero, axes)
    together = _one_minus_cosine(u, v, u_unit & v_unit, axes)
    apart = _clamp(jnp.sum(u * v, axis=axes) - margin)
    loss = jnp.where(t == 1, together, jnp.where(t == -1, apart, jnp.nan))
    return reduce_loss(loss, keep, weights, reduction)


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
    r"""Returns how far a pair of scores falls short of its order by a margin.

    Choose it over `ranking_softmax_loss` where the data are ordered pairs, not lists.

    $$ \max(0,\; \text{margin} - \text{targets} \cdot (x_1 - x_2)) $$

    Args:
        x1: Floating, `[...]`, a score in any unit.
        x2: Real, in the same unit, broadcastable to `x1`.
        targets: Real, broadcastable to `x1`: 1 if `x1` should rank higher, -1 if `x2`.
        margin: Real, in the unit of the scores, by how much. 0.0 as in PyTorch.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0; a scalar if reduced.

    Gradient:
        Where the loss is positive, and at the kink as in PyTorch, -targets for `x1`,
        targets for `x2`, 1 for `margin` and $x_2 - x_1$ for `targets`; 0 elsewhere.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. What rounding took from the difference is put
        back. An empty or fully masked input has sum and mean 0. A target other than 1
        and -1 is an error in the data: it raises under `checkify`.

    Raises:
        TypeError: If an input is not real, `x1` not floating, or `where` not boolean.
        ValueError: If an input does not broadcast to `x1` or `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.margin_ranking_loss([2.0, 0.5], [1.0, 1.0], [1, 1], margin=0.25))
        [0.   0.75]

    References:
        PyTorch, "torch.nn.MarginRankingLoss",
        https://docs.pytorch.org/docs/stable/generated/torch.nn.MarginRankingLoss.html
    """
    named = {"x1": x1, "x2": x2, "targets": targets, "margin": margin}
    arrays, keep, weights = checks.elementwise(where, weights, reduction, named)
    a, b, t, margin = select(keep, *arrays)
    signs = jnp.abs(arrays[2]) == 1
    checks.check_values("targets", signs if keep is None else signs | ~keep, "1 or -1")
    lead, lost = two_difference(a, b)
    return reduce_loss(_clamp((margin - t * lead) - t * lost), keep, weights, reduction)


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
    r"""Returns how far a positive falls short of being nearer than a negative.

    Choose it over `ntxent` where the triplets are chosen by hand or mined;
    `triplet_margin_with_distance_loss` takes a distance of your own.

    With $d(x, y) = (\sum_i \lvert x_i - y_i \rvert^p + \text{eps})^{1/p}$, $p$ the
    degree of the norm:

    $$ \max(0,\; d(\text{anchors}, \text{positives}) - d(\text{anchors},
       \text{negatives}) + \text{margin}) $$

    Args:
        anchors: Floating, `[..., D]`, in any unit.
        positives: Real, in the same unit, broadcastable to `anchors`.
        negatives: Real, in the same unit, broadcastable to `anchors`.
        axis: The feature axis.
        norm_degree: Above 0, the degree of the norm; inf for the largest component. 2
            as in optax.
        margin: Real, in the unit of the distance, broadcastable to `[...]`. 1.0 as in
            optax.
        eps: A scalar, at least 0, added to the sum of powers. 1e-6 as in optax.
        swap: Whether the negative's distance is taken from the positive where that is
            nearer (distance swap). False as in PyTorch.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0; a scalar if reduced.

    Gradient:
        Where the loss is positive, and at the kink as in PyTorch, the difference of the
        distances' gradients for the vectors, 1 for `margin`, and the distances' own for
        `norm_degree` and `eps`. A distance of 0 has gradient 0.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. Lengths of 1e-30 and 1e30 are right, as
        differences are scaled before they are raised to a power, for `norm_degree` 2 if
        any square needs it. An empty or fully masked input has sum and mean 0.

    Raises:
        TypeError: If an input is not real, `anchors` not floating, or `where` not
            boolean.
        ValueError: If an input does not fit the shapes above, `norm_degree` is not
            positive, `eps` is negative, or `reduction` is unknown.

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
    checks.check_number("norm_degree", norm_degree, minimum=0, open_minimum=True)
    checks.check_number("eps", eps, minimum=0)
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

    def distance(x, y):
        return _distance(x, y, axis, degree, eps)

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
    r"""Returns the triplet margin loss under a distance of your own.

    Choose it over `triplet_margin_loss` where the distance is no norm: a cosine, a
    divergence, a learned one.

    With $d$ the distance function:

    $$ \max(0,\; d(\text{anchors}, \text{positives}) - d(\text{anchors},
       \text{negatives}) + \text{margin}) $$

    Args:
        anchors: Floating, `[..., D]`, in any unit; an example may have several axes.
        positives: Real, in the same unit, broadcastable to `anchors`.
        negatives: Real, in the same unit, broadcastable to `anchors`.
        distance_fn: Takes two arrays of the shape of `anchors` and returns their
            distances `[...]`, the trailing axes gone. Differentiable, in JAX.
        margin: Real, in the unit of the distance, broadcastable to `[...]`. 1.0 as in
            PyTorch.
        swap: Whether the negative's distance is taken from the positive where that is
            nearer (distance swap). False as in PyTorch.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0; a scalar if reduced.

    Gradient:
        Where the loss is positive, and at the kink as in PyTorch, the difference of the
        distances' gradients, as JAX takes them of `distance_fn`, and 1 for `margin`.

    Numerics:
        Computes in float32, or float64 if an input is float64, and as accurately as
        `distance_fn` does. Masked examples reach it as vectors of 0.5. An empty or
        fully masked input has sum and mean 0.

    Raises:
        TypeError: If an input is not real, `anchors` not floating, `distance_fn` not
            callable, or `where` not boolean.
        ValueError: If an input does not fit the shapes above, `distance_fn` does not
            reduce trailing axes, or `reduction` is unknown.

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
    return _triplet(a, p, n, axes, distance_fn, margin, swap, where, weights, reduction)


def _triplet(a, p, n, axes, distance, margin, swap, where, weights, reduction):
    """max(d(a, p) - d(a, n) + margin, 0), with d(p, n) for d(a, n) if it is nearer."""
    batch = tuple(n for i, n in enumerate(a.shape) if i not in axes)
    margin = _per_example("margin", margin, batch, a.dtype)
    keep, weights = checks.tail(where, weights, reduction, shape=batch, dtype=a.dtype)
    if keep is not None:
        keep = jnp.broadcast_to(keep, batch)
        a, p, n = select(jnp.expand_dims(keep, axes), a, p, n)
        (margin,) = select(keep, margin)
    near, far = distance(a, p), distance(a, n)
    if swap:
        far = jnp.minimum(far, distance(p, n))
    return reduce_loss(_clamp((near - far) + margin), keep, weights, reduction)


def _distance(x, y, axis, degree, eps):
    """(Σ |x - y|^degree + eps)^(1/degree), scaled by its largest term.

    The scale is a constant that the result does not depend on. Where all terms are 0
    the distance is 0, and so is its gradient.
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
    scale = jnp.maximum(largest, stop_gradient(root))
    scale = jnp.where((scale == 0) | jnp.isinf(scale), 1, scale)
    ratio = gap / jnp.expand_dims(scale, axis)
    powers = jnp.where(ratio == 0, 0, jnp.where(ratio == 0, 1, ratio) ** degree)
    offset = jnp.where(eps > 0, eps / jnp.where(eps > 0, scale, 1) ** degree, 0)
    total = jnp.sum(powers, axis=axis) + offset
    positive = jnp.where(total == 0, 1, total)
    return jnp.where(total == 0, 0, scale * positive**inverse)


# d = (Σ (x - y)² + eps)^(1/2), and d d/dx = (x - y)/d, 0 at d = 0. Only where a sum of
# squares of the batch leaves the range of floating point all of them are scaled, for
# two more passes over the vectors. The sum and the slope each read x and y and write no
# difference for the other: two forms of it, since XLA writes what they share.
def _euclidean_forward(x, y, eps, *, axis):
    gap = y - x
    total = jnp.sum(gap * gap, axis=axis) + eps
    info = jnp.finfo(x.dtype)
    # Of this size a sum does not miss the squares that underflow.
    least = 8 * x.shape[axis] * float(info.tiny / info.eps)
    d = jax.lax.cond(
        jnp.all((total > least) & jnp.isfinite(total)),
        lambda: jnp.sqrt(total),
        lambda: _scaled_distance(x, y, eps, axis),
    )
    return d, (x, y, eps)


def _scaled_distance(x, y, eps, axis):
    """The distance over the whole range; its scale is a largest difference."""
    largest = jnp.max(jnp.maximum(x, y) - jnp.minimum(x, y), axis=axis, initial=0)
    root = jnp.sqrt(eps)
    scale = jnp.maximum(largest, root)
    scale = jnp.where((scale == 0) | jnp.isinf(scale), 1, scale)
    ratio = (y - x) / jnp.expand_dims(scale, axis)
    offset = root / scale
    return scale * jnp.sqrt(jnp.sum(ratio * ratio, axis=axis) + offset * offset)


def _euclidean_backward(residuals, cotangent, *, axis):
    x, y, eps = residuals
    d = _euclidean(x, y, eps, axis=axis)
    d = jnp.where(d == 0, 1, d)
    # XLA multiplies by 1/d, which has to be at least the smallest normal number.
    k = jnp.where(d > 1, 0.25, 1)
    unit = ((x - y) * jnp.expand_dims(k, axis)) / jnp.expand_dims(k * d, axis)
    slope = jnp.expand_dims(cotangent, axis) * unit
    return slope, -slope, cotangent * (0.5 / d)


_euclidean = analytic(_euclidean_forward, _euclidean_backward)


def ntxent(
    embeddings: ArrayLike,
    labels: ArrayLike,
    temperature: ArrayLike = 0.07,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Returns the normalized temperature-scaled cross entropy of a batch (NT-Xent).

    Choose it over `triplet_margin_loss` where every other example of the batch should
    serve as a negative: SimCLR and its kin.

    With $s_{ij}$ the cosine of embeddings $i$ and $j$ over the temperature, for each
    ordered pair of the same label, and $N(i)$ the examples of another label:

    $$ -\log \frac{e^{s_{ij}}}{e^{s_{ij}} + \sum_{k \in N(i)} e^{s_{ik}}} $$

    Args:
        embeddings: Floating, `[N, D]`, in any unit: their length does not count.
        labels: Integer, `[N]`, equal for examples that belong together.
        temperature: A scalar above 0 that scales the cosines. 0.07 as in optax.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). A masked example is no negative either.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]). The loss of an example is
            the sum over its pairs, and the mean, the default as in optax, is that over
            all pairs.

    Returns:
        A scalar; `[N]`, at least 0, for the reduction "none".

    Gradient:
        Each pair's softmax of the positive against the negatives, less one at the
        positive, through the cosines to `embeddings`, and to `temperature`. A zero
        vector has gradient 0.

    Numerics:
        Computes in float32, or float64 if the embeddings are float64, the products in
        full precision on every backend; memory is less than that of one `[N, N]`
        matrix, which is never built whole. A pair is a softplus, so that a small loss
        keeps its digits. Without a pair the mean is 0 with a zero gradient.

    Raises:
        TypeError: If `embeddings` is not floating, `labels` is not integer, or `where`
            not boolean.
        ValueError: If an input does not fit the shapes above, `temperature` is not
            positive, or `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> embeddings = [[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]]
        >>> print(jl.ntxent(embeddings, [0, 0, 1, 1], 0.5))
        0.23954

    References:
        Ting Chen et al., "A Simple Framework for Contrastive Learning of Visual
        Representations", ICML 2020, https://arxiv.org/abs/2002.05709, equation 1
    """
    checks.check_number("temperature", temperature, minimum=0, open_minimum=True)
    batch, weights = _examples(embeddings, labels, where, weights, reduction)
    temperature = checks.scalar("temperature", temperature, batch.x.dtype)
    floor = jnp.finfo(batch.x.dtype).eps  # of the squared norm, as optax's
    u, _ = _direction(batch.x, jnp.asarray(floor, batch.x.dtype), (1,))

    def against_all(rows, columns):
        same, other = _pairs(rows, columns)
        scores = _products(rows.x, columns.x) / temperature
        loss = _contrast(scores, same, other, axis=1)
        return loss, jnp.sum(same, axis=1, dtype=scores.dtype)

    loss, pairs = _by_rows(against_all, batch._replace(x=u))
    return reduce_loss(loss, batch.keep, weights, reduction, pairs)


# A pair's -log(e^{s_ij} / (e^{s_ij} + Σ_k e^{s_ik})), k over the negatives of i, is a
# softplus: with a_i = log Σ_k e^{s_ik} and h_ij = sigmoid(a_i - s_ij),
#     loss_i = Σ_j softplus(a_i - s_ij),
#     d loss_i / d s_ij = -h_ij at its positives j,
#     d loss_i / d s_ik = (Σ_j h_ij) e^{s_ik - a_i} at its negatives k.
# The rule writes the gradient in one pass over the scores, where plain differentiation
# keeps five arrays of their size.
def _contrast_forward(scores, same, other, *, axis):
    against = _log_total(scores, other, axis)
    loss = jnp.sum(jnp.where(same, softplus(against - scores), 0), axis=axis)
    return loss, (scores, same, other, against)


def _contrast_backward(residuals, cotangent, *, axis):
    scores, same, other, against = residuals
    miss = jnp.where(same, sigmoid(against - scores), 0)
    cotangent = jnp.expand_dims(cotangent, axis)
    push = cotangent * jnp.sum(miss, axis=axis, keepdims=True)
    share = jnp.exp(jnp.where(other, scores - against, 0))
    return jnp.where(other, push * share, -cotangent * miss), None, None


_contrast = analytic(_contrast_forward, _contrast_backward)


def circle_loss(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    gamma: ArrayLike = 80.0,
    margin: ArrayLike = 0.4,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the circle loss of each example against the rest of its batch.

    Choose it over `ntxent` where pairs far from their goal should pull harder than
    those near it.

    With $d_{ij} = \max(0, 1 - \langle x_i, x_j \rangle)$, $P(i)$ the other examples of
    the same label, $N(i)$ those of another, $m$ the margin and $\gamma$ gamma:

    $$ \log\Big(1 + \sum_{j \in P(i)} e^{\gamma (m + d_{ij}) (d_{ij} - m)}
       \sum_{k \in N(i)} e^{\gamma \max(0, 1 + m - d_{ik}) (1 - m - d_{ik})}\Big) $$

    Args:
        embeddings: Floating, `[N, D]`, of unit length: they are not normalized here, as
            in Keras.
        labels: Integer, `[N]`, equal for examples that belong together.
        gamma: A scalar, the scale of the exponents. 80.0 as in Keras.
        margin: A scalar, the relaxation of the goals. 0.4 as in Keras.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). A masked example is in no pair either.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[N]`, at least 0; a scalar if reduced.

    Gradient:
        That of the two softmaxes over the pairs, times the sigmoid of the loss's
        exponent, for `embeddings`, `gamma` and `margin`; the weights in the exponents
        are differentiated too, as in Keras.

    Numerics:
        Computes in float32, or float64 if the embeddings are float64, the products in
        full precision on every backend; memory is less than that of one `[N, N]`
        matrix, which is never built whole. An example without a positive or without a
        negative has loss 0 with a zero gradient. An empty or fully masked input has sum
        and mean 0.

    Raises:
        TypeError: If `embeddings` is not floating, `labels` is not integer, or `where`
            not boolean.
        ValueError: If an input does not fit the shapes above or `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> embeddings = [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]
        >>> print(jl.circle_loss(embeddings, [0, 0, 1], gamma=1.0))
        [0.6163 0.9617 0.    ]

    References:
        Yifan Sun et al., "Circle Loss: A Unified Perspective of Pair Similarity
        Optimization", CVPR 2020, https://arxiv.org/abs/2002.10857, equation 6
    """
    batch, weights = _examples(embeddings, labels, where, weights, reduction)
    gamma = checks.scalar("gamma", gamma, batch.x.dtype)
    margin = checks.scalar("margin", margin, batch.x.dtype)

    def against_all(rows, columns):
        shared = (checks.broadcast_to(v, rows.label) for v in (gamma, margin))
        scores = _products(rows.x, columns.x)
        return _circle(scores, *_pairs(rows, columns), *shared, axis=1)

    loss = _by_rows(against_all, batch)
    return reduce_loss(loss, batch.keep, weights, reduction)


# With e_ij what a pair lacks to its goal, 1 - s_ij and at least 0 for one of the same
# label and s_ij and at most 1 for one of different labels, both kinds have the exponent
#     f_ij = γ max(0, m + e_ij) (e_ij - m) = γ (e_ij² - m²) or 0,
# and with A_i and B_i the logarithms of their sums of e^f and h_i = sigmoid(A_i + B_i),
#     loss_i = softplus(A_i + B_i),
#     d loss_i / d f_ij = h_i e^{f_ij - A_i}, or B_i for A_i,
#     d f / d e = 2 γ e,    d f / d γ = e² - m²,    d f / d m = -2 γ m.
def _circle_forward(scores, same, other, gamma, margin, *, axis):
    powers, _, _ = _circle_powers(scores, same, gamma, margin, axis)
    positive = _log_total(powers, same, axis)
    negative = _log_total(powers, other, axis)
    lone = jnp.isneginf(positive) | jnp.isneginf(negative)
    total = jnp.where(lone, -jnp.inf, positive + negative)
    residuals = (scores, same, other, gamma, margin, positive, negative, total)
    return softplus(jnp.squeeze(total, axis)), residuals


def _circle_backward(residuals, cotangent, *, axis):
    scores, same, other, gamma, margin, positive, negative, total = residuals
    powers, e, active = _circle_powers(scores, same, gamma, margin, axis)
    level = jnp.where(same, positive, negative)
    share = jnp.exp(jnp.where((same | other) & active, powers - level, -jnp.inf))
    slope = (jnp.expand_dims(cotangent, axis) * sigmoid(total)) * share
    twice = 2 * jnp.expand_dims(gamma, axis)
    to_goal = jnp.where(scores > 1, 0, jnp.where(same, -twice, twice)) * e
    by_gamma = jnp.sum(slope * _excess_square(e, margin, axis), axis=axis)
    by_margin = (-2 * gamma * margin) * jnp.sum(slope, axis=axis)
    return slope * to_goal, None, None, by_gamma, by_margin


def _circle_powers(scores, same, gamma, margin, axis):
    """The exponents, what each pair lacks, and whether it is pulled or pushed."""
    lacks = jnp.where(same, _clamp(1 - scores), jnp.where(scores > 1, 1, scores))
    active = lacks > -jnp.expand_dims(margin, axis)
    e = jnp.where(active, lacks, 0)
    powers = jnp.expand_dims(gamma, axis) * _excess_square(e, margin, axis)
    return jnp.where(active, powers, 0), e, active


def _excess_square(e, margin, axis):
    margin = jnp.expand_dims(margin, axis)
    return (e + margin) * (e - margin)


_circle = analytic(_circle_forward, _circle_backward)


def _log_total(powers, pairs, axis):
    """log Σ exp(powers) over the pairs of each row, -inf without one."""
    top = jnp.max(powers, axis=axis, keepdims=True, initial=-jnp.inf, where=pairs)
    lone = jnp.isneginf(top)
    top = stop_gradient(jnp.where(lone, 0, top))
    parts = jnp.exp(jnp.where(pairs, powers - top, -jnp.inf))
    total = jnp.sum(parts, axis=axis, keepdims=True)
    return jnp.where(lone, -jnp.inf, top + jnp.log(jnp.where(lone, 1, total)))


class _Examples(NamedTuple):
    """Some examples of a batch."""

    x: jax.Array  # [N, D]
    label: jax.Array  # [N]
    keep: jax.Array | None  # [N]
    index: jax.Array  # [N], in the batch


def _examples(embeddings, labels, where, weights, reduction):
    """The batch and its weights, checked."""
    (x,) = checks.real_arrays(embeddings=embeddings)
    if x.ndim != 2:
        raise ValueError(f"`embeddings` must have shape [N, D], got shape {x.shape}.")
    labels = checks.integer_array("labels", labels)
    if labels.shape != x.shape[:1]:
        raise ValueError(
            f"`labels` must have one label an example, shape {x.shape[:1]}, "
            f"got shape {labels.shape}."
        )
    keep, weights = checks.tail(
        where, weights, reduction, shape=labels.shape, dtype=x.dtype
    )
    if keep is not None:
        keep = jnp.broadcast_to(keep, labels.shape)
        (x,) = select(jnp.expand_dims(keep, 1), x)
    return _Examples(x, labels, keep, jnp.arange(len(labels))), weights


def _pairs(rows, columns):
    """Which pairs are of the same and of different labels; a masked one is neither."""

    def each(relation, a, b):
        return relation(jnp.expand_dims(a, 1), jnp.expand_dims(b, 0))

    same = each(jnp.equal, rows.label, columns.label)
    other = ~same
    same = same & each(jnp.not_equal, rows.index, columns.index)
    if rows.keep is None:
        return same, other
    both = each(jnp.logical_and, rows.keep, columns.keep)
    return same & both, other & both


def _products(x, y):
    """All inner products, in the precision of the arguments on every backend."""
    return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


# With the scores of all pairs at once XLA on CPU writes three [N, N] arrays for either
# loss, one for each sum over the columns that reads more than a matrix.
_BLOCKS, _LEAST_ROWS = 8, 64


def _by_rows(loss, batch):
    """loss(rows, columns) of every example against the batch, by blocks of rows.

    No [N, N] matrix is there at any time, but an eighth: each block's scores go before
    the next one's come, and the gradient computes them again, which makes four products
    of matrices out of three.
    """
    # On an explicit mesh each device has its own rows, and all columns.
    columns = jax.tree.map(lambda a: whole(a, 0), batch)
    each = jax.checkpoint(lambda rows: loss(rows, columns), prevent_cse=False)
    n = len(batch.label)
    count = min(n // _LEAST_ROWS, _BLOCKS)
    if count < 2 or is_split(batch.x, 0):
        return each(batch)

    def split(a):
        # A block is every count-th row: of rows spread over devices, some of each.
        rows = a[: n - n % count].reshape(-1, count, *a.shape[1:])
        return rows.swapaxes(0, 1)

    def joined(blocks, rest):
        return jnp.concatenate([blocks.swapaxes(0, 1).reshape(-1), rest])

    blocks = jax.lax.map(each, jax.tree.map(split, batch))
    rest = each(jax.tree.map(lambda a: a[n - n % count :], batch))
    return jax.tree.map(joined, blocks, rest)


def _clamp(x):
    """max(x, 0), with derivative 1 at 0 as PyTorch's clamp."""
    return jnp.where(x < 0, 0, x)


def _per_example(name, value, batch, dtype):
    """A real argument with one value an example, broadcast to them."""
    array = checks.to_array(name, value).astype(dtype)
    checks.check_broadcast(name, array.shape, "the per-example loss", batch)
    return jnp.broadcast_to(array, batch)

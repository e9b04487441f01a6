"""The energy score: the ranked probability score of an ensemble of vectors."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import Interval, between
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.compilers import in_pieces
from jaxloss._core.devices import broadcast_to, whole
from jaxloss._core.numerics.exact import scale_of, squarable
from jaxloss._core.rule.analytic import pointwise
from jaxloss.forecast._inputs import check_fairness, per_example, valid_fairness


@public(
    static=("fairness",),
    fairness=between(0, 1),
    power=Interval(0, 2, open_minimum=True),
)
def energy_score_loss(
    members: ArrayLike,
    targets: ArrayLike,
    *,
    member_axis: int = -2,
    axis: int = -1,
    power: ArrayLike = 1.0,
    fairness: ArrayLike = 1.0,
    chunk_size: int | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Energy score of an ensemble of vectors, which judges their dependence too.

    Choose it over `crps_ensemble_loss` where several values are forecast together, such
    as a path in time, and the members have to fit together in all of them.

    With $x_1, \dots, x_M$ the members, $y$ the target, $f$ the fairness, $p$ the power:

    $$ \frac{1}{M} \sum_i \lVert x_i - y \rVert^p - \Big( \frac{1 - f}{2 M^2} +
       \frac{f}{2 M (M - 1)} \Big) \sum_{i, j} \lVert x_i - x_j \rVert^p $$

    Args:
        members: Floating, `[..., M, D]` with the members along `member_axis` and the
            components along `axis`, all in one unit.
        targets: Real, in the same unit, broadcastable to the shape of `members` without
            the members' axis, `[..., D]`.
        member_axis: The axis of the members.
        axis: The axis of the components of `members`.
        power: In (0, 2], broadcastable to `[...]`. Below 2 the expected loss is least
            for the distribution of the target alone, at 2 for any with its mean.
        fairness: In [0, 1], broadcastable to `[...]`, as in `crps_ensemble_loss`. A
            Python number is a constant of the compiled program.
        chunk_size: How many members are compared with all members at once: memory grows
            with it, and time may shrink. None chooses.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in the unit of the members to the power; a scalar if reduced.

    Gradient:
        That of the formula, where $\lVert d \rVert^p$ has the gradient
        $p \lVert d \rVert^{p - 2} d$ in $d$ and $\lVert d \rVert^p \log \lVert d
        \rVert$ in $p$, both 0 where $d$ is 0. Also for `fairness`.

    Numerics:
        The pairs come in blocks of `chunk_size` times M per example, which make value
        and slopes at once. A traced power outside (0, 2] or fairness outside [0, 1],
        above 0 for one member, gives NaN and raises under `checkify`. An infinite
        member can give NaN too, and so can finite ones if the sum over all pairs of
        their distances to the power overflows.

    Raises:
        ValueError: If `fairness` or `power` is outside its range, the fairness of one
            member is above 0, or `chunk_size` is below 1.

    Example:
        >>> import jaxloss as jl
        >>> members = [[[0.0, 0.0], [3.0, 4.0], [0.0, 4.0]]]
        >>> [f"{x:.4f}" for x in jl.energy_score_loss(members, [[0.0, 1.0]])]
        ['0.7475']

    References:
        Tilmann Gneiting and Adrian E. Raftery, "Strictly Proper Scoring Rules,
        Prediction, and Estimation", 2007,
        https://doi.org/10.1198/016214506000001437, equation 22
    """
    x, y = _arrays(members, targets, member_axis, axis)
    count = x.shape[-2]
    check_fairness(fairness, count)
    _check_chunk_size(chunk_size)
    like = x[..., 0, 0]
    p = per_example("power", power, like)
    f = per_example("fairness", fairness, like)
    tail = checks.tail(where, weights, reduction, shape=like.shape, dtype=x.dtype)
    (x,) = tail.select(x, axes=(-2, -1))
    (y,) = tail.select(y, axes=-1)
    p, f = tail.select(p, f)
    holds = (p > 0) & (p <= 2)
    p = checks.check_values("power", p, tail.counts(holds), "in (0, 2]")
    p, f = jnp.where(holds, p, jnp.nan), valid_fairness(f, count, tail)
    each = broadcast_to(jnp.expand_dims(p, -1), x[..., 0])
    error = jnp.sum(_distance(each, x - jnp.expand_dims(y, -2)), axis=-1) / count
    constant = float(power) if isinstance(power, int | float) else None
    pairs = _sum_over_pairs(p, x, power=constant, chunk_size=chunk_size)
    fair = 1 / (count * (count - 1)) if count != 1 else 0
    share = (1 - f) / (count * count) + f * fair
    # The distance of equal points is 0 for every power.
    loss = jnp.where(jnp.isnan(p), jnp.nan, error - 0.5 * share * pairs)
    return tail.reduce(loss)


def _arrays(members, targets, member_axis, axis):
    """Members `[..., M, D]` and targets `[..., D]`, checked."""
    x, (axis,) = checks.class_array("members", members, (axis,), "component")
    member_axis = checks.canonical_axis("member_axis", member_axis, x.ndim)
    if member_axis == axis:
        raise ValueError(
            f"`member_axis` must differ from axis, got {member_axis} for both."
        )
    if x.shape[member_axis] == 0:
        raise ValueError(
            f"`members` must have at least one member, got shape {x.shape}."
        )
    y = checks.to_array("targets", targets)
    dtype = checks.compute_dtype(x, y)
    x, y = x.astype(dtype), y.astype(dtype)
    alike = jax.lax.index_in_dim(x, 0, member_axis, keepdims=False)
    checks.check_broadcast(
        "targets", y.shape, "members without their axis", alike.shape
    )
    y = broadcast_to(y, alike)
    x = jnp.moveaxis(x, (member_axis, axis), (-2, -1))
    y = jnp.moveaxis(y, axis - (member_axis < axis), -1)
    return whole(whole(x, -2), -1), whole(y, -1)


# Norms of a vector divided by a number near its largest component neither over- nor
# underflow. With r = |d|,
#     d(r^p)/dd = p r^(p-1) d/r,     d(r^p)/dp = r^p log r,
# 0 where d is 0.
def _power_of_norm(p, d):
    """|d|^p over the last axis, and its slopes in p and in d."""
    largest = stop_gradient(jnp.max(jnp.abs(d), axis=-1))
    scale = scale_of(largest)
    u = squarable(d, broadcast_to(jnp.expand_dims(1 / scale, -1), d))
    square = jnp.sum(u * u, axis=-1)
    zero = square == 0
    length = jnp.sqrt(jnp.where(zero, 1, square))
    norm = length * jnp.where(zero, 1, scale)
    norm = jnp.where(jnp.isinf(largest), jnp.inf, norm)
    value = jnp.where(zero, 0, norm**p)
    slope = jnp.where(zero, 0, p * norm ** (p - 1) / length)
    return value, (value * jnp.log(norm), jnp.expand_dims(slope, -1) * u)


_distance = pointwise(_power_of_norm)


# The pairs (i, j) and (j, i) have one distance and opposite slopes, so that with
# d_ij = x_i - x_j
#     d/dx_i Σ_ij |d_ij|^p = 2 Σ_j ∂|d_ij|^p/∂d_ij.
# The blocks that sum the distances sum these slopes as well: one sweep in all.
#
# The engine of `sweeps/pairs.py` does not serve here. Its blocks, tangents and slopes
# are products of matrices, so that it never holds N N D numbers; |x_i|² + |x_j|² - 2
# x_i·x_j, and Σ_j w_ij x_i - Σ_j w_ij x_j in the slope, would cancel for members that
# are close to each other.
@pointwise
def _sum_over_pairs(p, x, *, power, chunk_size):
    """Σ_ij |x_i - x_j|^p, with `power` for p where the program has it as a constant."""
    *_, count, size = x.shape

    def of_examples(p, x):
        return _in_blocks(p[..., 0], x, power, chunk_size)

    column, per_row = jnp.expand_dims(p, -1), count * count * size
    if _known(x) and x.size > _CACHED and 2 * per_row <= _CACHED:
        value, by_power, slope = in_pieces(of_examples, column, x, per_row=per_row)
    else:
        value, by_power, slope = of_examples(column, x)
    return value, (by_power, slope)


def _in_blocks(p, x, power, chunk_size):
    """The sum over the pairs of each example, and its slopes."""
    count, each = x.shape[-2], jnp.expand_dims(p, (-2, -1))

    def block(some, x, each):
        d = jnp.expand_dims(some, -2) - jnp.expand_dims(x, -3)
        each = broadcast_to(each, d[..., 0])
        # In a loop XLA would not see a constant, and find r^1 by a logarithm.
        each = each if power is None else jnp.full_like(each, power)
        value, (by_power, slope) = _power_of_norm(each, d)
        return *(jnp.sum(y, axis=-1) for y in (value, by_power)), jnp.sum(slope, -2)

    def blocks(x, each, *, rows):
        if rows == count:
            return block(x, x, each)
        # A second derivative would otherwise keep the differences of all blocks.
        again = jax.checkpoint(block, prevent_cse=False)
        axis = x.ndim - 2

        # The last block repeats some members, so that all blocks have one size.
        def step(made, index):
            start = jnp.minimum(index * rows, count - rows)
            some = jax.lax.dynamic_slice_in_dim(x, start, rows, axis)
            return jax.tree.map(
                lambda y, part: jax.lax.dynamic_update_slice_in_dim(
                    y, part, start, axis
                ),
                made,
                again(some, x, each),
            ), None

        # Every number is overwritten; an array made of x lies where x lies.
        like = stop_gradient(x)
        made = like[..., 0], like[..., 0], like
        return jax.lax.scan(step, made, jnp.arange(-(-count // rows)))[0]

    cpu, default = (functools.partial(blocks, rows=n) for n in _rows(x, chunk_size))
    value, by_power, slope = jax.lax.platform_dependent(
        x, each, cpu=cpu, default=default
    )
    sums = (jnp.sum(y, axis=-1) for y in (value, by_power))
    return *sums, 2 * slope


_CACHED = 1 << 18  # numbers of 1 MB in float32
_LARGEST = 1 << 22  # numbers that a block may store on TPU and GPU


def _rows(x, chunk_size):
    """How many members a block compares with all others, on CPU and elsewhere.

    XLA for CPU stores the differences of a block, XLA for TPU and GPU only what it sums
    them to, one number per pair. A block of one member takes eight times as long on CPU
    as one of two.
    """
    *_, count, size = x.shape
    if chunk_size is not None:
        rows = chunk_size, chunk_size
    elif not _known(x):
        rows = 1, 1
    else:
        rows = (
            max(_CACHED // max(x.size, 1), 2),
            _LARGEST * max(size, 1) // max(x.size, 1),
        )
    return tuple(max(min(n, count), 1) for n in rows)


def _known(x):
    """Whether no size is symbolic."""
    return all(isinstance(n, int) for n in x.shape)


def _check_chunk_size(chunk_size):
    if chunk_size is not None:
        checks.check_integer("chunk_size", chunk_size)
        if chunk_size < 1:
            raise ValueError(f"`chunk_size` must be at least 1, got {chunk_size}.")

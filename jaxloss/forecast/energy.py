"""The energy score: the ranked probability score of an ensemble of vectors."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import Interval, between
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.compilers.pieces import in_pieces
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
        member can give NaN too. Distances, their powers and their sums may leave the
        range of the dtype; the score is infinite only if it, or the rounding of its
        terms, does.

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
    constant = float(power) if isinstance(power, int | float) else None
    return tail.reduce(_score(p, f, x, y, power=constant, chunk_size=chunk_size))


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


class _Units(NamedTuple):
    """Powers of two per example, 1 unless its largest number is near an overflow.

    The score can be in range where a difference, a distance, its power or a sum of
    these is not: the two terms may cancel, and a mean is less than a sum.
    """

    points: jax.Array  # the points times it have differences in range
    root: jax.Array  # squared, the unit of the distances whose power is summed
    slope: jax.Array  # the unit of the distances in the slopes


# No distance exceeds 2^b. Sums of M powers, times a logarithm, stay in range if
# (2^b / unit)^p is 2^(12 + log2 M) below the largest number; sums of M slopes, each at
# most twice a distance, if M 2^(b + 1) / unit is in range. The units are as small as
# that allows, so that small distances keep their digits.
def _units(p, x, y):
    info = jnp.finfo(x.dtype)
    largest = jnp.maximum(jnp.max(jnp.abs(x), (-2, -1)), jnp.max(jnp.abs(y), -1))
    p, largest = stop_gradient((p, jnp.minimum(largest, float(info.max))))
    terms, size = (math.log2(n) if isinstance(n, int) else 26 for n in x.shape[-2:])
    b = jnp.log2(largest) + (1 + size / 2)
    top = info.maxexp - 2
    root = jnp.ceil(jnp.maximum(b - jnp.minimum((top - 12 - terms) / p, top), 0) / 2)
    slope = jnp.ceil(jnp.maximum(b + (terms + 1) - top, 0))
    # Of some compilers, the power of two is not exact.
    root, slope = (
        jax.lax.reduce_precision(jnp.exp2(k), info.nexp, 0) for k in (root, slope)
    )
    points = jnp.where(largest > float(info.max) / 4, 0.5, jnp.ones_like(largest))
    return _Units(points, root, slope)


# With E = Σ_i |x_i - y|^p / M, A = Σ_ij |x_i - x_j|^p / M² and
# c = ((1 - f) + f M/(M - 1))/2, the score is E - c A. E and A come in the unit u^p for
# u = root², their slopes in x and y in the unit s^(p - 1), and with log s to add to the
# logarithms in the slope in p.
@pointwise
def _score(p, f, x, y, *, power, chunk_size):
    """The score, with `power` for p where the program has it as a constant."""
    *_, count, size = x.shape

    def of_examples(options, x, y):
        # In a loop XLA would not see a constant, and find r^1 by a logarithm.
        p = options[..., 0] if power is None else jnp.full_like(x[..., 0, 0], power)
        return _in_units(p, options[..., 1], x, y, power, chunk_size)

    options, per_row = jnp.stack([p, f], axis=-1), count * count * size
    if _known(x) and x.size > _CACHED and 2 * per_row <= _CACHED:
        value, *slopes = in_pieces(of_examples, options, x, y, per_row=per_row)
    else:
        value, *slopes = of_examples(options, x, y)
    return value, tuple(slopes)


def _in_units(p, f, x, y, power, chunk_size):
    """The score of each example, and its slopes in p, f, x and y."""
    count, units = x.shape[-2], _units(p, x, y)
    inverses = [1 / (unit * units.points) for unit in (units.root**2, units.slope)]
    columns = jnp.stack([p, *inverses, units.points], axis=-1)
    d = _difference(x, y[..., None, :], units.points)
    each, *inverses = (_expand(z, x[..., 0]) for z in (p, *inverses))
    error, error_by_p, error_slope = _power_of_norm(each, inverses, d)
    error, error_by_p = (jnp.sum(z, axis=-1) / count for z in (error, error_by_p))
    pairs, pairs_by_p, pairs_slope = _in_blocks(columns, x, power, chunk_size)
    c = 0.5 * ((1 - f) + (f * (count / (count - 1)) if count != 1 else 0 * f))
    value = error - c * pairs
    by_p = error_by_p - c * pairs_by_p + jnp.log(units.slope) * value
    by_f = pairs * (-0.5 / (count - 1)) if count != 1 else 0 * pairs
    again = units.slope ** (p - 1)
    error_slope = error_slope / count
    by_x = (error_slope - _expand(c, x) * pairs_slope) * _expand(again, x)
    by_y = -jnp.sum(error_slope, axis=-2) * _expand(again, y)
    half = units.root**p
    value, by_p, by_f = (z * half * half for z in (value, by_p, by_f))
    return value, by_p, by_f, by_x, by_y


def _difference(a, b, unit):
    """The difference of points times their unit.

    The points are spread out before they are multiplied: XLA for GPU would store the
    product, an array of the members' size.
    """
    like = a - b
    unit = _expand(unit, like)
    return broadcast_to(a, like) * unit - broadcast_to(b, like) * unit


def _expand(each, like):
    """One number per example, in the shape of `like`."""
    return broadcast_to(jnp.expand_dims(each, tuple(range(each.ndim, like.ndim))), like)


# Norms of a vector divided by a number near its largest component neither over- nor
# underflow. With r = |d|,
#     d(r^p)/dd = p r^(p-1) d/r,     d(r^p)/dp = r^p log r,
# 0 where d is 0. A distance that is tiny in the unit of the slopes is no 0.
def _power_of_norm(p, inverses, d):
    """|d|^p over the last axis, and its slopes in p and in d, in their units.

    `inverses` are those of the units of the distance in the value and in the slopes.
    """
    inverse, slope_inverse = inverses
    largest = stop_gradient(jnp.max(jnp.abs(d), axis=-1))
    scale = scale_of(largest)
    u = squarable(d, broadcast_to(jnp.expand_dims(1 / scale, -1), d))
    square = jnp.sum(u * u, axis=-1)
    zero = square == 0
    length = jnp.sqrt(jnp.where(zero, 1, square))
    scale = jnp.where(zero, 1, scale)
    infinite = jnp.isinf(largest)
    norm = jnp.where(infinite, jnp.inf, length * (scale * inverse))
    other = jnp.where(infinite, jnp.inf, length * (scale * slope_inverse))
    other = jnp.maximum(other, float(jnp.finfo(d.dtype).tiny))
    value = jnp.where(zero, 0, norm**p)
    slope = jnp.where(zero, 0, p * other ** (p - 1) / length)
    return value, value * jnp.log(other), jnp.expand_dims(slope, -1) * u


# The pairs (i, j) and (j, i) have one distance and opposite slopes, so that with
# d_ij = x_i - x_j
#     d/dx_i Σ_ij |d_ij|^p = 2 Σ_j ∂|d_ij|^p/∂d_ij.
# The blocks that sum the distances sum these slopes as well: one sweep in all.
#
# The engine of `sweeps/pairs.py` does not serve here. Its blocks, tangents and slopes
# are products of matrices, so that it never holds N N D numbers; |x_i|² + |x_j|² - 2
# x_i·x_j, and Σ_j w_ij x_i - Σ_j w_ij x_j in the slope, would cancel for members that
# are close to each other: the squared distances of normal numbers around 1,000 have an
# error of 4 % in float32, and some are below 0.
def _in_blocks(columns, x, power, chunk_size):
    """The mean of |x_i - x_j|^p over all pairs, and its slopes in p and in x."""
    count = x.shape[-2]

    def block(some, x, columns):
        d = _difference(some[..., :, None, :], x[..., None, :, :], columns[..., 3])
        p, *inverses = (_expand(columns[..., k], d[..., 0]) for k in range(3))
        p = p if power is None else jnp.full_like(p, power)
        value, by_power, slope = _power_of_norm(p, inverses, d)
        return *(jnp.sum(y, axis=-1) for y in (value, by_power)), jnp.sum(slope, -2)

    def blocks(x, columns, *, rows):
        if rows == count:
            return block(x, x, columns)
        # A second derivative would otherwise keep the differences of all blocks.
        again = jax.checkpoint(block, prevent_cse=False)
        axis = x.ndim - 2

        # The last block repeats some members, so that all blocks have one size. The
        # condition on the index holds: XLA for CPU would take a constant of the loop
        # out of it, spread to the size of the differences.
        def step(made, index):
            start = jnp.minimum(index * rows, count - rows)
            some = jax.lax.dynamic_slice_in_dim(x, start, rows, axis)
            return jax.tree.map(
                lambda y, part: jax.lax.dynamic_update_slice_in_dim(
                    y, part, start, axis
                ),
                made,
                again(some, x, jnp.where(index >= 0, columns, 1)),
            ), None

        # Every number is overwritten; an array made of x lies where x lies.
        like = stop_gradient(x)
        made = like[..., 0], like[..., 0], like
        return jax.lax.scan(step, made, jnp.arange(-(-count // rows)))[0]

    cpu, default = (functools.partial(blocks, rows=n) for n in _rows(x, chunk_size))
    value, by_power, slope = jax.lax.platform_dependent(
        x, columns, cpu=cpu, default=default
    )
    # Divided before they are summed, so that the sum stays in range.
    means = (jnp.sum(y / count, axis=-1) / count for y in (value, by_power))
    return *means, slope * (2 / count) / count


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

"""Two boxes as lengths along each axis, from which areas come without cancellation."""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.tail import Tail
from jaxloss._core.numerics.exact import quotient
from jaxloss._core.rule.analytic import pointwise
from jaxloss._core.rule.linear_map import linear_map

Format = Literal["xyxy", "xywh", "cxcywh"]


class Lengths(NamedTuple):
    """Lengths along one axis, [...], in a unit per example.

    The first box has the width `both + own`, the second one
    `both + other`, and the hull `both + own + other + gap`. All four are at least 0.
    """

    both: jax.Array  # the overlap
    own: jax.Array  # what the first box has beside it
    other: jax.Array  # what the second box has beside it
    gap: jax.Array  # what neither covers
    center: jax.Array  # from the second center to the first
    same: jax.Array  # boolean: the two boxes are equal along this axis


# Along one axis, with the first box from x1 to x2 and the second from y1 to y2, the
# lengths depend on six differences:
#     w = x2 - x1, v = y2 - y1, left = x1 - y1, right = x2 - y2,
#     p = x2 - y1, q = y2 - x1.
# The overlap is max(min(w, v, p, q), 0), and is 0 for an inverted box, w < 0. Where
# there is an overlap, the first box has max(right, 0) + max(-left, 0) beside it. Else
# it has max(w, 0), and the gap is max(-p, 0) + max(-q, 0): between the boxes, or around
# the valid box within the corners of an inverted one. Two inverted boxes have the hull
# max(-w, -v, -p, -q). An overlap of exactly 0 counts as one: its slope opens a box of
# width 0. Where two differences tie, each gets half of the slope, as in PyTorch.
# One array per axis: of arrays of both, XLA for CPU stores the slope of each part.
def lengths(
    boxes: jax.Array, targets: jax.Array, form: Format
) -> tuple[Lengths, Lengths]:
    """The lengths of pairs of boxes, [..., 4], in any unit, along x and along y."""
    units = _units(boxes, targets)
    a, b = (linear_map(_columns, _join, units, x) for x in (boxes, targets))
    return _along(a[::2], b[::2], form), _along(a[1::2], b[1::2], form)


def _columns(units, boxes):
    return [boxes[..., i] * units[0] for i in range(4)]


# Of the columns' own transpose, a sum of padded arrays, or of a concatenation, XLA for
# CPU would compute the four numbers of a box in four branches. A quotient that several
# elements share is stored.
def _join(units, columns):
    first, *others = ((x / units[1])[..., None] for x in columns)
    shape = (*first.shape[:-1], 4)
    index = jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)
    joined = jnp.broadcast_to(first, shape)
    for i, x in enumerate(others, 1):
        joined = jnp.where(index == i, x, joined)
    return joined


def _along(a, b, form) -> Lengths:
    w, v, left, right, p, q, center = _differences(a, b, form)
    least = jnp.minimum(jnp.minimum(w, v), jnp.minimum(p, q))
    overlap = least >= 0
    width, other_width = _positive(w), _positive(v)
    around = _half_positive(-p) + _half_positive(-q)
    around = jnp.where((w < 0) & (v < 0), -least, around)
    beside = _half_positive(right) + _half_positive(-left)
    other_beside = _half_positive(-right) + _half_positive(left)
    return Lengths(
        jnp.where(overlap, least, 0),
        jnp.where(overlap, beside, width),
        jnp.where(overlap, other_beside, other_width),
        jnp.where(overlap, 0, around),
        center,
        (left == 0) & (right == 0),
    )


def _units(boxes, targets):
    """A power of two that keeps differences in range, and its inverse."""
    given = stop_gradient((boxes, targets))
    numbers = [jnp.abs(x[..., i]) for x in given for i in range(4)]
    largest = functools.reduce(jnp.maximum, numbers)
    scale = jnp.where(largest > 2.0**100, 2.0**30, 1)
    scale = jnp.where(largest < 2.0**-60, 2.0**-60, scale).astype(boxes.dtype)
    return 1 / scale, scale


def _differences(a, b, form):
    """w, v, left, right, p, q and the distance of the centers; see above."""
    (a_first, a_last), (b_first, b_last) = a, b
    first = a_first - b_first
    if form == "xyxy":
        right = a_last - b_last
        return (
            a_last - a_first, b_last - b_first, first, right,
            a_last - b_first, b_last - a_first, (first + right) / 2,
        )  # fmt: skip
    w, v = a_last, b_last
    wider = w - v
    if form == "xywh":
        return w, v, first, first + wider, w + first, v - first, first + wider / 2
    mean = (w + v) / 2
    half = wider / 2
    return w, v, first - half, first + half, mean + first, mean - first, first


def _positive(x):
    """max(x, 0) with slope 1 at 0, which opens an empty box."""
    return jnp.where(x >= 0, x, 0)


def _half_positive(x):
    """max(x, 0) with slope 1/2 at 0."""
    return jnp.maximum(x, 0)


class Shapes(NamedTuple):
    """What the losses compare beside areas."""

    distance: jax.Array  # squared distance of centers over the hull's squared diagonal
    sides: tuple[jax.Array, jax.Array]  # the first box's width and height, in a unit
    other_sides: tuple[jax.Array, jax.Array]


def shapes(x: Lengths, y: Lengths) -> Shapes:
    hulls = tuple(z.both + z.own + z.other + z.gap for z in (x, y))
    longer = stop_gradient(jnp.maximum(*hulls))  # the ratios do not depend on it
    longer = jnp.where(longer == 0, 1, longer)
    diagonal = sum((hull / longer) ** 2 for hull in hulls)
    between = sum((z.center / longer) ** 2 for z in (x, y))
    return Shapes(
        quotient(between, jnp.where(diagonal == 0, 1, diagonal)),
        (x.both + x.own, y.both + y.own),
        (x.both + x.other, y.both + y.other),
    )


def missed(x: Lengths, y: Lengths, *, with_empty: bool) -> jax.Array:
    """1 - IoU, `with_empty` plus the share of the hull that neither box covers."""
    return _missed(*x[:4], *y[:4], with_empty=with_empty)


# With the index x or y for the axis, A and B the areas, I that of the intersection and
# U that of the union, C that of the hull, the areas beside the intersection and the
# union, W and R, are sums of terms that are at least 0:
#     A - I = own_x first_y + both_x own_y,     likewise B - I,     W = A - I + B - I,
#     R = C - U = own_x other_y + other_x own_y + gap_x C_y + gap_y (C_x - gap_x).
# So M = 1 - I/U = W/U and E = R/C keep their digits for boxes that nearly agree. Both
# are ratios: the lengths along each axis are divided by the hull's, so that C = 1. In
#     dM = (I dW - W dI)/U²,     dE = U dR - R (dW + dI),
# no term is a difference either.
@pointwise
def _missed(*lengths, with_empty):
    x, y = (_Shares.of(*z) for z in (lengths[:4], lengths[4:]))
    common = x.both * y.both
    beside = x.own * y.first + x.both * y.own
    beside += x.other * y.second + x.both * y.other
    union = common + beside
    none = union == 0
    of_union = jnp.where(none, 0, 1 / jnp.where(none, 1, union))
    # 0/0 is 1 for two empty boxes that differ.
    value, iou = jnp.where(none, 1, beside * of_union), common * of_union
    by_beside, by_common = iou * of_union, value * -of_union
    by_rest = jnp.zeros_like(iou)
    if with_empty:
        rest = x.own * y.other + x.other * y.own
        rest += x.gap + y.gap * (x.first + x.other)
        hull = rest + union
        of_hull = 1 / jnp.where(hull == 0, 1, hull)
        empty, by_rest = rest * of_hull, union * of_hull
        by_beside, by_common = by_beside - empty, by_common - empty
        value += empty
    slopes = []
    for z, o in ((x, y), (y, x)):
        both = by_beside * (o.own + o.other) + by_common * o.both + by_rest * o.gap
        own = by_beside * o.first + by_rest * (o.other + o.gap)
        other = by_beside * o.second + by_rest * (o.own + o.gap)
        slopes += [slope * z.inverse for slope in (both, own, other, by_rest)]
    return value, tuple(slopes)


class _Shares(NamedTuple):
    """Lengths along one axis as shares of the hull's."""

    both: jax.Array
    own: jax.Array
    other: jax.Array
    gap: jax.Array
    first: jax.Array
    second: jax.Array
    inverse: jax.Array  # of the hull's length

    @classmethod
    def of(cls, *lengths):
        hull = functools.reduce(jnp.add, lengths)
        inverse = 1 / jnp.where(hull == 0, 1, hull)
        both, own, other, gap = (z * inverse for z in lengths)
        return cls(both, own, other, gap, both + own, both + other, inverse)


def arguments(
    boxes, targets, form, where, weights, reduction
) -> tuple[Lengths, Lengths, Tail]:
    """The checked boxes as lengths along x and y, and the tail."""
    checks.check_option("format", form, get_args(Format))
    # Before the shapes are compared: that message would say nothing of the 4 numbers.
    for name, value in (("boxes", boxes), ("targets", targets)):
        shape = checks.to_array(name, value).shape
        if shape[-1:] != (4,):
            raise ValueError(
                f"`{name}` must have 4 numbers per box on its last axis, "
                f"got shape {shape}."
            )
    a, b = checks.real_arrays(boxes=boxes, targets=targets)
    tail = checks.tail(where, weights, reduction, shape=a.shape[:-1], dtype=a.dtype)
    a, b = tail.spread(a.shape[:-1]).select(a, b, axes=(a.ndim - 1,))
    return *lengths(a, b, form), tail

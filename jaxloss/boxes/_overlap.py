"""Two boxes as lengths along each axis, from which areas come without cancellation."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.tail import Tail
from jaxloss._core.numerics.exact import quotient, share

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
    unit = _unit(boxes, targets)
    a, b = ([x[..., i] * unit for i in range(4)] for x in (boxes, targets))
    return _along(a[::2], b[::2], form), _along(a[1::2], b[1::2], form)


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


def _unit(boxes, targets):
    """A power of two that keeps differences of coordinates in range."""
    largest = jnp.max(jnp.abs(boxes), axis=-1)
    largest = stop_gradient(jnp.maximum(largest, jnp.max(jnp.abs(targets), axis=-1)))
    unit = jnp.where(largest > 2.0**100, 2.0**-30, 1)
    return jnp.where(largest < 2.0**-60, 2.0**60, unit).astype(boxes.dtype)


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


class Regions(NamedTuple):
    """Areas as shares of the hull, and lengths as shares of its longer side."""

    one_minus_iou: jax.Array
    empty: jax.Array  # the share of the hull that neither box covers
    distance: jax.Array  # squared distance of centers over the hull's squared diagonal
    sides: tuple[jax.Array, jax.Array]  # the first box's width and height, in a unit
    other_sides: tuple[jax.Array, jax.Array]
    same: jax.Array


# With the index x or y for the axis, A and B the areas, I that of the intersection and
# U that of the union, C that of the hull:
#     A - I = own_x (both_y + own_y) + both_x own_y,     likewise B - I,
#     C - U = own_x other_y + other_x own_y + gap_x C_y + gap_y (C_x - gap_x).
# All terms are at least 0, so that 1 - I/U = (A - I + B - I)/U and (C - U)/C keep their
# digits for boxes that nearly agree. Both are ratios, and do not depend on the lengths
# by which each axis is divided: the gradients of those are stopped.
def regions(x: Lengths, y: Lengths) -> Regions:
    hulls = tuple(z.both + z.own + z.other + z.gap for z in (x, y))
    scales = tuple(stop_gradient(jnp.where(hull == 0, 1, hull)) for hull in hulls)
    both, own, other, gap = (
        tuple(part / scale for part, scale in zip(parts, scales, strict=True))
        for parts in zip(x[:4], y[:4], strict=True)
    )
    beside = _area(own, _plus(both, own)) + _area(both, own)
    beside += _area(other, _plus(both, other)) + _area(both, other)
    common = _area(both, both)
    union = common + beside
    covered = _plus(_plus(both, own), other)
    uncovered = _area(own, other) + _area(other, own)
    uncovered += _area(gap, _plus(covered, gap)) + _area(covered, gap)
    # 0/0 is 1 for two empty boxes that differ.
    missed = jnp.where(union == 0, 1, share(beside, common))

    longer = jnp.maximum(*scales)
    diagonal = sum((hull / longer) ** 2 for hull in hulls)
    between = sum((z.center / longer) ** 2 for z in (x, y))
    distance = quotient(between, jnp.where(diagonal == 0, 1, diagonal))
    return Regions(
        missed, share(uncovered, union), distance,
        (x.both + x.own, y.both + y.own), (x.both + x.other, y.both + y.other),
        x.same & y.same,
    )  # fmt: skip


def _plus(a, b):
    return a[0] + b[0], a[1] + b[1]


def _area(x, y):
    """x along the first axis times y along the second."""
    return x[0] * y[1]


def arguments(boxes, targets, form, where, weights, reduction) -> tuple[Regions, Tail]:
    """The checked boxes as regions, and the tail."""
    checks.check_option("format", form, get_args(Format))
    a, b = checks.real_arrays(boxes=boxes, targets=targets)
    for name, shape in (("boxes", a.shape), ("targets", jnp.shape(targets))):
        if shape[-1:] != (4,):
            raise ValueError(
                f"`{name}` must have 4 numbers per box on its last axis, "
                f"got shape {shape}."
            )
    tail = checks.tail(where, weights, reduction, shape=a.shape[:-1], dtype=a.dtype)
    a, b = tail.spread(a.shape[:-1]).select(a, b, axes=(a.ndim - 1,))
    return regions(*lengths(a, b, form)), tail

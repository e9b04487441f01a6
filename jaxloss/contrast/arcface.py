"""Softmax losses with a margin on the angle or the cosine: ArcFace and CosFace."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import PrecisionLike, stop_gradient
from jax.sharding import PartitionSpec

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import above, between
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction, Tail
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.devices import (
    check_shared,
    check_split,
    class_count,
    max_over_devices,
    on_each_device,
    own_index,
    sum_over_devices,
    whole,
)
from jaxloss._core.numerics.exact import scale_of, squarable
from jaxloss._core.numerics.functions import softplus
from jaxloss._core.rule.analytic import pointwise
from jaxloss._core.softmax import is_class
from jaxloss._core.sweeps.blocks import Facts, Operands, Options
from jaxloss._core.sweeps.pairs import spread_over, statistics
from jaxloss.contrast._arguments import Batch, chunk_of, mask_rows
from jaxloss.contrast._losses import reduce_pairs
from jaxloss.contrast._rules import Example, OthersSum, Sum


@public(angular_margin=between(0, math.pi), scale=above(0))
def arcface_loss(
    embeddings: ArrayLike,
    prototypes: ArrayLike,
    labels: ArrayLike,
    *,
    angular_margin: ArrayLike = 0.5,
    cosine_margin: ArrayLike = 0.0,
    scale: ArrayLike = 64.0,
    chunk_size: int | None = None,
    axis_name: str | None = None,
    precision: PrecisionLike = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""ArcFace: cross entropy of cosines, where the label's angle must win by a margin.

    Choose it over `linear_cross_entropy` for embeddings that are compared by angle
    later, such as those of faces. CosFace is `angular_margin=0.0` and
    `cosine_margin=0.35`.

    With $\theta_j$ the angle between the embedding and prototype $j$, $y$ the label,
    $s$ the scale, $m$ the `angular_margin` and $c$ the `cosine_margin`:

    $$ -\log \frac{e^{s t}}{e^{s t} + \sum_{j \ne y} e^{s \cos \theta_j}}, \qquad
       t = \cos(\theta_y + m) - c $$

    Where $\theta_y + m$ is beyond $\pi$, $t$ is $\cos \theta_y - m \sin m - c$, the
    branch of insightface: there the cosine of the sum would rise again, and with this
    the loss goes on growing.

    With a cosine margin also known as CosFace. pytorch-metric-learning: `ArcFaceLoss`,
    `CosFaceLoss`.

    Args:
        embeddings: Floating, `[..., D]`, in any unit: only their directions matter.
        prototypes: Real, `[C, D]`, one direction per class, in any unit.
        labels: Integer, in [0, C), broadcastable to `[...]`.
        angular_margin: Scalar in [0, pi], in radians. 0.5 as in the paper.
        cosine_margin: Scalar subtracted from the label's cosine. 0.0 is ArcFace.
        scale: Scalar above 0 that multiplies the cosines. 64.0 as in the paper.
        chunk_size: The largest number of examples whose cosines exist at once. None
            takes 256.
        axis_name: The mesh axis over which the classes are split, inside
            `jax.shard_map`. Labels are class ids over all devices.
        precision: Of the matrix products, as in `jax.lax.dot`.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, at least 0; a scalar if reduced. The cosine of a zero vector
        is 0.

    Gradient:
        With $p$ the softmax of $s t$ and the other $s \cos \theta_j$, $s (p_y - 1)$ for
        $t$ and $s p_j$ for $\cos \theta_j$. The slope of $t$ along the angle is
        $-\sin(\theta_y + m)$, and $-\sin \theta_y$ beyond $\pi$. It is finite
        everywhere: $t$ has the gradient 0 where an embedding and its label's prototype
        are parallel, since their angle has no direction there, and a zero vector has
        the gradient 0. Also differentiable in the margins and the scale. Integer labels
        have no gradient.

    Numerics:
        Half-precision inputs are normalized and multiplied in float32. The label's
        angle keeps its digits at 0 and at $\pi$. Memory is that of `chunk_size` x C
        cosines and of the gradients. On one device "sum" and "mean" compute the
        gradient together with the value; otherwise the backward pass computes the
        cosines again.

    Example:
        >>> import jaxloss as jl
        >>> embeddings, prototypes = [[1.0, 0.0], [3.0, 4.0]], [[1.0, 0.0], [0.0, 2.0]]
        >>> print(jl.arcface_loss(embeddings, prototypes, [0, 0], scale=4.0))
        [0.02944913 2.6976998 ]

    References:
        Jiankang Deng, Jia Guo, Niannan Xue and Stefanos Zafeiriou, "ArcFace: Additive
        Angular Margin Loss for Deep Face Recognition", CVPR 2019,
        https://arxiv.org/abs/1801.07698, equations 3-4

        Hao Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition",
        CVPR 2018, https://arxiv.org/abs/1801.09414, equation 4
    """
    x, prototypes, labels, batch = _arguments(embeddings, prototypes, labels, axis_name)
    dtype = x.dtype
    tail = checks.tail(where, weights, reduction, shape=batch, dtype=dtype)
    tail = _flat(tail.spread(batch), batch, x.shape[:1])
    labels = labels if tail.keep is None else jnp.where(tail.keep, labels, 0)
    x = mask_rows(x, tail.keep)
    if tail.weights is not None:
        finite = jnp.all(jnp.isfinite(x), axis=1)
        x = mask_rows(x, finite | (tail.weights != 0))
    classes = class_count(prototypes, (0,), axis_name)
    valid = is_class(prototypes, labels, 0, axis_name)
    x = checks.check_values("labels", x, tail.counts(valid), f"in [0, {classes})")
    shared = tuple(
        checks.scalar(name, value, dtype)
        for name, value in (
            ("angular_margin", angular_margin),
            ("cosine_margin", cosine_margin),
            ("scale", scale),
        )
    )
    options = Options(chunk_of(chunk_size), precision, axis_name=axis_name)
    arrays = _Arrays(x, prototypes, labels, shared)
    loss = _losses(arrays, tail, options)
    return loss.reshape(batch) if reduction == "none" else loss


class _Arrays(NamedTuple):
    """The arrays of a call, or where they lie."""

    embeddings: Any  # [N, D]
    prototypes: Any  # [C, D]
    labels: Any  # [N]
    shared: tuple[Any, ...]  # angular margin, cosine margin, scale


def _losses(arrays, tail, options):
    """The losses, weighted and reduced."""
    spread = spread_over(arrays.embeddings, arrays.prototypes)
    if spread is None and options.axis_name is None:
        u, v, labels, own, valid = _prepared(arrays, None)
        keep = jnp.ones_like(valid) if tail.keep is None else tail.keep
        batch = Batch(
            u, v, Example(labels, keep), Example(_classes(v)), None,
            tail, u.dtype, options,
        )  # fmt: skip

        def loss(found, own):
            t, valid = own
            return _loss(found, t, valid > 0), jnp.ones_like(t)

        own = own, stop_gradient(valid.astype(own.dtype))
        return reduce_pairs(OthersSum(), loss, batch, arrays.shared[2], own=own)
    if options.axis_name is not None:
        return tail.reduce(_per_example(arrays, options))

    # On an explicit mesh each device has its own examples and all prototypes.
    axis = spread_over(arrays.embeddings)
    by_example, everywhere = PartitionSpec(axis), PartitionSpec()
    specs = _Arrays(by_example, everywhere, by_example, (everywhere,) * 3)

    def local(arrays):
        return _per_example(arrays, options)

    return tail.reduce(on_each_device(local, (arrays,), (specs,), by_example))


def _per_example(arrays, options):
    """The losses of all examples, by statistics of the classes of each device."""
    axis_name = options.axis_name
    u, v, labels, own, valid = _prepared(arrays, axis_name)
    facts = Facts(Example(labels, jnp.ones_like(valid)), Example(_classes(v)))
    operands = Operands(u, v, arrays.shared[2])
    local = dataclasses.replace(options, axis_name=None)
    found, _ = statistics(OthersSum(), operands, facts, local)
    if axis_name is not None:
        found = _over_devices(found, axis_name)
    return _loss(found, own, valid)


def _over_devices(found, axis_name):
    """The log-sum-exp over the classes of all devices."""
    top = max_over_devices(stop_gradient(found.top), axis_name)
    empty = jnp.isneginf(top)  # the label's class is the only one
    behind = found.top - jnp.where(empty, 0, top)
    total = sum_over_devices(jnp.exp(behind + found.excess), axis_name)
    return Sum(top, jnp.log(jnp.where(empty, 1, total)))


def _classes(prototypes):
    return jnp.arange(prototypes.shape[0], dtype=jnp.int32)


def _loss(found, own, valid):
    """The loss, given the log-sum-exp of the other classes; NaN without a label."""
    loss = softplus((found.top - own) + found.excess)
    return jnp.where(valid, loss, jnp.nan)


def _prepared(arrays, axis_name):
    """Unit vectors, labels by this device's classes, and the label's logit."""
    x, prototypes, labels, (angular_margin, cosine_margin, scale) = arrays
    u, v = _unit(x), _unit(prototypes)
    valid = is_class(prototypes, labels, 0, axis_name)
    index = own_index(labels, prototypes, 0, axis_name)
    here = is_class(prototypes, index, 0)
    own = v.at[jnp.clip(index, 0, v.shape[0] - 1)].get(mode="promise_in_bounds")
    own = jnp.where(here[:, None], own, 0)
    own = sum_over_devices(own, axis_name)
    cosine = _cosine_with_margin(u, own, jnp.broadcast_to(angular_margin, u.shape[:1]))
    return u, v, index, scale * (cosine - cosine_margin), valid


# With θ the angle between the unit vectors u and v, θ = 2 atan2(|u - v|, |u + v|) to
# full accuracy at 0 and at π, where an arccosine has no digits and an infinite slope.
# dθ/du is -(v - cos θ u) / sin θ, the unit tangent at u away from v, so that
#     d cos(θ + m) / du = sin(θ + m) (v - cos θ u) / sin θ.
# The quotient has length 1 wherever θ has a direction, and is 0 where u and v are
# parallel. Near 0, v - cos θ u = (v - u) + (1 - cos θ) u keeps the digits; near π it is
# (v + u) - (1 + cos θ) u.
@pointwise
def _cosine_with_margin(u, v, margin):
    less, more = (jnp.sqrt(jnp.sum(jnp.square(w), axis=1)) for w in (u - v, u + v))
    angle = 2 * jnp.arctan2(less, more)
    beyond = angle + margin > math.pi
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    value = jnp.where(
        beyond, cosine - margin * jnp.sin(margin), jnp.cos(angle + margin)
    )
    slope = jnp.where(beyond, sine, jnp.sin(angle + margin))
    by_margin = jnp.where(beyond, -jnp.sin(margin) - margin * jnp.cos(margin), -slope)
    away = [slope[:, None] * _tangent(*pair, less, more) for pair in ((u, v), (v, u))]
    return value, (*away, by_margin)


def _tangent(u, v, less, more):
    """The unit vector at u towards v along the sphere; 0 where they are parallel."""
    near = (less < more)[:, None]
    side = jnp.where(near, v - u, v + u)
    toward = side + jnp.where(near, 1, -1) * _half_square(jnp.minimum(less, more)) * u
    return _unit(toward)


def _half_square(length):
    return (jnp.square(length) / 2)[:, None]


def _unit(x):
    """Each row over its length; a zero row stays 0, with a zero gradient."""
    largest = stop_gradient(jnp.max(jnp.abs(x), axis=1, keepdims=True, initial=0))
    zero = largest == 0
    inverse = jnp.broadcast_to(1 / scale_of(largest), x.shape)
    small = squarable(x, inverse)
    square = jnp.sum(small * small, axis=1, keepdims=True)
    return jnp.where(zero, 0, small / jnp.sqrt(jnp.where(zero, 1, square)))


def _arguments(embeddings, prototypes, labels, axis_name):
    """Embeddings [N, D], prototypes [C, D], labels [N], and the batch shape."""
    x, _ = checks.class_array("embeddings", embeddings, -1, "feature")
    prototypes = checks.to_array("prototypes", prototypes)
    features = x.shape[-1]
    if prototypes.ndim != 2 or prototypes.shape[1] != features:
        turned = prototypes.ndim == 2 and prototypes.shape[0] == features
        end = "; for a kernel [D, C] pass `prototypes.T`." if turned else "."
        raise ValueError(
            f"`prototypes` must have the shape (classes, features) with the {features} "
            f"features of `embeddings`, got shape {prototypes.shape}{end}"
        )
    if prototypes.shape[0] == 0:
        raise ValueError(
            f"`prototypes` must have at least one class, got {prototypes.shape}."
        )
    labels = checks.integer_array("labels", labels)
    batch = x.shape[:-1]
    checks.check_broadcast(
        "labels", labels.shape, "embeddings without its feature axis", batch
    )
    check_split("prototypes", prototypes, axis_name)
    check_shared("embeddings", x, axis_name)
    check_shared("labels", labels, axis_name)
    dtype = checks.compute_dtype(x, prototypes)
    n = math.prod(batch)
    if labels.dtype.itemsize < 4:  # so that it can hold the number of classes
        labels = labels.astype(jnp.int32)
    labels = jnp.broadcast_to(labels, batch).reshape(n)
    x = x.astype(dtype).reshape(n, features)
    return whole(x, 1), whole(prototypes.astype(dtype), 1), labels, batch


def _flat(tail: Tail, batch, shape):
    """The tail of losses with one batch axis."""
    keep, weights = tail.keep, tail.weights
    if keep is not None:
        keep = keep.reshape(shape)
    if weights is not None:
        weights = jnp.broadcast_to(weights, batch).reshape(shape)
    return Tail(keep, weights, tail.reduction)

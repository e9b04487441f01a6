"""The transducer on top of its joint network, without the logits of all nodes."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.classes import per_class
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.devices import (
    check_shared,
    check_split,
    class_count,
    sum_over_devices,
)
from jaxloss._core.numerics import scaled
from jaxloss._core.numerics.exact import difference_from_own
from jaxloss._core.rule.analytic import analytic
from jaxloss._core.softmax import at_label, maximum, surprisal
from jaxloss._core.sweeps.operands import default_rows
from jaxloss.sequence._inputs import lattice, positions, reached
from jaxloss.sequence._lattice import (
    Nodes,
    is_possible,
    passing,
    path_counts,
    path_loss,
)


@public()
def linear_transducer_loss(
    encodings: ArrayLike,
    predictions: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    logit_paddings: ArrayLike,
    label_paddings: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh,
    blank_id: int = 0,
    class_axis: int = -1,
    chunk_size: int | None = None,
    axis_name: str | None = None,
    precision: Any = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Transducer loss of a joint network, without storing the logits of all nodes.

    Choose it over `transducer_loss` where the logits of all frames and label positions
    do not fit in memory, or take most of it: it makes those of a few frames at a time.

    With $f_t$ the encodings, $g_u$ the predictions, $\phi$ the activation, $K$ the
    kernel and $b$ the bias, it is `transducer_loss` of the logits

    $$ x_{tu} = \phi(f_t + g_u) K + b $$

    Args:
        encodings: Floating, `[..., T, D]`, the features of each frame.
        predictions: Real, `[..., U + 1, D]`, the features after each number of labels
            emitted.
        kernel: Real, `[D, V]`, or with `class_axis=0` `[V, D]`.
        labels: Integer, in [0, V), broadcastable to `[..., U]`.
        logit_paddings: 1 for padded frames, 0 for the others, broadcastable to
            `[..., T]`. Padded frames are skipped wherever they are.
        label_paddings: 1 for padded labels, 0 for the others, broadcastable to
            `[..., U]`, as in `transducer_loss`.
        bias: Real, `[V]`; None means 0. A bias of -inf excludes a class.
        activation: Differentiable JAX function, elementwise; computed in float32.
        blank_id: Python int in [0, V), the class that stands for no label.
        class_axis: The axis of `kernel` that the classes are on: -1 or 0.
        chunk_size: How many nodes have their logits in memory at a time, rounded to
            whole frames of the batch, at least one. None chooses by the features.
        axis_name: The mesh axis of `jax.shard_map` over which the classes are split.
        precision: `jax.lax.Precision` of the product with the kernel, as in `jnp.dot`.
        where: Boolean mask; False entries are excluded. An example is a sequence.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats; a scalar if reduced. As from `transducer_loss`.

    Gradient:
        That of `transducer_loss` for the logits, and from there through the joint
        network to `encodings`, `predictions`, `kernel`, `bias` and whatever else
        `activation` depends on. The backward pass computes the logits again, a chunk at
        a time. None for the paddings and `labels`.

    Numerics:
        As in `transducer_loss`. Memory is that of a few numbers per node and of the
        logits of one chunk.

    Raises:
        TypeError: If `activation` is not callable.
        ValueError: If `activation` changes the shape of its argument.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss as jl
        >>> encodings, predictions = jnp.zeros((1, 2, 3)), jnp.zeros((1, 2, 3))
        >>> kernel, labels = jnp.ones((3, 2)), jnp.array([[1]])
        >>> loss = jl.linear_transducer_loss(
        ...     encodings, predictions, kernel, labels, [[0, 0]], [[0]]
        ... )
        >>> print(jnp.exp(-loss))  # two paths of three steps, 2/8
        [0.25]

    References:
        Alex Graves, "Sequence Transduction with Recurrent Neural Networks", 2012,
        https://arxiv.org/abs/1211.3711, section 2

        Alex Graves, Abdel-rahman Mohamed and Geoffrey Hinton, "Speech Recognition with
        Deep Recurrent Neural Networks", 2013, https://arxiv.org/abs/1303.5778
    """
    f, g, kernel, contracted, dtype = _operands(
        encodings, predictions, kernel, class_axis, activation, axis_name
    )
    batch = f.shape[:-2]
    classes = class_count(kernel, (1 - contracted,), axis_name)
    if bias is not None:
        bias = per_class("bias", bias, kernel, (1 - contracted,), dtype).reshape(-1)
    tail = checks.tail(where, weights, reduction, shape=batch, dtype=dtype)
    shape = (*f.shape[:-1], g.shape[-2])
    given = lattice(
        "predictions", shape, classes, tail.spread(batch),
        logit_paddings, labels, label_paddings, blank_id,
    )  # fmt: skip
    ways, frames, lengths = given.ways, given.frames, given.lengths
    f = _only(f, frames, given.tail)
    used = jnp.any(frames, axis=-1)[..., None] & (positions(ways) <= lengths[..., None])
    g = _only(g, used, given.tail)
    settings = _Settings(activation, contracted, given.blank, axis_name, precision)
    step = _frames_at_a_time(chunk_size, f.shape, g.shape[-2])
    by_blank, by_label, leak = _surprisals(f, g, kernel, bias, ways, settings, step)
    loss = _paths(by_blank, by_label, leak, ways, frames, lengths, blank=given.blank)
    return given.tail.reduce(jnp.where(given.valid, loss, jnp.nan))


class _Settings(NamedTuple):
    """What makes logits of encodings and predictions."""

    activation: Callable[[jax.Array], jax.Array]
    contracted: int  # the feature axis of the kernel
    blank: int
    axis_name: str | None
    precision: Any


def _operands(encodings, predictions, kernel, class_axis, activation, axis_name):
    """The checked arrays, the kernel's feature axis, and the dtype of the loss."""
    f, _ = checks.class_array("encodings", encodings, -1, "feature")
    g = checks.to_array("predictions", predictions)
    kernel = checks.to_array("kernel", kernel)
    for name, x in (("encodings", f), ("predictions", g)):
        if x.ndim < 2:
            raise ValueError(
                f"`{name}` must have at least two axes, the last one of features, got "
                f"shape {x.shape}."
            )
    features = f.shape[-1]
    batch = (*f.shape[:-2], g.shape[-2], features)
    checks.check_broadcast("predictions", g.shape, "the encodings' batch", batch)
    if g.shape[-1] != features:
        raise ValueError(
            f"`predictions` must have the {features} features of `encodings`, "
            f"got shape {g.shape}."
        )
    if kernel.ndim != 2:
        raise ValueError(f"`kernel` must have two axes, got shape {kernel.shape}.")
    contracted = 1 - checks.canonical_axis("class_axis", class_axis, 2)
    if kernel.shape[contracted] != features:
        raise ValueError(
            f"`kernel` must have the {features} features of `encodings` on axis "
            f"{contracted}, got shape {kernel.shape} with class_axis={class_axis}."
        )
    if not callable(activation):
        raise TypeError(f"`activation` must be callable, got {activation!r}.")
    check_split("kernel", kernel, axis_name)
    check_shared("encodings", f, axis_name)
    check_shared("predictions", g, axis_name)
    dtype = checks.compute_dtype(f, g, kernel)
    # Joint states in half precision would be rounded once more.
    f, g, kernel = (x.astype(dtype) for x in (f, g, kernel))
    return f, jnp.broadcast_to(g, batch), kernel, contracted, dtype


def _only(x, keep, tail):
    """Features without those that no path reaches, and non-finite ones of weight 0.

    The gradient of the kernel sums features · cotangent over all nodes, where NaN · 0
    would be NaN.
    """
    keep = keep[..., None]
    if tail.weights is not None:
        counts = jnp.broadcast_to(tail.weights != 0, x.shape[:-2])[..., None, None]
        keep = keep & (counts | jnp.all(jnp.isfinite(x), axis=-1, keepdims=True))
    return tail.guard(jnp.where(keep, x, jnp.zeros((), x.dtype)), (-2, -1))


def _frames_at_a_time(chunk_size, shape, places):
    """How many frames of the batch make one chunk."""
    if chunk_size is None:
        size = default_rows(shape[-1])
    else:
        checks.check_integer("chunk_size", chunk_size)
        checks.at_least(1).check("chunk_size", chunk_size)
        size = operator.index(chunk_size)
    nodes = math.prod(shape[:-2]) * places  # of one frame
    if not isinstance(nodes, int):  # a symbolic size of `jax.export`
        return 1
    return max(1, min(size // max(nodes, 1), shape[-2]))


# Each chunk is some frames of all sequences, so that a batch spread over devices
# stays where it is. The scan keeps a few numbers per node: `jax.checkpoint`
# makes the joint states and the logits of a chunk again in the backward pass.
def _surprisals(f, g, kernel, bias, ways, settings, step):
    """Of each node, [..., T, U+1]: -log p of blank and label, and what neither has."""
    frames = f.shape[-2]
    chunks = -(-frames // step)
    f = jnp.moveaxis(f, -2, 0)
    f = jnp.pad(f, [(0, chunks * step - frames)] + [(0, 0)] * (f.ndim - 1))
    f = f.reshape(chunks, step, *f.shape[1:])

    @jax.checkpoint
    def one(f, g, kernel, bias):
        joint = f[..., None, :] + g[None]  # [step, ..., U+1, D]
        states = settings.activation(joint)
        if jnp.shape(states) != joint.shape:
            raise ValueError(
                "`activation` must keep the shape of its argument: from "
                f"{joint.shape} it made {jnp.shape(states)}."
            )
        x = jax.lax.dot_general(
            states, kernel, (((states.ndim - 1,), (settings.contracted,)), ((), ())),
            precision=settings.precision,
        )  # fmt: skip
        if bias is not None:
            x = x + bias.reshape(*(1,) * (x.ndim - 1), -1)
        return _of_logits(x, ways, settings)

    _, found = jax.lax.scan(lambda _, f: (None, one(f, g, kernel, bias)), None, f)

    def by_frame(x):
        x = x.reshape(chunks * step, *x.shape[2:])[:frames]
        return jnp.moveaxis(x, 0, -2)

    return tuple(map(by_frame, found))


def _of_logits(x, ways, settings):
    axis = {"axis": x.ndim - 1, "axis_name": settings.axis_name}
    top = maximum(x, **axis)
    label = jnp.broadcast_to(ways, x.shape[:-1])
    blank = jnp.full_like(label, settings.blank)
    special = at_label(x, label, **axis) | at_label(x, blank, **axis)
    # The rule of the paths has the derivative of all three in that of the first two.
    gap, _ = difference_from_own(jax.lax.stop_gradient(x), top[..., None])
    exps = jnp.exp(gap)
    total, others = (
        sum_over_devices(jnp.sum(y, axis=-1), settings.axis_name)
        for y in (exps, jnp.where(special, 0, exps))
    )
    leak = others / jnp.where(total == 0, 1, total)
    return (
        surprisal(x, blank, **axis, top=top),
        surprisal(x, label, **axis, top=top),
        leak,
    )


# The loss -log P by the surprisals of the two ways out of each node: its gradient is
# their posterior counts. `leak` is 1 - p(blank) - p(label), a function of the others
# from which a small loss takes its digits, and has no derivative of its own.
def _paths_forward(by_blank, by_label, leak, ways, frames, lengths, *, blank):
    has_label = (positions(ways) < lengths[..., None])[..., None, :]
    # Where no label follows, the blank is the only way, and `ways` names it as well.
    same = (ways == blank)[..., None, :] & has_label
    active = reached(ways, frames, lengths)
    blanks, labels = (
        scaled.exp(-jnp.where(active, x, 0)) for x in (by_blank, by_label)
    )
    nodes = Nodes(blanks, labels.where(has_label), jnp.where(active, leak, 0))
    proper = ~jnp.any(same, axis=(-2, -1))
    loss, found = path_loss(passing(frames, nodes), lengths, proper)
    return loss, (ways, frames, lengths, found)


def _paths_backward(residuals, cotangent, *, blank):
    del blank
    ways, frames, lengths, found = residuals
    counts = path_counts(found, frames.shape[-1])
    scale = jnp.where(is_possible(found), cotangent, 0)[..., None, None]
    scale = jnp.where(reached(ways, frames, lengths), scale, 0)
    nothing = jnp.zeros_like(counts.blank)
    return scale * counts.blank, scale * counts.label, nothing, None, None, None


_paths = jax.jit(analytic(_paths_forward, _paths_backward), static_argnames="blank")

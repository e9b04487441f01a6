"""Lovász losses: the Jaccard loss of a segmentation, extended to probabilities."""

from __future__ import annotations

import math
import operator
from typing import Literal

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.classes import ignored
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction, Tail
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.softmax import is_class, widen
from jaxloss.segmentation._lovasz import Pixels, class_losses, sizes, weighted_loss
from jaxloss.segmentation._ranks import rank_loss

Classes = Literal["present", "all"] | tuple[int, ...]


@public()
def lovasz_softmax_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int = -1,
    *,
    classes: Classes = "present",
    ignore_index: int | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Lovász-softmax loss: the Jaccard loss of each class, extended to probabilities.

    Choose it over `jaccard_loss` to optimise the mean intersection over union itself:
    for probabilities of 0 and 1 the two agree, and in between this loss is the convex
    extension of the Jaccard loss in the errors. `lovasz_hinge_loss` is for one class.

    Let $e_i$ be the error of pixel $i$ for a class: $1 - p_i$ where the class is its
    label and $p_i$ elsewhere, with $p$ the softmax. With the pixels ranked by falling
    error and $J_k$ the Jaccard loss if the first $k$ of them were wrong, the loss of
    the class is

    $$ \sum_{k} e_k \, (J_k - J_{k-1}) $$

    Args:
        logits: Floating, `[N, ..., C]` with the classes along `axis`, the
            unnormalized log-probabilities; the images are along the first axis.
        labels: Integer, in [0, C), broadcastable to `[N, ...]`.
        axis: The class axis, any but the first.
        classes: The classes that count: "present" for those that some pixel of the
            image has, "all", or a tuple of class ids.
        ignore_index: Python int, possibly outside [0, C). Pixels with this label are
            excluded. None ignores no label.
        where: Boolean mask; False entries are excluded. It broadcasts to the pixels, or
            to `logits` to exclude single classes of a pixel.
        weights: Real weights per pixel, at least 0. A weight of k stands for k pixels.
        reduction: "none", "sum" or, by default, "mean" over the classes that count.

    Returns:
        `[N]`, or `[N, C]` if not reduced, with 0 for the classes that do not count; in
        [0, 1]. 0 for an image without a pixel that counts.

    Gradient:
        $J_k - J_{k-1}$ for the error of the pixel at rank $k$, and from there through
        the softmax; among equal errors the earlier pixel comes first. Differentiable in
        `logits` and `weights`. None for `labels`.

    Numerics:
        The differences of the Jaccard loss are computed without cancellation, and a
        label's error as the sum of all other probabilities. Classes are sorted one
        after the other: if reduced, the value needs memory for a few numbers per pixel,
        and its gradient one array of the size of `logits` more. Half-precision logits
        are converted to float32 first.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss as jl
        >>> logits = jnp.log(jnp.array([[[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]]))
        >>> labels = jnp.array([[0, 1, 1]])  # one image of three pixels
        >>> loss = jl.lovasz_softmax_loss(logits, labels, reduction="none")
        >>> [f"{x:.4f}" for x in loss[0]]
        ['0.3667', '0.4000']

    References:
        Maxim Berman, Amal Rannen Triki and Matthew B. Blaschko, "The Lovász-Softmax
        loss: A tractable surrogate for the optimization of the intersection-over-union
        measure in neural networks", CVPR 2018,
        https://arxiv.org/abs/1705.08790, equations 8 to 11
    """
    logits, (axis,) = checks.class_array("logits", logits, (axis,))
    if axis == 0:
        raise ValueError(
            "`axis` must not be the first axis of logits, which is that of the images, "
            f"got 0 for shape {logits.shape}."
        )
    pixels, valid = _pixels(
        logits, labels, axis, ignore_index, where, weights, reduction
    )
    own, every = sizes(pixels, axis)
    counts = ~(every <= 0)  # a weight of NaN counts, and makes the loss NaN
    if classes == "present":
        counts = counts & ~(own <= 0)
    elif classes != "all":
        counts = counts & _among(classes, logits.shape[axis])[None]
    valid = valid[:, None]
    if reduction == "none":
        losses = jnp.where(valid, class_losses(pixels, axis), jnp.nan)
        return jnp.where(counts, losses, 0)
    factors = counts.astype(pixels.weights.dtype)
    if reduction == "mean":
        number = jnp.sum(factors, axis=-1, keepdims=True)
        factors = factors / jnp.maximum(number, 1)
    given = pixels.logits, factors, pixels.weights, pixels.labels, pixels.keep
    loss = weighted_loss(*given, *pixels.classes, axis_of_class=axis)
    return jnp.where(valid[:, 0], loss, jnp.nan)


def _pixels(logits, labels, axis, ignore_index, where, weights, reduction):
    """The checked arguments, and which images have valid labels."""
    batch = logits.shape[:axis] + logits.shape[axis + 1 :]
    dtype = checks.compute_dtype(logits)
    labels = checks.integer_array("labels", labels)
    name = "logits without its class axis"
    checks.check_broadcast("labels", labels.shape, name, batch)
    # For its shape, and its place on a mesh.
    pixel = jax.lax.index_in_dim(logits, 0, axis, keepdims=False)
    labels = checks.broadcast_to(labels, pixel)
    masks = ()
    if where is not None:
        where = checks.to_mask("where", where)
        if where.ndim == logits.ndim:
            checks.check_broadcast("where", where.shape, "logits", logits.shape)
            masks = (jnp.broadcast_to(where, logits.shape),)
            where = jnp.any(masks[0], axis=axis)
    tail = checks.tail(where, weights, reduction, shape=batch, dtype=dtype)
    skipped = ignored(labels, ignore_index)
    tail = tail if skipped is None else tail.without(skipped)
    known = is_class(logits, labels, axis)
    labels = checks.check_values(
        "labels", labels, tail.counts(known), f"in [0, {logits.shape[axis]})"
    )
    flat = batch[0], math.prod(batch[1:])
    weight = _pixel_weights(tail, pixel, dtype).reshape(flat)
    keep = jnp.array(True) if tail.keep is None else tail.keep
    pixels = Pixels(
        tail.guard(widen(logits), axis),
        weight,
        jnp.where(known, labels, 0).astype(jnp.int32).reshape(flat),
        checks.broadcast_to(keep, pixel).reshape(flat),
        masks,
    )
    valid = jnp.all((known.reshape(flat)) | (weight == 0), axis=-1)
    return pixels, valid


def _pixel_weights(tail: Tail, like, dtype):
    """The weight of each pixel, 0 where it is excluded, placed as `like` is."""
    weights = jnp.ones((), dtype) if tail.weights is None else tail.weights
    weights = checks.broadcast_to(weights, like)
    return weights if tail.keep is None else jnp.where(tail.keep, weights, 0)


def _among(classes, count):
    """Boolean, [C]: the given class ids."""
    if not isinstance(classes, tuple):
        raise ValueError(
            "`classes` must be 'present', 'all' or a tuple of class ids, "
            f"got {classes!r}."
        )
    ids = []
    for given in classes:
        try:
            ids.append(operator.index(given))
        except TypeError as error:
            raise TypeError(f"`classes` must be ints, got {given!r}.") from error
    if not ids or not all(0 <= i < count for i in ids):
        raise ValueError(f"`classes` must be ids in [0, {count}), got {classes!r}.")
    place = jax.lax.iota(jnp.int32, count)[:, None]
    return jnp.any(place == jnp.array(ids, jnp.int32)[None], axis=-1)


@public()
def lovasz_hinge_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Lovász hinge loss: the Jaccard loss of one region, extended to hinge errors.

    Choose it over `binary_dice_loss` to optimise the intersection over union of one
    foreground class with a margin. `lovasz_softmax_loss` is for several classes.

    Let $e_i = 1 - x_i$ be the hinge error of a pixel of the region and
    $e_i = 1 + x_i$ that of the others, with $x$ the logits. With the pixels ranked by
    falling error and $J_k$ the Jaccard loss if the first $k$ of them were wrong:

    $$ \sum_{k} \max(e_k, 0) \, (J_k - J_{k-1}) $$

    Args:
        logits: Floating, `[N, ...]`, one logit per pixel; the images are along the
            first axis.
        labels: 0 or 1, real or boolean, broadcastable to `logits`: 1 in the region.
        where: Boolean mask; False entries are excluded. One entry per pixel,
            broadcastable to `logits`.
        weights: Real weights per pixel, at least 0. A weight of k stands for k pixels.
        reduction: Over the only class: "none", "sum" and "mean" are the same.

    Returns:
        `[N]`, at least 0: one number per image. 0 for an image without a pixel that
        counts; the largest error of an image without a region.

    Gradient:
        $\pm (J_k - J_{k-1})$ for the logit of the pixel at rank $k$ if its error is
        positive, else 0; among equal errors the earlier pixel comes first.
        Differentiable in `logits` and `weights`. None for `labels`.

    Numerics:
        The differences of the Jaccard loss are computed without cancellation. A label
        other than 0 and 1 makes the loss of its image NaN, and raises under `checkify`.
        So does a logit of NaN, without raising; one of -inf or inf gives the limit, an
        error of 0 or a loss of inf.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss as jl
        >>> logits = jnp.array([[2.0, 0.5, -1.5]])  # one image of three pixels
        >>> print(jl.lovasz_hinge_loss(logits, jnp.array([[1, 1, 0]])))
        [0.25]

    References:
        Jiaqian Yu and Matthew B. Blaschko, "Learning Submodular Losses with the Lovász
        Hinge", ICML 2015, https://proceedings.mlr.press/v37/yub15.html

        Jiaqian Yu and Matthew B. Blaschko, "The Lovász Hinge: A Novel Convex Surrogate
        for Submodular Losses", 2015, https://arxiv.org/abs/1512.07797, section 3
    """
    x, y = checks.real_arrays(logits=logits, labels=labels)
    if not x.ndim:
        raise ValueError("`logits` must have an axis of images, got a scalar.")
    tail = checks.tail(where, weights, reduction, shape=x.shape, dtype=x.dtype)
    x, y = tail.spread(x.shape).select(x, y)
    known = (y == 0) | (y == 1)
    y = checks.check_values("labels", y, tail.counts(known), "0 or 1")
    flat = x.shape[0], math.prod(x.shape[1:])
    weight = _pixel_weights(tail, x, x.dtype).reshape(flat)
    hit = (y == 1).reshape(flat)
    x = x.reshape(flat)
    errors = 1 + jnp.where(hit, -x, x)
    errors = jnp.where(errors <= 0, 0, errors)
    errors = jnp.where((weight == 0) & ~jnp.isfinite(errors), 0, errors)
    loss = rank_loss(errors, weight, hit)
    valid = jnp.all(known.reshape(flat) | (weight == 0), axis=-1)
    return jnp.where(valid, loss, jnp.nan)

"""Dice losses: the overlap of two regions relative to their mean size."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import at_least
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction, weigh
from jaxloss._core.arguments.types import ArrayLike
from jaxloss.segmentation._regions import reduce_classes, to_pixels, tversky_per_class


@public(smooth=at_least(0), alpha=at_least(0), beta=at_least(0))
def dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    class_weights: ArrayLike | None = None,
    smooth: ArrayLike = 1.0,
    alpha: ArrayLike = 0.5,
    beta: ArrayLike = 0.5,
    apply_softmax: bool = True,
    reduction: Reduction = "mean",
    ignore_background: bool = False,
    axis: int | Sequence[int] | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> jax.Array:
    r"""Dice loss: one minus the overlap of two regions over their mean size.

    Choose it where the regions are small in the image, so that a cross entropy per
    pixel would accept background everywhere. `jaccard_loss` gives errors twice the
    weight, `tversky_loss` puts the costs of errors first.

    With $p$ the probabilities, $t$ the targets and $w$ the weights of the pixels, each
    class has the hits $H = \sum w p t$, the false positives $F = \sum w p (1 - t)$ and
    the false negatives $M = \sum w t (1 - p)$:

    $$ \frac{\alpha F + \beta M}{H + \alpha F + \beta M + \text{smooth}} $$

    With both costs 1/2 and without smoothing, this is
    $1 - 2 \sum p t / (\sum p + \sum t)$.

    Also known as soft F1 loss. Keras: `Dice`.

    Args:
        predictions: Floating, `[N, ..., C]`, one logit per class and pixel; the loss
            takes their softmax. With C = 1 it takes the sigmoid, and the class axis may
            be missing if `targets` has it.
        targets: Real, one-hot or soft labels in [0, 1], `[N, ..., C]`; with C = 1 the
            class axis may be missing.
        class_weights: Real, `[C]`, multiplies the loss of each class; None means 1. As
            in optax, the mean is not divided by them.
        smooth: At least 0, added to both sides of the fraction, broadcastable to
            `[N, C]`. 1.0 as in optax; 0.0 gives the plain ratio.
        alpha: At least 0, the cost of a false positive, broadcastable to `[N, C]`.
        beta: At least 0, the cost of a false negative, broadcastable to `[N, C]`.
        apply_softmax: False if `predictions` are already probabilities, which need not
            add up to 1. NaN results if one is more than 1e-3 outside [0, 1].
        reduction: "none", "sum" or, by default as in optax, "mean" over the classes. A
            class whose pixels are all excluded is excluded too.
        ignore_background: Whether to exclude the first of several classes.
        axis: The axes of one region; None means all axes but the first and the last.
        where: Boolean mask; False entries are excluded. It broadcasts to the pixels, or
            to `predictions` to exclude single classes of a pixel.
        weights: Real weights per pixel.

    Returns:
        `[N]`, or `[N, C]` if not reduced (`[N, C - 1]` without background), in [0, 1]
        before class weights; 0 for a class that is neither predicted nor present.

    Gradient:
        With $W$ the numerator and $S$ the denominator, $(S - W) / S^2$ with respect to
        $W$ and $-W / S^2$ with respect to the other terms of $S$. With $g$ the
        resulting gradient of a pixel's probabilities $p$, its logits have
        $p_c (g_c - \sum_k p_k g_k)$. Differentiable in every real argument.

    Example:
        >>> import jaxloss as jl
        >>> logits = [[[2.0, 0.0], [0.0, 0.0], [-1.0, 1.0], [-20.0, 20.0]]]
        >>> targets = [[[1, 0], [1, 0], [0, 1], [0, 1]]]
        >>> [f"{x:.4f}" for x in jl.dice_loss(logits, targets)]
        ['0.1239']
        >>> [f"{x:.4f}" for x in jl.dice_loss(logits, targets, reduction="none")[0]]
        ['0.1343', '0.1136']

    References:
        Fausto Milletari, Nassir Navab and Seyed-Ahmad Ahmadi, "V-Net: Fully
        Convolutional Neural Networks for Volumetric Medical Image Segmentation", 2016,
        https://arxiv.org/abs/1606.04797, section 3
    """
    pixels = to_pixels(predictions, targets, apply_softmax, where, weights, reduction)
    loss, counts = tversky_per_class(pixels, axis, alpha, beta, smooth)
    return reduce_classes(loss, counts, class_weights, ignore_background, reduction)


@public(smooth=at_least(0))
def binary_dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    smooth: ArrayLike = 1.0,
    apply_sigmoid: bool = True,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Binary Dice loss: the Dice loss of a single region, from one logit per pixel.

    Choose it for foreground against background; `dice_loss` is for several classes and
    has more arguments.

    With $p$ the probabilities, $t$ the targets and $w$ the weights of the pixels, the
    hits are $H = \sum w p t$, the false positives $F = \sum w p (1 - t)$ and the false
    negatives $M = \sum w t (1 - p)$:

    $$ \frac{F + M}{2 H + F + M + 2 \, \text{smooth}} $$

    Args:
        predictions: Floating, `[N, ...]` or `[N, ..., 1]`, one logit per pixel; the
            loss takes their sigmoid.
        targets: Real, in [0, 1], of the same shape, or with or without the last axis.
        smooth: At least 0, added to both sides of the fraction, broadcastable to
            `[N, 1]`. 1.0 as in optax; 0.0 gives the plain ratio.
        apply_sigmoid: False if `predictions` are already probabilities. NaN results if
            one is more than 1e-3 outside [0, 1].
        where: Boolean mask; False entries are excluded. One entry per pixel,
            broadcastable to `[N, ...]`.
        weights: Real weights per pixel, broadcastable to `[N, ...]`.
        reduction: "mean" and "sum" over the only class are the same; "none" keeps its
            axis of size 1.

    Returns:
        `[N]`, or `[N, 1]` for the reduction "none", in [0, 1]. The loss of a region
        that is neither predicted nor present is 0, also if `smooth` is 0.

    Gradient:
        With $W$ the numerator and $S$ the denominator, $(S - W) / S^2$ with respect to
        $W$ and $-W / S^2$ with respect to the other terms of $S$; a logit has
        $p (1 - p)$ times the gradient of its probability. Differentiable in every real
        argument.

    Example:
        >>> import jaxloss as jl
        >>> logits = [[[2.0, -1.0], [0.5, -30.0]], [[1.0, 0.0], [0.0, -1.0]]]
        >>> targets = [[[1, 0], [1, 0]], [[0, 0], [0, 0]]]
        >>> [f"{x:.4f}" for x in jl.binary_dice_loss(logits, targets)]
        ['0.1327', '0.5000']

    References:
        Fausto Milletari, Nassir Navab and Seyed-Ahmad Ahmadi, "V-Net: Fully
        Convolutional Neural Networks for Volumetric Medical Image Segmentation", 2016,
        https://arxiv.org/abs/1606.04797, section 3
    """
    predictions, _ = checks.class_array("predictions", predictions, -1)
    targets = checks.to_array("targets", targets)
    if predictions.ndim == targets.ndim and predictions.shape[-1:] != (1,):
        predictions, targets = predictions[..., None], targets[..., None]
    return dice_loss(
        predictions,
        targets,
        smooth=smooth,
        apply_softmax=apply_sigmoid,
        reduction=reduction,
        where=where,
        weights=weights,
    )


@public(smooth=at_least(0))
def multiclass_generalized_dice_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    smooth: ArrayLike = 1.0,
    apply_softmax: bool = True,
    ignore_background: bool = False,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Generalized Dice loss: classes are weighted by the inverse square of their size.

    Choose it over `dice_loss` for classes of very different sizes that matter equally.
    Each size is a sum over the whole batch, so the loss of one image depends on the
    others; a class that is absent from the batch gets nearly all of the weight.

    With $L_{nc}$ the Dice loss of class $c$ in image $n$, $t$ the targets and $w$ the
    weights of the pixels:

    $$ \frac{1}{N} \sum_{n, c} \frac{v_c}{\sum_k v_k} L_{nc}, \qquad
    v_c = \frac{1}{\left( \sum_i w_i t_{ic} \right)^2 + 10^{-7}} $$

    Args:
        predictions: Floating, `[N, ..., C]`, one logit per class and pixel; the loss
            takes their softmax. With C = 1 it takes the sigmoid, and the class axis may
            be missing if `targets` has it.
        targets: Real, one-hot or soft labels in [0, 1], `[N, ..., C]`; with C = 1 the
            class axis may be missing.
        smooth: At least 0, added to both sides of the fraction, broadcastable to
            `[N, C]`. 1.0 as in optax; 0.0 gives the plain ratio.
        apply_softmax: False if `predictions` are already probabilities, which need not
            add up to 1. NaN results if one is more than 1e-3 outside [0, 1].
        ignore_background: Whether to exclude the first of several classes.
        where: Boolean mask; False entries are excluded. It broadcasts to the pixels, or
            to `predictions` to exclude single classes of a pixel.
        weights: Real weights per pixel.
        reduction: "none" for the losses of images and classes, times
            $C\,v_c / \sum_k v_k$, "sum" or, by default as in optax, "mean" over both. A
            class whose pixels are all excluded is excluded too.

    Returns:
        A scalar, or `[N, C]` for the reduction "none" (`[N, C - 1]` without the
        background); the mean is in [0, 1].

    Gradient:
        That of `dice_loss`, weighted by class. The class weights are differentiated
        with respect to `targets` and `weights` too.

    Example:
        >>> import jaxloss as jl
        >>> logits = [[[2.0, 0.0], [0.0, 0.0], [-1.0, 1.0], [-20.0, 20.0]]]
        >>> targets = [[[1, 0], [1, 0], [1, 0], [0, 1]]]
        >>> f"{jl.multiclass_generalized_dice_loss(logits, targets):.4f}"
        '0.2685'

    References:
        Carole H. Sudre, Wenqi Li, Tom Vercauteren, Sebastien Ourselin and M. Jorge
        Cardoso, "Generalised Dice overlap as a deep learning loss function for highly
        unbalanced segmentations", 2017, https://arxiv.org/abs/1707.03237, section 2
    """
    pixels = to_pixels(predictions, targets, apply_softmax, where, weights, reduction)
    loss, counts = tversky_per_class(pixels, None, 0.5, 0.5, smooth)
    sizes = pixels.t if pixels.weight is None else weigh(pixels.t, pixels.weight)
    classes = loss.shape[-1]
    size = jnp.sum(sizes.reshape(-1, classes), axis=0)
    scale = 1 / (size * size + 1e-7)
    # A class whose pixels are all excluded takes no share of the weights.
    if counts is not None:
        seen = jnp.any(counts.reshape(-1, classes), axis=0)
        scale = jnp.where(seen, scale, 0)
        classes = jnp.maximum(jnp.sum(seen, dtype=scale.dtype), 1)
    total = jnp.sum(scale)
    scale = scale / jnp.where(total == 0, 1, total) * classes
    return reduce_classes(loss, counts, scale, ignore_background, reduction, axis=None)

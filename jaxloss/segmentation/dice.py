"""Dice losses: the overlap against the mean size of two regions."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import at_least
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction, weigh
from jaxloss.segmentation._regions import misfit, reduce_classes, to_pixels


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
    r"""Returns the Dice loss of predicted and true regions.

    Choose it where the regions are small in the image, so that a cross entropy of the
    pixels would be content with background everywhere. `jaccard_loss` weighs errors
    twice as much, `tversky_loss` puts the error costs first.

    With $p$ the probabilities, $t$ the targets and $w$ the weights of a class's pixels,
    the hits $H = \sum w p t$, the false positives $F = \sum w p (1 - t)$ and the false
    negatives $M = \sum w t (1 - p)$:

    $$ \frac{\alpha F + \beta M}{H + \alpha F + \beta M + \text{smooth}} $$

    which, with both costs 1/2 and without smoothing, is
    $1 - 2 \sum p t / (\sum p + \sum t)$.

    Args:
        predictions: Floating, `[N, ..., C]`, a logit for each class at each pixel, of
            which a softmax is taken; with C = 1 a sigmoid, and the class axis may be
            left out if `targets` has it.
        targets: Real, one-hot or soft labels in [0, 1], `[N, ..., C]`; with C = 1 the
            class axis may be left out.
        class_weights: Real, `[C]`, factors on the classes' losses; None is 1 each. The
            mean is not divided by them, as in optax.
        smooth: At least 0, added to both sides of the fraction, broadcastable to the
            losses `[N, C]`. 1.0 as in optax; 0.0 for the plain ratio.
        alpha: At least 0, what a false positive costs, broadcastable to the losses.
        beta: At least 0, what a false negative costs, broadcastable to the losses.
        apply_softmax: False if `predictions` are probabilities already; they need not
            add up to 1.
        reduction: "mean" or "sum" over the classes, or "none" for each class's loss. A
            class without any pixel that counts is not counted.
        ignore_background: Whether to leave out the first of several classes.
        axis: The axes that a region extends over; None for all but the first and the
            last.
        where: Boolean mask of pixels, broadcastable to `predictions` without its class
            axis; False pixels count nowhere. A mask of the rank of `predictions` drops
            single classes.
        weights: Real weights of the pixels, broadcastable likewise.

    Returns:
        `[N]`, or `[N, C]` without a reduction (a class less without background), in
        [0, 1] before class weights.

    Gradient:
        With $W$ the numerator and $S$ the denominator, a loss has the slope
        $(S - W) / S^2$ in $W$ and $-W / S^2$ in the rest of $S$, and a pixel of
        probability $p$ passes on $p_c (g_c - \sum_k p_k g_k)$ of its slopes $g$ to its
        logits. Every real argument receives its own.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. The wrong pixels are added up by themselves,
        so that a loss of 1e-20 keeps its digits. Where nothing is predicted and nothing
        is there, the loss is 0 with gradient 0, also if `smooth` is 0. A logit of -inf
        has probability and gradient 0. With `apply_softmax` False, a prediction outside
        [0, 1] by more than 1e-3 gives NaN.

    Raises:
        TypeError: If `predictions` is not floating, another input not real, or `where`
            not boolean.
        ValueError: If an input does not fit the shapes above, `axis` names no axis, or
            the class axis, a hyperparameter is negative, or `reduction` is unknown.

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
    loss, counts = misfit(pixels, axis, alpha, beta, smooth)
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
    r"""Returns the Dice loss of a single region, from one logit a pixel.

    Choose it for foreground against background; `dice_loss` is for several classes and
    has more arguments.

    With $p$ the probabilities, $t$ the targets and $w$ the weights of the pixels,
    the hits $H = \sum w p t$, the false positives $F = \sum w p (1 - t)$ and the false
    negatives $M = \sum w t (1 - p)$:

    $$ \frac{F + M}{2 H + F + M + 2 \, \text{smooth}} $$

    Args:
        predictions: Floating, `[N, ...]` or `[N, ..., 1]`, a logit for each pixel, of
            which a sigmoid is taken.
        targets: Real, in [0, 1], of the same shape, or with or without the last axis.
        smooth: At least 0, added to both sides of the fraction, broadcastable to the
            losses. 1.0 as in optax; 0.0 for the plain ratio.
        apply_sigmoid: False if `predictions` are probabilities already.
        where: Boolean mask of pixels, broadcastable to `[N, ...]`; False pixels count
            nowhere.
        weights: Real weights of the pixels, broadcastable likewise.
        reduction: "mean" and "sum" over the only class are the same; "none" leaves its
            axis of size 1.

    Returns:
        `[N]`, in [0, 1].

    Gradient:
        With $W$ the numerator and $S$ the denominator, a loss has the slope
        $(S - W) / S^2$ in $W$ and $-W / S^2$ in the rest of $S$, and a pixel of
        probability $p$ passes on $p (1 - p)$ of its slope to its logit. Every
        real argument receives its own.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. The wrong pixels are added up by themselves,
        so that a loss of 1e-20 keeps its digits. Where nothing is predicted and nothing
        is there, the loss is 0 with gradient 0, also if `smooth` is 0. A logit of -inf
        has probability and gradient 0. With `apply_sigmoid` False, a prediction outside
        [0, 1] by more than 1e-3 gives NaN.

    Raises:
        TypeError: If `predictions` is not floating, another input not real, or `where`
            not boolean.
        ValueError: If an input does not fit the shapes above, `smooth` is negative,
            or `reduction` is unknown.

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
    r"""Returns the Dice loss with classes weighed by the inverse square of their size.

    Choose it over `dice_loss` for classes of very different sizes, all of which should
    count. The sizes are those of the whole batch, so that its images depend on each
    other; a class that the batch does not have takes nearly all of the weight.

    With $L_{nc}$ the Dice loss of class $c$ in image $n$ and $t$ the targets:

    $$ \frac{1}{N} \sum_{n, c} \frac{v_c}{\sum_k v_k} L_{nc}, \qquad
    v_c = \frac{1}{\left( \sum_i w_i t_{ic} \right)^2 + 10^{-7}} $$

    Args:
        predictions: Floating, `[N, ..., C]`, a logit for each class at each pixel, of
            which a softmax is taken; with C = 1 a sigmoid, and the class axis may be
            left out if `targets` has it.
        targets: Real, one-hot or soft labels in [0, 1], `[N, ..., C]`; with C = 1 the
            class axis may be left out.
        smooth: At least 0, added to both sides of the fraction, broadcastable to the
            losses `[N, C]`. 1.0 as in optax; 0.0 for the plain ratio.
        apply_softmax: False if `predictions` are probabilities already; they need not
            add up to 1.
        ignore_background: Whether to leave out the first of several classes.
        where: Boolean mask of pixels, broadcastable to `predictions` without its class
            axis; False pixels count nowhere. A mask of the rank of `predictions` drops
            single classes.
        weights: Real weights of the pixels, broadcastable likewise.
        reduction: "mean" or "sum" over images and classes, or "none" for each one's
            loss, times C times its share of the weights. A class without any pixel that
            counts is not counted.

    Returns:
        A scalar, or `[N, C]` without a reduction (a class less without background); the
        mean is in [0, 1].

    Gradient:
        That of `dice_loss` times the weights of the classes, to which the gradient for
        `targets` and `weights` belongs too.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. The wrong pixels are added up by themselves,
        so that a loss of 1e-20 keeps its digits. Where nothing is predicted and nothing
        is there, the loss is 0 with gradient 0, also if `smooth` is 0. A logit of -inf
        has probability and gradient 0. With `apply_softmax` False, a prediction outside
        [0, 1] by more than 1e-3 gives NaN.

    Raises:
        TypeError: If `predictions` is not floating, another input not real, or `where`
            not boolean.
        ValueError: If an input does not fit the shapes above, `smooth` is negative,
            or `reduction` is unknown.

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
    loss, counts = misfit(pixels, None, 0.5, 0.5, smooth)
    sizes = pixels.t if pixels.weight is None else weigh(pixels.t, pixels.weight)
    classes = loss.shape[-1]
    size = jnp.sum(sizes.reshape(-1, classes), axis=0)
    scale = 1 / (size * size + 1e-7)
    if counts is not None:  # a class that no image has takes no share of the weights
        seen = jnp.any(counts.reshape(-1, classes), axis=0)
        scale = jnp.where(seen, scale, 0)
        classes = jnp.maximum(jnp.sum(seen, dtype=scale.dtype), 1)
    total = jnp.sum(scale)
    scale = scale / jnp.where(total == 0, 1, total) * classes
    return reduce_classes(loss, counts, scale, ignore_background, reduction, axis=None)

"""Tversky losses: the overlap of two regions relative to the costs of their errors."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxloss._core.arguments.checks import at_least
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.rule.analytic import pointwise
from jaxloss.segmentation._regions import (
    parameter,
    reduce_classes,
    to_pixels,
    tversky_per_class,
)


@public(alpha=at_least(0), beta=at_least(0), smooth=at_least(0))
def tversky_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    alpha: ArrayLike = 0.5,
    beta: ArrayLike = 0.5,
    class_weights: ArrayLike | None = None,
    smooth: ArrayLike = 1.0,
    apply_softmax: bool = True,
    ignore_background: bool = False,
    axis: int | Sequence[int] | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Tversky loss: a Dice loss with separate costs for the two kinds of error.

    Choose it over `dice_loss`, which has the same arguments and formula, to state the
    costs of false positives (`alpha`) and false negatives (`beta`): a beta above alpha
    finds more of a small region.

    With $p$ the probabilities, $t$ the targets and $w$ the weights of the pixels, each
    class has the hits $H = \sum w p t$, the false positives $F = \sum w p (1 - t)$ and
    the false negatives $M = \sum w t (1 - p)$:

    $$ \frac{\alpha F + \beta M}{H + \alpha F + \beta M + \text{smooth}} $$

    Keras: `Tversky`.

    Args:
        predictions: Floating, `[N, ..., C]`, one logit per class and pixel, as in
            `dice_loss`.
        targets: Real, one-hot or soft labels in [0, 1], `[N, ..., C]`.
        alpha: At least 0, the cost of a false positive, broadcastable to `[N, C]`.
        beta: At least 0, the cost of a false negative, broadcastable to `[N, C]`.
        class_weights: Real, `[C]`, factors of the losses, as in `dice_loss`.
        smooth: At least 0, added to both sides of the fraction, broadcastable to
            `[N, C]`. 1.0 as in optax; 0.0 gives the plain ratio.
        apply_softmax: False if `predictions` are already probabilities, which need not
            add up to 1. NaN results if one is more than 1e-3 outside [0, 1].
        ignore_background: Whether to exclude the first of several classes.
        axis: The axes of one region; None means all axes but the first and the last.
        where: Boolean mask; False entries are excluded. It broadcasts to the pixels, or
            to `predictions` to exclude single classes of a pixel.
        weights: Real weights per pixel.
        reduction: "none", "sum" or, by default as in optax, "mean" over the classes. A
            class whose pixels are all excluded is excluded too.

    Returns:
        `[N]`, or `[N, C]` if not reduced (`[N, C - 1]` without background), in [0, 1]
        before class weights; 0 for a class that is neither predicted nor present.

    Gradient:
        As in `dice_loss`. Differentiable in every real argument.

    Example:
        >>> import jaxloss as jl
        >>> logits = [[[2.0, 0.0], [0.0, 0.0], [-1.0, 1.0], [-20.0, 20.0]]]
        >>> targets = [[[1, 0], [1, 0], [0, 1], [0, 1]]]
        >>> [f"{x:.4f}" for x in jl.tversky_loss(logits, targets, alpha=0.3, beta=0.7)]
        ['0.1250']

    References:
        Seyed Sadegh Mohseni Salehi, Deniz Erdogmus and Ali Gholipour, "Tversky loss
        function for image segmentation using 3D fully convolutional deep networks",
        2017, https://arxiv.org/abs/1706.05721, equation 4
    """
    pixels = to_pixels(predictions, targets, apply_softmax, where, weights, reduction)
    loss, counts = tversky_per_class(pixels, axis, alpha, beta, smooth)
    return reduce_classes(loss, counts, class_weights, ignore_background, reduction)


@public(smooth=at_least(0))
def jaccard_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    class_weights: ArrayLike | None = None,
    smooth: ArrayLike = 1.0,
    apply_softmax: bool = True,
    ignore_background: bool = False,
    axis: int | Sequence[int] | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Jaccard loss: one minus the intersection over union of two regions.

    Choose it over `dice_loss` where the result is judged by intersection over union; at
    the same overlap it is the larger of the two losses.

    With $p$ the probabilities, $t$ the targets and $w$ the weights of the pixels, each
    class has the hits $H = \sum w p t$, the false positives $F = \sum w p (1 - t)$ and
    the false negatives $M = \sum w t (1 - p)$:

    $$ \frac{F + M}{H + F + M + \text{smooth}} $$

    Also known as IoU loss.

    Args:
        predictions: Floating, `[N, ..., C]`, one logit per class and pixel, as in
            `dice_loss`.
        targets: Real, one-hot or soft labels in [0, 1], `[N, ..., C]`.
        class_weights: Real, `[C]`, factors of the losses, as in `dice_loss`.
        smooth: At least 0, added to both sides of the fraction, broadcastable to
            `[N, C]`. 1.0 as in optax; 0.0 gives the plain ratio.
        apply_softmax: False if `predictions` are already probabilities, which need not
            add up to 1. NaN results if one is more than 1e-3 outside [0, 1].
        ignore_background: Whether to exclude the first of several classes.
        axis: The axes of one region; None means all axes but the first and the last.
        where: Boolean mask; False entries are excluded. It broadcasts to the pixels, or
            to `predictions` to exclude single classes of a pixel.
        weights: Real weights per pixel.
        reduction: "none", "sum" or, by default as in optax, "mean" over the classes. A
            class whose pixels are all excluded is excluded too.

    Returns:
        `[N]`, or `[N, C]` if not reduced (`[N, C - 1]` without background), in [0, 1]
        before class weights; 0 for a class that is neither predicted nor present.

    Gradient:
        As in `dice_loss`. Differentiable in every real argument.

    Example:
        >>> import jaxloss as jl
        >>> logits = [[[2.0, 0.0], [0.0, 0.0], [-1.0, 1.0], [-20.0, 20.0]]]
        >>> targets = [[[1, 0], [1, 0], [0, 1], [0, 1]]]
        >>> [f"{x:.4f}" for x in jl.jaccard_loss(logits, targets)]
        ['0.2204']

    References:
        Md Atiqur Rahman and Yang Wang, "Optimizing Intersection-Over-Union in Deep
        Neural Networks for Image Segmentation", 2016,
        https://doi.org/10.1007/978-3-319-50835-1_22
    """
    pixels = to_pixels(predictions, targets, apply_softmax, where, weights, reduction)
    loss, counts = tversky_per_class(pixels, axis, 1.0, 1.0, smooth)
    return reduce_classes(loss, counts, class_weights, ignore_background, reduction)


@public(alpha=at_least(0), beta=at_least(0), gamma=at_least(0), smooth=at_least(0))
def focal_tversky_loss(
    predictions: ArrayLike,
    targets: ArrayLike,
    *,
    alpha: ArrayLike = 0.5,
    beta: ArrayLike = 0.5,
    gamma: ArrayLike = 0.75,
    class_weights: ArrayLike | None = None,
    smooth: ArrayLike = 1.0,
    apply_softmax: bool = True,
    ignore_background: bool = False,
    axis: int | Sequence[int] | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""Focal Tversky loss: the Tversky loss of each class to the power of `gamma`.

    Choose it over `tversky_loss` where some classes are much harder than others: a
    `gamma` below 1 raises the gradient of a class that is nearly right, a `gamma` above
    1 lowers it.

    With $p$ the probabilities, $t$ the targets and $w$ the weights of the pixels, each
    class has the hits $H = \sum w p t$, the false positives $F = \sum w p (1 - t)$ and
    the false negatives $M = \sum w t (1 - p)$:

    $$ \left( \frac{\alpha F + \beta M}{H + \alpha F + \beta M + \text{smooth}}
    \right)^\gamma $$

    Args:
        predictions: Floating, `[N, ..., C]`, one logit per class and pixel, as in
            `dice_loss`.
        targets: Real, one-hot or soft labels in [0, 1], `[N, ..., C]`.
        alpha: At least 0, the cost of a false positive, broadcastable to `[N, C]`.
        beta: At least 0, the cost of a false negative, broadcastable to `[N, C]`.
        gamma: At least 0, the exponent, broadcastable to `[N, C]`. 0.75 is the inverse
            of the 4/3 in the paper.
        class_weights: Real, `[C]`, factors of the losses, as in `dice_loss`.
        smooth: At least 0, added to both sides of the fraction, broadcastable to
            `[N, C]`. 1.0 as in optax; 0.0 gives the plain ratio.
        apply_softmax: False if `predictions` are already probabilities, which need not
            add up to 1. NaN results if one is more than 1e-3 outside [0, 1].
        ignore_background: Whether to exclude the first of several classes.
        axis: The axes of one region; None means all axes but the first and the last.
        where: Boolean mask; False entries are excluded. It broadcasts to the pixels, or
            to `predictions` to exclude single classes of a pixel.
        weights: Real weights per pixel.
        reduction: "none", "sum" or, by default as in optax, "mean" over the classes. A
            class whose pixels are all excluded is excluded too.

    Returns:
        `[N]`, or `[N, C]` if not reduced (`[N, C - 1]` without background), in [0, 1]
        before class weights; 0 for a class that is neither predicted nor present.

    Gradient:
        $\gamma L^{\gamma - 1}$ times the gradient of `tversky_loss` $L$; where $L = 0$
        it is 0 unless $\gamma = 1$. Differentiable in every real argument.

    Example:
        >>> import jaxloss as jl
        >>> logits = [[[2.0, 0.0], [0.0, 0.0], [-1.0, 1.0], [-20.0, 20.0]]]
        >>> targets = [[[1, 0], [1, 0], [0, 1], [0, 1]]]
        >>> [f"{x:.4f}" for x in jl.focal_tversky_loss(logits, targets)]
        ['0.2087']

    References:
        Nabila Abraham and Naimul Mefraz Khan, "A Novel Focal Tversky loss function with
        improved Attention U-Net for lesion segmentation", 2018,
        https://arxiv.org/abs/1810.07842, equation 5
    """
    pixels = to_pixels(predictions, targets, apply_softmax, where, weights, reduction)
    loss, counts = tversky_per_class(pixels, axis, alpha, beta, smooth)
    loss = _power(loss, parameter("gamma", gamma, loss))
    return reduce_classes(loss, counts, class_weights, ignore_background, reduction)


# f = x^gamma has df/dx = gamma x^(gamma - 1) and df/dgamma = x^gamma log x. At x = 0,
# the minimum of the loss, df/dx is infinite for gamma < 1; the rule gives 0 there.
@pointwise
def _power(x, gamma):
    some = x > 0
    held = jnp.where(some, x, 1)
    factor = held**gamma
    value = jnp.where(some, factor, x + (gamma == 0).astype(x.dtype))
    at_zero = 0 * x + (gamma == 1).astype(x.dtype)
    slope = jnp.where(some, gamma * held ** (gamma - 1), at_zero)
    return value, (slope, jnp.where(some, factor * jnp.log(held), 0))

"""Tversky losses: the overlap against a cost of each kind of error."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxloss._core.arguments.checks import at_least
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.rule.analytic import pointwise
from jaxloss.segmentation._regions import misfit, parameter, reduce_classes, to_pixels


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
    r"""Returns the Tversky loss of predicted and true regions.

    Choose it over `dice_loss`, which has the same arguments and formula, to say that
    false positives (`alpha`) and false negatives (`beta`) cost differently: a beta
    above alpha finds more of a small region.

    With $p$ the probabilities, $t$ the targets and $w$ the weights of a class's pixels,
    the hits $H = \sum w p t$, the false positives $F = \sum w p (1 - t)$ and the false
    negatives $M = \sum w t (1 - p)$:

    $$ \frac{\alpha F + \beta M}{H + \alpha F + \beta M + \text{smooth}} $$

    Args:
        predictions: Floating, `[N, ..., C]`, a logit for each class at each pixel, of
            which a softmax is taken; with C = 1 a sigmoid, and the class axis may be
            left out if `targets` has it.
        targets: Real, one-hot or soft labels in [0, 1], `[N, ..., C]`; with C = 1 the
            class axis may be left out.
        alpha: At least 0, what a false positive costs, broadcastable to the losses.
        beta: At least 0, what a false negative costs, broadcastable to the losses.
        class_weights: Real, `[C]`, factors on the classes' losses; None is 1 each. The
            mean is not divided by them, as in optax.
        smooth: At least 0, added to both sides of the fraction, broadcastable to the
            losses `[N, C]`. 1.0 as in optax; 0.0 for the plain ratio.
        apply_softmax: False if `predictions` are probabilities already; they need not
            add up to 1.
        ignore_background: Whether to leave out the first of several classes.
        axis: The axes that a region extends over; None for all but the first and the
            last.
        where: Boolean mask of pixels, broadcastable to `predictions` without its class
            axis; False pixels count nowhere. A mask of the rank of `predictions` drops
            single classes.
        weights: Real weights of the pixels, broadcastable likewise.
        reduction: "mean" or "sum" over the classes, or "none" for each class's loss. A
            class without any pixel that counts is not counted.

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
        >>> [f"{x:.4f}" for x in jl.tversky_loss(logits, targets, alpha=0.3, beta=0.7)]
        ['0.1250']

    References:
        Seyed Sadegh Mohseni Salehi, Deniz Erdogmus and Ali Gholipour, "Tversky loss
        function for image segmentation using 3D fully convolutional deep networks",
        2017, https://arxiv.org/abs/1706.05721, equation 4
    """
    pixels = to_pixels(predictions, targets, apply_softmax, where, weights, reduction)
    loss, counts = misfit(pixels, axis, alpha, beta, smooth)
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
    r"""Returns the Jaccard loss, 1 less intersection over union, of two regions.

    Choose it over `dice_loss` where intersection over union is what the result is
    judged by; at the same overlap it is the larger of the two.

    With $p$ the probabilities, $t$ the targets and $w$ the weights of a class's pixels,
    the hits $H = \sum w p t$, the false positives $F = \sum w p (1 - t)$ and the false
    negatives $M = \sum w t (1 - p)$:

    $$ \frac{F + M}{H + F + M + \text{smooth}} $$

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
        apply_softmax: False if `predictions` are probabilities already; they need not
            add up to 1.
        ignore_background: Whether to leave out the first of several classes.
        axis: The axes that a region extends over; None for all but the first and the
            last.
        where: Boolean mask of pixels, broadcastable to `predictions` without its class
            axis; False pixels count nowhere. A mask of the rank of `predictions` drops
            single classes.
        weights: Real weights of the pixels, broadcastable likewise.
        reduction: "mean" or "sum" over the classes, or "none" for each class's loss. A
            class without any pixel that counts is not counted.

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
        >>> [f"{x:.4f}" for x in jl.jaccard_loss(logits, targets)]
        ['0.2204']

    References:
        Md Atiqur Rahman and Yang Wang, "Optimizing Intersection-Over-Union in Deep
        Neural Networks for Image Segmentation", 2016,
        https://doi.org/10.1007/978-3-319-50835-1_22
    """
    pixels = to_pixels(predictions, targets, apply_softmax, where, weights, reduction)
    loss, counts = misfit(pixels, axis, 1.0, 1.0, smooth)
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
    r"""Returns the Tversky loss of each class to a power.

    Choose it over `tversky_loss` where some classes are much harder than others: with
    `gamma` below 1 a class that is nearly right keeps more of its gradient, above 1
    less.

    With $p$ the probabilities, $t$ the targets and $w$ the weights of a class's pixels,
    the hits $H = \sum w p t$, the false positives $F = \sum w p (1 - t)$ and the false
    negatives $M = \sum w t (1 - p)$:

    $$ \left( \frac{\alpha F + \beta M}{H + \alpha F + \beta M + \text{smooth}}
    \right)^\gamma $$

    Args:
        predictions: Floating, `[N, ..., C]`, a logit for each class at each pixel, of
            which a softmax is taken; with C = 1 a sigmoid, and the class axis may be
            left out if `targets` has it.
        targets: Real, one-hot or soft labels in [0, 1], `[N, ..., C]`; with C = 1 the
            class axis may be left out.
        alpha: At least 0, what a false positive costs, broadcastable to the losses.
        beta: At least 0, what a false negative costs, broadcastable to the losses.
        gamma: At least 0, the exponent, broadcastable to the losses. 0.75 is 1 over the
            paper's 4/3.
        class_weights: Real, `[C]`, factors on the classes' losses; None is 1 each. The
            mean is not divided by them, as in optax.
        smooth: At least 0, added to both sides of the fraction, broadcastable to the
            losses `[N, C]`. 1.0 as in optax; 0.0 for the plain ratio.
        apply_softmax: False if `predictions` are probabilities already; they need not
            add up to 1.
        ignore_background: Whether to leave out the first of several classes.
        axis: The axes that a region extends over; None for all but the first and the
            last.
        where: Boolean mask of pixels, broadcastable to `predictions` without its class
            axis; False pixels count nowhere. A mask of the rank of `predictions` drops
            single classes.
        weights: Real weights of the pixels, broadcastable likewise.
        reduction: "mean" or "sum" over the classes, or "none" for each class's loss. A
            class without any pixel that counts is not counted.

    Returns:
        `[N]`, or `[N, C]` without a reduction (a class less without background), in
        [0, 1] before class weights.

    Gradient:
        $\gamma L^{\gamma - 1}$ times that of `tversky_loss`, $L$ being that loss; at
        $L = 0$ it is 0 unless $\gamma = 1$. Every real argument receives its own.

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
        >>> [f"{x:.4f}" for x in jl.focal_tversky_loss(logits, targets)]
        ['0.2087']

    References:
        Nabila Abraham and Naimul Mefraz Khan, "A Novel Focal Tversky loss function with
        improved Attention U-Net for lesion segmentation", 2018,
        https://arxiv.org/abs/1810.07842, equation 5
    """
    pixels = to_pixels(predictions, targets, apply_softmax, where, weights, reduction)
    loss, counts = misfit(pixels, axis, alpha, beta, smooth)
    loss = _power(loss, parameter("gamma", gamma, loss))
    return reduce_classes(loss, counts, class_weights, ignore_background, reduction)


# df/dx = gamma x^(gamma - 1) is infinite at x = 0 for gamma < 1, where 0 is the
# subgradient of a loss at its minimum; df/dgamma = x^gamma log x.
@pointwise
def _power(x, gamma):
    some = x > 0
    held = jnp.where(some, x, 1)
    factor = held**gamma
    value = jnp.where(some, factor, x + (gamma == 0).astype(x.dtype))
    at_zero = 0 * x + (gamma == 1).astype(x.dtype)
    slope = jnp.where(some, gamma * held ** (gamma - 1), at_zero)
    return value, (slope, jnp.where(some, factor * jnp.log(held), 0))

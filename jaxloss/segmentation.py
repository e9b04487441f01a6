"""Segmentation losses: the overlap of predicted and true regions, class by class."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxloss._core import checks
from jaxloss._core.classes import class_weight_array, drop, mask_classes
from jaxloss._core.derivative import pointwise
from jaxloss._core.probability import sigmoid, softmax, times_complement
from jaxloss._core.reduction import Reduction, reduce_loss


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
    pixels = _pixels(predictions, targets, apply_softmax, where, weights, reduction)
    loss, counts = _misfit(pixels, axis, alpha, beta, smooth)
    return _reduce(loss, counts, class_weights, ignore_background, reduction)


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
    pixels = _pixels(predictions, targets, apply_softmax, where, weights, reduction)
    loss, counts = _misfit(pixels, axis, alpha, beta, smooth)
    return _reduce(loss, counts, class_weights, ignore_background, reduction)


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
    pixels = _pixels(predictions, targets, apply_softmax, where, weights, reduction)
    loss, counts = _misfit(pixels, axis, 1.0, 1.0, smooth)
    return _reduce(loss, counts, class_weights, ignore_background, reduction)


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
    pixels = _pixels(predictions, targets, apply_softmax, where, weights, reduction)
    loss, counts = _misfit(pixels, axis, alpha, beta, smooth)
    loss = _power(loss, _parameter("gamma", gamma, loss))
    return _reduce(loss, counts, class_weights, ignore_background, reduction)


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
    pixels = _pixels(predictions, targets, apply_softmax, where, weights, reduction)
    loss, counts = _misfit(pixels, None, 0.5, 0.5, smooth)
    weight = 1 if pixels.weight is None else pixels.weight
    classes = loss.shape[-1]
    size = jnp.sum((weight * pixels.t).reshape(-1, classes), axis=0)
    scale = 1 / (size * size + 1e-7)
    if counts is not None:  # a class that no image has takes no share of the weights
        seen = jnp.any(counts.reshape(-1, classes), axis=0)
        scale = jnp.where(seen, scale, 0)
        classes = jnp.maximum(jnp.sum(seen, dtype=scale.dtype), 1)
    total = jnp.sum(scale)
    scale = scale / jnp.where(total == 0, 1, total) * classes
    return _reduce(loss, counts, scale, ignore_background, reduction, axis=None)


class _Pixels(NamedTuple):
    """What is known of every pixel, in the shape [..., C] of the predictions."""

    p: jax.Array  # predicted probability, 0 where dropped
    t: jax.Array  # target, 0 where dropped
    missed: jax.Array  # t (1 - p)
    weight: jax.Array | None  # [..., 1], 0 where dropped
    counts: jax.Array | None  # boolean, what is neither dropped nor of weight 0


def _pixels(predictions, targets, apply_softmax, where, weights, reduction):
    predictions, _ = checks.class_array("predictions", predictions, -1)
    targets = checks.to_array("targets", targets)
    given = targets.shape
    if predictions.ndim == targets.ndim - 1:
        predictions = predictions[..., None]
    elif targets.ndim == predictions.ndim - 1:
        targets = targets[..., None]
    axes = (predictions.ndim - 1,)
    if targets.shape[-1:] != predictions.shape[-1:]:
        raise ValueError(
            f"`targets` must have the classes of predictions {predictions.shape} on "
            f"their last axis, got shape {given}; for class indices use "
            "`jax.nn.one_hot(targets, classes)`."
        )
    checks.check_broadcast("targets", targets.shape, "predictions", predictions.shape)
    dtype = checks.compute_dtype(predictions, targets)
    t = checks.broadcast_to(targets.astype(dtype), predictions)
    masked, classes, keep, weights = mask_classes(
        predictions, axes, where, weights, reduction, dtype, name="predictions"
    )
    t = drop(t, classes, keep, axes)
    if not apply_softmax:
        p = _probabilities(drop(predictions.astype(dtype), classes, keep, axes))
        missed = t * (1 - p)
    elif predictions.shape[-1] == 1:
        logits = masked.astype(dtype)  # once: the gradient is rounded once
        p, missed = sigmoid(logits), t * sigmoid(-logits)
    else:
        p = softmax(masked.astype(dtype), axes)
        missed = times_complement(t, p, axes)

    counts = classes if classes is not None or keep is None else keep[..., None]
    weight = None
    if weights is not None:
        weight = weights if keep is None else jnp.where(keep, weights, 0)
        weight = jnp.broadcast_to(weight, predictions.shape[:-1])[..., None]
        counts = weight != 0 if counts is None else counts & (weight != 0)
    return _Pixels(drop(p, classes, keep, axes), t, missed, weight, counts)


# Rounding, as of an image that was resampled, may put a probability a little outside
# [0, 1], where the loss is as well defined; a logit in its place gives NaN.
_SLACK = 1e-3


def _probabilities(p):
    inside = (p >= -_SLACK) & (p <= 1 + _SLACK)
    checks.check_values("predictions", inside, "probabilities if not apply_softmax")
    return jnp.where(inside, p, jnp.nan)


def _misfit(pixels, axis, alpha, beta, smooth):
    """Per class, the loss and whether any pixel counts (None: all do).

    Of the hits Σ w p t, the false positives Σ w p (1 - t) and the false negatives
    Σ w t (1 - p), the wrong ones' share, with no difference of sums.
    """
    p, t, missed, weight, counts = pixels
    axes = _summed_axes(axis, p.ndim)
    hit, extra, missed = (
        jnp.sum(part if weight is None else weight * part, axis=axes)
        for part in (p * t, _beyond(p, t), missed)
    )
    alpha = _parameter("alpha", alpha, hit)
    beta = _parameter("beta", beta, hit)
    smooth = _parameter("smooth", smooth, hit)
    loss = _share(alpha * extra + beta * missed, hit + smooth)
    if counts is not None:
        counts = jnp.any(checks.broadcast_to(counts, p), axis=axes)
    return loss, counts


# p (1 - t) without the array 1 - t, which XLA on CPU would write to memory: with n the
# round t it is p (1 - n) - p (t - n), two terms that never cancel.
@jax.custom_jvp
def _beyond(p, t):
    whole = jnp.round(t)
    return (p - p * whole) - p * (t - whole)


@_beyond.defjvp
def _beyond_jvp(primals, tangents):
    (p, t), (dp, dt) = primals, tangents
    return _beyond(p, t), (dp - t * dp) - p * dt


# f = a/(a + b): df/da = b/(a + b)², df/db = -a/(a + b)², where plain differentiation
# loses the first in 1/(a + b) - a/(a + b)² as a outgrows b. 0/0 is 0: where nothing is
# predicted and nothing is there, nothing is wrong.
@pointwise
def _share(a, b):
    total = a + b
    none = total == 0
    inverse = 1 / jnp.where(none, 1, total)
    value = a * inverse
    return value, ((b * inverse) * inverse, -value * inverse)


def _reduce(
    loss, counts, class_weights, ignore_background, reduction, axis: int | None = -1
):
    if class_weights is not None:
        axes = (loss.ndim - 1,)
        loss = loss * class_weight_array(class_weights, loss, axes, loss.dtype)
    if ignore_background and loss.shape[-1] > 1:
        loss = loss[..., 1:]
        counts = None if counts is None else counts[..., 1:]
    return reduce_loss(loss, counts, None, reduction, axis=axis)


def _summed_axes(axis, ndim):
    """The axes that a region extends over: by default all but the first and last."""
    if axis is None:
        return tuple(range(1, ndim - 1))
    several = tuple(axis) if isinstance(axis, Sequence) else (axis,)
    axes = checks.canonical_axes("axis", several, ndim) if several else ()
    if ndim - 1 in axes:
        raise ValueError(f"`axis` must not contain the class axis, got {axis}.")
    return axes


def _parameter(name, value, like):
    checks.check_number(name, value, minimum=0)
    array = checks.to_array(name, value).astype(like.dtype)
    checks.check_broadcast(name, array.shape, "the loss per class", like.shape)
    return checks.broadcast_to(array, like)

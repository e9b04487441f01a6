"""Cross entropies with a modified dependence on the label's probability."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import Interval, at_least, between
from jaxloss._core.arguments.classes import (
    class_weight_array,
    integer_arguments,
    weight_of_label,
)
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.log_sum_exp import surprisals
from jaxloss._core.numerics.exact import zero_safe_product
from jaxloss._core.numerics.functions import (
    accurate_expm1,
    expm1_ratio,
    expm1_ratio_slope,
)
from jaxloss._core.rule.analytic import pointwise
from jaxloss._core.soft_labels import soft_cross_entropy, weighted_miss
from jaxloss._core.softmax import (
    at_label,
    is_class,
    surprisal,
    widen,
)
from jaxloss.multiclass._labels import dense_arguments, is_zero, smooth


@public(gamma=at_least(0), label_smoothing=between(0, 1))
def softmax_focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int = -1,
    *,
    gamma: ArrayLike = 2.0,
    class_weights: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Softmax focal loss: cross entropy that down-weights easy examples.

    Choose it over `softmax_cross_entropy_with_integer_labels`, its case gamma = 0,
    where easy examples outnumber hard ones. `sigmoid_focal_loss` is for independent
    yes-or-no outputs.

    With $p$ the softmax of the logits, $y$ the label and $w$ the `class_weights`:

    $$ -w_y \, (1 - p_y)^{\gamma} \log(p_y) $$

    With `label_smoothing` $a$, it becomes a sum over all classes $j$, with factors
    $w_j\,((1 - a)\,[j = y] + a / C)$ in place of $w_y$.

    Also known as multiclass focal loss. Keras: `CategoricalFocalCrossentropy`.

    Args:
        logits: Floating, `[..., C]` with the classes along `axis`, unnormalised
            log-probabilities.
        labels: Integer, in [0, C), broadcastable to `[...]`.
        axis: The class axis.
        gamma: $\gamma \ge 0$, broadcastable to `[...]`; a larger one down-weights easy
            examples more. 2.0 as in the paper.
        class_weights: Real, `[C]`, a factor per class, Keras's alpha; None means 1. As
            in Keras, the mean does not divide by them.
        label_smoothing: Scalar in [0, 1], the share of each label that is spread evenly
            over the classes.
        where: Boolean mask; False entries are excluded. A mask of the rank of `logits`
            excludes single classes.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, at least 0; a scalar if reduced.

    Gradient:
        With $m = 1 - p_y$, without smoothing:
        $w_y\,(p_j - [j = y])\,m^{\gamma}\,(1 - \gamma\,p_y \log(p_y) / m)$ for
        `logits`. Smooth, also in `gamma`, `class_weights` and `label_smoothing`.

    Raises:
        ValueError: If `gamma` is negative, or `label_smoothing` lies outside [0, 1].

    Example:
        >>> import jaxloss as jl
        >>> loss = jl.softmax_focal_loss([[0.0, 0.0], [2.0, 0.0]], [0, 0])
        >>> [f"{x:.4f}" for x in loss]
        ['0.1733', '0.0018']

    References:
        Tsung-Yi Lin, Priya Goyal, Ross Girshick, Kaiming He and Piotr Dollár, "Focal
        Loss for Dense Object Detection", 2017, equation 4,
        https://arxiv.org/abs/1708.02002
    """
    logits, (axis,) = checks.class_array("logits", logits, (axis,))
    logits, labels, examples = integer_arguments(
        "logits", logits, labels, axis, where, weights, reduction
    )
    gamma = checks.to_array("gamma", gamma).astype(examples.dtype)
    checks.check_broadcast("gamma", gamma.shape, "the per-example loss", labels.shape)
    (gamma,) = examples.tail.select(checks.broadcast_to(gamma, labels))
    scale = None
    if class_weights is not None:
        scale = class_weight_array(class_weights, logits, examples)
    if is_zero(label_smoothing):
        loss = _focal(surprisal(logits, labels, axis=axis), gamma)
        if scale is not None:
            loss = zero_safe_product(weight_of_label(scale, labels, examples), loss)
    else:
        hot = at_label(logits, labels, axis).astype(examples.dtype)
        scale = None if scale is None else examples.share(scale, hot)
        hot = smooth(examples.select(hot), label_smoothing, examples, scale)
        hot = examples.guard(hot)
        focal = _focal(surprisals(logits, axis=axis), jnp.expand_dims(gamma, axis))
        # An impossible class has an infinite loss, which is also the gradient of its
        # entry in `hot`. Times a class weight of 0 it would be NaN: stop it.
        hot = jnp.where(jnp.isposinf(focal), jax.lax.stop_gradient(hot), hot)
        loss = jnp.sum(zero_safe_product(hot, focal), axis=axis)
        loss = jnp.where(is_class(logits, labels, axis), loss, jnp.nan)
    return examples.tail.reduce(loss)


def _focal(surprise, gamma):
    """The focal loss of surprisals, with gamma broadcast to their shape."""
    return _focal_of_surprisal(surprise, checks.broadcast_to(gamma, surprise))


# With the surprisal h = -log p and miss = 1 - p = -expm1(-h):
#     f = h · miss^gamma,   df/dh = miss^gamma (1 + gamma h/expm1(h)),
#     df/dgamma = f log(miss).
# h/expm1(h) falls from 1 at h = 0 to 0. Nothing subtracts p from 1, which would cancel.
@pointwise
def _focal_of_surprisal(h, gamma):
    miss = -accurate_expm1(-h)
    sure = miss == 0  # the derivative of miss^gamma may be infinite here
    power = jnp.where(sure, 1, miss) ** gamma
    factor = jnp.where(sure, jnp.where(gamma == 0, 1, 0), power)
    value = h * factor
    far = h >= 80  # where h/expm1(h) < 1e-32, and e^h may overflow
    ratio = jnp.where(far, 0, 1 / expm1_ratio(jnp.where(far, 0, h)))
    high = miss > 0.5
    log_miss = jnp.where(
        high,
        jnp.log1p(-jnp.exp(-jnp.where(high, h, 1))),
        jnp.log(jnp.where(high | (miss == 0), 0.25, miss)),
    )
    return value, (factor * (1 + gamma * ratio), zero_safe_product(log_miss, value))


@public()
def poly_loss_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    epsilon: ArrayLike = 2.0,
    axis: int | tuple[int, ...] | None = -1,
    where: ArrayLike | None = None,
    *,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""PolyLoss: softmax cross entropy plus epsilon times the probability of a miss.

    Choose it over `softmax_cross_entropy`, its case epsilon = 0, to tune with one
    number how strongly a label of high probability is still pushed towards 1: a
    positive epsilon pushes harder.

    With $q$ the labels, $x$ the logits and $p$ their softmax:

    $$ \sum_j q_j \left( -\log(p_j) + \epsilon\,(1 - p_j) \right) $$

    Args:
        logits: Floating, `[..., C]` with the classes along `axis`, unnormalised
            log-probabilities.
        labels: Real, at least 0, broadcastable to `logits`. They need not sum to 1 and
            are not normalised.
        epsilon: $\epsilon$, scalar of either sign, the weight of the second term. 2.0
            as in optax and, for ImageNet, in the paper.
        axis: The class axis, or a tuple of axes that share one distribution; None for
            all axes.
        where: Boolean mask; False entries are excluded. A mask of the rank of `logits`
            excludes single classes.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, at least 0 for $\epsilon \ge -1$; a scalar if reduced.

    Gradient:
        With $Q = \sum_j q_j$ and $h = \sum_j q_j\,p_j$:
        $Q\,p_j - q_j - \epsilon\,p_j\,(q_j - h)$ for `logits`,
        $-\log(p_j) + \epsilon\,(1 - p_j)$ for `labels` and $Q - h$ for `epsilon`; all
        smooth.

    Example:
        >>> import jaxloss as jl
        >>> logits = [[0.0, 0.0], [2.0, 0.0]]
        >>> [f"{x:.4f}" for x in jl.poly_loss_cross_entropy(logits, [1.0, 0.0])]
        ['1.6931', '0.3653']

    References:
        Zhaoqi Leng et al., "PolyLoss: A Polynomial Expansion Perspective of
        Classification Loss Functions", 2022, https://arxiv.org/abs/2204.12511
    """
    logits, labels, examples = dense_arguments(
        logits, labels, axis, where, weights, reduction
    )
    axes = examples.axes
    epsilon = checks.scalar("epsilon", epsilon, labels.dtype)
    epsilon = examples.share(epsilon, labels)
    # Two terms read the logits: widened once, their summed gradient rounds once.
    logits = widen(logits)
    loss = soft_cross_entropy(logits, labels, axis=axes)
    loss = loss + weighted_miss(logits, examples.guard(epsilon * labels), axis=axes)
    return examples.tail.reduce(loss)


@public(q=Interval(0, 1, open_minimum=True))
def generalized_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int = -1,
    *,
    q: ArrayLike = 0.7,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Generalized cross entropy, which bounds the loss of a wrong label by 1/q.

    Choose it over `softmax_cross_entropy_with_integer_labels`, its limit as q tends to
    0, where some labels are wrong.

    With $p$ the softmax of the logits and $y$ the label:

    $$ (1 - p_y^q) / q $$

    Also known as GCE. Keras: `CategoricalGeneralizedCrossEntropy`.

    Args:
        logits: Floating, `[..., C]` with the classes along `axis`, unnormalised
            log-probabilities.
        labels: Integer, in [0, C), broadcastable to `[...]`.
        axis: The class axis.
        q: $q$, scalar in (0, 1]; a larger one is more robust to wrong labels. 0.7 as in
            the paper.
        where: Boolean mask; False entries are excluded. A mask of the rank of `logits`
            excludes single classes.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in [0, 1/q]; a scalar if reduced.

    Gradient:
        $p_y^q\,(p_j - [j = y])$ for `logits`. Smooth, also in `q`.

    Numerics:
        A logit of -inf at the label gives the finite loss 1/q.

    Raises:
        ValueError: If `q` lies outside (0, 1].

    Example:
        >>> import jaxloss as jl
        >>> logits = [[0.0, 0.0], [-9.0, 9.0]]
        >>> [f"{x:.4f}" for x in jl.generalized_cross_entropy(logits, [0, 0], q=0.5)]
        ['0.5858', '1.9998']

    References:
        Zhilu Zhang and Mert R. Sabuncu, "Generalized Cross Entropy Loss for Training
        Deep Neural Networks with Noisy Labels", 2018, https://arxiv.org/abs/1805.07836
    """
    logits, (axis,) = checks.class_array("logits", logits, (axis,))
    logits, labels, examples = integer_arguments(
        "logits", logits, labels, axis, where, weights, reduction
    )
    q = checks.scalar("q", q, examples.dtype)
    surprise = surprisal(logits, labels, axis=axis)
    q = examples.tail.guard(checks.broadcast_to(q, surprise))
    loss = _generalized_of_surprisal(surprise, q)
    return examples.tail.reduce(loss)


# With the surprisal h = -log p and y = q h:
#     f = (1 - e^-y)/q = h r(-y),   df/dh = e^-y,
#     df/dq = ((1 + y) e^-y - 1)/q² = -h² r'(-y),
# with r(z) = (e^z - 1)/z. Of the two forms of df/dq, the last keeps its digits for
# y < 1; the first serves y >= 1, where h² might overflow. At h = inf, f = 1/q.
@pointwise
def _generalized_of_surprisal(h, q):
    impossible = jnp.isposinf(h)
    h = jnp.where(impossible, 0, h)
    y = q * h
    value = jnp.where(impossible, 1 / q, h * expm1_ratio(-y))
    h_slope = jnp.where(impossible, 0, jnp.exp(-y))
    near = jnp.where(y < 1, h, 0)
    near_slope = -near * (near * expm1_ratio_slope(-q * near))
    far = jnp.minimum(y, 800)  # e^-800 is 0, and inf · 0 would be NaN
    far_slope = ((1 + far) * jnp.exp(-far) - 1) / q / q
    far_slope = jnp.where(impossible, -1 / q / q, far_slope)
    return value, (h_slope, jnp.where(impossible | (y >= 1), far_slope, near_slope))

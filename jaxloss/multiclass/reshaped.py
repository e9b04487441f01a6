"""Cross entropies with another shape in the probability of the label."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import Interval, at_least, between
from jaxloss._core.arguments.classes import (
    class_weight_array,
    integer_arguments,
    weight_of_label,
)
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.numerics.exact import zero_safe_product
from jaxloss._core.numerics.functions import (
    accurate_expm1,
    expm1_ratio,
    expm1_ratio_slope,
)
from jaxloss._core.rule.analytic import pointwise
from jaxloss._core.softmax import (
    at_label,
    is_class,
    soft_cross_entropy,
    surprisal,
    surprisals,
    weighted_miss,
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
    r"""Returns the focal loss of softmax(logits), which counts easy examples less.

    Choose it over `softmax_cross_entropy_with_integer_labels`, which it is at gamma 0,
    where easy examples outnumber the others. `sigmoid_focal_loss` is for independent
    yes-or-no outputs.

    With $p$ the softmax of the logits, $y$ the label and $w_y$ its class weight:

    $$ -w_y \, (1 - p_y)^{\gamma} \log(p_y) $$

    With `label_smoothing` $a$, the sum over the classes $j$ with the weights
    $w_j\,((1 - a)\,[j = y] + a / C)$ in place of $w_y\,[j = y]$.

    Args:
        logits: Floating, `[..., C]` with the classes along `axis`, unnormalised
            log-probabilities.
        labels: Integer, in [0, C), broadcastable to `[...]`.
        axis: The class axis.
        gamma: $\gamma \ge 0$, how much less the easy examples count, broadcastable to
            `[...]`. 2.0 as in the paper.
        class_weights: Real, `[C]`, what each class counts for, Keras's alpha. None
            counts each 1. The mean is not divided by them, as in Keras.
        label_smoothing: In [0, 1], a scalar, the share of each label that is spread
            evenly over the classes.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). A mask of the rank of `logits` drops single
            classes.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, in nats, at least 0; a scalar if reduced.

    Gradient:
        With $m = 1 - p_y$:
        $w_y\,(p_j - [j = y])\,m^{\gamma}\,(1 - \gamma\,p_y \log(p_y) / m)$ for
        `logits`. `gamma`, `class_weights` and `label_smoothing` receive theirs too, all
        smooth; `labels` none.

    Numerics:
        Computes in float32, or float64 if `logits` are float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. $1 - p_y$ is formed without a difference, so that the loss of a
        well-classified example keeps its digits. A logit of -inf has probability and
        gradient 0, and as the label's own gives inf. A label outside [0, C) gives NaN,
        and raises under `checkify`.

    Raises:
        TypeError: If `logits` is not floating, `labels` is not integer, another input
            not real, or `where` not boolean.
        ValueError: If an input does not fit the shapes above, `axis` names no axis,
            there is no class, `gamma` is negative, `label_smoothing` lies outside [0,
            1], or `reduction` is unknown.

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
        hot = smooth(examples.select(hot), label_smoothing, examples)
        hot = hot if scale is None else hot * examples.share(scale, hot)
        hot = examples.guard(hot)
        focal = _focal(surprisals(logits, axis=axis), jnp.expand_dims(gamma, axis))
        # By an impossible class's label there is no slope: times 0 it would be NaN.
        hot = jnp.where(jnp.isposinf(focal), jax.lax.stop_gradient(hot), hot)
        loss = jnp.sum(zero_safe_product(hot, focal), axis=axis)
        loss = jnp.where(is_class(logits, labels, axis), loss, jnp.nan)
    return examples.tail.reduce(loss)


def _focal(surprise, gamma):
    return _modulated(surprise, checks.broadcast_to(gamma, surprise))


# With the surprisal h = -log p and miss = 1 - p = -expm1(-h):
#     f = h · miss^gamma,   df/dh = miss^gamma (1 + gamma h/expm1(h)),
#     df/dgamma = f log(miss).
# h/expm1(h) goes from 1 at h = 0 to 0, and no difference 1 - p is ever formed.
@pointwise
def _modulated(h, gamma):
    miss = -accurate_expm1(-h)
    sure = miss == 0  # where the slope of miss^gamma need not be finite
    power = jnp.where(sure, 1, miss) ** gamma
    factor = jnp.where(sure, jnp.where(gamma == 0, 1, 0), power)
    value = h * factor
    far = h >= 80
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
    r"""Returns the cross entropy plus epsilon times the probability of a miss.

    Choose it over `softmax_cross_entropy`, which it is at epsilon 0, to tune with one
    number how much the last bit of confidence counts: a positive epsilon asks for more.

    With $q_j$ the labels, $x_j$ the logits and $p$ their softmax:

    $$ \sum_j q_j \left( -\log(p_j) + \epsilon\,(1 - p_j) \right) $$

    Args:
        logits: Floating, `[..., C]` with the classes along `axis`, unnormalised
            log-probabilities.
        labels: Real, at least 0, broadcastable to `logits`; a sum other than 1 is taken
            as it is.
        epsilon: $\epsilon$, a scalar of either sign, the weight of the second term. 2.0
            as in optax and, for ImageNet, in the paper.
        axis: The class axis, or a tuple of axes that share one distribution; None for
            all axes.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). A mask of the rank of `logits` drops single
            classes.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, in nats, at least 0 for $\epsilon \ge -1$; a scalar if reduced.

    Gradient:
        With $Q = \sum_j q_j$ and $h = \sum_j q_j\,p_j$:
        $Q\,p_j - q_j - \epsilon\,p_j\,(q_j - h)$ for `logits`,
        $-\log(p_j) + \epsilon\,(1 - p_j)$ for `labels`, $Q - h$ for `epsilon`; all
        smooth.

    Numerics:
        Computes in float32, or float64 if `logits` or `labels` are float64; time and
        memory are linear in the number of elements. An empty or fully masked input has
        sum and mean 0. $1 - p_j$ is formed without a difference. A logit of -inf has
        probability and gradient 0; a label of 0 there adds 0, another gives inf.

    Raises:
        TypeError: If `logits` is not floating, another input not real, or `where` not
            boolean.
        ValueError: If an input does not fit the shapes above, `axis` names no axis, or
            one twice, there is no class, or `reduction` is unknown.

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
    logits = widen(logits)  # once, so that the gradient is rounded once
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
    r"""Returns a loss between the cross entropy and the probability of a miss.

    Choose it over `softmax_cross_entropy_with_integer_labels`, its limit for q to 0,
    where some labels are wrong: no example can cost more than 1/q.

    With $p$ the softmax of the logits and $y$ the label:

    $$ (1 - p_y^q) / q $$

    Args:
        logits: Floating, `[..., C]` with the classes along `axis`, unnormalised
            log-probabilities.
        labels: Integer, in [0, C), broadcastable to `[...]`.
        axis: The class axis.
        q: $q$ in (0, 1], a scalar; larger forgives wrong labels more. 0.7 as in the
            paper.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). A mask of the rank of `logits` drops single
            classes.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, in [0, 1/q]; a scalar if reduced.

    Gradient:
        $p_y^q\,(p_j - [j = y])$ for `logits`; `q` receives its own, both smooth;
        `labels` none.

    Numerics:
        Computes in float32, or float64 if `logits` are float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. Small losses and a small q keep their digits. A logit of -inf has
        probability and gradient 0, and as the label's own gives 1/q. A label outside
        [0, C) gives NaN, and raises under `checkify`.

    Raises:
        TypeError: If `logits` is not floating, `labels` is not integer, another input
            not real, or `where` not boolean.
        ValueError: If an input does not fit the shapes above, `axis` names no axis,
            there is no class, `q` lies outside (0, 1], or `reduction` is unknown.

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
    loss = _generalized(surprise, q)
    return examples.tail.reduce(loss)


# With the surprisal h = -log p and y = q h:
#     f = (1 - e^-y)/q = h r(-y),   df/dh = e^-y,
#     df/dq = ((1 + y) e^-y - 1)/q² = -h² r'(-y),
# r(z) = (e^z - 1)/z. The last form keeps its digits for a small y, the one before where
# h² would overflow. An impossible label, h = inf, costs 1/q.
@pointwise
def _generalized(h, q):
    impossible = jnp.isposinf(h)
    h = jnp.where(impossible, 0, h)
    y = q * h
    value = jnp.where(impossible, 1 / q, h * expm1_ratio(-y))
    h_slope = jnp.where(impossible, 0, jnp.exp(-y))
    near = jnp.where(y < 1, h, 0)
    near_slope = -near * (near * expm1_ratio_slope(-q * near))
    far = jnp.minimum(y, 800)  # e^-800 is 0
    far_slope = ((1 + far) * jnp.exp(-far) - 1) / q / q
    far_slope = jnp.where(impossible, -1 / q / q, far_slope)
    return value, (h_slope, jnp.where(impossible | (y >= 1), far_slope, near_slope))

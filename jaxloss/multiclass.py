"""Multiclass losses: a class axis of logits or log-probabilities for each example."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxloss._core import checks
from jaxloss._core.classes import (
    class_weight_array,
    drop,
    flatten_classes,
    integer_arguments,
    mask_classes,
    weight_of,
)
from jaxloss._core.derivative import pointwise
from jaxloss._core.mesh import check_split, class_count, total
from jaxloss._core.numerics import expm1, expm1_ratio, expm1_ratio_slope, product
from jaxloss._core.reduction import Reduction, reduce_loss
from jaxloss._core.softmax import (
    at_label,
    is_class,
    log_sum_exp,
    pick,
    soft_cross_entropy,
    surprisal,
    surprisals,
    weighted_miss,
    widen,
)


def softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    where: ArrayLike | None = None,
    *,
    class_weights: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    z_loss: ArrayLike = 0.0,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the cross entropy of label distributions and softmax(logits).

    Choose it for soft labels, a probability for each class. For one right class an
    example `softmax_cross_entropy_with_integer_labels` is faster and takes no one-hot
    array.

    With $q_j$ the labels, mixed with `label_smoothing` and times their `class_weights`,
    and $x_j$ the logits:

    $$ \sum_j q_j \left( \log \sum_k e^{x_k} - x_j \right)
    + \text{z} \left( \log \sum_k e^{x_k} \right)^2 $$

    where $\text{z}$ is `z_loss`.

    Args:
        logits: Floating, `[..., C]` with the classes along `axis`, unnormalised
            log-probabilities.
        labels: Real, at least 0, broadcastable to `logits`; a sum other than 1 is taken
            as it is.
        axis: The class axis, or a tuple of axes that share one distribution; None for
            all axes.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). A mask of the rank of `logits` drops single
            classes.
        class_weights: Real, `[C]` (one size an axis for a tuple), what each class
            counts for. None counts each 1. The mean is not divided by them, as in
            PyTorch.
        label_smoothing: In [0, 1], a scalar, the share of each label that is spread
            evenly over the classes.
        z_loss: A scalar, the weight of the squared log-sum-exp, which keeps the logits
            from drifting; 1e-4 is common for language models.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, in nats, at least 0 for labels that are; a scalar if reduced.

    Gradient:
        With $p$ the softmax and $Q = \sum_j q_j$: $Q\,p_j - q_j$ for `logits` (plus
        $2\,\text{z}\,p_j \log \sum_k e^{x_k}$), $-\log p_j$ for `labels`; every other
        real argument receives its own too, all smooth.

    Numerics:
        Computes in float32, or float64 if `logits` or `labels` are float64; time and
        memory are linear in the number of elements. An empty or fully masked input has
        sum and mean 0. The largest class is left out of the sum of exponentials: a loss
        of 1e-20 keeps its digits. A logit of -inf has probability and gradient 0; a
        label of 0 there adds 0, another gives inf. A NaN or +inf logit gives NaN.

    Raises:
        TypeError: If `logits` is not floating, another input not real, or `where` not
            boolean.
        ValueError: If an input does not fit the shapes above, `axis` names no axis, or
            one twice, there is no class, `label_smoothing` lies outside [0, 1], or
            `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> logits = [[2.0, 0.0, 0.0], [0.0, 0.0, float("-inf")]]
        >>> labels = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]
        >>> [f"{x:.4f}" for x in jl.softmax_cross_entropy(logits, labels)]
        ['0.2395', '0.6931']

    References:
        Christopher M. Bishop, "Pattern Recognition and Machine Learning", 2006,
        equation 4.108,
        https://www.microsoft.com/en-us/research/people/cmbishop/prml-book/

        Christian Szegedy, Vincent Vanhoucke, Sergey Ioffe, Jonathon Shlens and Zbigniew
        Wojna, "Rethinking the Inception Architecture for Computer Vision", 2016,
        section 7 (label smoothing), https://arxiv.org/abs/1512.00567

        Aakanksha Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways",
        2022, section 5 (z_loss), https://arxiv.org/abs/2204.02311
    """
    checks.check_number("label_smoothing", label_smoothing, minimum=0, maximum=1)
    logits, labels, axes, classes, keep, weights = _dense_arguments(
        logits, labels, axis, where, weights, reduction
    )
    labels = _smooth(labels, label_smoothing, classes, axes)
    if class_weights is not None:
        labels = labels * class_weight_array(class_weights, logits, axes, labels.dtype)
    logits = _shared(logits, z_loss)
    loss = soft_cross_entropy(logits, labels, axis=axes)
    loss = loss + _z_loss(logits, z_loss, axes, labels.dtype)
    return reduce_loss(loss, keep, weights, reduction)


def safe_softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    where: ArrayLike | None = None,
    *,
    class_weights: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    z_loss: ArrayLike = 0.0,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns softmax_cross_entropy, under the name that optax gives its safe variant.

    Choose `softmax_cross_entropy` in new code: here the two are one function, and both
    are safe at logits of -inf.

    With $q_j$ the labels, mixed with `label_smoothing` and times their `class_weights`,
    and $x_j$ the logits:

    $$ \sum_j q_j \left( \log \sum_k e^{x_k} - x_j \right)
    + \text{z} \left( \log \sum_k e^{x_k} \right)^2 $$

    where $\text{z}$ is `z_loss`.

    Args:
        logits: Floating, `[..., C]` with the classes along `axis`, unnormalised
            log-probabilities.
        labels: Real, at least 0, broadcastable to `logits`; a sum other than 1 is taken
            as it is.
        axis: The class axis, or a tuple of axes that share one distribution; None for
            all axes.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). A mask of the rank of `logits` drops single
            classes.
        class_weights: Real, `[C]` (one size an axis for a tuple), what each class
            counts for. None counts each 1. The mean is not divided by them, as in
            PyTorch.
        label_smoothing: In [0, 1], a scalar, the share of each label that is spread
            evenly over the classes.
        z_loss: A scalar, the weight of the squared log-sum-exp.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, in nats, at least 0 for labels that are; a scalar if reduced.

    Gradient:
        That of `softmax_cross_entropy`.

    Numerics:
        Computes in float32, or float64 if `logits` or `labels` are float64; time and
        memory are linear in the number of elements. An empty or fully masked input has
        sum and mean 0. A logit of -inf has probability and gradient 0; a label of 0
        there adds 0, another gives inf.

    Raises:
        TypeError: If `logits` is not floating, another input not real, or `where` not
            boolean.
        ValueError: If an input does not fit the shapes above, `axis` names no axis, or
            one twice, there is no class, `label_smoothing` lies outside [0, 1], or
            `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> logits = [0.0, 0.0, float("-inf")]
        >>> print(f"{jl.safe_softmax_cross_entropy(logits, [0.5, 0.5, 0.0]):.4f}")
        0.6931

    References:
        Optax, "Losses", `safe_softmax_cross_entropy`,
        https://optax.readthedocs.io/en/latest/api/losses.html
    """
    return softmax_cross_entropy(
        logits,
        labels,
        axis,
        where,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        weights=weights,
        reduction=reduction,
    )


def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    where: ArrayLike | None = None,
    *,
    class_weights: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    z_loss: ArrayLike = 0.0,
    ignore_index: int | None = None,
    axis_name: str | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the cross entropy of class labels and softmax(logits).

    Choose it for one right class an example, next-token prediction included. It needs
    no one-hot array; `softmax_cross_entropy` takes soft labels.

    With $y$ the label, $x_j$ the logits and $w_y$ its class weight:

    $$ w_y \left( \log \sum_j e^{x_j} - x_y \right)
    + \text{z} \left( \log \sum_j e^{x_j} \right)^2 $$

    where $\text{z}$ is `z_loss`. With `label_smoothing` $a$, every class $j$ takes part
    with the weight $w_j\,((1 - a)\,[j = y] + a / C)$ in place of $w_y\,[j = y]$.

    Args:
        logits: Floating, `[..., C]` with the classes along `axis`, unnormalised
            log-probabilities.
        labels: Integer, in [0, C), broadcastable to `[...]`.
        axis: The class axis, or a tuple of axes that share one distribution; a label is
            then the flat index into them, in the tuple's order.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). A mask of the rank of `logits` drops single
            classes.
        class_weights: Real, `[C]`, what each class counts for. None counts each 1.
            "mean" divides by the sum of class_weights[label], as in PyTorch.
        label_smoothing: In [0, 1], a scalar, the share of each label that is spread
            evenly over the classes.
        z_loss: A scalar, the weight of the squared log-sum-exp, which keeps the logits
            from drifting; 1e-4 is common for language models.
        ignore_index: Python int, in [0, C) or not: examples with this label count
            nowhere. None, unlike PyTorch's -100, ignores no label.
        axis_name: Inside `jax.shard_map`, the mesh axis over which the classes are
            split: `logits`, `class_weights` and a mask of classes hold each device's
            own, in the order of the devices, and `labels` stay in [0, C) of all. Only
            numbers an example cross the network, and none for the gradient of `logits`.
            Under plain `jit` a sharded class axis needs no name.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, in nats, at least 0; a scalar if reduced.

    Gradient:
        With $p$ the softmax: $w_y\,(p_j - [j = y])$ for `logits` (plus
        $2\,\text{z}\,p_j \log \sum_k e^{x_k}$). `class_weights`, `label_smoothing` and
        `z_loss` receive theirs too, all smooth; `labels` none.

    Numerics:
        Computes in float32, or float64 if `logits` are float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. The label is left out of the sum of exponentials: a loss of 1e-20 keeps
        its digits. A logit of -inf has probability and gradient 0, and as the label's
        own gives inf. A label outside [0, C) gives NaN, and raises under `checkify`; a
        NaN or +inf logit gives NaN.

    Raises:
        TypeError: If `logits` is not floating, `labels` is not integer, another input
            not real, or `where` not boolean.
        ValueError: If an input does not fit the shapes above, `axis` names no axis, or
            one twice, there is no class, `label_smoothing` lies outside [0, 1],
            `logits` are not split over `axis_name`, or `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> logits = [[2.0, 0.0, 0.0], [50.0, 0.0, 0.0]]
        >>> for loss in jl.softmax_cross_entropy_with_integer_labels(logits, [1, 0]):
        ...     print(f"{loss:.4g}")
        2.24
        3.857e-22

    References:
        Christopher M. Bishop, "Pattern Recognition and Machine Learning", 2006,
        equation 4.108,
        https://www.microsoft.com/en-us/research/people/cmbishop/prml-book/

        Christian Szegedy, Vincent Vanhoucke, Sergey Ioffe, Jonathon Shlens and Zbigniew
        Wojna, "Rethinking the Inception Architecture for Computer Vision", 2016,
        section 7 (label smoothing), https://arxiv.org/abs/1512.00567

        Aakanksha Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways",
        2022, section 5 (z_loss), https://arxiv.org/abs/2204.02311
    """
    checks.check_number("label_smoothing", label_smoothing, minimum=0, maximum=1)
    logits, labels, axis, where = flatten_classes("logits", logits, labels, axis, where)
    check_split("logits", logits, axis_name)
    logits, labels, classes, keep, weights, dtype = integer_arguments(
        "logits",
        logits,
        labels,
        axis,
        where,
        weights,
        reduction,
        ignore_index,
        axis_name,
    )
    logits = _shared(logits, z_loss)
    scale = mass = None
    if class_weights is not None:
        scale = class_weight_array(class_weights, logits, (axis,), dtype)
        mass = weight_of(scale, labels, axis_name)
    if _is_zero(label_smoothing):
        loss = surprisal(logits, labels, axis=axis, axis_name=axis_name)
        loss = loss if mass is None else product(mass, loss)
    else:
        hot = at_label(logits, labels, axis, axis_name).astype(dtype)
        hot = drop(hot, classes, keep, (axis,))
        hot = _smooth(hot, label_smoothing, classes, (axis,), axis_name)
        hot = hot if scale is None else hot * scale
        loss = soft_cross_entropy(logits, hot, axis=(axis,), axis_name=axis_name)
        valid = is_class(logits, labels, axis, axis_name)
        loss = jnp.where(valid, loss, jnp.nan)
    loss = loss + _z_loss(logits, z_loss, (axis,), dtype, axis_name)
    return reduce_loss(loss, keep, weights, reduction, mass)


def nll_loss(
    log_probs: ArrayLike,
    labels: ArrayLike,
    axis: int = -1,
    *,
    class_weights: ArrayLike | None = None,
    ignore_index: int | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the negative log-likelihood of class labels under log-probabilities.

    Choose it where the log-probabilities are there already; from logits
    `softmax_cross_entropy_with_integer_labels` is faster and more exact.

    With $y$ the label and $w_y$ its class weight:

    $$ -w_y \, \text{logprobs}_y $$

    Args:
        log_probs: Floating, `[..., C]` with the classes along `axis`, in nats; they are
            taken as they are, not normalised.
        labels: Integer, in [0, C), broadcastable to `[...]`.
        axis: The class axis.
        class_weights: Real, `[C]`, what each class counts for. None counts each 1.
            "mean" divides by the sum of class_weights[label], as in PyTorch.
        ignore_index: Python int, in [0, C) or not: examples with this label count
            nowhere. None, unlike PyTorch's -100, ignores no label.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). A mask of the rank of `log_probs` drops single
            classes.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, in nats, at least 0 for log-probabilities at most 0; a scalar if
        reduced.

    Gradient:
        $-w_y$ for `log_probs` at the label, 0 elsewhere; `class_weights` receive
        theirs, `labels` none.

    Numerics:
        Computes in float32, or float64 if `log_probs` are float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. A log-probability of -inf at the label gives inf. A label outside [0, C)
        gives NaN, and raises under `checkify`.

    Raises:
        TypeError: If `log_probs` is not floating, `labels` is not integer, another
            input not real, or `where` not boolean.
        ValueError: If an input does not fit the shapes above, `axis` names no axis,
            there is no class, or `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.nll_loss([[-0.25, -1.5], [-0.125, -2.125]], [0, 1]))
        [0.25  2.125]

    References:
        PyTorch, "torch.nn.NLLLoss",
        https://docs.pytorch.org/docs/stable/generated/torch.nn.NLLLoss.html
    """
    log_probs, (axis,) = checks.class_array("log_probs", log_probs, (axis,))
    log_probs, labels, _, keep, weights, dtype = integer_arguments(
        "log_probs", log_probs, labels, axis, where, weights, reduction, ignore_index
    )
    loss = -widen(pick(log_probs, labels, axis=axis))
    loss = jnp.where(is_class(log_probs, labels, axis), loss, jnp.nan)
    mass = None
    if class_weights is not None:
        scale = class_weight_array(class_weights, log_probs, (axis,), dtype)
        mass = weight_of(scale, labels)
        loss = product(mass, loss)
    return reduce_loss(loss, keep, weights, reduction, mass)


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
    checks.check_number("gamma", gamma, minimum=0)
    checks.check_number("label_smoothing", label_smoothing, minimum=0, maximum=1)
    logits, (axis,) = checks.class_array("logits", logits, (axis,))
    logits, labels, classes, keep, weights, dtype = integer_arguments(
        "logits", logits, labels, axis, where, weights, reduction, None
    )
    gamma = checks.to_array("gamma", gamma).astype(dtype)
    checks.check_broadcast("gamma", gamma.shape, "the per-example loss", labels.shape)
    scale = None
    if class_weights is not None:
        scale = class_weight_array(class_weights, logits, (axis,), dtype)
    if _is_zero(label_smoothing):
        loss = _focal(surprisal(logits, labels, axis=axis), gamma)
        if scale is not None:
            loss = product(weight_of(scale, labels), loss)
    else:
        hot = at_label(logits, labels, axis).astype(dtype)
        hot = _smooth(
            drop(hot, classes, keep, (axis,)), label_smoothing, classes, (axis,)
        )
        hot = hot if scale is None else hot * scale
        per_class = jnp.expand_dims(checks.broadcast_to(gamma, labels), axis)
        focal = _focal(surprisals(logits, axis=axis), per_class)
        # By an impossible class's label there is no slope: times 0 it would be NaN.
        hot = jnp.where(jnp.isposinf(focal), jax.lax.stop_gradient(hot), hot)
        loss = jnp.sum(product(hot, focal), axis=axis)
        loss = jnp.where(is_class(logits, labels, axis), loss, jnp.nan)
    return reduce_loss(loss, keep, weights, reduction)


def _focal(surprise, gamma):
    return _modulated(surprise, checks.broadcast_to(gamma, surprise))


# With the surprisal h = -log p and miss = 1 - p = -expm1(-h):
#     f = h · miss^gamma,   df/dh = miss^gamma (1 + gamma h/expm1(h)),
#     df/dgamma = f log(miss).
# h/expm1(h) goes from 1 at h = 0 to 0, and no difference 1 - p is ever formed.
@pointwise
def _modulated(h, gamma):
    miss = -expm1(-h)
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
    return value, (factor * (1 + gamma * ratio), product(log_miss, value))


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
    logits, labels, axes, _, keep, weights = _dense_arguments(
        logits, labels, axis, where, weights, reduction
    )
    epsilon = checks.scalar("epsilon", epsilon, labels.dtype)
    logits = widen(logits)  # once, so that the gradient is rounded once
    loss = soft_cross_entropy(logits, labels, axis=axes)
    loss = loss + weighted_miss(logits, epsilon * labels, axis=axes)
    return reduce_loss(loss, keep, weights, reduction)


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
    checks.check_number("q", q, minimum=0, maximum=1, open_minimum=True)
    logits, (axis,) = checks.class_array("logits", logits, (axis,))
    logits, labels, _, keep, weights, dtype = integer_arguments(
        "logits", logits, labels, axis, where, weights, reduction, None
    )
    q = checks.scalar("q", q, dtype)
    surprise = surprisal(logits, labels, axis=axis)
    loss = _generalized(surprise, checks.broadcast_to(q, surprise))
    return reduce_loss(loss, keep, weights, reduction)


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


def smooth_labels(
    labels: ArrayLike,
    alpha: ArrayLike,
    *,
    axis: int | tuple[int, ...] | None = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Returns label distributions mixed with the uniform distribution.

    Choose it for soft labels that several losses share; the class losses smooth their
    own labels with `label_smoothing`, without a second array.

    With $C$ the number of classes along `axis`, or of those that `where` keeps:

    $$ (1 - \alpha) \cdot \text{labels} + \alpha / C $$

    Args:
        labels: Floating, `[..., C]`, such as the result of `jax.nn.one_hot`.
        alpha: $\alpha$ in [0, 1], the share that is spread evenly over the classes,
            broadcastable to `labels`.
        axis: The class axis, a tuple of axes, or None for all of them.
        where: Boolean mask of classes, broadcastable to `labels`: only True ones are
            counted in $C$, as in optax, and all receive $\alpha / C$.

    Returns:
        The shape and dtype of `labels`.

    Gradient:
        $1 - \alpha$ for `labels`, $1 / C - \text{labels}$ for `alpha`; linear in each.

    Numerics:
        Computes in the dtype of `labels`, half precision included; time and memory are
        linear in the number of elements.

    Raises:
        TypeError: If `labels` is not floating, `alpha` not real, or `where` not
            boolean.
        ValueError: If `alpha` lies outside [0, 1], `axis` names no axis, or `where`
            does not broadcast to `labels`.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.smooth_labels([0.0, 1.0, 0.0, 0.0], 0.2))
        [0.05 0.85 0.05 0.05]

    References:
        Christian Szegedy, Vincent Vanhoucke, Sergey Ioffe, Jonathon Shlens and Zbigniew
        Wojna, "Rethinking the Inception Architecture for Computer Vision", 2016,
        section 7, https://arxiv.org/abs/1512.00567
    """
    checks.check_number("alpha", alpha, minimum=0, maximum=1)
    labels = checks.to_array("labels", labels)
    if not jnp.issubdtype(labels.dtype, jnp.floating):
        raise TypeError(
            f"`labels` must be floating, got {labels.dtype}; for class indices use "
            "`jax.nn.one_hot(labels, classes)`."
        )
    every = tuple(range(labels.ndim))
    axes = every if axis is None else checks.canonical_axes("axis", axis, labels.ndim)
    alpha = checks.to_array("alpha", alpha).astype(labels.dtype)
    if where is None:
        count = math.prod(labels.shape[a] for a in axes)
    else:
        where = checks.to_mask("where", where)
        checks.check_broadcast("where", where.shape, "labels", labels.shape)
        where = jnp.broadcast_to(where, labels.shape)
        count = jnp.sum(where, axis=axes, keepdims=True).astype(labels.dtype)
        count = jnp.maximum(count, 1)
    return (1 - alpha) * labels + alpha / count


def _dense_arguments(logits, labels, axis, where, weights, reduction):
    """Logits and label distributions of one shape, checked and masked."""
    if axis is None:
        axis = tuple(range(checks.to_array("logits", logits).ndim))
    logits, axes = checks.class_array("logits", logits, axis)
    labels = checks.to_array("labels", labels)
    checks.check_broadcast("labels", labels.shape, "logits", logits.shape)
    dtype = checks.compute_dtype(logits, labels)
    labels = jnp.broadcast_to(labels.astype(dtype), logits.shape)
    logits, classes, keep, weights = mask_classes(
        logits, axes, where, weights, reduction, dtype
    )
    labels = drop(labels, classes, keep, axes)
    return logits, labels, axes, classes, keep, weights


def _smooth(labels, label_smoothing, classes, axes, axis_name=None):
    """Mixes the labels with the uniform distribution over the classes that count."""
    if _is_zero(label_smoothing):
        return labels
    alpha = checks.scalar("label_smoothing", label_smoothing, labels.dtype)
    if classes is None:
        return (1 - alpha) * labels + alpha / class_count(labels, axes, axis_name)
    count = total(jnp.sum(classes, axis=axes, keepdims=True), axis_name)
    count = jnp.maximum(count, 1)
    share = jnp.where(classes, alpha / count.astype(labels.dtype), 0)
    return (1 - alpha) * labels + share


def _z_loss(logits, z_loss, axes, dtype, axis_name=None):
    """z_loss · log(Σ exp(logits))²; a plain 0, no pass over the logits, if not used."""
    if _is_zero(z_loss):
        return 0
    factor = checks.scalar("z_loss", z_loss, dtype)
    log_normalizer = log_sum_exp(logits, axis=axes, axis_name=axis_name)
    return factor * log_normalizer * log_normalizer


def _shared(logits, z_loss):
    """Logits that two terms take, widened once so that the gradient is rounded once."""
    return logits if _is_zero(z_loss) else widen(logits)


def _is_zero(parameter):
    """Whether a parameter is a Python 0, its term absent from the program."""
    return isinstance(parameter, int | float) and parameter == 0

"""Softmax cross entropies of logits with a class axis."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import between
from jaxloss._core.arguments.classes import (
    class_weight_array,
    flatten_classes,
    integer_arguments,
    weight_of_label,
)
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.devices import check_split
from jaxloss._core.log_sum_exp import log_sum_exp
from jaxloss._core.numerics.exact import zero_safe_product
from jaxloss._core.soft_labels import soft_cross_entropy
from jaxloss._core.softmax import (
    at_label,
    excess,
    is_class,
    maximum,
    surprisal,
    widen,
)
from jaxloss.multiclass._labels import dense_arguments, is_zero, mean_gap, smooth


@public(label_smoothing=between(0, 1))
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
    r"""Softmax cross entropy of label distributions.

    Choose it for soft labels: one probability per class. For one correct class per
    example, `softmax_cross_entropy_with_integer_labels` is faster and needs no one-hot
    array.

    With $x$ the logits and $q$ the labels after `label_smoothing`, times
    `class_weights`:

    $$ \sum_j q_j \left( \log \sum_k e^{x_k} - x_j \right)
    + \text{z} \left( \log \sum_k e^{x_k} \right)^2 $$

    where $\text{z}$ is `z_loss`.

    PyTorch: `nn.CrossEntropyLoss` with probabilities; Keras:
    `CategoricalCrossentropy(from_logits=True)`.

    Args:
        logits: Floating, `[..., C]` with the classes along `axis`, unnormalised
            log-probabilities.
        labels: Real, at least 0, broadcastable to `logits`. They need not sum to 1 and
            are not normalised.
        axis: The class axis, or a tuple of axes that share one distribution; None for
            all axes.
        where: Boolean mask; False entries are excluded. A mask of the rank of `logits`
            excludes single classes.
        class_weights: Real, `[C]` (one size per axis for a tuple), a factor per class.
            None means 1. As in PyTorch, the mean does not divide by them.
        label_smoothing: Scalar in [0, 1], the share of each label that is spread evenly
            over the classes.
        z_loss: Scalar, the weight of the squared log-sum-exp, which keeps the logits
            from drifting; 1e-4 is common for language models.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, at least 0 for nonnegative labels; a scalar if reduced.

    Gradient:
        With $p$ the softmax and $Q = \sum_j q_j$: $Q\,p_j - q_j$ for `logits` (plus
        $2\,\text{z}\,p_j \log \sum_k e^{x_k}$) and $-\log p_j$ for $q_j$. Smooth, also
        in `class_weights`, `label_smoothing` and `z_loss`.

    Raises:
        ValueError: If `label_smoothing` lies outside [0, 1].

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
    logits, labels, examples = dense_arguments(
        logits, labels, axis, where, weights, reduction
    )
    scale = None
    if class_weights is not None:
        scale = class_weight_array(class_weights, logits, examples)
        scale = examples.share(scale, labels)
    labels = smooth(labels, label_smoothing, examples, scale)
    loss = _of_distribution(logits, examples.guard(labels), z_loss, examples)
    return examples.tail.reduce(loss)


@public(label_smoothing=between(0, 1))
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
    """Softmax cross entropy under the name of optax's variant for logits of -inf.

    An alias of `softmax_cross_entropy`, which is itself safe at logits of -inf. It lets
    code written for optax run unchanged.
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


@public(label_smoothing=between(0, 1))
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
    r"""Softmax cross entropy of integer class labels.

    Choose it for one correct class per example, such as next-token prediction. It needs
    no one-hot array; `softmax_cross_entropy` takes soft labels.

    With $x$ the logits, $y$ the label and $w$ the `class_weights`:

    $$ w_y \left( \log \sum_j e^{x_j} - x_y \right)
    + \text{z} \left( \log \sum_j e^{x_j} \right)^2 $$

    where $\text{z}$ is `z_loss`. With `label_smoothing` $a$, the first term becomes a
    sum over all classes $j$, with factors $w_j\,((1 - a)\,[j = y] + a / C)$.

    Also known as sparse cross entropy. PyTorch: `nn.CrossEntropyLoss`; Keras:
    `SparseCategoricalCrossentropy(from_logits=True)`.

    Args:
        logits: Floating, `[..., C]` with the classes along `axis`, unnormalised
            log-probabilities.
        labels: Integer, in [0, C), broadcastable to `[...]`.
        axis: The class axis, or a tuple of axes that share one distribution; a label is
            then the flat index into them, in the tuple's order.
        where: Boolean mask; False entries are excluded. A mask of the rank of `logits`
            excludes single classes.
        class_weights: Real, `[C]`, a factor per class; None means 1. As in PyTorch,
            "mean" divides by the sum of `class_weights[label]`.
        label_smoothing: Scalar in [0, 1], the share of each label that is spread evenly
            over the classes.
        z_loss: Scalar, the weight of the squared log-sum-exp, which keeps the logits
            from drifting; 1e-4 is common for language models.
        ignore_index: Python int, possibly outside [0, C). Examples with this label are
            excluded. None ignores no label (PyTorch's default is -100).
        axis_name: Inside `jax.shard_map`, the mesh axis over which the classes are
            split. `logits`, `class_weights` and a mask of classes then hold the classes
            of one device; `labels` index all classes, in the order of the devices.
            Devices exchange a few scalars per example; the gradient of `logits` needs
            no communication. Under plain `jit`, a sharded class axis needs no name.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, at least 0; a scalar if reduced.

    Gradient:
        With $p$ the softmax, without smoothing: $w_y\,(p_j - [j = y])$ for `logits`
        (plus $2\,\text{z}\,p_j \log \sum_k e^{x_k}$). Smooth, also in `class_weights`,
        `label_smoothing` and `z_loss`.

    Raises:
        ValueError: If `label_smoothing` lies outside [0, 1], or `logits` are not split
            over `axis_name`.

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
    logits, labels, axis, where = flatten_classes("logits", logits, labels, axis, where)
    check_split("logits", logits, axis_name)
    logits, labels, examples = integer_arguments(
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
    scale = mass = None
    if class_weights is not None:
        scale = class_weight_array(class_weights, logits, examples)
        mass = weight_of_label(scale, labels, examples)
    if scale is None or is_zero(label_smoothing):
        loss = _of_class(logits, labels, mass, label_smoothing, z_loss, examples)
    else:
        hot = at_label(logits, labels, axis, axis_name).astype(examples.dtype)
        scale = examples.share(scale, hot)
        hot = smooth(examples.select(hot), label_smoothing, examples, scale)
        loss = _of_distribution(logits, examples.guard(hot), z_loss, examples)
        valid = is_class(logits, labels, axis, axis_name)
        loss = jnp.where(valid, loss, jnp.nan)
    return examples.tail.reduce(loss, mass)


# With m the largest logit, e = log Σ_j e^{x_j - m}, K the classes that count and α the
# smoothing, the mean surprisal of the classes is
#     Σ_j (m - x_j) / K + e,       where no term is negative,
# and the log-sum-exp of `z_loss` is m + e. All of it is made of the exponentials of the
# surprisal at the label: no array of the logits' size, one pass for the gradient.
def _of_class(logits, labels, mass, label_smoothing, z_loss, examples):
    """The surprisal at the label, smoothed, and the term of `z_loss`."""
    (axis,), axis_name = examples.axes, examples.axis_name
    plain = is_zero(z_loss) and is_zero(label_smoothing)
    top = maximum(logits, axis, axis_name)
    # Widened first, so that the summed gradient of two terms rounds once.
    logits = logits if plain else widen(logits)
    loss = surprisal(logits, labels, axis=axis, axis_name=axis_name, top=top)
    loss = loss if mass is None else zero_safe_product(mass, loss)
    if plain:
        return loss
    above = excess(logits, labels, top, axis=axis, axis_name=axis_name)
    if not is_zero(label_smoothing):
        alpha = checks.scalar("label_smoothing", label_smoothing, examples.dtype)
        alpha = examples.tail.share(alpha, loss)
        spread = mean_gap(logits, top, examples) + above
        loss = zero_safe_product(1 - alpha, loss) + zero_safe_product(alpha, spread)
    if not is_zero(z_loss):
        loss = loss + _z_loss(top + above, z_loss, examples)
    return loss


def _z_loss(log_normalizer, z_loss, examples):
    """`z_loss` times the squared log-sum-exp."""
    factor = checks.scalar("z_loss", z_loss, examples.dtype)
    factor = examples.tail.share(factor, log_normalizer)
    return factor * log_normalizer * log_normalizer


def _of_distribution(logits, labels, z_loss, examples):
    """The cross entropy of a label per class, and the term of `z_loss`."""
    axis = {"axis": examples.axes, "axis_name": examples.axis_name}
    if is_zero(z_loss):
        return soft_cross_entropy(logits, labels, **axis)
    logits = widen(logits)  # so that the summed gradient of two terms rounds once
    loss = soft_cross_entropy(logits, labels, **axis)
    return loss + _z_loss(log_sum_exp(logits, **axis), z_loss, examples)

"""Cross entropies of a class axis of logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

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
from jaxloss._core.devices import check_split
from jaxloss._core.numerics.exact import zero_safe_product
from jaxloss._core.softmax import (
    at_label,
    is_class,
    log_sum_exp,
    soft_cross_entropy,
    surprisal,
    widen,
)
from jaxloss.multiclass._labels import dense_arguments, is_zero, smooth


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
    logits, labels, examples = dense_arguments(
        logits, labels, axis, where, weights, reduction
    )
    labels = smooth(labels, label_smoothing, examples)
    if class_weights is not None:
        scale = class_weight_array(class_weights, logits, examples)
        labels = labels * examples.share(scale, labels)
    logits, labels = _shared(logits, z_loss), examples.guard(labels)
    loss = soft_cross_entropy(logits, labels, axis=examples.axes)
    loss = loss + _z_loss(logits, z_loss, examples)
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
    logits = _shared(logits, z_loss)
    scale = mass = None
    if class_weights is not None:
        scale = class_weight_array(class_weights, logits, examples)
        mass = weight_of_label(scale, labels, examples)
    if is_zero(label_smoothing):
        loss = surprisal(logits, labels, axis=axis, axis_name=axis_name)
        loss = loss if mass is None else zero_safe_product(mass, loss)
    else:
        hot = at_label(logits, labels, axis, axis_name).astype(examples.dtype)
        hot = smooth(examples.select(hot), label_smoothing, examples)
        hot = hot if scale is None else hot * examples.share(scale, hot)
        hot = examples.guard(hot)
        loss = soft_cross_entropy(logits, hot, axis=(axis,), axis_name=axis_name)
        valid = is_class(logits, labels, axis, axis_name)
        loss = jnp.where(valid, loss, jnp.nan)
    loss = loss + _z_loss(logits, z_loss, examples)
    return examples.tail.reduce(loss, mass)


def _z_loss(logits, z_loss, examples):
    """z_loss · log(Σ exp(logits))²; a plain 0, no pass over the logits, if not used."""
    if is_zero(z_loss):
        return 0
    factor = checks.scalar("z_loss", z_loss, examples.dtype)
    log_normalizer = log_sum_exp(
        logits, axis=examples.axes, axis_name=examples.axis_name
    )
    factor = examples.tail.share(factor, log_normalizer)
    return factor * log_normalizer * log_normalizer


def _shared(logits, z_loss):
    """Logits that two terms take, widened once so that the gradient is rounded once."""
    return logits if is_zero(z_loss) else widen(logits)

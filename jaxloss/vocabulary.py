"""Losses of more classes than there is memory for logits: a linear layer and its loss.

The logits of a chunk of examples at a time are made, used and dropped.
"""

import math
import operator
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import PrecisionLike
from jax.typing import ArrayLike

from jaxloss._core import checks, chunks
from jaxloss._core.classes import ignored, weight_of
from jaxloss._core.derivative import pointwise
from jaxloss._core.mesh import (
    check_shared,
    check_split,
    class_count,
    total,
    vary_as,
)
from jaxloss._core.numerics import product
from jaxloss._core.reduction import Reduction, reduce_loss, select
from jaxloss._core.softmax import (
    entropy,
    excess,
    is_class,
    maximum,
    once_read,
    pick,
    surprisal,
    surprisals,
)

Parameters = Mapping[str, Any]


def linear_cross_entropy(
    hidden: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    class_weights: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    z_loss: ArrayLike = 0.0,
    logit_softcap: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    ignore_index: int | None = None,
    chunk_size: int | None = None,
    axis_name: str | None = None,
    precision: PrecisionLike = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the cross entropy of class labels and softmax(hidden @ kernel).

    Choose it for the last layer of a language model, or wherever the classes are many:
    the logits of all examples never exist together.
    `softmax_cross_entropy_with_integer_labels` takes logits that are there already.

    With $y$ the label, $w_y$ its class weight, $\tau$ the temperature and the logits
    $x = (\text{hidden} \cdot \text{kernel} + \text{bias}) / \tau$:

    $$ w_y \left( \log \sum_j e^{x_j} - x_y \right)
    + \text{z} \left( \log \sum_j e^{x_j} \right)^2 $$

    where $\text{z}$ is `z_loss`. With `logit_softcap` $c$, the sum $s$ that $\tau$
    divides becomes $c \tanh(s / c)$. With `label_smoothing` $a$, every class $j$ takes
    part with the weight $w_j\,((1 - a)\,[j = y] + a / C)$ in place of $w_y\,[j = y]$.

    Args:
        hidden: Floating, `[..., D]`, the features of each example.
        kernel: Real, `[D, C]`, the weights of the last layer. If its dtype is not
            that of `hidden`, the products are made in the dtype of the loss.
        labels: Integer, in [0, C), broadcastable to `[...]`.
        bias: Real, `[C]`, added to the logits; -inf takes a class out.
        class_weights: Real, `[C]`, what each class counts for. None counts each 1.
            "mean" divides by the sum of class_weights[label], as in PyTorch.
        label_smoothing: In [0, 1], a scalar, the share of each label that is spread
            evenly over the classes.
        z_loss: A scalar, the weight of the squared log-sum-exp, which keeps the logits
            from drifting; 1e-4 is common for language models.
        logit_softcap: Above 0, a scalar that the logits' size stays below; None for no
            such bound.
        temperature: Above 0, a scalar that divides the logits, capped if they are.
        ignore_index: Python int, in [0, C) or not: examples with this label count
            nowhere. None, unlike PyTorch's -100, ignores no label.
        chunk_size: The most examples whose logits exist at a time. None takes between
            1,024 and 4,096, as many as there are features. Memory grows with it; time
            falls a little.
        axis_name: The mesh axis over which the classes are split, inside
            `jax.shard_map`: `kernel`, `bias` and `class_weights` hold each device's
            classes, `labels` are global. A few numbers an example cross the network,
            and behind all chunks the gradient of `hidden`.
        precision: Of the matrix products, as in `jax.lax.dot`. For bfloat16 inputs None
            also rounds the logits' gradient to bfloat16 before its products; "highest"
            keeps it in float32.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]). "sum" and "mean" are the
            faster ones to differentiate.

    Returns:
        `[...]`, in nats, at least 0; a scalar if reduced.

    Gradient:
        With $p$ the softmax, $g_j = w_y\,(p_j - [j = y]) / \tau$ for the outputs of the
        linear layer (times the cap's slope), hence $\text{kernel} \cdot g$ for
        `hidden`, the sum of $\text{hidden} \cdot g^\top$ over the examples for
        `kernel` and of $g$ for `bias`. All other real arguments receive theirs too, all
        smooth; `labels` none. For "sum" and "mean" it is formed together with the
        value; for "none" the backward pass makes the logits again.

    Numerics:
        Loss and sums are float32, or float64 if an input is. Half-precision inputs are
        multiplied as they are and summed in float32, the kernel's gradient over all
        examples before it is rounded once. Time is of the order of the matrix products,
        6 times examples x D x C for value and gradient; memory is that of
        `chunk_size` x C logits and of the gradients. Examples that count nowhere are
        left out of the products, but for the rest of one chunk. An empty or fully
        masked input has sum and mean 0. The label is left out of the sum of
        exponentials: a loss of 1e-20 keeps its digits. A label outside [0, C) gives
        NaN, and raises under `checkify`.

    Raises:
        TypeError: If `hidden` is not floating, `labels` is not integer, another input
            not real, or `where` not boolean.
        ValueError: If an input does not fit the shapes above, there is no class, a
            scalar lies outside its range, or `reduction` is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss as jl
        >>> hidden, kernel = jnp.eye(2), jnp.array([[2.0, 0.0, 0.0], [50.0, 0.0, 0.0]])
        >>> for loss in jl.linear_cross_entropy(hidden, kernel, [1, 0]):
        ...     print(f"{loss:.4g}")
        2.24
        3.857e-22

    References:
        Erik Wijmans, Brody Huval, Alexander Hertzberg, Vladlen Koltun and Philipp
        Krähenbühl, "Cut Your Losses in Large-Vocabulary Language Models", 2025,
        https://arxiv.org/abs/2411.09009

        Pin-Lun Hsu et al., "Liger Kernel: Efficient Triton Kernels for LLM Training",
        2024, section 3.2, https://arxiv.org/abs/2410.10989

        Gemma Team, "Gemma 2: Improving Open Language Models at a Practical Size", 2024,
        section 2 (logit_softcap), https://arxiv.org/abs/2408.00118
    """
    checks.check_number("label_smoothing", label_smoothing, minimum=0, maximum=1)
    hidden, kernel, labels, dtype = _arguments(hidden, kernel, labels, axis_name)
    keep, weights = checks.tail(
        where, weights, reduction, shape=labels.shape, dtype=dtype
    )
    dropped = ignored(labels, ignore_index)
    if dropped is not None:
        keep = ~dropped if keep is None else keep & ~dropped
    labels = labels if keep is None else jnp.where(keep, labels, 0)
    _check_labels(labels, kernel, axis_name)

    classes = kernel.shape[1]
    shared = {
        "kernel": kernel,
        **_logit_parameters(bias, logit_softcap, temperature, classes, dtype),
        **_unless(0, dtype, label_smoothing=label_smoothing, z_loss=z_loss),
    }
    mass = None
    if class_weights is not None:
        shared["class_weights"] = _per_class(
            "class_weights", class_weights, classes, dtype
        )
        mass = weight_of(shared["class_weights"], labels, axis_name)
    options = reduction, chunk_size, precision, axis_name
    loss = _losses(hidden, labels, shared, keep, weights, mass, *options)
    if reduction != "mean":
        return loss
    return _mean(loss, keep, weights, mass, labels.shape, dtype)


def linear_log_probs(
    hidden: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    logit_softcap: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    chunk_size: int | None = None,
    axis_name: str | None = None,
    precision: PrecisionLike = None,
) -> tuple[jax.Array, jax.Array]:
    r"""Returns the log-probability of each label and the entropy of each softmax.

    Choose it where a loss is made of the log-probabilities of tokens: policy gradients,
    preference tuning, perplexity. `linear_cross_entropy` is faster where the loss is
    their mean.

    With $y$ the label, $\tau$ the temperature, the logits
    $x = (\text{hidden} \cdot \text{kernel} + \text{bias}) / \tau$ and
    $p_j = e^{x_j} / \sum_k e^{x_k}$:

    $$ \log p_y, \qquad -\sum_j p_j \log p_j $$

    With `logit_softcap` $c$, the sum $s$ that $\tau$ divides becomes
    $c \tanh(s / c)$.

    Args:
        hidden: Floating, `[..., D]`, the features of each example.
        kernel: Real, `[D, C]`, the weights of the last layer. If its dtype is not
            that of `hidden`, the products are made in the dtype of the result.
        labels: Integer, in [0, C), broadcastable to `[...]`.
        bias: Real, `[C]`, added to the logits; -inf takes a class out.
        logit_softcap: Above 0, a scalar that the logits' size stays below; None for no
            such bound.
        temperature: Above 0, a scalar that divides the logits, capped if they are.
        chunk_size: The most examples whose logits exist at a time. None takes between
            512 and 2,048, half as many as there are features.
        axis_name: The mesh axis over which the classes are split, inside
            `jax.shard_map`, as in `linear_cross_entropy`.
        precision: Of the matrix products, as in `jax.lax.dot`. For bfloat16 inputs None
            also rounds the logits' gradient to bfloat16 before its products; "highest"
            keeps it in float32.

    Returns:
        The pair of log-probabilities, at most 0, and entropies, in [0, log C], each
        `[...]` and in nats.

    Gradient:
        For the logits $[j = y] - p_j$ and $p_j (-\log p_j - \text{entropy})$, and from
        there by the linear layer for `hidden`, `kernel`, `bias`, `logit_softcap` and
        `temperature`; smooth. The backward pass makes the logits again, once for both.

    Numerics:
        The results are float32, or float64 if an input is; half-precision inputs are
        multiplied as they are and summed in float32. Memory is that of `chunk_size` x C
        logits and of the gradients. A log-probability of -1e-20 keeps its digits, and
        so does the entropy then; it is exact to 1e-7 where a class without the label is
        nearly sure. A label outside [0, C) has the log-probability NaN, and raises
        under `checkify`.

    Raises:
        TypeError: If `hidden` is not floating, `labels` is not integer, or another
            input not real.
        ValueError: If an input does not fit the shapes above, there is no class, or a
            scalar lies outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss as jl
        >>> hidden, kernel = jnp.eye(2), jnp.array([[2.0, 0.0, 0.0], [50.0, 0.0, 0.0]])
        >>> log_probs, entropies = jl.linear_log_probs(hidden, kernel, [1, 0])
        >>> print(f"{log_probs[0]:.4f} {entropies[0]:.4f}")
        -2.2395 0.6656

    References:
        John Schulman, Filip Wolski, Prafulla Dhariwal, Alec Radford and Oleg Klimov,
        "Proximal Policy Optimization Algorithms", 2017, https://arxiv.org/abs/1707.06347

        Rafael Rafailov et al., "Direct Preference Optimization: Your Language Model is
        Secretly a Reward Model", 2023, https://arxiv.org/abs/2305.18290
    """
    hidden, kernel, labels, dtype = _arguments(hidden, kernel, labels, axis_name)
    _check_labels(labels, kernel, axis_name)
    classes = kernel.shape[1]
    shared = {
        "kernel": kernel,
        **_logit_parameters(bias, logit_softcap, temperature, classes, dtype),
    }
    rows, fixed = {"hidden": hidden}, {"labels": labels}
    # Half the size: the gradient of both numbers needs a second array of the logits'.
    size = _chunk_size(chunk_size, hidden, arrays=2)
    return chunks.each(_log_probs, rows, shared, fixed, size, precision, axis_name)


def _log_probs(x, given, fixed, axis_name):
    axis = {"axis": 1, "axis_name": axis_name}
    x = _logits(x, given)
    labels, valid = _own_labels(x, fixed["labels"], axis_name)
    top = once_read(maximum(x, **axis), pick(x, labels, **axis))
    log_probs = jnp.where(valid, -surprisal(x, labels, **axis, top=top), jnp.nan)
    return log_probs, entropy(x, labels, top, **axis)


def _losses(
    hidden, labels, shared, keep, weights, mass,
    reduction, chunk_size, precision, axis_name=None,
):  # fmt: skip
    """The weighted cross entropies, or their sum where they are to be reduced."""
    rows, fixed = {"hidden": hidden}, {"labels": labels}
    if keep is not None:
        keep = fixed["keep"] = jnp.broadcast_to(keep, labels.shape)
        rows["hidden"] = select(keep[..., None], hidden)[0]
    if mass is not None:
        rows["mass"] = mass
    options = _chunk_size(chunk_size, hidden), precision, axis_name
    if reduction == "none":
        loss = chunks.each(_cross_entropy, rows, shared, fixed, *options)
        return reduce_loss(loss, keep, weights, "none")
    if weights is not None:
        rows["weights"] = jnp.broadcast_to(weights, labels.shape)
    return chunks.total(_weighted, rows, shared, fixed, *options)


def _mean(summed, keep, weights, mass, batch, dtype):
    """The mean whose weighted sum is known."""
    counted = jnp.ones(batch, dtype) if mass is None else mass
    counted = reduce_loss(counted, keep, weights, "sum")
    nothing = counted == 0
    return jnp.where(nothing, 0, summed / jnp.where(nothing, 1, counted))


def adaptive_softmax_cross_entropy(
    hidden: ArrayLike,
    labels: ArrayLike,
    parameters: Parameters,
    cutoffs: Sequence[int],
    *,
    chunk_size: int | None = None,
    precision: PrecisionLike = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the cross entropy of labels and a softmax in clusters of rare classes.

    Choose it for classes sorted by falling frequency, words for instance, where the
    rare ones may do with fewer features: most examples then need the head alone.
    `linear_cross_entropy` treats all classes alike.

    The head has one output for each class below the first cutoff, and one for each
    cluster of classes between two cutoffs. With $p$ its softmax, $q^i$ that of cluster
    $i$, a softmax of its own over the cluster's classes, and $y$ the label:

    $$ -\log p_y \quad \text{or} \quad -\log p_i - \log q^i_y
    \quad \text{for } y \text{ in cluster } i $$

    Args:
        hidden: Floating, `[..., D]`, the features of each example.
        labels: Integer, in [0, C), broadcastable to `[...]`; 0 the most frequent class.
        parameters: A tree of arrays as `init_adaptive_softmax` makes it.
        cutoffs: Python ints, rising, in [1, C): the first class of each cluster.
        chunk_size: The most examples whose logits exist at a time. None takes between
            1,024 and 4,096, as many as there are features.
        precision: Of the matrix products, as in `jax.lax.dot`.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]). "sum" and "mean" are the
            faster ones to differentiate.

    Returns:
        `[...]`, in nats, at least 0; a scalar if reduced.

    Gradient:
        That of `linear_cross_entropy` for the head, and for each cluster from the
        examples whose label it holds; `hidden` and every array of `parameters` receive
        theirs, all smooth; `labels` none.

    Numerics:
        Computes in float32, or float64 if an input is. Each cluster sorts its examples
        to the front and skips the chunks without any: time and memory go with the
        examples that need it, and no array has examples x C elements. A loss of 1e-20
        keeps its digits. An empty or fully masked input has sum and mean 0. A label
        outside [0, C) gives NaN, and raises under `checkify`.

    Raises:
        TypeError: If `hidden` is not floating, `labels` is not integer, another input
            not real, or `where` not boolean.
        ValueError: If an input does not fit the shapes above, `cutoffs` do not rise, or
            `reduction` is unknown.

    Example:
        >>> import jax
        >>> import jaxloss as jl
        >>> cutoffs = (2, 6)
        >>> parameters = jl.init_adaptive_softmax(jax.random.key(0), 16, 20, cutoffs)
        >>> zeros = jax.tree.map(lambda x: 0 * x, parameters)
        >>> hidden, labels = jax.numpy.ones((3, 16)), [0, 2, 19]
        >>> losses = jl.adaptive_softmax_cross_entropy(hidden, labels, zeros, cutoffs)
        >>> [f"{x:.4f}" for x in losses]  # log 4, + log 4, + log 14
        ['1.3863', '2.7726', '4.0254']

    References:
        Edouard Grave, Armand Joulin, Moustapha Cissé, David Grangier and Hervé Jégou,
        "Efficient softmax approximation for GPUs", 2017, section 4,
        https://arxiv.org/abs/1609.04309
    """
    hidden, head, tail, bounds, dtype = _adaptive_arguments(hidden, parameters, cutoffs)
    labels = _labels(labels, hidden)
    keep, weights = checks.tail(
        where, weights, reduction, shape=labels.shape, dtype=dtype
    )
    if keep is not None:
        keep = jnp.broadcast_to(keep, labels.shape)
        hidden = select(keep[..., None], hidden)[0]
        labels = jnp.where(keep, labels, 0)
    classes = bounds[-1]
    valid = (labels >= 0) & (labels < classes)
    checks.check_values("labels", valid, f"in [0, {classes})")

    at_head, loss = labels, 0
    tail_options = weights, None, reduction, chunk_size, precision
    for i, (part, (low, high)) in enumerate(zip(tail, pairwise(bounds), strict=True)):
        inside = (labels >= low) & (labels < high)
        at_head = jnp.where(inside, bounds[0] + i, at_head)
        inside = inside if keep is None else inside & keep
        features = jnp.matmul(hidden, part["projection"], precision=precision)
        own, shared = jnp.where(inside, labels - low, 0), {"kernel": part["kernel"]}
        loss = loss + _losses(features, own, shared, inside, *tail_options)
    loss = loss + _losses(hidden, at_head, head, keep, *tail_options)
    if reduction != "mean":
        return loss
    return _mean(loss, keep, weights, None, labels.shape, dtype)


def adaptive_softmax_log_probs(
    hidden: ArrayLike, parameters: Parameters, cutoffs: Sequence[int]
) -> jax.Array:
    r"""Returns the log-probabilities of all classes under an adaptive softmax.

    Choose it to sample, or to rank the classes of a few examples;
    `adaptive_softmax_cross_entropy` never makes an array with this many elements.

    With $p$ the softmax of the head and $q^i$ that of cluster $i$, for a class $c$ of
    the head or of a cluster:

    $$ \log p_c \quad \text{or} \quad \log p_i + \log q^i_c $$

    Args:
        hidden: Floating, `[..., D]`, the features of each example.
        parameters: A tree of arrays as `init_adaptive_softmax` makes it.
        cutoffs: Python ints, rising, in [1, C): the first class of each cluster.

    Returns:
        `[..., C]`, in nats, at most 0.

    Gradient:
        That of the log-softmaxes, for `hidden` and every array of `parameters`; smooth.

    Numerics:
        Computes in float32, or float64 if an input is; memory is that of the result. A
        log-probability of -1e-20 keeps its digits.

    Raises:
        TypeError: If `hidden` is not floating, or an array of `parameters` not real.
        ValueError: If an input does not fit the shapes above, or `cutoffs` do not rise.

    Example:
        >>> import jax
        >>> import jaxloss as jl
        >>> parameters = jl.init_adaptive_softmax(jax.random.key(0), 8, 5, (2,))
        >>> zeros = jax.tree.map(lambda x: 0 * x, parameters)
        >>> hidden = jax.numpy.ones(8)
        >>> log_probs = jl.adaptive_softmax_log_probs(hidden, zeros, (2,))
        >>> [f"{x:.4f}" for x in log_probs]  # -log 3, and -log 3 - log 3
        ['-1.0986', '-1.0986', '-2.1972', '-2.1972', '-2.1972']

    References:
        Edouard Grave, Armand Joulin, Moustapha Cissé, David Grangier and Hervé Jégou,
        "Efficient softmax approximation for GPUs", 2017, section 4,
        https://arxiv.org/abs/1609.04309
    """
    hidden, head, tail, bounds, _ = _adaptive_arguments(hidden, parameters, cutoffs)

    def log_softmax(x, shared):
        x = _logits(x @ shared["kernel"], _over_batch(shared, x))
        return -surprisals(x, axis=x.ndim - 1)

    top = log_softmax(hidden, head)
    found = [top[..., : bounds[0]]]
    for i, part in enumerate(tail):
        features = hidden @ part["projection"]
        cluster = top[..., bounds[0] + i, None]
        found.append(cluster + log_softmax(features, {"kernel": part["kernel"]}))
    return jnp.concatenate(found, axis=-1)


def adaptive_softmax_predict(
    hidden: ArrayLike, parameters: Parameters, cutoffs: Sequence[int]
) -> jax.Array:
    r"""Returns the most probable class of each example under an adaptive softmax.

    Choose it over the argmax of `adaptive_softmax_log_probs`: it looks into a cluster
    only for the examples whose best class may be there.

    With $p$ and $q^i$ the softmaxes of the head and of cluster $i$, it is the class

    $$ \operatorname{argmax}_c \begin{cases} p_c & \text{in the head} \\
    p_i \, q^i_c & \text{in cluster } i \end{cases} $$

    Args:
        hidden: Floating, `[..., D]`, the features of each example.
        parameters: A tree of arrays as `init_adaptive_softmax` makes it.
        cutoffs: Python ints, rising, in [1, C): the first class of each cluster.

    Returns:
        `[...]`, int32, in [0, C); the smallest of several equally probable classes.

    Gradient:
        None: classes are integers.

    Numerics:
        Computes in float32, or float64 if an input is. No array has examples x C
        elements, and chunks of examples without any for a cluster are skipped.

    Raises:
        TypeError: If `hidden` is not floating, or an array of `parameters` not real.
        ValueError: If an input does not fit the shapes above, or `cutoffs` do not rise.

    Example:
        >>> import jax
        >>> import jaxloss as jl
        >>> parameters = jl.init_adaptive_softmax(jax.random.key(0), 8, 5, (2,))
        >>> zeros = jax.tree.map(lambda x: 0 * x, parameters)
        >>> print(jl.adaptive_softmax_predict(jax.numpy.ones((3, 8)), zeros, (2,)))
        [0 0 0]

    References:
        PyTorch, "torch.nn.AdaptiveLogSoftmaxWithLoss",
        https://docs.pytorch.org/docs/stable/generated/torch.nn.AdaptiveLogSoftmaxWithLoss.html
    """
    hidden, head, tail, bounds, _ = _adaptive_arguments(hidden, parameters, cutoffs)
    size = _chunk_size(None, hidden)

    def best(x, shared, keep=None):
        fixed = {} if keep is None else {"keep": keep}
        return chunks.values(_best, {"hidden": x}, shared, fixed, size, None)

    def best_at_head(x, given, fixed, axis_name):
        log_probs = -surprisals(_logits(x, given), axis=1)
        return *_top(log_probs[:, : bounds[0]]), log_probs[:, bounds[0] :]

    rows = {"hidden": hidden}
    value, label, top = chunks.values(best_at_head, rows, head, {}, size, None)
    for i, part in enumerate(tail):
        promising = top[..., i] > value  # what the cluster has at the most
        features = hidden @ part["projection"]
        inner, own = best(features, {"kernel": part["kernel"]}, promising)
        better = promising & (top[..., i] + inner > value)
        value = jnp.where(better, top[..., i] + inner, value)
        label = jnp.where(better, bounds[i] + own, label)
    return label


def init_adaptive_softmax(
    key: jax.Array,
    features: int,
    classes: int,
    cutoffs: Sequence[int],
    *,
    div_value: float = 4.0,
    head_bias: bool = False,
) -> dict[str, Any]:
    r"""Returns random parameters of an adaptive softmax, a tree of float32 arrays.

    Choose it to begin training with, as `torch.nn.AdaptiveLogSoftmaxWithLoss` does; an
    optimizer of optax's then updates the tree.

    Every array has entries drawn evenly from between $\pm 1/\sqrt{n}$, with $n$ its
    number of rows. Cluster $i$, from 1, has this many features:

    $$ \lfloor \text{features} / \text{divvalue}^i \rfloor $$

    Args:
        key: A key of `jax.random`.
        features: D, the number of features.
        classes: C, the number of classes.
        cutoffs: Python ints, rising, in [1, C): the first class of each cluster.
        div_value: At least 1, how many times fewer features each cluster has than the
            one before it.
        head_bias: Whether the head adds a bias to its logits.

    Returns:
        `{"head": {"kernel": [D, cutoffs[0] + clusters]}, "tail": [...]}`, with a "bias"
        of the head for `head_bias`, and for each cluster `{"projection": [D, d],
        "kernel": [d, classes in it]}`.

    Gradient:
        None: the parameters depend on the key alone.

    Numerics:
        The same key gives the same parameters on every backend.

    Raises:
        TypeError: If `features` or `classes` is not an int.
        ValueError: If `cutoffs` do not rise in [1, C), or a cluster is left without
            features.

    Example:
        >>> import jax
        >>> import jaxloss as jl
        >>> parameters = jl.init_adaptive_softmax(jax.random.key(0), 64, 900, (50, 300))
        >>> print(jax.tree.map(lambda x: x.shape, parameters["tail"]))
        [{'kernel': (16, 250), 'projection': (64, 16)},
         {'kernel': (4, 600), 'projection': (64, 4)}]

    References:
        Edouard Grave, Armand Joulin, Moustapha Cissé, David Grangier and Hervé Jégou,
        "Efficient softmax approximation for GPUs", 2017, section 4,
        https://arxiv.org/abs/1609.04309
    """
    checks.check_integer("features", features)
    checks.check_integer("classes", classes)
    checks.check_number("div_value", div_value, minimum=1)
    bounds = (*_cutoffs(cutoffs, classes), classes)
    widths = [int(features // div_value ** (i + 1)) for i in range(len(cutoffs))]
    if not widths[-1]:
        raise ValueError(
            f"`div_value` must leave every cluster a feature, got {div_value} for "
            f"{len(cutoffs)} clusters of {features} features."
        )
    keys = iter(jax.random.split(key, 2 + 2 * len(widths)))

    def uniform(rows, *shape):
        bound = 1 / math.sqrt(rows)
        return jax.random.uniform(next(keys), shape, jnp.float32, -bound, bound)

    outputs = bounds[0] + len(widths)
    head = {"kernel": uniform(features, features, outputs)}
    if head_bias:
        head["bias"] = uniform(features, outputs)
    tail = [
        {
            "projection": uniform(features, features, width),
            "kernel": uniform(width, width, high - low),
        }
        for width, (low, high) in zip(widths, pairwise(bounds), strict=True)
    ]
    return {"head": head, "tail": tail}


def _best(x, given, fixed, axis_name):
    return _top(-surprisals(_logits(x, given), axis=1))


def _top(log_probs):
    return jnp.max(log_probs, axis=1), jnp.argmax(log_probs, axis=1).astype(jnp.int32)


def _cutoffs(cutoffs, classes):
    """Cutoffs as a tuple of ints, checked."""
    for cutoff in cutoffs:
        checks.check_integer("cutoffs", cutoff)
    bounds = (0, *map(operator.index, cutoffs), classes)
    if len(bounds) == 2 or any(low >= high for low, high in pairwise(bounds)):
        raise ValueError(
            f"`cutoffs` must rise in [1, {classes}), at least one, got {cutoffs}."
        )
    return bounds[1:-1]


def _adaptive_arguments(hidden, parameters, cutoffs):
    """Checks hidden [..., D] and the parameters, which tell the number of classes.

    Returns:
        hidden, the head's arrays by name, the tail's, the cutoffs with the number of
        classes behind them, and the dtype to compute in.
    """
    hidden, _ = checks.class_array("hidden", hidden, -1)
    parts = [parameters["head"], *parameters["tail"]]
    parts = [
        {name: _real("parameters", x, hidden) for name, x in part.items()}
        for part in parts
    ]
    head, *tail = parts
    last = tail[-1]["kernel"].shape[-1] if tail else 0
    classes = (cutoffs[-1] if len(cutoffs) else 0) + last
    bounds = (*_cutoffs(cutoffs, classes), classes)
    features, outputs = hidden.shape[-1], bounds[0] + len(cutoffs)
    widths = [part["projection"].shape[-1] for part in tail]
    expected: list[dict[str, tuple[int, ...]]] = [{"kernel": (features, outputs)}]
    if "bias" in head:
        expected[0]["bias"] = (outputs,)
    expected += [
        {"projection": (features, width), "kernel": (width, high - low)}
        for width, (low, high) in zip(widths, pairwise(bounds), strict=False)
    ]
    found = [{name: x.shape for name, x in part.items()} for part in parts]
    if found != expected:
        raise ValueError(
            f"`parameters` must fit {features} features and cutoffs {tuple(cutoffs)}: "
            f"shapes {expected}, got {found}."
        )
    dtype = checks.compute_dtype(hidden, *jax.tree.leaves(parts))
    # Not in half precision: the features of a cluster lie between two products, and
    # the gradient of `hidden` is a sum over clusters.
    hidden = hidden.astype(dtype)
    head, *tail = jax.tree.map(lambda x: x.astype(dtype), parts)
    if "bias" in head:
        head["bias"] = head["bias"][None]
    return hidden, head, tail, bounds, dtype


def _over_batch(shared, x):
    """The bias with the batch axes of x."""
    bias = {name: b for name, b in shared.items() if name == "bias"}
    return {name: b.reshape((1,) * (x.ndim - 1) + (-1,)) for name, b in bias.items()}


# With m the largest logit and e = log Σ_j e^{x_j - m}, the sum of w_j s_j over the
# classes, s_j their surprisals, is Σ_j w_j (m - x_j) + e Σ_j w_j, no term of which is
# negative, and the log-sum-exp of z_loss is m + e. So the logits' maximum and sums are
# read first; then exponentials are written over the logits, and the gradient over the
# exponentials. At 4,096 examples of 512 features and 50,304 classes in float32, value
# and gradients by XLA for CPU, that is 328 MB; with an array of all s_j it is 1,047 MB.
def _cross_entropy(x, given, fixed, axis_name):
    axis = {"axis": 1, "axis_name": axis_name}
    x = _logits(x, given)
    labels, valid = _own_labels(x, fixed["labels"], axis_name)
    top = once_read(maximum(x, **axis), pick(x, labels, **axis))
    if "label_smoothing" in given:
        behind = total(_behind(x, top, given), axis_name)
        top = once_read(top, behind)
    loss = surprisal(x, labels, **axis, top=top)
    if "mass" in given:
        loss = product(given["mass"], loss)
    if "label_smoothing" in given or "z_loss" in given:
        above = excess(x, labels, top, **axis)
    if "label_smoothing" in given:
        alpha, classes = given["label_smoothing"], class_count(x, (1,), axis_name)
        if "class_weights" in given:
            mass = total(jnp.sum(given["class_weights"]), axis_name)
        else:
            mass = jnp.asarray(classes, x.dtype)
        spread = (behind + mass * above) / classes
        loss = product(1 - alpha, loss) + product(alpha, spread)
    if "z_loss" in given:
        loss = loss + given["z_loss"] * jnp.square(top + above)
    return jnp.where(valid, loss, jnp.nan)


def _behind(x, top, given):
    """Σ_j w_j (m - x_j) over this device's classes."""
    behind = -(x + -top[:, None])  # of m itself XLA would write a broadcast
    if "bias" in given:  # an impossible class has no gradient
        behind = jnp.where(jnp.isneginf(x), jnp.inf, behind)
    if "class_weights" in given:
        behind = product(given["class_weights"], behind)
    return jnp.sum(behind, axis=1)


def _weighted(x, given, fixed, axis_name):
    loss = _cross_entropy(x, given, fixed, axis_name)
    return reduce_loss(loss, fixed.get("keep"), given.get("weights"), "none")


def _logits(x, given):
    """The logits of hidden · kernel; a bias of -inf leaves out a class for good."""
    if "bias" in given:
        x = x + given["bias"]
    if "logit_softcap" in given:
        cap = vary_as(given["logit_softcap"], x)
        x = cap * jnp.tanh(x / cap)
    if "temperature" in given:
        temperature = vary_as(given["temperature"], x)
        x = _divide(x, jnp.broadcast_to(temperature, x.shape))
    return x


@pointwise
def _divide(x, temperature):
    """x / temperature, whose slope in the temperature is 0 at -inf, not NaN."""
    finite = jnp.where(jnp.isneginf(x), 0, x)
    return x / temperature, (1 / temperature, -finite / jnp.square(temperature))


def _own_labels(x, labels, axis_name):
    """Labels that are classes, and whether they were."""
    valid = is_class(x, labels, 1, axis_name)
    return jnp.clip(labels, 0, class_count(x, (1,), axis_name) - 1), valid


def _check_labels(labels, kernel, axis_name):
    valid = is_class(kernel, labels, 1, axis_name)
    checks.check_values(
        "labels", valid, f"in [0, {class_count(kernel, (1,), axis_name)})"
    )


def _arguments(hidden, kernel, labels, axis_name):
    """Checks hidden [..., D], kernel [D, C] and labels [...]."""
    hidden, _ = checks.class_array("hidden", hidden, -1)
    kernel = _real("kernel", kernel, hidden)
    features = hidden.shape[-1]
    if kernel.ndim != 2 or kernel.shape[0] != features:
        raise ValueError(
            f"`kernel` must have the shape (features, classes) with the {features} "
            f"features of `hidden`, got shape {kernel.shape}."
        )
    labels = _labels(labels, hidden)
    check_split("kernel", kernel, axis_name)
    check_shared("hidden", hidden, axis_name)
    check_shared("labels", labels, axis_name)
    dtype = checks.compute_dtype(hidden, kernel)
    # Operands of one dtype; two that differ are both widened.
    operand = hidden.dtype if hidden.dtype == kernel.dtype else dtype
    return hidden.astype(operand), kernel.astype(operand), labels, dtype


def _real(name, value, hidden):
    """A floating array with a class axis; numbers of another kind are made floating."""
    array = checks.to_array(name, value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(checks.compute_dtype(hidden))
    return checks.class_array(name, array, -1)[0]


def _labels(labels, hidden):
    labels = checks.integer_array("labels", labels)
    batch = hidden.shape[:-1]
    checks.check_broadcast(
        "labels", labels.shape, "hidden without its feature axis", batch
    )
    if labels.dtype.itemsize < 4:  # so that it can hold the number of classes
        labels = labels.astype(jnp.int32)
    return jnp.broadcast_to(labels, batch)


def _chunk_size(chunk_size, hidden, arrays=1):
    if chunk_size is None:
        return chunks.default_size(hidden.shape[-1]) // arrays
    checks.check_integer("chunk_size", chunk_size)
    checks.check_number("chunk_size", chunk_size, minimum=1)
    return operator.index(chunk_size)


def _logit_parameters(bias, logit_softcap, temperature, classes, dtype):
    positive = {"minimum": 0, "open_minimum": True}
    checks.check_number("temperature", temperature, **positive)
    shared = _unless(1, dtype, temperature=temperature)
    if bias is not None:
        shared["bias"] = _per_class("bias", bias, classes, dtype)
    if logit_softcap is not None:
        checks.check_number("logit_softcap", logit_softcap, **positive)
        shared["logit_softcap"] = checks.scalar("logit_softcap", logit_softcap, dtype)
    return shared


def _per_class(name, value, classes, dtype):
    array = checks.to_array(name, value)
    if array.shape != (classes,):
        raise ValueError(
            f"`{name}` must have one number a class, shape {(classes,)}, "
            f"got shape {array.shape}."
        )
    return array.astype(dtype)[None]


def _unless(default, dtype, **parameters):
    """The scalars that are no Python number of the value that changes nothing."""
    return {
        name: checks.scalar(name, value, dtype)
        for name, value in parameters.items()
        if not (isinstance(value, int | float) and value == default)
    }

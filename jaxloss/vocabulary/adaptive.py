"""The adaptive softmax: frequent classes first, rare ones in clusters."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import PrecisionLike

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.log_sum_exp import surprisals
from jaxloss._core.sweeps.arguments import (
    floating_array,
    label_array,
    mask_rows,
    sweep_options,
)
from jaxloss._core.sweeps.linear import map_rows_to_any
from jaxloss._core.sweeps.logits import logits
from jaxloss._core.sweeps.operands import Operands
from jaxloss._core.sweeps.reduction import reduced, share_of_mean
from jaxloss.vocabulary._layer import Shared
from jaxloss.vocabulary._rules import losses

Parameters = Mapping[str, Any]


@public()
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
    r"""Adaptive softmax cross entropy: the softmax treats rare classes in clusters.

    Choose it for classes sorted by falling frequency, such as words, where rare classes
    need fewer features: most examples then use only the head. `linear_cross_entropy`
    treats all classes alike.

    The head has one output per class below the first cutoff, and one per cluster of
    classes between two cutoffs. With $p$ the softmax of the head, $q^i$ the softmax
    over the classes of cluster $i$, and $y$ the label:

    $$ -\log p_y \quad \text{or} \quad -\log p_i - \log q^i_y
    \quad \text{for } y \text{ in cluster } i $$

    PyTorch: `nn.AdaptiveLogSoftmaxWithLoss`.

    Args:
        hidden: Floating, `[..., D]`, the features of each example.
        labels: Integer, in [0, C), 0 the most frequent; broadcastable to `[...]`.
        parameters: Tree of arrays, as returned by `init_adaptive_softmax`.
        cutoffs: Python ints, rising, in [1, C): the first class of each cluster.
        chunk_size: The largest number of examples whose logits exist at once. None
            takes D, but at least 1,024 and at most 4,096.
        precision: Of the matrix products, as in `jax.lax.dot`.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted). "sum" and "mean" are faster to
            differentiate.

    Returns:
        `[...]`, in nats, at least 0; a scalar if reduced.

    Gradient:
        As in `linear_cross_entropy`: of the head over all examples, of each cluster
        over the examples whose label it contains. Differentiable in `hidden` and every
        array of `parameters`; smooth everywhere.

    Numerics:
        Each cluster sorts its examples to the front and skips the chunks without any:
        time and memory grow with the number of examples in the cluster, and no array
        has examples x C elements.

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
    hidden, head, clusters, bounds, dtype = _adaptive_arguments(
        hidden, parameters, cutoffs
    )
    labels = label_array(labels, hidden)
    tail = checks.tail(where, weights, reduction, shape=labels.shape, dtype=dtype)
    hidden = mask_rows(hidden, tail)
    if tail.keep is not None:
        labels = jnp.where(tail.keep, labels, 0)
    valid = tail.counts((labels >= 0) & (labels < bounds[-1]))
    labels = checks.check_values("labels", labels, valid, f"in [0, {bounds[-1]})")

    options = sweep_options(chunk_size, precision)
    share, counted = share_of_mean(tail, None, labels.shape, dtype)
    at_head, loss = labels, 0
    parts = zip(clusters, pairwise(bounds), strict=True)
    for i, (part, (low, high)) in enumerate(parts):
        inside = (labels >= low) & (labels < high)
        at_head = jnp.where(inside, bounds[0] + i, at_head)
        features = jnp.matmul(hidden, part["projection"], precision=precision)
        own, without = jnp.where(inside, labels - low, 0), tail.without(~inside)
        rows = features, part["kernel"], own, Shared(), without
        loss = loss + losses(*rows, None, options, share)
    rows = hidden, head["kernel"], at_head, _bias_of(head), tail
    return reduced(loss + losses(*rows, None, options, share), counted)


@public()
def adaptive_softmax_log_probs(
    hidden: ArrayLike, parameters: Parameters, cutoffs: Sequence[int]
) -> jax.Array:
    r"""Log-probabilities of all classes under an adaptive softmax.

    Choose it to sample, or to rank the classes of a few examples. For training,
    `adaptive_softmax_cross_entropy` needs no array of this size.

    With $p$ the softmax of the head and $q^i$ the softmax of cluster $i$, for a class
    $c$ of the head or of cluster $i$:

    $$ \log p_c \quad \text{or} \quad \log p_i + \log q^i_c $$

    Args:
        hidden: Floating, `[..., D]`, the features of each example.
        parameters: Tree of arrays, as returned by `init_adaptive_softmax`.
        cutoffs: Python ints, rising, in [1, C): the first class of each cluster.

    Returns:
        `[..., C]`, in nats, at most 0.

    Gradient:
        Through the log-softmaxes to `hidden` and every array of `parameters`; smooth
        everywhere.

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

    def log_softmax(x, part):
        bias = part.get("bias")
        if bias is not None:  # one axis of size 1 per batch axis of x
            bias = bias.reshape((1,) * (x.ndim - 1) + (-1,))
        x = logits(x @ part["kernel"], Shared(bias=bias))
        return -surprisals(x, axis=x.ndim - 1)

    top = log_softmax(hidden, head)
    found = [top[..., : bounds[0]]]
    for i, part in enumerate(tail):
        features = hidden @ part["projection"]
        cluster = top[..., bounds[0] + i, None]
        found.append(cluster + log_softmax(features, part))
    return jnp.concatenate(found, axis=-1)


@public()
def adaptive_softmax_predict(
    hidden: ArrayLike, parameters: Parameters, cutoffs: Sequence[int]
) -> jax.Array:
    r"""Most probable class of each example under an adaptive softmax.

    Choose it over the argmax of `adaptive_softmax_log_probs`: it evaluates a cluster
    only for the examples whose most probable class may be in that cluster.

    With $p$ and $q^i$ the softmaxes of the head and of cluster $i$:

    $$ \operatorname{argmax}_c \begin{cases} p_c & \text{in the head} \\
    p_i \, q^i_c & \text{in cluster } i \end{cases} $$

    Args:
        hidden: Floating, `[..., D]`, the features of each example.
        parameters: Tree of arrays, as returned by `init_adaptive_softmax`.
        cutoffs: Python ints, rising, in [1, C): the first class of each cluster.

    Returns:
        `[...]`, int32, in [0, C); the smallest of several equally probable classes.

    Gradient:
        None: classes are integers.

    Numerics:
        No array has examples x C elements. A cluster skips the chunks it has no example
        in.

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
    options = sweep_options(None, None)

    def best_at_head(x, own, shared, fixed, keep, axis_name):
        log_probs = -surprisals(logits(x, shared), axis=1)
        return *_top(log_probs[:, : bounds[0]]), log_probs[:, bounds[0] :]

    operands = Operands(hidden, head["kernel"], None, _bias_of(head))
    value, label, top = map_rows_to_any(best_at_head, operands, None, None, options)
    for i, part in enumerate(tail):
        # No class of the cluster is more probable than the cluster itself.
        promising = top[..., i] > value
        features = hidden @ part["projection"]
        operands = Operands(features, part["kernel"], None, Shared())
        inner, own = map_rows_to_any(_best, operands, None, promising, options)
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
    r"""Random initial parameters of an adaptive softmax, a tree of float32 arrays.

    Choose it to start training with the initialization of
    `torch.nn.AdaptiveLogSoftmaxWithLoss`.

    The entries of an array with $n$ rows are uniform in $\pm 1/\sqrt{n}$. Cluster $i$,
    counted from 1, has this many features:

    $$ \lfloor \text{features} / \text{divvalue}^i \rfloor $$

    Args:
        key: A key of `jax.random`.
        features: D, the number of features.
        classes: C, the number of classes.
        cutoffs: Python ints, rising, in [1, C): the first class of each cluster.
        div_value: At least 1, the factor by which each cluster has fewer features than
            the cluster before it.
        head_bias: Whether the head adds a bias to its logits.

    Returns:
        `{"head": {"kernel": [D, cutoffs[0] + clusters]}, "tail": [...]}`, where the
        tail has one `{"projection": [D, d], "kernel": [d, classes]}` per cluster. With
        `head_bias` the head also has a "bias".

    Gradient:
        None: the parameters depend only on the key.

    Raises:
        ValueError: If a cluster would have no features.

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
    checks.at_least(1).check("div_value", div_value)
    bounds = (*_cutoffs(cutoffs, classes), classes)
    widths = [int(features // div_value ** (i + 1)) for i in range(len(cutoffs))]
    if not widths[-1]:
        raise ValueError(
            f"`div_value` must leave every cluster at least one feature, got "
            f"{div_value} for {features} features and {len(cutoffs)} clusters."
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


def _best(x, own, shared, fixed, keep, axis_name):
    return _top(-surprisals(logits(x, shared), axis=1))


def _bias_of(head):
    return Shared(bias=head.get("bias"))


def _top(log_probs):
    return jnp.max(log_probs, axis=1), jnp.argmax(log_probs, axis=1).astype(jnp.int32)


def _cutoffs(cutoffs, classes):
    """Checks the cutoffs and returns them as a tuple of ints."""
    for cutoff in cutoffs:
        checks.check_integer("cutoffs", cutoff)
    bounds = (0, *map(operator.index, cutoffs), classes)
    if len(bounds) == 2 or any(low >= high for low, high in pairwise(bounds)):
        raise ValueError(
            f"`cutoffs` must be one or more ints that increase in [1, {classes}), "
            f"got {cutoffs}."
        )
    return bounds[1:-1]


def _adaptive_arguments(hidden, parameters, cutoffs):
    """Checks hidden [..., D] and the parameters, whose shapes give the class count.

    Returns:
        hidden, the arrays of the head by name, the same for each cluster, the tuple
        (*cutoffs, classes), and the dtype to compute in.
    """
    hidden, _ = checks.class_array("hidden", hidden, -1, "feature")
    parts = [parameters["head"], *parameters["tail"]]
    parts = [
        {name: floating_array("parameters", x, hidden) for name, x in part.items()}
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
    # Half precision would round the features of a cluster between its two products,
    # and every term of the gradient of `hidden`, a sum over clusters.
    hidden = hidden.astype(dtype)
    head, *tail = jax.tree.map(lambda x: x.astype(dtype), parts)
    if "bias" in head:
        head["bias"] = head["bias"][None]
    return hidden, head, tail, bounds, dtype

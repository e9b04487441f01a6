"""Cross entropy of a linear layer, computed in chunks of examples."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.lax import PrecisionLike

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import above, between, inside
from jaxloss._core.arguments.classes import (
    Examples,
    ignored,
    weight_of_label,
)
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.devices import check_shared, class_count
from jaxloss._core.softmax import is_class
from jaxloss._core.sweeps.arguments import (
    label_array,
    layer_arguments,
    logit_options,
    mask_rows,
    per_class_of,
    sweep_options,
    unless,
)
from jaxloss._core.sweeps.linear import map_rows
from jaxloss._core.sweeps.operands import Operands
from jaxloss._core.sweeps.reduction import reduced, share_of_mean
from jaxloss.vocabulary._layer import Fixed, Own, Shared
from jaxloss.vocabulary._rules import LOG_PROBS, losses


@public(
    label_smoothing=between(0, 1),
    logit_softcap=inside(0, math.inf),
    temperature=above(0),
)
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
    class_axis: int = -1,
    chunk_size: int | None = None,
    axis_name: str | None = None,
    precision: PrecisionLike = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Cross entropy of a linear layer and class labels, without storing all logits.

    Choose it for the last layer of a language model, or wherever there are many
    classes: it never holds the logits of all examples at once. If you already have the
    logits, use `softmax_cross_entropy_with_integer_labels`.

    With $y$ the label, $w_y$ its class weight, $\tau$ the temperature and the logits
    $x = (\text{hidden} \cdot \text{kernel} + \text{bias}) / \tau$:

    $$ w_y \left( \log \sum_j e^{x_j} - x_y \right)
    + \text{z} \left( \log \sum_j e^{x_j} \right)^2 $$

    where $\text{z}$ is `z_loss`. With `logit_softcap` $c$, the sum $s$ that $\tau$
    divides becomes $c \tanh(s / c)$. With `label_smoothing` $a$, the loss is the sum
    over all classes $j$ with the weight $w_j\,((1 - a)\,[j = y] + a / C)$ instead of
    $w_y\,[j = y]$.

    Also known as fused or chunked cross entropy. PyTorch: `nn.LinearCrossEntropyLoss`;
    Liger: `LigerFusedLinearCrossEntropyLoss`.

    Args:
        hidden: Floating, `[..., D]`, the features of each example.
        kernel: Real, `[D, C]`, the weights of the last layer. If `hidden` and `kernel`
            differ in dtype, they are multiplied in the dtype of the loss.
        labels: Integer, in [0, C), broadcastable to `[...]`.
        bias: Real, `[C]`, added to the logits; -inf excludes a class.
        class_weights: Real, `[C]`; None means 1 for each class. "mean" divides by the
            sum of class_weights[label], as in PyTorch.
        label_smoothing: Scalar in [0, 1], the share of each label that is spread evenly
            over the classes.
        z_loss: Scalar, the weight of the squared log-sum-exp, which keeps the logits
            from drifting; 1e-4 is common for language models.
        logit_softcap: Scalar above 0 that bounds the size of the logits; None for no
            bound.
        temperature: Scalar above 0 that divides the (capped) logits.
        ignore_index: Python int, in [0, C) or not: examples with this label are
            excluded. None, unlike PyTorch's -100, excludes no label.
        class_axis: The axis of the classes in `kernel`: -1, or 0 for an embedding table
            `[C, D]`, whose gradient has the same layout.
        chunk_size: The largest number of examples whose logits exist at once. With
            None, a CPU takes D of them, but at least 1,024 and at most 4,096. A TPU or
            a GPU takes all examples if their logits need no more memory than `kernel`,
            and else blocks of 4 D classes, which need a third more arithmetic and far
            less memory; on an automatic mesh of several devices, chunks as on a CPU,
            times their number.
        axis_name: The mesh axis over which the classes are split, inside
            `jax.shard_map`: each device holds its own classes of `kernel`, `bias` and
            `class_weights`, and `labels` index the classes of all devices. Devices
            exchange a few scalars per example, and all-reduce the gradient of `hidden`
            once.
        precision: Of the matrix products, as in `jax.lax.dot`. For bfloat16 inputs None
            also rounds the logits' gradient to bfloat16 before its products; "highest"
            keeps it in float32.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted). "sum" and "mean" are faster to
            differentiate.

    Returns:
        `[...]`, in nats, at least 0; a scalar if reduced.

    Gradient:
        With $p$ the softmax, the outputs of the linear layer have the gradient
        $g_j = w_y\,(p_j - [j = y]) / \tau$, times the slope of the cap. Hence `hidden`
        has $\text{kernel} \cdot g$, `kernel` the sum over the examples of
        $\text{hidden} \cdot g^\top$, and `bias` the sum of $g$. Also differentiable in
        all other real arguments; smooth everywhere. "sum" and "mean" compute the
        gradient together with the value; for "none" the backward pass computes the
        logits again.

    Numerics:
        Half-precision inputs are multiplied as they are and summed in float32; the
        gradient of `kernel` is summed over all examples before it is rounded once.
        Value and gradient take 6 times examples x D x C operations. Memory is that of
        `chunk_size` x C logits and of the gradients. Where there are several chunks of
        examples, the products skip excluded examples, except those that fill the last
        chunk. Blocks of classes skip none.

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
    hidden, kernel, dtype, class_axis = layer_arguments(
        hidden, kernel, axis_name, class_axis
    )
    labels = label_array(labels, hidden)
    check_shared("labels", labels, axis_name)
    tail = _tail_of(where, weights, reduction, labels, ignore_index, dtype)
    labels = labels if tail.keep is None else jnp.where(tail.keep, labels, 0)
    hidden = mask_rows(hidden, tail)
    labels = _check_labels(labels, kernel, class_axis, axis_name, tail)

    per_class = functools.partial(per_class_of, kernel, class_axis, dtype)
    of_logits = logit_options(per_class, bias, logit_softcap, temperature, dtype)
    shared = Shared(
        **of_logits._asdict(),
        class_weights=per_class("class_weights", class_weights),
        label_smoothing=unless(0, "label_smoothing", label_smoothing, dtype),
        z_loss=unless(0, "z_loss", z_loss, dtype),
    )
    mass = None
    if shared.class_weights is not None:
        examples = Examples((1,), None, tail, dtype, axis_name)
        mass = weight_of_label(shared.class_weights, labels, examples)
    options = sweep_options(chunk_size, precision, axis_name, class_axis)
    share, counted = share_of_mean(tail, mass, labels.shape, dtype)
    loss = losses(hidden, kernel, labels, shared, tail, mass, options, share)
    return reduced(loss, counted)


@public(logit_softcap=inside(0, math.inf), temperature=above(0))
def linear_log_probs(
    hidden: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    logit_softcap: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    ignore_index: int | None = None,
    where: ArrayLike | None = None,
    class_axis: int = -1,
    chunk_size: int | None = None,
    axis_name: str | None = None,
    precision: PrecisionLike = None,
) -> tuple[jax.Array, jax.Array]:
    r"""Log-probability of each label and entropy of the softmax of a linear layer.

    Choose it for a loss made of the log-probabilities of tokens: policy gradients,
    preference tuning, perplexity. If the loss is their mean, `linear_cross_entropy` is
    faster.

    With $y$ the label, $\tau$ the temperature, the logits
    $x = (\text{hidden} \cdot \text{kernel} + \text{bias}) / \tau$ and
    $p_j = e^{x_j} / \sum_k e^{x_k}$:

    $$ \log p_y, \qquad -\sum_j p_j \log p_j $$

    With `logit_softcap` $c$, the sum $s$ that $\tau$ divides becomes $c \tanh(s / c)$.

    Args:
        hidden: Floating, `[..., D]`, the features of each example.
        kernel: Real, `[D, C]`, the weights of the last layer. If `hidden` and `kernel`
            differ in dtype, they are multiplied in the dtype of the result.
        labels: Integer, in [0, C), broadcastable to `[...]`.
        bias: Real, `[C]`, added to the logits; -inf excludes a class.
        logit_softcap: Scalar above 0 that bounds the size of the logits; None for no
            bound.
        temperature: Scalar above 0 that divides the (capped) logits.
        ignore_index: Examples with this label are excluded: both their numbers are 0.
        where: Boolean mask; False entries are excluded.
        class_axis: The axis of the classes in `kernel`: -1, or 0 for an embedding table
            `[C, D]`.
        chunk_size: The largest number of examples whose logits exist at once. None
            chooses as in `linear_cross_entropy`, with half as many examples.
        axis_name: The mesh axis over which the classes are split, inside
            `jax.shard_map`, as in `linear_cross_entropy`.
        precision: Of the matrix products, as in `jax.lax.dot`. For bfloat16 inputs None
            also rounds the logits' gradient to bfloat16 before its products; "highest"
            keeps it in float32.

    Returns:
        A pair: the log-probabilities, at most 0, and the entropies, in [0, log C]. Both
        are `[...]`, in nats.

    Gradient:
        With respect to logit $j$, $[j = y] - p_j$ for the log-probability and
        $p_j (-\log p_j - \text{entropy})$ for the entropy; from there through the
        linear layer to every real argument. Smooth everywhere. The backward pass
        computes the logits again, once for both results.

    Numerics:
        Half-precision inputs are multiplied as they are and summed in float32. Memory
        is that of `chunk_size` x C logits and of the gradients. Where a class other
        than the label has almost all the probability, the entropy is exact only to
        1e-7. A label out of range makes only the log-probability NaN.

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
    hidden, kernel, dtype, class_axis = layer_arguments(
        hidden, kernel, axis_name, class_axis
    )
    labels = label_array(labels, hidden)
    check_shared("labels", labels, axis_name)
    where = checks.unweighted_mask(where)
    tail = _tail_of(where, None, "none", labels, ignore_index, dtype).spread(
        labels.shape
    )
    labels = labels if tail.keep is None else jnp.where(tail.keep, labels, 0)
    hidden = mask_rows(hidden, tail)
    labels = _check_labels(labels, kernel, class_axis, axis_name, tail)
    per_class = functools.partial(per_class_of, kernel, class_axis, dtype)
    of_logits = logit_options(per_class, bias, logit_softcap, temperature, dtype)
    operands = Operands(hidden, kernel, Own(), Shared(**of_logits._asdict()))
    # The entropy's gradient needs a second array as large as the logits.
    options = sweep_options(chunk_size, precision, axis_name, class_axis, share=2)
    return map_rows(LOG_PROBS, operands, Fixed(labels), tail.keep, options)


def _tail_of(where, weights, reduction, labels, ignore_index, dtype):
    """The checked tail, which excludes the examples whose label is to be ignored."""
    tail = checks.tail(where, weights, reduction, shape=labels.shape, dtype=dtype)
    without = ignored(labels, ignore_index)
    return tail if without is None else tail.without(without)


def _check_labels(labels, kernel, class_axis, axis_name, tail):
    valid = tail.counts(is_class(kernel, labels, class_axis, axis_name))
    classes = class_count(kernel, (class_axis,), axis_name)
    return checks.check_values("labels", labels, valid, f"in [0, {classes})")

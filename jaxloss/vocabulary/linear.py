"""A linear layer and its cross entropy, without the logits of all examples."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.lax import PrecisionLike
from jax.typing import ArrayLike

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import above, between
from jaxloss._core.arguments.classes import Examples, ignored, weight_of_label
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.devices import check_shared, check_split, class_count
from jaxloss._core.softmax import entropy, is_class, maximum, once_read, pick, surprisal
from jaxloss._core.sweeps import rows as sweep
from jaxloss.vocabulary._layer import (
    harmless_rows,
    label_array,
    logits,
    losses,
    mean_of,
    own_labels,
    real,
    rows_per_chunk,
)


@public(label_smoothing=between(0, 1), logit_softcap=above(0), temperature=above(0))
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
    hidden, kernel, labels, dtype = _arguments(hidden, kernel, labels, axis_name)
    tail = checks.tail(where, weights, reduction, shape=labels.shape, dtype=dtype)
    without = ignored(labels, ignore_index)
    tail = tail if without is None else tail.without(without)
    labels = labels if tail.keep is None else jnp.where(tail.keep, labels, 0)
    hidden = harmless_rows(hidden, tail)
    labels = _check_labels(labels, kernel, axis_name, tail)

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
        examples = Examples((1,), None, tail, dtype, axis_name)
        mass = weight_of_label(shared["class_weights"], labels, examples)
    options = chunk_size, precision, axis_name
    loss = losses(hidden, labels, shared, tail, mass, *options)
    if reduction != "mean":
        return loss
    return mean_of(loss, tail, mass, labels.shape, dtype)


@public(logit_softcap=above(0), temperature=above(0))
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
    labels = _check_labels(labels, kernel, axis_name)
    classes = kernel.shape[1]
    shared = {
        "kernel": kernel,
        **_logit_parameters(bias, logit_softcap, temperature, classes, dtype),
    }
    rows, fixed = {"hidden": hidden}, {"labels": labels}
    # Half the size: the gradient of both numbers needs a second array of the logits'.
    size = rows_per_chunk(chunk_size, hidden, arrays=2)
    return sweep.map_rows(_log_probs, rows, shared, fixed, size, precision, axis_name)


def _log_probs(x, given, fixed, axis_name):
    axis = {"axis": 1, "axis_name": axis_name}
    x = logits(x, given)
    labels, valid = own_labels(x, fixed["labels"], axis_name)
    top = once_read(maximum(x, **axis), pick(x, labels, **axis))
    log_probs = jnp.where(valid, -surprisal(x, labels, **axis, top=top), jnp.nan)
    return log_probs, entropy(x, labels, top, **axis)


def _check_labels(labels, kernel, axis_name, tail=None):
    valid = is_class(kernel, labels, 1, axis_name)
    valid = valid if tail is None else tail.counts(valid)
    return checks.check_values(
        "labels", labels, valid, f"in [0, {class_count(kernel, (1,), axis_name)})"
    )


def _arguments(hidden, kernel, labels, axis_name):
    """Checks hidden [..., D], kernel [D, C] and labels [...]."""
    hidden, _ = checks.class_array("hidden", hidden, -1)
    kernel = real("kernel", kernel, hidden)
    features = hidden.shape[-1]
    if kernel.ndim != 2 or kernel.shape[0] != features:
        raise ValueError(
            f"`kernel` must have the shape (features, classes) with the {features} "
            f"features of `hidden`, got shape {kernel.shape}."
        )
    labels = label_array(labels, hidden)
    check_split("kernel", kernel, axis_name)
    check_shared("hidden", hidden, axis_name)
    check_shared("labels", labels, axis_name)
    dtype = checks.compute_dtype(hidden, kernel)
    # Operands of one dtype; two that differ are both widened.
    operand = hidden.dtype if hidden.dtype == kernel.dtype else dtype
    return hidden.astype(operand), kernel.astype(operand), labels, dtype


def _logit_parameters(bias, logit_softcap, temperature, classes, dtype):
    shared = _unless(1, dtype, temperature=temperature)
    if bias is not None:
        shared["bias"] = _per_class("bias", bias, classes, dtype)
    if logit_softcap is not None:
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

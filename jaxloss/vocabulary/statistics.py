"""Statistics of softmax distributions: of logits, and of a linear layer."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import PrecisionLike

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import above, inside
from jaxloss._core.arguments.classes import ignored, mask_classes
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.devices import check_shared, check_split, class_count
from jaxloss._core.softmax import widen
from jaxloss._core.statistics import argmax, as_digits, join_digits, statistics
from jaxloss._core.sweeps.arguments import (
    layer_arguments,
    logit_options,
    mask_rows,
    per_class_of,
    sweep_options,
)
from jaxloss._core.sweeps.linear import Rule, map_rows
from jaxloss._core.sweeps.logits import logits as logits_of
from jaxloss._core.sweeps.operands import Operands


class SoftmaxStatistics(NamedTuple):
    """What `softmax_statistics` and `linear_statistics` return.

    Attributes:
        log_probs: `[..., K]` for labels `[..., K]`, `[...]` for labels `[...]`, the
            log-probability of each label; None without labels.
        entropies: `[...]`, in nats.
        log_normalizers: `[...]`, the log-sum-exp of the logits.
        predictions: Integer, `[...]`, the most probable class.
        log_tail: `[...]`, the logarithm of the probability outside the labels; None
            without labels.
    """

    log_probs: jax.Array | None
    entropies: jax.Array
    log_normalizers: jax.Array
    predictions: jax.Array
    log_tail: jax.Array | None


@public()
def softmax_statistics(
    logits: ArrayLike,
    labels: ArrayLike | None = None,
    axis: int = -1,
    *,
    ignore_index: int | None = None,
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> SoftmaxStatistics:
    r"""Log-probabilities, entropy, log-sum-exp, prediction and tail of a softmax.

    Choose it to report loss, z-loss, accuracy and entropy from one set of exponentials.
    If you do not have the logits yet, use `linear_statistics`.

    With $x$ the logits, $p$ their softmax and $S$ the set of an example's labels:

    $$ \log p_k \text{ for } k \in S, \quad -\sum_j p_j \log p_j, \quad
    \log \sum_j e^{x_j}, \quad \operatorname{argmax}_j x_j, \quad
    \log \sum_{j \notin S} p_j $$

    Args:
        logits: Floating, `[..., C]` with the classes along `axis`, unnormalised
            log-probabilities.
        labels: Integer, in [0, C): K labels per example on the last axis, `[..., K]`,
            or one, broadcastable to `[...]`. An array of the rank of `logits` has K of
            them. None computes no `log_probs` and no `log_tail`.
        axis: The class axis.
        ignore_index: Of K labels, one with this value is excluded alone: its
            log-probability is 0, and it is not in $S$. An example whose only label has
            it is excluded.
        where: Boolean mask; False entries are excluded and 0 in every field. A mask of
            the rank of `logits` excludes single classes.
        axis_name: The mesh axis over which the classes are split, inside
            `jax.shard_map`; `labels` and `predictions` are among the classes of all
            devices.

    Returns:
        A `SoftmaxStatistics`: `log_probs`, at most 0; `entropies`, in [0, log C];
        `log_normalizers`; `predictions`, an integer, of equal logits the first class;
        `log_tail`, at most 0.

    Gradient:
        With respect to logit $j$: $[j = k] - p_j$, $p_j (-\log p_j - \text{entropy})$,
        $p_j$, none, and $[j \notin S]\,p_j / t - p_j$ with $t$ the tail's probability.
        Smooth everywhere.

    Numerics:
        A label of probability near 1 and a tail of probability near 0 or 1 keep all
        their digits: the tail is a sum of what it contains. Repeated labels count once
        in it. With all classes among the labels it is -inf, with a finite gradient. A
        label out of range makes `log_probs` and `log_tail` NaN. In a compiled program,
        a field that is not used costs nothing.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss as jl
        >>> logits = jnp.array([[2.0, 0.0, 0.0], [0.0, 50.0, 0.0]])
        >>> found = jl.softmax_statistics(logits, jnp.array([1, 1]))
        >>> print(found.predictions, [f"{x:.4g}" for x in found.log_probs])
        [0 1] ['-2.24', '-3.857e-22']
        >>> print([f"{x:.4g}" for x in found.log_tail])
        ['-0.1126', '-49.31']

    References:
        Barret Zoph et al., "ST-MoE: Designing Stable and Transferable Sparse Expert
        Models", 2022, https://arxiv.org/abs/2202.08906, equation 5 (the z-loss)
    """
    logits, _ = checks.class_array("logits", logits, axis)
    axis = checks.canonical_axis("axis", axis, logits.ndim)
    check_split("logits", logits, axis_name)
    batch = logits.shape[:axis] + logits.shape[axis + 1 :]
    several = False
    if labels is not None:
        labels, several = _label_arrays(labels, "logits", logits.ndim, batch)
        check_shared("labels", labels, axis_name)
    without = None
    if labels is not None and not several:
        without = ignored(labels[..., 0], ignore_index)
    where = checks.unweighted_mask(where)
    logits, examples = mask_classes(
        logits,
        (axis,),
        where,
        None,
        "none",
        checks.compute_dtype(logits),
        without,
        axis_name=axis_name,
    )
    keep = examples.tail.keep
    x = jnp.moveaxis(logits, axis, -1)
    counted = None
    if labels is not None:
        classes = class_count(logits, (axis,), axis_name)
        labels, counted = _safe_labels(
            labels, keep, ignore_index if several else None, classes
        )
    wide = widen(x)
    predictions = argmax(x, axis_name)
    numbers = statistics(wide, labels, counted, axis_name)
    return _as_statistics(numbers, predictions, keep, several)


@public(logit_softcap=inside(0, math.inf), temperature=above(0))
def linear_statistics(
    hidden: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike | None = None,
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
) -> SoftmaxStatistics:
    r"""Statistics of the softmax of a linear layer, without storing all logits.

    Choose it for a loss or a report made of the log-probabilities of several classes
    per example, of the entropy, the log-sum-exp, the prediction, or the mass outside
    the labels. For one label and the entropy, `linear_log_probs` does.

    With the logits $x = (\text{hidden} \cdot \text{kernel} + \text{bias}) / \tau$, $p$
    their softmax, $\tau$ the temperature and $S$ the set of an example's labels:

    $$ \log p_k \text{ for } k \in S, \quad -\sum_j p_j \log p_j, \quad
    \log \sum_j e^{x_j}, \quad \operatorname{argmax}_j x_j, \quad
    \log \sum_{j \notin S} p_j $$

    With `logit_softcap` $c$, the sum $s$ that $\tau$ divides becomes $c \tanh(s / c)$.

    Args:
        hidden: Floating, `[..., D]`, the features of each example.
        kernel: Real, `[D, C]`, the weights of the last layer. If `hidden` and `kernel`
            differ in dtype, they are multiplied in the dtype of the result.
        labels: Integer, in [0, C): K labels per example, `[..., K]`, or one,
            broadcastable to `[...]`. An array of the rank of `hidden` has K of them.
            None computes no `log_probs` and no `log_tail`.
        bias: Real, `[C]`, added to the logits; -inf excludes a class.
        logit_softcap: Scalar above 0 that bounds the size of the logits; None for no
            bound.
        temperature: Scalar above 0 that divides the (capped) logits.
        ignore_index: Of K labels, one with this value is excluded alone: its
            log-probability is 0, and it is not in $S$. An example whose only label has
            it is excluded.
        where: Boolean mask; False entries are excluded and 0 in every field.
        class_axis: The axis of the classes in `kernel`: -1, or 0 for an embedding table
            `[C, D]`.
        chunk_size: The largest number of examples whose logits exist at once. None
            takes D of them, but at least 1,024 and at most 4,096, divided by 4.
        axis_name: The mesh axis over which the classes are split, inside
            `jax.shard_map`, as in `linear_cross_entropy`; `labels` and `predictions`
            are among the classes of all devices.
        precision: Of the matrix products, as in `jax.lax.dot`. For bfloat16 inputs None
            also rounds the logits' gradient to bfloat16 before its products; "highest"
            keeps it in float32.

    Returns:
        A `SoftmaxStatistics`, as from `softmax_statistics`.

    Gradient:
        That of `softmax_statistics` with respect to the logits, and from there through
        the linear layer to every real argument. Smooth everywhere. The backward pass
        computes the logits again, once for all fields.

    Numerics:
        As in `softmax_statistics`. One sweep; in a compiled program, a field that is
        not used costs nothing in it.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss as jl
        >>> hidden, kernel = jnp.eye(2), jnp.array([[2.0, 0.0, 0.0], [50.0, 0.0, 0.0]])
        >>> found = jl.linear_statistics(hidden, kernel, jnp.array([[0, 1], [0, 1]]))
        >>> print(found.predictions, [f"{x:.4g}" for x in found.log_tail])
        [0 0] ['-2.24', '-50']

    References:
        Erik Wijmans, Brody Huval, Alexander Hertzberg, Vladlen Koltun and Philipp
        Krähenbühl, "Cut Your Losses in Large-Vocabulary Language Models", 2025,
        https://arxiv.org/abs/2411.09009
    """
    hidden, kernel, dtype, class_axis = layer_arguments(
        hidden, kernel, axis_name, class_axis
    )
    batch = hidden.shape[:-1]
    where = checks.unweighted_mask(where)
    tail = checks.tail(where, None, "none", shape=batch, dtype=dtype)
    several, counted = False, None
    if labels is not None:
        labels, several = _label_arrays(labels, "hidden", hidden.ndim, batch)
        check_shared("labels", labels, axis_name)
        without = None if several else ignored(labels[..., 0], ignore_index)
        tail = tail if without is None else tail.without(without)
    tail = tail.spread(batch)
    if labels is not None:
        classes = class_count(kernel, (class_axis,), axis_name)
        index = ignore_index if several else None
        labels, counted = _safe_labels(labels, tail.keep, index, classes)
    hidden = mask_rows(hidden, tail)
    per_class = functools.partial(per_class_of, kernel, class_axis, dtype)
    shared = logit_options(per_class, bias, logit_softcap, temperature, dtype)
    operands = Operands(hidden, kernel, None, shared)
    # The gradients need several arrays as large as the logits.
    options = sweep_options(chunk_size, precision, axis_name, class_axis, share=4)
    fixed = labels, counted
    *numbers, digits = map_rows(_STATISTICS, operands, fixed, tail.keep, options)
    return _as_statistics(numbers, join_digits(*digits), tail.keep, several)


def _statistics_by_row(x, own, shared, fixed, keep, axis_name):
    x = logits_of(x, shared)
    labels, counted = fixed
    numbers = statistics(x, labels, counted, axis_name)
    numbers = *numbers, as_digits(argmax(x, axis_name), x)
    if keep is None:
        return numbers
    return jax.tree.map(
        lambda v: jnp.where(keep.reshape(keep.shape + (1,) * (v.ndim - 1)), v, 0),
        numbers,
    )


_STATISTICS = Rule(_statistics_by_row)


def _label_arrays(labels, name, rank, batch):
    """Labels [..., K] and whether there are several, or one in an array [..., 1]."""
    labels = checks.integer_array("labels", labels)
    several = labels.ndim == rank
    if several:
        if not labels.shape[-1]:
            raise ValueError(
                "`labels` must have at least one label per example, got shape "
                f"{labels.shape}."
            )
        end = (*batch, labels.shape[-1])
        checks.check_broadcast(
            "labels", labels.shape, f"{name} with the K labels as its last axis", end
        )
    else:
        end = batch
        checks.check_broadcast(
            "labels", labels.shape, f"{name} without its last axis", batch
        )
    if labels.dtype.itemsize < 4:  # so that it can hold the number of classes
        labels = labels.astype(jnp.int32)
    labels = jnp.broadcast_to(labels, end)
    return labels if several else labels[..., None], several


def _safe_labels(labels, keep, ignore_index, classes):
    """Labels of excluded examples as 0, checked, and which of K are not ignored."""
    counted = None
    without = ignored(labels, ignore_index)
    if without is not None:
        counted = ~without
    valid = (labels >= 0) & (labels < jnp.asarray(classes, labels.dtype))
    if counted is not None:
        valid = valid | ~counted
    if keep is not None:
        labels = jnp.where(keep[..., None], labels, 0)
        valid = valid | ~keep[..., None]
    labels = checks.check_values("labels", labels, valid, f"in [0, {classes})")
    return labels, counted


def _as_statistics(numbers, predictions, keep, several):
    """The fields, 0 in excluded examples."""
    log_probs, entropies, log_normalizers, log_tail = numbers
    if keep is not None:
        entropies, log_normalizers, predictions = (
            jnp.where(keep, x, 0) for x in (entropies, log_normalizers, predictions)
        )
        if log_probs is not None:
            log_probs = jnp.where(keep[..., None], log_probs, 0)
            log_tail = jnp.where(keep, log_tail, 0)
    if log_probs is not None and not several:
        log_probs = log_probs[..., 0]
    return SoftmaxStatistics(
        log_probs, entropies, log_normalizers, predictions, log_tail
    )

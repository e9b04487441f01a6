"""Distillation of a linear layer, without the logits of student or teacher."""

from __future__ import annotations

import functools
import math

import jax
from jax.lax import PrecisionLike

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import above, inside
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.devices import broadcast_batch, check_shared, class_count
from jaxloss._core.sweeps.arguments import (
    layer_arguments,
    logit_options,
    mask_rows,
    per_class_of,
    real_array,
    sweep_options,
)
from jaxloss._core.sweeps.operands import Operands
from jaxloss.distillation._divergences import Divergence, check_divergence
from jaxloss.distillation._layer import (
    Known,
    beta_by_row,
    of_known_classes,
    of_two_layers,
    reduced_losses,
)
from jaxloss.distillation._sparse import (
    TailKind,
    check_kinds,
    checked_teacher,
    teacher_arrays,
)


@public(
    beta=inside(0, 1),
    temperature=above(0),
    logit_softcap=inside(0, math.inf),
    teacher_logit_softcap=inside(0, math.inf),
)
def linear_distillation_loss(
    hidden: ArrayLike,
    kernel: ArrayLike,
    teacher_hidden: ArrayLike,
    teacher_kernel: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    teacher_bias: ArrayLike | None = None,
    divergence: Divergence = "forward_kl",
    beta: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    logit_softcap: ArrayLike | None = None,
    teacher_logit_softcap: ArrayLike | None = None,
    class_axis: int = -1,
    chunk_size: int | None = None,
    axis_name: str | None = None,
    precision: PrecisionLike = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Divergence of a student from its teacher, without storing the logits of either.

    Choose it to distil a language model whose logits, and those of its teacher, do not
    fit in memory. If you have both, use `distillation_loss`.

    It is `distillation_loss` of the logits
    $x = \text{hidden} \cdot \text{kernel} + \text{bias}$ of the student and
    $t = \text{teacher hidden} \cdot \text{teacher kernel} + \text{teacher bias}$ of the
    teacher. With $p$ the softmax of $t / T$, $q$ that of $x / T$, $T$ the temperature
    and $m = \beta p + (1 - \beta)\,q$:

    $$ \sum_j p_j \log \frac{p_j}{q_j}, \qquad \sum_j q_j \log \frac{q_j}{p_j}, \qquad
    \beta \sum_j p_j \log \frac{p_j}{m_j}
    + (1 - \beta) \sum_j q_j \log \frac{q_j}{m_j} $$

    for "forward_kl", "reverse_kl" and "jensen_shannon". With a soft cap $c$, the logit
    $s$ becomes $c \tanh(s / c)$ before it is divided by $T$. The value is the
    divergence itself: Hinton's factor $T^2$ is yours to multiply by.

    Args:
        hidden: Floating, `[..., D]`, the student's features of each example.
        kernel: Real, `[D, C]`, the weights of the student's last layer.
        teacher_hidden: Floating, `[..., E]`, broadcastable to the examples of `hidden`,
            the teacher's features.
        teacher_kernel: Real, `[E, C]`, the weights of the teacher's last layer.
        bias: Real, `[C]`, added to the student's logits; -inf excludes a class.
        teacher_bias: Real, `[C]`, added to the teacher's.
        divergence: "forward_kl", "reverse_kl" or "jensen_shannon".
        beta: Scalar in (0, 1), the weight of the teacher in "jensen_shannon", 0.5 if
            None; the other kinds take none.
        temperature: Scalar above 0 that divides the (capped) logits of both.
        logit_softcap: Scalar above 0 that bounds the size of the student's logits; None
            for no bound.
        teacher_logit_softcap: The same for the teacher's.
        class_axis: The axis of the classes in both kernels: -1, or 0 for embedding
            tables `[C, D]` and `[C, E]`.
        chunk_size: The largest number of examples whose logits exist at once. None
            takes D of them, but at least 1,024 and at most 4,096, divided by 4.
        axis_name: The mesh axis over which the classes of both kernels are split,
            inside `jax.shard_map`, as in `linear_cross_entropy`.
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
        That of `distillation_loss` with respect to the logits, and from there through
        both layers. Also differentiable in the teacher's arrays; where nobody asks for
        that, as when they are constants, none of its products is computed.

    Numerics:
        As in `distillation_loss`; half-precision inputs are multiplied as they are and
        summed in float32. Value and gradient take 6 times examples x D x C operations
        and 2 times examples x E x C. Memory is that of 2 `chunk_size` x C logits and of
        the gradients.

    Raises:
        ValueError: If `beta` lies outside (0, 1) or comes with another kind, or if the
            kernels have different numbers of classes.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss as jl
        >>> hidden, kernel = jnp.eye(2), jnp.array([[0.0, 0.0], [1.0, 0.0]])
        >>> table = jnp.array([[0.0, 1e-3], [0.0, 3.0]])
        >>> losses = jl.linear_distillation_loss(hidden, kernel, hidden, table)
        >>> [f"{x:.4g}" for x in losses]
        ['1.25e-07', '1.075']

    References:
        Geoffrey Hinton, Oriol Vinyals and Jeff Dean, "Distilling the Knowledge in a
        Neural Network", 2015, https://arxiv.org/abs/1503.02531

        Pin-Lun Hsu et al., "Liger Kernel: Efficient Triton Kernels for LLM Training",
        2024, section 3.2, https://arxiv.org/abs/2410.10989
    """
    check_divergence(divergence, beta)
    hidden, kernel, _, axis = layer_arguments(hidden, kernel, axis_name, class_axis)
    batch = hidden.shape[:-1]
    of_teacher, table, _, _ = layer_arguments(
        real_array("teacher_hidden", teacher_hidden, hidden), teacher_kernel,
        axis_name, class_axis, "teacher_",
    )  # fmt: skip
    shape = (*batch, of_teacher.shape[-1])
    checks.check_broadcast(
        "teacher_hidden", of_teacher.shape, "the examples of `hidden`", shape
    )
    if table.shape[axis] != kernel.shape[axis]:
        raise ValueError(
            f"`teacher_kernel` must have the {kernel.shape[axis]} classes of "
            f"`kernel`, got shape {table.shape}."
        )
    of_teacher = broadcast_batch(of_teacher, hidden, len(batch), of_teacher.shape[-1:])
    dtype = checks.compute_dtype(hidden, kernel, of_teacher, table)
    tail = checks.tail(where, weights, reduction, shape=batch, dtype=dtype)
    rows = tuple(mask_rows(x, tail) for x in (hidden, of_teacher))
    per_class = functools.partial(per_class_of, kernel, axis, dtype)
    cap = teacher_logit_softcap
    layers = (
        logit_options(per_class, bias, logit_softcap, temperature, dtype),
        logit_options(per_class, teacher_bias, cap, 1, dtype, "teacher_"),
    )
    share = beta_by_row(divergence, beta, batch, dtype)
    operands = Operands(rows, (kernel, table), share, layers)
    rule = functools.partial(of_two_layers, divergence)
    # Besides the logits of both there is the gradient of the student's.
    options = sweep_options(chunk_size, precision, axis_name, axis, share=4)
    return reduced_losses(rule, operands, (), tail, options, batch, dtype)


@public(beta=inside(0, 1), temperature=above(0), logit_softcap=inside(0, math.inf))
def linear_sparse_distillation_loss(
    hidden: ArrayLike,
    kernel: ArrayLike,
    teacher_ids: ArrayLike,
    teacher_log_probs: ArrayLike,
    *,
    teacher_log_tail: ArrayLike | None = None,
    divergence: Divergence = "forward_kl",
    beta: ArrayLike | None = None,
    tail: TailKind = "bucket",
    bias: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    logit_softcap: ArrayLike | None = None,
    class_axis: int = -1,
    chunk_size: int | None = None,
    axis_name: str | None = None,
    precision: PrecisionLike = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Divergence from a teacher's most probable classes, without the student's logits.

    Choose it to distil a language model from stored classes of a teacher. If you have
    the student's logits, use `sparse_distillation_loss`; if you have the teacher's last
    layer, `linear_distillation_loss`.

    It is `sparse_distillation_loss` of the logits
    $x = \text{hidden} \cdot \text{kernel} + \text{bias}$. With $S$ the teacher's
    classes, $p$ their probabilities, $q$ the softmax of $x / T$, and $p_t$ and $q_t$
    what both have outside $S$, "forward_kl" with "bucket" is

    $$ \sum_{j \in S} p_j \log \frac{p_j}{q_j} + p_t \log \frac{p_t}{q_t} $$

    Args:
        hidden: Floating, `[..., D]`, the student's features of each example.
        kernel: Real, `[D, C]`, the weights of the student's last layer.
        teacher_ids: Integer, broadcastable to `[..., K]`: distinct classes in [0, C).
            An id of -1 with a log-probability of -inf is padding. A list `[K]` serves
            all examples; one class per example is `teacher_ids[..., None]`.
        teacher_log_probs: Real, broadcastable to `[..., K]`: the teacher's
            log-probabilities, taken as they are.
        teacher_log_tail: Real, broadcastable to `[...]`: the logarithm of what the
            teacher has outside, as `log_tail` of `linear_statistics`. None computes it
            from `teacher_log_probs`. For "bucket" alone.
        divergence: "forward_kl", "reverse_kl" or "jensen_shannon".
        beta: Scalar in (0, 1), the weight of the teacher in "jensen_shannon", 0.5 if
            None; the other kinds take none.
        tail: "bucket", "renormalize", or for "forward_kl" alone "ignore", as in
            `sparse_distillation_loss`.
        bias: Real, `[C]`, added to the logits; -inf excludes a class.
        temperature: Scalar above 0 that divides the student's (capped) logits alone.
        logit_softcap: Scalar above 0 that bounds the size of the logits; None for no
            bound.
        class_axis: The axis of the classes in `kernel`: -1, or 0 for an embedding table
            `[C, D]`.
        chunk_size: The largest number of examples whose logits exist at once. None
            takes D of them, but at least 1,024 and at most 4,096, divided by 2.
        axis_name: The mesh axis over which the classes are split, inside
            `jax.shard_map`; `teacher_ids` are among the classes of all devices.
        precision: Of the matrix products, as in `jax.lax.dot`. For bfloat16 inputs None
            also rounds the logits' gradient to bfloat16 before its products; "highest"
            keeps it in float32.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted). "sum" and "mean" are faster to
            differentiate.

    Returns:
        `[...]`, in nats, at least 0 unless `tail` is "ignore"; a scalar if reduced.

    Gradient:
        That of `sparse_distillation_loss` with respect to the logits, and from there
        through the linear layer. Also differentiable in the teacher's numbers.

    Numerics:
        As in `sparse_distillation_loss`; half-precision inputs are multiplied as they
        are and summed in float32. Value and gradient take 6 times examples x D x C
        operations. Memory is that of `chunk_size` x C logits and of the gradients. A
        repeated id, or one out of range, gives NaN.

    Raises:
        ValueError: If `beta` lies outside (0, 1) or comes with another kind, "ignore"
            with another divergence than "forward_kl", `teacher_log_tail` with another
            tail than "bucket", or "renormalize" with K = 1.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss as jl
        >>> hidden, kernel = jnp.ones((1, 1)), jnp.array([[2.0, 0.0, 0.0, 1.0]])
        >>> ids, log_probs = jnp.array([[0, 3]]), jnp.log(jnp.array([[0.6, 0.3]]))
        >>> print(jl.linear_sparse_distillation_loss(hidden, kernel, ids, log_probs))
        [0.0266]

    References:
        Anshumann et al., "Sparse Logit Sampling: Accelerating Knowledge Distillation in
        LLMs", 2025, https://arxiv.org/abs/2503.16870
    """
    check_kinds(divergence, beta, tail, teacher_log_tail)
    hidden, kernel, _, class_axis = layer_arguments(
        hidden, kernel, axis_name, class_axis
    )
    batch = hidden.shape[:-1]
    log_p = checks.to_array("teacher_log_probs", teacher_log_probs)
    dtype = checks.compute_dtype(hidden, kernel, log_p)
    arrays = teacher_arrays(teacher_ids, log_p, teacher_log_tail, tail, batch, dtype)
    check_shared("teacher_ids", arrays[0], axis_name)
    kept = checks.tail(where, weights, reduction, shape=batch, dtype=dtype)
    classes = class_count(kernel, (class_axis,), axis_name)
    teacher = checked_teacher(*arrays, kept.spread(batch), classes)
    hidden = mask_rows(hidden, kept)
    per_class = functools.partial(per_class_of, kernel, class_axis, dtype)
    shared = logit_options(per_class, bias, logit_softcap, temperature, dtype)
    share = beta_by_row(divergence, beta, batch, dtype)
    known = Known(teacher.log_probs, teacher.log_tail, share)
    operands = Operands(hidden, kernel, known, shared)
    fixed = teacher.ids, teacher.counted, teacher.valid
    rule = functools.partial(of_known_classes, divergence, tail)
    # Besides the logits there is their gradient.
    options = sweep_options(chunk_size, precision, axis_name, class_axis, share=2)
    return reduced_losses(rule, operands, fixed, kept, options, batch, dtype)

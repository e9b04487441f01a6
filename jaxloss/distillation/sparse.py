"""Distillation from a teacher's most probable classes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import above, inside
from jaxloss._core.arguments.classes import mask_classes
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.devices import broadcast_to, check_split, class_count
from jaxloss._core.softmax import divide_logits
from jaxloss._core.statistics import pick_several
from jaxloss.distillation._divergences import (
    Divergence,
    beta_array,
    one_per_example,
)
from jaxloss.distillation._sparse import (
    TailKind,
    check_kinds,
    checked_teacher,
    sparse_divergence,
    teacher_arrays,
    without_classes,
)


@public(beta=inside(0, 1), temperature=above(0))
def sparse_distillation_loss(
    logits: ArrayLike,
    teacher_ids: ArrayLike,
    teacher_log_probs: ArrayLike,
    axis: int = -1,
    *,
    teacher_log_tail: ArrayLike | None = None,
    divergence: Divergence = "forward_kl",
    beta: ArrayLike | None = None,
    tail: TailKind = "bucket",
    temperature: ArrayLike = 1.0,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Divergence of a student from the most probable classes of its teacher.

    Choose it where the teacher's K most probable classes are stored, and not all of its
    logits. With all of them `distillation_loss` does.

    With $S$ the teacher's classes, $p$ their given probabilities, $q$ the softmax of
    the student's logits over the temperature, $p_t = \max(1 - \sum_S p, 0)$ and $q_t$
    what both have outside $S$, `"bucket"` takes the rest as one class: for
    `"forward_kl"` that is

    $$ \sum_{j \in S} p_j \log \frac{p_j}{q_j} + p_t \log \frac{p_t}{q_t} $$

    and the other two divergences of the same K + 1 classes are those of
    `distillation_loss`. `"renormalize"` divides both sides by their sums over $S$, and
    so does not see what the student has outside. `"ignore"` leaves out the last term.

    Args:
        logits: Floating, `[..., C]` with the classes along `axis`, the student's
            unnormalised log-probabilities.
        teacher_ids: Integer, broadcastable to `[..., K]`: distinct classes in [0, C).
            An id of -1 with a log-probability of -inf is padding. A list `[K]` serves
            all examples; one class per example is `teacher_ids[..., None]`.
        teacher_log_probs: Real, broadcastable to `[..., K]`: the teacher's
            log-probabilities, taken as they are.
        axis: The class axis of `logits`.
        teacher_log_tail: Real, broadcastable to `[...]`: the logarithm of what the
            teacher has outside, as `log_tail` of `linear_statistics`. None computes it
            from `teacher_log_probs`. For "bucket" alone.
        divergence: "forward_kl", "reverse_kl" or "jensen_shannon".
        beta: Scalar in (0, 1), the weight of the teacher in "jensen_shannon", 0.5 if
            None; the other kinds take none.
        tail: "bucket", "renormalize", or for "forward_kl" alone "ignore", which may be
            negative.
        temperature: Scalar above 0 that divides the student's logits alone.
        axis_name: The mesh axis over which the classes are split, inside
            `jax.shard_map`; `teacher_ids` are among the classes of all devices.
        where: Boolean mask; False entries are excluded. A mask of the rank of `logits`
            excludes single classes, which are padding among the teacher's.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, at least 0 unless `tail` is "ignore"; a scalar if reduced.

    Gradient:
        For student logit $j$, times $1/T$, with "bucket" and "forward_kl": $q_j - p_j$
        in $S$ and $q_j (1 - p_t / q_t)$ outside. Differentiable in the teacher's
        numbers too.

    Numerics:
        $q_t$ is a sum of what it contains, and $p_t$ keeps the digits that $1 - \sum p$
        drops. If the teacher's numbers add up to 1 or more, $p_t$ is 0, and
        "reverse_kl" infinite: give `teacher_log_tail`. With all classes in $S$ nothing
        is outside on either side. A repeated id, or one out of range, gives NaN.

    Raises:
        ValueError: If `beta` lies outside (0, 1) or comes with another kind, "ignore"
            with another divergence than "forward_kl", `teacher_log_tail` with another
            tail than "bucket", or "renormalize" with K = 1, where it is 0 for every
            student.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss as jl
        >>> logits, ids = jnp.array([2.0, 0.0, 0.0, 1.0]), jnp.array([0, 3])
        >>> log_probs = jnp.log(jnp.array([0.6, 0.3]))
        >>> print(f"{jl.sparse_distillation_loss(logits, ids, log_probs):.4f}")
        0.0266

    References:
        Anshumann et al., "Sparse Logit Sampling: Accelerating Knowledge Distillation in
        LLMs", 2025, https://arxiv.org/abs/2503.16870
    """
    check_kinds(divergence, beta, tail, teacher_log_tail)
    x, _ = checks.class_array("logits", logits, axis)
    axis = checks.canonical_axis("axis", axis, x.ndim)
    check_split("logits", x, axis_name)
    log_p = checks.to_array("teacher_log_probs", teacher_log_probs)
    dtype = checks.compute_dtype(x, log_p)
    batch = x.shape[:axis] + x.shape[axis + 1 :]
    arrays = teacher_arrays(teacher_ids, log_p, teacher_log_tail, tail, batch, dtype)
    x, examples = mask_classes(
        x, (axis,), where, weights, reduction, dtype, axis_name=axis_name
    )
    classes = class_count(x, (axis,), axis_name)
    keep = examples.tail.keep
    teacher = checked_teacher(*arrays, examples.tail, classes)
    x = x.astype(dtype)
    if examples.classes is not None:
        there = jnp.moveaxis(examples.classes, axis, -1).astype(dtype)
        there = pick_several(there, teacher.ids, axis_name) > 0
        if keep is not None:
            there = there | ~keep[..., None]
        teacher = without_classes(teacher, there)
    if not (isinstance(temperature, int | float) and temperature == 1):
        number = checks.scalar("temperature", temperature, dtype)
        x = divide_logits(x, broadcast_to(examples.share(number, x), x))
    x = jnp.moveaxis(x, axis, -1)
    share = None
    if divergence == "jensen_shannon":
        share = examples.tail.guard(one_per_example(beta_array(beta, dtype), x))
    loss = sparse_divergence(divergence, tail, x, teacher, share, keep, axis_name)
    return examples.tail.reduce(loss)

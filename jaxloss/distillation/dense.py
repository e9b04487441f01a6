"""Distillation from the logits of teacher and student."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import above, inside
from jaxloss._core.arguments.classes import mask_classes
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.devices import broadcast_to, check_split
from jaxloss.distillation._divergences import (
    Divergence,
    beta_array,
    check_divergence,
    divergence_of_logits,
    one_per_example,
)


@public(beta=inside(0, 1), temperature=above(0))
def distillation_loss(
    logits: ArrayLike,
    teacher_logits: ArrayLike,
    axis: int = -1,
    *,
    divergence: Divergence = "forward_kl",
    beta: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Divergence of a student's distribution over classes from its teacher's.

    Choose it to train a small network on the logits of a large one. With `"forward_kl"`
    the student covers all that the teacher finds possible, with `"reverse_kl"` it keeps
    to what the teacher finds probable, and `"jensen_shannon"` is between the two, and
    bounded.

    With $p$ the softmax of the teacher's logits over the temperature, $q$ that of the
    student's, and $m = \beta p + (1 - \beta)\,q$:

    $$ \sum_j p_j \log \frac{p_j}{q_j}, \qquad \sum_j q_j \log \frac{q_j}{p_j}, \qquad
    \beta \sum_j p_j \log \frac{p_j}{m_j}
    + (1 - \beta) \sum_j q_j \log \frac{q_j}{m_j} $$

    for the three kinds. The value is the divergence itself: gradients shrink like
    $1 / T^2$ with the temperature $T$, and Hinton's factor $T^2$ is yours to multiply
    by.

    Also known as knowledge distillation; TRL: `GKDTrainer`.

    Args:
        logits: Floating, `[..., C]` with the classes along `axis`, the student's
            unnormalised log-probabilities.
        teacher_logits: Real, broadcastable to `logits`, the teacher's.
        axis: The class axis.
        divergence: "forward_kl", "reverse_kl" or "jensen_shannon".
        beta: Scalar in (0, 1), the weight of the teacher in "jensen_shannon", 0.5 if
            None; the other kinds take none.
        temperature: Scalar above 0 that divides the logits of both.
        axis_name: The mesh axis over which the classes are split, inside
            `jax.shard_map`. Devices exchange a few scalars per example.
        where: Boolean mask; False entries are excluded. A mask of the rank of `logits`
            excludes single classes.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, at least 0; a scalar if reduced.

    Gradient:
        For student logit $j$, times $1/T$: $q_j - p_j$,
        $q_j \left( \log(q_j / p_j) - \mathrm{KL}(q \| p) \right)$ and
        $(1 - \beta)\,q_j \left( \log(q_j / m_j) - \mathrm{KL}(q \| m) \right)$.
        Differentiable in the teacher's logits too: stop it with `jax.lax.stop_gradient`
        if they move.

    Numerics:
        A sum of terms that are all at least 0: near-equal distributions keep their
        digits. "jensen_shannon" is `jensen_shannon_divergence` of the teacher's and the
        student's logits.

    Raises:
        ValueError: If `beta` lies outside (0, 1), or comes with another kind.

    Example:
        >>> import jaxloss as jl
        >>> logits, teacher = [[0.0, 0.0], [1.0, 0.0]], [[0.0, 1e-3], [0.0, 3.0]]
        >>> [f"{x:.4g}" for x in jl.distillation_loss(logits, teacher)]
        ['1.25e-07', '1.075']

    References:
        Geoffrey Hinton, Oriol Vinyals and Jeff Dean, "Distilling the Knowledge in a
        Neural Network", 2015, https://arxiv.org/abs/1503.02531

        Yuxian Gu, Li Dong, Furu Wei and Minlie Huang, "MiniLLM: Knowledge Distillation
        of Large Language Models", 2023 (reverse_kl), https://arxiv.org/abs/2306.08543

        Rishabh Agarwal et al., "On-Policy Distillation of Language Models: Learning
        from Self-Generated Mistakes", 2023 (jensen_shannon),
        https://arxiv.org/abs/2306.13649
    """
    check_divergence(divergence, beta)
    student, _ = checks.class_array("logits", logits, axis)
    axis = checks.canonical_axis("axis", axis, student.ndim)
    teacher = checks.to_array("teacher_logits", teacher_logits)
    checks.check_broadcast("teacher_logits", teacher.shape, "logits", student.shape)
    dtype = checks.compute_dtype(student, teacher)
    teacher = broadcast_to(teacher.astype(dtype), student)
    check_split("logits", student, axis_name)
    student, examples = mask_classes(
        student, (axis,), where, weights, reduction, dtype, axis_name=axis_name
    )
    student = student.astype(dtype)
    if examples.classes is not None:
        teacher = jnp.where(examples.classes, teacher, -jnp.inf)
    (teacher,) = examples.tail.select(teacher, axes=examples.axes)
    student, teacher = (jnp.moveaxis(x, axis, -1) for x in (student, teacher))

    def by_example(number):
        return examples.tail.guard(one_per_example(number, student))

    share = divisor = None
    if divergence == "jensen_shannon":
        share = by_example(beta_array(beta, dtype))
    if not (isinstance(temperature, int | float) and temperature == 1):
        divisor = by_example(checks.scalar("temperature", temperature, dtype))
    loss = divergence_of_logits(divergence, student, teacher, share, axis_name, divisor)
    return examples.tail.reduce(loss)

"""The preference loss of single answers."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import at_least
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.compilers.order import computed_again
from jaxloss._core.numerics.exact import zero_safe_product
from jaxloss._core.rule.analytic import pointwise
from jaxloss.alignment._margins import (
    exact_product,
    exp_minus_magnitude,
    sum_of_differences,
)


@public(beta=at_least(0), desirable_weight=at_least(0), undesirable_weight=at_least(0))
def kto_loss(
    log_probs: ArrayLike,
    reference_log_probs: ArrayLike,
    desirable: ArrayLike,
    *,
    kl: ArrayLike = 0.0,
    beta: ArrayLike = 0.1,
    desirable_weight: ArrayLike = 1.0,
    undesirable_weight: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""KTO loss: a bounded loss of single answers that are desirable or not.

    Choose it where answers come with a thumb up or down, and not in pairs: pairs are
    what `dpo_loss` takes.

    With $m = \beta\,(\text{log\_probs} - \text{reference\_log\_probs} - \text{kl})$:

    $$
    \begin{cases}
    \text{desirable\_weight} \cdot (1 - \sigma(m)) & \text{desirable} \\
    \text{undesirable\_weight} \cdot (1 - \sigma(-m)) & \text{otherwise}
    \end{cases}
    \qquad \sigma(m) = 1 / (1 + e^{-m})
    $$

    TRL: `KTOTrainer`.

    Args:
        log_probs: Floating, `[...]`, the policy's log-probability of the answer: the
            sum over its tokens, as `sequence_log_probs` gives it.
        reference_log_probs: Real, broadcastable to `log_probs`, the reference model's.
        desirable: Boolean, or 0 and 1, broadcastable to `log_probs`.
        kl: Real, broadcastable: an estimate of the divergence of the policy from the
            reference. It is taken as given; the paper's is
            `stop_gradient(maximum(kl, 0))` of the mean log-ratio of mismatched pairs of
            prompt and answer.
        beta: $\beta \ge 0$, broadcastable.
        desirable_weight: At least 0, broadcastable: the paper's $\lambda_D$.
        undesirable_weight: At least 0, broadcastable: the paper's $\lambda_U$.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, between 0 and the weight of its kind.

    Gradient:
        $\mp \beta\,\sigma(m)\,\sigma(-m)$ times the weight for `log_probs`, negative
        for a desirable answer; its negative for `reference_log_probs` and `kl`. Also
        differentiable in `beta` and the two weights; smooth everywhere. `desirable`
        selects and has gradient 0.

    Numerics:
        $1 - \sigma(m)$ keeps its digits: 2.06e-9 at $m = 20$, not 0.

    Raises:
        ValueError: If `beta` or one of the two weights is negative.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxloss as jl
        >>> log_probs, reference = jnp.array([-30.0, -50.0]), jnp.array([-32.0, -50.0])
        >>> mismatched = jnp.array([0.4, -0.2])  # log-ratios of mismatched pairs
        >>> kl = jax.lax.stop_gradient(jnp.maximum(jnp.mean(mismatched), 0))
        >>> print(jl.kto_loss(log_probs, reference, jnp.array([True, False]), kl=kl))
        [0.45264238 0.49750003]

    References:
        Kawin Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic
        Optimization", 2024, equation 8, https://arxiv.org/abs/2402.01306
    """
    (x, reference, d, kl, beta, up, down), tail = checks.elementwise(
        where,
        weights,
        reduction,
        log_probs=log_probs,
        reference_log_probs=reference_log_probs,
        desirable=desirable,
        kl=kl,
        beta=beta,
        desirable_weight=desirable_weight,
        undesirable_weight=undesirable_weight,
    )
    valid = (d == 0) | (d == 1)
    d = checks.check_values("desirable", d, tail.counts(valid), "True or False")
    # The kind of answer: its sign selects, and NaN stays NaN.
    sign = jax.lax.stop_gradient(jnp.where(valid, 2 * d - 1, jnp.nan))
    if tail.keep is not None:
        sign = jnp.where(tail.keep, sign, 1)
    return tail.reduce(_kto(x, reference, sign, kl, beta, up, down))


# With D = x - a - k, h = ±β D and w the weight of its kind, f = w σ(-h),
#     df/dh = -w σ(h) σ(-h).
# For large h the loss is w e^-h, and a rounding error of h is a relative error of it.
@pointwise
def _kto(x, reference, sign, kl, beta, up, down):
    good = sign > 0
    w = jnp.where(good, up, down)
    *_, h, u = _kto_margin(x, reference, sign, kl, beta)
    inverse = 1 / (1 + u)
    share = jnp.where(h >= 0, u * inverse, inverse)
    value = jnp.where(h >= 0, w * (u * inverse), w * inverse)

    x, reference = computed_again(x, reference)
    d, unit, _, u = _kto_margin(x, reference, sign, kl, beta)
    inverse = 1 / (1 + u)
    slope = -(u * inverse) * inverse
    g = sign * (w * slope) * beta
    by_beta = sign * zero_safe_product(w * slope, d) * unit
    nothing = jnp.zeros_like(share)
    return value, (
        g,
        -g,
        nothing,
        -g,
        by_beta,
        jnp.where(good, share, nothing),
        jnp.where(good, nothing, share),
    )


def _kto_margin(x, reference, sign, kl, beta):
    """D times k, 1/k, h and e^-|h|, with k a power of two against an overflow."""
    d, lost, k = sum_of_differences((x, reference), (jnp.zeros_like(kl), kl))
    unit = jnp.where(k == 1, 1, 8)  # XLA for CPU would store a quotient
    h, h_lost = exact_product(beta, d, lost)
    h, h_lost = sign * h * unit, sign * h_lost * unit
    return d, unit, h, exp_minus_magnitude(h, h_lost)

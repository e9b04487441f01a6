"""Preference losses of pairs: a chosen and a rejected answer to the same prompt."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import above, at_least, between
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.numerics.exact import (
    quotient,
    remainder,
    two_difference,
    zero_safe_product,
)
from jaxloss._core.rule.analytic import pointwise
from jaxloss.alignment._margins import exact_product, logistic, sum_of_differences


@public(beta=at_least(0), label_smoothing=between(0, 1))
def dpo_loss(
    chosen: ArrayLike,
    rejected: ArrayLike,
    reference_chosen: ArrayLike = 0.0,
    reference_rejected: ArrayLike = 0.0,
    *,
    beta: ArrayLike = 0.1,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""DPO loss: a logistic loss of how far a policy prefers the chosen answer.

    Choose it to train on pairs of answers without a reward model. `ipo_loss` does not
    push the margin of a clear pair further; `simpo_loss` and `orpo_loss` need no
    reference model.

    With $h = \beta\,[(\text{chosen} - \text{reference\_chosen}) - (\text{rejected} -
    \text{reference\_rejected})]$ and $s$ the `label_smoothing`:

    $$ -(1 - s) \log \sigma(h) - s \log \sigma(-h), \quad
       \sigma(h) = 1 / (1 + e^{-h}) $$

    TRL: `DPOTrainer`.

    Args:
        chosen: Floating, `[...]`, the policy's log-probability of the preferred answer:
            the sum over its tokens, as `sequence_log_probs` gives it.
        rejected: Real, broadcastable to `chosen`, the same of the other answer.
        reference_chosen: Real, broadcastable, the reference model's log-probability of
            the preferred answer. 0.0 is DPO without a reference, as in CPO.
        reference_rejected: Real, broadcastable, the same of the other answer.
        beta: $\beta \ge 0$, broadcastable: how strongly the loss holds the policy near
            the reference.
        label_smoothing: In [0, 1], the probability that a pair is in the wrong order
            (conservative DPO), broadcastable.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, at least 0.

    Gradient:
        $\beta\,(s\,\sigma(h) - (1 - s)\,\sigma(-h))$ for `chosen` and
        `reference_rejected`, its negative for the other two. Also differentiable in
        `beta` and `label_smoothing`; smooth everywhere. Stop the gradient of reference
        log-probabilities that you compute in the same program.

    Numerics:
        A chosen answer of log-probability -inf gives inf with gradient $-\beta$, a
        rejected one 0 with gradient 0.

    Raises:
        ValueError: If `beta` is negative or `label_smoothing` is outside [0, 1].

    Example:
        >>> import jaxloss as jl
        >>> loss = jl.dpo_loss([-40.0], [-42.0], [-41.0], [-41.0], beta=0.5)
        >>> print(loss)
        [0.3132617]

    References:
        Rafael Rafailov et al., "Direct Preference Optimization: Your Language Model is
        Secretly a Reward Model", 2023, equation 7, https://arxiv.org/abs/2305.18290
    """
    inputs, tail = checks.elementwise(
        where,
        weights,
        reduction,
        chosen=chosen,
        rejected=rejected,
        reference_chosen=reference_chosen,
        reference_rejected=reference_rejected,
        beta=beta,
        label_smoothing=label_smoothing,
    )
    return tail.reduce(_dpo(*inputs))


# h = β D with D = (c - r) - (a - b): ∂h/∂c = ∂h/∂b = β, ∂h/∂r = ∂h/∂a = -β, ∂h/∂β = D.
@pointwise
def _dpo(c, r, a, b, beta, smoothing):
    d, lost, k = sum_of_differences((c, a), (b, r))
    h, h_lost = exact_product(beta, d, lost)
    value, slope, by_smoothing = logistic(h / k, h_lost / k, smoothing)
    g = slope * beta
    by_beta = zero_safe_product(slope, d) / k
    return value, (g, -g, -g, g, by_beta, by_smoothing)


@public(beta=above(0))
def ipo_loss(
    chosen: ArrayLike,
    rejected: ArrayLike,
    reference_chosen: ArrayLike = 0.0,
    reference_rejected: ArrayLike = 0.0,
    *,
    beta: ArrayLike = 0.1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""IPO loss: the squared distance of a preference margin from a finite goal.

    Choose it over `dpo_loss` where all annotators agree on many pairs: `dpo_loss` then
    drives the margin to infinity, this loss to $1 / (2 \beta)$.

    With $d = (\text{chosen} - \text{reference\_chosen}) - (\text{rejected} -
    \text{reference\_rejected})$:

    $$ \left(d - \frac{1}{2 \beta}\right)^2 $$

    TRL: `DPOTrainer(loss_type="ipo")`.

    Args:
        chosen: Floating, `[...]`, the policy's log-probability of the preferred answer:
            the sum over its tokens as in the paper, or the mean as in TRL.
        rejected: Real, broadcastable to `chosen`, the same of the other answer.
        reference_chosen: Real, broadcastable, the reference model's log-probability of
            the preferred answer.
        reference_rejected: Real, broadcastable, the same of the other answer.
        beta: $\beta > 0$, broadcastable, the paper's $\tau$.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0.

    Gradient:
        With $e = d - 1 / (2 \beta)$: $2 e$ for `chosen` and `reference_rejected`,
        $-2 e$ for the other two, $e / \beta^2$ for `beta`.

    Raises:
        ValueError: If `beta` is not above 0.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.ipo_loss([-40.0], [-42.0], [-41.0], [-41.0], beta=0.5))
        [1.]

    References:
        Mohammad Gheshlaghi Azar et al., "A General Theoretical Paradigm to Understand
        Learning from Human Preferences", 2023, equation 17,
        https://arxiv.org/abs/2310.12036
    """
    inputs, tail = checks.elementwise(
        where,
        weights,
        reduction,
        chosen=chosen,
        rejected=rejected,
        reference_chosen=reference_chosen,
        reference_rejected=reference_rejected,
        beta=beta,
    )
    return tail.reduce(_ipo(*inputs))


# e = d - 1/(2β), f = e², df/dd = 2 e, df/dβ = 2 e · 1/(2 β²) = (e/β)/β.
@pointwise
def _ipo(c, r, a, b, beta):
    d, lost, k = sum_of_differences((c, a), (b, r))
    goal = quotient(jnp.full_like(beta, 0.5), beta)
    goal_lost = stop_gradient(remainder(jnp.full_like(beta, 0.5), beta, goal) / beta)
    e, e_lost = two_difference(d / k, goal)
    e = e + jnp.where(jnp.isfinite(goal_lost), (e_lost + lost / k) - goal_lost, 0)
    g = 2 * e
    return e * e, (g, -g, -g, g, quotient(quotient(e, beta), beta))


@public(beta=at_least(0))
def simpo_loss(
    chosen: ArrayLike,
    rejected: ArrayLike,
    *,
    beta: ArrayLike = 2.0,
    margin: ArrayLike = 0.5,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""SimPO loss: a logistic loss of mean log-probabilities, less a target margin.

    Choose it over `dpo_loss` where there is no reference model, and where long answers
    should have no advantage.

    $$ -\log \sigma\bigl(\beta\,(\text{chosen} - \text{rejected}) - \text{margin}\bigr),
       \quad \sigma(h) = 1 / (1 + e^{-h}) $$

    Args:
        chosen: Floating, `[...]`, the mean log-probability of the tokens of the
            preferred answer: `sequence_log_probs` with `average=True`.
        rejected: Real, broadcastable to `chosen`, the same of the other answer.
        beta: $\beta \ge 0$, broadcastable.
        margin: Real, broadcastable: the paper's $\gamma$, which $\beta$ does not
            multiply.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, at least 0.

    Gradient:
        With $h$ the argument of $\sigma$: $-\beta\,\sigma(-h)$ for `chosen`, its
        negative for `rejected`, $\sigma(-h)$ for `margin`. Also differentiable in
        `beta`; smooth everywhere.

    Raises:
        ValueError: If `beta` is negative.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.simpo_loss([-0.5], [-1.5], beta=2.0, margin=1.0))
        [0.3132617]

    References:
        Yu Meng, Mengzhou Xia and Danqi Chen, "SimPO: Simple Preference Optimization
        with a Reference-Free Reward", 2024, equation 6,
        https://arxiv.org/abs/2405.14734
    """
    inputs, tail = checks.elementwise(
        where,
        weights,
        reduction,
        chosen=chosen,
        rejected=rejected,
        beta=beta,
        margin=margin,
    )
    return tail.reduce(_simpo(*inputs))


# h = β (c - r) - m.
@pointwise
def _simpo(c, r, beta, margin):
    d, lost, k = sum_of_differences((c, r))
    scaled, scaled_lost = exact_product(beta, d, lost)
    h, h_lost = two_difference(scaled / k, margin)
    value, slope, _ = logistic(h, h_lost + scaled_lost / k, jnp.zeros_like(h))
    g = slope * beta
    return value, (g, -g, zero_safe_product(slope, d) / k, -slope)


@public()
def bradley_terry_loss(
    chosen_rewards: ArrayLike,
    rejected_rewards: ArrayLike,
    *,
    margin: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Bradley-Terry loss: the negative log-likelihood that the chosen answer wins.

    Choose it to train a reward model on pairs. `ranking_softmax_loss` takes longer
    lists.

    $$ -\log \sigma(\text{chosen\_rewards} - \text{rejected\_rewards} - \text{margin}),
       \quad \sigma(h) = 1 / (1 + e^{-h}) $$

    Also known as reward-model loss. TRL: `RewardTrainer`.

    Args:
        chosen_rewards: Floating, `[...]`, the reward of the preferred answer.
        rejected_rewards: Real, broadcastable to `chosen_rewards`, the same of the other
            answer.
        margin: Real, broadcastable: larger for a clearer preference, as in Llama 2.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, at least 0.

    Gradient:
        With $h$ the argument of $\sigma$: $-\sigma(-h)$ for `chosen_rewards`,
        $\sigma(-h)$ for the other two; smooth everywhere.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.bradley_terry_loss([2.0, 0.5], [1.0, 0.5]))
        [0.3132617 0.6931472]

    References:
        Long Ouyang et al., "Training language models to follow instructions with human
        feedback", 2022, equation 1, https://arxiv.org/abs/2203.02155
    """
    inputs, tail = checks.elementwise(
        where,
        weights,
        reduction,
        chosen_rewards=chosen_rewards,
        rejected_rewards=rejected_rewards,
        margin=margin,
    )
    return tail.reduce(_bradley_terry(*inputs))


@pointwise
def _bradley_terry(c, r, margin):
    d, lost, k = sum_of_differences((c, r), (jnp.zeros_like(margin), margin))
    value, slope, _ = logistic(d / k, lost / k, jnp.zeros_like(d))
    return value, (slope, -slope, -slope)

"""Policy-gradient losses of tokens."""

from __future__ import annotations

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import above, at_least
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction, Tail
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.devices import broadcast_to
from jaxloss._core.numerics.exact import (
    two_difference,
    two_finite_difference,
    zero_safe_product,
)
from jaxloss._core.rule.analytic import pointwise
from jaxloss.alignment._margins import exp_with
from jaxloss.alignment._segments import (
    Segments,
    check_token_axis,
    segments,
    token_counts,
)

Importance = Literal["token", "sequence"]


@public(clip_low=at_least(0), clip_high=at_least(0), dual_clip=above(1))
def clipped_policy_loss(
    log_probs: ArrayLike,
    old_log_probs: ArrayLike,
    advantages: ArrayLike,
    *,
    clip_low: ArrayLike = 0.2,
    clip_high: ArrayLike = 0.2,
    dual_clip: ArrayLike | None = None,
    importance: Importance = "token",
    segment_ids: ArrayLike | None = None,
    num_segments: int | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Clipped policy loss of PPO, GRPO and GSPO: no gain from leaving the old policy.

    Choose it for policy gradients on tokens that an older policy has drawn. In
    `cispo_loss` every token keeps a gradient.

    With $r = e^{\text{log\_probs} - \text{old\_log\_probs}}$ and $A$ the advantages:

    $$ -\min\bigl(r A,\; \operatorname{clip}(r,\, 1 - \text{clip\_low},\,
       1 + \text{clip\_high})\, A\bigr) $$

    and at most $-\text{dual\_clip} \cdot A$ for a negative advantage.

    Also known as the surrogate loss of PPO, GRPO and GSPO. TRL: `GRPOTrainer`.

    Args:
        log_probs: Floating, `[...]`, the policy's log-probability of each token.
        old_log_probs: Real, broadcastable to `log_probs`, that of the policy which drew
            the tokens. Pass `stop_gradient(log_probs)` for a single step per batch.
        advantages: Real, broadcastable to `log_probs`: `[..., 1]` for one per answer.
        clip_low: At least 0, broadcastable; 0.2 as in PPO.
        clip_high: At least 0, broadcastable; larger than `clip_low` in DAPO.
        dual_clip: Above 1, broadcastable, the largest ratio that counts for a negative
            advantage. None means no bound.
        importance: "token", or "sequence" as in GSPO: $r$ is then the geometric mean of
            the ratios of the sequence's tokens, and each token's loss that of its
            sequence. Excluded tokens are not in the mean.
        segment_ids: Integer, broadcastable to `log_probs`: the sequence of each token,
            for several in the last axis. Tokens whose id is outside
            $[0, \text{num\_segments})$ are padding, and excluded. None means that the
            last axis is one sequence.
        num_segments: The number of sequences in the last axis, required with
            `segment_ids`.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example. The examples are the tokens.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, one loss per token; a scalar if reduced.

    Gradient:
        $-r A$ for `log_probs` where the ratio counts, else 0; its negative for
        `old_log_probs`; at the bounds the ratio counts. Also differentiable in
        `advantages`, `clip_low`, `clip_high` and `dual_clip`.

    Numerics:
        A ratio that overflows where a bound makes it irrelevant is never formed. With a
        negative advantage and no `dual_clip` nothing bounds it: the loss is inf if its
        true value exceeds the range of the dtype.

    Raises:
        ValueError: If `clip_low` or `clip_high` is negative, `dual_clip` is not above
            1, or only one of `segment_ids` and `num_segments` is given.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss as jl
        >>> log_probs, old = jnp.log(jnp.array([[0.3, 0.6], [0.5, 0.1]])), jnp.log(0.4)
        >>> print(jl.clipped_policy_loss(log_probs, old, [[1.0], [-1.0]]))
        [[-0.75 -1.2 ]
         [ 1.25  0.8 ]]

    References:
        John Schulman et al., "Proximal Policy Optimization Algorithms", 2017,
        equation 7, https://arxiv.org/abs/1707.06347

        Deheng Ye et al., "Mastering Complex Control in MOBA Games with Deep
        Reinforcement Learning" (the dual clip), 2019, https://arxiv.org/abs/1912.09729

        Chujie Zheng et al., "Group Sequence Policy Optimization", 2025,
        https://arxiv.org/abs/2507.18071
    """
    checks.check_option("importance", importance, get_args(Importance))
    _check_advantages(log_probs, advantages)
    others = {
        "advantages": advantages,
        "clip_low": clip_low,
        "clip_high": clip_high,
        "dual_clip": float("inf") if dual_clip is None else dual_clip,
    }
    arrays = checks.real_arrays(
        log_probs=log_probs, old_log_probs=old_log_probs, **others
    )
    x = arrays[0]
    tail = checks.tail(where, weights, reduction, shape=x.shape, dtype=x.dtype)
    of_tokens = segments(segment_ids, num_segments, x, "log_probs")
    outside = of_tokens.outside()
    tail = tail if outside is None else tail.without(outside)
    tail = tail.spread(x.shape)
    x, old, *rest = tail.select(*arrays)
    if importance == "token":
        return tail.reduce(_clipped(*two_difference(x, old), *rest))
    check_token_axis("log_probs", x)
    gap, lost = _sequence_mean(x, old, of_tokens, tail)
    if segment_ids is None and not any(map(_differs_within, others.values())):
        # One loss per sequence: XLA for CPU would compute it for each token, and XLA
        # for GPU store the sums of the tokens' slopes. The advantages of a sequence
        # that is excluded may be NaN: its ratio is 1, and no token passes a slope on.
        gap, lost = jnp.expand_dims(gap, -1), jnp.expand_dims(lost, -1)
        losses = _clipped(*checks.real_arrays(log_probs=gap, lost=lost, **others))
        return tail.reduce(broadcast_to(losses, x))
    gap, lost = (of_tokens.spread(part, x) for part in (gap, lost))
    # The loss of a token of weight 0 may be NaN, and must not make the others' NaN.
    return tail.reduce(_clipped(tail.guard(gap), lost, *rest))


def _check_advantages(log_probs, advantages):
    """Raises for one advantage per answer without the axis of tokens."""
    tokens, answers = np.shape(log_probs), np.shape(advantages)
    if answers and answers == tokens[:-1] and answers[-1] not in (1, tokens[-1]):
        raise ValueError(
            f"`advantages` must broadcast to the shape of log_probs {tokens}, "
            f"got shape {answers}; for one per answer pass `advantages[..., None]`."
        )


def _differs_within(x):
    """Whether an argument may differ between the tokens of a sequence."""
    size = np.shape(x)[-1:]
    return not (size == () or (isinstance(size[0], int) and size[0] == 1))


def _sequence_mean(x, old, of_tokens: Segments, tail: Tail):
    """The mean log-ratio of each sequence over the tokens that count.

    Also the mean of what rounding took from the differences, 0 where an infinite one
    makes it NaN. XLA for CPU would store both before the sums if there was a select per
    token, or the difference if the two shared one. So x - old and old - x are two, and
    a token that a mask excludes has x = old, a difference of 0.
    """
    gap, lost = x - old, -two_finite_difference(old, x)[1]
    counted = tail.keep
    if tail.weights is not None:
        weighty = jnp.broadcast_to(tail.weights != 0, gap.shape)
        counted = weighty if counted is None else counted & weighty
        gap, lost = jnp.where(counted, gap, 0), jnp.where(counted, lost, 0)
    share = 1 / token_counts(of_tokens, counted, gap)
    mean, rest = (of_tokens.sum(part) * share for part in (gap, lost))
    return mean, jnp.where(jnp.isfinite(rest), rest, 0)


# With g the log-ratio, A >= 0: f = -A min(e^g, 1 + h); A < 0: f = -A max(e^g, 1 - l),
# at most -A c. Where g counts, df/dg = f, else 0. The bounds are compared with g before
# the exponential, so that a ratio without influence cannot overflow. Where |g| is large
# A e^g is (A e^(g/2)) e^(g/2), which overflows and underflows only if the product does.
@pointwise
def _clipped(gap, lost, advantages, low, high, cap):
    negative = advantages < 0
    over = gap > jnp.where(negative, jnp.log(cap), jnp.log1p(high))
    under = negative & (gap < _log_of_lower(low))
    bound = jnp.where(negative, jnp.where(under, 1 - low, cap), 1 + high)
    clipped = over | under

    gap = jnp.where(clipped, 0, gap)
    far = jnp.abs(gap) > 0.9 * math.log(float(jnp.finfo(gap.dtype).max))
    part = exp_with(jnp.where(far, gap / 2, gap), jnp.where(far, lost / 2, lost))
    rest = jnp.where(far, part, 1)
    moving = -zero_safe_product(advantages, part) * rest
    bound = jnp.where(clipped, bound, 1)
    value = jnp.where(clipped, -advantages * bound, moving)
    nothing = jnp.zeros_like(value)
    return value, (
        jnp.where(clipped, 0, moving),
        nothing,
        -jnp.where(clipped, bound, part * rest),
        jnp.where(under, advantages, nothing),
        jnp.where(over & ~negative, -advantages, nothing),
        jnp.where(over & negative, -advantages, nothing),
    )


def _log_of_lower(low):
    """log(1 - low), -inf where the bound is no positive ratio."""
    return jnp.where(low < 1, jnp.log1p(-jnp.where(low < 1, low, 0)), -jnp.inf)


@public(clip_low=at_least(0), clip_high=at_least(0))
def cispo_loss(
    log_probs: ArrayLike,
    old_log_probs: ArrayLike,
    advantages: ArrayLike,
    *,
    clip_low: ArrayLike = 1.0,
    clip_high: ArrayLike = 4.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""CISPO loss: a policy gradient whose importance weights are clipped constants.

    Choose it over `clipped_policy_loss` where rare tokens matter: the bound limits the
    weight of a token, and never removes its gradient.

    With $r = e^{\text{log\_probs} - \text{old\_log\_probs}}$, $A$ the advantages and
    $\hat r = \operatorname{clip}(r,\, 1 - \text{clip\_low},\, 1 + \text{clip\_high})$,
    a constant in every derivative:

    $$ -\hat r \cdot A \cdot \text{log\_probs} $$

    Args:
        log_probs: Floating, `[...]`, the policy's log-probability of each token.
        old_log_probs: Real, broadcastable to `log_probs`, that of the policy which drew
            the tokens.
        advantages: Real, broadcastable to `log_probs`: `[..., 1]` for one per answer.
        clip_low: At least 0, broadcastable; 1.0 means no lower bound, as in the paper.
        clip_high: At least 0, broadcastable.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example. The examples are the tokens.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, one loss per token; a scalar if reduced.

    Gradient:
        $-\hat r A$ for `log_probs` and $-\hat r \cdot \text{log\_probs}$ for
        `advantages`. 0 for `old_log_probs`, `clip_low` and `clip_high`: $\hat r$ is
        constant by definition.

    Raises:
        ValueError: If `clip_low` or `clip_high` is negative.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxloss as jl
        >>> log_probs, old = jnp.log(jnp.array([0.5, 0.75])), jnp.log(0.125)
        >>> total = lambda x: jl.cispo_loss(x, old, 1.0, reduction="sum")
        >>> print(jax.grad(total)(log_probs))
        [-4. -5.]

    References:
        MiniMax, "MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning
        Attention", 2025, equations 4 and 5, https://arxiv.org/abs/2506.13585
    """
    _check_advantages(log_probs, advantages)
    (x, old, advantages, low, high), tail = checks.elementwise(
        where,
        weights,
        reduction,
        log_probs=log_probs,
        old_log_probs=old_log_probs,
        advantages=advantages,
        clip_low=clip_low,
        clip_high=clip_high,
    )
    gap, lost = two_difference(x, old)
    over, under = gap > jnp.log1p(high), gap < _log_of_lower(low)
    bound = jnp.where(over, 1 + high, 1 - low)
    ratio = exp_with(jnp.where(over | under, 0, gap), lost)
    ratio = stop_gradient(jnp.where(over | under, bound, ratio))
    return tail.reduce(_weighted_log_prob(x, ratio, advantages))


# f = -r A x with r constant: the slope by r is never asked for.
@pointwise
def _weighted_log_prob(x, ratio, advantages):
    scale, gain = ratio * advantages, zero_safe_product(ratio, x)
    value = -zero_safe_product(scale, x)
    return value, (-scale, jnp.zeros_like(ratio), -gain)

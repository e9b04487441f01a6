"""The odds-ratio preference loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import at_least
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.compilers.order import computed_again
from jaxloss._core.numerics.exact import two_difference, zero_safe_product
from jaxloss._core.numerics.functions import log1p_unit, magnitude
from jaxloss._core.rule.analytic import pointwise
from jaxloss.alignment._expm1 import expm1_of_negative
from jaxloss.alignment._margins import exp_minus_magnitude


@public(weight=at_least(0))
def orpo_loss(
    chosen: ArrayLike,
    rejected: ArrayLike,
    *,
    weight: ArrayLike = 0.1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""ORPO's odds-ratio loss: the odds of the chosen answer against the rejected one.

    Choose it to align a model while it is fine-tuned, without a reference: add it to
    the cross entropy of the chosen answer.

    With the odds $o(x) = e^x / (1 - e^x)$ of a log-probability $x$:

    $$ -\text{weight} \cdot \log \sigma\left(
       \log \frac{o(\text{chosen})}{o(\text{rejected})} \right), \quad
       \sigma(z) = 1 / (1 + e^{-z}) $$

    TRL: `ORPOTrainer`.

    Args:
        chosen: Floating, `[...]`, at most 0, the mean log-probability of the tokens of
            the preferred answer: `sequence_log_probs` with `average=True`.
        rejected: Real, at most 0, broadcastable to `chosen`, the same of the other
            answer.
        weight: At least 0, broadcastable: the paper's $\lambda$.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0.

    Gradient:
        With $z$ the argument of $\sigma$:
        $-\text{weight} \cdot \sigma(-z) / (1 - e^\text{chosen})$ for `chosen`,
        $\text{weight} \cdot \sigma(-z) / (1 - e^\text{rejected})$ for `rejected`. Also
        differentiable in `weight`.

    Numerics:
        $1 - e^x$ keeps its digits for probabilities near 1. A chosen answer of
        log-probability 0 gives 0 with a finite gradient, a rejected one inf. A
        log-probability above 0 gives NaN, and raises under `checkify`.

    Raises:
        ValueError: If `weight` is negative.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.orpo_loss([-0.5, -1e-9], [-1.0, -1e-8], weight=1.0))
        [0.3202998  0.09531018]

    References:
        Jiwoo Hong, Noah Lee and James Thorne, "ORPO: Monolithic Preference Optimization
        without Reference Model", 2024, equations 4 to 7,
        https://arxiv.org/abs/2403.07691
    """
    (c, r, scale), tail = checks.elementwise(
        where, weights, reduction, chosen=chosen, rejected=rejected, weight=weight
    )
    # A mask puts 0.5 in the place of what it excludes, which no log-probability is.
    c, r = (x if tail.keep is None else jnp.where(tail.keep, x, -0.5) for x in (c, r))
    c = checks.check_values("chosen", c, tail.counts(~(c > 0)), "at most 0")
    r = checks.check_values("rejected", r, tail.counts(~(r > 0)), "at most 0")
    c, r = (jnp.where(x > 0, jnp.nan, x) for x in (c, r))
    return tail.reduce(_odds_ratio(c, r, scale))


# With C = 1 - e^c, R = 1 - e^r and e^-z = e^(r-c) C/R, the loss over the weight is
# f = log(1 + e^-z). Let C' be that of the larger log-probability and R' of the smaller
# one, q = C'/R' <= 1, u = e^-|c - r|, t = u q <= 1 and D = R' + u C' = R' (1 + t):
#     c >= r:  f = log(1 + t),                   df/dc = -u/D,  df/dr = t/D,
#     c < r:   f = log(1 + t) - log q + |c - r|, df/dc = -1/D,  df/dr = 1/(C' (1 + t)).
# No term is negative. Only C' may be 0 alone, and u/D is finite there. At c = r = 0 the
# odds count as equal.
@pointwise
def _odds_ratio(c, r, weight):
    ahead, u, _, of_high, of_low = _odds(c, r)
    q = of_high / of_low
    sure = q == 0
    value, _ = log1p_unit(u * q, jnp.zeros_like(u))
    behind = magnitude(c - r) - jnp.log(jnp.where(sure, 1, q))
    value = jnp.where(ahead, value, value + jnp.where(sure, jnp.inf, behind))

    c, r = computed_again(c, r)
    ahead, u, both_sure, of_high, of_low = _odds(c, r)
    by_chosen = -jnp.where(ahead, u, 1) / (of_low + u * of_high)
    by_chosen = jnp.where(both_sure, -jnp.inf, by_chosen)

    ahead, u, both_sure, of_high, of_low = _odds(*computed_again(c, r))
    t = u * (of_high / of_low)
    sure = of_high == 0
    behind = 1 / (jnp.where(sure, 1, of_high) * (1 + t))
    behind = jnp.where(sure, jnp.inf, behind)
    by_rejected = jnp.where(ahead, t / (of_low + u * of_high), behind)
    by_rejected = jnp.where(both_sure, jnp.inf, by_rejected)
    return zero_safe_product(weight, value), (
        zero_safe_product(weight, by_chosen),
        zero_safe_product(weight, by_rejected),
        value,
    )


def _odds(c, r):
    """Whether c >= r, u, whether c = r = 0, and C' and R', which are 1 there."""
    of_c, of_r = -expm1_of_negative(c), -expm1_of_negative(r)
    gap, lost = two_difference(c, r)
    ahead = c >= r
    of_high, of_low = jnp.where(ahead, of_c, of_r), jnp.where(ahead, of_r, of_c)
    both_sure = of_low == 0
    of_high, of_low = (jnp.where(both_sure, 1, x) for x in (of_high, of_low))
    return ahead, exp_minus_magnitude(gap, lost), both_sure, of_high, of_low

"""The odds-ratio preference loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import at_least
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.numerics.exact import quotient, two_difference, zero_safe_product
from jaxloss._core.numerics.functions import accurate_expm1
from jaxloss._core.rule.analytic import pointwise


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


# With C = 1 - e^c, R = 1 - e^r and t = e^-z = e^(r-c) C/R, the loss over the weight is
#     f = log(1 + t) = (r - c) + log(C/R) + log(1 + 1/t),
#     df/dc = -(t/C)/(1 + t) = -1/(C (1 + 1/t)),
#     df/dr = (t/R)/(1 + t) = 1/(R (1 + 1/t)).
# For c >= r, t is at most 1 and the first forms hold, with t/C = e^(r-c)/R finite also
# at c = 0; for c < r the second ones, where r - c and log(C/R) are positive. Each has
# the larger log-probability `high` and the smaller one `low`, of which only `high` may
# be 0 alone. At c = r = 0 the odds count as equal.
@pointwise
def _odds_ratio(c, r, weight):
    ahead = c >= r
    high, low = jnp.where(ahead, c, r), jnp.where(ahead, r, c)
    of_high, of_low = -accurate_expm1(high), -accurate_expm1(low)
    gap, lost = two_difference(low, high)
    ratio = jnp.exp(gap) * (1 + lost)
    both_sure = of_low == 0
    of_low = jnp.where(both_sure, 1, of_low)
    t = ratio * jnp.where(both_sure, 1, quotient(of_high, of_low))

    sure = of_high == 0
    finite = jnp.where(sure, 1, of_high)
    odds = jnp.where(sure, jnp.inf, jnp.log(of_low / finite))
    value = jnp.log1p(t) + jnp.where(ahead, 0, odds - gap)

    share = 1 / (1 + t)
    inverse = jnp.where(both_sure, jnp.inf, 1 / of_low)
    of_larger, of_smaller = ratio * inverse * share, share * inverse
    by_chosen = -jnp.where(ahead, of_larger, of_smaller)
    whole = jnp.where(sure & ~ahead, jnp.inf, 1 / finite)
    by_rejected = jnp.where(ahead, t * share * inverse, share * whole)
    return zero_safe_product(weight, value), (
        zero_safe_product(weight, by_chosen),
        zero_safe_product(weight, by_rejected),
        value,
    )

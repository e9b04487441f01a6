"""Estimates of the divergence of a policy from its reference, from tokens drawn."""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.numerics.exact import two_finite_difference
from jaxloss._core.rule.analytic import pointwise
from jaxloss.alignment._expm1 import expm1_parts
from jaxloss.alignment._margins import exp_with

Estimator = Literal["k1", "k2", "k3"]


@public()
def kl_estimate(
    log_probs: ArrayLike,
    reference_log_probs: ArrayLike,
    *,
    estimator: Estimator = "k3",
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Estimate of the divergence from a reference policy, from the tokens drawn.

    Choose it to monitor or to penalise how far a policy leaves its reference;
    `kl_divergence` is exact where all log-probabilities of a token are known.

    With $d = \text{reference\_log\_probs} - \text{log\_probs}$:

    $$ k_1 = -d, \qquad k_2 = d^2 / 2, \qquad k_3 = e^d - 1 - d $$

    Args:
        log_probs: Floating, `[...]`, the log-probability of each token under the policy
            that drew it.
        reference_log_probs: Real, broadcastable to `log_probs`, the same under the
            reference.
        estimator: "k1" is unbiased and may be negative, "k2" is biased, "k3" is
            unbiased and never negative.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example. The examples are the tokens.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, one number per token; a scalar if reduced.

    Gradient:
        For `log_probs`: 1 of "k1", $-d$ of "k2", $1 - e^d$ of "k3"; the negative for
        `reference_log_probs`. For tokens that the policy itself has drawn, only the one
        of "k2" is the gradient of the divergence in expectation.

    Numerics:
        "k3" keeps its digits near 0: 5e-9 at $d = 10^{-4}$.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.kl_estimate([-1.0, -3.0], [-1.5, -2.0]))
        [0.10653066 0.71828187]
        >>> print(jl.kl_estimate([-1.0, -3.0], [-1.5, -2.0], estimator="k1"))
        [ 0.5 -1. ]

    References:
        John Schulman, "Approximating KL Divergence", 2020,
        https://joschu.net/blog/kl-approx.html
    """
    checks.check_option("estimator", estimator, get_args(Estimator))
    inputs, tail = checks.elementwise(
        where,
        weights,
        reduction,
        log_probs=log_probs,
        reference_log_probs=reference_log_probs,
    )
    return tail.reduce(_ESTIMATORS[estimator](*inputs))


@pointwise
def _k1(x, reference):
    one = jnp.ones_like(x)
    return x - reference, (one, -one)


@pointwise
def _k2(x, reference):
    d = x - reference
    return d * (d / 2), (d, -d)


# f(d) = e^d - 1 - d has df/dx = -(e^d - 1), and the slope of that is e^d. What rounding
# took from d is put back to first order.
@pointwise
def _k3(x, reference):
    d, lost = _log_ratio(reference, x)
    near, c, grown, slope = expm1_parts(d)
    value = (near + (grown - c)) + _finite(slope) * lost
    # XLA for CPU computes what comes before a select in one loop, and stores the losses
    # alone. It would store five arrays for a sum over `value` as it is.
    value = jnp.where(d == jnp.inf, d, value)
    slope = _grown_by(d, lost)
    return value, (-slope, slope)


@pointwise
def _grown_by(d, lost):
    """e^(d + lost) - 1."""
    *_, slope = expm1_parts(d)
    value = slope + _finite(1 + slope) * lost
    return value, (exp_with(d, lost), jnp.zeros_like(lost))


def _finite(slope):
    # XLA for GPU would make a pass of its own of a bound on either side.
    return jnp.minimum(slope, float(jnp.finfo(slope.dtype).max))


def _log_ratio(a, b):
    """a - b, and what rounding took from it, to which an infinity adds nothing."""
    most = float(jnp.finfo(a.dtype).max) / 4
    first, second = jnp.clip(a, -most, most), jnp.clip(b, -most, most)
    _, lost = two_finite_difference(first, second)
    return a - b, jnp.clip(lost, -0.25, 0.25)


_ESTIMATORS = {"k1": _k1, "k2": _k2, "k3": _k3}

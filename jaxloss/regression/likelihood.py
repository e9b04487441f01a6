"""Negative log-likelihoods of counts and of values with a variance."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import at_least
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.numerics.exact import (
    difference_over,
    minus_product,
    quotient,
    times_difference,
    two_difference,
)
from jaxloss._core.numerics.functions import LOG_2_PI
from jaxloss._core.rule.analytic import pointwise
from jaxloss.regression._inputs import arguments


@public(eps=at_least(0))
def poisson_nll_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    log_input: bool = True,
    full: bool = False,
    eps: ArrayLike = 1e-8,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Poisson negative log-likelihood of counts under predicted rates.

    Choose it over `squared_error` for counts, whose variance grows with their mean.
    Keras's `poisson` is this loss with `log_input=False`.

    With $p$ the predictions and $t$ the targets, and without the constant $\log t!$,
    which `full` adds:

    $$
    \begin{cases}
    e^p - t\,p & \text{if log_input} \\
    p - t \log(p + \text{eps}) & \text{if not}
    \end{cases}
    $$

    PyTorch: `nn.PoissonNLLLoss`; Keras: `Poisson`.

    Args:
        predictions: Floating, `[...]`: the logarithm of the rate if `log_input`, else
            the rate, at least 0.
        targets: Counts, real, at least 0, broadcastable to `predictions`. None means 0.
        log_input: Whether `predictions` are logarithms, as in PyTorch, and more stable.
        full: Whether to add Stirling's approximation of $\log t!$, which is
            $t \log t - t + \log(2 \pi t) / 2$, where $t > 1$. False as in PyTorch.
        eps: At least 0, keeps the logarithm of a rate of 0 finite; broadcastable to
            `predictions`, unused if `log_input`. 1e-8 as in PyTorch.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, of either sign.

    Gradient:
        For `predictions` $e^p - t$, or $1 - t / (p + \text{eps})$ without `log_input`.
        For `targets` $-p$ or $-\log(p + \text{eps})$, with `full` and $t > 1$ plus
        $\log t + 1 / (2t)$. For `eps` $-t / (p + \text{eps})$ without `log_input`.

    Numerics:
        $0 \log 0$ is 0. In float32 $e^p$ overflows to inf for predictions above 88.7; a
        negative rate gives NaN.

    Raises:
        ValueError: If `eps` is negative.

    Example:
        >>> import jaxloss as jl
        >>> [f"{x:.4f}" for x in jl.poisson_nll_loss([0.0, 1.0], [2.0, 3.0])]
        ['1.0000', '-0.2817']

    References:
        PyTorch, "torch.nn.PoissonNLLLoss",
        https://docs.pytorch.org/docs/stable/generated/torch.nn.PoissonNLLLoss.html
    """
    (p, t, eps), tail = arguments(
        predictions, targets, where, weights, reduction, eps=eps
    )
    slope, rest = _stirling(t) if full else (jnp.zeros_like(t), jnp.zeros_like(t))
    loss = _poisson(p, t, slope) if log_input else _poisson_of_rate(p, t, slope, eps)
    return tail.reduce(loss + rest)


def _stirling(t):
    """(slope, rest) with log(t!) = t · slope + rest; 0 for t <= 1, as in PyTorch."""
    log_t = jnp.log(jnp.where(t > 1, t, 1))
    return jnp.where(t > 1, log_t - 1, 0), jnp.where(t > 1, (LOG_2_PI + log_t) / 2, 0)


# f = e^p - t (p - slope), where a target of 0 makes the product 0 for infinite p too.
# Where e^p overflows, f = p (e^p/p - t (p - slope)/p) may still be finite, or has the
# right sign. In float32 e^p overflows at 88.7, and from 100 on it exceeds every finite
# t (p - slope); in float64 at 709.8 and from 721 on.
@pointwise
def _poisson(p, t, slope):
    rate = jnp.exp(p)
    overflow = math.floor(math.log(float(jnp.finfo(p.dtype).max)))
    q = jnp.clip(p, overflow, overflow + 12)
    far = q * (jnp.exp(q - jnp.log(q)) - t * ((q - slope) / q))
    near = minus_product(rate, t, jnp.where(t == 0, 0, p - slope))
    return jnp.where(jnp.isinf(rate), far, near), (rate - t, slope - p, t)


# f = p - t (log(p + eps) - slope), where a target of 0 makes the product 0 also if the
# logarithm is infinite. The rounding error of p + eps is added to the logarithm to
# first order: it matters where p + eps is near 1 and the logarithm near 0. The slope
#     df/dp = 1 - t / (p + eps) = ((p - t) + eps) / (p + eps)
# would cancel near its zero at p + eps = t. There p - t is exact, and two differences
# that keep their rounding errors add up to all the digits of the numerator. For t far
# above p + eps, where the numerator may overflow, the first form is right.
@pointwise
def _poisson_of_rate(p, t, slope, eps):
    rate, rounding_error = two_difference(p, -eps)
    empty = (rate == 0) & (t == 0)
    rate = jnp.where(empty, 1, rate)
    log_rate = jnp.log(rate)
    correction = rounding_error / jnp.where(rate == 0, 1, rate)
    log_rate = log_rate + stop_gradient(correction)
    factor = jnp.where(empty, 0, log_rate) - slope
    ratio = quotient(t, rate)
    near = (ratio > 0.5) & (ratio < 2)
    gap, gap_error = two_difference(rate, t)
    slope = quotient(gap + (gap_error + rounding_error), rate)
    slope = jnp.where(near, slope, 1 - ratio)
    value = minus_product(p, t, jnp.where(t == 0, 0, factor))
    return value, (slope, -factor, t, -ratio)


@public(eps=at_least(0))
def gaussian_nll_loss(
    means: ArrayLike,
    targets: ArrayLike,
    variances: ArrayLike,
    *,
    full: bool = False,
    eps: ArrayLike = 1e-6,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Gaussian negative log-likelihood of targets under predicted means and variances.

    Choose it over `squared_error` for a model that also predicts its own uncertainty.

    With $v = \max(\text{variances}, \text{eps})$:

    $$
    \frac{1}{2} \left( \log(v) + \frac{(\text{means} - \text{targets})^2}{v} \right)
    $$

    PyTorch: `nn.GaussianNLLLoss`.

    Args:
        means: Predicted means, floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `means`.
        variances: Predicted variances in the squared unit, at least 0, broadcastable to
            `means`: `[..., 1]` for one variance per row.
        full: Whether to add the constant $\log(2 \pi) / 2$. False as in PyTorch.
        eps: At least 0, the lower bound of the variances, broadcastable to `means`.
            1e-6 as in PyTorch.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, of either sign.

    Gradient:
        With $r = (\text{means} - \text{targets}) / v$: $r$ for `means`, $-r$ for
        `targets`, $(1 / v - r^2) / 2$ for `variances`. A variance below `eps` has this
        gradient too (PyTorch's straight-through clamp), so that it can recover; `eps`
        has the same gradient there, 0 elsewhere.

    Numerics:
        A negative variance gives NaN, and raises under `checkify`.

    Raises:
        ValueError: If `eps` is negative.

    Example:
        >>> import jaxloss as jl
        >>> loss = jl.gaussian_nll_loss([1.0, 1.0], [3.0, 3.0], [1.0, 4.0])
        >>> [f"{x:.4f}" for x in loss]
        ['2.0000', '1.1931']

    References:
        David A. Nix and Andreas S. Weigend, "Estimating the mean and variance of the
        target probability distribution", 1994, https://doi.org/10.1109/ICNN.1994.374138
    """
    named = {"means": means, "targets": targets, "variances": variances, "eps": eps}
    (m, t, v, eps), tail = checks.elementwise(where, weights, reduction, **named)
    v = checks.check_values("variances", v, tail.counts(v >= 0), "at least 0")
    loss = _gaussian(m, t, v, eps) + (0.5 * LOG_2_PI if full else 0)
    return tail.reduce(loss)


# As in PyTorch, a variance below eps is replaced by eps but has the derivative at eps,
# so that training can raise the variance again. With r = (m - t)/v:
#     f = log(v)/2 + r (m - t)/2,     df/dm = r,     df/dv = 1/(2v) - r²/2,
# and df/deps = df/dv where eps replaces the variance.
@pointwise
def _gaussian(m, t, v, eps):
    low = v < eps
    variance = jnp.where(low, eps, v)
    variance = jnp.where(v >= 0, variance, jnp.nan)
    ratio = difference_over(m, t, variance)
    value = 0.5 * jnp.log(variance) + times_difference(0.5 * ratio, m, t)
    v_slope = 0.5 / variance - (0.5 * ratio) * ratio
    return value, (ratio, -ratio, v_slope, jnp.where(low, v_slope, 0))

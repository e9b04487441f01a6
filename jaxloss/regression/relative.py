"""Errors relative to the target."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.arguments.checks import at_least
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.numerics.exact import (
    difference_over,
    direction,
    log1p_of_sum,
    quotient,
    remainder,
    scaled_difference,
    two_difference,
)
from jaxloss._core.rule.analytic import pointwise
from jaxloss.regression._inputs import arguments


@public(epsilon=at_least(0))
def absolute_percentage_error(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    epsilon: ArrayLike = 1e-7,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Absolute percentage error: the absolute error in percent of the target.

    Choose it over `absolute_error` where targets span orders of magnitude and none is
    near 0. A prediction between 0 and the target costs at most 100, one above it any
    amount; `squared_log_error` treats both ratios alike.

    $$
    100 \cdot \frac{|\text{predictions} - \text{targets}|}
    {\max(|\text{targets}|,\; \epsilon)}
    $$

    Also known as MAPE. Keras: `MeanAbsolutePercentageError`.

    Args:
        predictions: Floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `predictions`. None means 0.
        epsilon: $\epsilon \ge 0$, the smallest divisor, broadcastable, in the unit of
            the targets. 1e-7 as in Keras.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0, in percent.

    Gradient:
        With $e = \text{predictions} - \text{targets}$: for `predictions`
        $100 \operatorname{sign}(e)$ over the divisor, 0 at $e = 0$. For `targets` its
        negative times $\text{predictions} / \text{targets}$. Where `epsilon` is the
        divisor this factor is 1, and only there `epsilon` has a gradient.

    Numerics:
        With `epsilon` 0, a target of 0 gives inf, or NaN if the prediction is 0 as
        well.

    Raises:
        ValueError: If `epsilon` is negative.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.absolute_percentage_error([110.0, 1.0], [100.0, 2.0]))
        [10. 50.]

    References:
        Arnaud de Myttenaere, Boris Golden, Bénédicte Le Grand and Fabrice Rossi, "Mean
        Absolute Percentage Error for regression models", 2016,
        https://arxiv.org/abs/1605.02541
    """
    inputs, tail = arguments(
        predictions, targets, where, weights, reduction, epsilon=epsilon
    )
    return tail.reduce(_percentage(*inputs))


# f = 100 |e|/d with e = p - t and d = max(|t|, epsilon). Where d = |t|, the derivative
# through e and the one through d add up to
#     df/dt = -100 sign(e) sign(t) p/t².
# No intermediate result over- or underflows before the final result does: for |p| >= 1,
# where 100 p might overflow, 100 p/t² is formed as 1.5625 (p/(t/8))/(t/8).
@pointwise
def _percentage(p, t, epsilon):
    by_t = jnp.abs(t) > epsilon
    d = jnp.where(by_t, jnp.abs(t), epsilon)
    rate = quotient(jnp.full_like(d, 100), d)
    e, d_k, _ = scaled_difference(p, t, d)
    value = jnp.abs(e) * (100 / d_k)
    sign = direction(p, t)

    low = jnp.abs(p) < 1
    divisor = jnp.where(by_t, d * jnp.where(low, 1, 0.125), 1)
    once = quotient(p * jnp.where(low, 100, 1), divisor)
    # Without this select XLA merges both divisions into one by divisor², which may
    # underflow to 0.
    twice = quotient(jnp.where(by_t, once, 0), divisor) * jnp.where(low, 1, 1.5625)
    t_slope = jnp.where(by_t, jnp.sign(t) * twice, rate)
    fixed = jnp.where(by_t, 1, epsilon)
    size = difference_over(jnp.where(by_t, 0, p), jnp.where(by_t, 0, t), fixed) * sign
    epsilon_slope = jnp.where(size > 0.01, size * rate, quotient(value, fixed))
    slopes = (sign * rate, -sign * t_slope, jnp.where(by_t, 0, -epsilon_slope))
    return value, slopes


@public(epsilon=at_least(0))
def squared_log_error(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    epsilon: ArrayLike = 1e-7,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Squared logarithmic error: the squared difference of the two `log1p` values.

    Choose it over `squared_error` for counts and amounts whose ratio matters more than
    their difference.

    $$
    \left( \log(1 + \max(\text{predictions}, \epsilon))
    - \log(1 + \max(\text{targets}, \epsilon)) \right)^2
    $$

    Also known as MSLE. Keras: `MeanSquaredLogarithmicError`.

    Args:
        predictions: Floating, `[...]`, at least 0; `epsilon` replaces smaller values.
        targets: Real, in the same unit, broadcastable to `predictions`. None means 0.
        epsilon: $\epsilon \ge 0$, the smallest input, broadcastable. 1e-7 as in Keras.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0.

    Gradient:
        With $d$ the difference of the logarithms: $2d / (1 + \text{predictions})$ for
        `predictions`, $-2d / (1 + \text{targets})$ for `targets`. An input at or below
        `epsilon` has gradient 0, and `epsilon` has its gradient instead.

    Raises:
        ValueError: If `epsilon` is negative.

    Example:
        >>> import jaxloss as jl
        >>> [f"{x:.4f}" for x in jl.squared_log_error([1.0, 3.0], [1.0, 1.0])]
        ['0.0000', '0.4805']

    References:
        Keras, "Regression losses", `MeanSquaredLogarithmicError`,
        https://keras.io/api/losses/regression_losses/
    """
    (p, t, epsilon), tail = arguments(
        predictions, targets, where, weights, reduction, epsilon=epsilon
    )
    loss = _squared_log(
        jnp.where(p <= epsilon, epsilon, p), jnp.where(t <= epsilon, epsilon, t)
    )
    return tail.reduce(loss)


# log1p(p) - log1p(t) = sign(p - t) · log1p(|p - t|/(1 + min(p, t))): this form does not
# subtract two logarithms, which cancel where p and t are close. It corrects the
# logarithm by the rounding errors of its argument, which the square would double.
@pointwise
def _squared_log(p, t):
    sign = jnp.where(p < t, -1, 1)
    e, e_error = two_difference(p, t)
    base, base_error = two_difference(jnp.where(p < t, p, t), -jnp.ones_like(p))
    ratio = sign * e / base
    error = remainder(sign * e, base, ratio) + sign * e_error - ratio * base_error
    log, log_error = log1p_of_sum(ratio, stop_gradient(error / base))
    slope = 2 * sign * log
    return log * log + 2 * log * log_error, (slope / (1 + p), -slope / (1 + t))

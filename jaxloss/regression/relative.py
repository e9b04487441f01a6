"""Errors relative to the target."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.typing import ArrayLike

from jaxloss._core.arguments.checks import at_least
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
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
    r"""Returns the absolute error in percent of the target.

    Choose it over `absolute_error` where targets span orders of magnitude and none is
    near 0. A prediction that is too low costs at most 100, one that is too high any
    amount; `squared_log_error` weighs both ratios alike.

    $$
    100 \cdot \frac{|\text{predictions} - \text{targets}|}
    {\max(|\text{targets}|,\; \epsilon)}
    $$

    Args:
        predictions: Floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `predictions`. None stands for
            zeros, which leaves `epsilon` as the divisor.
        epsilon: $\epsilon \ge 0$, the smallest divisor, in the unit of the targets and
            broadcastable to `predictions`. 1e-7 as in Keras.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0, in percent; a scalar if reduced.

    Gradient:
        With $e = \text{predictions} - \text{targets}$: for `predictions`
        $100 \operatorname{sign}(e)$ over the divisor, 0 at $e = 0$; for `targets` its
        negative times $\text{predictions} / \text{targets}$, or times 1 where `epsilon`
        is the divisor; `epsilon` receives a gradient there alone.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. An error beyond the largest float is no obstacle where the quotient is
        finite. With `epsilon` 0, a target of 0 gives inf or, predicted right, NaN.

    Raises:
        TypeError: If an input is not real, `predictions` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `predictions`, `epsilon` is
            negative, or `reduction` is unknown.

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


# With f = 100 abs(p - t)/d and d = max(abs(t), epsilon), at d = abs(t):
#     df/dt = -100 sign(e) sign(t)·p/t², in which the two terms have been added up.
# No product leaves the range before the result: where 100 p may, it is 8·8·1.5625 p.
@pointwise
def _percentage(p, t, epsilon):
    own = jnp.abs(t) > epsilon
    d = jnp.where(own, jnp.abs(t), epsilon)
    rate = quotient(jnp.full_like(d, 100), d)
    e, d_k, _ = scaled_difference(p, t, d)
    value = jnp.abs(e) * (100 / d_k)
    sign = direction(p, t)

    low = jnp.abs(p) < 1
    divisor = jnp.where(own, d * jnp.where(low, 1, 0.125), 1)
    once = quotient(p * jnp.where(low, 100, 1), divisor)
    # The select keeps XLA from dividing once by divisor², which may underflow.
    twice = quotient(jnp.where(own, once, 0), divisor) * jnp.where(low, 1, 1.5625)
    t_slope = jnp.where(own, jnp.sign(t) * twice, rate)
    fixed = jnp.where(own, 1, epsilon)
    size = difference_over(jnp.where(own, 0, p), jnp.where(own, 0, t), fixed) * sign
    epsilon_slope = jnp.where(size > 0.01, size * rate, quotient(value, fixed))
    slopes = (sign * rate, -sign * t_slope, jnp.where(own, 0, -epsilon_slope))
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
    r"""Returns the squared difference of the logarithms of one plus each side.

    Choose it over `squared_error` for counts and amounts whose ratio matters more than
    their difference.

    $$
    \left( \log(1 + \max(\text{predictions}, \epsilon))
    - \log(1 + \max(\text{targets}, \epsilon)) \right)^2
    $$

    Args:
        predictions: Floating, `[...]`, at least 0; what is below `epsilon` is raised to
            it.
        targets: Real, in the same unit, broadcastable to `predictions`. None stands for
            zeros.
        epsilon: $\epsilon \ge 0$, the smallest value on either side, broadcastable to
            `predictions`. 1e-7 as in Keras.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0; a scalar if reduced.

    Gradient:
        With $d$ the difference of the logarithms: $2d / (1 + \text{predictions})$ for
        `predictions`, $-2d / (1 + \text{targets})$ for `targets`. At and below
        `epsilon` a side receives 0, and `epsilon` its gradient instead.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. The two logarithms are one, of the ratio, so that near-equal sides keep
        their digits. A side of inf gives inf, two of them NaN.

    Raises:
        TypeError: If an input is not real, `predictions` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `predictions`, `epsilon` is
            negative, or `reduction` is unknown.

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


# log1p(p) - log1p(t) = ± log1p(abs(p - t)/(1 + min(p, t))): no two logs to subtract.
# What rounding takes from the argument, which the square would double, is put back.
@pointwise
def _squared_log(p, t):
    sign = jnp.where(p < t, -1, 1)
    e, e_lost = two_difference(p, t)
    base, base_lost = two_difference(jnp.where(p < t, p, t), -jnp.ones_like(p))
    ratio = sign * e / base
    lost = remainder(sign * e, base, ratio) + sign * e_lost - ratio * base_lost
    log, log_lost = log1p_of_sum(ratio, stop_gradient(lost / base))
    slope = 2 * sign * log
    return log * log + 2 * log * log_lost, (slope / (1 + p), -slope / (1 + t))

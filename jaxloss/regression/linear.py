"""Piecewise linear losses, with one kink or two."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core.arguments.checks import at_least, between
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.numerics.exact import direction, distance_beyond, times_difference
from jaxloss._core.rule.analytic import pointwise
from jaxloss.regression._inputs import arguments


@public()
def absolute_error(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Absolute error: the distance between predictions and targets.

    Choose it over `squared_error` where outliers should not dominate the fit: its
    minimum is the median of the targets. `huber_loss` and `charbonnier_loss` are smooth
    near 0.

    $$ |e|, \quad e = \text{predictions} - \text{targets} $$

    Also known as L1 loss and mean absolute error (MAE). PyTorch: `nn.L1Loss`; Keras:
    `MeanAbsoluteError`.

    Args:
        predictions: Floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `predictions`. None means 0.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0, in the unit of the error.

    Gradient:
        $\operatorname{sign}(e)$ for `predictions`, 0 at 0; its negative for `targets`.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.absolute_error([1.0, -2.5], [1.0, 1.0]))
        [0.  3.5]

    References:
        Trevor Hastie, Robert Tibshirani and Jerome Friedman, "The Elements of
        Statistical Learning", 2nd edition, 2009, section 10.6,
        https://hastie.su.domains/ElemStatLearn/
    """
    inputs, tail = arguments(predictions, targets, where, weights, reduction)
    return tail.reduce(_absolute(*inputs))


@pointwise
def _absolute(p, t):
    # The derivative at 0 is 0, as in PyTorch; `jnp.abs` has the derivative 1 there.
    sign = direction(p, t)
    return jnp.abs(p - t), (sign, -sign)


@public(quantile=between(0, 1))
def quantile_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    quantile: ArrayLike = 0.5,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Quantile (pinball) loss: an absolute error minimal at a quantile of the targets.

    Choose it to predict a quantile or, with two quantiles, an interval. At quantile 0.5
    it is half of `absolute_error`.

    $$ \max(q\,d,\; (q - 1)\,d), \quad d = \text{targets} - \text{predictions} $$

    Also known as pinball loss.

    Args:
        predictions: Floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `predictions`. None means 0.
        quantile: $q$ in [0, 1], broadcastable to `predictions`. 0.5 is the median.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0, in the unit of the error.

    Gradient:
        $-q$ for `predictions` below the target, $1 - q$ above it and 0 at $d = 0$; the
        negative for `targets`; $d$ for `quantile`.

    Raises:
        ValueError: If `quantile` is outside [0, 1].

    Example:
        >>> import jaxloss as jl
        >>> print(jl.quantile_loss([1.0, 3.0], [2.0, 2.0], quantile=0.9))
        [0.9 0.1]

    References:
        Roger Koenker and Gilbert Bassett, "Regression Quantiles", 1978,
        https://doi.org/10.2307/1913643
    """
    inputs, tail = arguments(
        predictions, targets, where, weights, reduction, quantile=quantile
    )
    return tail.reduce(_quantile(*inputs))


# f = slope · (t - p). The slope at t = p is 0 · (t - p): 0, or NaN for infinite t = p.
@pointwise
def _quantile(p, t, q):
    slope = jnp.where(t > p, q, jnp.where(t < p, q - 1, 0 * (t - p)))
    return times_difference(slope, t, p), (-slope, slope, t - p)


@public(epsilon=at_least(0))
def epsilon_insensitive_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    epsilon: ArrayLike = 0.1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Epsilon-insensitive loss: the part of the absolute error that exceeds `epsilon`.

    Choose it over `absolute_error` where errors below a tolerance should cost nothing,
    as in support vector regression.

    $$ \max(|e| - \epsilon,\; 0), \quad e = \text{predictions} - \text{targets} $$

    Args:
        predictions: Floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `predictions`. None means 0.
        epsilon: $\epsilon \ge 0$, the tolerance, broadcastable. 0.1 as in scikit-learn.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0, in the unit of the error.

    Gradient:
        Where $|e| > \epsilon$, $\operatorname{sign}(e)$ for `predictions`, its negative
        for `targets` and -1 for `epsilon`. All are 0 elsewhere, also at the kink.

    Raises:
        ValueError: If `epsilon` is negative.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.epsilon_insensitive_loss([0.25, 2.0], [0.0, 0.0], epsilon=0.5))
        [0.  1.5]

    References:
        Harris Drucker, Christopher J. C. Burges, Linda Kaufman, Alex Smola and Vladimir
        Vapnik, "Support Vector Regression Machines", 1996,
        https://papers.nips.cc/paper/1238-support-vector-regression-machines
    """
    inputs, tail = arguments(
        predictions, targets, where, weights, reduction, epsilon=epsilon
    )
    return tail.reduce(_epsilon_insensitive(*inputs))


# `distance_beyond` corrects |p - t| - epsilon by the rounding error of p - t, which is
# large relative to a loss just beyond epsilon.
@pointwise
def _epsilon_insensitive(p, t, epsilon):
    beyond = distance_beyond(p, t, epsilon)
    inside = beyond <= 0
    slope = jnp.where(inside, 0, direction(p, t))
    return jnp.where(inside, 0, beyond), (slope, -slope, -jnp.abs(slope))

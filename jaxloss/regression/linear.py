"""Losses made of straight lines, with a kink or two."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxloss._core.arguments.checks import at_least, between
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
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
    r"""Returns the absolute error of each prediction.

    Choose it over `squared_error` where outliers should not decide the fit: its minimum
    is the median of the targets. `huber_loss` and `charbonnier_loss` are smooth near 0.

    With $e = \text{predictions} - \text{targets}$:

    $$ |e| $$

    Args:
        predictions: Floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `predictions`. None, as in
            optax, stands for zeros.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0, in the unit of the error; a scalar if reduced.

    Gradient:
        $\operatorname{sign}(e)$ for `predictions`, its negative for `targets`; 0 at
        $e = 0$, as in PyTorch.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. Infinite errors give inf with a gradient of 1 or -1, equal infinities
        NaN.

    Raises:
        TypeError: If an input is not real, `predictions` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `predictions` or `reduction` is
            unknown.

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
    # The derivative of `jnp.abs` at 0 is 1; PyTorch's, and this one, is 0.
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
    r"""Returns the pinball loss, whose minimum is a quantile of the targets.

    Choose it to predict a quantile or, with two of them, an interval. At quantile 0.5
    it is half of `absolute_error`.

    With $q$ the quantile and $d = \text{targets} - \text{predictions}$:

    $$ \max(q\,d,\; (q - 1)\,d) $$

    Args:
        predictions: Floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `predictions`. None stands for
            zeros.
        quantile: $q$ in [0, 1], broadcastable to `predictions`, so that several
            quantiles can share one call. 0.5 is the median.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0, in the unit of the error; a scalar if reduced.

    Gradient:
        $-q$ for `predictions` below the target, $1 - q$ above it and 0 at $d = 0$; the
        negative for `targets`; $d$ for `quantile`.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. Finite wherever the product is, also where $d$ itself overflows.
        Infinite errors give inf, equal infinities NaN.

    Raises:
        TypeError: If an input is not real, `predictions` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `predictions`, `quantile` lies
            outside [0, 1], or `reduction` is unknown.

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
    r"""Returns the absolute error in excess of epsilon.

    Choose it over `absolute_error` where errors below a tolerance should cost nothing,
    as in support vector regression.

    With $e = \text{predictions} - \text{targets}$:

    $$ \max(|e| - \epsilon,\; 0) $$

    Args:
        predictions: Floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `predictions`. None stands for
            zeros.
        epsilon: $\epsilon \ge 0$, the tolerance in the unit of the error, broadcastable
            to `predictions`. 0.1 as in scikit-learn's `SVR`.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0, in the unit of the error; a scalar if reduced.

    Gradient:
        $\operatorname{sign}(e)$ for `predictions` where $|e| > \epsilon$, its negative
        for `targets`, -1 for `epsilon`; 0 for all of them elsewhere, the kink included.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. What rounding took from $e$ is put back, so that the small excess just
        beyond epsilon keeps its digits.

    Raises:
        TypeError: If an input is not real, `predictions` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `predictions`, `epsilon` is
            negative, or `reduction` is unknown.

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


@pointwise
def _epsilon_insensitive(p, t, epsilon):
    beyond = distance_beyond(p, t, epsilon)
    inside = beyond <= 0
    slope = jnp.where(inside, 0, direction(p, t))
    return jnp.where(inside, 0, beyond), (slope, -slope, -jnp.abs(slope))

"""Losses that are quadratic for small errors and linear for large errors."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core.arguments.checks import at_least
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.numerics.exact import (
    difference_over,
    direction,
    distance_beyond,
    quotient,
    scaled_difference,
    with_derivative_of,
)
from jaxloss._core.numerics.functions import accurate_tanh, log_of_cosh
from jaxloss._core.rule.analytic import pointwise
from jaxloss.regression._inputs import arguments


@public(delta=at_least(0))
def huber_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    delta: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Huber loss: quadratic up to `delta`, linear beyond.

    Choose it over `squared_error` where a few targets are far off, with delta near the
    size of ordinary errors. `smooth_l1_loss` is this loss divided by delta; `log_cosh`
    is smooth to every order.

    With $e = \text{predictions} - \text{targets}$:

    $$
    \begin{cases}
    e^2 / 2 & |e| \le \delta \\
    \delta\,(|e| - \delta / 2) & |e| > \delta
    \end{cases}
    $$

    PyTorch: `nn.HuberLoss`; Keras: `Huber`.

    Args:
        predictions: Floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `predictions`. None means 0.
        delta: $\delta \ge 0$, the error at which the line begins, broadcastable to
            `predictions`. 1.0 as in optax and PyTorch.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0, in the squared unit.

    Gradient:
        $\max(-\delta, \min(e, \delta))$ for `predictions`, its negative for `targets`,
        $\max(|e| - \delta, 0)$ for `delta`; continuous, without a kink.

    Raises:
        ValueError: If `delta` is negative.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.huber_loss([0.5, 3.0], [0.0, 0.0], delta=1.0))
        [0.125 2.5  ]

    References:
        Peter J. Huber, "Robust Estimation of a Location Parameter", 1964,
        https://doi.org/10.1214/aoms/1177703732
    """
    inputs, tail = arguments(
        predictions, targets, where, weights, reduction, delta=delta
    )
    return tail.reduce(_huber(*inputs))


# For |e| > delta, f = delta (|e| - delta/2) = 2 delta (|p/2 - t/2| - delta/4): the loss
# can be finite where p - t overflows. df/ddelta = |e| - delta is close to 0 near the
# kink, where `distance_beyond` keeps its digits. The slope is e held within ±delta,
# which needs no comparison of its own: XLA for GPU would store the one that loss and
# slope have in common. Its derivative is that of the two branches, 1 up to the kink.
@pointwise
def _huber(p, t, delta):
    e = p - t
    beyond = distance_beyond(p, t, delta)
    inside = beyond <= 0
    inner = jnp.where(inside, e, 0)
    outer = (2 * delta) * distance_beyond(p / 2, t / 2, delta / 4)
    value = jnp.where(inside, (0.5 * inner) * inner, outer)
    branches = jnp.where(inside, e, delta * direction(p, t))
    slope = with_derivative_of(jnp.clip(e, -delta, delta), branches)
    return value, (slope, -slope, jnp.where(inside, 0, beyond))


@public(beta=at_least(0))
def smooth_l1_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    beta: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Smooth L1 loss: quadratic up to `beta`, linear with slope 1 beyond.

    Choose it over `huber_loss`, which is beta times this loss, where large errors
    should have slope 1 for every beta, as in box regression. Beta 0 gives
    `absolute_error`.

    With $e = \text{predictions} - \text{targets}$:

    $$
    \begin{cases}
    e^2 / (2 \beta) & |e| < \beta \\
    |e| - \beta / 2 & |e| \ge \beta
    \end{cases}
    $$

    PyTorch: `nn.SmoothL1Loss`.

    Args:
        predictions: Floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `predictions`. None means 0.
        beta: $\beta \ge 0$, the error at which the line begins, broadcastable to
            `predictions`. 1.0 as in PyTorch and in Fast R-CNN.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0, in the unit of the error.

    Gradient:
        $\max(-1, \min(e / \beta, 1))$ for `predictions`, its negative for `targets`,
        $-\min(e^2 / \beta^2, 1) / 2$ for `beta`. All are 0 where `beta` and $e$ are 0.

    Raises:
        ValueError: If `beta` is negative.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.smooth_l1_loss([0.5, 3.0], [0.0, 0.0], beta=2.0))
        [0.0625 2.    ]

    References:
        Ross Girshick, "Fast R-CNN", 2015, equation 3, https://arxiv.org/abs/1504.08083
    """
    inputs, tail = arguments(predictions, targets, where, weights, reduction, beta=beta)
    return tail.reduce(_smooth_l1(*inputs))


# For |e| < beta, f = (e/beta) e/2 and df/dbeta = -(e/beta)²/2, else df/dbeta = -1/2: in
# both cases minus half of the squared slope. At e = beta = 0 the slope is 0.
@pointwise
def _smooth_l1(p, t, beta):
    e = p - t
    inside = jnp.abs(e) < beta
    sign = direction(p, t)
    ratio = difference_over(p, t, jnp.where(inside, beta, 1))
    value = jnp.where(inside, (0.5 * ratio) * e, distance_beyond(p, t, beta / 2))
    slope = jnp.where(inside, ratio, sign)
    return value, (slope, -slope, -0.5 * slope * slope)


@public()
def log_cosh(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Log-cosh loss: the logarithm of the hyperbolic cosine of the error.

    Choose it over `huber_loss` where the second derivative should be continuous, as for
    Newton's method. It is near $e^2 / 2$ at 0 and $|e| - \log 2$ far from it.

    $$ \log(\cosh(e)), \quad e = \text{predictions} - \text{targets} $$

    Keras: `LogCosh`.

    Args:
        predictions: Floating, `[...]`, in a unit in which typical errors are near 1.
        targets: Real, in the same unit, broadcastable to `predictions`. None means 0.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0.

    Gradient:
        $\tanh(e)$ for `predictions`, its negative for `targets`; smooth everywhere.

    Example:
        >>> import jaxloss as jl
        >>> [f"{x:.3f}" for x in jl.log_cosh([0.0, 1.0, -100.0])]
        ['0.000', '0.434', '99.307']

    References:
        Pengfei Chen, Guangyong Chen and Shengyu Zhang, "Log Hyperbolic Cosine Loss
        Improves Variational Auto-Encoder", 2018,
        https://openreview.net/forum?id=rkglvsC9Ym
    """
    (p, t), tail = arguments(predictions, targets, where, weights, reduction)
    return tail.reduce(_log_cosh(p, t))


# d log(cosh e)/de = tanh(e). The value computes p - t and the slope t - p on purpose:
# XLA for CPU would store a difference that both use, for its pass over the value and
# its pass over the gradient. Without this temporary array a mean with its gradient
# runs 1.3 times as fast as the textbook form.
@pointwise
def _log_cosh(p, t):
    slope = accurate_tanh(t - p)
    return log_of_cosh(p - t), (-slope, slope)


@public(epsilon=at_least(0))
def charbonnier_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    epsilon: ArrayLike = 1e-3,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Charbonnier loss: an absolute error rounded off near 0.

    Choose it over `absolute_error` where a smooth gradient matters, as in image
    restoration. A perfect prediction costs epsilon, not 0 as in `huber_loss`.

    $$ \sqrt{e^2 + \epsilon^2}, \quad e = \text{predictions} - \text{targets} $$

    Args:
        predictions: Floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `predictions`. None means 0.
        epsilon: $\epsilon \ge 0$, the width of the rounded tip in the unit of the
            error, broadcastable to `predictions`. 1e-3 suits pixels in [0, 1].
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least `epsilon`, in the unit of the error.

    Gradient:
        $e / \sqrt{e^2 + \epsilon^2}$ for `predictions`, its negative for `targets`,
        $\epsilon / \sqrt{e^2 + \epsilon^2}$ for `epsilon`; all 0 at $e = \epsilon = 0$.

    Raises:
        ValueError: If `epsilon` is negative.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.charbonnier_loss([0.0, 3.0], [0.0, 0.0], epsilon=4.0))
        [4. 5.]

    References:
        Pierre Charbonnier, Laure Blanc-Féraud, Gilles Aubert and Michel Barlaud, "Two
        deterministic half-quadratic regularization algorithms for computed imaging",
        1994, https://doi.org/10.1109/ICIP.1994.413553
    """
    inputs, tail = arguments(
        predictions, targets, where, weights, reduction, epsilon=epsilon
    )
    return tail.reduce(_charbonnier(*inputs))


# With m = max(|e|, epsilon), x = e/m and y = epsilon/m:
#     f = m sqrt(x² + y²),   df/de = x/sqrt(x² + y²),   df/depsilon = y/sqrt(x² + y²),
# where no square over- or underflows. At e = epsilon = 0 all derivatives are 0.
@pointwise
def _charbonnier(p, t, epsilon):
    e, epsilon, k = scaled_difference(p, t, jnp.abs(epsilon))
    a = jnp.abs(e)
    larger = jnp.where(a > epsilon, a, epsilon)
    m = jnp.where((larger == 0) | jnp.isinf(larger), 1, larger)
    x = jnp.where(jnp.isinf(e), jnp.sign(e), quotient(e, m))
    y = jnp.where(jnp.isinf(e), 0, quotient(epsilon, m))
    square = x * x + y * y
    root = jnp.sqrt(jnp.where(square == 0, 1, square))
    slope = x / root
    value = larger * jnp.where(square == 0, 0, root) / k
    return value, (slope, -slope, y / root)

"""Regression losses, elementwise in e = predictions - targets."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxloss._core import checks
from jaxloss._core.derivative import pointwise
from jaxloss._core.numerics import (
    LOG_2_PI,
    expm1,
    expm1_ratio,
    expm1_ratio_slope,
    log_cosh_and_tanh,
    product,
    times_difference,
    two_difference,
)
from jaxloss._core.reduction import Reduction, reduce_loss, select


def squared_error(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """Squared error e²."""
    (e,), keep, weights = _errors(predictions, targets, where, weights, reduction)
    return reduce_loss(e * e, keep, weights, reduction)


def l2_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """Half the squared error, e²/2, whose gradient is e."""
    (e,), keep, weights = _errors(predictions, targets, where, weights, reduction)
    return reduce_loss((0.5 * e) * e, keep, weights, reduction)


def absolute_error(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """Absolute error abs(e)."""
    (e,), keep, weights = _errors(predictions, targets, where, weights, reduction)
    return reduce_loss(jnp.abs(e), keep, weights, reduction)


def huber_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    delta: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """Huber's loss: e²/2 within delta, delta (abs(e) - delta/2) beyond."""
    checks.check_number("delta", delta, minimum=0)
    inputs, keep, weights = _arguments(
        predictions, targets, where, weights, reduction, delta=delta
    )
    return reduce_loss(_huber(*inputs), keep, weights, reduction)


@pointwise
def _huber(p, t, delta):
    e = p - t
    a = jnp.abs(e)
    inside = a <= delta
    # delta·abs(e) - delta²/2 keeps its digits, since delta·abs(e) >= delta² outside.
    outer = jnp.abs(times_difference(delta, p, t)) - 0.5 * delta * delta
    inner = jnp.where(inside, e, 0)
    value = jnp.where(inside, (0.5 * inner) * inner, outer)
    slope = jnp.where(inside, e, jnp.sign(e) * delta)
    return value, (slope, -slope, jnp.where(inside, 0, a - delta))


def smooth_l1_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    beta: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """Smooth L1: e²/(2 beta) within beta, abs(e) - beta/2 beyond."""
    checks.check_number("beta", beta, minimum=0)
    (e, beta), keep, weights = _errors(
        predictions, targets, where, weights, reduction, beta=beta
    )
    return reduce_loss(_smooth_l1(e, beta), keep, weights, reduction)


@pointwise
def _smooth_l1(e, beta):
    a = jnp.abs(e)
    inside = a < beta
    ratio = jnp.where(inside, e, 0) / jnp.where(inside, beta, 1)
    value = jnp.where(inside, (0.5 * ratio) * e, a - 0.5 * beta)
    slope = jnp.where(inside, ratio, jnp.sign(e))
    return value, (slope, jnp.where(inside, -0.5 * ratio * ratio, -0.5))


def log_cosh(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """log(cosh(e)): e²/2 near zero, abs(e) - log 2 far from it."""
    (e,), keep, weights = _errors(predictions, targets, where, weights, reduction)
    return reduce_loss(_log_cosh(e), keep, weights, reduction)


@pointwise
def _log_cosh(e):
    value, slope = log_cosh_and_tanh(e)
    return value, (slope,)


def quantile_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    quantile: ArrayLike = 0.5,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """Pinball loss, whose minimum is the quantile of the targets."""
    checks.check_number("quantile", quantile, minimum=0, maximum=1)
    inputs, keep, weights = _arguments(
        predictions, targets, where, weights, reduction, quantile=quantile
    )
    return reduce_loss(_quantile(*inputs), keep, weights, reduction)


@pointwise
def _quantile(p, t, q):
    slope = jnp.where(t > p, q, jnp.where(t < p, q - 1, 0 * (t - p)))
    return times_difference(slope, t, p), (-slope, slope, t - p)


def epsilon_insensitive_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    epsilon: ArrayLike = 0.1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """Support vector regression's loss: max(abs(e) - epsilon, 0)."""
    checks.check_number("epsilon", epsilon, minimum=0)
    inputs, keep, weights = _arguments(
        predictions, targets, where, weights, reduction, epsilon=epsilon
    )
    return reduce_loss(_epsilon_insensitive(*inputs), keep, weights, reduction)


@pointwise
def _epsilon_insensitive(p, t, epsilon):
    # abs(e) - epsilon cancels near the kink: what rounding took from e comes back.
    e, lost = two_difference(p, t)
    sign = jnp.sign(e)
    excess = (sign * e - epsilon) + sign * lost
    slope = jnp.where(excess <= 0, 0, sign)
    return jnp.where(excess <= 0, 0, excess), (slope, -slope, -jnp.abs(slope))


def charbonnier_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    epsilon: ArrayLike = 1e-3,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """Charbonnier's loss sqrt(e² + epsilon²), a smooth absolute error."""
    checks.check_number("epsilon", epsilon, minimum=0)
    (e, epsilon), keep, weights = _errors(
        predictions, targets, where, weights, reduction, epsilon=epsilon
    )
    return reduce_loss(_charbonnier(e, epsilon), keep, weights, reduction)


@pointwise
def _charbonnier(e, epsilon):
    # Scaled by the larger side, so that no square over- or underflows. With e and
    # epsilon both 0 the loss is abs(e), and its subgradient 0.
    a, b = jnp.abs(e), jnp.abs(epsilon)
    larger = jnp.where(a > b, a, b)
    scale = jnp.where((larger == 0) | jnp.isinf(larger), 1, larger)
    x = jnp.where(jnp.isinf(e), jnp.sign(e), e / scale)
    y = jnp.where(jnp.isinf(e), 0, epsilon / scale)
    square = x * x + y * y
    root = jnp.sqrt(jnp.where(square == 0, 1, square))
    return larger * jnp.where(square == 0, 0, root), (x / root, y / root)


def robust_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    alpha: ArrayLike = 1.0,
    scale: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """Barron's general and adaptive robust loss."""
    checks.check_number("alpha", alpha, maximum=2)
    checks.check_number("scale", scale, minimum=0, open_minimum=True)
    inputs, keep, weights = _arguments(
        predictions, targets, where, weights, reduction, alpha=alpha, scale=scale
    )
    checks.check_values("alpha", inputs[2] <= 2, "at most 2")
    return reduce_loss(_robust(*inputs), keep, weights, reduction)


# With s = e/scale, b = 2 - alpha, a = alpha/2, w² = s²/b, L = log(1 + w²):
#     f = b/(2a) · (e^{aL} - 1) = b/2 · φ,   φ = E (E + 2) / a,   E = expm1(aL/2),
# and, where b < 1, with u = e^{-bL/2}, f = (s² u + b (u - 1)) / (2a), in which neither
# b -> 0 nor a large s is a problem. The derivatives follow:
#     df/ds = s e^{(a-1)L},
#     df/dalpha = -φ/2 + b L² ψ(aL)/4 + e^{aL} w²/(1 + w²)/2,
# with ψ the slope of (e^y - 1)/y; for b < 1 instead
#     df/db = ((s² + b) u' + u - 1)/(2a) + f/(2a),  u' = -u/2 · (L - w²/(1 + w²)).
# Its limit for alpha -> -inf is 1 - exp(-s²/2), reached to rounding at -1/eps².
@pointwise
def _robust(p, t, alpha, scale):
    s = times_difference(1 / scale, p, t)
    alpha = jnp.where(alpha <= 2, alpha, jnp.nan)
    limit = alpha < -1 / jnp.finfo(s.dtype).eps ** 2
    alpha = jnp.where(limit, -2, alpha)
    # df/dalpha grows like log(1/b) at alpha = 2: b stops at one rounding from it.
    b = 2 - alpha
    b = jnp.where(b < jnp.finfo(s.dtype).eps, jnp.finfo(s.dtype).eps, b)
    a = alpha / 2
    w = jnp.abs(s) / jnp.sqrt(b)
    far = w > 1e9  # where 1 + w² is w² to rounding, and w² may overflow
    w_squared = jnp.where(far, 1, w * w)
    log_r2 = jnp.where(far, 2 * jnp.log(jnp.where(far, w, 1)), jnp.log1p(w_squared))
    r = jnp.where(far, w, jnp.sqrt(1 + w_squared))
    share = jnp.where(far, 1, w_squared / (1 + w_squared))  # w²/(1 + w²)

    def power(exponent):
        """(1 + w²)^(exponent/2); the power keeps digits for a large base."""
        by_log = jnp.exp(exponent * log_r2 / 2)
        return jnp.where(w > 1, jnp.where(w > 1, r, 1) ** exponent, by_log)

    # alpha <= 1
    y = jnp.where(b < 1, 0, a * log_r2)
    phi = (log_r2 / 2) * expm1_ratio(y / 2) * (expm1(y / 2) + 2)
    outer = (b / 2) * phi
    outer_alpha = (
        -phi / 2
        + b * log_r2 * log_r2 * expm1_ratio_slope(y) / 4
        + jnp.where(b < 1, 0, power(alpha)) * share / 2
    )
    # alpha > 1
    two_a = jnp.where(b < 1, 2 * a, 1)
    u = power(-b)
    inner = ((s * u) * s + b * expm1(-b * log_r2 / 2)) / two_a
    u_slope = -u / 2 * (log_r2 - share)
    inner_alpha = -((s * u_slope) * s + b * u_slope + u - 1 + inner) / two_a

    value = jnp.where(b < 1, inner, outer)
    slope = s * power(alpha - 2)
    alpha_slope = jnp.where(b < 1, inner_alpha, outer_alpha)

    # s²/2 · (1 - s²/4), before w² underflows.
    tiny = jnp.abs(s) < 0.3 * math.sqrt(jnp.finfo(s.dtype).eps)
    square = jnp.where(jnp.abs(s) < 1e4, s * s, 1e8)
    value = jnp.where(tiny, square / 2 * (1 - square / 4), value)
    value = jnp.where(alpha == 2, (s / 2) * s, value)
    alpha_slope = jnp.where(tiny, 0, alpha_slope)
    value = jnp.where(limit, -expm1(-square / 2), value)
    slope = jnp.where(limit, s * jnp.exp(-square / 2), slope)
    alpha_slope = jnp.where(limit, 0, alpha_slope)
    return value, (
        slope / scale,
        -slope / scale,
        alpha_slope,
        -product(slope, s) / scale,
    )


def absolute_percentage_error(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    epsilon: ArrayLike = 1e-7,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """Absolute error in percent of the target."""
    checks.check_number("epsilon", epsilon, minimum=0)
    inputs, keep, weights = _arguments(
        predictions, targets, where, weights, reduction, epsilon=epsilon
    )
    return reduce_loss(_percentage(*inputs), keep, weights, reduction)


# With f = 100 abs(p - t)/d and d = max(abs(t), epsilon), at d = abs(t):
#     df/dt = -100 sign(e) sign(t)·p/t², in which the two terms have been added up.
@pointwise
def _percentage(p, t, epsilon):
    size = jnp.abs(t)
    own = size > epsilon
    d = jnp.where(own, size, epsilon)
    rate = 100 / d
    value = jnp.abs(times_difference(rate, p, t))
    slope = jnp.sign(p - t) * rate
    t_slope = -slope * jnp.where(own, p / jnp.where(own, t, 1), 1)
    return value, (slope, t_slope, jnp.where(own, 0, -value / d))


def squared_log_error(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    epsilon: ArrayLike = 1e-7,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """Squared difference of log1p(predictions) and log1p(targets)."""
    checks.check_number("epsilon", epsilon, minimum=0)
    (p, t, epsilon), keep, weights = _arguments(
        predictions, targets, where, weights, reduction, epsilon=epsilon
    )
    loss = _squared_log(
        jnp.where(p <= epsilon, epsilon, p), jnp.where(t <= epsilon, epsilon, t)
    )
    return reduce_loss(loss, keep, weights, reduction)


# log1p(p) - log1p(t) = ± log1p(abs(p - t)/(1 + min(p, t))): no two logs to subtract.
@pointwise
def _squared_log(p, t):
    smaller = jnp.where(p < t, p, t)
    ratio = jnp.sign(p - t) * jnp.log1p(jnp.abs(p - t) / (1 + smaller))
    return ratio * ratio, (2 * ratio / (1 + p), -2 * ratio / (1 + t))


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
    """Negative log-likelihood of Poisson counts."""
    checks.check_number("eps", eps, minimum=0)
    (p, t, eps), keep, weights = _arguments(
        predictions, targets, where, weights, reduction, eps=eps
    )
    loss = jnp.exp(p) - t * p if log_input else p - _x_log_y(t, p + eps)
    if full:
        # Stirling's approximation of log(t!), which PyTorch takes for t > 1.
        count = jnp.where(t > 1, t, 1)
        stirling = count * jnp.log(count) - count + 0.5 * (LOG_2_PI + jnp.log(count))
        loss = loss + jnp.where(t > 1, stirling, 0)
    return reduce_loss(loss, keep, weights, reduction)


def _x_log_y(x, y):
    """x log y with 0 log 0 = 0."""
    both = (x == 0) & (y == 0)
    return x * jnp.log(jnp.where(both, 1, y))


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
    """Negative log-likelihood of a normal distribution with a predicted variance."""
    checks.check_number("eps", eps, minimum=0)
    named = {"means": means, "targets": targets, "variances": variances, "eps": eps}
    (m, t, v, eps), keep, weights = checks.elementwise(where, weights, reduction, named)
    m, t, v, eps = select(keep, m, t, v, eps)
    checks.check_values("variances", v >= 0, "at least 0")
    loss = _gaussian(m, t, v, eps) + (0.5 * LOG_2_PI if full else 0)
    return reduce_loss(loss, keep, weights, reduction)


# PyTorch clamps the variance without stopping its gradient, so that a variance below
# eps can recover: the derivative is the one at the clamped variance.
@pointwise
def _gaussian(m, t, v, eps):
    low = v < eps
    variance = jnp.where(low, eps, v)
    variance = jnp.where(v >= 0, variance, jnp.nan)
    e = m - t
    ratio = e / variance
    value = 0.5 * (jnp.log(variance) + ratio * e)
    v_slope = 0.5 * (1 / variance - ratio * ratio)
    return value, (ratio, -ratio, v_slope, jnp.where(low, v_slope, 0))


def _arguments(predictions, targets, where, weights, reduction, **parameters):
    """(predictions, targets, *parameters) of one shape, checked and masked."""
    targets = 0.0 if targets is None else targets
    named = {"predictions": predictions, "targets": targets, **parameters}
    arrays, keep, weights = checks.elementwise(where, weights, reduction, named)
    return select(keep, *arrays), keep, weights


def _errors(predictions, targets, where, weights, reduction, **parameters):
    """(e, *parameters) of one shape, checked and masked."""
    (p, t, *rest), keep, weights = _arguments(
        predictions, targets, where, weights, reduction, **parameters
    )
    return (p - t, *rest), keep, weights

"""Barron's general robust loss, between a squared and a bounded error."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import Interval, above
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.numerics.exact import (
    difference_over,
    leading,
    remainder,
    scaled_difference,
    two_difference,
)
from jaxloss._core.numerics.functions import (
    accurate_expm1,
    expm1_ratio,
    expm1_ratio_slope,
)
from jaxloss._core.rule.analytic import pointwise
from jaxloss.regression._inputs import arguments


@public(alpha=Interval(maximum=2), scale=above(0))
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
    r"""General robust loss (Barron): a family of losses whose shape `alpha` sets.

    Choose it to move between known losses with one number: `l2_loss` at alpha 2,
    `charbonnier_loss` less its minimum at 1, Cauchy at 0, Geman-McClure at -2 and
    Welsch at -inf.

    With $s = (\text{predictions} - \text{targets}) / \text{scale}$ and
    $b = |\alpha - 2|$:

    $$
    \frac{b}{\alpha} \left( \left( \frac{s^2}{b} + 1 \right)^{\alpha/2} - 1 \right)
    $$

    and its limits $s^2 / 2$ at $\alpha = 2$, $\log(1 + s^2 / 2)$ at 0 and
    $1 - \exp(-s^2 / 2)$ at $-\infty$.

    Also known as Barron's loss; alpha 0 is the Cauchy loss, -2 the Geman-McClure loss.

    Args:
        predictions: Floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `predictions`. None means 0.
        alpha: $\alpha$ in [-inf, 2], broadcastable to `predictions`; a smaller alpha
            reduces the influence of outliers. The loss grows linearly at 1.0.
        scale: Positive, the width of the parabola at 0 in the unit of the error,
            broadcastable to `predictions`.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0, without unit.

    Gradient:
        $g = (s / \text{scale}) (s^2 / b + 1)^{\alpha/2 - 1}$ for `predictions`, $-g$
        for `targets`, $-g\,s$ for `scale`. Also differentiable in `alpha`: its
        derivative is the limit at 0 and 2; where the limit at 2 is infinite, it is the
        derivative one rounding error below 2. The loss rises with alpha: to fit alpha
        or scale, add the log-partition function of the paper, otherwise both diverge.

    Numerics:
        An alpha above 2 in a JAX array gives NaN, and raises under `checkify`.

    Raises:
        ValueError: If `alpha` is above 2 or `scale` is not positive.

    Example:
        >>> import jaxloss as jl
        >>> loss = jl.robust_loss([2.0, 2.0, 2.0], alpha=[2.0, 0.0, -2.0])
        >>> [f"{x:.4f}" for x in loss]
        ['2.0000', '1.0986', '1.0000']

    References:
        Jonathan T. Barron, "A General and Adaptive Robust Loss Function", 2019,
        equation 1, https://arxiv.org/abs/1701.03077
    """
    (p, t, alpha, scale), tail = arguments(
        predictions, targets, where, weights, reduction, alpha=alpha, scale=scale
    )
    alpha = checks.check_values("alpha", alpha, tail.counts(alpha <= 2), "at most 2")
    return tail.reduce(_robust(p, t, alpha, scale))


# Equation 8 of the paper. With e = p - t, s = e/scale, b = 2 - alpha, w² = s²/b,
# r² = 1 + w², L = log(r²) and y = alpha L/2:
#     f = b/alpha · (e^y - 1) = bL/2 · R(y),     R(y) = (e^y - 1)/y,
#     df/ds = s u,     u = e^{-bL/2} = (1 + w²)^{-b/2},
#     df/dalpha = L²/2 · e^y (c(y) - c(L)),     c(y) = (e^-y - 1 + y)/y².
# These forms contain the limits: y = 0 at alpha = 0; bL -> s² and y -> -s²/2 for
# alpha -> -inf. For alpha > 1, f = (s² u + b (u - 1))/alpha, which also holds at b = 0.
# A variable named `x_error` holds the exact value of x less the rounded x.
@pointwise
def _robust(p, t, alpha, scale):
    """The loss and its derivatives, each within a relative error of 1e-5."""
    eps = float(jnp.finfo(p.dtype).eps)
    # At -1e30 the loss equals its limit up to rounding, and df/dalpha is 0.
    alpha = jnp.where(alpha < -1e30, -1e30, jnp.where(alpha > 2, jnp.nan, alpha))
    # df/dalpha grows like log(1/b) near alpha = 2; this bound on b keeps it finite.
    b = jnp.where(alpha > 2 - eps, eps, 2 - alpha)
    p, t, infinite = _bound_infinite_errors(p, t, alpha)
    size = jnp.abs(stop_gradient(difference_over(p, t, scale)))
    far = size > 2 / math.sqrt(eps) * jnp.sqrt(b)  # where 1 + w² rounds to w²
    s = difference_over(jnp.where(far, 0, p), jnp.where(far, 0, t), scale)
    e, c, k = scaled_difference(p, t, scale)
    s_error = (two_difference(p * k, t * k)[1] + remainder(e, c, s)) / c
    squares = _squares(s, jnp.where(far, 0, stop_gradient(s_error)), b)

    # root_w = sqrt(|w|) is finite where s overflows.
    root_w = jnp.sqrt(jnp.where(far, jnp.abs(e), 1)) / jnp.sqrt(c)
    root_w = jnp.where(far, root_w / jnp.sqrt(jnp.sqrt(b)), 1)
    small = squares.w2 < 1
    log_ratio = _log1p_ratio(jnp.where(small, squares.w2, 0))  # L/w²
    log_r2 = jnp.where(far, 4 * jnp.log(root_w), jnp.log1p(squares.w2))  # L
    small = small & ~far
    b_log = jnp.where(small, s * s * log_ratio, b * log_r2)  # bL
    y = (alpha / 2 / b) * b_log

    powers = _powers(alpha, b, s, root_w, squares, log_ratio, small, far)
    slope, scale_slope = _slopes(alpha, scale, b, s, e, k, powers, far)
    value = _value(alpha, b, b_log, y, powers, far)
    *_, root, root_u, s_root_u = powers
    direct = far | (b >= 1)
    b_exp_y = jnp.where(direct, root * root, b * root_u * root_u + s_root_u * s_root_u)
    alpha_slope = _alpha_slope(alpha, log_r2, y, b_log / 2, b_exp_y)
    value = jnp.where(infinite & (alpha == 0), jnp.inf, value)
    slope = jnp.where(infinite & (alpha < 1), 0, slope)
    return value, (slope, -slope, alpha_slope, -scale_slope)


def _bound_infinite_errors(p, t, alpha):
    """p, t and where their difference is infinite because an input is.

    For alpha < 0 the loss is bounded: the largest finite number replaces an infinity.
    """
    infinite = jnp.isinf(p - t) & (jnp.isinf(p) | jnp.isinf(t))
    bounded = infinite & (alpha < 0)
    largest = float(jnp.finfo(p.dtype).max)
    p, t = (jnp.where(bounded, jnp.clip(x, -largest, largest), x) for x in (p, t))
    return p, t, infinite


class _Squares(NamedTuple):
    """s² = high² + low, w² and r² = 1 + w² = r2 + r2_error.

    u amplifies the relative error of s² by up to s²/2, so that both squares need more
    digits than one number holds.
    """

    high: jax.Array
    low: jax.Array
    w2: jax.Array
    r2: jax.Array
    r2_error: jax.Array


def _squares(s, s_error, b):
    high = leading(s)
    low = (s - high) * (s + high) + 2 * s * s_error
    ratio = high * high / b
    ratio_error = (remainder(high * high, b, ratio) + low) / b
    w2 = ratio + ratio_error
    r2, r2_error = two_difference(w2, -jnp.ones_like(w2))
    return _Squares(high, low, w2, r2, r2_error + (ratio_error - (w2 - ratio)))


class _Powers(NamedTuple):
    """Square roots of b e^y and u: they over- or underflow only where the result does.

    Where w² >= 1, both are powers of r² = base^(4 · step): an exponential of L would
    amplify the rounding error of L. Where w² < 1, `root_b_exp_y` is not used.
    """

    base: jax.Array
    step: jax.Array
    root_b_exp_y: jax.Array
    root_u: jax.Array
    s_root_u: jax.Array


def _powers(alpha, b, s, root_w, squares, log_ratio, small, far):
    base, step = jnp.where(far, root_w, squares.r2), jnp.where(far, 1, 0.25)
    base = jnp.where(small, 1, base)
    root_b_exp_y = jnp.sqrt(b) * base ** (step * alpha)
    leading_root = jnp.exp(-squares.high * squares.high / 4)
    root_u = jnp.where(small, leading_root, base ** (-step * b))
    # u has the further factor e^(-rest/2).
    rest = jnp.minimum(b * jnp.where(far, 0, squares.r2_error / squares.r2), 1)
    rest = jnp.where(small, squares.low + s * s * (log_ratio - 1), rest)
    rest = jnp.maximum(rest, -300)  # below -300 root_u is 0, and must not meet inf
    root_u = jnp.where(alpha == 2, 1, root_u * jnp.exp(-rest / 4))
    return _Powers(base, step, root_b_exp_y, root_u, s * root_u)


def _slopes(alpha, scale, b, s, e, k, powers, far):
    """df/de = s u/scale and -df/dscale = s² u/scale.

    Where `far`, s may overflow and u underflow: there s² u = b w^alpha = b e^y.
    """
    base, step, root_b_exp_y, root_u, s_root_u = powers
    root_s_u = jnp.sqrt(jnp.sqrt(b)) * base ** (step * (alpha - 1))
    by_power = jnp.sign(e) * root_s_u * (root_s_u / scale)
    by_quotient = root_b_exp_y * (root_b_exp_y * k / jnp.where(far, e, 1))
    slope = jnp.where(b < 1.5, by_power, by_quotient)
    slope = jnp.where(far, slope, s_root_u * (root_u / scale))
    large = jnp.abs(s) > 1
    scale_slope = jnp.where(large, s_root_u * (root_u * s / scale), slope * s)
    far_scale_slope = root_b_exp_y * (root_b_exp_y / scale)
    return slope, jnp.where(far, far_scale_slope, scale_slope)


def _value(alpha, b, b_log, y, powers, far):
    """(s² u + b (u - 1))/alpha for alpha > 1, else b (e^y - 1)/alpha = bL/2 · R(y)."""
    root = jnp.where(far, powers.root_b_exp_y, powers.s_root_u)  # of s² u
    positive = jnp.where(b < 1, alpha, 1)
    by_u = (root / positive) * root + b / positive * accurate_expm1(-b_log / 2)
    large = y > 1
    by_y = powers.root_b_exp_y * powers.root_b_exp_y - b
    by_y = by_y / jnp.where(large, alpha, 1)
    by_y = jnp.where(large, by_y, b_log / 2 * expm1_ratio(jnp.where(large, 0, y)))
    return jnp.where(b < 1, by_u, by_y)


# L²/2 · e^y (c(y) - c(L)) is positive. With d = L - y = bL/2, c(y) - c(L) is
#     d · Σ_k (-1)^k/(k + 3)! · Σ_{i+j=k} y^i L^j                     for small y and L,
#     d · (yL - (1 - e^-y)(L + y) + y² e^-y (1 - e^-d)/d) / (yL)²     for y > 1,
# and elsewhere a difference in which little cancels, with e^y c(y) = R'(y) and
# c(L) = R(-L) - R'(-L). `b_exp_y` = b e^y is used for y > 1.
def _alpha_slope(alpha, log_r2, y, d, b_exp_y):
    near = (log_r2 < 2) & (jnp.abs(y) < 2)
    large = ~near & (y > 1)
    other = ~near & ~large

    z, x = jnp.where(near, y, 0), jnp.where(near, log_r2, 0)
    total, homogeneous, x_power = jnp.zeros_like(x), jnp.ones_like(x), x
    for k in range(15 if x.dtype == jnp.float32 else 26):
        total = total + (-1) ** k / math.factorial(k + 3) * homogeneous
        homogeneous, x_power = homogeneous * z + x_power, x_power * x
    by_series = x * (x * jnp.where(near, d, 0)) / 2 * jnp.exp(z) * total

    z, x, d = (jnp.where(large, value, 2) for value in (y, log_r2, d))
    bracket = (
        z * x + accurate_expm1(-z) * (x + z) + z * z * jnp.exp(-z) * expm1_ratio(-d)
    )
    closed_form = jnp.where(large, b_exp_y, 0) / 4 * (x * (bracket / (z * z)))

    z, x = jnp.where(other, y, 0), jnp.where(other, log_r2, 1)
    low = z < -2
    factor = 2 / jnp.where(low, alpha, 1)  # x/z
    rising = jnp.where(
        low, factor * factor * ((z - 1) * jnp.exp(z) + 1), x * x * expm1_ratio_slope(z)
    )
    falling = x * x * jnp.exp(z) * (expm1_ratio(-x) - expm1_ratio_slope(-x))
    difference = (rising - falling) / 2
    return jnp.where(near, by_series, jnp.where(large, closed_form, difference))


def _log1p_ratio(x):
    """log(1 + x)/x for 0 <= x <= 1."""
    small = x < 1e-5
    series = 1 - x / 2 + x * x / 3 - x * x * x / 4
    return jnp.where(small, series, jnp.log1p(x) / jnp.where(small, 1, x))

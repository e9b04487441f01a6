"""The family of losses that a shape parameter bends, from squares to constants."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.typing import ArrayLike

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import Interval, above
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
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


# J. T. Barron, "A General and Adaptive Robust Loss Function", CVPR 2019, equation 8:
# with s = e/scale, b = 2 - alpha, w² = s²/b, L = log(1 + w²) and y = alpha L/2,
#     f = b/alpha · (e^y - 1) = bL/2 · R(y),     R(y) = (e^y - 1)/y,
#     df/ds = s u,     u = e^{-bL/2} = (1 + w²)^{-b/2},
#     df/dalpha = L²/2 · e^y (c(y) - c(L)),     c(y) = (e^-y - 1 + y)/y².
# Its limits are among these: y = 0 at alpha = 0; bL -> s² and y -> -s²/2 for
# alpha -> -inf. For alpha > 1, f = (s² u + b (u - 1))/alpha, where b -> 0 does no harm.
@pointwise
def _robust(p, t, alpha, scale):
    """The loss of p - t; it and its derivatives within 1e-5, relative."""
    eps = float(jnp.finfo(p.dtype).eps)
    # Beyond -1e30 the limit is reached to rounding, and df/dalpha is 0.
    alpha = jnp.where(alpha < -1e30, -1e30, jnp.where(alpha > 2, jnp.nan, alpha))
    # df/dalpha grows like log(1/b) at alpha = 2: b stops at one rounding from it.
    b = jnp.where(alpha > 2 - eps, eps, 2 - alpha)
    # Below alpha = 0 the loss of an infinite error is that of the largest.
    endless = jnp.isinf(p - t) & (jnp.isinf(p) | jnp.isinf(t))
    bounded = endless & (alpha < 0)
    largest = float(jnp.finfo(p.dtype).max)
    p, t = (jnp.where(bounded, jnp.clip(x, -largest, largest), x) for x in (p, t))
    size = jnp.abs(stop_gradient(difference_over(p, t, scale)))
    far = size > 2 / math.sqrt(eps) * jnp.sqrt(b)  # where 1 + w² is w² to rounding
    s = difference_over(jnp.where(far, 0, p), jnp.where(far, 0, t), scale)
    e, c, k = scaled_difference(p, t, scale)

    # s² and w² in an exact part and a small one, for u amplifies their rounding.
    s_lost = (two_difference(p * k, t * k)[1] + remainder(e, c, s)) / c
    s_lost = jnp.where(far, 0, stop_gradient(s_lost))
    high = leading(s)
    low = (s - high) * (s + high) + 2 * s * s_lost
    x = high * high / b
    x_lost = (remainder(high * high, b, x) + low) / b
    w2 = x + x_lost
    r2, r2_lost = two_difference(w2, -jnp.ones_like(w2))
    r2_lost = r2_lost + (x_lost - (w2 - x))
    # v = sqrt(w) is finite even if s is not.
    v = jnp.sqrt(jnp.where(far, jnp.abs(e), 1)) / jnp.sqrt(c) / jnp.sqrt(jnp.sqrt(b))
    v = jnp.where(far, v, 1)

    small = w2 < 1
    shrink = _log1p_ratio(jnp.where(small, w2, 0))
    log_r2 = jnp.where(far, 4 * jnp.log(v), jnp.log1p(w2))  # L
    small = small & ~far
    b_log = jnp.where(small, s * s * shrink, b * log_r2)  # bL
    y = (alpha / 2 / b) * b_log

    # Powers of r² = 1 + w² beyond 2 are taken as such: the exponential would amplify
    # the rounding of its argument. They are squares of what follows, which leaves the
    # range of floats only with the result.
    base, step = jnp.where(far, v, r2), jnp.where(far, 1, 0.25)
    base = jnp.where(small, 1, base)
    lever = jnp.sqrt(b) * base ** (step * alpha)  # its square is b r^alpha
    half = jnp.where(small, jnp.exp(-high * high / 4), base ** (-step * b))  # sqrt(u)
    rest = jnp.minimum(b * jnp.where(far, 0, r2_lost / r2), 1)
    rest = jnp.where(small, low + s * s * (shrink - 1), rest)
    rest = jnp.maximum(rest, -300)  # beyond, the first factor is 0
    half = jnp.where(alpha == 2, 1, half * jnp.exp(-rest / 4))

    # Far out s² u = b w^alpha, and neither s nor u is formed.
    force = s * half
    tilt = jnp.sqrt(jnp.sqrt(b)) * base ** (step * (alpha - 1))
    by_power = jnp.sign(e) * tilt * (tilt / scale)
    by_quotient = lever * (lever * k / jnp.where(far, e, 1))
    slope = jnp.where(b < 1.5, by_power, by_quotient)
    slope = jnp.where(far, slope, force * (half / scale))
    scale_slope = jnp.where(jnp.abs(s) > 1, force * (half * s / scale), slope * s)
    scale_slope = jnp.where(far, lever * (lever / scale), scale_slope)

    root = jnp.where(far, lever, force)
    positive = jnp.where(b < 1, alpha, 1)
    inner = (root / positive) * root + b / positive * accurate_expm1(-b_log / 2)
    large = y > 1
    outer = (lever * lever - b) / jnp.where(large, alpha, 1)
    outer = jnp.where(large, outer, b_log / 2 * expm1_ratio(jnp.where(large, 0, y)))
    value = jnp.where(b < 1, inner, outer)
    grown = jnp.where(far | (b >= 1), lever * lever, b * half * half + force * force)
    alpha_slope = _alpha_slope(alpha, log_r2, y, b_log / 2, grown)
    value = jnp.where(endless & (alpha == 0), jnp.inf, value)
    slope = jnp.where(endless & (alpha < 1), 0, slope)
    return value, (slope, -slope, alpha_slope, -scale_slope)


# L²/2 · e^y (c(y) - c(L)), which is positive. With d = L - y = bL/2, c(y) - c(L) is
#     d · Σ_k (-1)^k/(k + 3)! · Σ_{i+j=k} y^i L^j                            near zero,
#     d · (yL - (1 - e^-y)(L + y) + y² e^-y (1 - e^-d)/d) / (yL)²           for y > 1,
# and elsewhere a difference that cancels little, with e^y c(y) = R'(y) and
# c(L) = R(-L) - R'(-L). `grown` is b e^y for y > 1.
def _alpha_slope(alpha, log_r2, y, d, grown):
    near = (log_r2 < 2) & (jnp.abs(y) < 2)
    large = ~near & (y > 1)
    other = ~near & ~large

    z, x = jnp.where(near, y, 0), jnp.where(near, log_r2, 0)
    total, homogeneous, x_power = jnp.zeros_like(x), jnp.ones_like(x), x
    for k in range(15 if x.dtype == jnp.float32 else 26):
        total = total + (-1) ** k / math.factorial(k + 3) * homogeneous
        homogeneous, x_power = homogeneous * z + x_power, x_power * x
    close = x * (x * jnp.where(near, d, 0)) / 2 * jnp.exp(z) * total

    z, x, d = (jnp.where(large, value, 2) for value in (y, log_r2, d))
    bracket = (
        z * x + accurate_expm1(-z) * (x + z) + z * z * jnp.exp(-z) * expm1_ratio(-d)
    )
    above = jnp.where(large, grown, 0) / 4 * (x * (bracket / (z * z)))

    z, x = jnp.where(other, y, 0), jnp.where(other, log_r2, 1)
    low = z < -2
    per = 2 / jnp.where(low, alpha, 1)
    rising = jnp.where(
        low, per * per * ((z - 1) * jnp.exp(z) + 1), x * x * expm1_ratio_slope(z)
    )
    falling = x * x * jnp.exp(z) * (expm1_ratio(-x) - expm1_ratio_slope(-x))
    below = (rising - falling) / 2
    return jnp.where(near, close, jnp.where(large, above, below))


def _log1p_ratio(x):
    """log(1 + x)/x for 0 <= x <= 1."""
    small = x < 1e-5
    series = 1 - x / 2 + x * x / 3 - x * x * x / 4
    return jnp.where(small, series, jnp.log1p(x) / jnp.where(small, 1, x))

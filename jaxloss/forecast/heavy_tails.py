"""Negative log-likelihood of values with outliers, of which the model says how many."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.compilers.pieces import numbers_in_pieces
from jaxloss._core.numerics.exact import (
    difference_over,
    largest_finite,
    quotient,
    share,
)
from jaxloss._core.numerics.functions import LOG_2_PI
from jaxloss._core.rule.analytic import pointwise
from jaxloss.forecast._gamma import (
    log1p_deficit,
    log1p_remainder,
    reciprocal,
    remainder_of_inverse,
)


@public()
def student_t_nll_loss(
    means: ArrayLike,
    targets: ArrayLike,
    scales: ArrayLike,
    degrees_of_freedom: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Student-t negative log-likelihood of targets with outliers.

    Choose it over `gaussian_nll_loss` where some errors are far larger than the rest:
    an outlier pulls less the fewer degrees of freedom there are.

    With $e$ the means less the targets, $s$ the scales, $\nu$ the degrees of freedom:

    $$ \frac{\nu + 1}{2} \log\Big(1 + \frac{e^2}{\nu s^2}\Big) + \log s +
       \frac{1}{2} \log(\pi \nu) + \log \Gamma\Big(\frac{\nu}{2}\Big) -
       \log \Gamma\Big(\frac{\nu + 1}{2}\Big) $$

    Args:
        means: Predicted locations, floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `means`.
        scales: Predicted scales in the same unit, above 0, broadcastable to `means`.
        degrees_of_freedom: Real, above 0, broadcastable to `means`: 1 is the Cauchy
            distribution, inf the Gaussian.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, of either sign; a scalar if reduced.

    Gradient:
        With $x = e / s$, $b = 1 / \nu$ and $g = (1 + b) x / (1 + b x^2)$: $g / s$ for
        `means`, $-g / s$ for `targets`, $(1 - x^2) / ((1 + b x^2) s)$ for `scales`, and
        for `degrees_of_freedom` $-b^2$ times the derivative in $b$, which is 0 at inf.

    Numerics:
        No difference of log-gamma functions is taken. A scale of 0 gives the limit:
        -inf for a target at the mean, inf for any other. So do 0 degrees of freedom:
        inf. A negative scale or degree gives NaN, and raises under `checkify`.

    Example:
        >>> import jaxloss as jl
        >>> loss = jl.student_t_nll_loss([0.0, 0.0], [1.0, 9.0], 1.0, [1.0, 4.0])
        >>> [f"{x:.4f}" for x in loss]
        ['1.8379', '8.6217']

    References:
        Kenneth L. Lange, Roderick J. A. Little and Jeremy M. G. Taylor, "Robust
        Statistical Modeling Using the t Distribution", 1989,
        https://doi.org/10.1080/01621459.1989.10478852
    """
    named = {
        "means": means,
        "targets": targets,
        "scales": scales,
        "degrees_of_freedom": degrees_of_freedom,
    }
    (m, t, s, degrees), tail = checks.elementwise(where, weights, reduction, **named)
    valid = True
    for name, value in (("scales", s), ("degrees_of_freedom", degrees)):
        holds = value >= 0
        m = checks.check_values(name, m, tail.counts(holds), "at least 0")
        valid = valid & holds
    return tail.reduce(jnp.where(valid, _student_t(m, t, s, degrees), jnp.nan))


# With x = (m - t)/s, b = 1/ν, z = b x² and L(z) = (z - log(1 + z))/z²,
#     f = log s + log(2π)/2 + K(b) + (1 + b) log(1 + z)/(2 b),
#     K(b) = b L(b)/2 + S(ν/2) - S((ν + 1)/2),
# S the remainder of Stirling's formula: K is 0 at b = 0, and smooth there. With
# g = (1 + b) x/(1 + z),
#     df/dx = g,     df/ds = (1 - x²)/((1 + z) s),
#     df/dν = z² N(z)/2 - b (b K'(b) + z/(1 + z)/2),
#     N(z) = (log(1 + z) - z/(1 + z))/z² = 1/(1 + z) - L(z).
@pointwise
def _student_t(m, t, s, degrees):
    return numbers_in_pieces(_value_and_slopes, m, t, s, degrees)


def _value_and_slopes(m, t, s, degrees):
    inputs = m, t, s, degrees
    b, x, z, log1p = _parts(*inputs)
    near = z < 0.5
    small, some = jnp.where(near, z, 0), jnp.where(near, 1, b)
    value = (jnp.log(s) + 0.5 * LOG_2_PI) + _constant(b)
    few = ((1 + b) * x) * (x * (1 - small * log1p_remainder(small)))
    half = 0.5 * log1p
    value += jnp.where(near, 0.5 * few, half / some + half)
    value = jnp.where(s == 0, jnp.where(m == t, -jnp.inf, jnp.inf), value)
    value = jnp.where(degrees == 0, jnp.inf, value)
    by_mean = _by_mean(*inputs)
    return value, (by_mean, -by_mean, _by_scale(*inputs), _by_degrees(*inputs))


def _parts(m, t, s, degrees):
    """b, x, z and log(1 + z)."""
    # The limit at 0 degrees is inf.
    b = reciprocal(jnp.maximum(degrees, float(jnp.finfo(degrees.dtype).tiny)))
    sure = (s == 0) & (m == t)
    x = jnp.where(sure, 0, difference_over(m, t, jnp.where(sure, 1, s)))
    over = jnp.isinf((b * x) * x)
    within = jnp.where(over | (b == 0), 0, x)
    z = jnp.where(over, jnp.inf, (b * within) * within)
    return b, x, z, _log1p_of_square(m, t, s, x, b, z)


# With p = z/(1 + z), q = 1 - p = 1/(1 + z), and r = dz/dm/(2 (1 + z)) = p/(m - t), the
# second derivatives are
#     in m: (1 + b) q (q - p)/s²,     in m and s: -2 q df/dm/s,
#     in m and ν: r (p - b q),     in s and ν: -p (p - b q)/s,
#     in s: (q (p - q) + ν p (1 + 2 q))/s², with ν p = x² q,
#     in ν: b² (c(b) + b c'(b)) + b p (b (1 + q) - p)/2 with c(b) = b K'(b).
# JAX's own derivative of the slopes squares b and x, which leave the range.
def _shares(m, t, s, degrees):
    """x, p, q, p/(m - t) and p - b q."""
    b, x, z, _ = _parts(m, t, s, degrees)
    far = z > 1e19  # where 1/z may be flushed to 0
    large = jnp.abs(x) > 1
    of_x = 1 / jnp.where(large, x, 1)
    q = jnp.where(far, (degrees * of_x) * of_x, 1 / (1 + z))
    p = _part(z)
    rate = jnp.where(large, p, (b * x) * q) / jnp.where(large, m - t, s)
    inverse = 1 / (degrees + jnp.where(large, x * x, 1))  # b q, where z may overflow
    return x, p, q, rate, p - jnp.where(large, inverse, b * q)


def _part(z):
    """z/(1 + z)."""
    far = z > 1e19
    return jnp.where(far, 1, share(jnp.where(far, 0, z), jnp.ones_like(z)))


@pointwise
def _by_mean(m, t, s, degrees):
    """df/dm."""
    b, x, _, _ = _parts(m, t, s, degrees)
    value = _slope_in_mean(m, t, s, x, b)
    x, p, q, rate, gap = _shares(m, t, s, degrees)
    large = jnp.abs(x) > 1
    steep = jnp.where(large, value, (1 + b) * (q / s)) * (q - p)
    steep = steep / jnp.where(large, m - t, s)
    return value, (steep, -steep, -2 * q * (value / s), rate * gap)


# Where x² or z may overflow, the fractions are divided by x or x², and beyond
# |x| = 1e19, df/dm = g/s is computed from m - t = s x.
@pointwise
def _by_scale(m, t, s, degrees):
    """df/ds."""
    b, x, z, _ = _parts(m, t, s, degrees)
    plain = (jnp.abs(x) < 1e19) & (z < 1e19)
    own, squared = jnp.where(plain, x, 0), jnp.where(plain, z, 0)
    value = ((1 - own) * (1 + own)) / (1 + squared)
    inverse = 1 / jnp.where(plain, 1, x)
    square = inverse * inverse
    flat = (b == 0) & (square == 0)  # x² overflows
    beyond = (square - 1) / jnp.where(plain | flat, 1, square + b)
    value = jnp.where(plain, value, jnp.where(flat, -jnp.inf, beyond)) / s
    x, p, q, _, gap = _shares(m, t, s, degrees)
    mixed = -2 * q * (_by_mean(m, t, s, degrees) / s)
    grown = jnp.where(plain, (own * q) * own, jnp.where(b == 0, x * x, degrees * p))
    of_s = 1 / s
    steep = ((q * (p - q) + grown * (1 + 2 * q)) * of_s) * of_s
    return value, (mixed, -mixed, largest_finite(steep), -(p / s) * gap)


@pointwise
def _by_degrees(m, t, s, degrees):
    """df/dν."""
    b, _, z, log1p = _parts(m, t, s, degrees)
    near = z < 0.5
    small = jnp.where(near, z, 0)
    part = _part(z)
    bend = small * (small * (1 / (1 + small) - log1p_remainder(small)))  # z² N(z)
    bend = jnp.where(near, bend, log1p - part)
    slope, change = jax.jvp(_constant_slope, (b,), (b,))
    # Beyond, c is 1/2 to rounding, and the square of b in its slope overflows.
    change = jnp.where(b > 2.0**60, 0, change)
    value = 0.5 * bend - b * (slope + 0.5 * part)
    _, p, q, rate, gap = _shares(m, t, s, degrees)
    steep = b * (b * (slope + change)) + (0.5 * b) * (p * (b * (1 + q) - p))
    return value, (rate * gap, -rate * gap, -(p / s) * gap, largest_finite(steep))


def _constant_slope(b):
    """c(b) = b K'(b)."""
    return jax.jvp(_constant, (b,), (b,))[1]


def _log1p_of_square(m, t, s, x, b, z):
    """log(1 + z), also where z = b x² or x overflows."""
    over = jnp.isinf(z)
    beyond = jnp.isinf(x)
    half = jnp.abs(jnp.where(beyond, m / 2 - t / 2, 1))
    log_x = (jnp.log(half) + math.log(2)) - jnp.log(jnp.where(beyond, s, 1))
    log_x = jnp.where(beyond, log_x, jnp.log(jnp.abs(jnp.where(over, x, 1))))
    log_z = 2 * log_x + jnp.log(jnp.where(over, b, 1))
    return jnp.where(over, log_z, jnp.log1p(jnp.where(over, 0, z)))


def _slope_in_mean(m, t, s, x, b):
    """g/s = (1 + b) x/((1 + b x²) s)."""
    size = jnp.abs(x)
    huge = size > 1e19
    large = (size > 1) & ~huge
    close = jnp.where(size > 1, 0, x)
    grown = 1 + b
    part = b / grown

    scale = jnp.where(jnp.isinf(m - t), 0.5, 1).astype(x.dtype)
    error = jnp.where(huge, m * scale - t * scale, 1)
    inverse = 1 / jnp.where(huge | large, x, 1)
    beyond = scale / ((scale * s) * inverse / grown + part * error)
    of_large = 1 / (inverse / grown + part * jnp.where(large, x, 1))
    # Here x may be flushed to 0, and (1 + b) (m - t) may not.
    lost = (close == 0) & (size <= 1)
    tiny = grown * jnp.where(lost, m - t, 0)
    divisor = jnp.where((s == 0) & lost, 1, s)
    plain = quotient(grown * close, 1 + b * close * close)
    of_close = jnp.where(lost, tiny / divisor, plain)
    return jnp.where(huge, beyond, jnp.where(large, of_large, of_close) / divisor)


def _constant(b):
    """K(b), in forms whose derivatives have parts in range for every b."""
    near = b < 0.5
    small, large = jnp.where(near, b, 0), jnp.where(near, 1, b)
    # 2 b/(1 + b)
    twice = jnp.where(near, 2 * small / (1 + small), 2 - 2 * reciprocal(1 + large))
    gap = remainder_of_inverse(2 * b) - remainder_of_inverse(twice)
    return 0.5 * log1p_deficit(b) + gap

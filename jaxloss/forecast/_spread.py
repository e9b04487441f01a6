"""What a dispersion adds to the constant of the Poisson likelihood."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core.rule.analytic import pointwise
from jaxloss.forecast._gamma import STIRLING, remainder_of_inverse, stirling_range


def spread(k, a):
    """C = log(1 + a k)/2 + S(r) - S(k + r) for r = 1/a; 0 at k = 0 and at a = 0."""
    half = 0.5 * log1p_product(a, k)
    return half + (remainder_of_inverse(a) - remainder_of_inverse(_shrunk(k, a)))


# For k < 1, C may be smaller than the rounding of S(r) and S(k + r). By n steps
#     S(r) - S(k + r) = Σ_{j<n} (g(r + j) - g(k + r + j)) + S(r + n) - S(k + r + n),
# with g(z) = (z + 1/2) log(1 + 1/z) - 1 and
#     g(z) - g(z + k) = (z + 1/2) log(1 + k/(z (1 + z + k))) - k log(1 + 1/(z + k)).
# With x = 1/(r + n) and y = 1/(k + r + n), the terms of Stirling's series have the
# factor x - y = k x y, and what is left of x^i - y^i is the sum of all x^j y^(i-1-j).
def spread_of_few(k, a):
    """C for 0 <= k < 1, relatively to rounding, in a rule's value: no derivative."""
    return 0.5 * log1p_product(a, k) + _remainder_step(k, a)


def _remainder_step(k, a):
    """S(r) - S(k + r) for 0 <= k < 1 and r = 1/a, relatively to rounding."""
    start, terms = stirling_range(a.dtype)
    near = a * start <= 1
    z = 1 / jnp.where(near, 1, a)
    x = jnp.where(near, a, 1 / (z + start))
    y = x / (1 + k * x)
    rest, sums, power = jnp.zeros_like(x), jnp.ones_like(x), jnp.ones_like(x)
    for coefficient in STIRLING[:terms]:
        rest += coefficient * sums
        for _ in range(2):
            power = power * y
            sums = x * sums + power
    # Along an axis of its own, since XLA would take long to compile so many terms.
    each = jnp.expand_dims(k, -1)
    shift = jnp.arange(start, dtype=a.dtype).reshape((1,) * a.ndim + (start,))
    # z is flushed to 0 for an a above 2^126.
    at = jnp.maximum(jnp.expand_dims(z, -1) + shift, float(jnp.finfo(a.dtype).tiny))
    inverse = jnp.where(shift == 0, jnp.expand_dims(a, -1), 1 / jnp.maximum(at, 1))
    steps = (at + 0.5) * jnp.log1p(each / (1 + at + each) * inverse)
    steps -= each * jnp.log1p(1 / (at + each))
    moved = jnp.where(near, 0, jnp.sum(steps, axis=-1))
    return moved + (k * x) * (y * rest)


def log_factorial(k):
    """log k! for k in [0, 1)."""
    return ((k + 0.5) * jnp.log1p(k) - k) - _remainder_step(k, jnp.ones_like(k))


@pointwise
def _shrunk(k, a):
    """b = a/(1 + a k) = 1/(k + r), with derivatives whose parts are in range."""
    far = a * k > 2.0**60
    ratio = 1 / (1 + a * k)
    b = jnp.where(far, 1 / jnp.where(far, k, 1), a * ratio)
    return b, (-b * b, ratio * ratio)


# With b = a/(1 + a k), R(a) = S(1/a) and P(x) = x R'(x), which is in [0, 1/2],
#     dC/dk = b/2 + b² R'(b) = b (1/2 + P(b)),
#     dC/da = k/(2 (1 + a k)) + R'(a) - (b/a)² R'(b)
#           = (k b/2 + P(a) - P(b) b/a)/a.
# For a > 1 the forms of P have no square of a or b, which would leave the range from
# 1e19 on; for a <= 1 those of R' have no division by a, which may be 0.
def spread_slopes(k, a):
    """The slopes of C in k and in a."""
    large = a > 1
    b = _shrunk(k, a)
    ratio = 1 / (1 + a * k)

    def slope(x):  # R'(x), or P(x)
        tangent = jnp.where(large, x, 1)
        return jax.jvp(remainder_of_inverse, (x,), (tangent,))[1]

    # P has its limit long before 2^100, and the reciprocal of an a above 2^126, which
    # XLA makes of a constant divisor, is flushed to 0.
    own, other = slope(jnp.minimum(a, 2.0**100)), slope(b)
    product = jnp.where(large, other, b * other)
    far = (0.5 * (k * b) + (own - other * ratio)) / jnp.where(large, a, 1)
    near = 0.5 * (k * ratio) + (own - other * ratio * ratio)
    return b * (0.5 + product), jnp.where(large, far, near)


def log1p_product(a, k):
    """log(1 + a k), also where a k overflows."""
    over = jnp.isinf(a * k)
    near = jnp.log1p(jnp.where(over, 0, a) * k)
    return jnp.where(
        over, jnp.log(jnp.where(over, a, 1)) + jnp.log(jnp.where(over, k, 1)), near
    )


@pointwise
def damped(x, a, m):
    """x/(1 + a m), with derivatives whose parts are in range."""
    scale = 1 + a * m
    value = x / scale
    return value, (1 / scale, -value * (m / scale), -value * (a / scale))

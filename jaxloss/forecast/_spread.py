"""What a dispersion adds to the constant of the Poisson likelihood."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core.rule.analytic import pointwise
from jaxloss.forecast._gamma import remainder_of_inverse


def spread(k, a):
    """C = log(1 + a k)/2 + S(r) - S(k + r) for r = 1/a; 0 at k = 0 and at a = 0."""
    half = 0.5 * log1p_product(a, k)
    return half + (remainder_of_inverse(a) - remainder_of_inverse(_shrunk(k, a)))


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

    own, other = slope(a), slope(b)
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

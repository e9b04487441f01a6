"""e^x - 1 with all its digits, without a comparison, a logarithm or a quotient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxloss._core.numerics.functions import power_series
from jaxloss._core.rule.analytic import pointwise

# With f(d) = e^d - 1 - d, b = min(max(d, -1), 2), c = d - b and s = e^b - 1,
#     f(b) = b² P(b),   s = b + f(b),
#     e^d - 1 = s + g,   g = (1 + s)(e^c - 1),
#     f(d) = f(b) + g - c.
# A polynomial P keeps the digits of d² near 0, where c and g are 0, and no term cancels
# far from it. XLA for GPU would store a comparison that the value and the slope share.
_SERIES = {
    # Near-minimax on [-1, 2]: a relative error of 6e-10.
    jnp.dtype("float32"): (
        0.49999999970753954,
        0.1666666668423587,
        0.041666674285215122,
        0.0083333314685984329,
        0.0013888580679663905,
        0.00019842442786350005,
        2.4841780745626482e-5,
        2.7324398096468815e-6,
        2.6070061600615278e-7,
        3.8408991069597178e-8,
    ),
    jnp.dtype("float64"): [
        1 / float(np.prod(np.arange(1.0, k + 3))) for k in range(24)
    ],
}


def expm1_parts(d: jax.Array):
    """f(b), c, g and e^d - 1."""
    b = jnp.clip(d, -1, 2)
    c = d - b
    near = (b * b) * power_series(_SERIES[d.dtype], b)
    s = b + near
    grown = (1 + s) * (jnp.exp(c) + (-1.0))
    return near, c, grown, s + grown


@pointwise
def expm1_of_negative(x: jax.Array):
    """e^x - 1 for x <= 0 within 2 ulp."""
    *_, value = expm1_parts(x)
    return value, (jnp.exp(x),)

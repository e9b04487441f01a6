"""What Stirling's formula leaves out of the logarithm of the gamma function."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core.numerics.functions import power_series
from jaxloss._core.rule.analytic import pointwise

# log Γ(z) = (z - 1/2) log z - z + log(2π)/2 + S(z), with S(z) = 1/(12 z) - ...
# = Σ_k B_2k/(2k (2k - 1) z^(2k-1)). In float32 from z = 5 on, in float64 from z = 9 on,
# the terms below are all that rounding leaves of it.
STIRLING = (
    1 / 12,
    -1 / 360,
    1 / 1260,
    -1 / 1680,
    1 / 1188,
    -691 / 360360,
    1 / 156,
    -3617 / 122400,
    43867 / 244188,
    -174611 / 125400,
)
_FROM = {jnp.dtype("float32"): (5, 5), jnp.dtype("float64"): (9, 10)}
# artanh(s)/s - 1 = Σ_k s^2k/(2k + 1), for s <= 1/3; twice as many for s <= 3/5.
_STEP = {jnp.dtype("float32"): 8, jnp.dtype("float64"): 17}


def stirling_range(dtype):
    """From which z on the series is exact, and with how many terms."""
    return _FROM[jnp.dtype(dtype)]


def remainder_of_inverse(a: jax.Array) -> jax.Array:
    """S(1/a) for a >= 0, absolutely to rounding; 0 at 0, and smooth there.

    S(z) = S(z + n) + Σ_{j<n} ((z + j + 1/2) log(1 + 1/(z + j)) - 1) moves z up to
    where the series is exact; no term is below 0. JAX's own differentiation of the code
    is as exact as the code: no term is a difference of much larger ones.
    """
    start, terms = stirling_range(a.dtype)
    near = a * start <= 1
    z = reciprocal(jnp.where(near, 1, a))
    last = jnp.where(z < 1, z + (start + 1), z + start)
    inverse = jnp.where(near, a, 1 / last)
    total = inverse * power_series(STIRLING[:terms], inverse * inverse)
    small = z < 1
    # Along an axis of its own, since XLA would take long to compile so many terms.
    shift = jnp.arange(start, dtype=a.dtype).reshape((1,) * a.ndim + (start,))
    steps = _step(jnp.expand_dims(jnp.where(small, z + 1, z), -1) + shift)
    moved = jnp.sum(steps, axis=-1)
    # z < 1 needs one more step, to z + 1. Below z = 1/3 its logarithm is one of a,
    # since the derivative of log(1 + 1/z) in z is out of range from a = 1e19 on.
    high = a > 3
    far = jnp.where(high, a, 3)
    first = (reciprocal(far) + 0.5) * jnp.log1p(far) - 1
    first = jnp.where(high, first, _step(jnp.where(small & ~high, z, 1), 2))
    moved = jnp.where(small, moved + first, moved)
    return total + jnp.where(near, 0, moved)


def _step(z, factor=1):
    """(z + 1/2) log(1 + 1/z) - 1 = artanh(s)/s - 1 for s = 1/(2 z + 1).

    For z >= 1, or with twice the terms for z >= 1/3.
    """
    s = 1 / (2 * z + 1)
    square = s * s
    coefficients = [1 / (2 * k + 3) for k in range(_STEP[z.dtype] * factor)]
    return square * power_series(coefficients, square)


# With s = z/(2 + z), log(1 + z) = 2 artanh s, and (z - log(1 + z))/z² is
# (1 - s)/2 - s (1 - s)²/2 (1/3 + s²/5 + ...), of which few terms are enough near 0.
def log1p_remainder(z: jax.Array) -> jax.Array:
    """(z - log(1 + z))/z² for z > -1/2, which is 1/2 at 0."""
    near = (z > -0.35) & (z < 0.5)
    far = jnp.where(near, 1, z)
    otherwise = (far - jnp.log1p(far)) / far / far
    small = jnp.where(near, z, 0)
    s = small / (2 + small)
    coefficients = [1 / (2 * k + 3) for k in range(_LOG1P[z.dtype])]
    rest = s * power_series(coefficients, s * s)
    series = 0.5 * (1 - s) * (1 - (1 - s) * rest)
    return jnp.where(near, series, otherwise)


_LOG1P = {jnp.dtype("float32"): 5, jnp.dtype("float64"): 12}


# With s as above, log(1 + z)/z = (1 - s) artanh(s)/s. The derivative in s of what it
# lacks to 1 has no cancellation, for which z < 2 needs more terms.
def log1p_deficit(z: jax.Array) -> jax.Array:
    """1 - log(1 + z)/z for z >= 0, which is 0 at 0 and 1 at infinity."""
    near = z < 2
    small, large = jnp.where(near, z, 0), jnp.where(near, 1, z)
    s = small / (2 + small)
    coefficients = [1 / (2 * k + 3) for k in range(_LOG1P[z.dtype] * 2 + 3)]
    square = s * s
    series = s - (1 - s) * (square * power_series(coefficients, square))
    return jnp.where(near, series, 1 - jnp.log1p(large) * reciprocal(large))


@pointwise
def reciprocal(x: jax.Array):
    """1/x, with derivatives that have no power of x, which may overflow."""
    value = 1 / x
    return value, (-value * value,)

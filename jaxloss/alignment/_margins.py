"""The margin between two answers, and the logistic loss of a margin."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.numerics.exact import remainder, two_difference, zero_safe_product
from jaxloss._core.numerics.functions import magnitude, relu


def sum_of_differences(*pairs):
    """Σ (a - b)·k over pairs, what rounding took from it, and k, a power of two.

    Log-probabilities of long answers are large and nearly equal, so that the sum
    cancels. k is 1 unless the sum could overflow. The second part has no derivative.
    """
    most = float(jnp.finfo(pairs[0][0].dtype).max) / (4 * len(pairs))
    large = False
    for number in [x for pair in pairs for x in pair]:
        large = (jnp.abs(number) > most) | large
    k = jnp.where(large, 1 / (4 * len(pairs)), 1).astype(pairs[0][0].dtype)
    (total, lost), *others = (two_difference(a * k, b * k) for a, b in pairs)
    for difference, more_lost in others:
        total, rounding = two_difference(total, -difference)
        lost = lost + more_lost + rounding
    # Where the sum cancels, `lost` may be all there is of it.
    total, lost = two_difference(total, -lost)
    return total, lost, k


def exact_product(a: jax.Array, b: jax.Array, lost: jax.Array):
    """a · (b + lost) with 0 · inf = 0, and what rounding took from it."""
    product = zero_safe_product(a, b)
    rest = stop_gradient(a * lost - remainder(product, a, b))
    return product, jnp.where(jnp.isfinite(rest), rest, 0)


def exp_with(x: jax.Array, lost: jax.Array) -> jax.Array:
    """exp(x + lost) to first order in what rounding took from x."""
    return jnp.exp(x) * (1 + jnp.clip(stop_gradient(lost), -0.25, 0.25))


def exp_minus_magnitude(h: jax.Array, lost: jax.Array) -> jax.Array:
    """exp(-|h + lost|) to first order in what rounding took from h."""
    # Where the exponential is not 0, `lost` is far below 1/4.
    lost = jnp.clip(lost, -0.25, 0.25)
    return jnp.exp(-magnitude(h)) * (1 - jnp.where(h >= 0, lost, -lost))


# With u = e^-|h| and s the smoothing,
#     f = (1 - s) softplus(-h) + s softplus(h)
#       = (1 - s) max(-h, 0) + s max(h, 0) + log1p(u),          no term is negative,
#     df/dh = s sigmoid(h) - (1 - s) sigmoid(-h)
#           = (s - (1 - s) u)/(1 + u) for h >= 0, (s u - (1 - s))/(1 + u) for h < 0,
#     df/ds = softplus(h) - softplus(-h) = h.
# For large h the loss is u, and a rounding error of h is a relative error of u. So u is
# corrected by what rounding took from h.
def logistic(h: jax.Array, lost: jax.Array, smoothing: jax.Array):
    """The logistic loss of a margin h + lost, and its slopes by h and the smoothing."""
    u = exp_minus_magnitude(h, lost)
    kept = 1 - smoothing
    against = zero_safe_product(kept, relu(-h))
    along = zero_safe_product(smoothing, relu(h))
    slope = jnp.where(h >= 0, smoothing - kept * u, smoothing * u - kept) / (1 + u)
    return against + along + jnp.log1p(u), slope, h

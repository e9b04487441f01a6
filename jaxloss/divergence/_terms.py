"""What the divergences share: the check of their arguments, and one term."""

from __future__ import annotations

import math

import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.classes import mask_classes
from jaxloss._core.numerics.functions import power_series


def divergence_arguments(
    name, first, other_name, second, axis, where, weights, reduction, fill
):
    """Two checked and masked arrays over the classes, in the same shape and dtype.

    `fill` holds, for each of the two, the value that replaces excluded entries.
    """
    if axis is None:
        axis = tuple(range(checks.to_array(name, first).ndim))
    first, axes = checks.class_array(name, first, axis)
    second = checks.to_array(other_name, second)
    checks.check_broadcast(other_name, second.shape, name, first.shape)
    dtype = checks.compute_dtype(first, second)
    second = checks.broadcast_to(second.astype(dtype), first)
    first, examples = mask_classes(
        first, axes, where, weights, reduction, dtype, name=name
    )
    first = examples.select(first.astype(dtype), fill[0])
    second = examples.select(second, fill[1])
    return first, second, examples


# The Bregman divergence of the negative entropy, with s = t e^z:
#     t log(t/s) - t + s = t (e^z - 1 - z).
# A power series replaces it for |z| < 1, where the terms cancel.
def bregman(t, s, z):
    near = jnp.abs(z) < 1
    small = jnp.where(near, z, 0)
    series = t * (small * small) * power_series(_EXP_TAIL[z.dtype], small)
    return jnp.where(near, series, s - t * (1 + jnp.where(near, 0, z)))


# (e^z - 1 - z)/z² = Σ_k _EXP_TAIL[k] z^k.
_EXP_TAIL = {
    jnp.dtype("float32"): [1 / math.factorial(k + 2) for k in range(10)],
    jnp.dtype("float64"): [1 / math.factorial(k + 2) for k in range(18)],
}

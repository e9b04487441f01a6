"""What the divergences share: their arguments, and one term."""

from __future__ import annotations

import math

import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.classes import mask_classes
from jaxloss._core.numerics.functions import power_series


def arguments(
    name, first, other_name, second, axis, where, weights, reduction, nothing
):
    """Two arrays over the classes, checked, masked, of one shape and one dtype.

    `nothing` is what each of them holds where there is no such class.
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
    first = examples.select(first.astype(dtype), nothing[0])
    second = examples.select(second, nothing[1])
    return first, second, examples


# t log(t/s) - t + s = t (e^z - 1 - z) with s = t e^z, the entropy's Bregman divergence,
# by a power series where its terms cancel.
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

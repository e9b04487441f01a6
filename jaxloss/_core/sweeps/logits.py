"""From the outputs of a linear layer to logits: bias, cap and temperature."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxloss._core.numerics.functions import accurate_tanh, power_series
from jaxloss._core.rule.analytic import pointwise
from jaxloss._core.rule.dropped import guard
from jaxloss._core.rule.varying import vary_as
from jaxloss._core.softmax import divide_logits


class LogitOptions(NamedTuple):
    """Real parameters of all rows; None stands for one that changes nothing."""

    bias: jax.Array | None = None  # [1, C]
    logit_softcap: jax.Array | None = None
    temperature: jax.Array | None = None


def logits(x: jax.Array, options: Any) -> jax.Array:
    """The logits, given x = hidden · kernel; a bias of -inf excludes a class.

    `options` has the fields of `LogitOptions`.
    """
    if options.bias is not None:
        x = x + options.bias
    if options.logit_softcap is not None:
        cap = vary_as(options.logit_softcap, x)
        x = _softcap(x, jnp.broadcast_to(cap, x.shape))
    if options.temperature is not None:
        temperature = vary_as(options.temperature, x)
        x = divide_logits(x, jnp.broadcast_to(temperature, x.shape))
    return x


# f = c tanh z with z = x / c, and with u = e^(-2|z|)
#     df/dx = sech² z = 4u / (1 + u)²,
#     df/dc = tanh z - z sech² z = (sinh 2z - 2z) sech² z / 2.
# In float32, 1 - tanh² z would round to 0 from z = 9.1 on; 4u / (1 + u)² does not. For
# |z| < 1 the two terms of tanh z - z sech² z cancel, so df/dc is computed by the power
# series of sinh 2z - 2z.
@pointwise
def _softcap(x, cap):
    z = x / cap
    u = jnp.exp(-2 * jnp.abs(z))
    slope = 4 * u / jnp.square(1 + u)
    value = accurate_tanh(z)
    y = 2 * jnp.where(jnp.abs(z) < 1, z, 0)
    terms = [
        1 / math.factorial(2 * k + 3) for k in range(8 if z.dtype.itemsize < 8 else 14)
    ]
    near = (y * y * y) * power_series(terms, y * y) * (slope / 2)
    far = value - jnp.where(u == 0, 0, z) * slope
    return cap * value, (slope, jnp.where(jnp.abs(z) < 1, near, far))


def guard_rows(tree: Any, x: jax.Array, dropped: jax.Array) -> Any:
    """Arrays [..., C] and scalars, with finite derivatives in the rows of weight 0.

    What the rows of x share is broadcast to them first: its gradient is a sum over the
    rows, and only an entry per row can exclude some of them.
    """
    return jax.tree.map(
        lambda v: guard(jnp.broadcast_to(v, x.shape), dropped[:, None]), tree
    )

"""Examples of weight 0, whose loss or slope may be infinite or NaN.

The derivative of weight · loss is weight · slope, and 0 · inf is NaN. To replace the
inputs of such an example, as a mask does, would be wrong: the derivative by the weight
is the loss, and by weight and input the slope, both of which a weight that starts at 0
is trained by. So the inputs stay, and what is replaced by 0 on its way through them is
a tangent or cotangent that is not finite.
"""

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxloss._core.devices import broadcast_to
from jaxloss._core.rule.varying import vary_alike


def guard(x: jax.Array, dropped: jax.Array) -> jax.Array:
    """x itself, with derivatives that are finite where `dropped`.

    Args:
        x: Real, an input of a loss or the loss.
        dropped: Boolean, broadcastable to `x`.
    """
    dropped = broadcast_to(dropped, x)
    x = broadcast_to(x, dropped)
    return _guard_p.bind(*vary_alike((x, dropped)))


def _finite(t, dropped):
    return jnp.where(dropped & ~jnp.isfinite(t), jnp.zeros_like(t), t)


# Two primitives, since no function with a custom rule replaces both tangents and
# cotangents: `guard`, whose tangent is `finite` of its tangent, and `finite`, which is
# linear to JAX and its own transpose.
_guard_p = Primitive("guard_dropped")
_finite_p = Primitive("finite_where_dropped")


def _jvp(primals, tangents, value):
    t = tangents[0]
    dropped = primals[1]
    if isinstance(t, ad.Zero):
        return value, t
    return value, _finite_p.bind(t, dropped)


def _guard_jvp(primals, tangents):
    return _jvp(primals, tangents, _guard_p.bind(*primals))


def _finite_jvp(primals, tangents):
    return _jvp(primals, tangents, _finite_p.bind(*primals))


def _finite_transpose(cotangent, x, dropped):
    if isinstance(cotangent, ad.Zero):
        return cotangent, None
    return _finite_p.bind(cotangent, dropped), None


def _batcher(primitive):
    def batch(arguments, axes):
        size = next(
            x.shape[a] for x, a in zip(arguments, axes, strict=True) if a is not None
        )
        front = [
            batching.bdim_at_front(x, a, size)
            for x, a in zip(arguments, axes, strict=True)
        ]
        return primitive.bind(*front), 0

    return batch


for _primitive, _function in ((_guard_p, lambda x, dropped: x), (_finite_p, _finite)):
    _primitive.def_impl(jax.jit(_function))
    _primitive.def_abstract_eval(lambda x, dropped: x)
    batching.primitive_batchers[_primitive] = _batcher(_primitive)
    mlir.register_lowering(_primitive, mlir.lower_fun(_function, False))
ad.primitive_jvps[_guard_p] = _guard_jvp
ad.primitive_jvps[_finite_p] = _finite_jvp
ad.primitive_transposes[_finite_p] = _finite_transpose

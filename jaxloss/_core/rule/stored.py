"""A gradient that XLA for CPU stores, where it would compute it once per reader.

It stands here and not in `compilers`, since it needs a primitive: the cotangent must
be divided by itself alone. A divisor made of anything else would be a residual of its
size, and JAX would take the derivative of one made of the cotangent.
"""

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_stored_p = Primitive("stored_gradient")


def gradient_stored(x: jax.Array) -> jax.Array:
    """x, whose gradient XLA for CPU stores before anything reads it.

    The shorter form is x. Where x is a product of matrices, two products read its
    gradient, one of them transposed. XLA for CPU would multiply and select for each of
    them anew, and keep the exponentials that both are made of: three arrays of the
    logits' size for `transducer_loss`, in place of two. It never repeats a division, so
    the gradient is divided by 1, or NaN by NaN. TPU and GPU have the shorter form.
    tests/test_transducer.py compares the temporaries.
    """
    return _stored_p.bind(x, gradient=False)


def _lower(x, *, gradient):
    if not gradient:
        return x
    return jax.lax.platform_dependent(
        x, cpu=lambda x: x / jnp.where(jnp.isnan(x), x, 1), default=lambda x: x
    )


def _of_gradient(x):
    return x if isinstance(x, ad.Zero) else _stored_p.bind(x, gradient=True)


def _jvp(primals, tangents, *, gradient):
    return _stored_p.bind(*primals, gradient=gradient), _of_gradient(tangents[0])


_stored_p.def_impl(jax.jit(_lower, static_argnames="gradient"))
_stored_p.def_abstract_eval(lambda x, *, gradient: x)
ad.primitive_jvps[_stored_p] = _jvp
ad.primitive_transposes[_stored_p] = lambda cotangent, x, **_: (
    _of_gradient(cotangent),
)
batching.primitive_batchers[_stored_p] = lambda arguments, axes, **options: (
    _stored_p.bind(*arguments, **options),
    axes[0],
)
mlir.register_lowering(_stored_p, mlir.lower_fun(_lower, False))

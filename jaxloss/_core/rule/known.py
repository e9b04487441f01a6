"""A loss that is computed already, together with its derivative.

Differentiating the value itself would go through the code of the rule's forward part,
not through the rule. Under JAX 0.10 a `lax.scan` drops the `custom_jvp` rule of what it
computes beside its tangents, and forward over reverse mode through the loop would do
just that. A primitive keeps its rule everywhere. Let it go when the oldest JAX that
jaxloss supports keeps custom rules in a scan; `tests/test_core_derivative.py` has the
case.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_known_p = Primitive("known_loss")


def known(
    value: jax.Array, inputs: tuple[jax.Array, ...], tangent: Callable[..., Any]
) -> jax.Array:
    """The value, which `tangent(inputs, tangents)` differentiates.

    Args:
        value: The loss at `inputs`, without a derivative of its own.
        inputs: The arguments of the loss.
        tangent: Takes the inputs and their tangents (None for one that is constant),
            and returns the loss and its tangent.
    """
    return _known_p.bind(value, *inputs, tangent=tangent)


def known_as(value: jax.Array, alike: jax.Array) -> jax.Array:
    """The value, with the derivative of an array that equals it."""
    return known(value, (alike,), lambda _, moved: (None, moved[0]))


def _known_jvp(primals, tangents, *, tangent):
    value = _known_p.bind(*primals, tangent=tangent)
    moved = tuple(None if isinstance(t, ad.Zero) else t for t in tangents[1:])
    if all(t is None for t in moved):
        return value, jnp.zeros_like(value)
    return value, tangent(tuple(primals[1:]), moved)[1]


def _known_batch(arguments, axes, *, tangent):
    axes = tuple(axes)
    size = next(
        x.shape[a] for x, a in zip(arguments, axes, strict=True) if a is not None
    )
    value = batching.bdim_at_front(arguments[0], axes[0], size)

    def each(primals, tangents):
        moved = tuple(
            None if t is None else a for t, a in zip(tangents, axes[1:], strict=True)
        )
        return jax.vmap(tangent, (axes[1:], moved))(primals, tangents)

    return _known_p.bind(value, *arguments[1:], tangent=each), 0


_known_p.def_impl(lambda value, *inputs, tangent: value)
_known_p.def_abstract_eval(lambda value, *inputs, tangent: value)
ad.primitive_jvps[_known_p] = _known_jvp
batching.primitive_batchers[_known_p] = _known_batch
mlir.register_lowering(_known_p, lambda context, value, *inputs, tangent: [value])

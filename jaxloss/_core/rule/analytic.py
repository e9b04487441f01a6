"""One analytic rule, both modes of differentiation.

A bare `jax.custom_vjp` refuses `jvp`, `jacfwd`, `hessian` and `linearize`. The
adapter below keeps the rule in reverse form, where a loss's gradient is naturally
written, and derives the forward mode from it: every output depends on its own slice
of the inputs only, so the gradient pulled back from an array of ones holds each
output's gradient side by side, and the tangent is its inner product with the input
tangents. Higher orders differentiate through `forward` and `backward` themselves.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxloss._core.devices import varying


def analytic(forward: Callable[..., Any], backward: Callable[..., Any]):
    """Turns `forward` and `backward` into a loss that both modes differentiate.

    Args:
        forward: `forward(*inputs, **static)` returns `(loss, residuals)`. Output `i`
            may depend on slice `i` of each real input only: a real input has either
            the loss's own shape or, where `axis` is among the static arguments, that
            shape with the axis `axis` inserted. Shared inputs are broadcast before.
            The axis may be split over the devices of `axis_name`, a static argument.
        backward: `backward(residuals, cotangent, **static)` returns one cotangent for
            each input, `None` for an integer one.

    Returns:
        The function `loss(*inputs, **static)`.
    """

    @functools.wraps(forward)
    def loss(*inputs, **static):
        def ahead(*inputs):  # under `jit`, constants come as scalars of JAX's own
            return forward(*map(jnp.asarray, inputs), **static)

        @jax.custom_vjp
        def reverse(*inputs):
            return ahead(*inputs)[0]

        reverse.defvjp(ahead, functools.partial(backward, **static))

        def tangent(primals, tangents):
            """The loss and its tangent; None is the tangent of what does not move."""
            value, pull_back = jax.vjp(reverse, *primals)
            gradients = pull_back(jnp.ones_like(value))
            products = [
                _inner_product(gradient, moved, static.get("axis"), value)
                for gradient, moved in zip(gradients, tangents, strict=True)
                if moved is not None
            ]
            return value, sum(products[1:], start=products[0])

        @jax.custom_jvp
        def both(*inputs):
            inputs = tuple(map(jnp.asarray, inputs))
            return _known(reverse(*jax.lax.stop_gradient(inputs)), inputs, tangent)

        def jvp(primals, tangents):
            primals = tuple(map(jnp.asarray, primals))  # constants come as they are
            moved = tuple(None if isinstance(t, SymbolicZero) else t for t in tangents)
            if all(t is None for t in moved):
                value = both(*primals)
                return value, jnp.zeros_like(value)
            value, slope = tangent(primals, moved)
            return _known(jax.lax.stop_gradient(value), primals, tangent), slope

        both.defjvp(jvp, symbolic_zeros=True)
        return both(*vary_alike(inputs, static.get("axis_name")))

    return loss


def pointwise(rule: Callable[..., Any]):
    """Turns `rule(*inputs) -> (loss, partial derivatives)` into such a loss.

    All inputs are real and have the loss's shape. A caller that needs a value alone
    pays for no derivative: under `jit` the compiler drops what is not used.
    """

    def forward(*inputs):
        return rule(*inputs)

    def backward(partials, cotangent):
        return tuple(cotangent * partial for partial in partials)

    return functools.wraps(rule)(analytic(forward, backward))


# A value that is computed already, with the loss's derivatives: its own would go
# through `forward`'s code, not through the rule. To compute it twice would do for what
# the compiler merges, which no loop is. A primitive, since JAX 0.10 drops a custom rule
# of what a scan computes beside its linear part: forward over reverse mode through the
# loop would differentiate the function's own code.
_known_p = Primitive("known_loss")


def _known(value, inputs, tangent):
    return _known_p.bind(value, *inputs, tangent=tangent)


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


def vary_alike(inputs, axis_name=None):
    """Makes all inputs vary over the mesh axes of `shard_map` that one varies over.

    A cotangent varies like the loss, hence like all inputs taken together, and has to
    match its own input; JAX closes the sum over devices where that one is replicated.
    Over `axis_name` only class axes vary, and the loss does not.
    """
    every = frozenset().union(*map(varying, inputs)) - {axis_name}
    missing = [tuple(sorted(every - varying(x))) for x in inputs]
    return [
        jax.lax.pcast(x, axes, to="varying") if axes else x
        for x, axes in zip(inputs, missing, strict=True)
    ]


def _inner_product(gradient, tangent, axis, value):
    product = gradient * tangent
    if product.ndim > value.ndim:
        product = jnp.sum(product, axis=axis)
    split = varying(product) - varying(value)
    return jax.lax.psum(product, tuple(split)) if split else product

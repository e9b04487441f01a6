"""One analytic gradient, both modes of differentiation.

A bare `jax.custom_vjp` refuses `jvp`, `jacfwd`, `hessian` and `linearize`. The adapter
below takes a rule in reverse form, the natural form for the gradient of a loss, and
derives the forward mode from it. Each output depends on its own slice of the inputs
only. So the gradient pulled back from an array of ones holds the gradient of each
output side by side, and the tangent is its inner product with the input tangents.
Higher orders differentiate the code of `forward` and `backward`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxloss._core.rule.known import known
from jaxloss._core.rule.varying import vary_alike, varying


def analytic(forward: Callable[..., Any], backward: Callable[..., Any]):
    """Turns `forward` and `backward` into a loss that both modes differentiate.

    Args:
        forward: `forward(*inputs, **static)` returns `(loss, residuals)`. Output `i`
            may depend on slice `i` of each real input only. A real input has the shape
            of the loss with, if any, further axes: those named by the static argument
            `axis`, else the last ones. Broadcast shared inputs before. The static
            argument `axis_name` names the mesh axis over which `axis` is split.
        backward: `backward(residuals, cotangent, **static)` returns one cotangent per
            input, `None` for an integer one.

    Returns:
        The function `loss(*inputs, **static)`.
    """

    traced_forward, traced_backward = _traced_once(forward), _traced_once(backward)

    @functools.wraps(forward)
    def loss(*inputs, **static):
        def ahead(*inputs):  # under `jit`, constants come as scalars of JAX's own
            return traced_forward(*map(jnp.asarray, inputs), **static)

        @jax.custom_vjp
        def reverse(*inputs):
            return ahead(*inputs)[0]

        reverse.defvjp(ahead, functools.partial(traced_backward, **static))

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
            return known(reverse(*jax.lax.stop_gradient(inputs)), inputs, tangent)

        def jvp(primals, tangents):
            primals = tuple(map(jnp.asarray, primals))  # constants come as they are
            moved = tuple(None if isinstance(t, SymbolicZero) else t for t in tangents)
            if all(t is None for t in moved):
                value = both(*primals)
                return value, jnp.zeros_like(value)
            value, slope = tangent(primals, moved)
            return known(jax.lax.stop_gradient(value), primals, tangent), slope

        both.defjvp(jvp, symbolic_zeros=True)
        return both(*vary_alike(inputs, static.get("axis_name")))

    return loss


def _traced_once(function):
    """`function(*arrays, **static)`, traced once for each set of shapes and options.

    Reductions, modes and orders of differentiation share the trace. It is inlined: the
    program is the same as without.
    """

    @functools.cache
    def with_options(names):
        return jax.jit(function, static_argnames=names, inline=True)

    def call(*arrays, **static):
        return with_options(tuple(static))(*arrays, **static)

    return call


def pointwise(rule: Callable[..., Any]):
    """Turns `rule(*inputs, **static) -> (loss, gradients)` into such a loss.

    There is one gradient per input, of the input's shape: the shape of the loss, or
    with further axes behind those of the loss. It is None for an integer input. A
    caller that needs the value alone pays for no gradient: under `jit` XLA removes what
    is not used.
    """

    def forward(*inputs, **static):
        return rule(*inputs, **static)

    def backward(gradients, cotangent, **_):
        return tuple(
            None if g is None else _expand(cotangent, g) * g for g in gradients
        )

    return functools.wraps(rule)(analytic(forward, backward))


def _expand(cotangent, gradient):
    missing = range(cotangent.ndim, gradient.ndim)
    return jnp.expand_dims(cotangent, tuple(missing)) if missing else cotangent


def _inner_product(gradient, tangent, axis, value):
    product = gradient * tangent
    if product.ndim > value.ndim:
        last = tuple(range(value.ndim, product.ndim))
        product = jnp.sum(product, axis=last if axis is None else axis)
    split = varying(product) - varying(value)
    return jax.lax.psum(product, tuple(split)) if split else product

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

from jaxloss._core.mesh import varying


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

        @jax.custom_jvp
        def both(*inputs):
            return reverse(*inputs)

        # A value that is computed already, with the loss's derivatives: those of vjp's
        # own value would go through `forward`'s code, not through the rule. To compute
        # it twice would do for what the compiler merges, which no loop is.
        @jax.custom_jvp
        def known(value, *inputs):
            return value

        def jvp(primals, tangents):
            primals = tuple(map(jnp.asarray, primals))  # constants come as they are
            value, pull_back = jax.vjp(reverse, *primals)
            value = known(jax.lax.stop_gradient(value), *primals)
            moving = [not isinstance(tangent, SymbolicZero) for tangent in tangents]
            if not any(moving):
                return value, jnp.zeros_like(value)
            gradients = pull_back(jnp.ones_like(value))
            products = [
                _inner_product(gradient, tangent, static.get("axis"), value)
                for gradient, tangent, moves in zip(
                    gradients, tangents, moving, strict=True
                )
                if moves
            ]
            return value, sum(products[1:], start=products[0])

        both.defjvp(jvp, symbolic_zeros=True)
        known.defjvp(lambda x, dx: jvp(x[1:], dx[1:]), symbolic_zeros=True)
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

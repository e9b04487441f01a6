"""Losses of your own, from the value and the gradient of one example."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.devices import broadcast_batch
from jaxloss._core.rule.analytic import pointwise


def make_loss(
    rule: Callable[..., Any], signature: str | None = None
) -> Callable[..., jax.Array]:
    r"""A loss of your own, from the value and the gradient of one example.

    Choose it where you can write the gradient of a loss better than JAX derives it:
    more stable, or with less memory. A loss whose plain derivative is good needs none
    of it.

    With $f$ the value and $g_k$ the gradients that `rule` returns for one example:

    $$ \ell = f(x_1, x_2, \dots), \qquad
    \frac{\partial \ell}{\partial x_k} = g_k(x_1, x_2, \dots) $$

    Args:
        rule: Takes the arguments of one example, real ones in float32 or wider, and
            returns `(loss, (gradient, ...))`: a scalar and a tuple with one gradient
            per argument, of the argument's shape, or None for an integer argument. It
            is mapped over the examples by `jax.vmap`.
        signature: The axes of one example, in the notation of `jnp.vectorize`:
            `"(c),()->()"` is a vector and a scalar, and arguments that share a letter
            share that size. None takes all arguments for scalars.

    Returns:
        The function `loss(*arguments, where=None, weights=None, reduction="none")`. The
        first argument's axes in front of those in the signature are the batch `[...]`,
        and all other arguments broadcast to it. A shared hyperparameter is an argument
        like any other.

    Gradient:
        The one that `rule` returns, in forward and reverse mode. Higher orders
        differentiate the code of that gradient.

    Numerics:
        XLA computes the gradient only where it is asked for. Masked examples reach
        `rule` as values of 0.5, integers as 0.

    Raises:
        TypeError: If `rule` is not callable, or does not return what is said above; the
            result raises this at its first call.
        ValueError: If `signature` cannot be read, or an argument does not fit it.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import jaxloss as jl
        >>> def logistic(score, target):  # one score, one target of 1 or -1
        ...     margin = target * score
        ...     slope = -jax.nn.sigmoid(-margin)
        ...     return jax.nn.softplus(-margin), (slope * target, slope * score)
        >>> loss = jl.make_loss(logistic)
        >>> scores, targets = jnp.array([0.0, 3.0]), jnp.array([1.0, -1.0])
        >>> print(loss(scores, targets))
        [0.6931472 3.0485873]
        >>> print(jax.grad(loss)(scores, targets, reduction="sum"))
        [-0.5         0.95257413]
        >>> print(jax.jvp(lambda s: loss(s, targets), (scores,), (jnp.ones(2),))[1])
        [-0.5         0.95257413]

    References:
        JAX, "Custom derivative rules",
        https://docs.jax.dev/en/latest/notebooks/Custom_derivative_rules_for_Python_code.html
    """
    if not callable(rule):
        raise TypeError(f"`rule` must be callable, got {rule!r}.")
    axes = None if signature is None else _parse(signature)

    # Outside `jit` the loss is compiled once for each set of shapes.
    @functools.partial(jax.jit, static_argnames="reduction", inline=True)
    def compiled(arguments, where, weights, reduction):
        arrays, batch, dtype = _over_batch(arguments, axes or [()] * len(arguments))
        _check_rule(rule, arrays, len(batch))
        tail = checks.tail(where, weights, reduction, shape=batch, dtype=dtype)
        tail = tail.spread(batch)
        safe = [_select(tail, x, tuple(range(len(batch), x.ndim))) for x in arrays]
        mapped = rule
        for _ in batch:
            mapped = jax.vmap(mapped)
        return tail.reduce(pointwise(mapped)(*safe))

    def loss(
        *arguments: Any, where: Any = None, weights: Any = None, reduction: Any = "none"
    ) -> jax.Array:
        if axes is not None and len(arguments) != len(axes):
            raise TypeError(
                f"`arguments` must be {len(axes)} arrays as in {signature!r}, "
                f"got {len(arguments)}."
            )
        if not arguments:
            raise TypeError("`arguments` must have at least one array, got none.")
        first, *others = (
            checks.to_array(f"arguments[{i}]", x) for i, x in enumerate(arguments)
        )
        if not hasattr(arguments[0], "dtype"):  # a Python number or list is floating
            first = first.astype(jnp.result_type(float))
        if not jnp.issubdtype(first.dtype, jnp.floating):
            raise TypeError(
                f"`arguments[0]` must be floating, got {first.dtype}; convert it with "
                "`.astype(jnp.float32)`."
            )
        arguments = (first, *others)
        where = None if where is None else checks.to_mask("where", where)
        weights = None if weights is None else checks.to_array("weights", weights)
        return compiled(arguments, where, weights, reduction)

    name = getattr(rule, "__name__", "rule")
    loss.__name__ = loss.__qualname__ = name
    loss.__doc__ = f"The loss that `jaxloss.make_loss` made of `{name}`."
    return loss


def _parse(signature: str) -> list[tuple[str, ...]]:
    """The axes of each argument: "(c),()->()" is [("c",), ()]."""
    text = re.sub(r"\s", "", signature) if isinstance(signature, str) else ""
    one = r"\((?:[A-Za-z_]\w*(?:,[A-Za-z_]\w*)*)?\)"
    if not re.fullmatch(rf"{one}(?:,{one})*->\(\)", text):
        raise ValueError(
            "`signature` must be like '(c),()->()', with a scalar as its result, "
            f"got {signature!r}."
        )
    groups = re.findall(r"\(([^)]*)\)", text.removesuffix("->()"))
    return [tuple(group.split(",")) if group else () for group in groups]


def _over_batch(arguments, axes):
    """The arguments over the batch, real ones in one dtype; the batch; the dtype."""
    first, own = arguments[0], axes[0]
    if first.ndim < len(own):
        raise ValueError(
            f"`arguments[0]` must have the axes {own} of the signature, "
            f"got shape {first.shape}."
        )
    batch = first.shape[: first.ndim - len(own)]
    dtype = checks.compute_dtype(*arguments)
    sizes: dict[str, int] = {}
    arrays = []
    for i, (x, own) in enumerate(zip(arguments, axes, strict=True)):
        name, outer = f"arguments[{i}]", x.ndim - len(own)
        core = x.shape[max(outer, 0) :]
        for axis, size in zip(own, core, strict=False):
            sizes.setdefault(axis, size)
        expected = tuple(sizes.get(axis) for axis in own)
        if core != expected:
            raise ValueError(
                f"`{name}` must end with the axes {own} of the signature, of sizes "
                f"{expected}, got shape {x.shape}."
            )
        checks.check_broadcast(name, x.shape[:outer], "arguments[0]'s batch", batch)
        if jnp.issubdtype(x.dtype, jnp.floating):
            x = x.astype(dtype)
        arrays.append(broadcast_batch(x, first, len(batch), core))
    return arrays, batch, dtype


def _select(tail, x, axes):
    """An argument without what is excluded: 0.5 or the integer 0 in its place."""
    if jnp.issubdtype(x.dtype, jnp.floating):
        return tail.select(x, axes=axes)[0]
    if tail.keep is None:
        return x
    return jnp.where(jnp.expand_dims(tail.keep, axes), x, jnp.zeros_like(x))


def _check_rule(rule, arrays, batch):
    """Raises unless the rule returns a scalar and one gradient per argument."""
    name = getattr(rule, "__name__", repr(rule))
    ones = [jax.ShapeDtypeStruct(x.shape[batch:], x.dtype) for x in arrays]
    result = jax.eval_shape(rule, *ones)
    if not (isinstance(result, tuple) and len(result) == 2):
        raise TypeError(
            f"`rule` {name} must return (loss, (gradient, ...)), got {result!r}."
        )
    loss, gradients = result
    shape = getattr(loss, "shape", None)
    if shape != () or not jnp.issubdtype(loss.dtype, jnp.floating):
        raise ValueError(
            f"`rule` {name} must return a floating scalar as the loss of one example, "
            f"got {loss!r}."
        )
    if not isinstance(gradients, tuple) or len(gradients) != len(ones):
        raise TypeError(
            f"`rule` {name} must return a tuple of {len(ones)} gradients, one per "
            f"argument, got {gradients!r}."
        )
    for i, (gradient, one) in enumerate(zip(gradients, ones, strict=True)):
        real = jnp.issubdtype(one.dtype, jnp.floating)
        if real and getattr(gradient, "shape", None) != one.shape:
            raise ValueError(
                f"`rule` {name} must return a gradient of shape {one.shape} for "
                f"argument {i}, got {gradient!r}."
            )
        if not real and gradient is not None:
            raise TypeError(
                f"`rule` {name} must return None as the gradient of the integer "
                f"argument {i}, got {gradient!r}."
            )

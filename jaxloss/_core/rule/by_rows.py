"""A loss of rows with the slopes that reverse mode finds, made beside the value.

For a long formula on a class axis, whose parts XLA for CPU would store as a whole:
`in_pieces` computes value and slopes a few rows at a time.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxloss._core.compilers.pieces import in_pieces
from jaxloss._core.rule.analytic import pointwise


def by_rows(
    function: Callable[[Any], jax.Array], inputs: Any, axis_name: str | None
) -> jax.Array:
    """function(inputs), [...].

    Args:
        function: Each number of its result depends on its own row of the inputs alone.
        inputs: A tree of arrays [..., C], [..., K] and [...], the logits first.
        axis_name: The mesh axis over which the class axis is split.
    """
    leaves, tree = jax.tree.flatten(inputs)
    real = [jnp.issubdtype(x.dtype, jnp.floating) for x in leaves]

    def merged(moving, leaves):
        moving = iter(moving)
        return jax.tree.unflatten(
            tree, [next(moving) if r else x for r, x in zip(real, leaves, strict=True)]
        )

    def value_and_slopes(*leaves):
        moving = [x for r, x in zip(real, leaves, strict=True) if r]
        value, pull_back = jax.vjp(
            lambda moving: function(merged(moving, leaves)), moving
        )
        return value, pull_back(jnp.ones_like(value))[0]

    @pointwise
    def rule(*leaves, axis_name):
        value, slopes = in_pieces(value_and_slopes, *leaves, axis_name=axis_name)
        slopes = iter(slopes)
        return value, tuple(next(slopes) if r else None for r in real)

    return rule(*leaves, axis_name=axis_name)

"""One compiled program per case, whose results many tests read.

Most rules of the catalogue only differ in the numbers that they put in. They share the
program of `measured`, which is compiled once per case and process.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from catalog import Case
from common import cotangent, take, tangents

EVERYONE = np.ones(6, bool)


def transposed(linear: Any, point: Any, ct: Any) -> Any:
    """What a linear function pulls back from a cotangent."""
    return jax.linear_transpose(linear, point)(ct)[0]


def reductions(case: Case) -> tuple[str, ...]:
    return ("none", "sum", "mean") if case.tail else ("none",)


def measured(
    case: Case,
    real: Mapping[str, Any],
    rest: Mapping[str, Any],
    where: Any = EVERYONE,
    ct: Any = None,
) -> dict[str, dict[str, Any]]:
    """Value, gradient and tangent of the losses, their sum and their mean, in NumPy.

    Args:
        case: The case.
        real: Its real arguments, `weights` among them.
        rest: Its integer arguments.
        where: The mask.
        ct: The cotangent of the losses. The tangent is along `tangents(real)`.
    """
    ct = cotangent(case) if ct is None else ct
    found = _measured(case)(real, rest, where, ct, tangents(real))
    return jax.tree.map(np.asarray, found)


@functools.cache
def _measured(case: Case) -> Any:
    @jax.jit
    def run(real, rest, where, ct, direction):
        found = {}
        for reduction in reductions(case):
            tail = {"where": where, "reduction": reduction} if case.tail else {}

            def loss(real, tail=tail):
                return case({**real, **rest}, **tail)

            value, linear = jax.linearize(loss, real)
            down = ct if reduction == "none" else jnp.float32(0.7)
            found[reduction] = {
                "value": value,
                "gradient": transposed(linear, real, down.astype(value.dtype)),
                "tangent": linear(direction),
            }
        return found

    return run


def derivatives(
    case: Case,
    real: Mapping[str, Any],
    rest: Mapping[str, Any],
    ct: Any,
    direction: Any,
) -> dict[str, Any]:
    """All derivatives up to the second order, in NumPy.

    The second derivatives are those of <cotangent, losses>, along the direction.
    """
    found = _derivatives(case)(real, rest, ct, direction)
    return jax.tree.map(np.asarray, found)


@functools.cache
def _derivatives(case: Case) -> Any:

    @jax.jit
    def run(real, rest, ct, direction):
        def loss(real):
            return case({**real, **rest})

        def gradient(real):
            value, linear = jax.linearize(loss, real)
            return transposed(linear, real, ct), value

        def tangent(real):
            return jax.jvp(loss, (real,), (direction,))[1]

        slope, of_gradient, value = jax.linearize(gradient, real, has_aux=True)
        turn, of_tangent = jax.linearize(tangent, real)
        return {
            "value": value,
            "gradient": slope,
            "tangent": turn,
            "forward over reverse": of_gradient(direction),
            "reverse over reverse": transposed(of_gradient, real, direction),
            "forward over forward": of_tangent(direction),
            "reverse over forward": transposed(of_tangent, real, ct),
        }

    return run


def folded(case: Case, arrays: Mapping[str, Any], index: np.ndarray) -> Any:
    """The losses of examples in any shape, and of the last one without a batch axis.

    Args:
        case: The case.
        arrays: Its arguments, `weights` among them.
        index: Which example stands where.
    """
    moved, last = take(case, arrays, index), take(case, arrays, -1)
    return jax.tree.map(np.asarray, _folded(case)(moved, last))


@functools.cache
def _folded(case: Case) -> Any:
    @jax.jit
    def run(moved, last):
        tail = {"reduction": "none"} if case.tail else {}
        return case(moved, **tail), case(last, **tail)

    return run

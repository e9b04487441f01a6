"""A linear function whose transpose is told to JAX, not derived.

JAX would derive the transpose of a sweep through chunks as a loop that keeps every
chunk. `jax.custom_derivatives.linear_call` tells it the transpose, but in JAX 0.10 to
0.12 it cannot be mapped by `vmap`, nor differentiated by the arrays it closes over. Let
the primitive here go when it can.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def linear_map(
    push: Callable[..., Any],
    pull: Callable[..., Any],
    constants: Any,
    x: Any,
    *,
    takes_none: bool = False,
) -> Any:
    """push(constants, x), linear in x, whose transpose is pull(constants, ·).

    Args:
        push: The function; closes over no traced array.
        pull: Takes what `push` returns, and returns what has the structure and types
            of `x`.
        constants: A tree of arrays.
        x: A tree of real arrays.
        takes_none: Whether `pull` takes None for a cotangent that JAX knows to be zero.
            Otherwise it gets zeros.
    """
    known, known_tree = jax.tree.flatten(constants)
    moving, moving_tree = jax.tree.flatten(x)
    result_tree = jax.tree.structure(jax.eval_shape(push, constants, x))
    between = functools.partial(_flat, len(known), known_tree)
    result = _linear_map_p.bind(
        *known,
        *moving,
        push=between(push, moving_tree),
        pull=between(pull, result_tree),
        constants=len(known),
        takes_none=takes_none,
    )
    return jax.tree.unflatten(result_tree, result)


def _flat(count, known_tree, function, tree):
    """The function of flat arrays, the constants first."""

    def flat(*arrays):
        known = jax.tree.unflatten(known_tree, arrays[:count])
        x = jax.tree.unflatten(tree, arrays[count:])
        return jax.tree.leaves(function(known, x))

    return flat


_linear_map_p = Primitive("linear_map")
_linear_map_p.multiple_results = True


def _run(*arrays, push, **_):
    return push(*arrays)


def _abstract(*avals, push, **_):
    return jax.make_jaxpr(push)(*avals).out_avals


def _jvp(primals, tangents, *, push, constants, **others):
    rule = {"push": push, "constants": constants, **others}
    value = _linear_map_p.bind(*primals, **rule)
    known, x = primals[:constants], primals[constants:]
    parts = []
    if not all(isinstance(t, ad.Zero) for t in tangents[constants:]):
        along = [ad.instantiate_zeros(t) for t in tangents[constants:]]
        parts.append(_linear_map_p.bind(*known, *along, **rule))
    moved = {
        i: t for i, t in enumerate(tangents[:constants]) if not isinstance(t, ad.Zero)
    }
    if moved:

        def of_moved(some):
            return push(*(some.get(i, c) for i, c in enumerate(known)), *x)

        parts.append(jax.jvp(of_moved, ({i: known[i] for i in moved},), (moved,))[1])
    return value, [
        functools.reduce(jax.numpy.add, terms) for terms in zip(*parts, strict=True)
    ]


def _transpose(cotangents, *arrays, push, pull, constants, takes_none):
    known, x = arrays[:constants], arrays[constants:]
    given = range(len(cotangents))
    if takes_none:
        given = [i for i in given if not isinstance(cotangents[i], ad.Zero)]
    result = _linear_map_p.bind(
        *known,
        *(ad.instantiate_zeros(cotangents[i]) for i in given),
        push=_of_some(pull, constants, given, len(cotangents)),
        pull=_some_of(push, given),
        constants=constants,
        takes_none=False,
    )
    # A tangent that is known is one of zeros.
    of_x = [
        r if ad.is_undefined_primal(a) else None for a, r in zip(x, result, strict=True)
    ]
    return [None] * constants + of_x


def _of_some(function, constants, given, count):
    """The function of the given arrays alone, with None for the others."""

    def of_some(*arrays):
        some = dict(zip(given, arrays[constants:], strict=True))
        return function(*arrays[:constants], *map(some.get, range(count)))

    return of_some


def _some_of(function, given):
    """The given results of the function alone."""

    def some_of(*arrays):
        every = function(*arrays)
        return [every[i] for i in given]

    return some_of


def _batch(arrays, axes, *, push, pull, constants, takes_none):
    size = next(x.shape[a] for x, a in zip(arrays, axes, strict=True) if a is not None)
    known, x = arrays[:constants], arrays[constants:]
    own = tuple(axes[:constants])
    x = [
        batching.bdim_at_front(part, a, size)
        for part, a in zip(x, axes[constants:], strict=True)
    ]

    def mapped(function):
        def each(*arrays):
            in_axes = own + (0,) * (len(arrays) - constants)
            return jax.vmap(function, in_axes, axis_size=size)(*arrays)

        return each

    result = _linear_map_p.bind(
        *known,
        *x,
        push=mapped(push),
        pull=mapped(pull),
        constants=constants,
        takes_none=takes_none,
    )
    return result, [0] * len(result)


_linear_map_p.def_impl(_run)
_linear_map_p.def_abstract_eval(_abstract)
ad.primitive_jvps[_linear_map_p] = _jvp
ad.primitive_transposes[_linear_map_p] = _transpose
batching.primitive_batchers[_linear_map_p] = _batch
mlir.register_lowering(_linear_map_p, mlir.lower_fun(_run, multiple_results=True))

"""Every transformation of JAX gives the value and the gradient of the plain loss."""

import functools
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.extend as jex
import jax.numpy as jnp
import numpy as np
import pytest
from catalog import CASES
from common import (
    assert_close,
    cotangent,
    each_case,
    one_per_loss,
    take,
    tangents,
    weighted,
)
from programs import folded, measured
from tier import EXHAUSTIVE, choose

pytestmark = [pytest.mark.usefixtures("device"), pytest.mark.any_program]


def value_and_gradient(loss, real, ct):
    """The losses, and the cotangent `ct` pulled back to the real arguments."""
    value, pull_back = jax.vjp(loss, real)
    return value, pull_back(ct)[0]


def per_example(case, real, rest):
    """The same for one example: what `vmap`, a loop and `scan` run over."""
    batched = {n: n in case.inputs or n == "weights" for n in {**real, **rest}}
    axes = [{n: 0 if batched[n] else None for n in part} for part in (real, rest)]

    def single(real, rest, ct):
        return value_and_gradient(lambda real: case({**real, **rest}), real, ct)

    def gather(result):
        """Shared arguments have the sum of the examples' gradients."""
        value, gradients = result
        total = {n: g if batched[n] else g.sum(0) for n, g in gradients.items()}
        return value, total

    return single, axes, gather


@each_case(once=True)
def test_transformed_equals_plain(case):
    real, rest = weighted(case)
    ct = cotangent(case)
    direction = tangents(real)

    @jax.jit
    def transformed(real, rest, ct, direction):
        def loss(real):
            return case({**real, **rest})

        results = {"checkpoint": value_and_gradient(jax.checkpoint(loss), real, ct)}
        if case.independent:
            single, axes, gather = per_example(case, real, rest)
            mapped = jax.vmap(single, in_axes=(*axes, 0))
            results["vmap"] = gather(mapped(real, rest, ct))

            def step(_, i):
                pick = functools.partial(take, case, index=i)
                return None, single(pick(real), pick(rest), ct[i])

            results["scan"] = gather(jax.lax.scan(step, None, jnp.arange(6))[1])
        return results, jax.jvp(loss, (real,), (direction,))[1]

    plain = value_and_gradient(lambda real: case({**real, **rest}), real, ct)
    results, tangent = transformed(real, rest, ct, direction)
    linearized = measured(case, real, rest)["none"]
    # What a training step hands to the next one is traced as what it was given.
    for value, gradient in (*results.values(), plain):
        assert jax.typeof(value) == jax.typeof(ct)
        assert jax.tree.map(jax.typeof, gradient) == jax.tree.map(jax.typeof, real)
    results["linearize"] = linearized["value"], linearized["gradient"]
    for name, result in results.items():
        assert_close({name: result}, {name: plain})
    assert_close(linearized["tangent"], tangent)


@each_case(lambda case: case.independent, once=True)
def test_batch_axes_are_free(case):
    real, rest = weighted(case)
    expected = measured(case, real, rest)["none"]["value"]
    losses, last = folded(case, {**real, **rest}, np.arange(6).reshape(2, 3))
    assert_close(losses.reshape(expected.shape), expected)
    assert_close(last, expected[-1])


@pytest.mark.parametrize("threads", choose((2,), (4,)))
def test_threads_trace_alike(threads):
    cases = choose(one_per_loss(CASES)[::4], CASES)

    def traced(order):
        return {case.id: trace(case) for case in order}

    def trace(case):
        real, rest = weighted(case)
        return jax.make_jaxpr(
            lambda real, rest, ct: value_and_gradient(
                lambda real: case({**real, **rest}), real, ct
            )
        )(real, rest, cotangent(case))

    def programs(traced):
        return {name: list(equations(x.jaxpr)) for name, x in traced.items()}

    jax.clear_caches()
    orders = [cases, cases[::-1], cases[1::2] + cases[::2], cases[::2] + cases[1::2]]
    with ThreadPoolExecutor(threads) as pool:
        first, *others = map(programs, pool.map(traced, orders[:threads]))
    for other in others:
        assert other == first
    if EXHAUSTIVE:
        jax.clear_caches()
        assert programs(traced(cases)) == first


def equations(jaxpr):
    """Each operation of a program, those of its inner programs in their place.

    A jaxpr's text would not do: which inner programs it writes once and calls by name
    depends on what JAX had in its caches.
    """
    for eqn in jaxpr.eqns:
        shapes = [str(v.aval) for v in (*eqn.invars, *eqn.outvars)]
        yield eqn.primitive.name, *shapes
        for inner in jax.tree.leaves(eqn.params, is_leaf=is_jaxpr):
            if is_jaxpr(inner):
                yield from equations(getattr(inner, "jaxpr", inner))


def is_jaxpr(x):
    return isinstance(x, jex.core.Jaxpr | jex.core.ClosedJaxpr)

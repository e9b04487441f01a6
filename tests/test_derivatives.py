"""Derivatives in every real argument against differences, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import cotangent, each_case, tangents, weighted
from programs import derivatives

pytestmark = [pytest.mark.usefixtures("device", "x64"), pytest.mark.any_program]

STEP = 1e-5


def close(actual, expected, rtol=1e-6, atol=1e-6):
    for name in actual:
        np.testing.assert_allclose(
            actual[name], expected[name], rtol=rtol, atol=atol, err_msg=name
        )


@each_case(once=True)
def test_derivatives_agree_with_differences(case):
    real, rest = weighted(case, jnp.float64)
    ct, line = cotangent(case, jnp.float64), tangents(real)

    def at(t):
        moved = {name: x + t * line[name] for name, x in real.items()}
        return derivatives(case, moved, rest, ct, line)

    here, ahead, behind = at(0.0), at(STEP), at(-STEP)

    def difference(name):
        return jax.tree.map(
            lambda x, y: (x - y) / (2 * STEP), ahead[name], behind[name]
        )

    slope = difference("value")
    pulled = sum(np.vdot(here["gradient"][n], line[n]) for n in real)
    close(
        {"tangent": here["tangent"], "gradient": pulled},
        {"tangent": slope, "gradient": np.vdot(ct, slope)},
    )
    bend = difference("gradient")
    for nesting in (
        "forward over reverse",
        "reverse over reverse",
        "reverse over forward",
    ):
        close(here[nesting], bend)
    turn = difference("tangent")
    np.testing.assert_allclose(here["forward over forward"], turn, rtol=1e-6, atol=1e-6)


@pytest.mark.exhaustive
@each_case()
def test_third_derivatives_agree_with_differences(case):
    real, rest = weighted(case, jnp.float64)
    ct = cotangent(case, jnp.float64)
    line = tangents(real)

    def moved(t):
        return {name: x + t * line[name] for name, x in real.items()}

    def bend(t):
        """The second derivative along the line, reverse in forward mode."""
        slope = jax.grad(lambda t: jnp.vdot(ct, case({**moved(t), **rest})))
        return jax.jvp(slope, (t,), (1.0,))[1]

    @jax.jit
    def run(t):
        value, third = jax.jvp(bend, (t,), (1.0,))
        return value, third, jax.grad(bend)(t)

    value, third, in_reverse = run(0.0)
    difference = (run(STEP)[0] - run(-STEP)[0]) / (2 * STEP)
    np.testing.assert_allclose(third, in_reverse, rtol=1e-10, atol=1e-10)
    # Differences of terms that cancel are as wrong as the terms are large.
    np.testing.assert_allclose(
        third, difference, rtol=1e-6, atol=1e-6 * (1 + abs(value))
    )

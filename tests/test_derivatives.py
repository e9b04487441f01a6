"""Derivatives in every real argument against finite differences, in float64.

Nothing is compiled here: the operations of one case have been compiled for another,
where the second derivative of each loss as a program of its own takes seconds. And the
third order stands behind the second, whose operations it has in common.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import cotangent, each_case, tangents, weighted
from jax.test_util import check_grads

pytestmark = pytest.mark.usefixtures("device", "x64")

STEP = 1e-5


@each_case()
def test_derivatives_agree_with_differences(case):
    real, rest = weighted(case, jnp.float64)
    # Of order 2, in all four nestings of forward and reverse mode.
    check_grads(
        lambda real: case({**real, **rest}),
        (real,),
        order=2,
        modes=("fwd", "rev"),
        atol=1e-6,
        rtol=1e-6,
        eps=STEP,
    )
    check_third_order(case, real, rest)


def check_third_order(case, real, rest):
    ct = cotangent(case, jnp.float64)
    line = tangents(real)

    def moved(t):
        return {name: x + t * line[name] for name, x in real.items()}

    def bend(t):
        """The second derivative along the line, reverse in forward mode."""
        slope = jax.grad(lambda t: jnp.vdot(ct, case({**moved(t), **rest})))
        return jax.jvp(slope, (t,), (1.0,))[1]

    value, third = jax.jvp(bend, (0.0,), (1.0,))
    difference = (bend(STEP) - bend(-STEP)) / (2 * STEP)
    np.testing.assert_allclose(third, jax.grad(bend)(0.0), rtol=1e-10, atol=1e-10)
    # Differences of terms that cancel are as wrong as the terms are large.
    np.testing.assert_allclose(
        third, difference, rtol=1e-6, atol=1e-6 * (1 + abs(value))
    )

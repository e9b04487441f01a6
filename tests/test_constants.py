"""The exact pieces stay exact where an operand is a constant of the program.

XLA adds constants up before it adds a variable, which undoes what a rounding error is
made of.
"""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss._core.numerics import exact

RNG = np.random.default_rng(0)
VARIABLE = np.float32(RNG.normal(size=200) * 10.0 ** RNG.integers(-15, 15, 200))
CONSTANTS = [0.1, 3.0, 1.0, 1e10, -0.7]


def truth(*terms):
    return [
        sum(map(Fraction, map(float, numbers))) for numbers in zip(*terms, strict=True)
    ]


@pytest.mark.parametrize("constant", CONSTANTS)
@pytest.mark.parametrize("place", ["first", "second", "both"])
def test_two_difference_of_constants_is_exact(constant, place):
    full = np.full_like(VARIABLE, constant)
    a, b = (full, VARIABLE) if place == "first" else (VARIABLE, full)
    programs = {
        "first": lambda x: exact.two_difference(jnp.asarray(a), x),
        "second": lambda x: exact.two_difference(x, jnp.asarray(b)),
        "both": lambda x: exact.two_difference(jnp.asarray(a), jnp.asarray(b)),
    }
    difference, lost = jax.jit(programs[place])(VARIABLE)
    assert truth(difference, lost) == truth(a, -b)


def test_distance_beyond_a_variable_of_constants():
    """|a - b| - c, whose digits are those of c where |a - b| is near c."""
    a, b = VARIABLE, np.full_like(VARIABLE, 0.1)
    c = np.abs(a - b) * np.float32(1 + 2.0**-20)

    def beyond(c):
        return exact.distance_beyond(jnp.asarray(a), jnp.asarray(b), c)

    found = np.asarray(jax.jit(beyond)(c))
    expected = [
        float(abs(x) - Fraction(float(y))) for x, y in zip(truth(a, -b), c, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=2e-7)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_a_scaled_constant_can_be_squared(scale):
    x = VARIABLE[:8] * np.float32(scale / np.abs(VARIABLE[:8]).max())

    def norm():
        largest = exact.scale_of(jnp.max(jnp.abs(jnp.asarray(x))))
        inverse = jnp.broadcast_to(1 / largest, x.shape)
        ratio = exact.squarable(jnp.asarray(x), inverse)
        return jnp.sum(ratio * ratio)

    expected = np.sum((x.astype(float) / np.abs(x.astype(float)).max()) ** 2)
    np.testing.assert_allclose(jax.jit(norm)(), expected, rtol=1e-6)

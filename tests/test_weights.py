"""A weight of 0 drops its example, whatever that holds (rule 3)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import assert_close, each_case, weighted
from programs import measured

pytestmark = [pytest.mark.usefixtures("device"), pytest.mark.any_program]

DROPPED = 1
# Values at which some loss, or its slope, is infinite or NaN, and labels of no class.
REAL_GARBAGE = (0.0, 1.0, 200.0, -200.0, 1e30, np.inf, -np.inf, np.nan)
INTEGER_GARBAGE = (-1, -100, 10**6)


def with_dropped(x, value):
    """The array with another value in the example that the weights drop."""
    changed = np.array(x)
    changed[DROPPED] = value
    return changed


@each_case(lambda case: case.tail and case.independent)
def test_weight_of_zero_drops_whatever_the_example_holds(case):
    real, rest = weighted(case)
    real["weights"] = with_dropped(real["weights"], 0)
    clean = measured(case, real, rest)
    for name in case.inputs:
        part, garbage = (
            (real, REAL_GARBAGE) if name in real else (rest, INTEGER_GARBAGE)
        )
        for value in garbage:
            spoiled = {**part, name: with_dropped(part[name], value)}
            arguments = (spoiled, rest) if name in real else (real, spoiled)
            found = measured(case, *arguments)
            for reduction, result in found.items():
                where = f"{name} = {value}, {reduction}"
                gradient = result["gradient"]
                own = gradient.pop("weights")
                assert np.isfinite(own).all(), where
                for argument in case.inputs.keys() & gradient.keys():
                    assert not np.any(gradient[argument][DROPPED]), (argument, where)
                # The tangent along the weight itself is the loss, and may be anything.
                expected = clean[reduction]
                expected["gradient"].pop("weights", None)
                for part_name in ("value", "gradient"):
                    assert_close(
                        {where: result[part_name]}, {where: expected[part_name]}
                    )
                tangent = result["tangent"]
                assert np.isfinite(tangent).all(), where
                if reduction == "none":
                    others = np.arange(6) != DROPPED
                    assert_close(tangent[others], expected["tangent"][others])


@each_case(lambda case: case.tail and case.independent, once=True)
def test_a_weight_that_starts_at_zero_can_be_trained(case):
    """The derivatives by weight, and by weight and input, are those of the loss."""
    real, rest = weighted(case)
    inputs = {n: real.pop(n) for n in case.inputs if n in real}
    shared = {n: x for n, x in real.items() if n != "weights"}

    @jax.jit
    def program(inputs, weights, line):
        def loss(inputs, weights):
            arrays = {**inputs, **shared, **rest, "weights": weights}
            return case(arrays, reduction="none")

        def slope(weights):
            value, pull_back = jax.vjp(lambda inputs: loss(inputs, weights), inputs)
            return value, pull_back(jnp.ones_like(value))[0]

        return jax.jvp(slope, (weights,), (line,))[1], slope(line)

    line = np.float32([0.55, 1.7, 0.3, 2.2, 0.85, 1.3])
    tangent, expected = program(inputs, np.zeros_like(line), line)
    assert_close(tangent, expected)

"""Rules 3, 5 and 8 at shapes, masks and special values that hypothesis draws."""

import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import each_case, has_tail, take, weighted
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from programs import folded, measured
from tier import EXHAUSTIVE, choose

pytestmark = [pytest.mark.usefixtures("device"), pytest.mark.any_program]

# The same draws on every machine; a compilation is no reason to time out.
few = settings(
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # the arrays are small; to shrink them takes minutes
    suppress_health_check=list(HealthCheck),
)

# Zeros, subnormal, smallest, huge and infinite numbers, and NaN.
SPECIAL = [
    0.0,
    1e-40,
    1.2e-38,
    1e-30,
    1e-4,
    0.5,
    1.0,
    7.0,
    90.0,
    1e4,
    1e20,
    3e38,
    np.inf,
]
SPECIAL = [*SPECIAL, *(-x for x in SPECIAL), np.nan]
EXAMPLES = 6


def close(actual, expected, size=None):
    """Equal to the rounding of the larger terms; infinities and NaN in their places."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(finite, np.isfinite(actual))
    np.testing.assert_array_equal(actual[~finite], expected[~finite])
    terms = np.abs(expected[finite] if size is None else size).max(initial=1e-37)
    np.testing.assert_allclose(
        actual[finite], expected[finite], rtol=1e-5, atol=1e-6 * float(terms)
    )


@each_case(lambda case: case.independent, once=True)
@settings(few, max_examples=choose(2, 5))
@given(data=st.data())
def test_examples_may_stand_in_any_shape_and_order(case, data):
    # Every shape is a program of its own to compile.
    shapes = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
    shape = data.draw(choose(st.just((2, 3)), shapes))
    index = data.draw(arrays.arrays(int, shape, elements=st.integers(0, EXAMPLES - 1)))
    real, rest = weighted(case)
    plain = measured(case, real, rest)["none"]["value"]
    found, _ = folded(case, {**real, **rest}, index)
    assert found.shape == index.shape + plain.shape[1:]
    close(found, plain[index], plain)


def special(case, name):
    """Arrays of an input that are special in some places and ordinary in the others."""
    low, high = case.domain.get(name, (-np.inf, np.inf))
    allowed = [x for x in SPECIAL if not (x < low or x > high)]
    ordinary = np.float32(case.values[name])
    drawn = arrays.arrays(
        np.float32,
        ordinary.shape,
        elements=st.sampled_from(allowed),
        fill=st.just(0.75),
    )
    where = arrays.arrays(bool, ordinary.shape)
    return st.builds(np.where, where, drawn, st.just(ordinary))


def results(case, real, rest, keep, weights):
    """The losses, their reductions, and the gradient of the mean, in NumPy."""
    found = measured(case, {**real, "weights": weights}, rest, keep)
    values = {reduction: result["value"] for reduction, result in found.items()}
    gradient = dict(found["mean"]["gradient"])
    gradient.pop("weights")
    return jax.tree.map(np.asarray, {**values, "gradient": gradient})


@each_case(has_tail)
@settings(few, max_examples=choose(3, 20))
@given(data=st.data())
def test_rules_hold_at_special_values(case, data):
    given = case.arrays()
    inputs = [name for name in case.real if name in case.inputs]
    real = {name: np.asarray(given.pop(name)) for name in case.real}
    for name in inputs:
        real[name] = data.draw(special(case, name), name)
    keep = data.draw(arrays.arrays(bool, EXAMPLES), "where")
    weights = data.draw(
        arrays.arrays(
            np.float32, EXAMPLES, elements=st.sampled_from([0.0, 0.25, 1.5, 3.0])
        ),
        "weights",
    )
    with np.errstate(all="ignore"):
        found = results(case, real, given, keep, weights)
        check_reductions(case, {**real, **given}, found, keep, weights)
        ones = np.ones_like(weights)
        ones = np.where(weights == 0, 0, ones) if case.zero_excludes else ones
        plain = results(case, real, given, keep, ones)
        check_weights(plain, found, weights)

    # The losses of a call without `jit`, by a program of its own.
    if EXHAUSTIVE:
        eager = case(
            jax.tree.map(jnp.asarray, {**real, **given}),
            where=keep,
            weights=weights,
            reduction="none",
        )
        close(eager, found["none"])

    # Nothing comes from what is masked, whatever it holds.
    dropped = ~keep
    assert not np.any(found["none"][dropped])
    other = {
        name: np.where(dropped.reshape(-1, *(1,) * (x.ndim - 1)), np.nan, x)
        if name in inputs
        else x
        for name, x in real.items()
    }
    weights = np.where(keep, weights, np.nan).astype(np.float32)
    again = results(case, other, given, keep, weights)
    jax.tree.map(np.testing.assert_array_equal, again, found)
    for name in inputs:
        assert not np.any(found["gradient"][name][dropped]), name


def check_reductions(case, values, found, keep, weights):
    """ "sum" and "mean" are what their definition makes of "none"."""
    none = found["none"].astype(np.float64)
    kept = np.flatnonzero(keep)
    mass = case.counted(take(case, values, kept)) if kept.size else np.zeros(0)
    counted = np.sum((mass.T * weights.reshape(EXAMPLES)[kept]).T)
    close(found["sum"], np.float32(none.sum()), none[np.isfinite(none)])
    mean = none.sum() / counted if counted else 0.0
    close(found["mean"], np.float32(mean), none[np.isfinite(none)])


def check_weights(plain, found, weights):
    """The losses are linear in their weights; a weight of 0 takes infinities away."""
    expected = np.where(weights == 0, 0, np.asarray(plain["none"]) * weights)
    close(found["none"], expected)

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
RANGE = np.finfo(np.float32)


def close(actual, expected, size=()):
    """Equal to the rounding of the larger terms; infinities and NaN in their places.

    Args:
        actual: What was found.
        expected: What it should be. Numbers too small for all digits may be lost.
        size: Terms that it is a sum of, if they may be larger.
    """
    actual, expected, size = map(np.asarray, (actual, expected, size))
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(finite, np.isfinite(actual))
    np.testing.assert_array_equal(actual[~finite], expected[~finite])
    terms = max(np.abs(x).max(initial=0.0) for x in (expected[finite], size))
    np.testing.assert_allclose(
        actual[finite],
        expected[finite],
        rtol=1e-5,
        atol=max(1e-6 * float(terms), float(RANGE.smallest_normal)),
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
    close(found, plain[index], plain[np.isfinite(plain)])


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
        ones = np.ones_like(weights)
        ones = np.where(weights == 0, 0, ones) if case.zero_excludes else ones
        plain = results(case, real, given, keep, ones)
        none = weighed(plain["none"], weights)
        close(found["none"], none.astype(np.float32))
        counted = denominator(case, {**real, **given}, none, keep, weights)
        check_reductions(found, none, counted)
        size = terms(real, found["gradient"], counted)

    # The losses of a call without `jit`, by a program of its own.
    if EXHAUSTIVE:
        eager = case(
            jax.tree.map(jnp.asarray, {**real, **given}),
            where=keep,
            weights=weights,
            reduction="none",
        )
        # In another order, products of vectors that overflow are NaN in place of inf.
        kept = np.isfinite(found["none"]) | case.independent
        np.testing.assert_array_equal(np.isfinite(eager)[~kept], False)
        close(np.asarray(eager)[kept], found["none"][kept], size)

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


def weighed(plain, weights):
    """Losses times their weights; a weight of 0 takes infinities away."""
    return np.where(weights == 0, 0, plain.astype(np.float64) * weights)


def denominator(case, values, none, keep, weights):
    """What "mean" divides by."""
    kept = np.flatnonzero(keep)
    if case.mass is None:
        mass = np.ones(none[kept].shape)
    else:
        mass = case.counted(take(case, values, kept)) if kept.size else np.zeros(0)
    return np.sum((mass.T * weights.reshape(EXAMPLES)[kept]).T)


def check_reductions(found, none, counted):
    """ "sum" and "mean" are what their definition makes of the losses."""
    mean = none.sum() / counted if counted else 0.0
    finite = none[np.isfinite(none)]
    # Sums of such terms may overflow on their way, and one that does may have a mean.
    large = np.abs(finite).sum() > float(RANGE.max)
    for actual, expected in ((found["sum"], none.sum()), (found["mean"], mean)):
        at_edge = large if np.isfinite(expected) else np.abs(actual) > RANGE.max / 100
        if np.isfinite(actual) == np.isfinite(expected) or not at_edge:
            close(actual, expected, finite)


def terms(real, gradient, counted):
    """What the losses are sums of: how far a relative change of each input moves them.

    A difference of much larger terms has their rounding, as the cosine of vectors that
    are nearly orthogonal has.
    """
    moved = [np.abs(real[name] * slope).ravel() for name, slope in gradient.items()]
    moved = np.concatenate(moved) * float(counted)
    return moved[np.isfinite(moved)]

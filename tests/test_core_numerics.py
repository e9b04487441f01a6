"""Accuracy of the scalar pieces over the whole range, as their docstrings state it."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpmath import mp, mpf

from jaxloss._core.compilers import terms
from jaxloss._core.numerics import divergence, exact, functions

INF, NAN = np.inf, np.nan


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield np.dtype(request.param)


def points(dtype, *switches, low=None, high=None, signed=True, count=150):
    """Zero, magnitudes from end to end, and the switches with their neighbours."""
    info = np.finfo(dtype)
    low, high = low or float(info.tiny), high or float(info.max) * 0.99
    rng = np.random.default_rng(3)
    found = np.exp(rng.uniform(np.log(low), np.log(high), count)).clip(low, high)
    found = np.append(found, rng.uniform(0, min(high, 3), count))
    found = np.append(found, [0, low, high, *switches]).astype(dtype)
    near = np.array(switches, dtype)
    found = np.concatenate(
        [found, np.nextafter(near, dtype.type(0)), np.nextafter(near, dtype.type(INF))]
    )
    found = found[(found == 0) | (found >= info.tiny)]
    return np.concatenate([found, -found]) if signed else found


def pairs(dtype, *switches, **limits):
    """Every kind of pair: unrelated, nearly equal, equal, and opposite."""
    rng = np.random.default_rng(4)
    a = points(dtype, *switches, **limits)
    close = a * (1 + rng.integers(-3, 4, len(a)) * np.finfo(dtype).eps).astype(dtype)
    close = np.where(np.abs(close) < np.finfo(dtype).tiny, 0, close)
    b = np.concatenate([rng.permutation(a), close, a, -a])
    return np.tile(a, 4), b


def ulp(got, true, dtype, size=None):
    """Distance in units in the last place of `size`, `true` if not given."""
    info = np.finfo(dtype)
    largest = mpf(2) ** info.maxexp  # what an overflow counts as
    got, true = (min(max(mpf(x), -largest), largest) for x in (float(got), true))
    distance = abs(got - true)
    if mp.isnan(got) or mp.isnan(true):
        return mp.inf
    if distance <= 1.01 * float(info.tiny):  # flushed to zero
        return mpf(0)
    size = min(abs(true if size is None else size), largest / 2)
    exponent = max(mp.frexp(size)[1] - 1, info.minexp)
    return distance / mpf(2) ** (exponent - info.nmant)


def check(function, definition, columns, dtype, bound, size=None):
    """Holds a function to a bound, at every row of the columns."""
    got = np.asarray(jax.jit(function)(*map(jnp.asarray, columns)))
    assert got.dtype == dtype
    worst, where = mpf(-1), None
    # Enough for differences of the smallest and the largest number.
    with mp.workdps(700 if dtype == np.float64 else 120):
        for value, *row in zip(got, *columns, strict=True):
            exact = [mpf(float(x)) for x in row]
            unit = None if size is None else size(*exact)
            error = ulp(value, definition(*exact), dtype, unit)
            if not error <= worst:
                worst, where = error, (value, *row)
    assert worst <= bound, f"{float(worst):.2f} ulp, got {where[0]!r} at {where[1:]!r}"
    return float(worst)


def slope(function, argument=0):
    """The derivative at every entry."""
    return lambda *columns: jax.vmap(jax.grad(function, argument))(*columns)


def test_relu_and_magnitude(dtype):
    x = jnp.array([-INF, -2, -0.0, 0, 3, INF, NAN], dtype)
    relu, magnitude = functions.relu, functions.magnitude
    np.testing.assert_array_equal(relu(x), [0, 0, 0, 0, 3, INF, NAN])
    np.testing.assert_array_equal(slope(relu)(x)[:6], [0, 0, 0, 0, 1, 1])
    np.testing.assert_array_equal(magnitude(x), [INF, 2, 0, 0, 3, INF, NAN])
    np.testing.assert_array_equal(slope(magnitude)(x)[:6], [-1, -1, 1, 1, 1, 1])


def test_log_cosh_and_tanh(dtype):
    e = points(dtype, 0.75, 9, 19)

    def log_cosh(e):
        return mp.log1p(2 * mp.sinh(e / 2) ** 2) if abs(e) < 99 else abs(e) - mp.log(2)

    def tanh(e):
        return mp.tanh(e) if abs(e) < 99 else mp.sign(e)

    check(functions.log_of_cosh, log_cosh, [e], dtype, 3)
    check(functions.accurate_tanh, tanh, [e], dtype, 3)


def test_power_series(dtype):
    z = jnp.array([-2, 0, 0.5, 3], dtype)
    found = functions.power_series([1, -4, 0, 2], z)
    np.testing.assert_array_equal(found, 1 - 4 * z + 2 * z**3)
    np.testing.assert_array_equal(functions.power_series([7], z), [7] * 4)


def test_two_difference_is_exact(dtype):
    # What is lost has to be a normal number, and nothing overflows.
    info = np.finfo(dtype)
    a, b = pairs(dtype, low=float(info.tiny / info.eps), high=float(info.max / 4))
    found = map(np.asarray, jax.jit(exact.two_difference)(a, b))
    for difference, lost, x, y in zip(*found, a, b, strict=True):
        truth = Fraction(float(x)) - Fraction(float(y))
        assert difference == dtype.type(x) - dtype.type(y)
        small = abs(truth) < float(info.tiny)  # flushed
        assert small or Fraction(float(difference)) + Fraction(float(lost)) == truth


def test_two_difference_at_the_ends_and_its_derivatives(dtype):
    largest = np.finfo(dtype).max
    a = jnp.array([largest, -largest, INF, -INF, 1], dtype)
    b = jnp.array([-largest, largest, 1, INF, INF], dtype)
    difference, lost = exact.two_difference(a, b)
    np.testing.assert_array_equal(difference, [INF, -INF, INF, -INF, -INF])
    assert not np.any(lost)
    slopes = jax.jacobian(exact.two_difference, (0, 1))(a[4], a[4])
    assert slopes == ((1, -1), (0, 0))


def test_products_of_leading_parts_are_exact(dtype):
    info = np.finfo(dtype)
    x = points(dtype, low=1e-15, high=1e15)
    x = np.append(x, np.random.default_rng(5).permutation(x)[: len(x) % 2])
    found = np.asarray(jax.jit(exact.leading)(x))
    half = (info.nmant - 1) // 2
    assert np.all(np.abs(x - found) <= 2.0 ** -(half + 1) * np.abs(x))
    a, b = found.reshape(2, -1)
    for p, q, product in zip(a, b, a * b, strict=True):
        assert Fraction(float(p)) * Fraction(float(q)) == Fraction(float(product))
    ends = exact.leading(jnp.array([info.max, -info.max, INF], dtype))
    assert np.isfinite(ends).all()
    assert jax.grad(exact.leading)(jnp.ones((), dtype)) == 0


def test_remainder(dtype):
    a, b = pairs(dtype, low=1e-9, high=1e9, signed=False)
    a, b = a[b != 0], b[b != 0]
    ratio = a / b
    found = np.asarray(jax.jit(exact.remainder)(a, b, ratio))
    for rest, x, y, r in zip(found, a, b, ratio, strict=True):
        x, y, r = (Fraction(float(v)) for v in (x, y, r))
        assert Fraction(float(rest)) == x - y * r


def test_log1p(dtype):
    x = points(dtype, 1e-8, 1, signed=False)
    lost = (x * np.finfo(dtype).eps / 3).astype(dtype)
    for part in (0 * x, lost):
        check(
            lambda x, lost: exact.log1p_of_sum(x, lost)[0],
            lambda x, lost: mp.log1p(x + lost),
            [x, part],
            dtype,
            2,
        )
    # The two parts together.
    value, rest = map(np.asarray, jax.jit(exact.log1p_of_sum)(x, lost))
    assert np.all(np.abs(rest) <= np.spacing(value))


def test_direction(dtype):
    tiny = np.finfo(dtype).tiny
    a = jnp.array([1, 1.5 * tiny, tiny, 2, NAN, INF], dtype)
    b = jnp.array([2, tiny, 1.5 * tiny, 2, 0, -INF], dtype)
    np.testing.assert_array_equal(exact.direction(a, b), [-1, 1, -1, 0, NAN, 1])


@pytest.mark.parametrize("c", [0.0, 1.0, 0.1, 1e30, None])
def test_excess(dtype, c):
    a, b = pairs(dtype, 0.1, 1)
    c = np.finfo(dtype).max if c is None else dtype.type(c)
    check(
        lambda a, b: exact.distance_beyond(a, b, c),
        lambda a, b: abs(a - b) - mpf(float(c)),
        [a, b],
        dtype,
        1,
    )


def triples(dtype, **limits):
    a, b = pairs(dtype, **limits)
    c = np.random.default_rng(6).permutation(np.abs(a))
    return a, b, np.where(c == 0, 1, c).astype(dtype)


def test_times_difference(dtype):
    a, b, c = triples(dtype, low=float(np.finfo(dtype).tiny / np.finfo(dtype).eps))
    times = exact.times_difference
    check(times, lambda c, a, b: c * (a - b), [c, a, b], dtype, 2)


def test_difference_over(dtype):
    columns = triples(dtype)
    over = exact.difference_over
    check(over, lambda a, b, c: (a - b) / c, columns, dtype, 2)
    check(slope(over, 0), lambda a, b, c: 1 / c, columns, dtype, 1)
    check(slope(over, 1), lambda a, b, c: -1 / c, columns, dtype, 1)


def test_scaled_difference(dtype):
    a, b, c = triples(dtype)
    difference, divisor, k = map(np.asarray, jax.jit(exact.scaled_difference)(a, b, c))
    assert np.all(np.frexp(k)[0] == 0.5)  # powers of two
    assert np.isfinite(difference).all()
    np.testing.assert_array_equal(divisor, c * k)
    with mp.workdps(700):
        for d, x, y, by in zip(difference, a, b, k, strict=True):
            x, y, by = (mpf(float(v)) for v in (x, y, by))
            assert ulp(d, (x - y) * by, dtype) <= 1


def test_quotient(dtype):
    info = np.finfo(dtype)
    a, b = pairs(dtype, low=float(info.tiny**0.5), high=float(info.max**0.5))
    a, b = a[b != 0], b[b != 0]
    quotient = exact.quotient
    check(quotient, lambda a, b: a / b, [a, b], dtype, 1)
    check(slope(quotient, 0), lambda a, b: 1 / b, [a, b], dtype, 1)
    check(slope(quotient, 1), lambda a, b: -a / b**2, [a, b], dtype, 2)


def test_minus_product(dtype):
    a, b, c = triples(dtype)

    def larger(a, b, c):
        return max(abs(a), abs(b * c))

    minus = exact.minus_product
    check(minus, lambda a, b, c: a - b * c, [a, b, c], dtype, 2, larger)


def test_products_where_zero_meets_infinity(dtype):
    x = jnp.array([INF, -INF, 5, 0, INF, INF], dtype)
    c = jnp.array([0, 0, 0, 3, 2, -2], dtype)
    np.testing.assert_array_equal(
        exact.zero_safe_product(c, x), [0, 0, 0, 0, INF, -INF]
    )
    slopes = jax.vmap(jax.grad(exact.zero_safe_product, (0, 1)))(c, x)
    np.testing.assert_array_equal(slopes[0], [0, 0, 5, 0, INF, INF])
    np.testing.assert_array_equal(slopes[1], [0, 0, 0, 3, 2, -2])
    a, b = pairs(dtype)
    check(exact.zero_safe_product, lambda c, x: c * x, [a, b], dtype, 1)


def test_capped_product(dtype):
    x = jnp.array([INF, 5, INF, INF], dtype)
    c = jnp.array([0, 0, 2, -2], dtype)
    np.testing.assert_array_equal(terms.capped_product(c, x), [0, 0, INF, -INF])
    c, x = pairs(dtype)
    check(terms.capped_product, lambda c, x: c * x, [c, abs(x)], dtype, 1)


def test_softplus(dtype):
    x = points(dtype, 16.6, 17.3, 36.7, 87.3, 88.7, 103.9, 708.3)

    def softplus(x):
        return mp.log1p(mp.exp(x)) if x < 999 else x

    def sigmoid(x):
        return 1 / (1 + mp.exp(-x)) if x > -999 else mpf(0)

    check(functions.softplus, softplus, [x], dtype, 3)
    check(slope(functions.softplus), sigmoid, [x], dtype, 3)


def exp(x):
    return mp.exp(x) if abs(x) < 999 else mp.inf if x > 0 else mpf(0)


def test_expm1(dtype):
    x = points(dtype, 1e-8, 16.6, 17.3, 36.7, 87.3, 88.7, 103.9, 708.3)
    check(
        functions.accurate_expm1,
        lambda x: exp(x) - 1 if abs(x) > 99 else mp.expm1(x),
        [x],
        dtype,
        4,
    )
    check(slope(functions.accurate_expm1), exp, [x], dtype, 4)


def test_expm1_near_0(dtype):
    z = points(dtype, 1e-8, 0.5, high=0.99)
    check(divergence.expm1_near_0, mp.expm1, [z], dtype, 2)
    check(slope(divergence.expm1_near_0), mp.exp, [z], dtype, 2)


def test_expm1_ratio(dtype):
    y = points(dtype, 1, high=80.0)
    y = np.append(y, -points(dtype, low=80.0, signed=False))
    check(functions.expm1_ratio, expm1_ratio, [y], dtype, 4)
    check(functions.expm1_ratio_slope, expm1_ratio_slope, [y], dtype, 4)


def expm1_ratio(y):
    return (exp(y) - 1) / y if abs(y) > 1e-30 else mpf(1)


def expm1_ratio_slope(y):
    return (y * exp(y) - exp(y) + 1) / y**2 if abs(y) > 1e-20 else mpf(1) / 2


def test_log1p_unit(dtype):
    u = points(dtype, 0.5, high=1.0, signed=False)

    def value(u):
        return functions.log1p_unit(u, jnp.zeros_like(u))[0]

    check(value, mp.log1p, [u], dtype, 2)
    check(slope(value), lambda u: 1 / (1 + u), [u], dtype, 2)


def test_exp_minus_has_half_as_many_digits_more(dtype):
    a = points(dtype, 0.35, 1, high=60.0, signed=False)
    check(lambda a: functions.exp_minus(a)[0], lambda a: exp(-a), [a], dtype, 1)
    check(slope(lambda a: functions.exp_minus(a)[0]), lambda a: -exp(-a), [a], dtype, 1)
    u, lost = map(np.asarray, jax.jit(functions.exp_minus)(a))
    eps = jnp.finfo(dtype).eps / 2
    for one, high, low in zip(a, u, lost, strict=True):
        with mp.workdps(400):
            true = exp(-mpf(float(one)))
            off = abs(mpf(float(high)) + mpf(float(low)) - true)
            assert off <= eps * min(true / 4, (1 - true) / 2)
    ends = map(np.asarray, functions.exp_minus(jnp.array([0, INF, 1e4, NAN], dtype)))
    np.testing.assert_array_equal(list(ends), [[1, 0, 0, NAN], [0, 0, 0, NAN]])

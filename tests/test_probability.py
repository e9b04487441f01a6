"""Accuracy of the probabilities and logarithms that the divergences are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpmath import mp, mpf
from ulp import ulp

import jaxloss as jl
from jaxloss._core import softmax
from jaxloss._core.compilers import terms
from jaxloss._core.numerics import probability

# What log_quotient may be off by, beyond one rounding of its result.
BEYOND = {"float32": 2e-9, "float64": 4e-18}


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield np.dtype(request.param)


def test_log_quotient_keeps_what_a_logarithm_rounds_away(dtype):
    rng = np.random.default_rng(0)
    largest = 87 if dtype == np.float32 else 700
    x = np.exp(rng.uniform(-largest, largest, 600)).astype(dtype)
    x[:9] = 1, 0.5, 2, 0.7071067, 0.7071068, 1.4142135, 1 + 1e-7, 1 - 1e-7, 3e38
    scale = 10.0 ** rng.integers(-9, 2, 600)
    y = (np.log(x.astype(np.longdouble)) + scale * rng.normal(size=600)).astype(dtype)
    y[::7] = 0
    with mp.workdps(60):
        for value, a, b in zip(
            jax.jit(probability.log_quotient)(x, y), x, y, strict=True
        ):
            true = mp.log(mpf(float(a))) - mpf(float(b))
            rounding = np.spacing(dtype.type(abs(true)))
            assert abs(mpf(float(value)) - true) <= rounding + BEYOND[dtype.name]


def test_log_quotient_has_the_limits_and_derivatives_of_a_logarithm(dtype):
    inf, nan = np.inf, np.nan
    x = jnp.array([0, inf, nan, -1, 3, 3], dtype)
    y = jnp.array([1, 1, 0, 0, inf, -inf], dtype)
    expected = [-inf, inf, nan, nan, -inf, inf]
    np.testing.assert_array_equal(probability.log_quotient(x, y), expected)
    x, y = jnp.array([0.3, 70.0], dtype), jnp.array([0.4, -2.0], dtype)
    value = probability.log_quotient
    slopes = jax.jit(jax.grad(lambda x, y: value(x, y).sum(), (0, 1)))(x, y)
    np.testing.assert_allclose(slopes[0], 1 / np.asarray(x), rtol=1e-6)
    np.testing.assert_array_equal(slopes[1], [-1, -1])
    bend = jax.jit(jax.vmap(jax.grad(jax.grad(value))))(x, y)
    np.testing.assert_allclose(bend, -1 / np.asarray(x) ** 2, rtol=1e-6)


# Rows: ordinary, one class nearly sure, nearly a tie, tied, tied in all, wide.
LOGITS = np.array(
    [
        [0.3, -1.7, 2.4, 0.05],
        [20.0, 0.0, -0.5, 0.25],
        [7.0, 7.000001, -30.0, 6.0],
        [5.0, 5.0, -12.0, -0.5],
        [-3.0, -3.0, -3.0, -3.0],
        [-60.3, 17.1, 41.7, -38.9],
    ],
    np.float32,
)


def exact_softmax(logits):
    e = [mp.exp(mpf(float(x))) for x in logits]
    return [x / sum(e) for x in e]


def test_probabilities_and_what_they_lack_to_one_keep_their_digits():
    @jax.jit
    def measured(logits):
        p = softmax.softmax(logits, (1,))
        lack = terms.times_complement(jnp.ones_like(p), p, (1,))
        return p, lack, probability.log_softmax(logits, (1,)), jl.log_softmax(logits)

    p, lack, log_softmax, public = measured(LOGITS)
    for row, logits in enumerate(LOGITS):
        with mp.workdps(60):
            exact = exact_softmax(logits)
            for c, true in enumerate(exact):
                assert ulp(p[row, c], true, true, true) <= 4
                assert ulp(lack[row, c], 1 - true, 1 - true, 1 - true) <= 6
                assert ulp(log_softmax.p[row, c], true, true, true) <= 4
                parts = log_softmax.log_p[row, c], log_softmax.lost[row, c]
                error = sum(mpf(float(part)) for part in parts) - mp.log(true)
                # What is left is the rounding of the log-sum-exp above the maximum.
                excess = np.float32(-mp.log(max(exact)))
                assert abs(error) <= 2 * np.spacing(excess) + 2e-14 * abs(mp.log(true))
                log_p = mp.log(true)
                assert ulp(public[row, c], log_p, log_p, log_p) <= 4


def test_softmax_has_accurate_derivatives_where_a_class_is_sure():
    ct = np.array([0.7, -1.3, 0.2, 2.1], np.float32)

    def loss(x):
        return jnp.vdot(ct, softmax.softmax(x, (0,)))

    pulled_back = jax.jit(jax.grad(loss))
    tangent = jax.jit(lambda x: jax.jvp(loss, (x,), (ct,))[1])
    for logits in LOGITS:
        reverse = pulled_back(logits)
        with mp.workdps(60):
            p = exact_softmax(logits)
            mean = sum(q * mpf(float(c)) for q, c in zip(p, ct, strict=True))
            for slope, q, c in zip(reverse, p, ct, strict=True):
                true = q * (mpf(float(c)) - mean)
                # The difference's larger term, where p does not leave it to the others.
                unit = q * (1 - q) * (abs(mpf(float(c))) + abs(mean))
                assert ulp(slope, true, true, unit) <= 8
        np.testing.assert_allclose(tangent(logits), np.vdot(reverse, ct), rtol=3e-6)


def test_impossible_classes_have_no_probability_and_no_slope():
    logits = jnp.array([[0.0, -jnp.inf, 1.0], [-jnp.inf] * 3])

    def everything(x):
        log_p, _, p = probability.log_softmax(x, (1,))
        log_p = jnp.where(jnp.isneginf(log_p), 0, log_p)
        return jnp.sum(jnp.sin(p) + log_p + jnp.cos(softmax.softmax(x, (1,))))

    p = softmax.softmax(logits, (1,))
    np.testing.assert_allclose(p[0], [1 / (1 + np.e), 0, np.e / (1 + np.e)], rtol=1e-6)
    assert not np.any(p[1])
    gradient = jax.jit(jax.grad(everything))(logits)
    assert np.isfinite(gradient).all()
    assert gradient[0, 1] == 0
    assert not np.any(gradient[1])
    assert np.isfinite(jax.jit(jax.hessian(everything))(logits)).all()


def test_sigmoid_keeps_its_digits_on_both_sides():
    x = np.array([-87, -20, -1e-3, 0, 0.5, 3, 20, 87], np.float32)
    p, q = (jax.jit(probability.sigmoid)(s * x) for s in (1, -1))
    slope = jax.jit(jax.vmap(jax.grad(probability.sigmoid)))(x)
    bend = jax.jit(jax.vmap(jax.grad(jax.grad(probability.sigmoid))))(x)
    for n, z in enumerate(x):
        with mp.workdps(60):
            true = 1 / (1 + mp.exp(-mpf(float(z))))
            lack = 1 / (1 + mp.exp(mpf(float(z))))
            assert ulp(p[n], true, true, true) <= 3
            assert ulp(q[n], lack, lack, lack) <= 3
            assert ulp(slope[n], true * lack, true * lack, true * lack) <= 4
            curve = true * lack * (lack - true)
            assert ulp(bend[n], curve, curve, true * lack) <= 8
    far = jnp.array([-1e38, 200.0, 1e38, -jnp.inf, jnp.inf])
    for order in (jax.grad, lambda f: jax.grad(jax.grad(f))):
        assert not np.any(jax.vmap(order(probability.sigmoid))(far))

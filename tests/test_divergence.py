"""What the divergences promise beyond the common rules: digits, zeros, classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify
from mpmath import mp, mpf
from scipy import stats
from ulp import ulp

import jaxloss as jl

pytestmark = pytest.mark.any_program

INF = np.inf
KLS = (jl.kl_divergence, jl.generalized_kl_divergence, jl.convex_kl_divergence)
ALL = (*KLS, jl.kl_divergence_with_log_targets, jl.jensen_shannon_divergence)
ALL += (jl.wasserstein_distance,)
each_kl = pytest.mark.parametrize("loss", KLS, ids=lambda f: f.__name__)
every_loss = pytest.mark.parametrize("loss", ALL, ids=lambda f: f.__name__)


def draw(seed, batch=40, classes=6, apart=None, spread=1.0):
    """Two sets of float32 logits, `apart` from each other if not unrelated."""
    rng = np.random.default_rng(seed)
    p, q = rng.normal(size=(2, batch, classes)) * spread
    q = q if apart is None else p + apart * rng.normal(size=p.shape)
    return p.astype(np.float32), q.astype(np.float32)


def log_softmax(x):
    x = x.astype(np.float64)
    return (x - np.log(np.sum(np.exp(x), -1, keepdims=True))).astype(np.float32)


def exact(row):
    return [mpf(float(x)) for x in row]


def exact_softmax(row):
    e = [mp.exp(x) for x in exact(row)]
    return [x / sum(e) for x in e]


# --------------------------------------------------------------------- accuracy


@pytest.mark.parametrize("apart", [None, 1.0, 1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("spread", [1.0, 12.0])
def test_jensen_shannon_divergence_keeps_its_digits(apart, spread):
    p, q = draw(0, apart=apart, spread=spread)
    beta = np.resize(np.float32([0.5, 0.01, 0.9, 1e-4]), len(p))

    @jax.jit
    def measured(*logits):
        loss, pull_back = jax.vjp(
            lambda *x: jl.jensen_shannon_divergence(*x, beta=beta), *logits
        )
        return loss, pull_back(jnp.ones_like(loss))

    value, slopes = measured(p, q)
    with mp.workdps(60):
        for i in range(len(p)):
            a, b, w = exact_softmax(p[i]), exact_softmax(q[i]), mpf(float(beta[i]))
            m = [w * x + (1 - w) * y for x, y in zip(a, b, strict=True)]
            true = 0
            for own, weight, slope in ((a, w, slopes[0]), (b, 1 - w, slopes[1])):
                logs = [mp.log(x / z) for x, z in zip(own, m, strict=True)]
                mean = sum(x * log for x, log in zip(own, logs, strict=True))
                true += weight * mean
                for c, x in enumerate(own):
                    exact_slope = weight * x * (logs[c] - mean)
                    # The mean belongs to all classes, and has their rounding.
                    unit = weight * x * max(map(abs, logs))
                    assert ulp(slope[i, c], exact_slope, exact_slope, unit) <= 8
            assert ulp(value[i], true, true, true) <= 8


# Of what a logarithm in two parts leaves in log t - x: see log_quotient.
BEYOND = 2e-9


@pytest.mark.parametrize("apart", [None, 1.0, 1e-2, 1e-4, 1e-6])
def test_kullback_leibler_divergences_keep_the_digits_of_their_terms(apart):
    p, q = draw(1, apart=apart, spread=3.0)
    x, t = log_softmax(p), np.exp(log_softmax(q))
    plain = jax.jit(jl.kl_divergence)(x, t)
    general = jax.jit(jl.generalized_kl_divergence)(x, t)
    slopes = jax.jit(jax.grad(
        lambda *x: jl.generalized_kl_divergence(*x, reduction="sum"), (0, 1)
    ))(x, t)  # fmt: skip
    with mp.workdps(60):
        for i in range(len(x)):
            a, b = exact(x[i]), exact(t[i])
            gaps = [mp.log(v) - u for u, v in zip(a, b, strict=True)]
            terms = [v * d for v, d in zip(b, gaps, strict=True)]
            bound = 4 * np.spacing(np.float32(max(map(abs, terms)))) + BEYOND
            assert abs(mpf(float(plain[i])) - sum(terms)) <= bound
            own = [v * (mp.expm1(-d) + d) for v, d in zip(b, gaps, strict=True)]
            spill = sum(v * 2 * abs(d) * BEYOND for v, d in zip(b, gaps, strict=True))
            bound = 4 * np.spacing(np.float32(sum(own))) + spill
            assert abs(mpf(float(general[i])) - sum(own)) <= bound
            for c, (v, d) in enumerate(zip(b, gaps, strict=True)):
                true = v * mp.expm1(-d)
                bound = 4 * np.spacing(np.float32(abs(true))) + v * mp.exp(-d) * BEYOND
                assert abs(mpf(float(slopes[0][i, c])) - true) <= bound
                bound = np.spacing(np.float32(abs(d))) + BEYOND
                assert abs(mpf(float(slopes[1][i, c])) - d) <= bound


def test_generalized_divergence_of_distributions_is_the_plain_one():
    p, q = draw(2)
    x, t = log_softmax(p), np.exp(log_softmax(q))
    general, plain = jl.generalized_kl_divergence(x, t), jl.kl_divergence(x, t)
    np.testing.assert_allclose(general, plain, rtol=1e-5)
    assert (
        np.asarray(jl.generalized_kl_divergence(log_softmax(p), np.exp(log_softmax(p))))
        >= 0
    ).all()


# ---------------------------------------------------------------- special values


@each_kl
def test_a_target_of_zero_adds_nothing_of_its_own(loss):
    x, t = jnp.log(jnp.array([0.5, 0.25, 0.25])), jnp.array([0.5, 0.5, 0.0])
    # 0.5 log(0.5/0.5) + 0.5 log(0.5/0.25); both masses are 1.
    np.testing.assert_allclose(loss(x, t), 0.5 * np.log(2), rtol=1e-6)
    of_x, of_t = jax.grad(loss, (0, 1))(x, t)
    shift = 1 if loss is jl.kl_divergence else 0
    rest = 0 if loss is jl.kl_divergence else np.exp(x)
    np.testing.assert_allclose(of_x, rest - t, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(
        of_t, [shift, np.log(2) + shift, 0], rtol=1e-6, atol=1e-7
    )
    bends = jax.hessian(loss, (0, 1))(x, t)
    assert np.isfinite(np.array([b for row in bends for b in row])).all()
    tangent = jax.jvp(loss, (x, t), (jnp.ones(3), jnp.ones(3)))[1]
    np.testing.assert_allclose(tangent, np.sum(of_x) + np.sum(of_t), rtol=1e-6)


@each_kl
def test_an_impossible_prediction_is_free_under_no_target_and_infinite_under_one(loss):
    x = jnp.array([[0.0, -INF], [0.0, -INF]])
    t = jnp.array([[1.0, 0.0], [0.5, 0.5]])
    np.testing.assert_array_equal(loss(x, t), [0, INF])
    of_x = jax.grad(lambda x: loss(x, t, reduction="sum"))(x)
    np.testing.assert_array_equal(of_x[:, 1], [0, -0.5])
    assert not np.isnan(jax.grad(lambda t: loss(x, t, reduction="sum"))(t)).any()


def test_log_targets_of_minus_infinity_add_nothing():
    loss = jl.kl_divergence_with_log_targets
    x = jnp.array([[0.0, -INF, -3.0], [0.0, -INF, 0.0]])
    y = jnp.array([[0.0, -INF, -INF], [-INF, -200.0, 0.0]])
    # e^-200 is 0 in float32, yet a possible target was predicted impossible.
    np.testing.assert_array_equal(loss(x, y), [0, INF])
    of_x, of_y = jax.grad(lambda *a: loss(*a)[0], (0, 1))(x, y)
    np.testing.assert_array_equal(of_x, [[-1, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(of_y, [[1, 0, 0], [0, 0, 0]])
    bends = jax.hessian(lambda *a: loss(*a)[0], (0, 1))(x, y)
    assert np.isfinite(np.array([b for row in bends for b in row])).all()
    # Beyond the range of exp on both sides, the product is 0 and never NaN.
    np.testing.assert_array_equal(loss(jnp.full(2, 3e38), jnp.full(2, -3e38)), 0)


def test_jensen_shannon_divergence_of_impossible_classes():
    p = jnp.array([[0.0, -INF, -INF], [0.0, -INF, 1.0], [-INF, 0.0, -INF]])
    q = jnp.array([[-INF, -INF, 7.0], [0.0, -INF, 1.0], [-INF, 5.0, -INF]])
    np.testing.assert_allclose(jl.jensen_shannon_divergence(p, q), [np.log(2), 0, 0])
    # -(1 - b) q log(1 - b) of the class that p finds impossible: 1/2, 1/2 and 1, 0.
    mixed = jl.jensen_shannon_divergence([0.0, -INF], [0.0, 0.0], beta=0.25)
    of_first = 0.25 * np.log(1 / 0.625) + 0.75 * 0.5 * np.log(0.5 / 0.625)
    np.testing.assert_allclose(mixed, of_first - 0.375 * np.log(0.75), rtol=1e-6)

    def loss(p, q, beta):
        return jl.jensen_shannon_divergence(p, q, beta=beta, reduction="sum")

    for order in (jax.grad, jax.hessian):
        found = jax.jit(order(loss, (0, 1)))(p, q, 0.3)
        assert np.isfinite(
            np.concatenate([x.ravel() for x in jax.tree.leaves(found)])
        ).all()
    of_p, of_q = jax.grad(loss, (0, 1))(p, q, 0.3)
    assert not np.any(of_p[jnp.isneginf(p)])
    assert not np.any(of_q[jnp.isneginf(q)])


def test_jensen_shannon_divergence_at_the_ends_and_turned_round():
    p, q = draw(3, spread=4.0)
    loss = jl.jensen_shannon_divergence
    np.testing.assert_allclose(loss(p, q, beta=0.3), loss(q, p, beta=0.7), rtol=2e-6)
    for beta in (0, 1):
        assert not np.any(loss(p, q, beta=beta))
        slopes = jax.grad(lambda *a: loss(*a).sum(), (0, 1))
        for slope in jax.jit(lambda p, q, s=slopes: s(p, q))(p, q):
            assert np.isfinite(slope).all()
    # At beta 0 the slope in beta is the divergence of q from p.
    slope = jax.vmap(jax.grad(lambda b, p, q: loss(p, q, beta=b)), (None, 0, 0))(
        0.0, p, q
    )
    expected = jl.kl_divergence(log_softmax(q), np.exp(log_softmax(p)))
    np.testing.assert_allclose(slope, expected, rtol=1e-4)
    assert loss([3e38, -3e38], [-3e38, 3e38]) == pytest.approx(np.log(2))
    assert np.isfinite(
        jax.grad(loss)(jnp.array([3e38, -3e38]), jnp.array([-3e38, 3e38]))
    ).all()


# ------------------------------------------------------------------- wasserstein


def test_wasserstein_distance_is_that_of_scipy():
    p, q = (np.exp(log_softmax(x)) for x in draw(4, classes=9))
    grid = np.arange(9)
    expected = [
        stats.wasserstein_distance(grid, grid, *w) for w in zip(p, q, strict=True)
    ]
    np.testing.assert_allclose(jl.wasserstein_distance(p, q), expected, rtol=1e-5)


def test_wasserstein_distance_by_hand():
    p = jnp.array([[0.0, 1.0, 0.0], [0.2, 0.5, 0.3], [0.5, 0.0, 0.5], [0.1, 0.2, 0.7]])
    t = jnp.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.1, 0.2, 0.7]])
    np.testing.assert_allclose(
        jl.wasserstein_distance(p, t), [1, 0.2 + 0.7, 0.5 + 0.5, 0], rtol=1e-6
    )
    slope = jax.grad(lambda p: jl.wasserstein_distance(p, t, reduction="sum"))(p)
    # The flow to the right of a class is where its mass counts; none, no slope.
    np.testing.assert_array_equal(slope, [[1, 1, 0], [2, 1, 0], [0, -1, 0], [0, 0, 0]])
    assert jl.wasserstein_distance([1.0], [1.0]) == 0
    assert np.isnan(jl.wasserstein_distance([-0.1, 1.1], [0.5, 0.5]))


# ------------------------------------------------------------- classes and masks


def inputs(loss, seed=5, classes=6):
    p, q = draw(seed, batch=5, classes=classes)
    if loss is jl.kl_divergence_with_log_targets:
        return log_softmax(p), log_softmax(q)
    if loss is jl.jensen_shannon_divergence:
        return p, q
    if loss is jl.wasserstein_distance:
        return np.exp(log_softmax(p)), np.exp(log_softmax(q))
    return log_softmax(p), np.exp(log_softmax(q))


@every_loss
def test_dropped_classes_are_as_if_they_had_never_been(loss):
    first, second = inputs(loss)
    where = np.ones(first.shape, bool)
    where[:, [1, 4, 5]] = False
    where[3] = False
    spoiled = [np.where(where, x, np.nan) for x in (first, second)]
    expected = loss(first[:, where[0]], second[:, where[0]])
    expected = np.where(np.arange(5) == 3, 0, expected)
    np.testing.assert_allclose(loss(*spoiled, where=where), expected, rtol=2e-6)
    mean = loss(*spoiled, where=where, reduction="mean")
    np.testing.assert_allclose(mean, expected.sum() / 4, rtol=2e-6)
    slopes = jax.grad(lambda *a: loss(*a, where=where, reduction="sum"), (0, 1))(
        *spoiled
    )
    for slope in slopes:
        assert np.isfinite(slope).all()
        assert not np.any(slope[~where])
    tangent = jax.jvp(
        lambda *a: loss(*a, where=where), spoiled, [np.ones_like(x) for x in spoiled]
    )[1]
    assert np.isfinite(tangent).all()


@every_loss
def test_class_axes_may_stand_anywhere(loss):
    first, second = inputs(loss)
    expected = loss(first, second)
    np.testing.assert_allclose(loss(first.T, second.T, axis=0), expected, rtol=1e-6)
    weights = np.linspace(0.2, 1, 5, dtype=np.float32)
    value = loss(first.T, second.T, 0, weights=weights, reduction="mean")
    np.testing.assert_allclose(
        value, (expected * weights).sum() / weights.sum(), rtol=1e-6
    )
    if loss is jl.wasserstein_distance:
        return
    pairs = [x.reshape(5, 2, 3).transpose(1, 0, 2) for x in (first, second)]
    np.testing.assert_allclose(loss(*pairs, axis=(0, -1)), expected, rtol=1e-6)
    np.testing.assert_allclose(
        loss(first[0], second[0], axis=None), expected[0], rtol=1e-6
    )


def test_twins_agree_to_the_last_bit():
    first, second = inputs(jl.convex_kl_divergence)
    for keywords in (
        {},
        {"weights": 0.3},
        {"where": np.arange(5) > 1, "reduction": "mean"},
    ):
        np.testing.assert_array_equal(
            jl.convex_kl_divergence(first, second, **keywords),
            jl.generalized_kl_divergence(first, second, **keywords),
        )


@every_loss
def test_half_precision_is_computed_in_float32(loss):
    first, second = (jnp.asarray(x, jnp.bfloat16) for x in inputs(loss))
    wide = [x.astype(jnp.float32) for x in (first, second)]
    value = jax.jit(loss)(first, second)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, jax.jit(loss)(*wide), rtol=1e-6, atol=1e-6)
    slope = jax.jit(jax.grad(lambda *a: loss(*a, reduction="sum")))(first, second)
    assert slope.dtype == jnp.bfloat16


# --------------------------------------------------------------------- bad input


def test_messages_name_the_argument():
    x, t = np.zeros((2, 3), np.float32), np.zeros((3, 3), np.float32)
    with pytest.raises(
        ValueError, match=r"`targets` must broadcast .* log_predictions \(2, 3\)"
    ):
        jl.kl_divergence(x, t)
    with pytest.raises(ValueError, match=r"`logits_q` must broadcast .* logits_p"):
        jl.jensen_shannon_divergence(x, t)
    with pytest.raises(ValueError, match=r"`where` must broadcast .* log_predictions"):
        jl.generalized_kl_divergence(x, x, where=np.ones((4, 3), bool))
    with pytest.raises(ValueError, match=r"`beta` must be in \[0, 1\], got 1.5"):
        jl.jensen_shannon_divergence(x, x, beta=1.5)
    with pytest.raises(ValueError, match=r"`beta` must broadcast .* per-example loss"):
        jl.jensen_shannon_divergence(x, x, beta=np.ones(3))
    with pytest.raises(TypeError, match="`axis` must be an int"):
        jl.wasserstein_distance(x, x, axis=(0, 1))
    with pytest.raises(
        TypeError, match="`log_predictions` must be floating, got int32"
    ):
        jl.kl_divergence(np.zeros((2, 3), np.int32), x)
    with pytest.raises(ValueError, match="at least one class"):
        jl.kl_divergence_with_log_targets(x[:, :0], x[:, :0])


@pytest.mark.parametrize(
    "loss", [*KLS, jl.wasserstein_distance], ids=lambda f: f.__name__
)
def test_a_negative_mass_is_nan_and_named_by_checkify(loss):
    first, second = inputs(loss)
    checked = checkify.checkify(jax.jit(loss), errors=checkify.user_checks)
    for place in range(second.shape[1]):
        wrong = second.copy()
        wrong[1, place] = -0.1
        error, value = checked(first, wrong)
        np.testing.assert_array_equal(np.isnan(value), np.arange(5) == 1)
        assert "`targets` must be at least 0" in (error.get() or "")
    assert checked(first, second)[0].get() is None

"""Accuracy of the likelihoods of forecasts, over all dispersions and degrees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import ulp
from mpmath import mp, mpf
from ulp import Accuracy

import jaxloss as jl

RNG = np.random.default_rng(0)
# A dispersion of 0 in the definition, whose derivative in it is the limit's.
SMALL = mpf("1e-70")


def negative_binomial(m, k, a):
    if min(m, k, a) < 0:
        return mp.nan
    if m == 0:
        return mp.inf if k > 0 else mpf(0)
    constant = mp.loggamma(k + 1)
    if abs(a) < SMALL:
        return constant + m - k * mp.log(m) - a * ((k - m) ** 2 - k) / 2
    r = 1 / a
    ways = mp.loggamma(k + r) - mp.loggamma(r) - constant
    return -ways - r * mp.log(r / (r + m)) - k * mp.log(m / (r + m))


def inflated(m, k, a, z):
    likelihood = mp.exp(-negative_binomial(m, k, a))
    share = 1 / (1 + mp.exp(-z))
    return -mp.log(share * (k == 0) + (1 - share) * likelihood)


def count_rows():
    """All magnitudes beside each other, and counts near their mean."""
    means = (1e-20, 1e-3, 0.7, 3, 50, 1e6, 3e10)
    counts = (0, 1, 2, 5, 80, 1e6)
    dispersions = (0, 1e-20, 1e-8, 1e-3, 0.3, 2, 1e4, 1e8)
    rows = [(m, k, a) for m in means for k in counts for a in dispersions]
    rows = [rows[i] for i in RNG.permutation(len(rows))[:150]]
    # Dispersions whose square, or product with a mean or count, is out of range.
    means, counts = (1e-12, 0.7, 3, 1e12, 3e38), (0, 1, 7, 1e12, 1e25)
    dispersions = (1e-37, 1e-30, 1e15, 3e19, 1e25, 3e38)
    wide = [(m, k, a) for m in means for k in counts for a in dispersions]
    rows += [wide[i] for i in RNG.permutation(len(wide))[:120]]
    for _ in range(120):
        k = float(np.round(10 ** RNG.uniform(0, RNG.choice([1, 7]))))
        m = k * float(np.exp(RNG.normal() * 10 ** RNG.uniform(-4, 0.5)))
        rows.append((m, k, float(10 ** RNG.uniform(-10, 8))))
    return rows


def mean_terms(m, k, a):
    return 1 / (1 + a * m), k / (m * (1 + a * m))


def target_terms(m, k, a):
    """log(1 + u), and what the likelihood of a count at its mean has as slope."""
    odds = mp.log(k / m * (1 + a * m) / (1 + a * k)) if k else mp.log(m)
    return odds, 1 / (2 * (k + 1)), a / (1 + a * k)


def dispersion_terms(m, k, a):
    w = (k - m) / (1 + a * m)
    v = a * w
    curve = mpf(1) / 2 if abs(v) < SMALL else (v - mp.log1p(v)) / v**2
    few = (m * m / (1 + a * m), k * m / (1 + a * m))
    return few if k <= 1 else (w * w * curve, k / (2 * (1 + a * k)))


COUNTS = Accuracy(
    jl.negative_binomial_nll_loss,
    negative_binomial,
    "means targets dispersions",
    count_rows(),
    slope_terms={0: mean_terms, 1: target_terms, 2: dispersion_terms},
    bound=8,
    # Elsewhere k/m², of which the second derivative in the mean is made, overflows.
    curved=lambda m, k, a: k < 1e38 * m * m,
)


def inflation_rows():
    logits = (-200, -30, -3, -0.1, 0, 2, 17, 90)
    rows = [(m, k, a) for m in (1e-6, 0.7, 40, 1e6) for k in (0, 3) for a in (0, 0.3)]
    rows = [(*row, float(RNG.choice(logits))) for row in rows for _ in range(3)]
    rows += [(m, 0, a, z) for m, a, z in as_likely_either_way()]
    # The slope in the dispersion without inflation, -m²/2, is infinite here.
    return rows + [(m, 0, a, -3.0) for m in (1e20, 3e38) for a in (0, 1e-30)] * 3


def as_likely_either_way():
    """Means, dispersions and logits: a count of 0 is as unlikely by either cause."""
    for a in (0, 1e-8, 1e-3, 0.02, 0.4, 3) * 6:
        n = float(10 ** RNG.uniform(0, 2.3))
        n = min(n, 80 / (a or 1e-3))
        m = np.expm1(a * n) / a if a else n
        yield m, a, -n + float(RNG.normal()) * min(n, 20)


def logit_terms(m, k, a, z):
    share = 1 / (1 + mp.exp(-z))
    return (share,) if k else (share * (1 - share),)


INFLATED = Accuracy(
    lambda m, k, a, z: jl.negative_binomial_nll_loss(m, k, a, zero_inflation_logits=z),
    inflated,
    "means targets dispersions zero_inflation_logits",
    inflation_rows(),
    slope_terms={
        0: lambda m, k, a, z: mean_terms(m, k, a),
        2: lambda m, k, a, z: dispersion_terms(m, k, a),
    },
    # A count of 0 is a jump of the likelihood in the count.
    flat=lambda *row: (1,),
    bound=10,
    # Elsewhere 2 m³/3, the second derivative in the dispersion that the inflation takes
    # away again, overflows.
    curved=lambda m, k, a, z: m < 1e12,
)

INFLATED_LOGARITHMS = INFLATED._replace(
    loss=lambda m, k, a, z: jl.negative_binomial_nll_loss(
        m, k, a, zero_inflation_logits=z, log_input=True
    ),
    definition=lambda m, k, a, z: inflated(mp.exp(m), k, a, z),
    # A mean of e^150 leaves the range, while the loss log(1 + a m)/a does not.
    rows=[(float(np.log(m)), 0, a, z) for m, a, z in as_likely_either_way()]
    + [(150.0, 0, a, -150 / a - 2) for a in (0.8, 3)] * 3,
    slope_terms={},
)


def student_t(m, t, s, v):
    if min(s, v) <= 0:
        return mp.nan
    return sum(student_t_terms(m, t, s, v))


def student_t_terms(m, t, s, v):
    """Three terms, of which the last has the other sign for large scales."""
    if mp.isinf(v):
        return ((m - t) / s) ** 2 / 2, mp.log(2 * mp.pi) / 2, mp.log(s)
    constant = mp.loggamma(v / 2) - mp.loggamma((v + 1) / 2) + mp.log(mp.pi * v) / 2
    tail = (v + 1) / 2 * mp.log1p(((m - t) / s) ** 2 / v)
    return tail, constant, mp.log(s)


def scale_terms(m, t, s, v):
    x = (m - t) / s
    return 1 / s, x * x / s if mp.isinf(v) else (v + 1) * x * x / (v + x * x) / s


def degree_terms(m, t, s, v):
    """The slope in b = 1/v has terms of both signs, those of the tail and of K."""
    x, b = (m - t) / s, 1 / v
    z = b * x * x
    return b * z / (1 + z) / 2, b / (1 + b) * b / 4, (mp.log1p(z) - z / (1 + z)) / 2


def student_t_rows():
    targets = (0, 1e-20, 1e-3, 0.7, 1, 3, 50, 1e6, 1e20, 1e30)
    scales, degrees = (1e-20, 1e-3, 1, 10, 1e6), (1e-8, 0.1, 1, 4.5, 30, 1e4, 1e8, 1e20)
    rows = [(0.0, t, s, v) for t in targets for s in scales for v in degrees]
    rows = [rows[i] for i in RNG.permutation(len(rows))[:150]]
    for _ in range(100):
        m, t, log_s = (float(x) for x in RNG.normal(size=3))
        rows.append((m, t, float(np.exp(log_s)), float(10 ** RNG.uniform(-3, 6))))
    # Degrees whose square is out of range, and errors far above and below the scale.
    targets, degrees = (0, 1e-36, 1e-12, 0.5, 1e7, 1e27, 3e38), (2e-38, 1e-25, 1e37)
    wide = [(0.0, t, s, v) for t in targets for s in (1e-9, 3, 1e15) for v in degrees]
    rows += [wide[i] for i in RNG.permutation(len(wide))]
    rows += [(0.5, t, 0.7, np.inf) for t in (0, 0.5, 2, 1e9, 1e25)] * 3
    return [*rows, *((1e-3, t, 0.7, 1e-37) for t in (0, 1e-3, 1))]


STUDENT_T = Accuracy(
    jl.student_t_nll_loss,
    student_t,
    "means targets scales degrees_of_freedom",
    student_t_rows(),
    terms=student_t_terms,
    slope_terms={2: scale_terms, 3: degree_terms},
    # The Gaussian is a limit in the degrees, where their slope is 0.
    flat=lambda m, t, s, v: (3,) if mp.isinf(v) else (),
    bound=8,
    # Elsewhere a second derivative, 1/s² or x²/s², overflows.
    curved=lambda m, t, s, v: 1e-4 < s < 1e5 and abs(m - t) < 1e6 and 1e-4 < v < 1e9,
)

CASES = {
    "negative_binomial_nll_loss": COUNTS,
    "zero inflation": INFLATED,
    "zero inflation of logarithms": pytest.param(
        INFLATED_LOGARITHMS, marks=pytest.mark.exhaustive
    ),
    "student_t_nll_loss": STUDENT_T,
}
each = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@each
def test_value_and_slopes_are_within_units_of_the_last_place(case):
    assert not ulp.over_bound(case)


@pytest.mark.exhaustive
@pytest.mark.any_program
@each
def test_second_derivatives_are_finite(case):
    assert not ulp.not_finite(case)


@pytest.mark.exhaustive
@each
def test_half_precision_is_a_rounding(case):
    assert not ulp.halves(case, jnp.bfloat16)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ((3.0, 5.0, 1e-8), 2.29443),
        ((0.0, 0.0, 0.7), 0),
        ((0.0, 2.0, 0.7), np.inf),
        ((3.0, -1.0, 0.7), np.nan),
        ((-3.0, 1.0, 0.7), np.nan),
        ((3.0, 1.0, -0.7), np.nan),
    ],
)
def test_negative_binomial_where_it_has_a_name(row, expected):
    found = jl.negative_binomial_nll_loss(*row)
    np.testing.assert_allclose(found, expected, rtol=2e-6)


@pytest.mark.exhaustive
def test_infinite_degrees_are_the_gaussian_and_scale_0_is_a_limit():
    m, t, s = jnp.zeros(4), jnp.array([0.0, 0.5, 3.0, 1e9]), 0.7
    found = jl.student_t_nll_loss(m, t, s, jnp.inf)
    expected = jl.gaussian_nll_loss(m, t, s**2, full=True)
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    slope = jax.grad(jl.student_t_nll_loss, 3)(0.0, 3.0, s, jnp.inf)
    assert slope == 0
    run = jax.value_and_grad(jl.student_t_nll_loss, (0, 1, 2, 3))
    for s, v, target, limit in (
        (0.0, 2.0, 0.0, -np.inf),
        (0.0, 2.0, 0.5, np.inf),
        (0.7, 0.0, 0.0, np.inf),
        (0.7, 0.0, 0.5, np.inf),
    ):
        value, slopes = run(0.0, target, s, v)
        assert value == limit
        assert not np.isnan(slopes).any()
    for s, v in ((-1.0, 2.0), (1.0, -2.0)):
        assert np.isnan(jl.student_t_nll_loss(0.0, 1.0, s, v))


@pytest.mark.exhaustive
def test_second_derivatives_of_student_t_at_the_ends_of_the_range():
    """Degrees whose square leaves the range, and errors over scales that do."""
    sizes = (3.0, 2.0), (1e-10, 1.0), (1e10, 1.0), (1e20, 1.0), (1e30, 1e-10), (3e38, 1)
    degrees = 1e-37, 1e-25, 1e-19, 1e-18, 1e-14, 1e-5, 1.0, 30.0, 1e10, np.inf
    largest = float(np.finfo(np.float32).max)
    rows = np.float32([(e, s, v) for e, s in sizes for v in degrees])

    def second(at, i, j):
        """By differences of the definition, over steps of 1e-50 of each argument."""
        total = mpf(0)
        for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            moved = list(at)
            for n, sign in zip((i, j), signs, strict=True):
                moved[n] += sign * at[n] * mpf("1e-50")
            m, s, v = moved
            total += signs[0] * signs[1] * student_t(m, 0, s, v)
        return total / (4 * at[i] * at[j] * mpf("1e-100"))

    def loss(m, s, v):
        return jl.student_t_nll_loss(m, 0.0, s, v)

    found = jax.jit(jax.vmap(jax.hessian(loss, (0, 1, 2))))(*rows.T)
    for k, row in enumerate(rows):
        at = tuple(mpf(float(x)) for x in row)
        moving = 2 if np.isinf(row[2]) else 3
        pairs = list(np.ndindex(moving, moving))
        with mp.workdps(250):
            if student_t(at[0], 0, *at[1:]) > largest:
                continue
            true = [float(second(at, i, j)) for i, j in pairs]
        true = np.clip(true, -largest, largest)
        ours = np.clip([found[i][j][k] for i, j in pairs], -largest, largest)
        np.testing.assert_allclose(ours, true, rtol=2e-5, atol=1e-37, err_msg=row)


def test_logarithms_of_means_do_not_leave_the_range():
    """exp(±200) is no float32, and the likelihood is still one."""
    rows = [(s * 200.0, k, a) for s in (1, -1) for k in (0, 3) for a in (1e-8, 0.4, 7)]
    loss = jax.vmap(
        jax.value_and_grad(
            lambda m, k, a: jl.negative_binomial_nll_loss(m, k, a, log_input=True)
        )
    )
    value, slope = loss(*(jnp.array(x) for x in zip(*rows, strict=True)))
    for i, (log_m, *rest) in enumerate(rows):
        m, (k, a) = mp.exp(log_m), map(mpf, rest)
        true = float(negative_binomial(m, k, mpf(float(np.float32(a)))))
        np.testing.assert_allclose(value[i], true, rtol=2e-6)
        true = float((m - k) / (1 + mpf(float(np.float32(a))) * m))
        np.testing.assert_allclose(slope[i], true, rtol=2e-6, atol=1e-30)


@pytest.mark.any_program
@pytest.mark.parametrize("log_mean", [1e38, 2e38, 3e38])
def test_a_mean_far_beyond_the_range_makes_a_loss_of_inf(log_mean):
    """Also where the logarithm of the mean, times the count, overflows too.

    An optimised program may multiply and add in one, without rounding between them.
    """
    counts = jnp.array([0.0, 0.5, 1, 2, 5])
    means = jnp.full(5, log_mean)
    with np.errstate(over="ignore"):
        loss = jax.jit(jl.negative_binomial_nll_loss, static_argnames="log_input")(
            means, counts, jnp.zeros(5), log_input=True
        )
    np.testing.assert_array_equal(loss, np.full(5, np.inf))


@pytest.mark.parametrize("dispersion", [8e37, 9e37, 3e38])
def test_literal_dispersions_at_the_end_of_the_range(dispersion):
    """XLA multiplies by the reciprocal of a constant divisor, which is flushed to 0."""
    rows = jnp.array([[1.0, 3], [5, 5], [1e30, 2], [0.5, 0.5]])

    def loss(m, k, a):
        return jl.negative_binomial_nll_loss(m, k, a)

    slopes = jax.value_and_grad(loss, (0, 1, 2))
    for m, k in rows:
        m, k, a = map(np.float32, (m, k, dispersion))
        value, found = jax.jit(lambda a=a, m=m, k=k: slopes(m, k, a))()
        by_target = jax.jit(lambda k, a=a, m=m: slopes(m, k, a))(k)
        exact = [mpf(float(x)) for x in (m, k, a)]
        with mp.workdps(250):
            np.testing.assert_allclose(value, float(negative_binomial(*exact)), 2e-6)
            true = [
                float(
                    mp.diff(
                        negative_binomial, tuple(exact), tuple(np.eye(3, dtype=int)[i])
                    )
                )
                for i in range(3)
            ]
        np.testing.assert_allclose(found, true, rtol=1e-5, atol=1.2e-38)
        np.testing.assert_allclose(by_target[1], true, rtol=1e-5, atol=1.2e-38)


def test_counts_below_1_keep_their_digits():
    """Real counts, as averages are: the constant is far below what it is made of."""
    rng = np.random.default_rng(1)
    rows = [
        (1e-6, 1e-8, 1e6),
        (1e-8, 1e-10, 1e8),
        (9.6e-5, 1e-4, 100),
        (2e-9, 2e-12, 0),
    ]
    for _ in range(300):
        mean, dispersion, count = 10 ** rng.uniform((-9, -9, -12), (3, 9, 0))
        rows.append((mean, count, dispersion))
    rows = np.float32(rows)
    found = jax.jit(jl.negative_binomial_nll_loss)(*rows.T)
    with mp.workdps(60):
        for row, value in zip(rows, found, strict=True):
            true = negative_binomial(*(mpf(float(x)) for x in row))
            assert ulp.ulp(value, true, true, true) <= 6


@pytest.mark.parametrize("mean", [1e38, 3e38])
def test_counts_with_literals_at_the_end_of_the_range(mean):
    def loss(*inputs):
        return jax.value_and_grad(jl.negative_binomial_nll_loss, (0, 1))(*inputs)

    mean = jnp.float32(mean)
    literal = jax.jit(lambda mean: loss(mean, 5.0, 0.5))(mean)
    traced = jax.jit(loss)(mean, jnp.float32(5), jnp.float32(0.5))
    np.testing.assert_allclose(jax.tree.leaves(literal), jax.tree.leaves(traced), 1e-6)

"""Accuracy of the regression losses over the whole range of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import ulp
from mpmath import mp, mpf
from namespace import families
from ulp import HUGE, LADDER, POWER, TINY, Accuracy, append, near, pairs, some, spread

import jaxloss as jl

PAIRS = pairs(np.random.default_rng(0), 30)
DELTAS = [*near(1, 0.5), *LADDER]


def within(low, high, *inputs):
    """Rows whose named inputs are 0 or have a magnitude between two bounds."""
    return lambda *row: all(row[n] == 0 or low <= abs(row[n]) <= high for n in inputs)


def huber(p, t, delta):
    a = abs(p - t)
    return a * a / 2 if a <= delta else delta * (a - delta / 2)


def smooth_l1(p, t, beta):
    return huber(p, t, beta) / beta if beta > 0 else abs(p - t)


def robust(p, t, alpha, scale):
    s, b = (p - t) / scale, abs(alpha - 2)
    if alpha > 2:
        return mp.nan
    if alpha == 2:
        return s * s / 2
    if alpha == 0:
        return mp.log(s * s / 2 + 1)
    if mp.isinf(alpha):
        return 1 - mp.exp(-s * s / 2)
    return b / alpha * mp.expm1(alpha / 2 * mp.log(s * s / b + 1))


def stirling(t):
    """PyTorch's log(t!), which starts at t > 1."""
    return t * mp.log(t) - t + mp.log(2 * mp.pi * t) / 2 if t > 1 else mpf(0)


def stirling_terms(t, full):
    return (t * mp.log(t), t) if full and t > 1 else (mpf(0),)


def stirling_slope_terms(t, full):
    return (mp.log(t), 1 / t) if full and t > 1 else (mpf(0),)


def poisson_of_log(rng, full):
    rates = spread(rng, 60, TINY, 100) + near(0, 1, 88, 88.7, -87.3)
    rates += [v for v in ulp.BOTH_SIGNS if v < 90]
    counts = (
        lambda: 0,
        lambda: 1,
        lambda: rng.integers(2, 99),
        lambda: spread(rng, 1, 1e-6, 1e6, signed=False)[0],
        lambda: spread(rng, 1, signed=False)[0],
    )
    return Accuracy(
        lambda p, t: jl.poisson_nll_loss(p, t, full=full),
        lambda p, t: mp.exp(p) - t * p + (stirling(t) if full else 0),
        "predictions targets",
        [(p, float(draw())) for p in rates for draw in counts],
        terms=lambda p, t: (mp.exp(p), t * p, *stirling_terms(t, full)),
        slope_terms={
            0: lambda p, t: (mp.exp(p), t),
            1: lambda p, t: (p, *stirling_slope_terms(t, full)),
        },
    )


def poisson_of_rate(rng, full):
    rates = spread(rng, 60, signed=False) + spread(rng, 60, 1e-6, 1e3, signed=False)
    counts = (
        lambda: 0,
        lambda: 1,
        lambda: rng.integers(2, 99),
        lambda: spread(rng, 1, 1e-6, 1e6, signed=False)[0],
    )
    rows = [(p, float(draw())) for p in [*rates, 0, *near(1)] for draw in counts]
    rows = append(rows, some(rng, (1e-8, 0, 1e-3), TINY, 1e10))

    def definition(p, t, eps):
        if p + eps <= 0:
            return mp.nan
        return p - t * mp.log(p + eps) + (stirling(t) if full else 0)

    return Accuracy(
        lambda p, t, eps: jl.poisson_nll_loss(
            p, t, log_input=False, full=full, eps=eps
        ),
        definition,
        "predictions targets eps",
        [row for row in rows if row[0] + row[2] > 0],
        terms=lambda p, t, eps: (p, t * mp.log(p + eps), *stirling_terms(t, full)),
        slope_terms={
            0: lambda p, t, eps: (mpf(1), t / (p + eps)),
            1: lambda p, t, eps: (mp.log(p + eps), *stirling_slope_terms(t, full)),
        },
        curved=within(1e-15, HUGE, 0, 2),
    )


def gaussian(rng):
    rows = append(
        PAIRS,
        some(rng, (1, 1e-6, 1e-3), TINY, HUGE),
        some(rng, (1e-6, 0), TINY, 1),
    )

    def variance_terms(m, t, v, eps):
        c = max(v, eps)
        return 1 / (2 * c), (m - t) ** 2 / (2 * c * c)

    def variance_slope(m, t, v, eps):
        # PyTorch's clamp does not stop the gradient of a variance below eps.
        inverse, square = variance_terms(m, t, v, eps)
        return inverse - square

    return Accuracy(
        lambda m, t, v, eps: jl.gaussian_nll_loss(m, t, v, eps=eps),
        lambda m, t, v, eps: (mp.log(max(v, eps)) + (m - t) ** 2 / max(v, eps)) / 2,
        "means targets variances eps",
        rows,
        terms=lambda m, t, v, eps: (
            mp.log(max(v, eps)) / 2,
            (m - t) ** 2 / max(v, eps) / 2,
        ),
        slopes={2: variance_slope},
        slope_terms={2: variance_terms, 3: variance_terms},
        curved=within(1e-6, 1e6, 2, 3),
    )


ALPHAS = (1, 0, -2, 1.5, 0.5, 1.99, -1e3, -1e30, -np.inf, 1e-6, -1e-6, 1e-30)
ALPHAS += tuple(v for v in near(1, 0, 2, -2) if v <= 2)


def robust_case(rng):
    draws = (
        lambda: rng.choice(ALPHAS),
        lambda: rng.uniform(-4, 2),
        lambda: -spread(rng, 1, 1, 1e30, signed=False)[0],
        lambda: 2 - spread(rng, 1, 1.3e-7, 0.9, signed=False)[0],
    )
    rows = []
    for draw in draws:
        rows += append(PAIRS, draw, some(rng, (1,), 1e-10, 1e10))
        rows += append([(p, 0) for p in spread(rng, 60, 1e-6, 1e3)], draw, lambda: 1)
    return Accuracy(
        lambda p, t, a, c: jl.robust_loss(p, t, alpha=a, scale=c),
        robust,
        "predictions targets alpha scale",
        rows,
        # The derivative in alpha is infinite at alpha = 2, and 0 at -inf.
        flat=lambda p, t, a, c: (2,) if a == 2 or a == -np.inf else (),
        relative=True,
        bound=POWER,
        curved=lambda p, t, a, c: 1e-6 <= c <= 1e6 and a > -1e30,
    )


CASES = {
    "squared_error": lambda rng: Accuracy(
        jl.squared_error, lambda p, t: (p - t) ** 2, "predictions targets", PAIRS
    ),
    "l2_loss": lambda rng: Accuracy(
        jl.l2_loss, lambda p, t: (p - t) ** 2 / 2, "predictions targets", PAIRS
    ),
    "absolute_error": lambda rng: Accuracy(
        jl.absolute_error, lambda p, t: abs(p - t), "predictions targets", PAIRS
    ),
    "huber_loss": lambda rng: Accuracy(
        lambda p, t, delta: jl.huber_loss(p, t, delta=delta),
        huber,
        "predictions targets delta",
        append(pairs(rng, 30, (1, 0.5)), some(rng, DELTAS, TINY, HUGE))
        + [(p, t, 1) for p, t in pairs(rng, 30, (1,))]
        + [(0, 0, 0), (1, 0, 0), (HUGE, -HUGE, HUGE), (HUGE, -HUGE, 0.1)]
        + [(2.0**64 * 1.1, 0, 2.0**64)],
    ),
    "smooth_l1_loss": lambda rng: Accuracy(
        lambda p, t, beta: jl.smooth_l1_loss(p, t, beta=beta),
        smooth_l1,
        "predictions targets beta",
        append(pairs(rng, 30, (1, 0.5)), some(rng, DELTAS, TINY, HUGE))
        + [(p, t, 1) for p, t in pairs(rng, 30, (1,))]
        + [(0, 0, 0), (1, 0, 0), (2e38, -2e38, HUGE)],
        curved=within(1e-6, 1e6, 2),
    ),
    "log_cosh": lambda rng: Accuracy(
        jl.log_cosh,
        lambda p, t: mp.log(mp.cosh(p - t)),
        "predictions targets",
        [*pairs(rng, 40, (0.75,)), *((v, 0) for v in spread(rng, 200, 1e-3, 100))],
    ),
    "quantile_loss": lambda rng: Accuracy(
        lambda p, t, q: jl.quantile_loss(p, t, quantile=q),
        lambda p, t, q: max(q * (t - p), (q - 1) * (t - p)),
        "predictions targets quantile",
        append(PAIRS, some(rng, (0, 1, 0.5, 0.1, 0.9), TINY, 1)),
    ),
    "epsilon_insensitive_loss": lambda rng: Accuracy(
        lambda p, t, epsilon: jl.epsilon_insensitive_loss(p, t, epsilon=epsilon),
        lambda p, t, epsilon: max(abs(p - t) - epsilon, 0),
        "predictions targets epsilon",
        append(pairs(rng, 30, (0.1, 1)), some(rng, (0.1, 0, 1), TINY, HUGE))
        + [(p, t, 0.1) for p, t in pairs(rng, 30, (0.1,))]
        + [(2e38, -2e38, 1e38)],
    ),
    "charbonnier_loss": lambda rng: Accuracy(
        lambda p, t, epsilon: jl.charbonnier_loss(p, t, epsilon=epsilon),
        lambda p, t, epsilon: mp.sqrt((p - t) ** 2 + epsilon**2),
        "predictions targets epsilon",
        [
            *append([*PAIRS, *PAIRS], some(rng, (1e-3, 0, 1, HUGE), TINY, HUGE)),
            *[(HUGE, -HUGE, HUGE), (1e30, 1e30, TINY)],
        ],
        curved=within(1e-6, 1e6, 2),
    ),
    "robust_loss": robust_case,
    "absolute_percentage_error": lambda rng: Accuracy(
        lambda p, t, epsilon: jl.absolute_percentage_error(p, t, epsilon=epsilon),
        lambda p, t, epsilon: 100 * abs(p - t) / max(abs(t), epsilon),
        "predictions targets epsilon",
        append([*PAIRS, *PAIRS], some(rng, (1e-7,), TINY, HUGE))
        + [(TINY, 0, v) for v in (2, 5, 9)],
        curved=within(1e-15, 1e15, 1, 2),
    ),
    "squared_log_error": lambda rng: Accuracy(
        lambda p, t, epsilon: jl.squared_log_error(p, t, epsilon=epsilon),
        lambda p, t, epsilon: (
            (mp.log(1 + max(p, epsilon)) - mp.log(1 + max(t, epsilon))) ** 2
        ),
        "predictions targets epsilon",
        append([(abs(p), abs(t)) for p, t in [*PAIRS, *PAIRS]], lambda: 1e-7)
        + append(PAIRS, some(rng, (1e-7, 0), TINY, HUGE)),
    ),
    "poisson_nll_loss": lambda rng: poisson_of_log(rng, full=False),
    "poisson_nll_loss in full": lambda rng: poisson_of_log(rng, full=True),
    "poisson_nll_loss of a rate": lambda rng: poisson_of_rate(rng, full=False),
    "poisson_nll_loss of a rate in full": lambda rng: poisson_of_rate(rng, full=True),
    "gaussian_nll_loss": gaussian,
}
HALVES = pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
EACH = pytest.mark.parametrize("case", CASES)


def made(name):
    return CASES[name](np.random.default_rng(1))


def test_every_regression_loss_is_measured():
    measured = {name.split()[0] for name in CASES}
    assert measured == set(families()["regression"])


@EACH
def test_value_and_slopes_are_within_their_bound(case):
    over = ulp.over_bound(made(case))
    assert not over, over


@pytest.mark.exhaustive
@pytest.mark.any_program
@EACH
def test_second_derivatives_are_finite_where_the_true_ones_are(case):
    found = ulp.not_finite(made(case))
    assert not found, found


@pytest.mark.exhaustive
@HALVES
@EACH
def test_half_precision_rounds_the_float32_result(case, dtype):
    found = ulp.halves(made(case), dtype)
    assert not found, found


def test_log_cosh_keeps_its_digits_in_float64():
    e = np.concatenate([np.geomspace(1e-150, 700, 300), [0.75, np.nextafter(0.75, 0)]])
    with jax.enable_x64(True):
        value, slope = jax.jit(jax.vmap(jax.value_and_grad(jl.log_cosh)))(e)
    with mp.workdps(340):
        true = [mp.log(mp.cosh(mpf(x))) for x in e]
        true_slope = [mp.tanh(mpf(x)) for x in e]
    np.testing.assert_allclose(value, np.array(true, float), rtol=1e-15)
    np.testing.assert_allclose(slope, np.array(true_slope, float), rtol=1e-15)

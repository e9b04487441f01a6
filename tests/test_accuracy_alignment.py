"""Accuracy of the alignment losses over the whole range of float32."""

import jax.numpy as jnp
import numpy as np
import pytest
import ulp
from mpmath import mp, mpf
from ulp import HUGE, LADDER, TINY, Accuracy, append, near, pairs, some, spread

import jaxloss as jl

PAIRS = pairs(np.random.default_rng(0), 20)
# Margins up to where the loss underflows, and two nearly equal log-probabilities.
MARGINS = [0.0, *(s * v for v in LADDER for s in (1, -1)), 20, 50, 80, -50, 85.3]


def softplus(x):
    """log(1 + e^x), also where 1 + e^x has no digit of e^x."""
    return mp.log(1 + mp.exp(x)) if x > -200 else mp.exp(x)


def sigmoid(x):
    return mp.exp(x) / (1 + mp.exp(x)) if x < 0 else 1 / (1 + mp.exp(-x))


def curved_at(*positive):
    """Rows whose margin does not overflow, of ordinary hyperparameters."""

    def curved(*row):
        ordinary = all(1e-6 <= abs(row[n]) <= 1e6 for n in positive)
        return ordinary and max(map(abs, row)) < 1e37

    return curved


def answers(rng, count):
    """Four log-probabilities: large and nearly equal, or of several sizes."""
    rows = []
    for _ in range(count):
        base = spread(rng, 1, 1e-3, 1e4)[0]
        steps = 1 + rng.integers(-8, 9, 4) * 2.0 ** rng.integers(-23, -2)
        rows.append(tuple(np.asarray(base * steps, np.float32).tolist()))
        rows.append(tuple(spread(rng, 4, 1e-3, 300)))
        rows.append(tuple(spread(rng, 4)))
    rows += [(p, 0.0, 0.0, t) for p, t in [(HUGE, HUGE), (HUGE, -HUGE), (-2e38, 1e38)]]
    return rows + [(m, 0.0, 0.0, 0.0) for m in MARGINS]


def dpo(c, r, a, b, beta, s):
    h = beta * ((c - a) - (r - b))
    return (1 - s) * softplus(-h) + s * softplus(h)


def dpo_case(rng, smoothed):
    rows = append(answers(rng, 60), some(rng, (0.1, 1, 0.5), 1e-3, 10))
    rows = append(rows, (lambda: rng.choice([0.1, 1e-3, 1])) if smoothed else lambda: 0)

    def margin(c, r, a, b, beta, s):
        return (c - a) - (r - b)

    # A margin that overflows is infinite, even where the smoothing times it is finite.
    rows = [row for row in rows if abs(row[4] * margin(*row)) < HUGE]

    def by_margin(*row):
        beta, s = row[4:]
        h = beta * margin(*row)
        return s * sigmoid(h), (1 - s) * sigmoid(-h)

    def slope_terms(*row):
        return [row[4] * x for x in by_margin(*row)]

    def beta_terms(*row):
        return [margin(*row) * x for x in by_margin(*row)]

    terms = dict.fromkeys(range(4), slope_terms) | {4: beta_terms}
    return Accuracy(
        lambda c, r, a, b, beta, s: jl.dpo_loss(
            c, r, a, b, beta=beta, label_smoothing=s
        ),
        dpo,
        "chosen rejected reference_chosen reference_rejected beta label_smoothing",
        rows,
        slope_terms=terms,
        curved=curved_at(4),
    )


def ipo_case(rng):
    rows = append(answers(rng, 60), some(rng, (0.1, 1, 0.5), 1e-3, 10))
    rows += [(5 + e, 0, 0, 0, 0.1) for e in (1e-6, -1e-6, 3e-7, 1e-3)]

    return Accuracy(
        lambda c, r, a, b, beta: jl.ipo_loss(c, r, a, b, beta=beta),
        lambda c, r, a, b, beta: ((c - a) - (r - b) - 1 / (2 * beta)) ** 2,
        "chosen rejected reference_chosen reference_rejected beta",
        rows,
        curved=curved_at(4),
    )


def simpo_case(rng):
    rows = append(PAIRS, some(rng, (2, 1, 0.5), 1e-3, 10), some(rng, (0.5, 0), 1e-3, 9))
    return Accuracy(
        lambda c, r, beta, margin: jl.simpo_loss(c, r, beta=beta, margin=margin),
        lambda c, r, beta, margin: softplus(margin - beta * (c - r)),
        "chosen rejected beta margin",
        rows,
        curved=curved_at(2),
    )


def orpo_case(rng):
    singles = [-v for v in [*LADDER, *spread(rng, 30, 1e-9, 90, signed=False)]]
    rows = [(c, float(rng.choice(singles))) for c in singles * 6]
    rows += [(float(rng.choice(singles)), c) for c in singles * 6]
    rows += [(v, v) for v in singles] + [(0.0, v) for v in singles]
    rows += [(v, v * (1 + 2**-20)) for v in singles]
    return Accuracy(
        lambda c, r, weight: jl.orpo_loss(c, r, weight=weight),
        lambda c, r, weight: (
            weight * softplus((r - mp.log(-mp.expm1(r))) - (c - mp.log(-mp.expm1(c))))
            if c < 0 and r < 0
            else mpf(0)
            if c == 0
            else mp.nan
        ),
        "chosen rejected weight",
        append(rows, some(rng, (0.1, 1), 1e-3, 10)),
        # The definition has no value beyond 0, nor near it.
        slopes={
            0: lambda c, r, weight: (
                -weight / (mp.exp(c) * -mp.expm1(r) * mp.exp(-r) - mp.expm1(c))
            )
        },
        flushed=lambda c, r, weight: ulp.FLUSHED * max(1, weight),
        curved=lambda c, r, weight: -50 < c < -1e-6 and -50 < r < -1e-6,
    )


def kto_case(rng, desirable):
    rows = append(PAIRS, some(rng, (0, 0.5), 1e-3, 9), some(rng, (0.1, 1), 1e-3, 10))
    sign = 1 if desirable else -1
    rows = append(rows, some(rng, (1, 1.3), 1e-3, 10))

    def loss(x, reference, kl, beta, w):
        weight = {("" if desirable else "un") + "desirable_weight": w}
        good = jnp.full_like(x, desirable)
        return jl.kto_loss(x, reference, good, kl=kl, beta=beta, **weight)

    return Accuracy(
        loss,
        lambda x, reference, kl, beta, w: (
            w * sigmoid(sign * beta * (kl - x + reference))
        ),
        "log_probs reference_log_probs kl beta weight",
        rows,
        # e^-|h| times the derivative of h, and the weight.
        flushed=lambda x, reference, kl, beta, w: (
            ulp.FLUSHED * (1 + abs(x - reference - kl)) * (1 + beta) * (1 + w)
        ),
        curved=curved_at(3, 4),
    )


def gaps_and_advantages(rng):
    """Two log-probabilities of a token, of any ratio, and an advantage."""
    gaps = [*MARGINS, *spread(rng, 120, 1e-6, 200), *near(0, 0.18232156, -0.22314355)]
    for gap in gaps:
        x = spread(rng, 1, 1e-6, 60)[0]
        advantage = rng.choice([1.0, -1.0, 0.37, -2.5, spread(rng, 1, 1e-30, 1e30)[0]])
        yield float(x), float(np.float32(x - gap)), float(advantage)


def clipped_case(rng, dual):
    def bounds(x, old, advantage, low, high):
        ratio = mp.exp(x - old)
        if advantage >= 0:
            return min(ratio, 1 + high)
        ratio = max(ratio, 1 - low)
        return min(ratio, mpf(3)) if dual else ratio

    return Accuracy(
        lambda x, old, advantage, low, high: jl.clipped_policy_loss(
            x, old, advantage, clip_low=low, clip_high=high,
            dual_clip=3.0 if dual else None,
        ),
        lambda *row: -row[2] * bounds(*row),
        "log_probs old_log_probs advantages clip_low clip_high",
        append(
            gaps_and_advantages(rng), some(rng, (0.2, 0), 1e-3, 1),
            some(rng, (0.2, 0.28), 1e-3, 10),
        ),
        flushed=lambda x, old, advantage, low, high: (
            ulp.FLUSHED * max(1, abs(advantage))
        ),
        curved=lambda x, old, advantage, low, high: abs(x - old) < 1e6,
    )  # fmt: skip


def cispo_case(rng):
    def ratio(x, old, advantage):
        return min(mp.exp(x - old), mpf(5))

    return Accuracy(
        jl.cispo_loss,
        lambda x, old, advantage: -ratio(x, old, advantage) * advantage * x,
        "log_probs old_log_probs advantages",
        list(gaps_and_advantages(rng)),
        # The ratio is constant in every derivative.
        slopes={
            0: lambda x, old, advantage: -ratio(x, old, advantage) * advantage,
            1: lambda x, old, advantage: mpf(0),
        },
        flushed=lambda x, old, advantage: ulp.FLUSHED * (1 + abs(advantage * x)),
    )


def kl_case(estimator, definition):
    return lambda rng: Accuracy(
        lambda x, reference: jl.kl_estimate(x, reference, estimator=estimator),
        lambda x, reference: definition(reference - x),
        "log_probs reference_log_probs",
        pairs(rng, 40, switches=(2, 1)),
        curved=lambda x, reference: abs(x - reference) < 1e6,
    )


CASES = {
    "clipped_policy_loss": lambda rng: clipped_case(rng, dual=False),
    "clipped_policy_loss dual": lambda rng: clipped_case(rng, dual=True),
    "cispo_loss": cispo_case,
    "kl_estimate k1": kl_case("k1", lambda d: -d),
    "kl_estimate k2": kl_case("k2", lambda d: d * d / 2),
    "kl_estimate k3": kl_case("k3", lambda d: mp.expm1(d) - d),
    "dpo_loss": lambda rng: dpo_case(rng, smoothed=False),
    "dpo_loss smoothed": lambda rng: dpo_case(rng, smoothed=True),
    "ipo_loss": ipo_case,
    "simpo_loss": simpo_case,
    "orpo_loss": orpo_case,
    "kto_loss desirable": lambda rng: kto_case(rng, True),
    "kto_loss undesirable": lambda rng: kto_case(rng, False),
    "bradley_terry_loss": lambda rng: Accuracy(
        lambda c, r, margin: jl.bradley_terry_loss(c, r, margin=margin),
        lambda c, r, margin: softplus(margin - (c - r)),
        "chosen_rewards rejected_rewards margin",
        append(PAIRS, some(rng, (0, 0.5), TINY, HUGE)),
    ),
}
EACH = pytest.mark.parametrize("case", CASES)


def made(name):
    return CASES[name](np.random.default_rng(1))


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
@EACH
def test_half_precision_rounds_the_float32_result(case):
    found = ulp.halves(made(case), jnp.bfloat16)
    assert not found, found

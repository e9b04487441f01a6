"""Accuracy of the binary losses over the whole range of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import ulp
from mpmath import mp, mpf
from namespace import families
from tier import choose
from ulp import FLUSHED, HUGE, POWER, TINY, Accuracy, append, near, some, spread

import jaxloss as jl

# Where exp(-x) or 1 + exp(-x) reaches its end, besides signs and magnitudes.
EDGES = near(0.5, 1, 16.6, 17.3, 87.3, 88.7, 103.9, 104)
SOFT = (0.5, 0.1, 0.9, 1e-6, 0.25, 1 - 1e-6)


def scores(rng, count=80):
    found = [0.0, *ulp.BOTH_SIGNS, *EDGES, *(-v for v in EDGES)]
    return found + spread(rng, count // 4) + spread(rng, count, 1e-6, 110)


def log1p_exp(x):
    return mp.log(1 + mp.exp(x))


def sigmoid(x):
    return 1 / (1 + mp.exp(-x))


def cross_entropy(x, y, weight=1, smoothing=0):
    y = (1 - smoothing) * y + smoothing / mpf(2)
    return weight * y * log1p_exp(-x) + (1 - y) * log1p_exp(x)


def hard(rng):
    return Accuracy(
        jl.sigmoid_binary_cross_entropy,
        cross_entropy,
        "logits labels",
        [(x, y) for x in scores(rng) for y in (0, 1)],
    )


def soft(rng):
    return Accuracy(
        jl.sigmoid_binary_cross_entropy,
        cross_entropy,
        "logits labels",
        append(scores(rng), lambda: rng.choice(SOFT)),
        slope_terms={0: lambda x, y: ((1 - y) * sigmoid(x), y * sigmoid(-x))},
    )


def weighted(rng):
    labels = lambda: rng.choice((0, 1, *SOFT))  # noqa: E731
    rows = append(
        scores(rng) + scores(rng),
        labels,
        some(rng, (0, 1, 3), 1e-30, 1e30),
        lambda: rng.choice((0, 0.1, 1e-3, 1e-6, 1)),
    )

    def masses(y, weight, smoothing):
        positive = weight * ((1 - smoothing) * y + smoothing / 2)
        return positive, (1 - smoothing) * (1 - y) + smoothing / 2

    def slope_terms(x, y, weight, smoothing):
        positive, negative = masses(y, weight, smoothing)
        return negative * sigmoid(x), positive * sigmoid(-x)

    return Accuracy(
        lambda x, y, weight, smoothing: jl.sigmoid_binary_cross_entropy(
            x, y, pos_weight=weight, label_smoothing=smoothing
        ),
        cross_entropy,
        "logits labels pos_weight label_smoothing",
        rows,
        slope_terms={
            0: slope_terms,
            1: lambda x, y, weight, smoothing: (
                (1 - smoothing) * log1p_exp(x),
                (1 - smoothing) * weight * log1p_exp(-x),
            ),
            3: lambda x, y, weight, smoothing: (
                (mpf(1) / 2 - y) * log1p_exp(x),
                (mpf(1) / 2 - y) * weight * log1p_exp(-x),
            ),
        },
        # e^-|x| is flushed before the weight multiplies it.
        flushed=lambda x, y, weight, smoothing: FLUSHED * max(1, weight),
        curved=lambda x, y, weight, smoothing: abs(x) < 1e30,
    )


def probability(rng):
    inside = spread(rng, 100, TINY, 1, signed=False) + near(0.5) + [TINY]
    inside += [1 - v for v in spread(rng, 50, 2.0**-23, 0.5, signed=False)]
    inside += [1 - 2.0**-24]
    rows = [(p, y) for p in inside if p < 1 for y in (0, 1)]
    rows += append(inside, lambda: rng.choice(SOFT))
    return Accuracy(
        jl.binary_cross_entropy,
        lambda p, y: -(y * mp.log(p) + (1 - y) * mp.log(1 - p)),
        "probabilities labels",
        [row for row in rows if np.float32(row[0]) < 1],
        slope_terms={
            0: lambda p, y: ((1 - y) / (1 - p), y / p),
            1: lambda p, y: (mp.log(p), mp.log(1 - p)),
        },
    )


def focal_definition(x, y, gamma, alpha=None):
    miss = y * sigmoid(-x) + (1 - y) * sigmoid(x)
    loss = cross_entropy(x, y) * mp.power(miss, gamma)
    return loss if alpha is None else loss * (alpha * y + (1 - alpha) * (1 - y))


def focal(rng, labels, gammas, **options):
    def flushed(x, y, gamma):
        # Beyond 87.3, e^-|x| is 0, and so are its powers with any factor.
        power = FLUSHED ** min(gamma, 1) if abs(x) > 87.3 and gamma else FLUSHED
        return max(abs(x), 100) * power

    return Accuracy(
        lambda x, y, gamma: jl.sigmoid_focal_loss(x, y, gamma=gamma),
        focal_definition,
        "logits labels gamma",
        [
            (x, y, gamma)
            for x in scores(rng, 60)
            for y in labels(rng)
            for gamma in gammas(rng)
        ],
        # 0^gamma has no derivative in gamma at 0.
        flat=lambda x, y, gamma: (2,) if gamma == 0 else (),
        flushed=flushed,
        **options,
    )


def sparse_plus(z):
    return mpf(0) if z <= -1 else z if z >= 1 else (z + 1) ** 2 / 4


def margins(loss, definition):
    return lambda rng: Accuracy(
        loss,
        definition,
        "outputs targets",
        [(x, t) for x in scores(rng) for t in (-1, 1)],
        flushed=lambda x, t: FLUSHED * max(1, min(abs(x), 104)),
    )


CASES = {
    "sigmoid_binary_cross_entropy": hard,
    "sigmoid_binary_cross_entropy of soft labels": soft,
    "sigmoid_binary_cross_entropy with weights": weighted,
    "binary_cross_entropy": probability,
    "sigmoid_focal_loss": lambda rng: focal(
        rng, lambda rng: (0, 1), lambda rng: (0, 1, 2, 3, 5)
    ),
    "sigmoid_focal_loss of real gamma": lambda rng: focal(
        rng,
        lambda rng: (0, 1),
        lambda rng: (0.5, spread(rng, 1, 1e-3, 10, signed=False)[0]),
        relative=True,
        bound=POWER,
    ),
    "hinge_loss": margins(jl.hinge_loss, lambda x, t: max(0, 1 - x * t)),
    "squared_hinge_loss": margins(
        jl.squared_hinge_loss, lambda x, t: max(0, 1 - x * t) ** 2
    ),
    "soft_margin_loss": margins(jl.soft_margin_loss, lambda x, t: log1p_exp(-x * t)),
    "perceptron_loss": margins(jl.perceptron_loss, lambda x, t: max(0, -x * t)),
    "sparsemax_loss": lambda rng: Accuracy(
        jl.sparsemax_loss,
        lambda x, y: sparse_plus(x if y == 0 else -x),
        "logits labels",
        [(x, y) for x in scores(rng) for y in (0, 1)],
        flat=lambda x, y: (1,),
    ),
    "hinge_embedding_loss": lambda rng: Accuracy(
        lambda x, t, margin: jl.hinge_embedding_loss(x, t, margin=margin),
        lambda x, t, margin: x if t == 1 else max(0, margin - x),
        "distances targets margin",
        append(
            [(x, t) for x in scores(rng) for t in (-1, 1)],
            some(rng, (1, 0), TINY, HUGE),
        ),
        flat=lambda x, t, margin: (1,),
    ),
}
HALVES = pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
EACH = pytest.mark.parametrize("case", CASES)


def made(name):
    return CASES[name](np.random.default_rng(1))


def test_every_binary_loss_is_measured():
    measured = {name.split()[0] for name in CASES}
    assert measured == set(families()["binary"])


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


# A power multiplies what rounding took from its base, at one score in many thousands
# by more than at any of the rows above.
@pytest.mark.parametrize("label", choose([1], [0, 1]))
@pytest.mark.parametrize("gamma", choose([0, 2, 5], [0, 1, 2, 3, 5]))
def test_focal_loss_keeps_its_bound_over_many_scores(gamma, label):
    rng = np.random.default_rng(gamma)
    scores = [rng.uniform(-87, 87, 50_000), 4 * rng.normal(size=150_000)]
    x = np.concatenate(scores).astype(np.float32)

    @jax.jit
    def value_and_slopes(x):
        value, pull_back = jax.vjp(
            lambda x, y, gamma: jl.sigmoid_focal_loss(x, y, gamma=gamma),
            *(x, jnp.full_like(x, label), jnp.full_like(x, gamma)),
        )
        return value, *pull_back(jnp.ones_like(value))

    # In s = (2 y - 1) x, from the definition: f = (1 - p)^gamma softplus(-s).
    s = (2 * label - 1) * x.astype(np.float64)
    loss, miss = np.logaddexp(0, -s), 1 / (1 + np.exp(s))
    power = miss**gamma
    true = (
        power * loss,
        (1 - 2 * label) * power * (gamma * loss / (1 + np.exp(-s)) + miss),
        -gamma * miss ** (gamma - 1.0) * np.tanh(x / np.float64(2)) * loss - power * x,
        -power * loss * np.logaddexp(0, s),
    )
    for got, expected in zip(value_and_slopes(x), true, strict=True):
        unit = np.spacing(np.abs(expected).astype(np.float32))
        errors = np.abs(np.asarray(got, np.float64) - expected) / unit
        # Below that, what is taken from a normal number may be flushed to 0.
        assert np.max(errors[np.abs(expected) > 1e-36]) < 4

"""The alignment losses at their edges: numbers that simpler forms get wrong."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpmath import mp, mpf

import jaxloss as jl

pytestmark = pytest.mark.any_program


def slopes(loss, *arguments):
    every = tuple(range(len(arguments)))
    value, gradient = jax.jit(jax.value_and_grad(loss, every))(*arguments)
    return float(value), [float(x) for x in gradient]


def log_odds(x):
    x = mpf(float(np.float32(x)))
    return x - mp.log(-mp.expm1(x))


@pytest.mark.parametrize("chosen", [-1e-9, -1e-8, -1e-3, -3.0, -40.0])
@pytest.mark.parametrize("rejected", [-1e-9, -2e-8, -0.5, -20.0])
def test_orpo_has_the_odds_of_sure_answers(chosen, rejected):
    value, _ = slopes(lambda c, r: jl.orpo_loss(c, r, weight=1.0), chosen, rejected)
    true = mp.log1p(mp.exp(log_odds(rejected) - log_odds(chosen)))
    np.testing.assert_allclose(value, float(true), rtol=5e-7)


def test_orpo_of_a_sure_answer():
    """The odds are infinite; the slope is that of the limit, -o(rejected)."""
    odds = np.exp(-1.0) / -np.expm1(-1.0)
    value, (by_chosen, by_rejected) = slopes(
        lambda c, r: jl.orpo_loss(c, r, weight=2.0), 0.0, -1.0
    )
    assert value == 0
    np.testing.assert_allclose(by_chosen, -2 * odds, rtol=1e-6)
    assert by_rejected == 0
    value, (by_chosen, by_rejected) = slopes(jl.orpo_loss, -1.0, 0.0)
    assert value == np.inf
    np.testing.assert_allclose(by_chosen, 0.1 / np.expm1(-1.0), rtol=1e-6)
    assert by_rejected == np.inf


@pytest.mark.parametrize("desirable", [True, False])
def test_kto_keeps_what_a_sigmoid_lacks_to_one(desirable):
    """1 - sigmoid(20) is 2.06e-9, not 0."""
    sign = 1.0 if desirable else -1.0
    value, (slope,) = slopes(
        lambda x: jl.kto_loss(x, 0.0, desirable, beta=1.0), 20.0 * sign
    )
    np.testing.assert_allclose(value, 2.0611536e-9, rtol=1e-6)
    np.testing.assert_allclose(slope, -sign * 2.0611536e-9, rtol=1e-6)


def test_kto_takes_booleans_and_numbers_alike():
    x = jnp.array([0.5, -1.0])
    kinds = [np.array([1, 0], d) for d in (bool, np.int32, np.float32)]
    first, *others = [np.asarray(jl.kto_loss(x, 0.0, kind)) for kind in kinds]
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_long_answers_keep_the_digits_of_their_difference():
    """-30000.002 and -30000 in float32 differ by 0.00195, not by 0."""
    value, (slope, *_) = slopes(
        lambda *x: jl.dpo_loss(*x, beta=1.0), -30000.002, -30000.0, 12345.678, 12345.0
    )
    d = np.float32(-30000.002) + 30000.0 - (float(np.float32(12345.678)) - 12345.0)
    np.testing.assert_allclose(value, np.log1p(np.exp(-d)), rtol=2e-7)
    np.testing.assert_allclose(slope, -1 / (1 + np.exp(d)), rtol=2e-7)


IMPOSSIBLE = [
    (jl.dpo_loss, np.inf, 0.1),
    (jl.ipo_loss, np.inf, np.inf),
    (jl.simpo_loss, np.inf, 2.0),
    (jl.orpo_loss, np.inf, 0.1),
    (jl.bradley_terry_loss, np.inf, 1.0),
]


@pytest.mark.parametrize(("loss", "value", "slope"), IMPOSSIBLE)
def test_impossible_chosen_answer(loss, value, slope):
    found, (by_chosen, _) = slopes(loss, -np.inf, -1.0)
    assert found == value
    np.testing.assert_allclose(by_chosen, -slope, rtol=1e-6)


@pytest.mark.parametrize(
    "loss", [loss for loss, *_ in IMPOSSIBLE if loss != jl.ipo_loss]
)
def test_impossible_rejected_answer(loss):
    assert slopes(loss, -1.0, -np.inf) == (0, [0, 0])


def test_simpo_subtracts_the_margin_outside_of_beta():
    value, _ = slopes(
        lambda c, r: jl.simpo_loss(c, r, beta=2.0, margin=0.5), -1.0, -2.0
    )
    np.testing.assert_allclose(value, np.log1p(np.exp(-1.5)), rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: jl.dpo_loss([0.0], [0.0], beta=-1.0), "`beta` must be in [0, inf]"),
        (
            lambda: jl.dpo_loss([0.0], [0.0], label_smoothing=1.5),
            "`label_smoothing` must be in [0, 1]",
        ),
        (lambda: jl.ipo_loss([0.0], [0.0], beta=0.0), "`beta` must be in (0, inf]"),
        (lambda: jl.orpo_loss([0.0], [0.0], weight=-1), "`weight` must be in [0"),
        (
            lambda: jl.kto_loss([0.0], [0.0], [True], desirable_weight=-1.0),
            "`desirable_weight` must be in [0",
        ),
        (
            lambda: jl.dpo_loss(np.zeros(3), np.zeros((3, 1))),
            "`rejected` must broadcast to the shape of chosen (3,)",
        ),
    ],
)
def test_bad_arguments_are_named(call, text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        call()

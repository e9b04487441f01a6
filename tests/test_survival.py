"""Cox's partial likelihood: ties, strata, case weights, huge hazards, no events."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases.forecast import cox
from common import assert_close

import jaxloss as jl

pytestmark = [pytest.mark.usefixtures("device"), pytest.mark.any_program]

SUBJECTS = 12
TIES = pytest.mark.parametrize("ties", ["efron", "breslow"])


@jax.jit
def both(x, times, events, strata, weights):
    """Losses and the gradient of their mean, for either way to count ties."""
    found = {}
    for ties in ("efron", "breslow"):

        def loss(x, weights, reduction, ties=ties):
            options = {"strata": strata, "weights": weights, "ties": ties}
            return jl.cox_partial_likelihood_loss(
                x, times, events, reduction=reduction, **options
            )

        mean = jax.value_and_grad(loss, (0, 1))(x, weights, "mean")
        found[ties] = loss(x, weights, "none"), *mean
    return found


def sample(spread=3.0, seed=0):
    """Log-hazards, times of which many are equal, events, strata and weights."""
    rng = np.random.default_rng(seed)
    return (
        (rng.normal(size=SUBJECTS) * spread).astype(np.float32),
        rng.integers(0, 5, SUBJECTS).astype(np.int32),
        rng.random(SUBJECTS) < 0.7,
        rng.integers(0, 2, SUBJECTS).astype(np.int32),
        rng.choice([0, 0.5, 1, 2.5], SUBJECTS).astype(np.float32),
    )


@TIES
@pytest.mark.parametrize("spread", [0.5, 3.0, 40.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_is_that_of_the_definition(ties, spread, weighted):
    # The reference, a logarithm of a sum in float64, is right to 1e-13. Weights below 1
    # make terms of both signs, which may cancel to rounding.
    atol = 2.0**-24 if weighted else 1e-13
    for seed in range(5):
        x, times, events, strata, w = sample(spread, seed)
        w = w if weighted else np.ones_like(w)
        none, mean, _ = both(x, times, events, strata, w)[ties]
        wide = x.astype(float), times, events, w.astype(float)
        expected = cox(*wide[:3], weights=wide[3], strata=strata, ties=ties)
        np.testing.assert_allclose(none, expected, rtol=3e-6, atol=atol)
        mass = w[events].sum()
        np.testing.assert_allclose(mean, expected.sum() / max(mass, 1e-9), rtol=3e-6)


@TIES
def test_excluded_subjects_are_as_if_they_had_never_been(ties):
    x, times, events, strata, w = sample()
    keep = np.arange(SUBJECTS) % 4 != 1
    w[w == 0] = 0.5

    def loss(x, weights, reduction, where=None, times=times):
        return jl.cox_partial_likelihood_loss(
            x, times, events, ties=ties, strata=strata, where=where, weights=weights,
            reduction=reduction,
        )  # fmt: skip

    expected = np.zeros(SUBJECTS)
    wide = x.astype(float)[keep], times[keep], events[keep], w.astype(float)[keep]
    expected[keep] = cox(*wide[:3], weights=wide[3], strata=strata[keep], ties=ties)
    spoiled = np.where(keep, x, np.nan)
    late = np.where(keep, times, np.nan).astype(np.float32)
    np.testing.assert_allclose(
        loss(spoiled, w, "none", keep, late), expected, rtol=3e-6, atol=1e-30
    )
    dropped = np.where(keep, w, 0)
    np.testing.assert_allclose(
        loss(spoiled, dropped, "none", None, late), expected, rtol=3e-6, atol=1e-30
    )
    for reduction in ("sum", "mean"):
        by_mask = jax.value_and_grad(loss)(x, w, reduction, keep)
        by_weight = jax.value_and_grad(loss)(spoiled, dropped, reduction, None, late)
        assert_close(by_weight, by_mask)
        assert not np.any(np.asarray(by_weight[1])[~keep])


@TIES
def test_without_events_there_is_no_loss(ties):
    x = jnp.float32([3.0, -2.0, 0.5])

    def mean(x, events, **tail):
        return jl.cox_partial_likelihood_loss(x, [1, 2, 2], events, ties=ties, **tail)

    for events, tail in (
        (jnp.zeros(3), {}),
        (jnp.ones(3), {"where": jnp.zeros(3, bool)}),
        (jnp.ones(3), {"weights": jnp.zeros(3)}),
    ):
        value, slope = jax.value_and_grad(mean)(x, events, **tail)
        assert value == 0
        assert not np.any(slope)
    nobody = jnp.zeros(0)
    assert jl.cox_partial_likelihood_loss(nobody, nobody, nobody, ties=ties) == 0


def test_ties_of_the_whole_batch_leave_one_share_after_the_other():
    """log(1 - l/d) for equal hazards: the mean of log(d - l) is log(d!)/d."""
    n = 500
    value, slope = jax.value_and_grad(jl.cox_partial_likelihood_loss)(
        jnp.full(n, 80.0), jnp.zeros(n), jnp.ones(n)
    )
    np.testing.assert_allclose(value, math.lgamma(n + 1) / n, rtol=2e-6)
    np.testing.assert_allclose(slope, np.zeros(n), atol=1e-8)


def test_huge_hazards_and_sure_events_keep_their_digits():
    def none(x):
        return jl.cox_partial_likelihood_loss(
            jnp.float32(x), [1, 2, 3, 4], [1, 1, 0, 0], reduction="none"
        )

    rest = math.log1p(math.fsum(math.exp(v - 20) for v in (0, -0.5, 0.25)))
    np.testing.assert_allclose(none([20, 0, -0.5, 0.25])[0], rest, rtol=1e-6)
    huge = none([1e4, -1e4, 3, 5])
    expected = [0, 1e4 + 5 + math.log1p(math.exp(-2)), 0, 0]
    np.testing.assert_allclose(huge, expected, rtol=1e-6)
    assert none([3e38, -3e38, 0, 0])[1] == np.float32(3e38)
    slope = jax.grad(lambda x: none(x)[:2].sum())(jnp.float32([3e38, -3e38, 0, 0]))
    np.testing.assert_allclose(slope, [0, -1, 0.5, 0.5], rtol=1e-6)


def test_an_impossible_event_is_infinite_without_nan():
    def none(x):
        return jl.cox_partial_likelihood_loss(
            x, [1, 2, 3, 3], [1, 1, 1, 1], reduction="none"
        )

    x = jnp.array([-jnp.inf, 0.0, 0.0, 0.0])
    assert np.isposinf(none(x)).tolist() == [True, False, False, False]
    slope = jax.grad(lambda x: none(x).sum())(x)
    assert np.isfinite(slope).all()
    assert slope[0] == 0


def test_order_of_times_is_all_that_counts():
    x, times, events, *_ = sample()
    plain = jl.cox_partial_likelihood_loss(x, times, events)
    for other in (times * 7.5 - 3.0, times - 10, times + 2**30):
        found = jl.cox_partial_likelihood_loss(x, other.astype(other.dtype), events)
        np.testing.assert_allclose(found, plain, rtol=1e-6)
    order = np.random.default_rng(1).permutation(SUBJECTS)
    found = jl.cox_partial_likelihood_loss(x[order], times[order], events[order])
    np.testing.assert_allclose(found, plain, rtol=2e-6)


def test_events_at_one_time_have_their_mean():
    x = [0.3, -1.0, 2.0]
    none = jl.cox_partial_likelihood_loss(x, [1, 1, 1], [1, 1, 0], reduction="none")
    a, b, c = (math.exp(v) for v in x)
    mean = (math.log(a + b + c) + math.log((a + b) / 2 + c) - x[0] - x[1]) / 2
    np.testing.assert_allclose(none, [mean, mean, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (
            lambda x: jl.cox_partial_likelihood_loss(x[None], x, x),
            ValueError,
            "`log_hazards` must have shape [N], got shape (1, 3).",
        ),
        (
            lambda x: jl.cox_partial_likelihood_loss(x, x[:, None], x),
            ValueError,
            "`times` must broadcast to the shape of log_hazards (3,), "
            "got shape (3, 1); drop its last axis with `times[..., 0]`.",
        ),
        (
            lambda x: jl.cox_partial_likelihood_loss(x, x, x, ties="exact"),  # type: ignore[arg-type]
            ValueError,
            "`ties` must be one of 'efron', 'breslow', got 'exact'.",
        ),
        (
            lambda x: jl.cox_partial_likelihood_loss(x, x, x, strata=x),
            TypeError,
            "`strata` must be integer stratum indices, got float32.",
        ),
    ],
)
def test_message_says_what_came_and_what_was_expected(call, kind, text):
    with pytest.raises(kind) as error:
        call(jnp.ones(3))
    assert str(error.value) == text


def test_lifelines_agrees():
    """On Efron's ties, the only ones that it has, with strata and case weights."""
    lifelines = pytest.importorskip("lifelines")
    x, times, events, strata, _ = sample()
    w = np.random.default_rng(1).choice([0.5, 1, 2.5], SUBJECTS).astype(np.float32)
    fitter = lifelines.CoxPHFitter()
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": x, "t": times, "e": events, "w": w, "s": strata})
    with pytest.warns():  # weights that are no integers
        fitter.fit(frame, "t", "e", weights_col="w", strata=["s"])
    fitted = (x - x.mean()) * np.float32(fitter.params_["x"])
    found = jl.cox_partial_likelihood_loss(
        fitted, times, events, strata=strata, weights=w, reduction="sum"
    )
    np.testing.assert_allclose(found, -fitter.log_likelihood_, rtol=1e-5)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_an_event_that_is_neither_0_nor_1_makes_the_loss_nan(reduction):
    x, times = jnp.arange(4.0), jnp.arange(4)
    for events in ([2, 0, 0, 0], [0, -1, 0, 0], [1, 0, np.nan, 1]):
        loss = jl.cox_partial_likelihood_loss(x, times, events, reduction=reduction)
        assert np.isnan(loss).any()


def test_integers_of_64_bits_are_compared_as_they_are():
    """Milliseconds since 1970 fit neither int32 nor the digits of float32."""
    x, times, events, strata, _ = sample()
    loss = jl.cox_partial_likelihood_loss(x, times, events, strata=strata)
    wide = 1_600_000_000_000 + times.astype(np.int64), 2**40 * strata.astype(np.int64)
    for kind in (np.asarray, np.ndarray.tolist):
        late, groups = map(kind, wide)
        found = jl.cox_partial_likelihood_loss(x, late, events, strata=groups)
        assert found == loss

"""Ensembles: digits, ranks of equal members, kinks and infinities."""

from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog import CASES
from common import assert_close
from jax.experimental import checkify
from mpmath import mp, mpf

import jaxloss as jl
from jaxloss._core.compilers import pieces
from jaxloss.forecast import energy

pytestmark = [pytest.mark.usefixtures("device"), pytest.mark.any_program]


def exact_crps(members, target, fairness):
    """The definition by pairs, in rational numbers."""
    x, y, f = [Fraction(float(a)) for a in members], Fraction(float(target)), fairness
    m = len(x)
    c = (1 - f) / (2 * m**2) + (f / (2 * m * (m - 1)) if f else 0)
    error = sum((abs(a - y) for a in x), Fraction(0)) / m
    return error - c * sum((abs(a - b) for a in x for b in x), Fraction(0))


def ensembles() -> tuple[np.ndarray, np.ndarray]:
    """[32, 6] members and [32] targets: far offsets, ties, huge and tiny numbers."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 6)) * 10.0 ** rng.integers(-3, 4, (32, 1))
    x[4:8] += 1e6
    x[8:12] = np.round(x[8:12])
    x[12:16] *= 1e34
    x[16:20] *= 1e-30
    y = x[:, 0] + rng.normal(size=32) * x.std(1) * rng.choice([0, 1, 30], 32)
    x[20] = x[20, 0]
    x[21] = [3e38, -3e38, 3e38, -3e38, 1e38, 0]
    y[21] = 2e38
    return x.astype(np.float32), y.astype(np.float32)


@pytest.mark.parametrize("fairness", [0.0, 0.5, 1.0])
def test_crps_has_all_digits(fairness):
    x, y = ensembles()
    found = jl.crps_ensemble_loss(x, y, fairness=jnp.float32(fairness))
    expected = [
        float(exact_crps(*row, Fraction(fairness))) for row in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-37)


def test_crps_slopes_are_those_of_the_definition():
    """Differences over half the distance to the next kink are exact."""
    x = np.array([0.0, 2.0, 1.0, 4.0])
    for y in (-1.0, 0.5, 3.0, 5.0):
        for f in (0.0, 0.25, 1.0):
            f_ = Fraction(f)
            expected = []
            for i in range(4):
                step = np.eye(4)[i] / 4
                change = exact_crps(x + step, y, f_) - exact_crps(x - step, y, f_)
                expected.append(float(2 * change))
            up, down = exact_crps(x, y + 0.25, f_), exact_crps(x, y - 0.25, f_)
            at_ends = exact_crps(x, y, Fraction(1)) - exact_crps(x, y, Fraction(0))
            expected += [float(2 * (up - down)), float(at_ends)]
            found = jax.grad(
                lambda x, y, f: jl.crps_ensemble_loss(x, y, fairness=f), (0, 1, 2)
            )(jnp.float32(x), jnp.float32(y), jnp.float32(f))
            np.testing.assert_allclose(np.hstack(found), expected, rtol=1e-6, atol=1e-8)


def test_equal_members_share_their_ranks_and_a_hit_has_slope_zero():
    x, y = jnp.array([1.0, 1.0, 3.0, 1.0]), 2.0
    slope = jax.grad(lambda x: jl.crps_ensemble_loss(x, y))(x)
    # Ranks 2, 2, 4, 2: t is -1, -1, 3, -1 of M = 4.
    np.testing.assert_allclose(slope, np.array([-2, -2, 0, -2]) / 12, rtol=1e-6)
    slopes = jax.grad(jl.crps_ensemble_loss, (0, 1))(jnp.array([2.0, 2.0]), y)
    assert not any(np.any(s) for s in slopes)


def test_members_of_few_values_have_the_ranks_of_all_pairs():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 5, (40, 9)).astype(np.float32)
    tilt = np.sign(x[:, :, None] - x[:, None]).sum(-1)
    slope = jax.grad(lambda x: jl.crps_ensemble_loss(x, -1.0, reduction="sum"))(x)
    np.testing.assert_allclose(slope, (8 - tilt) / 72, rtol=1e-6, atol=1e-8)


def test_one_member_is_an_absolute_error_and_has_no_fairness():
    x, y = jnp.array([[1.0], [4.0]]), jnp.array([3.0, 2.0])
    plain = jl.crps_ensemble_loss(x, y, fairness=0.0)
    assert plain.tolist() == [2, 2]
    assert jax.grad(lambda y: jl.crps_ensemble_loss(x[0], y, fairness=0.0))(3.0) == 1
    for fairness in (1.0, 0.5, 1, np.float32(1), np.float64(0.5), np.int32(1)):
        with pytest.raises(ValueError, match="`fairness` must be 0"):
            jl.crps_ensemble_loss(x, y, fairness=fairness)
        with pytest.raises(ValueError, match="`fairness` must be 0"):
            jl.energy_score_loss(x[..., None], y[..., None], fairness=fairness)
    for fairness in (np.float32(0), np.int64(0)):
        assert jl.crps_ensemble_loss(x, y, fairness=fairness).tolist() == [2, 2]
    traced = jl.crps_ensemble_loss(x, y, fairness=jnp.array([0.0, 0.5]))
    np.testing.assert_array_equal(traced, [2, np.nan])


ENSEMBLES: Any = [
    lambda x, y, **options: jl.crps_ensemble_loss(x, y, **options),
    lambda x, y, **options: jl.energy_score_loss(x[..., None], y[..., None], **options),
]


@pytest.mark.parametrize("loss", ENSEMBLES)
def test_traced_options_out_of_range_are_nan_and_named_by_checkify(loss):
    """Also where all points are equal, so that no distance depends on the option."""
    rng = np.random.default_rng(0)
    x, y = np.float32(rng.normal(size=(4, 3))), np.float32(rng.normal(size=4))
    x[2], y[2], x[3], y[3] = 1, 1, 1, 1

    def check(count, name, option, text, where=None):
        def run(x, y, option):
            return loss(x, y, where=where, **{name: option})

        program = checkify.checkify(jax.jit(run), errors=checkify.user_checks)
        error, value = program(x[:, :count], y, jnp.float32(option))
        np.testing.assert_array_equal(np.isnan(value), np.array(text) != "")
        return error.get()

    bad = "`fairness` must be in [0, 1]"
    assert bad in check(3, "fairness", [0.5, 1.5, -0.1, 1], ["", bad, bad, ""])
    assert check(3, "fairness", [0, 1, 1, 0.5], [""] * 4) is None
    bad = "`fairness` must be 0.0 for an ensemble of one member"
    assert bad in check(1, "fairness", [0, 1e-3, 1, 0], ["", bad, bad, ""])
    if loss is ENSEMBLES[1]:
        bad = "`power` must be in (0, 2]"
        assert bad in check(3, "power", [2, 0, 2.1, 1], ["", bad, bad, ""])
        assert check(3, "power", [2, 1, 0.1, 1], [""] * 4) is None
    excluded = np.array([True, False, False, True])
    assert check(3, "fairness", [0.5, 1.5, -0.1, 1], [""] * 4, excluded) is None


def test_an_infinite_member_spoils_its_own_example_only():
    x, y = ensembles()
    plain = np.asarray(jl.crps_ensemble_loss(x, y))
    x[1, 2], x[3, 0], y[5] = np.inf, -np.inf, np.inf
    found = np.asarray(jl.crps_ensemble_loss(x, y))
    spoiled = np.isin(np.arange(32), [1, 3, 5])
    assert not np.isfinite(found[spoiled]).any()
    np.testing.assert_array_equal(found[~spoiled], plain[~spoiled])
    almost = np.asarray(jl.crps_ensemble_loss(x, y, fairness=0.5))
    assert np.isposinf(almost[spoiled]).all()


def test_members_may_stand_on_any_axis():
    x, y = ensembles()
    x, y = x.reshape(4, 8, 6), y.reshape(4, 8)

    def results(x, axis):
        value, pull = jax.vjp(lambda x: jl.crps_ensemble_loss(x, y, axis), x)
        return value, pull(value)[0]

    plain, slope = results(x, -1)
    for axis in (0, 1, -2):
        value, turned = results(np.moveaxis(x, -1, axis), axis)
        np.testing.assert_array_equal(value, plain)
        np.testing.assert_array_equal(np.moveaxis(turned, axis, -1), slope)


def paths(shape=(4, 5, 3)):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(np.float32)
    return x, rng.normal(size=(*shape[:-2], shape[-1])).astype(np.float32)


@pytest.mark.parametrize("fairness", [0.0, 0.6, 1.0])
def test_energy_score_of_one_component_is_the_crps(fairness):
    x, y = paths((7, 6, 1))
    found = jl.energy_score_loss(x, y, fairness=fairness)
    expected = jl.crps_ensemble_loss(x[..., 0], y[..., 0], fairness=fairness)
    np.testing.assert_allclose(found, expected, rtol=3e-6, atol=1e-6)


def test_energy_score_of_power_2_is_that_of_the_means():
    """(1/M) Σ|x_i - y|² less half the mean squared distance is |mean - y|²."""
    x, y = paths()
    exact = np.sum((x.mean(1, dtype=float) - y) ** 2, -1)
    found = jl.energy_score_loss(x, y, power=2.0, fairness=0.0)
    # Both terms, of which this one is the larger, are sums with a few roundings.
    larger = np.mean(np.sum((x - y[:, None].astype(float)) ** 2, -1), -1)
    np.testing.assert_array_less(np.abs(found - exact), 8 * 2.0**-24 * larger)


def test_any_chunks_have_the_same_score_and_slopes():
    x, y = paths()

    @jax.jit
    def results(x, y, power):
        def loss(x, y, power, chunk_size):
            return jl.energy_score_loss(
                x, y, power=power, chunk_size=chunk_size, reduction="sum"
            )

        return [
            jax.value_and_grad(loss, (0, 1, 2))(x, y, power, chunk_size)
            for chunk_size in (None, 1, 2, 9)
        ]

    whole, *chunks = results(x, y, 1.3)
    for found in chunks:
        assert_close(found, whole)


def test_energy_score_of_examples_in_pieces(monkeypatch):
    """Pieces of three examples, of thirteen: value and slopes of the definition."""
    rng = np.random.default_rng(0)
    x, y = np.float32(rng.normal(size=(13, 3, 2))), np.float32(rng.normal(size=(13, 2)))
    line, power = np.cos(np.arange(x.size, dtype=np.float32)).reshape(x.shape), 1.3

    def program():
        def total(x):
            return jl.energy_score_loss(x, y, power=power, reduction="sum")

        gradient = jax.grad(total)
        return total(x), gradient(x), jax.jvp(gradient, (x,), (line,))[1]

    def measured():
        jax.clear_caches()
        lowered = jax.jit(program).lower()
        return lowered.as_text().count("stablehlo.while"), lowered.compile()()

    loops, (_, _, second) = measured()
    monkeypatch.setattr(energy, "_CACHED", 64)
    monkeypatch.setattr(pieces, "_PIECE", 64)
    more_loops, (value, slope, second_in_pieces) = measured()
    jax.clear_caches()
    assert (loops, more_loops > 0) == (0, True)
    assert_close(second_in_pieces, second, 1e-5)

    exact, expected = 0.0, np.zeros(x.shape)
    wide, seen = x.astype(float), y.astype(float)
    for i, j in np.ndindex(13, 3):
        d = wide[i, j] - seen[i]
        exact += np.linalg.norm(d) ** power / 3
        expected[i, j] += power * np.linalg.norm(d) ** (power - 2) * d / 3
        for k in {0, 1, 2} - {j}:  # with the weight 1/(2 M (M - 1)), as i and as j
            d = wide[i, j] - wide[i, k]
            exact -= np.linalg.norm(d) ** power / 12
            expected[i, j] -= power * np.linalg.norm(d) ** (power - 2) * d / 6
    np.testing.assert_allclose(value, exact, rtol=1e-6)
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-6)


def test_axes_of_an_energy_score_may_stand_anywhere():
    x, y = paths()
    plain = jl.energy_score_loss(x, y)
    turned = np.moveaxis(x, (1, 2), (2, 0))
    found = jl.energy_score_loss(turned, y.T, member_axis=2, axis=0)
    np.testing.assert_allclose(found, plain, rtol=1e-6)


def test_coincident_points_have_slope_zero():
    x, y = jnp.array([[1.0, 2.0], [1.0, 2.0]]), jnp.array([1.0, 2.0])

    def loss(x, y, power):
        return jl.energy_score_loss(x, y, power=power)

    for power in (0.3, 1.0, 2.0):
        value, slopes = jax.value_and_grad(loss, (0, 1, 2))(x, y, power)
        assert value == 0
        assert not any(np.any(s) for s in slopes)
    assert np.isfinite(jax.hessian(loss)(x, y, 1.0)).all()


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_energy_score_of_tiny_and_huge_vectors(size):
    x, y = paths()
    run = jax.value_and_grad(lambda x, y: jl.energy_score_loss(x, y, reduction="sum"))
    value, slope = run(x, y)
    found, found_slope = run(x * np.float32(size), y * np.float32(size))
    np.testing.assert_allclose(found / np.float32(size), value, rtol=3e-6)
    np.testing.assert_allclose(found_slope, slope, rtol=1e-5, atol=1e-6)


def exact_energy(members, target, power, fairness):
    """Score, slopes in members, and what each adds up: the definition by pairs.

    With 60 digits: the terms may exceed float64, and cancel.
    """
    rows = [[mpf(float(a)) for a in row] for row in members]
    goal, p, f = [mpf(float(a)) for a in target], mpf(power), mpf(fairness)
    m = len(rows)
    c = (1 - f) / (2 * m * m) + f / (2 * m * (m - 1))
    pairs = [(i, None, 1 / mpf(m)) for i in range(m)]
    pairs += [(i, j, -c) for i in range(m) for j in range(m) if i != j]
    value, largest = mpf(0), mpf(0)
    slopes, sizes = ([[mpf(0)] * len(goal) for _ in rows] for _ in range(2))
    for i, j, share in pairs:
        other = goal if j is None else rows[j]
        d = [a - b for a, b in zip(rows[i], other, strict=True)]
        r = mp.sqrt(sum(a * a for a in d))
        if not r:
            continue
        value += share * r**p
        largest = max(largest, r**p)
        for k, a in enumerate(d):
            part = (1 if j is None else 2) * share * p * r ** (p - 2) * a
            slopes[i][k] += part
            sizes[i][k] += abs(part)
    return value, largest, slopes, sizes


# By power: the terms, their sum, or the differences themselves are out of range.
HUGE: Any = [
    ([[1e38, 0], [-1e38, 0]], [0, 0]),
    ([[2e38, 0], [-2e38, 0]], [0, 0]),
    ([[3e38, 3e38, 0], [-3e38, 0, 0]], [0, 0, 0]),
    ([[1.8e19, 0], [0, 0]], [0, 0]),
    ([[2e19, 0], [0, 0]], [0, 0]),
    ([[1e38, 0], [0, 0], [-2e38, 1e37]], [1e38, 1e37]),
    # Members that are close keep their slopes beside others that are far.
    ([[1e-30, 0], [2e-30, 1e-30], [3e38, -3e38]], [0, 0]),
    ([[1e-30, 0], [2e-30, 1e-30], [0, 0]], [1e38, 1e38]),
]


@pytest.mark.parametrize("fairness", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("power", [0.25, 0.5, 1.0, 1.5, 2.0])
def test_energy_score_is_right_wherever_it_is_in_range(power, fairness):
    @jax.jit
    def by_blocks(x, y, power):
        def loss(x):
            return jl.energy_score_loss(
                x, y, power=power, fairness=fairness, chunk_size=1
            )

        return jax.value_and_grad(loss)(x)

    def as_constant(x, y, power):
        def loss(x):
            return jl.energy_score_loss(x, y, power=power, fairness=fairness)

        return jax.value_and_grad(loss)(x)

    greatest, fine = float(np.finfo(np.float32).max), mpf(2) ** -18
    for x, y in HUGE:
        x, y = np.float32(x), np.float32(y)
        with mp.workdps(60):
            value, largest, slopes, sizes = exact_energy(x, y, power, fairness)
            for run in (by_blocks, as_constant):
                found, slope = run(x, y, power)
                # Where terms beyond the range cancel, their rounding may exceed it.
                if abs(value) < greatest and (value == 0 or largest < 1e43):
                    assert abs(mpf(float(found)) - value) <= fine * largest, (x, y)
                for i, k in np.ndindex(x.shape):
                    if abs(slopes[i][k]) < greatest:
                        off = abs(mpf(float(slope[i, k])) - slopes[i][k])
                        assert off <= fine * sizes[i][k] + mpf("1e-37"), (x, y, i, k)


def test_an_infinite_component_spoils_its_own_example_only():
    x, y = paths()
    plain = np.asarray(jl.energy_score_loss(x, y))
    x[1, 2, 0], y[3, 1] = np.inf, -np.inf
    found = np.asarray(jl.energy_score_loss(x, y))
    assert not np.isfinite(found[[1, 3]]).any()
    np.testing.assert_array_equal(found[[0, 2]], plain[[0, 2]])


def test_differences_of_all_pairs_never_exist_at_once():
    x, y = jnp.zeros((8, 64, 16)), jnp.zeros((8, 16))

    def loss(x, chunk_size):
        return jl.energy_score_loss(x, y, chunk_size=chunk_size, reduction="mean")

    def temporaries(chunk_size):
        program = jax.jit(jax.value_and_grad(loss), static_argnums=1)
        memory = program.lower(x, chunk_size).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    assert temporaries(1) < 8 * x.nbytes
    assert temporaries(1) < temporaries(64) / 4


AXES: Any = (0, 1)


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (
            lambda: jl.crps_ensemble_loss(jnp.ones((4, 3)), jnp.ones((4, 1))),
            ValueError,
            "`targets` must broadcast to the shape of the per-example loss (4,), got "
            "shape (4, 1); drop its last axis with `targets[..., 0]`.",
        ),
        (
            lambda: jl.crps_ensemble_loss(jnp.ones((4, 0)), jnp.ones(4)),
            ValueError,
            "`members` must have at least one member, got shape (4, 0) with axis=-1.",
        ),
        (
            lambda: jl.crps_ensemble_loss(jnp.ones((4, 3)), jnp.ones(4), fairness=1.5),
            ValueError,
            "`fairness` must be in [0, 1], got 1.5.",
        ),
        (
            lambda: jl.energy_score_loss(jnp.ones((4, 3, 2)), jnp.ones((4, 3))),
            ValueError,
            "`targets` must broadcast to the shape of members without their axis "
            "(4, 2), got shape (4, 3).",
        ),
        (
            lambda: jl.energy_score_loss(
                jnp.ones((4, 3, 2)), jnp.ones((4, 2)), member_axis=2
            ),
            ValueError,
            "`member_axis` must differ from axis, got 2 for both.",
        ),
        (
            lambda: jl.energy_score_loss(jnp.ones((3, 2)), jnp.ones(2), power=2.5),
            ValueError,
            "`power` must be in (0, 2], got 2.5.",
        ),
        (
            lambda: jl.energy_score_loss(jnp.ones((3, 2)), jnp.ones(2), chunk_size=0),
            ValueError,
            "`chunk_size` must be at least 1, got 0.",
        ),
        (
            lambda: jl.energy_score_loss(jnp.ones((1, 2)), jnp.ones(2)),
            ValueError,
            "`fairness` must be 0.0 for an ensemble of one member, which has no "
            "spread, got 1.0.",
        ),
        (
            lambda: jl.crps_ensemble_loss(jnp.ones((4, 3)), jnp.ones(4), AXES),
            TypeError,
            "`axis` must be an int, got (0, 1).",
        ),
        (
            lambda: jl.energy_score_loss(
                jnp.ones((4, 3, 2)), jnp.ones((4, 2)), axis=AXES
            ),
            TypeError,
            "`axis` must be an int, got (0, 1).",
        ),
        (
            lambda: jl.energy_score_loss(jnp.ones((4, 3, 0)), jnp.ones((4, 0))),
            ValueError,
            "`members` must have at least one component, got shape (4, 3, 0) with "
            "axis=-1.",
        ),
    ],
)
def test_message_says_what_came_and_what_was_expected(call, kind, text):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == text


def test_scoringrules_agrees():
    rng = np.random.default_rng(0)
    peer = pytest.importorskip("scoringrules")
    x, y = rng.normal(size=(9, 5)), rng.normal(size=9)
    for fairness, estimator in ((0.0, "nrg"), (1.0, "fair")):
        expected = peer.crps_ensemble(y, x, estimator=estimator)
        found = jl.crps_ensemble_loss(np.float32(x), np.float32(y), fairness=fairness)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_no_array_has_a_square_of_the_members():
    case = next(c for c in CASES if c.id == "crps_ensemble_loss")
    x, y = jnp.ones((8, 512)), jnp.ones(8)

    def loss(x):
        return case.loss(x, y, reduction="mean")

    compiled = jax.jit(jax.value_and_grad(loss)).lower(x).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 16 * x.nbytes


def test_scoringrules_agrees_on_vectors():
    peer = pytest.importorskip("scoringrules")
    x, y = paths((5, 6, 3))
    expected = peer.es_ensemble(y, x, estimator="nrg")
    found = jl.energy_score_loss(x, y, fairness=0.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

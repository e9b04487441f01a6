"""The alignment losses at their edges: numbers that simpler forms get wrong."""

import functools
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


@pytest.mark.parametrize(
    ("gap", "value", "slope"),
    [
        (1e-4, 5.000167e-9, -1.0000500e-4),
        (-1e-4, 4.999833e-9, 9.9995e-5),
        (-1e4, 9999.0, 1.0),
        (1e4, np.inf, -np.inf),
    ],
)
def test_k3_keeps_its_digits_and_its_range(gap, value, slope):
    found, (of_policy, of_reference) = slopes(jl.kl_estimate, 0.0, gap)
    np.testing.assert_allclose(found, value, rtol=1e-6)
    np.testing.assert_allclose([of_policy, of_reference], [slope, -slope], rtol=1e-6)


@pytest.mark.parametrize("importance", ["token", "sequence"])
def test_ratio_that_a_bound_makes_irrelevant_may_overflow(importance):
    def loss(*arguments):
        return jl.clipped_policy_loss(*arguments, importance=importance)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(
        jnp.array([-1.0]), jnp.array([-1001.0]), jnp.array([2.0])
    )
    np.testing.assert_allclose(value, -2.4, rtol=1e-6)
    np.testing.assert_allclose(np.ravel(gradient), [0, 0, -1.2], rtol=1e-6)


def test_unbounded_ratio_of_a_negative_advantage_is_infinite():
    value, (slope, *_) = slopes(jl.clipped_policy_loss, -1.0, -1001.0, -2.0)
    assert (value, slope) == (np.inf, np.inf)
    value, gradient = slopes(
        lambda *x: jl.clipped_policy_loss(*x, dual_clip=3.0), -1.0, -1001.0, -2.0
    )
    assert value == 6
    np.testing.assert_allclose(gradient, [0, 0, -3])


def test_product_of_a_huge_ratio_and_a_tiny_advantage():
    """e^100 is beyond float32, 1e-30 times it is not."""
    value, (slope, *_) = slopes(jl.clipped_policy_loss, 0.0, -100.0, -1e-30)
    np.testing.assert_allclose([value, slope], 1e-30 * np.exp(100.0), rtol=1e-6)


def sequence_policy(log_probs, old, advantages, counted, ids, low=0.2, high=0.2):
    """GSPO by its definition, one token after the other, in float64."""
    losses = np.zeros(log_probs.shape)
    for t in np.flatnonzero(counted):
        own = (ids == ids[t]) & counted
        ratio = np.exp(np.mean((log_probs - old)[own]))
        gain = min(
            ratio * advantages[t], np.clip(ratio, 1 - low, 1 + high) * advantages[t]
        )
        losses[t] = -gain
    return losses


def tokens(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-3, -0.1, 7)
    old, advantages = x - rng.normal(size=7) / 3, rng.normal(size=7)
    return x, old, advantages, np.array([0, 0, 2, 2, 2, 5, 0])


@pytest.mark.parametrize("dropped", ["where", "weights"])
def test_excluded_tokens_are_not_in_the_ratio_of_their_sequence(dropped):
    x, old, advantages, ids = tokens()
    keep = np.array([True, False, True, True, True, True, True])
    expected = sequence_policy(x, old, advantages, keep & (ids < 3), ids)
    spoiled = [
        np.where(keep, a, np.nan).astype(np.float32) for a in (x, old, advantages)
    ]
    options = {dropped: keep if dropped == "where" else keep.astype(np.float32)}

    @jax.jit
    def run(*arrays):
        def total(*arrays):
            losses = jl.clipped_policy_loss(
                *arrays,
                importance="sequence",
                segment_ids=ids,
                num_segments=3,
                **options,
            )
            return jnp.sum(losses * jnp.arange(1.0, 8)), losses

        gradient, losses = jax.grad(total, (0, 1, 2), has_aux=True)(*arrays)
        return losses, gradient

    losses, gradient = run(*spoiled)
    np.testing.assert_allclose(losses, expected, rtol=2e-6)
    out = ~(keep & (ids < 3))
    for part in gradient:
        assert np.isfinite(part).all()
        assert not np.any(part[out])
    # By differences of the definition.
    slant, step = np.arange(1.0, 8), 1e-6
    for t in np.flatnonzero(~out):
        moved = [x + step * s * (np.arange(7) == t) for s in (1, -1)]
        ends = [
            sequence_policy(m, old, advantages, keep & (ids < 3), ids) @ slant
            for m in moved
        ]
        slope = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose(gradient[0][t], slope, rtol=1e-5, atol=1e-6)


def test_a_row_without_ids_is_one_sequence():
    x, old, *_ = tokens()
    rows = [np.stack([a, a[::-1]]).astype(np.float32) for a in (x, old)]
    gains = np.float32([[1.5], [-0.5]])
    keep = np.array([[True] * 5 + [False] * 2, [False] * 7])
    found = jl.clipped_policy_loss(*rows, gains, importance="sequence", where=keep)
    ids = np.zeros(7, int)
    first = sequence_policy(x, old, np.full(7, 1.5), keep[0], ids)
    np.testing.assert_allclose(found, [first, np.zeros(7)], rtol=2e-6)


@pytest.mark.parametrize("dropped", [None, "where", "weights", "both"])
def test_one_loss_per_row_is_that_of_each_token(dropped):
    """With one advantage per row the loss is computed once, not once per token."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-3, -0.1, (5, 6)).astype(np.float32)
    old = (x - rng.normal(size=(5, 6)) / 2).astype(np.float32)
    gains = np.float32([[1.5], [-0.5], [2.0], [-1.0], [0.7]])
    keep, weights, options = np.ones((5, 6), bool), np.ones((5, 6), np.float32), {}
    if dropped in ("where", "both"):
        keep[0, 3:], keep[2] = False, False
        options["where"] = keep
    if dropped in ("weights", "both"):
        weights = rng.uniform(0.5, 2, (5, 6)).astype(np.float32)
        weights[1, :2], weights[3] = 0, 0
        options["weights"] = weights
    counted = keep & (weights != 0)
    x, old = (np.where(counted, a, np.nan).astype(np.float32) for a in (x, old))
    nothing = [[np.nan]] * 3 + [[np.inf]] * 2
    gains = np.where(counted.any(axis=1, keepdims=True), gains, nothing)
    gains = gains.astype(np.float32)
    slant = np.arange(1.0, 31).reshape(5, 6).astype(np.float32)

    def total(per_token, x, old, gains, low, high, cap):
        if per_token:
            gains = jnp.broadcast_to(gains, x.shape)
        losses = jl.clipped_policy_loss(
            x, old, gains, clip_low=low, clip_high=high, dual_clip=cap,
            importance="sequence", **options,
        )  # fmt: skip
        return jnp.sum(losses * slant), losses

    arrays = x, old, gains, jnp.float32(0.2), jnp.full((5, 1), 0.3), jnp.float32(1.4)
    turn = tuple(np.where(counted, np.float32(s), 0) for s in (0.5, -0.3))

    @functools.partial(jax.jit, static_argnums=0)
    def all_of(per_token, *arrays):
        def moved(x, old):
            return jax.grad(total, (1, 2), has_aux=True)(
                per_token, x, old, *arrays[2:]
            )[0]

        slopes = jax.grad(total, range(1, 7), has_aux=True)(per_token, *arrays)
        return slopes, jax.jvp(moved, arrays[:2], turn)

    found, expected = all_of(False, *arrays), all_of(True, *arrays)
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(one, other, rtol=3e-6, atol=1e-6)
        assert np.isfinite(one).all()
    losses = found[0][1]
    for row in range(5):
        ids = np.zeros(6, int)
        args = (a[row].astype(float) for a in (x, old))
        gain = np.full(6, float(gains[row, 0]))
        expected = sequence_policy(*args, gain, counted[row], ids, high=0.3)
        if gains[row, 0] < 0:
            expected = np.minimum(expected, -1.4 * gain)
        np.testing.assert_allclose(losses[row], expected * weights[row], rtol=2e-6)


def test_masked_old_log_probs_may_be_nan():
    x = np.float32([-1.0, -2.0])
    old = np.float32([-1.1, np.nan])

    def mean(x):
        return jl.clipped_policy_loss(
            x, old, 1.0, where=~np.isnan(old), reduction="mean"
        )

    value, slope = jax.value_and_grad(mean)(x)
    np.testing.assert_allclose(value, -np.exp(0.1), rtol=1e-6)
    np.testing.assert_allclose(slope, [-np.exp(0.1), 0], rtol=1e-6)


def test_padding_ids_are_excluded_for_tokens_too():
    x, old, advantages, ids = (a.astype(np.float32) for a in tokens())
    ids = ids.astype(int)
    options = {"segment_ids": ids, "num_segments": 3, "reduction": "mean"}
    found = jl.clipped_policy_loss(x, old, advantages, **options)
    inside = ids < 3
    expected = jl.clipped_policy_loss(x[inside], old[inside], advantages[inside])
    np.testing.assert_allclose(found, np.mean(expected), rtol=1e-6)


def test_cispo_has_no_gradient_through_its_weights():
    x, old, advantage = -0.7, -1.5, -1.25
    value, gradient = slopes(jl.cispo_loss, x, old, advantage)
    ratio = np.exp(x - old)
    np.testing.assert_allclose(value, -ratio * advantage * x, rtol=1e-6)
    np.testing.assert_allclose(gradient, [-ratio * advantage, 0, -ratio * x], rtol=1e-6)
    # Beyond the bound of 5 the token keeps a gradient.
    value, (slope, *_) = slopes(jl.cispo_loss, -1.0, -1001.0, 2.0)
    assert (value, slope) == (10, -10)
    assert jax.hessian(lambda x: jl.cispo_loss(x, old, advantage))(x) == 0


def test_sequences_exclude_padding_and_masked_tokens():
    x = np.float32([[-1.0, np.nan, -3.0, -4.0, -np.inf], [-0.5, -1.5, -2.5, 7.0, -8.0]])
    ids = np.array([[0, -1, 2, 2, 0], [1, 1, 1, 3, -100]])
    keep = np.array([[True, True, True, True, False], [True, True, False, True, True]])

    def run(x, average):
        return jl.sequence_log_probs(
            x, segment_ids=ids, num_segments=3, average=average, where=keep
        )

    np.testing.assert_array_equal(run(x, False), [[-1, 0, -7], [0, -2, 0]])
    np.testing.assert_array_equal(run(x, True), [[-1, 0, -3.5], [0, -1, 0]])
    slope = jax.jit(jax.grad(lambda x: jnp.sum(run(x, True))))(x)
    np.testing.assert_array_equal(slope, [[1, 0, 0.5, 0.5, 0], [0.5, 0.5, 0, 0, 0]])
    assert float(jl.sequence_log_probs(x[0], where=False, average=True)) == 0
    assert jl.sequence_log_probs(np.zeros((2, 0)), average=True).tolist() == [0, 0]
    half = jl.sequence_log_probs(jnp.full(300, -1.0, jnp.bfloat16))
    assert (half.dtype, float(half)) == (jnp.float32, -300)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint32, np.int32])
def test_ids_of_any_integer_type(dtype):
    ids = np.array([0, 1, 127, 1], dtype)
    found = jl.sequence_log_probs(
        [-1.0, -2.0, -4.0, -8.0], segment_ids=ids, num_segments=200
    )
    assert found[np.array([0, 1, 127])].tolist() == [-1, -10, -4]


def test_ids_that_wrap_around_are_padding():
    ids = np.array([0, 2**32, 2**31, -1])
    found = jl.sequence_log_probs(
        [-1.0, -2.0, -4.0, -8.0], segment_ids=ids, num_segments=2
    )
    assert found.tolist() == [-1, 0]
    ids = ids.astype(np.uint32)
    found = jl.sequence_log_probs(np.ones(4), segment_ids=ids, num_segments=2)
    assert found.tolist() == [2, 0]  # uint32 has wrapped 2^32 itself


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda x: jl.sequence_log_probs(x, segment_ids=[0, 0, 1]),
            "`num_segments` must be the number of sequences",
        ),
        (
            lambda x: jl.sequence_log_probs(x, num_segments=2),
            "`num_segments` must be None without `segment_ids`, got 2",
        ),
        (
            lambda x: jl.sequence_log_probs(x, segment_ids=[0, 0, 1], num_segments=0),
            "`num_segments` must be at least 1, got 0",
        ),
        (
            lambda x: jl.sequence_log_probs(x[0, 0]),
            "`log_probs` must have a token axis, got a scalar",
        ),
        (
            lambda x: jl.clipped_policy_loss(x, x, np.ones(2)),
            "`advantages` must broadcast to the shape of log_probs (2, 3), got shape "
            "(2,); for one per answer pass `advantages[..., None]`.",
        ),
        (
            lambda x: jl.clipped_policy_loss(x, x, 1.0, dual_clip=1.0),
            "`dual_clip` must be in (1, inf]",
        ),
        (
            lambda x: jl.clipped_policy_loss(x, x, 1.0, importance="batch"),
            "`importance` must be one of 'token', 'sequence', got 'batch'",
        ),
        (
            lambda x: jl.kl_estimate(x, x, estimator="k4"),
            "`estimator` must be one of 'k1', 'k2', 'k3', got 'k4'",
        ),
        (lambda x: jl.cispo_loss(x, x, 1.0, clip_low=-0.1), "`clip_low` must be in [0"),
    ],
)
def test_bad_token_arguments_are_named(call, text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        call(np.zeros((2, 3), np.float32))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_balance_is_one_for_every_number_of_experts_per_token(k):
    ids = (np.arange(8)[:, None] + np.arange(k)) % 4
    assert float(jl.router_balance_loss(np.zeros((8, 4)), ids)) == 1
    rows = jl.router_balance_loss(np.zeros((2, 4, 4)), ids.reshape(2, 4, k))
    assert float(rows) == 1


def test_collapsed_router_costs_the_number_of_experts():
    sure = np.full((5, 3), -np.inf)
    sure[:, 1] = 0
    value, slope = jax.value_and_grad(jl.router_balance_loss)(
        jnp.float32(sure), np.ones(5, int)
    )
    assert float(value) == 3
    assert not np.any(slope)


def test_padding_is_not_counted_by_the_router():
    logits = np.float32([[1, 0, -1], [0.5, 2, 0], [np.nan] * 3, [np.inf, 0, 0]])
    ids, keep = np.array([0, 1, 99, -1]), np.array([True, True, False, False])
    run = jax.jit(jax.value_and_grad(jl.router_balance_loss))
    value, slope = run(logits, ids, where=keep)
    expected, expected_slope = run(logits[:2], ids[:2])
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(slope[:2], expected_slope, rtol=1e-6)
    assert not np.any(slope[2:])
    value, slope = run(logits, ids, where=np.zeros(4, bool))
    assert value == 0
    assert not np.any(slope)
    assert jl.router_balance_loss(np.zeros((0, 3)), np.zeros(0, int)) == 0


def test_no_gradient_through_the_counts_of_experts():
    """At balance the probabilities have no slope, whoever the tokens went to."""
    logits = jnp.float32(np.random.default_rng(0).normal(size=(6, 3)))
    ids = np.array([0, 1, 2, 2, 1, 0])
    slope = jax.grad(jl.router_balance_loss)(logits, ids)
    np.testing.assert_allclose(slope, 0, atol=1e-7)


def test_assignments_of_experts_that_do_not_exist():
    logits = jnp.zeros((2, 3))
    assert np.isnan(jl.router_balance_loss(logits, [0, 3]))
    with pytest.raises(ValueError, match=r"^`expert_ids` must have shape"):
        jl.router_balance_loss(logits, [0, 1, 2])
    with pytest.raises(TypeError, match=r"^`expert_ids` must be integer"):
        jl.router_balance_loss(logits, [0.0, 1.0])
    with pytest.raises(ValueError, match=r"^`axis_name` must name the mesh axis"):
        jl.router_balance_loss(logits, [0, 1], axis_name="data")


def test_router_z_loss_of_huge_logits():
    value, slope = jax.value_and_grad(lambda x: jl.router_z_loss(x))(
        jnp.float32([1e18, -1e18, 0])
    )
    np.testing.assert_allclose(value, 1e36, rtol=1e-6)
    np.testing.assert_allclose(slope, [2e18, 0, 0], rtol=1e-6)
    none = jnp.full(3, -jnp.inf)
    assert jl.router_z_loss(none) == 0
    assert not np.any(jax.grad(jl.router_z_loss)(none))


# The largest logits, and the distances of the others behind them: the log-sum-exp is
# near 0 in the first rows, where the rest alone has its digits; there are ties, an
# impossible expert, and rows whose sum has them too.
_TOPS = np.float32([0, 0, -1e-6, 0, 0, -0.5, 0, 12, 30])
_BEHIND = np.float32(
    [
        [20, 21, 25],
        [8, 30, np.inf],
        [14, 14, 50],
        [np.inf] * 3,
        [0, 0, 17],
        [0, 16, 18],
        [0.25, 1, 5],
        [20, 21, 25],
        [0, 1, np.inf],
    ]
)


@pytest.mark.parametrize("rows", [slice(None), slice(4, None)], ids=["near 0", "far"])
def test_router_z_loss_near_zero(rows):
    top, behind = _TOPS[rows, None], _BEHIND[rows]
    logits = np.concatenate([top, top - behind], axis=1)[:, [1, 0, 3, 2]]
    exact = logits.astype(np.float64)
    few = np.exp(np.delete(exact, 1, axis=1) - top).sum(axis=1)
    size = top[:, 0].astype(np.float64) + np.log1p(few)
    slope = 2 * size[:, None] * np.exp(exact - top) / (1 + few[:, None])

    def total(x):
        return jl.router_z_loss(x, reduction="sum")

    for transform in (lambda f: f, jax.jit):
        value = transform(jl.router_z_loss)(logits)
        np.testing.assert_allclose(value, size**2, rtol=1e-6)
        gradient = transform(jax.grad(total))(logits)
        np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-38)
        one_by_one = transform(jax.vmap(jl.router_z_loss))(logits)
        np.testing.assert_allclose(one_by_one, size**2, rtol=1e-6)

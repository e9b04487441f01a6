"""The transducer against all paths, a recursion in float64, and special lattices."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases.sequence import LATTICES, transducer
from jax.experimental import checkify
from mpmath import mp, mpf

import jaxloss as jl

pytestmark = pytest.mark.any_program

INF = math.inf


def log_softmax(x):
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def by_recursion(logits, labels, blank=0):
    """Loss and gradient of one lattice, from forward and backward sums in log space."""
    log_p = log_softmax(np.float64(logits))
    frames, places = log_p.shape[:2]
    blanks = log_p[..., blank]
    emitted = np.full_like(blanks, -INF)
    emitted[:, :-1] = log_p[:, np.arange(places - 1), labels]
    alpha = np.full((frames + 1, places), -INF)
    beta = np.full((frames + 1, places + 1), -INF)
    alpha[0, 0] = beta[frames, places - 1] = 0
    for t, u in itertools.product(range(frames), range(places)):
        if u:
            step = alpha[t, u - 1] + emitted[t, u - 1]
            alpha[t, u] = np.logaddexp(alpha[t, u], step)
        alpha[t + 1, u] = alpha[t, u] + blanks[t, u]
    for t, u in itertools.product(range(frames)[::-1], range(places)[::-1]):
        ways = blanks[t, u] + beta[t + 1, u], emitted[t, u] + beta[t, u + 1]
        beta[t, u] = np.logaddexp(*ways)
    total = alpha[frames, places - 1]
    by_blank = np.exp(alpha[:-1] + blanks + beta[1:, :-1] - total)
    by_label = np.exp(alpha[:-1] + emitted + beta[:-1, 1:] - total)
    gradient = (by_blank + by_label)[..., None] * np.exp(log_p)
    gradient[..., blank] -= by_blank
    for u, label in enumerate(labels):
        gradient[:, u, label] -= by_label[:, u]
    return -total, gradient


@jax.jit
def value_and_gradient(logits, frames, labels, unused):
    loss, pull_back = jax.vjp(
        lambda x: jl.transducer_loss(x, frames, labels, unused), logits
    )
    return loss, pull_back(jnp.ones_like(loss))[0]


def full(logits, labels):
    """One lattice without padding."""
    frames, places = logits.shape[:2]
    found = value_and_gradient(
        logits[None], np.zeros((1, frames)), labels[None], np.zeros((1, places - 1))
    )
    return found[0][0], found[1][0]


@pytest.mark.parametrize("spread", [0.1, 2.0, 12.0])
def test_value_and_gradient_equal_a_recursion_in_float64(spread):
    draw = np.random.default_rng(0)
    logits = np.float32(draw.normal(size=(9, 6, 5)) * spread)
    labels = draw.integers(1, 5, 5)
    value, gradient = full(logits, labels)
    expected, slope = by_recursion(logits, labels)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-6)


def test_the_recursion_above_equals_the_sum_over_paths():
    expected = transducer(**LATTICES)
    for i in (0, 3):
        frames = LATTICES["logit_paddings"][i] == 0
        count = int(np.sum(LATTICES["label_paddings"][i] == 0))
        logits = LATTICES["logits"][i][frames][:, : count + 1]
        value, gradient = by_recursion(logits, LATTICES["labels"][i][:count])
        np.testing.assert_allclose(value, expected[i], rtol=1e-12)
        np.testing.assert_allclose(gradient.sum(-1), 0, atol=1e-12)


def test_two_thousand_frames():
    draw = np.random.default_rng(1)
    logits = np.float32(draw.normal(size=(2000, 31, 4)) * 3)
    labels = draw.integers(1, 4, 30)
    value, gradient = full(logits, labels)
    expected, slope = by_recursion(logits, labels)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, rtol=1e-3, atol=2e-5)


def exact(logits, labels):
    """Loss and gradient to 60 digits, from the probability of every path."""
    p = [[[mp.exp(mpf(float(x))) for x in node] for node in row] for row in logits]
    p = [[[x / sum(node) for x in node] for node in row] for row in p]
    frames, count = len(p), len(labels)
    total = mpf(0)
    taken = {}
    for steps in itertools.combinations(range(frames + count - 1), count):
        t = u = 0
        chance, path = mpf(1), []
        for step in range(frames + count):
            symbol = labels[u] if step in steps else 0
            chance *= p[t][u][symbol]
            path.append((t, u, symbol))
            t, u = (t, u + 1) if step in steps else (t + 1, u)
        total += chance
        for key in path:
            taken[key] = taken.get(key, 0) + chance
    slope = {}
    for t, u in itertools.product(range(frames), range(count + 1)):
        visits = sum(x for key, x in taken.items() if key[:2] == (t, u)) / total
        for k in range(len(p[t][u])):
            slope[t, u, k] = visits * p[t][u][k] - taken.get((t, u, k), 0) / total
    return -mp.log(total), slope


@pytest.mark.parametrize("lead", [0.0, 4.0, 12.0, 30.0, 80.0])
def test_sure_alignments_keep_the_digits_of_value_and_gradient(lead):
    """Losses down to 1e-35, and the slope of a class of probability 1 - 1e-35."""
    draw = np.random.default_rng(2)
    logits = draw.normal(size=(3, 3, 3))
    labels = np.array([1, 2])
    for t, u, k in ((0, 0, 1), (0, 1, 0), (1, 1, 0), (2, 1, 2), (2, 2, 0)):
        logits[t, u, k] += lead
    logits = np.float32(logits)
    value, gradient = full(logits, labels)
    with mp.workdps(60):
        expected, slope = exact(logits, labels)
        assert abs(mpf(float(value)) / expected - 1) < 3e-6
        for key, true in slope.items():
            got = mpf(float(gradient[key]))
            assert abs(got - true) <= 1e-5 * abs(true) + mpf(2) ** -120, key


def test_large_lead_over_a_wrong_alignment():
    """Log-probabilities far below the range of float32's exponentials."""
    logits = np.zeros((4, 3, 3), np.float32)
    logits[..., 2] = 3e4
    value, gradient = full(logits, np.array([1, 1]))
    np.testing.assert_allclose(value, 6 * 3e4 - math.log(10), rtol=1e-6)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[..., 2].sum(), 6, rtol=1e-5)


def test_value_by_hand():
    """Two frames and one label, each symbol with probability 1/4: two paths."""
    value, _ = full(np.zeros((2, 2, 4), np.float32), np.array([3]))
    np.testing.assert_allclose(value, -math.log(2 / 64), rtol=1e-6)


def test_without_labels_only_blanks_remain():
    logits = np.float32(np.random.default_rng(3).normal(size=(2, 5, 1, 3)))
    loss = jl.transducer_loss(logits, np.zeros((2, 5)), np.zeros((2, 0), int), [[]] * 2)
    np.testing.assert_allclose(loss, -log_softmax(logits)[:, :, 0, 0].sum(1), rtol=1e-6)


def test_without_frames_labels_are_impossible():
    labels, unused = np.array([[1, 2], [1, 2]]), np.array([[0, 1], [1, 1]])
    for frames in (0, 3):
        shape = (2, frames, 3, 4)
        loss, gradient = value_and_gradient(
            np.zeros(shape, np.float32), np.ones((2, frames)), labels, unused
        )
        np.testing.assert_array_equal(loss, [INF, 0])
        assert gradient.shape == shape
        assert not np.any(gradient)


def test_impossible_lattices_have_infinite_loss_and_no_gradient():
    logits = np.zeros((4, 3, 3, 3), np.float32)
    logits[0, :, 0, 1] = -INF  # the first label never
    logits[1, 2, 2, 0] = -INF  # the last blank never
    logits[2, 1] = -INF  # no class at all in the second frame
    labels = np.array([[1, 2]] * 4)
    loss, gradient = value_and_gradient(
        logits, np.zeros((4, 3)), labels, np.zeros((4, 2))
    )
    np.testing.assert_array_equal(np.isinf(loss), [True, True, True, False])
    assert not np.any(gradient[:3])
    assert np.isfinite(gradient[3]).all()
    assert np.any(gradient[3])
    bend = jax.jacfwd(
        jax.grad(lambda x: jl.transducer_loss(x, [0] * 3, [1, 2], [0, 0]))
    )
    assert not np.any(jax.jit(bend)(logits[0]))


def test_impossible_classes_have_no_gradient():
    logits = np.float32(np.random.default_rng(4).normal(size=(3, 3, 4)))
    logits[..., 3] = -INF
    value, gradient = full(logits, np.array([1, 2]))
    expected, slope = by_recursion(logits[..., :3], np.array([1, 2]))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient[..., :3], slope, rtol=1e-5, atol=1e-6)
    assert not np.any(gradient[..., 3])


def test_padding_may_hold_anything():
    frames, labels, unused = (
        LATTICES[n] for n in ("logit_paddings", "labels", "label_paddings")
    )
    clean = np.float32(LATTICES["logits"])
    spoiled = clean.copy()
    spoiled[frames == 1] = np.nan
    behind = np.pad(unused, [(0, 0), (1, 0)])[:, None] * np.ones((6, 3, 3), int) == 1
    spoiled[behind] = INF
    found = value_and_gradient(spoiled, frames, labels, unused)
    jax.tree.map(
        np.testing.assert_array_equal,
        found,
        value_and_gradient(clean, frames, np.where(unused, -7, labels), unused),
    )
    assert np.isfinite(found[0]).all()
    assert not np.any(found[1][behind])

    def slope_along(x, line):
        gradient = jax.grad(
            lambda x: jl.transducer_loss(x, frames, labels, unused).sum()
        )
        return jax.jvp(gradient, (x,), (line,))[1]

    bend = jax.jit(slope_along)(spoiled, np.ones_like(spoiled))
    assert np.isfinite(bend).all()


def test_padded_frames_are_skipped_wherever_they_stand():
    draw = np.random.default_rng(6)
    logits = np.float32(draw.normal(size=(1, 6, 3, 4)))
    labels = np.array([[2, 1]])
    expected, slope = full(logits[0][[0, 2, 3]], labels[0])
    frames = np.array([[0, 1, 0, 0, 1, 1]])
    loss, gradient = value_and_gradient(logits, frames, labels, np.zeros((1, 2)))
    np.testing.assert_allclose(loss[0], expected, rtol=1e-6)
    np.testing.assert_allclose(
        np.asarray(gradient)[0, [0, 2, 3]], slope, rtol=1e-5, atol=1e-6
    )
    assert not np.any(np.asarray(gradient)[0, [1, 4, 5]])


def test_a_blank_among_the_labels_takes_both_ways():
    """Of one class alone, P counts the paths: 3 with two frames and two labels."""
    value, gradient = full(np.zeros((2, 3, 1), np.float32), np.array([0, 0]))
    np.testing.assert_allclose(value, -math.log(3), rtol=1e-6)
    assert not np.any(gradient)
    logits = np.float32(np.random.default_rng(7).normal(size=(3, 3, 3)))
    value, gradient = full(logits, np.array([0, 2]))
    expected, slope = by_recursion(logits, np.array([0, 2]))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-6)


def test_masked_classes_are_impossible_and_a_frame_without_any_is_padding():
    logits = np.float32(np.random.default_rng(8).normal(size=(1, 4, 3, 4)))
    labels, none = np.array([[1, 2]]), np.zeros((1, 2))
    mask = np.ones(logits.shape, bool)
    mask[..., 3] = False
    mask[:, 1] = False
    spoiled = np.where(mask, logits, np.nan)
    loss = jl.transducer_loss(spoiled, [[0] * 4], labels, none, where=mask)
    expected, _ = by_recursion(logits[0, [0, 2, 3], :, :3], labels[0])
    np.testing.assert_allclose(loss, [expected], rtol=1e-6)


def test_checks_of_values_name_the_argument():
    def message(frames, labels):
        check = checkify.checkify(jl.transducer_loss)
        return check(jnp.zeros((1, 2, 2, 3)), frames, labels, jnp.zeros((1, 1)))[
            0
        ].get()

    assert message(jnp.zeros((1, 2)), jnp.array([[1]])) is None
    assert "`labels` must be in [0, 3)" in message(jnp.zeros((1, 2)), jnp.array([[3]]))
    assert "`logit_paddings` must be 0 or 1" in message(
        jnp.full((1, 2), 2.0), jnp.array([[1]])
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"logits": np.zeros((2, 3))},
            ValueError,
            r"`logits` must have axes of frames",
        ),
        ({"labels": [[1, 2]]}, ValueError, r"`labels` must have 1 labels .* \(1, 2\)"),
        ({"labels": 1}, ValueError, r"`labels` must have 1 labels"),
        ({"labels": [[1.0]]}, TypeError, r"`labels` must be integer"),
        ({"blank_id": 3}, ValueError, r"`blank_id` must be in \[0, 3\), got 3"),
        ({"blank_id": 0.5}, TypeError, r"`blank_id` must be an int"),
        (
            {"logit_paddings": [[0, 0, 0]]},
            ValueError,
            r"`logit_paddings` must broadcast",
        ),
        ({"label_paddings": [[0, 0]]}, ValueError, r"`label_paddings` must broadcast"),
    ],
)
def test_wrong_arguments_are_named(change, error, message):
    arguments = {
        "logits": np.zeros((1, 2, 2, 3), np.float32),
        "logit_paddings": [[0, 0]],
        "labels": [[1]],
        "label_paddings": [[0]],
    }
    with pytest.raises(error, match=message):
        jl.transducer_loss(**{**arguments, **change})


SHAPE = 8, 200, 51, 512


def loss_of(logits, *given, **options):
    return jl.transducer_loss(logits, *given, reduction="mean", **options)


def loss_of_product(states, kernel, *given):
    return loss_of(states @ kernel, *given)


def loss_of_some_classes(logits, mask, *given):
    return loss_of(logits, *given, where=mask)


def temporaries(function, *arrays):
    given = (SHAPE[:2], "float32"), ((8, 50), "int32"), ((8, 50), "int32")
    inputs = [jax.ShapeDtypeStruct(s, jnp.dtype(t)) for s, t in (*arrays, *given)]
    memory = jax.jit(function).lower(*inputs).compile().memory_analysis()
    return memory.temp_size_in_bytes


LOGITS, NODES = 4 * math.prod(SHAPE), 4 * math.prod(SHAPE[:3])
PIECES = 4 * 2**20  # the numbers of a piece, whose exponentials are summed


@pytest.mark.optimised
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("step", [loss_of, jax.value_and_grad(loss_of)])
def test_gradient_is_the_only_array_of_the_logits_size(step, dtype):
    used = temporaries(step, (SHAPE, dtype))
    assert used < 24 * NODES + PIECES < LOGITS / 12


@pytest.mark.optimised
@pytest.mark.parametrize(
    ("step", "dtype", "arrays"),
    [
        (loss_of_product, "float32", 1),
        # XLA for CPU transposes the gradient for the product with the states.
        (jax.value_and_grad(loss_of_product, (0, 1)), "float32", 2),
        # XLA for CPU makes the product of half precision in float32, and narrows it.
        (loss_of_product, "bfloat16", 1.5),
    ],
)
def test_of_a_product_there_are_the_logits_and_the_gradient(step, dtype, arrays):
    used = temporaries(step, ((*SHAPE[:3], 64), dtype), ((64, 512), dtype))
    assert used < arrays * LOGITS + 24 * NODES + PIECES


@pytest.mark.optimised
@pytest.mark.parametrize(
    ("step", "arrays"),
    [(loss_of_some_classes, 1), (jax.value_and_grad(loss_of_some_classes), 0)],
)
def test_a_mask_of_classes_stores_the_masked_logits_alone(step, arrays):
    used = temporaries(step, (SHAPE, "float32"), ((1, 1, 1, 512), "bool"))
    assert used < arrays * LOGITS + 24 * NODES + PIECES

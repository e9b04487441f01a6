"""CTC against sums over all alignments, a recursion in float64, optax and PyTorch."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify
from jax.test_util import check_grads
from tier import first

import jaxloss as jl

pytestmark = pytest.mark.any_program

INF = math.inf


# References ------------------------------------------------------------------------


def log_softmax(x):
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def spells(alignment, labels, blank):
    merged = [k for k, _ in itertools.groupby(alignment)]
    return [k for k in merged if k != blank] == list(labels)


def by_enumeration(logits, labels, blank=0):
    """Loss and gradient of one sequence from the probability of every alignment."""
    p = np.exp(log_softmax(logits))
    frames, classes = p.shape
    total, hits = 0.0, np.zeros_like(p)
    for alignment in itertools.product(range(classes), repeat=frames):
        if spells(alignment, labels, blank):
            probability = math.prod(p[t, k] for t, k in enumerate(alignment))
            total += probability
            for t, k in enumerate(alignment):
                hits[t, k] += probability
    return -math.log(total), p - hits / total


def by_recursion(logits, labels, blank=0):
    """Loss of one sequence: blanks between the labels, log-probabilities over time."""
    states = np.full(2 * len(labels) + 1, blank)
    states[1::2] = labels
    # A label may follow the one before it, two states back, if it differs.
    over = (states[2:] != blank) & (states[2:] != states[:-2])
    alpha = np.full(len(states), -INF)
    alpha[0] = 0.0  # before the first frame
    for row in log_softmax(logits):
        new = alpha.copy()
        new[1:] = np.logaddexp(new[1:], alpha[:-1])
        new[2:] = np.logaddexp(new[2:], np.where(over, alpha[:-2], -INF))
        alpha = new + row[states]
    return -np.logaddexp.reduce(alpha[-2:])


def slope_along(loss, x, direction, step=1e-4):
    """Directional derivative by central differences of fourth order."""
    far = loss(x + 2 * step * direction) - loss(x - 2 * step * direction)
    near = loss(x + step * direction) - loss(x - step * direction)
    return (8 * near - far) / (12 * step)


# Inputs ----------------------------------------------------------------------------


def paddings(lengths, size):
    return (np.arange(size) >= np.asarray(lengths)[:, None]).astype(np.float32)


def ragged(seed, frames, classes, lengths, blank=0, spread=1.0):
    """Random sequences; `lengths` pairs the frames and the labels of each."""
    random = np.random.default_rng(seed)
    heard, spelled = zip(*lengths, strict=True)
    logits = spread * random.normal(size=(len(lengths), frames, classes))
    others = [k for k in range(classes) if k != blank]
    labels = random.choice(others, size=(len(lengths), max(spelled)))
    return (
        logits.astype(np.float32),
        paddings(heard, frames),
        labels.astype(np.int32),
        paddings(spelled, max(spelled)),
    )


def single(batch, i):
    """The frames and labels that count in a sequence of a batch."""
    logits, logit_paddings, labels, label_paddings = (np.asarray(x[i]) for x in batch)
    return logits[logit_paddings == 0].astype(np.float64), labels[label_paddings == 0]


def whole(logits, labels, **options):
    """CTC of one sequence without padding."""
    return jl.ctc_loss(
        logits, np.zeros(logits.shape[:1]), labels, np.zeros(len(labels)), **options
    )


@functools.cache
def program(**options):
    """Gradient and losses of a batch: compiled once for all batches of a shape."""

    def total(logits, *rest, where):
        loss = jl.ctc_loss(logits, *rest, where=where, **options)
        return loss.sum(), loss

    return jax.jit(jax.grad(total, has_aux=True))


def value_and_gradient(batch, where=None, **options):
    gradient, loss = program(**options)(*batch, where=where)
    return np.asarray(loss), np.asarray(gradient)


of_whole = jax.jit(jax.value_and_grad(whole))


TINY = [(5, 2), (4, 2), (3, 0), (5, 3), (1, 1), (2, 1)]


# Values and gradients --------------------------------------------------------------


@pytest.mark.parametrize("blank", [0, 1, 2])
@pytest.mark.parametrize("spread", [0.3, 3.0, 30.0])
def test_equals_the_sum_over_alignments(blank, spread):
    batch = ragged(1, 5, 3, TINY, blank, spread)
    loss, gradient = value_and_gradient(batch, blank_id=blank)
    for i, (frames, _) in enumerate(TINY):
        expected, slope = by_enumeration(*single(batch, i), blank)
        # A probability near 1 is rounded to 1e-7.
        np.testing.assert_allclose(loss[i], expected, rtol=2e-6, atol=2e-7)
        np.testing.assert_allclose(gradient[i, :frames], slope, rtol=2e-5, atol=1e-7)
        assert not gradient[i, frames:].any()


@pytest.mark.parametrize("labels", [[1, 1], [1, 1, 1], [2, 1, 1], [1, 2, 1], [2, 2, 1]])
def test_repeated_labels_need_a_blank_between(labels):
    logits = np.random.default_rng(2).normal(size=(6, 3)).astype(np.float32)
    expected, slope = by_enumeration(logits.astype(np.float64), labels)
    loss, gradient = of_whole(logits, np.array(labels))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-7)


def test_value_by_hand():
    # Of p = (blank, label) = (0.3, 0.7), then (0.6, 0.4), the label is spelled by
    # (label, label), (label, blank) and (blank, label): 0.28 + 0.42 + 0.12 = 0.82. Its
    # posterior is 0.7 / 0.82 in the first frame and 0.4 / 0.82 in the second.
    logits = np.log(np.array([[0.3, 0.7], [0.6, 0.4]], np.float32))
    loss, gradient = of_whole(logits, np.array([1]))
    np.testing.assert_allclose(loss, -math.log(0.82), rtol=1e-6)
    slope = [0.7 - 0.7 / 0.82, 0.4 - 0.4 / 0.82]
    np.testing.assert_allclose(gradient[:, 1], slope, rtol=1e-5)
    np.testing.assert_allclose(gradient[:, 0], -gradient[:, 1], rtol=1e-6)


@pytest.mark.parametrize("spread", [0.1, 1.0, 8.0])
def test_long_sequences_equal_a_recursion_in_float64(spread):
    lengths = [(2000, 150), (1731, 40), (600, 0), (450, 149)]
    batch = ragged(3, 2000, 20, lengths, spread=spread)
    loss, gradient = value_and_gradient(batch)
    random = np.random.default_rng(4)
    for i, (frames, _) in enumerate(lengths):
        logits, labels = single(batch, i)
        np.testing.assert_allclose(loss[i], by_recursion(logits, labels), rtol=3e-7)
        direction = random.normal(size=logits.shape)
        slope = slope_along(lambda x, y=labels: by_recursion(x, y), logits, direction)
        actual = np.vdot(direction, gradient[i, :frames].astype(np.float64))
        np.testing.assert_allclose(actual, slope, atol=1e-6 * math.sqrt(logits.size))


def test_long_sequences_equal_pytorch():
    torch = pytest.importorskip("torch")
    lengths = [(2000, 150), (1731, 40), (600, 20)]
    batch = ragged(5, 2000, 30, lengths, spread=2.0)
    loss, gradient = value_and_gradient(batch)
    logits = torch.tensor(batch[0], dtype=torch.float64, requires_grad=True)
    heard, spelled = (torch.tensor(n) for n in zip(*lengths, strict=True))
    labels = torch.tensor(batch[2], dtype=torch.int64)
    log_p = torch.log_softmax(logits, -1).transpose(0, 1)
    expected = torch.nn.functional.ctc_loss(
        log_p, labels, heard, spelled, reduction="none"
    )
    expected.sum().backward()
    assert logits.grad is not None
    np.testing.assert_allclose(loss, expected.detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(gradient, logits.grad.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("blank", first([2, 0, 6]))
def test_equals_optax_on_ordinary_input(blank):
    optax = pytest.importorskip("optax")
    lengths = [(30, 9), (30, 1), (17, 6), (25, 0), (30, 12)]
    batch = ragged(6, 30, 7, lengths, blank)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected, *log_probs = optax.losses.ctc_loss_with_forward_probs(
            *batch, blank_id=blank
        )
        slope = jax.grad(
            lambda x: optax.losses.ctc_loss(x, *batch[1:], blank_id=blank).sum()
        )(batch[0])
    loss, gradient = value_and_gradient(batch, blank_id=blank)
    np.testing.assert_allclose(loss, expected, rtol=2e-6)
    np.testing.assert_allclose(gradient, slope, atol=5e-5)  # optax's rounding
    same, *ours = jl.ctc_loss_with_forward_probs(*batch, blank_id=blank)
    np.testing.assert_array_equal(same, jl.ctc_loss(*batch, blank_id=blank))
    for theirs, own in zip(log_probs, ours, strict=True):
        assert own.shape == theirs.shape
        reachable = np.asarray(theirs) > -1e4
        np.testing.assert_allclose(own[reachable], theirs[reachable], rtol=2e-5)
        assert (np.asarray(own)[~reachable] == -1e5).all()


def test_a_blank_among_the_labels_counts_as_optax_counts_it():
    optax = pytest.importorskip("optax")
    logits, *rest, label_paddings = ragged(7, 8, 4, [(8, 3)])
    rest = [rest[0], np.array([[1, 0, 2]])]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected, slope = jax.value_and_grad(
            lambda x: optax.losses.ctc_loss(x, *rest, label_paddings).sum()
        )(logits)
    loss, gradient = value_and_gradient((logits, *rest, label_paddings))
    np.testing.assert_allclose(loss, [expected], rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, atol=2e-6)


# Digits ----------------------------------------------------------------------------


def test_one_frame_is_the_cross_entropy_of_its_label():
    logits = np.array([20.0, 0.0, -0.5, 0.25], np.float32)
    cross_entropy = jax.jit(
        jax.value_and_grad(jl.softmax_cross_entropy_with_integer_labels)
    )
    for label in range(1, 4):
        turned = np.roll(logits, label)  # the label is nearly certain
        loss, gradient = of_whole(turned[None], np.array([label]))
        expected, slope = cross_entropy(turned, np.int32(label))
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        np.testing.assert_allclose(gradient[0], slope, rtol=1e-6)


def test_gradient_of_a_confident_model_keeps_its_digits():
    # All classes but one have 1e-9 a frame, where p - γ in float32 would be 0 for the
    # one. For the others the units are those of p.
    best = [1, 1, 0, 2, 2]
    logits = 20.0 * np.eye(3)[best] + np.random.default_rng(8).normal(size=(5, 3))
    logits = logits.astype(np.float32)
    with jax.enable_x64(True):
        _, exact = of_whole(logits.astype(np.float64), np.array([1, 2]))
    _, by_sums = by_enumeration(logits.astype(np.float64), [1, 2])
    np.testing.assert_allclose(exact, by_sums, atol=1e-15)
    _, gradient = of_whole(logits, np.array([1, 2]))
    assert np.abs(exact).max() < 1e-7
    p = np.exp(log_softmax(logits.astype(np.float64)))
    terms = np.where(p > 0.5, 1 - p, p)
    assert (np.abs(np.asarray(gradient) - np.asarray(exact)) < 1e-6 * terms).all()


def test_gradients_of_a_frame_sum_to_nothing():
    _, gradient = value_and_gradient(ragged(9, 50, 6, [(50, 20), (31, 7)], spread=5.0))
    np.testing.assert_allclose(gradient.sum(-1), 0, atol=3e-7)


@pytest.mark.parametrize("size", [1e3, 1e6, 1e20, 1e35])
def test_huge_logits(size):
    random = np.random.default_rng(10)
    logits = (size * random.normal(size=(12, 4))).astype(np.float32)
    labels = np.array([1, 3, 3, 2])
    loss, gradient = of_whole(logits, labels)
    expected = by_recursion(logits.astype(np.float64), labels)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert np.isfinite(gradient).all()
    # One alignment has all of the posterior, and one class all of p.
    np.testing.assert_allclose(gradient, np.round(gradient), atol=1e-6)
    assert np.abs(gradient).max() > 0.5


def test_shifted_logits_make_no_difference():
    logits, *rest = ragged(11, 9, 4, [(9, 3), (7, 2)])
    loss, gradient = value_and_gradient((logits, *rest))
    shifts = 2.0 ** np.random.default_rng(12).integers(3, 9, size=(2, 9, 1))
    logits = (logits * 1024).round() / 1024  # so that the shifts are exact
    loss, gradient = value_and_gradient((logits, *rest))
    moved = value_and_gradient(((logits + shifts).astype(np.float32), *rest))
    np.testing.assert_array_equal(loss, moved[0])
    np.testing.assert_array_equal(gradient, moved[1])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_computes_in_float32(dtype):
    logits, *rest = ragged(13, 40, 5, [(40, 12), (23, 4)])
    half = jnp.asarray(logits, dtype)
    loss, gradient = value_and_gradient((half, *rest))
    wide_loss, wide_gradient = value_and_gradient((half.astype(jnp.float32), *rest))
    assert loss.dtype == jnp.float32
    assert gradient.dtype == dtype
    np.testing.assert_array_equal(loss, wide_loss)
    np.testing.assert_array_equal(gradient, wide_gradient.astype(dtype))


# Impossible labels -----------------------------------------------------------------


def impossible():
    """Too few frames; too few between repeated labels; no frame; -inf in the way."""
    logits, _, _, _ = ragged(14, 4, 3, [(4, 3)] * 6)
    labels = np.array(
        [[1, 2, 1], [1, 1, 1], [1, 0, 0], [1, 2, 0], [1, 2, 0], [1, 2, 0]]
    )
    logit_paddings = paddings([2, 4, 0, 4, 4, 4], 4)
    label_paddings = paddings([3, 3, 1, 2, 2, 2], 3)
    logits[3, :, 2] = -INF  # a label that no frame allows
    logits[4, 1] = -INF  # a frame without any class
    logits[5, :2, 1] = -INF  # the first label comes too late for the second
    logits[5, 2:, 2] = -INF
    return logits, logit_paddings, labels, label_paddings


@pytest.mark.parametrize("log_epsilon", [-1e5, -10.0, -INF])
def test_impossible_labels_have_infinite_loss_and_no_gradient(log_epsilon):
    loss, gradient = value_and_gradient(impossible(), log_epsilon=log_epsilon)
    np.testing.assert_array_equal(loss, np.full(6, INF))
    np.testing.assert_array_equal(gradient, np.zeros_like(gradient))


def test_derivatives_of_impossible_labels_are_zero_in_every_order():
    logits, *rest = impossible()

    def loss(x):
        return jl.ctc_loss(x, *rest)

    @jax.jit
    def derivatives(x):
        ones = jnp.ones_like(x)
        slope = jax.grad(lambda x: loss(x).sum())
        return jax.jvp(loss, (x,), (ones,))[1], jax.jvp(slope, (x,), (ones,))[1]

    tangent, twice = derivatives(logits)
    np.testing.assert_array_equal(tangent, np.zeros(6))
    np.testing.assert_array_equal(twice, np.zeros_like(logits))


def test_impossible_labels_leave_the_others_alone():
    bad = impossible()
    logits, frames, _, unused = ragged(15, 4, 3, [(4, 3), (3, 1), (4, 2)])
    good = logits, frames, np.array([[1, 2, 1], [2, 0, 0], [1, 1, 0]]), unused
    mixed = tuple(np.concatenate([g, b]) for g, b in zip(good, bad, strict=True))
    loss, gradient = value_and_gradient(mixed)
    alone, slope = value_and_gradient(good)
    np.testing.assert_array_equal(loss[:3], alone)
    np.testing.assert_array_equal(gradient[:3], slope)
    assert np.isposinf(loss[3:]).all()
    keep = np.isfinite(loss)
    mean = jl.ctc_loss(*mixed, where=keep, reduction="mean")
    np.testing.assert_allclose(mean, alone.mean(), rtol=1e-6)


def test_exactly_enough_frames_are_enough():
    # One frame a label and one between the equal ones.
    labels = [1, 1, 2, 2, 2]
    logits = np.random.default_rng(16).normal(size=(8, 3)).astype(np.float32)
    only = [1, 0, 1, 2, 0, 2, 0, 2]
    expected = -log_softmax(logits.astype(np.float64))[np.arange(8), only].sum()
    np.testing.assert_allclose(whole(logits, np.array(labels)), expected, rtol=1e-6)
    assert np.isposinf(whole(logits[1:], np.array(labels)))


def test_impossible_classes_have_no_gradient():
    logits, *rest = ragged(17, 6, 4, [(6, 2), (6, 1)])
    logits[0, 1, 0] = logits[0, 2, 3] = logits[1, 4, rest[1][1, 0]] = -INF
    loss, gradient = value_and_gradient((logits, *rest))
    assert (gradient[np.isneginf(logits)] == 0).all()
    far = np.where(np.isneginf(logits), -80, logits).astype(np.float32)
    near = value_and_gradient((far, *rest))
    np.testing.assert_allclose(loss, near[0], rtol=1e-6)
    np.testing.assert_allclose(gradient, near[1], atol=1e-6)
    twice = jax.jit(jax.hessian(lambda x: jl.ctc_loss(x, *rest).sum()))(logits)
    assert np.isfinite(twice).all()


def test_unlikely_is_not_impossible():
    # Each frame insists on the blank: no float32 holds P, not even frame by frame.
    logits = np.zeros((300, 3), np.float32)
    logits[:, 0] = 250.0
    labels = np.resize([1, 2], 120)
    loss, gradient = of_whole(logits, labels)
    expected = by_recursion(logits.astype(np.float64), labels)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    # 120 of the 300 frames have to give way.
    np.testing.assert_allclose(gradient[:, 0].sum(), 120, rtol=1e-5)


# Padding, masks, shapes ------------------------------------------------------------


def test_padding_may_hold_anything():
    batch = logits, logit_paddings, labels, label_paddings = ragged(
        18, 7, 4, [(7, 3), (5, 2), (4, 0)]
    )
    clean = value_and_gradient(batch)
    for rubbish, word in ((np.nan, -1), (INF, 99), (-INF, 4)):
        dirty = np.where(logit_paddings[..., None] == 1, rubbish, logits)
        words = np.where(label_paddings == 1, word, labels)
        dirty = dirty.astype(np.float32)
        value = value_and_gradient((dirty, logit_paddings, words, label_paddings))
        np.testing.assert_array_equal(value[0], clean[0])
        np.testing.assert_array_equal(value[1], clean[1])


def test_padded_frames_are_skipped_wherever_they_stand():
    logits, _, labels, label_paddings = ragged(19, 7, 3, [(7, 3)])
    labels = np.array([[1, 1, 2]])
    holes = np.array([[0, 1, 0, 0, 1, 0, 0]])
    for kind in (np.int32, bool, np.float32):
        loss, gradient = value_and_gradient(
            (logits, holes.astype(kind), labels, label_paddings)
        )
        rest = logits[0][holes[0] == 0]
        expected, slope = of_whole(rest, labels[0])
        np.testing.assert_allclose(loss[0], expected, rtol=1e-6)
        np.testing.assert_allclose(gradient[0][holes[0] == 0], slope, rtol=1e-5)
        assert not gradient[0][holes[0] == 1].any()


def test_labels_count_from_the_front():
    logits, frames, labels, _ = ragged(20, 9, 4, [(9, 4)])
    holes = np.array([[0, 1, 0, 1]])  # two entries are 0: two labels
    front = jl.ctc_loss(logits, frames, labels, np.array([[0, 0, 1, 1]]))
    np.testing.assert_array_equal(jl.ctc_loss(logits, frames, labels, holes), front)


def test_masked_sequences_may_hold_anything():
    batch = ragged(21, 6, 3, [(6, 2), (5, 1), (6, 3)])
    logits, frames, labels, unused = (np.array(x) for x in batch)
    logits[1] = np.nan
    labels[1] = 77
    keep = np.array([True, False, True])

    def mean(x):
        return jl.ctc_loss(x, frames, labels, unused, where=keep, reduction="mean")

    value, gradient = jax.jit(jax.value_and_grad(mean))(logits)
    gradient = np.asarray(gradient)
    loss, slope = value_and_gradient(batch)
    np.testing.assert_allclose(value, loss[keep].mean(), rtol=1e-6)
    np.testing.assert_allclose(gradient[keep], slope[keep] / 2, rtol=1e-6, atol=1e-8)
    assert not gradient[1].any()


def test_masked_classes_are_impossible_and_a_frame_without_any_is_padding():
    logits, frames, labels, unused = ragged(33, 6, 4, [(6, 2), (5, 1), (6, 2)])
    keep = np.ones((3, 6, 4), bool)
    keep[0, :, 3] = keep[1, 2, 0] = False  # for all frames, and for one
    keep[0, 4] = keep[2] = False  # a whole frame, and a whole sequence
    labels[0] = [1, 2]
    loss, gradient = value_and_gradient(
        (np.where(keep, logits, np.nan), frames, labels, unused), where=keep
    )
    without = np.where(keep, logits, -INF), frames.copy(), labels, unused
    without[1][0, 4] = 1
    # By the same program, whose results are equal to the last bit.
    expected, slope = value_and_gradient(without, where=np.ones_like(keep))
    np.testing.assert_array_equal(loss, [*expected[:2], 0])
    np.testing.assert_array_equal(gradient[:2], slope[:2])
    assert not gradient[2].any()
    assert not gradient[~keep].any()
    plain = value_and_gradient(without)
    np.testing.assert_allclose(loss[:2], plain[0][:2], rtol=1e-6)
    np.testing.assert_allclose(gradient[:2], plain[1][:2], rtol=1e-5, atol=1e-7)


def test_batch_axes_and_broadcast_paddings():
    logits, frames, labels, unused = ragged(22, 6, 3, [(6, 2)] * 6)
    flat, log_blank, log_label = jl.ctc_loss_with_forward_probs(
        logits, frames, labels, unused
    )
    folded = jl.ctc_loss_with_forward_probs(
        logits.reshape(2, 3, 6, 3), np.zeros(6), labels.reshape(2, 3, 2), [[0, 0]]
    )
    np.testing.assert_allclose(folded[0], flat.reshape(2, 3), rtol=1e-6)
    np.testing.assert_allclose(folded[1], log_blank.reshape(6, 2, 3, 3), rtol=1e-6)
    np.testing.assert_allclose(folded[2], log_label.reshape(6, 2, 3, 2), rtol=1e-6)
    np.testing.assert_allclose(whole(logits[4], labels[4]), flat[4], rtol=1e-6)
    shared = jl.ctc_loss(logits, frames, labels[0], unused)  # one sentence for all
    np.testing.assert_allclose(shared[0], flat[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((2, 0, 0), [0, 0]), ((2, 0, 1), [INF, INF]), ((0, 3, 1), [])],
    ids=["no frames and no labels", "no frames", "no sequences"],
)
def test_empty_axes(sizes, expected):
    batch, frames, labels = sizes
    arguments = (
        np.zeros((batch, frames, 2), np.float32),
        np.zeros((batch, frames)),
        np.ones((batch, labels), np.int32),
        np.zeros((batch, labels)),
    )
    loss, gradient = value_and_gradient(arguments)
    np.testing.assert_array_equal(loss, np.array(expected, np.float32))
    assert not gradient.any()
    _, log_blank, log_label = jl.ctc_loss_with_forward_probs(*arguments)
    assert log_blank.shape == (frames, batch, labels + 1)
    assert log_label.shape == (frames, batch, labels)


def test_no_labels_leave_the_blanks():
    logits = np.random.default_rng(23).normal(size=(5, 3)).astype(np.float32)
    expected = -log_softmax(logits.astype(np.float64))[:, 1].sum()
    loss = whole(logits, np.zeros(0, np.int32), blank_id=1)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_a_single_class_is_certain():
    loss, gradient = of_whole(np.ones((4, 1), np.float32), np.zeros(0, np.int32))
    assert loss == 0
    assert not gradient.any()


# Forward probabilities -------------------------------------------------------------


def test_forward_probabilities_are_sums_over_alignments():
    logits, _, labels, _ = ragged(24, 4, 3, [(4, 2)])
    p = np.exp(log_softmax(logits[0].astype(np.float64)))
    none = np.zeros((1, 4)), labels, np.zeros((1, 2))
    _, log_blank, log_label = map(
        np.asarray,
        jl.ctc_loss_with_forward_probs(logits, *none, log_epsilon=-INF),
    )
    for t in range(1, 5):
        for n in range(3):
            blank = label = 0.0
            for alignment in itertools.product(range(3), repeat=t):
                if spells(alignment, labels[0][:n], 0):
                    probability = math.prod(p[s, k] for s, k in enumerate(alignment))
                    blank += probability * (alignment[-1] == 0)
                    label += probability * (alignment[-1] != 0)
            # optax adds the label's to the blank's in the last frame.
            blank += label * (t == 4)
            actual = np.exp(log_blank[t - 1, 0, n])
            np.testing.assert_allclose(actual, blank, rtol=1e-5)
            if n:
                actual = np.exp(log_label[t - 1, 0, n - 1])
                np.testing.assert_allclose(actual, label, rtol=1e-5)


def test_padded_frames_repeat_the_forward_probabilities():
    logits, frames, labels, unused = ragged(25, 6, 3, [(4, 2)])
    _, _, log_label = jl.ctc_loss_with_forward_probs(logits, frames, labels, unused)
    np.testing.assert_array_equal(log_label[4], log_label[3])
    np.testing.assert_array_equal(log_label[5], log_label[3])


@pytest.mark.exhaustive
@pytest.mark.usefixtures("x64")
def test_forward_probabilities_have_derivatives():
    logits, frames, labels, unused = ragged(26, 4, 3, [(4, 2), (3, 1)])
    weights = np.random.default_rng(27).normal(size=(4, 2, 5))

    def total(x, log_epsilon):
        _, log_blank, log_label = jl.ctc_loss_with_forward_probs(
            x, frames, labels, unused, log_epsilon=log_epsilon
        )
        return jnp.vdot(weights, jnp.concatenate([log_blank, log_label], -1))

    arguments = logits.astype(np.float64), np.float64(-30.0)
    modes = ("fwd", "rev")
    check_grads(jax.jit(total), arguments, order=2, modes=modes, atol=1e-6, rtol=1e-6)


# Errors ----------------------------------------------------------------------------


def test_an_unknown_label_makes_its_sequence_nan():
    logits, frames, labels, unused = ragged(28, 6, 3, [(6, 2), (6, 2), (6, 1)])
    good = np.asarray(jl.ctc_loss(logits, frames, labels, unused))
    check = jax.jit(checkify.checkify(jl.ctc_loss))
    for bad in (-1, 3):
        labels[1, 1] = labels[2, 1] = bad  # the second one is padding
        loss, gradient = value_and_gradient((logits, frames, labels, unused))
        assert np.isnan(loss[1])
        np.testing.assert_array_equal(loss[[0, 2]], good[[0, 2]])
        assert np.isfinite(gradient[[0, 2]]).all()
        error, _ = check(logits, frames, labels, unused)
        with pytest.raises(
            checkify.JaxRuntimeError, match=r"`labels` must be in \[0, 3"
        ):
            error.throw()


def test_nan_logits_make_their_sequence_nan():
    logits, *rest = ragged(29, 6, 3, [(6, 2), (6, 1)])
    logits[0, 2, 1] = np.nan
    loss, gradient = value_and_gradient((logits, *rest))
    assert np.isnan(loss[0])
    assert np.isnan(gradient[0, 2]).all()
    assert np.isfinite(loss[1])
    assert np.isfinite(gradient[1]).all()


def test_lengths_in_place_of_paddings_raise_under_checkify():
    logits, _, labels, unused = ragged(30, 6, 3, [(6, 2), (4, 1)])
    error, _ = checkify.checkify(jl.ctc_loss)(
        logits, np.array([[6.0], [4.0]]), labels, unused
    )
    with pytest.raises(
        checkify.JaxRuntimeError, match="`logit_paddings` must be 0 or 1"
    ):
        error.throw()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"logits": np.zeros(3)}, ValueError, "`logits` must have a frame and a class"),
        ({"logits": np.zeros((2, 6, 3), int)}, TypeError, "`logits` must be floating"),
        ({"labels": np.zeros((2, 2))}, TypeError, "`labels` must be integer"),
        ({"labels": np.zeros((3, 2), int)}, ValueError, r"got shape \(3, 2\)"),
        ({"labels": np.int32(1)}, ValueError, "`labels` must have an axis of labels"),
        ({"logit_paddings": np.zeros((2, 5))}, ValueError, "`logit_paddings` must"),
        ({"label_paddings": np.zeros((2, 6))}, ValueError, "`label_paddings` must"),
        ({"blank_id": 3}, ValueError, r"`blank_id` must be in \[0, 3\), got 3"),
        ({"blank_id": -1}, ValueError, r"`blank_id` must be in \[0, 3\), got -1"),
        ({"blank_id": 0.0}, TypeError, r"`blank_id` must be an int, got 0\.0"),
        ({"log_epsilon": 1.0}, ValueError, "`log_epsilon` must be in"),
        ({"log_epsilon": np.zeros(2)}, ValueError, "`log_epsilon` must be a scalar"),
    ],
)
@pytest.mark.parametrize("loss", [jl.ctc_loss, jl.ctc_loss_with_forward_probs])
def test_wrong_arguments_are_named(loss, change, error, message):
    logits, frames, labels, unused = ragged(31, 6, 3, [(6, 2), (4, 1)])
    arguments = {
        "logits": logits,
        "logit_paddings": frames,
        "labels": labels,
        "label_paddings": unused,
    }
    with pytest.raises(error, match=message):
        loss(**{**arguments, **change})


# Memory ----------------------------------------------------------------------------


@pytest.mark.exhaustive
@pytest.mark.optimised
def test_memory_grows_with_frames_times_labels_and_frames_times_classes():
    def temporaries(batch, frames, labels, classes):
        shapes = (
            jax.ShapeDtypeStruct((batch, frames, classes), jnp.float32),
            jax.ShapeDtypeStruct((batch, frames), jnp.float32),
            jax.ShapeDtypeStruct((batch, labels), jnp.int32),
            jax.ShapeDtypeStruct((batch, labels), jnp.float32),
        )
        mean = jax.value_and_grad(lambda *a: jl.ctc_loss(*a, reduction="mean"))
        compiled = jax.jit(mean).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes / 4

    batch, frames, labels, classes = 4, 96, 60, 64
    recursion = batch * frames * (labels + 1)
    rest = batch * frames * classes
    one_hot = batch * (labels + 1) * classes
    budget = 10 * recursion + 2 * rest + one_hot
    used = temporaries(batch, frames, labels, classes)
    assert used < budget < batch * frames * labels * classes / 4
    more = temporaries(batch, frames, labels, 4 * classes)
    assert more - used < 3 * (2 * rest + one_hot)


def test_one_scan_over_time_serves_the_batch():
    batch = ragged(32, 11, 3, [(11, 4), (9, 2), (11, 1)])
    logits, *rest = map(jnp.asarray, batch)
    jaxpr = jax.make_jaxpr(jax.grad(lambda x: jl.ctc_loss(x, *rest).sum()))(logits)

    def scans(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "scan":
                yield equation.params["length"]
                continue
            for value in equation.params.values():
                yield from scans(value.jaxpr) if hasattr(value, "jaxpr") else ()

    lengths = list(scans(jaxpr.jaxpr))
    assert set(lengths) == {11}
    assert len(lengths) == 2  # forward and backward


# Not finite ------------------------------------------------------------------------

FRAMES = np.array([[0, 0, 0, 0], [0, 1, 0, 1]])
LABELS = np.array([[1, 2], [3, 1]])
UNUSED = np.array([[0, 0], [0, 1]])
REACHED = (FRAMES == 0)[:, :, None] & (np.array([[0, 0, 0], [0, 0, 1]]) == 0)[:, None]
KERNEL = np.float32(np.random.default_rng(3).normal(size=(5, 4)))
KERNEL[:, 3] = abs(KERNEL[:, 3])  # a feature of inf makes one logit inf, not all -inf


def of_ctc(x):
    return jl.ctc_loss(x, FRAMES, LABELS, UNUSED)


def of_transducer(x):
    return jl.transducer_loss(x, FRAMES, LABELS, UNUSED)


def of_encodings(x):
    predictions = jnp.sin(jnp.arange(30.0).reshape(2, 3, 5))
    return jl.linear_transducer_loss(
        x, predictions, KERNEL, LABELS, FRAMES, UNUSED, activation=lambda x: x
    )


def of_predictions(x):
    encodings = jnp.sin(jnp.arange(40.0).reshape(2, 4, 5))
    return jl.linear_transducer_loss(
        encodings, x, KERNEL, LABELS, FRAMES, UNUSED, activation=lambda x: x
    )


@pytest.mark.parametrize("number", [math.nan, INF])
@pytest.mark.parametrize(
    ("loss", "counts"),
    [
        (of_ctc, FRAMES == 0),
        (of_transducer, REACHED),
        (of_encodings, FRAMES == 0),
        (of_predictions, np.any(REACHED, axis=1)),
    ],
)
def test_a_number_not_finite_makes_its_example_nan_unless_it_is_padding(
    loss, counts, number
):
    clean = np.float32(np.random.default_rng(4).normal(size=(*counts.shape, 5)))
    # All positions at once, each in a copy of its own.
    spoiled = np.where(np.eye(clean.size) == 1, number, clean.reshape(-1))
    spoiled = np.float32(spoiled).reshape(-1, *clean.shape)

    def both(x):
        value, pull_back = jax.vjp(loss, x)
        return value, pull_back(jnp.ones_like(value))[0]

    alone = jax.jit(jax.vmap(loss))(spoiled)
    value, gradient = jax.jit(jax.vmap(both))(spoiled)
    gradient = np.asarray(gradient).reshape(len(spoiled), 2, -1)
    expected, slope = both(clean)
    owner = np.indices(clean.shape)[0].reshape(-1)
    hit = np.broadcast_to(counts[..., None], clean.shape).reshape(-1)
    bad = hit[:, None] & (owner[:, None] == np.arange(2))
    for found in (alone, value):
        np.testing.assert_array_equal(np.isnan(found), bad)
        found = np.where(bad, expected, found)
        np.testing.assert_allclose(found, np.tile(expected, (len(bad), 1)), rtol=1e-6)
    np.testing.assert_array_equal(np.isnan(gradient).any(-1), bad)
    slope = np.asarray(slope).reshape(1, 2, -1)
    gradient = np.where(bad[..., None], slope, gradient)
    np.testing.assert_allclose(
        gradient, np.tile(slope, (len(bad), 1, 1)), rtol=1e-5, atol=1e-6
    )

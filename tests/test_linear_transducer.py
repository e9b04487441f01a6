"""The transducer of a joint network against the one of its logits."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from tier import first

import jaxloss as jl

pytestmark = pytest.mark.any_program

_rng = np.random.default_rng(0)
ENCODINGS = np.float32(_rng.normal(size=(3, 7, 5)))
PREDICTIONS = np.float32(_rng.normal(size=(3, 5, 5)))
KERNEL = np.float32(_rng.normal(size=(5, 6)))
BIAS = np.float32(_rng.normal(size=6))
LABELS = _rng.integers(1, 6, (3, 4))
FRAMES = np.array([[0] * 7, [0, 0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1, 1]])
UNUSED = np.array([[0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 1, 1]])
REAL = ENCODINGS, PREDICTIONS, KERNEL, BIAS
COTANGENT = np.float32([0.3, -1.1, 2.0])


def linear(f, g, kernel, bias, **options):
    rest = LABELS, FRAMES, UNUSED
    return jl.linear_transducer_loss(f, g, kernel, *rest, bias=bias, **options)


def full(f, g, kernel, bias):
    logits = jnp.tanh(f[:, :, None] + g[:, None]) @ kernel
    logits = logits + bias.reshape(1, 1, 1, -1)
    return jl.transducer_loss(logits, FRAMES, LABELS, UNUSED)


def value_and_gradients(loss, **options):
    @jax.jit
    def run(*real):
        value, pull_back = jax.vjp(lambda *x: loss(*x, **options), *real)
        return value, pull_back(COTANGENT)

    return run(*REAL)


def close(actual, expected):
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("chunk_size", first([30, None, 1, 10**6], 2))
def test_equals_the_loss_of_full_logits_for_every_chunk(chunk_size):
    """Chunks of one frame, of two, with a rest, and of all."""
    found = value_and_gradients(linear, chunk_size=chunk_size)
    close(found, value_and_gradients(full))


def test_a_small_loss_keeps_its_digits():
    """Features that make every class of the one alignment sure."""
    lead = 40.0
    f = np.float32(np.eye(3)[None] * lead)
    g = np.zeros((1, 2, 3), np.float32)
    kernel = np.zeros((3, 3), np.float32)
    kernel[0, 0] = kernel[1, 1] = kernel[2, 0] = 1
    # After the label, the second frame emits the blank.
    g[0, 1] = [lead, -lead, 0]
    given = f, g, kernel, np.array([[1]]), [[0, 0, 0]], [[0]]
    options = {"activation": lambda x: x}
    found = jl.linear_transducer_loss(*given, **options)
    logits = (f[:, :, None] + g[:, None]) @ kernel
    expected = jl.transducer_loss(logits, [[0, 0, 0]], np.array([[1]]), [[0]])
    assert 0 < expected[0] < 1e-14
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_padding_and_sequences_of_weight_zero_may_hold_anything():
    f, g = ENCODINGS.copy(), PREDICTIONS.copy()
    f[FRAMES == 1] = np.nan
    g[:, 1:][UNUSED == 1] = np.inf
    clean = jax.grad(lambda *x: linear(*x) @ COTANGENT, (0, 1, 2, 3))
    close(jax.jit(clean)(f, g, KERNEL, BIAS), value_and_gradients(linear)[1])
    f[0] = np.nan
    weights = np.float32([0, 1, 1])

    def mean(*real):
        return linear(*real, weights=weights, reduction="mean")

    value, slopes = jax.jit(jax.value_and_grad(mean, (0, 1, 2, 3)))(f, g, KERNEL, BIAS)
    np.testing.assert_allclose(value, linear(*REAL)[1:].mean(), rtol=1e-5)
    assert all(np.isfinite(x).all() for x in slopes)
    assert not np.any(slopes[0][0])


def test_the_activation_may_have_parameters_of_its_own():
    def loss(scale, linear=True):
        joint = ENCODINGS[:, :, None] + PREDICTIONS[:, None]
        if not linear:
            logits = jax.nn.silu(scale * joint) @ KERNEL
            return jl.transducer_loss(logits, FRAMES, LABELS, UNUSED) @ COTANGENT
        return jl.linear_transducer_loss(
            ENCODINGS, PREDICTIONS, KERNEL, LABELS, FRAMES, UNUSED,
            activation=lambda x: jax.nn.silu(scale * x),
        ) @ COTANGENT  # fmt: skip

    found = jax.jit(jax.value_and_grad(loss))(0.7)
    close(found, jax.jit(jax.value_and_grad(lambda s: loss(s, False)))(0.7))


@pytest.mark.exhaustive
@pytest.mark.parametrize("class_axis", [0, -1])
def test_classes_may_be_split_over_devices(class_axis):
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((2,), ("model",), auto, devices=jax.devices()[:2])
    split = P("model") if class_axis == 0 else P(None, "model")
    kernel = KERNEL.T if class_axis == 0 else KERNEL

    def loss(f, g, kernel, bias):
        losses = linear(
            f, g, kernel, bias, class_axis=class_axis, axis_name="model", chunk_size=30
        )
        return losses @ COTANGENT

    run = jax.shard_map(
        jax.value_and_grad(loss, (0, 1, 2, 3)),
        mesh=mesh,
        in_specs=(P(), P(), split, P("model")),
        out_specs=(P(), (P(), P(), split, P("model"))),
    )
    value, slopes = jax.jit(run)(ENCODINGS, PREDICTIONS, kernel, BIAS)
    expected, slope = value_and_gradients(full)
    slopes = list(slopes)
    slopes[2] = slopes[2].T if class_axis == 0 else slopes[2]
    close((value, tuple(slopes)), (expected @ COTANGENT, slope))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"activation": 3}, TypeError, "`activation` must be callable, got 3"),
        ({"activation": jnp.sum}, ValueError, "`activation` must keep the shape"),
        ({"kernel": KERNEL.T}, ValueError, "`kernel` must have the 5 features"),
        ({"kernel": BIAS}, ValueError, "`kernel` must have two axes"),
        ({"encodings": BIAS}, ValueError, "`encodings` must have at least two axes"),
        ({"predictions": PREDICTIONS[..., :1]}, ValueError, "`predictions` must have"),
        ({"labels": LABELS[:, :2]}, ValueError, "`labels` must have 4 labels"),
        ({"bias": BIAS[:2]}, ValueError, "`bias` must have one number per class"),
        ({"chunk_size": 0}, ValueError, "`chunk_size` must be in"),
        ({"class_axis": 2}, ValueError, "`class_axis` must be in"),
    ],
)
def test_wrong_arguments_are_named(change, error, message):
    given = {
        "encodings": ENCODINGS,
        "predictions": PREDICTIONS,
        "kernel": KERNEL,
        "labels": LABELS,
        "logit_paddings": FRAMES,
        "label_paddings": UNUSED,
    }
    with pytest.raises(error, match=message):
        jl.linear_transducer_loss(**{**given, **change})


@pytest.mark.optimised
def test_memory_is_far_below_that_of_the_logits():
    """The lattice of a benchmark: its logits take 1,262 MiB."""
    shapes = (8, 400, 512), (8, 101, 512), (512, 1024)
    real = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    labels = jax.ShapeDtypeStruct((8, 100), jnp.int32)
    frames, unused = np.zeros((8, 400)), np.zeros((8, 100))

    def loss(f, g, kernel, labels):
        return jl.linear_transducer_loss(
            f, g, kernel, labels, frames, unused, reduction="mean"
        )

    step = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))
    memory = step.lower(*real, labels).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 60 * 2**20
    assert 4 * math.prod((8, 400, 101, 1024)) > 1200 * 2**20

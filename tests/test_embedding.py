"""What the losses over pairs cost, and their blocks of rows.

Their values and slopes in a single block are the catalogue's.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import embedding
from common import assert_close
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxloss as jl

pytestmark = pytest.mark.any_program

LOSSES = {
    "ntxent": (jl.ntxent, embedding.ntxent, {"temperature": 0.6}),
    "circle_loss": (jl.circle_loss, embedding.circle, {"gamma": 3.0, "margin": 0.35}),
}
each_loss = pytest.mark.parametrize("name", LOSSES)


def value_and_gradient(loss, batch, labels):
    def mean(x, labels):
        return loss(x, labels, reduction="mean")

    return jax.jit(jax.value_and_grad(mean)).lower(batch, labels).compile()


@pytest.mark.exhaustive
@pytest.mark.optimised
@each_loss
def test_memory_is_less_than_that_of_one_matrix_of_pairs(name):
    pairs = 512
    embeddings = jax.ShapeDtypeStruct((pairs, 16), jnp.float32)
    labels = jax.ShapeDtypeStruct((pairs,), jnp.int32)
    step = value_and_gradient(LOSSES[name][0], embeddings, labels)
    assert step.memory_analysis().temp_size_in_bytes < 4 * pairs * pairs


@pytest.mark.exhaustive
@pytest.mark.optimised
@each_loss
def test_memory_grows_like_the_number_of_examples(name):
    def temporaries(pairs):
        embeddings = jax.ShapeDtypeStruct((pairs, 16), jnp.float32)
        labels = jax.ShapeDtypeStruct((pairs,), jnp.int32)
        step = value_and_gradient(LOSSES[name][0], embeddings, labels)
        return step.memory_analysis().temp_size_in_bytes

    assert temporaries(16384) < 4.4 * temporaries(4096)


@pytest.mark.optimised
@pytest.mark.parametrize("temperature", [1e-2, 1e-10, 1e-30])
def test_equal_embeddings_have_equal_shares_at_every_temperature(temperature):
    """A largest score less itself is 0: the loss is log 5, of 1 positive beside 4."""
    x = jnp.ones((6, 3)) * jnp.float32(0.3)
    labels = jnp.array([0, 0, 1, 1, 2, 2])
    run = jax.jit(jax.value_and_grad(lambda x, t: jl.ntxent(x, labels, t)))
    loss, slope = run(x, jnp.float32(temperature))
    np.testing.assert_allclose(loss, np.log(5), rtol=1e-6)
    assert jnp.isfinite(slope).all()


def several_blocks(examples):
    draw = np.random.default_rng(7)
    x = draw.normal(size=(examples, 3))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x, draw.integers(0, examples // 3, examples, np.int32)


# Blocks of equal size, and a rest.
@pytest.mark.parametrize("examples", [128, 195])
@each_loss
def test_blocks_of_rows_have_the_loss_of_the_whole_batch(name, examples, x64):
    loss, reference, parameters = LOSSES[name]
    x, labels = several_blocks(examples)
    keep = np.arange(examples) % 5 != 1

    @jax.jit
    def each(x, labels, keep):
        return loss(x, labels, **parameters, where=keep, reduction="none")

    expected = np.zeros(examples)
    expected[keep] = reference(x[keep], labels[keep], **parameters)
    np.testing.assert_allclose(each(x, labels, keep), expected, rtol=1e-11)


@pytest.fixture
def as_elsewhere(monkeypatch):
    """Called, it lets all that is traced from then on be what TPU and GPU get."""

    def begin():
        jax.clear_caches()
        monkeypatch.setattr(
            jax.lax, "platform_dependent", lambda *x, cpu, default: default(*x)
        )

    yield begin
    jax.clear_caches()


@pytest.mark.exhaustive
@each_loss
def test_derivatives_through_the_blocks_are_those_of_one(name, x64, as_elsewhere):
    loss, _, parameters = LOSSES[name]
    x, labels = several_blocks(131)
    weights, line = np.random.default_rng(8).normal(size=(2, 131, 3))

    def total(x, parameters):
        each = loss(x, labels, **parameters, reduction="none")
        return jnp.sum(jnp.sin(each * weights[:, 0]))

    def orders():
        point = x, {name: jnp.float64(v) for name, v in parameters.items()}
        tangents = line, jax.tree.map(jnp.ones_like, point[1])
        first = jax.value_and_grad(total, (0, 1))
        forward_slope = jax.grad(lambda *p: jax.jvp(total, p, tangents)[1], (0, 1))
        return jax.jvp(first, point, tangents), forward_slope(*point)

    several = jax.jit(orders)()
    as_elsewhere()
    assert_close(several, jax.jit(lambda: orders())())


@each_loss
def test_scores_exist_in_blocks_on_every_platform(name):
    """The program has one form for CPU and one for TPU and GPU."""

    def blocks(pairs):
        x, labels = jnp.zeros((pairs, 2)), jnp.arange(pairs)
        step = jax.value_and_grad(lambda x: LOSSES[name][0](x, labels, reduction="sum"))
        program = str(jax.make_jaxpr(step)(x))
        return {*map(int, re.findall(rf"f32\[(\d+),{pairs}\]", program))} - {1}

    assert blocks(2048) == {256, 2048}
    assert blocks(16384) == {256, 1024}


@pytest.mark.optimised
@each_loss
def test_blocks_of_rows_are_spread_over_devices(name):
    """Each device has a part of every block, and none the whole of one."""
    mesh = jax.make_mesh((4,), ("batch",), (AxisType.Auto,), devices=jax.devices()[:4])
    x, labels = several_blocks(256)
    batch = jnp.float32(x), jnp.int32(labels)
    alone = value_and_gradient(LOSSES[name][0], *batch)
    spread = jax.device_put(batch, NamedSharding(mesh, P("batch")))
    together = value_and_gradient(LOSSES[name][0], *spread)
    assert_close(together(*spread), alone(*batch))
    assert "f32[64,256]" in alone.as_text()
    assert "f32[64,256]" not in together.as_text()


def test_distances_keep_their_digits_over_the_whole_range():
    """Alone or beside others, where one row out of range takes all to another form."""
    magnitudes = np.logspace(-36, 38, 75)
    draw = np.random.default_rng(9)
    pairs = magnitudes[:, None] * draw.uniform(-0.4, 0.4, (2, 75, 7))
    x, y = pairs.astype(np.float32)

    @jax.jit
    def distances(x, y):
        def total(x):  # the negative is the anchor itself
            loss = jl.triplet_margin_loss(x, y, x, eps=0.0, margin=0.0)
            return jnp.sum(loss), loss

        slope, value = jax.grad(total, has_aux=True)(x)
        return value, slope

    gap = x.astype(np.float64) - y
    length = np.sqrt(np.sum(gap * gap, axis=1))
    rows = [distances(x[i : i + 1], y[i : i + 1]) for i in range(75)]
    alone = [np.concatenate(part) for part in zip(*rows, strict=True)]
    for value, slope in (alone, distances(x, y)):
        np.testing.assert_allclose(value, length, rtol=4 * 2**-23)
        np.testing.assert_allclose(slope, gap / length[:, None], rtol=0, atol=2**-21)

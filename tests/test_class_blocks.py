"""Blocks of classes, which a TPU or a GPU takes, give what chunks of rows give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import vocabulary as definitions
from common import assert_close
from jax.sharding import PartitionSpec as P
from tier import first

import jaxloss as jl
from jaxloss._core.sweeps import classes, linear

pytestmark = pytest.mark.any_program

EXAMPLES, FEATURES, CLASSES = 12, 5, 29


@pytest.fixture(autouse=True)
def blocks(monkeypatch):
    """Blocks of eight classes, compiled for CPU; a chunk size still asks for rows."""
    taken = []

    def other_platform(*operands, default, **_):
        taken.append(default)
        return default(*operands)

    monkeypatch.setattr(linear, "LARGE", 0)
    monkeypatch.setattr(classes, "default_block", lambda features: 8)
    monkeypatch.setattr(jax.lax, "platform_dependent", other_platform)
    jax.clear_caches()
    yield taken
    jax.clear_caches()


def inputs(dtype=np.float64):
    """All real arguments, the integer ones and the mask."""
    rng = np.random.default_rng(0)
    real = {
        "hidden": rng.normal(size=(EXAMPLES, FEATURES)),
        "kernel": 2 * rng.normal(size=(FEATURES, CLASSES)),
        "bias": rng.normal(size=CLASSES),
        "class_weights": rng.uniform(0.3, 2, CLASSES),
        "label_smoothing": 0.1,
        "z_loss": 0.05,
        "logit_softcap": 4.0,
        "temperature": 1.7,
        "weights": np.where(np.arange(EXAMPLES) == 4, 0, rng.uniform(0.3, 2, EXAMPLES)),
    }
    labels = rng.integers(0, CLASSES, EXAMPLES)
    where = rng.random(EXAMPLES) < 0.8
    return {k: jnp.asarray(v, dtype) for k, v in real.items()}, labels, where


def pulled(loss, real):
    """Value, gradient and a second derivative, with a cotangent of no ones."""

    def total(real):
        value = jnp.stack(jax.tree.leaves(loss(**real)))
        return jnp.sum(value * (0.7 + jnp.arange(value.size) / 3).reshape(value.shape))

    line = jax.tree.map(lambda x: jnp.full_like(x, 0.3), real)
    slope = jax.value_and_grad(total)
    return jax.jit(lambda x: jax.jvp(slope, (x,), (line,)))(real)


@pytest.mark.parametrize("reduction", first(["mean", "none", "sum"]))
def test_all_arguments_and_derivatives(x64, blocks, reduction):
    real, labels, where = inputs()
    fixed = {"labels": labels, "where": where, "reduction": reduction}

    def loss(**real):
        return jl.linear_cross_entropy(**real, **fixed, ignore_index=int(labels[1]))

    def by_rows(**real):
        return jl.linear_cross_entropy(
            **real, **fixed, ignore_index=int(labels[1]), chunk_size=5
        )

    found = pulled(loss, real)
    assert blocks
    assert_close(found, pulled(by_rows, real), 1e-11)


def test_values_are_those_of_the_definition(x64):
    real, labels, _ = inputs()
    del real["weights"]
    found = jl.linear_cross_entropy(labels=labels, **real)
    expected = definitions.linear_cross_entropy(
        labels=labels, **jax.tree.map(np.asarray, real)
    )
    assert_close(found, expected, 1e-13)
    names = "hidden", "kernel", "bias", "logit_softcap", "temperature"
    real = {name: real[name] for name in names}
    log_probs, entropies = jl.linear_log_probs(labels=labels, **real)
    arrays = jax.tree.map(np.asarray, real)
    assert_close(log_probs, definitions.log_probs(labels=labels, **arrays), 1e-13)
    assert_close(entropies, definitions.entropies(labels=labels, **arrays), 1e-13)


@pytest.mark.exhaustive
def test_log_probs_and_entropies(x64, blocks):
    real, labels, where = inputs()
    names = "hidden", "kernel", "bias", "logit_softcap", "temperature"
    real = {name: real[name] for name in names}

    def numbers(**options):
        return lambda **real: jl.linear_log_probs(
            labels=labels, where=where, **real, **options
        )

    found = pulled(numbers(), real)
    assert blocks
    assert_close(found, pulled(numbers(chunk_size=5), real), 1e-11)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("form", ["blocks", "rows"])
def test_an_embedding_table_has_the_transposed_gradient(dtype, form):
    real, labels, _ = inputs(dtype)
    hidden, kernel = real["hidden"], real["kernel"]
    bias = real["bias"].astype(jnp.float32)
    size = {"blocks": None, "rows": 5}[form]

    def mean(hidden, kernel, axis):
        return jl.linear_cross_entropy(
            hidden,
            kernel,
            labels,
            bias=bias,
            class_axis=axis,
            chunk_size=size,
            reduction="mean",
        )

    value, (dhidden, dkernel) = jax.value_and_grad(mean, (0, 1))(hidden, kernel, -1)
    found, (dtable_hidden, dtable) = jax.value_and_grad(mean, (0, 1))(
        hidden, kernel.T, 0
    )
    rtol = 1e-6 if dtype == jnp.float32 else 1e-2
    assert dtable.shape == (CLASSES, FEATURES)
    assert dtable.dtype == dtype
    assert_close((found, dtable_hidden), (value, dhidden), rtol)
    assert_close(dtable.T, dkernel, rtol)


def test_a_small_loss_keeps_its_digits():
    """The label far ahead, alone, far behind, and classes that a bias takes out."""
    x = np.zeros((6, CLASSES), np.float32)
    x[0, 3] = x[1, 28] = 50
    x[2, 9] = 60
    x[3, 17], x[4, 0] = 30, -40
    labels = np.array([3, 28, 9, 2, 0, 11])
    bias = jnp.zeros(CLASSES).at[20].set(-jnp.inf)

    def mean(x, bias, size):
        identity = jnp.eye(CLASSES, dtype=x.dtype)
        return jl.linear_cross_entropy(
            x, identity, labels, bias=bias, chunk_size=size, reduction="sum"
        )

    found = jl.linear_cross_entropy(jnp.asarray(x), jnp.eye(CLASSES), labels, bias=bias)
    own = x[np.arange(6), labels].astype(np.longdouble)
    others = np.where(
        np.arange(CLASSES) == labels[:, None], 0, np.exp(x.astype(np.longdouble))
    )
    others = np.delete(others, 20, axis=1).sum(1)
    np.testing.assert_allclose(found, np.log1p(others / np.exp(own)), rtol=1e-6)
    slope = jax.grad(mean, (0, 1))(jnp.asarray(x), bias, None)
    rows = jax.grad(mean, (0, 1))(jnp.asarray(x), bias, 3)
    assert_close(slope, rows, 1e-6)


def test_excluded_rows_may_hold_anything():
    real, labels, _ = inputs(jnp.float32)
    hidden = real["hidden"].at[2].set(jnp.nan).at[5].set(jnp.inf).at[7].set(3e38)
    labels = np.where(np.arange(EXAMPLES) == 9, -1, labels)
    where = np.arange(EXAMPLES) != 2
    weights = jnp.where(jnp.isin(jnp.arange(EXAMPLES), jnp.array([5, 7, 9])), 0.0, 1.3)

    def mean(hidden, kernel, bias, size=None):
        return jl.linear_cross_entropy(
            hidden,
            kernel,
            labels,
            bias=bias,
            label_smoothing=0.1,
            z_loss=1e-3,
            where=where,
            weights=weights,
            chunk_size=size,
            reduction="mean",
        )

    arrays = hidden, real["kernel"], real["bias"]
    value, slopes = jax.value_and_grad(mean, (0, 1, 2))(*arrays)
    kept = np.array([i for i in range(EXAMPLES) if i not in (2, 5, 7, 9)])
    expected = jl.linear_cross_entropy(
        hidden[kept],
        real["kernel"],
        labels[kept],
        bias=real["bias"],
        label_smoothing=0.1,
        z_loss=1e-3,
        reduction="mean",
    )
    assert_close(value, expected, 1e-6)
    assert all(np.isfinite(x).all() for x in slopes)
    assert not np.any(np.asarray(slopes[0])[[2, 5, 7, 9]])


def test_a_label_that_is_no_class_is_nan():
    real, labels, _ = inputs(jnp.float32)
    labels = np.where(np.arange(EXAMPLES) < 2, [[-1], [CLASSES]], labels)[0]
    labels[1] = CLASSES
    loss = jl.linear_cross_entropy(real["hidden"], real["kernel"], labels)
    np.testing.assert_array_equal(np.isnan(loss), np.arange(EXAMPLES) < 2)


@pytest.mark.exhaustive
@pytest.mark.parametrize("axis", [0, 1])
def test_classes_split_over_devices(blocks, axis):
    """Four devices with seven classes each, in blocks of eight and of three."""
    real, labels, _ = inputs(jnp.float32)
    count = 28
    labels = labels % count
    hidden, kernel, bias = real["hidden"], real["kernel"][:, :count], real["bias"]
    bias = bias[:count]
    kernel = kernel if axis else kernel.T
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("classes",))
    spec = P(None, "classes") if axis else P("classes", None)

    def mean(hidden, kernel, bias, axis_name=None, size=None):
        return jl.linear_cross_entropy(
            hidden,
            kernel,
            labels,
            bias=bias,
            label_smoothing=0.1,
            z_loss=1e-3,
            class_axis=axis,
            axis_name=axis_name,
            chunk_size=size,
            reduction="mean",
        )

    def split(*arrays):
        return jax.value_and_grad(mean, (0, 1, 2))(*arrays, "classes")

    mapped = jax.shard_map(
        split,
        mesh=mesh,
        in_specs=(P(), spec, P("classes")),
        out_specs=(P(), (P(), spec, P("classes"))),
    )
    arrays = hidden, kernel, bias
    found = jax.jit(mapped)(*arrays)
    assert blocks
    expected = jax.value_and_grad(mean, (0, 1, 2))(*arrays, None, 4)
    assert_close(jax.device_get(found), expected, 2e-6)

"""Pairs in blocks, on one device and on a ring of devices, and their edges.

Values and slopes of few examples in one or two blocks are the catalogue's.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import contrast
from common import assert_close
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from tier import EXHAUSTIVE, first

import jaxloss as jl
from jaxloss._core.sweeps import blocks
from jaxloss.contrast import _arguments

pytestmark = pytest.mark.any_program

# A loss of two towers x and y and of labels, its definition, and its parameters.
LOSSES = {
    "siglip": (
        lambda x, y, labels, **kw: jl.siglip_loss(x, y, **kw),
        lambda x, y, labels, **kw: contrast.siglip(x, y, **kw),
        {"logit_scale": 1.3, "logit_bias": -0.8},
    ),
    "info_nce": (
        lambda x, y, labels, **kw: jl.info_nce_loss(x, y, labels=labels, **kw),
        lambda x, y, labels, **kw: contrast.info_nce(x, y, labels=labels, **kw),
        {"temperature": 0.6},
    ),
    "clip": (
        lambda x, y, labels, **kw: jl.info_nce_loss(
            x, y, labels=labels, symmetric=True, **kw
        ),
        lambda x, y, labels, **kw: contrast.info_nce(
            x, y, labels=labels, symmetric=True, **kw
        ),
        {"temperature": 0.6},
    ),
    "supervised": (
        lambda x, y, labels, **kw: jl.supervised_contrastive_loss(x, labels, **kw),
        lambda x, y, labels, **kw: contrast.supervised(x, labels, **kw),
        {"temperature": 0.6},
    ),
}
each_loss = pytest.mark.parametrize("name", LOSSES)
# Of the compiled programs: one sweep, and running sums that travel with the keys.
each_sweep = pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in ("siglip", "clip") else pytest.mark.exhaustive)
        for n in LOSSES
    ],
)


def towers(examples, features=5, scale=1.0):
    """Two embeddings per example, and labels that most share with another one."""
    draw = np.random.default_rng(3)
    x, y = scale * draw.normal(size=(2, examples, features))
    return x, y, draw.integers(0, max(examples // 3, 1), examples, np.int32)


def derivatives_of(loss, real, direction, second=True):
    """Value, gradient, tangent, and the second derivatives of a scalar loss."""
    gradient = jax.value_and_grad(loss)
    found = {"tangent": jax.jvp(loss, (real,), (direction,))[1]}
    if not second:
        return {**found, "gradient": gradient(real)}
    found["gradient"], found["second"] = jax.jvp(gradient, (real,), (direction,))
    if EXHAUSTIVE:
        pull_back = jax.vjp(jax.grad(loss), real)[1]
        found["reverse over reverse"] = pull_back(direction)[0]
    return found


QUICK = {("siglip", "mean"), ("info_nce", "mean"), ("clip", "none")}
QUICK |= {("supervised", "none")}


@pytest.mark.parametrize(
    ("name", "reduction"),
    [
        pytest.param(n, r, marks=() if (n, r) in QUICK else pytest.mark.exhaustive)
        for n in LOSSES
        for r in ("none", "mean")
    ],
)
def test_blocks_have_the_derivatives_of_the_full_matrix(name, reduction, x64):
    loss, reference, parameters = LOSSES[name]
    x, y, labels = towers(23)
    keep = np.arange(23) % 5 != 1
    draw = np.random.default_rng(4)
    real = {"x": x, "y": y, "weights": draw.uniform(0.2, 2, 23), **parameters}
    direction = jax.tree.map(lambda v: draw.normal(size=np.shape(v)), real)
    ct = draw.normal(size=23) if reduction == "none" else 0.7

    def total(chunk_size, real):
        tail = {"where": keep, "reduction": reduction, "chunk_size": chunk_size}
        return jnp.sum(ct * loss(**real, labels=labels, **tail))

    def derivatives(real, direction):
        return [
            derivatives_of(functools.partial(total, size), real, direction)
            for size in (6, None)  # 23 = 3 · 6 + 5
        ]

    blocks, whole = jax.jit(derivatives)(real, direction)
    assert_close(blocks, whole, 1e-9)
    each = np.zeros(23)
    each[keep] = reference(x[keep], y[keep], labels[keep], **parameters)
    each *= real["weights"]
    if reduction == "mean":
        counts = keep.astype(float)
        if name == "supervised":
            counts[keep] = contrast.has_positives(labels[keep])
        each = each.sum() / (counts * real["weights"]).sum()
    np.testing.assert_allclose(blocks["gradient"][0], np.sum(ct * each), rtol=1e-11)


def spread(loss, mesh, **options):
    """The loss in `shard_map` with the examples over the mesh axis "data"."""

    def call(x, y, labels, weights, where, parameters):
        def local(x, y, labels, weights, where, parameters):
            found = loss(
                x, y, labels, weights=weights, where=where, **parameters,
                axis_name="data", **options,
            )  # fmt: skip
            return found if found.ndim else found[None]

        by_example = P("data")
        return jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(*[by_example] * 5, P()),
            out_specs=by_example,
        )(x, y, labels, weights, where, parameters)

    return call


@pytest.mark.parametrize(
    "reduction", ["none", pytest.param("sum", marks=pytest.mark.exhaustive)]
)
@each_loss
def test_a_ring_of_devices_has_the_derivatives_of_one(name, reduction):
    """With a cotangent of its own on each device; pairs lie across devices."""
    loss, _, parameters = LOSSES[name]
    x, y, labels = towers(24)
    keep = np.arange(24) % 5 != 1
    draw = np.random.default_rng(4)
    real = {"x": x, "y": y, "weights": draw.uniform(0.2, 2, 24)}
    real = jax.tree.map(jnp.float32, {**real, "parameters": parameters})
    direction = jax.tree.map(lambda v: jnp.float32(draw.normal(size=v.shape)), real)
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    ring = spread(loss, mesh, chunk_size=2, reduction=reduction)
    ct = jnp.float32(draw.normal(size=24 if reduction == "none" else 8))

    def on_one(real):
        kw = {**real["parameters"], "weights": real["weights"], "where": keep}
        found = loss(real["x"], real["y"], labels, **kw)
        return jnp.sum(ct * found.reshape(ct.size, -1).sum(1))

    def on_ring(real):
        found = ring(
            real["x"], real["y"], labels, real["weights"], keep, real["parameters"]
        )
        return jnp.sum(ct * found)

    @jax.jit
    def derivatives(real, direction):
        return [
            derivatives_of(f, real, direction, second=EXHAUSTIVE)
            for f in (on_ring, on_one)
        ]

    assert_close(*derivatives(real, direction), 2e-5)


def test_gradient_on_each_device_is_that_of_the_sum_over_devices():
    """`jax.grad` inside `shard_map`, and means over unequal numbers of examples."""
    x, y, _ = towers(16)
    x, y, scale = jnp.float32(x), jnp.float32(y), jnp.float32(1.3)
    keep = np.arange(16) % 5 != 1
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))

    def local(x, y, scale, keep):
        def mean(x, y, scale):
            return jl.siglip_loss(
                x, y, logit_scale=scale, where=keep, reduction="mean", axis_name="data"
            )

        return jax.grad(mean, (0, 1, 2))(x, y, scale)

    examples = P("data")
    inside = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(examples, examples, P(), examples),
        out_specs=(examples, examples, P()),
    )

    def total(x, y, scale):
        each = jl.siglip_loss(x, y, logit_scale=scale, where=keep).reshape(8, 2)
        return jnp.sum(jnp.sum(each, 1) / np.float32(keep.reshape(8, 2).sum(1)))

    expected = jax.jit(jax.grad(total, (0, 1, 2)))(x, y, scale)
    assert_close(jax.jit(inside)(x, y, scale, keep), expected, 1e-5)


def shares_on_a_ring(real, chunk_size, keep=None):
    """Each device's mean of the sigmoid loss of 24 pairs over eight devices."""
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,))
    ring = spread(LOSSES["siglip"][0], mesh, chunk_size=chunk_size, reduction="mean")
    parameters = {name: real[name] for name in ("logit_scale", "logit_bias")}
    weights = real.get("weights", jnp.ones(24))
    keep = np.ones(24, bool) if keep is None else keep
    return ring(real["x"], real["y"], np.zeros(24), weights, keep, parameters)


def sigmoid_loss_of_shares(real, keep, ct):
    """Value and gradients of Σ_p ct_p mean_p by the definition, in float64."""
    real = jax.tree.map(np.float64, real)
    x, y, w = real["x"], real["y"], np.where(keep, real["weights"], 0)
    mass = w.reshape(8, 3).sum(1).repeat(3)
    c = np.repeat(ct, 3) * keep / mass
    pairs = keep[:, None] & keep
    z = 2 * np.eye(24) - 1
    s = x @ y.T
    logits = real["logit_scale"] * s + real["logit_bias"]
    each = np.where(pairs, np.logaddexp(0, -z * logits), 0).sum(1)
    mean = (w * each).reshape(8, 3).sum(1).repeat(3) / mass
    g = (c * w)[:, None] * np.where(pairs, -z / (1 + np.exp(z * logits)), 0)
    slopes = {
        "x": real["logit_scale"] * g @ y,
        "y": real["logit_scale"] * g.T @ x,
        "logit_scale": (g * s).sum(),
        "logit_bias": g.sum(),
        "weights": c * (each - mean),
    }
    return ct @ mean[::3], slopes


@pytest.mark.parametrize("cotangents", ["equal", "unequal"])
def test_sigmoid_loss_on_a_ring_is_its_definition(cotangents):
    """Means over unequal masses of weights on each device, times a cotangent."""
    x, y, _ = towers(24)
    keep = np.arange(24) % 5 != 1
    weights = np.random.default_rng(4).uniform(0.2, 2, 24)
    real = {"x": x, "y": y, "weights": weights, "logit_scale": 1.3, "logit_bias": -0.8}
    real = jax.tree.map(jnp.float32, real)
    ct = np.full(8, 0.7) if cotangents == "equal" else np.linspace(-1, 2, 8)

    def total(real):
        return jnp.sum(jnp.float32(ct) * shares_on_a_ring(real, 2, keep))

    found = jax.jit(jax.value_and_grad(total))(real)
    assert_close(found, sigmoid_loss_of_shares(real, keep, ct), 1e-5)


@pytest.mark.parametrize("bad", [np.nan, 2e37])  # of 2e37 the sum over keys is inf
def test_a_spoiled_query_of_weight_zero_harms_nothing_on_a_ring(bad):
    """Neither in the one round nor in the second, of unequal cotangents."""
    x, y, _ = towers(24)
    spoiled = np.array(x)
    spoiled[4] = bad
    real = {"y": y, "logit_scale": 1.3, "logit_bias": -0.8}
    real["weights"] = np.float32(np.arange(24) != 4)

    @jax.jit
    def run(x, ct):
        def total(real):
            return jnp.sum(ct * shares_on_a_ring(real, 2))

        return jax.value_and_grad(total)({**real, "x": x})

    for ct in (jnp.ones(8), jnp.linspace(-1, 2, 8)):
        (value, slopes), clean = run(spoiled, ct), run(x, ct)
        for found in (slopes, clean[1]):  # the derivative by the weight is the loss
            assert np.isfinite(found.pop("weights")).all()
        assert_close((value, slopes), clean, 1e-6)


@pytest.mark.parametrize(
    ("cotangents", "rounds"), [([0.7] * 8, 1), (range(8), 2)], ids=["equal", "unequal"]
)
def test_sigmoid_loss_and_gradient_take_one_round_of_the_ring(
    cotangents, rounds, monkeypatch
):
    """A second round only where devices have cotangents of their own."""
    turns = []
    send_on = blocks.send_on

    def counted(tree, axis_name):
        some = jax.tree.leaves(tree)[0].ravel()[0]
        jax.debug.callback(lambda _: turns.append(1), some)
        return send_on(tree, axis_name)

    monkeypatch.setattr(blocks, "send_on", counted)
    x, y, _ = towers(24)
    real = {"x": x, "y": y, "logit_scale": 1.3, "logit_bias": -0.8}
    ct = jnp.float32(cotangents)

    def total(real):  # in chunks of a size that no other test has compiled
        return jnp.sum(ct * shares_on_a_ring(real, 100 + rounds))

    step = jax.jit(jax.value_and_grad(total))(jax.tree.map(jnp.float32, real))
    jax.block_until_ready(step)
    jax.effects_barrier()
    assert len(turns) == rounds * 8 * 8  # eight devices, eight turns a round


def step_on_a_ring(name, devices, examples, features=16):
    """A step of training over some devices, compiled."""
    loss, _, parameters = LOSSES[name]
    mesh = jax.make_mesh(
        (devices,), ("data",), (AxisType.Auto,), devices=jax.devices()[:devices]
    )
    ring = spread(loss, mesh, chunk_size=16, reduction="sum")
    n = devices * examples

    def total(x, y, labels):
        ones = jnp.ones_like(x[:, 0])
        return jnp.sum(ring(x, y, labels, ones, ones > 0, parameters))

    placed = NamedSharding(mesh, P("data"))
    shapes = [
        jax.ShapeDtypeStruct((n, features), jnp.float32, sharding=placed),
        jax.ShapeDtypeStruct((n, features), jnp.float32, sharding=placed),
        jax.ShapeDtypeStruct((n,), jnp.int32, sharding=placed),
    ]
    moving = (0,) if name == "supervised" else (0, 1)
    return jax.jit(jax.value_and_grad(total, moving)).lower(*shapes).compile()


@pytest.mark.parametrize("reduction", first(["mean", "none"]))
@each_sweep
def test_larger_chunks_on_a_gpu_have_the_same_derivatives(
    name, reduction, monkeypatch, x64
):
    """Compiles for CPU what a GPU gets: chunks of 12 of 36 queries in place of 6."""
    loss, _, parameters = LOSSES[name]
    *real, labels = towers(36)
    monkeypatch.setattr(_arguments, "_QUERIES", 8)
    monkeypatch.setattr(_arguments, "_QUERIES_ON_GPU", 16)

    def total(real):
        x, y, kw = real
        losses = loss(x, y, labels, reduction=reduction, **kw)
        return jnp.sum(losses * jnp.cos(jnp.arange(losses.size, dtype=losses.dtype)))

    def found():
        jax.clear_caches()
        at = (*real, parameters)
        program = jax.jit(lambda at: derivatives_of(total, at, at))
        sizes = set()
        for platform in "cpu", "cuda":
            text = program.trace(at).lower(lowering_platforms=(platform,)).as_text()
            logits = {*re.findall(r"<(\d+)x36xf64>", text)} & {"6", "12"}
            sizes.add((platform, *logits))
        return sizes, program(at)

    sizes, here = found()
    assert sizes == {("cpu", "6"), ("cuda", "12")}

    def on_gpu(*operands, cuda=None, default, **_):
        return (cuda or default)(*operands)

    monkeypatch.setattr(jax.lax, "platform_dependent", on_gpu)
    sizes, there = found()
    assert sizes == {("cpu", "12"), ("cuda", "12")}
    assert_close(there, here, 1e-9)
    jax.clear_caches()


@pytest.mark.optimised
@each_sweep
def test_a_device_of_the_ring_never_holds_all_keys(name):
    """Its memory is the same beside one other device and beside seven."""
    two, eight = (step_on_a_ring(name, devices, 64) for devices in (2, 8))
    sizes = [p.memory_analysis().temp_size_in_bytes for p in (two, eight)]
    assert sizes[1] <= 1.05 * sizes[0]
    text = eight.as_text()
    assert "all-gather" not in text
    assert "collective-permute" in text
    shapes = re.findall(r"\b(?:f32|s32|pred)\[([\d,]+)\]", text)
    largest = max(np.prod([int(n) for n in shape.split(",")]) for shape in shapes)
    assert largest <= 64 * 16  # the keys of one device, or 16 queries against them


@pytest.mark.optimised
@each_sweep
def test_memory_is_less_than_that_of_half_a_matrix_of_pairs(name):
    loss, _, parameters = LOSSES[name]
    pairs = 1024
    x = jax.ShapeDtypeStruct((pairs, 16), jnp.float32)
    labels = jax.ShapeDtypeStruct((pairs,), jnp.int32)

    def mean(x, y, labels):
        return loss(x, y, labels, **parameters, reduction="mean", chunk_size=64)

    step = jax.jit(jax.value_and_grad(mean, (0, 1))).lower(x, x, labels).compile()
    assert step.memory_analysis().temp_size_in_bytes < 4 * pairs * pairs / 2


@pytest.mark.parametrize("kind", first([AxisType.Explicit, AxisType.Auto]))
@each_loss
def test_spread_arrays_have_the_loss_of_one_device(name, kind):
    """Under plain `jit`: an explicit mesh makes a ring of its devices by itself."""
    loss, _, parameters = LOSSES[name]
    x, y, labels = towers(48)
    arrays = jnp.float32(x), jnp.float32(y), jnp.int32(labels)

    def mean(x, y, labels):
        return loss(x, y, labels, **parameters, reduction="mean", chunk_size=5)

    step = jax.jit(jax.value_and_grad(mean, (0, 1)))
    mesh = jax.make_mesh((8,), ("data",), (kind,))
    with jax.set_mesh(mesh):
        placed = jax.device_put(arrays, NamedSharding(mesh, P("data")))
        compiled = step.lower(*placed).compile()
        found = compiled(*placed)
    assert_close(found, step(*arrays), 1e-5)
    if kind == AxisType.Explicit:
        assert "all-gather" not in compiled.as_text()


@each_loss
def test_weight_of_zero_keeps_the_example_as_a_key(name):
    loss, _, parameters = LOSSES[name]
    x, y, labels = towers(6)
    weights = np.float32([1, 0, 1, 1, 1, 1])
    run = jax.jit(functools.partial(loss, **parameters))
    found = run(x, y, labels, weights=weights)
    np.testing.assert_allclose(found, weights * run(x, y, labels), rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["siglip", "info_nce"])
def test_query_of_weight_zero_may_hold_anything(name, bad):
    loss, _, parameters = LOSSES[name]
    x, y, labels = towers(6)
    weights = np.float32([1, 0, 1, 1, 1, 1])
    spoiled = np.array(x)
    spoiled[1] = bad

    @jax.jit
    def total(x, y):
        def each(reduction):
            tail = {"weights": weights, "reduction": reduction}
            return jnp.sum(loss(x, y, labels, **parameters, **tail))

        return each("none") + each("sum")

    clean = jax.value_and_grad(total, (0, 1))(x, y)
    assert_close(jax.value_and_grad(total, (0, 1))(spoiled, y), clean)


def test_examples_without_positives_have_loss_0_and_do_not_count():
    x, _, _ = towers(5)

    @jax.jit
    def run(x, labels):
        def loss(x, reduction):
            return jl.supervised_contrastive_loss(
                x, labels, temperature=0.5, reduction=reduction
            )

        slope = jax.grad(lambda x: loss(x, "none")[1])(x)
        return loss(x, "none"), slope, jax.value_and_grad(loss)(x, "mean")

    each, slope, (mean, _) = run(x, jnp.array([0, 1, 0, 2, 3]))
    assert (np.asarray(each) > 0).tolist() == [True, False, True, False, False]
    assert not np.any(slope)
    np.testing.assert_allclose(mean, (each[0] + each[2]) / 2, rtol=1e-6)
    nothing = run(x, jnp.arange(5))
    for leaf in jax.tree.leaves(nothing):
        assert not np.any(leaf)


def test_one_class_alone_has_only_positives():
    x, y, _ = towers(7, scale=0.4)
    labels = np.zeros(7, np.int32)
    found = jl.supervised_contrastive_loss(x, labels, temperature=0.5)
    expected = contrast.supervised(x, labels, temperature=0.5)
    np.testing.assert_allclose(found, expected, rtol=2e-6)
    # With one id for all, no key of InfoNCE is a negative.
    assert not np.any(jl.info_nce_loss(x, y, labels=labels))


def test_duplicates_share_their_probability():
    x = jnp.ones((8, 4)) / 2
    np.testing.assert_allclose(jl.info_nce_loss(x, x), np.log(8), rtol=1e-6)
    labels = jnp.arange(8) // 4
    found = jl.supervised_contrastive_loss(x, labels)
    np.testing.assert_allclose(found, np.log(7), rtol=1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
def test_small_losses_keep_their_digits(symmetric):
    """A query that has found its key: the probability of the others is all there is."""
    x = 3 * np.eye(4) + 0.01 * np.arange(16).reshape(4, 4)
    x32 = jnp.float32(x)

    @jax.jit
    def run(x, y):
        loss = functools.partial(
            jl.info_nce_loss, temperature=0.3, symmetric=symmetric, precision="highest"
        )
        return loss(x, y), jax.grad(lambda x: loss(x, y, reduction="sum"))(x)

    value, slope = run(x32, x32)
    s = np.float64(x32) @ np.float64(x32).T / np.float64(np.float32(0.3))

    def one_way(s):
        rest = np.exp(s - np.diag(s)[:, None]) * (1 - np.eye(4))
        p = rest / (1 + rest.sum(1, keepdims=True))
        return np.log1p(rest.sum(1)), p - np.diag(p.sum(1))

    (rows, g), (columns, h) = one_way(s), one_way(s.T)
    expected = (rows + columns) / 2 if symmetric else rows
    g = (g + h.T) / 2 if symmetric else g
    assert expected.max() < 1e-12
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    np.testing.assert_allclose(
        slope, g @ np.float64(x32) / np.float64(np.float32(0.3)), rtol=4e-5
    )


def test_single_positive_of_the_supervised_loss_keeps_its_digits():
    x = np.array([[6.0, 0.0], [5.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    found = jl.supervised_contrastive_loss(x, [0, 0, 1, 1], temperature=1.0)
    s = x @ x.T
    expected = [
        np.log1p(sum(np.exp(s[i, j] - s[i, k]) for j in others))
        for i, k, others in ((0, 1, (2, 3)), (1, 0, (2, 3)), (2, 3, (0, 1)))
    ]
    assert expected[0] < 1e-12
    np.testing.assert_allclose(found[:3], expected, rtol=1e-5)


def test_scale_of_100_in_bfloat16_is_as_good_as_its_inputs():
    draw = np.random.default_rng(5)
    x = draw.normal(size=(64, 32))
    y = x + 0.3 * draw.normal(size=x.shape)
    x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
    half = [jnp.asarray(v, jnp.bfloat16) for v in (x, y)]
    exact = [np.asarray(v, np.float64) for v in half]

    @jax.jit
    def run(x, y):
        kw = {"precision": "highest", "chunk_size": 24}
        return (
            jl.info_nce_loss(x, y, temperature=0.01, symmetric=True, **kw),
            jl.siglip_loss(x, y, logit_scale=100.0, **kw),
        )

    clip, sigmoid = run(*half)
    assert clip.dtype == sigmoid.dtype == jnp.float32
    expected = contrast.info_nce(*exact, temperature=0.01, symmetric=True)
    np.testing.assert_allclose(clip, expected, rtol=1e-4, atol=1e-6)
    expected = contrast.siglip(*exact, logit_scale=100.0)
    np.testing.assert_allclose(sigmoid, expected, rtol=1e-4)


@pytest.mark.optimised
def test_gradients_of_scale_and_bias_are_sums_of_both_signs():
    """Near the minimum of the bias the N² terms cancel."""
    x, y, _ = towers(600, 8, 0.35)
    x, y = np.float32(x), np.float32(0.9 * x + 0.3 * y)
    scale, bias = np.float32(3.0), np.float32(-6.9)

    @jax.jit
    def slopes(scale, bias):
        def total(scale, bias):
            kw = {"logit_scale": scale, "logit_bias": bias, "precision": "highest"}
            return jl.siglip_loss(x, y, **kw, reduction="mean", chunk_size=128)

        return jax.grad(total, (0, 1))(scale, bias)

    s = np.float64(x) @ np.float64(y).T
    z = 2 * np.eye(600) - 1
    g = -z / (1 + np.exp(z * (scale * s + bias))) / 600
    for found, terms in zip(slopes(scale, bias), (g * s, g), strict=True):
        assert abs(terms.sum()) < 0.5 * abs(terms).sum()
        error = abs(found - terms.sum()) / abs(terms).sum()
        assert error < 4 * 2**-24


def test_arcface_is_finite_at_every_angle_and_grows_with_it():
    """0 and pi included, where the derivative of an arccosine is infinite."""
    angles = np.linspace(0, np.pi, 721)
    x = np.stack([np.cos(angles), np.sin(angles), 0 * angles], -1)
    x[[0, -1]] = [[1, 0, 0], [-1, 0, 0]]
    prototypes = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])

    @jax.jit
    def run(x, prototypes):
        def total(x, prototypes):
            each = jl.arcface_loss(x, prototypes, 0, scale=4.0)
            return jnp.sum(each), each

        return jax.grad(total, (0, 1), has_aux=True)(x, prototypes)

    (slope, of_prototypes), each = run(jnp.float32(x), prototypes)
    assert np.all(np.diff(each) > -1e-6)
    assert np.isfinite(slope).all()
    assert np.isfinite(of_prototypes).all()
    # d loss / d angle, along the tangent: 4 (1 - p) sin(angle + margin).
    tangent = np.stack([-np.sin(angles), np.cos(angles), 0 * angles], -1)
    inner = angles + 0.5 < np.pi
    t = np.where(inner, np.cos(angles + 0.5), np.cos(angles) - 0.5 * np.sin(0.5))
    miss = 1 / (1 + np.exp(4 * t))
    expected = 4 * miss * np.where(inner, np.sin(angles + 0.5), np.sin(angles))
    found = np.sum(slope * tangent, -1)
    np.testing.assert_allclose(found[1:-1], expected[1:-1], rtol=3e-5, atol=1e-6)
    assert not np.any(slope[[0, -1], 1])


def test_arcface_keeps_the_slope_near_parallel_vectors():
    """Its limit at an angle of 0 is that of the margin, which is not 0."""
    both = jnp.array([[1.0, 0.0], [-1.0, 0.0]])

    @jax.jit
    def slope(x, prototypes):
        def loss(x):
            return jl.arcface_loss(x, prototypes, 0, scale=1.0)

        return jax.value_and_grad(loss)(x)

    near, far = (jnp.float32([np.cos(a), np.sin(a)]) for a in (1e-6, np.pi - 1e-6))
    miss = 1 / (1 + np.exp(1 + np.cos(0.5)))
    np.testing.assert_allclose(slope(near, both)[1][1], miss * np.sin(0.5), rtol=1e-5)
    assert abs(slope(far, both)[1][1]) < 1e-5
    for leaf in slope(near, both[:1]):  # one class alone is certain
        assert not np.any(leaf)


def test_a_zero_vector_has_cosine_0_in_arcface():
    prototypes = jnp.array([[1.0, 2.0], [0.5, -1.0], [0.0, 0.0]])

    def loss(x, y):
        return jl.arcface_loss(x, prototypes, y, scale=2.0)

    value, slope = jax.value_and_grad(loss)(jnp.zeros(2), 0)
    t = -2 * np.sin(0.5)
    np.testing.assert_allclose(value, np.log(np.exp(t) + 2) - t, rtol=1e-6)
    assert not np.any(slope)
    assert np.isfinite(jax.grad(loss)(jnp.ones(2), 2)).all()


@pytest.mark.parametrize(
    "reduction", ["none", pytest.param("mean", marks=pytest.mark.exhaustive)]
)
def test_classes_over_devices_have_the_derivatives_of_one_device(reduction):
    draw = np.random.default_rng(6)
    x, prototypes = draw.normal(size=(6, 3)), draw.normal(size=(16, 3))
    labels = np.int32([0, 15, 3, 8, 7, 99])
    real = {
        "embeddings": x, "prototypes": prototypes, "angular_margin": 0.4,
        "cosine_margin": 0.1, "scale": 3.0, "weights": draw.uniform(0.5, 2, 6),
    }  # fmt: skip
    real["weights"][5] = 0  # whose label is out of range
    real = jax.tree.map(jnp.float32, real)
    direction = jax.tree.map(lambda v: jnp.float32(draw.normal(size=v.shape)), real)
    direction["weights"] = direction["weights"].at[5].set(0)
    mesh = jax.make_mesh((8,), ("model",), (AxisType.Auto,))
    specs = {name: P("model") if name == "prototypes" else P() for name in real}
    ct = jnp.linspace(-1, 2, 6 if reduction == "none" else 1)

    def one(real, **options):
        return jl.arcface_loss(**real, labels=labels, reduction=reduction, **options)

    split = jax.shard_map(
        functools.partial(one, axis_name="model"),
        mesh=mesh, in_specs=(specs,), out_specs=P(),
    )  # fmt: skip

    @jax.jit
    def derivatives(real, direction):
        return [
            derivatives_of(lambda r, f=f: jnp.sum(ct * f(r)), real, direction)
            for f in (split, one)
        ]

    found, expected = derivatives(real, direction)
    for part in (found, expected):  # the derivative by the weight is the loss, NaN
        for name in ("gradient", "second"):
            part[name][1].pop("weights")
    assert_close(found, expected, 2e-5)


VIEW_LOSSES = {"barlow": jl.barlow_twins_loss, "vicreg": jl.vicreg_loss}
each_view_loss = pytest.mark.parametrize("name", VIEW_LOSSES)


@pytest.mark.parametrize("kind", ["shard_map", AxisType.Auto, AxisType.Explicit])
@each_view_loss
def test_views_over_devices_have_one_value_and_the_gradient_of_the_batch(name, kind):
    loss = VIEW_LOSSES[name]
    draw = np.random.default_rng(7)
    x, y = jnp.float32(draw.normal(size=(2, 16, 5)))
    keep = np.arange(16) % 5 != 1  # not as many on each device
    auto = AxisType.Auto if kind == "shard_map" else kind
    mesh = jax.make_mesh((8,), ("data",), (auto,))

    def step(x, y, keep, axis_name=None):
        def one(x, y):
            return loss(x, y, where=keep, axis_name=axis_name)

        return jax.value_and_grad(one, (0, 1))(x, y)

    expected = jax.jit(step)(x, y, keep)
    if kind == "shard_map":
        found = jax.jit(
            jax.shard_map(
                functools.partial(step, axis_name="data"),
                mesh=mesh,
                in_specs=P("data"),
                out_specs=(P(), P("data")),
            )
        )(x, y, keep)
    else:
        with jax.set_mesh(mesh):
            placed = jax.device_put((x, y, keep), NamedSharding(mesh, P("data")))
            found = jax.jit(step)(*placed)
    assert_close(found, expected, 1e-5)


@each_view_loss
def test_constant_features_have_finite_gradients(name):
    loss = VIEW_LOSSES[name]
    draw = np.random.default_rng(8)
    x, y = np.float32(draw.normal(size=(2, 7, 3)))
    x[:, 1] = 0.1
    step = jax.jit(jax.value_and_grad(lambda x, e: loss(x, y, epsilon=e), (0, 1)))
    for epsilon in (1e-4, 0.0):
        value, (slope, _) = step(x, epsilon)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()
    if name == "barlow":
        assert not np.any(slope[:, 1])
    empty = jax.value_and_grad(lambda x: loss(x, y, where=np.zeros(7, bool)))(x)
    for leaf in empty:
        assert not np.any(leaf)
    spoiled = np.array(x)
    spoiled[2] = np.nan
    keep = np.arange(7) != 2
    found = jax.value_and_grad(lambda x: loss(x, y, where=keep))(spoiled)
    clean = jax.value_and_grad(lambda x: loss(x, y[keep]))(x[keep])
    assert_close((found[0], found[1][keep]), clean, 1e-5)
    assert not np.any(found[1][2])


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("features", [3, 20])
def test_barlow_twins_keep_the_digits_of_views_that_agree(scale, features):
    draw = np.random.default_rng(9)
    x = draw.normal(size=(8, features))
    x, y = (
        np.float32(scale * x),
        np.float32(scale * (x + 1e-4 * draw.normal(size=x.shape))),
    )
    wide = np.float64(x), np.float64(y)

    def definition(x, y):
        a, b = ((z - z.mean(0)) / z.std(0) for z in (x, y))
        return np.sum((1 - np.mean(a * b, 0)) ** 2)

    found = jl.barlow_twins_loss(x, y, off_diagonal_weight=0.0, epsilon=0.0)
    assert definition(*wide) < 1e-14
    np.testing.assert_allclose(found, definition(*wide), rtol=2e-2)


def message(call):
    with pytest.raises((ValueError, TypeError)) as error:
        call()
    return str(error.value)


def test_bad_arguments_are_named():
    x, labels = jnp.ones((4, 3)), jnp.arange(4)
    calls = {
        "`queries` must have shape [N, D], got (2, 4, 3).": lambda: jl.info_nce_loss(
            jnp.ones((2, 4, 3)), x
        ),
        "`keys` must have the shape of `queries` (4, 3), one row per example, got "
        "(5, 3).": lambda: jl.info_nce_loss(x, jnp.ones((5, 3))),
        "`log_q` must have one number per key, shape (4,), got (3,).": lambda: (
            jl.info_nce_loss(x, x, log_q=jnp.ones(3))
        ),
        "`labels` must have one label per example, shape (4,), got shape (4, 1).": (
            lambda: jl.supervised_contrastive_loss(x, labels[:, None])
        ),
        "`x` must have at least two examples, got shape (1, 3).": lambda: (
            jl.vicreg_loss(x[:1], x[:1])
        ),
        "`prototypes` must have the shape (classes, features) with the 3 features of "
        "`embeddings`, got shape (3, 5); for a kernel [D, C] pass `prototypes.T`.": (
            lambda: jl.arcface_loss(x, jnp.ones((3, 5)), labels)
        ),
        "`chunk_size` must be in [1, inf], got 0.": lambda: jl.siglip_loss(
            x, x, chunk_size=0
        ),
    }
    for expected, call in calls.items():
        assert message(call) == expected
    both = message(lambda: jl.info_nce_loss(x, x, log_q=labels, symmetric=True))
    assert both.startswith("`log_q` must be None with `symmetric=True`")
    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
    replicated = jax.shard_map(
        lambda x: jl.siglip_loss(x, x, axis_name="data"),
        mesh=mesh, in_specs=P(), out_specs=P("data"),
    )  # fmt: skip
    split = message(lambda: replicated(x))
    assert split.startswith("`axis_name` must name the mesh axis over which")

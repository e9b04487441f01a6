"""The forms in `_core/compilers` still matter, and cost what they say.

Each loss is compiled as it is and with the shorter form that a function avoids. When
the shorter form needs no more memory, the function has lost its reason: delete it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import assert_close
from tier import first

import jaxloss as jl
from jaxloss._core import soft_labels
from jaxloss._core.compilers import order, pieces, terms
from jaxloss._core.numerics import exact
from jaxloss._core.numerics.exact import zero_safe_product
from jaxloss._core.sweeps import rows
from jaxloss.alignment import odds
from jaxloss.binary import cross_entropy
from jaxloss.distillation import _divergences
from jaxloss.forecast import heavy_tails
from jaxloss.segmentation import _regions
from jaxloss.vocabulary import _layer

on_cpu = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="forms for XLA's CPU backend"
)

N = 1 << 18
ROWS, CLASSES = 512, 4096


def mean_of(loss, **options):
    return lambda *inputs: loss(*inputs, reduction="mean", **options)


def dice(predictions, targets):
    return jnp.mean(jl.dice_loss(predictions, targets))


def linear(hidden, kernel, labels):
    return jl.linear_cross_entropy(
        hidden, kernel, labels, reduction="mean", chunk_size=256, label_smoothing=0.1
    )


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def integers(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def plain_complement(c, p, axis):
    others = jnp.sum(jnp.where(p > 0.5, 0, p), axis=axis, keepdims=True)
    return jnp.where(p > 0.5, c * others, c * (1 - p))


# The module that calls the function, its name there, the shorter form, and the loss.
FORMS = [
    (
        _divergences,
        "in_pieces",
        lambda function, *arrays, **_: function(*arrays),
        mean_of(jl.distillation_loss),
        (floats(512, 1 << 14), floats(512, 1 << 14)),
    ),
    (
        heavy_tails,
        "numbers_in_pieces",
        lambda function, *arrays: function(*arrays),
        mean_of(jl.student_t_nll_loss),
        (floats(N),) * 4,
    ),
    (
        cross_entropy,
        "capped_product",
        zero_safe_product,
        mean_of(jl.sigmoid_binary_cross_entropy),
        (floats(N), floats(N)),
    ),
    (
        _layer,
        "available_after",
        lambda number, top: top,
        linear,
        (floats(1024, 64), floats(64, 8192), integers(1024)),
    ),
    (
        odds,
        "computed_again",
        lambda *arrays: arrays,
        mean_of(jl.orpo_loss),
        (floats(N), floats(N)),
    ),
    (
        _regions,
        "times_complement",
        plain_complement,
        dice,
        (floats(4, 64, 64, 8), floats(4, 64, 64, 8)),
    ),
    (
        _regions,
        "times_one_minus",
        lambda p, t: p * (1 - t),
        dice,
        (floats(4, 64, 64, 8), floats(4, 64, 64, 8)),
    ),
]


def temporaries(loss, shapes, argnums=0):
    """Bytes beside inputs and outputs, of a program that no cache has."""
    jax.clear_caches()
    compiled = jax.jit(jax.value_and_grad(loss, argnums)).lower(*shapes).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@on_cpu
@pytest.mark.parametrize(
    ("module", "name", "shorter", "loss", "shapes"), FORMS, ids=[f[1] for f in FORMS]
)
def test_form_saves_memory(monkeypatch, module, name, shorter, loss, shapes):
    argnums = (0, 1) if loss is linear else 0
    used = temporaries(loss, shapes, argnums)
    monkeypatch.setattr(module, name, shorter)
    array = max(4 * np.prod(s.shape) for s in shapes[:1])
    assert temporaries(loss, shapes, argnums) >= used + array // 4


@on_cpu
def test_two_products_of_a_chunk_run_at_a_time(monkeypatch):
    """With the shorter form the second is written over what the first still reads."""

    def masked(hidden, kernel, labels):
        return jl.linear_cross_entropy(
            hidden, kernel, labels, ignore_index=-1, reduction="mean", chunk_size=256
        )

    shapes = floats(1024, 512), floats(512, 2048), integers(1024)
    used = temporaries(masked, shapes, argnums=(0, 1))
    monkeypatch.setattr(rows, "kept_until", lambda results, operand: results)
    chunk = 4 * 256 * 512
    assert temporaries(masked, shapes, argnums=(0, 1)) < used - chunk // 2


@on_cpu
def test_ranks_need_five_arrays_of_the_members():
    """With the shorter form of `first_plus_last`, and with the indices of the scatter
    of `unsorted` computed earlier, there are more.
    """
    loss, shapes = mean_of(jl.crps_ensemble_loss), (floats(4096, 64), floats(4096))
    assert temporaries(loss, shapes) < 5.1 * 4 * 4096 * 64


@on_cpu
def test_exponentials_are_stored_in_the_gradient():
    """Without the division XLA computes them once per sum: the program has more exp."""

    def count():
        jax.clear_caches()
        loss = mean_of(jl.softmax_cross_entropy)
        shapes = floats(ROWS, CLASSES), floats(ROWS, CLASSES)
        compiled = jax.jit(jax.value_and_grad(loss)).lower(*shapes).compile()
        return compiled.as_text().count(" exponential("), compiled.memory_analysis()

    stored, memory = count()
    assert stored == 1
    assert memory.temp_size_in_bytes < 4 * ROWS * CLASSES


@on_cpu
def test_router_z_loss_needs_no_array_of_the_logits():
    """In `exp_from_own` the select comes last, and `own_pass_if` stores no array."""
    loss, shapes = mean_of(jl.router_z_loss), floats(ROWS, CLASSES)
    assert temporaries(loss, (shapes,)) < 4 * ROWS * CLASSES / 16
    value = jax.jit(loss).lower(shapes).compile().memory_analysis()
    assert value.temp_size_in_bytes < 1.1 * 4 * ROWS * CLASSES


@on_cpu
def test_policy_loss_of_sequences_needs_no_array_of_the_tokens():
    """There is one loss per sequence, and no select before the sums over its tokens."""
    loss = mean_of(jl.clipped_policy_loss, importance="sequence")
    shapes = floats(ROWS, CLASSES), floats(ROWS, CLASSES), floats(ROWS, 1)
    assert temporaries(loss, shapes) < 4 * ROWS * CLASSES / 16
    value = jax.jit(loss).lower(*shapes).compile().memory_analysis()
    assert value.temp_size_in_bytes < 4 * ROWS * CLASSES / 16


@on_cpu
def test_kl_estimate_stores_its_losses_alone():
    """Without the select before the sum XLA stores five arrays."""
    assert temporaries(mean_of(jl.kl_estimate), (floats(N), floats(N))) < 1.1 * 4 * N


@on_cpu
def test_kto_loss_stores_two_arrays():
    """Without `computed_again`, or with a quotient by k, there are more."""
    shapes = floats(N), floats(N), jax.ShapeDtypeStruct((N,), bool)
    assert temporaries(mean_of(jl.kto_loss), shapes) < 2.1 * 4 * N


def focal(logits):
    return jl.softmax_focal_loss(logits, TIED_LABELS, gamma=2.0)


# Two classes share the maximum, and the label is one of them: p = 1/2.
TIED = np.tile(np.float32([3e29, 2e29, 3e29]), (17, 1))
TIED_LABELS = np.zeros(17, np.int32)
TIED_ONE_HOT = np.eye(3, dtype=np.float32)[TIED_LABELS]
HALF = np.log(2)
AT_THE_MAXIMUM = {
    "integer": (
        lambda x: jl.softmax_cross_entropy_with_integer_labels(x, TIED_LABELS),
        HALF,
    ),
    "dense": (lambda x: jl.softmax_cross_entropy(x, TIED_ONE_HOT), HALF),
    "poly": (lambda x: jl.poly_loss_cross_entropy(x, TIED_ONE_HOT), HALF + 1),
    "focal": (focal, HALF / 4),
    "generalized": (
        lambda x: jl.generalized_cross_entropy(x, TIED_LABELS, q=0.5),
        (1 - 0.5**0.5) / 0.5,
    ),
    "log_softmax": (lambda x: -jl.log_softmax(x)[:, 0], HALF),
    "distillation": (
        lambda x: jl.distillation_loss(TIED, x),
        0.0,
    ),
    "statistics": (lambda x: jl.softmax_statistics(x).entropies, HALF),
    "linear log_probs": (
        lambda x: -jl.linear_log_probs(x, np.eye(3, dtype="f"), TIED_LABELS)[0],
        HALF,
    ),
}


def of_scaled(loss):
    """Value, and the gradient's largest entry in size, of logits times a scale."""

    @jax.jit
    def run(x, scale):
        value, slope = jax.value_and_grad(lambda x: jnp.sum(loss(x * scale)))(x)
        return loss(x * scale), value / len(x), jnp.max(jnp.abs(slope))

    return run(TIED, np.float32(0.6))


@pytest.mark.parametrize("name", AT_THE_MAXIMUM)
def test_a_maximum_less_itself_is_zero_behind_a_product(name):
    loss, expected = AT_THE_MAXIMUM[name]
    values, mean, slope = of_scaled(loss)
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(mean, expected, rtol=1e-6, atol=1e-6)
    assert np.isfinite(slope)


@pytest.mark.exhaustive
@on_cpu
def test_a_maximum_less_itself_needs_its_comparison(monkeypatch):
    def wrong():
        jax.clear_caches()
        found = {
            n: (of_scaled(loss)[0], true) for n, (loss, true) in AT_THE_MAXIMUM.items()
        }
        return [n for n, (v, t) in found.items() if not np.allclose(v, t, rtol=1e-4)]

    assert not wrong()
    monkeypatch.setattr(exact, "b_where_equal", lambda a, b: a)
    assert wrong()
    jax.clear_caches()


def test_shorter_forms_are_the_same_mathematics():
    rng = np.random.default_rng(0)
    p = jnp.asarray(rng.dirichlet(np.full(5, 0.3), 100), jnp.float32)
    c, t = jnp.asarray(rng.random((2, 100, 5)), jnp.float32)
    np.testing.assert_allclose(
        terms.times_complement(c, p, (1,)), plain_complement(c, p, (1,)), rtol=2e-6
    )
    np.testing.assert_allclose(
        terms.times_one_minus(p, t), p * (1 - t), rtol=1e-6, atol=1e-7
    )
    np.testing.assert_allclose(
        terms.capped_product(c, p), zero_safe_product(c, p), rtol=1e-6
    )
    gap, rounding = -10 * t, 1e-7 * (c - 0.5)
    np.testing.assert_allclose(
        terms.stored_exponential(gap, rounding), jnp.exp(gap + rounding), rtol=1e-5
    )
    assert order.available_after(jnp.float32(1), jnp.float32(3)) == 3
    assert soft_labels.stored_exponential is terms.stored_exponential


def smoothed(logits, labels):
    return jl.softmax_cross_entropy_with_integer_labels(
        logits, labels, label_smoothing=0.1, z_loss=1e-3, where=labels != 1
    )


def of_soft_labels(logits, labels):
    hot = jax.nn.one_hot(labels, logits.shape[1])
    return jl.softmax_cross_entropy(logits, 0.9 * hot + 0.1 / logits.shape[1])


def poly_of_soft_labels(logits, labels):
    hot = jax.nn.one_hot(labels, logits.shape[1])
    return jl.poly_loss_cross_entropy(logits, 0.9 * hot + 0.1 / logits.shape[1])


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("loss", "atol"),
    [
        (jl.softmax_cross_entropy_with_integer_labels, 1e-12),
        (smoothed, 1e-12),
        (of_soft_labels, 1e-12),
        (poly_of_soft_labels, 6e-8),  # the second derivatives of its two terms cancel
    ],
)
def test_forms_for_accelerators_are_the_same_mathematics(monkeypatch, loss, atol):
    """Compiles for CPU what a TPU or a GPU gets."""
    logits = 20 * jax.random.normal(jax.random.key(0), (64, 9))
    logits = logits.at[3].set(-jnp.inf).at[3, 2].set(1.0).at[4, 5].set(-jnp.inf)
    labels = jnp.arange(64) % 9
    direction = jax.random.normal(jax.random.key(1), logits.shape)

    def found():
        jax.clear_caches()
        slope = jax.grad(lambda x: jnp.sum(loss(x, labels)))
        turn = jax.jvp(slope, (logits,), (direction,))[1]
        return loss(logits, labels), slope(logits), turn

    chosen = found()
    monkeypatch.setattr(
        jax.lax,
        "platform_dependent",
        lambda *operands, default, **_: default(*operands),
    )
    for there, here in zip(found(), chosen, strict=True):
        np.testing.assert_allclose(there, here, rtol=2e-6, atol=atol)
    jax.clear_caches()


@pytest.mark.parametrize("platform", ["cpu", "tpu", "cuda"])
@pytest.mark.parametrize("unit", [1.0, 1e-30, 1e30])
def test_triplets_have_their_distance(monkeypatch, unit, platform):
    """Compiles for CPU what a TPU gets, three sums, and a GPU, a sum in float64."""
    x, y = np.float32(20 * unit * np.random.default_rng(0).normal(size=(2, 500, 9)))
    x[:100] /= np.float32(unit)  # beside vectors whose squares stay in range
    y[:100] /= np.float32(unit)

    def losses(x, eps):  # the negative is the anchor, at distance sqrt(eps)
        return jl.triplet_margin_loss(x, y, x, eps=eps, margin=0.0)

    def found(eps):
        jax.clear_caches()
        return losses(x, eps), jax.grad(lambda x: jnp.sum(losses(x, eps)))(x)

    def chosen(*operands, default, **forms):
        return forms.get(platform, default)(*operands)

    monkeypatch.setattr(jax.lax, "platform_dependent", chosen)
    gap = np.float64(x) - np.float64(y)
    for eps in np.float32([0.0, 0.5]):
        distance = np.sqrt(np.sum(gap * gap, axis=1) + np.float64(eps))
        close = 4 * 2**-23 * distance
        value, slope = found(eps)
        assert np.all(abs(value - (distance - np.sqrt(np.float64(eps)))) <= close)
        unit_gap = gap / distance[:, None]
        np.testing.assert_allclose(slope, unit_gap, rtol=6 * 2**-23)
    jax.clear_caches()


@pytest.mark.parametrize("batch", [(), (0,), (3,)])
def test_sums_in_float64_need_no_float64_of_jax(batch):
    """Lowered and differentiated for CUDA, mapped over rows, also over none."""
    x, y, z = np.float32(np.random.default_rng(0).normal(size=(3, *batch, 5)))

    def losses(x, y, z):
        loss = jl.triplet_margin_loss
        return jax.vmap(loss)(x, y, z) if batch else loss(x, y, z)

    def slope(x, y, z):
        return jax.grad(lambda x: jnp.sum(losses(x, y, z)))(x)

    def turn(x, y, z):
        return jax.jvp(lambda x: slope(x, y, z), (x,), (x,))[1]

    for function in losses, slope, turn:
        lowered = jax.jit(function).trace(x, y, z).lower(lowering_platforms=("cuda",))
        assert "f64" in lowered.as_text()
        assert lowered.out_info.dtype == jnp.float32


def known_classes(logits, log_probs):
    ids = jnp.tile(jnp.array([[4, 0, 2]]), (len(logits), 1))
    return jl.sparse_distillation_loss(logits, ids, log_probs)


@on_cpu
@pytest.mark.parametrize(
    ("loss", "classes"), first([(known_classes, 3), (jl.distillation_loss, 6)])
)
def test_rows_in_pieces_give_what_all_rows_give(monkeypatch, loss, classes):
    """Two rows a piece of thirteen, so that the last piece repeats a row."""
    rng = np.random.default_rng(0)
    logits = jnp.float32(rng.normal(size=(13, 6)))
    teacher = jnp.log(jnp.float32(rng.dirichlet(np.ones(classes + 1), 13)[:, :classes]))
    line = jnp.cos(jnp.arange(13 * 6, dtype=jnp.float32)).reshape(13, 6)
    weights = 1 + jnp.arange(13, dtype=jnp.float32)

    def program():
        def total(logits, teacher):
            return jnp.sum(weights * loss(logits, teacher))

        gradient = jax.grad(total, (0, 1))
        return {
            "value": loss(logits, teacher),
            "gradient": gradient(logits, teacher),
            "tangent": jax.jvp(lambda x: loss(x, teacher), (logits,), (line,)),
            "second": jax.jvp(lambda x: gradient(x, teacher), (logits,), (line,)),
        }

    def measured():
        jax.clear_caches()
        lowered = jax.jit(program).lower()
        return lowered.as_text().count("stablehlo.while"), lowered.compile()()

    loops, whole = measured()
    monkeypatch.setattr(pieces, "_PIECE", 12)
    more_loops, split = measured()
    assert (loops, more_loops > 0) == (0, True)
    assert_close(split, whole, 1e-6)


@on_cpu
def test_numbers_in_pieces_give_what_all_numbers_give(monkeypatch):
    """Two numbers a piece of thirteen."""
    rng = np.random.default_rng(0)
    inputs = [jnp.float32(rng.uniform(0.3, 3, 13)) for _ in range(4)]
    weights = 1 + jnp.arange(13, dtype=jnp.float32)

    def total(inputs):
        return jnp.sum(weights * jl.student_t_nll_loss(*inputs))

    def measured():
        jax.clear_caches()
        gradient = jax.grad(total)
        program = lambda x: (total(x), gradient(x), jax.jvp(gradient, (x,), (x,)))  # noqa: E731
        lowered = jax.jit(program).lower(inputs)
        return lowered.as_text().count("stablehlo.while"), lowered.compile()(inputs)

    loops, whole = measured()
    monkeypatch.setattr(pieces, "_PIECE", 2 * pieces._STORED)
    more_loops, split = measured()
    assert (loops, more_loops > 0) == (0, True)
    assert_close(split, whole, 1e-6)


@on_cpu
def test_half_precision_in_pieces_gives_what_all_rows_give(monkeypatch):
    """The transducer's sums: two nodes of six classes in a piece, of eighteen nodes."""
    rng = np.random.default_rng(0)
    logits = jnp.bfloat16(rng.normal(size=(2, 3, 3, 6)))
    given = jnp.zeros((2, 3)), jnp.array([[1, 2], [4, 1]]), jnp.zeros((2, 2))

    def measured():
        jax.clear_caches()
        loss = lambda x: jl.transducer_loss(x, *given, reduction="sum")  # noqa: E731
        return jax.tree.map(jnp.float32, jax.jit(jax.value_and_grad(loss))(logits))

    whole = measured()
    monkeypatch.setattr(pieces, "_PIECE", 12)
    assert_close(measured(), whole, 1e-6)

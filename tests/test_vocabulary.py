"""Chunks of a large vocabulary give what logits in full give, in less memory."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import assert_close
from tier import first

import jaxloss as jl
from jaxloss._core.sweeps.layout import Layout

pytestmark = [pytest.mark.usefixtures("device"), pytest.mark.any_program]

REDUCTIONS = ("mean", "none", "sum")


def draw(examples, features, classes, scale=1.0, dtype=np.float32, seed=0):
    """Hidden, kernel and labels; logits of about the size `scale`."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(examples, features)).astype(dtype)
    kernel = rng.normal(size=(features, classes)) * scale / math.sqrt(features)
    labels = rng.integers(0, classes, examples)
    return jnp.asarray(hidden), jnp.asarray(kernel, dtype), jnp.asarray(labels)


def on_full_logits(hidden, kernel, labels, bias=None, logit_softcap=None, **options):
    """The same loss, from logits that exist as a whole."""
    temperature = options.pop("temperature", 1.0)
    x = jnp.matmul(hidden, kernel, precision="highest")
    x = x if bias is None else x + bias[None]
    if logit_softcap is not None:
        x = logit_softcap * jnp.tanh(x / logit_softcap)
    return jl.softmax_cross_entropy_with_integer_labels(
        x / temperature, labels, **options
    )


def compare(arrays, labels, *, chunk_size, rtol=1e-5, **options):
    """Value and gradients against those on full logits, with a cotangent of no ones."""
    results = []
    for loss in (
        on_full_logits,
        functools.partial(
            jl.linear_cross_entropy, chunk_size=chunk_size, precision="highest"
        ),
    ):

        @jax.jit
        def run(arrays, loss=loss):
            def losses(arrays):
                return loss(labels=labels, **arrays, **options)

            value, pull_back = jax.vjp(losses, arrays)
            cotangent = 0.7 + jnp.arange(value.size, dtype=value.dtype) / 3
            return value, pull_back(cotangent.reshape(value.shape))[0]

        results.append(run(arrays))
    full, chunked = results
    assert_close(chunked, full, rtol)


@pytest.mark.parametrize("reduction", first(REDUCTIONS))
@pytest.mark.parametrize(
    ("examples", "classes", "chunk_size"),
    [(13, 11, 4), (1, 7, 4), (17, 1, 5), (12, 2, 5), (7, 101, 1), (23, 5, 22)],
)
def test_every_size_agrees_with_full_logits(examples, classes, chunk_size, reduction):
    # Nearly uniform: a row of padding that counted would add log(classes).
    hidden, kernel, labels = draw(examples, 3, classes, scale=0.01)
    arrays = {"hidden": hidden, "kernel": kernel}
    compare(arrays, labels, chunk_size=chunk_size, reduction=reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_all_arguments_agree_with_full_logits(x64, reduction):
    hidden, kernel, labels = draw(29, 5, 13, scale=2.0, dtype=np.float64)
    rng = np.random.default_rng(1)
    arrays = {
        "hidden": hidden,
        "kernel": kernel,
        "bias": jnp.asarray(rng.normal(size=13)),
        "class_weights": jnp.asarray(rng.uniform(0.3, 2, 13)),
        "weights": jnp.asarray(rng.uniform(0.3, 2, 29)),
        "label_smoothing": jnp.float64(0.1),
        "z_loss": jnp.float64(0.05),
        "logit_softcap": jnp.float64(4.0),
        "temperature": jnp.float64(1.7),
    }
    options = {
        "where": jnp.asarray(rng.random(29) < 0.5),
        "ignore_index": 3,
        "reduction": reduction,
    }
    compare(arrays, labels, chunk_size=6, rtol=1e-12, **options)


def test_a_bias_of_minus_infinity_takes_a_class_out():
    hidden, kernel, labels = draw(9, 4, 6)
    labels = labels % 5
    bias = jnp.zeros(6).at[5].set(-jnp.inf)
    arrays = {"hidden": hidden, "kernel": kernel, "temperature": jnp.float32(1.3)}
    without = {**arrays, "kernel": kernel[:, :5]}

    def loss(arrays, bias=None):
        return jl.linear_cross_entropy(
            labels=labels, bias=bias, chunk_size=4, reduction="sum", **arrays
        )

    value, slopes = jax.value_and_grad(loss)(arrays, bias)
    expected, expected_slopes = jax.value_and_grad(loss)(without)
    assert not np.any(slopes["kernel"][:, 5])
    slopes["kernel"] = slopes["kernel"][:, :5]
    assert_close((value, slopes), (expected, expected_slopes), 1e-5)


@pytest.mark.parametrize("reduction", first(["mean", "none"]))
def test_second_derivatives_agree_in_all_nestings(x64, reduction):
    hidden, kernel, labels = draw(7, 3, 5, dtype=np.float64)
    arrays = {"hidden": hidden, "kernel": kernel, "temperature": jnp.float64(1.3)}
    rng = np.random.default_rng(2)
    line = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), arrays)
    where = jnp.asarray([True, False, True, True, False, True, True])

    def total(loss, arrays):
        losses = loss(labels=labels, where=where, reduction=reduction, **arrays)
        slant = 1 + jnp.arange(losses.size, dtype=losses.dtype)
        return jnp.sum(losses * slant.reshape(losses.shape))

    def inner(x, y):
        return sum(map(jnp.vdot, jax.tree.leaves(x), jax.tree.leaves(y)))

    def nestings(f):
        def along(x):
            return jax.jvp(f, (x,), (line,))[1]

        return {
            "forward over reverse": jax.jvp(jax.grad(f), (arrays,), (line,))[1],
            "reverse over forward": jax.grad(along)(arrays),
            "reverse over reverse": jax.grad(lambda x: inner(jax.grad(f)(x), line))(
                arrays
            ),
            "forward over forward": jax.jvp(along, (arrays,), (line,))[1],
        }

    chunked = functools.partial(jl.linear_cross_entropy, chunk_size=3)
    full, ours = (
        jax.jit(lambda loss=loss: nestings(functools.partial(total, loss)))()
        for loss in (on_full_logits, chunked)
    )
    assert_close(ours, full, 1e-11)


def test_rows_that_count_fill_the_first_chunks():
    keep = jnp.asarray([False, True, False, False, True, False, True])
    layout = Layout.of(7, 2, keep)
    rows = layout.split(jnp.arange(7))
    assert (
        layout.split(keep).tolist()
        == [[True, True], [True, False]] + [[False, False]] * 2
    )
    assert rows[:2].reshape(-1)[:3].tolist() == [1, 4, 6]
    assert layout.join(rows).tolist() == list(range(7))


@pytest.mark.parametrize(("rows", "largest"), [(12, 4), (13, 4), (1, 4), (7, 7)])
def test_chunks_take_rows_in_strides(rows, largest):
    layout = Layout.of(rows, largest, None)
    assert layout.size <= largest
    split = layout.split(jnp.arange(1, rows + 1))
    assert split.shape == (layout.count, layout.size)
    for chunk in range(layout.count):
        kept = split[chunk][split[chunk] > 0]
        assert kept.tolist() == list(range(chunk + 1, rows + 1, layout.count))
    assert layout.join(split).tolist() == list(range(1, rows + 1))


@pytest.mark.optimised
@pytest.mark.parametrize(
    ("arguments", "reduction", "products"),
    # X; and dH, dK; X again for "none".
    [
        ("", "mean", 1),
        ("", "none", 1),
        ("hk", "mean", 3),
        ("hk", "none", 4),
        ("h", "mean", 2),
        ("k", "sum", 2),
        ("h", "none", 3),
    ],
)
def test_no_product_is_made_that_is_not_needed(arguments, reduction, products):
    chunk, features, classes = 8, 512, 16
    hidden, kernel, labels = draw(2 * chunk, features, classes)

    def loss(moving):
        arrays = {"h": hidden, "k": kernel, **moving}
        return jnp.sum(
            jl.linear_cross_entropy(
                arrays["h"],
                arrays["k"],
                labels,
                chunk_size=chunk,
                reduction=reduction,
            )
        )

    moving = {name: {"h": hidden, "k": kernel}[name] for name in arguments}
    function = jax.value_and_grad(loss) if moving else loss
    cost = jax.jit(function).lower(moving).compile().cost_analysis()
    # The operations of a loop's body are counted once: those of one chunk.
    product = 2 * chunk * features * classes
    assert products <= cost["flops"] / product < products + 0.5


@pytest.mark.optimised
@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (jl.linear_cross_entropy, {"reduction": "none"}),
        (jl.linear_cross_entropy, {"reduction": "mean"}),
        (
            jl.linear_cross_entropy,
            {"reduction": "mean", "label_smoothing": 0.1, "z_loss": 1e-4},
        ),
    ],
)
def test_memory_is_that_of_a_chunk(loss, options):
    features, classes, chunk = 64, 4999, 128

    def needed(loss, examples):
        arrays = (
            jax.ShapeDtypeStruct((examples, features), jnp.float32),
            jax.ShapeDtypeStruct((features, classes), jnp.float32),
            jax.ShapeDtypeStruct((examples,), jnp.int32),
        )

        def step(hidden, kernel, labels):
            return jax.value_and_grad(
                lambda hidden, kernel: jnp.mean(
                    loss(hidden, kernel, labels, **options)
                ),
                (0, 1),
            )(hidden, kernel)

        compiled = jax.jit(step).lower(*arrays).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    chunked = functools.partial(loss, chunk_size=chunk)
    small, large = needed(chunked, 2048), needed(chunked, 4096)
    gradient = 4 * 2048 * features
    assert large - 2 * gradient < 1.1 * small
    # Logits, written over twice, the kernel's gradient, the features and theirs.
    logits, kernel = 4 * chunk * classes, 4 * features * classes
    assert small < 1.02 * (logits + kernel + 2 * gradient)
    assert small < 0.25 * needed(on_full_logits, 2048)


EXAMPLES, FEATURES, CLASSES = 256, 64, 4096
HIDDEN, KERNEL = (EXAMPLES, FEATURES), (FEATURES, CLASSES)
ONE_LABEL, SEVERAL = np.arange(EXAMPLES), np.arange(4 * EXAMPLES).reshape(-1, 4)
UNPADDED = np.zeros((2, 16)), np.zeros((2, 7))


@pytest.mark.parametrize(
    ("loss", "real", "rest"),
    [
        (jl.linear_cross_entropy, (HIDDEN, KERNEL), (ONE_LABEL,)),
        (jl.linear_log_probs, (HIDDEN, KERNEL), (ONE_LABEL,)),
        (jl.linear_statistics, (HIDDEN, KERNEL), (SEVERAL,)),
        (jl.linear_distillation_loss, (HIDDEN, KERNEL, HIDDEN, KERNEL), ()),
        (
            jl.linear_sparse_distillation_loss,
            (HIDDEN, KERNEL),
            (SEVERAL, np.full(SEVERAL.shape, math.log(0.2), np.float32)),
        ),
        (
            jl.linear_transducer_loss,
            ((2, 16, FEATURES), (2, 8, FEATURES), KERNEL),
            (np.ones((2, 7), np.int32), *UNPADDED),
        ),
    ],
    ids=[
        "cross entropy",
        "log probs",
        "statistics",
        "distillation",
        "sparse",
        "lattice",
    ],
)
def test_embedding_table_needs_the_memory_of_a_kernel(loss, real, rest):
    """Value and all gradients: copies of the tables would be an eighth more."""

    def needed(class_axis):
        table = KERNEL[::-1] if class_axis == 0 else KERNEL
        shapes = [table if shape == KERNEL else shape for shape in real]
        arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

        def total(*real):
            found = loss(*real, *rest, chunk_size=64, class_axis=class_axis)
            fields = [x for x in jax.tree.leaves(found) if x.dtype == jnp.float32]
            return sum(jnp.sum(x) / (i + 1) for i, x in enumerate(fields))

        step = jax.jit(jax.value_and_grad(total, tuple(range(len(real)))))
        memory = step.lower(*arrays).compile().memory_analysis()
        return memory.temp_size_in_bytes

    assert needed(0) <= 1.02 * needed(-1)


@pytest.mark.optimised
@pytest.mark.parametrize(
    ("reduction", "examples", "classes"),
    first([("mean", 96, 331), ("none", 96, 331), ("mean", 8, 262144)]),
)
def test_half_precision_is_better_than_logits_in_full(reduction, examples, classes):
    hidden, kernel, labels = draw(examples, 16, classes, 3.0, jnp.bfloat16)

    def truth(hidden, kernel):
        return jnp.mean(on_full_logits(hidden, kernel, labels))

    @jax.jit
    def chunked(hidden, kernel):
        def mean(hidden, kernel):
            losses = jl.linear_cross_entropy(
                hidden, kernel, labels, chunk_size=examples // 2, reduction=reduction
            )
            return jnp.mean(losses)

        return jax.value_and_grad(mean, (0, 1))(hidden, kernel)

    def full(hidden, kernel):
        # Not under jit, where XLA would keep the logits in float32.
        logits, pull_back = jax.vjp(jnp.matmul, hidden, kernel)
        value, slope = jax.value_and_grad(
            lambda x: jnp.mean(
                jl.softmax_cross_entropy_with_integer_labels(
                    x.astype(jnp.float32), labels
                )
            )
        )(logits)
        return value, pull_back(slope)

    with jax.enable_x64(True):
        wide = hidden.astype(jnp.float64), kernel.astype(jnp.float64)
        exact = jax.jit(jax.value_and_grad(truth, (0, 1)))(*wide)
    ours, theirs = chunked(hidden, kernel), full(hidden, kernel)
    assert [str(x.dtype) for x in jax.tree.leaves(ours)] == ["float32"] + [
        "bfloat16"
    ] * 2

    def errors(found):
        return [
            np.linalg.norm(np.float64(x) - np.float64(y))
            for x, y in zip(*map(jax.tree.leaves, (found, exact)), strict=True)
        ]

    for our_error, their_error, share in zip(
        errors(ours), errors(theirs), (0.1, 1, 1), strict=True
    ):
        assert our_error <= share * their_error


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_kernel_gradient_is_rounded_once(reduction):
    # Each example adds 2^-9 of what is there: summed in bfloat16, nothing.
    examples = 512
    hidden = jnp.ones((examples, 1), jnp.bfloat16)
    kernel = jnp.zeros((1, 2), jnp.bfloat16)
    labels = jnp.zeros(examples, jnp.int32)

    def loss(kernel):
        return jnp.sum(
            jl.linear_cross_entropy(
                hidden, kernel, labels, chunk_size=1, reduction=reduction
            )
        )

    np.testing.assert_array_equal(
        np.float32(jax.jit(jax.grad(loss))(kernel)), [[-examples / 2, examples / 2]]
    )


def test_log_probs_and_entropies_are_those_of_full_logits():
    hidden, kernel, labels = draw(19, 4, 7, scale=2.0)
    arrays = {"hidden": hidden, "kernel": kernel, "bias": jnp.linspace(-1, 1, 7)}

    def full(hidden, kernel, bias):
        x = jnp.matmul(hidden, kernel, precision="highest") + bias[None]
        log_p = jax.nn.log_softmax(x)
        own = jnp.take_along_axis(log_p, labels[:, None], 1)[:, 0]
        return own, -jnp.sum(jnp.exp(log_p) * log_p, axis=1)

    def ours(**arrays):
        return jl.linear_log_probs(
            labels=labels, chunk_size=6, precision="highest", **arrays
        )

    def run(function):
        def step(arrays):
            value, pull_back = jax.vjp(lambda arrays: function(**arrays), arrays)
            return value, pull_back((jnp.arange(19.0), 3 - jnp.arange(19.0)))[0]

        return jax.jit(step)(arrays)

    assert_close(run(ours), run(full), 1e-5)


def test_entropy_of_a_sure_distribution_keeps_its_digits():
    kernel = jnp.asarray([[50.0, 0.0, 0.0]])
    _, entropy = jl.linear_log_probs(jnp.ones((1, 1)), kernel, [0])
    rest = 2 * math.exp(-50)
    np.testing.assert_allclose(entropy, [rest + rest * 50], rtol=1e-6)


@pytest.mark.level(1)
@pytest.mark.parametrize("reduction", first(REDUCTIONS))
def test_adaptive_softmax_in_chunks_is_that_in_one(reduction):
    cutoffs = (3, 8, 11)
    parameters = jl.init_adaptive_softmax(
        jax.random.key(1), 9, 17, cutoffs, div_value=2.0, head_bias=True
    )
    hidden, _, labels = draw(37, 9, 17)
    where = jnp.arange(37) % 5 != 0

    def run(chunk_size):
        def loss(parameters):
            losses = jl.adaptive_softmax_cross_entropy(
                hidden, labels, parameters, cutoffs,
                where=where, reduction=reduction, chunk_size=chunk_size,
            )  # fmt: skip
            return jnp.sum(losses), losses

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(parameters)

    assert_close(run(5), run(None), 1e-5)


@pytest.mark.level(1)
def test_adaptive_softmax_predicts_the_most_probable_class():
    cutoffs = (3, 8, 11)
    parameters = jl.init_adaptive_softmax(
        jax.random.key(2), 9, 17, cutoffs, div_value=2.0
    )
    # Far apart, so that every cluster has its examples.
    parameters = jax.tree.map(lambda x: 9 * x, parameters)
    hidden, _, _ = draw(200, 9, 17)
    log_probs = jl.adaptive_softmax_log_probs(hidden, parameters, cutoffs)
    found = jl.adaptive_softmax_predict(hidden, parameters, cutoffs)
    np.testing.assert_array_equal(found, jnp.argmax(log_probs, axis=1))
    assert {int(np.searchsorted(cutoffs, c, "right")) for c in found} == {0, 1, 2, 3}
    np.testing.assert_allclose(jnp.sum(jnp.exp(log_probs), axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (
            {"kernel": jnp.ones((4, 5))},
            ValueError,
            "`kernel` must have the shape (features, classes) with the 3 features of "
            "`hidden`, got shape (4, 5).",
        ),
        (
            {"kernel": jnp.ones((3, 0))},
            ValueError,
            "`kernel` must have at least one class, got shape (3, 0) with axis=-1.",
        ),
        (
            {"bias": jnp.ones(4)},
            ValueError,
            "`bias` must have one number per class, shape (5,), got shape (4,).",
        ),
        (
            {"chunk_size": 0},
            ValueError,
            "`chunk_size` must be in [1, inf], got 0.",
        ),
        (
            {"temperature": 0.0},
            ValueError,
            "`temperature` must be in (0, inf], got 0.0.",
        ),
        (
            {"labels": jnp.ones(6)},
            TypeError,
            "`labels` must be integer class indices, got float32.",
        ),
    ],
)
def test_message_says_what_came_and_what_was_expected(change, kind, text):
    hidden, kernel, labels = draw(6, 3, 5)
    arguments = {"hidden": hidden, "kernel": kernel, "labels": labels, **change}
    with pytest.raises(kind) as error:
        jl.linear_cross_entropy(**arguments)
    assert str(error.value) == text


@pytest.mark.parametrize("cutoffs", [(), (3, 3), (5, 2), (0, 4), (17,)])
def test_cutoffs_rise(cutoffs):
    with pytest.raises(ValueError, match="`cutoffs` must be one or more ints"):
        jl.init_adaptive_softmax(jax.random.key(0), 9, 17, cutoffs)


@pytest.mark.level(1)
def test_parameters_fit_the_cutoffs():
    parameters = jl.init_adaptive_softmax(jax.random.key(0), 16, 17, (3, 8))
    with pytest.raises(ValueError, match="`parameters` must fit 16 features"):
        jl.adaptive_softmax_log_probs(jnp.ones((2, 16)), parameters, (4, 8))

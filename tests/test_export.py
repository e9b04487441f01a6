"""Programs that users keep: exported, with symbolic sizes, mapped over no example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tier
from common import assert_close, each_case, take, weighted
from jax import export

import jaxloss as jl

pytestmark = [pytest.mark.usefixtures("device"), pytest.mark.any_program]

# The rows are cut into chunks, whose number has to be known when the loss is traced.
IN_CHUNKS = {
    "linear_cross_entropy",
    "linear_distillation_loss",
    "linear_log_probs",
    "linear_sparse_distillation_loss",
    "linear_statistics",
    "adaptive_softmax_cross_entropy",
    "adaptive_softmax_predict",
}


def measured(case, real, rest):
    """The losses, and the gradient of their mean."""
    tail = {"reduction": "mean"} if case.tail else {}

    def loss(real):
        return jnp.sum(case({**real, **rest}, **tail))

    return case({**real, **rest}), jax.grad(loss)(real)


def symbolic(case, *parts):
    """The shapes of the arrays with letters for the batch and the class count."""
    scope = export.SymbolicScope()
    [b], [c] = (export.symbolic_shape(letter, scope=scope) for letter in "bc")
    return [_symbolic(case, arrays, b, c) for arrays in parts]


def _symbolic(case, arrays, b, c):
    batched = {*case.inputs, "weights"} if case.name not in IN_CHUNKS else set()
    by_class = {*case.class_inputs, *case.class_parameters}
    shapes = {}
    for name, x in arrays.items():
        shape = list(x.shape)
        if name in batched and shape:
            shape[0] = b
        if name in by_class:
            shape[-1] = c
        shapes[name] = jax.ShapeDtypeStruct(tuple(shape), x.dtype)
    return shapes


def smaller(case, arrays):
    """Four of the examples, without the last class, which is no example's label."""
    if case.name not in IN_CHUNKS:
        arrays = take(case, arrays, slice(4))
    by_class = {*case.class_inputs, *case.class_parameters}
    return {n: x[..., :-1] if n in by_class else x for n, x in arrays.items()}


# A rule on numbers, a class axis with labels and with shares, a loop, pairs, chunks.
RUN_IN_QUICK = {
    "huber_loss",
    "softmax_cross_entropy_with_integer_labels",
    "softmax_cross_entropy",
    "ctc_loss",
    "ntxent",
    "linear_cross_entropy",
    "dice_loss",
}


@each_case(once=True)
def test_program_of_symbolic_sizes_has_no_effect(case):
    """What it takes to be written out: such a program is traced, and has no effect."""
    real, rest = weighted(case)
    program = jax.jit(lambda real, rest: measured(case, real, rest))
    assert not program.trace(*symbolic(case, real, rest)).jaxpr.effects


@each_case(lambda case: tier.EXHAUSTIVE or case.id in RUN_IN_QUICK)
def test_exported_program_is_right_at_every_size(case):
    real, rest = weighted(case)
    program = jax.jit(lambda real, rest: measured(case, real, rest))
    kept = export.export(program)(*symbolic(case, real, rest))
    read_back = export.deserialize(kept.serialize())
    for resize in (lambda case, arrays: arrays, smaller):
        arguments = resize(case, real), resize(case, rest)
        assert_close(read_back.call(*arguments), program(*arguments))


@each_case(lambda case: case.independent, once=True)
def test_loss_can_be_mapped_over_no_example(case):
    real, rest = (take(case, part, slice(0)) for part in weighted(case))
    batched = {*case.inputs, "weights"}
    axes = [{n: 0 if n in batched else None for n in part} for part in (real, rest)]

    def single(real, rest):
        value, pull_back = jax.vjp(lambda real: case({**real, **rest}), real)
        return value, pull_back(value)[0]

    shapes = jax.eval_shape(jax.vmap(single, axes), real, rest)
    assert all(x.shape[0] == 0 for x in jax.tree.leaves(shapes))


@pytest.mark.parametrize("name", sorted(IN_CHUNKS - {"adaptive_softmax_predict"}))
def test_rows_in_chunks_need_a_number(name):
    [b] = export.symbolic_shape("b")
    hidden = jax.ShapeDtypeStruct((b, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((b,), jnp.int32)
    kernel = jnp.ones((3, 5))
    parameters = jl.init_adaptive_softmax(jax.random.key(0), 3, 5, [2], div_value=1.0)
    calls = {
        "linear_cross_entropy": lambda h, y: jl.linear_cross_entropy(h, kernel, y),
        "linear_distillation_loss": lambda h, _: jl.linear_distillation_loss(
            h, kernel, h, kernel
        ),
        "linear_log_probs": lambda h, y: jl.linear_log_probs(h, kernel, y),
        "linear_sparse_distillation_loss": lambda h, y: (
            jl.linear_sparse_distillation_loss(h, kernel, y[:, None], -y[:, None])
        ),
        "linear_statistics": lambda h, y: jl.linear_statistics(h, kernel, y),
        "adaptive_softmax_cross_entropy": lambda h, y: (
            jl.adaptive_softmax_cross_entropy(h, y, parameters, [2])
        ),
    }
    with pytest.raises(ValueError, match=r"^`hidden` must have a number of examples"):
        export.export(jax.jit(calls[name]))(hidden, labels)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_more_losses_than_an_int32_counts(reduction):
    """Shapes alone: nothing of the size is made."""
    shape = (2**31, 2)
    x, y = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape, bool)
    result = jax.eval_shape(
        lambda x, y: jl.squared_error(x, where=y, reduction=reduction), x, y
    )
    assert result.shape == (shape if reduction == "none" else ())
    logits = jax.ShapeDtypeStruct((2**31, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((2**31,), jnp.int32)
    result = jax.eval_shape(
        lambda x, y: jl.softmax_cross_entropy_with_integer_labels(
            x, y, reduction=reduction
        ),
        logits,
        labels,
    )
    assert result.shape == ((2**31,) if reduction == "none" else ())


@pytest.mark.parametrize("kind", [np.asarray, list])
@pytest.mark.parametrize("ignore_index", [None, 2**40])
def test_labels_of_64_bits_are_not_wrapped(kind, ignore_index):
    """2^32 + 1 is no class, and is not class 1; class 0 is not 2^40."""
    labels, logits = kind([2**32 + 1, 0]), jnp.zeros((2, 3))

    def loss(logits):
        return jl.softmax_cross_entropy_with_integer_labels(
            logits, labels, ignore_index=ignore_index
        )

    for run in (loss, jax.jit(loss)):
        np.testing.assert_allclose(run(logits), [np.nan, np.log(3)], rtol=1e-6)

"""Rules 3 and 8 at the edges: nothing to count, NaN in the data, debug_nans."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import each_case, has_tail, take, weighted

import jaxloss as jl

pytestmark = pytest.mark.usefixtures("device")


@each_case(has_tail)
def test_mean_of_nothing_is_zero_with_a_zero_gradient(case):
    real, rest = weighted(case)
    shape = case.expected(case.values).shape

    @jax.jit
    def mean(real, where):
        def loss(real):
            return case({**real, **rest}, where=where, reduction="mean")

        return jax.value_and_grad(loss)(real)

    nothing = jnp.zeros(shape, bool)
    everything = jnp.ones(shape, bool)
    weightless = {**real, "weights": jnp.zeros_like(real["weights"])}
    for given, where in ((real, nothing), (weightless, everything)):
        value, gradient = mean(given, where)
        assert value == 0
        for name, slope in gradient.items():
            np.testing.assert_array_equal(slope, np.zeros(slope.shape), err_msg=name)


@each_case(has_tail)
def test_empty_batch_has_sum_and_mean_zero(case):
    arrays = take(case, case.arrays(), slice(0, 0))
    shape = case.expected(case.values).shape
    assert case(arrays).shape == (0, *shape[1:])
    for reduction in ("sum", "mean"):
        real = {name: arrays[name] for name in case.real}

        def loss(real, arrays=arrays, reduction=reduction):
            return case({**arrays, **real}, reduction=reduction)

        value, gradient = jax.value_and_grad(loss)(real)
        assert value == 0
        assert all((slope == 0).all() for slope in gradient.values())


@each_case(lambda case: case.independent)
def test_nan_stays_with_its_example(case):
    arrays = case.arrays()
    for name in case.inputs:
        if name not in case.real:
            continue
        spoiled = np.array(arrays[name])
        spoiled[2] = np.nan
        loss = np.asarray(case({**arrays, name: jnp.asarray(spoiled)}))
        assert np.isnan(loss[2]).any(), name
        assert np.isfinite(np.delete(loss, 2, axis=0)).all(), name


@each_case()
def test_debug_nans_finds_nothing_to_report(case):
    real, rest = weighted(case)
    tail = {}
    if case.tail:
        shape = case.expected(case.values).shape
        keep = np.ones(shape, bool)
        keep[1] = False
        tail = {"where": jnp.asarray(keep), "reduction": "mean"}

    def total(real):
        return jnp.sum(case({**real, **rest}, **tail))

    with jax.debug_nans(True):
        value, gradient = jax.jit(jax.value_and_grad(total))(real)
    assert np.isfinite(value)
    assert all(np.isfinite(slope).all() for slope in gradient.values())


@pytest.mark.parametrize(
    "loss",
    [
        jl.softmax_cross_entropy_with_integer_labels,
        jl.nll_loss,
        jl.softmax_focal_loss,
        jl.generalized_cross_entropy,
        jl.multi_margin_loss,
    ],
)
def test_label_may_be_a_number_of_pythons_inside_jit(loss):
    logits = jnp.array([-0.5, -1.0, -2.0])
    gradient = jax.grad(lambda logits: loss(logits, 1))
    given = jax.grad(lambda logits: loss(logits, jnp.array(1)))
    np.testing.assert_allclose(jax.jit(gradient)(logits), given(logits), rtol=1e-6)
    _, slope = jax.jit(lambda x: jax.jvp(lambda x: loss(x, 1), (x,), (x,)))(logits)
    np.testing.assert_allclose(slope, given(logits) @ logits, rtol=1e-6)

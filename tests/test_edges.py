"""What stays where it is: a NaN with its example, a Python number as a label."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import each_case

import jaxloss as jl

pytestmark = [pytest.mark.usefixtures("device"), pytest.mark.any_program]


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


@each_case(lambda case: case.loss.__module__.split(".")[1] in {"segmentation", "boxes"})
def test_nan_at_any_place_of_an_example_makes_its_loss_nan(case):
    """One NaN, which a sort or a comparison might pass over."""
    arrays = {n: x[2:3] if n in case.inputs else x for n, x in case.arrays().items()}
    boxes = case.loss.__module__.startswith("jaxloss.boxes")
    for name in set(case.inputs) & set(case.real) - {"weights"}:
        given = arrays[name]
        spoiled = np.where(np.eye(given.size, dtype=bool), np.nan, given.ravel())
        spoiled = spoiled.reshape(-1, *given.shape).astype(given.dtype)
        found = jax.jit(jax.vmap(lambda x, n=name: case({**arrays, n: x})))(spoiled)
        for index, loss in enumerate(np.asarray(found)):
            # An ignored class or pixel of the definition has no NaN.
            expected = case.expected({**arrays, name: spoiled[index]})
            spoils = boxes or np.isnan(expected).any()
            assert np.isnan(loss).any() == spoils, (name, index)


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

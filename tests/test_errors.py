"""Rules 5 and 6: bad input is refused by its name when a function is traced."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import each_case, has_tail

import jaxloss as jl


def refused(call, arrays):
    """The error of a call, the same with and without `jit`."""
    with pytest.raises((TypeError, ValueError)) as plain:
        call(arrays)
    with pytest.raises(type(plain.value)) as traced:
        jax.jit(call)(arrays)
    assert str(traced.value) == str(plain.value)
    return plain.value


@each_case(has_tail)
def test_reduction_is_one_of_three(case):
    error = refused(lambda arrays: case(arrays, reduction="average"), case.arrays())
    assert isinstance(error, ValueError)
    assert str(error) == (
        "`reduction` must be one of 'none', 'mean', 'sum', got 'average'."
    )


def parameters(case):
    return inspect.signature(getattr(jl, case.name)).parameters


def has_where(case):
    # The case of the router's loss is a function of several layers, without a mask.
    return "where" in parameters(case) and case.name != "router_balance_loss"


@each_case(lambda case: has_tail(case) or has_where(case))
def test_where_is_boolean(case):
    arrays = case.arrays()
    shape = arrays[case.lead].shape[:1]
    if has_tail(case):
        shape = case.expected(case.values).shape

    def call(arrays):
        return case(arrays, where=np.ones(shape, np.int32))

    error = refused(call, arrays)
    assert isinstance(error, TypeError)
    end = "."
    if has_tail(case) or "weights" in parameters(case):
        end = ", or pass real factors as `weights`."
    assert str(error) == (
        f"`where` must be boolean, got int32; write `where != 0`{end}"
    )


@pytest.mark.parametrize("name", ["where", "weights"])
@each_case(has_tail)
def test_mask_and_weights_fit_the_per_example_loss(case, name):
    odd = np.ones(7, bool if name == "where" else np.float32)
    error = refused(lambda arrays: case(arrays, **{name: odd}), case.arrays())
    assert isinstance(error, ValueError)
    assert f"`{name}` must broadcast to" in str(error)
    assert "(7,)" in str(error)


@each_case()
def test_first_argument_is_floating(case):
    arrays = case.arrays()
    arrays[case.lead] = np.ones(arrays[case.lead].shape, np.int32)
    error = refused(case, arrays)
    assert isinstance(error, TypeError)
    assert f"`{case.lead}` must be floating, got int32" in str(error)


@each_case(lambda case: len(case.inputs) > 1)
def test_no_input_widens_the_first(case):
    for name in list(case.inputs)[1:]:
        arrays = case.arrays()
        rank = arrays[name].ndim
        arrays[name] = np.stack([arrays[name]] * 2)
        if rank + 1 <= arrays[case.lead].ndim:
            arrays[name] = np.stack([arrays[name]] * 5)
        error = refused(case, arrays)
        assert isinstance(error, ValueError)
        assert f"`{name}`" in str(error)
        assert str(arrays[name].shape) in str(error)


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (
            lambda x: jl.squared_error(x, jnp.ones((3, 1))),
            ValueError,
            "`targets` must broadcast to the shape of predictions (3,), "
            "got shape (3, 1); drop its last axis with `targets[..., 0]`.",
        ),
        (
            lambda x: jl.huber_loss(x, delta=-1.0),
            ValueError,
            "`delta` must be in [0, inf], got -1.0.",
        ),
        (
            lambda x: jl.sigmoid_focal_loss(x, x, gamma=-1.0),
            ValueError,
            "`gamma` must be in [0, inf], got -1.0.",
        ),
        (
            lambda x: jl.robust_loss(x, alpha=3.0),
            ValueError,
            "`alpha` must be in [-inf, 2], got 3.0.",
        ),
        (
            lambda x: jl.nll_loss(x, jnp.array(0), axis=1),
            ValueError,
            "`axis` must be in [-1, 1) for 1 axes, got 1.",
        ),
        (
            lambda x: jl.softmax_cross_entropy_with_integer_labels(x, x[0]),
            TypeError,
            "`labels` must be integer class indices, got float32.",
        ),
        (
            lambda x: jl.softmax_cross_entropy(x[:0], x[:0]),
            ValueError,
            "`logits` must have at least one class, got shape (0,) with axis=-1.",
        ),
        (
            lambda x: jl.softmax_cross_entropy_with_integer_labels(
                x, jnp.array(0), class_weights=jnp.ones(2)
            ),
            ValueError,
            "`class_weights` must have one number per class, shape (3,), "
            "got shape (2,).",
        ),
        (
            lambda x: jl.l2_loss(x * 1j),
            TypeError,
            "`predictions` must be real, got complex64.",
        ),
    ],
)
def test_message_says_what_came_and_what_was_expected(call, kind, text):
    with jax.numpy_dtype_promotion("standard"):
        error = refused(call, jnp.ones(3))
    assert isinstance(error, kind)
    assert str(error) == text


def test_numbers_lists_and_numpy_are_arrays():
    expected = jl.huber_loss(jnp.array([2.0, 0.5]), jnp.array([0.0, 1.0]))
    assert jl.huber_loss([2.0, 0.5], [0, 1]).tolist() == expected.tolist()
    assert jl.huber_loss([2, 0.5], np.array([0, 1])).dtype == jnp.float32
    assert jl.huber_loss(2) == 1.5
    assert jl.huber_loss(np.float64(2.0)).dtype == jnp.float32
    assert jl.nll_loss([-1.0, -2.0], 1) == 2.0

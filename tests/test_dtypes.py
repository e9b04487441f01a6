"""Rule 4: half precision is computed in float32, and every gradient has its dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import assert_close, cotangent, each_case, has_tail, weighted
from programs import measured
from tier import choose

pytestmark = [pytest.mark.usefixtures("device"), pytest.mark.any_program]


def widens(case):
    return case.widens


@pytest.mark.parametrize(
    "dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.exhaustive)]
)
@each_case(widens, once=True)
def test_half_precision_is_rounded_only_on_its_way_in_and_out(case, dtype):
    real, rest = weighted(case)
    half = {name: x.astype(jnp.dtype(dtype)) for name, x in real.items()}
    wide = {name: x.astype(np.float32) for name, x in half.items()}

    @jax.jit
    def value_and_gradient(real):
        value, pull_back = jax.vjp(lambda real: case({**real, **rest}), real)
        return value, pull_back(cotangent(case).astype(value.dtype))[0]

    value, gradient = value_and_gradient(half)
    plain = measured(case, wide, rest)["none"]
    expected, slope = plain["value"], plain["gradient"]
    assert value.dtype == jnp.float32
    assert_close(value, expected)
    for name, x in gradient.items():
        assert x.dtype == dtype, name
        # One rounding to half, and the float32 rounding of another program before it.
        np.testing.assert_allclose(
            np.float32(x),
            np.float32(slope[name]),
            rtol=float(jnp.finfo(dtype).eps) * 0.51,
            atol=1e-6 * float(np.abs(slope[name]).max(initial=0))
            + float(jnp.finfo(dtype).smallest_subnormal),
            err_msg=name,
        )


@each_case(once=True)
def test_forward_mode_keeps_the_dtype_of_the_loss(case):
    real, rest = weighted(case)
    half = {name: x.astype(jnp.bfloat16) for name, x in real.items()}
    value, tangent = jax.eval_shape(
        lambda real: jax.jvp(lambda real: case({**real, **rest}), (real,), (real,)),
        half,
    )
    expected = jnp.float32 if case.widens else jnp.bfloat16
    assert value.dtype == tangent.dtype == expected


@pytest.mark.usefixtures("x64")
@each_case(widens, once=True)
def test_float32_stays_and_one_float64_widens_under_x64(case):
    arrays = case.arrays(jnp.float32)
    assert jax.eval_shape(case, arrays).dtype == jnp.float32
    arrays[case.lead] = arrays[case.lead].astype(jnp.float64)
    assert jax.eval_shape(case, arrays).dtype == jnp.float64


@each_case(lambda case: case.tail and case.widens, once=True)
def test_reduced_losses_of_half_precision_are_float32(case):
    arrays = case.arrays(jnp.bfloat16)
    for reduction in ("sum", "mean"):
        loss = jax.eval_shape(lambda x, r=reduction: case(x, reduction=r), arrays)
        assert loss.dtype == jnp.float32
        assert loss.shape == ()


@each_case(once=True)
def test_lists_and_numpy_arrays_are_arrays(case):
    arrays = case.arrays()
    plain = case({name: jnp.asarray(x) for name, x in arrays.items()})
    for convert in (np.asarray, np.ndarray.tolist):
        loss = case({name: convert(x) for name, x in arrays.items()})
        assert loss.dtype == plain.dtype
        np.testing.assert_array_equal(loss, plain)


@each_case(lambda case: len(case.real) > 1, once=True)
def test_integers_and_booleans_behind_the_first_count_as_reals(case):
    arrays = case.arrays()
    behind = [name for name in case.real if name != case.lead]
    whole = {name: np.round(arrays[name]).astype(np.int32) for name in behind}

    @jax.jit
    def losses(arrays, kind):
        as_reals = {name: x.astype(jnp.float32) for name, x in kind.items()}
        return case({**arrays, **kind}), case({**arrays, **as_reals})

    binary = {name: x != 0 for name, x in whole.items()}
    both = {name: (whole, binary)[i % 2][name] for i, name in enumerate(behind)}
    for kind in choose((both,), (whole, binary)):
        loss, expected = losses(arrays, kind)
        assert loss.dtype == expected.dtype
        np.testing.assert_array_equal(loss, expected)


@each_case(has_tail, once=True)
def test_weights_may_be_integers(case):
    @jax.jit
    def losses(arrays, weights):
        # XLA may round the product with a literal otherwise.
        return [
            case(arrays, weights=w, reduction="none")
            for w in (weights, weights.astype(jnp.float32), 3, 3.0)
        ]

    whole, real, literal, real_literal = losses(case.arrays(), jnp.int32(3))
    np.testing.assert_array_equal(whole, real)
    np.testing.assert_array_equal(literal, real_literal)
    assert_close(literal, whole)

"""The tail that every loss shares, against its definition as a loop."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxloss._core.arguments.tail import HARMLESS, Tail, reduce_loss

pytestmark = pytest.mark.any_program

LOSS = np.array([[0.5, -1.25, 3.0], [2.0, 0.75, -0.5]], np.float32)
KEEP = {
    "all": None,
    "some": np.array([[True, False, True], [False, True, True]]),
    "row": np.array([[True, False, False]]),
    "none": np.zeros((1, 1), bool),
}
WEIGHTS = {
    "one": None,
    "each": np.array([[2.0, 0.5, 1.5], [0.25, 3.0, 0.0]], np.float32),
    "column": np.array([[0.75], [2.0]], np.float32),
    "zero": np.zeros((1, 1), np.float32),
}
MASS = {"one": None, "each": np.array([[1.0, 2, 4], [0.5, 0.25, 3]], np.float32)}


def definition(loss, keep, weights, reduction, mass, axis):
    """Example by example: what counts, what it weighs, and what is divided by."""
    shape = loss.shape
    keep = np.broadcast_to(True if keep is None else keep, shape)
    weights = np.broadcast_to(1.0 if weights is None else weights, shape)
    mass = np.broadcast_to(1.0 if mass is None else mass, shape)
    weighted, counted = np.zeros(shape), np.zeros(shape)
    for i in np.ndindex(shape):
        if keep[i]:
            weighted[i] = loss[i] * weights[i]
            counted[i] = weights[i] * mass[i]
    if reduction == "none":
        return weighted
    total, size = weighted.sum(axis), counted.sum(axis)
    if reduction == "sum":
        return total
    return np.where(size == 0, 0, total / np.where(size == 0, 1, size))


def arrays(*given):
    return [None if x is None else jnp.asarray(x) for x in given]


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_reduction_is_that_of_the_definition(reduction, axis):
    every = itertools.product(KEEP.values(), WEIGHTS.values(), MASS.values())
    for keep, weights, mass in every:
        loss, *given = arrays(LOSS, keep, weights, mass)
        keep_, weights_, mass_ = given
        found = reduce_loss(loss, keep_, weights_, reduction, mass_, axis)
        expected = definition(LOSS, keep, weights, reduction, mass, axis)
        assert found.dtype == jnp.float32
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_what_does_not_count_may_be_anything(reduction, bad):
    loss = jnp.array([bad, 2.0, bad, 3.0])
    keep = jnp.array([False, True, True, True])
    weights = jnp.array([1.0, 0.5, 0.0, 1.5])

    def reduced(loss, weights):
        return reduce_loss(loss, keep, weights, reduction)

    value, (by_loss, by_weight) = jax.value_and_grad(reduced, (0, 1))(loss, weights)
    size = 2 if reduction == "mean" else 1
    assert value == 5.5 / size
    assert by_loss.tolist() == [0, 0.5 / size, 0, 1.5 / size]
    # d/dw of Σ w l / Σ w is (l - mean) / Σ w; the dropped example has none.
    shift = 5.5 / size if reduction == "mean" else 0
    np.testing.assert_allclose(by_weight[1], (2 - shift) / size, rtol=1e-6)
    assert by_weight[0] == 0
    assert np.isfinite(by_weight).all()


@pytest.mark.parametrize(
    ("loss", "keep", "weights"),
    [
        ([1.0, 2.0], [False, False], None),
        ([1.0, 2.0], None, [0.0, 0.0]),
        ([1.0, 2.0], [True, False], [0.0, 5.0]),
        ([], None, None),
        ([], [], []),
    ],
)
def test_mean_of_nothing_is_zero_with_a_zero_gradient(loss, keep, weights):
    keep = None if keep is None else jnp.asarray(keep, bool)
    weights = None if weights is None else jnp.asarray(weights)

    def mean(loss):
        return reduce_loss(loss, keep, weights, "mean")

    with jax.debug_nans(True):
        value, gradient = jax.value_and_grad(mean)(jnp.asarray(loss))
    assert value == 0
    assert not np.any(gradient)


def test_empty_axis_reduces_to_zeros():
    for reduction in ("sum", "mean"):
        found = reduce_loss(jnp.zeros((0, 3)), None, None, reduction, axis=0)
        assert found.tolist() == [0, 0, 0]


def test_select_replaces_what_is_dropped():
    keep = jnp.array([True, False, True])
    x = jnp.array([[1.0, jnp.nan, 3.0], [4.0, jnp.inf, 6.0]])
    half = jnp.array([7, 8, 9], jnp.bfloat16)
    tail = Tail(keep, None, "none")
    first, second = tail.select(x, half)
    np.testing.assert_array_equal(first, [[1, HARMLESS, 3], [4, HARMLESS, 6]])
    assert second.dtype == jnp.bfloat16
    assert second.tolist() == [7, HARMLESS, 9]
    gradient = jax.grad(lambda x: jnp.sum(jnp.log(tail.select(x)[0])))(x)
    np.testing.assert_allclose(gradient, [[1, 0, 1 / 3], [1 / 4, 0, 1 / 6]], rtol=1e-6)
    unchanged = Tail(None, None, "none").select(x, half)
    assert unchanged[0] is x
    assert unchanged[1] is half

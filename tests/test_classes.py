"""The class axis may stand anywhere, and a mask of the logits' shape drops classes."""

import dataclasses
import functools
import inspect

import jax
import numpy as np
import pytest
from common import WEIGHTS, assert_close, cotangent, each_case, weighted
from programs import measured
from tier import choose

pytestmark = [pytest.mark.usefixtures("device"), pytest.mark.any_program]

CLASSES = 5


def has_axis(case):
    parameters = inspect.signature(case.loss).parameters
    return case.class_inputs and "axis" in parameters


def masks_classes(case):
    """A mask of classes has the logits' rank."""
    return case.tail and case.class_inputs


@each_case(has_axis, once=True)
def test_class_axis_may_stand_anywhere(case):
    real, rest = weighted(case)
    ct = cotangent(case)

    @functools.partial(jax.jit, static_argnums=2)
    def value_and_gradient(real, rest, axis):
        value, pull_back = jax.vjp(lambda real: case({**real, **rest}, axis=axis), real)
        # A loss that keeps the class axis keeps it where it was.
        if value.ndim == 2:
            return value.T, pull_back(ct.T)[0]
        return value, pull_back(ct)[0]

    def turn(arrays):
        """The class axis in front."""
        return {n: x.T if n in case.class_inputs else x for n, x in arrays.items()}

    plain = measured(case, real, rest)["none"]
    for axis in choose((0,), (0, -2)):
        value, gradient = value_and_gradient(turn(real), turn(rest), axis)
        assert_close(value, plain["value"])
        assert_close(turn(gradient), plain["gradient"])


def without(case, arrays, kept):
    """One example of a case with some of its classes alone."""
    left = {}
    for name, x in arrays.items():
        if name in case.class_inputs or name in case.class_parameters:
            left[name] = x[..., kept]
        elif name in case.inputs and x.dtype.kind in "iu":
            # Labels count the classes that are left; -1 is padding, and stays.
            order = np.cumsum(kept) - 1
            left[name] = np.where(x < 0, x, order[x])
        else:
            left[name] = x
    return left


@each_case(masks_classes, once=True)
def test_masked_classes_are_as_if_they_had_never_been(case):
    real, rest = weighted(case)
    # No label of the catalogue is the last class; soft labels lose what they gave it.
    where = np.ones((6, CLASSES), bool)
    where[:, 4] = [False, False, True, False, True, False]
    labels = [x for name, x in rest.items() if name in case.inputs]
    for example, extra in enumerate((None, 1, 4, 0, 3, None)):
        taken = any(np.any(np.asarray(x)[example] == extra) for x in labels)
        if extra is not None and not taken:
            where[example, extra] = False
    where[5] = False
    arrays = case.arrays()
    none, mass = np.zeros(6), np.zeros(6)
    # An ignored label is the label of all classes, not of those that are left.
    ignored = case.options.get("ignore_index")
    counting = case
    if ignored is not None:
        options = {**case.options, "ignore_index": None}
        counting = dataclasses.replace(case, options=options)
    for i in range(5):
        example = {
            n: x[i : i + 1] if n in case.inputs else x for n, x in arrays.items()
        }
        if ignored is not None and arrays["labels"][i] == ignored:
            continue
        left = without(case, example, where[i])
        none[i] = counting.expected(left)[0] * WEIGHTS[i]
        mass[i] = counting.counted(left)[0] * WEIGHTS[i]

    @jax.jit
    def masked(real, where):
        value, pull_back = jax.vjp(
            lambda real: case({**real, **rest}, where=where), real
        )
        mean = case({**real, **rest}, where=where, reduction="mean")
        return mean, value, pull_back(cotangent(case))[0]

    mean, value, gradient = masked(real, where)
    assert_close(value, np.float32(none))
    assert_close(mean, np.float32(none.sum() / mass.sum()))
    spoiled = {
        n: np.where(where, x, np.float32([np.nan, np.inf, -np.inf, np.nan, np.inf]))
        if n in case.class_inputs
        else x
        for n, x in real.items()
    }
    assert_close(masked(spoiled, where), (mean, value, gradient))
    for name in set(case.class_inputs) & gradient.keys():
        assert not np.any(np.asarray(gradient[name])[~where]), name

    # One mask for all examples, and classes in front.
    row = np.array([True, True, True, True, False])
    left = {
        n: x[..., :4] if n in {*case.class_inputs, *case.class_parameters} else x
        for n, x in arrays.items()
    }
    for value in (
        case({**real, **rest}, where=row[None]),
        masked(real, np.broadcast_to(row, (6, CLASSES)))[1],
    ):
        assert_close(value, np.float32(case.expected(left) * WEIGHTS))

"""Losses of arrays that are spread over virtual CPU devices are those of one device.

On an explicit mesh the placement is part of every type, and an operation that cannot
tell where its result lies fails; on an automatic one the compiler finds it.
"""

import contextlib

import jax
import numpy as np
import pytest
from common import assert_close, cotangent, each_case, weighted
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from programs import measured
from tier import EXHAUSTIVE, choose

pytestmark = pytest.mark.any_program


def make_mesh(kind, **axes):
    shape = tuple(axes.values())
    devices = jax.devices("cpu")[: np.prod(shape)]
    return jax.make_mesh(shape, tuple(axes), (kind,) * len(axes), devices=devices)


def spread_examples(case, name):
    return P("examples") if name in {*case.inputs, "weights"} else P()


def spread_classes(case, name):
    """Over the classes too, where an argument has them."""
    examples = spread_examples(case, name)
    if name not in {*case.class_inputs, *case.class_parameters}:
        return examples
    between = case.values[name].ndim - len(examples) - 1
    return P(*examples, *[None] * between, "classes")


def placements(case):
    # An explicit mesh is the stricter kind, and classes are harder than examples.
    for kind in choose((AxisType.Explicit,), (AxisType.Auto, AxisType.Explicit)):
        if EXHAUSTIVE or not case.class_inputs:
            yield make_mesh(kind, examples=3), spread_examples
        if case.class_inputs:
            classes = case.values[case.class_inputs[0]].shape[-1]
            examples = 2 if 2 * classes <= jax.device_count("cpu") else 1
            yield make_mesh(kind, examples=examples, classes=classes), spread_classes


def value_and_gradient(loss, real, rest, ct):
    value, pull_back = jax.vjp(lambda real: loss({**real, **rest}), real)
    placed = jax.typeof(value).sharding
    if any(placed.spec):
        ct = jax.sharding.reshard(ct, placed)
    return value, pull_back(ct)[0]


@pytest.mark.parametrize(
    "context",
    [
        contextlib.nullcontext,
        pytest.param(jax.set_mesh, marks=pytest.mark.exhaustive),
    ],
    ids=["types alone", "set_mesh"],
)
@each_case(once=True)
def test_spread_arrays_have_the_loss_and_gradient_of_one_device(case, context):
    """The arrays' types tell where they lie, with or without `jax.set_mesh`."""
    real, rest = weighted(case)
    keep = np.arange(6) != 1

    @jax.jit
    def results(real, rest, ct):
        found = value_and_gradient(case, real, rest, ct)
        if not case.tail:
            return *found, None
        # Of all examples, not of each device's mean: the mask is uneven.
        return *found, case({**real, **rest}, where=keep, reduction="mean")

    one = measured(case, real, rest)["none"]
    mean = measured(case, real, rest, keep)["mean"]["value"] if case.tail else None
    plain = one["value"], one["gradient"], mean
    for mesh, spec in placements(case):
        placed = [
            {
                name: jax.device_put(x, NamedSharding(mesh, spec(case, name)))
                for name, x in part.items()
            }
            for part in (real, rest)
        ]
        with context(mesh):
            found = results(*placed, cotangent(case))
        if case.independent and mesh.shape["examples"] > 1:
            assert found[0].sharding.spec[0] == "examples"
        assert_close(found, plain)


@each_case(lambda case: case.independent, once=True)
def test_mapped_examples_have_the_loss_and_gradient_of_one_device(case):
    """Each device has examples of its own; what they share gets the sum of slopes."""
    real, rest = weighted(case)
    mapped = jax.shard_map(
        case,
        mesh=make_mesh(AxisType.Auto, examples=3),
        in_specs=({name: spread_examples(case, name) for name in {**real, **rest}},),
        out_specs=P("examples"),
    )

    @jax.jit
    def results(real, rest, ct):
        return value_and_gradient(mapped, real, rest, ct)

    plain = measured(case, real, rest)["none"]
    found = results(real, rest, cotangent(case))
    assert_close(found, (plain["value"], plain["gradient"]))

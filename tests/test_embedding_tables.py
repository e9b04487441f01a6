"""Embedding tables [C, D] over meshes: the memory and the gradient of a kernel."""

import jax
import jax.numpy as jnp
import pytest
from common import assert_close
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from test_many_devices import linear_arrays
from tier import first

import jaxloss as jl

pytestmark = pytest.mark.any_program

# The axes that split the hidden states [N, D] and the kernel [D, C].
LAYOUTS = {
    "features over the rows' devices": (P("data"), ("data", None)),
    "classes over the rows' devices": (P("data"), (None, "data")),
    "classes over the other devices": (P("data"), (None, "model")),
    "both": (P("data"), ("data", "model")),
}
CASES = [(k, n) for k in (AxisType.Explicit, AxisType.Auto) for n in first([*LAYOUTS])]


def step(class_axis):
    def mean(hidden, kernel, labels):
        return jl.linear_cross_entropy(
            hidden, kernel, labels, class_axis=class_axis, reduction="mean"
        )

    return jax.value_and_grad(mean, (0, 1))


def placements(kind, name, class_axis):
    """Those of hidden states, kernel or table, and labels."""
    hidden, kernel = LAYOUTS[name]
    kernel = P(*(kernel[::-1] if class_axis == 0 else kernel))
    mesh = jax.make_mesh((4, 2), ("data", "model"), (kind, kind))
    return [NamedSharding(mesh, spec) for spec in (hidden, kernel, P("data"))]


def compiled(kind, name, class_axis, shapes):
    placed = placements(kind, name, class_axis)
    inputs = [
        jax.ShapeDtypeStruct(shape, dtype, sharding=place)
        for (shape, dtype), place in zip(shapes, placed, strict=True)
    ]
    out = NamedSharding(placed[0].mesh, P()), tuple(placed[:2])
    program = jax.jit(step(class_axis), out_shardings=out)
    with jax.set_mesh(placed[0].mesh):
        return program.lower(*inputs).compile()


@pytest.mark.optimised
@pytest.mark.parametrize(("kind", "name"), CASES, ids=str)
def test_a_table_needs_the_memory_of_a_kernel(kind, name):
    examples, features, classes = 128, 64, 4096
    if kind == AxisType.Auto and "data" in LAYOUTS[name][1][:1]:
        pytest.skip("XLA for CPU copies the gathered features; no type shows them")

    def needed(class_axis):
        kernel = (features, classes)[:: 1 if class_axis else -1]
        shapes = (
            ((examples, features), jnp.float32),
            (kernel, jnp.float32),
            ((examples,), jnp.int32),
        )
        memory = compiled(kind, name, class_axis, shapes).memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    assert needed(0) <= 1.02 * needed(-1)


@pytest.mark.parametrize(("kind", "name"), CASES, ids=str)
def test_the_gradient_has_the_layout_and_the_placement_of_the_table(kind, name):
    hidden, kernel, labels = linear_arrays()
    places = placements(kind, name, 0)
    arrays = hidden, kernel.T, labels
    placed = [jax.device_put(x, p) for x, p in zip(arrays, places, strict=True)]
    value, (dhidden, dtable) = jax.jit(step(0))(*placed)
    if kind == AxisType.Explicit:
        assert dtable.sharding.is_equivalent_to(places[1], 2)
    expected, (dkernel_hidden, dkernel) = jax.jit(step(-1))(hidden, kernel, labels)
    found = jax.device_get((value, dhidden, dtable.T))
    assert_close(found, (expected, dkernel_hidden, dkernel), 1e-5)

"""Linear losses on automatic meshes: one chunk, summed over devices once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import assert_close
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from test_many_devices import HALF, KERNEL, ROWS, crossed, linear_arrays

import jaxloss as jl
from jaxloss._core.sweeps import linear

pytestmark = pytest.mark.any_program


@pytest.fixture
def eight_chunks(monkeypatch):
    """Rows that would be eight chunks on one device, of which the mesh has eight."""
    monkeypatch.setattr(linear, "default_rows", lambda *_: ROWS // 8)
    jax.clear_caches()
    yield
    jax.clear_caches()


def mesh_of(kind):
    return jax.make_mesh((2, 4), ("batch", "model"), (kind, kind))


def step(hidden, kernel, labels, scale=1.0):
    def loss(hidden, kernel):
        return scale * jl.linear_cross_entropy(hidden, kernel, labels, reduction="mean")

    return jax.value_and_grad(loss, (0, 1))(hidden, kernel)


def placed(mesh, arrays, spec):
    specs = P("batch"), spec, P("batch")
    return [
        jax.device_put(x, NamedSharding(mesh, s))
        for x, s in zip(arrays, specs, strict=True)
    ]


@pytest.mark.exhaustive
@pytest.mark.parametrize("set_mesh", [True, False])
@pytest.mark.parametrize(
    ("spec", "most"),
    # The kernel in full and two parts of its gradient; the gradient of the hidden
    # states and that of each device's classes.
    [
        (P("batch"), 2.5 * KERNEL),
        (P(None, "model"), HALF + KERNEL / 4),
        (P("batch", "model"), HALF + KERNEL / 2),
    ],
)
def test_nothing_crosses_the_network_in_a_loop(eight_chunks, spec, most, set_mesh):
    mesh, arrays = mesh_of(AxisType.Auto), linear_arrays()
    inputs = placed(mesh, arrays, spec)
    out = NamedSharding(mesh, P()), tuple(x.sharding for x in inputs[:2])
    compile = jax.jit(step, out_shardings=out).lower
    if set_mesh:
        with jax.set_mesh(mesh):
            compiled = compile(*inputs).compile()
    else:
        compiled = compile(*inputs).compile()
    inside, outside = map(crossed, compiled.as_text().split("\nENTRY "))
    assert not inside
    assert 0 < sum(n for n in outside if n > ROWS) <= most
    assert_close(compiled(*inputs), jax.jit(step)(*arrays), 1e-5)


@pytest.mark.parametrize(
    ("dtype", "rounded"), [("bfloat16", 2), ("float16", 0), ("float32", 0)]
)
def test_devices_exchange_sums_in_the_dtype_of_bfloat16_operands(dtype, rounded):
    """Both gradients; float16 has too little range before the cotangent scales it."""
    hidden, kernel, labels = linear_arrays()
    mesh = mesh_of(AxisType.Auto)
    arrays = hidden.astype(dtype), kernel.astype(dtype), labels
    inputs = placed(mesh, arrays, P(None, "model"))
    half = [x for x in products(step, *inputs) if x == dtype != "float32"]
    assert len(half) == rounded
    assert not [x for x in products(step, *arrays) if x == dtype != "float32"]


def products(function, *arrays):
    """The dtypes of all products of matrices in a function's program."""
    found = []

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                found.append(str(equation.outvars[0].aval.dtype))
            for inner in jax.tree.leaves(
                list(equation.params.values()),
                is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr"),
            ):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    visit(getattr(inner, "jaxpr", inner))

    visit(jax.make_jaxpr(function)(*arrays).jaxpr)
    return found


def test_small_gradients_in_float16_survive_until_they_are_scaled():
    hidden, kernel, labels = linear_arrays()
    mesh = mesh_of(AxisType.Auto)
    # The gradient of the kernel is about 1e-7, two steps of float16, before the scale.
    arrays = (hidden * 1e-5).astype(np.float16), kernel.astype(np.float16), labels
    inputs = placed(mesh, arrays, P(None, "model"))
    scaled = functools.partial(step, scale=jnp.float32(2**15))
    _, found = jax.jit(scaled)(*inputs)
    _, expected = jax.jit(scaled)(*arrays)
    for x, y in zip(found, expected, strict=True):
        assert np.any(y != 0)
        assert_close(np.float32(x), np.float32(y), 2e-3)

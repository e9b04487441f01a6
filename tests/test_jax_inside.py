"""What jaxloss uses of JAX's inside, by name: which of it broke when JAX moves.

Every use is in `jaxloss/_core/rule`. JAX promises none of it to stay.
"""

import ast
import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.experimental import checkify
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxloss as jl
from jaxloss._core.rule import checked, varying
from jaxloss._core.rule.dropped import guard
from jaxloss._core.rule.linear_map import linear_map

ROOT = Path(jl.__file__).parent
INSIDE = ("jax._src", "jax.interpreters", "jax.extend", "jax.core")


def test_inside_of_jax_is_used_in_one_room():
    for path in ROOT.rglob("*.py"):
        if path.is_relative_to(ROOT / "_core" / "rule"):
            continue
        text = path.read_text()
        assert "manual_axis_type" not in text, path
        for node in ast.walk(ast.parse(text)):
            names = []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            assert not any(n.startswith(INSIDE) for n in names), (path, names)


def test_primitives_and_their_rules():
    """`jax.extend.core.Primitive`, `ad`, `batching` and `mlir`, through `guard`."""
    x, dropped = jnp.array([0.0, 4.0]), jnp.array([True, False])

    def root(x):
        return jnp.sum(jnp.sqrt(guard(x, dropped)))

    np.testing.assert_array_equal(jax.jit(jax.grad(root))(x), [0, 0.25])
    mapped = jax.vmap(jax.grad(root))(jnp.stack([x, x]))
    np.testing.assert_array_equal(mapped, [[0, 0.25], [0, 0.25]])


def test_linear_function_whose_transpose_is_told():
    """`ad.instantiate_zeros`, `ad.is_undefined_primal` and `mlir.lower_fun`."""
    matrix = jnp.arange(6.0).reshape(2, 3)

    def apply(matrix, x):
        return linear_map(lambda m, x: m @ x, lambda m, y: 10 * (m.T @ y), matrix, x)

    x, y = jnp.ones(3), jnp.array([1.0, -1.0])
    np.testing.assert_array_equal(jax.jit(apply)(matrix, x), matrix @ x)
    pull_back = jax.linear_transpose(lambda x: apply(matrix, x), x)
    np.testing.assert_array_equal(pull_back(y)[0], 10 * (matrix.T @ y))
    # The transpose of the transpose is the function.
    again = jax.linear_transpose(lambda y: pull_back(y)[0], y)
    np.testing.assert_array_equal(again(x)[0], matrix @ x)
    # By the constants it is differentiated as it is written.
    tangent = jax.jvp(lambda m: apply(m, x), (matrix,), (matrix,))[1]
    np.testing.assert_array_equal(tangent, matrix @ x)


def test_table_of_checkify():
    """`jax._src.checkify.error_checks`, without an effect in the program."""
    assert hasattr(checked, "error_checks"), "jax._src.checkify moved: see rule/checked"

    def loss(labels):
        return jl.softmax_cross_entropy_with_integer_labels(jnp.zeros((2, 3)), labels)

    labels = jnp.array([0, 3])
    message = checkify.checkify(jax.jit(loss))(labels)[0].get()
    assert message.startswith("`labels` must be in [0, 3).")
    assert not jax.make_jaxpr(loss)(labels).effects
    assert export.export(jax.jit(loss))(labels).serialize()


def test_types_of_shard_map():
    """`jax.typeof(x).manual_axis_type.varying`."""
    mesh = jax.make_mesh((1,), ("d",), (AxisType.Auto,), devices=jax.devices()[:1])
    found = []

    def body(x):
        found.append(varying.varying(x))
        return x

    jax.jit(jax.shard_map(body, mesh=mesh, in_specs=P("d"), out_specs=P("d")))(
        jnp.ones(2)
    )
    assert found[0] == {"d"}


@pytest.mark.parametrize(
    "room", sorted(p.stem for p in (ROOT / "_core" / "rule").glob("[a-z]*.py"))
)
def test_each_use_says_why(room):
    """The first lines of a module of the room tell its reason."""
    module = __import__(f"jaxloss._core.rule.{room}", fromlist=["_"])
    assert len(inspect.getdoc(module).splitlines()) > 1

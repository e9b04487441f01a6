"""Losses of examples that are spread over three virtual CPU devices."""

import jax
import numpy as np
from common import (
    WEIGHTS,
    assert_close,
    cotangent,
    each_case,
    weighted,
)
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P


@each_case(lambda case: case.independent)
def test_spread_examples_have_the_same_loss_and_gradient(case):
    # What holds on an explicit mesh, where JAX infers no placement, holds on others.
    mesh = jax.make_mesh(
        (3,), ("examples",), (AxisType.Explicit,), devices=jax.devices("cpu")[:3]
    )
    real, rest = weighted(case)
    batched = {*case.inputs, "weights"}

    def spec(name):
        return P("examples") if name in batched else P()

    def spread(arrays):
        return {
            name: jax.device_put(x, NamedSharding(mesh, spec(name)))
            for name, x in arrays.items()
        }

    def loss(real, rest):
        return case({**real, **rest})

    @jax.jit
    def results(real, rest, ct):
        """Partitioned by JAX, and mapped by hand."""
        specs = tuple({name: spec(name) for name in part} for part in (real, rest))
        mapped = jax.shard_map(loss, mesh=mesh, in_specs=specs, out_specs=P("examples"))
        found = []
        for form in (loss, mapped):
            value, pull_back = jax.vjp(lambda real, form=form: form(real, rest), real)
            found.append((value, pull_back(ct)[0]))
        return found

    with jax.set_mesh(mesh):
        ct = jax.device_put(cotangent(case), NamedSharding(mesh, P("examples")))
        plain, mapped = results(spread(real), spread(rest), ct)
    assert plain[0].sharding.spec[0] == "examples"
    weights = WEIGHTS if case.tail else 1.0
    expected = np.float32((case.expected(case.arrays()).T * weights).T)
    assert_close(plain[0], expected)
    assert_close(mapped, plain)

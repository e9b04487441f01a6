"""Value and gradient of every loss lower for every platform that JAX knows."""

import jax
import jax.numpy as jnp
from common import each_case, weighted
from jax import export

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


@each_case(once=True)
def test_value_and_gradient_lower_for_every_platform(case):
    real, rest = weighted(case)

    @jax.jit
    def step(real, rest):
        return jax.value_and_grad(lambda real: jnp.sum(case({**real, **rest})))(real)

    exported = export.export(step, platforms=PLATFORMS)(real, rest)
    assert exported.platforms == PLATFORMS
    gradient = jax.tree.unflatten(exported.out_tree, exported.out_avals)[1]
    assert {n: x.shape for n, x in gradient.items()} == {
        n: x.shape for n, x in real.items()
    }
    # Plain XLA: no kernel that one of the platforms would have to bring along.
    assert "custom_call" not in exported.mlir_module()

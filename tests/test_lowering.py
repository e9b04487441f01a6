"""Every loss, value and gradient, lowers for the backends that are not at hand."""

import jax
from common import each_case, weighted
from jax import export

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


@each_case()
def test_value_and_gradient_lower_for_every_backend(case):
    real, rest = weighted(case)

    def total(real, rest):
        return jax.numpy.sum(case({**real, **rest}))

    exported = export.export(jax.jit(jax.value_and_grad(total)), platforms=PLATFORMS)(
        real, rest
    )
    assert exported.platforms == PLATFORMS
    value, gradient = exported.out_tree.unflatten(exported.out_avals)
    assert value.shape == ()
    assert {n: x.shape for n, x in gradient.items()} == {
        n: x.shape for n, x in real.items()
    }

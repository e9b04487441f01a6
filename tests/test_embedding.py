"""What the embedding losses cost; their values and slopes are the catalogue's."""

import jax
import jax.numpy as jnp
import pytest

import jaxloss as jl


@pytest.mark.parametrize(
    ("loss", "matrices"), [(jl.ntxent, 3.3), (jl.circle_loss, 8.5)]
)
def test_memory_is_that_of_a_few_matrices_of_pairs(loss, matrices):
    pairs = 512
    embeddings = jax.ShapeDtypeStruct((pairs, 16), jnp.float32)
    labels = jax.ShapeDtypeStruct((pairs,), jnp.int32)

    def mean(x, labels):
        return loss(x, labels, reduction="mean")

    step = jax.jit(jax.value_and_grad(mean)).lower(embeddings, labels).compile()
    used = step.memory_analysis().temp_size_in_bytes
    assert used < 4 * pairs * pairs * matrices

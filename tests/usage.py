"""Calls as users write them: pyright has to accept each (`.ci/run` runs it)."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxloss as jl

loss: jax.Array = jl.huber_loss([0.5, 3.0], [0.0, 0.0], delta=1.0)
loss = jl.huber_loss(np.zeros(3), 0.0, where=[True, False, True], weights=[1, 2, 3])
loss = jl.softmax_cross_entropy_with_integer_labels(
    [[2.0, 0.0], [0.0, 1.0]], [0, 1], class_weights=[1.0, 2.0], reduction="mean"
)
loss = jl.softmax_cross_entropy(jnp.zeros((2, 3)), ((0.5, 0.5, 0.0), (1.0, 0.0, 0.0)))
loss = jl.jensen_shannon_divergence(jnp.zeros(3), [0.0, 1.0, 2.0], axis=None)
log_probs, entropies = jl.linear_log_probs(jnp.ones((2, 3)), jnp.ones((3, 5)), [0, 4])

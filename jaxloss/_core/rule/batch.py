"""Numbers that `jax.vmap` is to leave without a batch axis.

`vmap` turns a loop whose count differs between the examples of a batch into one that
selects between old and new for each array of each step. `custom_vmap` avoids it.
"""

import jax
import jax.numpy as jnp


@jax.custom_batching.custom_vmap
def largest_of_batch(count: jax.Array) -> jax.Array:
    """The number itself, and under `vmap` the largest of the batch, one for all.

    For the count of a loop that may run longer than needed.
    """
    return count


@largest_of_batch.def_vmap
def _of_batch(_, batched, count):
    return largest_of_batch(jnp.max(count, initial=0) if batched[0] else count), False

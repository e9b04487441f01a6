"""Numbers that are read from a place, or moved to it."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.devices import placement


def gather(rows: jax.Array, index: jax.Array, axis: int) -> jax.Array:
    """The number of each row at its index, clipped to the row."""
    index = jnp.expand_dims(index, axis)
    return jnp.squeeze(jnp.take_along_axis(rows, index, axis, mode="clip"), axis)


def number_in_a_pass(
    rows: jax.Array, index: jax.Array, axis: int, hit: jax.Array
) -> jax.Array:
    """What `gather` gives, where the caller also sums over the rows.

    The shorter form is `gather`, and stays so on CPU. A gather reads an array that is
    stored. So XLA for TPU and GPU would store the logits behind a mask for it, and XLA
    for TPU those widened from half precision, one array more. A sum over the place of
    the index is a part of the other sum's pass. `hit` is True at that place; without
    one the sum is 0.
    """
    return jax.lax.platform_dependent(
        rows,
        index,
        hit,
        cpu=lambda rows, index, _: gather(rows, index, axis),
        default=lambda rows, _, hit: jnp.sum(jnp.where(hit, rows, 0), axis=axis),
    )


def first_plus_last(ordered: jax.Array) -> jax.Array:
    """The first place plus the last one of each number's equals, in a sorted last axis.

    Places count from 0, in the dtype of the numbers. The shorter form adds a running
    maximum and a running minimum, and stays so on TPU and GPU. XLA for CPU keeps both:
    `crps_ensemble_loss` of 65,536 x 64 then needs 82.5 MiB, not 80. So there the
    running minimum takes the sum, which grows from group to group, from the last of
    each group. No derivative.
    """
    count, axis = ordered.shape[-1], ordered.ndim - 1
    step = ordered[..., 1:] != ordered[..., :-1]
    edge = jnp.ones_like(ordered[..., :1], dtype=bool)

    def first(index):
        starts = jnp.concatenate([edge, step], axis=-1)
        return jax.lax.cummax(jnp.where(starts, index, 0), axis)

    def at_last(x, largest):
        ends = jnp.concatenate([step, edge], axis=-1)
        return jax.lax.cummin(jnp.where(ends, x, largest), axis, reverse=True)

    index = jax.lax.broadcasted_iota(ordered.dtype, ordered.shape, axis)
    return jax.lax.platform_dependent(
        index,
        cpu=lambda index: at_last(first(index) + index, 2 * count),
        default=lambda index: first(index) + at_last(index, count),
    )


def unsorted(ordered: jax.Array, place: jax.Array) -> jax.Array:
    """Numbers along the last axis, none NaN, each moved to its place, one per place.

    The shorter form is a second sort, by `place`, and stays so on TPU, where a scatter
    moves one number after the other, and on an explicit mesh, where JAX 0.10 to 0.12
    cannot place the result of a scatter. On CPU the scatter takes an eighth of the
    sort's time: 0.07 s instead of 0.59 s for 65,536 x 64. The benchmark of
    `crps_ensemble_loss` would notice. No derivative.
    """

    def sort(ordered, place):
        return jax.lax.sort((place, ordered), num_keys=1)[1]

    def scatter(ordered, place):
        # XLA for CPU would compute the indices of the scatter, two per number, before
        # the numbers: 16 MiB more for 65,536 x 64. No number is NaN.
        place = jnp.where(jnp.isnan(ordered), 0, place)

        def one(row, index):
            empty = jnp.zeros_like(row)
            mode = "promise_in_bounds"
            return empty.at[index].set(row, unique_indices=True, mode=mode)

        for _ in range(ordered.ndim - 1):
            one = jax.vmap(one)
        return one(ordered, place)

    ordered = stop_gradient(ordered)
    if placement(ordered) is not None:
        return sort(ordered, place)
    return jax.lax.platform_dependent(ordered, place, tpu=sort, default=scatter)

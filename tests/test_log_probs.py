"""`where` and `ignore_index` of linear_log_probs: excluded rows are 0 in everything."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import assert_close

import jaxloss as jl

pytestmark = [pytest.mark.usefixtures("device"), pytest.mark.any_program]

KEEP = np.array([True, False, True, True, False, True, True])


def numbers(hidden, kernel, labels, **options):
    pair = jl.linear_log_probs(hidden, kernel, labels, chunk_size=3, **options)
    slant = jnp.arange(1.0, 1 + len(labels))
    return jnp.sum(slant * pair[0]) + jnp.sum(slant**2 * pair[1]), pair


def drawn():
    rng = np.random.default_rng(0)
    hidden, kernel = rng.normal(size=(7, 4)), rng.normal(size=(4, 6))
    return jnp.float32(hidden), jnp.float32(kernel), rng.integers(0, 6, 7)


@pytest.mark.parametrize("by", ["where", "ignore_index"])
def test_excluded_rows_are_zero(by):
    hidden, kernel, labels = drawn()
    spoiled = jnp.where(KEEP[:, None], hidden, jnp.nan)
    options = {"where": KEEP} if by == "where" else {"ignore_index": -100}
    there = np.where(KEEP, labels, -1 if by == "where" else -100)
    run = jax.jit(
        jax.value_and_grad(
            lambda h, k: numbers(h, k, there, **options), (0, 1), has_aux=True
        )
    )
    (_, pair), (by_hidden, by_kernel) = run(spoiled, kernel)
    plain, entropies = jl.linear_log_probs(hidden, kernel, labels)
    assert_close(pair[0], jnp.where(KEEP, plain, 0), 1e-5)
    assert_close(pair[1], jnp.where(KEEP, entropies, 0), 1e-5)
    assert not np.any(by_hidden[~KEEP])

    def removed(h, k):
        slant = jnp.arange(1.0, 8)[KEEP]
        first, second = jl.linear_log_probs(h, k, labels[KEEP])
        return jnp.sum(slant * first) + jnp.sum(slant**2 * second)

    expected = jax.jit(jax.grad(removed, (0, 1)))(hidden[KEEP], kernel)
    assert_close((by_hidden[KEEP], by_kernel), expected, 1e-5)


@pytest.mark.exhaustive
def test_forward_mode_and_second_order_pass_over_excluded_rows():
    hidden, kernel, labels = drawn()
    spoiled = jnp.where(KEEP[:, None], hidden, jnp.inf)
    labels = np.where(KEEP, labels, -1)

    def slope(kernel):
        def total(kernel):
            return numbers(spoiled, kernel, labels, where=KEEP)[0]

        return jax.grad(total)(kernel)

    value, bend = jax.jit(lambda x: jax.jvp(slope, (x,), (jnp.ones_like(x),)))(kernel)
    assert np.isfinite(value).all()
    assert np.isfinite(bend).all()

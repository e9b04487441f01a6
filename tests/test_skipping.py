"""Excluded rows cost the linear losses no products."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import assert_close
from jax.experimental import checkify
from tier import first

import jaxloss as jl
from jaxloss._core.sweeps.layout import KeptFirst
from jaxloss._core.sweeps.linear import Rule, map_rows, sum_rows
from jaxloss._core.sweeps.operands import Operands, Options

pytestmark = pytest.mark.any_program

ROWS, FEATURES, CLASSES, CHUNK = 64, 6, 21, 16


def arrays(dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(ROWS, FEATURES)).astype(dtype)
    kernel = rng.normal(size=(FEATURES, CLASSES)).astype(dtype)
    return hidden, kernel, rng.integers(0, CLASSES, ROWS).astype(np.int32)


def keep_some(count, seed=1):
    keep = np.zeros(ROWS, bool)
    keep[np.random.default_rng(seed).permutation(ROWS)[:count]] = True
    return keep


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (0, []),
        (1, [2]),
        (11, [2] * 6),
        (12, [16]),  # a chunk of 16 for three quarters of it
        (32, [16, 16]),
        (33, [16, 16, 2]),
        (63, [16] * 4),
        (64, [16] * 4),
    ],
)
def test_chunks_are_as_many_as_the_rows_to_keep_fill(count, sizes):
    keep, visited = keep_some(count), []
    order = KeptFirst.of(jnp.asarray(keep), CHUNK)

    def body(sofar, index):
        jax.debug.callback(lambda i: visited.append(i), index, ordered=True)
        return sofar + jnp.sum(index)

    order.loop(body, jnp.int32(0))
    jax.effects_barrier()
    assert [len(i) for i in visited] == sizes
    places = np.concatenate([np.int32([]), *visited])
    assert places[:count].tolist() == np.flatnonzero(keep).tolist()
    assert len({*places.tolist()}) == len(places)


def visited_rows(keep, reduction, examples):
    """How many rows the chunks of a program hold, which gives value and gradients."""
    visited = []

    def count(x):
        visited.append(len(x))
        return np.zeros_like(x)

    def by_row(x, own, shared, fixed, keep, axis_name):
        counted = jax.lax.stop_gradient(x[:, 0])
        counted = jax.pure_callback(count, counted, counted)
        # So that value and gradient both need the count, which is 0.
        return jnp.where(keep, jax.nn.logsumexp(x, axis=1), 0) * (1 + counted)

    def total(hidden, kernel):
        given = Rule(by_row), Operands(hidden, kernel), None, keep, Options(CHUNK)
        if reduction == "sum":
            return sum_rows(*given)
        return jnp.vdot(jnp.arange(1.0, examples + 1), map_rows(*given))

    hidden, kernel, _ = arrays()
    hidden = jnp.tile(hidden, (examples // ROWS, 1))
    jax.block_until_ready(
        jax.jit(jax.value_and_grad(total, (0, 1)))(hidden, jnp.asarray(kernel))
    )
    return sum(visited)


@pytest.mark.parametrize(("reduction", "sweeps"), [("sum", 1), ("none", 2)])
@pytest.mark.parametrize("kept", [0, 1, 31, 33, 64])
def test_a_program_visits_the_rows_to_keep(kept, reduction, sweeps):
    """And fewer than half a chunk more; "none" makes the logits twice."""
    found = visited_rows(jnp.asarray(keep_some(kept)), reduction, ROWS)
    assert sweeps * kept <= found <= sweeps * (kept + CHUNK // 4)


@pytest.mark.parametrize("reduction", first(["mean", "none", "sum"]))
@pytest.mark.parametrize("kept", [0, 1, 33, 63])
def test_kept_rows_have_the_loss_and_gradients_of_a_batch_of_their_own(
    x64, kept, reduction
):
    hidden, kernel, labels = arrays(np.float64)
    keep, slant = keep_some(kept), np.linspace(-1, 2, ROWS)
    weights = np.linspace(0.5, 1.5, ROWS)
    bias = np.linspace(-1, 1, CLASSES)

    def run(rows, labels, size, **options):
        def loss(hidden, kernel, bias, weights):
            found = jl.linear_cross_entropy(
                hidden,
                kernel,
                labels,
                bias=bias,
                weights=weights,
                chunk_size=size,
                reduction=reduction,
                **options,
            )
            return 1.7 * jnp.vdot(slant[rows], found) if found.ndim else 1.7 * found

        given = hidden[rows], kernel, bias, weights[rows]
        return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))(*given)

    ignored = np.where(keep, labels, -7)
    value, slopes = run(slice(None), ignored, CHUNK, ignore_index=-7)
    expected, expected_slopes = run(keep, labels[keep], ROWS)
    of_rows = [slopes[0], slopes[3]]
    assert not any(np.any(np.asarray(x)[~keep]) for x in of_rows)
    found = [np.asarray(x)[keep] for x in of_rows] + list(slopes[1:3])
    known = [expected_slopes[i] for i in (0, 3, 1, 2)]
    assert_close((value, found), (expected, known), 1e-12)


def test_masks_of_a_batch_share_one_loop():
    """With a count per example, `vmap` would select each array at each step."""
    hidden, kernel, labels = arrays()
    keep = np.stack([keep_some(count, seed=count) for count in (0, 9, 40)])

    def step(keep, kernel):
        def loss(hidden, kernel):
            return jl.linear_cross_entropy(
                hidden, kernel, labels, where=keep, chunk_size=CHUNK, reduction="sum"
            )

        return jax.value_and_grad(loss, (0, 1))(hidden, kernel)

    mapped = jax.vmap(step, (0, None))
    found = jax.jit(mapped)(keep, kernel)
    one = jax.jit(step)
    expected = [one(mask, kernel) for mask in keep]
    expected = jax.tree.map(lambda *x: np.stack(x), *expected)
    assert_close(found, expected, 1e-5)
    text = jax.jit(mapped).lower(keep, kernel).compile().as_text()
    selected = re.findall(r"= \w+\[([\d,]*)\]\S* select\(", text)
    assert selected
    assert f"3,{FEATURES},{CLASSES}" not in selected


@pytest.mark.exhaustive
def test_a_program_that_skips_can_be_exported():
    hidden, kernel, labels = arrays()

    def step(hidden, kernel, labels):
        def loss(hidden, kernel):
            return jl.linear_cross_entropy(
                hidden,
                kernel,
                labels,
                ignore_index=-1,
                chunk_size=CHUNK,
                reduction="mean",
            )

        return jax.value_and_grad(loss, (0, 1))(hidden, kernel)

    given = hidden, kernel, np.where(keep_some(33), labels, -1)
    program = jax.export.export(jax.jit(step))(*given)
    back = jax.export.deserialize(program.serialize())
    assert_close(back.call(*given), jax.jit(step)(*given), 1e-6)


def test_no_index_is_out_of_bounds():
    hidden, kernel, labels = arrays()

    def loss(hidden):
        return jl.linear_cross_entropy(
            hidden, kernel, labels, where=keep_some(63), chunk_size=CHUNK
        ).sum()

    checked = checkify.checkify(jax.grad(loss), errors=checkify.index_checks)
    error, _ = jax.jit(checked)(hidden)
    error.throw()

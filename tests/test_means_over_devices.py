"""Means over microbatches, packed sequences and devices are those of the full batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jaxloss as jl

pytestmark = pytest.mark.any_program

DEVICES, EXPERTS, PER_TOKEN = 8, 5, 2
RNG = np.random.default_rng(0)
TOKENS = 3 * DEVICES
LOGITS = np.float32(RNG.normal(size=(TOKENS, EXPERTS)))
IDS = np.argsort(RNG.normal(size=(TOKENS, EXPERTS)))[:, :PER_TOKEN]
# Between none and all of each device's three tokens.
KEEP = RNG.random(TOKENS) < np.repeat(np.linspace(0, 1, DEVICES), 3)
LABELS = RNG.integers(0, EXPERTS, TOKENS)


def mesh(kind=AxisType.Auto):
    return jax.make_mesh((DEVICES,), ("data",), axis_types=(kind,))


def split(function, **options):
    """The function of each device's rows, inside `shard_map`."""
    spec = PartitionSpec("data")
    return jax.jit(
        jax.shard_map(function, mesh=mesh(), in_specs=(spec,) * 3, **options)
    )


def close(found, expected, rtol=2e-6):
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-7)


def balance(logits, ids, keep, **options):
    return jl.router_balance_loss(logits, ids, where=keep, **options)


def test_router_over_devices_is_the_router_of_all_tokens():
    step = jax.value_and_grad(functools.partial(balance, axis_name="data"))
    spec = PartitionSpec("data")
    found = split(step, out_specs=(PartitionSpec(), spec))(LOGITS, IDS, KEEP)
    close(found, jax.jit(jax.value_and_grad(balance))(LOGITS, IDS, KEEP))


def test_router_over_devices_in_forward_mode_and_second_order():
    rng = np.random.default_rng(0)
    line = np.float32(rng.normal(size=LOGITS.shape))

    def bend(loss):
        def along(logits, ids, keep, line):
            gradient = jax.grad(lambda x: loss(x, ids, keep))
            return jax.jvp(gradient, (logits,), (line,))

        return along

    spec = PartitionSpec("data")
    over_devices = jax.shard_map(
        bend(functools.partial(balance, axis_name="data")),
        mesh=mesh(), in_specs=(spec,) * 4, out_specs=(spec, spec),
    )  # fmt: skip
    found = jax.jit(over_devices)(LOGITS, IDS, KEEP, line)
    close(found, jax.jit(bend(balance))(LOGITS, IDS, KEEP, line))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_router_of_sharded_tokens_under_jit(kind):
    place = NamedSharding(mesh(kind), PartitionSpec("data"))
    expected = jax.jit(jax.value_and_grad(balance))(LOGITS, IDS, KEEP)
    with jax.set_mesh(place.mesh):
        arrays = [jax.device_put(x, place) for x in (LOGITS, IDS, KEEP)]
        close(jax.jit(jax.value_and_grad(balance))(*arrays), expected)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_packed_sequences_on_a_mesh(kind):
    rng = np.random.default_rng(0)
    rows = np.float32(rng.normal(size=(DEVICES, 7)))
    ids = rng.integers(-1, 3, rows.shape)

    def total(rows, ids):
        ratio = jl.clipped_policy_loss(
            rows, 0.1, 1.5, importance="sequence", segment_ids=ids, num_segments=3
        )
        means = jl.sequence_log_probs(
            ratio, segment_ids=ids, num_segments=3, average=True
        )
        return jnp.sum(means * means)

    expected = jax.jit(jax.value_and_grad(total))(rows, ids)
    place = NamedSharding(mesh(kind), PartitionSpec("data"))
    with jax.set_mesh(place.mesh):
        arrays = [jax.device_put(x, place) for x in (rows, ids)]
        close(jax.jit(jax.value_and_grad(total))(*arrays), expected)


def cross_entropy(logits, labels, keep, reduction):
    return jl.softmax_cross_entropy_with_integer_labels(
        logits, labels, where=keep, reduction=reduction
    )


EXPECTED = jax.jit(
    jax.value_and_grad(functools.partial(cross_entropy, reduction="mean"))
)


def test_sums_and_counts_of_microbatches_are_the_mean_of_the_batch():
    """Four microbatches whose masks keep unequal numbers, divided once."""
    parts = [x.reshape(4, -1, *x.shape[1:]) for x in (LOGITS, LABELS, KEEP)]
    assert len(set(parts[2].sum(1))) > 2

    @jax.jit
    def accumulated(parts):
        def step(sums, part):
            total, slope = jax.value_and_grad(
                functools.partial(cross_entropy, reduction="sum")
            )(*part)
            count = jnp.sum(part[2], dtype=jnp.float32)
            return (sums[0] + total, sums[1] + count), slope

        (total, count), slopes = jax.lax.scan(step, (0.0, 0.0), parts)
        return total / count, slopes.reshape(LOGITS.shape) / count

    close(accumulated(parts), EXPECTED(LOGITS, LABELS, KEEP))


def test_sums_and_counts_of_devices_are_the_mean_of_the_batch():
    def mean(logits, labels, keep):
        total = cross_entropy(logits, labels, keep, "sum")
        count = jnp.sum(keep, dtype=jnp.float32)
        return jax.lax.psum(total, "data") / jax.lax.psum(count, "data")

    expected = EXPECTED(LOGITS, LABELS, KEEP)
    spec = PartitionSpec("data")
    inside = split(jax.value_and_grad(mean), out_specs=(PartitionSpec(), spec))
    close(inside(LOGITS, LABELS, KEEP), expected)
    outside = jax.value_and_grad(split(mean, out_specs=PartitionSpec()))
    close(outside(LOGITS, LABELS, KEEP), expected)


def test_mean_of_the_means_of_devices_is_another_number():
    """What the conventions warn of: the masks are unequal, so the test can fail."""

    def mean(logits, labels, keep):
        return jax.lax.pmean(cross_entropy(logits, labels, keep, "mean"), "data")

    found = split(mean, out_specs=PartitionSpec())(LOGITS, LABELS, KEEP)
    assert abs(found - EXPECTED(LOGITS, LABELS, KEEP)[0]) > 0.01


def test_packing_does_not_change_the_mean_over_answers():
    """Three answers of 2, 5 and 3 tokens: padded to rows, and packed into one."""
    rng = np.random.default_rng(0)
    lengths = np.array([2, 5, 3])
    losses = np.float32(rng.normal(size=(3, 5)))
    keep = np.arange(5) < lengths[:, None]
    packed, ids = losses[keep], np.repeat(np.arange(3), lengths)

    def padded_mean(x):
        return jnp.mean(jl.sequence_log_probs(x, average=True, where=keep))

    def packed_mean(x):
        return jnp.mean(
            jl.sequence_log_probs(x, segment_ids=ids, num_segments=3, average=True)
        )

    value, slope = jax.value_and_grad(padded_mean)(losses)
    found, packed_slope = jax.value_and_grad(packed_mean)(packed)
    close((found, packed_slope), (value, slope[keep]))
    np.testing.assert_allclose(
        value, np.mean([row[k].mean() for row, k in zip(losses, keep, strict=True)]),
        rtol=1e-6,
    )  # fmt: skip

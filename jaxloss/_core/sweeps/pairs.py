"""All pairs of a query and a key, a block of them at a time, on one device or a ring.

With queries Q [N, D] and keys K [N, D], a rule turns the logits
X = scale · Q Kᵀ + shifts [N, N] into a few numbers per query, and on demand into the
same numbers per key. X never exists as a whole: each step of a scan makes the logits of
one chunk of queries and all keys of one device, uses them and drops them.

Over devices. Examples may be spread over the mesh axis `axis_name` of a `shard_map`.
Then each device keeps its queries, and the keys travel round the ring of devices by
`ppermute`, together with everything that is summed per key: running sums, or their
gradient. After one round each block of keys is at home again. No device ever holds the
keys of all devices. On an explicit mesh the types of the arrays tell where the examples
lie, and `statistics` enters such a `shard_map` itself.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from jaxloss._core.rule.linear_map import linear_map
from jaxloss._core.rule.varying import vary_alike
from jaxloss._core.sweeps.blocks import Facts, Operands, Options, Rule, Sweeps
from jaxloss._core.sweeps.operands import moving_of


def statistics(rule: Rule, operands: Operands, facts: Facts, options: Options) -> Any:
    """The statistics per query and per key, each [N]; None for keys without any.

    The derivative is a sweep of its own, which makes the logits again: its transpose
    takes the cotangents of all statistics at once. Any order of either mode works.
    """

    def local(operands, facts, options):
        operands, facts = _alike(operands, facts)
        return _statistics(Sweeps.of(rule, operands, options), operands, facts)

    return _where_examples_lie(local, operands, facts, options)


# With S_i the statistics of query i, d S_i = Σ_j s_ij d X_ij, where the rule makes the
# slope s_ij from X_ij and from S_i alone. So the tangent is one sweep, linear in the
# tangents of the operands, and its transpose another. Both take S as an input: the
# second derivative differentiates S by this very rule.
def _statistics(sweeps, operands, facts):
    @jax.custom_jvp
    def values(operands, facts):
        return sweeps.value(operands, facts)

    def jvp(primals, tangents):
        moving = moving_of(tangents[0])
        found = values(*primals)

        def push(constants, moving):
            operands, facts, found = constants
            return sweeps.push(operands, facts, found, moving)

        def pull(constants, cotangent):
            operands, facts, found = constants
            return sweeps.pull(operands, facts, found, cotangent, moving)

        return found, linear_map(push, pull, (*primals, found), moving)

    values.defjvp(jvp, symbolic_zeros=True)
    return values(operands, facts)


def sum_queries(
    rule: Rule,
    finish: Callable[..., Any],
    operands: Operands,
    own: Any,
    facts: Facts,
    options: Options,
) -> tuple[jax.Array, jax.Array]:
    """The sum over all queries of a loss made of their statistics, and one count each.

    One sweep gives the sum and, where it is differentiated, the gradient, with 6 N² D
    operations. It needs all keys on one device.

    Args:
        rule: Without statistics per key.
        finish: `finish(statistics, own, facts)` returns the weighted losses of a chunk
            of queries, and a number per query that is not differentiated.
        operands: The arrays of the logits.
        own: A tree of real arrays of the queries, [N], in the dtype to compute in.
        facts: The integer and boolean arrays.
        options: How the sweep runs, without `axis_name`.
    """
    sweeps = Sweeps.of(rule, operands, options)
    (operands, own), facts = _alike((operands, own), facts)

    @jax.custom_jvp
    def total(real, facts):
        operands, own = real
        return sweeps.total(finish, operands, own, facts, None)[0]

    # The tangent is the inner product of the gradient with the tangents of the inputs.
    # Reverse mode, its transpose, scales the gradient by the cotangent, one number.
    def jvp(primals, tangents):
        (operands, own), facts = primals
        moving = moving_of(tangents[0])
        (value, count), slopes = sweeps.total(finish, operands, own, facts, moving)
        pairs = zip(jax.tree.leaves(slopes), jax.tree.leaves(moving), strict=True)
        products = [jnp.sum(slope * t.astype(slope.dtype)) for slope, t in pairs]
        tangent = sum(products, start=jnp.zeros_like(value))
        return (value, count), (tangent, jnp.zeros_like(count))

    total.defjvp(jvp, symbolic_zeros=True)
    return total((operands, own), facts)


def spread_over(*arrays: jax.Array) -> Any:
    """The axes of an explicit mesh over which the examples are spread, or None."""
    for x in arrays:
        spec = jax.typeof(x).sharding.spec
        if spec[0] is not None:
            return spec[0]
    return None


def _where_examples_lie(function, operands, facts, options):
    """Runs a function of local examples on each device of an explicit mesh."""
    axis = spread_over(operands.queries, operands.keys)
    if axis is None:
        return function(operands, facts, options)
    options = dataclasses.replace(options, axis_name=axis)
    everywhere, by_example = PartitionSpec(), PartitionSpec(axis)
    specs = jax.tree.map(lambda _: by_example, (operands, facts))
    specs = dataclasses.replace(specs[0], scale=everywhere), specs[1]
    arrays = jax.tree.map(jax.sharding.reshard, (operands, facts), specs)

    def local(operands, facts):
        return function(operands, facts, options)

    return jax.shard_map(local, in_specs=specs, out_specs=by_example)(*arrays)


def _alike(real, facts):
    """All arrays, declared to vary over the mesh axes over which any of them does."""
    leaves, tree = jax.tree.flatten((real, facts))
    return jax.tree.unflatten(tree, vary_alike(leaves))

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

from jaxloss._core.devices import on_each_device
from jaxloss._core.rule.linear_map import linear_map
from jaxloss._core.rule.varying import vary_alike, varying
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


def sum_over_ring(
    rule: Rule,
    operands: Operands,
    coefficients: jax.Array,
    facts: Facts,
    options: Options,
) -> jax.Array:
    """Σ_i a_i S_i over the queries of each device, given the coefficients a [N].

    For an additive rule. Inside `shard_map` each device has the sum over its own
    queries; on an explicit mesh the result is the sum over all queries.
    """

    def local(real, facts, options):
        (operands, coefficients), facts = _alike(real, facts)
        sweeps = Sweeps.of(rule, operands, options)
        return _sum_over_ring(sweeps, operands, coefficients, facts)[None]

    real = operands, coefficients
    return jnp.sum(_where_examples_lie(local, real, facts, options))


# With L_p the sum on device p and c_p its cotangent, the gradient of key j is
#     Σ_p c_p Σ_i a_i s_ij scale q_i,    i over the queries of device p.
# The slope s_ij of an additive rule needs no other pair, so the first round already
# knows the inner sums: they travel with the keys, added up over the devices. If all c_p
# are one number c, as for `jax.grad` and for any mean over devices, c times that is the
# gradient, with 6 N² D operations in place of 8 and one round in place of two. Other
# c_p take a second round, the transpose as in `_statistics`. All devices compare the
# same two numbers, and so they enter the same branch: the ring of the second round
# would wait forever for a device that stays out.
def _sum_over_ring(sweeps, operands, coefficients, facts):
    def inner_product(a, found, weights):
        """Σ_i a_i found_i, where a query of weight 0 may have any statistic."""
        return jnp.sum(a * jnp.where((weights == 0) & ~jnp.isfinite(found), 0, found))

    @jax.custom_jvp
    def total(operands, coefficients, facts):
        found, _ = sweeps.value(operands, facts)
        return inner_product(coefficients, found, coefficients)

    def jvp(primals, tangents):
        operands, coefficients, facts = primals
        moving, da = moving_of(tangents[:2])
        found, slopes = sweeps.value_and_gradients(
            operands, facts, coefficients, moving
        )

        def push(constants, along):
            operands, coefficients, facts, found, _ = constants
            moved, _ = sweeps.push(operands, facts, (found, None), along)
            return inner_product(coefficients, moved, coefficients)

        def pull(constants, cotangent):
            operands, coefficients, facts, found, slopes = constants

            def again():
                each = cotangent * coefficients, None
                return sweeps.pull(operands, facts, (found, None), each, moving)

            def scaled():
                return jax.tree.map(lambda slope: cotangent * slope, slopes)

            return jax.lax.cond(_is_one_number(cotangent), scaled, again)

        value = inner_product(coefficients, found, coefficients)
        tangent = jnp.zeros_like(value)
        if jax.tree.leaves(moving):
            constants = operands, coefficients, facts, found, slopes
            tangent += linear_map(push, pull, constants, moving)
        if da is not None:
            tangent += inner_product(da, found, coefficients)
        return value, tangent

    total.defjvp(jvp, symbolic_zeros=True)
    return total(operands, coefficients, facts)


def _is_one_number(x):
    """Whether all devices have the same scalar; the same answer on each of them."""
    axes = tuple(sorted(varying(x)))
    return jax.lax.pmax(x, axes) == jax.lax.pmin(x, axes)


def spread_over(*arrays: jax.Array) -> Any:
    """The axes of an explicit mesh over which the examples are spread, or None."""
    for x in arrays:
        spec = jax.typeof(x).sharding.spec
        if spec[0] is not None:
            return spec[0]
    return None


def _where_examples_lie(function, real, facts, options):
    """Runs a function of local examples on each device of an explicit mesh.

    `real` is a tree of the operands and of arrays of the examples.
    """
    arrays = jax.tree.leaves(real)
    axis = spread_over(*(x for x in arrays if x.ndim == 2))
    if axis is None:
        return function(real, facts, options)
    options = dataclasses.replace(options, axis_name=axis)
    by_example = PartitionSpec(axis)
    # A scalar is the scale, which all devices share.
    specs = jax.tree.map(
        lambda x: by_example if x.ndim else PartitionSpec(), (real, facts)
    )

    def local(real, facts):
        return function(real, facts, options)

    return on_each_device(local, (real, facts), specs, by_example)


def _alike(real, facts):
    """All arrays, declared to vary over the mesh axes over which any of them does."""
    leaves, tree = jax.tree.flatten((real, facts))
    return jax.tree.unflatten(tree, vary_alike(leaves))

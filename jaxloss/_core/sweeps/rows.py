"""Rows through a linear layer and a rule for its outputs, a chunk of rows at a time.

With hidden H [N, D] and kernel K [D, C], a rule turns each row of X = H K [N, C] into a
number or several. X never exists as a whole: it is made, used and dropped chunk after
chunk, in the steps of a scan.

A rule is called `rule(x, given, fixed, axis_name)`, for the rows of one chunk: `x`
[size, C] in the dtype to compute in, `given` the real arrays by name, `fixed` the
integers and booleans by name. What belongs to single rows has a leading axis [size].

Over devices. The rows may be spread, with the sum of the kernel's gradient behind the
sweep; and in a `shard_map` the classes may be split over `axis_name`: then each device
makes its own columns of X, the rule sums over them, and JAX sums up the gradient of H,
behind the sweep. On an explicit mesh the types tell both.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.lax import PrecisionLike
from jax.sharding import PartitionSpec

from jaxloss._core.devices import agree_as
from jaxloss._core.rule.linear_map import linear_map
from jaxloss._core.rule.varying import vary_alike, vary_as
from jaxloss._core.sweeps.layout import Layout

Arrays = dict[str, jax.Array]
Rule = Callable[..., Any]


def default_size(features: int) -> int:
    """The most rows in a chunk, where the caller does not say.

    A chunk of R rows reads and writes the D x C sum of the kernel's gradient for
    6 R D C operations, so that the sum's share of the time goes like 1/R, whatever D
    and C are; the memory of the R x C logits goes like R. At R = D they take as much as
    the gradient, which is there anyhow.

    Value and gradients at N = 4096, D = 512, C = 50304 in float32, on two CPU cores
    that others used too, the best of four rounds in turns: 2.54 s in chunks of 128
    rows, 2.22 s of 256, 2.08 s of 512, 1.95 s of 1,024, 1.97 s of 2,048; the three
    products alone, without chunks, 1.87 s.
    """
    return min(max(features, 1024), 4096)


def sum_rows(
    rule: Rule,
    rows: Arrays,
    shared: Arrays,
    fixed: Arrays,
    largest: int,
    precision: PrecisionLike,
    axis_name: str | None = None,
) -> jax.Array:
    """The sum over all rows of a rule with one number a row.

    One sweep gives the sum and, where it is differentiated, the gradient: 6 N D C
    operations, nothing computed twice. Without differentiation there is no gradient.

    Args:
        rule: What each row of X becomes.
        rows: Real arrays of the rows, [..., ...]; "hidden" [..., D] is one of them.
        shared: Real arrays that all rows share; "kernel" [D, C] is one of them, and
            has the dtype of "hidden". All others are in the dtype to compute in.
        fixed: Integers and booleans of the rows, [...]. "keep" tells the rows that
            count; the rule has to give 0 for the others, whatever they hold.
        largest: The most rows in a chunk.
        precision: Of the products.
        axis_name: The mesh axis of `shard_map` over which the classes are split.
    """

    def local(rows, shared, fixed, axis_name):
        options = largest, precision, axis_name
        return _sum_rows(*_prepare(rule, rows, shared, fixed, *options))

    return _where_rows_lie(local, rows, shared, fixed, axis_name, summed=True)


def _sum_rows(sweeps, real, fixed):
    @jax.custom_jvp
    def sums(real, fixed):
        return jnp.sum(sweeps.value(real, fixed))

    # The tangent is the inner product of the gradient with the tangents of the inputs.
    # Reverse mode, its transpose, scales the gradient by the cotangent, one number.
    def jvp(primals, tangents):
        real, fixed = primals
        moving = _moving(tangents[0])
        value = jax.eval_shape(sweeps.value, real, fixed)
        ones = vary_as(jnp.ones(value.shape, value.dtype), value)
        value, slopes = sweeps.pull(real, fixed, ones, moving)
        value = jnp.sum(value)
        products = [
            agree_as(jnp.sum(slopes[name] * t.astype(slopes[name].dtype)), value)
            for name, t in moving.items()
        ]
        return value, sum(products, start=jnp.zeros_like(value))

    sums.defjvp(jvp, symbolic_zeros=True)
    return sums(real, fixed)


def map_rows(
    rule: Rule,
    rows: Arrays,
    shared: Arrays,
    fixed: Arrays,
    largest: int,
    precision: PrecisionLike,
    axis_name: str | None = None,
) -> Any:
    """What a rule makes of every row; the backward sweep makes X again.

    Takes the arguments of `sum_rows`. A rule may give several numbers per row, in a
    tree of arrays [size].
    """

    def local(rows, shared, fixed, axis_name):
        options = largest, precision, axis_name
        sweeps, *arrays = _prepare(rule, rows, shared, fixed, *options)
        return _per_row(sweeps, _map_rows(sweeps, *arrays), rows)

    return _where_rows_lie(local, rows, shared, fixed, axis_name, summed=False)


def _map_rows(sweeps, real, fixed):
    @jax.custom_jvp
    def values(real, fixed):
        return sweeps.value(real, fixed)

    def jvp(primals, tangents):
        moving = _moving(tangents[0])

        def push(primals, moving):
            return sweeps.push(*primals, moving)

        def pull(primals, cotangent):
            slopes = sweeps.pull(*primals, cotangent, moving)[1]
            return {name: slopes[name].astype(t.dtype) for name, t in moving.items()}

        return values(*primals), linear_map(push, pull, primals, moving)

    values.defjvp(jvp, symbolic_zeros=True)
    return values(real, fixed)


def map_rows_to_any(
    rule: Rule,
    rows: Arrays,
    shared: Arrays,
    fixed: Arrays,
    largest: int,
    precision: PrecisionLike,
) -> Any:
    """What a rule makes of every row, integers too; without derivative."""
    rows, shared = lax.stop_gradient((rows, shared))

    def local(rows, shared, fixed, axis_name):
        options = largest, precision, axis_name
        sweeps, *arrays = _prepare(rule, rows, shared, fixed, *options)
        return _per_row(sweeps, sweeps.value(*arrays), rows)

    return _where_rows_lie(local, rows, shared, fixed, None, summed=False, split=False)


def _per_row(sweeps, values, rows):
    """Chunks [count, size, ...] back to the rows' own axes."""
    batch = rows["hidden"].shape[:-1]
    return jax.tree.map(
        lambda x: sweeps.layout.join(x).reshape(*batch, *x.shape[2:]), values
    )


@dataclasses.dataclass(frozen=True)
class Sweeps:
    """The ways through the chunks: for values, for tangents, for gradients.

    In the comments H and X are those of one chunk. Every step makes X and drops it.
    """

    rule: Rule
    layout: Layout
    own: frozenset[str]  # the real arrays that belong to single rows
    dtype: Any  # to compute in
    precision: PrecisionLike
    axis_name: str | None

    def value(self, real: Arrays, fixed: Arrays) -> Any:
        """What the rule makes of the rows, [count, size]."""

        def step(sofar, hidden, kernel, given, fixed, _):
            return sofar, self.apply(fixed)(self.matmul(hidden, kernel), given)

        return self.scan(step, None, real, fixed)[1]

    def push(self, real: Arrays, fixed: Arrays, along: Arrays) -> Any:
        """The tangents of that for the tangents `along`: dX = dH K + H dK."""
        every = {name: t for name, t in along.items() if name not in self.own}

        def step(sofar, hidden, kernel, given, fixed, own):
            along = {**every, **own}
            x = self.matmul(hidden, kernel)
            dx = jnp.zeros_like(x)
            if "hidden" in along:
                dx += self.matmul(along["hidden"], kernel)
            if "kernel" in along:
                dx += self.matmul(hidden, along["kernel"])
            dgiven = {n: along.get(n, jnp.zeros_like(v)) for n, v in given.items()}
            return sofar, jax.jvp(self.apply(fixed), (x, given), (dx, dgiven))[1]

        own = {name: t for name, t in along.items() if name in self.own}
        return self.scan(step, None, real, fixed, own)[1]

    # With G = d value / d X times the cotangent, dH = G Kᵀ belongs to the rows of the
    # chunk and is done with them, and dK = Hᵀ G is one term of a sum over chunks.
    def pull(
        self, real: Arrays, fixed: Arrays, cotangent: Any, names: Iterable[str]
    ) -> tuple[Any, Arrays]:
        """The values, and the gradients of the named arrays in the dtype of X."""

        def step(sums, hidden, kernel, given, fixed, cotangent):
            x = self.matmul(hidden, kernel)
            value, pull_back = jax.vjp(self.apply(fixed), x, given)
            g, slopes = pull_back(cotangent)
            if "hidden" in names:
                slopes["hidden"] = self.matmul(self.narrow(g, kernel), kernel.T)
            if "kernel" in names:
                slopes["kernel"] = self.matmul(hidden.T, self.narrow(g, hidden))
            sums = {name: x + slopes[name] for name, x in sums.items()}
            own = {name: slopes[name] for name in names if name in self.own}
            return sums, (value, own)

        shared = [name for name in names if name not in self.own]
        start = {name: jnp.zeros_like(real[name], self.dtype) for name in shared}
        sums, (value, own) = self.scan(step, start, real, fixed, cotangent)
        return value, {**sums, **own}

    def apply(self, fixed):
        """The rule as a function of what is real."""
        return functools.partial(self.rule, fixed=fixed, axis_name=self.axis_name)

    def scan(self, step, start, real, fixed, more=None):
        """Runs `step` over the chunks, but for those without a row to count.

        Without a mask none is skipped, and the condition still earns its place: under
        differentiation JAX computes what a scan's body has of constants, such as an
        iota [size, C], before the loop and keeps it; it leaves a branch alone.
        """

        def visit(sums, chunk):
            own, fixed, more = chunk
            given = {**real, **own}
            hidden, kernel = given.pop("hidden"), given.pop("kernel")
            return step(sums, hidden, kernel, given, fixed, more)

        def skip(sums, chunk):
            own = jax.eval_shape(visit, sums, chunk)[1]
            return sums, jax.tree.map(
                lambda x: vary_as(jnp.zeros(x.shape, x.dtype), x), own
            )

        own = {name: x for name, x in real.items() if name in self.own}
        chunks = own, fixed, more
        if self.layout.count == 1:
            sums, own = visit(start, jax.tree.map(lambda x: x[0], chunks))
            return sums, jax.tree.map(lambda x: x[None], own)

        # A second derivative would else keep the logits of all chunks.
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def body(sums, chunk):
            return lax.cond(jnp.any(chunk[1]["keep"]), visit, skip, sums, chunk)

        return lax.scan(body, start, chunks)

    def matmul(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """a b, summed in the dtype to compute in; operands of one dtype as they are."""
        if a.dtype != b.dtype:
            a, b = a.astype(self.dtype), b.astype(self.dtype)
        return lax.dot(
            a, b, precision=self.precision, preferred_element_type=self.dtype
        )

    def narrow(self, g: jax.Array, operand: jax.Array) -> jax.Array:
        """G as a matrix unit takes it beside bfloat16, unless told to be more precise.

        Not for float16, whose range would lose small probabilities.
        """
        default = self.precision in (None, "default", lax.Precision.DEFAULT)
        half = operand.dtype == jnp.bfloat16
        return g.astype(operand.dtype) if half and default else g


def _where_rows_lie(function, rows, shared, fixed, axis_name, *, summed, split=True):
    """Runs a function of local rows on each device that holds some of them.

    On an explicit mesh, whose types tell. What is shared is gathered once, ahead of the
    sweep, and its gradient is summed over the devices once, behind it; classes that are
    split over devices which share their rows stay where they are.
    """
    spec = jax.typeof(rows["hidden"]).sharding.spec[:-1]
    features, classes = jax.typeof(shared["kernel"]).sharding.spec
    if not any((*spec, features, classes)):
        return function(rows, shared, fixed, axis_name)
    axes = [axis for part in spec if part for axis in jax.tree.leaves(part)]
    if split and isinstance(classes, str) and classes not in axes:
        axis_name = classes

    def local(*arrays):
        result = function(*arrays, axis_name)
        return lax.psum(result, tuple(axes)) if summed and axes else result

    def by_class(name):
        return PartitionSpec(*[None] * (shared[name].ndim - 1), axis_name)

    def place(arrays, specs):
        return {n: jax.sharding.reshard(x, specs[n]) for n, x in arrays.items()}

    by_row, everywhere = PartitionSpec(*spec), PartitionSpec()
    specs = (
        dict.fromkeys(rows, by_row),
        {n: by_class(n) if x.ndim else everywhere for n, x in shared.items()},
        dict.fromkeys(fixed, by_row),
    )
    return jax.shard_map(
        local, in_specs=specs, out_specs=everywhere if summed else by_row
    )(*map(place, (rows, shared, fixed), specs))


def _prepare(rule, rows, shared, fixed, largest, precision, axis_name):
    """The arrays in chunks, and the sweeps through them."""
    batch = rows["hidden"].shape[:-1]
    n = math.prod(batch)

    def flat(part):
        return {name: x.reshape(n, *x.shape[len(batch) :]) for name, x in part.items()}

    rows, fixed = flat(rows), flat(fixed)
    layout = Layout.of(n, largest, fixed.get("keep"))
    fixed = {"keep": jnp.ones(n, bool), **fixed}
    rows, fixed = jax.tree.map(layout.split, (rows, fixed))
    real = {**rows, **shared}
    real = dict(zip(real, vary_alike(real.values(), axis_name), strict=True))
    fixed = {name: vary_as(x, real["hidden"]) for name, x in fixed.items()}
    # Devices that split the classes have a part of its gradient each.
    real["hidden"] = vary_as(real["hidden"], real["kernel"])
    double = real["hidden"].dtype == jnp.float64
    dtype = jnp.float64 if double else jnp.float32
    own = frozenset(rows)
    return Sweeps(rule, layout, own, dtype, precision, axis_name), real, fixed


def _moving(tangents):
    return {n: t for n, t in tangents.items() if not isinstance(t, SymbolicZero)}

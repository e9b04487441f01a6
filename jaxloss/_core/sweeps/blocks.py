"""The ways through the blocks of queries and keys, which `pairs` differentiates.

Each step makes the logits of one chunk of queries and all keys of one device. Over a
ring of devices the keys, and what is summed per key, visit every device.
"""

import dataclasses
import functools
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jax.lax import PrecisionLike

from jaxloss._core.rule.varying import vary_as
from jaxloss._core.sweeps.layout import Fold
from jaxloss._core.sweeps.operands import Products, where_moving


class Rule(Protocol):
    """What becomes of the logits of a block.

    Attributes:
        per_key: Whether there are statistics per key too.
        additive: Whether the statistic of a row is one sum over its pairs, so that the
            slope of a pair needs no statistics.
    """

    additive: ClassVar[bool]

    @property
    def per_key(self) -> bool: ...

    def relation(self, queries: Any, keys: Any) -> Any:
        """Masks of the pairs, from the facts [size, 1] and [1, N] of both sides."""

    def start(self, like: jax.Array) -> Any:
        """The running state of rows before the first block; `like` is [rows]."""

    def add(self, state: Any, x: jax.Array, pairs: Any, axis: int) -> Any:
        """The state after one more block of logits, reduced over `axis`."""

    def finish(self, state: Any) -> Any:
        """The statistics [rows], given the state after all blocks."""

    def slope(self, x: jax.Array, statistics: Any, pairs: Any, cotangent: Any) -> Any:
        """The gradient with respect to x; linear in `cotangent`.

        Statistics and cotangent have an axis of size 1 in the place of the reduced one.
        """


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Operands:
    """The real arrays of a sweep, or their tangents, None where there is none.

    All are in the dtype to compute in. So the gradients of an array that is both query
    and key are added up before they are rounded to half precision.
    """

    queries: Any  # [N, D]
    keys: Any  # [N, D]
    scale: Any  # a scalar
    shifts: Any = None  # [N], one per key


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Facts:
    """Integer and boolean arrays [N] of both sides, in trees.

    `dropped` marks queries of weight 0, whose logits count as 0 if they are not finite.
    """

    queries: Any
    keys: Any
    dropped: Any = None


@dataclasses.dataclass(frozen=True)
class Options:
    """How a sweep runs."""

    largest: int  # the most queries in a chunk
    precision: PrecisionLike = None  # of the products
    factors: Any = None  # the dtype in which queries and keys are multiplied
    axis_name: Any = None  # the mesh axis, or axes, over which the examples are spread
    on_gpu: int | None = None  # `largest` on a GPU, if it is another number


@dataclasses.dataclass(frozen=True)
class Sweeps:
    """The ways through the blocks: for values, for tangents, for gradients.

    In the comments Q, K and X are those of one block.
    """

    rule: Rule
    fold: Fold
    on_gpu: Fold | None  # larger chunks
    dtype: Any  # to compute in
    options: Options

    @classmethod
    def of(cls, rule: Rule, operands: Operands, options: Options) -> "Sweeps":
        n, larger = operands.queries.shape[0], None
        fold = Fold.of(n, options.largest)
        if options.on_gpu is not None and fold.count > 1:
            larger = Fold.of(n, options.on_gpu)
        return cls(rule, fold, larger, operands.queries.dtype, options)

    def value(self, operands: Operands, facts: Facts) -> Any:
        """The statistics per query and per key."""
        like = self.zeros(operands)
        by_query, by_key = self.rule.start(like), None
        if self.rule.per_key:
            by_key = by_query

        def step(chunk, keys, rows, sums):
            x, pairs = self.block(chunk, keys, operands.scale)
            rows = self.rule.add(rows, x, pairs, 1)
            return rows, self.rule.add(sums, x, pairs, 0) if self.rule.per_key else None

        rows, by_key = self.sweep(step, by_query, by_key, operands, facts)
        return self.rule.finish(rows), self.rule.finish(by_key) if by_key else None

    def push(
        self, operands: Operands, facts: Facts, found: Any, along: Operands
    ) -> Any:
        """The tangents of the statistics for the tangents `along`."""
        by_query, by_key = found

        def step(chunk, keys, rows, sums):
            (dq, own), (dk, dshift, its) = chunk.more, keys.more
            x, pairs = self.block(chunk, keys, operands.scale)
            dx = jnp.zeros_like(x)
            if dq is not None:
                dx += operands.scale * self.products.logits(dq, keys.keys)
            if dk is not None:
                dx += operands.scale * self.products.logits(chunk.queries, dk)
            if along.scale is not None:
                dx += along.scale * self.products.logits(chunk.queries, keys.keys)
            if dshift is not None:
                dx += dshift[None]
            rows = _add(rows, self.along(x, own, pairs, dx, 1))
            if self.rule.per_key:
                sums = _add(sums, self.along(x, its, pairs, dx, 0))
            return rows, sums

        of_queries = along.queries, by_query
        of_keys = along.keys, along.shifts, by_key
        rows, sums = jax.tree.map(jnp.zeros_like, found)
        return self.sweep(step, rows, sums, operands, facts, of_queries, of_keys)

    def pull(
        self, operands: Operands, facts: Facts, found: Any, cotangent: Any, moving: Any
    ) -> Operands:
        """The gradients of what moves, in the dtype to compute in."""

        def step(chunk, keys, rows, sums):
            (own, ct), (its, ct_of_its) = chunk.more, keys.more
            x, pairs = self.block(chunk, keys, operands.scale)
            g = self.slope(x, own, pairs, ct, 1)
            if self.rule.per_key:
                g += self.slope(x, its, pairs, ct_of_its, 0)
            return self.collect(g, chunk, keys, rows, sums)

        of_queries, of_keys = zip(found, cotangent, strict=True)
        rows, sums = self.collected(operands, moving)
        rows, sums = self.sweep(step, rows, sums, operands, facts, of_queries, of_keys)
        return self.gradients(operands, rows, sums, moving)

    def value_and_gradients(
        self, operands: Operands, facts: Facts, coefficients: jax.Array, moving: Any
    ) -> tuple[jax.Array, Operands]:
        """The statistics of an additive rule, and the gradients of their weighted sum.

        `coefficients` [N] weigh the statistics of the queries, on each device its own.
        One round suffices over a ring of devices too.
        """

        def step(chunk, keys, rows, sums):
            found, held = rows
            x, pairs = self.block(chunk, keys, operands.scale)
            found = self.rule.add(found, x, pairs, 1)
            g = self.slope(x, None, pairs, chunk.more, 1)
            held, sums = self.collect(g, chunk, keys, held, sums)
            return (found, held), sums

        held, sums = self.collected(operands, moving)
        rows = self.rule.start(self.zeros(operands)), held
        rows, sums = self.sweep(step, rows, sums, operands, facts, coefficients)
        found = self.rule.finish(rows[0])
        return found, self.gradients(operands, rows[1], sums, moving)

    def total(self, finish, operands, own, facts, moving) -> Any:
        """The sum and the counts, and the gradients of what moves if it is given."""
        moving, own_moving = (None, None) if moving is None else moving
        like = self.zeros(operands)

        def step(chunk, keys, rows, sums):
            mine, the_facts = chunk.more, chunk.facts
            x, pairs = self.block(chunk, keys, operands.scale)
            nothing = self.rule.start(rows[0])  # as zero as every row is at first
            state = self.rule.add(nothing, x, pairs, 1)
            found = self.rule.finish(state)

            def losses(found, mine):
                return finish(found, mine, the_facts)

            if moving is None:
                return losses(found, mine), sums
            loss, pull_back, count = jax.vjp(losses, found, mine, has_aux=True)
            ct, slopes = pull_back(jnp.ones_like(loss))
            g = self.slope(x, found, pairs, ct, 1)
            held, sums = self.collect(g, chunk, keys, rows[2], sums)
            return (loss, count, held, where_moving(own_moving, slopes)), sums

        rows, sums = (like, like), None
        if moving is not None:
            held, sums = self.collected(operands, moving)
            own_rows = where_moving(own_moving, own)
            rows = like, like, held, jax.tree.map(jnp.zeros_like, own_rows)
        rows, sums = self.sweep(step, rows, sums, operands, facts, own)
        pair = jnp.sum(rows[0]), rows[1]
        if moving is None:
            return pair, None
        return pair, (self.gradients(operands, rows[2], sums, moving), rows[3])

    # With G the gradient with respect to X, that of Q is scale · G K, that of K
    # scale · Gᵀ Q, that of the shifts the sum of G over the queries. That of the scale
    # is Σ_ij G_ij <Q_i, K_j> = Σ_i <Q_i, (G K)_i>: N D terms in the place of N².
    def collect(self, g, chunk, keys, rows, sums):
        """What a block adds to the gradients."""
        by_query, by_scale = rows
        by_key, by_shift = sums
        if by_query is not None or by_scale is not None:
            product = self.products.hidden(g, keys.keys)
            if by_query is not None:
                by_query += product
            if by_scale is not None:
                by_scale += jnp.sum(product * chunk.queries.astype(self.dtype), axis=1)
        if by_key is not None:
            by_key += self.products.kernel(chunk.queries, g)
        if by_shift is not None:
            by_shift += jnp.sum(g, axis=0)
        return (by_query, by_scale), (by_key, by_shift)

    def collected(self, operands, moving):
        """The gradients before the first block."""
        row = self.zeros(operands)

        def like(t, x):
            return None if t is None else jnp.zeros_like(x, self.dtype)

        held = (
            like(moving.queries, operands.queries),
            None if moving.scale is None else row,
        )
        return held, (like(moving.keys, operands.keys), like(moving.shifts, row))

    def gradients(self, operands, rows, sums, moving):
        (by_query, by_scale), (by_key, by_shift) = rows, sums
        return Operands(
            None if by_query is None else operands.scale * by_query,
            None if by_key is None else operands.scale * by_key,
            None if moving.scale is None else jnp.sum(by_scale),
            by_shift,
        )

    def block(self, chunk, keys, scale):
        """The logits of a block, and the masks of its pairs."""
        x = scale * self.products.logits(chunk.queries, keys.keys)
        if keys.shifts is not None:
            x = x + keys.shifts[None]
        if chunk.dropped is not None:
            x = jnp.where(chunk.dropped[:, None] & ~jnp.isfinite(x), 0, x)
        queries = jax.tree.map(lambda f: f[:, None], chunk.facts)
        others = jax.tree.map(lambda f: f[None], keys.facts)
        return x, self.rule.relation(queries, others)

    def slope(self, x, found, pairs, cotangent, axis):
        found, cotangent = _expanded((found, cotangent), axis)
        return self.rule.slope(x, found, pairs, cotangent)

    def along(self, x, found, pairs, dx, axis):
        """The tangent of statistics: the transpose of their slope."""

        def slope(cotangent):
            return self.slope(x, found, pairs, cotangent, axis)

        return jax.linear_transpose(slope, found)(dx)[0]

    def sweep(self, step, *arrays):
        """Runs a step over all blocks, in chunks of the size that suits the platform.

        A chunk reads all keys, and reads and writes what is summed per key. XLA for TPU
        keeps that on the chip, and XLA for GPU does not: in chunks of 256 SigLIP of
        8,192 x 512 moves 4.3 GiB on a GPU, more than with the full matrix, in chunks of
        1,024 it moves 2.4. On CPU small chunks save memory and cost no time.
        """
        here = functools.partial(self.sweep_in, self.fold, step)
        if self.on_gpu is None:
            return here(*arrays)
        there = functools.partial(self.sweep_in, self.on_gpu, step)
        return lax.platform_dependent(*arrays, cuda=there, rocm=there, default=here)

    def sweep_in(
        self, fold, step, rows, sums, operands, facts, by_query=None, by_key=None
    ):
        """Runs `step(chunk, keys, rows, sums)` over all blocks.

        `rows` and `by_query` are trees of arrays of the queries, `sums` and `by_key` of
        the keys; the step returns the new rows of its chunk, and the new sums.
        """
        axis_name = self.options.axis_name
        # Half precision that was widened is narrowed again, which loses nothing.
        factors = self.options.factors or self.dtype
        queries, keys = (x.astype(factors) for x in (operands.queries, operands.keys))
        chunks = Chunk(queries, facts.queries, facts.dropped, by_query)
        chunks, rows = jax.tree.map(fold.split, (chunks, rows))
        keys = Keys(keys, operands.shifts, facts.keys, by_key)

        def visit(keys, rows, sums):
            # Otherwise a second derivative would keep the logits of all chunks.
            @functools.partial(jax.checkpoint, prevent_cse=False)
            def body(sofar, index):
                rows, sums = sofar
                mine = fold.at(rows, index)
                mine, sums = step(fold.at(chunks, index), keys, mine, sums)
                return (fold.put(rows, index, mine), sums), None

            if fold.count == 1:
                return body((rows, sums), 0)[0]
            return lax.scan(body, (rows, sums), jnp.arange(fold.count))[0]

        def turn(sofar, _):
            keys, rows, sums = sofar
            rows, sums = visit(keys, rows, sums)
            keys, sums = send_on((keys, sums), axis_name)
            return (keys, rows, sums), None

        if axis_name is None:
            rows, sums = visit(keys, rows, sums)
        else:
            devices = lax.axis_size(axis_name)
            start = keys, rows, sums
            _, rows, sums = lax.scan(turn, start, None, length=devices)[0]
        return jax.tree.map(fold.join, rows), sums

    @property
    def products(self):
        """Those of a linear layer whose embedding table [N, D] is the keys."""
        return Products(self.dtype, self.options.precision, class_axis=0)

    def zeros(self, operands):
        """A zero per query, which varies over devices as the queries do."""
        zeros = jnp.zeros(operands.queries.shape[0], self.dtype)
        return vary_as(zeros, operands.queries)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chunk:
    """A chunk of queries, and what belongs to them."""

    queries: Any
    facts: Any
    dropped: Any
    more: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Keys:
    """The keys of one device, and what belongs to them."""

    keys: Any
    shifts: Any
    facts: Any
    more: Any


def send_on(tree: Any, axis_name: Any) -> Any:
    """Each device's arrays to the next device of the ring."""
    devices = lax.axis_size(axis_name)
    ring = [(i, (i + 1) % devices) for i in range(devices)]
    return jax.tree.map(lambda x: lax.ppermute(x, axis_name, ring), tree)


def _expanded(tree, axis):
    return jax.tree.map(lambda x: jnp.expand_dims(x, axis), tree)


def _add(a, b):
    return jax.tree.map(jnp.add, a, b)

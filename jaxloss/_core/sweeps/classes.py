"""Rows through a linear layer and a rule for its outputs, a block of classes at a time.

For rules that are functions of a few sums over the classes. A first pass over the
kernel makes the sums of every row, a second the gradients: 8 N D C operations for the
value and the gradients, where chunks of rows need 6. But each block of the kernel's
gradient is finished in one step, in its own dtype, and no sum of the kernel's size is
read and written once per chunk.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxloss._core.compilers.order import in_turn
from jaxloss._core.devices import (
    class_count,
    max_over_devices,
    own_index,
    sum_over_devices,
)
from jaxloss._core.rule.varying import vary_as
from jaxloss._core.softmax import to_subtract
from jaxloss._core.sweeps.operands import Operands, Options, Products, where_moving


@dataclasses.dataclass(frozen=True)
class ByClass:
    """A rule by sums over the classes.

    With m the largest logit of a row, every sum is relative to m, so that it neither
    overflows nor loses what it is made of.
    """

    # logits(x, shared, fixed): the logits of a block, given its outputs x [N, size],
    # and `shared` as the sums need it
    logits: Callable[..., tuple[jax.Array, Any]]
    # sums(logits, shared, fixed, top, first, classes): a tree of sums over a block, [N]
    # each; top is m, and `first` the number of its first class
    sums: Callable[..., Any]
    # raised(sums, by): what the sums become when m grows
    raised: Callable[..., Any]
    # finish(sums, top, own, shared, fixed, keep, classes, axis_name): numbers per row
    finish: Callable[..., Any]


def default_block(features: int) -> int:
    """The most classes in a block.

    A block of B classes reads and writes the N x D sum of the gradient of the hidden
    states, so that this sum's share of the time goes like 1/B; the memory of its N x B
    logits goes like B. At B = 4 D they are four times the sum.
    """
    return max(4 * features, 1024)


@dataclasses.dataclass(frozen=True)
class Classes:
    """The two passes. In the comments X is the logits of one block.

    `rest` is the pair of fixed arrays and the mask of the rows to keep, or None.
    """

    rule: ByClass
    products: Products
    options: Options

    def value(self, operands: Operands, rest: Any) -> Any:
        """What the rule makes of the rows, [N]."""
        sums, top = self.first_pass(operands, rest[0])
        return self.finish(operands, rest, sums, top)

    def pull(
        self, operands: Operands, rest: Any, cotangent: Any, moving: Operands
    ) -> tuple[Any, Operands]:
        """The values, and the gradients of what moves, as from `Rows.pull`."""
        fixed = rest[0]
        sums, top = self.first_pass(operands, fixed)

        def finish(sums, own, shared):
            given = dataclasses.replace(operands, own=own, shared=shared)
            return where_moving(cotangent, self.finish(given, rest, sums, top))

        value, pull_back = jax.vjp(finish, sums, operands.own, operands.shared)
        dsums, down, dshared = pull_back(cotangent)
        rows = self.second_pass(operands, fixed, top, dsums, moving)
        shared = jax.tree.map(
            jnp.add, rows.shared, where_moving(moving.shared, dshared)
        )
        own = where_moving(moving.own, down)
        return value, dataclasses.replace(rows, own=own, shared=shared)

    def finish(self, operands, rest, sums, top):
        given = operands.own, operands.shared, *rest, self.classes(operands)
        return self.rule.finish(sums, top, *given, self.options.axis_name)

    def classes(self, operands):
        """The number of classes on all devices."""
        return class_count(
            operands.kernel, (self.options.class_axis,), self.options.axis_name
        )

    def first_pass(self, operands, fixed):
        """The sums over all classes, and the largest logit of each row."""

        def step(sofar, block):
            sums, top = sofar
            x = self.products.logits(operands.hidden, block.kernel)
            x, shared = self.rule.logits(x, block.shared, fixed)
            best = jnp.maximum(top, jnp.max(x, axis=1))
            more = self.rule.sums(
                x, shared, fixed, to_subtract(best), block.first, classes
            )
            sums = jax.tree.map(jnp.add, self.raised(sums, top, best), more)
            return sums, best

        def of_first(operands):
            block = self.block(operands, 0, 1)
            x = self.products.logits(operands.hidden, block.kernel)
            x, shared = self.rule.logits(x, block.shared, fixed)
            return self.rule.sums(x, shared, fixed, x[:, 0], block.first, classes)

        classes = self.classes(operands)
        start = jax.tree.map(jnp.zeros_like, jax.eval_shape(of_first, operands))
        top = jnp.full(operands.hidden.shape[0], -jnp.inf, self.products.dtype)
        sums, top = self.loop(step, (start, top), operands)
        name = self.options.axis_name
        best = max_over_devices(top, name)
        sums = self.raised(sums, top, best)
        sums = jax.tree.map(lambda x: sum_over_devices(x, name), sums)
        return sums, to_subtract(best)

    # With G = d value / d X, dK = Hᵀ G belongs to the block and is done with it, and
    # dH = G Kᵀ is one term of a sum over the blocks.
    def second_pass(self, operands, fixed, top, dsums, moving):
        """The gradients, given those by the sums."""
        classes = self.classes(operands)

        def step(sofar, block):
            hidden, kernel, shared = sofar
            x = self.products.logits(operands.hidden, block.kernel)

            def sums(x, shared):
                made = self.rule.logits(x, shared, fixed)
                return self.rule.sums(*made, fixed, top, block.first, classes)

            made, pull_back = jax.vjp(sums, x, block.shared)
            g, dshared = pull_back(jax.tree.map(vary_as, dsums, made))
            if moving.hidden is not None:
                hidden += self.products.hidden(g, block.kernel)
            if moving.kernel is not None:
                dtype = block.kernel.dtype
                hidden, factor = in_turn(hidden, operands.hidden)
                part = self.products.kernel(factor, g, dtype)
                kernel = self.write(kernel, part, block.first, self.options.class_axis)
            shared = jax.tree.map(
                lambda whole, part: (
                    self.write(whole, part, block.first, 1)
                    if part.ndim
                    else whole + part
                ),
                shared,
                where_moving(moving.shared, dshared),
            )
            return hidden, kernel, shared

        start = jax.tree.map(
            jnp.zeros_like,
            (
                where_moving(
                    moving.hidden, operands.hidden.astype(self.products.dtype)
                ),
                where_moving(moving.kernel, operands.kernel),
                where_moving(moving.shared, operands.shared),
            ),
        )
        hidden, kernel, shared = self.loop(step, start, operands)
        if kernel is not None:
            kernel = kernel.astype(self.products.dtype)
        return Operands(hidden, kernel, None, shared)

    def raised(self, sums, top, best):
        by = jnp.where(jnp.isneginf(top), 0, best - top)
        return self.rule.raised(sums, by)

    def loop(self, step, sofar, operands):
        """Runs `step` over blocks of one size, and over what is left."""
        classes = operands.kernel.shape[self.options.class_axis]
        count = max(1, math.ceil(classes / default_block(operands.hidden.shape[1])))
        size = classes // count

        def body(sofar):
            index, sofar = sofar
            return index + 1, step(sofar, self.block(operands, index * size, size))

        # Not a scan: JAX makes what its body makes of constants, such as an iota
        # [N, size], before the loop and keeps it.
        sofar = jnp.int32(0), sofar
        sofar = jax.tree.map(vary_as, sofar, jax.eval_shape(body, sofar))
        _, sofar = lax.while_loop(lambda sofar: sofar[0] < count, body, sofar)
        done = count * size
        if done < classes:
            sofar = step(sofar, self.block(operands, done, classes - done))
        return sofar

    def block(self, operands, first, size):
        axis = self.options.class_axis
        kernel = lax.dynamic_slice_in_dim(operands.kernel, first, size, axis)
        shared = jax.tree.map(
            lambda x: lax.dynamic_slice_in_dim(x, first, size, 1) if x.ndim else x,
            operands.shared,
        )
        # Counted from the first class of all devices.
        offset = own_index(jnp.int32(0), operands.kernel, axis, self.options.axis_name)
        return _Block(kernel, shared, first - offset)

    def write(self, whole, part, first, axis):
        return lax.dynamic_update_slice_in_dim(whole, part, first, axis)


@dataclasses.dataclass(frozen=True)
class _Block:
    kernel: jax.Array
    shared: Any
    first: jax.Array  # the number of its first class

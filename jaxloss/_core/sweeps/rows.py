"""Rows through a linear layer and a rule for its outputs, a chunk of rows at a time.

Each step of a scan makes the outputs of one chunk of rows, uses them and drops them.
Value and gradients take 6 N D C operations: nothing is computed twice, but the gradient
of the kernel is a sum over the chunks, which needs an array of its own.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxloss._core.compilers.order import kept_until
from jaxloss._core.devices import automatic_devices
from jaxloss._core.numerics.exact import with_derivative_of
from jaxloss._core.rule.varying import vary_alike, vary_as
from jaxloss._core.sweeps.layout import KeptFirst, Layout
from jaxloss._core.sweeps.operands import (
    Operands,
    Options,
    Products,
    where_moving,
)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The ways through the chunks: for values, for tangents, for gradients.

    In the comments H and X are those of one chunk. Every step makes X and drops it.
    `rest` is the pair of fixed arrays and the mask of the rows to keep, or None.
    """

    rule: Callable[..., Any]
    largest: int  # the most rows in a chunk
    products: Products
    options: Options

    def value(self, operands: Operands, rest: Any) -> Any:
        """What the rule makes of the rows, [N]."""

        def step(sofar, chunk, rest, _):
            x = self.products.logits(chunk.hidden, chunk.kernel)
            return sofar, self.apply(rest)(x, chunk.own, chunk.shared)

        # `linear` tells JAX the derivative of the values.
        if self.skips(operands, rest):
            return self.visit_kept(step, None, operands, rest)[1]
        return self.scan(step, None, operands, rest)[1]

    def push(self, operands: Operands, rest: Any, along: Operands) -> Any:
        """The tangents of that for the tangents `along`: dX = dH K + H dK."""

        def step(sofar, chunk, rest, own):
            dhidden, down = own
            x = self.products.logits(chunk.hidden, chunk.kernel)
            dx = jax.tree.map(
                lambda x, *terms: sum(
                    (t for t in terms if t is not None), start=jnp.zeros_like(x)
                ),
                x,
                self.products.logits(dhidden, chunk.kernel),
                self.products.logits(chunk.hidden, along.kernel),
            )
            tangents = _filled((down, along.shared), (chunk.own, chunk.shared))
            primals = x, chunk.own, chunk.shared
            return sofar, jax.jvp(self.apply(rest), primals, (dx, *tangents))[1]

        return self.scan(step, None, operands, rest, (along.hidden, along.own))[1]

    # With G = d value / d X times the cotangent, dH = G Kᵀ belongs to the rows of the
    # chunk and is done with them, and dK = Hᵀ G is one term of a sum over chunks.
    def pull(
        self, operands: Operands, rest: Any, cotangent: Any, moving: Operands
    ) -> tuple[Any, Operands]:
        """The values, and the gradients of what moves in the dtype of X.

        Where a cotangent is None there is no value, and what it would cost is left out.
        """

        # On an automatic mesh a product may be a sum over devices, which they exchange
        # in the dtype that it is finished in: that of the operands, unless it is one
        # term of a sum over chunks.
        finished = self.exchanged(operands)
        dtype = finished if operands.rows <= self.largest else None

        def step(sums, chunk, rest, cotangent):
            def values(*arrays):
                return where_moving(cotangent, self.apply(rest)(*arrays))

            x = self.products.logits(chunk.hidden, chunk.kernel)
            value, pull_back = jax.vjp(values, x, chunk.own, chunk.shared)
            g, down, dshared = pull_back(cotangent)
            of_hidden = where_moving(moving.hidden, g)
            of_kernel = where_moving(moving.kernel, g)
            dhidden = self.products.hidden(of_hidden, chunk.kernel, finished)
            dkernel = self.products.kernel(chunk.hidden, of_kernel, dtype)
            dhidden, dkernel = jax.tree.map(
                lambda x: x.astype(self.products.dtype),
                kept_until((dhidden, dkernel), chunk.hidden),
            )
            terms = dkernel, where_moving(moving.shared, dshared)
            sums = jax.tree.map(jnp.add, sums, terms)
            return sums, (value, dhidden, where_moving(moving.own, down))

        start = jax.tree.map(
            lambda x: jnp.zeros_like(x, self.products.dtype),
            (
                where_moving(moving.kernel, operands.kernel),
                where_moving(moving.shared, operands.shared),
            ),
        )
        arrays = operands, rest, cotangent
        found = self.scan(step, start, *arrays)
        if self.skips(operands, rest):
            # A loop whose count is known at run time has no derivative of its own.
            kept = self.visit_kept(step, start, *lax.stop_gradient(arrays))
            found = jax.tree.map(with_derivative_of, kept, found)
        sums, (value, hidden, own) = found
        return value, Operands(hidden, sums[0], own, sums[1])

    def exchanged(self, operands):
        """The dtype in which devices exchange sums, None for that to compute in.

        Not float16: a cotangent that scales small gradients into its range comes later.
        """
        hidden, kernel = operands.first
        alike = all(k.dtype == kernel.dtype for k in jax.tree.leaves(operands.kernel))
        several = automatic_devices(hidden) > 1
        usable = alike and kernel.dtype != jnp.float16
        return kernel.dtype if several and usable else None

    def apply(self, rest):
        """The rule as a function of what is real."""
        given = *rest, self.options.axis_name
        return lambda x, own, shared: self.rule(x, own, shared, *given)

    def skips(self, operands, rest):
        """Whether `visit_kept` saves work.

        Not where rows lie on devices that XLA chose: they would cross the network.
        """
        _, keep = rest
        several = Layout.of(operands.rows, self.largest, None).count > 1
        alone = automatic_devices(operands.first[0]) == 1
        return keep is not None and several and alone

    def visit_kept(self, step, start, operands, rest, more=None):
        """What `scan` gives, in the time of the rows to keep; without a derivative.

        In chunks as large as those of `scan`, and in smaller ones for what is left.
        """
        rows, (fixed, keep) = operands.rows, rest
        size = Layout.of(rows, self.largest, None).size
        order = KeptFirst.of(keep, size)
        arrays = operands.hidden, operands.own, (fixed, keep), more

        def visit(sums, index):
            hidden, own, (fixed, keep), more = order.at(arrays, index)
            here = Operands(hidden, operands.kernel, own, operands.shared)
            return step(sums, here, (fixed, keep & (index < rows)), more)

        def body(sofar, index):
            sums, whole = sofar
            sums, part = visit(sums, index)
            return sums, order.put(whole, index, part)

        index = order.rows[:size]
        sofar = start, order.zeros(jax.eval_shape(visit, start, index)[1])
        sofar = jax.tree.map(vary_as, sofar, jax.eval_shape(body, sofar, index))
        return order.loop(body, sofar)

    def scan(self, step, start, operands, rest, more=None):
        """Runs `step` over the chunks, but for those without a row to keep.

        Without a mask none is skipped, and the condition still earns its place: under
        differentiation JAX computes what the body of a scan makes of constants, such as
        an iota [size, C], before the loop and keeps it; it leaves a branch alone.
        """
        fixed, keep = rest
        rows = operands.rows
        layout = Layout.of(rows, self.largest, keep)
        if keep is None:
            every = jnp.ones(rows, bool)
            _, keep = vary_alike((operands.first[0], every), self.options.axis_name)
        arrays = operands.hidden, operands.own, (fixed, keep), more
        chunks = jax.tree.map(layout.split, arrays)

        def visit(sums, chunk):
            hidden, own, rest, more = chunk
            here = Operands(hidden, operands.kernel, own, operands.shared)
            return step(sums, here, rest, more)

        def skip(sums, chunk):
            own = jax.eval_shape(visit, sums, chunk)[1]
            return sums, jax.tree.map(
                lambda x: vary_as(jnp.zeros(x.shape, x.dtype), x), own
            )

        # Otherwise a second derivative would keep the logits of all chunks.
        @functools.partial(jax.checkpoint, prevent_cse=False)
        def body(sums, chunk):
            _, _, (_, keep), _ = chunk
            return lax.cond(jnp.any(keep), visit, skip, sums, chunk)

        if layout.count == 1:
            sums, own = visit(start, jax.tree.map(lambda x: x[0], chunks))
            own = jax.tree.map(lambda x: x[None], own)
        else:
            sums, own = lax.scan(body, start, chunks)
        return sums, jax.tree.map(layout.join, own)


def _filled(tangents, primals):
    """The tangents with zeros for None."""

    def zeros(x):
        real = jnp.issubdtype(x.dtype, jnp.floating)
        return jnp.zeros_like(x) if real else np.zeros(x.shape, jax.dtypes.float0)

    return jax.tree.map(
        lambda t, x: None if x is None else zeros(x) if t is None else t,
        tangents,
        primals,
        is_leaf=lambda x: x is None,
    )

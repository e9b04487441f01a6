"""What a rule makes of the outputs of a linear layer, which never exist as a whole.

With hidden H [N, D] and kernel K [D, C], a rule turns each row of X = H K [N, C] into
one number or several. `rows` makes X a chunk of rows at a time, `classes` a block of
classes at a time, for rules that are functions of sums over the classes.

A rule is called `rule(x, own, shared, fixed, keep, axis_name)` for the rows of one
chunk: x [size, C] in the dtype to compute in, or a tuple of them, one for each of
several layers; trees of arrays, `own` and `fixed` with a leading axis [size], `shared`
as it is given; and keep [size], False in rows that are excluded or fill up the last
chunk.

Over devices. The rows may be spread over devices: then the gradient of the kernel is
summed over the devices once, behind the sweep. In a `shard_map` the classes may be
split over `axis_name`: then each device makes its own columns of X, the rule sums over
them, and JAX sums the gradient of H over the devices, behind the sweep. On an explicit
mesh the types of the arrays tell both; on an automatic one XLA decides.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from jaxloss._core.devices import (
    agree_as,
    automatic_devices,
    on_each_device,
)
from jaxloss._core.numerics.exact import with_derivative_of
from jaxloss._core.rule.linear_map import linear_map
from jaxloss._core.rule.varying import vary_alike, vary_as
from jaxloss._core.sweeps.classes import ByClass, Classes
from jaxloss._core.sweeps.operands import (
    Operands,
    Options,
    Products,
    default_rows,
    moving_of,
)
from jaxloss._core.sweeps.rows import Rows


@dataclasses.dataclass(frozen=True)
class Rule:
    """What each row of X becomes, in the forms that there are."""

    by_row: Callable[..., Any]
    by_class: ByClass | None = None


def sum_rows(
    rule: Rule, operands: Operands, fixed: Any, keep: Any, options: Options
) -> jax.Array:
    """The sum over all rows of a rule with one number per row.

    One sweep gives the sum and, where it is differentiated, the gradient. Without
    differentiation there is no gradient.

    Args:
        rule: What each row of X becomes.
        operands: The real arrays, `own` and `shared` in the dtype to compute in.
        fixed: A tree of integer and boolean arrays of the rows, [...].
        keep: Boolean [...], or None. The products may skip the other rows; the rule has
            to give 0 for them, whatever they hold.
        options: How the sweep runs.
    """

    def local(operands, fixed, keep, options):
        return _sum_rows(*_prepare(rule, operands, fixed, keep, options))

    return _where_rows_lie(local, operands, fixed, keep, options, summed=True)


def _sum_rows(sweep, operands, rest):
    @jax.custom_jvp
    def sums(operands, rest):
        return jnp.sum(sweep.value(operands, rest))

    # The tangent is the inner product of the gradient with the tangents of the inputs.
    # Reverse mode, its transpose, scales the gradient by the cotangent, one number.
    def jvp(primals, tangents):
        moving = moving_of(tangents[0])
        value = jax.eval_shape(sweep.value, *primals)
        ones = vary_as(jnp.ones(value.shape, value.dtype), value)
        value, slopes = sweep.pull(*primals, ones, moving)
        value = jnp.sum(value)
        pairs = zip(jax.tree.leaves(slopes), jax.tree.leaves(moving), strict=True)
        products = [
            agree_as(jnp.sum(slope * t.astype(slope.dtype)), value)
            for slope, t in pairs
        ]
        return value, sum(products, start=jnp.zeros_like(value))

    sums.defjvp(jvp, symbolic_zeros=True)
    return sums(operands, rest)


def map_rows(
    rule: Rule, operands: Operands, fixed: Any, keep: Any, options: Options
) -> Any:
    """What a rule makes of every row; the backward sweep makes X again.

    Takes the arguments of `sum_rows`. A rule may give several numbers per row, in a
    tree of arrays [size].
    """

    def local(operands, fixed, keep, options):
        sweep, *arrays = _prepare(rule, operands, fixed, keep, options)
        return _per_row(_map_rows(sweep, *arrays), operands)

    return _where_rows_lie(local, operands, fixed, keep, options, summed=False)


def _map_rows(sweep, operands, rest):
    @jax.custom_jvp
    def values(operands, rest):
        return sweep.value(operands, rest)

    def jvp(primals, tangents):
        moving = moving_of(tangents[0])

        def push(primals, moving):
            return sweep.rows.push(*primals, moving)

        def pull(primals, cotangent):
            slopes = sweep.pull(*primals, cotangent, moving)[1]
            return jax.tree.map(lambda t, s: s.astype(t.dtype), moving, slopes)

        tangents = linear_map(push, pull, primals, moving, takes_none=True)
        return values(*primals), tangents

    values.defjvp(jvp, symbolic_zeros=True)
    return values(operands, rest)


def map_rows_to_any(
    by_row: Callable[..., Any],
    operands: Operands,
    fixed: Any,
    keep: Any,
    options: Options,
) -> Any:
    """What a rule makes of every row, integers too; without derivative."""
    operands = lax.stop_gradient(operands)

    def local(operands, fixed, keep, options):
        prepared = _prepare(Rule(by_row), operands, fixed, keep, options)
        sweep, *arrays = prepared
        return _per_row(sweep.value(*arrays), operands)

    return _where_rows_lie(
        local, operands, fixed, keep, options, summed=False, split=False
    )


def _per_row(values, operands):
    """[N, ...] back to the rows' own axes."""
    batch = operands.first[0].shape[:-1]
    return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), values)


@dataclasses.dataclass(frozen=True)
class _Sweep:
    """Chunks of rows, and what is better for TPU and GPU: larger ones, or classes."""

    rows: Rows
    elsewhere: Rows | Classes | None

    def value(self, operands, rest):
        return self.choose(lambda form, *arrays: form.value(*arrays), operands, rest)

    def pull(self, operands, rest, cotangent, moving):
        moving = jax.tree.map(lambda _: True, moving)

        def pull(form, operands, rest, cotangent):
            if isinstance(form, Rows):
                return form.pull(operands, rest, cotangent, moving)
            by_row = self.rows.pull(operands, rest, cotangent, moving)
            # A sum over all classes hides the digits of the second derivative, which
            # is that of the other form.
            arrays = lax.stop_gradient((operands, rest, cotangent))
            return jax.tree.map(with_derivative_of, form.pull(*arrays, moving), by_row)

        return self.choose(pull, operands, rest, cotangent)

    def choose(self, function, *arrays):
        """function(form, *arrays) with the form that suits the platform."""
        if self.elsewhere is None:
            return function(self.rows, *arrays)
        return lax.platform_dependent(
            *arrays,
            cpu=functools.partial(function, self.rows),
            default=functools.partial(function, self.elsewhere),
        )


def _prepare(rule, operands, fixed, keep, options):
    """The sweep, its operands with one axis of rows, and the fixed arrays."""
    batch = operands.first[0].shape[:-1]
    n = math.prod(batch)

    def flat(tree):
        return jax.tree.map(lambda x: x.reshape(n, *x.shape[len(batch) :]), tree)

    hidden, own, *rest = flat((operands.hidden, operands.own, fixed, keep))
    operands = Operands(hidden, operands.kernel, own, operands.shared)
    leaves, tree = jax.tree.flatten(operands)
    operands = jax.tree.unflatten(tree, vary_alike(leaves, options.axis_name))
    rest = jax.tree.map(lambda x: vary_as(x, operands.first[0]), tuple(rest))
    # Devices that split the classes have a part of the gradient of `hidden` each.
    hidden = jax.tree.map(vary_as, operands.hidden, operands.kernel)
    operands = dataclasses.replace(operands, hidden=hidden)
    wide = any(x.dtype == jnp.float64 for x in jax.tree.leaves(hidden))
    dtype = jnp.float64 if wide else jnp.float32
    products = Products(dtype, options.precision, options.class_axis)
    largest = options.largest
    if largest is None:
        hidden, _ = operands.first
        largest = default_rows(hidden.shape[1], options.share)
        largest *= automatic_devices(hidden)
    in_rows = functools.partial(Rows, rule.by_row, products=products, options=options)
    elsewhere = None
    if rule.by_class is not None and _is_large(operands, options):
        elsewhere = Classes(rule.by_class, products, options)
    elif options.elsewhere is not None and n > min(largest, options.elsewhere):
        elsewhere = in_rows(options.elsewhere)
    return _Sweep(in_rows(largest), elsewhere), operands, rest


def _is_large(operands, options):
    """Whether blocks of classes are worth a third more arithmetic, off the CPU.

    So where nobody asks for chunks, and the logits of all rows would need more memory
    than the kernel. Not on an automatic mesh of several devices: with the classes split
    over 16 chips of 8,192 tokens each XLA would move 40 GB for the blocks, and moves 2
    for chunks of rows.
    """
    classes, rows = operands.kernel.shape[options.class_axis], operands.hidden.shape[0]
    known = isinstance(classes, int) and isinstance(rows, int)
    several = automatic_devices(operands.hidden) > 1
    if options.largest is not None or not known or several:
        return False
    logits = 4 * rows * classes * options.share
    kernel = operands.kernel.size * operands.kernel.dtype.itemsize
    return logits > max(kernel, LARGE)


# The bytes of logits from which on their memory matters.
LARGE = 2**26


def _where_rows_lie(function, operands, fixed, keep, options, *, summed, split=True):
    """Runs a function of local rows on each device that holds some of them.

    On an explicit mesh, whose types tell. What is shared is gathered once, ahead of the
    sweep, and its gradient is summed over the devices once, behind it; a kernel that is
    split over the same devices as the rows has its gradient scattered in that sum.
    Classes that are split over devices which share their rows stay where they are.
    """
    of_hidden, of_kernels = (
        [jax.typeof(x).sharding.spec for x in jax.tree.leaves(tree)]
        for tree in (operands.hidden, operands.kernel)
    )
    if not any(map(any, (*(spec[:-1] for spec in of_hidden), *of_kernels))):
        return function(operands, fixed, keep, options)
    spec, classes = of_hidden[0][:-1], of_kernels[0][options.class_axis]
    axes = _axes(spec)
    if split and isinstance(classes, str) and classes not in axes:
        options = dataclasses.replace(options, axis_name=classes)
    by_row, everywhere = PartitionSpec(*spec), PartitionSpec()
    gathered = [
        [part if {*_axes((part,))} <= {*axes} else None for part in parts]
        for parts in of_kernels
    ]
    # XLA for CPU and GPU gathers and scatters along the first axis. Along the second
    # one it would turn the whole kernel and its whole gradient: so each device turns
    # its part of them.
    turned = all(parts[1] and not parts[0] for parts in gathered)

    def local(operands, *rest):
        kernels, tree = jax.tree.flatten(operands.kernel)
        inner, parts = options, gathered
        if turned:
            inner = dataclasses.replace(options, class_axis=1 - options.class_axis)
            kernels, parts = [k.T for k in kernels], [p[::-1] for p in gathered]
        kernel = jax.tree.unflatten(tree, map(_gather, kernels, parts))
        operands = dataclasses.replace(operands, kernel=kernel)
        result = function(operands, *rest, inner)
        return lax.psum(result, axes) if summed and axes else result

    def by_class(x, axis):
        if not x.ndim:
            return everywhere
        return PartitionSpec(
            *(options.axis_name if a == axis % x.ndim else None for a in range(x.ndim))
        )

    def of_kernel(kernel, parts):
        split = by_class(kernel, options.class_axis)
        return PartitionSpec(*(a or b for a, b in zip(split, parts, strict=True)))

    def all_by_row(tree):
        return jax.tree.map(lambda _: by_row, tree)

    kernels, tree = jax.tree.flatten(operands.kernel)
    kernel = jax.tree.unflatten(tree, map(of_kernel, kernels, gathered))
    shared = jax.tree.map(lambda x: by_class(x, -1), operands.shared)
    rows = Operands(
        all_by_row(operands.hidden), kernel, all_by_row(operands.own), shared
    )
    specs = rows, all_by_row(fixed), all_by_row(keep)
    arrays, out_specs = (operands, fixed, keep), everywhere if summed else by_row
    return on_each_device(local, arrays, specs, out_specs)


def _gather(kernel, parts):
    for axis, part in enumerate(parts):
        if part:
            kernel = lax.all_gather(kernel, part, axis=axis, tiled=True)
    return kernel


def _axes(spec):
    """The mesh axes that a spec names."""
    return tuple(jax.tree.leaves(tuple(spec)))

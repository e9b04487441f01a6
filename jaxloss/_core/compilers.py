"""Forms of an expression that exist for a compiler's sake, and nothing else.

Each function is the same mathematics as a shorter form, which it names, and is right
whatever the compiler does. Its docstring says which backend needs it, what that backend
would do with the shorter form, and which test notices when it stops to matter. Where
backends disagree, the choice by `jax.lax.platform_dependent` stands here too. Only what
the mathematics of a loss does not need may be here.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.devices import automatic_devices, placement
from jaxloss._core.rule.known import known_as
from jaxloss._core.rule.varying import vary_as

Axes = int | tuple[int, ...]

# Unless a docstring says otherwise: XLA for CPU, JAX 0.10 to 0.12, where
# tests/test_compilers.py compiles a loss with each function and with its shorter form,
# and compares the temporaries. Forms for TPU and GPU: tests/test_accelerators.py.


def capped_product(c: jax.Array, x: jax.Array) -> jax.Array:
    """c · x with 0 · inf = 0, for x >= 0 in a rule's value: it has no derivative.

    The shorter form, `zero_safe_product`, has a select. XLA for CPU fuses a sum only
    with arithmetic on its operands, and materialises the losses before a select: one
    array more for the mean of a binary cross entropy. So x is capped instead: at the
    largest number where c = 0, and at inf, twice that or more, for any other c. The
    cap is right in whatever order XLA multiplies constants of c, or adds.
    """
    largest = float(jnp.finfo(x.dtype).max)
    return c * jnp.minimum(x, jnp.ceil(jnp.abs(c)) * largest + largest)


def b_where_equal(a: jax.Array, b: jax.Array) -> jax.Array:
    """a, read as b where the two are equal; it keeps its own derivative.

    The shorter form is a. Where a is a product or a quotient, XLA for CPU may contract
    it and the difference a - b into one operation with a single rounding. A maximum
    less itself is then what its own rounding took: for logits of 1e30 some 1e22, whose
    exponential is 0 or inf. A comparison sees both numbers rounded, and b - b is 0.

    `known_as` gives the select the derivative of a. `jax.custom_jvp` would not: a scan
    of JAX 0.10 drops its rule, and a second derivative through a scan would miss the
    slope of each maximum.
    """
    return known_as(jnp.where(a == b, b, stop_gradient(a)), a)


def available_after(number: jax.Array, top: jax.Array) -> jax.Array:
    """`top`, which XLA can only use once `number` is computed.

    The shorter form is `top`. XLA for CPU would then compute exponentials below `top`
    while the logits are still read, and keep both arrays. With this select nothing
    reads the logits afterwards, and the exponentials overwrite them: one array less
    per chunk of `linear_cross_entropy`. The select never changes a result, since a
    number that is NaN makes the loss NaN.
    """
    return jnp.where(jnp.isnan(stop_gradient(number)), jnp.nan, top)


def kept_until(results: Any, operand: Any) -> Any:
    """The results, whose memory XLA for CPU does not share with the operand.

    The shorter form is the results. Of two products that read `operand`, XLA for CPU
    gives one the memory of the operand and lets it wait for the other: the step of
    `linear_cross_entropy` with a mask takes 3 % longer. Elsewhere the form is shorter.
    """
    return jax.lax.platform_dependent(
        results,
        operand,
        cpu=lambda *both: jax.lax.optimization_barrier(both)[0],
        default=lambda results, _: results,
    )


def recomputed(top: jax.Array) -> jax.Array:
    """`top`, from which XLA for TPU and GPU computes the exponentials once more.

    The shorter form is `top`. The backward pass then has the exponentials in common
    with the sum over them. XLA for CPU keeps them in the buffer of the gradient, which
    costs nothing; XLA for TPU and GPU writes and reads them, or a part of them, as an
    array of its own. Behind this barrier it cannot tell that they are the same.

    So for a distance: XLA for GPU would make each row's factor of the gradient in the
    kernel that sums the losses, which takes 1 MiB more for 262,144 triplets.
    """
    return jax.lax.platform_dependent(
        top, cpu=lambda top: top, default=jax.lax.optimization_barrier
    )


def told_apart(number: jax.Array) -> jax.Array:
    """`number`, which XLA for GPU takes for another one.

    The shorter form is `number`. XLA for GPU finds that two `recomputed` numbers are
    the same, and keeps the arrays made from them: two of the logits' size in
    `distillation_loss`. XLA for TPU does not, and a barrier more would split a pass.
    """
    return jax.lax.platform_dependent(
        number,
        cpu=lambda number: number,
        tpu=lambda number: number,
        default=jax.lax.optimization_barrier,
    )


def gather(rows: jax.Array, index: jax.Array, axis: int) -> jax.Array:
    """The number of each row at its index, clipped to the row."""
    index = jnp.expand_dims(index, axis)
    return jnp.squeeze(jnp.take_along_axis(rows, index, axis, mode="clip"), axis)


def number_in_a_pass(
    rows: jax.Array, index: jax.Array, axis: int, hit: jax.Array
) -> jax.Array:
    """What `gather` gives, where the caller also sums over the rows.

    The shorter form is `gather`, and stays so on CPU. A gather reads an array that is
    stored. So XLA for TPU and GPU would store the logits behind a mask for it, and XLA
    for TPU those widened from half precision, one array more. A sum over the place of
    the index is a part of the other sum's pass. `hit` is True at that place; without
    one the sum is 0.
    """
    return jax.lax.platform_dependent(
        rows,
        index,
        hit,
        cpu=lambda rows, index, _: gather(rows, index, axis),
        default=lambda rows, _, hit: jnp.sum(jnp.where(hit, rows, 0), axis=axis),
    )


def stored_exponential(gap: jax.Array, rounding: jax.Array) -> jax.Array:
    """e^(gap + rounding) to first order in the rounding error of the gap.

    The shorter form is exp(gap) (1 + rounding). XLA for CPU then computes the
    exponential once per sum that reads it. With a division it stores the exponentials
    once, in the buffer of the gradient, and the sums read them there: the dense cross
    entropy of 65,536 x 1,000 logits takes two thirds of the time. TPU and GPU have the
    shorter form, since there nothing is stored.
    """
    # Where the exponential is not 0, the rounding error is far below 1/4.
    return jax.lax.platform_dependent(
        gap,
        rounding,
        cpu=lambda gap, rounding: jnp.exp(gap) / (1 - jnp.minimum(rounding, 0.25)),
        default=lambda gap, rounding: jnp.exp(gap) * (1 + rounding),
    )


def first_plus_last(ordered: jax.Array) -> jax.Array:
    """The first place plus the last one of each number's equals, in a sorted last axis.

    Places count from 0, in the dtype of the numbers. The shorter form adds a running
    maximum and a running minimum, and stays so on TPU and GPU. XLA for CPU keeps both:
    `crps_ensemble_loss` of 65,536 x 64 then needs 82.5 MiB, not 80. So there the
    running minimum takes the sum, which grows from group to group, from the last of
    each group. No derivative.
    """
    count, axis = ordered.shape[-1], ordered.ndim - 1
    step = ordered[..., 1:] != ordered[..., :-1]
    edge = jnp.ones_like(ordered[..., :1], dtype=bool)

    def first(index):
        starts = jnp.concatenate([edge, step], axis=-1)
        return jax.lax.cummax(jnp.where(starts, index, 0), axis)

    def at_last(x, largest):
        ends = jnp.concatenate([step, edge], axis=-1)
        return jax.lax.cummin(jnp.where(ends, x, largest), axis, reverse=True)

    index = jax.lax.broadcasted_iota(ordered.dtype, ordered.shape, axis)
    return jax.lax.platform_dependent(
        index,
        cpu=lambda index: at_last(first(index) + index, 2 * count),
        default=lambda index: first(index) + at_last(index, count),
    )


def unsorted(ordered: jax.Array, place: jax.Array) -> jax.Array:
    """Numbers along the last axis, none NaN, each moved to its place, one per place.

    The shorter form is a second sort, by `place`, and stays so on TPU, where a scatter
    moves one number after the other, and on an explicit mesh, where JAX 0.10 to 0.12
    cannot place the result of a scatter. On CPU the scatter takes an eighth of the
    sort's time: 0.07 s instead of 0.59 s for 65,536 x 64. The benchmark of
    `crps_ensemble_loss` would notice. No derivative.
    """

    def sort(ordered, place):
        return jax.lax.sort((place, ordered), num_keys=1)[1]

    def scatter(ordered, place):
        # XLA for CPU would compute the indices of the scatter, two per number, before
        # the numbers: 16 MiB more for 65,536 x 64. No number is NaN.
        place = jnp.where(jnp.isnan(ordered), 0, place)

        def one(row, index):
            empty = jnp.zeros_like(row)
            mode = "promise_in_bounds"
            return empty.at[index].set(row, unique_indices=True, mode=mode)

        for _ in range(ordered.ndim - 1):
            one = jax.vmap(one)
        return one(ordered, place)

    ordered = stop_gradient(ordered)
    if placement(ordered) is not None:
        return sort(ordered, place)
    return jax.lax.platform_dependent(ordered, place, tpu=sort, default=scatter)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def times_complement(c: jax.Array, p: jax.Array, axis: Axes) -> jax.Array:
    """c (1 - p) for probabilities that add up to 1 along `axis`, with all digits.

    For p > 1/2, where rounding of p hides 1 - p, it is the sum of the other classes.
    The shorter form selects one of the two by a comparison. XLA for CPU would
    materialise the comparison, and the array 1 - p; round(p), which is 0 or 1, is fused
    into the sum over the result.
    """
    most = jnp.round(p)
    others = jnp.sum(p - p * most, axis=axis, keepdims=True)
    rest = c - c * most
    return (rest - rest * p) + (c * most) * others


@times_complement.defjvp
def _times_complement_jvp(axis, primals, tangents):
    (c, p), (dc, dp) = primals, tangents
    complement = times_complement(jnp.ones_like(p), p, axis)
    return times_complement(c, p, axis), dc * complement - c * dp


@jax.custom_jvp
def times_one_minus(p: jax.Array, t: jax.Array) -> jax.Array:
    """p (1 - t) for t in [0, 1], with all digits.

    XLA for CPU would materialise the array 1 - t of the shorter form. With n the
    integer nearest t, p (1 - n) - p (t - n) has two terms that never cancel.
    """
    whole = jnp.round(t)
    return (p - p * whole) - p * (t - whole)


@times_one_minus.defjvp
def _times_one_minus_jvp(primals, tangents):
    (p, t), (dp, dt) = primals, tangents
    return times_one_minus(p, t), (dp - t * dp) - p * dt


def own_pass_if(
    needed: jax.Array,
    alone: Callable[..., jax.Array],
    beside: Callable[..., jax.Array],
    otherwise: jax.Array,
    *arrays: jax.Array,
) -> jax.Array:
    """beside(*arrays), sums of arrays that are read for other sums as well.

    The shorter form is that. XLA for CPU computes each sum in a pass of its own: of the
    dense cross entropy of 65,536 x 1,000 it would take a quarter of the time, so there
    it is alone(*arrays), and `otherwise` where the sums are not `needed`. XLA for TPU
    and GPU computes all sums in one pass, and stores copies of what a condition reads.
    """
    return jax.lax.platform_dependent(
        needed,
        *arrays,
        cpu=lambda needed, *arrays: jax.lax.cond(
            needed, alone, lambda *_: otherwise, *arrays
        ),
        default=lambda _, *arrays: beside(*arrays),
    )


def short_cut(
    holds: jax.Array,
    short: Callable[..., jax.Array],
    general: Callable[..., jax.Array],
    at_once: Callable[..., jax.Array],
    in_double: Callable[..., jax.Array],
    *arrays: jax.Array,
) -> jax.Array:
    """short(*arrays) where the scalar `holds`, else general(*arrays).

    `general` is right in any case, and so are `at_once`, whose sums need no result of
    another, and `in_double`, which may compute in float64 while JAX has no such arrays.
    The shorter form is `jax.lax.cond`, and stays so on CPU. XLA for TPU stores copies
    of what a condition reads, and XLA for GPU cannot read it for the sums before the
    condition as well: of the triplet loss of 262,144 x 64 in float32 they would move
    1.4 GB and 0.7 GB. A TPU has at_once(*arrays), with 0.4 GB. A GPU would write its
    sums to choose between them, 8 MiB more than in_double(*arrays): it has float64.
    """
    return jax.lax.platform_dependent(
        holds,
        *arrays,
        cpu=lambda holds, *arrays: jax.lax.cond(holds, short, general, *arrays),
        cuda=lambda _, *arrays: in_double(*arrays),
        rocm=lambda _, *arrays: in_double(*arrays),
        default=lambda _, *arrays: at_once(*arrays),
    )


def in_pieces(
    function: Callable[..., Any],
    *arrays: jax.Array,
    axis_name: str | None = None,
    otherwise: Callable[..., Any] | None = None,
    per_row: int | None = None,
) -> Any:
    """function(*arrays), for a function of rows: of arrays [..., C], then [...].

    The shorter form is that. XLA for CPU stores what it sums over, some ten arrays of
    the rows' size for a divergence of logits: of 256 x 50,304, 390 MB. A few rows at a
    time they stay in the cache, and take 12 MB. The last piece repeats some rows, so
    that all have one size, a power of two, which cores share evenly. TPU and GPU have
    `otherwise`, which is equal, or the shorter form. A derivative is that of the
    shorter form, as is everything where devices share the rows, or the classes over
    `axis_name`. The arrays made of a row have as many numbers as it, or `per_row`.
    """
    whole = function(*arrays)
    first, (*batch, classes) = arrays[0], arrays[0].shape
    if not batch or not all(isinstance(n, int) for n in first.shape):
        return whole
    rows, size = math.prod(batch), max(1, _PIECE // max(per_row or classes, 1))
    size = 2 ** (size.bit_length() - 1)
    spread = automatic_devices(first) > 1 or placement(first) is not None
    if spread or axis_name is not None or rows < 2 * size:
        return whole

    def pieces(*arrays):
        arrays = [x.reshape(rows, *x.shape[len(batch) :]) for x in arrays]

        def step(index, made):
            start = jnp.minimum(index * size, rows - size)

            def rows_of(x):
                return jax.lax.dynamic_slice_in_dim(x, start, size)

            # Both conditions hold. XLA for CPU stores what a branch returns or reads.
            # Without the first one it would widen all numbers in half precision before
            # the loop. Without the second one `distillation_loss` takes a quarter
            # longer, since XLA would fuse the function with what stores its results.
            piece = jax.lax.cond(
                index >= 0,
                lambda arrays: jax.tree.map(rows_of, arrays),
                lambda arrays: zeros(size, arrays, 1),
                arrays,
            )
            nothing = functools.partial(zeros, size, whole, len(batch))
            parts = jax.lax.cond(index >= 0, function, lambda *_: nothing(), *piece)
            return jax.tree.map(
                lambda x, part: jax.lax.dynamic_update_slice_in_dim(x, part, start, 0),
                made,
                parts,
            )

        def zeros(n, like, axes):
            def empty(x):
                return vary_as(jnp.zeros((n, *x.shape[axes:]), x.dtype), x)

            return jax.tree.map(empty, like)

        made = zeros(rows, whole, len(batch))
        made = jax.lax.fori_loop(0, math.ceil(rows / size), step, made)
        return jax.tree.map(lambda x, like: x.reshape(like.shape), made, whole)

    value = jax.lax.platform_dependent(
        *stop_gradient(arrays), cpu=pieces, default=otherwise or function
    )
    return jax.tree.map(known_as, value, whole)


def numbers_in_pieces(function: Callable[..., Any], *arrays: jax.Array) -> Any:
    """function(*arrays), for a long formula on numbers: `in_pieces` without a row.

    The shorter form is that. XLA for CPU would store some ninety arrays for value and
    slopes of Student's t: of 4.2 M, 1,460 MiB in place of 32, in 1.6 times the time.
    """

    @functools.partial(jax.jit, inline=True)  # traced once for all whole arrays
    def of_rows(*arrays):
        return function(*(x[..., 0] for x in arrays))

    return in_pieces(of_rows, *(x[..., None] for x in arrays), per_row=_STORED)


# Numbers in a piece of one array: 1 MB in float32.
_PIECE = 2**18
# Arrays that XLA for CPU stores at a time for a long formula on numbers.
_STORED = 32

"""What XLA computes before, beside or once more."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient


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


def in_turn(
    first: jax.Array | None, operand: jax.Array
) -> tuple[jax.Array | None, jax.Array]:
    """`first`, and `operand`, whose products XLA for GPU computes after `first`.

    The shorter form is the two. XLA for GPU then computes the block of the gradient of
    a kernel [C, D] before that of the hidden states, stores it in a copy that runs
    beside the latter product, and cannot give it the memory of the block of the kernel.
    For 32,768 x 4,096 x 128,256 in bfloat16 that is 125 MiB more than for [D, C]; the
    planned row "embedding table" would notice. In turn both blocks lie in the memory of
    the rounded gradient of the hidden states. Without rounding there is no such memory,
    and the shorter form needs less. XLA for TPU would move 0.7 % more.
    """
    if first is None or first.dtype == operand.dtype:
        return first, operand
    return jax.lax.platform_dependent(
        first,
        operand,
        tpu=lambda *both: both,
        default=lambda *both: tuple(jax.lax.optimization_barrier(both)),
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


def computed_again(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The arrays, from which XLA for CPU computes everything once more.

    The shorter form is the arrays. Where a value and its slopes share an exponential, a
    logarithm or a quotient, XLA for CPU stores it, in a pass of its own: ten passes and
    132 MiB for `orpo_loss` of 4.2 M pairs. From these arrays each slope is one pass,
    which computes them in registers, in less than half of the time. TPU and GPU have
    the shorter form. tests/test_compilers.py compares the temporaries.
    """
    return jax.lax.platform_dependent(
        *arrays,
        cpu=lambda *arrays: jax.lax.optimization_barrier(arrays),
        default=lambda *arrays: arrays,
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

"""A form for XLA for CPU, as those of `compilers.py`: it computes numbers again."""

import jax


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

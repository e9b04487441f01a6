"""Products, exponentials and complements that XLA stores or rounds otherwise."""

import functools

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.rule.known import known_as

Axes = int | tuple[int, ...]


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

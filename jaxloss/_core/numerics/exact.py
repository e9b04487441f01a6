"""Exact scalar arithmetic: differences, products and quotients that keep all digits.

Accuracies are for float32 on XLA's CPU backend, in units in the last place (ulp). Every
piece is finite where its true value is, and so are its derivatives of all orders,
unless it says otherwise. What one family alone uses lives in that family.
"""

import functools

import jax
import jax.numpy as jnp

from jaxloss._core.compilers.terms import b_where_equal
from jaxloss._core.rule.analytic import pointwise


def two_difference(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """fl(a - b) and what rounding took from it, exactly (Knuth's TwoSum).

    The second part is 0 where the difference overflows, and carries no derivative:
    the first has it all.
    """
    # Of a constant a, XLA (JAX 0.10) makes (a - b) - a the term -b, which is not what
    # rounding kept. a + 0 · b is no constant, and NaN only where the result is 0.
    return _two_difference(a, b, a + 0 * b)


def difference_from_own(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same for b computed from a, such as a maximum: exactly 0 where they agree.

    Where a is a constant, so is everything: without the term 0 · b, which XLA for CPU
    may materialise.
    """
    a = b_where_equal(a, b)
    return _two_difference(a, b, a)


@functools.partial(jax.jit, inline=True)  # one operation to `jax.debug_nans`
def _two_difference(a, b, again):
    difference, lost = _finite_difference(a, b, again)
    return difference, jnp.where(jnp.isfinite(lost), lost, 0)


@functools.partial(jax.jit, inline=True)  # one operation to `jax.debug_nans`
def exp_from_own(a: jax.Array, b: jax.Array) -> jax.Array:
    """e^(a - b) for b computed from a, in a rule's value: exactly 1 where they agree.

    What rounding took from the difference is put back, to first order. The select comes
    last, since XLA for CPU stores what a select gives, for a sum over the exponentials:
    of `difference_from_own` it would store the difference and what rounding took.
    """
    a = b_where_equal(a, b)
    gap, lost = _finite_difference(a, b, a)
    e = jnp.exp(gap)
    return jnp.where(e > 0, e * (1 + lost), e)


def two_finite_difference(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`two_difference` of finite numbers far below an overflow.

    The comparison that it saves would read all that comes before it, and XLA for GPU
    would store that, of numbers in half precision, as an array of its own.
    """
    return _finite_difference(a, b, a + 0 * b)


def _finite_difference(a, b, again):
    difference = a - b
    a, b, d = jax.lax.stop_gradient((again, b, difference))
    kept = d - a
    return difference, (a - (d - kept)) - (b + kept)


def scale_of(largest: jax.Array) -> jax.Array:
    """A number near the largest entry, to divide by before entries are squared.

    It stays below a bound, beyond which its inverse would be flushed to 0. It is 1
    where the largest entry is 0 or inf.
    """
    scale = jnp.minimum(largest, 0.5 / float(jnp.finfo(largest.dtype).tiny))
    return jnp.where((largest == 0) | jnp.isinf(largest), 1, scale)


@pointwise
def squarable(x: jax.Array, inverse: jax.Array):
    """x · inverse, safe to square: the inverse is 1 / `scale_of` the largest |x|."""
    return squarable_value(x, inverse), (inverse, x)


def squarable_value(x: jax.Array, inverse: jax.Array, bound: float = 16) -> jax.Array:
    """The same without a derivative, in a rule's value.

    The bound changes no finite x, which is at most 8 times the scale. Without it XLA
    takes a constant inverse out of the square of the product, and the square of x and
    that of the inverse over- or underflow.
    """
    return jnp.maximum(jnp.minimum(x * inverse, bound), -bound)


def largest_finite(x: jax.Array) -> jax.Array:
    """x, and the largest finite number of its sign for an infinity, in a rule's slope.

    The slope may meet an input that does not move, and 0 · inf is NaN.
    """
    largest = float(jnp.finfo(x.dtype).max)
    return jnp.clip(x, -largest, largest)


def leading(x: jax.Array) -> jax.Array:
    """x to half of its digits: a product of two such is exact. No derivative."""
    info = jnp.finfo(x.dtype)
    digits = (info.nmant - 1) // 2
    largest = float(info.max) * (1 - 2.0**-digits)  # rounds to a finite number
    clipped = jax.lax.stop_gradient(jnp.clip(x, -largest, largest))
    return jax.lax.reduce_precision(clipped, info.nexp, digits)


def remainder(a: jax.Array, b: jax.Array, ratio: jax.Array) -> jax.Array:
    """a - b·ratio for ratio = fl(a/b) or a = fl(b·ratio), exactly.

    The plain form cancels to rounding. 0 where a is so small that products of parts
    would be flushed to 0.
    """
    info = jnp.finfo(a.dtype)
    exact = jnp.abs(a) > 16 * float(info.tiny) / float(info.eps)
    b_high, ratio_high = leading(b), leading(ratio)
    b_low, ratio_low = b - b_high, ratio - ratio_high
    cross = b_high * ratio_low + b_low * ratio_high
    rest = ((a - b_high * ratio_high) - cross) - b_low * ratio_low
    return jnp.where(exact, rest, 0)


def log1p_of_sum(x: jax.Array, lost: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log(1 + x + lost) for x >= 0 within 2 ulp, and what its last rounding took.

    The logarithm of the rounded sum, and what that rounding took, to first order. XLA's
    own log1p is off by 2.5 ulp.
    """
    total, rest = two_difference(x, jnp.full_like(x, -1))
    return two_difference(jnp.log(total), quotient(-(rest + lost), total))


def direction(a: jax.Array, b: jax.Array) -> jax.Array:
    """sign(a - b) by comparison, NaN if either is.

    XLA flushes a difference below the smallest normal number to 0.
    """
    return jnp.where(a > b, 1, jnp.where(a < b, -1, 0 * (a - b)))


def distance_beyond(a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
    """|a - b| - c within 1 ulp, near its zero and also where a - b overflows.

    An overflow means that a and b have opposite signs, so that |a| + |b| - c adds up.
    """
    sign = jnp.where(a < b, -1, 1)
    e, lost = two_difference(a, b)
    # Of constants a and b, XLA would add `lost` to e first: with a term in c it cannot.
    near = (sign * e - c) + sign * (lost + 0 * jnp.minimum(c, 1))
    return jnp.where(jnp.isinf(e), (sign * a - c) - sign * b, near)


def times_difference(c: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """c · (a - b) within 2 ulp, unless a - b is flushed to 0, also where it overflows.

    An overflow means that a and b have opposite signs, so that c·a - c·b adds up
    without cancellation.
    """
    difference = a - b
    over = jnp.isinf(difference)
    return jnp.where(over, c * a - c * b, c * jnp.where(over, 0, difference))


def scaled_difference(
    a: jax.Array, b: jax.Array, c: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(a - b)·k, c·k and k, a power of two that keeps (a - b)/c right.

    It saves the difference from an overflow, and from being flushed to 0 below the
    smallest normal number unless the quotient is. c >= 0.
    """
    small = jnp.maximum(jnp.maximum(jnp.abs(a), jnp.abs(b)), c) < 4
    k = jnp.where(small, 4 / float(jnp.finfo(a.dtype).eps), 1)
    k = jnp.where(jnp.isinf(a - b), 0.25, k).astype(a.dtype)
    return a * k - b * k, c * k, k


@pointwise
def difference_over(a: jax.Array, b: jax.Array, c: jax.Array):
    """(a - b)/c for c > 0 within 2 ulp, also where a - b over- or underflows."""
    difference, divisor, _ = scaled_difference(a, b, c)
    ratio = difference / divisor
    return ratio, (1 / c, -1 / c, -ratio / c)


@pointwise
def quotient(a: jax.Array, b: jax.Array):
    """a/b within 1 ulp; its derivatives within 2, with no b² that leaves the range."""
    ratio = a / b
    return ratio, (1 / b, -ratio / b)


# f = a/(a + b) has df/da = b/(a + b)² and df/db = -a/(a + b)². JAX's derivative of
# a/(a + b) is 1/(a + b) - a/(a + b)², which cancels where a is much larger than b.
@pointwise
def share(a: jax.Array, b: jax.Array):
    """a/(a + b) for a, b >= 0, with 0/0 = 0: the share that a has of both."""
    total = a + b
    none = total == 0
    inverse = 1 / jnp.where(none, 1, total)
    value = a * inverse
    return value, ((b * inverse) * inverse, -value * inverse)


def minus_product(a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
    """a - b·c within 2 ulp of the larger term, also where b·c overflows."""
    taken = b * c
    halves = a / 2 - (b / 2) * c
    return jnp.where(jnp.isinf(taken), 2 * halves, a - taken)


@pointwise
def with_derivative_of(value: jax.Array, alike: jax.Array):
    """The value, with the derivative of an array that equals it up to rounding.

    One form may have the digits of the value and another those of the derivative. XLA
    removes the second where nobody differentiates.
    """
    return value, (jnp.zeros_like(value), jnp.ones_like(alike))


def zero_safe_product(c: jax.Array, x: jax.Array) -> jax.Array:
    """c · x with 0 · inf = 0, in value and derivatives."""
    return c * jnp.where((c == 0) & jnp.isinf(x), 0, x)

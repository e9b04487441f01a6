"""Stable scalar pieces that the losses are made of.

Accuracies are for float32 on XLA's CPU backend, in units in the last place (ulp);
the tests hold the losses to them over the whole range. Every piece is finite where
its true value is, and so are its derivatives of all orders, unless it says otherwise.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxloss._core.derivative import pointwise

LOG_2 = 0.6931471805599453
LOG_2_PI = 1.8378770664093453

# Near-minimax polynomials (Chebyshev, 40 digits) in z = e² on |e| <= 0.75 of
# log(cosh e) / e² and tanh(e) / e; relative errors 2e-9 and 2e-9 in float32,
# 5e-20 and 7e-20 in float64.
_SWITCH = 0.75
_LOG_COSH = {
    jnp.dtype("float32"): (
        0.49999999772233501,
        -0.083333040991587045,
        0.022216072676763626,
        -0.0066980035274739175,
        0.0020127980614846451,
        -0.00042877658891171885,
    ),
    jnp.dtype("float64"): (
        0.5,
        -0.083333333333333331345,
        0.022222222222221957671,
        -0.0067460317460178266073,
        0.0021869488532312018692,
        -0.00073860295442009449324,
        0.00025658050417050670342,
        -0.000090989124657903165362,
        0.000032776506133443661493,
        -0.000011945677559294371605,
        4.3749686869823165888e-6,
        -1.5747230531198277235e-6,
        5.212713706034356629e-7,
        -1.3603469730331436257e-7,
        1.9771712920896515752e-8,
    ),
}
_TANH = {
    jnp.dtype("float32"): (
        0.99999999848501106,
        -0.33333306877459207,
        0.13332571835024207,
        -0.053885084942893486,
        0.021429011678764817,
        -0.0076241026031834627,
        0.0017186269850272643,
    ),
    jnp.dtype("float64"): (
        0.99999999999999999993,
        -0.3333333333333332752,
        0.1333333333333255976,
        -0.053968253967846829206,
        0.021869488524908946531,
        -0.0088632353423531651423,
        0.003592125988940491367,
        -0.0014558189975128614606,
        0.00058994527784660367883,
        -0.00023881174034580714379,
        0.00009602124689250730827,
        -0.000037443110771086991919,
        0.000013201854634860643036,
        -3.6018923862328081701e-6,
        5.3870939083112982018e-7,
    ),
}


def relu(x: jax.Array) -> jax.Array:
    """max(x, 0), with derivative 0 at 0 as PyTorch's; a NaN stays a NaN."""
    return jnp.where(x <= 0, 0, x)


def log_cosh_and_tanh(e: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log(cosh e) and its derivative tanh e, each within 3 ulp.

    Above the switch, log cosh e = (|e| - log 2) + log1p(u) and tanh |e| =
    (1 - u)/(1 + u) with u = exp(-2|e|), where no term cancels; below it both would
    lose the digits of e² and e, and polynomials take their place.
    """
    a = jnp.abs(e)
    small = a < _SWITCH
    near = jnp.where(small, e, 0)
    z = near * near
    u = jnp.exp(-2 * a)
    far_value = (a - LOG_2) + jnp.log1p(u)
    far_slope = jnp.sign(e) * ((1 - u) / (1 + u))
    value = jnp.where(small, z * power_series(_LOG_COSH[e.dtype], z), far_value)
    slope = jnp.where(small, near * power_series(_TANH[e.dtype], z), far_slope)
    return value, slope


def power_series(coefficients: Sequence[float], z: jax.Array) -> jax.Array:
    """Σ_k coefficients[k] z^k by Horner's rule."""
    total = jnp.full_like(z, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total * z + coefficient
    return total


def two_difference(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """fl(a - b) and what rounding took from it, exactly (Knuth's TwoSum).

    The second part is 0 where the difference overflows, and carries no derivative:
    the first has it all.
    """
    difference = a - b
    a, b, d = jax.lax.stop_gradient((a, b, difference))
    kept = d - a
    lost = (a - (d - kept)) - (b + kept)
    return difference, jnp.where(jnp.isfinite(lost), lost, 0)


def leading(x: jax.Array) -> jax.Array:
    """x to half of its digits: a product of two such is exact. No derivative."""
    info = jnp.finfo(x.dtype)
    digits = (info.nmant - 1) // 2
    largest = float(info.max) * (1 - 2.0**-digits)  # rounds to a finite number
    clipped = jax.lax.stop_gradient(jnp.clip(x, -largest, largest))
    return jax.lax.reduce_precision(clipped, info.nexp, digits)


def remainder(a: jax.Array, b: jax.Array, ratio: jax.Array) -> jax.Array:
    """a - b·ratio for ratio = fl(a/b), exactly; the plain form cancels to rounding."""
    b_high, ratio_high = leading(b), leading(ratio)
    b_low, ratio_low = b - b_high, ratio - ratio_high
    cross = b_high * ratio_low + b_low * ratio_high
    return ((a - b_high * ratio_high) - cross) - b_low * ratio_low


def log1p(x: jax.Array, lost: jax.Array) -> tuple[jax.Array, jax.Array]:
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


def excess(a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
    """|a - b| - c within 1 ulp, near its zero and also where a - b overflows.

    An overflow means that a and b have opposite signs, so that |a| + |b| - c adds up.
    """
    sign = jnp.where(a < b, -1, 1)
    e, lost = two_difference(a, b)
    near = (sign * e - c) + sign * lost
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


def minus_product(a: jax.Array, b: jax.Array, c: jax.Array) -> jax.Array:
    """a - b·c within 2 ulp of the larger term, also where b·c overflows."""
    taken = b * c
    halves = a / 2 - (b / 2) * c
    return jnp.where(jnp.isinf(taken), 2 * halves, a - taken)


def product(c: jax.Array, x: jax.Array) -> jax.Array:
    """c · x with 0 · inf = 0, in value and derivatives."""
    return c * jnp.where((c == 0) & jnp.isinf(x), 0, x)


def capped_product(c: jax.Array, x: jax.Array) -> jax.Array:
    """c · x with 0 · inf = 0, for x >= 0 in a rule's value: it has no derivative.

    It does without the comparison of `product`, which keeps a sum over the result from
    taking it in. x is capped at |c|·max², which is 0 for c = 0 and inf for any other.
    """
    largest = float(jnp.finfo(x.dtype).max)
    return c * jnp.minimum(x, jnp.abs(c * largest) * largest)


def magnitude(x: jax.Array) -> jax.Array:
    """|x| with derivative 1 at 0, the one that agrees with a branch on x >= 0.

    The derivative 0 of `jnp.abs` would make second derivatives at 0 wrong, of
    sigmoid(x) = where(x >= 0, 1/(1+u), u/(1+u)) with u = exp(-|x|) for instance.
    """
    return jnp.where(x >= 0, x, -x)


@pointwise
def softplus(x: jax.Array):
    """log(1 + exp x), within 3 ulp; its derivative sigmoid(x), within 3 ulp."""
    u = jnp.exp(-magnitude(x))
    value = relu(x) + jnp.log1p(u)
    return value, (jnp.where(x >= 0, 1, u) / (1 + u),)


# Near-minimax polynomials (Chebyshev, 40 digits) in u on [0, 1] of log(1 + u)/u, whose
# first coefficient is 1: relative errors 5e-9 in float32, 2e-18 in float64.
_LOG1P = {
    jnp.dtype("float32"): (
        -0.499998926480632787,
        0.333297104989177486,
        -0.249516162628720743,
        0.196632742572048053,
        -0.152696670743632878,
        0.105436237954195261,
        -0.0563736128301073282,
        0.0195425272610141015,
        -0.00317605701843195969,
    ),
    jnp.dtype("float64"): (
        -0.499999999999998339,
        0.333333333333064607,
        -0.249999999982648114,
        0.199999999403498146,
        -0.166666654036910924,
        0.142856963095673096,
        -0.124998177695139539,
        0.111097408964601933,
        -0.0999212782176001683,
        0.090555675155907331,
        -0.0820716368043742897,
        0.0732901525553495438,
        -0.0628875467078314627,
        0.0500774239539170403,
        -0.0355305254014412454,
        0.0215110226533569742,
        -0.0106146963635855298,
        0.00404780989346751202,
        -0.00110938096817003433,
        0.000193307945534311456,
        -0.0000160202167255381931,
    ),
}


@pointwise
def log1p_unit(u: jax.Array):
    """log(1 + u) and its derivative for u in [0, 1], within 2 ulp.

    XLA's own is 2.5 ulp off there and, in a loop on CPU, takes three times as long.
    """
    return u + u * u * power_series(_LOG1P[u.dtype], u), (1 / (1 + u),)


@pointwise
def expm1(x: jax.Array):
    """exp(x) - 1 within 4 ulp (Kahan's form; XLA's own was off by 5 in JAX 0.10)."""
    u = jnp.exp(x)
    ordinary = (u != 1) & (u - 1 != -1) & jnp.isfinite(u)
    safe = jnp.where(ordinary, u, 2)
    value = jnp.where(ordinary, (safe - 1) * (x / jnp.log(safe)), u - 1)
    return jnp.where(u == 1, x, value), (jnp.exp(x),)


def expm1_ratio(y: jax.Array) -> jax.Array:
    """(e^y - 1)/y = Σ_k y^k / (k + 1)!, which is 1 at 0."""
    large = jnp.where(jnp.abs(y) < 1, 1, y)
    terms = [1 / math.factorial(k + 1) for k in range(18)]
    return _by_series(terms, y, expm1(large) / large)


def expm1_ratio_slope(y: jax.Array) -> jax.Array:
    """(y e^y - e^y + 1)/y² = Σ_k y^k / (k! (k + 2)), the slope of `expm1_ratio`."""
    large = jnp.where(jnp.abs(y) < 1, 1, y)
    terms = [1 / (math.factorial(k) * (k + 2)) for k in range(18)]
    otherwise = ((large - 1) * jnp.exp(large) + 1) / large / large
    return _by_series(terms, y, otherwise)


def _by_series(terms, y, otherwise):
    near = jnp.abs(y) < 1
    return jnp.where(near, power_series(terms, jnp.where(near, y, 0)), otherwise)

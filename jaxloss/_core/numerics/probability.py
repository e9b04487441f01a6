"""Probabilities with all their digits: p, 1 - p, log p, and log p - log q.

A probability near 1 has lost what it lacks to 1, and two logarithms that nearly agree
have lost their difference. The functions below return the parts that the textbook
forms drop.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import bitcast_convert_type, logistic, stop_gradient

from jaxloss._core.compilers.order import recomputed, told_apart
from jaxloss._core.compilers.terms import b_where_equal
from jaxloss._core.devices import sum_over_devices
from jaxloss._core.numerics.exact import (
    remainder,
    two_difference,
    two_finite_difference,
)
from jaxloss._core.numerics.functions import LOG_2_PARTS, power_series
from jaxloss._core.rule.analytic import pointwise
from jaxloss._core.rule.known import known_as
from jaxloss._core.softmax import Axes, maximum


class LogSoftmax(NamedTuple):
    """A distribution over the class axis, every part in the shape of the logits."""

    log_p: jax.Array
    lost: jax.Array  # what rounding took from log_p; carries no derivative
    p: jax.Array


class Gaps(NamedTuple):
    """Logits as gaps to their maximum; numbers of a row keep the class axis, of size 1.

    Where one class alone has the maximum, its gap is 0 for good: it is left out of the
    sum of the others, which keeps its digits, and so do derivatives. Where several
    share the maximum none is left out, and none has p near 1.
    """

    gap: jax.Array
    lost: jax.Array  # what rounding took from it; carries no derivative
    exponentials: jax.Array  # 0 for a class that alone has the maximum
    top: jax.Array  # the maximum, one number a row
    log_sum: jax.Array  # log Σ e^gap, one number a row
    whole: jax.Array  # Σ e^gap, one number a row; 1 where no class is possible
    alone: jax.Array  # 1 where one class alone has the maximum, else 0
    temperature: jax.Array | None  # one number a row
    axis: Axes
    axis_name: str | None

    def sum(self, x: jax.Array) -> jax.Array:
        """The sum over all classes, one number a row."""
        total = jnp.sum(x, axis=self.axis, keepdims=True)
        return sum_over_devices(total, self.axis_name)


def gaps(
    x: jax.Array,
    axis: Axes,
    axis_name: str | None = None,
    temperature: jax.Array | None = None,
) -> Gaps:
    """The gaps of logits in the dtype to compute in, divided by a temperature a row.

    A maximum that several share is a constant: the numbers do not depend on it.
    """

    def total(x):
        return sum_over_devices(jnp.sum(x, axis=axis, keepdims=True), axis_name)

    level = jnp.expand_dims(maximum(x, axis, axis_name), axis)
    first = x == level
    count = total(first.astype(x.dtype))
    alone = count == 1
    first = first & alone
    # The sum has the derivative of the maximum; its value, the level, needs no pass.
    top = jnp.where(alone, total(jnp.where(first, x, 0)), level)
    top = known_as(level, top)
    one = alone.astype(x.dtype)
    gap, lost, e = _below(x, level, top, first, temperature)
    rest = total(e)
    none = rest + one == 0  # no class is possible
    log_sum = jnp.log1p(jnp.where(none, 0, rest - (1 - one)))
    whole = jnp.where(none, 1, rest + one)
    return Gaps(gap, lost, e, top, log_sum, whole, one, temperature, axis, axis_name)


def _below(x, level, top, first, temperature):
    """Gaps to the maximum, what rounding took from them, and their exponentials."""
    # An impossible class has a logit without a gradient.
    x = b_where_equal(jnp.where(jnp.isneginf(x), -jnp.inf, x), level)
    gap, lost = two_difference(x, top)
    if temperature is not None:
        gap, lost = _divided(gap, lost, temperature)
    # Else the cotangent of the largest logit would be that of its gap less the sum of
    # all, in which rounding hides the others.
    gap = jnp.where(first, 0, gap)
    return gap, lost, jnp.where(first, 0, jnp.exp(gap) * (1 + lost))


def _divided(gap, lost, temperature):
    """(gap + lost)/temperature as a quotient, and what rounding took from it."""
    finite = jnp.where(jnp.isneginf(gap), 0, gap)
    ratio = finite / temperature
    a, b, q = stop_gradient((finite, temperature, ratio))
    rest = (remainder(a, b, q) + lost) / b
    ratio = jnp.where(jnp.isneginf(gap), -jnp.inf, ratio)
    return ratio, jnp.where(jnp.isfinite(rest) & jnp.isfinite(q), rest, 0)


def made_again(g: Gaps, x: jax.Array, times: int = 1) -> Gaps:
    """The gaps of x once more, so that no array of them is kept for the next pass.

    `times` tells apart those that are made again for several passes.
    """
    for _ in range(times - 1):
        numbers = map(told_apart, (g.top, g.log_sum, g.whole, g.alone))
        top, log_sum, whole, alone = numbers
        g = g._replace(top=top, log_sum=log_sum, whole=whole, alone=alone)
    top, log_sum, whole, alone = map(recomputed, (g.top, g.log_sum, g.whole, g.alone))
    gap, lost, e = _below(x, top, top, (x == top) & (alone == 1), g.temperature)
    return g._replace(
        gap=gap,
        lost=lost,
        exponentials=e,
        top=top,
        log_sum=log_sum,
        whole=whole,
        alone=alone,
    )


def log_softmax(
    logits: jax.Array, axis: Axes, axis_name: str | None = None
) -> LogSoftmax:
    """log softmax(logits) with the digits that rounding takes, and softmax(logits)."""
    return log_softmax_of(gaps(logits, axis, axis_name))


def log_softmax_of(g: Gaps) -> LogSoftmax:
    log_p, lost = two_difference(g.gap, g.log_sum)
    own_top = (g.gap == 0) & (g.alone == 1)
    p = jnp.where(own_top, 1, g.exponentials) / g.whole
    return LogSoftmax(log_p, stop_gradient(lost + g.lost), p)


@pointwise
def sigmoid(x: jax.Array):
    """1/(1 + exp(-x)) within 3 ulp, and so its derivatives."""
    p = logistic(x)
    return p, (p * logistic(-x),)


# 2 artanh(s) = 2 s + s³ · Σ_k _ARTANH[k] s^2k.
_ARTANH = {
    jnp.dtype("float32"): [2 / (2 * k + 3) for k in range(5)],
    jnp.dtype("float64"): [2 / (2 * k + 3) for k in range(11)],
}


# log x - y with log x in two parts. With x = 2^k m, m in [1/√2, √2), and the quotient
# s = (m - 1)/(m + 1), at most 0.172,
#     log x = k log 2 + 2 artanh s = k log 2 + 2 s + s³ (2/3 + 2/5 s² + ...).
# The leading terms are exact: k times the upper bits of log 2, and s to half of the
# digits (s_high), whose remainder s_low comes from an exact residual of the division.
# What is left is so small that its rounding is 1/50 of that of a plain logarithm.
# It costs no more than `jnp.log`: one division and six terms (twelve in float64).
@pointwise
def log_quotient(x: jax.Array, y: jax.Array):
    """log(x) - y for a logarithm y, within 1 ulp and 2e-9 (4e-18 in float64).

    `jnp.log(x) - y` is off by the rounding of log(x), which is all there is of a
    difference where x and exp(y) nearly agree.
    """
    info = jnp.finfo(x.dtype)
    integer = jnp.dtype(f"int{info.bits}")
    ln_2, ln_2_low = LOG_2_PARTS[x.dtype]

    def bits(v):
        return bitcast_convert_type(jnp.asarray(v, x.dtype), integer)

    def high(v):
        return bitcast_convert_type(bits(v) & (-1 << (info.nmant // 2 + 1)), x.dtype)

    scale = jnp.where(x < info.tiny, 2.0**info.nmant, 1.0)  # subnormal numbers
    k = (bits(x * scale) - bits(math.sqrt(0.5))) >> info.nmant
    m = bitcast_convert_type(bits(x * scale) - (k << info.nmant), x.dtype)
    k = k.astype(x.dtype) - jnp.where(x < info.tiny, float(info.nmant), 0.0)

    inverse = 1 / (m + 1)
    s = (m - 1) * inverse
    s_high, m_high = high(s), high(m)
    residual = (((m - 1) - s_high) - s_high * m_high) - s_high * (m - m_high)
    tail = s * (s * s) * power_series(_ARTANH[x.dtype], s * s)

    infinite = jnp.isinf(y)
    difference, lost = two_finite_difference(k * ln_2, jnp.where(infinite, 0, y))
    small = (k * ln_2_low + 2 * (residual * inverse)) + tail
    value = (difference + 2 * s_high) + (lost + small)
    value = jnp.where(infinite, -y, value)
    value = jnp.where(x == 0, -jnp.inf - y, jnp.where(x == jnp.inf, x - y, value))
    return jnp.where(x >= 0, value, jnp.nan), (1 / x, jnp.full_like(x, -1))

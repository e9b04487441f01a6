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

from jaxloss._core.numerics.exact import difference_from_own, two_difference
from jaxloss._core.numerics.functions import LOG_2_PARTS, power_series
from jaxloss._core.rule.analytic import pointwise
from jaxloss._core.softmax import Axes


class LogSoftmax(NamedTuple):
    """A distribution over the class axis, every part in the shape of the logits."""

    log_p: jax.Array
    lost: jax.Array  # what rounding took from log_p; carries no derivative
    p: jax.Array


def log_softmax(logits: jax.Array, axis: Axes) -> LogSoftmax:
    """log softmax(logits) with the digits that rounding takes, and softmax(logits).

    All are functions of the gaps to the largest logit, whose own gap is 0 for good: it
    is left out of the sum of the others, which keeps its digits, and so do derivatives.
    Where several share the maximum none is left out, and none has p near 1.
    """
    gap, lost = difference_from_own(logits, _top(logits, axis))
    first = gap == 0
    count = jnp.sum(first, axis=axis, keepdims=True, dtype=gap.dtype)
    alone = jnp.where(count <= 1, 1, 0).astype(gap.dtype)
    first = first & (count == 1)
    # Else the cotangent of the largest logit would be that of its gap less the sum of
    # all, in which rounding hides the others.
    gap = jnp.where(first, 0, gap)
    e = jnp.where(first, 0, jnp.exp(gap) * (1 + lost))
    rest = jnp.sum(e, axis=axis, keepdims=True)
    log_p, more_lost = two_difference(gap, jnp.log1p(rest - (1 - alone)))
    p = jnp.where(first, 1, e) / (alone + rest)
    return LogSoftmax(log_p, stop_gradient(lost + more_lost), p)


def _top(logits, axis):
    top = jnp.max(logits, axis=axis, keepdims=True)
    return jnp.where(jnp.isneginf(top), 0, top)


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

    difference, lost = two_difference(k * ln_2, y)
    small = (k * ln_2_low + 2 * (residual * inverse)) + tail
    value = (difference + 2 * s_high) + (lost + small)
    value = jnp.where(x == 0, -jnp.inf - y, jnp.where(x == jnp.inf, x - y, value))
    return jnp.where(x >= 0, value, jnp.nan), (1 / x, jnp.full_like(x, -1))

"""Negative log-likelihood of counts that vary more than a Poisson count."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.compilers.pieces import numbers_in_pieces
from jaxloss._core.numerics.exact import (
    largest_finite,
    remainder,
    two_difference,
    with_derivative_of,
)
from jaxloss._core.numerics.functions import LOG_2_PI, accurate_expm1, softplus
from jaxloss._core.numerics.probability import log_quotient, sigmoid
from jaxloss._core.rule.analytic import pointwise
from jaxloss.forecast._gamma import log1p_remainder, remainder_of_inverse
from jaxloss.forecast._spread import (
    damped,
    log1p_product,
    log_factorial,
    spread,
    spread_of_few,
    spread_slopes,
)


@public()
def negative_binomial_nll_loss(
    means: ArrayLike,
    targets: ArrayLike,
    dispersions: ArrayLike,
    *,
    log_input: bool = False,
    zero_inflation_logits: ArrayLike | None = None,
    full: bool = True,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Negative binomial negative log-likelihood of counts, also zero-inflated.

    Choose it over `poisson_nll_loss` for counts whose variance exceeds their mean, as
    in sales or gene expression: the variance is $m + a m^2$.

    With $m$ the means, $k$ the targets, $a$ the dispersions and $r = 1 / a$:

    $$ -\log \frac{\Gamma(k + r)}{k! \; \Gamma(r)} \Big( \frac{r}{r + m} \Big)^r
       \Big( \frac{m}{r + m} \Big)^k $$

    With zero-inflation logits $z$ and $\pi = \operatorname{sigmoid}(z)$, the
    probability $p$ of that becomes $\pi + (1 - \pi) p$ for a target of 0 and
    $(1 - \pi) p$ for any other.

    Args:
        means: Floating, `[...]`: predicted means, at least 0, or their logarithms if
            `log_input`.
        targets: Counts, real, at least 0, broadcastable to `means`.
        dispersions: Real, at least 0, broadcastable to `means`: `[]` for one dispersion
            of all examples. 0 is the Poisson distribution. Many libraries have the
            inverse dispersion, or total count, $r$.
        log_input: Whether `means` are logarithms, which neither over- nor underflow.
        zero_inflation_logits: Real, broadcastable to `means`: logits of the probability
            that a count is 0 by another cause. None leaves that out.
        full: Whether to include $\log k!$, without which the loss is of either sign.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats; a scalar if reduced.

    Gradient:
        $(m - k) / (m (1 + a m))$ for a mean, $m$ times that for its logarithm. For a
        dispersion $C_a - w^2 (v - \log(1 + v)) / v^2$ with $w = (k - m) / (1 + a m)$,
        $v = a w$ and $C_a$ the derivative of $\frac{1}{2} \log(1 + a k) + S(r) - S(k +
        r)$, $S$ the remainder of Stirling's formula for $\log \Gamma$; for a target
        $\psi(k + 1) - \psi(k + r) + \log(r + m) - \log m$. With zero inflation, these
        times $(1 - \pi) p / (\pi + (1 - \pi) p)$ for a target of 0.

    Numerics:
        No difference of log-gamma functions is taken: the likelihood and its slopes
        keep their digits for every dispersion, mean and count. A mean of 0 gives
        0 for a count of 0 and inf for any other. A negative count, mean or dispersion
        gives NaN, and raises under `checkify`. With zero inflation, the slopes at a
        count of 0 have a relative error of up to 3e-9 times the loss without it, which
        is below rounding up to a loss of 40, and 3e-6 at 1,000.

    Example:
        >>> import jaxloss as jl
        >>> loss = jl.negative_binomial_nll_loss([3.0, 3.0], [5, 5], [1e-8, 0.5])
        >>> [f"{x:.5f}" for x in loss]
        ['2.29443', '2.59495']

    References:
        Joseph M. Hilbe, "Negative Binomial Regression", 2nd edition, 2011,
        https://doi.org/10.1017/CBO9780511973420, section 8

        Diane Lambert, "Zero-Inflated Poisson Regression, with an Application to Defects
        in Manufacturing", 1992, https://doi.org/10.2307/1269547
    """
    inflated = zero_inflation_logits is not None
    named = {"means": means, "targets": targets, "dispersions": dispersions}
    if inflated:
        named["zero_inflation_logits"] = zero_inflation_logits
    (m, k, a, *logits), tail = checks.elementwise(where, weights, reduction, **named)
    checked = {"targets": k, "dispersions": a} | ({} if log_input else {"means": m})
    valid = True
    for name, value in checked.items():
        holds = value >= 0
        m = checks.check_values(name, m, tail.counts(holds), "at least 0")
        valid = valid & holds
    loss = _negative_binomial(
        m, k, a, log_input=log_input, full=full, inflated=inflated
    )
    loss = jnp.where(valid, loss, jnp.nan)
    if inflated:
        lost = _lost_of_none(m, a, loss, log_input)
        loss = _inflated(loss, lost, *logits, k == 0)
    return tail.reduce(loss)


# With S the remainder of Stirling's formula, r = 1/a, and for k >= 1, the loss is
#     T + C + D,     T = log k! - k log k + k,     C = log(1 + a k)/2 + S(r) - S(k + r),
#     D = k log(1 + u) - r log(1 + v),     u = (k - m)/(m (1 + a k)),
#     v = a w,     w = (k - m)/(1 + a m),
# three terms that are never below 0, of which none is a difference of larger ones. For
# small u, with L(z) = (z - log(1 + z))/z², D = u w + w v L(v) - k u² L(u). The
# derivatives of D are
#     dD/dm = -w/m,     dD/dk = log(1 + u),     dD/da = -w² L(v).
# For k < 1, and without log k!, the terms of the logarithms stand alone:
#     m log(1 + a m)/(a m) - k (log m + log(1 + v)) + a k² L(a k) + C [+ log k!].
def _value(m, k, a, *, log_input, full, **_):
    x = _Terms.of(m, k, a, log_input)
    few = spread_of_few(jnp.where(k < 1, k, 0), a)
    constant = jnp.where(k < 1, few, spread(jnp.where(k < 1, 1, k), a))
    apart = x.apart(k, a) + constant
    if not full:
        return apart
    apart += jnp.where(k == 0, 0, log_factorial(jnp.where(k < 1, k, 0)))
    count = jnp.where(k < 1, 1, k)
    together = _stirling(count) + (constant + x.deviance(k, a))
    return jnp.where(k < 1, apart, together)


def _slopes(m, k, a, *, log_input, full, inflated):
    x = _Terms.of(m, k, a, log_input)
    by_count, by_dispersion = spread_slopes(k, a)
    far = jnp.abs(x.v) >= 0.5
    some = jnp.where(far, a, 1)
    bend = jnp.where(
        far,
        (x.w - x.log1p_v / some) / some,
        x.w * (x.w * log1p_remainder(jnp.where(far, 0, x.v))),
    )
    by_dispersion = by_dispersion - bend
    few = (k == 0) | (k == 1)
    exact = stop_gradient(x.bend_of_few(jnp.where(few, k, 0), a))
    by_dispersion = with_derivative_of(
        jnp.where(few, exact, stop_gradient(by_dispersion)), by_dispersion
    )
    by_target = by_count - (x.log_rate + x.log1p_v)
    if full:
        small = k < 1
        by_target += _slope(log_factorial, jnp.where(small, k, 0))
        count = jnp.where(small, 1, k)
        whole = x.log1p_u + _slope(_stirling, count) + by_count
        by_target = jnp.where(small, by_target, whole)
    by_mean = -x.w if log_input else -_per_mean(x, m, a)
    if inflated:  # `_inflated` may multiply a slope by 0, which is NaN for inf
        by_mean, by_dispersion = map(largest_finite, (by_mean, by_dispersion))
    return by_mean, by_target, by_dispersion


@pointwise
def _negative_binomial(m, k, a, **static):
    def value_and_slopes(*inputs):
        return _value(*inputs, **static), _slopes(*inputs, **static)

    return numbers_in_pieces(value_and_slopes, m, k, a)


def _slope(function, x):
    return jax.jvp(function, (x,), (jnp.ones_like(x),))[1]


def _per_mean(x, m, a):
    """w/m, also where (k - m)/m or a m overflows."""
    over = jnp.isinf(x.rho) | jnp.isinf(a * m)
    far = jnp.where(over, x.w, 0) / jnp.where(over, m, 1)
    near = damped(jnp.where(over, 0, x.rho), a, jnp.where(over, 0, m))
    return jnp.where(over, far, near)


def _log1p_of_exp(a, x, exp):
    """log(1 + a e^x), also where e^x or the product overflows."""
    over = (a > 0) & jnp.isinf(a * exp)
    x_near = jnp.where(jnp.isinf(exp) | over, 0, x)
    far = softplus(jnp.log(jnp.where(over, a, 1)) + jnp.where(over, x, 0))
    return jnp.where(over, far, jnp.log1p(a * jnp.exp(x_near)))


def _stirling(k):
    """T = log k! - k log k + k for k >= 1."""
    return 0.5 * (LOG_2_PI + jnp.log(k)) + remainder_of_inverse(1 / k)


def _is_near(u):
    """Where D is the sum of its remainders, not a difference of logarithms."""
    return (u > -0.5) & (u < 1)


@pointwise
def _relative_gap(k, m):
    """(k - m)/m, -1 for k = 0."""
    some = jnp.where((k == 0) & (m == 0), 1, m)
    return jnp.where(k == 0, -1, (k - m) / some), (1 / some, -(k / some) / some)


@dataclasses.dataclass(frozen=True)
class _Terms:
    """What value and slopes are made of; finite wherever they are."""

    rate: jax.Array  # m
    log_rate: jax.Array
    rho: jax.Array  # (k - m)/m
    w: jax.Array
    v: jax.Array
    u: jax.Array
    log1p_am: jax.Array
    log1p_ak: jax.Array
    log1p_v: jax.Array
    log1p_u: jax.Array

    @classmethod
    def of(cls, m, k, a, log_input):
        some = jnp.where(k > 0, k, 1)
        if log_input:
            log_rate, large = m, m > 0
            over = jnp.isinf(jnp.exp(m))
            finite = jnp.exp(jnp.where(over, 0, m))
            rate = jnp.where(over, jnp.inf, finite)  # without an infinite slope
            ratio = log_quotient(some, m)
            close = (k > 0) & (jnp.abs(ratio) < 1)
            near = accurate_expm1(jnp.where(close, ratio, 0))
            inverse = jnp.exp(-jnp.where(large, m, 0))
            rho = jnp.where(close, near, k * inverse - 1)
            gap = jnp.where(close, finite * near, k - finite)
            every = jnp.exp(-stop_gradient(m))
            error = jnp.where(close, near, k * every - 1)
            log1p_am = _log1p_of_exp(a, m, rate)
        else:
            log_rate, rate, large = jnp.log(m), m, m > 1
            ratio = jnp.log(some) - log_rate
            inverse = 1 / jnp.where(large, m, 1)
            rho, gap = _relative_gap(k, m), k - m
            every, error = 1 / stop_gradient(m), rho
            log1p_am = log1p_product(a, m)
        # Two forms, since a m may overflow, and 1/m may be flushed to 0.
        far = large & ~(a * rate < jnp.inf)
        w = jnp.where(
            far,
            jnp.where(far, rho, 0) / jnp.where(far, inverse + a, 1),
            damped(jnp.where(far, 0, gap), a, jnp.where(far, 0, rate)),
        )
        v = jnp.where(a == 0, 0, a * jnp.where(a == 0, 0, w))
        log1p_ak = log1p_product(a, k)
        log_v = log1p_ak - log1p_am
        # 1 + v = (1 + a k)/(1 + a m), or by logarithms where a product overflows.
        fits = jnp.isfinite(a * k) & jnp.isfinite(a * rate)
        quotient = (1 + a * jnp.where(fits, k, 0)) / (1 + a * jnp.where(fits, rate, 0))
        log1p_v = jnp.where(fits, jnp.log(quotient), log_v)
        near = jnp.abs(v) < 0.5
        log1p_v = jnp.where(near, jnp.log1p(jnp.where(near, v, 0)), log1p_v)
        over = jnp.isinf(error) | (a * k > 2.0**120)
        # A product: XLA makes (k - m)/m/c a division by m c, which may overflow.
        u = error * (1 / jnp.where(over, 1, 1 + a * k))
        u = jnp.where(over, gap / some * every / (1 / some + a), u)
        u = stop_gradient(u)
        # 1 + u = k (1/m + a)/(1 + a k), or by logarithms where that leaves the range.
        near = _is_near(u)
        per_count = jnp.where(over, 1 / (1 / some + a), some / (1 + a * some))
        # 1/m + a, of which 1/m may be flushed to 0
        wide = large & ~far
        per_mean = (1 + a * rate) / jnp.where(wide, rate, 1)
        odds = jnp.where(wide, per_mean, every + a) * per_count
        within = (odds > 0) & (odds < float(jnp.finfo(m.dtype).max))
        log_u = ratio - log1p_v
        log1p_u = jnp.where(within, jnp.log(jnp.where(within, odds, 1)), log_u)
        log1p_u = jnp.where(near, jnp.log1p(jnp.where(near, u, 0)), log1p_u)
        log1p_u, log1p_v = (
            with_derivative_of(stop_gradient(value), alike)
            for value, alike in ((log1p_u, ratio - log_v), (log1p_v, log_v))
        )
        return cls(rate, log_rate, rho, w, v, u, log1p_am, log1p_ak, log1p_v, log1p_u)

    def deviance(self, k, a):
        """D, in a rule's value: it has no derivative."""
        w, v, u = self.w, self.v, self.u
        curve = v * log1p_remainder(jnp.where(jnp.abs(v) < 0.5, v, 0))
        taken = self.log1p_v / a
        far = jnp.abs(v) >= 0.5
        near = u * w + jnp.where(far, w - taken, w * curve)
        near -= (k * u) * (u * log1p_remainder(jnp.where(_is_near(u), u, 0)))
        # w is -inf too where the product is.
        logs = jnp.maximum(k * self.log1p_u, float(jnp.finfo(k.dtype).min))
        apart = logs - jnp.where(far, taken, w * (1 - curve))
        return jnp.where(_is_near(u), near, apart)

    def bend_of_few(self, k, a):
        """The slope in a for k = 0 and 1, where log Γ(k + r)/Γ(r) is k log r.

        The general form is a difference that would leave rounding alone for small m.
        """
        am = jnp.where(a == 0, 0, a * self.rate)
        over = jnp.isinf(self.rate) | jnp.isinf(am)
        m = jnp.where(over, 0, self.rate)
        inverse = 1 / jnp.where(over, self.rate, 1) + a
        share = jnp.where(over, 1 / inverse, m / (1 + a * m))  # m/(1 + am)
        z = jnp.where(am < 0.5, am, 0)
        # (log(1 + z) - z/(1 + z))/z² = 1/(1 + z) - L(z).
        inverse = 1 / (1 + z)
        near = k * inverse - self.rate * (inverse - log1p_remainder(z))
        taken = (self.log1p_am - a * share) / a / a
        return jnp.where(am < 0.5, self.rate * near, k * share - taken)

    def apart(self, k, a):
        """The loss without log k! and C, in a rule's value."""
        rate = _per_dispersion(self.rate, a, self.log1p_am)
        ak = a * k
        bend = ak * log1p_remainder(jnp.where(ak < 0.5, ak, 0))
        bend = jnp.where(ak < 0.5, k * bend, k - self.log1p_ak / a)
        logs = jnp.where(k == 0, 0, k * (self.log_rate + self.log1p_v))
        return (rate - logs) + bend


def _per_dispersion(x, a, log1p):
    """log(1 + a x)/a."""
    ax = jnp.where(a == 0, 0, a * x)
    near = x * (1 - ax * log1p_remainder(jnp.where(ax < 0.5, ax, 0)))
    return jnp.where(ax < 0.5, near, log1p / a)


# The sigmoid of z + n below multiplies the rounding error of n by n. With
# y = a m and the rest r of 1 + y and p of a n,
#     log(1 + y)/a - n = (log(1 + y + r) - (a n + p))/a,
# by `log_quotient`, to 3e-9 of n, or m - n - m y L(y) for small y.
def _lost_of_none(m, a, n, log_input):
    """What rounding took from n = log(1 + a m)/a; no derivative."""
    m, a, n = stop_gradient((m, a, n))
    rate, log_rate = (jnp.exp(m), m) if log_input else (m, jnp.log(m))
    # How far the logarithm of `rate` is from the true one, or log m from its rounding.
    gap = log_quotient(rate, log_rate)
    off = gap if log_input else 0
    y, product = jnp.where(a == 0, 0, a * rate), jnp.where(a == 0, 0, a * n)
    small = y < 2.0**-8
    few = (rate - n) - rate * (y * log1p_remainder(jnp.where(small, y, 0)) + off)
    total, rest = two_difference(y, -jnp.ones_like(y))
    rest = rest - (remainder(y, a, rate) + y * off)
    near = log_quotient(total, product) + rest / total
    beyond, rest = two_difference(product, log_rate)
    beyond = log_quotient(a, beyond) - rest + (0 if log_input else gap)
    many = jnp.where(jnp.isinf(y), beyond, near) + remainder(product, a, n)
    lost = jnp.where(small, few, many / a)
    return jnp.where((n > 0.1) & (n < jnp.inf), lost, 0)


# Of a count of 0 with the loss n, and q = sigmoid(-z) (1 - e^-n),
#     f = -log(1 - q) = softplus(z) - log(e^z + e^-n),
#     df/dn = sigmoid(-z - n),     df/dz = sigmoid(z + n) sigmoid(-z) (e^-n - 1).
# Of any other count, f = n + softplus(z).
@pointwise
def _inflated(n, lost, z, zero):
    nothing = -accurate_expm1(-jnp.where(zero, n, 0))
    q = sigmoid(-z) * nothing
    near = q < 0.5
    apart = softplus(z) - jnp.maximum(z, -n) - jnp.log1p(jnp.exp(-jnp.abs(z + n)))
    none = jnp.where(near, -jnp.log1p(-jnp.where(near, q, 0)), apart)
    value = jnp.where(zero, none, n + softplus(z))
    total, rest = two_difference(z, -jnp.where(zero, n, 0))
    rest = jnp.where(jnp.isfinite(total), rest + jnp.where(zero, lost, 0), 0)
    total, rest = two_difference(total, -rest)
    # The sigmoids of total + rest, whose rounding error they multiply by total.
    by_loss = sigmoid(-total) * (1 - rest * sigmoid(total))
    by_loss = jnp.where(zero, by_loss, 1)
    own = sigmoid(total) * (1 + rest * sigmoid(-total))
    by_logit = jnp.where(zero, -own * q, own)
    return value, (by_loss, jnp.zeros_like(lost), by_logit, None)

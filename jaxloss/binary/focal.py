"""The focal loss: a cross entropy times a power of the probability it misses."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.typing import ArrayLike

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import at_least, between
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.numerics.exact import (
    quotient,
    remainder,
    two_difference,
    zero_safe_product,
)
from jaxloss._core.numerics.functions import exp_minus, log1p_unit, magnitude
from jaxloss._core.rule.analytic import analytic, pointwise


@public(alpha=between(0, 1), gamma=at_least(0))
def sigmoid_focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: ArrayLike | None = None,
    gamma: ArrayLike = 2.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Binary focal loss: a binary cross entropy that gives easy examples less weight.

    Choose it over `sigmoid_binary_cross_entropy`, to which it is equal at gamma 0,
    where easy negatives outnumber all other examples, as in dense object detection.

    With $p = 1 / (1 + e^{-x})$ at the logits $x$, $y$ the labels,
    $p_t = y\,p + (1 - y)(1 - p)$ and $\ell$ their binary cross entropy:

    $$ (\alpha\,y + (1 - \alpha)(1 - y)) \, (1 - p_t)^{\gamma} \, \ell $$

    Args:
        logits: Floating, `[...]`, log-odds.
        labels: Real, 0, 1 or a probability between them, broadcastable to `logits`.
        alpha: $\alpha$ in [0, 1], the weight of the positive class against
            $1 - \alpha$, broadcastable to `logits`. None, as in optax, omits the
            factor.
        gamma: $\gamma \ge 0$, broadcastable to `logits`; a larger gamma reduces the
            loss of easy examples more. 2.0 as in the paper.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, at least 0 for labels in [0, 1].

    Gradient:
        For `logits` at a hard label, without the factor of `alpha`,
        $\pm(1 - p_t)^{\gamma} (\gamma\,p_t \log(p_t) - (1 - p_t))$, plus for label 1
        and minus for label 0. Also differentiable in `labels`, `alpha` and `gamma`;
        smooth everywhere.

    Numerics:
        At hard labels value and gradient are within 4 units in the last place for whole
        gammas up to 5. Derivatives are finite for every gamma and finite logits.

    Raises:
        ValueError: If `alpha` is outside [0, 1] or `gamma` is negative.

    Example:
        >>> import jaxloss as jl
        >>> [f"{x:.4f}" for x in jl.sigmoid_focal_loss([0.0, 2.0], [1.0, 1.0])]
        ['0.1733', '0.0018']

    References:
        Tsung-Yi Lin, Priya Goyal, Ross Girshick, Kaiming He and Piotr Dollár, "Focal
        Loss for Dense Object Detection", 2017, equations 4 and 5,
        https://arxiv.org/abs/1708.02002
    """
    balance = {} if alpha is None else {"alpha": alpha}
    (x, y, gamma, *balance), tail = checks.elementwise(
        where,
        weights,
        reduction,
        logits=logits,
        labels=labels,
        gamma=gamma,
        **balance,
    )
    loss = _focal(x, y, gamma)
    for a in balance:
        loss = loss * _balance(a, y)
    return tail.reduce(loss)


# In a = |x|, with u = e^-a, `strong` the label's mass on the class that x speaks for
# and `weak` the mass on the other, cross entropy h and miss = 1 - p_t are
#     h = weak a + log1p(u),                 dh/da = (weak - strong u)/(1 + u),
#     miss = (weak + strong u)/(1 + u),      d log(miss)/da = lean/(1 + u),
# with lean = (weak - strong) u/(weak + strong u), at most 1. A power gamma multiplies
# what rounding took from miss, so that this is known, and put back to first order.
def _sides(x, y, a):
    right = x == a
    u, u_lost = exp_minus(a)
    return (
        right,
        u,
        u_lost,
        jnp.where(right, y, 1 - y),
        jnp.where(right, 1 - y, y),
    )


def _miss(u, u_lost, strong, weak):
    """miss, how much it is short relative to itself, and the same of 1/(1 + u).

    The products with -u keep the uses of u few enough for XLA to fuse it.
    """
    v = -u
    share = 1 / (1 - v)
    above = weak - strong * v
    miss = above * share
    short = ((above - miss) + miss * v) + (strong - miss) * u_lost
    short = short / jnp.where(above == 0, 1, above)
    share_short = ((1 - share) + share * v) - share * u_lost
    return miss, stop_gradient(short), share, stop_gradient(share_short)


def _lean(u, strong, weak):
    above = weak + strong * u
    return (weak - strong) * quotient(u, jnp.where(above == 0, 1, above))


def _log_miss(x, y):
    """log(miss), and what rounding took from it."""
    finite = jnp.where(jnp.isinf(x), 0, x)
    _, u, u_lost, strong, weak = _sides(finite, y, magnitude(finite))
    above = weak + strong * u
    low = above < 0.5
    log = jnp.log(jnp.where(low & (above > 0), above, 1))
    log = jnp.where(low, log, jnp.log1p(-strong * jnp.where(low, 0, (1 - u) - u_lost)))
    # At a hard label log(above) is -a, rounded once less; the derivatives are its own.
    exact = jnp.where(weak == 0, -strong * magnitude(finite), log)
    log = _valued(stop_gradient(exact), log)
    soft, soft_lost = log1p_unit(u, u_lost)
    log, lost = two_difference(log, soft)
    return log, lost - soft_lost


# The modulating factor M = miss^gamma,
#     dM/dx = gamma M · d log(miss)/dx,   where the power's rule needs miss^(gamma - 1),
#     dM/dy = gamma miss^(gamma - 1) · d miss/dy,   dM/dgamma = M log(miss).
def _modulate_forward(x, y, gamma):
    _, *sides = _sides(x, y, magnitude(x))
    miss, *_ = _miss(*sides)
    # A negative power belongs to a derivative, in which h vanishes before miss does.
    miss = jnp.where((gamma < 0) & (miss == 0), 1, miss)
    return _power(miss, gamma), (x, y, gamma)


def _power(miss, gamma):
    """miss^gamma; XLA makes a constant cube two products, which round twice."""
    square = miss * miss
    cube = square * miss
    lost = remainder(cube, square, miss) + remainder(square, miss, miss) * miss
    return jnp.where(gamma == 3, cube - lost, miss**gamma)


def _modulate_backward(residuals, cotangent):
    x, y, gamma = residuals
    right, u, _, strong, weak = _sides(x, y, magnitude(x))
    factor = cotangent * _modulate(x, y, gamma)
    x_slope = factor * gamma * (_lean(u, strong, weak) / (1 + u))
    y_slope = cotangent * _modulate_y(x, y, gamma)
    return jnp.where(right, x_slope, -x_slope), y_slope, factor * _log_miss(x, y)[0]


_modulate = analytic(_modulate_forward, _modulate_backward)


def _modulate_y(x, y, gamma):
    slope = zero_safe_product(gamma, _modulate(x, y, gamma - 1)) * _tanh_half(x)
    return jnp.where(x >= 0, -slope, slope)


def _tanh_half(x):
    """tanh(abs(x)/2), of which -tanh(x/2) is d miss/dy."""
    u, u_lost = exp_minus(magnitude(x))
    return ((1 - u) - u_lost) / (1 + u)


# A factor that keeps what rounding took from a small term from being flushed to 0.
_LIFT = 2.0**40


# f = M h and df/da = (M (weak - strong u) + gamma f lean)/(1 + u), where a hard label
# leaves two terms of one sign. A mean and its gradient are two passes over x and y and
# one over f, and the slope is written over f: no temporaries, and twice the speed of
# sigmoid and log-sigmoid. For that the two share nothing but f, which XLA would write
# to memory: not even |x|, hence two forms of it, nor x >= 0, which is x = |x|.
def _focal_forward(x, y, gamma):
    a = jnp.abs(x)
    _, u, u_lost, strong, weak = _sides(x, y, a)
    miss, short, *_ = _miss(u, u_lost, strong, weak)
    log, log_lost = log1p_unit(u, u_lost)
    h = weak * a + log
    value = _power(miss, gamma) * (h + (h * (gamma * short) + log_lost))
    return jnp.where(jnp.isinf(a), zero_safe_product(weak, a), value), (x, y, gamma)


def _focal_backward(residuals, cotangent):
    x, y, gamma = residuals
    right, u, u_lost, strong, weak = _sides(x, y, magnitude(x))
    _, short, share, share_short = _miss(u, u_lost, strong, weak)
    f, factor = _focal(x, y, gamma), _modulate(x, y, gamma)
    outer = factor * _LIFT * (weak - strong * u)
    # An f beyond 1e26 comes with a lean of 0.
    inner = gamma * _lean(u, strong, weak) * (jnp.minimum(f, 1e26) * _LIFT)
    slope = outer + inner
    lost = (inner - slope) + outer + outer * (gamma * short)
    lost = lost + slope * share_short - factor * _LIFT * (strong * u_lost)
    slope = (slope + stop_gradient(lost)) * share / _LIFT * cotangent
    return (
        jnp.where(right, slope, -slope),
        cotangent * _label_slope(x, y, gamma, factor),
        cotangent * _gamma_slope(x, y, gamma, factor),
    )


# df/dy = h dM/dy - M x = -sign(x) M (a + gamma h (1 - u)/above), and df/dgamma =
# M h log(miss). Each exact to a few roundings, with the derivatives of a form of which
# no part leaves the range.
def _label_slope(x, y, gamma, factor):
    finite = jnp.where(jnp.isinf(x), 0, x)
    right, u, u_lost, strong, weak = _sides(finite, y, magnitude(finite))
    _, short, *_ = _miss(u, u_lost, strong, weak)
    h, h_lost = _entropy(u, u_lost, weak * magnitude(finite))
    above = weak + strong * u
    above = jnp.where(above == 0, 1, above)
    press = h / above
    press_lost = (remainder(h, above, press) + h_lost - press * strong * u_lost) / above
    gap = 1 - u
    gap_lost = ((1 - gap) - u) - u_lost
    side = gamma * press * gap
    side_lost = gamma * (press * gap_lost + press_lost * gap)
    total, total_lost = two_difference(magnitude(finite), -side)
    total = total + (total_lost + side_lost + zero_safe_product(gamma * short, total))
    slope = factor * jnp.where(right, -total, total)
    return _valued(stop_gradient(slope), _pull(x, y, gamma) - factor * finite)


def _gamma_slope(x, y, gamma, factor):
    finite = jnp.where(jnp.isinf(x), 0, x)
    _, u, u_lost, strong, weak = _sides(finite, y, magnitude(finite))
    _, short, *_ = _miss(u, u_lost, strong, weak)
    h, h_lost = _entropy(u, u_lost, weak * magnitude(finite))
    log_miss, log_miss_lost = _log_miss(x, y)
    whole = h * log_miss
    part = whole * (gamma * short) - remainder(whole, h, log_miss)
    part = part + h * log_miss_lost + h_lost * log_miss
    slope = factor * (whole + part)
    return _valued(stop_gradient(slope), h * factor * log_miss)


def _entropy(u, u_lost, rest):
    """h = rest + log1p(u), and what rounding took from it."""
    log, log_lost = log1p_unit(u, u_lost)
    h, h_lost = two_difference(rest, -log)
    return h, h_lost + log_lost


@pointwise
def _valued(value, alike):
    """The value, with the derivatives of another that is alike."""
    return value, (jnp.zeros_like(value), jnp.ones_like(alike))


_focal = analytic(_focal_forward, _focal_backward)


# Its slopes in one piece each: at an infinite loss the two terms' would be inf - inf.
@pointwise
def _balance(alpha, y):
    return alpha * y + (1 - alpha) * (1 - y), (2 * y - 1, 2 * alpha - 1)


# h dM/dy = gamma h N with N = miss^(gamma - 1) d and d = d miss/dy. Its slope in y,
# gamma N ((gamma - 1) h d/miss - x), is finite where that of N alone overflows.
@pointwise
def _pull(x, y, gamma):
    right, u, u_lost, strong, weak = _sides(x, y, magnitude(x))
    sign = jnp.where(right, 1, -1)
    finite = jnp.where(jnp.isinf(x), 0, x)
    h = weak * magnitude(finite) + log1p_unit(u, u_lost)[0]
    miss, *_ = _miss(u, u_lost, strong, weak)
    d = -sign * _tanh_half(x)
    less = _modulate(x, y, gamma - 1)
    pull = zero_safe_product(gamma, less * d)
    pressed = (gamma - 1) * (h / jnp.where(miss == 0, 1, miss)) * d
    h_slope = (weak - strong * u) * pull
    lean = (gamma - 1) * _lean(u, strong, weak) * pull
    bend = zero_safe_product(gamma, less) * (2 * u / (1 + u))
    return h * pull, (
        (sign * (h_slope + h * lean) - h * bend) / (1 + u),
        pull * (pressed - finite),
        h * (less * d + pull * _log_miss(x, y)[0]),
    )

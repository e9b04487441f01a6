"""Binary focal loss: cross entropy times (1 - p_t)^gamma, a power of the miss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import at_least, between
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.numerics.exact import (
    quotient,
    remainder,
    two_difference,
    with_derivative_of,
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

    Keras: `BinaryFocalCrossentropy`.

    Args:
        logits: Floating, `[...]`, log-odds.
        labels: Real, 0, 1 or a probability between them, broadcastable to `logits`.
            Others, such as -1, give the value of the formula and raise under
            `checkify`.
        alpha: $\alpha$ in [0, 1], broadcastable to `logits`, the weight of label 1.
            None, as in optax, omits the factor.
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
    optional = {} if alpha is None else {"alpha": alpha}
    (x, y, gamma, *alphas), tail = checks.elementwise(
        where,
        weights,
        reduction,
        logits=logits,
        labels=labels,
        gamma=gamma,
        **optional,
    )
    y = checks.check_probability("labels", y, tail)
    loss = _focal(x, y, gamma)
    for alpha in alphas:
        loss = loss * _alpha_t(alpha, y)
    return tail.reduce(loss)


# Let a = |x| and u = e^-a. `agree` is the label's mass on the class that x predicts
# (the positive class for x >= 0), `disagree` its mass on the other class. Then the
# cross entropy h and miss = 1 - p_t are
#     h = disagree a + log1p(u),               dh/da = (disagree - agree u)/(1 + u),
#     miss = (disagree + agree u)/(1 + u),     d log(miss)/da = v/(1 + u),
#     v = (disagree - agree) u/(disagree + agree u), at most 1.
# A power gamma multiplies the relative rounding error of miss. Therefore the functions
# below also return rounding errors, which the caller adds to first order: `y_error` is
# the exact value of y less the rounded y, or the same divided by y where it says
# "relative".
def _exp_and_masses(x, y, a):
    """x >= 0, u = e^-a and its rounding error, `agree` and `disagree`."""
    positive = x == a
    u, u_error = exp_minus(a)
    return (
        positive,
        u,
        u_error,
        jnp.where(positive, y, 1 - y),
        jnp.where(positive, 1 - y, y),
    )


def _miss(u, u_error, agree, disagree):
    """miss and sigmoid(a) = 1/(1 + u), each with its relative rounding error.

    The products use -u instead of u: this keeps the uses of u few enough for XLA to
    fuse it into them instead of storing it.
    """
    minus_u = -u
    sigmoid = 1 / (1 - minus_u)
    numerator = disagree - agree * minus_u
    miss = numerator * sigmoid
    error = ((numerator - miss) + miss * minus_u) + (agree - miss) * u_error
    error = error / jnp.where(numerator == 0, 1, numerator)
    sigmoid_error = ((1 - sigmoid) + sigmoid * minus_u) - sigmoid * u_error
    return miss, stop_gradient(error), sigmoid, stop_gradient(sigmoid_error)


def _log_miss_slope(u, agree, disagree):
    """v = (1 + u) d log(miss)/da."""
    numerator = disagree + agree * u
    excess = disagree - agree
    return excess * quotient(u, jnp.where(numerator == 0, 1, numerator))


def _log_miss(x, y):
    """log(miss) and its rounding error."""
    finite = jnp.where(jnp.isinf(x), 0, x)
    _, u, u_error, agree, disagree = _exp_and_masses(finite, y, magnitude(finite))
    numerator = disagree + agree * u
    low = numerator < 0.5
    log = jnp.log(jnp.where(low & (numerator > 0), numerator, 1))
    numerator_minus_1 = -agree * jnp.where(low, 0, (1 - u) - u_error)
    log = jnp.where(low, log, jnp.log1p(numerator_minus_1))
    # At a hard label log(numerator) is -a, without the rounding of u. This value keeps
    # the derivatives of the general formula.
    exact = jnp.where(disagree == 0, -agree * magnitude(finite), log)
    log = with_derivative_of(stop_gradient(exact), log)
    softplus, softplus_error = log1p_unit(u, u_error)
    log, error = two_difference(log, softplus)
    return log, error - softplus_error


# The modulating factor M = miss^gamma:
#     dM/dx = gamma M · d log(miss)/dx,     which needs no miss^(gamma - 1),
#     dM/dy = gamma miss^(gamma - 1) · d miss/dy,     dM/dgamma = M log(miss).
def _modulate_forward(x, y, gamma):
    _, *exp_and_masses = _exp_and_masses(x, y, magnitude(x))
    miss, *_ = _miss(*exp_and_masses)
    # Only derivatives use a negative gamma, and they multiply M by h. Where miss
    # underflows to 0, h is 0 too, and any finite M gives the limit 0.
    miss = jnp.where((gamma < 0) & (miss == 0), 1, miss)
    return _power(miss, gamma), (x, y, gamma)


def _power(miss, gamma):
    """miss^gamma.

    For a constant gamma of 3 XLA replaces the power by two products, which round twice.
    Here the cube is corrected by both rounding errors.
    """
    square = miss * miss
    cube = square * miss
    excess = remainder(cube, square, miss) + remainder(square, miss, miss) * miss
    return jnp.where(gamma == 3, cube - excess, miss**gamma)


def _modulate_backward(residuals, cotangent):
    x, y, gamma = residuals
    positive, u, _, agree, disagree = _exp_and_masses(x, y, magnitude(x))
    factor = cotangent * _modulate(x, y, gamma)
    x_slope = factor * gamma * (_log_miss_slope(u, agree, disagree) / (1 + u))
    y_slope = cotangent * _modulate_y(x, y, gamma)
    x_slope = jnp.where(positive, x_slope, -x_slope)
    return x_slope, y_slope, factor * _log_miss(x, y)[0]


_modulate = analytic(_modulate_forward, _modulate_backward)


def _modulate_y(x, y, gamma):
    """dM/dy."""
    slope = zero_safe_product(gamma, _modulate(x, y, gamma - 1)) * _tanh_half(x)
    return jnp.where(x >= 0, -slope, slope)


def _tanh_half(x):
    """tanh(|x|/2) = (1 - u)/(1 + u); d miss/dy is -tanh(x/2)."""
    u, u_error = exp_minus(magnitude(x))
    return ((1 - u) - u_error) / (1 + u)


# Without this factor XLA would flush the rounding errors of small terms to 0.
_SCALE = 2.0**40


# f = M h and df/da = (M (disagree - agree u) + gamma f v)/(1 + u). At a hard label both
# terms have the same sign.
#
# XLA for CPU computes a mean with its gradient in two passes over x and y and one over
# f, and writes the slope into the memory of f: no temporary arrays, and twice as fast
# as sigmoid and log-sigmoid. This needs forward and backward to share no subexpression
# but f, since XLA would store it for both passes. Hence one uses `jnp.abs` and the
# other `magnitude`, and `_exp_and_masses` tests x == a instead of x >= 0.
def _focal_forward(x, y, gamma):
    a = jnp.abs(x)
    _, u, u_error, agree, disagree = _exp_and_masses(x, y, a)
    miss, miss_error, *_ = _miss(u, u_error, agree, disagree)
    softplus, softplus_error = log1p_unit(u, u_error)
    h = disagree * a + softplus
    value = _power(miss, gamma) * (h + (h * (gamma * miss_error) + softplus_error))
    value = jnp.where(jnp.isinf(a), zero_safe_product(disagree, a), value)
    return value, (x, y, gamma)


def _focal_backward(residuals, cotangent):
    x, y, gamma = residuals
    positive, u, u_error, agree, disagree = _exp_and_masses(x, y, magnitude(x))
    _, miss_error, sigmoid, sigmoid_error = _miss(u, u_error, agree, disagree)
    f, factor = _focal(x, y, gamma), _modulate(x, y, gamma)
    by_entropy = factor * _SCALE * (disagree - agree * u)
    by_factor = gamma * _log_miss_slope(u, agree, disagree)
    # The bound keeps the product finite. Where f exceeds 1e26, v is 0.
    by_factor = by_factor * (jnp.minimum(f, 1e26) * _SCALE)
    slope = by_entropy + by_factor
    error = (by_factor - slope) + by_entropy + by_entropy * (gamma * miss_error)
    error = error + slope * sigmoid_error - factor * _SCALE * (agree * u_error)
    slope = (slope + stop_gradient(error)) * sigmoid / _SCALE * cotangent
    return (
        jnp.where(positive, slope, -slope),
        cotangent * _label_slope(x, y, gamma, factor),
        cotangent * _gamma_slope(x, y, gamma, factor),
    )


_focal = analytic(_focal_forward, _focal_backward)


# df/dy = h dM/dy - M x = -sign(x) M (a + gamma h (1 - u)/(disagree + agree u)) and
# df/dgamma = M h log(miss). Both functions below compute the value exactly to a few
# roundings, and take the derivatives from a form in which no factor over- or
# underflows.
def _label_slope(x, y, gamma, factor):
    """df/dy, with `factor` = M."""
    finite = jnp.where(jnp.isinf(x), 0, x)
    positive, u, u_error, agree, disagree = _exp_and_masses(
        finite, y, magnitude(finite)
    )
    _, miss_error, *_ = _miss(u, u_error, agree, disagree)
    h, h_error = _cross_entropy(u, u_error, disagree * magnitude(finite))
    numerator = disagree + agree * u
    numerator = jnp.where(numerator == 0, 1, numerator)
    ratio = h / numerator
    ratio_error = remainder(h, numerator, ratio) + h_error - ratio * agree * u_error
    ratio_error = ratio_error / numerator
    one_minus_u = 1 - u
    one_minus_u_error = ((1 - one_minus_u) - u) - u_error
    term = gamma * ratio * one_minus_u
    term_error = gamma * (ratio * one_minus_u_error + ratio_error * one_minus_u)
    total, error = two_difference(magnitude(finite), -term)
    error = error + term_error + zero_safe_product(gamma * miss_error, total)
    total = total + error
    slope = factor * jnp.where(positive, -total, total)
    surrogate = _entropy_times_modulate_y(x, y, gamma) - factor * finite
    return with_derivative_of(stop_gradient(slope), surrogate)


def _gamma_slope(x, y, gamma, factor):
    """df/dgamma, with `factor` = M."""
    finite = jnp.where(jnp.isinf(x), 0, x)
    _, u, u_error, agree, disagree = _exp_and_masses(finite, y, magnitude(finite))
    _, miss_error, *_ = _miss(u, u_error, agree, disagree)
    h, h_error = _cross_entropy(u, u_error, disagree * magnitude(finite))
    log_miss, log_miss_error = _log_miss(x, y)
    product = h * log_miss
    error = product * (gamma * miss_error) - remainder(product, h, log_miss)
    error = error + h * log_miss_error + h_error * log_miss
    slope = factor * (product + error)
    return with_derivative_of(stop_gradient(slope), h * factor * log_miss)


def _cross_entropy(u, u_error, linear):
    """h = linear + log1p(u) and its rounding error."""
    softplus, softplus_error = log1p_unit(u, u_error)
    h, h_error = two_difference(linear, -softplus)
    return h, h_error + softplus_error


# The paper's alpha_t. Written as one rule, since autodiff would add two terms per
# derivative, which at an infinite loss are inf - inf.
@pointwise
def _alpha_t(alpha, y):
    return alpha * y + (1 - alpha) * (1 - y), (2 * y - 1, 2 * alpha - 1)


# h dM/dy = gamma h N with N = miss^(gamma - 1) d and d = d miss/dy. Its derivative in
# y, gamma N ((gamma - 1) h d/miss - x), is finite where dN/dy alone overflows.
@pointwise
def _entropy_times_modulate_y(x, y, gamma):
    """h dM/dy."""
    positive, u, u_error, agree, disagree = _exp_and_masses(x, y, magnitude(x))
    sign = jnp.where(positive, 1, -1)
    finite = jnp.where(jnp.isinf(x), 0, x)
    h = disagree * magnitude(finite) + log1p_unit(u, u_error)[0]
    miss, *_ = _miss(u, u_error, agree, disagree)
    d = -sign * _tanh_half(x)
    power = _modulate(x, y, gamma - 1)
    gamma_n = zero_safe_product(gamma, power * d)
    h_part = (gamma - 1) * (h / jnp.where(miss == 0, 1, miss)) * d
    by_h = (disagree - agree * u) * gamma_n
    by_power = (gamma - 1) * _log_miss_slope(u, agree, disagree) * gamma_n
    by_d = zero_safe_product(gamma, power) * (2 * u / (1 + u))
    return h * gamma_n, (
        (sign * (by_h + h * by_power) - h * by_d) / (1 + u),
        gamma_n * (h_part - finite),
        h * (power * d + gamma_n * _log_miss(x, y)[0]),
    )

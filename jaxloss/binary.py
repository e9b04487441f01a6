"""Binary losses, elementwise: one logit, score, probability or distance an example."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.typing import ArrayLike

from jaxloss._core import checks
from jaxloss._core.derivative import analytic, pointwise
from jaxloss._core.numerics import (
    capped_product,
    exp_minus,
    log1p_unit,
    magnitude,
    product,
    quotient,
    relu,
    remainder,
    softplus,
    two_difference,
)
from jaxloss._core.probability import sigmoid
from jaxloss._core.reduction import Reduction, reduce_loss, select


def sigmoid_binary_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    pos_weight: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the binary cross entropy of labels and sigmoid(logits).

    Choose it for every yes-or-no output of a network, several independent ones an
    example included. `binary_cross_entropy` takes probabilities and is less exact,
    `sigmoid_focal_loss` counts easy examples less.

    With $x$ the logits, $w$ the `pos_weight` (1 if None), $a$ the `label_smoothing` and
    $y = (1 - a) \cdot \text{labels} + a / 2$:

    $$ w\,y \log(1 + e^{-x}) + (1 - y) \log(1 + e^{x}) $$

    Args:
        logits: Floating, `[...]`, log-odds.
        labels: Real, 0, 1 or a probability between them, broadcastable to `logits`.
        pos_weight: What a positive label counts for, broadcastable to `logits`: `[C]`
            for C outputs. Negatives over positives balances a rare class; None counts
            both 1.
        label_smoothing: In [0, 1], the share of each label that is spread evenly over
            yes and no, broadcastable to `logits`.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, in nats, at least 0 for labels in [0, 1]; a scalar if reduced.

    Gradient:
        With $p = 1 / (1 + e^{-x})$: $(1 - y)\,p - w\,y\,(1 - p)$ for `logits`, which is
        $p - y$ at $w = 1$. `labels`, `pos_weight` and `label_smoothing` receive theirs
        too, all smooth.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. Value and gradient keep their digits down to the smallest float. A logit
        of inf or -inf costs 0 with gradient 0 where the label agrees, else inf with
        gradient 1 or -1 (times the label's weight).

    Raises:
        TypeError: If an input is not real, `logits` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `logits`, `label_smoothing` lies
            outside [0, 1], or `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> loss = jl.sigmoid_binary_cross_entropy([0.0, 2.0, -1000.0], [1.0, 0.0, 0.0])
        >>> [f"{x:.4f}" for x in loss]
        ['0.6931', '2.1269', '0.0000']

    References:
        Christopher M. Bishop, "Pattern Recognition and Machine Learning", 2006,
        equation 4.90,
        https://www.microsoft.com/en-us/research/people/cmbishop/prml-book/
    """
    checks.check_number("label_smoothing", label_smoothing, minimum=0, maximum=1)
    inputs, keep, weights = _arguments(
        where,
        weights,
        reduction,
        logits=logits,
        labels=labels,
        pos_weight=1.0 if pos_weight is None else pos_weight,
        label_smoothing=label_smoothing,
    )
    return reduce_loss(_cross_entropy(*inputs), keep, weights, reduction)


# With u = e^-|x|, the smoothed label's mass q = w ((1 - s) y + s/2) on the positive
# class and n = (1 - s)(1 - y) + s/2 on the other, each formed without a difference,
# softplus(x) = max(x, 0) + log1p(u) and sigmoid(x) = 1/(1 + u) or u/(1 + u):
#     f = q softplus(-x) + n softplus(x)
#       = n max(x, 0) - q min(x, 0) + (q + n) log1p(u),          no term negative,
#     df/dx = n sigmoid(x) - q sigmoid(-x) = (n - q u)/(1 + u) or (n u - q)/(1 + u),
# where a hard label leaves a single term, so that nothing cancels as the loss -> 0, and
#     w softplus(-x) - softplus(x) = -w min(x, 0) - max(x, 0) + (w - 1) log1p(u)
# times 1 - s is df/dy, times 1/2 - y is df/ds.
# A mean and its gradient are two passes over x and y without a temporary, 2.9 times the
# speed of the two log-sigmoids. For that the value is made of what a sum absorbs on
# CPU (no select), and shares nothing with the slope, which XLA would write to memory:
# not the exp, not even a constant, hence -0 for 0 and m = y - 1 for -n.
@pointwise
def _cross_entropy(x, y, weight, smoothing):
    kept, even = 1 - smoothing, smoothing / 2
    positive, m = weight * (kept * y + even), kept * (y + (-1.0)) - even
    soft = jnp.log1p(jnp.exp(-jnp.abs(x)))
    against = capped_product(m, jnp.maximum(x, -0.0))
    missed = capped_product(positive, -jnp.minimum(x, -0.0))
    value = (positive - m) * soft - against + missed

    u = jnp.exp(-magnitude(x))
    negative = kept * (1 - y) + even
    slope = jnp.where(x >= 0, negative - positive * u, negative * u - positive)
    finite = jnp.where(jnp.isinf(x), 0, x)
    high, low, soft = relu(finite), relu(-finite), jnp.log1p(u)

    def tilt(c):
        return (c * weight) * low - c * high + (c * (weight - 1)) * soft

    weight_slope = (kept * y + even) * (low + soft)
    return value, (slope / (1 + u), tilt(kept), weight_slope, tilt(0.5 - y))


def binary_cross_entropy(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the binary cross entropy of labels and probabilities.

    Choose it only where the logits are out of reach: `sigmoid_binary_cross_entropy`
    takes those, and keeps the digits that a probability near 1 has lost.

    With $p$ the probabilities and $y$ the labels:

    $$ -y \log(p) - (1 - y) \log(1 - p), \qquad \log(0) = -100 $$

    Args:
        probabilities: Floating, `[...]`, in [0, 1].
        labels: Real, 0, 1 or a probability between them, broadcastable to
            `probabilities`.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, in nats, at least 0 for labels in [0, 1]; a scalar if reduced.

    Gradient:
        $(1 - y) / (1 - p) - y / p$ for `probabilities`, $\log(1 - p) - \log(p)$ for
        `labels`. At $p = 0$ and $p = 1$ the slope is $(p - y) / 10^{-12}$, as in
        PyTorch, which uses that divisor for every $p$ below $10^{-12}$.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. A wrong certainty costs 100, not inf. Outside [0, 1] a probability gives
        NaN, and raises under `checkify`.

    Raises:
        TypeError: If an input is not real, `probabilities` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `probabilities` or `reduction` is
            unknown.

    Example:
        >>> import jaxloss as jl
        >>> loss = jl.binary_cross_entropy([0.5, 0.75, 0.0], [1.0, 0.0, 1.0])
        >>> [f"{x:.3f}" for x in loss]
        ['0.693', '1.386', '100.000']

    References:
        PyTorch, "torch.nn.BCELoss",
        https://docs.pytorch.org/docs/stable/generated/torch.nn.BCELoss.html
    """
    (p, y), keep, weights = _arguments(
        where, weights, reduction, probabilities=probabilities, labels=labels
    )
    checks.check_values("probabilities", (p >= 0) & (p <= 1), "in [0, 1]")
    return reduce_loss(_probability_cross_entropy(p, y), keep, weights, reduction)


# PyTorch's rule: logs stop at -100, and the slope (p - y)/(p (1 - p)) divides by no
# less than 1e-12. Only at p = 0 and p = 1 does either take effect in float32, so that
# the true slope (1 - y)/(1 - p) - y/p serves everywhere else.
@pointwise
def _probability_cross_entropy(p, y):
    end = (p == 0) | (p == 1)
    inside = jnp.where(end, 0.5, p)
    log_p = jnp.where(p == 0, -100, jnp.where(p == 1, 0, jnp.log(inside)))
    log_q = jnp.where(p == 1, -100, jnp.where(p == 0, 0, jnp.log1p(-inside)))
    slope = quotient(1 - y, 1 - inside) - quotient(y, inside)
    slope = jnp.where(end, (p - y) / 1e-12, slope)
    return -(y * log_p + (1 - y) * log_q), (slope, log_q - log_p)


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
    r"""Returns the focal loss of sigmoid(logits), which counts easy examples less.

    Choose it over `sigmoid_binary_cross_entropy`, which it is at gamma 0, where easy
    negatives outnumber everything else, as in dense object detection.

    With $p = 1 / (1 + e^{-x})$ at the logits $x$, $y$ the labels,
    $p_t = y\,p + (1 - y)(1 - p)$ and $\ell$ their binary cross entropy:

    $$ (\alpha\,y + (1 - \alpha)(1 - y)) \, (1 - p_t)^{\gamma} \, \ell $$

    Args:
        logits: Floating, `[...]`, log-odds.
        labels: Real, 0, 1 or a probability between them, broadcastable to `logits`.
        alpha: $\alpha$ in [0, 1], the weight of the positive class against
            $1 - \alpha$, broadcastable to `logits`. None, as in optax, leaves the
            factor out.
        gamma: $\gamma \ge 0$, how much less the easy examples count, broadcastable to
            `logits`. 2.0 as in the paper.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, in nats, at least 0 for labels in [0, 1]; a scalar if reduced.

    Gradient:
        For `logits` at a hard label, but for the factor of `alpha`,
        $\pm(1 - p_t)^{\gamma} (\gamma\,p_t \log(p_t) - (1 - p_t))$, plus for label 1
        and minus for label 0. `labels`, `alpha` and `gamma` receive theirs too, all
        smooth.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. $1 - p_t$ is formed without a difference, so that the loss of a
        well-classified example keeps its digits: at hard labels value and gradient are
        within 4 units in the last place for whole gammas up to 5. Every gamma has
        finite derivatives for finite logits.

    Raises:
        TypeError: If an input is not real, `logits` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `logits`, `alpha` lies outside [0,
            1], `gamma` is negative, or `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> [f"{x:.4f}" for x in jl.sigmoid_focal_loss([0.0, 2.0], [1.0, 1.0])]
        ['0.1733', '0.0018']

    References:
        Tsung-Yi Lin, Priya Goyal, Ross Girshick, Kaiming He and Piotr Dollár, "Focal
        Loss for Dense Object Detection", 2017, equations 4 and 5,
        https://arxiv.org/abs/1708.02002
    """
    checks.check_number("gamma", gamma, minimum=0)
    balance = {} if alpha is None else {"alpha": alpha}
    if alpha is not None:
        checks.check_number("alpha", alpha, minimum=0, maximum=1)
    (x, y, gamma, *balance), keep, weights = _arguments(
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
    return reduce_loss(loss, keep, weights, reduction)


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
    log = log + stop_gradient(exact - log)
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
    slope = product(gamma, _modulate(x, y, gamma - 1)) * _tanh_half(x)
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
    return jnp.where(jnp.isinf(a), product(weak, a), value), (x, y, gamma)


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
    total = total + (total_lost + side_lost + product(gamma * short, total))
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
    pull = product(gamma, less * d)
    pressed = (gamma - 1) * (h / jnp.where(miss == 0, 1, miss)) * d
    h_slope = (weak - strong * u) * pull
    lean = (gamma - 1) * _lean(u, strong, weak) * pull
    bend = product(gamma, less) * (2 * u / (1 + u))
    return h * pull, (
        (sign * (h_slope + h * lean) - h * bend) / (1 + u),
        pull * (pressed - finite),
        h * (less * d + pull * _log_miss(x, y)[0]),
    )


def hinge_loss(
    predictor_outputs: ArrayLike,
    targets: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the hinge loss of scores for targets of plus and minus one.

    Choose it for the margin of a support vector machine; `squared_hinge_loss` is
    smooth, `soft_margin_loss` never stops pushing, `perceptron_loss` asks for no
    margin.

    $$ \max(0,\; 1 - \text{targets} \cdot \text{outputs}) $$

    Args:
        predictor_outputs: Floating, `[...]`, scores whose sign is the decision.
        targets: Real, -1 or 1, broadcastable to `predictor_outputs`. Targets of 0 and 1
            are an error: convert them with `2 * labels - 1`.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0; a scalar if reduced.

    Gradient:
        $-\text{targets}$ for `predictor_outputs` and $-\text{outputs}$ for `targets`
        where the loss is positive, 0 elsewhere, the kink included.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. A score of inf costs 0 or inf, by its sign. Targets other than -1 and 1
        raise under `checkify` alone: the formula takes them as they are, and 0 gives a
        constant 1.

    Raises:
        TypeError: If an input is not real, `predictor_outputs` not floating, or `where`
            not boolean.
        ValueError: If an input does not broadcast to `predictor_outputs` or `reduction`
            is unknown.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.hinge_loss([0.25, 2.0, 2.0], [1, 1, -1]))
        [0.75 0.   3.  ]

    References:
        Corinna Cortes and Vladimir Vapnik, "Support-Vector Networks", 1995,
        https://doi.org/10.1007/BF00994018
    """
    (x, t), keep, weights = _signed(
        predictor_outputs, targets, where, weights, reduction
    )
    return reduce_loss(_hinge(x, t), keep, weights, reduction)


def squared_hinge_loss(
    predictor_outputs: ArrayLike,
    targets: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the square of the hinge loss for targets of plus and minus one.

    Choose it over `hinge_loss` where the gradient should be continuous and large
    violations should count more.

    $$ \max(0,\; 1 - \text{targets} \cdot \text{outputs})^2 $$

    Args:
        predictor_outputs: Floating, `[...]`, scores whose sign is the decision.
        targets: Real, -1 or 1, broadcastable to `predictor_outputs`. Targets of 0 and 1
            are an error: convert them with `2 * labels - 1`.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0; a scalar if reduced.

    Gradient:
        With $h$ the hinge loss, $-2h \cdot \text{targets}$ for `predictor_outputs` and
        $-2h \cdot \text{outputs}$ for `targets`; continuous, so that there is no kink
        to decide.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. The square overflows to inf beyond scores of 1.8e19 in float32. Targets
        other than -1 and 1 raise under `checkify` alone: the formula takes them as they
        are, and 0 gives a constant 1.

    Raises:
        TypeError: If an input is not real, `predictor_outputs` not floating, or `where`
            not boolean.
        ValueError: If an input does not broadcast to `predictor_outputs` or `reduction`
            is unknown.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.squared_hinge_loss([0.5, 2.0, 2.0], [1, 1, -1]))
        [0.25 0.   9.  ]

    References:
        Kai-Wei Chang, Cho-Jui Hsieh and Chih-Jen Lin, "Coordinate Descent Method for
        Large-scale L2-loss Linear Support Vector Machines", 2008,
        https://www.jmlr.org/papers/v9/chang08a.html
    """
    (x, t), keep, weights = _signed(
        predictor_outputs, targets, where, weights, reduction
    )
    return reduce_loss(_squared_hinge(x, t), keep, weights, reduction)


def soft_margin_loss(
    predictor_outputs: ArrayLike,
    targets: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the logistic loss of scores for targets of plus and minus one.

    Choose it over `hinge_loss` for a smooth loss that also gives probabilities. It is
    `sigmoid_binary_cross_entropy` for those who write their labels as -1 and 1.

    $$ \log(1 + \exp(-\text{targets} \cdot \text{outputs})) $$

    Args:
        predictor_outputs: Floating, `[...]`, log-odds.
        targets: Real, -1 or 1, broadcastable to `predictor_outputs`. Targets of 0 and 1
            are an error: convert them with `2 * labels - 1`.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, in nats, at least 0; a scalar if reduced.

    Gradient:
        With $\sigma = 1 / (1 + \exp(\text{targets} \cdot \text{outputs}))$,
        $-\sigma \cdot \text{targets}$ for `predictor_outputs` and
        $-\sigma \cdot \text{outputs}$ for `targets`; smooth everywhere.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. No exponential overflows, and small losses keep their digits. Targets
        other than -1 and 1 raise under `checkify` alone: the formula takes them as they
        are, and 0 gives a constant $\log 2$.

    Raises:
        TypeError: If an input is not real, `predictor_outputs` not floating, or `where`
            not boolean.
        ValueError: If an input does not broadcast to `predictor_outputs` or `reduction`
            is unknown.

    Example:
        >>> import jaxloss as jl
        >>> [f"{x:.3f}" for x in jl.soft_margin_loss([0.0, 1.0, 100.0], [1, 1, -1])]
        ['0.693', '0.313', '100.000']

    References:
        Jerome Friedman, Trevor Hastie and Robert Tibshirani, "Additive logistic
        regression: a statistical view of boosting", 2000,
        https://doi.org/10.1214/aos/1016218223
    """
    (x, t), keep, weights = _signed(
        predictor_outputs, targets, where, weights, reduction
    )
    return reduce_loss(_soft_margin(x, t), keep, weights, reduction)


def perceptron_loss(
    predictor_outputs: ArrayLike,
    targets: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the perceptron loss of scores for targets of plus and minus one.

    Choose it where the right sign is enough; `hinge_loss` also asks for a margin.

    $$ \max(0,\; -\text{targets} \cdot \text{outputs}) $$

    Args:
        predictor_outputs: Floating, `[...]`, scores whose sign is the decision.
        targets: Real, -1 or 1, broadcastable to `predictor_outputs`. Targets of 0 and 1
            are an error: convert them with `2 * labels - 1`.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0; a scalar if reduced.

    Gradient:
        $-\text{targets}$ for `predictor_outputs` and $-\text{outputs}$ for `targets`
        where the loss is positive, 0 elsewhere, the kink at a score of 0 included: a
        model whose scores all start at 0 does not move.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. A score of inf costs 0 or inf, by its sign. Targets other than -1 and 1
        raise under `checkify` alone: the formula takes them as they are, and 0 gives a
        constant 0.

    Raises:
        TypeError: If an input is not real, `predictor_outputs` not floating, or `where`
            not boolean.
        ValueError: If an input does not broadcast to `predictor_outputs` or `reduction`
            is unknown.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.perceptron_loss([0.25, 2.0, -2.0], [1, -1, 1]))
        [0. 2. 2.]

    References:
        Christopher M. Bishop, "Pattern Recognition and Machine Learning", 2006,
        equation 4.54,
        https://www.microsoft.com/en-us/research/people/cmbishop/prml-book/
    """
    (x, t), keep, weights = _signed(
        predictor_outputs, targets, where, weights, reduction
    )
    return reduce_loss(_perceptron(x, t), keep, weights, reduction)


def sparsemax_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the binary sparsemax loss for labels of zero and one.

    Choose it over `sigmoid_binary_cross_entropy` where a clear decision should cost
    exactly 0 and probabilities of exactly 0 and 1 are wanted.

    With $z$ the logit at label 0 and its negative at label 1:

    $$
    \begin{cases}
    0 & z \le -1 \\
    (z + 1)^2 / 4 & -1 < z < 1 \\
    z & z \ge 1
    \end{cases}
    $$

    Args:
        logits: Floating, `[...]`, scores whose sign is the decision.
        labels: Real, integer or boolean, 0 or 1, broadcastable to `logits`.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0; a scalar if reduced.

    Gradient:
        $\max(0, \min((z + 1) / 2, 1))$ for `logits`, negative at label 1; continuous,
        so that there is no kink to decide. `labels` choose the branch and receive 0.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. A logit of inf or -inf costs 0 or inf. A label other than 0 and 1 gives
        NaN, and raises under `checkify`.

    Raises:
        TypeError: If an input is not real, `logits` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `logits` or `reduction` is
            unknown.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.sparsemax_loss([0.0, 2.0, 2.0], [1, 1, 0]))
        [0.25 0.   2.  ]

    References:
        André F. T. Martins and Ramón F. Astudillo, "From Softmax to Sparsemax: A Sparse
        Model of Attention and Multi-Label Classification", 2016,
        https://arxiv.org/abs/1602.02068
    """
    (x, y), keep, weights = _arguments(
        where, weights, reduction, logits=logits, labels=labels
    )
    if keep is not None:
        y = jnp.where(keep, y, 0)
    valid = (y == 0) | (y == 1)
    checks.check_values("labels", valid, "0 or 1")
    loss = _sparse_plus(jnp.where(y == 0, x, jnp.where(valid, -x, jnp.nan)))
    return reduce_loss(loss, keep, weights, reduction)


def _sparse_plus(x):
    """0 up to -1, x from 1 on, (x + 1)²/4 between."""
    middle = jnp.where(jnp.abs(x) >= 1, 0, x + 1)
    return jnp.where(x <= -1, 0, jnp.where(x >= 1, x, middle * middle / 4))


def hinge_embedding_loss(
    distances: ArrayLike,
    targets: ArrayLike,
    *,
    margin: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the distance of a pair, or what it lacks to the margin if they differ.

    Choose it to train embeddings from pairs that are marked alike or different, with a
    distance of your own.

    With $d$ the distances:

    $$
    \begin{cases}
    d & \text{targets} = 1 \\
    \max(0,\; \text{margin} - d) & \text{targets} = -1
    \end{cases}
    $$

    Args:
        distances: Floating, `[...]`, in any unit.
        targets: Real, 1 for a pair that belongs together and -1 for one that does not,
            broadcastable to `distances`. Targets of 0 and 1 are an error.
        margin: The distance at which a pair is far enough apart, in the unit of the
            distances and broadcastable to them. 1.0 as in PyTorch.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0 for distances that are; a scalar if reduced.

    Gradient:
        1 for `distances` at target 1; -1 for them and 1 for `margin` at target -1 up to
        the margin, the margin itself included as in PyTorch, 0 beyond. `targets` choose
        the branch and receive 0.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. An infinite distance costs inf at target 1 and 0 at -1. A target other
        than -1 and 1 gives NaN, and raises under `checkify`.

    Raises:
        TypeError: If an input is not real, `distances` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `distances` or `reduction` is
            unknown.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.hinge_embedding_loss([0.25, 0.25, 2.0], [1, -1, -1]))
        [0.25 0.75 0.  ]

    References:
        PyTorch, "torch.nn.HingeEmbeddingLoss",
        https://docs.pytorch.org/docs/stable/generated/torch.nn.HingeEmbeddingLoss.html
    """
    (x, t, margin), keep, weights = _arguments(
        where, weights, reduction, distances=distances, targets=targets, margin=margin
    )
    if keep is not None:
        t = jnp.where(keep, t, 1)
    valid = jnp.abs(t) == 1
    checks.check_values("targets", valid, "1 or -1")
    # PyTorch's clamp lets the gradient through at the margin itself.
    apart = jnp.where(margin - x < 0, 0, margin - x)
    loss = jnp.where(t == 1, x, jnp.where(valid, apart, jnp.nan))
    return reduce_loss(loss, keep, weights, reduction)


def _arguments(where, weights, reduction, **named):
    """The named arguments in one shape, checked and masked."""
    arrays, keep, weights = checks.elementwise(where, weights, reduction, named)
    return select(keep, *arrays), keep, weights


# Losses of the margin x t. Where they are flat, they are so in t too, at infinite x as
# well, where the product rule would take 0 · inf.
def _of_margin(loss_and_slope):
    @pointwise
    def loss(x, t):
        value, slope = loss_and_slope(x * t)
        flat = slope == 0
        return value, tuple(slope * jnp.where(flat, 0, by) for by in (t, x))

    return loss


_hinge = _of_margin(lambda m: (relu(1 - m), jnp.where(1 - m <= 0, 0.0, -1.0)))
_squared_hinge = _of_margin(lambda m: (relu(1 - m) ** 2, -2 * relu(1 - m)))
_soft_margin = _of_margin(lambda m: (softplus(-m), -sigmoid(-m)))
_perceptron = _of_margin(lambda m: (relu(-m), jnp.where(-m <= 0, 0.0, -1.0)))


def _signed(predictor_outputs, targets, where, weights, reduction):
    """Scores and targets in one shape, checked and masked."""
    arrays, keep, weights = _arguments(
        where,
        weights,
        reduction,
        predictor_outputs=predictor_outputs,
        targets=targets,
    )
    signs = jnp.abs(arrays[1]) == 1
    checks.check_values("targets", signs if keep is None else signs | ~keep, "±1")
    return arrays, keep, weights

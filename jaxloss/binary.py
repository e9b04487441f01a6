"""Binary losses, elementwise: one logit, score, probability or distance an example."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxloss._core import checks
from jaxloss._core.derivative import analytic, pointwise
from jaxloss._core.numerics import magnitude, product, relu, softplus
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
    """Binary cross entropy of labels and sigmoid(logits)."""
    checks.check_number("label_smoothing", label_smoothing, minimum=0, maximum=1)
    (x, y, weight, smoothing), keep, weights = _arguments(
        where,
        weights,
        reduction,
        logits=logits,
        labels=labels,
        pos_weight=1.0 if pos_weight is None else pos_weight,
        label_smoothing=label_smoothing,
    )
    y = (1 - smoothing) * y + smoothing / 2
    return reduce_loss(_cross_entropy(x, y, weight), keep, weights, reduction)


# With u = e^-|x|, the label's mass w y on the positive class and n = 1 - y on the
# other, softplus(x) = max(x, 0) + log1p(u) and sigmoid(x) = 1/(1 + u) or u/(1 + u):
#     f = w y softplus(-x) + n softplus(x)
#       = |x| · (n or w y, by the sign of x) + (w y + n) log1p(u),   no term negative,
#     df/dx = n sigmoid(x) - w y sigmoid(-x)
#           = (n - w y u)/(1 + u) or (n u - w y)/(1 + u),
# where a hard label leaves a single term, so that nothing cancels as the loss -> 0.
# One u serves the value and the slope: 1.9 times the speed of the two log-sigmoids.
@pointwise
def _cross_entropy(x, y, weight):
    right = x >= 0
    a = magnitude(x)
    u = jnp.exp(-a)
    soft = jnp.log1p(u)
    positive, negative = weight * y, 1 - y
    against = jnp.where(right, negative, positive)
    value = product(against, a) + (positive + negative) * soft
    slope = jnp.where(right, negative - positive * u, negative * u - positive) / (1 + u)
    finite = jnp.where(jnp.isinf(x), 0, x)
    surprise = jnp.where(right, 0, -finite) + soft  # softplus(-x)
    return value, (slope, (weight - 1) * surprise - finite, y * surprise)


def binary_cross_entropy(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """Binary cross entropy of labels and probabilities."""
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
    slope = (1 - y) / (1 - inside) - y / inside
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
    """Focal loss (1 - p_t)^gamma · cross entropy on sigmoid(logits)."""
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
        loss = loss * (a * y + (1 - a) * (1 - y))
    return reduce_loss(loss, keep, weights, reduction)


def _miss(x, y):
    """1 - p_t = y sigmoid(-x) + (1 - y) sigmoid(x), its logarithm and its slopes.

    The slopes are those of the logarithm in x and y, finite where the loss is not
    flat: with u = e^-|x|, `strong` the mass on the class that x speaks for and `weak`
    that on the other, 1 - p_t = (weak + strong u)/(1 + u).
    """
    right = x >= 0
    u = jnp.exp(-magnitude(x))
    strong = jnp.where(right, y, 1 - y)
    weak = jnp.where(right, 1 - y, y)
    above = weak + strong * u
    miss = above / (1 + u)
    hit = (strong + weak * u) / (1 + u)
    low = miss < 0.5
    log_miss = jnp.where(
        low,
        jnp.log(jnp.where(low & (miss > 0), miss, 0.25)),
        jnp.log1p(jnp.where(low, 0, -hit)),
    )
    # u/above is 1/strong where the mass is all strong, also where u underflows.
    pure = weak == 0
    share = jnp.where(
        pure, 1 / jnp.where(pure, strong, 1), u / jnp.where(pure, 1, above)
    )
    x_slope = (1 - 2 * y) * share / (1 + u)
    tilt = jnp.where(right, u - 1, 1 - u)  # (1 + u)(sigmoid(-x) - sigmoid(x))
    y_slope = jnp.where(above == 0, 0, tilt / jnp.where(above == 0, 1, above))
    return miss, log_miss, x_slope, y_slope


# The modulating factor M = (1 - p_t)^gamma, by the slopes of its logarithm:
#     dM/dx = gamma M · d log(1 - p_t)/dx,   dM/dgamma = M log(1 - p_t).
# The power's own rule would need (1 - p_t)^(gamma - 1), infinite for gamma < 1.
def _modulate_forward(x, y, gamma):
    miss, *_ = _miss(x, y)
    return miss**gamma, (x, y, gamma)


def _modulate_backward(residuals, cotangent):
    x, y, gamma = residuals
    _, log_miss, x_slope, y_slope = _miss(x, y)
    ct = cotangent * _modulate(x, y, gamma)
    return ct * gamma * x_slope, ct * gamma * y_slope, ct * log_miss


_modulate = analytic(_modulate_forward, _modulate_backward)


def _focal(x, y, gamma):
    return _modulate(x, y, gamma) * _cross_entropy(x, y, jnp.ones_like(x))


def hinge_loss(
    predictor_outputs: ArrayLike,
    targets: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """Hinge loss max(0, 1 - targets · predictor_outputs), targets ±1."""
    (x, t), keep, weights = _signed(
        predictor_outputs, targets, where, weights, reduction
    )
    return reduce_loss(relu(1 - x * t), keep, weights, reduction)


def squared_hinge_loss(
    predictor_outputs: ArrayLike,
    targets: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """Squared hinge loss max(0, 1 - targets · predictor_outputs)², targets ±1."""
    (x, t), keep, weights = _signed(
        predictor_outputs, targets, where, weights, reduction
    )
    hinge = relu(1 - x * t)
    return reduce_loss(hinge * hinge, keep, weights, reduction)


def soft_margin_loss(
    predictor_outputs: ArrayLike,
    targets: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """Logistic loss log(1 + exp(-targets · predictor_outputs)), targets ±1."""
    (x, t), keep, weights = _signed(
        predictor_outputs, targets, where, weights, reduction
    )
    return reduce_loss(softplus(-x * t), keep, weights, reduction)


def perceptron_loss(
    predictor_outputs: ArrayLike,
    targets: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """Perceptron loss max(0, -targets · predictor_outputs), targets ±1."""
    (x, t), keep, weights = _signed(
        predictor_outputs, targets, where, weights, reduction
    )
    return reduce_loss(relu(-x * t), keep, weights, reduction)


def sparsemax_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """Binary sparsemax loss, labels 0 or 1."""
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
    """The distance of a pair that belongs together, else max(0, margin - distance)."""
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

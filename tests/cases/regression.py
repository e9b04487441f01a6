"""The regression losses and their definitions."""

import math

import numpy as np

import jaxloss as jl
from cases.case import Case

INF = math.inf
NON_NEGATIVE = (0.0, INF)

PREDICTIONS = np.array([0.3, -1.7, 2.4, 0.05, -0.62, 4.1])
TARGETS = np.array([0.75, -1.2, -0.8, -0.31, 1.6, 3.95])
POSITIVE = np.array([0.4, 1.7, 2.4, 0.05, 0.62, 6.1])
COUNTS = np.array([0.0, 1.0, 3.0, 2.0, 0.5, 7.0])
REGRESSION = {"predictions": PREDICTIONS, "targets": TARGETS}


def huber(predictions, targets, delta):
    a = np.abs(predictions - targets)
    return np.where(a <= delta, a**2 / 2, delta * (a - delta / 2))


def smooth_l1(predictions, targets, beta):
    return huber(predictions, targets, beta) / beta


def log_cosh(predictions, targets):
    # log cosh e = log1p(2 sinh²(e/2)), which overflows beyond 700.
    a = np.abs(predictions - targets)
    near = np.log1p(2 * np.sinh(np.minimum(a, 100) / 2) ** 2)
    return np.where(a < 100, near, a - math.log(2))


def quantile(predictions, targets, quantile):
    e = targets - predictions
    return np.maximum(quantile * e, (quantile - 1) * e)


def barron(predictions, targets, alpha, scale):
    """Barron (CVPR 2019), equation 8 with its limits, one example after the other."""
    x = (predictions - targets) / scale

    def one(x, alpha):
        if alpha == 2:
            return x**2 / 2
        if alpha == 0:
            return math.log1p(x**2 / 2)
        if alpha == -INF:
            return -math.expm1(-(x**2) / 2)
        b = abs(alpha - 2)
        return b / alpha * math.expm1(alpha / 2 * math.log1p(x**2 / b))

    return np.vectorize(one, otypes=[float])(x, alpha)


def percentage(predictions, targets, epsilon):
    size = np.maximum(np.abs(targets), epsilon)
    return 100 * np.abs(predictions - targets) / size


def squared_log(predictions, targets, epsilon):
    p, t = np.maximum(predictions, epsilon), np.maximum(targets, epsilon)
    return (np.log1p(p) - np.log1p(t)) ** 2


def poisson(predictions, targets, eps, log_input, full):
    if log_input:
        loss = np.exp(predictions) - targets * predictions
    else:
        loss = predictions - targets * np.log(predictions + eps)
    if full:
        # Stirling's approximation of log(t!), for t > 1 only.
        t = np.where(targets > 1, targets, 1)
        stirling = t * np.log(t) - t + 0.5 * np.log(2 * np.pi * t)
        loss = loss + np.where(targets > 1, stirling, 0)
    return loss


def gaussian(means, targets, variances, eps, full):
    v = np.maximum(variances, eps)
    loss = 0.5 * (np.log(v) + (means - targets) ** 2 / v)
    return loss + 0.5 * math.log(2 * math.pi) * full


# fmt: off
CASES = [
    Case(
        jl.squared_error, lambda predictions, targets: (predictions - targets) ** 2,
        REGRESSION,
    ),
    Case(
        jl.l2_loss, lambda predictions, targets: (predictions - targets) ** 2 / 2,
        REGRESSION,
    ),
    Case(
        jl.absolute_error, lambda predictions, targets: np.abs(predictions - targets),
        REGRESSION,
    ),
    Case(
        jl.squared_error, lambda predictions: predictions**2,
        {"predictions": PREDICTIONS}, variant="without targets",
    ),
    Case(
        jl.huber_loss, huber, REGRESSION, {"delta": 0.8},
        domain={"delta": NON_NEGATIVE},
    ),
    Case(
        jl.smooth_l1_loss, smooth_l1, REGRESSION, {"beta": 0.8},
        domain={"beta": NON_NEGATIVE},
    ),
    Case(jl.log_cosh, log_cosh, REGRESSION),
    Case(
        jl.quantile_loss, quantile, REGRESSION, {"quantile": 0.3},
        domain={"quantile": (0, 1)},
    ),
    Case(
        jl.epsilon_insensitive_loss,
        lambda predictions, targets, epsilon: np.maximum(
            np.abs(predictions - targets) - epsilon, 0
        ),
        REGRESSION, {"epsilon": 0.4},
        domain={"epsilon": NON_NEGATIVE},
    ),
    Case(
        jl.charbonnier_loss,
        lambda predictions, targets, epsilon: np.hypot(predictions - targets, epsilon),
        REGRESSION, {"epsilon": 0.3},
        domain={"epsilon": NON_NEGATIVE},
    ),
    Case(
        jl.robust_loss, barron,
        {**REGRESSION, "alpha": np.array([1.7, 1.0, 0.0, -2.0, 0.5, -7.5])},
        {"scale": 0.7},
        domain={"alpha": (-INF, 2), "scale": (1e-30, 1e30)},
        invalid={"alpha": (2.5,)},
    ),
    Case(
        jl.absolute_percentage_error, percentage, REGRESSION, {"epsilon": 0.5},
        domain={"epsilon": (1e-30, INF)},
    ),
    Case(
        jl.squared_log_error, squared_log,
        {"predictions": POSITIVE, "targets": np.array([2.1, 0.1, 3.3, 0.2, -0.8, 0.9])},
        {"epsilon": 0.3},
        domain={"epsilon": NON_NEGATIVE},
    ),
    Case(
        jl.poisson_nll_loss, poisson,
        {"predictions": PREDICTIONS, "targets": COUNTS}, {"eps": 0.01},
        {"log_input": True, "full": False},
        domain={"targets": NON_NEGATIVE},
    ),
    Case(
        jl.poisson_nll_loss, poisson,
        {"predictions": POSITIVE + 0.3, "targets": COUNTS + 0.1}, {"eps": 0.01},
        {"log_input": False, "full": True}, variant="rate",
        domain={"predictions": NON_NEGATIVE, "targets": NON_NEGATIVE},
    ),
    Case(
        jl.gaussian_nll_loss, gaussian,
        {"means": PREDICTIONS, "targets": TARGETS, "variances": POSITIVE + 0.1},
        {"eps": 0.01}, {"full": True},
        domain={"variances": NON_NEGATIVE, "eps": (1e-30, INF)},
        invalid={"variances": (-0.5,)},
    ),
]
# fmt: on

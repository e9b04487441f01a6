"""The divergences and their definitions."""

import math

import numpy as np

import jaxloss as jl
from cases.case import Case

UNIT = (0.0, 1.0)
NON_NEGATIVE = (0.0, math.inf)
BELOW_ZERO = (-math.inf, 0.0)

# Rows: ordinary, peaked where the other is, peaked elsewhere, shifted up, near the
# other, nearly uniform.
LOGITS = np.array(
    [
        [0.7, -1.2, 0.1, 1.9, -0.9],
        [6.0, -0.3, 0.2, -1.0, 0.6],
        [0.5, 4.5, -0.8, 0.3, 1.1],
        [31.0, 30.2, 29.1, 30.9, 28.5],
        [-0.1, -1.2, 0.9, -2.4, -1.1],
        [0.02, 0.01, -0.01, 0.03, -0.2],
    ]
)
OTHER_LOGITS = np.array(
    [
        [-0.2, 0.5, 1.3, 0.4, -1.1],
        [5.1, 0.7, -0.6, 0.3, -0.9],
        [3.8, -0.5, 0.1, 1.4, 0.3],
        [0.3, -0.7, 1.1, 0.8, 0.2],
        [-0.5, -0.7, 0.6, -2.2, -1.2],
        [0.4, -0.3, 1.6, -0.9, 0.7],
    ]
)
BETAS = np.array([0.3, 0.5, 0.85, 0.1, 0.6, 0.45])


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


# Nothing so near 0 that finite differences of log t are of no use.
HISTOGRAMS = 0.8 * softmax(OTHER_LOGITS) + 0.04
# Distributions, but for the last of the targets and two of the predictions.
TARGETS = HISTOGRAMS * np.array([[1], [1], [1], [1], [1], [1.6]])
SHIFTS = np.array([[0], [0], [0], [0.2], [0], [-0.7]])
LOG_PREDICTIONS = np.log(softmax(LOGITS)) + SHIFTS


def sum_over_classes(term):
    """A loss from one class's term, one example and class after the other."""

    def loss(first, second, *shared):
        batch = first.shape[:-1]
        losses = np.zeros(batch)
        for i in np.ndindex(batch):
            own = [np.broadcast_to(x, batch)[i] for x in shared]
            classes = zip(first[i], second[i], strict=True)
            losses[i] = math.fsum(term(x, y, *own) for x, y in classes)
        return losses

    return loss


def x_log_ratio(x, y):
    """x log(x/y) with 0 log 0 = 0."""
    return 0.0 if x == 0 else math.inf if y == 0 else x * (math.log(x) - math.log(y))


def relative_entropy(x, t):
    return 0.0 if t == 0 else t * (math.log(t) - x)


def kl(log_predictions, targets):
    return sum_over_classes(relative_entropy)(log_predictions, targets)


def log_kl(log_predictions, log_targets):
    return kl(log_predictions, np.exp(log_targets))


def generalized(log_predictions, targets):
    return sum_over_classes(lambda x, t: relative_entropy(x, t) - t + math.exp(x))(
        log_predictions, targets
    )


def jensen_shannon(logits_p, logits_q, beta):
    def term(p, q, b):
        m = b * p + (1 - b) * q
        return b * x_log_ratio(p, m) + (1 - b) * x_log_ratio(q, m)

    return sum_over_classes(term)(softmax(logits_p), softmax(logits_q), beta)


def earth_mover(probabilities, targets):
    """Moves mass between the first point that is out of balance and the next to it.

    Where the sums differ, what is left over goes to the last point.
    """
    batch = probabilities.shape[:-1]
    work = np.zeros(batch)
    for i in np.ndindex(batch):
        surplus = list(probabilities[i] - targets[i])
        for here in range(len(surplus) - 1):
            for there in range(here + 1, len(surplus)):
                if surplus[here] * surplus[there] < 0:
                    moved = min(abs(surplus[here]), abs(surplus[there]))
                    moved = math.copysign(moved, surplus[here])
                    surplus[here] -= moved
                    surplus[there] += moved
                    work[i] += abs(moved) * (there - here)
            work[i] += abs(surplus[here]) * (len(surplus) - 1 - here)
    return work


KL = {"log_predictions": LOG_PREDICTIONS, "targets": TARGETS}
KL_CLASSES = ("log_predictions", "targets")
KL_DOMAIN = {"log_predictions": BELOW_ZERO, "targets": NON_NEGATIVE}
NEGATIVE_MASS = {"targets": (-0.5,)}

CASES = [
    Case(
        jl.kl_divergence, kl, KL,
        class_inputs=KL_CLASSES, domain=KL_DOMAIN, invalid=NEGATIVE_MASS,
    ),
    Case(
        jl.kl_divergence_with_log_targets, log_kl,
        {"log_predictions": LOG_PREDICTIONS, "log_targets": np.log(TARGETS)},
        class_inputs=("log_predictions", "log_targets"),
        domain={"log_predictions": BELOW_ZERO, "log_targets": BELOW_ZERO},
    ),
    Case(
        jl.generalized_kl_divergence, generalized, KL,
        class_inputs=KL_CLASSES, domain=KL_DOMAIN, invalid=NEGATIVE_MASS,
    ),
    Case(
        jl.convex_kl_divergence, generalized, KL,
        class_inputs=KL_CLASSES, domain=KL_DOMAIN, invalid=NEGATIVE_MASS,
    ),
    Case(
        jl.jensen_shannon_divergence, jensen_shannon,
        {"logits_p": LOGITS, "logits_q": OTHER_LOGITS, "beta": BETAS},
        class_inputs=("logits_p", "logits_q"),
        domain={"beta": UNIT},
    ),
    Case(
        jl.wasserstein_distance, earth_mover,
        {"probabilities": softmax(LOGITS), "targets": HISTOGRAMS},
        class_inputs=("probabilities", "targets"),
        domain={"probabilities": NON_NEGATIVE, "targets": NON_NEGATIVE},
        invalid={"probabilities": (-0.5,), "targets": (-0.5,)},
    ),
]  # fmt: skip

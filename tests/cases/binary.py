"""The binary losses and their definitions."""

import math

import numpy as np

import jaxloss as jl
from cases.case import Case, zero_times

UNIT = (0.0, 1.0)
NON_NEGATIVE = (0.0, math.inf)

LOGITS = np.array([0.3, -1.7, 2.4, -0.05, 0.62, -4.1])
SOFT = np.array([1.0, 0.0, 0.0, 0.3, 0.85, 1.0])
HARD = np.array([1, 0, 0, 1, 0, 1])
SIGNS = np.array([1.0, -1.0, 1.0, 1.0, -1.0, -1.0])


def sigmoid(x):
    return np.where(x >= 0, 1, np.exp(np.minimum(x, 0))) / (1 + np.exp(-np.abs(x)))


def softplus(x):
    return np.logaddexp(x, 0)


def binary_cross_entropy_of_logits(logits, labels, pos_weight=1, label_smoothing=0):
    y = labels * (1 - label_smoothing) + label_smoothing / 2
    positive = pos_weight * zero_times(y, softplus(-logits))
    return positive + zero_times(1 - y, softplus(logits))


def binary_cross_entropy_of_probabilities(probabilities, labels):
    with np.errstate(divide="ignore"):
        log_p = np.maximum(np.log(probabilities), -100)
        log_q = np.maximum(np.log1p(-probabilities), -100)
    return -(labels * log_p + (1 - labels) * log_q)


def binary_focal(logits, labels, gamma, alpha=None):
    miss = labels * sigmoid(-logits) + (1 - labels) * sigmoid(logits)
    loss = zero_times(miss**gamma, binary_cross_entropy_of_logits(logits, labels))
    if alpha is not None:
        loss = loss * (alpha * labels + (1 - alpha) * (1 - labels))
    return loss


def binary_sparsemax(logits, labels):
    """max over p in [0, 1] of p x - p² + p, less the score of the label's own p."""
    x = np.where(labels == 1, -logits, logits)
    p = np.clip((x + 1) / 2, 0, 1)
    return zero_times(p, x) + p * (1 - p)


def hinge_embedding(distances, targets, margin):
    return np.where(targets == 1, distances, np.maximum(margin - distances, 0))


MARGINS = {"predictor_outputs": LOGITS, "targets": SIGNS}
SIGNS_ONLY = {
    "domain": {"targets": (-1, 1)},
    "suspect": {"targets": (0, 0.5)},
}

# Labels that belong to losses with targets of 1 and -1.
NO_PROBABILITY = {"labels": (-1.0, 2.0)}

# fmt: off
CASES = [
    Case(
        jl.sigmoid_binary_cross_entropy, binary_cross_entropy_of_logits,
        {"logits": LOGITS, "labels": SOFT},
        domain={"labels": UNIT}, suspect=NO_PROBABILITY,
    ),
    Case(
        jl.sigmoid_binary_cross_entropy, binary_cross_entropy_of_logits,
        {"logits": LOGITS, "labels": SOFT},
        {"pos_weight": 2.5, "label_smoothing": 0.1}, variant="weighted and smooth",
        domain={"labels": UNIT, "pos_weight": NON_NEGATIVE, "label_smoothing": UNIT},
        suspect=NO_PROBABILITY,
    ),
    Case(
        jl.binary_cross_entropy, binary_cross_entropy_of_probabilities,
        {"probabilities": np.array([0.3, 0.9, 0.06, 0.55, 0.97, 0.7]), "labels": SOFT},
        domain={"probabilities": UNIT, "labels": UNIT},
        invalid={"probabilities": (-0.5, 1.5)}, suspect=NO_PROBABILITY,
    ),
    Case(
        jl.sigmoid_focal_loss, binary_focal,
        {"logits": LOGITS, "labels": SOFT}, {"gamma": 1.6},
        domain={"labels": UNIT, "gamma": NON_NEGATIVE}, suspect=NO_PROBABILITY,
    ),
    Case(
        jl.sigmoid_focal_loss, binary_focal,
        {"logits": LOGITS, "labels": SOFT}, {"gamma": 0.7, "alpha": 0.25},
        variant="balanced",
        domain={"labels": UNIT, "gamma": NON_NEGATIVE, "alpha": UNIT},
        suspect=NO_PROBABILITY,
    ),
    Case(
        jl.hinge_loss,
        lambda predictor_outputs, targets: np.maximum(
            0, 1 - targets * predictor_outputs
        ),
        MARGINS, **SIGNS_ONLY,
    ),
    Case(
        jl.squared_hinge_loss,
        lambda predictor_outputs, targets: np.maximum(
            0, 1 - targets * predictor_outputs
        ) ** 2,
        MARGINS, **SIGNS_ONLY,
    ),
    Case(
        jl.soft_margin_loss,
        lambda predictor_outputs, targets: softplus(-targets * predictor_outputs),
        MARGINS, **SIGNS_ONLY,
    ),
    Case(
        jl.perceptron_loss,
        lambda predictor_outputs, targets: np.maximum(0, -targets * predictor_outputs),
        MARGINS, **SIGNS_ONLY,
    ),
    Case(
        jl.sparsemax_loss, binary_sparsemax,
        {"logits": LOGITS, "labels": HARD},
        domain={"labels": (0, 1)},
        invalid={"labels": (-1, 2)},
    ),
    Case(
        jl.hinge_embedding_loss, hinge_embedding,
        {
            "distances": np.array([0.4, 1.7, 2.4, 0.05, 0.62, 6.1]),
            "targets": np.array([1, -1, 1, -1, -1, 1]),
        },
        {"margin": 0.9},
        domain={"distances": NON_NEGATIVE},
        invalid={"targets": (0, 2)},
    ),
]
# fmt: on

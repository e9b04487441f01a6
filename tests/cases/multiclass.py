"""The multiclass losses and their definitions."""

import math

import numpy as np

import jaxloss as jl
from cases.case import Case, zero_times

INF = math.inf
UNIT = (0.0, 1.0)
NON_NEGATIVE = (0.0, INF)

# Rows: ordinary, peaked at the label, peaked elsewhere, shifted up, shifted down,
# nearly uniform.
CLASS_LOGITS = np.array(
    [
        [0.7, -1.2, 0.1, 1.9, -0.4],
        [9.0, -0.3, 0.2, -1.0, 0.6],
        [0.5, 7.5, -0.8, 0.3, 1.1],
        [31.0, 30.2, 29.1, 30.9, 28.5],
        [-20.3, -21.0, -19.2, -22.5, -20.8],
        [0.02, 0.01, -0.01, 0.03, 0.0],
    ]
)
CLASS_LABELS = np.array([3, 0, 2, 1, 2, 0])
SOFT_LABELS = np.array(
    [
        [0.0, 0.0, 0.0, 1.0, 0.0],
        [0.6, 0.1, 0.0, 0.1, 0.2],
        [0.0, 0.5, 0.5, 0.0, 0.0],
        [0.2, 0.2, 0.2, 0.2, 0.2],
        [0.0, 0.0, 0.9, 0.0, 0.0],  # a mass below 1
        [0.3, 0.0, 0.0, 0.7, 0.4],  # and above
    ]
)
CLASS_WEIGHTS = np.array([1.5, 0.4, 2.0, 0.9, 0.7])
DENSE = {"logits": CLASS_LOGITS, "labels": SOFT_LABELS}
INTEGER = {"logits": CLASS_LOGITS, "labels": CLASS_LABELS}


def log_softmax(x):
    """Of one example: for every class its logit less log(Σ exp)."""
    top = max((v for v in x if v > -INF), default=0.0)
    log_sum = math.log(math.fsum(math.exp(v - top) for v in x))
    return np.array([(v - top) - log_sum for v in x]), top + log_sum


def every_log_softmax(logits):
    found = np.zeros(logits.shape)
    for i in np.ndindex(logits.shape[:-1]):
        found[i] = log_softmax(logits[i])[0]
    return found


def soft_cross_entropy(
    logits, labels, class_weights=None, label_smoothing=0.0, z_loss=0.0
):
    classes = logits.shape[-1]
    weights = np.ones(classes) if class_weights is None else class_weights
    losses = np.zeros(logits.shape[:-1])
    for i in np.ndindex(losses.shape):
        log_p, log_sum = log_softmax(logits[i])
        for c in range(classes):
            q = labels[i][c] * (1 - label_smoothing) + label_smoothing / classes
            losses[i] -= zero_times(q * weights[c], log_p[c])
        losses[i] += z_loss * log_sum**2
    return losses


def integer_cross_entropy(logits, labels, ignore_index=None, **parameters):
    hot = np.eye(logits.shape[-1])[labels]
    losses = soft_cross_entropy(logits, hot, **parameters)
    return np.where(labels == ignore_index, 0, losses)


def label_mass(labels, class_weights, ignore_index=None, **_):
    return np.where(labels == ignore_index, 0, class_weights[labels])


def nll(log_probs, labels, class_weights, ignore_index):
    losses = np.zeros(labels.shape)
    for i in np.ndindex(labels.shape):
        if labels[i] != ignore_index:
            losses[i] = -class_weights[labels[i]] * log_probs[i][labels[i]]
    return losses


def focal(logits, labels, gamma, class_weights=None, label_smoothing=0.0):
    classes = logits.shape[-1]
    weights = np.ones(classes) if class_weights is None else class_weights
    losses = np.zeros(labels.shape)
    for i in np.ndindex(labels.shape):
        log_p, _ = log_softmax(logits[i])
        for c in range(classes):
            hot = float(labels[i] == c)
            q = hot * (1 - label_smoothing) + label_smoothing / classes
            miss = -math.expm1(log_p[c])
            losses[i] -= zero_times(q * weights[c] * miss**gamma, log_p[c])
    return losses


def smooth(labels, alpha):
    return (1 - alpha) * labels + alpha / labels.shape[-1]


CROSS_ENTROPY_PARAMETERS = {
    "class_weights": CLASS_WEIGHTS,
    "label_smoothing": 0.15,
    "z_loss": 0.02,
}
CROSS_ENTROPY_DOMAIN = {
    "labels": UNIT,
    "class_weights": NON_NEGATIVE,
    "label_smoothing": UNIT,
    "z_loss": NON_NEGATIVE,
}

# fmt: off
CASES = [
    Case(
        jl.softmax_cross_entropy, soft_cross_entropy, DENSE,
        class_inputs=("logits", "labels"),
        domain=CROSS_ENTROPY_DOMAIN,
        suspect={"labels": (-0.5,)},
    ),
    Case(
        jl.softmax_cross_entropy, soft_cross_entropy, DENSE, CROSS_ENTROPY_PARAMETERS,
        variant="all parameters",
        class_inputs=("logits", "labels"), class_parameters=("class_weights",),
        domain=CROSS_ENTROPY_DOMAIN,
        suspect={"labels": (-0.5,)},
    ),
    Case(
        jl.safe_softmax_cross_entropy, soft_cross_entropy, DENSE,
        CROSS_ENTROPY_PARAMETERS,
        class_inputs=("logits", "labels"), class_parameters=("class_weights",),
        domain=CROSS_ENTROPY_DOMAIN,
        suspect={"labels": (-0.5,)},
    ),
    Case(
        jl.softmax_cross_entropy_with_integer_labels, integer_cross_entropy, INTEGER,
        class_inputs=("logits",),
        invalid={"labels": (-1, 5)},
    ),
    Case(
        jl.softmax_cross_entropy_with_integer_labels, integer_cross_entropy, INTEGER,
        {"class_weights": CLASS_WEIGHTS}, {"ignore_index": 1},
        variant="weighted",
        class_inputs=("logits",), class_parameters=("class_weights",), mass=label_mass,
        invalid={"labels": (-1, 5)},
    ),
    Case(
        jl.softmax_cross_entropy_with_integer_labels, integer_cross_entropy, INTEGER,
        CROSS_ENTROPY_PARAMETERS, variant="all parameters",
        class_inputs=("logits",), class_parameters=("class_weights",), mass=label_mass,
        domain=CROSS_ENTROPY_DOMAIN,
        invalid={"labels": (-1, 5)},
    ),
    Case(
        jl.nll_loss, nll,
        {
            "log_probs": np.array([log_softmax(x)[0] for x in CLASS_LOGITS]),
            "labels": CLASS_LABELS,
        },
        {"class_weights": CLASS_WEIGHTS}, {"ignore_index": 1},
        class_inputs=("log_probs",), class_parameters=("class_weights",),
        mass=label_mass,
        invalid={"labels": (-1, 5)},
    ),
    Case(
        jl.log_softmax, every_log_softmax, {"logits": CLASS_LOGITS},
        tail=False, core={"logits": 1},
    ),
    Case(
        jl.softmax_focal_loss, focal, INTEGER, {"gamma": 1.6},
        class_inputs=("logits",),
        invalid={"labels": (-1, 5)},
    ),
    Case(
        jl.softmax_focal_loss, focal, INTEGER,
        {"gamma": 2.0, "class_weights": CLASS_WEIGHTS, "label_smoothing": 0.15},
        variant="all parameters",
        class_inputs=("logits",), class_parameters=("class_weights",),
        invalid={"labels": (-1, 5)},
    ),
    Case(
        jl.smooth_labels, smooth, {"labels": SOFT_LABELS}, {"alpha": 0.15},
        class_inputs=("labels",), tail=False, widens=False,
    ),
]
# fmt: on

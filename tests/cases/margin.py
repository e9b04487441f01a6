"""The multiclass losses on margins, and the Fenchel-Young losses."""

import itertools
import math

import jax.numpy as jnp
import numpy as np

import jaxloss as jl
from cases.case import Case, zero_times
from cases.multiclass import (
    CLASS_LABELS,
    CLASS_LOGITS,
    CLASS_WEIGHTS,
    DENSE,
    INTEGER,
    NON_NEGATIVE,
    SOFT_LABELS,
    UNIT,
    log_softmax,
)

# Rows: ordinary, right by far, wrong by far, right within the margin, two rivals within
# the margin, nearly uniform.
SCORES = np.array(
    [
        [0.7, -1.2, 0.1, 1.3, -0.4],
        [9.0, -0.3, 0.2, -1.0, 0.6],
        [0.5, 7.5, -0.8, 0.3, 1.1],
        [0.2, 0.9, 0.35, 0.1, -2.5],
        [-0.5, -1.0, 0.2, -0.1, -0.8],
        [0.12, 0.07, -0.11, 0.03, 0.0],
    ]
)
SCORED = {"scores": SCORES, "labels": CLASS_LABELS}
MULTI_HOT = np.array(
    [
        [1.0, 0.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, 0.0, 0.0, 0.0],
        [0.6, 0.1, 0.0, 0.3, 0.2],
        [1.0, 1.0, 1.0, 1.0, 1.0],
        [0.0, 0.0, 1.0, 0.0, 0.0],
        [0.0, 1.0, 0.0, 0.0, 0.0],
    ]
)
# Class indices up to the first -1.
INDEX_ROWS = np.array(
    [
        [3, 0, -1, 1],
        [-1, 2, 2, -1],
        [0, 1, 2, 3],
        [2, -1, -1, -1],
        [1, 3, 1, -1],
        [0, 2, -1, 3],
    ]
)


def rivals(scores, label):
    return [s for c, s in enumerate(scores) if c != label]


def hinge(scores, labels):
    return np.array(
        [
            max(0.0, *(1 + s - x[y] for s in rivals(x, y)))
            for x, y in zip(scores, labels, strict=True)
        ]
    )


def perceptron(scores, labels):
    return np.array([max(x) - x[y] for x, y in zip(scores, labels, strict=True)])


def sparsemax(scores, labels):
    """The maximum over all supports of <q, s> - |q|²/2, less that of the label."""
    losses = []
    for x, y in zip(scores, labels, strict=True):
        best = -math.inf
        for size in range(1, len(x) + 1):
            for support in itertools.combinations(range(len(x)), size):
                inside = x[list(support)]
                q = inside - (inside.sum() - 1) / size
                if np.all(q >= 0):
                    best = max(best, q @ inside - q @ q / 2)
        losses.append(best - (x[y] - 0.5))
    return np.array(losses)


def multi_margin(scores, labels, margin=1.0, class_weights=None, p=1):
    weights = np.ones(scores.shape[-1]) if class_weights is None else class_weights
    return np.array(
        [
            weights[y]
            * sum(max(0.0, margin - x[y] + s) ** p for s in rivals(x, y))
            / len(x)
            for x, y in zip(scores, labels, strict=True)
        ]
    )


def categorical_hinge(scores, labels):
    return np.maximum(
        0, 1 + ((1 - labels) * scores).max(-1) - (labels * scores).sum(-1)
    )


def multilabel_margin(scores, labels):
    losses = []
    for x, row in zip(scores, labels, strict=True):
        named = list(itertools.takewhile(lambda y: y != -1, row))
        others = [s for c, s in enumerate(x) if c not in named]
        losses.append(sum(max(0.0, 1 - x[y] + s) for y in named for s in others))
    return np.array(losses) / scores.shape[-1]


def multilabel_soft_margin(logits, labels, class_weights=None):
    weights = np.ones(logits.shape[-1]) if class_weights is None else class_weights
    right = zero_times(labels, np.logaddexp(0, -logits))
    wrong = zero_times(1 - labels, np.logaddexp(0, logits))
    return (weights * (right + wrong)).mean(-1)


def poly(logits, labels, epsilon=2.0):
    losses = []
    for x, q in zip(logits, labels, strict=True):
        log_p, _ = log_softmax(x)
        losses.append(np.sum(-zero_times(q, log_p) - epsilon * q * np.expm1(log_p)))
    return np.array(losses)


def generalized(logits, labels, q):
    log_p = np.array(
        [log_softmax(x)[0][y] for x, y in zip(logits, labels, strict=True)]
    )
    return (1 - np.exp(log_p) ** q) / q


def fenchel_young(scores, targets):
    """Of half the squared norm: |s|²/2 - <y, s>."""
    return np.sum(scores**2 / 2 - targets * scores, axis=-1)


# fmt: off
CASES = [
    Case(
        jl.multiclass_hinge_loss, hinge, SCORED,
        class_inputs=("scores",), invalid={"labels": (-1, 5)},
    ),
    Case(
        jl.multiclass_perceptron_loss, perceptron,
        {"scores": SCORES, "labels": np.array([0, 0, 2, 3, 1, 2])},
        class_inputs=("scores",), invalid={"labels": (-1, 5)},
    ),
    Case(
        jl.multiclass_sparsemax_loss, sparsemax, SCORED,
        class_inputs=("scores",), invalid={"labels": (-1, 5)},
    ),
    Case(
        jl.multi_margin_loss, multi_margin, SCORED, {"margin": 0.75},
        class_inputs=("scores",), invalid={"labels": (-1, 5)},
    ),
    Case(
        jl.multi_margin_loss, multi_margin, SCORED,
        {"margin": 0.75, "class_weights": CLASS_WEIGHTS}, {"p": 2},
        variant="squared",
        class_inputs=("scores",), class_parameters=("class_weights",),
        domain={"class_weights": NON_NEGATIVE}, invalid={"labels": (-1, 5)},
    ),
    Case(
        jl.categorical_hinge_loss, categorical_hinge,
        {"scores": SCORES, "labels": SOFT_LABELS},
        class_inputs=("scores", "labels"), domain={"labels": UNIT},
    ),
    Case(
        jl.multilabel_margin_loss, multilabel_margin,
        {"scores": SCORES, "labels": INDEX_ROWS},
        class_inputs=("scores",), core={"labels": 1}, invalid={"labels": (-2, 5)},
    ),
    Case(
        jl.multilabel_soft_margin_loss, multilabel_soft_margin,
        {"logits": CLASS_LOGITS, "labels": MULTI_HOT},
        {"class_weights": CLASS_WEIGHTS},
        class_inputs=("logits", "labels"), class_parameters=("class_weights",),
        domain={"labels": UNIT, "class_weights": NON_NEGATIVE},
    ),
    Case(
        jl.poly_loss_cross_entropy, poly, DENSE, {"epsilon": 1.5},
        class_inputs=("logits", "labels"), domain={"labels": UNIT},
    ),
    Case(
        jl.generalized_cross_entropy, generalized, INTEGER, {"q": 0.6},
        class_inputs=("logits",), domain={"q": (0.01, 1.0)},
        invalid={"labels": (-1, 5)},
    ),
    Case(
        jl.make_fenchel_young_loss(lambda s: jnp.sum(s * s) / 2), fenchel_young,
        {"scores": SCORES, "targets": SOFT_LABELS},
        name="make_fenchel_young_loss",
        class_inputs=("scores", "targets"), tail=False,
    ),
]
# fmt: on

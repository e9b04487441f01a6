"""The ranking losses and their definitions."""

import math

import numpy as np

import jaxloss as jl
from cases.case import Case, zero_times

SCORES = np.array(
    [
        [0.7, -1.2, 0.1, 1.9],
        [7.0, -0.3, 0.2, -1.0],
        [0.5, 5.5, -0.8, 0.3],
        [31.0, 30.2, 29.1, 30.9],
        [-20.3, -21.0, -19.2, -22.5],
        [0.02, 0.01, -0.01, 0.03],
    ]
)
RELEVANCE = np.array(
    [
        [0.0, 1.0, 0.0, 0.0],
        [2.0, 0.0, 1.0, 0.0],
        [0.0, 0.0, 3.0, 0.5],
        [1.0, 1.0, 1.0, 1.0],
        [0.0, 2.0, 0.0, 4.0],
        [1.0, 0.0, 0.0, 2.5],
    ]
)
ITEM_WEIGHTS = np.array(
    [
        [0.5, 1.3, 0.9, 1.1],
        [1.7, 0.2, 0.6, 0.8],
        [0.4, 1.9, 0.3, 2.2],
        [1.0, 0.7, 1.6, 0.1],
        [2.1, 0.35, 1.2, 0.55],
        [0.65, 1.4, 0.15, 0.95],
    ]
)


def softmax_cross_entropy(logits, labels, weights=1.0, reduce_fn=None):
    """One list after the other; `reduce_fn` is None in the catalogue."""
    batch = logits.shape[:-1]
    gains = labels * weights
    losses = np.zeros(batch)
    for i in np.ndindex(batch):
        top = max(logits[i])
        log_sum = math.log(math.fsum(math.exp(s - top) for s in logits[i]))
        terms = zip(gains[i], logits[i], strict=True)
        losses[i] = math.fsum(zero_times(y, log_sum - (s - top)) for y, s in terms)
    return losses


CASES = [
    Case(
        jl.ranking_softmax_loss, softmax_cross_entropy,
        {"logits": SCORES, "labels": RELEVANCE},
        options={"reduce_fn": None},
        core={"logits": 1, "labels": 1}, tail=False,
        domain={"labels": (0.0, math.inf)},
    ),
    Case(
        jl.ranking_softmax_loss, softmax_cross_entropy,
        {"logits": SCORES, "labels": RELEVANCE, "weights": ITEM_WEIGHTS},
        options={"reduce_fn": None}, variant="weighted",
        core={"logits": 1, "labels": 1, "weights": 1}, tail=False,
        domain={"labels": (0.0, math.inf), "weights": (0.0, math.inf)},
    ),
]  # fmt: skip

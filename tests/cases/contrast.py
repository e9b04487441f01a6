"""The losses that compare every example with every other, and their definitions."""

import math

import numpy as np

import jaxloss as jl
from cases.case import Case
from cases.embedding import GROUPS, X, Y, pairs_of

POSITIVE = (1e-3, math.inf)
# Some of the inner products of X and Y are beyond 10.
U, V = X / 3, Y / 3


def log_sum_exp(numbers):
    top = max(numbers)
    return top + math.log(math.fsum(math.exp(x - top) for x in numbers))


def siglip(
    image_embeddings, text_embeddings, logit_scale=10.0, logit_bias=-10.0, **_
):  # fmt: skip
    x = logit_scale * (image_embeddings @ text_embeddings.T) + logit_bias
    sign = np.where(np.eye(len(x)) == 1, -1, 1)
    return np.logaddexp(0, sign * x).sum(1)


def info_nce(
    queries, keys, temperature=0.07, symmetric=False, log_q=None, labels=None, **_
):
    n = len(queries)
    x = queries @ keys.T / temperature
    if log_q is not None:
        x = x - log_q

    def one_way(x):
        losses = np.zeros(n)
        for i in range(n):
            hits = range(n) if labels is None else np.flatnonzero(labels != labels[i])
            losses[i] = log_sum_exp([x[i, j] for j in {i, *hits}]) - x[i, i]
        return losses

    return (one_way(x) + one_way(x.T)) / 2 if symmetric else one_way(x)


def supervised(embeddings, labels, temperature=0.1, **_):
    x = embeddings @ embeddings.T / temperature
    losses = np.zeros(len(x))
    for i in range(len(x)):
        same, different = pairs_of(labels, i)
        if same:
            bottom = log_sum_exp([x[i, j] for j in (*same, *different)])
            losses[i] = math.fsum(bottom - x[i, j] for j in same) / len(same)
    return losses


def has_positives(labels, **_):
    return np.array([bool(pairs_of(labels, i)[0]) for i in range(len(labels))], float)


# The products round their operands on accelerators unless told not to.
EXACT = {"precision": "highest"}
PAIR = {"image_embeddings": U, "text_embeddings": V}
TOWERS = {"queries": U, "keys": V}

# fmt: off
CASES = [
    Case(
        jl.siglip_loss, siglip, PAIR, {"logit_scale": 1.3, "logit_bias": -0.8}, EXACT,
        core=dict.fromkeys(PAIR, 1), independent=False,
    ),
    Case(
        jl.siglip_loss, siglip, PAIR, {"logit_scale": 1.3},
        {**EXACT, "chunk_size": 4}, variant="chunks",
        core=dict.fromkeys(PAIR, 1), independent=False,
    ),
    Case(
        jl.info_nce_loss, info_nce,
        {
            **TOWERS, "log_q": np.array([-0.3, -1.7, -0.9, -2.2, -1.1, -0.4]),
            "labels": np.array([3, 1, 3, 7, 5, 1]),
        },
        {"temperature": 0.6}, {**EXACT, "chunk_size": 4},
        core=dict.fromkeys(TOWERS, 1), independent=False,
        domain={"temperature": POSITIVE},
    ),
    Case(
        jl.info_nce_loss, info_nce, TOWERS, {"temperature": 0.6},
        {**EXACT, "symmetric": True}, variant="symmetric",
        core=dict.fromkeys(TOWERS, 1), independent=False,
        domain={"temperature": POSITIVE},
    ),
    Case(
        jl.supervised_contrastive_loss, supervised,
        {"embeddings": U, "labels": GROUPS}, {"temperature": 0.6}, EXACT,
        core={"embeddings": 1}, independent=False, mass=has_positives,
        domain={"temperature": POSITIVE},
    ),
]
# fmt: on

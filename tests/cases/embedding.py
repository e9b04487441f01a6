"""The losses on embeddings and their definitions."""

import math

import numpy as np

import jaxloss as jl
from cases.case import Case

X = np.array(
    [
        [0.7, -1.2, 0.1, 1.9],
        [3.0, -0.3, 0.2, -1.0],
        [0.5, 1.5, -0.8, 0.3],
        [3.4, 2.2, -1.1, 0.9],
        [-0.6, 0.2, -0.4, 1.0],
        [1.1, -0.6, 0.4, 0.2],
    ]
)
Y = np.array(
    [
        [1.0, 0.4, -0.7, 0.9],
        [2.6, -0.1, 0.4, -1.2],
        [-0.5, -0.2, 0.9, 1.4],
        [4.0, 1.2, 2.1, -0.9],
        [0.3, 0.7, -0.2, 0.5],
        [-1.0, 0.8, 0.3, -0.6],
    ]
)
Z = np.array(
    [
        [0.2, -0.9, 0.8, 1.1],
        [-1.0, 0.6, 0.5, 0.3],
        [0.9, 1.1, -0.4, 0.1],
        [2.5, 1.6, -0.3, 1.5],
        [0.4, 0.1, 0.6, -0.7],
        [1.3, -0.2, 0.7, 0.4],
    ]
)
UNIT_ROWS = Z / np.linalg.norm(Z, axis=1, keepdims=True)
SIGNS = np.array([1.0, -1.0, 1.0, -1.0, -1.0, -1.0])
GROUPS = np.array([4, 1, 4, 1, 2, 4])
SIGN_DOMAIN = {"targets": (-1.0, 1.0)}


def cosine(a, b, epsilon=0.0):
    lengths = [math.sqrt(max(math.fsum(v * v for v in x), epsilon)) for x in (a, b)]
    dot = math.fsum(v * w for v, w in zip(a, b, strict=True))
    return dot / lengths[0] / lengths[1]


def similarity(predictions, targets, epsilon=0.0):
    rows = zip(predictions, targets, strict=True)
    return np.array([cosine(a, b, epsilon) for a, b in rows])


def distance(predictions, targets, epsilon=0.0):
    return 1 - similarity(predictions, targets, epsilon)


def cosine_embedding(x1, x2, targets, margin=0.0):
    cosines = similarity(x1, x2)
    return np.where(targets == 1, 1 - cosines, np.maximum(0, cosines - margin))


def margin_ranking(x1, x2, targets, margin=0.0):
    return np.maximum(0, margin - targets * (x1 - x2))


def triplet(
    anchors, positives, negatives, norm_degree=2, margin=1.0, eps=1e-6, swap=False
):
    def length(x, y):
        return (np.sum(np.abs(x - y) ** norm_degree, -1) + eps) ** (1 / norm_degree)

    far = length(anchors, negatives)
    if swap:
        far = np.minimum(far, length(positives, negatives))
    return np.maximum(0, length(anchors, positives) - far + margin)


def city_block(x, y):
    return abs(x - y).sum(-1)


def triplet_with_distance(
    anchors, positives, negatives, margin=1.0, distance_fn=None, swap=False
):
    far = city_block(anchors, negatives)
    if swap:
        far = np.minimum(far, city_block(positives, negatives))
    return np.maximum(0, city_block(anchors, positives) - far + margin)


def pairs_of(labels, i):
    others = [j for j in range(len(labels)) if j != i]
    same = [j for j in others if labels[j] == labels[i]]
    return same, [j for j in others if labels[j] != labels[i]]


def ntxent(embeddings, labels, temperature=0.07, reduction="none"):
    losses = np.zeros(len(labels))
    for i in range(len(labels)):
        same, different = pairs_of(labels, i)
        scores = [cosine(embeddings[i], x) / temperature for x in embeddings]
        against = math.fsum(math.exp(scores[k]) for k in different)
        for j in same:
            odds = math.exp(scores[j])
            losses[i] -= math.log(odds / (odds + against))
    return losses


def pair_count(labels, **_):
    return np.array([len(pairs_of(labels, i)[0]) for i in range(len(labels))], float)


def circle(embeddings, labels, gamma=80.0, margin=0.4):
    losses = np.zeros(len(labels))
    gaps = np.maximum(0, 1 - embeddings @ embeddings.T)
    for i in range(len(labels)):
        same, different = pairs_of(labels, i)
        if same and different:
            d, e = gaps[i, same], gaps[i, different]
            pull = np.exp(gamma * (d + margin) * (d - margin)).sum()
            weight = np.maximum(0, 1 + margin - e)
            push = np.exp(gamma * weight * (1 - margin - e)).sum()
            losses[i] = math.log1p(pull * push)
    return losses


# fmt: off
CASES = [
    Case(
        jl.cosine_similarity, similarity, {"predictions": X, "targets": Y},
        core={"predictions": 1, "targets": 1},
    ),
    Case(
        jl.cosine_similarity, similarity, {"predictions": X, "targets": Y},
        {"epsilon": 2.0}, variant="floor",
        core={"predictions": 1, "targets": 1}, domain={"epsilon": (0.0, math.inf)},
    ),
    Case(
        jl.cosine_distance, distance, {"predictions": X, "targets": Y},
        core={"predictions": 1, "targets": 1},
    ),
    Case(
        jl.cosine_distance, distance, {"predictions": X, "targets": Y},
        {"epsilon": 2.0}, variant="floor",
        core={"predictions": 1, "targets": 1}, domain={"epsilon": (0.0, math.inf)},
    ),
    Case(
        jl.cosine_embedding_loss, cosine_embedding,
        {"x1": X, "x2": Z, "targets": SIGNS.astype(int)}, {"margin": 0.15},
        core={"x1": 1, "x2": 1},
        domain={"margin": (-1.0, 1.0)}, invalid={"targets": (0, 2)},
    ),
    Case(
        jl.margin_ranking_loss, margin_ranking,
        {"x1": X[:, 0], "x2": Y[:, 1], "targets": SIGNS}, {"margin": 0.45},
        domain=SIGN_DOMAIN, suspect={"targets": (0.0, 2.0)},
    ),
    Case(
        jl.triplet_margin_loss, triplet,
        {"anchors": X, "positives": Y, "negatives": Z}, {"margin": 6.0, "eps": 0.5},
        core={"anchors": 1, "positives": 1, "negatives": 1},
        domain={"eps": (0.0, math.inf)},
    ),
    Case(
        jl.triplet_margin_loss, triplet,
        {"anchors": X, "positives": Y, "negatives": Z},
        {"margin": 6.0, "eps": 0.5, "norm_degree": 2.6}, {"swap": True},
        variant="swap",
        core={"anchors": 1, "positives": 1, "negatives": 1},
        domain={"eps": (0.0, math.inf), "norm_degree": (1.0, 8.0)},
    ),
    Case(
        jl.triplet_margin_with_distance_loss, triplet_with_distance,
        {"anchors": X, "positives": Y, "negatives": Z}, {"margin": 9.0},
        {"distance_fn": city_block, "swap": True},
        core={"anchors": 1, "positives": 1, "negatives": 1},
    ),
    Case(
        jl.ntxent, ntxent, {"embeddings": X, "labels": GROUPS}, {"temperature": 0.6},
        {"reduction": "none"}, default_reduction="mean",
        core={"embeddings": 1}, mass=pair_count, independent=False,
        domain={"temperature": (0.05, 10.0)},
    ),
    Case(
        jl.circle_loss, circle, {"embeddings": UNIT_ROWS, "labels": GROUPS},
        {"gamma": 3.0, "margin": 0.35},
        core={"embeddings": 1}, independent=False,
    ),
]
# fmt: on

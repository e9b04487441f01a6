"""The losses that compare every example with every other, and their definitions."""

import math

import jax.numpy as jnp
import numpy as np

import jaxloss as jl
from cases.case import Case
from cases.embedding import GROUPS, X, Y, Z, cosine, pairs_of

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


def barlow_twins(x, y, off_diagonal_weight=5e-3, epsilon=1e-5):
    n, features = x.shape

    def standardized(z):
        return (z - z.mean(0)) / np.sqrt(z.var(0) + epsilon)

    c = standardized(x).T @ standardized(y) / n
    terms = [
        (1 - c[i, j]) ** 2 if i == j else off_diagonal_weight * c[i, j] ** 2
        for i in range(features)
        for j in range(features)
    ]
    return math.fsum(terms) * np.arange(1, n + 1)


def vicreg(x, y, invariance=25.0, variance=25.0, covariance=1.0, epsilon=1e-4):
    n, features = x.shape
    loss = invariance * np.mean((x - y) ** 2)
    for z in (x, y):
        gaps = z - z.mean(0)
        cov = [
            [math.fsum(gaps[:, i] * gaps[:, j]) / (n - 1) for j in range(features)]
            for i in range(features)
        ]
        deviations = np.sqrt(np.diag(cov) + epsilon)
        loss += variance * np.mean(np.maximum(0, 1 - deviations))
        apart = [
            c * c for i, row in enumerate(cov) for j, c in enumerate(row) if i != j
        ]
        loss += covariance * math.fsum(apart) / features
    return loss * np.arange(1, n + 1)


def per_example(loss):
    """One number of the batch times 1, 2, ...: the tests expect one per example."""

    def repeated(x, y, **parameters):
        value = loss(x, y, **parameters)
        return value * jnp.arange(1, np.shape(x)[0] + 1, dtype=value.dtype)

    return repeated


def arcface(
    embeddings, prototypes, labels, angular_margin=0.5, cosine_margin=0.0, scale=64.0,
    **_,
):  # fmt: skip
    losses = np.zeros(labels.shape)
    for i in np.ndindex(labels.shape):
        cosines = [cosine(embeddings[i], p) for p in prototypes]
        y = labels[i]
        angle = math.acos(cosines[y])
        cosines[y] = math.cos(angle + angular_margin) - cosine_margin
        if angle + angular_margin > math.pi:
            beyond = angular_margin * math.sin(angular_margin)
            cosines[y] = math.cos(angle) - beyond - cosine_margin
        losses[i] = log_sum_exp([scale * c for c in cosines]) - scale * cosines[y]
    return losses


# The products round their operands on accelerators unless told not to.
EXACT = {"precision": "highest"}
PAIR = {"image_embeddings": U, "text_embeddings": V}
TOWERS = {"queries": U, "keys": V}

# Some deviations are below 1, and some above.
LABELS = np.array([3, 0, 2, 1, 2, 0])
VIEWS = {"x": X * [0.3, 0.5, 1.0, 1.3], "y": Y * [0.4, 0.5, 1.0, 1.3]}

# fmt: off
CASES = [
    Case(
        jl.siglip_loss, siglip, PAIR, {"logit_scale": 1.3, "logit_bias": -0.8}, EXACT,
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
    Case(
        per_example(jl.barlow_twins_loss), barlow_twins, VIEWS,
        {"off_diagonal_weight": 0.3, "epsilon": 0.1}, name="barlow_twins_loss",
        core=dict.fromkeys(VIEWS, 1), independent=False, tail=False,
        domain=dict.fromkeys(("off_diagonal_weight", "epsilon"), POSITIVE),
    ),
    Case(
        per_example(jl.barlow_twins_loss), barlow_twins,
        {"x": np.hstack([X, X[::-1] ** 2, Y]), "y": np.hstack([Y, Y[::-1], X**3])},
        {"off_diagonal_weight": 0.3, "epsilon": 0.1}, name="barlow_twins_loss",
        variant="more features", core=dict.fromkeys(VIEWS, 1), independent=False,
        tail=False,
    ),
    Case(
        per_example(jl.vicreg_loss), vicreg, VIEWS,
        {"invariance": 1.7, "variance": 2.5, "covariance": 0.6, "epsilon": 0.03},
        name="vicreg_loss",
        core=dict.fromkeys(VIEWS, 1), independent=False, tail=False,
        domain=dict.fromkeys(
            ("invariance", "variance", "covariance", "epsilon"), POSITIVE
        ),
    ),
    Case(
        jl.arcface_loss, arcface, {"embeddings": X, "labels": LABELS},
        {
            "prototypes": Z[:5], "angular_margin": 0.4, "cosine_margin": 0.15,
            "scale": 2.7,
        },
        EXACT, core={"embeddings": 1}, invalid={"labels": (-1, 5)},
        domain={"angular_margin": (0.0, math.pi), "scale": POSITIVE},
    ),
    Case(
        jl.arcface_loss, arcface, {"embeddings": -X, "labels": LABELS},
        {"prototypes": Z[:5], "angular_margin": 0.9}, {**EXACT, "chunk_size": 4},
        variant="beyond", core={"embeddings": 1}, invalid={"labels": (-1, 5)},
        domain={"angular_margin": (0.0, math.pi)},
    ),
]
# fmt: on

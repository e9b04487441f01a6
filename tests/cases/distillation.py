"""The losses of distillation and their definitions."""

import math

import numpy as np

import jaxloss as jl
from cases.case import Case
from cases.divergence import (
    LOGITS,
    OTHER_LOGITS,
    softmax,
    sum_over_classes,
    x_log_ratio,
)

UNIT = (0.0, 1.0)
DOMAIN = {"temperature": (1e-3, math.inf), "beta": (1e-3, 0.999)}


def mixed(p, q, beta):
    m = beta * p + (1 - beta) * q
    return beta * x_log_ratio(p, m) + (1 - beta) * x_log_ratio(q, m)


# One class of a divergence, from the probabilities of teacher and student.
TERMS = {
    "forward_kl": lambda p, q, beta: x_log_ratio(p, q),
    "reverse_kl": lambda p, q, beta: x_log_ratio(q, p),
    "jensen_shannon": mixed,
}


def distillation(
    logits, teacher_logits, divergence="forward_kl", beta=0.5, temperature=1.0
):
    teacher, student = (softmax(x / temperature) for x in (teacher_logits, logits))
    return sum_over_classes(TERMS[divergence])(teacher, student, beta)


def sparse(
    logits,
    teacher_ids,
    teacher_log_probs,
    teacher_log_tail=None,
    divergence="forward_kl",
    beta=0.5,
    tail="bucket",
    temperature=1.0,
):
    """One example after the other, from the probabilities of the K classes and rest."""
    batch = logits.shape[:-1]
    shape = (*batch, teacher_ids.shape[-1])
    ids = np.broadcast_to(teacher_ids, shape)
    log_probs = np.broadcast_to(teacher_log_probs, shape)
    losses = np.zeros(batch)
    for i in np.ndindex(batch):
        every = softmax(logits[i] / temperature)
        kept = [k for k, c in enumerate(ids[i]) if c >= 0]
        p = [math.exp(log_probs[i][k]) for k in kept]
        q = [every[ids[i][k]] for k in kept]
        outside = set(range(len(every))) - {ids[i][k] for k in kept}
        rest = max(1 - math.fsum(p), 0)
        if teacher_log_tail is not None:
            rest = math.exp(np.broadcast_to(teacher_log_tail, batch)[i])
        if tail == "bucket":
            p, q = [*p, rest], [*q, math.fsum(every[c] for c in outside)]
        elif tail == "renormalize":
            p, q = ([x / math.fsum(v) for x in v] for v in (p, q))
        terms = (TERMS[divergence](*pair, beta) for pair in zip(p, q, strict=True))
        losses[i] = math.fsum(terms)
    return losses


IDS = np.array([[3, 0, 2], [0, 4, 1], [2, 1, 3], [1, 3, 0], [2, 0, 4], [2, 4, 1]])
LOG_PROBS = np.log(
    [
        [0.5, 0.2, 0.1],
        [0.9, 0.05, 0.01],
        [0.3, 0.3, 0.2],
        [0.45, 0.25, 0.15],
        [0.7, 0.05, 0.02],
        [0.26, 0.25, 0.2],
    ]
)
LOG_TAIL = np.log(1 - np.exp(LOG_PROBS).sum(-1))
KNOWN = {"logits": LOGITS, "teacher_ids": IDS, "teacher_log_probs": LOG_PROBS}
SPARSE = {
    "core": {"logits": 1, "teacher_ids": 1, "teacher_log_probs": 1},
    "domain": {
        **DOMAIN,
        "teacher_log_probs": (-30.0, -1.2),
        "teacher_log_tail": (-30.0, -0.1),
    },
    "invalid": {"teacher_ids": (-1, 5)},
}

BOTH = {"logits": LOGITS, "teacher_logits": OTHER_LOGITS}
DENSE = {"class_inputs": ("logits", "teacher_logits"), "domain": DOMAIN}

CASES = [
    Case(jl.distillation_loss, distillation, BOTH, **DENSE),
    Case(
        jl.distillation_loss, distillation, BOTH, {"temperature": 1.7},
        {"divergence": "reverse_kl"}, variant="reverse", **DENSE,
    ),
    Case(
        jl.distillation_loss, distillation, BOTH, {"temperature": 1.7, "beta": 0.3},
        {"divergence": "jensen_shannon"}, variant="jensen_shannon", **DENSE,
    ),
    Case(jl.sparse_distillation_loss, sparse, KNOWN, **SPARSE),
    Case(
        jl.sparse_distillation_loss, sparse, {**KNOWN, "teacher_log_tail": LOG_TAIL},
        {"temperature": 1.7, "beta": 0.3}, {"divergence": "jensen_shannon"},
        variant="jensen_shannon", **SPARSE,
    ),
    Case(
        jl.sparse_distillation_loss, sparse, KNOWN, {"temperature": 1.7},
        {"divergence": "reverse_kl", "tail": "renormalize"}, variant="renormalized",
        **SPARSE,
    ),
]  # fmt: skip

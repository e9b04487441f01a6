"""The losses of distillation and their definitions."""

import math

import numpy as np

import jaxloss as jl
from cases import vocabulary
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


def linear(
    hidden,
    kernel,
    teacher_hidden,
    teacher_kernel,
    bias=0.0,
    teacher_bias=0.0,
    logit_softcap=math.inf,
    teacher_logit_softcap=math.inf,
    chunk_size=None,
    precision=None,
    **options,
):
    student = vocabulary.logits(hidden, kernel, bias, logit_softcap)
    teacher = vocabulary.logits(
        teacher_hidden, teacher_kernel, teacher_bias, teacher_logit_softcap
    )
    return distillation(student, teacher, **options)


def linear_sparse(
    hidden,
    kernel,
    teacher_ids,
    teacher_log_probs,
    bias=0.0,
    logit_softcap=math.inf,
    chunk_size=None,
    precision=None,
    **options,
):
    student = vocabulary.logits(hidden, kernel, bias, logit_softcap)
    return sparse(student, teacher_ids, teacher_log_probs, **options)


TEACHER_HIDDEN = np.array(
    [
        [0.4, -1.1, 0.9, 0.3],
        [-0.2, 0.7, 1.6, -1.3],
        [1.2, 0.1, -0.8, 0.5],
        [-1.7, 0.6, 0.2, 1.4],
        [0.03, -0.01, 0.02, 0.04],  # nearly uniform
        [0.9, -0.4, -1.5, 0.8],
    ]
)
TEACHER_KERNEL = np.array(
    [
        [0.7, -0.3, 0.5, -0.9, 0.2],
        [-0.6, 0.8, 0.1, 0.4, -0.5],
        [0.3, 0.9, -0.7, -0.2, 0.6],
        [-0.4, 0.2, 0.8, 0.5, -1.0],
    ]
)
TEACHER_BIAS = np.array([-0.2, 0.1, 0.3, -0.4, 0.05])
LINEAR = {
    "core": {"hidden": 1, "teacher_hidden": 1},
    "domain": {
        **DOMAIN,
        "logit_softcap": (1e-3, math.inf),
        "teacher_logit_softcap": (1e-3, math.inf),
    },
}
FEATURES = {"hidden": vocabulary.HIDDEN, "teacher_hidden": TEACHER_HIDDEN}
KERNELS = {"kernel": vocabulary.KERNEL, "teacher_kernel": TEACHER_KERNEL}
LINEAR_SPARSE = {
    **SPARSE,
    "core": {"hidden": 1, "teacher_ids": 1, "teacher_log_probs": 1},
    "domain": {**SPARSE["domain"], "logit_softcap": (1e-3, math.inf)},
}
LINEAR_KNOWN = {
    "hidden": vocabulary.HIDDEN, "teacher_ids": IDS, "teacher_log_probs": LOG_PROBS,
}  # fmt: skip

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
    Case(
        jl.linear_distillation_loss, linear, FEATURES, KERNELS, vocabulary.EXACT,
        **LINEAR,
    ),
    Case(
        jl.linear_distillation_loss, linear, FEATURES,
        {
            **KERNELS, "bias": vocabulary.BIAS, "teacher_bias": TEACHER_BIAS,
            "logit_softcap": 3.5, "teacher_logit_softcap": 2.5, "temperature": 1.3,
            "beta": 0.3,
        },
        {**vocabulary.EXACT, "divergence": "jensen_shannon", "chunk_size": 4},
        variant="all parameters", **LINEAR,
    ),
    Case(
        jl.linear_sparse_distillation_loss, linear_sparse, LINEAR_KNOWN,
        {"kernel": vocabulary.KERNEL}, vocabulary.EXACT, **LINEAR_SPARSE,
    ),
    Case(
        jl.linear_sparse_distillation_loss, linear_sparse,
        {**LINEAR_KNOWN, "teacher_log_tail": LOG_TAIL},
        {
            "kernel": vocabulary.KERNEL, "bias": vocabulary.BIAS, "temperature": 1.7,
            "logit_softcap": 3.5, "beta": 0.3,
        },
        {**vocabulary.EXACT, "divergence": "jensen_shannon", "chunk_size": 4},
        variant="all parameters", **LINEAR_SPARSE,
    ),
]  # fmt: skip

"""The losses of distillation and their definitions."""

import math

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
]  # fmt: skip

"""The alignment losses and their definitions."""

import math

import numpy as np

import jaxloss as jl
from cases.case import Case

INF = math.inf
NON_NEGATIVE = (0.0, INF)
LOG_PROBABILITY = (-INF, 0.0)

# Log-probabilities of six pairs of answers under a policy and under its reference.
CHOSEN = np.array([-4.3, -12.7, -2.4, -0.45, -7.62, -4.1])
REJECTED = np.array([-5.75, -11.2, -9.8, -0.31, -7.6, -13.95])
REFERENCE_CHOSEN = np.array([-4.1, -14.2, -2.1, -0.72, -6.9, -4.45])
REFERENCE_REJECTED = np.array([-5.2, -12.9, -7.7, -0.93, -8.1, -10.35])
PAIRS = {"chosen": CHOSEN, "rejected": REJECTED}
FOUR = {
    **PAIRS,
    "reference_chosen": REFERENCE_CHOSEN,
    "reference_rejected": REFERENCE_REJECTED,
}
DESIRABLE = np.array([1, 0, 1, 1, 0, 0])


def log_sigmoid(x):
    return -np.logaddexp(0, -x)


def log_ratio_margin(chosen, rejected, reference_chosen, reference_rejected):
    return (chosen - reference_chosen) - (rejected - reference_rejected)


def dpo(
    chosen, rejected, reference_chosen=0.0, reference_rejected=0.0,
    beta=0.1, label_smoothing=0.0,
):  # fmt: skip
    h = beta * log_ratio_margin(chosen, rejected, reference_chosen, reference_rejected)
    right, wrong = -log_sigmoid(h), -log_sigmoid(-h)
    return (1 - label_smoothing) * right + label_smoothing * wrong


def ipo(chosen, rejected, reference_chosen, reference_rejected, beta):
    d = log_ratio_margin(chosen, rejected, reference_chosen, reference_rejected)
    return (d - 1 / (2 * beta)) ** 2


def simpo(chosen, rejected, beta, margin):
    return -log_sigmoid(beta * (chosen - rejected) - margin)


def bradley_terry(chosen_rewards, rejected_rewards, margin):
    return -log_sigmoid(chosen_rewards - rejected_rewards - margin)


def log_odds(x):
    return x - np.log(-np.expm1(x))


def orpo(chosen, rejected, weight):
    return -weight * log_sigmoid(log_odds(chosen) - log_odds(rejected))


def kto(
    log_probs, reference_log_probs, desirable,
    kl, beta, desirable_weight, undesirable_weight,
):  # fmt: skip
    m = beta * (log_probs - reference_log_probs - kl)
    good = desirable_weight * np.exp(log_sigmoid(-m))
    bad = undesirable_weight * np.exp(log_sigmoid(m))
    loss = np.where(desirable == 1, good, bad)
    return np.where((desirable == 0) | (desirable == 1), loss, np.nan)


# fmt: off
CASES = [
    Case(
        jl.dpo_loss, dpo, FOUR, {"beta": 0.35, "label_smoothing": 0.15},
        domain={"beta": NON_NEGATIVE, "label_smoothing": (0.0, 1.0)},
    ),
    Case(jl.dpo_loss, dpo, PAIRS, variant="without reference"),
    Case(
        jl.ipo_loss, ipo, FOUR, {"beta": 0.35},
        domain={"beta": (1e-30, INF)},
    ),
    Case(
        jl.simpo_loss, simpo, PAIRS, {"beta": 1.3, "margin": 0.7},
        domain={"beta": NON_NEGATIVE},
    ),
    Case(
        jl.orpo_loss, orpo, PAIRS, {"weight": 0.35},
        domain={
            "chosen": LOG_PROBABILITY, "rejected": LOG_PROBABILITY,
            "weight": NON_NEGATIVE,
        },
        invalid={"chosen": (0.5,), "rejected": (INF,)},
    ),
    Case(
        jl.kto_loss, kto,
        {
            "log_probs": CHOSEN, "reference_log_probs": REFERENCE_CHOSEN,
            "desirable": DESIRABLE,
        },
        {"kl": 0.4, "beta": 0.35, "desirable_weight": 1.2, "undesirable_weight": 0.8},
        domain={
            "beta": NON_NEGATIVE, "desirable_weight": NON_NEGATIVE,
            "undesirable_weight": NON_NEGATIVE,
        },
        invalid={"desirable": (-1, 2)},
    ),
    Case(
        jl.bradley_terry_loss, bradley_terry,
        {
            "chosen_rewards": np.array([0.3, -1.7, 2.4, 0.05, -0.62, 4.1]),
            "rejected_rewards": np.array([0.75, -1.2, -0.8, -0.31, 1.6, 3.95]),
        },
        {"margin": 0.45},
    ),
]
# fmt: on

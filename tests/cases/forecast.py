"""The losses of probabilistic forecasts and their definitions."""

import math

import numpy as np

import jaxloss as jl
from cases.case import Case

NON_NEGATIVE = (0.0, math.inf)
UNIT = (0.0, 1.0)

# Targets below, among and above the members, in the wide and in the narrow ensemble.
MEMBERS = np.array(
    [
        [0.7, -1.2, 0.1, 1.9, -0.9],
        [6.0, -0.3, 0.2, -1.0, 0.6],
        [0.5, 4.5, -0.8, 0.3, 1.1],
        [31.0, 30.2, 29.1, 30.9, 28.5],
        [-0.1, -1.2, 0.9, -2.4, -1.1],
        [0.1, 0.05, -0.05, 0.16, -0.2],
    ]
)
OBSERVED = np.array([0.4, 7.5, -1.3, 30.5, -1.6, 0.5])


def crps(members, targets, fairness=1.0):
    """By pairs, one example after the other."""
    losses = np.zeros(targets.shape)
    for i in np.ndindex(losses.shape):
        x, f = members[i], np.broadcast_to(fairness, losses.shape)[i]
        m = len(x)
        c = (1 - f) / (2 * m**2) + (f / (2 * m * (m - 1)) if f else 0)
        error = math.fsum(abs(a - targets[i]) for a in x) / m
        losses[i] = error - c * math.fsum(abs(a - b) for a in x for b in x)
    return losses


# fmt: off
CASES = [
    Case(
        jl.crps_ensemble_loss, crps, {"members": MEMBERS, "targets": OBSERVED},
        {"fairness": 0.35},
        core={"members": 1}, domain={"fairness": UNIT},
    ),
    Case(
        jl.crps_ensemble_loss, crps, {"members": MEMBERS, "targets": OBSERVED},
        variant="fair", core={"members": 1},
    ),
]
# fmt: on

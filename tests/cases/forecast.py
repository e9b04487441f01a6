"""The losses of probabilistic forecasts and their definitions."""

import math

import numpy as np
from scipy.special import gammaln

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


PATHS = np.stack([MEMBERS, 0.7 * MEMBERS[::-1] + 0.2, MEMBERS[:, ::-1] ** 2 / 9], -1)
PATHS_SEEN = np.stack([OBSERVED, OBSERVED[::-1], 0.3 * OBSERVED + 1.1], -1)


def energy(members, targets, power=1.0, fairness=1.0, chunk_size=None):
    """By pairs, one example after the other."""
    losses = np.zeros(targets.shape[:-1])
    for i in np.ndindex(losses.shape):
        x, m = members[i], members.shape[-2]
        p, f = (np.broadcast_to(v, losses.shape)[i] for v in (power, fairness))
        c = (1 - f) / (2 * m**2) + f / (2 * m * (m - 1))
        error = math.fsum(math.dist(a, targets[i]) ** p for a in x) / m
        losses[i] = error - c * math.fsum(math.dist(a, b) ** p for a in x for b in x)
    return losses


MEANS = np.array([0.6, 3.2, 41.0, 0.05, 7.5, 2.0])
COUNTS = np.array([0.0, 5.0, 28.0, 1.0, 0.0, 2.4])
DISPERSIONS = np.array([0.8, 0.02, 1.7, 6.0, 0.3, 0.45])
INFLATION = np.array([-1.2, 0.4, -0.7, 1.5, 0.9, -2.3])


def negative_binomial(
    means, targets, dispersions, zero_inflation_logits=None, log_input=False, full=True
):
    """By log-gamma functions, which float64 has digits enough for here."""
    k, r = targets, 1 / dispersions
    m = np.exp(means) if log_input else means
    loss = gammaln(r) - gammaln(k + r) + gammaln(k + 1) * full
    loss = loss - r * np.log(r / (r + m)) - k * np.log(m / (r + m))
    if zero_inflation_logits is None:
        return loss
    share = 1 / (1 + np.exp(-zero_inflation_logits))
    return -np.log(share * (k == 0) + (1 - share) * np.exp(-loss))


SCALES = np.array([0.7, 0.15, 2.6, 1.0, 0.4, 1.9])
DEGREES = np.array([3.5, 0.8, 12.0, 1.0, 250.0, 2.2])


def student_t(means, targets, scales, degrees_of_freedom):
    v, x = degrees_of_freedom, (means - targets) / scales
    constant = gammaln(v / 2) - gammaln((v + 1) / 2) + np.log(np.pi * v) / 2
    return (v + 1) / 2 * np.log1p(x**2 / v) + np.log(scales) + constant


LOG_HAZARDS = np.array([0.3, -1.1, 2.0, 0.8, -0.4, 1.3])
TIMES = np.array([3, 1, 3, 2, 3, 5])
# Real times have a derivative, which is 0 where no two are equal.
APART = np.array([1.5, 0.5, 1.75, 1.0, 2.0, 2.5])
EVENTS = np.array([1, 1, 1, 0, 0, 1])
STRATA = np.array([0, 1, 0, 1, 0, 1])
CASE_WEIGHTS = np.array([0.55, 1.7, 0.3, 2.2, 0.85, 1.3])


def cox(
    log_hazards,
    times,
    events,
    weights=None,
    strata=None,
    ties="efron",
    reduction="none",
):
    """The terms of Cox's likelihood times their weights, one event after the other."""
    x, n = log_hazards, len(log_hazards)
    w = np.ones(n) if weights is None else weights
    strata = np.zeros(n) if strata is None else strata
    losses = np.zeros(n)
    for i in np.flatnonzero((events == 1) & (w > 0)):
        at_risk = (strata == strata[i]) & (times >= times[i]) & (w > 0)
        tied = at_risk & (times == times[i]) & (events == 1)
        top = max(x[at_risk])
        total = math.fsum(w[at_risk] * np.exp(x[at_risk] - top))
        if ties == "breslow":
            losses[i] = w[i] * (math.log(total) + top - x[i])
            continue
        own, d = math.fsum(w[tied] * np.exp(x[tied] - top)), tied.sum()
        # What is left when some of those at the same time have had their event.
        rest = math.fsum(w[at_risk & ~tied] * np.exp(x[at_risk & ~tied] - top))
        logs = sum(math.log(rest + own * (d - k) / d) for k in range(d)) / d
        mean = math.fsum(w[tied] * (x[tied] - top)) / w[tied].sum()
        losses[i] = w[i] * (logs - mean)
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
    Case(
        jl.negative_binomial_nll_loss, negative_binomial,
        {
            "means": MEANS, "targets": COUNTS + 0.3, "dispersions": DISPERSIONS,
        },
        domain=dict.fromkeys(("means", "targets", "dispersions"), NON_NEGATIVE),
        invalid=dict.fromkeys(("means", "targets", "dispersions"), (-0.5,)),
    ),
    Case(
        jl.negative_binomial_nll_loss, negative_binomial,
        {
            "means": np.log(MEANS), "targets": COUNTS.round().astype(int),
            "dispersions": DISPERSIONS, "zero_inflation_logits": INFLATION,
        },
        options={"log_input": True}, variant="inflated",
        domain=dict.fromkeys(("targets", "dispersions"), NON_NEGATIVE),
        invalid={"targets": (-1,), "dispersions": (-0.5,)},
    ),
    Case(
        jl.negative_binomial_nll_loss, negative_binomial,
        {"means": MEANS, "targets": COUNTS + 0.3, "dispersions": DISPERSIONS},
        options={"full": False}, variant="without constant",
        domain=dict.fromkeys(("means", "targets", "dispersions"), NON_NEGATIVE),
    ),
    Case(
        jl.student_t_nll_loss, student_t,
        {
            "means": MEANS, "targets": OBSERVED, "scales": SCALES,
            "degrees_of_freedom": DEGREES,
        },
        domain=dict.fromkeys(("scales", "degrees_of_freedom"), NON_NEGATIVE),
        invalid=dict.fromkeys(("scales", "degrees_of_freedom"), (-0.5,)),
    ),
    Case(
        jl.cox_partial_likelihood_loss, cox,
        {
            "log_hazards": LOG_HAZARDS, "times": TIMES, "events": EVENTS,
            "weights": CASE_WEIGHTS,
        },
        options={"reduction": "none"}, default_reduction="mean",
        tail=False, independent=False,
    ),
    Case(
        jl.cox_partial_likelihood_loss, cox,
        {
            "log_hazards": LOG_HAZARDS, "times": APART, "events": EVENTS,
            "strata": STRATA,
        },
        options={"reduction": "none", "ties": "breslow"}, default_reduction="mean",
        variant="strata", tail=False, independent=False,
    ),
    Case(
        jl.energy_score_loss, energy, {"members": PATHS, "targets": PATHS_SEEN},
        {"power": 0.8, "fairness": 0.35}, {"chunk_size": 2},
        core={"members": 2, "targets": 1},
        domain={"power": (0.1, 2), "fairness": UNIT},
    ),
    Case(
        jl.energy_score_loss, energy, {"members": PATHS, "targets": PATHS_SEEN},
        variant="defaults", core={"members": 2, "targets": 1},
    ),
]
# fmt: on

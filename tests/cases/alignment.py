"""The alignment losses and their definitions."""

import math

import jax
import jax.numpy as jnp
import numpy as np

import jaxloss as jl
from cases.case import Case
from cases.multiclass import CLASS_LOGITS

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


# Tokens whose ratios to the old policy take every branch: 0.45, 1.82, 0.5, 1.35, 2.46
# and 1.11.
TOKENS = np.array([-1.3, -0.4, -2.1, -0.9, -3.2, -1.05])
GAPS = np.array([-0.8, 0.6, -0.7, 0.3, 0.9, 0.1])
ADVANTAGES = np.array([0.7, 1.4, -0.6, -1.1, -0.35, 2.0])
DRAWN = {
    "log_probs": TOKENS,
    "old_log_probs": TOKENS - GAPS,
    "advantages": ADVANTAGES,
}
# The ratios of every token, and so the weights of CISPO, are beyond its bounds.
FAR = {**DRAWN, "old_log_probs": TOKENS - 2 * np.sign(GAPS)}
TOKEN_ROWS = np.stack([np.roll(TOKENS, i)[:5] * (1 + i / 7) for i in range(6)])
PACKED = np.array(
    [
        [0, 0, 1, 1, 1],
        [1, 0, 1, 0, 0],
        [0, -1, 1, 2, 1],
        [1, 1, 1, 1, 1],
        [0, 1, 5, -7, 0],
        [0, 0, 0, 0, 1],
    ]
)


def sequence(
    log_probs, segment_ids=None, num_segments=None, average=False
):  # fmt: skip
    if segment_ids is None:
        return log_probs.mean(-1) if average else log_probs.sum(-1)
    found = np.zeros((*log_probs.shape[:-1], num_segments))
    for i in np.ndindex(log_probs.shape[:-1]):
        for s in range(num_segments):
            own = [
                x for x, k in zip(log_probs[i], segment_ids[i], strict=True) if k == s
            ]
            if own:
                found[(*i, s)] = sum(own) / (len(own) if average else 1)
    return found


def clipped_policy(
    log_probs, old_log_probs, advantages, clip_low, clip_high, dual_clip=None,
    importance="token", segment_ids=None, num_segments=None,
):  # fmt: skip
    """Equation 7 of PPO, with the minimum and the clip as written."""
    gaps = log_probs - old_log_probs
    outside = np.zeros(gaps.shape, bool)
    if segment_ids is not None:
        outside = (segment_ids < 0) | (segment_ids >= num_segments)
    if importance == "sequence":
        own = [segment_ids == s for s in range(num_segments)]
        means = [gaps[inside].mean() if inside.any() else 0.0 for inside in own]
        gaps = np.array(
            [
                0.0 if out else means[s]
                for s, out in zip(segment_ids, outside, strict=True)
            ]
        )
    ratio = np.exp(gaps)
    clipped = np.clip(ratio, 1 - clip_low, 1 + clip_high)
    gain = np.minimum(ratio * advantages, clipped * advantages)
    if dual_clip is not None:
        bound = np.maximum(gain, dual_clip * advantages)
        gain = np.where(advantages < 0, bound, gain)
    return np.where(outside, 0.0, -gain)


def cispo(log_probs, old_log_probs, advantages, clip_low, clip_high):
    ratio = np.exp(log_probs - old_log_probs)
    return -np.clip(ratio, 1 - clip_low, 1 + clip_high) * advantages * log_probs


def kl(log_probs, reference_log_probs, estimator="k3"):
    d = reference_log_probs - log_probs
    return {"k1": -d, "k2": d**2 / 2, "k3": np.expm1(d) - d}[estimator]


# Six layers of four tokens and three experts, two of which each token goes to.
ROUTER_LOGITS = np.stack(
    [np.outer(TOKEN_ROWS[i, :4], [1.0, -0.7, 0.2]) + i / 5 for i in range(6)]
)
ROUTED = np.array(
    [
        [[0, 1], [0, 2], [1, 2], [0, 1]],
        [[0, 1], [0, 1], [0, 1], [0, 1]],
        [[2, 1], [2, 1], [2, 0], [2, 1]],
        [[1, 2], [0, 2], [1, 0], [0, 1]],
        [[0, 2], [2, 0], [1, 2], [2, 1]],
        [[1, 0], [0, 1], [1, 2], [1, 0]],
    ]
)


def balance_of_layers(router_logits, expert_ids):
    """The loss of each layer."""
    router_logits, expert_ids = jnp.asarray(router_logits), jnp.asarray(expert_ids)
    loss, layers = jl.router_balance_loss, router_logits.shape[:-2]
    if expert_ids.shape[: len(layers)] == layers:  # else the loss itself refuses
        for _ in layers:
            loss = jax.vmap(loss)
    return loss(router_logits, expert_ids)


def balance(router_logits, expert_ids):
    """Equations 4 to 6, one layer after the other, with an axis of K behind."""
    found = []
    for logits, ids in zip(router_logits, expert_ids, strict=True):
        experts = logits.shape[-1]
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        shares = np.array([(ids == i).mean() for i in range(experts)])
        total = experts * (shares * p.mean(0)).sum()
        wrong = ((ids < 0) | (ids >= experts)).any()
        found.append(np.nan if wrong else total)
    return np.array(found)


def z(router_logits):
    return np.log(np.exp(router_logits).sum(-1)) ** 2


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
    Case(
        jl.sequence_log_probs, sequence,
        {"log_probs": TOKEN_ROWS, "segment_ids": PACKED},
        options={"num_segments": 3, "average": True}, variant="packed",
        core={"log_probs": 1, "segment_ids": 1}, tail=False,
    ),
    Case(
        jl.sequence_log_probs, sequence, {"log_probs": TOKEN_ROWS},
        core={"log_probs": 1}, tail=False,
    ),
    Case(
        jl.clipped_policy_loss, clipped_policy, DRAWN,
        {"clip_low": 0.25, "clip_high": 0.4, "dual_clip": 1.9},
        domain={
            "clip_low": NON_NEGATIVE, "clip_high": NON_NEGATIVE,
            "dual_clip": (1.001, INF),
        },
    ),
    Case(
        jl.clipped_policy_loss, clipped_policy,
        {**DRAWN, "segment_ids": np.array([0, 2, 0, 1, 1, 0])},
        {"clip_low": 0.25, "clip_high": 0.4},
        {"importance": "sequence", "num_segments": 4}, variant="sequences",
        independent=False, zero_excludes=True,
        domain={"clip_low": NON_NEGATIVE, "clip_high": NON_NEGATIVE},
    ),
    Case(
        jl.cispo_loss, cispo, FAR, options={"clip_low": 0.25, "clip_high": 3.5},
        # At 0 not all weights would be at their bounds, and so constant.
        domain={"log_probs": (-INF, -0.01)},
    ),
    *(
        Case(
            jl.kl_estimate, kl,
            {"log_probs": CHOSEN, "reference_log_probs": REFERENCE_CHOSEN},
            options={"estimator": estimator}, variant=estimator,
        )
        for estimator in ("k3", "k1", "k2")
    ),
    Case(
        balance_of_layers, balance,
        {"router_logits": ROUTER_LOGITS, "expert_ids": ROUTED},
        name="router_balance_loss", tail=False,
        core={"router_logits": 2, "expert_ids": 2}, invalid={"expert_ids": (-1, 3)},
    ),
    Case(
        jl.router_z_loss, z, {"router_logits": CLASS_LOGITS},
        class_inputs=("router_logits",),
    ),
]
# fmt: on

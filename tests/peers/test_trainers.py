"""The rows of docs/coming-from.md for trainers, beside the formulas of those trainers.

The formulas are in NumPy float64, after the sources of TRL, Liger, tunix, MaxText,
EasyDeL and transformers.
"""

import ast
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss as jl

from .test_coming_from import table

BETA, SMOOTHING, ALPHA, TEMPERATURE = 0.3, 0.1, 0.4, 2.0
LOW, HIGH, BOUND = 0.2, 0.28, 3.0


def expressions(anchor):
    """Of each row what stands there, and the expression here."""
    for row in table(anchor):
        [code] = re.findall(r"`(.*)`", row[-2])
        yield row[0], code


ANCHORS = (
    "torchvision",
    "forecasts",
    "trainers",
    "distillation",
    "preferences",
    "policies",
)


@pytest.mark.parametrize("anchor", ANCHORS)
def test_calls_are_possible(anchor):
    for there, code in expressions(anchor):
        found = 0
        for node in ast.walk(ast.parse(code, mode="eval")):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            keywords = {str(k.arg): k.value for k in node.keywords}
            loss = getattr(jl, node.func.id)
            inspect.signature(loss).bind(*node.args, **keywords)
            found += 1
        assert found or "vmap(router_balance_loss)" in code, there


def compared(anchor, given, expected, own=None):
    """The expression of each row, found by a part of its first cell, is as expected.

    An expected number is that of the mean. `own` has values for single rows.
    """
    rows = list(expressions(anchor))
    assert len(rows) == len(expected)
    for part, want in expected.items():
        [code] = [code for there, code in rows if part in there]
        values = {
            n: single(n, v) for n, v in (given | (own or {}).get(part, {})).items()
        }
        found = eval(code, vars(jl) | {"jax": jax, "jnp": jnp} | values)
        found = found if np.ndim(want) else jnp.mean(found)
        np.testing.assert_allclose(found, want, rtol=2e-5, atol=1e-6, err_msg=part)


def single(name, value):
    if not np.ndim(value):
        return value
    if name in ("mask", "desirable"):
        return np.asarray(value, bool)
    return np.asarray(value, np.int32 if value.dtype.kind == "i" else np.float32)


def log_softmax(x):
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def at(x, index):
    return np.take_along_axis(x, index[..., None], -1)[..., 0]


def log_sigmoid(x):
    return -np.logaddexp(0, -x)


def relative_entropy(log_p, log_q):
    return np.sum(np.exp(log_p) * (log_p - log_q), -1)


def jensen_shannon(log_p, log_q, beta):
    log_m = np.log(beta * np.exp(log_p) + (1 - beta) * np.exp(log_q))
    teacher, student = relative_entropy(log_p, log_m), relative_entropy(log_q, log_m)
    return beta * teacher + (1 - beta) * student


def test_cross_entropies():
    draw = np.random.default_rng(1)
    hidden, kernel = draw.normal(size=(2, 3, 4)), draw.normal(size=(4, 6))
    logits, labels = hidden @ kernel, draw.integers(0, 6, (2, 3))
    segmentation = np.array([[1, 1, 0], [1, 2, 2]])
    log_p = log_softmax(logits)
    log_z = np.log(np.exp(logits).sum(-1))
    total = -at(log_p, labels) + 0.1 * log_z**2
    summed = (-at(log_p, labels) * (segmentation != 0)).sum(-1)
    given = {
        "hidden": hidden, "kernel": kernel, "logits": logits, "labels": labels,
        "tokens": labels, "segmentation": segmentation, "z_loss": 0.1,
        "temperature": TEMPERATURE, "mask": segmentation != 0,
        "log_probs": -at(log_p, labels),
    }  # fmt: skip
    cooled = at(log_softmax(logits / TEMPERATURE), labels)
    expected = {
        "cross_entropy_with_logits": total,
        "vocab_tiling_linen_loss": np.sum(total * (segmentation != 0)),
        "selective_log_softmax": at(log_p, labels),
        "compute_per_token_logps": cooled,
        "compute_logps": summed,
    }
    compared("trainers", given, expected)


def test_distillation():
    draw = np.random.default_rng(2)
    features, weights = draw.normal(size=(2, 5, 3)), draw.normal(size=(2, 3, 7))
    student, teacher = (f @ w for f, w in zip(features, weights, strict=True))
    labels = draw.integers(0, 7, 5)
    log_q, log_p = (log_softmax(x / TEMPERATURE) for x in (student, teacher))
    forward = TEMPERATURE**2 * relative_entropy(log_p, log_q)
    hard = -at(log_softmax(student), labels)
    ids = np.argsort(-teacher, -1)[:, :3]
    known = [np.take_along_axis(x, ids, -1) / TEMPERATURE for x in (teacher, student)]
    top = TEMPERATURE**2 * relative_entropy(*(log_softmax(x) for x in known))
    given = {
        "student_logits": student, "teacher_logits": teacher, "labels": labels,
        "beta": BETA, "temperature": TEMPERATURE, "alpha": ALPHA,
        "teacher_ids": ids, "teacher_log_probs": known[0],
        "student_hidden": features[0], "teacher_hidden": features[1],
        "student_kernel": weights[0], "teacher_kernel": weights[1],
        "student_input": features[0], "teacher_input": features[1],
        "student_weight": weights[0].T, "teacher_weight": weights[1].T,
    }  # fmt: skip
    expected = {
        "TRL `GKDTrainer": jensen_shannon(log_p, log_q, BETA).mean(),
        "EasyDeL `GKDTrainer`": jensen_shannon(log_p, log_q, 0.5).mean(),
        "MaxText `CombinedDistillationStrategy`": np.mean(
            ALPHA * forward + (1 - ALPHA) * hard
        ),
        "distill_top_k": top.mean(),
        "chunked_distillation_loss": forward.mean(),
        "LigerFusedLinearJSDLoss": jensen_shannon(log_p, log_q, BETA).mean(),
    }
    compared("distillation", given, expected)


def test_preferences():
    draw = np.random.default_rng(3)
    names = "chosen", "rejected", "reference_chosen", "reference_rejected"
    sums = dict(zip(names, -draw.uniform(1, 9, (4, 5)), strict=True))
    lengths = draw.integers(2, 6, (2, 5))
    means = {f"mean_{n}": v / lengths[i % 2] for i, (n, v) in enumerate(sums.items())}
    c, r, rc, rr = sums.values()
    mc, mr, mrc, mrr = means.values()
    margin = (c - rc) - (r - rr)
    nll = -c.sum() / lengths[0].sum()
    kl, rewards = 0.4, draw.normal(size=(2, 5))
    kind = np.array([1, 0, 0, 1, 1])
    given = {
        **sums, **means, "nll": nll, "beta": BETA, "label_smoothing": SMOOTHING,
        "cpo_alpha": ALPHA, "simpo_gamma": 0.7, "lambda_orpo": 0.2, "margin": 0.3,
        "log_probs": c, "reference_log_probs": rc, "desirable": kind, "kl": kl,
        "desirable_weight": 1.5, "undesirable_weight": 0.5,
        "chosen_rewards": rewards[0], "rejected_rewards": rewards[1],
    }  # fmt: skip

    def smoothed(x):
        return -(1 - SMOOTHING) * log_sigmoid(x) - SMOOTHING * log_sigmoid(-x)

    robust = -(1 - SMOOTHING) * log_sigmoid(BETA * margin)
    robust = robust + SMOOTHING * log_sigmoid(-BETA * margin)
    odds = (mc - mr) - (np.log1p(-np.exp(mc)) - np.log1p(-np.exp(mr)))
    sign, weight = np.where(kind, 1, -1), np.where(kind, 1.5, 0.5)
    kto = weight * (1 - np.exp(log_sigmoid(BETA * (c - rc - kl) * sign)))
    reward = -log_sigmoid(rewards[0] - rewards[1] - 0.3)
    expected = {
        '"sigmoid"': smoothed(BETA * margin),
        '"robust"': robust / (1 - 2 * SMOOTHING),
        '"ipo"': ((mc - mrc) - (mr - mrr) - 1 / (2 * BETA)) ** 2,
        '"hinge"': np.maximum(1 - BETA * margin, 0),
        "LigerFusedLinearCPOLoss": smoothed(BETA * (c - r)) + ALPHA * nll,
        '"simpo"': -log_sigmoid(BETA * (mc - mr) - 0.7),
        "LigerFusedLinearORPOLoss": -BETA * log_sigmoid(odds) + nll,
        '"orpo"': -mc - 0.2 * log_sigmoid(odds),
        "KTOTrainer": kto,
        "RewardTrainer": reward,
    }
    compared("preferences", given, expected)


def test_policies_and_experts():
    draw = np.random.default_rng(4)
    new, old, reference = np.log(draw.uniform(0.1, 0.9, (3, 4, 5)))
    new = np.clip(new, old - 1.5, old + 1.5)
    advantages = np.array([[1.0], [-1.0], [0.5], [-2.0]])
    mask = np.arange(5) < np.array([[5], [3], [1], [4]])

    def clipped(ratio):
        bounded = np.clip(ratio, 1 - LOW, 1 + HIGH)
        return np.maximum(-ratio * advantages, -bounded * advantages)

    dual = clipped(np.exp(new - old))
    dual = np.where(advantages < 0, np.minimum(dual, -BOUND * advantages), dual)
    mean = ((new - old) * mask).sum(-1, keepdims=True) / mask.sum(-1, keepdims=True)
    difference = reference - new

    logits = draw.normal(size=(3, 8, 4))
    probabilities = np.exp(log_softmax(logits))
    ids = np.argsort(-logits, -1)[..., :2]
    hits = np.sum(np.arange(4) == ids[..., None], -2)
    balance = np.mean(hits.mean(1) * probabilities.mean(1)) * 4**2
    kept = hits.reshape(-1, 4), probabilities.reshape(-1, 4)
    given = {
        "log_probs": new, "old_log_probs": old, "reference_log_probs": reference,
        "advantages": advantages, "epsilon": LOW, "epsilon_high": HIGH,
        "delta": BOUND, "mask": mask, "beta": BETA,
    }  # fmt: skip
    experts = {
        "router_logits": logits, "top_k_indices": ids, "expert_ids": ids,
        "K": 2, "top_k": 2, "load_balance_loss_weight": 0.01, "mask": np.ones((3, 8)),
    }  # fmt: skip
    policies = {
        "ppo_policy_loss_fn": dual,
        "(GSPO)": np.where(mask, clipped(np.exp(mean)), 0),
        "Liger, EasyDeL: the penalty": BETA * (np.exp(difference) - difference - 1),
        "compute_kl_divergence": -BETA * difference,
    }
    cispo = {"cispo": -np.minimum(np.exp(new - old), BOUND) * advantages * new}
    of_experts = {
        "MaxText `load_balance_loss": 0.01 * balance,
        "load_balancing_loss_func": 4 * np.sum(kept[0].mean(0) * kept[1].mean(0)),
        "router_z_loss_func": np.mean(np.log(np.exp(logits).sum(-1)) ** 2),
    }
    own = dict.fromkeys(of_experts, experts) | {"cispo": {"epsilon_high": BOUND}}
    compared("policies", given, policies | cispo | of_experts, own)

"""The segmentation losses and their definitions."""

import math

import numpy as np

import jaxloss as jl
from cases.case import Case

UNIT = (0.0, 1.0)
NON_NEGATIVE = (0.0, math.inf)

# Six images of 3 × 2 pixels and 4 classes, the last of which no hard target has. The
# second is nearly right, the third wrong, the fourth of one class, the last soft.
_rng = np.random.default_rng(7)
TARGETS = np.eye(4)[_rng.integers(0, 3, (6, 3, 2))]
TARGETS[3] = np.eye(4)[1]
TARGETS[5] = 0.85 * TARGETS[5] + 0.05
LOGITS = _rng.normal(size=(6, 3, 2, 4)).round(2)
LOGITS[1] += 4 * TARGETS[1]
LOGITS[2] -= 6 * TARGETS[2]
PIXEL_WEIGHTS = _rng.uniform(0.2, 2, (6, 3, 2)).round(2)
CLASS_WEIGHTS = np.array([0.4, 1.7, 0.9, 1.3])
MASKS = _rng.integers(0, 2, (6, 3, 2, 1)).astype(float)
MASKS[3] = 0
MASK_LOGITS = LOGITS[..., :1] + 3 * MASKS


def probabilities(logits):
    """Softmax, or sigmoid of a single class."""
    if logits.shape[-1] == 1:
        return 1 / (1 + np.exp(-logits))
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def tversky(
    predictions,
    targets,
    weights=None,
    class_weights=None,
    smooth=1.0,
    alpha=0.5,
    beta=0.5,
    gamma=1.0,
    apply_softmax=True,
    ignore_background=False,
    reduction="mean",
    axis=None,
):
    """Image by image and class by class, pixel by pixel."""
    p = probabilities(predictions) if apply_softmax else predictions
    batch, classes = predictions.shape[:-3], predictions.shape[-1]
    w = np.ones(p.shape[:-1]) if weights is None else weights
    losses = np.zeros((*batch, classes))
    for i in np.ndindex(batch):
        for c in range(classes):
            hit = extra = missed = 0.0
            for y, x in np.ndindex(p.shape[-3:-1]):
                own, true = p[(*i, y, x, c)], targets[(*i, y, x, c)]
                hit += w[(*i, y, x)] * own * true
                extra += w[(*i, y, x)] * own * (1 - true)
                missed += w[(*i, y, x)] * (1 - own) * true
            index = (hit + smooth) / (hit + alpha * extra + beta * missed + smooth)
            losses[(*i, c)] = (1 - index) ** gamma
    if class_weights is not None:
        losses = losses * class_weights
    losses = losses[..., int(ignore_background) :]
    return {"none": losses, "mean": losses.mean(-1), "sum": losses.sum(-1)}[reduction]


def jaccard(predictions, targets, **parameters):
    return tversky(predictions, targets, alpha=1.0, beta=1.0, **parameters)


def generalized(predictions, targets, weights=None, reduction="mean", **parameters):
    losses = tversky(predictions, targets, weights, reduction="none", **parameters)
    w = np.ones(targets.shape[:-1]) if weights is None else weights
    scale = 1 / ((w[..., None] * targets).sum((0, 1, 2)) ** 2 + 1e-7)
    scale = scale / scale.sum() * targets.shape[-1]
    losses = losses * scale[targets.shape[-1] - losses.shape[-1] :]
    return losses if reduction == "none" else losses.mean()


def binary(predictions, targets, smooth=1.0, apply_sigmoid=True, **parameters):
    return tversky(
        predictions, targets, smooth=smooth, apply_softmax=apply_sigmoid, **parameters
    )


LABELS = TARGETS.argmax(-1)


def lovasz(errors, region, weights):
    """One region: each further pixel, from the largest error on, is a mistake more."""
    order = sorted(range(len(errors)), key=lambda i: -errors[i])
    wrong = np.zeros(len(errors), bool)
    loss = before = 0.0
    for i in order:
        wrong[i] = True
        either = weights[wrong | region].sum()
        index = weights[wrong].sum() / either if either else 0.0
        loss += errors[i] * (index - before)
        before = index
    return loss


def lovasz_softmax(
    logits, labels, weights=None, classes="present", ignore_index=None, reduction="mean"
):
    p, count = probabilities(logits), logits.shape[-1]
    losses, counted = np.zeros((len(p), count)), np.zeros((len(p), count), bool)
    for n, c in np.ndindex(len(p), count):
        keep = (labels[n] != ignore_index).ravel()
        own = (labels[n].ravel() == c)[keep]
        w = np.ones(len(keep)) if weights is None else weights[n].ravel()
        w, errors = w[keep], abs(own - p[n, ..., c].ravel()[keep])
        present = own[w > 0].any() if classes == "present" else classes == "all"
        asked = present if isinstance(classes, str) else c in classes
        counted[n, c] = w.sum() > 0 and asked
        losses[n, c] = lovasz(errors, own, w) if counted[n, c] else 0
    if reduction == "none":
        return losses
    total = losses.sum(-1)
    return total if reduction == "sum" else total / np.maximum(counted.sum(-1), 1)


def lovasz_hinge(logits, labels, weights=None, reduction="mean"):
    losses = []
    for n, x in enumerate(logits):
        w = np.ones(x.size) if weights is None else weights[n].ravel()
        errors = np.maximum(1 - x * (2 * labels[n] - 1), 0).ravel()
        losses.append(lovasz(errors, labels[n].ravel() == 1, w))
    return np.array(losses)


IMAGES = {"predictions": LOGITS, "targets": TARGETS}
WEIGHTED = {**IMAGES, "weights": PIXEL_WEIGHTS}
IMAGE = {
    "core": {"predictions": 3, "targets": 3, "weights": 2},
    "tail": False,
    "default_reduction": "mean",
}
# So that the batch may have any number of axes. The losses without `axis` sum over all
# axes but the first and last, and cannot be called with one image: not `independent`.
AXES = {"axis": (-3, -2)}
DOMAIN = {
    "targets": UNIT,
    "weights": NON_NEGATIVE,
    "smooth": NON_NEGATIVE,
    "alpha": NON_NEGATIVE,
    "beta": NON_NEGATIVE,
    "gamma": NON_NEGATIVE,
}

LABELLED = {"logits": LOGITS, "labels": LABELS}
LABELLED_IMAGE = {
    "core": {"logits": 3, "labels": 2, "weights": 2},
    "tail": False,
    "default_reduction": "mean",
    "independent": False,
}

CASES = [
    Case(
        jl.lovasz_softmax_loss, lovasz_softmax, LABELLED,
        **LABELLED_IMAGE, invalid={"labels": (-1, 4)},
    ),
    Case(
        jl.lovasz_softmax_loss, lovasz_softmax, {**LABELLED, "weights": PIXEL_WEIGHTS},
        options={"classes": (0, 1, 3), "ignore_index": 2, "reduction": "sum"},
        variant="all options",
        **LABELLED_IMAGE, domain=DOMAIN, invalid={"labels": (-1, 4)},
    ),
    Case(
        jl.lovasz_softmax_loss, lovasz_softmax, {**LABELLED, "weights": PIXEL_WEIGHTS},
        options={"classes": "all", "reduction": "none"}, variant="by class",
        **LABELLED_IMAGE, domain=DOMAIN, invalid={"labels": (-1, 4)},
    ),
    Case(
        jl.lovasz_hinge_loss, lovasz_hinge,
        {
            "logits": MASK_LOGITS[..., 0], "labels": MASKS[..., 0].astype(int),
            "weights": PIXEL_WEIGHTS,
        },
        **{**LABELLED_IMAGE, "core": {"logits": 2, "labels": 2, "weights": 2}},
        domain=DOMAIN, invalid={"labels": (-1, 2)},
    ),
    Case(jl.dice_loss, tversky, IMAGES, options=AXES, **IMAGE, domain=DOMAIN),
    Case(
        jl.dice_loss, tversky, WEIGHTED,
        {
            "class_weights": CLASS_WEIGHTS, "smooth": 0.3, "alpha": 0.35, "beta": 0.8,
        },
        {**AXES, "reduction": "sum", "ignore_background": True},
        variant="all parameters",
        **IMAGE, domain=DOMAIN,
    ),
    Case(
        jl.dice_loss, tversky,
        {"predictions": probabilities(LOGITS), "targets": TARGETS},
        {"smooth": 0.3}, {**AXES, "apply_softmax": False, "reduction": "none"},
        variant="probabilities",
        **IMAGE, domain={**DOMAIN, "predictions": UNIT},
        invalid={"predictions": (-0.5, 1.5)},
    ),
    Case(
        jl.tversky_loss, tversky, WEIGHTED, {"alpha": 0.35, "beta": 0.8}, AXES,
        **IMAGE, domain=DOMAIN,
    ),
    Case(
        jl.jaccard_loss, jaccard, WEIGHTED, {"smooth": 0.3}, AXES,
        **IMAGE, domain=DOMAIN,
    ),
    Case(
        jl.focal_tversky_loss, tversky, WEIGHTED,
        {"alpha": 0.35, "beta": 0.8, "gamma": 0.6}, {**AXES, "reduction": "none"},
        **IMAGE, domain=DOMAIN,
    ),
    Case(
        jl.binary_dice_loss, binary, {"predictions": MASK_LOGITS, "targets": MASKS},
        {"smooth": 0.4}, **IMAGE, domain=DOMAIN, independent=False,
    ),
    Case(
        jl.multiclass_generalized_dice_loss, generalized, WEIGHTED, {"smooth": 0.3},
        {"reduction": "none", "ignore_background": True},
        **IMAGE, domain=DOMAIN, independent=False,
    ),
]  # fmt: skip

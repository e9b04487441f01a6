"""The sequence losses and their definitions."""

import itertools
import math

import jax
import numpy as np

import jaxloss as jl
from cases.case import Case

# Six sequences of up to four frames over three classes, with up to three labels: a
# repeated label, a padded one, no label, as many labels as frames, a model that is
# right, and one that is confidently wrong.
LOGITS = np.array(
    [
        [[0.7, -1.2, 0.1], [1.9, -0.4, 0.3], [-0.2, 0.8, 0.5], [0.0, 1.1, -0.9]],
        [[0.2, 0.6, -0.3], [-1.5, 0.4, 0.9], [0.3, 0.2, 0.1], [2.0, -0.6, 0.7]],
        [[0.9, 0.1, 0.4], [0.3, -0.7, 1.2], [1.4, 0.5, -0.1], [0.6, -1.3, 0.8]],
        [[-0.5, 0.9, 0.2], [0.1, 0.3, 1.7], [-0.8, 1.0, 0.4], [0.5, 0.0, -0.6]],
        [[0.1, 3.0, -0.4], [2.2, 0.3, 0.6], [0.2, -0.5, 3.4], [2.7, 0.8, 0.0]],
        [
            [31.0, 20.4, 23.1],
            [30.2, 24.7, 21.9],
            [29.6, 22.3, 20.8],
            [30.9, 24.0, 23.3],
        ],
    ]
)
SEQUENCES = {
    "logits": LOGITS,
    "logit_paddings": np.array(
        [[0, 0, 0, 0]] * 2 + [[0, 0, 0, 1]] * 2 + [[0, 0, 0, 0], [0, 0, 1, 0]]
    ),
    "labels": np.array(
        [[1, 2, 1], [2, 2, 0], [1, 2, 1], [0, 1, 2], [1, 2, 0], [2, 1, 1]]
    ),
    "label_paddings": np.array(
        [[0, 0, 0], [0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 0, 1], [0, 0, 1]]
    ),
}
# The same with the blank in the middle: classes 0, 1 and 2 become 1, 2 and 0.
TURNED = {
    **SEQUENCES,
    "logits": LOGITS[..., [2, 0, 1]],
    "labels": (SEQUENCES["labels"] + 1) % 3,
}


def spelled(alignment, blank_id):
    """What an alignment spells: equal neighbours are one, then blanks are dropped."""
    merged = [symbol for symbol, _ in itertools.groupby(alignment)]
    return [symbol for symbol in merged if symbol != blank_id]


def ctc(logits, logit_paddings, labels, label_paddings, blank_id=0, log_epsilon=None):
    """The sum over all alignments, one after the other."""
    losses = np.zeros(logits.shape[:-2])
    for i in np.ndindex(losses.shape):
        frames = logits[i][logit_paddings[i] == 0]
        wanted = list(labels[i][: np.sum(label_paddings[i] == 0)])
        top = frames.max(-1, keepdims=True)
        log_p = frames - top - np.log(np.exp(frames - top).sum(-1, keepdims=True))
        classes = range(logits.shape[-1])
        scores = [
            math.fsum(row[k] for row, k in zip(log_p, alignment, strict=True))
            for alignment in itertools.product(classes, repeat=len(frames))
            if spelled(alignment, blank_id) == wanted
        ]
        best = max(scores, default=-math.inf)
        losses[i] = (
            -best - math.log(math.fsum(math.exp(s - best) for s in scores))
            if scores
            else math.inf
        )
    return losses


# Six lattices of three frames and two labels over four classes: padded frames, a label
# twice, a padded one, no label, and models that are right and confidently wrong.
_rng = np.random.default_rng(5)
LATTICES = {
    "logits": _rng.normal(size=(6, 3, 3, 4)).round(2),
    "logit_paddings": np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0]] * 2),
    "labels": np.array([[1, 2], [3, 3], [2, 1], [1, 3], [2, 3], [3, 1]]),
    "label_paddings": np.array([[0, 0], [0, 0], [0, 1], [1, 1], [0, 0], [0, 0]]),
}
LATTICES["logits"][4, ..., 0] += 3.5
LATTICES["logits"][5] *= 4
LATTICES["logits"][5] += 20
# The same with the blank in another place: classes 0, 1, 2 and 3 become 2, 3, 0 and 1.
TURNED_LATTICES = {
    **LATTICES,
    "logits": LATTICES["logits"][..., [2, 3, 0, 1]],
    "labels": (LATTICES["labels"] + 2) % 4,
}


def transducer(logits, logit_paddings, labels, label_paddings, blank_id=0):
    """The sum over all paths, one after the other."""
    losses = np.zeros(logits.shape[:-3])
    for i in np.ndindex(losses.shape):
        nodes = logits[i][logit_paddings[i] == 0]
        wanted = labels[i][: np.sum(label_paddings[i] == 0)]
        top = nodes.max(-1, keepdims=True)
        log_p = nodes - top - np.log(np.exp(nodes - top).sum(-1, keepdims=True))
        frames, count = len(nodes), len(wanted)
        scores = []
        # The steps at which labels stand; the last step is a blank.
        for steps in itertools.combinations(range(frames + count - 1), count):
            t = u = 0
            terms = []
            for step in range(frames + count):
                emits = step in steps
                symbol = wanted[u] if emits else blank_id
                terms.append(log_p[t, u, symbol])
                t, u = (t, u + 1) if emits else (t + 1, u)
            scores.append(math.fsum(terms))
        best = max(scores)
        losses[i] = -best - math.log(math.fsum(math.exp(s - best) for s in scores))
    return losses


# The features of the frames, and those after each number of labels.
JOINT = {
    "encodings": _rng.normal(size=(6, 3, 2)).round(2),
    "predictions": _rng.normal(size=(6, 3, 2)).round(2),
    **{n: LATTICES[n] for n in ("labels", "logit_paddings", "label_paddings")},
}
KERNEL = _rng.normal(size=(2, 4)).round(2)
BIAS = _rng.normal(size=4).round(2)


def linear_transducer(
    encodings, predictions, kernel, labels, logit_paddings, label_paddings, bias=None,
    activation=np.tanh, blank_id=0, class_axis=-1, chunk_size=None,
):  # fmt: skip
    states = encodings[..., :, None, :] + predictions[..., None, :, :]
    states = np.tanh(states) if activation is np.tanh else 1 / (1 + np.exp(-states))
    logits = states @ (kernel.T if class_axis == 0 else kernel)
    logits = logits if bias is None else logits + bias
    return transducer(logits, logit_paddings, labels, label_paddings, blank_id)


def loss_of_forward_probs(*args, **kwargs):
    return jl.ctc_loss_with_forward_probs(*args, **kwargs)[0]


PER_LATTICE = {"logits": 3, "logit_paddings": 1, "labels": 1, "label_paddings": 1}
PER_JOINT = {
    "encodings": 2, "predictions": 2,
    "labels": 1, "logit_paddings": 1, "label_paddings": 1,
}  # fmt: skip
PER_SEQUENCE = {"logits": 2, "logit_paddings": 1, "labels": 1, "label_paddings": 1}

# fmt: off
CASES = [
    Case(
        jl.ctc_loss, ctc, SEQUENCES,
        core=PER_SEQUENCE,
        invalid={"labels": (-1, 3)}, suspect={"logit_paddings": (2,)},
    ),
    Case(
        jl.ctc_loss, ctc, TURNED, {"log_epsilon": -40.0}, {"blank_id": 1},
        variant="all parameters",
        core=PER_SEQUENCE, domain={"log_epsilon": (-math.inf, 0.0)},
        invalid={"labels": (-1, 3)}, suspect={"logit_paddings": (2,)},
    ),
    Case(
        loss_of_forward_probs, ctc, TURNED, {"log_epsilon": -40.0}, {"blank_id": 1},
        name="ctc_loss_with_forward_probs",
        core=PER_SEQUENCE, domain={"log_epsilon": (-math.inf, 0.0)},
        invalid={"labels": (-1, 3)}, suspect={"logit_paddings": (2,)},
    ),
    Case(
        jl.transducer_loss, transducer, LATTICES,
        core=PER_LATTICE,
        invalid={"labels": (-1, 4)}, suspect={"logit_paddings": (2,)},
    ),
    Case(
        jl.transducer_loss, transducer, TURNED_LATTICES, options={"blank_id": 2},
        variant="another blank", core=PER_LATTICE,
        invalid={"labels": (-1, 4)}, suspect={"logit_paddings": (2,)},
    ),
    Case(
        jl.linear_transducer_loss, linear_transducer, JOINT, {"kernel": KERNEL},
        core=PER_JOINT,
        invalid={"labels": (-1, 4)}, suspect={"logit_paddings": (2,)},
    ),
    Case(
        jl.linear_transducer_loss, linear_transducer, JOINT,
        {"kernel": KERNEL.T, "bias": BIAS},
        {
            "activation": jax.nn.sigmoid, "blank_id": 2, "class_axis": 0,
            "chunk_size": 36,
        },
        variant="all options", core=PER_JOINT,
        invalid={"labels": (-1, 4)}, suspect={"logit_paddings": (2,)},
    ),
]
# fmt: on

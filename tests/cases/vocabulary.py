"""The losses of large vocabularies and their definitions."""

import math

import jax
import jax.numpy as jnp
import numpy as np

import jaxloss as jl
from cases.case import Case
from cases.multiclass import integer_cross_entropy, label_mass, log_softmax

HIDDEN = np.array(
    [
        [0.7, -1.2, 0.4],
        [2.1, 0.3, -1.6],
        [-0.5, 1.8, 0.9],
        [-2.4, -0.8, 1.1],
        [0.02, 0.01, -0.03],  # nearly uniform
        [1.3, -0.6, 2.2],
    ]
)
KERNEL = np.array(
    [
        [0.8, -0.5, 0.3, 1.1, -0.2],
        [-0.4, 0.9, 0.6, -0.7, 0.1],
        [0.5, 0.2, -1.0, 0.4, -0.9],
    ]
)
LABELS = np.array([3, 0, 2, 1, 2, 0])
BIAS = np.array([0.3, -0.1, 0.2, 0.0, -0.4])
CLASS_WEIGHTS = np.array([1.5, 0.4, 2.0, 0.9, 0.7])

NON_NEGATIVE = (0.0, math.inf)
DOMAIN = {
    "class_weights": NON_NEGATIVE,
    "label_smoothing": (0.0, 1.0),
    "z_loss": NON_NEGATIVE,
    "logit_softcap": (1e-3, math.inf),
    "temperature": (1e-3, math.inf),
}


def logits(hidden, kernel, bias=0.0, logit_softcap=math.inf, temperature=1.0):
    x = np.einsum("...d,dc->...c", hidden, kernel) + bias
    if logit_softcap < math.inf:
        x = logit_softcap * np.tanh(x / logit_softcap)
    return x / temperature


def linear_cross_entropy(
    hidden,
    kernel,
    labels,
    bias=0.0,
    logit_softcap=math.inf,
    temperature=1.0,
    chunk_size=None,
    precision=None,
    **parameters,
):
    x = logits(hidden, kernel, bias, logit_softcap, temperature)
    return integer_cross_entropy(x, labels, **parameters)


def log_probs(hidden, kernel, labels, chunk_size=None, precision=None, **parameters):
    rows = logits(hidden, kernel, **parameters)
    found = np.zeros(labels.shape)
    for i in np.ndindex(labels.shape):
        found[i] = log_softmax(rows[i])[0][labels[i]]
    return found


def entropies(hidden, kernel, labels, chunk_size=None, precision=None, **parameters):
    rows = logits(hidden, kernel, **parameters)
    found = np.zeros(labels.shape)
    for i in np.ndindex(labels.shape):
        log_p, _ = log_softmax(rows[i])
        found[i] = -math.fsum(math.exp(v) * v for v in log_p)
    return found


# Two clusters, of two classes and one feature, and of three and one.
CUTOFFS = (2, 4)
ADAPTIVE = {
    "head": np.array(
        [[0.8, -0.5, 0.3, 1.1], [-0.4, 0.9, 0.6, -0.7], [0.5, 0.2, -1, 0.4]]
    ),
    "head_bias": np.array([0.3, -0.2, 0.1, 0.4]),
    "near": np.array([[0.4], [-0.9], [0.7]]),
    "near_kernel": np.array([[1.2, -0.6]]),
    "far": np.array([[-0.8], [0.5], [0.3]]),
    "far_kernel": np.array([[0.9, -1.3, 0.2]]),
}
RARE_LABELS = np.array([0, 3, 6, 1, 4, 2])


def tree(head, near, near_kernel, far, far_kernel, head_bias=None):
    """The parameters as the functions take them."""
    top = {"kernel": head} if head_bias is None else {"kernel": head, "bias": head_bias}
    tail = [
        {"projection": near, "kernel": near_kernel},
        {"projection": far, "kernel": far_kernel},
    ]
    return {"head": top, "tail": tail}


def adaptive_log_probs(hidden, **arrays):
    """Of one example after the other: the head, then each cluster on top of it."""
    parameters = tree(**arrays)
    head, tail = parameters["head"], parameters["tail"]
    found = np.zeros((*hidden.shape[:-1], 7))
    for i in np.ndindex(hidden.shape[:-1]):
        top, _ = log_softmax(hidden[i] @ head["kernel"] + head.get("bias", 0.0))
        found[i][:2] = top[:2]
        for cluster, (low, high) in enumerate([(2, 4), (4, 7)]):
            part = tail[cluster]
            inner, _ = log_softmax(hidden[i] @ part["projection"] @ part["kernel"])
            found[i][low:high] = top[2 + cluster] + inner
    return found


def adaptive_cross_entropy(hidden, labels, chunk_size=None, precision=None, **arrays):
    every = adaptive_log_probs(hidden, **arrays)
    found = np.zeros(labels.shape)
    for i in np.ndindex(labels.shape):
        found[i] = -every[i][labels[i]]
    return found


def best_log_prob(hidden, **arrays):
    return adaptive_log_probs(hidden, **arrays).max(-1)


def adaptive(hidden, labels, where=None, weights=None, reduction="none", **arrays):
    options = {n: arrays.pop(n) for n in ("chunk_size", "precision") if n in arrays}
    tail = {"where": where, "weights": weights, "reduction": reduction}
    return jl.adaptive_softmax_cross_entropy(
        hidden, labels, tree(**arrays), CUTOFFS, **options, **tail
    )


def the_adaptive_log_probs(hidden, **arrays):
    return jl.adaptive_softmax_log_probs(hidden, tree(**arrays), CUTOFFS)


def the_predicted(hidden, **arrays):
    """The log-probability of the class that is predicted."""
    every = the_adaptive_log_probs(hidden, **arrays)
    classes = jl.adaptive_softmax_predict(hidden, tree(**arrays), CUTOFFS)
    return jnp.sum(jnp.where(jax.nn.one_hot(classes, 7, dtype=bool), every, 0), -1)


def initial():
    return jl.init_adaptive_softmax(
        jax.random.key(0), 3, 7, CUTOFFS, div_value=1.5, head_bias=True
    )


def the_initial_log_probs(hidden):
    return jl.adaptive_softmax_log_probs(hidden, initial(), CUTOFFS)


INITIAL = jax.tree.map(np.asarray, initial())


def initial_log_probs(hidden):
    head, (near, far) = (INITIAL[part] for part in ("head", "tail"))
    arrays = {
        "head": head["kernel"], "head_bias": head["bias"],
        "near": near["projection"], "near_kernel": near["kernel"],
        "far": far["projection"], "far_kernel": far["kernel"],
    }  # fmt: skip
    wide = {name: np.asarray(x, np.float64) for name, x in arrays.items()}
    return adaptive_log_probs(hidden, **wide)


def the_log_probs(*arguments, **options):
    return jl.linear_log_probs(*arguments, **options)[0]


def the_entropies(*arguments, **options):
    return jl.linear_log_probs(*arguments, **options)[1]


# Of each example three labels; the third row repeats one, the fifth has a sure class.
LABEL_SETS = np.array(
    [[3, 0, 2], [1, 4, 0], [2, 0, 2], [1, 3, 0], [2, 1, 4], [0, 4, 3]]
)
ROWS = np.array(
    [
        [0.7, -1.2, 0.1, 1.9, -0.9],
        [6.0, -0.3, 0.2, -1.0, 0.6],
        [0.5, 4.5, -0.8, 0.3, 1.1],
        [31.0, 30.2, 29.1, 30.9, 28.5],
        [-0.1, -1.2, 12.9, -2.4, -1.1],
        [0.02, 0.01, -0.01, 0.03, -0.2],
    ]
)


def statistics_of(row, labels):
    """The log-probability of each label, entropy, log-sum-exp and log of the rest."""
    best = int(np.argmax(row))
    others = (math.exp(v - row[best]) for j, v in enumerate(row) if j != best)
    above = math.log1p(math.fsum(others))  # a sure class is within 1e-16 of log 1
    log_p, log_sum = [(v - row[best]) - above for v in row], row[best] + above
    outside = [v for j, v in enumerate(log_p) if j not in labels]
    # Relative to the largest: a rest of 1e-6 is a sum of small numbers, not 1 - Σ.
    top = max(outside)
    tail = top + math.log(math.fsum(math.exp(v - top) for v in outside))
    entropy = -math.fsum(math.exp(v) * v for v in log_p)
    return [*(log_p[k] for k in labels), entropy, log_sum, tail]


def softmax_statistics(logits, labels):
    batch, k = logits.shape[:-1], labels.shape[-1]
    labels = np.broadcast_to(labels, (*batch, k))
    found = np.zeros((*batch, 3 + k))
    for i in np.ndindex(batch):
        found[i] = statistics_of(logits[i], list(labels[i]))
    return found


def side_by_side(found):
    numbers = [found.entropies, found.log_normalizers, found.log_tail]
    return jnp.concatenate([found.log_probs, jnp.stack(numbers, -1)], -1)


def the_statistics(logits, labels, **options):
    return side_by_side(jl.softmax_statistics(logits, labels, **options))


def linear_statistics(hidden, kernel, labels, precision, chunk_size, **parameters):
    return softmax_statistics(logits(hidden, kernel, **parameters), labels)


def the_linear_statistics(*arguments, **options):
    return side_by_side(jl.linear_statistics(*arguments, **options))


def the_log_prob(logits, labels, **options):
    return jl.softmax_statistics(logits, labels, **options).log_probs


def log_prob_of_one(logits, labels):
    return softmax_statistics(logits, labels[..., None])[..., 0]


INPUTS = {"hidden": HIDDEN, "labels": LABELS}
# Of one example: its features. The products round their operands on accelerators
# unless told not to.
LINEAR = {"core": {"hidden": 1}, "domain": DOMAIN, "invalid": {"labels": (-1, 5)}}
EXACT = {"precision": "highest"}

CASES = [
    Case(
        jl.linear_cross_entropy, linear_cross_entropy, INPUTS, {"kernel": KERNEL},
        EXACT, **LINEAR,
    ),
    Case(
        jl.linear_cross_entropy, linear_cross_entropy, INPUTS,
        {"kernel": KERNEL, "class_weights": CLASS_WEIGHTS},
        {**EXACT, "ignore_index": 1, "chunk_size": 4}, variant="weighted",
        mass=label_mass, **LINEAR,
    ),
    Case(
        jl.linear_cross_entropy, linear_cross_entropy, INPUTS,
        {
            "kernel": KERNEL, "bias": BIAS, "class_weights": CLASS_WEIGHTS,
            "label_smoothing": 0.15, "z_loss": 0.02, "logit_softcap": 3.5,
            "temperature": 1.3,
        },
        EXACT, variant="all parameters",
        mass=label_mass, **LINEAR,
    ),
    Case(
        the_log_probs, log_probs, INPUTS, {"kernel": KERNEL}, EXACT,
        name="linear_log_probs", tail=False, **LINEAR,
    ),
    Case(
        the_log_probs, log_probs, INPUTS,
        {"kernel": KERNEL, "bias": BIAS, "logit_softcap": 3.5, "temperature": 1.3},
        EXACT, variant="all parameters",
        name="linear_log_probs", tail=False, **LINEAR,
    ),
    Case(
        the_entropies, entropies, INPUTS,
        {"kernel": KERNEL, "bias": BIAS, "logit_softcap": 3.5, "temperature": 1.3},
        EXACT, variant="entropy",
        name="linear_log_probs", tail=False,
        core={"hidden": 1}, domain=DOMAIN,
    ),
    Case(
        the_linear_statistics, linear_statistics,
        {"hidden": HIDDEN, "labels": LABEL_SETS},
        {"kernel": KERNEL, "bias": BIAS, "logit_softcap": 3.5, "temperature": 1.3},
        {**EXACT, "chunk_size": 4}, name="linear_statistics", tail=False,
        core={"hidden": 1, "labels": 1}, domain=DOMAIN,
    ),
    Case(
        the_statistics, softmax_statistics, {"logits": ROWS, "labels": LABEL_SETS},
        name="softmax_statistics", tail=False, core={"logits": 1, "labels": 1},
    ),
    Case(
        the_log_prob, log_prob_of_one, {"logits": ROWS, "labels": LABELS},
        variant="one label", name="softmax_statistics", tail=False,
        core={"logits": 1}, invalid={"labels": (-1, 5)},
    ),
    Case(
        adaptive, adaptive_cross_entropy,
        {"hidden": HIDDEN, "labels": RARE_LABELS}, ADAPTIVE, EXACT,
        name="adaptive_softmax_cross_entropy",
        core={"hidden": 1}, invalid={"labels": (-1, 7)}, level=1,
    ),
    Case(
        the_adaptive_log_probs, adaptive_log_probs, {"hidden": HIDDEN}, ADAPTIVE,
        name="adaptive_softmax_log_probs", core={"hidden": 1}, tail=False,
        level=1,
    ),
    Case(
        the_predicted, best_log_prob, {"hidden": HIDDEN}, ADAPTIVE,
        name="adaptive_softmax_predict", core={"hidden": 1}, tail=False, level=1,
    ),
    Case(
        the_initial_log_probs, initial_log_probs, {"hidden": HIDDEN},
        name="init_adaptive_softmax", core={"hidden": 1}, tail=False, level=1,
    ),
]  # fmt: skip

"""Every loss of `torch.nn.functional`, beside its counterpart.

PyTorch is right nearly everywhere and sets the derivatives at kinks, so the rows hold
the ends of every branch. Where it is wrong, a test below the table shows both answers.
"""

import jax
import numpy as np
import pytest

from .comparison import (
    Correction,
    Row,
    assert_complete,
    assert_corrected,
    assert_same,
    cases,
    corrections,
    cotangent,
    distributions,
    integers,
    normal,
    ours,
    pulled_back,
    repeated,
    rounded,
    uniform,
    value_and_slope,
)

torch = pytest.importorskip("torch")
F = torch.nn.functional


def elementwise(
    peer,
    name,
    inputs,
    variant="",
    wrt=None,
    difference=0.0,
    atol=0.0,
    rtol=0.0,
    **options,
):
    """A row whose arguments and options have the same order and names on both sides."""
    return Row(
        peer=peer,
        name=name,
        there=lambda *x, **r: getattr(F, peer)(*x, **options, **r),
        here=lambda loss, *x, **r: loss(*x, **options, **r),
        cases=inputs,
        variant=variant,
        wrt=wrt,
        difference=difference,
        atol=atol,
        rtol=rtol,
    )


RANDOM_PAIR = (normal(6, 5, scale=2), normal(6, 5, seed=1))
ERRORS = {
    "random": RANDOM_PAIR,
    # Every kink of the rows below, each from both sides.
    "kinks": (
        repeated(0, 1, -1, 0.5, -0.5, 2, -2, 0.25, 4, -3) + 0.5,
        repeated(0.5),
    ),
    # The squares stay within float32.
    "far": (
        repeated(1e18, -1e18, 1e-15, -1e-15, 1e4),
        repeated(0, 0, 0, 0, -1e4),
    ),
    "infinite": (repeated(np.inf, -np.inf, 1), repeated(1)),
}
SCALARS = {"no axis": (rounded(1.5), rounded(-2.0))}

COUNTS = {"random": (normal(6, 5), uniform(6, 5, seed=1, low=1.1, high=9))}
RATES = {"random": (uniform(6, 5, low=0.1, high=5), COUNTS["random"][1])}

GAUSSIANS = {
    "random": (*RANDOM_PAIR, uniform(6, 5, seed=2, low=0.3, high=2)),
    # PyTorch clamps the variance, but lets its gradient through: 0.25 is eps.
    "below eps": (
        repeated(1, 1, 2, 3, 0, -2),
        repeated(1, 0, 0, 0, 0, 1),
        repeated(0, 0.1, 0.25, 0.5, 1e-30, 0),
    ),
    "one variance a row": (*RANDOM_PAIR, uniform(6, 1, seed=2, low=0.3, high=2)),
}

PROBABILITIES = (uniform(6, 5, low=0.01, high=0.99), uniform(6, 5, seed=1))
CERTAIN = (repeated(0, 0, 0, 1, 1, 1), repeated(0, 1, 0.5, 1, 0, 0.5))

LOGITS = (normal(6, 5, scale=3), uniform(6, 5, seed=1))
# Hard labels, where nothing is a difference, not even at the ends; PyTorch's slope is
# sigmoid(x) - y all the same.
EXTREME_LOGITS = (
    repeated(1000, -1000, 1000, -1000, 0, 0, 20, -20, 15, -15, 1e-30, -600),
    repeated(1, 0, 0, 1, 1, 0, 1, 0, 1, 0, 0, 0),
)

SIGNS = np.where(integers(6, 5, below=2) == 0, -1.0, 1.0)


def likelihood(name, *arguments, **options):
    """Differences such as exp(x) - t x and 1 - t/x, of terms that reach 20."""
    return elementwise(name, name, *arguments, difference=2, **options)


def focal(x, y, *, alpha=None, gamma=2.0, reduction="none"):
    """Focal loss as torchvision writes it: PyTorch itself has none."""
    p = torch.sigmoid(x)
    loss = F.binary_cross_entropy_with_logits(x, y, reduction="none")
    loss = loss * (1 - (p * y + (1 - p) * (1 - y))) ** gamma
    if alpha is not None:
        loss = loss * (alpha * y + (1 - alpha) * (1 - y))
    return loss if reduction == "none" else getattr(loss, reduction)()


def focal_row(variant, inputs, difference=1.0, **options):
    return Row(
        peer="sigmoid_focal_loss",
        name="sigmoid_focal_loss",
        there=lambda x, y, **r: focal(x, y, **options, **r),
        here=lambda loss, x, y, **r: loss(x, y, **options, **r),
        cases=inputs,
        variant=variant,
        difference=difference,
        # PyTorch's own 1 - p_t is a difference too.
        atol=1e-15,
    )


def pos_weight(variant, weight):
    def there(x, y, w, **r):
        return F.binary_cross_entropy_with_logits(x, y, pos_weight=w, **r)

    return Row(
        peer="binary_cross_entropy_with_logits",
        name="sigmoid_binary_cross_entropy",
        there=there,
        here=lambda loss, x, y, w, **r: loss(x, y, pos_weight=w, **r),
        cases={"random": (*LOGITS, weight), "extreme": (*EXTREME_LOGITS, weight)},
        variant=f"pos_weight, {variant}",
        wrt=(0, 1),  # PyTorch has no derivative by the weight
        difference=3,
    )


def weighed(peer, name, inputs, reductions=("none", "sum")):
    """PyTorch's `weight` by example; the mean of some divides by their number."""
    return Row(
        peer=peer,
        name=name,
        there=lambda x, y, w, **r: getattr(F, peer)(x, y, weight=w, **r),
        here=lambda loss, x, y, w, **r: loss(x, y, weights=w, **r),
        cases={"random": (*inputs, uniform(6, 5, seed=2))},
        variant="weight",
        wrt=(0, 1),
        reductions=reductions,
        difference=1,
    )


ELEMENTWISE = [
    elementwise("mse_loss", "squared_error", ERRORS | SCALARS),
    elementwise("l1_loss", "absolute_error", ERRORS),
    elementwise("smooth_l1_loss", "smooth_l1_loss", ERRORS),
    elementwise("smooth_l1_loss", "smooth_l1_loss", ERRORS, "beta=0.5", beta=0.5),
    elementwise("smooth_l1_loss", "smooth_l1_loss", ERRORS, "beta=0", beta=0.0),
    elementwise("huber_loss", "huber_loss", ERRORS),
    elementwise("huber_loss", "huber_loss", ERRORS, "delta=0.5", delta=0.5),
    elementwise("huber_loss", "huber_loss", ERRORS, "delta=2", delta=2.0),
    weighed("mse_loss", "squared_error", RANDOM_PAIR, ("none", "sum", "mean")),
    weighed("l1_loss", "absolute_error", RANDOM_PAIR, ("none", "sum", "mean")),
    weighed("huber_loss", "huber_loss", RANDOM_PAIR),
    likelihood(
        "poisson_nll_loss",
        COUNTS | {"ends": (repeated(-80, 20, 0, 1), repeated(3, 0, 1, 1000))},
    ),
    likelihood("poisson_nll_loss", COUNTS, "full", full=True),
    likelihood(
        "poisson_nll_loss",
        {"small counts": (repeated(0.5, 1, -2, 3), repeated(0, 1, 0.5, 1.5))},
        "full, small counts",
        wrt=(0,),  # PyTorch's derivative by a count of 0 is NaN
        full=True,
    ),
    likelihood(
        "poisson_nll_loss",
        RATES | {"rate 0": (repeated(0, 0, 1e-20), repeated(0, 2, 3))},
        "log_input=False",
        log_input=False,
    ),
    likelihood(
        "poisson_nll_loss",
        RATES | {"rate 0": (repeated(0, 0, 1e-20), repeated(2, 2.5, 3))},
        "log_input=False, full, eps",
        log_input=False,
        full=True,
        eps=0.125,
    ),
    likelihood("gaussian_nll_loss", GAUSSIANS, eps=0.25),
    likelihood("gaussian_nll_loss", GAUSSIANS, "full", full=True, eps=0.25),
    likelihood(
        "gaussian_nll_loss",
        {
            "random": GAUSSIANS["random"],
            "variance 0": (repeated(0, 1, -2), repeated(0), repeated(0, 0, 1)),
        },
        "default eps",
    ),
    elementwise(
        "binary_cross_entropy", "binary_cross_entropy", {"random": PROBABILITIES}
    ),
    elementwise(
        "binary_cross_entropy",
        "binary_cross_entropy",
        {"certain": CERTAIN},
        "p at 0 and 1",
        wrt=(0,),
        # PyTorch's bound of 1e-12 on the divisor is a float32 constant, 4e-9 off.
        rtol=1e-8,
    ),
    weighed("binary_cross_entropy", "binary_cross_entropy", PROBABILITIES),
    elementwise(
        "binary_cross_entropy_with_logits",
        "sigmoid_binary_cross_entropy",
        {"random": LOGITS},
        difference=1,
    ),
    elementwise(
        "binary_cross_entropy_with_logits",
        "sigmoid_binary_cross_entropy",
        {"extreme": EXTREME_LOGITS},
        "hard labels",
        atol=1e-15,
    ),
    pos_weight("a number", rounded(2.5)),
    pos_weight("one a class", rounded([0.5, 3, 1, 2, 0.25])),
    weighed("binary_cross_entropy_with_logits", "sigmoid_binary_cross_entropy", LOGITS),
    elementwise(
        "soft_margin_loss",
        "soft_margin_loss",
        {
            "random": (normal(6, 5, scale=3), SIGNS),
            "ends": (repeated(0, 0, 1000, -1000, -600), repeated(1, -1, 1, -1, 1)),
        },
        wrt=(0,),
    ),
    *(
        elementwise(
            "hinge_embedding_loss",
            "hinge_embedding_loss",
            {
                "random": (normal(6, 5, scale=2), SIGNS),
                "kinks": (
                    repeated(1, 1, 0.5, 0.5, 0, 0, -2, -2),
                    repeated(1, -1),
                ),
            },
            f"margin={margin}",
            wrt=(0,),
            margin=margin,
        )
        for margin in (1.0, 0.5)
    ),
    focal_row("", {"random": LOGITS}),
    focal_row("gamma=1", {"random": LOGITS}, gamma=1.0),
    focal_row("gamma=3.5", {"random": LOGITS}, gamma=3.5),
    focal_row("alpha", {"random": LOGITS}, alpha=0.25, gamma=1.5),
    focal_row("gamma=0", {"random": LOGITS}, gamma=0.0),
    focal_row("gamma=0, hard labels", {"extreme": EXTREME_LOGITS}, 0.0, gamma=0.0),
]

# Class axis 1, as PyTorch has it: an image of shape [2, 3] for each of 3 examples.
IMAGES = normal(3, 5, 2, 3, scale=2)
IMAGE_LABELS = integers(3, 2, 3, below=5)
IMAGE_DISTRIBUTIONS = distributions(3, 5, 2, 3, seed=1, axis=1)
ROWS = normal(6, 5, scale=2)
ROW_LABELS = integers(6, below=5, seed=3)
ONE = np.array(1, np.int32)
CLASS_WEIGHTS = rounded([0.5, 2, 0, 1.25, 3])

EDGE_LOGITS = rounded(
    [
        [20, 0, -0.5, 0.25, -3],  # a loss of 1e-8, where float32 would round to 0
        [300, 300, 300, 300, 300],
        [1000, -1000, 0, 1, 2],
        [-np.inf, 0, 1, -np.inf, 2],  # impossible classes, none of them the label
        [-2000, -2001, -2000.5, -2003, -2010],
        [0, 0, 0, 0, 1e-30],
    ]
)
EDGE_LABELS = np.array([0, 3, 0, 2, 0, 4], np.int32)


def with_classes(peer, name, inputs, *options, axis=-1):
    """Rows for integer labels or label distributions, one for each set of options.

    `weight`, a weight a class, is called `class_weights` here.
    """

    def row(weight=None, **rest):
        def there(x, labels, **r):
            w = None if weight is None else torch.as_tensor(weight, dtype=x.dtype)
            labels = labels if labels.is_floating_point() else labels.long()
            return getattr(F, peer)(x, labels, weight=w, **rest, **r)

        def here(loss, x, labels, **r):
            return loss(x, labels, axis, class_weights=weight, **rest, **r)

        # The slope at a soft label is a difference; at a hard one ours is none, and
        # PyTorch's p - 1 and log p have lost what p rounds.
        soft = name == "softmax_cross_entropy" or "label_smoothing" in rest
        return Row(
            peer,
            name,
            there,
            here,
            inputs,
            ", ".join(("weight",) * (weight is not None) + tuple(rest)),
            difference=float(soft),
            atol=1e-14,
        )

    return [row(**chosen) for chosen in options]


PLAIN = {}
WEIGHT = {"weight": CLASS_WEIGHTS}
IGNORE = {"ignore_index": 4}
SMOOTH = {"label_smoothing": 0.2}


INTEGER = "softmax_cross_entropy_with_integer_labels"
DENSE = "softmax_cross_entropy"
CLASSES = [
    *with_classes(
        "cross_entropy",
        INTEGER,
        {"random": (ROWS, ROW_LABELS), "edges": (EDGE_LOGITS, EDGE_LABELS)},
        PLAIN,
        WEIGHT,
        IGNORE,
        WEIGHT | {"ignore_index": 1},
    ),
    *with_classes(
        "cross_entropy",
        INTEGER,
        {"no batch": (ROWS[0], ONE)},
        PLAIN,
        WEIGHT | SMOOTH,
    ),
    *with_classes(
        "cross_entropy",
        INTEGER,
        {"label -100": (ROWS, np.array([1, 4, -100, 4, 0, -100], np.int32))},
        WEIGHT | {"ignore_index": -100},
    ),
    *with_classes(
        "cross_entropy",
        INTEGER,
        {"random": (ROWS, ROW_LABELS), "far": (200 * ROWS, ROW_LABELS)},
        SMOOTH,
        SMOOTH | WEIGHT,
        SMOOTH | WEIGHT | IGNORE,
        {"label_smoothing": 1.0},
    ),
    *with_classes(
        "cross_entropy",
        INTEGER,
        {"images": (IMAGES, IMAGE_LABELS)},
        PLAIN,
        WEIGHT | IGNORE,
        SMOOTH | WEIGHT | IGNORE,
        axis=1,
    ),
    *with_classes(
        "cross_entropy",
        DENSE,
        {
            "random": (ROWS, distributions(6, 5, seed=2)),
            "one-hot": (ROWS, rounded(np.eye(5)[ROW_LABELS])),
            "sum not 1": (ROWS, uniform(6, 5, seed=2)),
        },
        PLAIN,
        WEIGHT,
        SMOOTH,
        WEIGHT | SMOOTH,
    ),
    *with_classes(
        "cross_entropy",
        DENSE,
        {"no batch": (ROWS[0], distributions(5))},
        PLAIN,
    ),
    *with_classes(
        "cross_entropy",
        DENSE,
        {"images": (IMAGES, distributions(3, 5, 2, 3, seed=1, axis=1))},
        PLAIN,
        WEIGHT | SMOOTH,
        axis=1,
    ),
    *with_classes(
        "nll_loss",
        "nll_loss",
        {
            "random": (ROWS, ROW_LABELS),
            "-inf": (EDGE_LOGITS, EDGE_LABELS),
            "-inf at a label": (EDGE_LOGITS, np.zeros(6, np.int32)),
        },
        PLAIN,
        WEIGHT,
        IGNORE,
        WEIGHT | IGNORE,
    ),
    *with_classes("nll_loss", "nll_loss", {"no batch": (ROWS[0], ONE)}, PLAIN),
    *with_classes(
        "nll_loss",
        "nll_loss",
        {"images": (IMAGES, IMAGE_LABELS)},
        PLAIN,
        WEIGHT | IGNORE,
        axis=1,
    ),
]

# -- multiclass margins, divergence, embedding, sequence, vocabulary

MULTIHOT = integers(6, 5, below=2, seed=4).astype(np.float64)
# PyTorch's form: the labels of an example up to the first -1.
LABEL_SETS = np.array(
    [
        [3, 0, -1, 1, -1],
        [-1, 0, 1, 2, 3],
        [0, 1, 2, 3, 4],
        [2, -1, -1, -1, -1],
        [4, 1, -1, -1, -1],
        [1, 3, 0, -1, 2],
    ],
    np.int32,
)
# A margin of 1 is met exactly in most places.
STEPS = rounded(integers(6, 5, below=3, seed=5))


def multi_margin(weight=None, **options):
    def there(x, labels, **r):
        w = None if weight is None else torch.as_tensor(weight)
        return F.multi_margin_loss(x, labels.long(), weight=w, **options, **r)

    def here(loss, x, labels, **r):
        return loss(x, labels, class_weights=weight, **options, **r)

    return Row(
        "multi_margin_loss",
        "multi_margin_loss",
        there,
        here,
        {
            "random": (ROWS, ROW_LABELS),
            "ties": (STEPS, ROW_LABELS),
            "no batch": (ROWS[0], ONE),
        },
        variant=", ".join(options),
    )


MARGINS = [
    multi_margin(),
    multi_margin(p=2),
    multi_margin(margin=0.5, p=2, weight=CLASS_WEIGHTS),
    Row(
        "multilabel_margin_loss",
        "multilabel_margin_loss",
        lambda x, labels, **r: F.multilabel_margin_loss(x, labels.long(), **r),
        lambda loss, x, labels, **r: loss(x, labels, **r),
        {
            "random": (ROWS, LABEL_SETS),
            "ties": (STEPS, LABEL_SETS),
            "no batch": (ROWS[0], LABEL_SETS[0]),
        },
    ),
    Row(
        "multilabel_soft_margin_loss",
        "multilabel_soft_margin_loss",
        lambda x, y, **r: F.multilabel_soft_margin_loss(x, y, **r),
        lambda loss, x, y, **r: loss(x, y, **r),
        {"random": (ROWS, uniform(6, 5)), "hard": (30 * ROWS, MULTIHOT)},
        difference=1,
    ),
    Row(
        "multilabel_soft_margin_loss",
        "multilabel_soft_margin_loss",
        lambda x, y, w, **r: F.multilabel_soft_margin_loss(x, y, weight=w, **r),
        lambda loss, x, y, w, **r: loss(x, y, class_weights=w, **r),
        {"random": (ROWS, uniform(6, 5), CLASS_WEIGHTS)},
        "weight",
        reductions=("none", "sum"),
        difference=6,
    ),
]


def kl_div(variant, inputs, wrt=None, **options):
    def there(x, y, reduction):
        # PyTorch's "none" keeps the class axis, and its "mean" divides by it too.
        kept = {"none": "none", "sum": "sum", "mean": "batchmean"}[reduction]
        loss = F.kl_div(x, y, reduction=kept, **options)
        return loss.sum(-1) if reduction == "none" else loss

    return Row(
        "kl_div",
        "kl_divergence_with_log_targets" if options else "kl_divergence",
        there,
        lambda loss, x, y, **r: loss(x, y, **r),
        inputs,
        variant,
        wrt,
        difference=3,
    )


LOG_P = rounded(np.log(distributions(6, 5)))
SPARSE = rounded(np.where(MULTIHOT == 0, 0, distributions(6, 5, seed=1)))
DIVERGENCES = [
    kl_div("", {"random": (LOG_P, distributions(6, 5, seed=1))}),
    kl_div("zero targets", {"zeros": (LOG_P, SPARSE)}, wrt=(0,)),
    kl_div(
        "log_target",
        {"random": (LOG_P, rounded(np.log(distributions(6, 5, seed=1))))},
        log_target=True,
    ),
]

POINTS = tuple(normal(6, 5, seed=seed) for seed in range(3))
PAIR_SIGNS = np.array([1, -1, 1, -1, -1, 1], np.float64)
AXES = (repeated(0, 3, 0, 0, 0), repeated(-2, 0, 0, 4, 0))
# The distances are 5 and 6, so that a margin of 1 is met exactly.
TIED = tuple(
    np.resize(rounded(x), (6, 5)) for x in ([0] * 5, [3, 4, 0, 0, 0], [0, 0, 6, 0, 0])
)


def cosine_embedding(margin, atol=1e-11):
    return Row(
        "cosine_embedding_loss",
        "cosine_embedding_loss",
        lambda a, b, y, **r: F.cosine_embedding_loss(a, b, y, margin=margin, **r),
        lambda loss, a, b, y, **r: loss(a, b, y, margin=margin, **r),
        {"random": (*POINTS[:2], PAIR_SIGNS), "right angles": (*AXES, PAIR_SIGNS)},
        f"margin={margin}",
        wrt=(0, 1),
        difference=1,
        # PyTorch adds 1e-12 to the squared norms.
        atol=atol,
    )


def triplet(variant="", **options):
    """PyTorch adds eps to the differences, optax to the sum of powers: here it is 0."""
    ours = {"norm_degree" if k == "p" else k: v for k, v in options.items()}
    return Row(
        "triplet_margin_loss",
        "triplet_margin_loss",
        lambda *x, **r: F.triplet_margin_loss(*x, eps=0.0, **options, **r),
        lambda loss, *x, **r: loss(*x, eps=0.0, **ours, **r),
        {
            "random": POINTS,
            "tied": TIED,
            "equal": (POINTS[0], POINTS[0], 0.1 * POINTS[1] + POINTS[0]),
        },
        variant,
        difference=5,
    )


def squared_distance(a, b):
    return ((a - b) ** 2).sum(-1)


def with_distance(variant="", **options):
    return Row(
        "triplet_margin_with_distance_loss",
        "triplet_margin_with_distance_loss",
        lambda *x, **r: F.triplet_margin_with_distance_loss(
            *x, distance_function=squared_distance, **options, **r
        ),
        lambda loss, *x, **r: loss(*x, distance_fn=squared_distance, **options, **r),
        {"random": POINTS},
        variant,
        difference=20,
    )


EMBEDDINGS = [
    cosine_embedding(0.0),
    cosine_embedding(0.25),
    *(
        Row(
            "margin_ranking_loss",
            "margin_ranking_loss",
            lambda a, b, y, m=margin, **r: F.margin_ranking_loss(
                a, b, y, margin=m, **r
            ),
            lambda loss, a, b, y, m=margin, **r: loss(a, b, y, margin=m, **r),
            {
                "random": (*RANDOM_PAIR, SIGNS),
                "ties": (repeated(0, 0, 1, 1, -2), repeated(0, 0.5, 0.5, 1.5), SIGNS),
            },
            f"margin={margin}",
            difference=4,
        )
        for margin in (0.0, 0.5)
    ),
    triplet(),
    triplet("p=1", p=1.0),
    triplet("p=3, margin=2", p=3.0, margin=2.0),
    triplet("swap", swap=True),
    with_distance(),
    with_distance("swap, margin=0.5", swap=True, margin=0.5),
]

FRAMES = normal(4, 7, 5, scale=2)
FRAME_PADDINGS = rounded(np.arange(7) >= np.array([[7], [6], [4], [1]]))
SHORT_PADDINGS = rounded(np.arange(7) >= np.array([[7], [6], [2], [1]]))
# A repeated label, which needs a blank between; an empty one; the longest possible.
TRANSCRIPTS = np.array([[1, 1, 2], [3, 4, 1], [4, 4, 0], [0, 0, 0]], np.int32)
LABEL_PADDINGS = rounded(np.arange(3) >= np.array([[3], [3], [2], [0]]))
TRANSCRIBED = (FRAMES, FRAME_PADDINGS, TRANSCRIPTS, LABEL_PADDINGS)


def ctc(variant, inputs, blank=0, zero_infinity=False, **lost):
    def there(x, paddings, labels, label_paddings, **r):
        return F.ctc_loss(
            x.log_softmax(-1).transpose(0, 1),
            labels.long(),
            (1 - paddings).sum(-1).long(),
            (1 - label_paddings).sum(-1).long(),
            blank=blank,
            zero_infinity=zero_infinity,
            **r,
        )

    def here(loss, *x, **r):
        where = None
        if zero_infinity:
            where = jax.numpy.isfinite(loss(*x, blank_id=blank))
        return loss(*x, blank_id=blank, where=where, **r)

    return Row(
        "ctc_loss",
        "ctc_loss",
        there,
        here,
        inputs,
        variant,
        wrt=(0,),
        # PyTorch's mean divides each loss by its number of labels.
        reductions=("none", "sum"),
        **lost,
    )


# The terms are log-probabilities of whole paths.
SEQUENCES = [
    ctc(
        "blank=3",
        {"random": (*TRANSCRIBED[:2], (TRANSCRIPTS + 3) % 5, LABEL_PADDINGS)},
        blank=3,
        difference=20,
    ),
    ctc(
        "zero_infinity",
        # Two frames cannot spell 4, 4; the third sequence has no more.
        {"random": (FRAMES, SHORT_PADDINGS, TRANSCRIPTS, LABEL_PADDINGS)},
        zero_infinity=True,
        difference=20,
    ),
    ctc(
        "2000 frames",
        {
            "random": (
                normal(1, 2000, 6, scale=2),
                np.zeros((1, 2000)),
                1 + integers(1, 40, below=5),
                np.zeros((1, 40)),
            )
        },
        rtol=1e-5,
        atol=1e-5,
    ),
]

KERNEL = normal(4, 5)
HIDDEN = normal(6, 4)
BIAS = normal(5, seed=1)


def linear(weight=None, **options):
    def there(hidden, kernel, labels, bias, **r):
        w = None if weight is None else torch.as_tensor(weight)
        return F.linear_cross_entropy(
            hidden, kernel.T, labels.long(), linear_bias=bias, weight=w, **options, **r
        )

    def here(loss, hidden, kernel, labels, bias, **r):
        return loss(
            hidden, kernel, labels, bias=bias, class_weights=weight, **options, **r
        )

    return Row(
        "linear_cross_entropy",
        "linear_cross_entropy",
        there,
        here,
        {"random": (HIDDEN, KERNEL, ROW_LABELS, BIAS)},
        ", ".join(("weight",) * (weight is not None) + tuple(options)),
        # Sums of products of both signs.
        difference=5,
    )


VOCABULARY = [linear(), linear(**IGNORE), linear(**WEIGHT, **SMOOTH, **IGNORE)]

TABLE = [
    *ELEMENTWISE,
    *CLASSES,
    *MARGINS,
    *DIVERGENCES,
    *EMBEDDINGS,
    *SEQUENCES,
    *VOCABULARY,
]


def theirs(row, arrays, **reduction):
    """PyTorch's value in float64 and its gradients from the same cotangent."""
    tensors = [torch.tensor(a) for a in arrays]
    moving = [tensors[i].requires_grad_() for i in row.real(arrays)]
    value = row.there(*tensors, **reduction)
    down = torch.tensor(cotangent(tuple(value.shape)))
    gradients = torch.autograd.grad(value, moving, down)
    return [value.detach().numpy()], [g.numpy() for g in gradients]


@pytest.mark.any_program
@cases(TABLE)
def test_value_and_gradient_are_those_of_torch(row, arrays):
    results = pulled_back(ours(row, row.reductions), row, arrays, "float32")
    scale = 0.0
    for reduction, (value, gradients) in zip(row.reductions, results, strict=True):
        their_value, their_gradients = theirs(row, arrays, reduction=reduction)
        assert_same(value, their_value, row, scale)
        assert_same(gradients, their_gradients, row)
        scale = np.abs(value[0]).sum() if reduction == "none" else 0.0


def test_every_loss_of_torch_is_in_the_table():
    losses = {
        name
        for name in dir(F)
        if name.endswith(("_loss", "cross_entropy", "cross_entropy_with_logits"))
        or name == "kl_div"
    }
    # torchvision has it, as a formula.
    assert_complete(losses | {"sigmoid_focal_loss"}, TABLE)


def _cross_entropy(logits, labels, **options):
    """PyTorch's loss and slope in float32, as `value_and_slope` has them."""
    x = torch.tensor(logits, requires_grad=True)
    loss = F.cross_entropy(x, torch.as_tensor(labels), **options)
    loss.backward()
    return [*x.grad.flatten().tolist(), loss.item()]


def _slope(loss, at):
    x = torch.tensor(at, requires_grad=True)
    loss(x).backward()
    return x.grad.item()


def _confident(logits):
    """The true loss and slope of a right prediction of class 0."""
    rest = np.exp(logits[1:] - logits[0])
    total = rest.sum()
    return [-total / (1 + total), *rest / (1 + total), np.log1p(total)]


CONFIDENT = np.array([20, 0, -0.5, 0.25])
WRONG = [
    Correction(
        "a confident prediction still has a loss and a slope",
        INTEGER,
        (CONFIDENT, np.int32(0)),
        value_and_slope,
        lambda x, label: _cross_entropy(x, np.int64(label)),
        _confident(CONFIDENT),
    ),
    Correction(
        "an impossible class with a soft label of 0 adds nothing",
        DENSE,
        ([0, -np.inf, np.log(3)], [0.5, 0, 0.5]),
        value_and_slope,
        _cross_entropy,
        [-0.25, 0, 0.25, np.log(4) - np.log(3) / 2],
    ),
    Correction(
        "a batch in which every label is ignored has a mean of 0",
        INTEGER,
        ([[1.0, 2.0]], np.array([-100])),
        lambda loss, x, labels: value_and_slope(
            lambda x: loss(x, labels, ignore_index=-100, reduction="mean"), x
        ),
        _cross_entropy,
        [0, 0, 0],
    ),
    Correction(
        "infinite binary logits are certain",
        "sigmoid_binary_cross_entropy",
        ([np.inf, -np.inf], [1.0, 0.0]),
        lambda loss, x, y: loss(x, y),
        lambda x, y: F.binary_cross_entropy_with_logits(
            torch.tensor(x), torch.tensor(y), reduction="none"
        ),
        [0, 0],
    ),
    Correction(
        "the slope at a tiny probability is not held at 1e12",
        "binary_cross_entropy",
        (1e-20,),
        lambda loss, p: jax.grad(loss)(p, 1.0),
        lambda p: _slope(lambda p: F.binary_cross_entropy(p, torch.tensor(1.0)), p),
        -1e20,
    ),
    Correction(
        "a wrong score of 1000 does not overflow",
        "soft_margin_loss",
        (-1000.0,),
        lambda loss, x: jax.grad(loss)(x, 1.0),
        lambda x: _slope(lambda x: F.soft_margin_loss(x, torch.tensor(1.0)), x),
        -1,
    ),
    Correction(
        "the focal loss with gamma 0.5 is flat where the prediction is certain",
        "sigmoid_focal_loss",
        (1000.0,),
        lambda loss, x: jax.grad(lambda x: loss(x, 1.0, gamma=0.5))(x),
        lambda x: _slope(lambda x: focal(x, torch.tensor(1.0), gamma=0.5), x),
        0,
    ),
    Correction(
        "a count of 0 has a derivative in the full Poisson loss",
        "poisson_nll_loss",
        (0.0,),
        lambda loss, t: jax.grad(lambda t: loss(2.0, t, full=True))(t),
        lambda t: _slope(
            lambda t: F.poisson_nll_loss(torch.tensor(2.0), t, full=True), t
        ),
        -2,
    ),
]


@corrections(WRONG)
def test_right_where_torch_is_wrong(case):
    assert_corrected(case, "torch", "2.13.0")

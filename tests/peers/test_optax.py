"""Every function of `optax.losses`, called alike in both libraries.

A user switches by changing the import: the same positional arguments, defaults and
unreduced result. Where optax is wrong, a test below the table shows both answers.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from .comparison import (
    Arrays,
    Correction,
    Row,
    as_in_their_world,
    assert_complete,
    assert_corrected,
    assert_same,
    cases,
    corrections,
    distributions,
    integers,
    loss_named,
    normal,
    ours,
    pulled_back,
    repeated,
    rounded,
    uniform,
    value_and_slope,
)

optax = pytest.importorskip("optax")


def row(
    name: str,
    inputs: Mapping[str, Arrays],
    variant: Any = "",
    *,
    after: Any = (),
    wrt: Any = None,
    difference: Any = 0.0,
    **options: Any,
) -> Row:
    """The same call in both: arrays, then `after`, then the options."""
    own = {key: options.pop(key) for key in ("atol",) if key in options}

    def call(function, *arrays):
        return function(*arrays, *after, **options)

    return Row(
        peer=name,
        name=name,
        there=lambda *x: call(getattr(optax.losses, name), *x),
        here=call,
        cases=inputs,
        variant=variant or ", ".join(options),
        wrt=wrt,
        difference=difference,
        **own,
    )


PAIR = (normal(6, 5, scale=2), normal(6, 5, seed=1))
ERRORS = {
    "random": PAIR,
    "kinks": (repeated(0, 1, -1, 0.25, -0.25, 3, -4) + 0.5, repeated(0.5)),
    "far": (repeated(1e18, -1e18, 1e-3, -1e-3, 1e4), repeated(0, 0, 0, 0, -1e4)),
}
NO_TARGETS = {"random": PAIR[:1]}

REGRESSION = [
    *(
        row(name, inputs, variant)
        for name in ("squared_error", "l2_loss", "huber_loss")
        for variant, inputs in (("", ERRORS), ("no targets", NO_TARGETS))
    ),
    row("huber_loss", ERRORS, delta=0.25),
    # optax subtracts log 2 from a log, near which 1e-16 is all that it has.
    row("log_cosh", ERRORS, atol=1e-15),
    row("log_cosh", NO_TARGETS, "no targets", atol=1e-15),
]

LOGITS = (normal(6, 5, scale=3), uniform(6, 5, seed=1))
HARD = integers(6, 5, below=2)
SIGNS = np.where(HARD == 0, -1.0, 1.0)

BINARY = [
    row("sigmoid_binary_cross_entropy", {"random": LOGITS}, difference=1),
    row(
        "sigmoid_binary_cross_entropy",
        {
            "integers": (LOGITS[0], HARD),
            "extreme": (repeated(1000, -1000, 0, 50, -50), HARD),
        },
        "hard labels",
        # optax's slope is sigmoid(x) - y.
        atol=1e-15,
    ),
    *(
        row("sigmoid_focal_loss", {"random": LOGITS}, difference=1, **options)
        for options in ({}, {"gamma": 1.5}, {"alpha": 0.25, "gamma": 3.0})
    ),
    *(
        row(
            name, {"floats": (PAIR[0], SIGNS), "integers": (PAIR[0], SIGNS.astype(int))}
        )
        for name in ("hinge_loss", "perceptron_loss")
    ),
    # optax halves the slope at the kinks; here it is 0, as that of PyTorch's relu.
    row("hinge_loss", {"kinks": (SIGNS, SIGNS)}, "kinks", wrt=()),
    row("perceptron_loss", {"kinks": (repeated(0), SIGNS)}, "kinks", wrt=()),
    row(
        "sparsemax_loss",
        {"random": (PAIR[0], HARD), "joints": (repeated(1, -1, 0, 1, -1, 2), HARD)},
    ),
]

ROWS = normal(6, 5, scale=2)
LABELS = integers(6, below=5, seed=3)
SOFT = distributions(6, 5, seed=2)
EXAMPLES = np.array([True, False, True, True, False, True])
# No row and no column is empty, and each label of LABELS stays.
CLASSES = (integers(6, 5, below=3, seed=6) > 0) | np.eye(5, dtype=bool)[LABELS]
ONE_HOT = rounded(np.eye(5)[LABELS])
DENSE = {"soft": (ROWS, SOFT), "one-hot": (ROWS, ONE_HOT), "far": (200 * ROWS, SOFT)}
INTEGER = "softmax_cross_entropy_with_integer_labels"
BLOCK = normal(2, 3, 4, scale=2)
IMPOSSIBLE = np.where(ONE_HOT > 0, ROWS, np.where(CLASSES, ROWS, -np.inf))


def _log_sum_exp(scores):
    return jnp.log(jnp.sum(jnp.exp(scores), axis=-1))


MULTICLASS = [
    row("softmax_cross_entropy", DENSE, difference=1),
    *(
        row(
            "softmax_cross_entropy",
            {"soft": (ROWS, SOFT)},
            variant,
            after=after,
            wrt=wrt,
            difference=1,
        )
        for variant, after, wrt in (
            ("axis 0", (0,), None),
            ("both axes", ((0, 1),), None),
            ("axis None", (None,), None),
            # optax's derivative by a masked label is NaN.
            ("examples", (-1, EXAMPLES), (0,)),
            ("classes", (-1, CLASSES), (0,)),
            ("classes by column", (0, CLASSES), (0,)),
        )
    ),
    row("safe_softmax_cross_entropy", DENSE, difference=1),
    row(
        "safe_softmax_cross_entropy",
        {"impossible": (IMPOSSIBLE, ONE_HOT)},
        "-inf",
        wrt=(0,),  # optax's derivative by the label of such a class is infinite
        atol=1e-15,
    ),
    # optax's log_normalizer - logit and p - 1 have lost what the logits round.
    row(INTEGER, {"random": (ROWS, LABELS), "far": (200 * ROWS, LABELS)}, atol=1e-13),
    row(INTEGER, {"impossible": (IMPOSSIBLE, LABELS)}, "-inf", atol=1e-15),
    *(
        row(INTEGER, inputs, variant, after=after, atol=1e-15)
        for variant, inputs, after in (
            ("axis 0", {"random": (ROWS[:5], LABELS[:5])}, (0,)),
            ("examples", {"random": (ROWS, LABELS)}, (-1, EXAMPLES)),
            ("classes", {"random": (ROWS, LABELS)}, (-1, CLASSES)),
            ("two axes", {"random": (BLOCK, integers(3, below=8))}, ((2, 0),)),
            (
                "two axes, classes",
                {"random": (BLOCK, np.array([1, 0, 2], np.int32))},
                ((0, 2), np.sort(BLOCK, axis=None)[5] < BLOCK),
            ),
        )
    ),
    row("smooth_labels", {"random": (SOFT,)}, "alpha", after=(0.25,)),
    row("smooth_labels", {"random": (SOFT,)}, after=(0.25,), axis=0),
    row("smooth_labels", {"random": (SOFT,)}, after=(0.25,), axis=(0, 1)),
    row("smooth_labels", {"random": (SOFT,)}, "axis None", after=(0.25,), axis=None),
    row("smooth_labels", {"random": (SOFT,)}, after=(0.25,), where=CLASSES),
    row("multiclass_hinge_loss", {"random": (ROWS, LABELS)}, difference=5),
    row("multiclass_perceptron_loss", {"random": (ROWS, LABELS)}, difference=5),
    row(
        "multiclass_sparsemax_loss",
        {"random": (ROWS, LABELS)},
        difference=5,
    ),
    row("poly_loss_cross_entropy", DENSE, difference=3),
    *(
        row("poly_loss_cross_entropy", {"soft": (ROWS, SOFT)}, difference=3, **options)
        for options in ({"epsilon": -1.0}, {"axis": 0}, {"axis": (0, 1)})
    ),
    row(
        "poly_loss_cross_entropy",
        {"soft": (ROWS, SOFT)},
        "axis None",
        axis=None,
        difference=3,
    ),
    row(
        "poly_loss_cross_entropy",
        {"soft": (ROWS, SOFT)},
        wrt=(0,),
        where=CLASSES,
        epsilon=0.5,
        difference=3,
    ),
    Row(
        "make_fenchel_young_loss",
        "make_fenchel_young_loss",
        lambda *x: optax.losses.make_fenchel_young_loss(_log_sum_exp)(*x),
        lambda make, *x: make(_log_sum_exp)(*x),
        {"random": (ROWS, SOFT)},
        difference=5,
    ),
]

LOG_P = rounded(np.log(distributions(6, 5)))
LOG_SOFT = rounded(np.log(SOFT))
DIVERGENCES = [
    row(name, {"random": (LOG_P, second)}, variant, difference=3, **options)
    for name, second in {
        "kl_divergence": SOFT,
        "kl_divergence_with_log_targets": LOG_SOFT,
        "generalized_kl_divergence": SOFT,
        "convex_kl_divergence": SOFT,
    }.items()
    for variant, options in {
        "": {},
        "axis 0": {"after": (0,)},
        "both axes": {"after": ((0, 1),)},
        "axis None": {"after": (None,)},
        "classes": {"after": (-1, CLASSES)},
    }.items()
]

POINTS = tuple(normal(6, 5, seed=seed) for seed in range(3))
GROUPS = np.array([0, 1, 0, 2, 1, 0], np.int32)
EMBEDDINGS = [
    *(
        row(name, {"random": POINTS[:2]}, difference=1, **options)
        for name in ("cosine_similarity", "cosine_distance")
        for options in (
            {},
            {"epsilon": 1e-6},
            {"axis": 0},
            {"axis": (0, 1)},
            {"axis": None},
            {"where": CLASSES},
        )
    ),
    row(
        "cosine_similarity",
        {"short": tuple(0.125 * x for x in POINTS[:2])},
        "norms below epsilon",
        epsilon=0.5,
        difference=1,
    ),
    *(
        row(
            "ntxent",
            {"random": (POINTS[0], GROUPS)},
            after=after,
            difference=30,
        )
        for after in ((), (0.5,))
    ),
    *(
        row("triplet_margin_loss", {"random": POINTS}, variant, difference=5, **options)
        for variant, options in {
            "": {},
            "axis 0": {"after": (0,)},
            "positional": {"after": (-1, 2, 3.0, 0.125)},
            "norm 4": {"norm_degree": 4},
        }.items()
    ),
]

RELEVANCE = rounded(integers(6, 5, below=4))
RANKING = [
    *(
        row(
            "ranking_softmax_loss",
            {"random": (ROWS, RELEVANCE)},
            difference=10,
            **options,
        )
        for options in (
            {},
            {"reduce_fn": None},
            {"reduce_fn": jnp.sum},
            {"where": CLASSES},
            {"where": EXAMPLES[:, None] & CLASSES},
        )
    ),
    *(
        Row(
            "ranking_softmax_loss",
            "ranking_softmax_loss",
            lambda x, y, w, o=options: optax.losses.ranking_softmax_loss(
                x, y, weights=w, **o
            ),
            lambda loss, x, y, w, o=options: loss(x, y, weights=w, **o),
            {"random": (ROWS, RELEVANCE, weights)},
            ", ".join(("weights", *options)),
            wrt=(0, 1) if options else None,  # optax's slope at a masked weight is NaN
            difference=10,
        )
        for weights, options in (
            (uniform(6, 5, seed=4), {"where": CLASSES, "reduce_fn": None}),
            (uniform(6, 1, seed=4), {}),
        )
    ),
]

FRAME_PADDINGS = rounded(np.arange(7) >= np.array([[7], [6], [4], [2]]))
TRANSCRIPTS = np.array([[1, 1, 2], [3, 4, 1], [4, 4, 0], [0, 0, 0]], np.int32)
LABEL_PADDINGS = rounded(np.arange(3) >= np.array([[3], [3], [2], [0]]))
FRAMES = normal(4, 7, 5, scale=2)


PARAGRAPH = (FRAMES, FRAME_PADDINGS, TRANSCRIPTS, LABEL_PADDINGS)


def possible(probs):
    """What is impossible is log_epsilon here, and in optax log_epsilon or below."""
    return jax.tree.map(lambda x: jnp.where(x < -9e4, -1e5, x), probs)


# The terms are log-probabilities of whole paths; paddings have no derivative.
SEQUENCES = [
    row("ctc_loss", {"random": PARAGRAPH}, wrt=(0,), difference=20),
    Row(
        "ctc_loss_with_forward_probs",
        "ctc_loss_with_forward_probs",
        lambda *x: possible(optax.losses.ctc_loss_with_forward_probs(*x, blank_id=3)),
        lambda loss, *x: possible(loss(*x, blank_id=3)),
        {"random": (*PARAGRAPH[:2], (TRANSCRIPTS + 3) % 5, LABEL_PADDINGS)},
        "blank_id",
        wrt=(0,),
        difference=20,
    ),
]

MAPS = normal(2, 3, 4, 3, scale=2)
REGIONS = rounded(np.eye(3)[integers(2, 3, 4, below=3)])
BINARY_MAPS = (normal(2, 3, 4, scale=2), rounded(integers(2, 3, 4, below=2)))
SEGMENTATION = [
    *(
        row("dice_loss", {"random": (MAPS, REGIONS)}, difference=1, **options)
        for options in (
            {},
            {"reduction": "none"},
            {"reduction": "sum", "smooth": 0.25, "alpha": 0.25, "beta": 0.75},
            {"ignore_background": True},
            {"axis": (0, 1, 2)},
        )
    ),
    Row(
        "dice_loss",
        "dice_loss",
        lambda x, t, w: optax.losses.dice_loss(x, t, class_weights=w),
        lambda loss, x, t, w: loss(x, t, class_weights=w),
        {"random": (MAPS, REGIONS, rounded([0.5, 2, 1.25]))},
        "class_weights",
        difference=1,
    ),
    row("dice_loss", {"one class": BINARY_MAPS}, "no class axis", difference=1),
    *(
        row(
            "multiclass_generalized_dice_loss",
            {"random": (MAPS, REGIONS)},
            difference=1,
            **options,
        )
        for options in ({}, {"smooth": 0.5, "ignore_background": True})
    ),
    *(
        row("binary_dice_loss", inputs, variant, difference=1, smooth=0.5)
        for variant, inputs in {
            "no class axis": {"random": BINARY_MAPS},
            "one class": {"random": tuple(x[..., None] for x in BINARY_MAPS)},
        }.items()
    ),
]

TABLE = [
    *REGRESSION,
    *BINARY,
    *MULTICLASS,
    *DIVERGENCES,
    *EMBEDDINGS,
    *RANKING,
    *SEQUENCES,
    *SEGMENTATION,
]
EXPORTED = sorted(
    name
    for name, value in vars(optax.losses).items()
    if inspect.isfunction(value) and not name.startswith("_")
)


@pytest.mark.filterwarnings(
    # optax warns of the one deprecated name that jaxloss has too, at its every call.
    "ignore:.*convex_kl_divergence:DeprecationWarning"
)
@pytest.mark.any_program
@cases(TABLE)
def test_value_and_gradient_are_those_of_optax(row, arrays):
    (actual,) = pulled_back(ours(row), row, arrays, "float32")
    with as_in_their_world():
        (expected,) = pulled_back((row.there,), row, arrays, "float64")
    for mine, theirs in zip(actual, expected, strict=True):
        assert_same(mine, theirs, row)


def test_every_loss_of_optax_is_in_the_table():
    assert_complete(EXPORTED, TABLE)


@pytest.mark.parametrize("name", EXPORTED)
def test_arguments_are_those_of_optax(name):
    theirs = inspect.signature(getattr(optax.losses, name)).parameters
    ours = inspect.signature(loss_named(name)).parameters
    for place, (argument, parameter) in enumerate(theirs.items()):
        assert argument in ours
        assert ours[argument].default == parameter.default
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            assert ours[argument].kind is parameter.kind
            assert list(ours)[place] == argument


@pytest.mark.parametrize(
    "name", sorted({row.name for row in (*REGRESSION, *BINARY)} - {"log_cosh"})
)
def test_targets_never_widen_predictions(name):
    # optax returns a [5, 5] array from some, and raises nothing that tells why.
    loss = loss_named(name)
    with pytest.raises(ValueError, match="must broadcast to the shape"):
        loss(jnp.zeros(5), jnp.ones((5, 1)))


def _confident(logits):
    """The true slope and loss of a right prediction of class 0."""
    rest = np.exp(np.array(logits[1:]) - logits[0])
    total = rest.sum()
    return [-total / (1 + total), *rest / (1 + total), np.log1p(total)]


def correction(id, name, arrays, measure, truth, rtol=1e-6):
    """`measure(loss, *arrays)` on both sides."""
    return Correction(
        id,
        name,
        arrays,
        measure,
        lambda *x: measure(getattr(optax.losses, name), *x),
        truth,
        rtol,
    )


def _by_second(loss, first, second):
    return jax.grad(loss, argnums=1)(first, second)


def _tangent(loss, x, labels):
    return jax.jvp(lambda x: loss(x, labels), (x,), (jnp.asarray([1.0, 2, 3]),))[1]


CONFIDENT = [20, 0, -0.5, 0.25]
THREE = np.log(3.0)
# An impossible class, of which the label says nothing.
HOPELESS = ([0, -np.inf, THREE], [0.5, 0.0, 0.5])
IN_BFLOAT16 = (np.full(4, 300.0), np.int32(0))
WRONG = [
    correction(
        "a confident prediction still has a loss and a slope",
        INTEGER,
        (np.array(CONFIDENT, float), np.int32(0)),
        value_and_slope,
        _confident(CONFIDENT),
    ),
    *(
        correction(
            "a confident prediction still has a loss and a slope, one-hot",
            name,
            (np.array(CONFIDENT, float), np.eye(4)[0]),
            value_and_slope,
            _confident(CONFIDENT),
        )
        for name in ("softmax_cross_entropy", "safe_softmax_cross_entropy")
    ),
    correction(
        "bfloat16 logits of 300 are not rounded in their log-sum-exp",
        INTEGER,
        IN_BFLOAT16,
        lambda loss, x, label: loss(x.astype(jnp.bfloat16), label),
        np.log(4),
    ),
    correction(
        "an impossible class with a soft label of 0 adds nothing",
        "softmax_cross_entropy",
        HOPELESS,
        value_and_slope,
        [-0.25, 0, 0.25, np.log(4) - THREE / 2],
    ),
    correction(
        "nor does it to the tangent",
        "safe_softmax_cross_entropy",
        HOPELESS,
        _tangent,
        0.5,
    ),
    correction(
        "the focal loss with gamma 0 is the cross entropy, at infinity too",
        "sigmoid_focal_loss",
        (np.inf, 1.0),
        lambda loss, x, y: value_and_slope(lambda x: loss(x, y, gamma=0.0), x),
        [0, 0],
    ),
    correction(
        "log cosh keeps its digits near 0",
        "log_cosh",
        (1e-4,),
        value_and_slope,
        [np.tanh(np.float32(1e-4)), np.float32(1e-4).astype(float) ** 2 / 2],
    ),
    correction(
        "label -1 is not the last class",
        INTEGER,
        ([0.0, 1.0], np.int32(-1)),
        lambda loss, x, label: loss(x, label),
        np.nan,
    ),
    *(
        correction(
            f"{name} has no class {label}",
            name,
            ([[0.0, 1.0]], np.array([label])),
            lambda loss, x, label: loss(x, label),
            [np.nan],
        )
        for name in (
            "multiclass_hinge_loss",
            "multiclass_perceptron_loss",
            "multiclass_sparsemax_loss",
        )
        for label in (-1, 2)
    ),
    correction(
        "a target of 0 has a finite derivative",
        "kl_divergence",
        (np.log([0.5, 0.25, 0.25]), [0.5, 0.5, 0.0]),
        _by_second,
        [1, 1 + np.log(2), 0],
    ),
    correction(
        "a zero vector has a distance of 1 and no slope",
        "cosine_distance",
        (np.zeros(3), [1.0, 2.0, 2.0]),
        value_and_slope,
        [0, 0, 0, 1],
    ),
    correction(
        "1 - cosine keeps its digits for vectors that nearly agree",
        "cosine_distance",
        ([1.0, 0.0], [1.0, 2.0**-12]),
        lambda loss, a, b: loss(a, b),
        # 1 - 1/sqrt(1 + t^2)
        -np.expm1(-0.5 * np.log1p(2.0**-24)),
    ),
    correction(
        "a batch without a positive pair has no loss",
        "ntxent",
        ([[1.0, 0.0], [0.0, 1.0]], np.array([0, 1])),
        lambda loss, x, labels: value_and_slope(lambda x: loss(x, labels), x),
        [0] * 5,
    ),
    *(
        correction(
            f"the distance of degree {degree} takes absolute values",
            "triplet_margin_loss",
            (np.zeros(2), [1.0, 2.0], [3.0, 3.0]),
            lambda loss, *x, p=degree: loss(*x, norm_degree=p, margin=4.0, eps=0.0),
            4 + 9 ** (1 / 3) - 54 ** (1 / 3) if degree == 3 else 4 + 3 - 6,
        )
        for degree in (1, 3)
    ),
    correction(
        "dice takes probabilities under jit, and maps of one class",
        "dice_loss",
        (np.full((1, 2, 1), 0.5), np.ones((1, 2, 1))),
        lambda loss, p, t: jax.jit(lambda p: loss(p, t, apply_softmax=False))(p),
        [1 - (1 + 1) / (1 + 0.5 + 1)],
    ),
    correction(
        "binary dice takes probabilities",
        "binary_dice_loss",
        (np.full((1, 2), 0.5), np.ones((1, 2))),
        lambda loss, p, t: loss(p, t, apply_sigmoid=False),
        [1 - (1 + 1) / (1 + 0.5 + 1)],
    ),
]


@corrections(WRONG)
def test_right_where_optax_is_wrong(case):
    assert_corrected(case, "optax", "0.2.8")

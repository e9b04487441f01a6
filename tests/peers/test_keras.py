"""Every function of `keras.losses`, on the JAX backend, beside its counterpart.

Keras averages over the last axis, takes the targets first, and clips probabilities at
1e-7: the rows stay inside, and tests below the table show what the clipping does.
"""

import inspect
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from .comparison import (
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
    normal,
    ours,
    pulled_back,
    repeated,
    rounded,
    uniform,
    value_and_slope,
)

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras")
if keras.backend.backend() != "jax":
    pytest.skip("Keras runs on another backend", allow_module_level=True)


@pytest.fixture(autouse=True)
def float64_in_keras():
    """Keras makes its constants in a float type of its own."""
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx(before)


def elementwise(peer, name, inputs, variant="", wrt=None, ours=None, **theirs):
    """Predictions come first here, and the mean over the last axis is the caller's."""
    lost = {k: theirs.pop(k) for k in ("difference", "atol", "rtol") if k in theirs}
    ours = theirs if ours is None else ours
    return Row(
        peer,
        name,
        lambda p, t: getattr(keras.losses, peer)(t, p, **theirs),
        lambda loss, p, t: jnp.mean(loss(p, t, **ours), axis=-1),
        inputs,
        variant or ", ".join(theirs),
        wrt,
        **lost,
    )


PAIR = (normal(6, 5, scale=2), normal(6, 5, seed=1))
POSITIVE = (uniform(6, 5, low=0.1, high=5), uniform(6, 5, seed=1, low=0.1, high=5))
ERRORS = {
    "random": PAIR,
    "far": (repeated(1e15, -1e15, 1e-3, -1e-3, 1e4), repeated(0, 0, 0, 0, -1e4)),
}
# JAX has the derivative 1 of abs at 0, PyTorch and jaxloss 0.
EQUAL = {"equal": (repeated(1, -2, 0.5), repeated(1, -2, 0.5, 4))}
KINKS = {"kinks": (repeated(0, 0.5, -0.5, 1, -1, 0.25) + 0.5, repeated(0.5))}
SIGNS = np.where(integers(6, 5, below=2) == 0, -1.0, 1.0)

REGRESSION = [
    elementwise("mean_squared_error", "squared_error", ERRORS),
    elementwise("mean_absolute_error", "absolute_error", ERRORS),
    elementwise("mean_absolute_error", "absolute_error", EQUAL, "equal", wrt=()),
    elementwise(
        "mean_absolute_percentage_error",
        "absolute_percentage_error",
        {"random": PAIR, "target 0": (repeated(1, -2, 3), repeated(0, 1e-8))},
    ),
    elementwise(
        "mean_squared_logarithmic_error",
        "squared_log_error",
        {"random": POSITIVE, "below 0": (PAIR[0], POSITIVE[1])},
        # Keras subtracts two logs.
        atol=1e-15,
    ),
    elementwise("huber", "huber_loss", ERRORS | KINKS),
    elementwise("huber", "huber_loss", ERRORS | KINKS, delta=0.5),
    # Keras subtracts log 2 from a log.
    elementwise("log_cosh", "log_cosh", ERRORS, atol=1e-15),
    elementwise(
        "poisson",
        "poisson_nll_loss",
        {"random": POSITIVE, "rate 0": (repeated(0, 1e-9), POSITIVE[1])},
        "",
        ours={"log_input": False, "eps": 1e-7},
        difference=2,
    ),
]

LOGITS = (normal(6, 5, scale=3), uniform(6, 5, seed=1))
PROBABILITIES = (uniform(6, 5, low=0.01, high=0.99), uniform(6, 5, seed=1))
HARD = rounded(integers(6, 5, below=2))
EXTREME = (repeated(1000, -1000, 0, 50, -50), HARD)


def focal(inputs, difference=1.0, **options):
    """Focal loss on logits; Keras's alpha counts if `apply_class_balancing` does."""
    balanced = options.get("apply_class_balancing", False)
    return Row(
        "binary_focal_crossentropy",
        "sigmoid_focal_loss",
        lambda x, y: keras.losses.binary_focal_crossentropy(
            y, x, from_logits=True, **options
        ),
        lambda loss, x, y: jnp.mean(
            loss(
                x,
                _smooth(y, options.get("label_smoothing", 0.0)),
                alpha=options.get("alpha", 0.25) if balanced else None,
                gamma=options.get("gamma", 2.0),
            ),
            axis=-1,
        ),
        inputs,
        ", ".join(options),
        difference=difference,
    )


def _smooth(labels, amount):
    return labels * (1 - amount) + amount / 2


BINARY = [
    elementwise("hinge", "hinge_loss", {"random": (PAIR[0], SIGNS)}, wrt=(0,)),
    elementwise(
        "squared_hinge",
        "squared_hinge_loss",
        {"random": (PAIR[0], SIGNS), "kinks": (SIGNS, SIGNS)},
        wrt=(0,),
    ),
    # Where JAX's maximum halves the slope.
    elementwise("hinge", "hinge_loss", {"kinks": (SIGNS, SIGNS)}, "kinks", wrt=()),
    elementwise(
        "binary_crossentropy",
        "sigmoid_binary_cross_entropy",
        {"random": LOGITS, "extreme": EXTREME},
        ours={},
        from_logits=True,
        difference=1,
    ),
    elementwise(
        "binary_crossentropy",
        "sigmoid_binary_cross_entropy",
        {"random": LOGITS, "hard": (LOGITS[0], HARD)},
        ours={"label_smoothing": 0.25},
        from_logits=True,
        label_smoothing=0.25,
        difference=1,
    ),
    elementwise(
        "binary_crossentropy",
        "binary_cross_entropy",
        {"random": PROBABILITIES},
        "probabilities",
        # The slopes divide by probabilities as small as 0.01.
        difference=100,
    ),
    focal({"random": LOGITS, "hard": (LOGITS[0], HARD)}),
    focal({"random": LOGITS}, gamma=1.5, label_smoothing=0.25),
    focal({"random": LOGITS}, alpha=0.125, apply_class_balancing=True),
    focal({"random": LOGITS}, alpha=0.125),
    Row(
        "binary_focal_crossentropy",
        "sigmoid_focal_loss",
        lambda p, y: keras.losses.binary_focal_crossentropy(y, p, gamma=3.0),
        lambda loss, p, y: jnp.mean(
            loss(jnp.log(p) - jnp.log1p(-p), y, gamma=3.0), axis=-1
        ),
        {"random": PROBABILITIES},
        "probabilities",
        difference=100,
    ),
]

ROWS = normal(6, 5, scale=2)
LABELS = integers(6, below=5, seed=3)
SOFT = distributions(6, 5, seed=2)
ONE_HOT = rounded(np.eye(5)[LABELS])
MASSES = uniform(6, 5, seed=4, low=0.1, high=2)
DENSE = {"soft": (ROWS, SOFT), "one-hot": (ROWS, ONE_HOT)}
CLASS_WEIGHTS = rounded([0.5, 2, 0.125, 1.25, 3])


def categorical(peer, name, inputs, there, here, options, wrt=None, difference=1.0):
    """Keras on logits, then on probabilities of any sum, which it divides by."""
    variant = ", ".join(options)
    _, labels = next(iter(inputs.values()))
    return [
        Row(
            peer,
            name,
            lambda x, y: there(y, x, from_logits=True),
            here,
            inputs,
            variant,
            wrt,
            difference=difference,
        ),
        Row(
            peer,
            name,
            lambda p, y: there(y, p, from_logits=False),
            lambda loss, p, y: here(loss, jnp.log(p), y),
            {"masses": (MASSES, labels)},
            ", ".join(("probabilities", *options)),
            wrt,
            # The slopes divide by masses as small as 0.1.
            difference=10 * difference,
        ),
    ]


def cross_entropy(**options):
    def there(y, x, **how):
        return keras.losses.categorical_crossentropy(y, x, **options, **how)

    def here(loss, x, y):
        return loss(x, y, **options)

    name = "softmax_cross_entropy"
    return categorical("categorical_crossentropy", name, DENSE, there, here, options)


def sparse(**options):
    def there(y, x, **how):
        return keras.losses.sparse_categorical_crossentropy(y, x, **options, **how)

    def here(loss, x, y):
        return loss(x, y, ignore_index=options.get("ignore_class"))

    name = "softmax_cross_entropy_with_integer_labels"
    inputs = {"random": (ROWS, LABELS)}
    return categorical(
        "sparse_categorical_crossentropy", name, inputs, there, here, options
    )


def focal_classes(alpha, **options):
    """`alpha`, one number or one a class, is what the class weights are here."""
    weights = np.broadcast_to(rounded(alpha), 5)

    def there(y, x, **how):
        return keras.losses.categorical_focal_crossentropy(
            jax.nn.one_hot(y, 5, dtype=x.dtype), x, alpha=alpha, **options, **how
        )

    def here(loss, x, y):
        return loss(x, y, class_weights=weights, **options)

    return categorical(
        "categorical_focal_crossentropy",
        "softmax_focal_loss",
        {"random": (ROWS, LABELS)},
        there,
        here,
        options,
        difference=3,
    )


MULTICLASS = [
    *cross_entropy(),
    *cross_entropy(label_smoothing=0.25),
    *sparse(),
    *sparse(ignore_class=4),
    *focal_classes(0.25),
    *focal_classes(CLASS_WEIGHTS, gamma=1.5),
    *focal_classes(0.5, gamma=3.0, label_smoothing=0.25),
]

EMBEDDINGS = rounded(ROWS / np.linalg.norm(ROWS, axis=-1, keepdims=True))
GROUPS = np.array([0, 1, 0, 2, 1, 0], np.int32)
FRAMES = normal(3, 7, 5, scale=2)
# 0 is the blank, and the padding.
TRANSCRIPTS = np.array([[1, 1, 2], [3, 4, 0], [4, 0, 0]], np.int32)
MAPS = (uniform(2, 3, 4), rounded(integers(2, 3, 4, below=2)))


def region(peer, name, theirs, **ours):
    """One number an image, from maps of a single class; Keras's smooth is 1e-7."""
    return Row(
        peer,
        name,
        lambda p, t: getattr(keras.losses, peer)(t, p, axis=(1, 2), **theirs),
        lambda loss, p, t: loss(
            p[..., None], t[..., None], smooth=0.0, apply_softmax=False, **ours
        ),
        {"random": MAPS},
        ", ".join(theirs),
        difference=1,
    )


OTHERS = [
    Row(
        "categorical_hinge",
        "categorical_hinge_loss",
        lambda x, y: keras.losses.categorical_hinge(y, x),
        lambda loss, x, y: loss(x, y),
        # Below 0 the right class, as 0, is its own rival.
        {"one-hot": (ROWS, ONE_HOT), "negative": (-np.abs(ROWS), ONE_HOT)},
        wrt=(0,),
        difference=5,
    ),
    Row(
        "categorical_generalized_cross_entropy",
        "generalized_cross_entropy",
        lambda x, y: keras.losses.categorical_generalized_cross_entropy(
            y, jax.nn.softmax(x), q=0.375
        ),
        lambda loss, x, y: loss(x, y, q=0.375),
        {"random": (ROWS, LABELS)},
        difference=3,
    ),
    Row(
        "kl_divergence",
        "kl_divergence",
        lambda p, t: keras.losses.kl_divergence(t, p),
        lambda loss, p, t: loss(jnp.log(p), t),
        {"random": (distributions(6, 5), SOFT)},
        difference=5,
    ),
    Row(
        "cosine_similarity",
        "cosine_similarity",
        lambda a, b: keras.losses.cosine_similarity(b, a),
        lambda loss, a, b: -loss(a, b),
        {"random": PAIR},
        difference=1,
    ),
    Row(
        "cosine_similarity",
        "cosine_similarity",
        lambda a, b: keras.losses.cosine_similarity(b, a, axis=0),
        lambda loss, a, b: -loss(a, b, axis=0),
        {"random": PAIR},
        "axis",
        difference=1,
    ),
    *(
        Row(
            "circle",
            "circle_loss",
            lambda x, y, o=options: keras.losses.circle(y, x, **o),
            lambda loss, x, y, o=options: loss(x, y, **o),
            {"random": (EMBEDDINGS, GROUPS)},
            ", ".join(options),
            # gamma · distance², and its slopes.
            difference=options.get("gamma", 80.0),
        )
        for options in ({}, {"gamma": 4.0, "margin": 0.25})
    ),
    region("dice", "dice_loss", {}),
    region("tversky", "tversky_loss", {}),
    # Keras's alpha weighs y_true (1 - y_pred), which are the false negatives.
    region(
        "tversky", "tversky_loss", {"alpha": 0.25, "beta": 0.75}, alpha=0.75, beta=0.25
    ),
    Row(
        "ctc",
        "ctc_loss",
        lambda x, y: keras.losses.ctc(y, x),
        lambda loss, x, y: loss(x, jnp.zeros(x.shape[:2]), y, y == 0),
        {"random": (FRAMES, TRANSCRIPTS)},
        difference=20,
    ),
]

TABLE = [*REGRESSION, *BINARY, *MULTICLASS, *OTHERS]


@pytest.mark.any_program
@cases(TABLE)
def test_value_and_gradient_are_those_of_keras(row, arrays):
    (actual,) = pulled_back(ours(row), row, arrays, "float32")
    with as_in_their_world():
        (expected,) = pulled_back((row.there,), row, arrays, "float64")
    for mine, theirs in zip(actual, expected, strict=True):
        assert_same(mine, theirs, row)


def test_every_loss_of_keras_is_in_the_table():
    losses = {
        name
        for name, value in vars(keras.losses).items()
        if inspect.isfunction(value) and name not in {"deserialize", "get", "serialize"}
    }
    assert_complete(losses, TABLE)


CONFIDENT = np.array([20, 0, -0.5, 0.25])
REST = np.exp(CONFIDENT[1:] - CONFIDENT[0])
IMPOSSIBLE = [0, -np.inf, np.log(3)]
WRONG = [
    Correction(
        "a confident prediction still has a loss and a slope",
        "softmax_cross_entropy_with_integer_labels",
        (CONFIDENT, np.int32(0)),
        value_and_slope,
        lambda x, y: value_and_slope(
            lambda x: keras.losses.sparse_categorical_crossentropy(
                y[None], x[None], from_logits=True
            )[0],
            x,
        ),
        np.array([-REST.sum(), *REST, np.log1p(REST.sum()) * (1 + REST.sum())])
        / (1 + REST.sum()),
    ),
    Correction(
        "an impossible class with a soft label of 0 adds nothing",
        "softmax_cross_entropy",
        (IMPOSSIBLE, [0.5, 0, 0.5]),
        value_and_slope,
        lambda x, y: value_and_slope(
            lambda x: keras.losses.categorical_crossentropy(y, x, from_logits=True), x
        ),
        [-0.25, 0, 0.25, np.log(4) - np.log(3) / 2],
    ),
    Correction(
        "label -1 is no class",
        "softmax_cross_entropy_with_integer_labels",
        ([[0.0, 1.0]], np.array([-1])),
        lambda loss, x, y: loss(x, y),
        lambda x, y: keras.losses.sparse_categorical_crossentropy(
            y, x, from_logits=True
        ),
        [np.nan],
    ),
    Correction(
        "a probability of 0 for what is true has the slope to leave it",
        "binary_cross_entropy",
        (0.0, 1.0),
        value_and_slope,
        lambda p, y: value_and_slope(
            lambda p: keras.losses.binary_crossentropy(y[None], p[None]), p
        ),
        [-1e12, 100],
    ),
    Correction(
        "a small probability is not clipped",
        "binary_cross_entropy",
        (1e-9, 1.0),
        value_and_slope,
        lambda p, y: value_and_slope(
            lambda p: keras.losses.binary_crossentropy(y[None], p[None]), p
        ),
        [-1e9, 9 * np.log(10)],
    ),
    Correction(
        "the focal loss has a slope where the logit is wrong by 50",
        "sigmoid_focal_loss",
        (-50.0, 1.0),
        value_and_slope,
        lambda x, y: value_and_slope(
            lambda x: keras.losses.binary_focal_crossentropy(
                y[None], x[None], from_logits=True
            ),
            x,
        ),
        [-1, 50],
    ),
    Correction(
        "log cosh keeps its digits near 0",
        "log_cosh",
        (1e-4,),
        value_and_slope,
        lambda e: value_and_slope(
            lambda e: keras.losses.log_cosh(jnp.zeros(1), e[None]), e
        ),
        [np.tanh(np.float32(1e-4)), np.float64(np.float32(1e-4)) ** 2 / 2],
    ),
]


@corrections(WRONG)
def test_right_where_keras_is_wrong(case):
    assert_corrected(case, "keras", "3.15.1")

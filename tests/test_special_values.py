"""Impossible classes, labels that do not exist, and the checks that a user turns on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import KEEP, WEIGHTS, assert_close, each_case, tangents, weighted
from jax.experimental import checkify
from programs import measured

import jaxloss as jl

pytestmark = [pytest.mark.usefixtures("device"), pytest.mark.any_program]


def with_value(case, name, value):
    """A case's arrays with one example's argument replaced: the second's."""
    real, rest = weighted(case)
    part = real if name in real else rest
    changed = np.array(part[name])
    changed[(1,) + (0,) * (changed.ndim - 1)] = value
    part[name] = changed
    return real, rest


def each_value(field):
    """Runs a test over the entries' values of one kind."""
    return each_case(lambda case: getattr(case, field) and case.independent)


@each_value("invalid")
def test_invalid_value_makes_its_own_example_nan(case):
    others = np.array([0, 2, 3, 4, 5])
    clean, rest = weighted(case)

    def value_and_gradient(real, rest):
        ct = np.zeros(case.expected(case.values).shape, np.float32)
        ct[others] = 1
        found = measured(case, real, rest, ct=ct)["none"]
        return found["value"], found["gradient"]

    plain, slope = value_and_gradient(clean, rest)
    for name, values in case.invalid.items():
        for value in values:
            real, rest = with_value(case, name, value)
            losses, gradient = value_and_gradient(real, rest)
            assert np.isnan(losses[1]).any(), (name, value)
            assert_close(losses[others], plain[others])
            for n in {*case.inputs, "weights"} & slope.keys():
                assert_close(gradient[n][others], slope[n][others])


@each_case(lambda case: case.invalid or case.suspect, once=True)
def test_checkify_names_the_argument(case):
    @functools.partial(jax.jit, static_argnums=1)
    def checked(arrays, masked):
        tail = {"where": KEEP} if masked else {}
        return checkify.checkify(lambda arrays: case(arrays, **tail))(arrays)

    def message(arrays, masked=False):
        return checked(arrays, masked)[0].get()

    assert message({n: x for part in weighted(case) for n, x in part.items()}) is None
    for field in (case.invalid, case.suspect):
        for name, values in field.items():
            for value in values:
                real, rest = with_value(case, name, value)
                assert f"`{name}` must be" in message({**real, **rest})
                # The second example is masked.
                if case.tail:
                    assert message({**real, **rest}, masked=True) is None


def impossible(case):
    """Losses of logits with a class axis, whose labels give nothing to the last."""
    soft = case.values.get("labels")
    smooth = "label_smoothing" in case.parameters
    return case.class_inputs[:1] == ("logits",) and soft is not None and not smooth


@each_case(impossible, once=True)
def test_impossible_class_has_no_gradient(case):
    real, rest = weighted(case)
    real["logits"][:, 4] = -np.inf
    if "labels" in real:
        real["labels"][:, 4] = 0
    gradient = check_no_nan(case, real, rest)
    assert not np.any(gradient["logits"][:, 4])


@each_case(impossible, once=True)
def test_impossible_label_has_no_nan(case):
    real, rest = weighted(case)
    labels = np.asarray({**real, **rest}["labels"][1])
    label = int(labels) if labels.ndim == 0 else int(np.argmax(labels))
    real["logits"][1, label] = -np.inf
    check_no_nan(case, real, rest)


@each_case(
    lambda case: (
        case.lead == "logits"
        and not case.class_inputs
        and case.independent
        and case.core_rank("logits") == 0
    )
)
def test_certain_logits_have_no_nan(case):
    real, rest = weighted(case)
    inf = np.inf
    real["logits"] = np.float32([inf, -inf, inf, -inf, -inf, inf])
    check_no_nan(case, real, rest)


@functools.cache
def value_and_derivatives(case):
    @jax.jit
    def run(real, rest, direction):
        def loss(real):
            return case({**real, **rest})

        value, pull_back = jax.vjp(loss, real)
        # What all examples share takes the sum of their slopes: of inf and -inf, NaN.
        # So the tangents are of one argument at a time.
        tangent = {
            n: jax.jvp(lambda x, n=n: loss({**real, n: x}), (real[n],), (direction[n],))
            for n in real
        }
        return value, pull_back(jnp.ones_like(value))[0], tangent

    return run


def check_no_nan(case, real, rest):
    """The value is the definition's, and no derivative is NaN; the gradient."""
    expected = case.expected(
        {n: x for n, x in {**real, **rest}.items() if n != "weights"}
    )
    assert not np.isnan(expected).any()
    run = value_and_derivatives(case)
    found = run(real, rest, tangents(real))
    value, gradient, tangent = jax.tree.map(np.asarray, found)
    assert_close(value, np.float32(expected * WEIGHTS))
    own = {n: x for n, x in gradient.items() if n in {*case.inputs, "weights"}}
    for leaf in jax.tree.leaves((own, tangent)):
        assert not np.isnan(leaf).any()
    return gradient


FLAT = [0, 0]  # by the scores and by the targets
AT_INFINITY = [
    *(
        (loss, (sign * np.inf, sign), 0, FLAT)
        for loss in (
            jl.hinge_loss,
            jl.squared_hinge_loss,
            jl.soft_margin_loss,
            jl.perceptron_loss,
        )
        for sign in (1.0, -1.0)
    ),
    # exp(p) - t p, and p - t log p.
    (jl.poisson_nll_loss, (-np.inf, 0.0), 0, [0, np.inf]),
    (
        lambda p, t: jl.poisson_nll_loss(p, t, log_input=False),
        (np.inf, 0.0),
        np.inf,
        [1, -np.inf],
    ),
    # (2 - alpha)/alpha (-1) below alpha = 0, with the slope 2/alpha² in alpha.
    *(
        (lambda e, alpha: jl.robust_loss(e, alpha=alpha), (np.inf, alpha), *truth)
        for alpha, *truth in ((-1.0, 3, [0, 2]), (-4.0, 1.5, [0, 0.125]))
    ),
    (lambda e: jl.robust_loss(e, alpha=0.0), (np.inf,), np.inf, [0]),
    (lambda e: jl.robust_loss(e, alpha=0.5), (-np.inf,), np.inf, [0]),
    (lambda e: jl.robust_loss(e, alpha=-np.inf), (-np.inf,), 1, [0]),
]


@pytest.mark.parametrize(("loss", "arguments", "value", "slopes"), AT_INFINITY)
def test_infinite_inputs_have_the_limits(loss, arguments, value, slopes):
    every = tuple(range(len(arguments)))
    with jax.debug_nans(False):
        found = jax.jit(jax.value_and_grad(loss, every))(*arguments)
    np.testing.assert_allclose(found[0], value, rtol=1e-6)
    np.testing.assert_allclose(found[1], slopes, rtol=1e-6, atol=1e-18)


@each_case()
def test_debug_nans_finds_nothing_to_report(case):
    with jax.debug_nans(True):
        found = measured(case, *weighted(case), KEEP)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        (jl.softmax_cross_entropy_with_integer_labels, [0, 1]),
        (jl.softmax_focal_loss, [0, 1]),
        (jl.generalized_cross_entropy, [0, 1]),
        (jl.softmax_cross_entropy, [[0.5, 0.0, 0.5], [1.0, 0.0, 0.0]]),
        (jl.poly_loss_cross_entropy, [[0.5, 0.0, 0.5], [1.0, 0.0, 0.0]]),
        (jl.ranking_softmax_loss, [[0.5, 0.0, 0.5], [1.0, 0.0, 0.0]]),
    ],
)
def test_debug_nans_passes_an_impossible_class_without_jit(loss, labels):
    logits = jnp.array([[1.0, -jnp.inf, 0.5], [0.0, 1.0, 2.0]])
    with jax.debug_nans(True):
        gradient = jax.grad(lambda x: jnp.sum(loss(x, jnp.array(labels))))(logits)
    assert np.isfinite(gradient).all()


STAND_FOR_ALL = {"huber_loss", "softmax_cross_entropy", "nll_loss"}


@each_case(lambda case: case.id in STAND_FOR_ALL)
def test_nan_under_a_mask_passes_debug_nans(case):
    real, rest = weighted(case)
    real[case.lead][1] = np.nan

    with jax.debug_nans(True):
        measured(case, real, rest, KEEP)


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, y: jl.softmax_cross_entropy_with_integer_labels(2 * x, y),
        lambda x, y: jl.softmax_cross_entropy(2 * x, jax.nn.one_hot(y, 3)),
        lambda x, y: jl.softmax_focal_loss(2 * x, y),
        lambda x, y: jl.linear_cross_entropy(x, 2 * jnp.eye(3), y),
        lambda x, y: jl.info_nce_loss(x, 2 * jnp.eye(3)[:2], temperature=1.0),
    ],
    ids=["integer", "dense", "focal", "linear", "pairs"],
)
@pytest.mark.parametrize("logits", [[3e38, 3e38, 3e38], [0.0, 3e38, 0.0]])
def test_logits_that_overflow_have_no_loss(loss, logits):
    """Infinite logits are not taken for equal ones, whose difference is 0."""
    found = loss(jnp.array([logits, [0.0, 0.0, 0.0]]), jnp.array([1, 1]))
    assert jnp.isnan(found[0])
    assert jnp.isfinite(found[1])

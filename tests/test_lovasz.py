"""The Lovász losses: accuracy, ranks that tie, pixels and classes that do not count."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases.segmentation import LABELS, LOGITS, PIXEL_WEIGHTS, lovasz_softmax
from jax.experimental import checkify
from mpmath import mp, mpf

import jaxloss as jl

pytestmark = pytest.mark.any_program


@jax.jit
def value_and_gradient(logits, labels):
    value, pull_back = jax.vjp(lambda x: jl.lovasz_softmax_loss(x, labels), logits)
    return value, pull_back(jnp.ones_like(value))[0]


def differences(order, region):
    """J_k - J_(k-1) for pixels in that order, as fractions."""
    size, wrong, outside = int(sum(region)), 0, 0
    before, steps = Fraction(0), []
    for i in order:
        wrong, outside = wrong + 1, outside + (not region[i])
        index = Fraction(wrong, size + outside)
        steps.append(index - before)
        before = index
    return steps


def exact(logits, labels):
    """Loss and gradient of one image with 60 digits, over the present classes."""
    exps = [[mp.exp(mpf(float(x))) for x in row] for row in logits]
    p = [[x / sum(row) for x in row] for row in exps]
    present = sorted(set(labels.tolist()))
    loss, slope = mpf(0), [[mpf(0)] * len(row) for row in p]
    for c in present:
        region = [y == c for y in labels]
        errors = [
            1 - row[c] if own else row[c] for row, own in zip(p, region, strict=True)
        ]
        order = sorted(range(len(p)), key=lambda i: -errors[i])
        for i, step in zip(order, differences(order, region), strict=True):
            step = mpf(step.numerator) / step.denominator / len(present)
            loss += step * errors[i]
            slope[i][c] += -step if region[i] else step
    gradient = []
    for row, h in zip(p, slope, strict=True):
        mean = sum(x * a for x, a in zip(row, h, strict=True))
        gradient.append([x * (a - mean) for x, a in zip(row, h, strict=True)])
    return loss, gradient


@pytest.mark.parametrize("lead", [0.0, 3.0, 20.0, 60.0])
def test_value_and_gradient_are_accurate_also_for_sure_pixels(lead):
    draw = np.random.default_rng(0)
    logits = np.float32(draw.normal(size=(3, 40, 5)))
    labels = draw.integers(0, 4, (3, 40))
    logits += np.float32(lead) * np.eye(5, dtype=np.float32)[labels]
    values, gradients = map(np.asarray, value_and_gradient(logits, labels))
    with mp.workdps(60):
        for i in range(3):
            loss, gradient = exact(logits[i], labels[i])
            assert abs(mpf(float(values[i])) / loss - 1) < 1e-5
            for j, k in np.ndindex(40, 5):
                true, got = gradient[j][k], mpf(float(gradients[i, j, k]))
                assert abs(got - true) < 2e-5 * abs(true), (i, j, k)


def test_hard_predictions_have_the_jaccard_loss():
    draw = np.random.default_rng(1)
    labels, guessed = draw.integers(0, 3, (2, 1, 50))
    sure = np.where(np.eye(3)[guessed] == 1, 200.0, -200.0)
    loss = jl.lovasz_softmax_loss(sure, labels, reduction="none")[0]
    for c in range(3):
        both = np.sum((labels == c) & (guessed == c))
        either = np.sum((labels == c) | (guessed == c))
        np.testing.assert_allclose(loss[c], 1 - both / either, rtol=1e-6)


def test_differences_of_large_images_keep_their_digits():
    """A pixel's step of 1e-6 is not the difference of two numbers near 1."""
    count = 1 << 16
    logits = np.random.default_rng(2).normal(size=(1, count)).astype(np.float32)
    labels = (np.arange(count) % 3 == 0).astype(np.int32)[None]
    slope = jax.jit(jax.grad(lambda x: jl.lovasz_hinge_loss(x, labels)[0]))(logits)[0]
    errors = 1 - logits[0].astype(np.float64) * (2 * labels[0] - 1)
    order = np.argsort(-errors.astype(np.float32), kind="stable")
    region = labels[0][order] == 1
    size, hits, misses = region.sum(), np.cumsum(region), np.cumsum(~region)
    union = size + misses
    # In integers: 1 / U_k within the region, (G - F_k) / (U_k U_(k-1)) outside.
    steps = np.where(region, 1 / union, (size - hits) / (union * (union - 1.0)))
    expected = np.where(errors[order] > 0, steps, 0) * np.where(region, -1, 1)
    np.testing.assert_allclose(np.asarray(slope)[order], expected, rtol=2e-6)


def test_equal_errors_have_one_value_and_rank_by_place():
    """With three equal errors the steps are those of the pixels as they stand."""
    labels = np.array([[1, 0, 1]])
    loss = jl.lovasz_hinge_loss(jnp.zeros((1, 3)), labels)
    np.testing.assert_allclose(loss, 1.0)
    slope = jax.grad(lambda x: jl.lovasz_hinge_loss(x, labels)[0])(jnp.zeros((1, 3)))
    steps = differences([0, 1, 2], [True, False, True])
    np.testing.assert_allclose(
        slope[0], np.float64(steps) * np.array([-1, 1, -1]), rtol=1e-6
    )


def test_a_weight_of_k_is_a_pixel_repeated_k_times():
    draw = np.random.default_rng(3)
    logits = np.float32(draw.normal(size=(1, 7, 3)))
    labels, times = draw.integers(0, 3, (1, 7)), np.array([1, 3, 0, 2, 1, 4, 2])
    repeated = np.repeat(logits, times, axis=1), np.repeat(labels, times, axis=1)
    for reduction in ("none", "mean", "sum"):
        np.testing.assert_allclose(
            jl.lovasz_softmax_loss(logits, labels, weights=times, reduction=reduction),
            jl.lovasz_softmax_loss(*repeated, reduction=reduction),
            rtol=1e-6,
        )
    x, y = logits[..., 0], labels == 1
    np.testing.assert_allclose(
        jl.lovasz_hinge_loss(x, y, weights=times),
        jl.lovasz_hinge_loss(np.repeat(x, times, 1), np.repeat(y, times, 1)),
        rtol=1e-6,
    )


def test_excluded_pixels_may_hold_anything_and_have_no_gradient():
    keep = np.random.default_rng(4).random(LABELS.shape) < 0.6
    keep[2] = False
    clean = np.float32(LOGITS)
    spoiled = np.where(keep[..., None], clean, np.float32(np.nan))
    wrong = np.where(keep, LABELS, -9)

    @jax.jit
    def run(logits, labels, where, weights):
        def loss(x, w):
            return jl.lovasz_softmax_loss(x, labels, where=where, weights=w)

        value, pull_back = jax.vjp(loss, logits, weights)
        return value, *pull_back(jnp.ones_like(value))

    ones = np.ones(keep.shape, np.float32)
    expected = lovasz_softmax(LOGITS, LABELS, weights=keep.astype(float))
    assert expected[2] == 0
    every = np.ones(keep.shape, bool)
    for x, y, where, weights in (
        (spoiled, wrong, keep, ones),
        (spoiled, wrong, every, np.float32(keep)),
        (clean, LABELS, every, np.float32(keep)),
        (spoiled, LABELS, keep, np.where(keep, 1, np.nan).astype(np.float32)),
    ):
        value, slope, of_weights = map(np.asarray, run(x, y, where, weights))
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7)
        assert not np.any(slope[~keep])
        assert np.isfinite(slope).all()
        assert np.isfinite(of_weights).all()


def test_masked_classes_of_a_pixel_are_impossible_there_and_do_not_count():
    mask = np.ones(LOGITS.shape, bool)
    mask[..., 3] = False
    spoiled = np.where(mask, LOGITS, np.nan)
    for reduction in ("mean", "none"):
        found = jl.lovasz_softmax_loss(
            spoiled, LABELS, where=mask, classes="all", reduction=reduction
        )
        expected = lovasz_softmax(
            LOGITS[..., :3], LABELS, classes="all", reduction=reduction
        )
        found = found[:, :3] if reduction == "none" else found
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_classes_may_stand_on_any_axis_but_the_first():
    for reduction in ("mean", "none"):
        plain = jl.lovasz_softmax_loss(
            LOGITS, LABELS, weights=PIXEL_WEIGHTS, reduction=reduction
        )
        moved = jl.lovasz_softmax_loss(
            np.moveaxis(LOGITS, -1, 1),
            LABELS,
            axis=1,
            weights=PIXEL_WEIGHTS,
            reduction=reduction,
        )
        np.testing.assert_allclose(moved, plain, rtol=1e-6)
    slope = jax.grad(lambda x: jl.lovasz_softmax_loss(x, LABELS, axis=1).sum())
    expected = value_and_gradient(np.float32(LOGITS), LABELS)[1]
    found = jax.jit(slope)(np.float32(np.moveaxis(LOGITS, -1, 1)))
    np.testing.assert_allclose(
        np.moveaxis(found, 1, -1), expected, rtol=1e-5, atol=1e-7
    )


def test_absent_classes_count_by_their_largest_error_if_asked_for():
    logits = jnp.log(jnp.array([[[0.7, 0.2, 0.1], [0.5, 0.2, 0.3]]]))
    labels = jnp.array([[0, 0]])
    every = jl.lovasz_softmax_loss(logits, labels, classes="all", reduction="none")
    np.testing.assert_allclose(every[0], [0.4, 0.2, 0.3], rtol=1e-6)
    np.testing.assert_allclose(
        jl.lovasz_softmax_loss(logits, labels, classes=(0, 2)), [0.35], rtol=1e-6
    )
    np.testing.assert_allclose(jl.lovasz_softmax_loss(logits, labels), [0.4], rtol=1e-6)


def test_infinite_logits():
    inf = np.inf
    logits = np.float32([[[0.0, 1.0, -inf], [-inf, 2.0, 0.5], [1.0, 0.0, -inf]]])
    loss, slope = value_and_gradient(logits, np.array([[0, 0, 1]]))
    assert np.isfinite(loss).all()
    assert np.isfinite(slope).all()
    assert not np.any(slope[np.isneginf(logits)])

    x, y = np.float32([[inf, -inf, 0.5], [-inf, 1, 2], [inf, inf, 1]]), [1, 0, 0]
    value, pull_back = jax.vjp(lambda x: jl.lovasz_hinge_loss(x, np.array([y] * 3)), x)
    np.testing.assert_allclose(value, [0.75, inf, inf])
    assert np.isfinite(pull_back(jnp.ones(3))[0]).all()
    nothing = jl.lovasz_hinge_loss(x[2:], np.zeros((1, 3)))
    np.testing.assert_array_equal(nothing, [inf])


def test_nan_that_counts_makes_value_and_gradient_nan():
    """Also where it ranks behind the whole region, and would add nothing."""
    x, y = (
        np.float32([[np.nan, 0.5, -0.3], [0.1, 0.5, -0.3]]),
        np.array([[0, 1, 0]] * 2),
    )
    value, pull_back = jax.vjp(lambda x: jl.lovasz_hinge_loss(x, y), x)
    slope = pull_back(jnp.ones(2))[0]
    np.testing.assert_array_equal(np.isnan(value), [True, False])
    np.testing.assert_array_equal(np.isnan(slope).all(1), [True, False])
    assert np.isfinite(slope[1]).all()
    for weights in ([1.0, 1.0, np.nan], [np.nan, 1.0, 1.0], [1.0, np.nan, 1.0]):
        for labels in (y[1:], np.zeros((1, 3), int)):
            found = jl.lovasz_hinge_loss(x[1:], labels, weights=np.float32([weights]))
            assert np.isnan(found)
    excluded = jl.lovasz_hinge_loss(x, y, weights=np.float32([[0, 1, 1]] * 2))
    np.testing.assert_allclose(excluded, [0.6, 0.6], rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_pixel_spoils_every_class_that_it_counts_for(value):
    logits = np.float32(np.random.default_rng(5).normal(size=(2, 4, 3)))
    labels = np.array([[0, 1, 2, 0]] * 2)
    logits[0, 2, 1] = value
    mask = np.ones((2, 4, 3), bool)
    mask[0, 2, 0] = False  # the pixel does not count for the first class
    for where, spoiled in ((None, [True] * 3), (mask, [False, True, True])):
        found = jl.lovasz_softmax_loss(logits, labels, where=where, reduction="none")
        np.testing.assert_array_equal(np.isnan(found), [spoiled, [False] * 3])
    for classes in ("present", "all", (0,)):
        value, slope = jax.jit(
            jax.value_and_grad(
                lambda x, classes=classes: jl.lovasz_softmax_loss(
                    x, labels, classes=classes
                ).sum()
            )
        )(logits)
        assert np.isnan(value)
        assert np.isnan(slope[0]).any()
        assert np.isfinite(slope[1]).all()
    weights = np.ones((2, 4), np.float32)
    weights[0, 1] = np.nan
    for reduction in ("none", "mean", "sum"):
        found = jl.lovasz_softmax_loss(
            logits[::-1], labels, weights=weights, reduction=reduction
        )
        assert np.isnan(found[0]).all()


def test_hinge_of_an_image_without_region_is_its_largest_error():
    loss = jl.lovasz_hinge_loss([[0.5, -0.25, -3.0]], [[0, 0, 0]])
    np.testing.assert_allclose(loss, [1.5])


def test_empty_images_and_batches():
    assert jl.lovasz_softmax_loss(np.zeros((0, 4, 3)), np.zeros((0, 4), int)).shape == (
        0,
    )
    empty = jl.lovasz_softmax_loss(np.zeros((2, 0, 3)), np.zeros((2, 0), int))
    np.testing.assert_array_equal(empty, [0, 0])
    np.testing.assert_array_equal(
        jl.lovasz_hinge_loss(np.zeros((2, 0)), np.zeros((2, 0))), [0, 0]
    )
    for reduction in ("none", "sum", "mean"):
        assert jl.lovasz_hinge_loss([[1.0]], [[1]], reduction=reduction).shape == (1,)


def test_labels_out_of_range_spoil_their_own_image():
    labels = np.array(LABELS)
    labels[1, 0, 0] = 4
    loss = jl.lovasz_softmax_loss(LOGITS, labels)
    np.testing.assert_array_equal(np.isnan(loss), np.arange(6) == 1)
    check = checkify.checkify(jl.lovasz_softmax_loss)
    assert "`labels` must be in [0, 4)" in check(jnp.array(LOGITS), labels)[0].get()
    loss = jl.lovasz_hinge_loss(jnp.ones((2, 2)), [[1, 0], [2, 0]])
    np.testing.assert_array_equal(np.isnan(loss), [False, True])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"axis": 0}, ValueError, r"`axis` must not be the first"),
        ({"classes": "some"}, ValueError, r"`classes` must be 'present', 'all' or"),
        ({"classes": (0, 3)}, ValueError, r"`classes` must be ids in \[0, 3\)"),
        ({"classes": ()}, ValueError, r"`classes` must be ids in \[0, 3\)"),
        ({"classes": (0.5,)}, TypeError, r"`classes` must be ints, got 0.5"),
        ({"labels": [[0, 1, 2]]}, ValueError, r"`labels` must broadcast"),
        ({"reduction": "max"}, ValueError, r"`reduction` must be one of"),
    ],
)
def test_wrong_arguments_are_named(change, error, message):
    arguments = {"logits": np.zeros((1, 2, 3), np.float32), "labels": [[0, 1]]}
    with pytest.raises(error, match=message):
        jl.lovasz_softmax_loss(**{**arguments, **change})


@pytest.mark.optimised
def test_memory_is_a_few_numbers_per_pixel_and_one_array_for_the_gradient():
    pixels, classes = 2 * 64 * 64, 64
    logits = jax.ShapeDtypeStruct((2, 64, 64, classes), jnp.float32)
    labels = jax.ShapeDtypeStruct((2, 64, 64), jnp.int32)

    def loss(x, y):
        return jl.lovasz_softmax_loss(x, y).sum()

    for function, arrays in ((loss, 0), (jax.value_and_grad(loss), 1)):
        compiled = jax.jit(function).lower(logits, labels).compile()
        memory = compiled.memory_analysis().temp_size_in_bytes
        assert memory < 4 * pixels * (arrays * classes + 24), math.ceil(memory / pixels)

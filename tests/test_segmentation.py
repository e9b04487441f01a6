"""What the segmentation losses promise beyond the common rules: pixels and classes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify
from mpmath import mp, mpf
from tier import first
from ulp import ulp

import jaxloss as jl

pytestmark = pytest.mark.any_program

LOSSES = {
    "dice": (jl.dice_loss, {"alpha": 0.5, "beta": 0.5}),
    "tversky": (functools.partial(jl.tversky_loss, alpha=0.3, beta=0.8), None),
    "jaccard": (jl.jaccard_loss, {"alpha": 1.0, "beta": 1.0}),
    "focal": (functools.partial(jl.focal_tversky_loss, alpha=0.3, beta=0.8), None),
}
COSTS = {
    name: costs or {"alpha": 0.3, "beta": 0.8} for name, (_, costs) in LOSSES.items()
}
GAMMAS = {"focal": 0.75}
every_loss = pytest.mark.parametrize("name", LOSSES)

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, 3, 5, 3)).astype(np.float32) * 2
LABELS = RNG.integers(0, 3, (4, 3, 5))
TARGETS = np.eye(3, dtype=np.float32)[LABELS]
WEIGHTS = RNG.integers(0, 4, (4, 3, 5)).astype(np.float32)
WHERE = RNG.uniform(size=(4, 3, 5)) < 0.6
GARBAGE = np.resize([np.nan, np.inf, -np.inf], LOGITS.shape).astype(np.float32)


def softmax(logits):
    e = np.exp(logits.astype(float))
    return e / e.sum(-1, keepdims=True)


def of_pixels(p, t, smooth=1.0, alpha=0.5, beta=0.5, gamma=1.0):
    """The losses [C] of an image that is a list of pixels [P, C], by the definition."""
    hit = np.sum(p * t, 0)
    pixels = hit + alpha * np.sum(p * (1 - t), 0) + beta * np.sum(t * (1 - p), 0)
    return (1 - (hit + smooth) / (pixels + smooth)) ** gamma


def by_images(name, choose, **parameters):
    """The losses [N, C] of the pixels that `choose(n)` picks in each image."""
    kwargs = {**COSTS[name], "gamma": GAMMAS.get(name, 1.0), **parameters}
    images = [
        of_pixels(
            softmax(x.reshape(-1, 3)[choose(n)]), t.reshape(-1, 3)[choose(n)], **kwargs
        )
        for n, (x, t) in enumerate(zip(LOGITS, TARGETS, strict=True))
    ]
    return np.array(images)


# --------------------------------------------------------------- pixels that count


@every_loss
def test_masked_pixels_are_as_if_they_had_never_been(name):
    loss, _ = LOSSES[name]
    where = WHERE.copy()
    where[2] = False
    keep = where[..., None]
    inputs = [np.where(keep, x, GARBAGE) for x in (LOGITS, TARGETS)]
    inputs.append(np.where(where, np.ones_like(WEIGHTS), GARBAGE[..., 0]))

    @jax.jit
    def measured(*inputs):
        def value(predictions, targets, weights):
            return loss(
                predictions, targets, where=where, weights=weights, reduction="none"
            )

        result, pull_back = jax.vjp(value, *inputs)
        tangent = jax.jvp(value, inputs, tuple(map(jnp.ones_like, inputs)))[1]
        return result, pull_back(jnp.ones_like(result)), tangent

    result, gradients, tangent = measured(*inputs)
    expected = by_images(name, lambda n: where[n].ravel())
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    for gradient in gradients:
        assert np.isfinite(gradient).all()
        assert not np.any(gradient[~where])
        assert np.any(gradient[where])
    assert np.isfinite(tangent).all()
    total = sum(np.sum(gradient) for gradient in gradients)
    np.testing.assert_allclose(np.sum(tangent), total, rtol=1e-3, atol=1e-5)
    mean = loss(*inputs[:2], where=where)
    np.testing.assert_allclose(mean, expected.mean(-1), rtol=1e-5, atol=1e-6)


@every_loss
def test_a_weight_counts_a_pixel_as_often_as_it_says(name):
    loss, _ = LOSSES[name]

    def often(n):
        return np.repeat(np.arange(15), WEIGHTS[n].astype(int).ravel())

    value = loss(LOGITS, TARGETS, weights=WEIGHTS, reduction="none", smooth=0.3)
    expected = by_images(name, often, smooth=0.3)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    # One weight for each image, and lists.
    scale = np.array([2, 1, 3, 1]).reshape(4, 1, 1)
    value = loss(
        LOGITS.tolist(), TARGETS.tolist(), weights=scale.tolist(), reduction="none"
    )
    expected = by_images(name, lambda n: np.repeat(np.arange(15), scale.ravel()[n]))
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@every_loss
def test_dropped_classes_are_as_if_they_had_never_been(name):
    rng = np.random.default_rng(0)
    loss, _ = LOSSES[name]
    two = rng.normal(size=(4, 3, 5, 2)).astype(np.float32)
    hot = np.eye(2, dtype=np.float32)[rng.integers(0, 2, (4, 3, 5))]
    where = np.broadcast_to([True, False, True], LOGITS.shape)
    logits, targets = np.full_like(LOGITS, np.nan), np.full_like(TARGETS, np.nan)
    logits[..., [0, 2]], targets[..., [0, 2]] = two, hot
    for reduction in ("mean", "sum"):
        value = loss(logits, targets, where=where, reduction=reduction)
        expected = loss(two, hot, reduction=reduction)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
    none = loss(logits, targets, where=where, reduction="none")
    assert not np.any(none[:, 1])
    gradient = jax.grad(lambda x: jnp.sum(loss(x, targets, where=where)))(logits)
    assert np.isfinite(gradient).all()
    assert not np.any(gradient[~where])
    # A mask with a class axis of size 1 drops whole pixels.
    np.testing.assert_allclose(
        loss(LOGITS, TARGETS, where=WHERE[..., None]),
        loss(LOGITS, TARGETS, where=WHERE),
    )


@every_loss
@pytest.mark.parametrize("smooth", first([0.0, 1.0]))
@pytest.mark.parametrize("apply_softmax", [True, False])
def test_nothing_to_find_has_a_finite_loss_and_gradient(name, smooth, apply_softmax):
    rng = np.random.default_rng(0)
    loss, _ = LOSSES[name]
    empty = np.zeros((2, 3, 5, 1), np.float32)
    predictions = np.where(
        np.arange(2).reshape(2, 1, 1, 1) == 0, 0, rng.uniform(size=empty.shape)
    )
    predictions = np.float32(predictions if not apply_softmax else predictions - 3)

    def total(predictions, targets, smooth, where):
        return jnp.sum(
            loss(
                predictions,
                targets,
                smooth=smooth,
                apply_softmax=apply_softmax,
                where=where,
            )
        )

    everything = np.ones(empty.shape[:-1], bool)
    for where in (everything, ~everything):
        for order in (jax.value_and_grad(total, (0, 1, 2)), jax.hessian(total)):
            found = jax.jit(order)(predictions, empty, smooth, where)
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert total(predictions, empty, smooth, ~everything) == 0
    if not apply_softmax:
        # Nothing predicted and nothing there: nothing is wrong.
        assert total(predictions[:1], empty[:1], smooth, everything[:1]) == 0


# ------------------------------------------------------------ classes and reduction


def test_reduction_runs_over_the_classes():
    none = np.asarray(jl.dice_loss(LOGITS, TARGETS, reduction="none"))
    np.testing.assert_allclose(
        none, by_images("dice", lambda n: slice(None)), rtol=1e-5
    )
    np.testing.assert_allclose(jl.dice_loss(LOGITS, TARGETS), none.mean(1), rtol=1e-6)
    total = jl.dice_loss(LOGITS, TARGETS, reduction="sum")
    np.testing.assert_allclose(total, none.sum(1), rtol=1e-6)
    weights = np.array([0.2, 1.0, 2.5], np.float32)
    weighted = jl.dice_loss(LOGITS, TARGETS, class_weights=weights)
    np.testing.assert_allclose(weighted, (none * weights).mean(1), rtol=1e-6)
    rest = jl.dice_loss(LOGITS, TARGETS, class_weights=weights, ignore_background=True)
    np.testing.assert_allclose(rest, (none * weights)[:, 1:].mean(1), rtol=1e-6)
    # A single class is no background.
    one = jl.dice_loss(LOGITS[..., :1], TARGETS[..., :1], ignore_background=True)
    np.testing.assert_array_equal(one, jl.dice_loss(LOGITS[..., :1], TARGETS[..., :1]))


def test_axis_says_how_far_a_region_extends():
    p, t = softmax(LOGITS), TARGETS
    batch = jl.dice_loss(LOGITS, t, axis=(0, 1, 2), reduction="none")
    expected = of_pixels(p.reshape(-1, 3), t.reshape(-1, 3))
    np.testing.assert_allclose(batch, expected, rtol=1e-5)
    rows = jl.dice_loss(LOGITS, t, axis=[-2], reduction="none")
    assert rows.shape == (4, 3, 3)
    np.testing.assert_allclose(rows[1, 2], of_pixels(p[1, 2], t[1, 2]), rtol=1e-5)
    pixels = jl.dice_loss(LOGITS, t, axis=(), reduction="none")
    np.testing.assert_allclose(
        pixels[3, 1, 4], of_pixels(p[3, 1, 4:5], t[3, 1, 4:5]), rtol=1e-5
    )


def test_parameters_may_differ_between_classes_and_images():
    alpha, beta = np.float32([0.2, 0.5, 0.9]), np.float32([[0.3], [0.6], [1.0], [0.1]])
    smooth = np.linspace(0.1, 1.2, 12, dtype=np.float32).reshape(4, 3)
    found = jl.tversky_loss(
        LOGITS, TARGETS, alpha=alpha, beta=beta, smooth=smooth, reduction="none"
    )
    for n, c in np.ndindex(4, 3):
        pixels = softmax(LOGITS[n]).reshape(-1, 3), TARGETS[n].reshape(-1, 3)
        one = of_pixels(*pixels, smooth[n, c], alpha[c], beta[n, 0])[c]
        np.testing.assert_allclose(found[n, c], one, rtol=1e-5)


def test_losses_agree_where_their_definitions_do():
    dice = jl.dice_loss(LOGITS, TARGETS, alpha=0.2, beta=0.7)
    np.testing.assert_array_equal(
        jl.tversky_loss(LOGITS, TARGETS, alpha=0.2, beta=0.7), dice
    )
    whole = jl.tversky_loss(LOGITS, TARGETS, alpha=1.0, beta=1.0)
    np.testing.assert_array_equal(jl.jaccard_loss(LOGITS, TARGETS), whole)
    plain = jl.focal_tversky_loss(LOGITS, TARGETS, alpha=0.2, beta=0.7, gamma=1.0)
    np.testing.assert_allclose(plain, dice, rtol=1e-6)
    # Two logits and the sigmoid of their difference.
    two = np.concatenate([np.zeros_like(LOGITS[..., :1]), LOGITS[..., :1]], -1)
    hot = np.concatenate([1 - TARGETS[..., :1], TARGETS[..., :1]], -1)
    np.testing.assert_allclose(
        jl.dice_loss(two, hot, ignore_background=True),
        jl.binary_dice_loss(LOGITS[..., 0], TARGETS[..., 0]),
        rtol=1e-6,
    )


@pytest.mark.parametrize("gamma", [0.0, 0.75, 1.0, 2.0])
def test_focal_power_at_a_loss_of_zero(gamma):
    p = np.zeros((1, 2, 1), np.float32)

    def loss(p, gamma):
        return jl.focal_tversky_loss(p, p * 0, gamma=gamma, apply_softmax=False)[0]

    assert loss(p, gamma) == (1 if gamma == 0 else 0)
    of_p, of_gamma = jax.grad(loss, (0, 1))(p, gamma)
    # alpha/(0 + smooth) where the power is the identity, else the subgradient 0.
    np.testing.assert_allclose(of_p, 0.5 if gamma == 1 else 0)
    assert of_gamma == 0


# --------------------------------------------------------------------- generalized


def test_generalized_loss_weighs_classes_by_their_size_in_the_batch():
    where = WHERE.copy()
    where[1] = False
    times = (WEIGHTS * where).astype(int).reshape(4, -1)
    losses = by_images("dice", lambda n: np.repeat(np.arange(15), times[n]))
    size = np.sum(TARGETS * (WEIGHTS * where)[..., None], (0, 1, 2))
    share = (1 / (size**2 + 1e-7)) / np.sum(1 / (size**2 + 1e-7))
    spoiled = np.where(where[..., None], LOGITS, np.nan)
    keywords = {"where": where, "weights": WEIGHTS}
    none = jl.multiclass_generalized_dice_loss(
        spoiled, TARGETS, **keywords, reduction="none"
    )
    np.testing.assert_allclose(none, losses * share * 3, rtol=1e-5, atol=1e-7)
    # The image that is masked is not in the mean, nor is one without weight.
    others = np.asarray(none)[[0, 2, 3]]
    mean = jl.multiclass_generalized_dice_loss(spoiled, TARGETS, **keywords)
    np.testing.assert_allclose(mean, others.mean(), rtol=1e-5)
    front = jl.multiclass_generalized_dice_loss(
        spoiled, TARGETS, **keywords, ignore_background=True
    )
    np.testing.assert_allclose(front, others[:, 1:].mean(), rtol=1e-5)
    weightless = jl.multiclass_generalized_dice_loss(
        LOGITS, TARGETS, weights=WEIGHTS * where
    )
    np.testing.assert_allclose(weightless, mean, rtol=1e-5)


def test_generalized_loss_without_a_class_or_an_image():
    where = np.broadcast_to([True, False, True], LOGITS.shape)
    two = jl.multiclass_generalized_dice_loss(LOGITS[..., ::2], TARGETS[..., ::2])
    # Whoever drops a class drops it from the softmax, the sizes and the mean.
    np.testing.assert_allclose(
        jl.multiclass_generalized_dice_loss(LOGITS, TARGETS, where=where),
        two,
        rtol=1e-5,
    )
    loss = jl.multiclass_generalized_dice_loss
    for nothing in (np.zeros(WHERE.shape, bool), None):
        x = LOGITS if nothing is not None else LOGITS[:0]
        value, gradient = jax.value_and_grad(loss)(x, TARGETS[: len(x)], where=nothing)
        assert value == 0
        assert not np.any(gradient)


# ------------------------------------------------------- shapes, probabilities, jit


def test_one_channel_maps_under_jit():
    rng = np.random.default_rng(0)
    p = np.float32(rng.uniform(size=(2, 4, 4, 1)))
    t = (p > 0.4).astype(np.float32)
    expected = [
        of_pixels(x.reshape(-1, 1), y.reshape(-1, 1))[0]
        for x, y in zip(p, t, strict=True)
    ]
    for loss in (
        functools.partial(jl.dice_loss, apply_softmax=False),
        functools.partial(jl.binary_dice_loss, apply_sigmoid=False),
    ):
        np.testing.assert_allclose(jax.jit(loss)(p, t), expected, rtol=1e-5)
    flat = jax.jit(functools.partial(jl.binary_dice_loss, apply_sigmoid=False))
    np.testing.assert_allclose(flat(p[..., 0], t[..., 0]), expected, rtol=1e-5)
    logits = np.log(p / (1 - p))
    for x, y in ((logits, t[..., 0]), (logits[..., 0], t), (logits[..., 0], t[..., 0])):
        np.testing.assert_allclose(jl.binary_dice_loss(x, y), expected, rtol=1e-5)
    np.testing.assert_allclose(jl.dice_loss(logits, t[..., 0]), expected, rtol=1e-5)
    np.testing.assert_allclose(jl.dice_loss(logits[..., 0], t), expected, rtol=1e-5)
    assert jl.binary_dice_loss(logits, t, reduction="none").shape == (2, 1)


def test_probabilities_that_are_none():
    p = softmax(LOGITS).astype(np.float32)
    loss = jax.jit(functools.partial(jl.dice_loss, apply_softmax=False))
    np.testing.assert_allclose(
        loss(p, TARGETS), jl.dice_loss(LOGITS, TARGETS), rtol=1e-5
    )
    checked = checkify.checkify(loss, errors=checkify.user_checks)
    error, value = checked(np.concatenate([p[:2], LOGITS[2:]]), TARGETS)
    np.testing.assert_array_equal(np.isnan(value), [False, False, True, True])
    assert "`predictions` must be probabilities" in (error.get() or "")
    rounded = p + np.float32(1e-6) * (p > 0.5)
    error, value = checked(rounded, TARGETS)
    assert error.get() is None
    assert np.isfinite(value).all()


def test_lists_of_integers_are_logits():
    logits, targets = [[[1, 0], [0, 2]]], [[[1, 0], [0, 1]]]
    expected = jl.dice_loss(np.float32(logits), np.float32(targets))
    np.testing.assert_array_equal(jl.dice_loss(logits, targets), expected)
    expected = jl.binary_dice_loss(np.float32(logits), np.float32(targets))
    np.testing.assert_array_equal(jl.binary_dice_loss(logits, targets), expected)


def test_half_precision_is_computed_in_float32():
    half = jnp.asarray(LOGITS, jnp.bfloat16)
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(jl.dice_loss(x, TARGETS)))(
        half
    )
    assert (value.dtype, gradient.dtype) == (jnp.float32, jnp.bfloat16)
    expected = jnp.sum(jl.dice_loss(half.astype(jnp.float32), TARGETS))
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_messages_name_the_argument():
    with pytest.raises(
        ValueError, match=r"`targets` .* got shape \(4, 3, 5\); .*one_hot"
    ):
        jl.dice_loss(LOGITS, LABELS)
    with pytest.raises(ValueError, match=r"`targets` must broadcast .* predictions"):
        jl.dice_loss(LOGITS, TARGETS[:3])
    with pytest.raises(
        ValueError, match=r"`axis` must not contain the class axis, got -1"
    ):
        jl.dice_loss(LOGITS, TARGETS, axis=-1)
    with pytest.raises(ValueError, match="`smooth` must be in"):
        jl.jaccard_loss(LOGITS, TARGETS, smooth=-1)
    with pytest.raises(ValueError, match="`gamma` must be in"):
        jl.focal_tversky_loss(LOGITS, TARGETS, gamma=-1)
    with pytest.raises(ValueError, match=r"`alpha` must broadcast .* \(4, 3\)"):
        jl.tversky_loss(LOGITS, TARGETS, alpha=np.ones(4))
    with pytest.raises(
        ValueError, match=r"`class_weights` must have one number per class"
    ):
        jl.dice_loss(LOGITS, TARGETS, class_weights=np.ones(2))
    with pytest.raises(ValueError, match="`reduction` must be one of"):
        jl.dice_loss(LOGITS, TARGETS, reduction="max")
    with pytest.raises(ValueError, match=r"`where` must broadcast .* predictions"):
        jl.dice_loss(LOGITS, TARGETS, where=np.ones((4, 3, 5, 2), bool))
    with pytest.raises(TypeError, match="`predictions` must be floating"):
        jl.binary_dice_loss(LABELS, LABELS)


# ----------------------------------------------------------------------- accuracy

# Logits that are right by a wide margin: every probability rounds to 0 or 1.
SURE = (2 * TARGETS - 1) * np.float32(14) + LOGITS / 4


def exact_loss(logits, targets, alpha, beta, c):
    """Class c's loss of an image [P, C] in real arithmetic."""
    hit = extra = missed = mpf(0)
    for x, t in zip(logits, targets, strict=True):
        if len(x) == 1:
            p = 1 / (1 + mp.exp(-x[0]))
            q = 1 / (1 + mp.exp(x[0]))
        else:
            e = [mp.exp(v) for v in x]
            p = e[c] / sum(e)
            q = sum(v for k, v in enumerate(e) if k != c) / sum(e)
        true = mpf(float(t[c]))
        hit, extra, missed = hit + p * true, extra + p * (1 - true), missed + q * true
    wrong = alpha * extra + beta * missed
    return wrong / (hit + wrong + 1)


def exact_pixels(image):
    return [
        [mpf(float(x)) for x in pixel] for pixel in image.reshape(-1, image.shape[-1])
    ]


@pytest.mark.parametrize(
    "logits", [LOGITS, SURE, -SURE], ids=["mixed", "right", "wrong"]
)
@pytest.mark.parametrize("classes", [1, 3])
def test_values_and_slopes_keep_their_digits(logits, classes):
    logits, targets = logits[:2, :2, :3, :classes], TARGETS[:2, :2, :3, :classes]
    alpha, beta = 0.25, 0.75

    @jax.jit
    def measured(logits):
        def loss(x):
            return jl.tversky_loss(x, targets, alpha=alpha, beta=beta, reduction="none")

        return loss(logits), jax.grad(lambda x: jnp.sum(loss(x)[:, 0]))(logits)

    value, gradient = measured(logits)
    gradient = np.asarray(gradient).reshape(2, -1, classes)
    with mp.workdps(80):
        for n in range(2):
            pixels, hot = exact_pixels(logits[n]), targets[n].reshape(-1, classes)
            for c in range(classes):
                true = exact_loss(pixels, hot, alpha, beta, c)
                assert ulp(value[n, c], true, true, true) <= 8
            first = exact_loss(pixels, hot, alpha, beta, 0)
            step = mpf("1e-40")
            for i, pixel in enumerate(pixels):
                slopes = []
                for k in range(classes):
                    moved = [*pixels[:i], list(pixel), *pixels[i + 1 :]]
                    moved[i][k] += step
                    change = exact_loss(moved, hot, alpha, beta, 0) - first
                    slopes.append(change / step)
                # A pixel's slopes add up to 0: each is a difference of the others.
                unit = max(map(abs, slopes))
                for k, true in enumerate(slopes):
                    assert ulp(gradient[n, i, k], true, true, unit) <= 16


def test_soft_labels_near_one_keep_their_digits():
    """Of one pixel, p (1 - t) / (p t + p (1 - t)) is 1 - t."""
    t = np.array([0, 1e-6, 0.3, 0.5, 0.6, 0.999, 1 - 2.0**-24, 1], np.float32)
    p = np.full(t.shape, 0.7, np.float32)
    loss = jl.tversky_loss(
        p[:, None, None],
        t[:, None, None],
        alpha=1.0,
        beta=0.0,
        smooth=0.0,
        apply_softmax=False,
    )
    np.testing.assert_allclose(loss, 1 - t.astype(float), rtol=4 * 2**-23)

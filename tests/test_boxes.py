"""Box losses: their accuracy, what their kinks and special boxes give, and messages."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases.boxes import corners, distance, generalized, shape_term
from mpmath import mp, mpf
from tier import first

import jaxloss as jl

LOSSES = {
    "generalized_box_iou_loss": jl.generalized_box_iou_loss,
    "distance_box_iou_loss": jl.distance_box_iou_loss,
    "complete_box_iou_loss": jl.complete_box_iou_loss,
}
each_loss = pytest.mark.parametrize("name", LOSSES)


@jax.jit
def found(a, b):
    """Values and both gradients of all three losses, in corners."""

    def summed(a, b, loss):
        return jnp.sum(loss(a, b)), loss(a, b)

    return {
        name: jax.grad(lambda a, b, loss=loss: summed(a, b, loss), (0, 1), True)(a, b)
        for name, loss in LOSSES.items()
    }


def pairs():
    """Boxes that overlap in every way, nearly agree, and are of any size and place."""
    draw = np.random.default_rng(0)

    def boxes(n):
        first = draw.normal(size=(n, 2))
        return np.concatenate([first, first + draw.uniform(0.1, 2, (n, 2))], 1)

    a, b = boxes(24), boxes(24)
    near = boxes(12)
    close = near * (1 + draw.choice((1e-6, 1e-4, 1e-2), (12, 1)) * draw.normal(size=4))
    sizes = 10.0 ** np.array([-20, -12, -5, 6, 12, 20])
    scaled, others = (np.concatenate([s * boxes(2) for s in sizes]) for _ in "ab")
    thin = boxes(4) * np.array([1e10, 1e-10, 1e10, 1e-10])
    firsts, seconds = [a, near, scaled, thin], [b, close, others, thin[::-1]]
    return (np.concatenate(x).astype(np.float32) for x in (firsts, seconds))


def test_values_and_gradients_are_accurate():
    boxes, targets = pairs()
    results = jax.tree.map(np.asarray, found(boxes, targets))
    with mp.workdps(60):
        for i, (box, target) in enumerate(zip(boxes, targets, strict=True)):
            given = [mpf(float(x)) for x in (*box, *target)]
            for name, (slopes, values) in results.items():
                if name == "complete_box_iou_loss":
                    continue  # its arctangent has a test of its own
                measure = generalized if name.startswith("gen") else distance

                def of(x, measure=measure):
                    return measure(x[:4], x[4:])

                true = of(given)
                assert abs(mpf(float(values[i])) - true) < 8 * 2**-24 * true, (name, i)
                slope = [derivative(of, given, k) for k in range(8)]
                got = np.concatenate([slopes[0][i], slopes[1][i]])
                error = max(
                    abs(mpf(float(g)) - s) for g, s in zip(got, slope, strict=True)
                )
                assert error < 16 * 2**-24 * max(map(abs, slope)), (name, i)


def derivative(of, point, k):
    """The slope along one coordinate by a difference of definitions."""
    size = max(map(abs, point)) * mpf(10) ** -25
    ahead, behind = list(point), list(point)
    ahead[k] += size
    behind[k] -= size
    return (of(ahead) - of(behind)) / (2 * size)


def test_complete_loss_holds_its_factor_constant():
    boxes, targets = pairs()
    boxes, targets = boxes[:36], targets[:36]  # those whose sides are near 1
    slopes, values = found(boxes, targets)["complete_box_iou_loss"]
    plain, _ = found(boxes, targets)["distance_box_iou_loss"]
    step = 1e-6
    for i, (box, target) in enumerate(zip(boxes, targets, strict=True)):
        pair = np.float64([*box, *target])
        term = shape_term(pair[:4], pair[4:])
        expected = distance(pair[:4], pair[4:]) + term
        np.testing.assert_allclose(values[i], expected, rtol=2e-6)
        # α, from α v with α = 1 beside it.
        alpha = term / (shape_term(pair[:4], pair[4:], 1.0) or 1.0)
        for k in range(8):
            move = step * np.eye(8)[k]
            ahead, behind = pair + move, pair - move
            of_term = shape_term(ahead[:4], ahead[4:], alpha)
            of_term -= shape_term(behind[:4], behind[4:], alpha)
            rest = float(plain[k // 4][i][k % 4])
            np.testing.assert_allclose(
                slopes[k // 4][i][k % 4],
                rest + of_term / (2 * step),
                rtol=1e-4,
                atol=1e-5,
            )


@pytest.mark.exhaustive
def test_factor_is_constant_in_the_second_derivative_too():
    box, target = jnp.array([0.2, 0.1, 2.0, 1.3]), jnp.array([0.0, 0.4, 1.1, 3.0])

    def term(box):
        complete = jl.complete_box_iou_loss(box, target)
        return complete - jl.distance_box_iou_loss(box, target)

    def turn(box):
        width, height = box[2] - box[0], box[3] - box[1]
        angle = jnp.arctan2(1.1, 2.6) - jnp.arctan2(width, height)
        return 4 / math.pi**2 * angle**2

    alpha = term(box) / turn(box)
    found, bend = jax.jit(lambda x: (jax.hessian(term)(x), jax.hessian(turn)(x)))(box)
    np.testing.assert_allclose(found, alpha * bend, rtol=1e-4, atol=1e-5)


EQUAL = {
    "plain": [0.3, 0.1, 2.7, 1.9],
    "point": [0.7, 0.7, 0.7, 0.7],
    "line": [0.7, 0.2, 0.7, 0.9],
    "inverted": [2.0, 1.0, 0.5, 0.3],
    "huge": [-3e38, -3e38, 3e38, 3e38],
    "tiny": [0.0, 0.0, 1e-38, 1e-38],
    "zero": [0.0, 0.0, 0.0, 0.0],
}


@each_loss
@pytest.mark.parametrize("format", first(["cxcywh", "xyxy", "xywh"]))
def test_equal_boxes_have_loss_and_gradient_zero(name, format):
    boxes = jnp.array(list(EQUAL.values()))

    @jax.jit
    def run(boxes, targets):
        loss = lambda a, b: LOSSES[name](a, b, format=format)  # noqa: E731
        value, pull_back = jax.vjp(loss, boxes, targets)
        return value, pull_back(jnp.ones_like(value))

    for leaf in jax.tree.leaves(run(boxes, boxes)):
        assert not np.any(leaf)


# Ones, lines and points, disjoint, touching, inverted, and of the ends of the range.
SPECIAL = [
    *EQUAL.values(),
    [0.0, 0.0, 1.0, 1.0],
    [1.0, 0.0, 2.0, 1.0],
    [5.0, 5.0, 6.0, 8.0],
    [0.0, 0.0, 1e20, 1e-20],
    [0.0, 0.0, 1e-20, 1e20],
    [1e20, 1e20, 2e20, 2e20],
    [-1e-20, -1e-20, 1e-20, 1e-20],
    [2e-38, 1e-38, 1e-38, 3e-38],
    [1e-30, 1.0, 3e38, 1.0],
    [0.4, 0.4, 0.2, 0.6],
]


def test_everything_finite_has_a_finite_loss_and_gradient():
    every = np.float32(SPECIAL)
    a, b = (x.reshape(-1, 4) for x in np.broadcast_arrays(every[:, None], every[None]))
    for name, (slopes, values) in found(a, b).items():
        assert np.isfinite(values).all(), name
        assert (np.asarray(values) >= 0).all(), name
        assert (np.asarray(values) <= 3.001).all(), name
        for slope in slopes:
            assert np.isfinite(slope).all(), (name, a[~np.isfinite(slope).all(1)])


def test_loss_does_not_depend_on_the_unit():
    boxes, targets = (x[:24] for x in pairs())
    plain = found(boxes, targets)
    for unit in (2.0**-66, 2.0**66):
        scaled = found(boxes * np.float32(unit), targets * np.float32(unit))
        for name in LOSSES:
            np.testing.assert_array_equal(scaled[name][1], plain[name][1])
            np.testing.assert_array_equal(
                scaled[name][0][0] * np.float32(unit), plain[name][0][0]
            )


def in_format(x, format):
    first, last = x[:, :2], x[:, 2:]
    place = (first + last) / 2 if format == "cxcywh" else first
    return np.concatenate([place, last - first], 1)


@each_loss
def test_formats_are_the_same_boxes(name):
    boxes, targets = (x[:24] for x in pairs())
    expected = LOSSES[name](boxes, targets)
    for format in ("xywh", "cxcywh"):
        a, b = (in_format(x, format) for x in (boxes, targets))
        for box, changed in zip(boxes, a, strict=True):
            np.testing.assert_allclose(corners(changed, format), box, atol=1e-6)
        np.testing.assert_allclose(
            LOSSES[name](a, b, format=format), expected, rtol=1e-5, atol=1e-6
        )


def test_small_box_far_from_the_origin_keeps_its_sides():
    """Corners would round the width of 1e-4 at 1000 to 1.2e-4."""
    loss = jl.generalized_box_iou_loss([1e3, 1e3, 1e-4, 1e-4], [1e3, 1e3, 2e-4, 1e-4],
                                       format="cxcywh")  # fmt: skip
    np.testing.assert_allclose(loss, 0.5, rtol=1e-6)


@each_loss
def test_gradient_opens_a_box_of_width_zero(name):
    targets = np.array([[0.0, 0.0, 2.0, 2.0]] * 3)
    lines = np.array([[1.0, 0.5, 1.0, 1.5], [0.0, 0.5, 0.0, 1.5], [3.0, 0.5, 3.0, 1.5]])
    slope = jax.grad(lambda x: jnp.sum(LOSSES[name](x, jnp.float32(targets))))
    found = np.asarray(slope(jnp.float32(lines)))
    assert (found[:, 2] < found[:, 0]).all()  # a descent widens
    flat = jax.grad(
        lambda x: LOSSES[name](x, jnp.array([1.0, 1.0, 2.0, 2.0]), format="cxcywh")
    )(jnp.array([1.0, 1.0, 0.0, 1.0]))
    assert flat[2] < 0


@pytest.mark.parametrize(
    ("box", "value"),
    [
        # Disjoint: the hull is 3 x 1, of which 1/3 is empty.
        ([2.0, 0.0, 3.0, 1.0], 1 + 1 / 3),
        # Inverted: no area; the hull is 3 x 1, of which the target covers 1/3.
        ([3.0, 0.0, 2.0, 1.0], 1 + 2 / 3),
        # Inverted around the target: from -1 to 2.
        ([2.0, 0.0, -1.0, 1.0], 1 + 2 / 3),
        # A line within: the hull is the target.
        ([0.5, 0.2, 0.5, 0.8], 1.0),
        # Touching.
        ([1.0, 0.0, 2.0, 1.0], 1.0),
    ],
)
def test_values_of_special_boxes(box, value):
    target = [0.0, 0.0, 1.0, 1.0]
    np.testing.assert_allclose(jl.generalized_box_iou_loss(box, target), value, 1e-6)


@each_loss
def test_messages(name):
    loss, box = LOSSES[name], jnp.zeros((2, 4))
    with pytest.raises(ValueError, match=r"`format` must be one of 'xyxy', .* 'yxyx'"):
        loss(box, box, format="yxyx")
    with pytest.raises(ValueError, match=r"`boxes` must have 4 numbers .* \(2, 3\)"):
        loss(box[:, :3], box[:, :3])
    with pytest.raises(ValueError, match=r"`boxes` must have 4 numbers .* \(2, 3\)"):
        loss(box[:, :3], box)
    with pytest.raises(ValueError, match=r"`targets` must have 4 numbers .* \(2, 1\)"):
        loss(box, box[:, :1])
    with pytest.raises(ValueError, match=r"`targets` must broadcast"):
        loss(box[:1], box)

"""Digits that a difference would lose: each test names the sum that keeps them.

The references are the definitions, by mpmath at the exact float32 inputs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpmath import mp, mpf
from tier import first

import jaxloss as jl


def exact(values):
    """The float32 numbers as `mpf`."""
    return [mpf(float(v)) for v in np.asarray(values, np.float32)]


def soft_slope(logits, labels):
    """Q p_j - q_j, the slope of the soft cross entropy, with 60 digits."""
    with mp.workdps(60):
        x, q = exact(logits), exact(labels)
        e = [mp.exp(v) for v in x]
        return np.array(
            [float(mp.fsum(q) * a / mp.fsum(e) - b) for a, b in zip(e, q, strict=True)]
        )


@functools.cache
def compiled(transform, loss, *arguments):
    """`transform(loss, *arguments)`: one program for all inputs of a shape."""
    return jax.jit(transform(loss, *arguments))


DOMINANT = [
    ([60, 0], [7, 1e-7]),
    ([0, 40, -3], [1e-9, 0.7, 2e-8]),
    ([25, 1, 0, -1], [1, 1e-4, 1e-6, 0]),
    ([5, 1, -1], [0.9, 3e-6, 1e-6]),
]


@pytest.mark.parametrize(("logits", "labels"), DOMINANT)
@pytest.mark.parametrize(
    "loss",
    [
        jl.softmax_cross_entropy,
        jl.ranking_softmax_loss,
        # The slope of the second term is far below a rounding of the first.
        lambda x, q: jl.poly_loss_cross_entropy(x, q, 1e-30),
    ],
    ids=["softmax_cross_entropy", "ranking_softmax_loss", "poly_loss_cross_entropy"],
)
def test_labels_beside_a_dominant_class_keep_their_slope(loss, logits, labels):
    x, q = np.float32(logits), np.float32(labels)
    # Alone, and one row of a batch under `vmap`.
    batch = np.stack([np.zeros_like(x), x]), np.stack([q, q])
    slope, each = compiled(alone_and_mapped, loss)(x, q, *batch)
    np.testing.assert_allclose(slope, soft_slope(logits, labels), rtol=2e-6)
    np.testing.assert_allclose(each[1], soft_slope(logits, labels), rtol=2e-6)


def alone_and_mapped(loss):
    slope = jax.grad(loss)
    return lambda x, q, *batch: (slope(x, q), jax.vmap(slope)(*batch))


def test_the_second_derivative_at_a_dominant_class_is_right():
    logits, labels = [3.0, 0, -1], [0.9, 1e-7, 3e-7]
    x, q = jnp.float32(logits), jnp.float32(labels)
    e = np.exp(np.float64(logits))
    p = e / e.sum()
    true = np.sum(np.float64(labels)) * (np.diag(p) - np.outer(p, p))
    hessian = jax.jit(jax.hessian(jl.softmax_cross_entropy))(x, q)
    np.testing.assert_allclose(hessian, true, rtol=3e-6)
    by_labels = jax.jit(jax.jacobian(jax.grad(jl.softmax_cross_entropy), 1))(x, q)
    np.testing.assert_allclose(
        by_labels, np.outer(p, np.ones(3)) - np.eye(3), rtol=3e-6, atol=1e-7
    )


def vectors(count=1000, size=7):
    return jnp.asarray(np.random.default_rng(0).normal(size=(count, size)), jnp.float32)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_cosines_of_parallel_vectors_are_in_range(sign):
    x = vectors()
    cosine = jl.cosine_similarity(x, sign * x)
    distance = jl.cosine_distance(x, sign * x)
    assert np.all(np.abs(cosine) <= 1)
    assert np.all((distance >= 0) & (distance <= 2))
    np.testing.assert_allclose(cosine, sign, rtol=5e-7)
    np.testing.assert_allclose(distance, 1 - sign, rtol=5e-7)
    loss = jl.cosine_embedding_loss(x, sign * x, jnp.full(1000, sign), margin=-1.0)
    assert np.all((loss >= 0) & (loss <= 2))
    unlike = jl.cosine_embedding_loss(x, sign * x, -jnp.ones(1000), margin=1.0)
    assert not np.any(unlike)


@pytest.mark.parametrize("loss", [jl.cosine_similarity, jl.cosine_distance])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_range_of_a_cosine_costs_no_derivative(loss, sign):
    x = vectors(50, 3)
    hessian = compiled(jax.vmap, jax.hessian(loss))(x, sign * x)
    slope = compiled(jax.vmap, jax.grad(loss))(x, sign * x)
    # At y = x / c, of unit vector u: d²cos / dx² = -c (I - u uᵀ) / |x|², here c = ±1.
    sign = sign if loss is jl.cosine_similarity else -sign
    length = np.linalg.norm(np.float64(x), axis=1)[:, None, None]
    u = np.float64(x)[..., None] / length
    true = -sign * (np.eye(3) - u * u.swapaxes(1, 2)) / length**2
    np.testing.assert_allclose(hessian * length**2, true * length**2, atol=3e-6)
    np.testing.assert_allclose(slope * length[..., 0], 0, atol=1e-6)


@pytest.mark.parametrize("length", [1e-30, 1e-4, 1e4, 1e30])
def test_the_length_of_an_embedding_does_not_count_in_ntxent(length):
    x, labels = vectors(8, 4), np.array([0, 0, 1, 1, 2, 2, 3, 3])
    value_and_slope = compiled(jax.value_and_grad, jl.ntxent)
    value, slope = value_and_slope(x, labels, 0.5)
    scaled = x * length
    short, short_slope = value_and_slope(scaled, labels, 0.5)
    np.testing.assert_allclose(short, value, rtol=1e-6)
    np.testing.assert_allclose(short_slope * length, slope, atol=1e-6)


def test_a_bound_of_0_is_no_bound_for_the_cosine():
    x, y = jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.array([[2.0, 1.0], [1.0, 1.0]])

    def total(epsilon):
        return jnp.sum(jl.cosine_distance(x, y, epsilon=epsilon))

    value, slope = jax.value_and_grad(total)(jnp.float32(0))
    np.testing.assert_allclose(value, 0.2 + 1, rtol=1e-6)
    assert slope == 0


def test_a_zero_embedding_has_cosine_0_and_no_gradient_in_ntxent():
    x = jnp.float32([[0, 0], [1e-6, 0], [0, 3]])

    def loss(x):
        return jl.ntxent(x, jnp.array([0, 0, 1]), 1.0, reduction="none")

    # The scores are 0 but for the second with itself, which is no pair.
    np.testing.assert_allclose(loss(x), [np.log(2), np.log(2), 0], rtol=1e-6)
    slope = jax.jit(jax.grad(lambda x: jnp.sum(loss(x))))(x)
    assert np.all(np.isfinite(slope))
    assert not np.any(slope[0])


@pytest.mark.parametrize("size", [0.0, 1e-30, 6.5e-19, 1e-7, 1e-3, 2.0])
def test_the_label_slope_of_the_multilabel_soft_margin_loss_is_minus_the_logit(size):
    x = jnp.float32([size, -size])
    t = jnp.float32([1, 0.25])
    slope = compiled(jax.grad, jl.multilabel_soft_margin_loss, 1)(x, t)
    np.testing.assert_array_equal(slope, -x / 2)


@pytest.mark.parametrize("x", [np.inf, -np.inf])
def test_an_infinite_logit_that_agrees_with_its_label_costs_nothing(x):
    loss = jl.multilabel_soft_margin_loss
    t = jnp.float32([x > 0])
    value, slopes = compiled(jax.value_and_grad, loss, (0, 1))(jnp.float32([x]), t)
    assert value == 0
    np.testing.assert_array_equal(slopes, 0)


def poisson(p, t, eps):
    return jl.poisson_nll_loss(p, t, log_input=False, eps=eps)


@pytest.mark.parametrize(
    ("p", "t", "eps"),
    [
        (1, 1, 1e-8),
        (3, 3, 1e-8),
        (1000, 1000, 1e-8),
        (0.3, 0.3, 1e-6),
        (1, 1 + 2.0**-23, 1e-8),
        (1, 1 + 2.0**-23, 1.2e-7),
        (0.25, 0.4, 0.1),
        (1e-9, 1e-8, 1e-8),
        (1e-30, 1e-8, 1e-8),
        (3e38, 2e38, 1e-8),
        (1, 3e38, 1e-8),
        (0, 1, 0.5),
    ],
)
def test_poisson_keeps_its_slope_near_the_optimum(p, t, eps):
    numbers = np.float32([p, t, eps])
    slope = compiled(jax.grad, poisson)(*numbers)
    rate, count, bound = exact(numbers)
    with mp.workdps(60):
        true = float(1 - count / (rate + bound))
    np.testing.assert_allclose(slope, true, rtol=4e-7)


MASK = float(np.finfo(np.float32).min)
SMOOTHED = {
    "softmax_cross_entropy": lambda x, **k: jl.softmax_cross_entropy(
        x, jax.nn.one_hot(0, 5), **k
    ),
    "softmax_cross_entropy_with_integer_labels": lambda x, **k: (
        jl.softmax_cross_entropy_with_integer_labels(x, 0, **k)
    ),
    "softmax_focal_loss": lambda x, **k: jl.softmax_focal_loss(x, 0, gamma=0.0, **k),
}


@pytest.mark.parametrize("name", SMOOTHED)
@pytest.mark.parametrize("weights", [None, [1, 0.5, 2, 0, 1], [1, 1, 3, 0.5, 1]])
def test_the_slope_of_label_smoothing_is_finite_under_a_mask_of_the_lowest_float(
    name, weights
):
    logits = [0, 1, MASK, MASK, 2]
    options = {}
    if weights is not None:
        options["class_weights"] = jnp.float32(weights)

    def loss(alpha):
        return SMOOTHED[name](jnp.float32(logits), label_smoothing=alpha, **options)

    # Σ_j w_j (1/5 - l_j) (log Σ_k e^{x_k} - x_j)
    x, w = np.array(logits), np.array(weights or [1] * 5)
    surprisals = np.log(np.sum(np.exp(x))) - x
    true = np.sum(w * surprisals) / 5 - w[0] * surprisals[0]
    alpha = jnp.float32(0.1)
    slope = jax.jit(jax.grad(loss))(alpha)
    tangent = jax.jit(lambda alpha: jax.jvp(loss, (alpha,), (alpha,))[1])(alpha)
    np.testing.assert_allclose(slope, true, rtol=1e-6)
    np.testing.assert_allclose(tangent, true / 10, rtol=1e-6)


def capped(x, c):
    """The loss softplus(c tanh(x / c)), of slope sigmoid(c tanh(x / c)).

    That is of hidden = 1 and one class beside the label's, whose logit is 0.
    """
    return jl.linear_cross_entropy(
        jnp.ones((1, 1)),
        jnp.stack([x, jnp.zeros_like(x)])[None],
        jnp.array([1]),
        logit_softcap=c,
        reduction="sum",
    )


@pytest.mark.parametrize(
    ("logit", "cap"),
    [(9.5, 1), (20, 1), (-30, 2), (1e-3, 1), (1e-6, 1), (0.5, 1), (0.03, 30), (-7, 30)],
)
def test_the_slopes_of_a_softcap_keep_their_digits(logit, cap):
    numbers = np.float32(logit), np.float32(cap)
    slopes = compiled(jax.grad, capped, (0, 1))(*numbers)
    x, c = exact(numbers)
    with mp.workdps(60):
        z = x / c
        sigmoid = 1 / (1 + mp.exp(-c * mp.tanh(z)))
        by_logit = mp.sech(z) ** 2
        by_cap = mp.tanh(z) - z * by_logit
        true = [float(sigmoid * by_logit), float(sigmoid * by_cap)]
    np.testing.assert_allclose(slopes, true, rtol=1e-6)


def softmax(row):
    e = [mp.exp(x) for x in exact(row)]
    return [x / mp.fsum(e) for x in e]


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([25, 0, 1], [0, 1, 25]),
        ([3, 0], [20, 0]),
        ([0, 20, 1], [2, 0, 1]),
        ([40, 0], [30, 0]),
        ([60, 0, 1], [50, 0, 1]),
        ([17, 0, 0.5], [17, 0.5, 0]),
    ],
)
def test_jensen_shannon_keeps_the_slope_of_a_dominant_class(x, y):
    of_both = compiled(jax.grad, jl.jensen_shannon_divergence, (0, 1))
    slopes = of_both(np.float32(x), np.float32(y))
    with mp.workdps(60):
        p, q = softmax(x), softmax(y)
        for own, slope in ((p, slopes[0]), (q, slopes[1])):
            logs = [mp.log(2 * own[j] / (p[j] + q[j])) for j in range(len(own))]
            mean = mp.fsum(a * log for a, log in zip(own, logs, strict=True))
            true = [float(a * (s - mean) / 2) for a, s in zip(own, logs, strict=True)]
            np.testing.assert_allclose(slope, true, rtol=2e-5)


def ctc(logits, labels):
    """The definition's recursion over the labels and the blanks around them."""
    top = logits.max(-1, keepdims=True)
    scores = np.exp(logits - top)
    p = scores / scores.sum(-1, keepdims=True)
    symbols = [0]
    for label in labels:
        symbols += [label, 0]
    alpha = np.zeros(len(symbols))
    alpha[:2] = p[0, symbols[:2]]
    for frame in p[1:]:
        before = alpha.copy()
        alpha[1:] += before[:-1]
        for s in range(2, len(symbols)):
            if symbols[s] not in (0, symbols[s - 2]):
                alpha[s] += before[s - 2]
        alpha *= frame[symbols]
    return -np.log(alpha[-2:].sum())


@pytest.mark.parametrize("frames", first([3, 40, 1, 2, 10, 200], 2))
def test_a_small_ctc_loss_has_the_absolute_error_that_its_docstring_says(frames):
    rng = np.random.default_rng(frames)
    classes, batch = 6, 100
    # A repeated label takes a blank between the two, which the path below has.
    count = (frames + 1) // 2
    labels = rng.integers(1, classes, (batch, count))
    path = np.zeros((batch, frames), int)
    path[:, ::2] = labels
    logits = rng.normal(size=(batch, frames, classes))
    ahead = rng.uniform(8, 22, (batch, 1, 1))
    logits = logits + ahead * np.eye(classes)[path]
    logits = np.float32(logits)
    got = jl.ctc_loss(logits, np.zeros((batch, frames)), labels, np.zeros(labels.shape))
    true = [ctc(np.float64(x), y) for x, y in zip(logits, labels, strict=True)]
    small = np.array(true) < 1
    assert small.sum() > batch / 2
    error = np.abs(np.float64(got) - true)[small]
    assert error.max() <= 6e-8 * frames


@pytest.mark.parametrize(("ahead", "true"), [(8, 1.1246e-7), (10, 2.061e-9)])
def test_a_sure_ctc_alignment_of_two_frames_is_right_to_its_bound(ahead, true):
    # Only the alignment of two blanks does not spell the label: (1 + e^8)^-2.
    logits = np.float32([[0, ahead], [0, ahead]])
    loss = jl.ctc_loss(logits, np.zeros(2), np.array([1]), np.zeros(1))
    np.testing.assert_allclose(-np.log1p(-((1 + np.exp(ahead)) ** -2.0)), true, 1e-4)
    assert abs(float(loss) - true) <= 2 * 6e-8


def test_smoothing_of_a_linear_layer_passes_classes_at_the_lowest_float():
    """Two biases of finfo.min: their sum overflows, their mean does not."""
    lowest = float(jnp.finfo(jnp.float32).min)
    bias = jnp.array([0.0, lowest, lowest, 0.0])

    def loss(alpha):
        return jl.linear_cross_entropy(
            jnp.zeros((1, 2)), jnp.ones((2, 4)), [0], bias=bias, label_smoothing=alpha
        )[0]

    value, slope = jax.jit(jax.value_and_grad(loss))(jnp.float32(0.1))
    mean = -lowest / 2 + float(np.log(2))
    np.testing.assert_allclose(value, 0.1 * mean, rtol=1e-6)
    np.testing.assert_allclose(slope, mean, rtol=1e-6)

"""What distillation promises beyond the common rules: digits, ends, split classes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import assert_close
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from mpmath import mp, mpf
from tier import first
from ulp import ulp

import jaxloss as jl

INF = np.inf
KINDS: list[Any] = ["forward_kl", "reverse_kl", "jensen_shannon"]
each_kind = pytest.mark.parametrize("divergence", KINDS)


def draw(seed, apart=None, spread=1.0, batch=24, classes=6):
    """Logits of a student and of its teacher, `apart` if not unrelated."""
    rng = np.random.default_rng(seed)
    teacher, student = rng.normal(size=(2, batch, classes)) * spread
    if apart is not None:
        student = teacher + apart * rng.normal(size=teacher.shape)
    return student.astype(np.float32), teacher.astype(np.float32)


def exact_softmax(row):
    e = [mp.exp(x if isinstance(x, mpf) else mpf(float(x))) for x in row]
    return [x / sum(e) for x in e]


def exact(p, q, divergence, beta):
    """The value, the slopes by the student's logits, and the largest term of each."""

    def kl(a, b):
        return mp.fsum(x * mp.log(x / y) for x, y in zip(a, b, strict=True))

    m = [beta * x + (1 - beta) * y for x, y in zip(p, q, strict=True)]
    if divergence == "forward_kl":
        slopes = [y - x for x, y in zip(p, q, strict=True)]
        return kl(p, q), slopes, list(map(max, p, q))
    other, weight = (p, 1) if divergence == "reverse_kl" else (m, 1 - beta)
    logs = [mp.log(x / y) for x, y in zip(q, other, strict=True)]
    slopes = [weight * x * (v - kl(q, other)) for x, v in zip(q, logs, strict=True)]
    value = (
        kl(q, p) if divergence == "reverse_kl" else beta * kl(p, m) + weight * kl(q, m)
    )
    units = [weight * x * max(map(abs, logs)) for x in q]
    return value, slopes, units


@each_kind
@pytest.mark.parametrize("apart", [None, 1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("spread", first([12.0, 1.0]))
def test_every_divergence_keeps_its_digits(divergence, apart, spread):
    student, teacher = draw(0, apart, spread)
    beta = 0.25 if divergence == "jensen_shannon" else None

    @jax.jit
    def measured(student):
        def loss(x):
            return jl.distillation_loss(x, teacher, divergence=divergence, beta=beta)

        value, pull_back = jax.vjp(loss, student)
        return value, pull_back(jnp.ones_like(value))[0]

    values, gradients = measured(student)
    with mp.workdps(60):
        for i in range(len(student)):
            p, q = exact_softmax(teacher[i]), exact_softmax(student[i])
            true, slopes, units = exact(p, q, divergence, mpf(beta or 0.5))
            assert ulp(values[i], true, true, true) <= 12
            for c, slope in enumerate(slopes):
                assert ulp(gradients[i, c], slope, slope, units[c]) <= 12


@each_kind
@pytest.mark.parametrize("apart", first([1e-5, None]))
@pytest.mark.parametrize("temperature", [1.7, 0.3])
def test_temperature_keeps_the_digits_of_near_equal_distributions(
    divergence, apart, temperature
):
    """1.7 and 0.3 have no exact quotients: a rounded x/T would hide the difference."""
    student, teacher = draw(3, apart, 5.0, batch=8)
    hidden = np.eye(len(student), dtype=np.float32)
    rule = {"divergence": divergence}

    @jax.jit
    def measured(student, temperature):
        def dense(temperature):
            return jl.distillation_loss(
                student, teacher, temperature=temperature, **rule
            )

        def linear(temperature):
            return jl.linear_distillation_loss(
                hidden, student, hidden, teacher, temperature=temperature, **rule
            )

        line = (temperature,), (jnp.ones_like(temperature),)
        return jax.jvp(dense, *line), jax.jvp(linear, *line)

    def true(i, temperature):
        p, q = (
            exact_softmax([mpf(float(x)) / temperature for x in row[i]])
            for row in (teacher, student)
        )
        return exact(p, q, divergence, mpf("0.5"))[0]

    for values, slopes in measured(student, jnp.float32(temperature)):
        with mp.workdps(60):
            at = mpf(float(np.float32(temperature)))
            for i in range(len(student)):
                value = true(i, at)
                step = at * mpf(10) ** -20
                slope = (true(i, at + step) - true(i, at - step)) / (2 * step)
                assert ulp(values[i], value, value, value) <= 12
                assert ulp(slopes[i], slope, slope, max(abs(slope), value / at)) <= 24


@pytest.mark.any_program
@each_kind
def test_never_below_0_and_0_for_equal_distributions(divergence):
    for dtype in (jnp.float32, jnp.bfloat16):
        for apart in (0.0, 1e-7, 1e-3):
            student, teacher = draw(1, apart, 20.0, batch=200, classes=40)
            student, teacher = (jnp.asarray(x, dtype) for x in (student, teacher))
            found = jl.distillation_loss(student, teacher, divergence=divergence)
            assert np.all(np.asarray(found) >= 0)
            if apart == 0:
                assert np.all(np.asarray(found) < 1e-12)
    shifted = jl.distillation_loss(teacher + 3, teacher, divergence=divergence)
    assert np.all(np.asarray(shifted, np.float32) >= 0)


@pytest.mark.any_program
@pytest.mark.parametrize("beta", [None, 0.1, 0.9])
def test_jensen_shannon_is_that_of_the_divergences(beta):
    student, teacher = draw(2, spread=4.0)
    found = jl.distillation_loss(
        student, teacher, divergence="jensen_shannon", beta=beta, temperature=2.0
    )
    plain = jl.jensen_shannon_divergence(teacher / 2, student / 2, beta=beta or 0.5)
    assert_close(found, plain, 1e-6)


@pytest.mark.any_program
def test_impossible_classes():
    student = jnp.array([[0.0, -INF, 1.0], [0.0, 1.0, -INF], [2.0, -INF, -INF]])
    teacher = jnp.array([[0.5, -INF, 0.0], [0.0, -INF, 1.0], [-INF, 1.0, -INF]])
    expected = {"forward_kl": [1, INF, INF], "reverse_kl": [1, INF, INF]}
    for divergence in KINDS:

        def total(x, y, divergence=divergence):
            loss = jl.distillation_loss(x, y, divergence=divergence)
            return jnp.sum(jnp.where(jnp.isfinite(loss), loss, 0)), loss

        slopes, loss = jax.grad(total, (0, 1), has_aux=True)(student, teacher)
        assert not np.any(np.isnan(slopes))
        assert 0 < loss[0] < 1
        if divergence in expected:
            assert np.isinf(loss[1:]).all()
        else:
            np.testing.assert_allclose(loss[2], np.log(2), rtol=1e-6)


@pytest.mark.any_program
def test_beta_belongs_to_jensen_shannon_and_lies_between_0_and_1():
    x = jnp.zeros((2, 3))
    for beta in (0, 1, 0.0, 1.0, -0.5, 1.5):
        with pytest.raises(ValueError, match=r"`beta` must be in \(0, 1\)"):
            jl.distillation_loss(x, x, divergence="jensen_shannon", beta=beta)
    for divergence in ("forward_kl", "reverse_kl"):
        with pytest.raises(ValueError, match="`beta` must be None"):
            jl.distillation_loss(x, x, divergence=divergence, beta=0.5)
    with pytest.raises(ValueError, match="`divergence` must be one of 'forward_kl'"):
        jl.distillation_loss(x, x, divergence="kl")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`teacher_logits` must broadcast"):
        jl.distillation_loss(x, jnp.zeros((2, 4)))
    student, teacher = draw(3)
    for end in (0.0, 1.0):  # traced, it gives the limit
        loss = jl.distillation_loss(
            student, teacher, divergence="jensen_shannon", beta=jnp.float32(end)
        )
        assert np.all(np.asarray(loss) == 0)


@pytest.mark.exhaustive
@pytest.mark.any_program
@each_kind
def test_classes_split_over_devices(divergence):
    student, teacher = draw(4, spread=3.0, batch=4, classes=12)
    temperature = jnp.float32(1.5)

    def of(axis_name):
        def loss(student, teacher, temperature):
            return jl.distillation_loss(
                student, teacher, divergence=divergence, temperature=temperature,
                axis_name=axis_name,
            )  # fmt: skip

        return loss

    mesh = jax.make_mesh((4,), ("model",), (AxisType.Auto,))
    specs = P(None, "model"), P(None, "model"), P()
    split = jax.shard_map(of("model"), mesh=mesh, in_specs=specs, out_specs=P())

    @jax.jit
    def both(*arrays):
        found = []
        for loss in (split, of(None)):
            value, pull_back = jax.vjp(loss, *arrays)
            moved = jax.jvp(loss, arrays, jax.tree.map(jnp.cos, arrays))[1]
            found.append((value, pull_back(jnp.arange(1.0, 5)), moved))
        return found

    one, other = both(student, teacher, temperature)
    assert_close(one, other, 2e-6)


def top(student, teacher, k):
    """The teacher's k most probable classes, exactly, and the log of the rest."""
    found = jl.softmax_statistics(teacher, jnp.argsort(-teacher)[..., :k])
    return jnp.argsort(-teacher)[..., :k], found.log_probs, found.log_tail


@pytest.mark.any_program
@each_kind
def test_all_classes_are_the_dense_loss(divergence):
    student, teacher = draw(5, spread=4.0)
    every = top(student, jnp.asarray(teacher), 6)
    plain = jl.distillation_loss(student, teacher, divergence=divergence)
    for tail in ("bucket", "renormalize"):

        def loss(x, tail=tail):
            return jl.sparse_distillation_loss(
                x, every[0], every[1], divergence=divergence, tail=tail
            )

        assert_close(jax.jit(loss)(student), plain, 2e-6)
        slope = jax.jit(jax.grad(lambda x, loss=loss: jnp.sum(loss(x))))(student)
        assert np.isfinite(slope).all()


@pytest.mark.any_program
@each_kind
def test_a_true_tail_makes_a_divergence_of_coarse_distributions(divergence):
    _, teacher = draw(6, spread=8.0, classes=30, batch=60)
    ids, log_probs, log_tail = top(teacher, jnp.asarray(teacher), 4)

    def loss(x, **tail):
        return np.asarray(
            jl.sparse_distillation_loss(
                x, ids, log_probs, divergence=divergence, **tail
            )
        )

    same = loss(teacher, teacher_log_tail=log_tail)
    assert np.all(same >= 0)
    assert np.all(same < 1e-10)
    near = loss(teacher + 1e-3 * np.cos(teacher), teacher_log_tail=log_tail)
    assert np.all(near >= 0)
    if divergence == "forward_kl":  # its own rest, by expm1
        assert np.all(np.abs(loss(teacher)) < 2e-6)


@pytest.mark.parametrize("peak", [10.0, 40.0, 90.0])
def test_the_tail_of_a_peaked_student_keeps_its_digits(peak):
    student = jnp.array([peak, 1.0, 0.0, -1.0])
    known = [0], jnp.log(jnp.array([0.75]))

    def loss(x):
        return jl.sparse_distillation_loss(x, *known)

    value, slope = jax.jit(jax.value_and_grad(loss))(student)
    with mp.workdps(60):
        q = exact_softmax(student)
        p = mp.exp(mpf(float(known[1][0])))
        rest = sum(q[1:])
        true = p * mp.log(p / q[0]) + (1 - p) * mp.log((1 - p) / rest)
        slopes = [q[0] - p, *(x * (1 - (1 - p) / rest) for x in q[1:])]
        np.testing.assert_allclose(value, float(true), rtol=1e-6)
        np.testing.assert_allclose(slope, [float(x) for x in slopes], rtol=2e-6)


@pytest.mark.any_program
def test_padding_repeated_ids_and_a_teacher_above_1():
    x = jnp.array([[0.2, 1.0, -0.3, 0.4]])
    plain = jl.sparse_distillation_loss(x, [[1, 3]], jnp.log(jnp.array([[0.5, 0.2]])))
    padded = jnp.array([[-INF, np.log(0.5), -INF, np.log(0.2)]], jnp.float32)
    found = jl.sparse_distillation_loss(x, [[-1, 1, -1, 3]], padded)
    assert_close(found, plain, 1e-6)
    twice = jl.sparse_distillation_loss(x, [[1, 1]], jnp.log(jnp.array([[0.5, 0.2]])))
    lost = jl.sparse_distillation_loss(x, [[-1, 1]], jnp.log(jnp.array([[0.5, 0.2]])))
    assert np.isnan([twice, lost]).all()
    above = jnp.log(jnp.array([[0.7, 0.31]]))
    value, slope = jax.value_and_grad(
        lambda x: jl.sparse_distillation_loss(x, [[1, 3]], above, reduction="sum")
    )(x)
    q = np.exp(x[0] - jl.softmax_statistics(x[0]).log_normalizers)
    true = 0.7 * np.log(0.7 / q[1]) + 0.31 * np.log(0.31 / q[3])
    np.testing.assert_allclose(value, true, rtol=1e-5)
    np.testing.assert_allclose(slope[0], 1.01 * q - [0, 0.7, 0, 0.31], rtol=1e-5)


@pytest.mark.any_program
def test_the_kinds_of_tail_have_their_limits():
    x, ids, log_p = jnp.zeros((2, 4)), jnp.array([[0, 1]]), jnp.full((2, 2), -1.0)
    loss: Any = jl.sparse_distillation_loss
    for divergence in ("reverse_kl", "jensen_shannon"):
        with pytest.raises(ValueError, match="`tail` must be"):
            loss(x, ids, log_p, divergence=divergence, tail="ignore")
    with pytest.raises(ValueError, match="`tail` must be one of"):
        loss(x, ids, log_p, tail="drop")
    with pytest.raises(ValueError, match="at least two classes"):
        loss(x, ids[:, :1], log_p[:, :1], tail="renormalize")
    with pytest.raises(ValueError, match="`teacher_log_tail` must be None"):
        loss(x, ids, log_p, teacher_log_tail=0.0, tail="renormalize")
    with pytest.raises(ValueError, match="`teacher_log_probs` must broadcast"):
        loss(x, ids, log_p[:, :1, None])
    p = jnp.log(jnp.array([0.5, 0.25]))
    ignored = loss(x, ids, p, tail="ignore")
    true = 0.5 * np.log(0.5 / 0.25)
    np.testing.assert_allclose(ignored, [true, true], rtol=1e-6)


@pytest.mark.exhaustive
@pytest.mark.any_program
def test_sparse_classes_split_over_devices():
    student, teacher = draw(7, spread=3.0, batch=4, classes=12)
    ids, log_probs, _ = top(student, jnp.asarray(teacher), 3)

    def of(axis_name):
        def loss(student, log_probs):
            return jl.sparse_distillation_loss(
                student, ids, log_probs, temperature=1.5, axis_name=axis_name
            )

        return loss

    mesh = jax.make_mesh((4,), ("model",), (AxisType.Auto,))
    specs = P(None, "model"), P()
    split = jax.shard_map(of("model"), mesh=mesh, in_specs=specs, out_specs=P())

    @jax.jit
    def both(*arrays):
        found = []
        for loss in (split, of(None)):
            value, pull_back = jax.vjp(loss, *arrays)
            found.append((value, pull_back(jnp.arange(1.0, 5))))
        return found

    assert_close(*both(student, log_probs), 2e-6)

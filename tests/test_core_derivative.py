"""The adapter that gives an analytic rule both modes, under every transformation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxloss._core.rule.analytic import analytic, pointwise

pytestmark = pytest.mark.any_program


# Log-sum-exp less the label's logit, over a class axis, with an integer input.
def surprisal_forward(x, y, *, axis):
    log_sum = jax.scipy.special.logsumexp(x, axis=axis, keepdims=True)
    hot = jax.nn.one_hot(y, x.shape[axis], axis=axis, dtype=x.dtype)
    value = jnp.squeeze(log_sum, axis) - jnp.sum(hot * x, axis=axis)
    return value, (jnp.exp(x - log_sum), hot)


def surprisal_backward(residuals, cotangent, *, axis):
    p, hot = residuals
    return jnp.expand_dims(cotangent, axis) * (p - hot), None


# x² sin(y), one number from each pair.
def wave_forward(x, y):
    return x * x * jnp.sin(y), (x, y)


def wave_backward(residuals, cotangent):
    x, y = residuals
    return cotangent * 2 * x * jnp.sin(y), cotangent * x * x * jnp.cos(y)


@pointwise
def smooth(x, y):
    """exp(x y)."""
    value = jnp.exp(x * y)
    return value, (y * value, x * value)


# One number from all inputs.
def norm_forward(x, y):
    value = jnp.sum(x**4 * y)
    return value, (x, y)


def norm_backward(residuals, cotangent):
    x, y = residuals
    return cotangent * 4 * x**3 * y, cotangent * x**4


class Rule(NamedTuple):
    """A rule, its function in plain JAX, and inputs."""

    loss: Callable[..., Any]
    plain: Callable[..., Any]
    inputs: tuple[np.ndarray, ...]


def real(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


RULES = {
    "surprisal": Rule(
        lambda x, y: analytic(surprisal_forward, surprisal_backward)(x, y, axis=0),
        lambda x, y: surprisal_forward(x, y, axis=0)[0],
        (real(3, 4), np.array([2, 0, 1, 1], np.int32)),
    ),
    "wave": Rule(
        analytic(wave_forward, wave_backward),
        lambda x, y: wave_forward(x, y)[0],
        (real(3), real(3, seed=1)),
    ),
    "pointwise": Rule(smooth, lambda x, y: jnp.exp(x * y), (real(3), real(3, seed=1))),
    "scalar": Rule(
        analytic(norm_forward, norm_backward),
        lambda x, y: norm_forward(x, y)[0],
        (real(3), real(3, seed=1)),
    ),
}
EACH = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


@pytest.fixture(autouse=True)
def _float64(x64):
    """Two programs of one formula then differ by 1e-12 at most."""


def assert_same(actual, expected):
    """Trees of the same shapes, dtypes, and, to rounding, values."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12)


def moving(rule):
    """Which inputs have a derivative, and a random tangent for each."""
    arguments = tuple(i for i, x in enumerate(rule.inputs) if x.dtype.kind == "f")
    rng = np.random.default_rng(1)
    return arguments, [rng.normal(size=rule.inputs[i].shape) for i in arguments]


def of_real(function, rule):
    """A function of the real inputs alone, and these."""
    arguments, _ = moving(rule)

    def call(*real):
        given = dict(zip(arguments, real, strict=True))
        return function(*(given.get(i, x) for i, x in enumerate(rule.inputs)))

    return call, [jnp.asarray(rule.inputs[i]) for i in arguments]


# A function of (function, real inputs, tangents) for each transformation.
def pulled_back(f, x, tangents):
    value, pull_back = jax.vjp(f, *x)
    cotangent = np.random.default_rng(2).normal(size=value.shape)
    return value, pull_back(jnp.asarray(cotangent))


def linear(f, x, tangents):
    value, push = jax.linearize(f, *x)
    transposed = jax.linear_transpose(push, *x)(jnp.ones_like(value))
    return value, push(*tangents), transposed


def line(f, x, tangents):
    """The function along a line, through a nonlinear sum, so that no order is 0."""

    def along(t):
        moved = (v + t * w for v, w in zip(x, tangents, strict=True))
        return jnp.sum(jnp.sin(f(*moved)))

    return along


def third(f, x, tangents):
    along = line(f, x, tangents)
    found = []
    for nest in (
        (jax.jacfwd, jax.jacfwd, jax.jacfwd),
        (jax.jacfwd, jax.jacfwd, jax.jacrev),
        (jax.jacrev, jax.jacrev, jax.jacrev),
    ):
        slope = along
        for mode in nest:
            slope = mode(slope)
        found.append(slope(0.0))
    return found


def nested(outer, inner):
    def hessian(f, x, tangents):
        every = tuple(range(len(x)))
        return outer(inner(f, every), every)(*x)

    return hessian


def looped(f, x, tangents):
    """A loss that a scan adds up, its gradient, and the derivatives of the two."""

    def along(t):
        def step(total, scale):
            return total + line(f, x, tangents)(t * scale), None

        return jax.lax.scan(step, 0.0, jnp.array([0.3, -1.1]))[0]

    def both(t):
        return jnp.stack(jax.value_and_grad(along)(t))

    return both(0.7), jax.jacfwd(both)(0.7), jax.jacrev(both)(0.7)


TRANSFORMATIONS = {
    "vjp": pulled_back,
    "jvp": lambda f, x, tangents: jax.jvp(f, tuple(x), tuple(tangents)),
    "jit": lambda f, x, tangents: pulled_back(jax.jit(f), x, tangents),
    "jacfwd": lambda f, x, _: jax.jacfwd(f, tuple(range(len(x))))(*x),
    "jacrev": lambda f, x, _: jax.jacrev(f, tuple(range(len(x))))(*x),
    "linearize": linear,
    "checkpoint": lambda f, x, tangents: pulled_back(jax.checkpoint(f), x, tangents),
    "scan": looped,
    "third order": third,
    **{
        f"{outer.__name__} of {inner.__name__}": nested(outer, inner)
        for outer in (jax.jacfwd, jax.jacrev)
        for inner in (jax.jacfwd, jax.jacrev)
    },
}


@pytest.mark.parametrize("transformation", TRANSFORMATIONS)
@EACH
def test_derivatives_are_those_of_the_plain_function(rule, transformation):
    _, tangents = moving(rule)

    @jax.jit
    def results():
        found = []
        for function in (rule.loss, rule.plain):
            call, inputs = of_real(function, rule)
            found.append(TRANSFORMATIONS[transformation](call, inputs, tangents))
        return found

    assert_same(*results())


@EACH
def test_vmap_is_a_loop(rule):
    arguments, tangents = moving(rule)

    def one(*row):
        *inputs, tangent = row
        given = dict(zip(arguments, tangent, strict=True))

        def call(*real):
            moved = dict(zip(arguments, real, strict=True))
            return rule.loss(*(moved.get(i, x) for i, x in enumerate(inputs)))

        real = [inputs[i] for i in given]
        return jax.jvp(call, tuple(real), tuple(tangent)), jax.grad(
            lambda *real: jnp.sum(call(*real)), tuple(range(len(real)))
        )(*real)

    def stack(x):
        return jnp.stack([x, x[::-1], 2 * x])

    kinds = [x.dtype.kind for x in rule.inputs]
    columns = [
        stack(x) if kind == "f" else jnp.stack([x] * 3)
        for x, kind in zip(rule.inputs, kinds, strict=True)
    ]
    columns.append([stack(tangent) for tangent in tangents])

    @jax.jit
    def results():
        rows = [one(*jax.tree.map(lambda x, i=i: x[i], columns)) for i in range(3)]
        return jax.vmap(one)(*columns), jax.tree.map(lambda *x: jnp.stack(x), *rows)

    assert_same(*results())


def test_both_modes_take_the_rule_and_not_the_code_of_forward():
    # Rounding with the gradient of the identity; that of its code is 0.
    straight = analytic(
        lambda x: (jnp.round(x), None), lambda _, cotangent: (cotangent,)
    )
    x, ct = jnp.array([0.2, 1.7]), jnp.array([0.3, -1.2])
    assert straight(x).tolist() == [0, 2]
    assert jax.vjp(straight, x)[1](ct)[0].tolist() == ct.tolist()
    assert jax.jvp(straight, (x,), (ct,))[1].tolist() == ct.tolist()
    assert jax.linearize(straight, x)[1](ct).tolist() == ct.tolist()
    for jacobian in (jax.jacfwd, jax.jacrev):
        assert jacobian(straight)(x).tolist() == [[1, 0], [0, 1]]
    cubed = jax.grad(lambda x: jnp.sum(straight(x) ** 3))
    assert cubed(x).tolist() == [0, 12]
    assert jax.jvp(cubed, (x,), (ct,))[1].tolist() == [0, 12 * ct[1]]


def test_an_input_that_does_not_move_adds_nothing():
    def forward(x, y):
        return x * y, y

    def backward(y, cotangent):
        return cotangent * y, cotangent * jnp.nan

    times, x = analytic(forward, backward), jnp.array([2.0, 3.0])
    tangent = jax.jvp(lambda x: times(x, 5 * jnp.ones(2)), (x,), (x,))[1]
    assert tangent.tolist() == [10, 15]
    # Nothing at all moves.
    unmoved = jax.jvp(lambda t: t * times(x, x), (2.0,), (1.0,))[1]
    assert unmoved.tolist() == [4, 9]
    still = jax.jvp(lambda t: times(x, x), (2.0,), (1.0,))[1]
    assert still.tolist() == [0, 0]


def test_constants_may_be_numpy_arrays_and_numbers():
    wave = analytic(wave_forward, wave_backward)
    slope = jax.jit(jax.grad(lambda x: wave(x, 0.5)))(2.0)
    np.testing.assert_allclose(slope, 4 * np.sin(0.5), rtol=1e-12)
    y = np.array([0.5, 1.0])
    tangent = jax.jvp(lambda x: wave(x, y), (jnp.ones(2),), (jnp.ones(2),))[1]
    np.testing.assert_allclose(tangent, 2 * np.sin(y), rtol=1e-12)


def test_value_alone_computes_no_partial_derivative():
    @pointwise
    def sine(x):
        return jnp.sin(x), (jnp.cos(x),)

    x = jnp.ones(8, jnp.float32)

    def program(function):
        return jax.jit(function).lower(x).compile().as_text()

    assert "cosine" not in program(sine)
    assert "cosine" in program(lambda x: jax.vjp(sine, x)[1](x))


def test_dtype_is_that_of_the_inputs():
    for dtype in (jnp.float32, jnp.float64):
        x = jnp.ones(2, dtype)
        value, tangent = jax.jvp(smooth, (x, x), (x, x))
        gradient = jax.vjp(smooth, x, x)[1](x)
        assert {v.dtype for v in (value, tangent, *gradient)} == {jnp.dtype(dtype)}


@pytest.fixture
def mesh():
    axes = "examples", "classes"
    kinds = (AxisType.Auto,) * 2
    return jax.make_mesh((2, 2), axes, kinds, devices=jax.devices("cpu")[:4])


def all_orders(function, inputs, tangents):
    """Value, both modes and mixed second orders."""
    every = tuple(range(len(inputs)))

    def total(*inputs):
        return jnp.sum(jnp.sin(function(*inputs)))

    slope = jax.grad(total, every)
    return (
        jax.jvp(function, inputs, tangents),
        jax.value_and_grad(total, every)(*inputs),
        jax.jvp(slope, inputs, tangents)[1],
        jax.grad(lambda *x: jax.jvp(total, x, tangents)[1], every)(*inputs),
    )


def both(mapped, plain):
    return jax.jit(lambda *given: [all_orders(f, *given) for f in (mapped, plain)])


def test_shard_map_over_examples_sums_what_they_share(mesh):
    def loss(x, shared):
        return smooth(x, jnp.broadcast_to(shared, x.shape))

    mapped = jax.shard_map(
        loss, mesh=mesh, in_specs=(P("examples"), P()), out_specs=P("examples")
    )
    assert_same(
        *both(mapped, loss)((real(6), np.array(0.7)), (real(6), np.array(-0.4)))
    )


# (Σ x)² over a class axis that may be split over devices.
def square_forward(x, *, axis, axis_name):
    total = jnp.sum(x, axis=axis)
    total = total if axis_name is None else jax.lax.psum(total, axis_name)
    return total**2, (total, x)


def square_backward(residuals, cotangent, *, axis, axis_name):
    total, x = residuals
    slope = jnp.expand_dims(2 * total * cotangent, axis)
    return (slope * jnp.ones_like(x),)


def test_shard_map_over_classes_closes_the_sum(mesh):
    square = analytic(square_forward, square_backward)
    mapped = jax.shard_map(
        lambda x: square(x, axis=1, axis_name="classes"),
        mesh=mesh,
        in_specs=P("examples", "classes"),
        out_specs=P("examples"),
    )

    def plain(x):
        return jnp.sum(x, axis=1) ** 2

    assert_same(*both(mapped, plain)((real(6, 4),), (real(6, 4, seed=1),)))

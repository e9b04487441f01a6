"""softmax_statistics and log_softmax: digits, ties, masks, and what is not used."""

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from common import assert_close
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxloss as jl

INF = np.inf


class Fields(NamedTuple):
    """The fields for type checkers, which do not know that there are labels."""

    log_probs: jax.Array
    entropies: jax.Array
    log_normalizers: jax.Array
    predictions: jax.Array
    log_tail: jax.Array


def statistics(*arguments, **options) -> Fields:
    return Fields(*cast(Any, jl.softmax_statistics(*arguments, **options)))


def exact(row, labels):
    """log-probability of the first label, entropy and log tail, to 60 digits."""
    with mpmath.workdps(60):
        e = [mpmath.exp(mpmath.mpf(float(v))) for v in row]
        total = mpmath.fsum(e)
        p = [v / total for v in e]
        entropy = -mpmath.fsum(v * mpmath.log(v) for v in p)
        outside = mpmath.fsum(v for j, v in enumerate(p) if j not in labels)
        numbers = mpmath.log(p[labels[0]]), entropy, mpmath.log(outside)
        return [float(number) for number in numbers]


@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0, 60.0, 300.0])
@pytest.mark.parametrize("shift", [0.0, -1000.0])
def test_every_number_keeps_its_digits(spread, shift):
    rng = np.random.default_rng(1)
    rows = (spread * rng.normal(size=(40, 9)) + shift).astype(np.float32)
    labels = np.argsort(-rows, axis=1)[:, :3].astype(np.int32)
    labels[::2] = np.argsort(rows, axis=1)[::2, :3]  # the least probable ones
    found = jax.jit(statistics)(rows, labels)
    expected = np.array([exact(*pair) for pair in zip(rows, labels, strict=True)])
    eps, tiny = float(np.finfo(np.float32).eps), float(np.finfo(np.float32).tiny)
    for one, name in enumerate(("log_probs", "entropies", "log_tail")):
        value = np.asarray(getattr(found, name), np.float64)
        value = value[:, 0] if value.ndim == 2 else value
        true = expected[:, one]
        seen = np.abs(true) > tiny / eps  # beyond, results are flushed to 0
        np.testing.assert_allclose(value[seen], true[seen], rtol=8 * eps)
        assert np.all(np.abs(value[~seen]) <= 2 * tiny / eps)


def test_slopes_of_a_sure_label_and_of_its_tail():
    row, labels = jnp.array([40.0, 0.0, 1.0]), jnp.array([0])

    def fields(x):
        found = statistics(x, labels, axis=0)
        return found.log_probs[0], found.log_tail

    of_label, of_tail = jax.jit(jax.jacrev(fields))(row)
    rest = np.exp(-40.0) + np.exp(-39.0)
    by_rest = np.array([np.exp(-40.0), np.exp(-39.0)])
    np.testing.assert_allclose(of_label, [rest, *-by_rest], rtol=1e-6)
    np.testing.assert_allclose(of_tail, [-1, *(by_rest / rest)], rtol=1e-6)


@pytest.mark.any_program
def test_impossible_classes_and_a_tail_of_nothing():
    rows = jnp.array([[1.0, -INF, 1.0], [-INF, -INF, -INF], [-INF, 3.0, -INF]])
    every = jnp.array([[0, 1, 2]] * 3)

    found = statistics(rows, every)
    assert np.all(np.asarray(found.log_tail) == -INF)
    np.testing.assert_allclose(found.entropies, [np.log(2), 0, 0], rtol=1e-6)
    np.testing.assert_allclose(found.log_normalizers, [1 + np.log(2), -INF, 3])
    assert found.log_probs[0, 1] == -INF

    def tail(x):
        return jnp.sum(statistics(x, every).log_tail)

    assert np.isfinite(jax.grad(tail)(rows)).all()
    assert np.isfinite(jax.hessian(tail)(rows)).all()


@pytest.mark.any_program
def test_predictions_are_the_first_of_the_best():
    rows = jnp.array([[1.0, 3.0, 3.0], [0.0, 0.0, 0.0], [-INF, -INF, 2.0]])
    found = statistics(rows)
    assert found.predictions.dtype == jnp.int32
    assert found.predictions.tolist() == [1, 0, 2]
    assert found.log_probs is None
    assert found.log_tail is None


@pytest.mark.any_program
def test_excluded_rows_are_0_in_every_field_and_ignored_labels_drop_alone():
    rows = jnp.array([[0.3, 1.0, -0.5], [jnp.nan, 0.0, 1.0], [2.0, 0.1, 0.4]])
    labels = jnp.array([[0, 1], [7, 2], [-100, 2]])
    keep = jnp.array([True, False, True])
    found = statistics(rows, labels, ignore_index=-100, where=keep)
    for field in found:
        assert np.all(np.asarray(field)[1] == 0)
    assert found.log_probs[2, 0] == 0
    alone = statistics(rows[2:], labels[2:, 1:])
    assert found.log_probs[2, 1] == alone.log_probs[0, 0]
    assert found.log_tail[2] == alone.log_tail[0]

    def total(x):
        found = statistics(x, labels, ignore_index=-100, where=keep)
        return sum(jnp.sum(f) for f in (found.log_probs, *found[1:3], found.log_tail))

    slope = jax.grad(total)(rows)
    assert np.isfinite(slope).all()
    assert not np.any(slope[1])


@pytest.mark.any_program
def test_a_label_out_of_range_is_nan_and_a_lone_ignored_one_excludes_its_row():
    rows = jnp.array([[0.3, 1.0, -0.5], [0.2, 0.0, 1.0]])
    found = statistics(rows, jnp.array([[0, 3], [1, 2]]))
    assert np.isnan(found.log_probs).tolist() == [[False, True], [False, False]]
    assert np.isnan(found.log_tail).tolist() == [True, False]
    assert np.isfinite(found.entropies).all()
    found = statistics(rows, jnp.array([-1, 1]), ignore_index=-1)
    assert all(np.asarray(field)[0] == 0 for field in found)


def test_a_field_that_is_not_used_costs_nothing():
    rows, labels = jnp.ones((32, 64)), jnp.zeros((32, 3), int)

    def predictions(x, labels):
        return statistics(x, labels).predictions

    def entropies(x, labels):
        return statistics(x, labels).entropies

    def entropies_alone(x, labels):
        return statistics(x).entropies

    def compiled(function):
        return jax.jit(function).lower(rows, labels).compile()

    def flops(function):
        return cast(Any, compiled(function).cost_analysis())["flops"]

    def exponentials(function):
        return str(compiled(function).as_text()).count(" exponential(")

    assert exponentials(predictions) == 0
    assert exponentials(jl.softmax_statistics) > 0
    assert flops(entropies) == flops(entropies_alone)
    assert flops(entropies) < flops(jl.softmax_statistics)


@pytest.mark.any_program
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: statistics(x, jnp.zeros((2, 3, 1), int)), "`labels`"),
        (lambda x: statistics(x, jnp.zeros((2, 0), int)), "at least one"),
        (lambda x: statistics(x, jnp.zeros(3, int)), "`labels` must"),
    ],
)
def test_wrong_labels_are_told(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.zeros((2, 4)))


@pytest.mark.any_program
def test_log_softmax_of_masked_classes_and_examples():
    rows = jnp.array([[0.3, jnp.nan, -0.5], [jnp.nan, 0.0, 1.0]])
    classes = jnp.array([[True, False, True], [False, True, True]])
    found = jl.log_softmax(rows, where=classes)
    assert np.all(np.isneginf(np.asarray(found)) == ~np.asarray(classes))
    np.testing.assert_allclose(
        found[0, ::2], np.log(1 / (1 + np.exp([-0.8, 0.8]))), rtol=1e-6
    )
    found = jl.log_softmax(rows[:, ::2].T, 0, where=jnp.array([True, False]))
    assert found[:, 1].tolist() == [0, 0]


def test_a_field_that_is_not_used_costs_nothing_in_the_sweep():
    hidden, kernel = jnp.ones((24, 8)), jnp.ones((8, 64))
    labels = jnp.zeros((24, 3), int)

    def of(name, labels=labels):
        def field(hidden, kernel):
            found = jl.linear_statistics(hidden, kernel, labels, chunk_size=8)
            return found if name is None else getattr(found, name)

        return jax.jit(field).lower(hidden, kernel).compile()

    def cost(program):
        return cast(Any, program.cost_analysis())["flops"]

    def exponentials(program):
        return str(program.as_text()).count(" exponential(")

    assert str(of(None).as_text()).count(" while(") == 1  # in chunks, one sweep
    assert exponentials(of("predictions")) == 0
    assert exponentials(of(None)) > 0
    assert cost(of("entropies")) == cost(of("entropies", None)) < cost(of(None))
    assert cost(of("log_probs")) < cost(of(None))


def test_a_field_that_is_not_used_costs_nothing_in_the_backward_sweep():
    """Its cotangent is 0: it takes no part in the gradient's program."""
    hidden, kernel = jnp.ones((24, 8)), jnp.ones((8, 64))
    labels = jnp.zeros(24, int)

    def flops(function):
        step = jax.jit(jax.grad(lambda *layer: jnp.sum(function(*layer)), (0, 1)))
        program: Any = step.lower(hidden, kernel).compile()
        return program.cost_analysis()["flops"]

    def field(name, labels=labels):
        def of_layer(*layer):
            return getattr(jl.linear_statistics(*layer, labels, chunk_size=8), name)

        return flops(of_layer)

    def both(*layer):
        return sum(jl.linear_log_probs(*layer, labels, chunk_size=8))

    def one(*layer):
        return jl.linear_log_probs(*layer, labels, chunk_size=8)[0]

    assert field("entropies") == field("entropies", None)
    assert field("log_normalizers") < field("entropies")
    assert flops(one) < flops(both)


@pytest.mark.any_program
def test_statistics_of_a_layer_are_those_of_its_logits():
    rng = np.random.default_rng(5)
    hidden = jnp.float32(rng.normal(size=(2, 5, 3)))
    kernel = jnp.float32(4 * rng.normal(size=(3, 7)))
    labels = jnp.asarray(rng.integers(0, 7, (2, 5, 2))).at[0, 1, 0].set(-1)
    keep = jnp.asarray(rng.random((2, 5)) < 0.7)
    spoiled = jnp.where(keep[..., None], hidden, jnp.nan)
    options: Any = {"ignore_index": -1, "where": keep}

    def linear(hidden, kernel):
        return jl.linear_statistics(hidden, kernel, labels, chunk_size=4, **options)

    def table(hidden, kernel):
        return jl.linear_statistics(hidden, kernel.T, labels, class_axis=0, **options)

    def plain(hidden, kernel):
        return jl.softmax_statistics(hidden @ kernel, labels, **options)

    def results(function, hidden):
        def real(hidden, kernel):
            found = Fields(*function(hidden, kernel))
            return found.log_probs, *found[1:3], found.log_tail

        value, pull_back = jax.vjp(real, hidden, kernel)
        slopes = pull_back(jax.tree.map(jnp.cos, value))
        return value, slopes, function(hidden, kernel).predictions

    @jax.jit
    def every(hidden, spoiled):
        return [results(f, spoiled) for f in (linear, table)], results(plain, hidden)

    found, expected = every(hidden, spoiled)
    for one in found:
        assert_close(one[:2], expected[:2], 1e-5)
        assert one[2].tolist() == expected[2].tolist()
    alone = jl.linear_statistics(hidden, kernel)
    assert alone.log_probs is None
    assert alone.log_tail is None
    one = jl.linear_statistics(hidden, kernel, labels[..., 1])
    pair = jl.linear_log_probs(hidden, kernel, labels[..., 1])
    assert_close((one.log_probs, one.entropies), pair, 1e-5)


def split_over_devices(function, whole=False):
    mesh = jax.make_mesh((4,), ("model",), (AxisType.Auto,))
    specs = P(None, "model"), P()
    return jax.shard_map(
        function, mesh=mesh, in_specs=specs, out_specs=specs[0] if whole else P()
    )


@pytest.mark.any_program
def test_classes_split_over_devices_have_the_same_numbers_and_slopes():
    rng = np.random.default_rng(3)
    rows = jnp.float32(3 * rng.normal(size=(6, 12))).at[0, 5].set(60)
    rows = rows.at[1, 2].set(9).at[1, 9].set(9)  # the best twice, on two devices
    labels = jnp.asarray([[5, 0], [9, 11], [1, 1], [3, 4], [11, 0], [7, 8]])

    def of(axis_name):
        def numbers(x, labels):
            return statistics(x, labels, axis_name=axis_name)

        return numbers

    split = split_over_devices(of("model"))

    def both(x):
        def real(function):
            def parts(x):
                found = function(x, labels)
                return found.log_probs, *found[1:3], found.log_tail

            return *jax.vjp(parts, x), parts

        found = []
        for function in (split, of(None)):
            value, pull_back, parts = real(function)
            ct = jax.tree.map(lambda v: 1 + jnp.arange(v.size).reshape(v.shape), value)
            ct = jax.tree.map(lambda c, v: c.astype(v.dtype), ct, value)
            slope = pull_back(ct)[0]
            moved = jax.jvp(parts, (x,), (jnp.cos(x),))[1]
            found.append((value, slope, moved, function(x, labels).predictions))
        return found

    one, other = jax.jit(both)(rows)
    assert one[-1].tolist() == other[-1].tolist()
    assert one[-1][1] == 2
    assert_close(one[:-1], other[:-1], 1e-5)

    def log_p(x, _):
        return jl.log_softmax(x, axis_name="model")

    found = jax.jit(split_over_devices(log_p, whole=True))(rows, labels)
    assert_close(found, jl.log_softmax(rows), 1e-6)


@pytest.mark.any_program
def test_statistics_of_a_layer_whose_classes_are_split():
    rng = np.random.default_rng(6)
    hidden = jnp.float32(rng.normal(size=(6, 3)))
    kernel = jnp.float32(3 * rng.normal(size=(3, 12))).at[:, 9].set(0)
    kernel = kernel.at[:, 2].set(0)
    hidden = hidden.at[0].set(0)  # all classes alike
    labels = jnp.asarray([[5, 0], [9, 11], [1, 1], [3, 4], [11, 0], [7, 8]])

    def of(axis_name):
        def numbers(hidden, kernel):
            return Fields(
                *cast(Any, jl.linear_statistics)(
                    hidden, kernel, labels, chunk_size=4, axis_name=axis_name
                )
            )

        return numbers

    mesh = jax.make_mesh((4,), ("model",), (AxisType.Auto,))
    specs = P(), P(None, "model")
    split = jax.shard_map(of("model"), mesh=mesh, in_specs=specs, out_specs=P())

    @jax.jit
    def both(*arrays):
        found = []
        for function in (split, of(None)):

            def real(*arrays, function=function):
                found = function(*arrays)
                return found.log_probs, *found[1:3], found.log_tail

            value, pull_back = jax.vjp(real, *arrays)
            slopes = pull_back(jax.tree.map(jnp.cos, value))
            moved = jax.jvp(real, arrays, jax.tree.map(jnp.cos, arrays))[1]
            found.append(((value, slopes, moved), function(*arrays).predictions))
        return found

    one, other = both(hidden, kernel)
    assert one[1].tolist() == other[1].tolist()
    assert one[1][0] == 0
    assert_close(one[0], other[0], 1e-5)


@pytest.mark.optimised
def test_one_label_needs_four_arrays_of_a_chunk():
    """A scatter for the label's gradient would be a fifth one."""
    chunk, features, classes = 256, 16, 8192

    def total(hidden, kernel, labels):
        found = jl.linear_statistics(hidden, kernel, labels, chunk_size=chunk)
        return jnp.sum(found.log_probs + found.entropies + found.log_normalizers)

    arrays = (
        jax.ShapeDtypeStruct((4 * chunk, features), jnp.float32),
        jax.ShapeDtypeStruct((features, classes), jnp.float32),
        jax.ShapeDtypeStruct((4 * chunk,), jnp.int32),
    )
    step = jax.jit(jax.value_and_grad(total, (0, 1)))
    memory = step.lower(*arrays).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4.5 * 4 * chunk * classes

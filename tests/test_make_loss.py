"""A loss of one's own: its derivatives are its rule's, its messages name the rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases.custom import brier, smooth_quantile
from common import assert_close
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads
from test_errors import refused
from test_sharding import make_mesh

import jaxloss as jl

pytestmark = [pytest.mark.usefixtures("device"), pytest.mark.any_program]


def steep(x):
    """x², with ten times its gradient, so that the true one cannot pass for it."""
    return x * x, (20 * x,)


def two_slopes(x, y):
    """x y, with gradients that are not (y, x): each argument has its own."""
    return x * y, (3 * x, 5 * y)


X = jnp.array([0.0, 1.0, 2.0])
LOGITS = jnp.array([[0.3, -1.1, 0.8], [2.5, 0.1, -0.7], [-3.0, 4.0, 0.6]])
LABELS = jnp.array([2, 0, 0])
PREDICTIONS = jnp.array([0.7, -1.2, 3.5, 0.1])
TARGETS = jnp.array([0.2, 0.4, -1.5, 0.3])


# Which derivative is used


def summed(x):
    return jl.make_loss(steep)(x, reduction="sum")


def scanned(x):
    """The same sum, one example after the other."""
    loss = jl.make_loss(steep)
    return jax.lax.scan(lambda total, one: (total + loss(one), None), 0.0, x)[0]


def looped(x):
    """Forward mode alone: a loop of unknown length has no reverse one."""
    loss = jl.make_loss(steep)

    def step(state):
        i, total = state
        return i + 1, total + loss(x[i])

    return jax.lax.while_loop(lambda state: state[0] < 3, step, (0, 0.0))[1]


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint])
@pytest.mark.parametrize("total", [summed, scanned])
def test_both_modes_use_the_rule(total, wrap):
    total = wrap(total)
    ones = jnp.ones(3)
    assert total(X) == 5
    assert [float(y) for y in jax.jvp(total, (X,), (ones,))] == [5, 60]
    value, gradient = jax.value_and_grad(total)(X)
    assert value == 5
    assert gradient.tolist() == [0, 20, 40]
    value, linear = jax.linearize(total, X)
    assert (float(value), float(linear(ones))) == (5, 60)
    assert jax.jacfwd(total)(X).tolist() == [0, 20, 40]


def test_forward_mode_uses_the_rule_inside_a_while_loop():
    value, slope = jax.jvp(looped, (X,), (jnp.ones(3),))
    assert (float(value), float(slope)) == (5, 60)


@pytest.mark.parametrize("total", [summed, scanned])
@pytest.mark.parametrize(
    "second",
    [
        jax.hessian,
        lambda f: jax.jacfwd(jax.jacfwd(f)),
        lambda f: jax.jacrev(jax.jacrev(f)),
        lambda f: jax.jacrev(jax.jacfwd(f)),
    ],
    ids=["hessian", "fwd-fwd", "rev-rev", "rev-fwd"],
)
def test_second_order_differentiates_the_gradient_of_the_rule(total, second):
    assert second(total)(X).tolist() == (20 * np.eye(3)).tolist()


@pytest.mark.parametrize(
    "second",
    [
        jax.hessian,
        lambda f: jax.jacfwd(jax.jacfwd(f)),
        lambda f: jax.jacrev(jax.jacrev(f)),
    ],
)
def test_value_that_a_scan_keeps_is_differentiated_by_the_rule_too(second):
    """Of a square the gradient has the value as a factor: 2 l g, with l = x², g = 20 x.

    The second derivative is 2 g² + 2 l g' = 840 x²; a value that had lost its rule in
    the loop, as JAX 0.10 would have it, would give 2 g (2 x) + 2 l g' = 120 x².
    """
    loss = jl.make_loss(steep)

    def squares(x):
        return jax.lax.scan(lambda total, one: (total + loss(one) ** 2, None), 0.0, x)[
            0
        ]

    assert jax.grad(squares)(X).tolist() == [0, 40, 320]
    assert second(squares)(X).tolist() == np.diag([0, 840, 3360]).tolist()


def test_each_argument_has_its_own_gradient():
    x, y = jnp.array([1.0, 2.0]), jnp.array([-3.0, 4.0])
    loss = jl.make_loss(two_slopes)
    value, pull_back = jax.vjp(loss, x, y)
    assert value.tolist() == [-3, 8]
    of_x, of_y = pull_back(jnp.array([1.0, 10.0]))
    assert of_x.tolist() == [3, 60]
    assert of_y.tolist() == [-15, 200]
    # 3x · 1 + 5y · 2
    _, slope = jax.jvp(loss, (x, y), (jnp.ones(2), 2 * jnp.ones(2)))
    assert slope.tolist() == [-27, 46]


@pytest.mark.usefixtures("x64")
def test_rules_of_the_catalogue_have_their_true_gradients():
    quantile = jl.make_loss(smooth_quantile)
    real = [np.float64(x) for x in (PREDICTIONS, TARGETS, 0.8, 0.6)]
    check_grads(quantile, real, order=2, modes=("fwd", "rev"))
    score = jl.make_loss(brier, "(c),()->()")
    logits = np.float64(LOGITS)
    check_grads(lambda x: score(x, LABELS), (logits,), order=2, modes=("fwd", "rev"))


# The tail, shapes and dtypes


def test_tail_excludes_weighs_and_reduces():
    loss = jl.make_loss(steep)
    x = jnp.array([3.0, jnp.nan, jnp.inf, 2.0])
    keep = jnp.array([True, False, True, True])
    weights = jnp.array([0.5, 7.0, 0.0, 1.5])
    tail = {"where": keep, "weights": weights}
    assert loss(x, **tail).tolist() == [4.5, 0, 0, 6]
    assert loss(x, **tail, reduction="sum") == 10.5
    value, gradient = jax.value_and_grad(loss)(x, **tail, reduction="mean")
    assert value == 10.5 / 2
    assert gradient.tolist() == [0.5 * 60 / 2, 0, 0, 1.5 * 40 / 2]
    nothing = jax.value_and_grad(loss)(x, where=jnp.zeros(4, bool), reduction="mean")
    assert (float(nothing[0]), nothing[1].tolist()) == (0, [0, 0, 0, 0])


def test_weights_have_the_loss_as_their_derivative():
    loss = jl.make_loss(steep)
    of_weights = jax.grad(lambda w: loss(X, weights=w, reduction="sum"))
    assert of_weights(jnp.array([0.0, 0.0, 3.0])).tolist() == [0, 1, 4]


def test_excluded_examples_reach_the_rule_as_harmless_values():
    """0.5 and the label 0, so that a rule may divide by what users never pass as 0."""
    seen = []

    def rule(x, label):
        jax.debug.callback(lambda *found: seen.append(found), x, label)
        return jnp.log(x), (1 / x, None)

    loss = jl.make_loss(rule)
    keep = jnp.array([True, False])
    value = loss(jnp.array([1.0, -3.0]), jnp.array([4, 7]), where=keep)
    jax.effects_barrier()
    assert value.tolist() == [0, 0]
    assert sorted((float(x), int(label)) for x, label in seen) == [(0.5, 0), (1.0, 4)]


def test_first_argument_sets_the_batch():
    score = jl.make_loss(brier, "(c),()->()")
    one = score(LOGITS[0], 2)
    assert one.shape == ()
    assert_close(score(LOGITS, LABELS)[0], one)
    stacked = jnp.stack([LOGITS, LOGITS + 1])
    assert score(stacked, LABELS).shape == (2, 3)
    assert_close(score(stacked, LABELS)[0], score(LOGITS, LABELS))
    assert score(LOGITS[:0], LABELS[:0]).shape == (0,)


def test_shared_hyperparameter_gets_the_sum_of_its_gradients():
    loss = jl.make_loss(smooth_quantile)

    def total(quantile, width):
        return loss(PREDICTIONS, TARGETS, quantile, width, reduction="sum")

    spread = [jnp.full(4, 0.8), jnp.full(4, 0.6)]
    shared = jax.grad(total, (0, 1))(0.8, 0.6)
    each = jax.grad(total, (0, 1))(*spread)
    assert_close(shared, tuple(jnp.sum(x) for x in each))
    per_axis = loss(jnp.ones((2, 3)), 0.0, jnp.full((2, 1), 0.8), 0.6)
    assert per_axis.shape == (2, 3)


def test_shared_vector_follows_the_signature():
    """A vector for all examples, as class weights are."""

    def rule(x, scale):
        return jnp.sum(scale * x * x), (2 * scale * x, x * x)

    loss = jl.make_loss(rule, "(c),(c)->()")
    scale = jnp.array([1.0, 0.0, 2.0])
    assert_close(loss(LOGITS, scale), jnp.sum(scale[None] * LOGITS**2, axis=1))
    gradient = jax.grad(lambda s: loss(LOGITS, s, reduction="sum"))(scale)
    assert_close(gradient, jnp.sum(LOGITS**2, axis=0))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(dtype):
    seen = []

    def rule(x, y):
        seen.append((x.dtype, y.dtype))
        return (x - y) ** 2, (2 * (x - y), 2 * (y - x))

    loss = jl.make_loss(rule)
    x = jnp.array([300.0, 1.0], dtype)  # whose square overflows float16
    value, pull_back = jax.vjp(loss, x, jnp.zeros(2, dtype))
    assert value.dtype == jnp.float32
    assert value.tolist() == [90_000, 1]
    assert [g.dtype for g in pull_back(jnp.ones(2))] == [dtype, dtype]
    assert set(seen) == {(np.dtype("float32"), np.dtype("float32"))}


@pytest.mark.usefixtures("x64")
def test_one_float64_argument_widens_all():
    loss = jl.make_loss(two_slopes)
    assert loss(jnp.float32(1), jnp.float64(1)).dtype == jnp.float64
    assert loss(jnp.float32(1), jnp.float32(1)).dtype == jnp.float32


def test_integer_argument_has_no_gradient():
    score = jl.make_loss(brier, "(c),()->()")
    value, pull_back = jax.vjp(score, LOGITS, LABELS)
    assert pull_back(jnp.ones_like(value))[1].dtype == jax.dtypes.float0
    tangents = jnp.ones_like(LOGITS), np.zeros(3, jax.dtypes.float0)
    assert jax.jvp(score, (LOGITS, LABELS), tangents)[1].shape == (3,)


def test_numbers_and_lists_are_arrays():
    loss = jl.make_loss(two_slopes)
    assert loss(2, 3.0) == 6
    assert loss([1.0, 2.0], 3.0).tolist() == [3, 6]
    assert loss(np.float64(2), np.array(3.0)).dtype == jnp.float32


# Transformations and devices


def test_mapped_and_compiled_equal_plain():
    score = jl.make_loss(brier, "(c),()->()")
    plain = score(LOGITS, LABELS)
    assert_close(jax.jit(score)(LOGITS, LABELS), plain)
    assert_close(jax.vmap(score)(LOGITS, LABELS), plain)
    assert_close(jax.vmap(score, (0, None))(LOGITS, 1), score(LOGITS, 1))
    assert jax.vmap(score)(LOGITS[:0], LABELS[:0]).shape == (0,)

    def total(x, labels):
        return score(x, labels, reduction="sum")

    whole = jax.grad(total)(LOGITS, LABELS)
    assert_close(jax.vmap(jax.grad(total))(LOGITS, LABELS), whole)
    assert_close(jax.jit(jax.vmap(jax.grad(total)))(LOGITS, LABELS), whole)


def test_rule_is_traced_once_for_each_set_of_shapes():
    traces = []

    def rule(x):
        traces.append(x.shape)
        return steep(x)

    loss = jl.make_loss(rule)
    loss(X)
    first = len(traces)
    loss(X + 1)
    assert len(traces) == first
    loss(X[:2])
    assert len(traces) > first


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_spread_examples_stay_where_they_are(kind):
    mesh = make_mesh(kind, examples=8)
    score = jl.make_loss(brier, "(c),()->()")
    quantile = jl.make_loss(smooth_quantile)
    logits, labels = jnp.tile(LOGITS, (8, 1)), jnp.tile(LABELS, 8)
    numbers = jnp.linspace(-2, 2, 24)
    keep = np.arange(24) % 5 != 0

    @jax.jit
    def results(logits, labels, numbers, width):
        def total(logits, numbers, width):
            scores = score(logits, labels, where=keep, reduction="mean")
            return scores + quantile(numbers, 0.3, 0.8, width, reduction="sum")

        return score(logits, labels), jax.grad(total, (0, 1, 2))(logits, numbers, width)

    arrays = logits, labels, numbers
    plain = results(*arrays, jnp.float32(0.6))
    placed = [jax.device_put(x, NamedSharding(mesh, P("examples"))) for x in arrays]
    with jax.set_mesh(mesh):
        found = results(*placed, jax.device_put(0.6, NamedSharding(mesh, P())))
    assert found[0].sharding.spec[0] == "examples"
    assert found[1][0].sharding.spec[0] == "examples"
    assert_close(found, plain)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_class_axis_may_be_split_over_devices(kind):
    """The rule is written for the whole vector of an example."""
    mesh = make_mesh(kind, classes=2)
    score = jl.make_loss(brier, "(c),()->()")
    logits = jnp.pad(LOGITS, [(0, 0), (0, 1)])
    placed = jax.device_put(logits, NamedSharding(mesh, P(None, "classes")))
    with jax.set_mesh(mesh):
        found = jax.jit(score)(placed, LABELS)
    assert_close(found, score(logits, LABELS))


# Messages


def rule_that_returns(result):
    def my_rule(x, label):
        return result(x)

    return my_rule


@pytest.mark.parametrize(
    ("result", "kind", "text"),
    [
        (
            lambda x: x,
            TypeError,
            "`rule` my_rule must return (loss, (gradient, ...)), "
            "got ShapeDtypeStruct(shape=(), dtype=float32).",
        ),
        (
            lambda x: (x, x, None),
            TypeError,
            "`rule` my_rule must return (loss, (gradient, ...)), got ",
        ),
        (
            lambda x: (jnp.stack([x, x]), (x, None)),
            ValueError,
            "`rule` my_rule must return a floating scalar as the loss of one example, "
            "got ShapeDtypeStruct(shape=(2,), dtype=float32).",
        ),
        (
            lambda x: (x > 0, (x, None)),
            ValueError,
            "`rule` my_rule must return a floating scalar as the loss of one example, "
            "got ShapeDtypeStruct(shape=(), dtype=bool).",
        ),
        (
            lambda x: (x, x),
            TypeError,
            "`rule` my_rule must return a tuple of 2 gradients, one per argument, got ",
        ),
        (
            lambda x: (x, [x, None]),
            TypeError,
            "`rule` my_rule must return a tuple of 2 gradients, one per argument, got ",
        ),
        (
            lambda x: (x, (x,)),
            TypeError,
            "`rule` my_rule must return a tuple of 2 gradients, one per argument, got ",
        ),
        (
            lambda x: (x, (jnp.stack([x, x]), None)),
            ValueError,
            "`rule` my_rule must return a gradient of shape () for argument 0, "
            "got ShapeDtypeStruct(shape=(2,), dtype=float32).",
        ),
        (
            lambda x: (x, (None, None)),
            ValueError,
            "`rule` my_rule must return a gradient of shape () for argument 0, "
            "got None.",
        ),
        (
            lambda x: (x, (x, x)),
            TypeError,
            "`rule` my_rule must return None as the gradient of the integer "
            "argument 1, got ",
        ),
    ],
)
def test_wrong_result_of_the_rule_is_named(result, kind, text):
    loss = jl.make_loss(rule_that_returns(result))
    error = refused(lambda x: loss(x, jnp.array([0, 1, 2])), X)
    assert isinstance(error, kind)
    assert str(error).startswith(text)
    assert text.endswith("got ") or str(error) == text


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (
            lambda x: jl.make_loss(3),
            TypeError,
            "`rule` must be callable, got 3.",
        ),
        *(
            (
                lambda x, signature=signature: jl.make_loss(brier, signature),
                ValueError,
                "`signature` must be like '(c),()->()', with a scalar as its result, "
                f"got {signature!r}.",
            )
            for signature in ("(c),()", "(c),()->(c)", "c,()->()", "(3)->()", "", 3)
        ),
        (
            lambda x: jl.make_loss(brier, "(c),()->()")(x),
            TypeError,
            "`arguments` must be 2 arrays as in '(c),()->()', got 1.",
        ),
        (
            lambda x: jl.make_loss(steep)(),
            TypeError,
            "`arguments` must have at least one array, got none.",
        ),
        (
            lambda x: jl.make_loss(steep)("text"),
            TypeError,
            "`arguments[0]` must be an array of numbers, got str.",
        ),
        (
            lambda x: jl.make_loss(brier, "(c),()->()")(x[0], 0),
            ValueError,
            "`arguments[0]` must have the axes ('c',) of the signature, got shape ().",
        ),
        (
            lambda x: jl.make_loss(two_slopes)(x, x[:, None]),
            ValueError,
            "`arguments[1]` must broadcast to the shape of arguments[0]'s batch (3,), "
            "got shape (3, 1); drop its last axis with `arguments[1][..., 0]`.",
        ),
        (
            lambda x: jl.make_loss(two_slopes, "(c),(c)->()")(x, x[:2]),
            ValueError,
            "`arguments[1]` must end with the axes ('c',) of the signature, of sizes "
            "(3,), got shape (2,).",
        ),
        (
            lambda x: jl.make_loss(steep)(x, reduction="average"),
            ValueError,
            "`reduction` must be one of 'none', 'mean', 'sum', got 'average'.",
        ),
        (
            lambda x: jl.make_loss(steep)(x, where=x),
            TypeError,
            "`where` must be boolean, got float32; write `where != 0`, or pass real "
            "factors as `weights`.",
        ),
    ],
)
def test_wrong_call_is_named(call, kind, text):
    error = refused(call, X)
    assert isinstance(error, kind)
    assert str(error) == text


def test_made_loss_is_named_after_its_rule():
    assert jl.make_loss(steep).__name__ == "steep"
    assert "steep" in jl.make_loss(steep).__doc__

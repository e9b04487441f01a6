"""Argument checks: what they return, and their messages by the text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxloss as jl
from jaxloss._core.arguments import checks
from jaxloss._core.arguments.tail import Tail

F16, F32, I32 = jnp.float16, jnp.float32, jnp.int32


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (
            lambda: checks.real_arrays(scores=jnp.ones(2, I32)),
            TypeError,
            "`scores` must be floating, got int32; "
            "convert it with `scores.astype(jnp.float32)`.",
        ),
        (
            lambda: checks.real_arrays(scores=jnp.ones(2, bool)),
            TypeError,
            "`scores` must be floating, got bool; "
            "convert it with `scores.astype(jnp.float32)`.",
        ),
        (
            lambda: checks.real_arrays(scores=jnp.ones(3), targets=jnp.ones((2, 3))),
            ValueError,
            "`targets` must broadcast to the shape of scores (3,), got shape (2, 3).",
        ),
        (
            lambda: checks.real_arrays(scores=jnp.ones(3), targets=1j),
            TypeError,
            "`targets` must be real, got complex64.",
        ),
        (
            lambda: checks.to_array("scores", "text"),
            TypeError,
            "`scores` must be an array of numbers, got str.",
        ),
        (
            lambda: checks.to_array("scores", [[1.0], [2.0, 3.0]]),
            TypeError,
            "`scores` must be an array of numbers, got list.",
        ),
        (
            lambda: checks.to_mask("where", jnp.ones(2)),
            TypeError,
            "`where` must be boolean, got float32; write `where != 0`, or pass real "
            "factors as `weights`.",
        ),
        (
            lambda: checks.unweighted_mask(jnp.ones(2)),
            TypeError,
            "`where` must be boolean, got float32; write `where != 0`.",
        ),
        (
            lambda: checks.tail(
                jnp.ones((2, 1), bool), None, "mean", shape=(2,), dtype=F32
            ),
            ValueError,
            "`where` must broadcast to the shape of the per-example loss (2,), "
            "got shape (2, 1); drop its last axis with `where[..., 0]`.",
        ),
        (
            lambda: checks.tail(None, jnp.ones(3), "mean", shape=(2,), dtype=F32),
            ValueError,
            "`weights` must broadcast to the shape of the per-example loss (2,), "
            "got shape (3,).",
        ),
        (
            lambda: checks.check_option("reduction", "max", ("none", "sum")),
            ValueError,
            "`reduction` must be one of 'none', 'sum', got 'max'.",
        ),
        (
            lambda: checks.at_least(0).check("gamma", -1),
            ValueError,
            "`gamma` must be in [0, inf], got -1.",
        ),
        (
            lambda: checks.above(0).check("scale", 0.0),
            ValueError,
            "`scale` must be in (0, inf], got 0.0.",
        ),
        (
            lambda: checks.between(0, 1).check("share", float("nan")),
            ValueError,
            "`share` must be in [0, 1], got nan.",
        ),
        (
            lambda: checks.Interval(maximum=1).check("share", np.array([0.5, 1.5])),
            ValueError,
            "`share` must be in [-inf, 1], got [0.5 1.5].",
        ),
        (
            lambda: checks.Interval().check("share", np.array("half")),
            TypeError,
            "`share` must be real, got <U4.",
        ),
        (
            lambda: checks.integer_array("labels", jnp.ones(2)),
            TypeError,
            "`labels` must be integer class indices, got float32.",
        ),
        (
            lambda: checks.scalar("margin", jnp.ones(1), F32),
            ValueError,
            "`margin` must be a scalar, got shape (1,).",
        ),
        (
            lambda: checks.check_integer("ignore_index", 1.0),
            TypeError,
            "`ignore_index` must be an int or None, got 1.0.",
        ),
        (
            lambda: checks.class_array("logits", jnp.ones((2, 0)), -1),
            ValueError,
            "`logits` must have at least one class, got shape (2, 0) with axis=-1.",
        ),
        (
            lambda: checks.class_array("logits", 1.0, -1),
            ValueError,
            "`logits` must have a class axis, got a scalar.",
        ),
        (
            lambda: checks.class_array("logits", jnp.ones((2, 3), I32), -1),
            TypeError,
            "`logits` must be floating, got int32; "
            "convert it with `logits.astype(jnp.float32)`.",
        ),
        (
            lambda: checks.canonical_axis("axis", 2, 2),
            ValueError,
            "`axis` must be in [-2, 2) for 2 axes, got 2.",
        ),
        (
            lambda: checks.canonical_axis("axis", 0.5, 2),
            TypeError,
            "`axis` must be an int, got 0.5.",
        ),
        (
            lambda: checks.canonical_axes("axis", (0, -2), 2),
            ValueError,
            "`axis` must name each axis once, got (0, -2).",
        ),
        (
            lambda: checks.canonical_axes("axis", (), 2),
            ValueError,
            "`axis` must name each axis once, got ().",
        ),
    ],
)
def test_message_says_what_came_and_what_was_expected(call, kind, text):
    with pytest.raises(kind) as raised:
        call()
    assert type(raised.value) is kind
    assert str(raised.value) == text


def test_real_arrays_have_one_dtype_and_one_shape():
    found = checks.real_arrays(
        scores=jnp.ones((2, 3), F16), targets=[True, False, True], scale=2
    )
    assert [x.shape for x in found] == [(2, 3)] * 3
    assert {x.dtype for x in found} == {jnp.dtype(F32)}
    assert found[1].tolist() == [[1, 0, 1]] * 2
    # Numbers and lists lead as floating.
    assert checks.real_arrays(scores=[1, 2])[0].dtype == F32


@pytest.mark.usefixtures("x64")
def test_dtype_to_compute_in():
    half, single, double = (jnp.ones(2, kind) for kind in (F16, F32, jnp.float64))
    integer, weak = jnp.ones(2, I32), jnp.asarray(0.5)
    assert checks.compute_dtype(half) == F32
    assert checks.compute_dtype(single, integer) == F32
    assert checks.compute_dtype(half, double) == jnp.float64
    # A Python number widens nothing, and decides where nothing else does.
    assert weak.weak_type
    assert checks.compute_dtype(single, weak) == F32
    assert checks.compute_dtype(weak, integer) == jnp.float64


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 3), (2, 1), (2, 3)])
def test_shapes_that_broadcast(shape):
    checks.check_broadcast("targets", shape, "scores", (2, 3))


@pytest.mark.parametrize("shape", [(2,), (3, 1), (1, 2, 3), (6,), (0,)])
def test_shapes_that_would_widen(shape):
    with pytest.raises(ValueError, match="`targets` must broadcast"):
        checks.check_broadcast("targets", shape, "scores", (2, 3))


def test_broadcast_follows_the_placement_on_an_explicit_mesh():
    kinds, devices = (AxisType.Explicit,), jax.devices("cpu")[:2]
    mesh = jax.make_mesh((2,), ("examples",), kinds, devices=devices)
    placed = NamedSharding(mesh, P("examples", None))
    with jax.set_mesh(mesh):
        like = jax.device_put(jnp.ones((2, 3)), placed)
        found = checks.broadcast_to(jnp.ones(3), like)
    assert found.sharding.spec == P("examples", None)


def test_numbers_are_checked_and_arrays_are_not():
    for number in (0, 0.5, True, np.float32(1), np.array([0.0, 1.0])):
        checks.between(0, 1).check("share", number)
    # An array is judged alike with and without `jit`.
    assert np.isfinite(jl.huber_loss(1.0, delta=jnp.array(-7.0)))
    with pytest.raises(ValueError, match=r"^`delta` must be in \[0, inf\], got -7.0.$"):
        jl.huber_loss(1.0, delta=-7.0)


def test_class_arrays_keep_their_precision():
    array, axes = checks.class_array("logits", jnp.ones((2, 3, 4), F16), (-1, 0))
    assert array.dtype == F16
    assert axes == (2, 0)
    array, axes = checks.class_array("logits", [[1, 2]], -1)
    assert array.dtype == F32
    assert axes == (1,)


def test_tail_takes_the_rank_of_the_loss():
    tail = checks.tail(True, [1, 2, 3], "sum", shape=(2, 3), dtype=F32)
    assert tail.keep.shape == (1, 1)
    assert tail.weights.shape == (1, 3)
    assert tail.weights.dtype == F32
    assert checks.tail(None, None, "none", shape=(2,), dtype=F32) == Tail(
        None, None, "none"
    )


def test_values_are_checked_under_checkify_alone():
    def checked(x):
        return checks.check_values("labels", x, x >= 0, "at least 0")

    bad = jnp.array([1, -1])
    assert jax.jit(checked)(bad).tolist() == [1, -1]
    for wrap in (checked, jax.jit(checked)):
        assert checkify.checkify(wrap)(jnp.array([1, 0]))[0].get() is None
        message = checkify.checkify(wrap)(bad)[0].get()
        assert message.startswith("`labels` must be at least 0.")

"""Calls outside `jit`: compiled once, and in every setting the same function."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import assert_close, each_case, weighted

import jaxloss as jl

pytestmark = pytest.mark.usefixtures("device")

# A rule on numbers, a class axis with labels, chunks, a loop, pairs.
STAND_FOR_ALL = {
    "huber_loss",
    "softmax_cross_entropy_with_integer_labels",
    "linear_cross_entropy",
    "ctc_loss",
    "ntxent",
}
few = each_case(lambda case: case.id in STAND_FOR_ALL)


def compilations(function):
    """How many programs XLA compiles for a call."""
    count = 0

    def listen(event, *_, **__):
        nonlocal count
        count += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.block_until_ready(function())
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return count


def test_one_program_serves_every_number():
    """Neither another hyperparameter nor another value is compiled again."""
    x, y = jnp.arange(5.0), jnp.ones(5)
    jl.huber_loss(x, y, delta=0.5)
    assert compilations(lambda: jl.huber_loss(y, x, delta=0.7)) == 0
    # The default is a constant of its program.
    jl.huber_loss(x, y)
    assert compilations(lambda: jl.huber_loss(y, x)) == 0
    assert compilations(lambda: jl.huber_loss(y, x, delta=1.0)) == 0


def test_an_axis_may_be_a_number_of_numpy():
    """Also beside a tuple of axes, with which NumPy would compare it entry by entry."""
    x = np.log(np.float32([[0.2, 0.5, 0.3]]))
    expected = jl.kl_divergence(x, np.exp(x)[..., ::-1], axis=(0, 1))
    for axis in (np.int32(-1), np.int64(1), -1):
        found = jl.kl_divergence(x, np.exp(x)[..., ::-1], axis=axis)
        np.testing.assert_allclose(found, [expected], rtol=1e-6)


def test_numbers_are_judged_at_every_call():
    """Also where the program is there already."""
    x = jnp.arange(3.0)
    jl.huber_loss(x, delta=0.5)
    with pytest.raises(ValueError, match=r"^`delta` must be in \[0, inf\], got -0.5.$"):
        jl.huber_loss(x, delta=-0.5)


@pytest.mark.any_program
@few
def test_settings_of_jax_are_kept(case):
    """Eager calls under `disable_jit`, leak checks and `debug_nans`."""
    real, rest = weighted(case)

    def value_and_gradient():
        return jax.value_and_grad(lambda real: jnp.sum(case({**real, **rest})))(real)

    expected = value_and_gradient()
    with jax.checking_leaks():
        assert_close(value_and_gradient(), expected)
    with jax.debug_nans(True):
        assert_close(value_and_gradient(), expected)
    with jax.disable_jit():
        assert_close(case({**real, **rest}), jax.jit(case)({**real, **rest}))


def test_debug_nans_names_a_nan_of_an_eager_call():
    with jax.debug_nans(True), pytest.raises(FloatingPointError, match="nan"):
        jl.squared_error(jnp.array([jnp.inf]), jnp.array([jnp.inf]))


def test_a_program_that_donates_its_input_may_be_used():
    def step(x):
        return x - jax.grad(lambda x: jl.l2_loss(x).sum())(x)

    donating = jax.jit(step, donate_argnums=0)
    x = jnp.arange(4.0)
    np.testing.assert_array_equal(donating(x), np.zeros(4))
    assert jl.l2_loss(jnp.arange(4.0))[3] == 4.5


def test_weak_types_stay_weak_inputs():
    """A Python number takes part in float32 arithmetic, and in float16 inputs' too."""
    x = jnp.arange(3, dtype=jnp.float16)
    assert jl.huber_loss(x, 1.0, delta=0.5).dtype == jnp.float32
    assert jl.huber_loss(2.0, delta=0.5).dtype == jnp.float32
    with jax.enable_x64(True):
        assert jl.huber_loss(jnp.arange(3.0, dtype=jnp.float32), 1.0).dtype == "float32"
        assert jl.huber_loss(2.0).dtype == jnp.float64
        assert jl.huber_loss([2.0]).dtype == jnp.float64


def test_threads_call_at_the_same_time():
    x, y = jnp.arange(7.0), jnp.ones(7)
    results = []

    def work(delta):
        results.append((delta, jl.huber_loss(x, y, delta=delta)))

    threads = [threading.Thread(target=work, args=(0.1 * i,)) for i in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    for delta, loss in results:
        e = np.abs(np.arange(7.0) - 1)
        expected = np.where(e <= delta, e**2 / 2, delta * (e - delta / 2))
        np.testing.assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (lambda: jl.huber_loss(), TypeError),
        (lambda: jl.huber_loss(1.0, 2.0, 3.0), TypeError),
        (lambda: jl.huber_loss(1.0, predictions=2.0), TypeError),
        (lambda: jl.huber_loss(1.0, gamma=2.0), TypeError),
        (lambda: jl.huber_loss("x"), TypeError),
        (lambda: jl.huber_loss(1.0, reduction=["mean"]), ValueError),
    ],
)
def test_wrong_calls_raise_as_of_any_function(call, kind):
    with pytest.raises(kind):
        call()


def test_traceback_of_a_wrong_shape_is_short():
    """The checks run in a trace; neither it nor JAX's note on it is shown."""
    with pytest.raises(ValueError, match="`targets` must broadcast") as error:
        jl.huber_loss(jnp.zeros(3), jnp.zeros(2))
    assert not getattr(error.value, "__notes__", [])
    frames = [str(entry.path) for entry in error.traceback]
    assert not any("jax/_src" in path for path in frames)
    assert len(frames) == 2

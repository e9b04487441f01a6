"""Classes over devices: the same loss, and what crosses the network for it."""

import functools
import re
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import assert_close
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxloss as jl

EXAMPLES, CLASSES = 24, 40
LABELS = np.random.default_rng(0).integers(0, CLASSES, EXAMPLES).astype(np.int32)
LABELS[:4] = [0, 9, 10, 39]  # at both ends of a device's classes
LOGITS = np.random.default_rng(1).normal(size=(EXAMPLES, CLASSES), scale=3)
WHERE = np.random.default_rng(2).random((EXAMPLES, CLASSES)) < 0.8
WHERE[np.arange(EXAMPLES), LABELS] = True
WHERE[5] = False
PARAMETERS = {
    "class_weights": np.random.default_rng(3).uniform(0.5, 2, CLASSES),
    "label_smoothing": np.array(0.1),
    "z_loss": np.array(0.01),
}
COTANGENT = jnp.linspace(-1, 2, EXAMPLES)

cross_entropy = jl.softmax_cross_entropy_with_integer_labels


def make_mesh(kind):
    return jax.make_mesh((2, 4), ("batch", "model"), (kind, kind))


def mapped(**options):
    """The cross entropy with its classes split over the mesh axis "model"."""
    specs = {"logits": P("batch", "model"), "labels": P("batch")}
    specs |= {"class_weights": P("model"), "where": P("batch", "model")}

    def loss(arrays):
        return jax.shard_map(
            lambda arrays: cross_entropy(**arrays, axis_name="model", **options),
            mesh=make_mesh(AxisType.Auto),
            in_specs=({name: specs.get(name, P()) for name in arrays},),
            out_specs=P("batch"),
        )(arrays)

    return loss


def arguments(dtype, *, every):
    arrays = {"logits": jnp.asarray(LOGITS, dtype)}
    if every:
        arrays |= {n: jnp.asarray(x, jnp.float32) for n, x in PARAMETERS.items()}
    return arrays, {"labels": LABELS, "where": WHERE} if every else {"labels": LABELS}


@pytest.mark.parametrize("every", [False, True], ids=["logits", "all arguments"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_split_classes_have_every_derivative_of_whole_ones(dtype, every):
    real, rest = arguments(dtype, every=every)
    options = {"ignore_index": 9} if every else {}
    direction = jax.tree.map(lambda x: jnp.cos(7 * x), real)

    @jax.jit
    def derivatives(real):
        found = []
        for form in (mapped(**options), lambda x: cross_entropy(**x, **options)):

            def loss(real, form=form):
                return form({**real, **rest})

            value, pull_back = jax.vjp(loss, real)
            gradient = jax.grad(lambda real, f=loss: jnp.vdot(COTANGENT, f(real)))
            found.append(
                {
                    "value": value,
                    "vjp": pull_back(COTANGENT)[0],
                    "jvp": jax.jvp(loss, (real,), (direction,))[1],
                    "forward over reverse": jax.jvp(gradient, (real,), (direction,))[1],
                    "reverse over reverse": jax.vjp(gradient, real)[1](direction)[0],
                }
            )
        return found

    split, whole = derivatives(real)
    loose = None if dtype == "float32" else 0.01  # gradients are rounded to bfloat16
    assert_close(split, whole, loose)


def crossed(compiled):
    """The operands of every collective operation, as sizes."""
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    lines = re.findall(rf"= (.*?) (?:{kinds})(?:-start)?\(", compiled.as_text())
    return [
        int(np.prod([int(n) for n in shape.split(",") if n]))
        for line in lines
        for shape in re.findall(r"\w+\[([\d,]*)\]", line)
    ]


def value_and_gradient(loss, arrays, ct):
    logits = arrays.pop("logits")
    value, pull_back = jax.vjp(
        lambda logits: loss({"logits": logits, **arrays}), logits
    )
    return value, pull_back(ct)[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", ["Auto", "Explicit", "mapped"])
def test_only_numbers_an_example_cross_the_network(form, dtype):
    mesh = make_mesh(AxisType.Explicit if form == "Explicit" else AxisType.Auto)
    loss = mapped() if form == "mapped" else lambda arrays: cross_entropy(**arrays)
    arrays = {
        "logits": jax.device_put(
            jnp.asarray(LOGITS, dtype), NamedSharding(mesh, P("batch", "model"))
        ),
        "labels": jax.device_put(LABELS, NamedSharding(mesh, P("batch"))),
    }
    with jax.set_mesh(mesh):
        ct = jax.device_put(COTANGENT, NamedSharding(mesh, P("batch")))
        program = jax.jit(functools.partial(value_and_gradient, loss))
        sizes = crossed(program.lower(arrays, ct).compile())
        value, gradient = program(arrays, ct)
    assert sizes  # else nothing was read
    assert max(sizes) <= EXAMPLES // 2
    assert gradient.sharding.spec == P("batch", "model")
    plain = value_and_gradient(
        lambda arrays: cross_entropy(**arrays),
        {"logits": jnp.asarray(LOGITS, dtype), "labels": LABELS},
        COTANGENT,
    )
    loose = None if dtype == "float32" else 0.01
    assert_close((value, gradient), plain, loose)


def test_label_that_is_no_class_on_any_device_is_nan():
    labels = LABELS.copy()
    labels[:2] = [CLASSES, -1]
    loss = mapped()({"logits": jnp.float32(LOGITS), "labels": labels})
    assert np.isnan(loss[:2]).all()
    assert np.isfinite(loss[2:]).all()


@pytest.mark.parametrize(
    ("spec", "check"), [(P("batch", "model"), False), (P("batch"), True)]
)
def test_classes_that_are_not_seen_to_be_split_are_refused(spec, check):
    call = jax.shard_map(
        functools.partial(cross_entropy, axis_name="model"),
        mesh=make_mesh(AxisType.Auto),
        in_specs=(spec, P("batch")),
        out_specs=P("batch"),
        check_vma=check,
    )
    with pytest.raises(
        ValueError, match="`axis_name` must name the mesh axis"
    ) as error:
        call(jnp.float32(LOGITS), LABELS)
    assert "check_vma" in str(error.value)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_ntxent_sees_the_pairs_of_all_devices(kind):
    """Each device's examples have labels of their own: no pair lies on one device."""
    mesh = jax.make_mesh((8,), ("batch",), (kind,))
    embeddings = jnp.float32(np.random.default_rng(4).normal(size=(16, 4)))
    labels = np.resize(np.arange(8, dtype=np.int32), 16)

    @jax.jit
    def value_and_gradient(embeddings, labels):
        return jax.value_and_grad(jl.ntxent)(embeddings, labels)

    with jax.set_mesh(mesh):
        spread = jax.device_put((embeddings, labels), NamedSharding(mesh, P("batch")))
        found = value_and_gradient(*spread)
    plain = value_and_gradient(embeddings, labels)
    assert plain[0] > 1
    assert_close(found, plain)


STEPS = """
import sys
import jax
import jax.numpy as jnp
import numpy as np
import jaxloss as jl
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

port, rank, processes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
jax.config.update("jax_num_cpu_devices", 4 // processes)
if processes > 1:
    jax.distributed.initialize(f"127.0.0.1:{port}", processes, rank)
mesh = jax.make_mesh((2, 2), ("batch", "model"), (AxisType.Auto, AxisType.Auto))


def put(x, *spec):
    sharding = NamedSharding(mesh, P(*spec))
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


draw = np.random.default_rng(0)
features = put(draw.normal(size=(8, 6)).astype(np.float32), "batch")
labels = put(draw.integers(0, 10, 8).astype(np.int32), "batch")
kernel = put(draw.normal(size=(6, 10)).astype(np.float32), None, "model")


def loss(kernel, features, labels):
    return jl.softmax_cross_entropy_with_integer_labels(
        features @ kernel, labels, reduction="mean"
    )


@jax.jit
def step(kernel, *batch):
    value, gradient = jax.value_and_grad(loss)(kernel, *batch)
    return kernel - 0.5 * gradient, value


values = []
for _ in range(5):
    kernel, value = step(kernel, features, labels)
    values.append(value.addressable_data(0))
if rank == 0:
    print("losses", *map(float, values))
"""


def test_two_processes_train_as_one():
    def train(processes):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        started = [
            subprocess.Popen(
                [sys.executable, "-c", STEPS, port, str(rank), str(processes)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(processes)
        ]
        try:
            ended = [process.communicate(timeout=120) for process in started]
        finally:
            for process in started:
                process.kill()
        errors = [error for _, error in ended]
        assert [process.returncode for process in started] == [0] * processes, errors
        # JAX's own messages stand before it.
        [losses] = re.findall(r"^losses (.*)$", ended[0][0], flags=re.MULTILINE)
        return np.array([float(x) for x in losses.split()])

    alone, together = train(1), train(2)
    assert alone[-1] < alone[0] - 0.5
    np.testing.assert_allclose(together, alone, rtol=1e-6)

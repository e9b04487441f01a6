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

# XLA places the collective operations before LLVM optimises.
pytestmark = pytest.mark.any_program

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


@pytest.mark.exhaustive
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


def crossed(text):
    """The operands of every collective operation of a compiled program, as sizes."""
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    lines = re.findall(rf"= (.*?) (?:{kinds})(?:-start)?\(", text)
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
        sizes = crossed(program.lower(arrays, ct).compile().as_text())
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


ROWS, FEATURES, WORDS, CHUNK = 64, 24, 160, 8


def linear_arrays():
    rng = np.random.default_rng(5)
    hidden = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
    kernel = rng.normal(size=(FEATURES, WORDS)).astype(np.float32) / 5
    return hidden, kernel, rng.integers(0, WORDS, ROWS).astype(np.int32)


def linear_mapped(
    mesh, loss=jl.linear_cross_entropy, rows="batch", chunk_size=CHUNK, **options
):
    """The loss with the kernel's classes split over the mesh axis "model"."""
    specs = dict.fromkeys(("hidden", "labels", "where"), P(rows))
    specs |= {"kernel": P(None, "model"), "bias": P("model")}
    specs |= {"class_weights": P("model")}

    def local(arrays):
        return loss(**arrays, axis_name="model", chunk_size=chunk_size, **options)

    def call(**arrays):
        return jax.shard_map(
            local,
            mesh=mesh,
            in_specs=({name: specs.get(name, P()) for name in arrays},),
            out_specs=P(rows) if rows else P(),
        )(arrays)

    return call


def both_of_linear_log_probs(**arrays):
    return jnp.stack(jl.linear_log_probs(**arrays), -1)


# The examples of a sum are on all devices: "batch" would need a sum of sums.
@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("loss", "rows", "options"),
    [
        (jl.linear_cross_entropy, "batch", {}),
        (jl.linear_cross_entropy, None, {"reduction": "sum"}),
        (both_of_linear_log_probs, "batch", {}),
    ],
)
def test_linear_losses_of_split_classes_have_every_derivative(loss, rows, options):
    hidden, kernel, labels = linear_arrays()
    hidden, kernel, labels = hidden[:16, :3], kernel[:3, :12], labels[:16] % 12
    rng = np.random.default_rng(6)
    real = {
        "hidden": hidden,
        "kernel": kernel,
        "bias": jnp.float32(rng.normal(size=12)),
        "class_weights": jnp.float32(rng.uniform(0.5, 2, 12)),
        "label_smoothing": jnp.float32(0.1),
        "z_loss": jnp.float32(0.01),
        "logit_softcap": jnp.float32(3),
        "temperature": jnp.float32(1.3),
    }
    rest = {"labels": labels, "where": jnp.arange(16) % 5 != 0}
    if loss is both_of_linear_log_probs:
        others = "class_weights", "label_smoothing", "z_loss"
        real = {name: x for name, x in real.items() if name not in others}
        rest.pop("where")
    split = linear_mapped(make_mesh(AxisType.Auto), loss, rows, CHUNK // 2, **options)
    whole = functools.partial(loss, **options)
    direction = jax.tree.map(lambda x: jnp.cos(7 * x), real)

    @jax.jit
    def derivatives(real):
        found = []
        for form in (split, whole):

            def losses(real, form=form):
                return form(**real, **rest)

            value, pull_back = jax.vjp(losses, real)
            ct = 1 + jnp.arange(value.size, dtype=jnp.float32) / 3
            ct = ct.reshape(value.shape)
            gradient = jax.grad(lambda x, f=losses, ct=ct: jnp.sum(ct * f(x)))
            found.append(
                {
                    "value": value,
                    "vjp": pull_back(ct)[0],
                    "jvp": jax.jvp(losses, (real,), (direction,))[1],
                    "reverse over reverse": jax.vjp(gradient, real)[1](direction)[0],
                }
            )
        return found

    assert_close(*derivatives(real), 2e-5)


KERNEL = FEATURES * WORDS
HALF = ROWS // 2 * FEATURES  # of the features, on each half of the devices


def mean_of_all(**arrays):
    """Devices that share their classes have equally many examples."""
    return jax.lax.pmean(jnp.mean(jl.linear_cross_entropy(**arrays)), "batch")[None]


def by_classes(mesh, **options):
    return linear_mapped(mesh, mean_of_all, **options)


def by_rows(mesh, **options):
    """The loss with the kernel's features split like the rows, and put together."""

    def local(arrays):
        kernel = jax.lax.all_gather(arrays.pop("kernel"), "batch", tiled=True)
        return mean_of_all(kernel=kernel, **arrays, chunk_size=CHUNK, **options)

    def call(**arrays):
        specs = P("batch")
        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=specs)(arrays)

    return call


@pytest.mark.parametrize(
    "reduction", ["mean", pytest.param("none", marks=pytest.mark.exhaustive)]
)
@pytest.mark.parametrize(
    ("kind", "spec", "mapped", "large"),
    # All that is larger than one number an example: the kernel and its gradient, or
    # the gradient of the features and that of each device's classes.
    [
        (AxisType.Explicit, P(), None, [KERNEL]),
        (AxisType.Explicit, P("batch"), None, [KERNEL, KERNEL // 2]),
        (AxisType.Explicit, P(None, "batch"), None, [KERNEL, KERNEL // 2]),
        (
            AxisType.Explicit,
            P("batch", "model"),
            None,
            [HALF, KERNEL // 4, KERNEL // 8],
        ),
        (AxisType.Explicit, P("batch"), by_rows, [KERNEL, KERNEL // 2]),
        (AxisType.Auto, P("batch"), by_rows, [KERNEL, KERNEL // 2]),
        (AxisType.Explicit, P(None, "model"), None, [HALF, KERNEL // 4]),
        (AxisType.Explicit, P(None, "model"), by_classes, [HALF, KERNEL // 4]),
        (AxisType.Auto, P(None, "model"), by_classes, [HALF, KERNEL // 4]),
        (AxisType.Auto, P("batch"), None, None),
        (AxisType.Auto, P(None, "model"), None, None),
    ],
)
def test_kernel_moves_once_and_logits_never(kind, spec, mapped, large, reduction):
    mesh = make_mesh(kind)
    arrays = linear_arrays()
    loss = functools.partial(
        jl.linear_cross_entropy, chunk_size=CHUNK, reduction=reduction
    )
    if mapped:
        loss = mapped(mesh, reduction=reduction)

    def step(loss, hidden, kernel, labels):
        def mean(hidden, kernel):
            return jnp.mean(loss(hidden=hidden, kernel=kernel, labels=labels))

        return jax.value_and_grad(mean, (0, 1))(hidden, kernel)

    with jax.set_mesh(mesh):
        specs = P("batch"), spec, P("batch")
        placed = [
            jax.device_put(x, NamedSharding(mesh, s))
            for x, s in zip(arrays, specs, strict=True)
        ]
        compiled = jax.jit(functools.partial(step, loss)).lower(*placed).compile()
        found = compiled(*placed)
    plain = step(
        lambda hidden, kernel, labels: cross_entropy(hidden @ kernel, labels), *arrays
    )
    assert_close(found, plain, 1e-5)
    within, ahead_and_behind = map(crossed, compiled.as_text().split("\nENTRY "))
    if large is None:  # the compiler's choice, which may be to move parts of the kernel
        assert max(within) < ROWS // 2 * WORDS
        return
    assert max(within, default=0) <= CHUNK
    assert sorted(n for n in ahead_and_behind if n > ROWS) == sorted(large)


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

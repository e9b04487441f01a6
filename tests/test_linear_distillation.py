"""Distillation of linear layers gives what logits in full give, in less memory."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import assert_close
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from tier import first

import jaxloss as jl

pytestmark = [pytest.mark.usefixtures("device"), pytest.mark.any_program]

exhaustive = pytest.mark.exhaustive
KINDS: list[Any] = ["forward_kl", "reverse_kl", "jensen_shannon"]
REDUCTIONS = ("none", "sum", "mean")
ROWS, FEATURES, TEACHERS, CLASSES = 13, 3, 5, 11


def draw(dtype=np.float64, rows=ROWS, classes=CLASSES):
    rng = np.random.default_rng(0)
    shapes = {
        "hidden": (rows, FEATURES),
        "kernel": (FEATURES, classes),
        "teacher_hidden": (rows, TEACHERS),
        "teacher_kernel": (TEACHERS, classes),
        "bias": (classes,),
        "teacher_bias": (classes,),
    }
    drawn = {n: jnp.asarray(rng.normal(size=s), dtype) for n, s in shapes.items()}
    return drawn | {
        "logit_softcap": jnp.asarray(3.5, dtype),
        "teacher_logit_softcap": jnp.asarray(2.5, dtype),
        "temperature": jnp.asarray(1.7, dtype),
        "weights": jnp.asarray(rng.uniform(0.3, 2, rows), dtype).at[4].set(0),
    }


def logits(hidden, kernel, bias, cap):
    x = jnp.matmul(hidden, kernel, precision="highest")
    x = x if bias is None else x + bias[None]
    return x if cap is None else cap * jnp.tanh(x / cap)


def on_logits(
    hidden,
    kernel,
    teacher_hidden,
    teacher_kernel,
    bias=None,
    teacher_bias=None,
    logit_softcap=None,
    teacher_logit_softcap=None,
    **options,
):
    student = logits(hidden, kernel, bias, logit_softcap)
    teacher = logits(
        teacher_hidden, teacher_kernel, teacher_bias, teacher_logit_softcap
    )
    return jl.distillation_loss(student, teacher, **options)


def sparse_on_logits(hidden, kernel, *known, bias=None, logit_softcap=None, **options):
    x = logits(hidden, kernel, bias, logit_softcap)
    return jl.sparse_distillation_loss(x, *known, **options)


in_chunks = functools.partial(
    jl.linear_distillation_loss, chunk_size=4, precision="highest"
)


def both(form, real, **options):
    """Value and gradients, with a cotangent that is not of ones."""

    def losses(real):
        return form(**real, **options)

    value, pull_back = jax.vjp(losses, real)
    ct = 0.7 + jnp.arange(value.size, dtype=value.dtype) / 3
    ct = ct.reshape(value.shape) + jnp.zeros_like(value)  # spread like the value
    return value, pull_back(ct)[0]


# Each kind and each reduction once in the quick tier.
PAIRS = [
    pytest.param(
        kind,
        reduction,
        marks=[]
        if (kind, reduction) in zip(KINDS, REDUCTIONS, strict=True)
        else exhaustive,
    )
    for kind in KINDS
    for reduction in REDUCTIONS
]


@pytest.mark.parametrize(("divergence", "reduction"), PAIRS)
def test_all_arguments_agree_with_full_logits(x64, divergence, reduction):
    real = draw()
    if divergence == "jensen_shannon":
        real["beta"] = jnp.float64(0.3)
    options = {
        "divergence": divergence,
        "reduction": reduction,
        "where": jnp.arange(ROWS) % 5 != 1,
    }
    run = jax.jit(
        lambda real: [both(form, real, **options) for form in (in_chunks, on_logits)]
    )
    assert_close(*run(real), 1e-11)


TAILS = [
    ("forward_kl", "ignore", "none"),
    ("reverse_kl", "renormalize", "mean"),
    ("jensen_shannon", "bucket", "none"),
    ("forward_kl", "bucket", "mean"),
    *(
        pytest.param(*row, marks=exhaustive)
        for row in [
            ("forward_kl", "ignore", "mean"),
            ("reverse_kl", "renormalize", "none"),
            ("jensen_shannon", "bucket", "mean"),
            ("forward_kl", "bucket", "none"),
            ("reverse_kl", "bucket", "mean"),
            ("reverse_kl", "bucket", "none"),
        ]
    ),
]


@pytest.mark.parametrize(("divergence", "tail", "reduction"), TAILS)
def test_known_classes_agree_with_full_logits(x64, divergence, tail, reduction):
    every = draw()
    names = "hidden", "kernel", "bias", "logit_softcap", "temperature", "weights"
    real = {name: every[name] for name in names}
    rng = np.random.default_rng(1)
    ids = jnp.asarray(np.argsort(rng.normal(size=(ROWS, CLASSES)))[:, :4])
    ids = ids.at[2, 3].set(-1)
    p = jnp.asarray(np.log(rng.dirichlet(np.ones(5), ROWS)))
    p = p.at[2, 3].set(-jnp.inf)
    if tail == "bucket":
        real["teacher_log_tail"] = p[:, 4]
    options = {"divergence": divergence, "tail": tail, "reduction": reduction}

    def chunks(teacher_log_probs, **real):
        return jl.linear_sparse_distillation_loss(
            teacher_ids=ids, teacher_log_probs=teacher_log_probs, chunk_size=4,
            precision="highest", **real,
        )  # fmt: skip

    def full(hidden, kernel, teacher_log_probs, **real):
        return sparse_on_logits(hidden, kernel, ids, teacher_log_probs, **real)

    real["teacher_log_probs"] = p[:, :4]
    run = jax.jit(lambda real: [both(form, real, **options) for form in (chunks, full)])
    assert_close(*run(real), 1e-11)


@pytest.mark.exhaustive
@pytest.mark.parametrize("divergence", KINDS)
def test_second_derivatives_agree_with_full_logits(x64, divergence):
    names = "hidden", "kernel", "teacher_hidden", "teacher_kernel", "temperature"
    every = draw(rows=6, classes=5)
    real = {name: every[name] for name in names}
    line = jax.tree.map(lambda x: jnp.cos(7 * x), real)

    def nestings(form):
        def total(real):
            losses = form(**real, divergence=divergence)
            return jnp.sum(losses * jnp.arange(1.0, 7.0))

        def along(real):
            return jax.jvp(total, (real,), (line,))[1]

        return {
            "forward over reverse": jax.jvp(jax.grad(total), (real,), (line,))[1],
            "reverse over forward": jax.grad(along)(real),
            "forward over forward": jax.jvp(along, (real,), (line,))[1],
        }

    found = jax.jit(lambda: [nestings(form) for form in (in_chunks, on_logits)])()
    assert_close(*found, 1e-9)


@pytest.mark.exhaustive
def test_embedding_tables_have_their_gradient_in_their_layout():
    real = draw(np.float32)
    turned = {n: real[n].T if n.endswith("kernel") else real[n] for n in real}
    value, slopes = both(in_chunks, real, reduction="mean")
    same, of_tables = both(in_chunks, turned, reduction="mean", class_axis=0)
    of_tables = {n: x.T if n.endswith("kernel") else x for n, x in of_tables.items()}
    assert_close((same, of_tables), (value, slopes), 1e-5)


def test_a_teacher_in_half_precision_is_as_exact_as_its_numbers():
    real = draw(np.float32)
    halved = {
        n: x.astype(jnp.bfloat16) if n in ("teacher_hidden", "teacher_kernel") else x
        for n, x in real.items()
    }
    loss, slopes = both(in_chunks, halved, reduction="mean")
    widened = jax.tree.map(lambda x: x.astype(jnp.float32), halved)
    expected, others = both(in_chunks, widened, reduction="mean")
    assert loss.dtype == jnp.float32
    assert_close((loss, slopes["kernel"]), (expected, others["kernel"]), 1e-5)
    assert slopes["teacher_kernel"].dtype == jnp.bfloat16
    assert_close(slopes["teacher_kernel"], others["teacher_kernel"], 1e-2)


@pytest.mark.parametrize("divergence", KINDS)
def test_equal_layers_have_no_divergence(divergence):
    real = draw(np.float32)
    names = "hidden", "kernel"
    same = {n: real[n] for n in names} | {f"teacher_{n}": real[n] for n in names}
    value, slopes = both(in_chunks, same, divergence=divergence)
    assert np.all((value >= 0) & (value <= 1e-13))
    assert np.all(np.abs(slopes["kernel"]) <= 1e-6)


def test_a_constant_teacher_costs_no_products():
    """Its logits are made; the two products of its gradient are not."""
    rows, features, classes = 512, 64, 4096
    shapes = [(rows, features), (features, classes)] * 2
    arrays = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    product = 2 * rows * features * classes

    def operations(argnums):
        loss = functools.partial(jl.linear_distillation_loss, reduction="mean")
        compiled = jax.jit(jax.grad(loss, argnums)).lower(*arrays).compile()
        text = compiled.as_text()
        return text.count(" dot("), compiled.cost_analysis()["flops"] / product

    of_student, _ = operations((0, 1))
    of_both, _ = operations((0, 1, 2, 3))
    assert (of_student, of_both) == (4, 6)


def test_no_array_of_all_logits_is_made():
    rows, features, classes = 2048, 64, 8192
    shapes = [(rows, features), (features, classes)] * 2
    arrays = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    loss = functools.partial(jl.linear_distillation_loss, reduction="mean")
    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(*arrays).compile()
    full = 10 * 4 * rows * classes  # what logits in full take, in float32
    assert compiled.memory_analysis().temp_size_in_bytes <= 0.12 * full


def test_kernels_with_other_classes_are_named():
    real = draw(np.float32)
    short = {**real, "teacher_kernel": real["teacher_kernel"][:, :-1]}
    message = (
        r"^`teacher_kernel` must have the 11 classes of `kernel`, got shape \(5, 10\)"
    )
    with pytest.raises(ValueError, match=message):
        jl.linear_distillation_loss(**{n: short[n] for n in short if "bias" not in n})
    turned = {**real, "teacher_kernel": real["teacher_kernel"].T}
    message = r"^`teacher_kernel` must have the shape .* features of `teacher_hidden`"
    with pytest.raises(ValueError, match=message):
        jl.linear_distillation_loss(**turned)
    fewer = {**real, "teacher_hidden": real["teacher_hidden"][:-1]}
    with pytest.raises(ValueError, match=r"^`teacher_hidden` must broadcast"):
        jl.linear_distillation_loss(**fewer)


SPECS = {
    "hidden": P("rows"),
    "teacher_hidden": P("rows"),
    "kernel": P(None, "model"),
    "teacher_kernel": P(None, "model"),
    "bias": P("model"),
    "teacher_bias": P("model"),
    "weights": P("rows"),
}


@pytest.mark.parametrize("divergence", first(["forward_kl", "jensen_shannon"]))
@pytest.mark.parametrize("way", first(["shard_map", "Explicit", "Auto"]))
def test_layers_spread_over_devices_give_the_same(way, divergence):
    if jax.device_count() < 8:
        pytest.skip("needs eight devices")
    real = draw(np.float32, rows=16, classes=12)
    kind = AxisType.Explicit if way == "Explicit" else AxisType.Auto
    mesh = jax.make_mesh((2, 4), ("rows", "model"), axis_types=(kind, kind))
    specs = {name: SPECS.get(name, P()) for name in real}
    options = {"divergence": divergence}

    def split(**real):
        if way != "shard_map":
            return in_chunks(**real, **options)
        local = functools.partial(in_chunks, axis_name="model", **options)
        return jax.shard_map(
            lambda real: local(**real),
            mesh=mesh,
            in_specs=(specs,),
            out_specs=P("rows"),
        )(real)

    def run(form, real):
        return jax.jit(lambda real: both(form, real))(real)

    expected = run(functools.partial(in_chunks, **options), real)
    with jax.set_mesh(mesh):
        put = {
            n: jax.device_put(x, jax.NamedSharding(mesh, specs[n]))
            for n, x in real.items()
        }
        found = jax.tree.map(np.asarray, run(split, put))
    assert_close(found, expected, 2e-5)


@pytest.mark.parametrize("reduction", first(["mean", "none"]))
def test_rows_that_do_not_count_are_skipped_and_clean(reduction):
    """NaN in their features, and -inf in the teacher's, reach nothing."""
    real = draw(np.float32)
    real.pop("weights")
    keep = jnp.arange(ROWS) % 3 == 0
    spoiled = {
        **real,
        "hidden": jnp.where(keep[:, None], real["hidden"], jnp.nan),
        "teacher_hidden": jnp.where(keep[:, None], real["teacher_hidden"], -jnp.inf),
    }
    expected = both(in_chunks, real, where=keep, reduction=reduction)
    found = both(in_chunks, spoiled, where=keep, reduction=reduction)
    assert_close(found, expected, 0)
    weights = keep.astype(jnp.float32)
    by_weight = both(in_chunks, spoiled, weights=weights, reduction=reduction)
    assert all(map(np.all, map(np.isfinite, jax.tree.leaves(by_weight))))
    assert_close(by_weight[0], expected[0], 1e-6)


def test_a_single_class_and_no_rows():
    zero = jl.linear_distillation_loss(
        jnp.ones((2, 3)), jnp.ones((3, 1)), jnp.ones((2, 4)), jnp.ones((4, 1))
    )
    assert zero.tolist() == [0, 0]
    empty = jnp.zeros((0, 3)), jnp.ones((3, 5))
    loss = functools.partial(jl.linear_distillation_loss, reduction="mean")
    value, slopes = jax.value_and_grad(loss, (0, 1))(*empty, *empty)
    assert value == 0
    assert not np.any(slopes[1])

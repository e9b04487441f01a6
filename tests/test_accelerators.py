"""What the compilers for TPU and GPU make of the losses, without a device.

The extra `accelerators` installs the compilers; without them these tests skip. They
compile for a description of the device: `benchmarks/planned`.
"""

import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from common import each_case, weighted
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxloss as jl

pytest.importorskip("optax")

from benchmarks.planned import report, slice_report, slices
from benchmarks.planned.compile import compiled, measure
from benchmarks.planned.rows import rows
from benchmarks.planned.targets import TARGETS, Target, device, devices, missing

CHECKED = ("tpu-v5e", "h100")


@pytest.fixture(params=CHECKED, scope="module")
def target(request):
    """The name of a target whose compiler is installed."""
    if lacking := missing(TARGETS[request.param]):
        pytest.skip(f"{request.param}: {lacking}")
    return request.param


@each_case(once=True)
def test_value_and_gradient_compile(case, target):
    """In float32 and in bfloat16; one program of both takes half the time."""

    def both(*arguments):
        return [jax.value_and_grad(loss)(real, rest) for real, rest in arguments]

    def loss(real, rest):
        return jnp.sum(case({**real, **rest}))

    arguments = [weighted(case, dtype) for dtype in (jnp.float32, jnp.bfloat16)]
    program = compiled(both, tuple(arguments), device(TARGETS[target]))
    kinds = [str(x.dtype) for x in jax.tree.leaves(program.out_info)]
    assert {"float32", "bfloat16"} <= set(kinds)


def committed(target, row):
    """A row's committed figures; skips if another version of a compiler made them."""
    known = json.loads((report.FOLDER / f"{target}.json").read_text())
    platform = TARGETS[target].platform
    theirs = report.compiler(known["versions"], platform)
    if report.compiler(report.versions(platform), platform) != theirs:
        pytest.skip(f"the committed figures are those of {theirs}")
    [found] = [
        r for r in known["rows"] if (r["row"], r["dtype"]) == (row.name, row.dtype)
    ]
    return found["programs"]["jaxloss"]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.label)
def test_row_needs_no_more_than_its_committed_figures(row, target):
    """To commit new ones: `python -m benchmarks --compile-for tpu-v5e h100`."""
    expected = committed(target, row)
    found = measure(row, device(TARGETS[target]), only=["jaxloss"])
    for figure in report.FIGURES:
        assert found["programs"]["jaxloss"][figure] <= expected[figure], figure


ON_SLICES = ["v5e:4x4", pytest.param("v5e:16x16", marks=pytest.mark.exhaustive)]


def committed_layout(chips, layout):
    """What is committed about a layout; skips for another version of the compiler."""
    file = report.FOLDER / "slices" / f"{chips.replace(':', '-')}.json"
    known = json.loads(file.read_text())
    theirs = report.compiler(known["versions"], "tpu")
    if report.compiler(report.versions("tpu"), "tpu") != theirs:
        pytest.skip(f"the committed figures are those of {theirs}")
    [found] = [found for found in known["layouts"] if found["layout"] == layout]
    return found


@pytest.mark.parametrize("chips", ON_SLICES)
@pytest.mark.parametrize("layout", slices.LAYOUTS)
def test_last_layer_on_an_automatic_slice_sends_what_optax_sends(layout, chips):
    """At most 1.1 times, nothing more in a loop, one block more of temporaries.

    To commit new figures: `python -m benchmarks --slice v5e:4x4 v5e:16x16`.
    """
    if lacking := missing(Target("tpu", chips)):
        pytest.skip(f"{chips}: {lacking}")
    known = committed_layout(chips, layout)
    peer, expected, _ = known["programs"]
    ours = slices.PROGRAMS[1]
    [found] = slices.measure(chips, layout, only=[ours])["programs"]
    for program in found, expected:
        assert program["program"] == "jaxloss"
        assert program["mesh"] == "Auto"
        assert not slice_report.faults(known, program, peer)
    for figure in ("temporaries", "network"):
        assert found[figure] <= expected[figure], figure


@pytest.mark.parametrize("examples", [8192, 32768])
@pytest.mark.parametrize("name", CHECKED)
def test_committed_table_needs_the_memory_of_a_kernel(name, examples):
    """The tests above hold the programs to these figures."""
    known = json.loads((report.FOLDER / f"{name}.json").read_text())["rows"]
    row = f"linear {examples} x 4096 x 128256"
    of_kernel, of_table = (
        next(r for r in known if r["row"] == label)["programs"]["jaxloss"]
        for label in (row, f"{row}, embedding table")
    )
    for figure in report.FIGURES:
        assert of_table[figure] <= 1.02 * of_kernel[figure], figure


def pairs_on_a_slice(loss, chips, kind):
    """Value and gradients of a loss of 1,024 pairs per chip, compiled for a slice."""
    mesh = Mesh(np.array(devices(Target("tpu", chips))), ("data",), axis_types=(kind,))
    spread, shared = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())

    def total(x, y, scale):
        if kind == AxisType.Explicit:
            return loss(x, y, scale, reduction="mean")

        def local(x, y, scale):
            return loss(x, y, scale, reduction="mean", axis_name="data")[None]

        every = P("data"), P("data"), P()
        each = jax.shard_map(local, mesh=mesh, in_specs=every, out_specs=P("data"))
        return jnp.mean(each(x, y, scale))

    n = 1024 * mesh.size
    x = jax.ShapeDtypeStruct((n, 1152), jnp.bfloat16, sharding=spread)
    scale = jax.ShapeDtypeStruct((), jnp.float32, sharding=shared)
    out = shared, (spread, spread, shared)
    step = jax.jit(jax.value_and_grad(total, (0, 1, 2)), out_shardings=out)
    with jax.set_mesh(mesh):
        return step.lower(x, x, scale).compile()


def siglip(x, y, scale, **options):
    return jl.siglip_loss(x, y, logit_scale=scale, **options)


def clip(x, y, scale, **options):
    return jl.info_nce_loss(x, y, temperature=scale, symmetric=True, **options)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize("loss", [siglip, clip])
def test_pairs_on_a_slice_of_256_chips_stay_on_a_ring(loss, kind):
    """In `shard_map` on an automatic mesh, and under plain `jit` on an explicit one."""
    if lacking := missing(TARGETS["tpu-v5e"]):
        pytest.skip(f"tpu-v5e: {lacking}")
    few, many = (pairs_on_a_slice(loss, c, kind) for c in ("v5e:4x4", "v5e:16x16"))
    sizes = [x.memory_analysis().temp_size_in_bytes for x in (few, many)]
    assert sizes[1] <= sizes[0]
    text = many.as_text()
    assert "collective-permute" in text
    assert "all-gather" not in text
    shapes = re.findall(r"\b(?:bf16|f32|s32|pred)\[([\d,]+)\]", text)
    largest = max(math.prod(map(int, shape.split(","))) for shape in shapes)
    assert largest <= 1024 * 1152  # the embeddings of one chip

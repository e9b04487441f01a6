"""What the compilers for TPU and GPU make of the losses, without a device.

The extra `accelerators` installs the compilers; without them these tests skip. They
compile for a description of the device: `benchmarks/planned`.
"""

import json

import jax
import jax.numpy as jnp
import pytest
from common import each_case, weighted

pytest.importorskip("optax")

from benchmarks.planned import report
from benchmarks.planned.compile import compiled, measure
from benchmarks.planned.rows import rows
from benchmarks.planned.targets import TARGETS, device, missing

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

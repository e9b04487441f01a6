"""The cross entropy of a language model's last layer on a slice of many TPU chips.

Value and gradients, which are placed like their inputs. The peer is optax with all
logits, on meshes whose axes are Auto; along an Explicit class axis optax raises.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxloss as jl
from benchmarks.cases import Loss, ours
from benchmarks.planned import hlo, peers
from benchmarks.planned.network import collectives
from benchmarks.planned.targets import Target, devices

TOKENS_PER_CHIP, FEATURES, CLASSES = 512, 4096, 128256
# Collectives of fewer bytes are left out of the report.
LEAST = 2**20
# The bytes of a chip's logits in float32, whether rows or classes are split.
BLOCK = 4 * TOKENS_PER_CHIP * CLASSES


@dataclasses.dataclass(frozen=True)
class Layout:
    """The axes of the mesh, and how the inputs are spread over them."""

    axes: tuple[str, ...]
    hidden: P
    kernel: P
    labels: P


LAYOUTS = {
    "FSDP": Layout(("data",), P("data"), P("data", None), P("data")),
    "classes split": Layout(("model",), P(), P(None, "model"), P()),
    "grid": Layout(("data", "model"), P("data"), P(None, "model"), P("data")),
    "grid with FSDP": Layout(
        ("data", "model"), P("data"), P("data", "model"), P("data")
    ),
}


_jaxloss = ours(jl.linear_cross_entropy)
# The type of the mesh's axes, the program's name and its loss.
Program = tuple[AxisType, str, Loss]
PROGRAMS: tuple[Program, ...] = (
    (AxisType.Auto, "optax", peers.product),
    (AxisType.Auto, "jaxloss", _jaxloss),
    (AxisType.Explicit, "jaxloss", _jaxloss),
)


def measure(
    chips: str,
    layout: str,
    dump: Path | None = None,
    only: Sequence[Program] = PROGRAMS,
) -> dict[str, Any]:
    """The figures of programs on a slice such as `v5e:16x16`, in bytes a chip."""
    placed = LAYOUTS[layout]
    grid = _grid(chips, len(placed.axes))
    programs = []
    for axis_type, name, loss in only:
        mesh = Mesh(grid, placed.axes, axis_types=(axis_type,) * grid.ndim)
        program = compiled(loss, mesh, placed)
        label = f"{chips} {layout} {axis_type.name} {name}"
        parsed, temporaries = hlo.read_compiled(program, dump, label)
        found = collectives(parsed)
        programs.append(
            {
                "program": name,
                "mesh": axis_type.name,
                "temporaries": temporaries,
                "network": sum(x.times * x.bytes for x in found),
                "collectives": [
                    dataclasses.asdict(x) | {"array": str(x.array)}
                    for x in found
                    if x.times * x.bytes >= LEAST
                ],
            }
        )
    shards = NamedSharding(mesh, placed.kernel).shard_shape((FEATURES, CLASSES))
    return {
        "layout": layout,
        "kernel_shard": 2 * int(np.prod(shards)),
        "programs": programs,
    }


def compiled(loss: Loss, mesh: Mesh, layout: Layout) -> jax.stages.Compiled:
    """Value and gradients of hidden states and kernel, compiled for a mesh."""
    hidden, kernel, labels = (
        NamedSharding(mesh, spec)
        for spec in (layout.hidden, layout.kernel, layout.labels)
    )
    tokens = TOKENS_PER_CHIP * mesh.size
    shape = jax.ShapeDtypeStruct
    inputs = (
        shape((tokens, FEATURES), jnp.bfloat16, sharding=hidden),
        shape((FEATURES, CLASSES), jnp.bfloat16, sharding=kernel),
        shape((tokens,), jnp.int32, sharding=labels),
    )
    out = NamedSharding(mesh, P()), (hidden, kernel)
    step = jax.jit(jax.value_and_grad(loss, (0, 1)), out_shardings=out)
    with jax.set_mesh(mesh):
        return step.lower(*inputs).compile()


def in_loops(result: dict[str, Any], program: dict[str, Any]) -> list[dict[str, Any]]:
    """The collectives in a loop that move a tenth of the kernel's shard or more."""
    least = result["kernel_shard"] / 10
    return [x for x in program["collectives"] if x["in_loop"] and x["bytes"] >= least]


def _grid(chips, rank):
    found = np.array(devices(Target("tpu", chips)))
    if rank == 1:
        return found
    return found.reshape(-1, 16 if found.size > 16 else 4)

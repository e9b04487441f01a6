"""Compiles rows for a target and reads what the compiler planned."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.planned import hlo, traffic
from benchmarks.planned.rows import Row
from benchmarks.planned.targets import Device


def compiled(
    function: Callable[..., Any], inputs: tuple, device: Device
) -> jax.stages.Compiled:
    """A function of arrays of the inputs' shapes, compiled for one device."""
    whole = NamedSharding(Mesh(np.array([device]), ("x",)), PartitionSpec())
    placed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), inputs
    )
    return jax.jit(function).lower(*placed).compile()


def measure(
    row: Row, device: Device, only: Sequence[str] = (), dump: Path | None = None
) -> dict[str, Any]:
    """The figures of jaxloss and of the peers, or only of the programs named.

    A program's figures are the bytes of its temporaries, the bytes that it moves, its
    passes, the dtype of its loss, and the seconds of its compilation. A pass is a
    kernel that reads or writes at least a quarter of the largest input's size.
    """
    programs = {}
    for name, loss in {"jaxloss": row.jaxloss, **row.peers}.items():
        if only and name not in only:
            continue
        try:
            programs[name] = _figures(row, name, loss, device, dump)
        except Exception as error:  # a peer that a compiler refuses is worth a line
            if name == "jaxloss":
                raise
            first = str(error).splitlines()[0] if str(error) else ""
            programs[name] = {"failed": f"{type(error).__name__}: {first}"[:200]}
    return {
        "row": row.name,
        "dtype": row.dtype,
        "largest_input": row.largest_input,
        "programs": programs,
    }


def _figures(row, name, loss, device, dump):
    start = time.perf_counter()
    step = jax.value_and_grad(loss, row.moving(name))
    program = compiled(step, row.inputs, device)
    seconds = time.perf_counter() - start
    parsed, temporaries = hlo.read_compiled(program, dump, f"{row.label} {name}")
    return {
        "temporaries": temporaries,
        "moved": traffic.moved(parsed),
        "passes": traffic.passes(parsed, row.largest_input / 4),
        "dtype": str(jax.eval_shape(loss, *row.inputs).dtype),
        "seconds": round(seconds, 1),
    }

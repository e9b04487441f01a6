"""Counts what a compiled program of many devices sends over the network."""

import dataclasses
import re

from benchmarks.planned.hlo import Array, Program
from benchmarks.planned.traffic import Kernel, fused, kernels

_KINDS = re.compile(
    r"all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    r"|collective-broadcast|ragged-all-to-all"
)


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective operation, as one device takes part in it."""

    kind: str
    # The largest array of its operands and results.
    array: Array
    # What one run sends and receives: an all-reduce twice its operands, an all-gather
    # its results, everything else its operands.
    bytes: int
    times: int
    in_loop: bool


def collectives(program: Program) -> list[Collective]:
    """The collectives that a device runs, those inside fusions too."""
    found = [_collective(program, kernel) for kernel in kernels(program)]
    return [x for x in found if x is not None]


def _collective(program: Program, kernel: Kernel) -> Collective | None:
    x, computation = kernel.instruction, kernel.computation
    inside = fused(program, x)
    if inside is not None:
        hidden = [y for y in inside.values() if _KINDS.fullmatch(y.op)]
        if not hidden:
            return None
        x, computation = hidden[0], inside
    elif not _KINDS.fullmatch(x.op):
        return None
    given = [array for name in x.operands for array in computation[name].results]
    sent = sum(array.bytes for array in given)
    # XLA for TPU writes a reduce-scatter as a fusion: the slice of an all-reduce.
    sliced = inside is not None and any(
        y.op == "dynamic-slice" and x.name in y.operands for y in inside.values()
    )
    kind = "reduce-scatter" if x.op == "all-reduce" and sliced else x.op
    if kind == "all-reduce":
        sent *= 2
    elif kind == "all-gather":
        sent = sum(array.bytes for array in x.results)
    largest = max([*given, *x.results], key=lambda array: array.bytes)
    return Collective(kind, largest, sent, kernel.times, kernel.in_loop)

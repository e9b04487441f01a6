"""Counts what the kernels of a compiled program move through the device's main memory.

A kernel is an instruction that the device runs: one of the entry computation, or of a
loop, a branch or a call below it. Each kernel reads its operands once and writes its
results once, with these exceptions:

- of an array that it only gathers or slices from, it reads what it takes;
- an array that it updates in place costs what the update writes;
- an array that XLA for TPU keeps on the chip costs nothing.

A loop counts as often as it is known to run, a conditional as its dearest branch. These
figures leave out the caches of a GPU, the padding of arrays to a TPU's tiles, and the
time of the arithmetic.
"""

import dataclasses
import re
from collections.abc import Iterator

from benchmarks.planned.hlo import Array, Computation, Instruction, Program

# Operations that move no data: they name, group or await what others have moved.
_FREE = {
    "after-all",
    "bitcast",
    "constant",
    "get-tuple-element",
    "opt-barrier",
    "optimization-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
}
_FREE_TARGETS = re.compile(r'custom_call_target="(AllocateBuffer|ConcatBitcast)"')
# Inside a fusion these pass an operand on; only what is done with it then counts.
_VIEWS = {"bitcast", "convert", "copy", "reshape", "transpose"}
_SLICES = {"dynamic-slice", "gather", "slice"}
# Operations that write into their first operand, by the position of the update.
_UPDATES = {"dynamic-update-slice": 1, "scatter": 2}
# The start of an asynchronous operation has the operands among its results, except
# these two.
_PLAIN_STARTS = {"all-reduce-start", "copy-start"}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """An instruction that runs, with the computation that it stands in."""

    instruction: Instruction
    computation: Computation
    times: int = 1
    in_loop: bool = False


def moved(program: Program) -> int:
    """The bytes that the whole program moves."""
    return sum(k.times * bytes_moved(program, k) for k in kernels(program))


def passes(program: Program, least: float) -> int:
    """How many kernels read or write an array of at least `least` bytes."""

    def largest(kernel):
        written = [_written(program, kernel)]
        return max(_reads(program, kernel) + written, default=0)

    return sum(k.times for k in kernels(program) if largest(k) >= least)


def bytes_moved(program: Program, kernel: Kernel) -> int:
    """The bytes that one run of a kernel moves."""
    return sum(_reads(program, kernel)) + _written(program, kernel)


def kernels(
    program: Program, name: str = "", times: int = 1, in_loop: bool = False
) -> Iterator[Kernel]:
    """The kernels of a computation, by default of the whole program."""
    computation = program.computations[name or program.entry]
    for instruction in computation.values():
        op = instruction.op
        if op == "while":
            [body] = instruction.called("body")
            yield from kernels(program, body, times * trips(program, instruction), True)
        elif op == "conditional":
            yield from _dearest(program, instruction, times, in_loop)
        elif op in ("call", "async-start"):
            for callee in instruction.called("to_apply", "calls"):
                yield from kernels(program, callee, times, in_loop)
        elif not _free(instruction):
            whole = _without_start(instruction, computation)
            yield Kernel(whole, computation, times, in_loop)


def trips(program: Program, loop: Instruction) -> int:
    """How often a loop runs.

    XLA for GPU says so. Elsewhere it is the bound that the condition compares with.
    """
    if known := re.search(r'known_trip_count"?:\s*\{"?n"?:"?(\d+)', loop.attributes):
        return int(known[1])
    bounds, names = [1], loop.called("condition")
    while names:
        for x in program.computations[names.pop()].values():
            if x.op == "constant" and x.literal.isdecimal():
                bounds.append(int(x.literal))
            names += x.called("calls")
    return max(bounds)


def fused(program: Program, instruction: Instruction) -> Computation | None:
    """The computation of a fusion; None for every other instruction."""
    names = instruction.called("calls") if instruction.op == "fusion" else []
    return program.computations[names[0]] if names else None


def _free(instruction):
    op = instruction.op
    if op == "custom-call":
        return bool(_FREE_TARGETS.search(instruction.attributes))
    return op in _FREE or op.endswith(("-done", "-update"))


def _dearest(program, conditional, times, in_loop):
    names = conditional.called(
        "branch_computations", "true_computation", "false_computation"
    )
    branches = [list(kernels(program, name, times, in_loop)) for name in names]
    return max(
        branches, key=lambda b: sum(k.times * bytes_moved(program, k) for k in b)
    )


def _without_start(instruction, computation):
    """The operation that an instruction `...-start` begins, with its own results."""
    op, results = instruction.op, instruction.results
    if not op.endswith("-start"):
        return instruction
    if op == "copy-start":
        results = results[:1]
    elif op not in _PLAIN_STARTS:
        given = [a for n in instruction.operands for a in computation[n].results]
        results = results[len(given) :]
    op = op.removesuffix("-start")
    return dataclasses.replace(instruction, op=op, results=results)


def _reads(program, kernel) -> list[int]:
    """The bytes that a kernel reads of each operand."""
    x = kernel.instruction
    inside = fused(program, x)
    counts = []
    for position, name in enumerate(x.operands):
        given = kernel.computation[name].results
        count = sum(array.stored for array in given)
        if count and inside is not None and len(given) == 1:
            count = min(count, _fused_read(program, inside, position, given[0]))
        elif count and position == 0 and x.op in _SLICES:
            count = min(count, sum(array.bytes for array in x.results))
        elif count and position == 0 and x.op in _UPDATES:
            count = _in_place(x, kernel.computation) if x.op == "scatter" else 0
        counts.append(count)
    return counts


def _fused_read(program, inside, position, array: Array) -> int:
    """The bytes that a fusion reads of its operand at this position."""
    index = str(position)
    [parameter] = [
        x for x in inside.values() if x.op == "parameter" and x.literal == index
    ]
    count, names = 0, [parameter.name]
    while names:
        name = names.pop()
        for user in inside.values():
            if name not in user.operands:
                continue
            first = user.operands[0] == name
            if first and user.op in _SLICES:
                count += sum(a.bytes for a in user.results)
            elif first and user.op in _UPDATES:
                count += _in_place(user, inside) if user.op == "scatter" else 0
            elif user.op in _VIEWS and not user.root:
                names.append(user.name)
            elif (inner := fused(program, user)) is not None:
                places = [i for i, n in enumerate(user.operands) if n == name]
                count += sum(_fused_read(program, inner, i, array) for i in places)
            else:
                return array.bytes
    return count


def _in_place(update, computation) -> int:
    """The bytes of what an update writes."""
    given = computation[update.operands[_UPDATES[update.op]]]
    return sum(array.bytes for array in given.results)


def _written(program, kernel) -> int:
    x = kernel.instruction
    results = x.results
    if x.op == "custom-call" and "__cublas" in x.attributes:
        results = results[:1]  # the rest is the space that the product works in
    if x.op in _UPDATES:
        return _in_place(x, kernel.computation)
    inside = fused(program, x)
    if inside is None:
        return sum(array.stored for array in results)
    # The start of an asynchronous fusion has a context behind its results.
    pairs = zip(results, _roots(program, inside), strict=False)
    return sum(
        min(array.stored, _root_written(inner, root, array))
        for array, (inner, root) in pairs
    )


def _roots(program, inside):
    """What computes each result of a fusion, with the computation it stands in."""
    [root] = [x for x in inside.values() if x.root]
    named = [inside[n] for n in root.operands] if root.op == "tuple" else [root]
    found = []
    for x in named:
        inner = fused(program, x)
        found += [(inside, x)] if inner is None else _roots(program, inner)
    return found


def _root_written(inside, root, array):
    x = root
    while x.op in _VIEWS and x.operands:
        x = inside[x.operands[0]]
    if x.op not in _UPDATES:
        return array.bytes
    # Without an array to update, the kernel writes the whole result.
    updated = inside[x.operands[0]]
    while updated.op in _VIEWS:
        updated = inside[updated.operands[0]]
    return _in_place(x, inside) if updated.op == "parameter" else array.bytes

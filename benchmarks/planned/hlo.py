"""Reads the text of a compiled XLA program into computations and instructions.

`compiled.as_text()` is the only description of a compiled program that all of XLA's
compilers give.
"""

import dataclasses
import functools
import math
import re
from pathlib import Path

import jax

# The opening and the closing brackets of shapes, layouts and operands.
_OPEN, _CLOSE = "([{", ")]}"
_ARRAY = re.compile(r"\b(pred|token|bf16|[suf]\d\w*|c64|c128)\[([\d,]*)\](\{[^{}]*\})?")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")
_OPERATION = re.compile(r"\s*([\w\-]+)\(")
# The dtypes whose name does not end in the number of their bits.
_BITS = {"pred": 8, "token": 0}


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a shape: what it holds, and in which memory it is."""

    dtype: str
    dims: tuple[int, ...]
    on_chip: bool = False

    @property
    def bytes(self) -> int:
        return math.prod(self.dims) * _bits(self.dtype) // 8

    @property
    def stored(self) -> int:
        """The bytes in the device's main memory; XLA for TPU keeps some on the chip."""
        return 0 if self.on_chip else self.bytes

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    op: str
    # The arrays of the result; a tuple, however nested, is its arrays in order.
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    # What stands between the brackets of the operation, if not operands.
    literal: str
    attributes: str
    root: bool

    def called(self, *keys: str) -> list[str]:
        """The computations that the attributes of these names call."""
        names = []
        for key in keys:
            found = re.search(rf"\b{key}=(\{{[^}}]*\}}|[^,\s]+)", self.attributes)
            names += re.findall(r"[\w.\-]+", found[1]) if found else []
        return names


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Program:
    """The computations by name, and the name of the one that the program runs."""

    computations: dict[str, Computation]
    entry: str


def read_compiled(
    compiled: jax.stages.Compiled, dump: Path | None, label: str
) -> tuple[Program, int]:
    """The program, and the bytes of its temporaries; keeps the text in a folder."""
    text, memory = compiled.as_text(), compiled.memory_analysis()
    assert text is not None
    assert memory is not None
    if dump is not None:
        dump.mkdir(parents=True, exist_ok=True)
        file = re.sub(r"\W+", "-", label)
        (dump / f"{file}.hlo").write_text(text)
    return read(text), memory.temp_size_in_bytes


def read(text: str) -> Program:
    """Reads the text of a compiled program."""
    computations: dict[str, Computation] = {}
    entry, current = "", {}
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            current = computations[head[2]] = {}
            entry = head[2] if head[1] else entry
        elif found := _INSTRUCTION.match(line):
            current[found[2]] = _instruction(found, line[found.end() :])
    if not entry:
        raise ValueError("The text holds no entry computation of a compiled program.")
    return Program(computations, entry)


def arrays(shape: str) -> tuple[Array, ...]:
    """The arrays of a shape such as `(f32[8]{0}, pred[])`, with their layouts."""
    return tuple(
        Array(dtype, tuple(map(int, re.findall(r"\d+", dims))), "S(1)" in layout)
        for dtype, dims, layout in _ARRAY.findall(shape)
    )


def _instruction(found, rest):
    # An array's shape holds no space, not even in its layout.
    end = _closing(rest) if rest.startswith("(") else rest.index(" ")
    operation = _OPERATION.match(rest, end)
    assert operation is not None
    start = operation.end() - 1
    stop = start + _closing(rest[start:])
    inside = rest[start + 1 : stop - 1]
    return Instruction(
        found[2],
        operation[1],
        arrays(rest[:end]),
        tuple(re.findall(r"%([\w.\-]+)", re.sub(r"/\*.*?\*/", "", inside))),
        inside,
        rest[stop:],
        bool(found[1]),
    )


def _closing(text):
    """The position behind the bracket that closes the one at the start."""
    depth = 0
    for position, character in enumerate(text):
        if character in _OPEN:
            depth += 1
        elif character in _CLOSE:
            depth -= 1
            if not depth:
                return position + 1
    raise ValueError(f"A bracket stays open: {text[:80]}")


@functools.cache
def _bits(dtype):
    if dtype in _BITS:
        return _BITS[dtype]
    bits = re.search(r"\d+", dtype)  # "f8e4m3fn" has 8
    assert bits is not None
    return int(bits[0])

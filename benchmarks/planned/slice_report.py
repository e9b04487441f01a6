"""The planned figures of many-chip programs as a table."""

import datetime
from typing import Any

from benchmarks.planned.report import MIB, versions
from benchmarks.planned.slices import BLOCK, in_loops

Figures = dict[str, Any]  # of one program

HEAD = (
    "| layout | mesh | program | temporaries, MiB | network, MiB | collectives |\n"
    "| --- | --- | --- | --: | --: | --- |"
)


def table(chips: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """What is written for a slice."""
    return {
        "slice": chips,
        "versions": versions("tpu"),
        "date": datetime.date.today().isoformat(),
        "layouts": results,
    }


def over(result: dict[str, Any]) -> list[str]:
    """What jaxloss does worse than optax on an automatic mesh, by mesh.

    XLA for TPU may turn a product and the sum of its parts over devices into a ring, a
    loop in which each step sends a part. What optax's program sends in such loops is
    not held against jaxloss.
    """
    [peer] = [p for p in result["programs"] if p["program"] == "optax"]
    found = []
    for program in result["programs"]:
        if program is not peer:
            where = f"{result['layout']}, {program['mesh']}"
            found += [f"{where}: {fault}" for fault in faults(result, program, peer)]
    return found


def faults(result: dict[str, Any], program: Figures, peer: Figures) -> list[str]:
    """What a program does worse than its peer."""
    found = []
    if program["network"] > 1.1 * peer["network"]:
        times = program["network"] / max(peer["network"], 1)
        found.append(f"{times:.1f} times optax's network traffic")
    more = program["temporaries"] - peer["temporaries"]
    if more > BLOCK:
        found.append(f"{more / MIB:,.0f} MiB of temporaries more than optax")
    inside, known = in_loops(result, program), in_loops(result, peer)
    if sent(inside) > sent(known):
        kinds = ", ".join(f"{x['times']} x {x['kind']}" for x in inside)
        found.append(f"in a loop, {kinds}")
    return found


def sent(collectives: list[dict[str, Any]]) -> int:
    """The bytes that collectives send and receive."""
    return sum(x["times"] * x["bytes"] for x in collectives)


def lines(result: dict[str, Any]) -> str:
    """A line of the table for each program of a layout."""
    found = []
    for program in result["programs"]:
        crossing = "; ".join(map(crosses, program["collectives"])) or "none"
        cells = [result["layout"], program["mesh"], program["program"]]
        cells += [f"{program[key] / MIB:,.0f}" for key in ("temporaries", "network")]
        found.append(f"| {' | '.join([*cells, crossing])} |")
    return "\n".join(found)


def crosses(collective: dict[str, Any]) -> str:
    """A collective in words: `2 x all-gather bf16[8,128] 0.1 MiB`."""
    times = f"{collective['times']} x " if collective["times"] > 1 else ""
    loop = " in a loop" if collective["in_loop"] else ""
    size = f"{collective['bytes'] / MIB:,.1f} MiB"
    return f"{times}{collective['kind']} {collective['array']} {size}{loop}"

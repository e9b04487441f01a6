"""The planned figures of many-chip programs as a table."""

import datetime
from typing import Any

from benchmarks.planned.report import MIB, versions
from benchmarks.planned.slices import in_loops

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
    """What jaxloss does worse than optax on an automatic mesh, by mesh."""
    [peer] = [p for p in result["programs"] if p["program"] == "optax"]
    found = []
    for program in result["programs"]:
        where = f"{result['layout']}, {program['mesh']}"
        if program is peer:
            continue
        if program["network"] > 1.1 * peer["network"]:
            times = program["network"] / max(peer["network"], 1)
            found.append(f"{where}: {times:.1f} times optax's network traffic")
        if inside := in_loops(result, program):
            kinds = ", ".join(f"{x['times']} x {x['kind']}" for x in inside)
            found.append(f"{where}: in a loop, {kinds}")
    return found


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

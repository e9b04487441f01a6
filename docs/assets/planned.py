"""What compilers planned for accelerators: tables and charts for docs/performance.md.

Everything is read from `benchmarks/results/planned`, one file for each kind of device
and one for each slice of many chips; no figure is copied by hand.
"""

import json
from pathlib import Path

from assets.bars import bars, label

PLANNED = Path(__file__).parents[2] / "benchmarks" / "results" / "planned"
TITLES = {
    "tpu-v5e": "TPU v5e",
    "tpu-v5p": "TPU v5p",
    "tpu-v6e": "TPU v6e",
    "tpu-7x": "TPU 7x",
    "a100": "NVIDIA A100",
    "h100": "NVIDIA H100",
}
MIB = 2**20


def page(folder: Path = PLANNED):
    """A section for each target, then one for each slice."""
    for file in sorted(folder.glob("*.json")):
        report = json.loads(file.read_text())
        target = report["target"]
        yield from (f"### {TITLES.get(target, target)}, planned", "")
        yield from (f"{origin(report)} One device.", "")
        yield from (*chart(report["rows"]), "", *table(report["rows"]), "")
    for file in sorted(folder.glob("slices/*.json")):
        report = json.loads(file.read_text())
        yield from (f"### {title(report['slice'])}, planned", "")
        yield from (f"{origin(report)} All figures are per chip.", "")
        yield from (*slices(report["layouts"]), "")


def origin(report) -> str:
    named = ", ".join(f"{name} {n}" for name, n in report["versions"].items())
    return f"Planned by the compiler, not timed. {named}; compiled on {report['date']}."


def title(chips: str) -> str:
    kind, grid = chips.split(":")
    return f"TPU {kind}, {grid.replace('x', ' x ')} chips"


def best(row, figure):
    """The least of a figure among the peers, and the peer; None without a peer."""
    found = {
        name: program[figure]
        for name, program in row["programs"].items()
        if name != "jaxloss" and figure in program
    }
    return min(((n, name) for name, n in found.items()), default=None)


def chart(rows):
    """Bars of the best peer's bytes over jaxloss's."""
    ratios = []
    for row in rows:
        if least := best(row, "moved"):
            bytes_moved, peer = least
            ratio = bytes_moved / row["programs"]["jaxloss"]["moved"]
            ratios.append((label(row), ratio, peer))
    return bars(
        ratios,
        "The bytes that the best peer moves, divided by those of jaxloss, as in the "
        "table.",
        even=0.99,  # 1 % of the bytes are numbers per example and partial sums
        longest=4,  # one row far ahead would leave the others no room
    )


def table(rows):
    """Temporaries, bytes moved and passes of jaxloss, and the best peer's figures."""
    yield (
        "| Row | Temporaries, MiB | best peer | Moved, MiB | best peer | Passes "
        "| best peer |"
    )
    yield "| --- | --: | --: | --: | --: | --: | --: |"
    for row in rows:
        ours, cells = row["programs"]["jaxloss"], []
        for figure, form in (("temporaries", mib), ("moved", mib), ("passes", str)):
            least = best(row, figure)
            cells += [form(ours[figure]), form(least[0]) if least else ""]
        yield f"| {label(row)} | {' | '.join(cells)} |"


def slices(layouts):
    """Temporaries, network traffic and what crosses the network inside a loop."""
    yield (
        "| Layout | Mesh | Program | Temporaries, MiB | Network, MiB "
        "| Collectives in a loop |"
    )
    yield "| --- | --- | --- | --: | --: | --- |"
    for layout in layouts:
        for program in layout["programs"]:
            inside = [
                f"{x['times']} x {x['kind']} {x['array']}"
                for x in program["collectives"]
                if x["in_loop"]
            ]
            cells = [layout["layout"], program["mesh"], program["program"]]
            cells += [mib(program[key]) for key in ("temporaries", "network")]
            yield f"| {' | '.join([*cells, '; '.join(inside)])} |"


def mib(count: int) -> str:
    return f"{count / MIB:,.1f}" if count < 100 * MIB else f"{count / MIB:,.0f}"

"""The committed benchmark results, as tables and charts for docs/performance.md.

Everything is read from `benchmarks/results/*.json`, one file for each kind of device;
no figure is copied by hand.
"""

import json
from pathlib import Path

from assets.bars import bars, label

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
TITLES = {"cpu": "CPU", "gpu": "GPU", "tpu": "TPU"}


def page(folder: Path = RESULTS):
    """A section for each device: machine, versions, date, chart and tables."""
    for file in sorted(folder.glob("*.json")):
        report = json.loads(file.read_text())
        platform = report["platform"]
        yield from (f"## {TITLES.get(platform, platform)}", "")
        results = report["results"]
        yield (
            f"{report['machine']}; {report['versions']}; measured on {report['date']}, "
            f"{rounds(report)} rounds each."
        )
        names = dict.fromkeys(n for r in results for n in r["milliseconds"])
        columns = dict.fromkeys(column(n) for n in names if n != "jaxloss")
        peers = {c: [n for n in names if column(n) == c] for c in columns}
        yield from ("", *chart(results), "")
        yield from ("### Milliseconds", "", *times(results, peers), "")
        yield from ("### Temporaries, MiB", "", *memory(results, peers), "")
        if report.get("eager"):
            yield from ("### Calls outside jit, microseconds", "")
            yield from (*calls(report["eager"]), "")


def rounds(report):
    """How many rounds the rows had: long ones have fewer."""
    counts = [r.get("rounds", report["rounds"]) for r in report["results"]]
    fewest, most = min(counts), max(counts)
    return f"{fewest} to {most}" if fewest < most else most


def chart(results):
    """Bars of the best peer's time over jaxloss's."""
    rows = []
    for result in results:
        if result["ratio"]:
            peer, ratio = min(result["ratio"].items(), key=lambda item: item[1])
            rows.append((label(result), ratio, peer))
    described = "The fastest peer's time divided by jaxloss's, as in the table."
    return bars(rows, described, longest=3)


def column(name):
    """A peer's column: its library, or one for all formulas written out in JAX."""
    library = name.removesuffix(_way(name))
    return "textbook form" if library in ("plain", "jax") else library


def _way(name):
    """How the peer uses it, such as " in chunks" or " by pairs"."""
    return "" if name.startswith("(") else name.removeprefix(name.split()[0])


def times(results, peers):
    """jaxloss's time and each peer's, and in brackets how many times as long."""
    yield f"| Row | jaxloss | {' | '.join(peers)} |"
    yield f"| --- | --: | {' | '.join('--:' for _ in peers)} |"
    for result in results:
        took, cells = result["milliseconds"], []
        for names in peers.values():
            cells.append(
                ", ".join(
                    f"{took[name]:.1f} ({took[name] / took['jaxloss']:.2f}){_way(name)}"
                    for name in names
                    if name in took
                )
            )
        yield f"| {label(result)} | {took['jaxloss']:.1f} | {' | '.join(cells)} |"


def calls(report):
    """Microseconds per call on 64 numbers, and the ratio to optax's."""
    yield "| Loss | Value | optax | Ratio | Gradient | optax | Ratio |"
    yield "| --- | --: | --: | --: | --: | --: | --: |"
    for row in report["rows"]:
        cells = [
            cell
            for kind in report["mean"]
            for cell in (
                f"{row[kind]['jaxloss']:.0f}",
                f"{row[kind]['optax']:.0f}",
                f"{row[kind]['jaxloss'] / row[kind]['optax']:.2f}",
            )
        ]
        yield f"| `{row['loss']}` | {' | '.join(cells)} |"
    value, gradient = report["mean"].values()
    yield f"| Geometric mean | | | {value:.2f} | | | {gradient:.2f} |"


def memory(results, peers):
    """What the compiled program needs beside inputs and outputs, where it is known."""
    columns = {"jaxloss": ["jaxloss"], **peers}
    known = {
        column: names
        for column, names in columns.items()
        if any(r["temporaries"].get(n) is not None for r in results for n in names)
    }
    yield f"| Row | {' | '.join(known)} |"
    yield f"| --- | {' | '.join('--:' for _ in known)} |"
    for result in results:
        used = result["temporaries"]
        cells = [
            ", ".join(
                f"{used[name] / 2**20:,.0f}{_way(name)}"
                for name in names
                if used.get(name) is not None
            )
            for names in known.values()
        ]
        yield f"| {label(result)} | {' | '.join(cells)} |"

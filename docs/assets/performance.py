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
        yield (
            f"{report['machine']}; {report['versions']}; measured on {report['date']}, "
            f"{report['rounds']} rounds each."
        )
        results = report["results"]
        peers = list(dict.fromkeys(n for r in results for n in r["milliseconds"]))
        peers.remove("jaxloss")
        yield from ("", *chart(results), "")
        yield from ("### Milliseconds", "", *times(results, peers), "")
        yield from ("### Temporaries, MiB", "", *memory(results, peers), "")
        if report.get("eager"):
            yield from ("### Calls outside jit, microseconds", "")
            yield from (*calls(report["eager"]), "")


def chart(results):
    """Bars of the best peer's time over jaxloss's."""
    rows = []
    for result in results:
        if result["ratio"]:
            peer, ratio = min(result["ratio"].items(), key=lambda item: item[1])
            rows.append((label(result), ratio, peer))
    return bars(rows, "The fastest peer's time divided by jaxloss's, as in the table.")


def times(results, peers):
    """jaxloss's time and each peer's, and in brackets how many times as long."""
    yield f"| Row | jaxloss | {' | '.join(peers)} |"
    yield f"| --- | --: | {' | '.join('--:' for _ in peers)} |"
    for result in results:
        took, cells = result["milliseconds"], []
        for peer in peers:
            ratio = took[peer] / took["jaxloss"] if peer in took else None
            cells.append("" if ratio is None else f"{took[peer]:.1f} ({ratio:.2f})")
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
    known = [
        p for p in peers if any(r["temporaries"].get(p) is not None for r in results)
    ]
    names = ["jaxloss", *known]
    yield f"| Row | {' | '.join(names)} |"
    yield f"| --- | {' | '.join('--:' for _ in names)} |"
    for result in results:
        used = [result["temporaries"].get(name) for name in names]
        cells = ["" if n is None else f"{n / 2**20:,.0f}" for n in used]
        yield f"| {label(result)} | {' | '.join(cells)} |"

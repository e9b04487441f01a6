"""The table as Markdown, JSON and a bar chart."""

import json
import pathlib
import re
from typing import Any

from benchmarks import eager
from benchmarks.measure import reached

FOLDER = pathlib.Path(__file__).parent
BEGIN, END = "<!-- table: {} -->", "<!-- end of table -->"


def markdown(report: dict[str, Any]) -> str:
    """One line a row: the ratio first, then milliseconds and temporaries."""
    lines = [
        f"{report['machine']}; {report['versions']}; {report['date']}.",
        "",
        "| row | best peer / jaxloss | floor | milliseconds | temporaries, MiB |",
        "| --- | --- | --- | --- | --- |",
    ]
    for result in report["results"]:
        ratio, floor = reached(result), result["floor"]
        against = f" ({result['floor_peer']})" if result["floor_peer"] else ""
        best = min(result["ratio"].values(), default=None)
        shown = "–" if best is None else f"{best:.2f}"
        if against and ratio is not None:
            shown += f", {ratio:.2f}{against}"
        missed = ratio is not None and floor is not None and ratio < floor
        times = ", ".join(f"{n} {t:.1f}" for n, t in result["milliseconds"].items())
        memory = ", ".join(
            f"{n} {b / 2**20:.0f}"
            for n, b in result["temporaries"].items()
            if b is not None
        )
        name = result["row"] + ("" if result["dtype"] == "float32" else ", bfloat16")
        goal = "–" if floor is None else f"{floor}{' missed' if missed else ''}"
        lines.append(f"| {name} | {shown} | {goal} | {times} | {memory} |")
    if calls := report.get("eager"):
        lines += ["", "Calls outside `jit`, on 64 numbers:", "", eager.markdown(calls)]
    return "\n".join(lines)


def write(report: dict[str, Any], folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes JSON and chart, named after the platform; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"{report['platform']}.json"
    data.write_text(json.dumps(report, indent=1) + "\n")
    picture = folder / f"{report['platform']}.png"
    _chart(report, picture)
    return [data, picture]


def update_readme(report: dict[str, Any]) -> None:
    """Puts the table into this folder's README, between its markers."""
    page = FOLDER / "README.md"
    begin = BEGIN.format(report["platform"])
    pattern = re.escape(begin) + ".*?" + re.escape(END)
    table = f"{begin}\n{markdown(report)}\n{END}"
    text = page.read_text()
    if re.search(pattern, text, re.DOTALL):
        page.write_text(re.sub(pattern, lambda _: table, text, flags=re.DOTALL))


# Of every peer that a row has.
COLORS = {
    "optax": "#0072B2",
    "keras": "#D55E00",
    "torch": "#009E73",
    "jax by hand": "#DDCC77",
    "torch in chunks": "#56B4E9",
    "tokamax": "#CC79A7",
    "tokamax in chunks": "#E69F00",
    "jax by pairs": "#AA4499",
    "jax by sorting": "#882255",
    "jax by sums": "#44AA99",
    "jax by log-gamma": "#999933",
    "plain": "#999999",
    "jax by differences": "#332288",
    "optax in a checkpointed scan": "#66A3D2",
    "plain in a checkpointed scan": "#CCCCCC",
    "jax in a checkpointed scan": "#8876C8",
    "torch with Liger": "#66C2A4",
}


def _chart(report, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    results = report["results"]
    figure, axes = plt.subplots(
        figsize=(10, 0.62 * len(results) + 1.2), layout="constrained"
    )
    for i, result in enumerate(results):
        peers = result["ratio"]
        for j, (name, ratio) in enumerate(peers.items()):
            y = i + 0.8 * (j + 0.5) / len(peers) - 0.4
            axes.barh(y, ratio - 1, 0.72 / len(peers), left=1, color=COLORS[name])
            side = "left" if ratio >= 1 else "right"
            axes.text(ratio, y, f" {ratio:.2f} ", va="center", ha=side, fontsize=7)
    labels = [
        r["row"] + ("" if r["dtype"] == "float32" else f" {r['dtype']}")
        for r in results
    ]
    axes.set_yticks(range(len(results)), labels)
    axes.margins(0.1, 0.01)
    axes.invert_yaxis()
    # Twice and half as fast are equally far from 1.
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.axvline(1, color="0.3", lw=1)
    axes.set_xlabel("peer's time / jaxloss' time, value and gradient (right is faster)")
    axes.set_title(f"{report['machine']}\n{report['versions']}", fontsize=8)
    for name, color in COLORS.items():
        if any(name in r["ratio"] for r in results):
            axes.barh([0], [0], left=1, color=color, label=name)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)

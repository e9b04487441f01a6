"""The planned figures as a table and as JSON."""

import contextlib
import datetime
import importlib.metadata
import json
from pathlib import Path
from platform import python_version
from typing import Any

FOLDER = Path(__file__).parents[1] / "results" / "planned"
MIB = 2**20
FIGURES = ("temporaries", "moved")
# What the versions name: the peers, and what decides how jaxloss is compiled.
_PEERS = ("optax", "keras", "tokamax")
_COMPILERS = {
    "tpu": ("jax", "jaxlib", "libtpu"),
    "cuda": (
        "jax",
        "jaxlib",
        "jax-cuda12-plugin",
        "jax-cuda13-plugin",
        "nvidia-cuda-nvcc-cu12",
        "nvidia-cuda-nvcc",
    ),
}
HEAD = (
    "| row | program | temporaries, MiB | moved, MiB | passes | moved / best peer |\n"
    "| --- | --- | --: | --: | --: | --: |"
)


def versions(platform: str) -> dict[str, str]:
    """The versions of what compiles for a platform, and of the peers."""
    found = {"Python": python_version()}
    for name in (*_COMPILERS[platform], *_PEERS):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def compiler(versions: dict[str, str], platform: str) -> dict[str, str]:
    """Of these versions, those that decide how jaxloss is compiled."""
    return {n: v for n, v in versions.items() if n in _COMPILERS[platform]}


def table(
    target: str, device_kind: str, platform: str, results: list[dict]
) -> dict[str, Any]:
    """What is written for a target."""
    return {
        "target": target,
        "device": device_kind,
        "versions": versions(platform),
        "date": datetime.date.today().isoformat(),
        "rows": results,
    }


def peers(result: dict[str, Any], *, precise: bool = False) -> dict[str, dict]:
    """The peers' figures; `precise`: only where the loss has jaxloss's dtype."""
    programs = result["programs"]
    return {
        name: program
        for name, program in programs.items()
        if name != "jaxloss"
        and "failed" not in program
        and (not precise or program["dtype"] == programs["jaxloss"]["dtype"])
    }


def best(result: dict[str, Any], figure: str, *, precise: bool = False) -> int | None:
    """The least of a figure among the peers; each may have another best peer."""
    found = peers(result, precise=precise).values()
    return min((program[figure] for program in found), default=None)


def excess(result: dict[str, Any], *, precise: bool = False) -> dict[str, int]:
    """The bytes by which jaxloss passes the best peer; empty where it does not.

    1 % of the largest input is allowed: partial sums and numbers per example.
    """
    ours, allowed = result["programs"]["jaxloss"], result["largest_input"] / 100
    found = {}
    for figure in FIGURES:
        least = best(result, figure, precise=precise)
        if least is not None and ours[figure] > least + allowed:
            found[figure] = ours[figure] - least
    return found


def lines(result: dict[str, Any]) -> str:
    """A line of the table for each program of a row."""
    name = label(result)
    precise, over = peers(result, precise=True), excess(result)
    found = []
    for program, p in result["programs"].items():
        if "failed" in p:
            found.append(f"| {name} | {program} | {p['failed']} | | | |")
            continue
        cells = [f"{p[figure] / MIB:,.1f}" for figure in FIGURES]
        if program == "jaxloss":
            cells = [
                f"**{cell}**" if figure in over else cell
                for figure, cell in zip(FIGURES, cells, strict=True)
            ]
        elif program not in precise:
            program += " (less precise)"
        least = best(result, "moved")
        ratio = f"{p['moved'] / least:.2f}" if least else "–"
        cells += [str(p["passes"]), ratio]
        found.append(f"| {name} | {program} | {' | '.join(cells)} |")
    return "\n".join(found)


def label(result: dict[str, Any]) -> str:
    half = "" if result["dtype"] == "float32" else f", {result['dtype']}"
    return result["row"] + half


def summary(results: list[dict[str, Any]]) -> str:
    """The rows that need more than the best peer, of any and of equal precision."""
    text = []
    for kind, precise in (("any", False), ("equal", True)):
        over = {label(r): excess(r, precise=precise) for r in results}
        over = {name: found for name, found in over.items() if found}
        text.append(
            f"{len(over)} of {len(results)} rows need more than the best peer of "
            f"{kind} precision:"
        )
        text += [
            f"- {name}: "
            + ", ".join(f"{figure} +{n / MIB:,.1f} MiB" for figure, n in found.items())
            for name, found in over.items()
        ]
    return "\n".join(text)


def write(report: dict[str, Any], folder: Path, name: str) -> Path:
    """Writes the JSON, without the times, which differ from run to run."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(_without_times(report), indent=1) + "\n")
    return path


def _without_times(part: Any) -> Any:
    if isinstance(part, dict):
        return {k: _without_times(v) for k, v in part.items() if k != "seconds"}
    return [_without_times(v) for v in part] if isinstance(part, list) else part

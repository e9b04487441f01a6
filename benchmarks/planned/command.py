"""`--compile-for TARGET...` and `--slice CHIPS...`: compiles, prints, writes."""

import re
import time
from pathlib import Path

from benchmarks.planned import report, slice_report, slices
from benchmarks.planned.compile import measure
from benchmarks.planned.rows import rows
from benchmarks.planned.targets import TARGETS, Target, device, missing


def compile_for(
    names: list[str], pattern: str, output: Path | None, dump: Path | None
) -> None:
    """Compiles the rows that a pattern finds, for each target; writes full runs."""
    chosen = [row for row in rows() if re.search(pattern, row.label)]
    if not chosen:
        known = "; ".join(row.label for row in rows())
        raise SystemExit(f"No row's name matches {pattern!r}: {known}.")
    for name in names:
        target = TARGETS[name]
        _need(target, name)
        described = device(target)
        start = time.perf_counter()
        print(f"{name} ({described.device_kind}), planned by the compiler, not timed:")
        print(report.HEAD)
        results = []
        for row in chosen:
            results.append(measure(row, described, dump=dump and dump / name))
            print(report.lines(results[-1]), flush=True)
        print(report.summary(results))
        print(f"{len(results)} rows in {time.perf_counter() - start:.0f} s")
        table = report.table(name, described.device_kind, target.platform, results)
        folder = output or (None if pattern else report.FOLDER)
        if folder is not None:
            print(f"wrote {report.write(table, folder, name)}")


def compile_slices(
    names: list[str], pattern: str, output: Path | None, dump: Path | None
) -> None:
    """Compiles the layouts that a pattern finds, for each slice; writes full runs."""
    chosen = [name for name in slices.LAYOUTS if re.search(pattern, name)]
    if not chosen:
        known = "; ".join(slices.LAYOUTS)
        raise SystemExit(f"No layout's name matches {pattern!r}: {known}.")
    for chips in names:
        _need(Target("tpu", chips), chips)
        start = time.perf_counter()
        print(f"{chips}, a chip's share, planned by the compiler, not timed:")
        print(slice_report.HEAD)
        results = []
        for layout in chosen:
            results.append(slices.measure(chips, layout, dump))
            print(slice_report.lines(results[-1]), flush=True)
        for fault in [fault for r in results for fault in slice_report.over(r)]:
            print(f"- {fault}")
        print(f"{len(results)} layouts in {time.perf_counter() - start:.0f} s")
        folder = output or (None if pattern else report.FOLDER / "slices")
        if folder is not None:
            name = chips.replace(":", "-")
            table = slice_report.table(chips, results)
            print(f"wrote {report.write(table, folder, name)}")


def _need(target, name):
    if lacking := missing(target):
        raise SystemExit(f"{name}: {lacking}")

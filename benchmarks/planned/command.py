"""`python -m benchmarks --compile-for TARGET...`: compiles the rows, prints, writes."""

import re
import time
from pathlib import Path

from benchmarks.planned import report
from benchmarks.planned.compile import measure
from benchmarks.planned.rows import rows
from benchmarks.planned.targets import TARGETS, device, missing


def compile_for(
    names: list[str], pattern: str, output: Path | None, dump: Path | None
) -> None:
    """Compiles the rows that a pattern finds, for each target, and writes full runs."""
    chosen = [row for row in rows() if re.search(pattern, row.label)]
    if not chosen:
        known = "; ".join(row.label for row in rows())
        raise SystemExit(f"No row's name matches {pattern!r}: {known}.")
    for name in names:
        target = TARGETS[name]
        if lacking := missing(target):
            raise SystemExit(f"{name}: {lacking}")
        described = device(target)
        start = time.perf_counter()
        print(f"{name} ({described.device_kind}), planned by the compiler:")
        print(report.HEAD)
        results = []
        for row in chosen:
            folder = dump and dump / name
            results.append(measure(row, described, dump=folder))
            print(report.lines(results[-1]), flush=True)
        print(report.summary(results))
        print(f"{len(results)} rows in {time.perf_counter() - start:.0f} s")
        kind = described.device_kind
        table = report.table(name, kind, target.platform, results)
        folder = output or (None if pattern else report.FOLDER)
        if folder is not None:
            print(f"wrote {report.write(table, folder)}")

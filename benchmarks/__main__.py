"""`python -m benchmarks`: times all rows, prints the table and writes it.

With `--compile-for` or `--slice` it times nothing, and shows what XLA plans for
accelerators.
"""

import argparse
import datetime
import importlib.metadata
import os
import pathlib
import platform
import re

import jax
from tqdm import tqdm

from benchmarks import eager, report
from benchmarks.cases import ROWS, installed
from benchmarks.measure import measure
from benchmarks.planned import command
from benchmarks.planned.targets import TARGETS


def main() -> None:
    options = _arguments()
    planned = options.rows or "", options.output, options.dump
    if options.compile_for:
        command.compile_for(options.compile_for, *planned)
    if options.slice:
        command.compile_slices(options.slice, *planned)
    if not (options.compile_for or options.slice):
        _timed(options)


def _timed(options: argparse.Namespace) -> None:
    rows = [row for row in ROWS if re.search(options.rows or "", row.name)]
    if not rows:
        names = ", ".join(row.name for row in ROWS)
        raise SystemExit(f"No row's name matches {options.rows!r}: {names}.")
    of_calls = None
    if options.rows is None:
        print("Calls outside jit:")
        of_calls = eager.measure(
            rounds=options.rounds, calls=10 if options.quick else 200
        )
        print(eager.markdown(of_calls))
        for broken in eager.missed(of_calls):
            print(f"MISSED: {broken}")
    results = []
    progress = tqdm(rows)
    for row in progress:
        progress.set_description(row.name)
        shrink = 1024 if options.quick else 1
        results.append(measure(row, rounds=options.rounds, shrink=shrink))
    names = "jaxlib", "optax", "torch", "keras", "tokamax"
    libraries = [name for name in names if installed(name)]
    table = {
        "platform": jax.default_backend(),
        "machine": _machine(),
        "versions": ", ".join(
            [
                f"Python {platform.python_version()}",
                *(f"{n} {importlib.metadata.version(n)}" for n in libraries),
            ]
        ),
        "date": datetime.date.today().isoformat(),
        "rounds": options.rounds,
        "results": results,
        "eager": of_calls,
    }
    print(report.markdown(table))
    folder = options.output
    if folder is None and options.rows is None and not options.quick:
        folder = report.FOLDER / "results"
        report.update_readme(table)
    if folder is not None:
        for path in report.write(table, folder):
            print(f"wrote {path}")


def _arguments():
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--rows", help="only the rows whose name has a match of this regular expression"
    )
    parser.add_argument(
        "--compile-for",
        nargs="+",
        choices=TARGETS,
        metavar="TARGET",
        help="time nothing; compile for these accelerators, which need not be there, "
        f"and show what the compiler planned: {', '.join(TARGETS)}",
    )
    parser.add_argument(
        "--slice",
        nargs="+",
        metavar="CHIPS",
        help="the same for programs of many chips, such as v5e:4x4 or v5e:16x16",
    )
    parser.add_argument(
        "--dump", type=pathlib.Path, help="folder for the text of what is compiled"
    )
    parser.add_argument("--rounds", type=int, default=9, help="rounds that count")
    parser.add_argument(
        "--quick", action="store_true", help="tiny inputs: a smoke test"
    )
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        help="folder for the table and the chart; benchmarks/results after a full run",
    )
    return parser.parse_args()


def _machine():
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"CPU {platform.machine()}, {os.cpu_count()} cores"
    return device.device_kind


if __name__ == "__main__":
    main()

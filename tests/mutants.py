"""Breaks a line of `jaxloss/_core` at a time: the quick tier has to notice each.

`python tests/mutants.py [NUMBER...]`, by hand: it takes minutes per line. Each line is
broken in a copy of the checkout, which runs its own copy of the tests.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent

# A file, what stands there once, and what to write instead.
MUTANTS = [
    # Forward mode is twice too large.
    (
        "rule/analytic.py",
        "pull_back(jnp.ones_like(value))",
        "pull_back(2 * jnp.ones_like(value))",
    ),
    # The second derivative ends at the first.
    (
        "rule/known.py",
        "return value, tangent(tuple(primals[1:]), moved)[1]",
        "return value, jnp.zeros_like(value)",
    ),
    # A dropped example hands its infinite cotangent on.
    (
        "rule/dropped.py",
        "return _finite_p.bind(cotangent, dropped), None",
        "return cotangent, None",
    ),
    # The transpose of the transpose is the transpose again.
    (
        "rule/linear_map.py",
        "pull=_some_of(push, given)",
        "pull=_of_some(pull, constants, given, len(cotangents))",
    ),
    # The mean divides by the number of examples, whatever they weigh.
    (
        "arguments/tail.py",
        "counted = counted if factor is None else counted * factor",
        "counted = counted if factor is None else counted",
    ),
    # An example without any class still counts.
    (
        "arguments/classes.py",
        "                > 0\n",
        "                >= 0\n",
    ),
    # What rounding took from a difference is lost.
    (
        "numerics/exact.py",
        "return difference, (a - (d - kept)) - (b + kept)",
        "return difference, 0 * ((a - (d - kept)) - (b + kept))",
    ),
    # Near 0 the hyperbolic tangent cancels.
    ("numerics/functions.py", "small = a < 0.7", "small = a < 0.01"),
    # A small share of the other classes is rounded away beside the label's.
    (
        "softmax.py",
        "jnp.where(ahead, others + (own_share - 1), (others - 1) + own_share)",
        "(others - 1) + own_share",
    ),
    # The gradient of the kernel is that of the last chunk.
    ("sweeps/rows.py", "sums = jax.tree.map(jnp.add, sums, terms)", "sums = terms"),
]


def copy_checkout(to: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to / name)


def suite_is_red(folder: Path) -> tuple[bool, str]:
    """Whether the quick tier fails, and its first failure."""
    # The folder that it runs in is the first on the path of imports.
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", "-x", "-q"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    failed = [x for x in ran.stdout.splitlines() if x.startswith(("FAILED", "ERROR"))]
    return bool(failed), failed[0][:100] if failed else ran.stdout[-200:]


def main(numbers: list[int]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        copy_checkout(folder)
        survivors = 0
        for number in numbers:
            name, there, instead = MUTANTS[number]
            path = folder / "jaxloss" / "_core" / name
            source = path.read_text()
            if source.count(there) != 1:
                raise SystemExit(f"{name} has {there!r} {source.count(there)} times")
            path.write_text(source.replace(there, instead))
            begun = time.monotonic()
            red, line = suite_is_red(folder)
            path.write_text(source)
            survivors += not red
            took = time.monotonic() - begun
            state = "red" if red else "GREEN"
            print(f"{number} {state} after {took:.0f} s, {name}: {line}", flush=True)
        if survivors:
            raise SystemExit(f"{survivors} mutants went unseen")


if __name__ == "__main__":
    main([int(n) for n in sys.argv[1:]] or list(range(len(MUTANTS))))

"""Measures losses in units in the last place (ulp) of float32, against mpmath.

The reference is the definition of a loss in real arithmetic, taken at the exact values
of the float32 inputs with 220 digits. Its derivatives are difference quotients of the
definition, so that no formula of a derivative is written twice.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from mpmath import mp, mpf

TINY = float(np.finfo(np.float32).tiny)
HUGE = 3e38
# 1e-5 relative, in units of 2^-23 of the true value.
POWER = 1e-5 * 2**23
# XLA flushes what is below the smallest normal number to zero.
FLUSHED = 1.2e-38
_OVERFLOW = 2.0**128

Function = Callable[..., Any]


class Worst(NamedTuple):
    """The largest error of one quantity over a grid, and where it is."""

    quantity: str
    ulp: float
    inputs: tuple[float, ...]
    got: float
    true: float

    def __str__(self):
        inputs = ", ".join(repr(x) for x in self.inputs)
        return (
            f"{self.quantity}: {self.ulp:.2f} ulp at ({inputs}): "
            f"got {self.got!r}, true value {self.true!r}"
        )


def near(*values: float) -> list[float]:
    """The values with both their neighbouring floats."""
    found = []
    for value in np.asarray(values, np.float32):
        for to in (-np.inf, value, np.inf):
            found.append(float(np.nextafter(value, np.float32(to))))
    return [v for v in found if v == 0 or abs(v) >= TINY]


def spread(
    rng: np.random.Generator,
    count: int,
    low: float = TINY,
    high: float = HUGE,
    signed: bool = True,
) -> list[float]:
    """Log-uniform floats between two magnitudes."""
    values = np.exp(rng.uniform(math.log(low), math.log(high), count))
    values = np.clip(values, low, high).astype(np.float32)
    return [float(v) for v in values * (rng.choice((-1, 1), count) if signed else 1)]


LADDER = [TINY, 1e-30, 1e-20, 1e-10, 3e-5, 1e-3, 0.1, 0.5, 1, 2, 9, 88, 1e4, 1e10]
LADDER += [1e19, 2e19, 1e30, HUGE]
BOTH_SIGNS = [0.0, *LADDER, *(-v for v in LADDER)]


def pairs(rng: np.random.Generator, count: int, switches: Sequence[float] = ()):
    """Predictions and targets over all of float32.

    Args:
        rng: Random numbers.
        count: How many random pairs of each kind.
        switches: Magnitudes of the difference at which a formula changes.
    """
    exact = BOTH_SIGNS + [s * v for v in near(*switches) for s in (1, -1)]
    rows = [(v, 0.0) for v in exact]
    rows += [(0.0, v) for v in BOTH_SIGNS]
    rows += [(HUGE, -HUGE), (-HUGE, HUGE), (HUGE, HUGE), (2e38, -1e38), (-1e38, 2e38)]
    rows += zip(spread(rng, count), spread(rng, count), strict=True)
    moderate = spread(rng, count, 1e-6, 1e3), spread(rng, count, 1e-6, 1e3)
    rows += zip(*moderate, strict=True)
    # Differences that cancel, down to one rounding.
    for t in spread(rng, count, 1e-36) + spread(rng, count, 1e-6, 1e3):
        p = np.float32(t) * np.float32(1 + rng.integers(-8, 9) * 2.0**-23)
        rows.append((float(p), t))
    # Differences that a rounding puts on either side of a switch.
    for t in spread(rng, count, 1e-3, 10):
        for switch in switches:
            for e in near(switch):
                rows.append((float(np.float32(t + rng.choice((-1, 1)) * e)), t))
    return rows


def append(rows: Iterable[tuple], *columns: Callable[[], float]) -> list[tuple]:
    """The rows with one more entry for each column, drawn row by row."""
    return [(*row, *(float(np.float32(draw())) for draw in columns)) for row in rows]


def some(
    rng: np.random.Generator, values: Sequence[float], low: float, high: float
) -> Callable[[], float]:
    """Draws one of the values half of the time, else a log-uniform positive float."""

    def draw():
        if rng.random() < 0.5:
            return float(rng.choice(values))
        return spread(rng, 1, low, high, signed=False)[0]

    return draw


def measure(
    loss: Function,
    definition: Function,
    rows: Sequence[tuple],
    *,
    terms: Function | None = None,
    slopes: dict[int, Function] | None = None,
    slope_terms: dict[int, Function] | None = None,
    skip: Callable[..., tuple[int, ...]] = lambda *row: (),
    names: str = "",
    relative: bool = False,
) -> list[Worst]:
    """The largest error of a loss and of each first derivative, over the rows.

    At a kink any number between the one-sided derivatives is right.

    Args:
        loss: The loss, of float32 arrays, elementwise.
        definition: The same of `mpf` numbers; NaN or complex outside its domain.
        rows: The inputs, exact in float32.
        terms: The terms of a value that is a difference by nature; its units are
            those of the largest.
        slopes: Definitions of derivatives that are not the definition's own, by input.
        slope_terms: The terms of derivatives that are differences by nature, by input.
        skip: Which inputs' derivatives not to look at in a row.
        names: The inputs' names, for the message.
        relative: Whether the units are 2^-23 of the true value, not its ulp.
    """
    slopes, slope_terms = slopes or {}, slope_terms or {}
    rows = [tuple(float(np.float32(x)) for x in row) for row in dict.fromkeys(rows)]
    value, gradients = evaluate(loss, rows)
    found = {}

    def note(quantity, row, got, low, high, unit):
        error = ulp(got, low, high, unit, relative)
        if quantity not in found or not error <= found[quantity].ulp:
            true = float(low if abs(low) > abs(high) else high)
            found[quantity] = Worst(quantity, error, row, float(got), true)

    labels = names.split() or [str(i) for i in range(len(rows[0]))]
    for i, row in enumerate(rows):
        with mp.workdps(220):
            point = [mpf(x) for x in row]
            true = definition(*point)
            unit = max(map(abs, terms(*point))) if terms else true
            note("value", row, value[i], true, true, unit)
            for n in range(len(row)):
                if n in skip(*row):
                    continue
                if n in slopes:
                    low = high = slopes[n](*point)
                else:
                    low, high = one_sided(definition, point, n, true)
                unit = max(abs(low), abs(high))
                if n in slope_terms:
                    unit = max(map(abs, slope_terms[n](*point)))
                note(f"d/d {labels[n]}", row, gradients[n][i], low, high, unit)
    return list(found.values())


def evaluate(loss: Function, rows: Sequence[tuple]) -> tuple[np.ndarray, list]:
    """Value and gradient with respect to every input, in one compiled call."""

    @jax.jit
    def run(*columns):
        value, pull_back = jax.vjp(loss, *columns)
        return value, pull_back(jnp.ones_like(value))

    columns = [jnp.asarray(c, jnp.float32) for c in zip(*rows, strict=True)]
    value, gradients = run(*columns)
    return np.asarray(value), [np.asarray(g) for g in gradients]


def one_sided(definition: Function, point: Sequence, n: int, value) -> list:
    """The derivatives from the left and from the right, the smaller first."""
    step = abs(point[n]) * mpf("1e-60") or mpf("1e-100")
    found = []
    for h in (-step, step):
        moved = definition(*point[:n], point[n] + h, *point[n + 1 :])
        slope = (moved - value) / h
        if isinstance(slope, mpf) and mp.isfinite(slope):
            found.append(slope)
    return [min(found), max(found)]


def ulp(got: Any, low: Any, high: Any, unit: Any, relative: bool = False) -> float:
    """Distance of a float32 from [low, high], in ulp of `unit`.

    An overflow counts as 2^128, the number after the largest, on both sides.
    """
    got = float(got)
    if math.isnan(got):
        return math.inf
    low, high = (max(min(mpf(x), _OVERFLOW), -_OVERFLOW) for x in (low, high))
    got = mpf(max(min(got, _OVERFLOW), -_OVERFLOW))
    distance = max(low - got, got - high, mpf(0))
    if distance < FLUSHED:
        return 0.0
    size = max(min(abs(mpf(unit)), mpf(2) ** 127), mpf(2) ** -126)
    if not relative:
        size = mpf(2) ** (mp.frexp(size)[1] - 1)
    return float(distance / size * 2**23)


def report(worst: Sequence[Worst], bound: float | dict[str, float]) -> str:
    """What is over its bound, for an assertion that it is nothing."""
    bounds = bound if isinstance(bound, dict) else {}
    default = bounds.get("", 4.0) if isinstance(bound, dict) else bound
    over = [w for w in worst if not w.ulp <= bounds.get(w.quantity, default)]
    return "\n".join(str(w) for w in over)

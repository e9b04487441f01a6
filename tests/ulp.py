"""Measures losses in units in the last place (ulp) of float32, against mpmath.

The reference is the definition of a loss in real arithmetic, taken at the exact values
of the float32 inputs with 220 digits. Its derivatives are difference quotients of the
definition, so that no formula of a derivative is written twice.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from mpmath import mp, mpf
from tier import choose

Function = Callable[..., Any]
Row = tuple[float, ...]

TINY = float(np.finfo(np.float32).tiny)
HUGE = 3e38
# XLA flushes what is below the smallest normal number to zero.
FLUSHED = 1.2e-38
# 1e-5 relative, in units of 2^-23 of the true value.
POWER = 1e-5 * 2**23
_OVERFLOW = mpf(2) ** 128

# Magnitudes over all of float32, and both signs of them.
LADDER = [TINY, 1e-30, 1e-20, 1e-10, 3e-5, 1e-3, 0.1, 0.5, 1, 2, 9, 88, 1e4, 1e10]
LADDER += [1e19, 2e19, 1e30, HUGE]
BOTH_SIGNS = [0.0, *LADDER, *(-v for v in LADDER)]


class Accuracy(NamedTuple):
    """A loss, its definition, and the inputs at which the two are compared.

    Attributes:
        loss: The loss, of float32 arrays, elementwise.
        definition: The same of `mpf` numbers; NaN or complex outside its domain.
        names: The inputs' names.
        rows: The inputs of the comparison.
        terms: The terms of a value that is a difference by nature; its units are those
            of the largest.
        slopes: Definitions of derivatives that are not the definition's own, by input.
        slope_terms: The terms of derivatives that are differences by nature, by input.
        flat: Inputs in which the loss is constant or has no derivative, in a row.
        relative: Whether the units are 2^-23 of the true value, not its ulp.
        flushed: Absolute error of what was flushed to zero before the last operation.
        bound: The largest error that is right, in those units.
        curved: The rows at which second derivatives are looked at, if not all.
    """

    loss: Function
    definition: Function
    names: str
    rows: Sequence[Row]
    terms: Function | None = None
    slopes: Mapping[int, Function] = {}
    slope_terms: Mapping[int, Function] = {}
    flat: Callable[..., tuple[int, ...]] = lambda *row: ()
    relative: bool = False
    flushed: Callable[..., float] = lambda *row: FLUSHED
    bound: float = 4
    curved: Callable[..., bool] = lambda *row: True


class Error(NamedTuple):
    """The largest error of one quantity over the rows, and where it is."""

    quantity: str
    ulp: float
    row: Row
    got: float
    true: float

    def __str__(self):
        inputs = ", ".join(repr(x) for x in self.row)
        return (
            f"{self.quantity}: {self.ulp:.2f} ulp at ({inputs}), "
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
    values = np.clip(values, low, high)
    return [float(v) for v in values * (rng.choice((-1, 1), count) if signed else 1)]


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


def append(rows: Iterable[Any], *columns: Callable[[], Any]) -> list[tuple]:
    """The rows with one more entry for each column, drawn row by row."""
    rows = (row if isinstance(row, tuple) else (row,) for row in rows)
    return [(*row, *(float(draw()) for draw in columns)) for row in rows]


def some(
    rng: np.random.Generator, values: Sequence[float], low: float, high: float
) -> Callable[[], float]:
    """Draws one of the values half of the time, else a log-uniform positive float."""

    def draw():
        if rng.random() < 0.5:
            return float(rng.choice(values))
        return spread(rng, 1, low, high, signed=False)[0]

    return draw


class Comparison(NamedTuple):
    """One result at one row, beside the interval of right ones."""

    quantity: str
    row: Row
    got: Any
    low: Any
    high: Any
    unit: Any


def compare(
    case: Accuracy, rows: Sequence[Row], dtype: Any = jnp.float32
) -> Iterator[Comparison]:
    """The loss and each first derivative beside the definition's, at every row.

    At a kink any number between the one-sided derivatives is right.
    """
    value, gradients = evaluate(case.loss, rows, dtype)
    for i, row in enumerate(rows):
        flat = case.flat(*row)
        with mp.workdps(220):
            point = [mpf(x) for x in row]
            true = case.definition(*point)
            unit = max(map(abs, case.terms(*point))) if case.terms else abs(true)
            yield Comparison("value", row, value[i], true, true, unit)
            for n, name in enumerate(case.names.split()):
                if n in flat:
                    continue
                if n in case.slopes:
                    low = high = case.slopes[n](*point)
                else:
                    low, high = one_sided(case.definition, point, n, true)
                unit = max(abs(low), abs(high))
                if n in case.slope_terms:
                    unit = max(map(abs, case.slope_terms[n](*point)))
                yield Comparison(f"d/d {name}", row, gradients[n][i], low, high, unit)


def measure(case: Accuracy) -> list[Error]:
    """The largest error of the loss and of each first derivative, over the rows."""
    found: dict[str, Error] = {}
    rows = thinned(in_float32(case.rows))
    for quantity, row, got, low, high, unit in compare(case, rows):
        error = ulp(got, low, high, unit, case.flushed(*row), case.relative)
        if quantity not in found or not error <= found[quantity].ulp:
            true = float(low if abs(low) > abs(high) else high)
            found[quantity] = Error(quantity, error, row, float(got), true)
    return list(found.values())


def over_bound(case: Accuracy) -> str:
    """What is off by more than its bound, for an assertion that nothing is."""
    return "\n".join(str(e) for e in measure(case) if not e.ulp <= case.bound)


def thinned(rows: list[Row]) -> list[Row]:
    """All rows, or in the quick tier every third."""
    return rows[:: choose(3, 1)]


def in_float32(rows: Iterable[tuple]) -> list[Row]:
    """The rows rounded to float32, each once."""
    return list(dict.fromkeys(tuple(float(np.float32(x)) for x in r) for r in rows))


def evaluate(
    loss: Function, rows: Sequence[tuple], dtype: Any = jnp.float32
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Value and gradient with respect to every input, in one compiled call."""

    @jax.jit
    def run(*columns):
        value, pull_back = jax.vjp(loss, *columns)
        return value, pull_back(jnp.ones_like(value))

    value, gradients = run(*_columns(rows, dtype))
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


def ulp(
    got: Any,
    low: Any,
    high: Any,
    unit: Any,
    flushed: float = FLUSHED,
    relative: bool = False,
) -> float:
    """Distance of a float32 from [low, high], in ulp of `unit` or relative to it.

    An overflow counts as 2^128, the number after the largest, on both sides.
    """
    got = float(got)
    if math.isnan(got):
        return math.inf
    got, low, high = (max(min(mpf(x), _OVERFLOW), -_OVERFLOW) for x in (got, low, high))
    distance = max(low - got, got - high, mpf(0))
    return 0.0 if distance < flushed else float(distance / spacing(unit, relative))


def spacing(unit: Any, relative: bool = False) -> Any:
    """One unit in the last place of a float32, or 2^-23 of it."""
    size = max(min(abs(mpf(unit)), mpf(2) ** 127), mpf(2) ** -126)
    if not relative:
        size = mpf(2) ** (mp.frexp(size)[1] - 1)
    return size / 2**23


def not_finite(case: Accuracy) -> str:
    """Second derivatives that are not finite where the loss and the true ones are.

    Forward over reverse for every pair of inputs, reverse over reverse for the pure
    ones. Kinks, where the second difference diverges, count as infinite, and so does
    what is within a factor 4 of the largest float, of which a term may overflow.
    """
    rows = [row for row in thinned(in_float32(case.rows)) if case.curved(*row)]
    largest = _OVERFLOW / 4
    found = []
    for (kind, i, j), entries in second_derivatives(case.loss, rows).items():
        for n in np.flatnonzero(~np.isfinite(entries)):
            row = rows[n]
            if {i, j} & {*case.flat(*row), *case.slopes}:
                continue
            with mp.workdps(400):
                point = [mpf(x) for x in row]
                true = second_difference(case.definition, point, i, j)
                fine = abs(case.definition(*point)) < largest and abs(true) < largest
            if fine:
                found.append(
                    f"{kind} ({i}, {j}) at {row}: got {entries[n]}, "
                    f"true value {mp.nstr(true, 9)}"
                )
    return "\n".join(found[:9])


def second_derivatives(
    loss: Function, rows: Sequence[Row]
) -> dict[tuple[str, int, int], np.ndarray]:
    """Second derivatives by (nesting, first input, second input)."""
    columns = _columns(rows, jnp.float32)

    def along(function, n, columns):
        return lambda x: function(*columns[:n], x, *columns[n + 1 :])

    def slopes(*columns):
        value, pull_back = jax.vjp(loss, *columns)
        return pull_back(jnp.ones_like(value))

    @jax.jit
    def run(*columns):
        ones = jnp.ones_like(columns[0])
        found = {}
        for j, y in enumerate(columns):
            # Along one input: 0 times an infinite slope by another would be NaN.
            _, push = jax.linearize(along(slopes, j, columns), y)
            for i, bend in enumerate(push(ones)):
                if i >= j:
                    found["forward over reverse", i, j] = bend
            pull_back = jax.linear_transpose(lambda t, p=push, j=j: p(t)[j], y)
            found["reverse over reverse", j, j] = pull_back(ones)[0]
        return found

    return {key: np.asarray(value) for key, value in run(*columns).items()}


def second_difference(definition: Function, point: Sequence, i: int, j: int) -> Any:
    """The definition's second derivative, or a number beyond all floats at a kink."""

    def moved(*steps):
        shifted = list(point)
        for n, sign in steps:
            shifted[n] += sign * step[n]
        return definition(*shifted)

    step = [abs(x) * mpf("1e-60") or mpf("1e-100") for x in point]
    if i == j:
        return (moved((i, 1)) - 2 * moved() + moved((i, -1))) / step[i] ** 2
    corners = (a * b * moved((i, a), (j, b)) for a in (1, -1) for b in (1, -1))
    return sum(corners) / (4 * step[i] * step[j])


def halves(case: Accuracy, dtype: Any, most: int = 100) -> str:
    """Where a result of half-precision inputs is no rounding of a right float32 one.

    Looked at for at most about as many rows as `most`.
    """
    largest = float(jnp.finfo(dtype).max)
    single = np.array(in_float32(case.rows))
    half = np.clip(single, -largest, largest).astype(dtype).astype(float)
    # Without what a rounding moves onto the edge of a domain, to 0 or 1.
    kept = ((single == 0) == (half == 0)) & ((single == 1) == (half == 1))
    rows = in_float32(half[kept.all(axis=1)].tolist())
    found = []
    for quantity, row, got, *interval, unit in compare(
        case, rows[:: math.ceil(len(rows) / most)], dtype
    ):
        kind = np.float32 if quantity == "value" else dtype
        assert got.dtype == kind, f"{quantity} has dtype {got.dtype}"
        slack = max(case.bound * spacing(unit, case.relative), case.flushed(*row))
        if not is_rounding(got, *interval, slack):
            true = mp.nstr(interval[0], 9)
            found.append(f"{quantity} at {row}: got {got!r}, true value {true}")
    return "\n".join(found[:9])


def is_rounding(got: np.generic, low: Any, high: Any, slack: Any) -> bool:
    """Whether `got` is what its dtype makes of a number in the interval, widened."""
    ends = (float(end) for end in (low - slack, high + slack))
    with np.errstate(over="ignore"):  # an infinity, as it should be
        low, high = (np.float64(end).astype(got.dtype) for end in ends)
    return bool(low <= got <= high)


def _columns(rows, dtype):
    return [jnp.asarray(np.asarray(c), dtype) for c in zip(*rows, strict=True)]

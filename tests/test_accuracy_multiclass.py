"""Accuracy of the cross entropies over a class axis, each derivative in its own ulp."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpmath import mp, mpf
from ulp import FLUSHED, HUGE, spread, ulp

import jaxloss as jl

BOUND = 8.0
RNG = np.random.default_rng(5)
INF = math.inf


def logits_rows() -> list[list[float]]:
    """Ordinary, peaked, tied, huge and impossible logits of one to seven classes."""
    rows = [
        [0.7],
        [-HUGE],
        [20, 0, -0.5, 0.25],
        [46.05, 0.1234567, -0.77, 0.25],
        [0, 0, 0, 0],
        [1e-30, 0, -1e-30],
        [HUGE] * 4,
        [-HUGE] * 3,
        [HUGE, -HUGE, 0, 1],
        [HUGE, HUGE, 1, -1],
        [-200, -300, -100, -150],
        [1e4 + 0.5, 1e4, 1e4 - 3],
        [3e6, 3e6 + 0.25, 3e6 + 1.5],
        [-INF, 0, 1, 2],
        [-INF, 3, -INF, 3.5],
        [5, -INF, -INF, -INF],
        [87.5, 0.1],
        [104.5, 0.3, 1e-9],
        [300, 300, 300, 300],
        [16.75, 0],
        [0, -1e-8],
    ]
    for classes in (2, 4, 7):
        for size in (0.01, 1, 5, 30, 200):
            for _ in range(5):
                rows.append(list(RNG.normal(size=classes) * size))
        for _ in range(12):
            # One class with nearly all of the mass, anywhere.
            row = RNG.normal(size=classes) * 2 + RNG.choice((0, 50, -300, 1e4))
            row[RNG.integers(classes)] += RNG.uniform(5, 95)
            rows.append(list(row))
        for _ in range(6):
            rows.append(spread(RNG, classes))
            row = RNG.normal(size=classes) * 20
            row[RNG.permutation(classes)[:2]] = row.max()  # a tie at the top
            rows.append(list(row))
    return rows


ROWS = logits_rows()
MANY = [
    list(RNG.normal(size=1000) * 3),
    list(RNG.normal(size=1000) * 40),
    list(np.where(np.arange(1000) == 77, 60, RNG.normal(size=1000))),
]


class Example(NamedTuple):
    logits: tuple[float, ...]
    label: Any


def examples(label_of: Callable[[list[float]], Any]) -> dict[int, list[Example]]:
    """The examples by their number of classes, exact in float32."""
    found: dict[int, list[Example]] = {}
    for row in [*ROWS, *MANY]:
        logits = tuple(np.float32(row).tolist())
        for label in label_of(row):
            found.setdefault(len(row), []).append(Example(logits, label))
    return found


def every_label(row):
    """All classes of a short row; the top, the bottom and some others of a long one."""
    if len(row) <= 7:
        return range(len(row))
    return [int(np.argmax(row)), int(np.argmin(row)), 3, 500]


def distributions(row):
    """Hard, soft and unnormalised labels; nothing on a class that is impossible."""
    classes = len(row)
    possible = np.isfinite(row)
    soft = RNG.dirichlet(np.full(classes, 0.5)) * possible
    sparse = soft * (RNG.random(classes) < 0.5)
    hot = np.eye(classes)[np.argmax(row)]
    other = np.eye(classes)[np.argmin(np.where(possible, row, INF))]
    labels = (hot, other, soft, sparse, 3 * soft, 0.7 * hot + 0.3 * other)
    return [tuple(np.float32(label).tolist()) for label in labels]


class Truth:
    """Softmax of a row in real arithmetic."""

    def __init__(self, logits):
        self.x = [mpf(x) for x in logits]
        top = max(self.x)
        # Below e^-300 nothing adds to a float, nor to 1 within the digits at hand.
        e = [mp.exp(x - top) if x - top > -300 else mpf(0) for x in self.x]
        total = mp.fsum(e)
        self.p = [v / total for v in e]
        self.miss = [mp.fsum(e[:j] + e[j + 1 :]) / total for j in range(len(e))]
        self.log_sum_exp = top + mp.log(total)

    def surprisal(self, j):
        # From the rest if the class has nearly all, where the logarithm needs them.
        if self.p[j] > 0.5:
            return mp.log(1 + self.miss[j] / self.p[j])
        return self.log_sum_exp - self.x[j]

    def slope(self, j, y):
        """d surprisal(y) / d x_j."""
        return -self.miss[j] if j == y else self.p[j]


class Worst:
    """The largest error of each quantity, and where it is."""

    def __init__(self):
        self.found = {}

    def note(self, quantity, example, got, true, *terms, flushed=FLUSHED):
        error = ulp(got, true, true, max(map(abs, (true, *terms))), flushed)
        if quantity not in self.found or not error <= self.found[quantity][0]:
            self.found[quantity] = error, example, float(got), float(true)

    def over(self, bound=BOUND):
        lines = []
        for quantity, (error, example, got, true) in self.found.items():
            if not error <= bound:
                lines.append(
                    f"{quantity}: {error:.2f} ulp at {str(example)[:300]}, "
                    f"got {got!r}, true value {true!r}"
                )
        return "\n".join(lines)


def evaluate(loss, group, *, dense=False):
    """Values, and derivatives by the logits and by the labels if these are dense."""
    logits = jnp.asarray([example.logits for example in group], jnp.float32)
    labels = jnp.asarray([e.label for e in group], jnp.float32 if dense else jnp.int32)

    @jax.jit
    def run(logits, labels):
        inputs = (logits, labels) if dense else (logits,)
        rest = () if dense else (labels,)
        value, pull_back = jax.vjp(lambda *inputs: loss(*inputs, *rest), *inputs)
        return value, *pull_back(jnp.ones_like(value))

    return [np.asarray(result) for result in run(logits, labels)]


def digits():
    return mp.workdps(120)


def test_integer_cross_entropy():
    worst = Worst()
    for group in examples(every_label).values():
        loss = jl.softmax_cross_entropy_with_integer_labels
        value, slopes = evaluate(loss, group)
        with digits():
            for i, example in enumerate(group):
                truth, y = Truth(example.logits), example.label
                worst.note("value", example, value[i], truth.surprisal(y))
                if truth.p[y] == 0 and math.isinf(example.logits[y]):
                    assert np.all(np.isfinite(slopes[i])), example
                    continue
                for j, slope in enumerate(slopes[i]):
                    where = "d/d label" if j == y else "d/d other"
                    worst.note(where, example, slope, truth.slope(j, y))
    assert not worst.over(), worst.over()


def test_dense_cross_entropy():
    worst = Worst()
    for group in examples(distributions).values():
        value, x_slopes, q_slopes = evaluate(jl.softmax_cross_entropy, group, dense=True)
        with digits():
            for i, example in enumerate(group):
                truth, q = Truth(example.logits), [mpf(v) for v in example.label]
                mass = mp.fsum(q)
                true = mp.fsum(v * truth.surprisal(j) for j, v in enumerate(q) if v)
                worst.note("value", example, value[i], true)
                for j, v in enumerate(q):
                    p = truth.p[j]
                    slope = -mass * truth.miss[j] + (mass - v) if p > 0.5 else mass * p - v
                    worst.note("logits", example, x_slopes[i, j], slope, mass * p, v)
                    if math.isfinite(example.logits[j]):
                        surprisal = truth.surprisal(j)
                        worst.note("labels", example, q_slopes[i, j], surprisal)
    assert not worst.over(), worst.over()


@pytest.mark.parametrize("gamma", [0, 1, 2, 3])
def test_focal_loss_of_integer_gamma(gamma):
    worst = Worst()
    for group in examples(every_label).values():

        def loss(logits, labels):
            return jl.softmax_focal_loss(logits, labels, gamma=float(gamma))

        value, slopes = evaluate(loss, group)
        with digits():
            for i, example in enumerate(group):
                truth, y = Truth(example.logits), example.label
                h, p, miss = truth.surprisal(y), truth.p[y], truth.miss[y]
                worst.note("value", example, value[i], h * miss**gamma)
                if math.isinf(example.logits[y]):
                    assert np.all(np.isfinite(slopes[i])), example
                    continue
                # d f / d h = miss^gamma + h gamma miss^(gamma - 1) p, by miss = 1 - e^-h.
                pull = miss**gamma + (h * gamma * miss ** (gamma - 1) * p if miss else 0)
                for j, slope in enumerate(slopes[i]):
                    where = "d/d label" if j == y else "d/d other"
                    worst.note(where, example, slope, pull * truth.slope(j, y))
    assert not worst.over(), worst.over()

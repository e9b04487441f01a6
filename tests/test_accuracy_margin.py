"""Accuracy of the multiclass margin losses, against exact rational arithmetic."""

from collections.abc import Callable
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mpmath import mpf
from ulp import ulp

import jaxloss as jl

Row = list[Fraction]

CLASSES = 4


def scores() -> np.ndarray:
    """Of one size and of several, over all of float32; near ties, and near margins."""
    draw = np.random.default_rng(0)

    def size(low, high, n=None):
        return 10.0 ** draw.uniform(low, high, n)

    def steps(low, high):
        return draw.integers(low, high, CLASSES)

    rows = []
    for _ in range(80):
        rows.append(draw.normal(size=CLASSES))
        rows.append(draw.normal(size=CLASSES) * size(-38, 37))
        rows.append(draw.normal(size=CLASSES) * size(-38, 37, CLASSES))
        rows.append(draw.normal() * size(-3, 6) * (1 + steps(-8, 9) * 2.0**-23))
        rows.append(draw.normal() + steps(-1, 2))
    return np.array(rows, np.float32)


SCORES = scores()
LABELS = np.random.default_rng(1).integers(0, CLASSES, len(SCORES))
SEVERAL = np.random.default_rng(2).integers(0, 2, SCORES.shape)


def others(row: Row, label: int) -> Row:
    return [s for j, s in enumerate(row) if j != label]


def hinge(row: Row, label: int) -> Fraction:
    return max(Fraction(0), 1 + max(others(row, label)) - row[label])


def multi_margin(power: int) -> Callable[[Row, int], Fraction]:
    def loss(row, label):
        short = [max(Fraction(0), 1 + s - row[label]) for s in others(row, label)]
        return sum(x**power for x in short) / CLASSES

    return loss


def projection(row: Row) -> Row:
    """The nearest point of the simplex (Held, Wolfe and Crowder, 1974)."""
    ranked = sorted(row, reverse=True)
    sums = [sum(ranked[:k]) for k in range(1, CLASSES + 1)]
    size = max(k for k in range(1, CLASSES + 1) if 1 + k * ranked[k - 1] > sums[k - 1])
    threshold = (sums[size - 1] - 1) / size
    return [max(s - threshold, Fraction(0)) for s in row]


def sparsemax(row: Row, label: int) -> Fraction:
    """max_q <q, s> - |q|²/2 over the simplex, less the same of the label's corner."""
    p = projection(row)
    best = sum(q * s - q * q / 2 for q, s in zip(p, row, strict=True))
    return best - (row[label] - Fraction(1, 2))


def multilabel_margin(row: Row, labels: np.ndarray) -> Fraction:
    wrong = [s for s, own in zip(row, labels, strict=True) if not own]
    right = [s for s, own in zip(row, labels, strict=True) if own]
    pairs = [max(Fraction(0), 1 + w - r) for w in wrong for r in right]
    return Fraction(sum(pairs), CLASSES)


def listed(labels: np.ndarray) -> np.ndarray:
    """The labels of each example as PyTorch lists them, up to a -1."""
    rows = [[*np.flatnonzero(row), *[-1] * CLASSES][:CLASSES] for row in labels]
    return np.array(rows)


LOSSES = {
    "multiclass_hinge_loss": (LABELS, LABELS, hinge, {}),
    "multiclass_perceptron_loss": (
        *(LABELS, LABELS),
        lambda row, label: max(row) - row[label],
        {},
    ),
    "multi_margin_loss": (LABELS, LABELS, multi_margin(1), {}),
    "multi_margin_loss, squared": (LABELS, LABELS, multi_margin(2), {"p": 2}),
    "multiclass_sparsemax_loss": (LABELS, LABELS, sparsemax, {}),
    "categorical_hinge_loss": (
        *(np.eye(CLASSES, dtype=np.float32)[LABELS], LABELS),
        # The label's own zero is among the others (Keras).
        lambda row, label: max(
            Fraction(0), 1 + max([0, *others(row, label)]) - row[label]
        ),
        {},
    ),
    "multilabel_margin_loss": (listed(SEVERAL), SEVERAL, multilabel_margin, {}),
}


def error(got: float, true: Fraction, term: Fraction = Fraction(0)) -> float:
    """In units in the last place, of a term that is larger where given."""
    value, unit = (
        mpf(x.numerator) / x.denominator for x in (true, max(abs(true), term))
    )
    return ulp(got, value, value, unit)


@pytest.mark.parametrize("case", LOSSES)
def test_values_are_within_8_ulp(case):
    given, labels, definition, options = LOSSES[case]
    loss = getattr(jl, case.split(",")[0])
    values = np.asarray(jax.jit(lambda s: loss(s, given, **options))(SCORES))
    for row, label, got in zip(SCORES, labels, values, strict=True):
        true = definition([Fraction(float(s)) for s in row], label)
        assert error(got, true) < 8, (row, label, got, float(true))


def test_sparsemax_keeps_the_smallest_mass():
    slopes = jax.grad(lambda s: jnp.sum(jl.multiclass_sparsemax_loss(s, LABELS)))(
        jnp.asarray(SCORES)
    )
    for row, label, slope in zip(SCORES, LABELS, np.asarray(slopes), strict=True):
        p = projection([Fraction(float(s)) for s in row])
        corner = [Fraction(int(j == label)) for j in range(CLASSES)]
        # p_j = c_j - θ with θ = 1 - max p.
        theta = 1 - max(p)
        for got, q, e in zip(slope, p, corner, strict=True):
            assert error(got, q - e, theta) < 8, (row, label, slope)


def test_means_over_classes_are_finite_where_the_sums_are_not():
    row = [[-1e38, 1e38, 1e38, 1e38]]
    np.testing.assert_allclose(jl.multi_margin_loss(row, [0]), 1.5e38)
    np.testing.assert_allclose(
        jl.multilabel_margin_loss(row, [[0, -1, -1, -1]]), 1.5e38
    )
    high = [[2e38, 2e38, 2e38]]
    np.testing.assert_allclose(jl.multilabel_soft_margin_loss(high, [[0, 0, 0]]), 2e38)

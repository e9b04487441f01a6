"""where, weights and reduction mean the same for every loss (rule 3)."""

import jax
import numpy as np
import pytest
from common import (
    KEEP,
    WEIGHTS,
    assert_close,
    each_case,
    has_tail,
    take,
    weighted,
)
from programs import measured

pytestmark = [pytest.mark.usefixtures("device"), pytest.mark.any_program]

REDUCTIONS = ("none", "sum", "mean")
GARBAGE = (np.nan, np.inf, -np.inf)


def spoil(case, real, rest, keep):
    """Fills the dropped examples with NaN, infinities and labels that do not exist."""
    dropped = np.flatnonzero(~keep)
    spoiled = []
    for part, garbage in ((real, GARBAGE), (rest, (-(10**6), 10**6, -1))):
        part = {name: np.array(x) for name, x in part.items()}
        for name in {*case.inputs, "weights"} & part.keys():
            for position, example in enumerate(dropped):
                part[name][example] = garbage[position % len(garbage)]
        spoiled.append(part)
    return spoiled


@each_case(has_tail)
def test_masked_examples_are_as_if_they_had_never_been(case):
    real, rest = weighted(case)

    def expect(keep, weights):
        """By the definition, from the examples that are left."""
        arrays = take(case, case.arrays(), np.flatnonzero(keep))
        weights = weights[keep]
        none = np.zeros(6)
        none[keep] = case.expected(arrays) * weights
        mass = np.sum(case.counted(arrays) * weights)
        return {"none": none, "sum": none.sum(), "mean": none.sum() / mass}

    # Weights of one and a mask that keeps all, the plain loss, and every weight.
    ones = {**real, "weights": np.ones(6, np.float32)}
    everyone = np.ones(6, bool)
    plain = case({**take(case, real, slice(None)), **rest, "weights": None})
    for weights in (np.ones(6), WEIGHTS):
        found = measured(case, {**ones, "weights": np.float32(weights)}, rest)
        values = {reduction: found[reduction]["value"] for reduction in REDUCTIONS}
        expected = expect(everyone, weights)
        assert_close(values, {n: np.float32(x) for n, x in expected.items()})
        if (weights == 1).all():
            assert_close(values["none"], plain)

    clean = measured(case, real, rest, KEEP)
    values = {reduction: clean[reduction]["value"] for reduction in REDUCTIONS}
    expected = expect(KEEP, WEIGHTS)
    assert_close(values, {n: np.float32(x) for n, x in expected.items()})
    for result in clean.values():
        gradient = result["gradient"]
        for name in {*case.inputs, "weights"} & gradient.keys():
            assert not np.any(gradient[name][~KEEP]), name
    spoiled = measured(case, *spoil(case, real, rest, KEEP), KEEP)
    jax.tree.map(np.testing.assert_array_equal, spoiled, clean)

    # Nothing counts: the losses are 0, and so is every derivative.
    nobody = np.zeros(6, bool)
    nothing = measured(case, *spoil(case, real, rest, nobody), nobody)
    for leaf in jax.tree.leaves(nothing):
        assert not np.any(leaf)
    zeros = {**real, "weights": np.zeros(6, np.float32)}
    weightless = measured(case, zeros, rest)["mean"]
    for leaf in jax.tree.leaves((weightless["value"], weightless["gradient"])):
        assert not np.any(leaf)


@each_case(has_tail, once=True)
def test_an_empty_batch_has_sum_and_mean_zero(case):
    real, rest = weighted(case)
    real, rest = take(case, real, slice(0)), take(case, rest, slice(0))

    @jax.jit
    def program(real):
        def loss(real, reduction):
            return case({**real, **rest}, reduction=reduction)

        reduced = [jax.value_and_grad(loss)(real, kind) for kind in ("sum", "mean")]
        return loss(real, "none"), reduced

    none, reduced = program(real)
    assert none.shape == (0,)
    for leaf in map(np.asarray, jax.tree.leaves(reduced)):
        assert not np.any(leaf)


@each_case(lambda case: case.tail and case.independent, once=True)
def test_masks_and_weights_broadcast(case):
    """A mask of one example's shape, a single weight, and lists."""
    arrays = {
        name: np.stack([x, x[::-1]]) if name in case.inputs else x
        for name, x in case.arrays().items()
    }

    @jax.jit
    def losses(arrays):
        return (
            case(arrays),
            case(arrays, where=KEEP.tolist(), weights=WEIGHTS.tolist()),
            case(arrays, where=np.array([[True], [False]]), weights=np.float32(0.7)),
            case(arrays, where=False, weights=2),
        )

    plain, kept, rows, nothing = map(np.asarray, losses(arrays))
    assert plain.shape == (2, 6)
    np.testing.assert_allclose(kept, plain * (KEEP * WEIGHTS)[None], rtol=1e-6)
    np.testing.assert_allclose(rows[0], 0.7 * plain[0], rtol=1e-6)
    assert not np.any(rows[1])
    assert not np.any(nothing)

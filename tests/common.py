"""What the tests that run over the catalogue share."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from catalog import CASES, Case

# Rounding of a short computation whose terms are of the result's size. What the
# losses promise beyond it is measured in test_accuracy_*.py.
RTOL = {"float32": 3e-6, "float64": 1e-12}

# One for each example of a case: drawn once at random, none of them 1.
WEIGHTS = np.array([0.55, 1.7, 0.3, 2.2, 0.85, 1.3])
COTANGENT = np.array([0.62, -1.31, 0.17, 0.94, -0.48, 1.77])
KEEP = np.array([True, False, True, True, False, True])


def each_case(condition: Callable[[Case], Any] = lambda case: True, once=False):
    """Runs a test over the cases that meet a condition.

    Args:
        condition: Which cases the test is about.
        once: Whether the quick tier runs one case per loss, of those that meet the
            condition the one with the most hyperparameters.
    """
    cases = [case for case in CASES if condition(case)]
    marks = {case.id: () for case in cases}
    if once:
        marks = {case.id: pytest.mark.exhaustive for case in cases}
        marks |= {case.id: () for case in one_per_loss(cases)}
    params = [pytest.param(case, id=case.id, marks=marks[case.id]) for case in cases]
    return pytest.mark.parametrize("case", params)


def one_per_loss(cases: list[Case]) -> list[Case]:
    """Of each loss the case with the most hyperparameters."""
    richest: dict[str, Case] = {}
    for case in cases:
        other = richest.setdefault(case.name, case)
        if len(case.parameters) > len(other.parameters):
            richest[case.name] = case
    return list(richest.values())


def has_tail(case: Case) -> bool:
    return case.tail


def weighted(case: Case, dtype: Any = jnp.float32) -> tuple[dict, dict]:
    """A case's arrays, real (`weights` among them) and integer ones, in NumPy."""
    arrays = case.arrays(dtype)
    real = {name: arrays.pop(name) for name in case.real}
    if case.tail:
        real["weights"] = WEIGHTS.astype(dtype)
    return real, arrays


def cotangent(case: Case, dtype: Any = jnp.float32) -> np.ndarray:
    """A cotangent for the per-example losses."""
    shape = case.expected(case.values).shape
    base = COTANGENT.reshape(-1, *[1] * (len(shape) - 1))
    tilt = 1 + np.arange(np.prod(shape[1:])).reshape(1, *shape[1:]) / 7
    return (base * tilt).astype(dtype)


def tangents(real: Mapping[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Random tangents for real arguments."""
    draw = np.random.default_rng(seed).normal
    return {n: np.asarray(draw(size=x.shape), x.dtype) for n, x in real.items()}


def take(case: Case, arrays: Mapping[str, Any], index: Any) -> dict[str, Any]:
    """Some of the examples: `index` goes into the batch axis of every input."""
    batched = {*case.inputs, "weights"}
    return {n: x[index] if n in batched else x for n, x in arrays.items()}


def assert_close(actual: Any, expected: Any, rtol: float | None = None) -> None:
    """Compares trees of arrays, each with a tolerance of its own dtype and size.

    Every entry may be off by the rounding of the largest entry beside it.
    """
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    pairs = zip(
        jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True
    )
    for (path, x), y in pairs:
        assert x.shape == y.shape, jax.tree_util.keystr(path)
        relative = RTOL[str(x.dtype)] if rtol is None else rtol
        finite = np.abs(y)[np.isfinite(y)]
        np.testing.assert_allclose(
            x,
            y,
            rtol=relative,
            atol=relative * finite.max(initial=0.0),
            err_msg=jax.tree_util.keystr(path),
        )

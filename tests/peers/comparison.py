"""What the three tables share: their rows, and how a row is compared.

The peer computes in float64 and is the reference; jaxloss computes in float32, from the
same numbers, which float32 holds exactly. The peer's rounding thus hides no digit of
ours; where it loses digits even so, the row says why and how many.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss as jl

Arrays = tuple[np.ndarray, ...]

# Names of api.md that jaxloss may not have yet, whose rows are then skipped.
NOT_YET: frozenset[str] = frozenset()

# Of most arrays: 6 examples, 5 classes or features.
SHAPE = (6, 5)
# 8 units in the last place: 4 of the loss, the rest of the cotangent's products.
RTOL = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """A peer's loss, its counterpart, and the inputs to compare them on."""

    peer: str
    # The counterpart's name in jaxloss.
    name: str
    # there(*arrays): the peer's loss; here(loss, *arrays): the same in ours, `loss`
    # being the function called `name`.
    there: Callable[..., Any]
    here: Callable[..., Any]
    # Arrays in the order of the two, real ones in float64 and integer ones in int32.
    cases: Mapping[str, Arrays]
    # Tells the rows of one loss apart.
    variant: str = ""
    # Which arrays to differentiate with respect to; None: every real one.
    wrt: tuple[int, ...] | None = None
    # PyTorch's reductions that mean the same here.
    reductions: tuple[str, ...] = ("none", "sum", "mean")
    # The size of the terms where the result is by nature a difference, such as
    # sigmoid(x) - y at a soft label: the units in the last place are theirs.
    difference: float = 0.0
    # Digits that the peer itself has lost, absolutely and relatively.
    atol: float = 0.0
    rtol: float = 0.0

    @property
    def id(self) -> str:
        return f"{self.peer}({self.variant})" if self.variant else self.peer

    def real(self, arrays: Arrays) -> tuple[int, ...]:
        """The arrays to differentiate with respect to."""
        if self.wrt is not None:
            return self.wrt
        return tuple(i for i, a in enumerate(arrays) if a.dtype.kind == "f")


def cases(table: Iterable[Row]):
    """Parametrises a test by the rows of a table and their inputs.

    The quick tier has the first row of each of the peer's functions.
    """
    params, seen = [], set()
    for row in table:
        marks = pytest.mark.exhaustive if row.peer in seen else ()
        seen.add(row.peer)
        params += [
            pytest.param(row, arrays, id=f"{row.id}-{case}", marks=marks)
            for case, arrays in row.cases.items()
        ]
    return pytest.mark.parametrize(("row", "arrays"), params)


def loss_named(name: str) -> Callable[..., Any]:
    """The loss, or a skip where it is on the list of those to come."""
    if name in NOT_YET and not hasattr(jl, name):
        pytest.skip(f"jaxloss.{name} is not there yet")
    return getattr(jl, name)


@functools.cache
def ours(row: Row, reductions: tuple[str, ...] = ()) -> tuple[Callable[..., Any], ...]:
    """The row's loss as a function of its arrays, once for each reduction."""
    loss = loss_named(row.name)
    if not reductions:
        return (functools.partial(row.here, loss),)
    return tuple(functools.partial(row.here, loss, reduction=r) for r in reductions)


def pulled_back(functions, row: Row, arrays: Arrays, dtype: str):
    """Each function's value, and its gradients pulled back from a fixed cotangent.

    A value may be a tree; values and gradients come as lists of NumPy arrays.
    """
    with jax.enable_x64(dtype == "float64"):
        every = [jnp.asarray(a, dtype if a.dtype.kind == "f" else None) for a in arrays]
        results = _with_gradients(functions, row.real(arrays))(*every)
    return jax.tree.map(np.asarray, results)


@functools.cache
def _with_gradients(functions, wrt):
    """Compiled together, and once for all the cases of a row that have one shape."""

    def both(function, arrays):
        def at(*moving):
            now = dict(zip(wrt, moving, strict=True))
            return function(*(now.get(i, a) for i, a in enumerate(arrays)))

        value, pull_back = jax.vjp(at, *(arrays[i] for i in wrt))
        down = jax.tree.map(lambda x: cotangent(x.shape).astype(x.dtype), value)
        return jax.tree.leaves(value), list(pull_back(down))

    return jax.jit(lambda *arrays: [both(function, arrays) for function in functions])


def cotangent(shape: tuple[int, ...]) -> np.ndarray:
    """Of both signs, no two alike, exact in float32."""
    return 2 * rounded(np.random.default_rng(5).uniform(0.5, 1.5, shape)) - 2.125


def rounded(array) -> np.ndarray:
    """Numbers that float32 holds exactly, in float64."""
    return np.asarray(array, np.float32).astype(np.float64)


def repeated(*values) -> np.ndarray:
    """Special values, over and over until they fill the shape."""
    return np.resize(rounded(values), SHAPE)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return rounded(scale * np.random.default_rng(seed).normal(size=shape))


def uniform(*shape: int, seed: int = 0, low: float = 0.0, high: float = 1.0):
    return rounded(np.random.default_rng(seed).uniform(low, high, shape))


def distributions(*shape: int, seed: int = 0, axis: int = -1) -> np.ndarray:
    """Probabilities of sum 1, to the rounding of float32."""
    mass = uniform(*shape, seed=seed, low=0.1)
    return rounded(mass / mass.sum(axis, keepdims=True))


def integers(*shape: int, below: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(below, size=shape).astype(np.int32)


def assert_same(actual, expected, row: Row, scale: float = 0.0) -> None:
    """Compares lists of values or gradients: ours, in float32, and the peer's.

    `scale` is the size of the terms of a sum.
    """
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == np.float32
        np.testing.assert_allclose(
            ours.astype(np.float64),
            theirs,
            rtol=max(RTOL, row.rtol),
            atol=row.atol + RTOL * max(row.difference, scale),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Correction:
    """A place where jaxloss is right and a peer is wrong.

    `here(loss, *arrays)` returns one array; `there(*arrays)` too, unless it raises.
    """

    id: str
    name: str
    arrays: tuple[Any, ...]
    here: Callable[..., Any]
    there: Callable[..., Any]
    truth: Any
    rtol: float = 1e-6


def corrections(table: Iterable[Correction]):
    """Parametrises a test by such places."""
    return pytest.mark.parametrize("case", [pytest.param(c, id=c.id) for c in table])


def assert_corrected(case: Correction, peer: str, version: str) -> None:
    """jaxloss gives the truth; the peer, in the version looked at, does not."""
    loss = loss_named(case.name)
    arrays = [np.asarray(a, np.float32 if _is_real(a) else None) for a in case.arrays]
    with jax.debug_nans(False):  # NaN is the answer to an invalid label
        actual = jax.jit(lambda *x: case.here(loss, *x))(*arrays)
    np.testing.assert_allclose(np.asarray(actual), case.truth, rtol=case.rtol)
    if importlib.metadata.version(peer).partition("+")[0] == version:
        there = case.there if peer == "torch" else jax.jit(case.there)
        with as_in_their_world():
            assert not _gives(there, arrays, case.truth, case.rtol)


def _is_real(array: Any) -> bool:
    return np.asarray(array).dtype == np.float64


def _gives(there: Callable[..., Any], arrays, truth: Any, rtol: float) -> bool:
    """Whether a peer gives the truth, which it does not if it raises."""
    try:
        answer = np.asarray(there(*arrays), np.float64)
    except (TypeError, ValueError):
        return False
    return np.allclose(answer, truth, rtol=rtol, atol=0, equal_nan=True)


def value_and_slope(loss: Callable[..., Any], *arrays) -> jax.Array:
    """A loss and its derivative by the first argument, side by side."""
    value, slope = jax.value_and_grad(loss)(*arrays)
    return jnp.append(slope.ravel(), value)


def assert_complete(exported: Iterable[str], table: Iterable[Row]) -> None:
    """Every loss that the peer exports has a row, and no row is made up."""
    assert {row.peer for row in table} == set(exported)


@contextlib.contextmanager
def as_in_their_world():
    """JAX's own defaults, which the peers rely on and our tests make stricter."""
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.debug_nans(False),
    ):
        yield

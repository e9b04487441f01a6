"""What an entry of the catalogue holds."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A public function at example arguments, with its definition."""

    loss: Callable[..., Any]
    reference: Callable[..., np.ndarray]
    # What belongs to single examples: the batch axis, then the axes of one example.
    inputs: Mapping[str, np.ndarray]
    # Real hyperparameters that all examples share: numbers, or arrays such as [C].
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # Arguments that are no arrays: flags, axes, functions.
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    # Tells the cases of one loss apart.
    variant: str = ""
    # The public name, where `loss` is something that the public function made.
    name: str = ""
    # Inputs whose last axis is the class axis that the argument `axis` moves, and
    # parameters with one number a class. The last class is no example's label.
    class_inputs: tuple[str, ...] = ()
    class_parameters: tuple[str, ...] = ()
    # Trailing axes of an input that belong to one example, if not 1 for the inputs
    # with a class axis and 0 for the others: {"embeddings": 1}, {"logits": 2} for CTC.
    core: Mapping[str, int] = dataclasses.field(default_factory=dict)
    # What each example adds to the denominator of "mean", if not 1; takes the
    # reference's arguments.
    mass: Callable[..., np.ndarray] | None = None
    # False: there is no where, weights and reduction with the meaning of rule 3.
    tail: bool = True
    # The reduction of a call that names none, which `options` then names.
    default_reduction: str = "none"
    # False: an example's loss depends on the other examples (ntxent).
    independent: bool = True
    # True: a weight of 0 changes the losses of the other examples, as a mask does.
    zero_excludes: bool = False
    # False: the result has the dtype of the first input, half precision included.
    widens: bool = True
    # Where an argument may lie, if not anywhere among the reals; used to draw special
    # values.
    domain: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    # Values that make an example's loss NaN, and raise under checkify.
    invalid: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    # Values that raise under checkify, but have a loss all the same.
    suspect: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)

    # LLVM's level of optimisation in the quick tier. At level 0, XLA compiles some
    # programs of several products to wrong numbers (JAX 0.10.2 and 0.12.0).
    level: int = 0

    def __post_init__(self):
        object.__setattr__(self, "name", self.name or self.loss.__name__)

    @property
    def id(self) -> str:
        return f"{self.name}-{self.variant}" if self.variant else self.name

    @property
    def lead(self) -> str:
        """The first input, to whose shape the others broadcast."""
        return next(iter(self.inputs))

    @property
    def values(self) -> dict[str, np.ndarray]:
        """All arrays: real ones in float64, integer ones in int32."""
        named = {**self.inputs, **self.parameters}
        return {name: _array(value) for name, value in named.items()}

    @property
    def real(self) -> tuple[str, ...]:
        """The arguments that have a derivative."""
        return tuple(n for n, value in self.values.items() if value.dtype.kind == "f")

    def arrays(self, dtype: Any = jnp.float32) -> dict[str, Any]:
        """All arrays, the real ones in `dtype`.

        In NumPy: for each shape, JAX compiles a program to convert or to cut an array.
        """
        return {
            name: value.astype(dtype) if value.dtype.kind == "f" else value
            for name, value in self.values.items()
        }

    def core_rank(self, name: str) -> int:
        """How many trailing axes of an input belong to one example."""
        return self.core.get(name, int(name in self.class_inputs))

    def __call__(self, arrays: Mapping[str, Any], **tail) -> Any:
        """The loss at `arrays`, which are named as in `arrays()`."""
        return self.loss(**arrays, **{**self.options, **tail})

    def expected(self, arrays: Mapping[str, Any]) -> np.ndarray:
        """The per-example loss by its definition, in float64."""
        return self.reference(**_wide(arrays), **self.options)

    def counted(self, arrays: Mapping[str, Any]) -> np.ndarray:
        """What each example adds to the denominator of "mean"."""
        if self.mass is None:
            return np.ones(self.expected(arrays).shape)
        return self.mass(**_wide(arrays), **self.options)


def _array(value):
    array = np.asarray(value)
    return array.astype(np.float64 if array.dtype.kind == "f" else np.int32)


def _wide(arrays):
    """Any arrays as NumPy float64 or int64."""
    wide = {}
    for name, value in arrays.items():
        array = np.asarray(value)
        wide[name] = array.astype(np.int64 if array.dtype.kind in "iu" else np.float64)
    return wide


def zero_times(c, x):
    """c · x with 0 · inf = 0."""
    return np.where(c == 0, 0, c) * np.where(c == 0, 0, x)

"""What a sweep works on: hidden states, a kernel, and how they are multiplied."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.lax import PrecisionLike


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Operands:
    """The real arrays of a sweep, or their tangents, None where there is none.

    Several layers with the same rows and classes, such as a student's and a teacher's,
    are a tuple of arrays in `hidden` and one in `kernel`.
    """

    hidden: Any  # [..., D]
    kernel: Any  # [D, C], or [C, D] with class_axis = 0; in the dtype of hidden
    own: Any = None  # a tree of arrays of the rows, [..., ...]
    shared: Any = None  # a tree of arrays of all rows, [..., C] or scalar

    @property
    def first(self) -> tuple[jax.Array, jax.Array]:
        """Hidden states and kernel of the first layer, whose rows the others share."""
        return jax.tree.leaves(self.hidden)[0], jax.tree.leaves(self.kernel)[0]

    @property
    def rows(self) -> int:
        return self.first[0].shape[0]


@dataclasses.dataclass(frozen=True)
class Options:
    """How a sweep runs."""

    largest: int | None = None  # the most rows in a chunk; None: as the memory says
    share: int = 1  # arrays of the logits' size that share the memory of one
    precision: PrecisionLike = None  # of the products
    axis_name: str | None = None  # the mesh axis over which the classes are split
    class_axis: int = 1  # of the kernel
    elsewhere: int | None = None  # `largest` for TPU and GPU, if it is another number


def default_rows(features: int, share: int = 1) -> int:
    """The most rows in a chunk, where the caller does not say.

    A chunk of R rows reads and writes the D x C sum of the kernel's gradient for
    6 R D C operations, so that the sum's share of the time goes like 1/R, whatever D
    and C are; the memory of the R x C logits goes like R. At R = D they take as much as
    the gradient, which is there anyhow.

    Value and gradients at N = 4096, D = 512, C = 50304 in float32, on two CPU cores
    that others used too, the best of four rounds in turns: 2.54 s in chunks of 128
    rows, 2.22 s of 256, 2.08 s of 512, 1.95 s of 1,024, 1.97 s of 2,048; the three
    products alone, without chunks, 1.87 s.
    """
    return min(max(features, 1024), 4096) // share


@dataclasses.dataclass(frozen=True)
class Products:
    """The three products of a linear layer, summed in the dtype to compute in.

    `hidden` is H [n, D], `g` is G [n, C] or the gradient of it, `kernel` is K [D, C] or
    its transpose. Operands of one dtype are multiplied as they are. Of several layers
    there is a product each, and None where one of its operands is None.
    """

    dtype: Any  # to compute in
    precision: PrecisionLike
    class_axis: int

    def logits(self, hidden: jax.Array, kernel: jax.Array) -> jax.Array:
        """H K."""

        def product(hidden, kernel):
            return self._dot(hidden, kernel, (1, 1 - self.class_axis), self.dtype)

        return _each_layer(product, hidden, kernel)

    def hidden(self, g: jax.Array, kernel: jax.Array, dtype: Any = None) -> jax.Array:
        """G Kᵀ, rounded once to `dtype`."""

        def product(g, kernel):
            g = self._narrow(g, kernel)
            return self._dot(g, kernel, (1, self.class_axis), dtype)

        return _each_layer(product, g, kernel)

    def kernel(self, hidden: jax.Array, g: jax.Array, dtype: Any = None) -> jax.Array:
        """Hᵀ G in the layout of the kernel, rounded once to `dtype`."""

        def product(hidden, g):
            g = self._narrow(g, hidden)
            pair = (hidden, g) if self.class_axis else (g, hidden)
            return self._dot(*pair, (0, 0), dtype)

        return _each_layer(product, hidden, g)

    def _dot(self, a, b, contracting, dtype=None):
        if a.dtype != b.dtype:
            a, b = a.astype(self.dtype), b.astype(self.dtype)
        i, j = contracting
        return lax.dot_general(
            a,
            b,
            (((i,), (j,)), ((), ())),
            precision=self.precision,
            preferred_element_type=self.dtype if dtype is None else dtype,
        )

    def _narrow(self, g, operand):
        """G as a matrix unit takes it beside bfloat16, unless told to be more precise.

        Not for float16, whose range would lose small probabilities.
        """
        default = self.precision in (None, "default", lax.Precision.DEFAULT)
        half = operand.dtype == jnp.bfloat16
        return g.astype(operand.dtype) if half and default else g


def _each_layer(product, *operands):
    return jax.tree.map(
        lambda *pair: None if any(x is None for x in pair) else product(*pair),
        *operands,
        is_leaf=lambda x: x is None,
    )


def moving_of(tangents: Any) -> Any:
    """The tangents with None for those that JAX knows to be zero."""
    return jax.tree.map(
        lambda t: None if isinstance(t, SymbolicZero) else t,
        tangents,
        is_leaf=lambda t: isinstance(t, SymbolicZero),
    )


def where_moving(moving: Any, tree: Any) -> Any:
    """The arrays of a tree that move, None for the others."""
    return jax.tree.map(
        lambda t, x: None if t is None else x,
        moving,
        tree,
        is_leaf=lambda x: x is None,
    )

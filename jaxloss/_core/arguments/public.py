"""The door through which every public loss is called.

Outside `jit` a loss is compiled once for each set of shapes and options, so that a call
costs one dispatch, not one for each operation. Inside `jit` nothing changes: the
compiled function is inlined into the program around it.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np

from jaxloss._core.arguments.checks import Interval, fits_integer

P = ParamSpec("P")
R = TypeVar("R")


def public(
    *, static: tuple[str, ...] = (), **domains: Interval
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Makes a public loss of a function of its arguments.

    A parameter annotated `ArrayLike` (or `Parameters`, a tree of arrays) is traced,
    with two exceptions: None, and a Python number that is the default. So `z_loss=0.0`
    takes no part in the program, and other numbers share one program. All other
    parameters are static.

    Args:
        static: Parameters whose Python or NumPy numbers select a formula, such as the
            degree of a norm: never traced.
        **domains: What a Python or NumPy number may be, by parameter. No JAX array is
            looked at, so that the same call is judged alike with and without `jit`.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        # At the first call, since to inspect every loss takes a tenth of a second.
        signature = functools.cache(lambda: _Signature.of(function, static, domains))

        # The options are one static argument, a tuple of pairs.
        def run(options, traced):
            return function(**traced, **dict(options))  # type: ignore[call-arg]

        run.__name__ = run.__qualname__ = function.__name__
        compiled = jax.jit(run, static_argnums=0, inline=True)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            parts = signature().split(args, kwargs)
            if parts is None:
                return function(*args, **kwargs)
            try:
                return compiled(*parts)
            except (TypeError, ValueError) as error:
                # The checks name the argument first. Where in a trace they did so says
                # nothing to the caller, nor does JAX's note on it.
                if not str(error).startswith("`"):
                    raise
                raise type(error)(*error.args) from None

        return call  # type: ignore[return-value]

    return decorate


@dataclasses.dataclass(frozen=True)
class _Signature:
    """The parameters of a public function, and which of them are traced."""

    names: tuple[str, ...]
    positional: int
    arrays: frozenset[str]
    static: frozenset[str]
    defaults: dict[str, Any]
    domains: dict[str, Interval]

    @classmethod
    def of(cls, function, static, domains):
        parameters = inspect.signature(function).parameters
        return cls(
            tuple(parameters),
            sum(p.kind is not p.KEYWORD_ONLY for p in parameters.values()),
            frozenset(n for n, p in parameters.items() if _is_array(p)),
            frozenset(static),
            {n: p.default for n, p in parameters.items()},
            domains,
        )

    def split(self, args, kwargs):
        """The static options and the traced arrays of a call.

        None for a call that has to be made as it is: it raises, or an option cannot be
        the key of a compiled program.
        """
        given = dict(zip(self.names, args, strict=False))
        if len(args) > self.positional or not given.keys().isdisjoint(kwargs):
            return None
        given.update(kwargs)
        options, traced = [], {}
        for name, value in given.items():
            if isinstance(value, jax.Array | dict) and name in self.arrays:
                traced[name] = value
                continue
            if value is self.defaults.get(name, inspect.Parameter.empty):
                continue
            if name not in self.arrays or value is None:
                if callable(value):  # which a cache of programs would keep alive
                    return None
                # A NumPy number cannot be compared with a tuple in another cache key.
                value = value.item() if isinstance(value, np.generic) else value
                options.append((name, value))
                continue
            if name in self.domains:
                self.domains[name].check(name, value)
            if name in self.static and isinstance(value, np.generic):
                value = value.item()  # to choose the formula as a Python number does
            if isinstance(value, int | float):
                # A number in the place of data counts as floating.
                value = float(value) if name == self.names[0] else value
                if value == self.defaults[name]:
                    continue
                if name in self.static:
                    options.append((name, value))
                    continue
                if isinstance(value, int) and abs(value) >= 2**31:
                    return None  # JAX may not hold it
            else:
                value = _to_numpy(value, floating=name == self.names[0])
                if value is None:
                    return None
            traced[name] = value
        key = tuple(sorted(options, key=_first))
        try:
            hash(key)
        except TypeError:  # an option that is a list, say
            return None
        return key, traced


def _is_array(parameter: inspect.Parameter) -> bool:
    """Whether a parameter is an array or a tree of arrays."""
    annotation = str(parameter.annotation)
    return "ArrayLike" in annotation or annotation == "Parameters"


def _first(pair: tuple[str, Any]) -> str:
    return pair[0]


def _to_numpy(value: Any, floating: bool) -> np.ndarray | np.generic | None:
    """An array for `jit`; None for what the function itself has to judge."""
    if not isinstance(value, np.ndarray | np.generic):
        try:
            value = np.asarray(value)
        except (TypeError, ValueError):
            return None
        if value.dtype.kind in "iub" and floating:
            value = value.astype(float)
        elif value.dtype == np.float64:
            value = value.astype(np.result_type(jax.numpy.result_type(float)))
    if value.dtype.kind in "OUSMmV" and value.dtype != jax.numpy.bfloat16:
        return None
    return value if fits_integer(value) else None

"""The door through which every public loss is called.

Outside `jit` a loss is compiled once for each set of shapes and options, so that a call
costs one dispatch, not one for each operation. Inside `jit` nothing changes: the
compiled function is inlined into the program around it.
"""

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
        static: Parameters whose Python numbers select a formula, such as the degree of
            a norm: never traced.
        **domains: What a Python or NumPy number may be, by parameter. No JAX array is
            looked at, so that the same call is judged alike with and without `jit`.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = inspect.signature(function).parameters
        names = tuple(parameters)
        positional = sum(p.kind is not p.KEYWORD_ONLY for p in parameters.values())
        arrays = frozenset(n for n, p in parameters.items() if _is_array(p))
        traced_numbers = arrays.difference(static)
        defaults = {n: p.default for n, p in parameters.items()}
        lead = names[0]

        # The options are one static argument, a tuple of pairs.
        def run(options, traced):
            return function(**traced, **dict(options))  # type: ignore[call-arg]

        run.__name__ = run.__qualname__ = function.__name__
        compiled = jax.jit(run, static_argnums=0, inline=True)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            given = dict(zip(names, args, strict=False))
            if len(args) > positional or not given.keys().isdisjoint(kwargs):
                return function(*args, **kwargs)  # which raises
            given.update(kwargs)
            options, traced = [], {}
            for name, value in given.items():
                if name not in arrays or value is None:
                    if value is defaults.get(name):
                        continue
                    if callable(value):  # which a cache of programs would keep alive
                        return function(*args, **kwargs)
                    options.append((name, value))
                elif isinstance(value, jax.Array | dict):
                    traced[name] = value
                else:
                    if name in domains:
                        domains[name].check(name, value)
                    if isinstance(value, int | float):
                        # A number in the place of data counts as floating.
                        value = float(value) if name == lead else value
                        if value == defaults[name]:
                            continue
                        if name not in traced_numbers:
                            options.append((name, value))
                            continue
                    else:
                        value = _to_numpy(value, floating=name == lead)
                        if value is None:
                            return function(*args, **kwargs)
                    traced[name] = value
            key = tuple(sorted(options, key=_first))
            try:
                hash(key)
            except TypeError:  # an option that is a list, say
                return function(*args, **kwargs)
            try:
                return compiled(key, traced)
            except (TypeError, ValueError) as error:
                # The checks name the argument first. Where in a trace they did so says
                # nothing to the caller, nor does JAX's note on it.
                if not str(error).startswith("`"):
                    raise
                raise type(error)(*error.args) from None

        return call  # type: ignore[return-value]

    return decorate


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

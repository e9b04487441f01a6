"""The two tiers of the suite, and how hard XLA's compiler tries in each.

The quick tier is the default: every loss passes every rule once. `--exhaustive` adds
the second variants of each loss, third derivatives, every mesh, more random examples
and dense ladders of magnitudes. With `--optimised`, either compiles all programs as
users do.
"""

import contextlib
from collections.abc import Sequence
from typing import TypeVar

import jax
from jax._src import compiler

T = TypeVar("T")

# `conftest.py` sets them before a module of tests is imported.
EXHAUSTIVE = False
OPTIMISED = False

# Most of the suite's time went into LLVM's optimisation of programs that run once on
# six examples. With these options XLA's own passes, which rewrite, fold and fuse, still
# run.
_QUICK = {
    "xla_llvm_disable_expensive_passes": True,
}
if jax.__version_info__ < (0, 11):  # a later XLA has no other emitters
    _QUICK["xla_cpu_use_fusion_emitters"] = False

# A part of the keys of JAX's caches: no program of one kind serves for the other.
_level = jax.make_user_context("full")


def choose(quick: T, exhaustive: T) -> T:
    """The number of examples, say, of this run's tier."""
    return exhaustive if EXHAUSTIVE else quick


def first(values: Sequence[T], count: int = 1) -> Sequence[T]:
    """The values of a parameter: the first `count` in the quick tier, else all."""
    return choose(values[:count], values)


def quick_compiler(level: int = 0) -> contextlib.AbstractContextManager:
    """Programs that are compiled within it have `_QUICK`, those of eager calls too.

    Args:
        level: LLVM's level of optimisation.
    """
    return _level(str(level))


# JAX has options for a single `jit` and for the whole process, none for a test.
_get_compile_options = compiler.get_compile_options


def _with_effort(*args, env_options_overrides=None, **kwargs):
    if _level.value != "full":
        quick = {**_QUICK, "xla_backend_optimization_level": int(_level.value)}
        env_options_overrides = {**quick, **(env_options_overrides or {})}
    return _get_compile_options(
        *args, env_options_overrides=env_options_overrides, **kwargs
    )


compiler.get_compile_options = _with_effort

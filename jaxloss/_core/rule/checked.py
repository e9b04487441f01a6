"""Conditions on values, which raise under `jax.experimental.checkify` alone.

`checkify.debug_check` leaves an effect in every program, and JAX (0.10 to 0.12) can
neither serialize such a program nor map it over 0 examples. The primitive here passes a
value through beside the condition, and only checkify looks at the condition. JAX has no
public way to register a rule with checkify, hence the private table `error_checks`. Let
all of it go when `debug_check` has no effect, or when checkify takes rules.
"""

import contextlib

import jax
import jax.numpy as jnp
from jax.experimental import checkify
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_checked_p = Primitive("checked_value")


def checked(x: jax.Array, holds: jax.Array, message: str) -> jax.Array:
    """x itself; under `checkify`, an error with the message unless all of `holds`."""
    return _checked_p.bind(x, jnp.all(holds), message=message)


def _jvp(primals, tangents, *, message):
    return _checked_p.bind(*primals, message=message), tangents[0]


def _batch(arguments, axes, *, message):
    (x, holds), (axis, of_holds) = arguments, axes
    if of_holds is not None:
        holds = jnp.all(holds)
    return _checked_p.bind(x, holds, message=message), axis


_checked_p.def_impl(lambda x, holds, message: x)
_checked_p.def_abstract_eval(lambda x, holds, message: x)
ad.primitive_jvps[_checked_p] = _jvp
batching.primitive_batchers[_checked_p] = _batch
mlir.register_lowering(_checked_p, lambda context, x, holds, message: [x])


def _checkify_rule(*arguments, message):
    # JAX 0.12 passes a context in front.
    *context, error, enabled, x, holds = arguments

    def with_check(x, holds):
        checkify.check(holds, message)
        return x

    program = jax.make_jaxpr(with_check)(x, holds)
    error, [x] = _checkify_jaxpr(*context, program, enabled, error, x, holds)
    return error, x


# Without the table every loss works, and `checkify` reports no value; a test says so.
with contextlib.suppress(ImportError):
    from jax._src.checkify import checkify_jaxpr as _checkify_jaxpr
    from jax._src.checkify import error_checks

    error_checks[_checked_p] = _checkify_rule

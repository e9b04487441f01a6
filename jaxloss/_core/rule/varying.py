"""The mesh axes of `jax.shard_map` over which an array differs.

`manual_axis_type` is how JAX 0.10 to 0.12 says it in an array's type, and only there.
"""

import jax


def varying(x: jax.Array) -> frozenset[str]:
    """The mesh axes of `shard_map` over which the content of an array differs."""
    return jax.typeof(x).manual_axis_type.varying


def vary_as(x: jax.Array, other: jax.Array) -> jax.Array:
    """x, declared to vary over the mesh axes of another array as well."""
    missing = tuple(sorted(varying(other) - varying(x)))
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def vary_alike(inputs, axis_name=None):
    """Declares that all inputs vary over the mesh axes over which any of them does.

    A cotangent varies like the loss, so like all inputs together, and JAX requires it
    to vary like its own input. Where that input is replicated, JAX then sums the
    cotangent over the devices. Over `axis_name` the class axes vary and the loss does
    not, so that axis is left as it is.
    """
    every = frozenset().union(*map(varying, inputs)) - {axis_name}
    missing = [tuple(sorted(every - varying(x))) for x in inputs]
    return [
        jax.lax.pcast(x, axes, to="varying") if axes else x
        for x, axes in zip(inputs, missing, strict=True)
    ]

"""Helpers shared by the losses of forecasts."""

from __future__ import annotations

import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.devices import broadcast_to


def per_example(name, value, like):
    """A real argument with one number per example, in the shape of `like`."""
    array = checks.to_array(name, value).astype(like.dtype)
    checks.check_broadcast(name, array.shape, "the per-example loss", like.shape)
    return broadcast_to(array, like)


def check_fairness(fairness, count):
    """Raises for a fairness above 0, a Python number, of a single member."""
    if count == 1 and isinstance(fairness, int | float) and fairness > 0:
        raise ValueError(
            "`fairness` must be 0.0 for an ensemble of one member, which has no "
            f"spread, got {fairness}."
        )


def valid_fairness(f, count, tail):
    """f, NaN where it is outside its range; under `checkify`, that raises."""
    holds, expected = (f >= 0) & (f <= 1), "in [0, 1]"
    if count == 1:
        holds, expected = f == 0, "0.0 for an ensemble of one member"
    f = checks.check_values("fairness", f, tail.counts(holds), expected)
    return jnp.where(holds, f, jnp.nan)

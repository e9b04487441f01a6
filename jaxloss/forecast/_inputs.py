"""Helpers shared by the losses of forecasts."""

from __future__ import annotations

from jaxloss._core.arguments import checks
from jaxloss._core.devices import broadcast_to


def per_example(name, value, like):
    """A real argument with one number per example, in the shape of `like`."""
    array = checks.to_array(name, value).astype(like.dtype)
    checks.check_broadcast(name, array.shape, "the per-example loss", like.shape)
    return broadcast_to(array, like)


def check_fairness(fairness, count):
    """Raises for a fairness above 0, known to the trace, of a single member."""
    if count == 1 and isinstance(fairness, int | float) and fairness > 0:
        raise ValueError(
            "`fairness` must be 0.0 for an ensemble of one member, which has no "
            f"spread, got {fairness}."
        )

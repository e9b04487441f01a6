"""Helpers shared by the losses of forecasts."""

from __future__ import annotations

from jaxloss._core.arguments import checks
from jaxloss._core.devices import broadcast_to


def per_example(name, value, like):
    """A real argument with one number per example, in the shape of `like`."""
    array = checks.to_array(name, value).astype(like.dtype)
    checks.check_broadcast(name, array.shape, "the per-example loss", like.shape)
    return broadcast_to(array, like)

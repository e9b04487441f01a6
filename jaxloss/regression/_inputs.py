"""Checks and masking of the arguments of a regression loss."""

from __future__ import annotations

from jaxloss._core.arguments import checks


def arguments(predictions, targets, where, weights, reduction, **parameters):
    """Checked and masked (predictions, targets, *parameters), and the `Tail`.

    All have the shape of `predictions`.
    """
    targets = 0.0 if targets is None else targets
    named = {"predictions": predictions, "targets": targets, **parameters}
    return checks.elementwise(where, weights, reduction, **named)


def errors(predictions, targets, where, weights, reduction, **parameters):
    """The same with predictions - targets in place of these two."""
    (p, t, *rest), tail = arguments(
        predictions, targets, where, weights, reduction, **parameters
    )
    return (p - t, *rest), tail

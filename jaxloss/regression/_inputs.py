"""The arguments of a regression loss."""

from __future__ import annotations

from jaxloss._core.arguments import checks


def arguments(predictions, targets, where, weights, reduction, **parameters):
    """(predictions, targets, *parameters) of one shape, checked and masked."""
    targets = 0.0 if targets is None else targets
    named = {"predictions": predictions, "targets": targets, **parameters}
    return checks.elementwise(where, weights, reduction, **named)


def errors(predictions, targets, where, weights, reduction, **parameters):
    """(e, *parameters) of one shape, checked and masked."""
    (p, t, *rest), tail = arguments(
        predictions, targets, where, weights, reduction, **parameters
    )
    return (p - t, *rest), tail

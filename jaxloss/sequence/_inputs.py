"""Arguments that the sequence losses share: the blank and the paddings."""

from __future__ import annotations

import operator

import jax.numpy as jnp

from jaxloss._core.arguments import checks


def blank_class(blank_id, classes):
    try:
        blank = operator.index(blank_id)
    except TypeError as error:
        raise TypeError(f"`blank_id` must be an int, got {blank_id!r}.") from error
    if not 0 <= blank < classes:
        raise ValueError(f"`blank_id` must be in [0, {classes}), got {blank}.")
    return blank


def unpadded(name, paddings, to, shape, tail):
    """Checks padding indicators: True where they are 0, in sequences not excluded."""
    paddings = checks.to_array(name, paddings)
    checks.check_broadcast(name, paddings.shape, to, shape)
    padded = paddings.astype(bool)
    known = paddings == padded.astype(paddings.dtype)
    if tail.keep is not None:
        padded = padded | ~tail.keep[..., None]
    known = jnp.all(jnp.broadcast_to(known, shape), axis=-1)
    padded = checks.check_values(name, padded, tail.counts(known), "0 or 1")
    return jnp.broadcast_to(~padded, shape)

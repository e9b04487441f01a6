"""Arguments that the sequence losses share: the blank, the paddings, the lattice."""

from __future__ import annotations

import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.tail import Tail


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


class Lattice(NamedTuple):
    """The checked labels and paddings of a transducer."""

    ways: jax.Array  # [..., U+1], the next label; the blank behind the last one
    frames: jax.Array  # [..., T], False for padded frames
    lengths: jax.Array  # [...], the number of labels
    valid: jax.Array  # [...], False if a label is out of range
    blank: int
    tail: Tail


def lattice(
    name, shape, classes, tail, logit_paddings, labels, label_paddings, blank_id,
    possible=None,
):  # fmt: skip
    """Checks the arguments of lattices of `shape`, (..., T, U+1).

    `name` is the argument that has the positions, for messages; `possible` are the
    frames with a class left.
    """
    *batch, frame_count, places = shape
    labels = checks.integer_array("labels", labels)
    if not places:
        raise ValueError(f"`{name}` must have U + 1 positions for U labels, got 0.")
    if not labels.ndim or labels.shape[-1] != places - 1:
        raise ValueError(
            f"`labels` must have {places - 1} labels on the last axis, one fewer than "
            f"`{name}` has positions, got shape {labels.shape}."
        )
    label_shape = (*batch, places - 1)
    checks.check_broadcast("labels", labels.shape, "the batch's labels", label_shape)
    labels = jnp.broadcast_to(labels, label_shape).astype(jnp.int32)
    blank = blank_class(blank_id, classes)
    to = f"the frames of `{name}`"
    frames = unpadded("logit_paddings", logit_paddings, to, (*batch, frame_count), tail)
    frames = frames if possible is None else frames & possible
    counts = unpadded("label_paddings", label_paddings, "labels", label_shape, tail)
    lengths = jnp.sum(counts, axis=-1, dtype=jnp.int32)
    used = positions(labels) < lengths[..., None]
    known = (labels >= 0) & (labels < classes)
    valid = jnp.all(known | ~used, axis=-1)
    labels = checks.check_values(
        "labels", labels, tail.counts(valid), f"in [0, {classes})"
    )
    ways = jnp.where(known & used, labels, blank)
    ways = jnp.pad(ways, [(0, 0)] * len(batch) + [(0, 1)], constant_values=blank)
    return Lattice(ways, frames, lengths, valid, blank, tail)


def reached(ways, frames, lengths):
    """True at the nodes of a path: neither in a padded frame nor behind the labels."""
    return frames[..., None] & (positions(ways) <= lengths[..., None])[..., None, :]


def positions(x):
    """The place of each entry along the last axis."""
    return jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)

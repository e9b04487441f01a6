"""The forward-backward recursion over all paths through a transducer's lattice."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxloss._core.numerics import scaled
from jaxloss._core.numerics.scaled import Scaled
from jaxloss.sequence._inputs import positions


class Nodes(NamedTuple):
    """The two ways out of each node of the lattice, [..., T, U+1].

    In a padded frame the blank has the probability 1, and a label 0, so that each path
    passes it as if it were not there. Behind the last label, a label has 0.
    """

    blank: Scaled  # the probability of the blank, to the next frame
    label: Scaled  # the probability of the next label, in the same frame
    leak: jax.Array  # the probability of everything else, 0 in padded frames


class Counts(NamedTuple):
    """How often a path that spells the labels takes each way, [..., T, U+1]."""

    blank: jax.Array
    label: jax.Array


# With b(t, u) and y(t, u) the probabilities of the blank and of label u + 1 at frame t
# after u labels, the paths from (0, 0) to (t, u) have the probability
#     α(t, u) = α(t-1, u) b(t-1, u) + α(t, u-1) y(t, u-1),        α(0, 0) = 1,
# and the loss is -log P with P = α(T, U), in a row T behind the last frame. The node
# depends on its two neighbours with a smaller t + u, so that all nodes of one diagonal
# d = t + u are computed at once, in T + U steps. The paths from (t, u) to (T, U) have
#     β(t, u) = b(t, u) β(t+1, u) + y(t, u) β(t, u+1),            β(T, U) = 1,
# and α b β' / P and α y β'' / P are the posterior counts of the two ways out of a node.
# A path crosses each diagonal once, so that the counts of one diagonal sum to 1.
#
# A path that does not spell the labels leaves them at some node, by another class or
# by the end of the frames before the last label. Hence
#     1 - P = Σ α(t, u) (1 - b(t, u) - y(t, u)) + Σ_{u < U} α(T, u),
# without cancellation, which gives all digits of a small loss.
def path_loss(nodes: Nodes, lengths: jax.Array, proper: jax.Array):
    """-log P, [...], and what `path_counts` needs.

    `proper` is False where a label is the blank: the two ways out of its node are one
    class, and what is left is not 1 - P.
    """
    blank, label = (jax.tree.map(_skew, x) for x in (nodes.blank, nodes.label))
    # Behind the last frame everything stays.
    behind = _skew(jnp.ones_like(nodes.leak), 0) == 0
    blank = scaled.choose(behind, scaled.one_like(blank), blank)
    label = label.where(~behind)

    def step(alpha, ways):
        blank, label = ways
        return alpha * blank + (alpha * label).shift(1), alpha

    first = jnp.sum(blank.mantissa[:0], axis=0)
    place = positions(first)
    start = scaled.one_like(Scaled(first, first)).where(place == 0)
    end, alphas = jax.lax.scan(step, start, (blank, label))
    last = place == lengths[..., None]
    total = jax.tree.map(lambda x: jnp.sum(jnp.where(last, x, 0), axis=-1), end)
    left = jnp.sum(alphas.value() * _skew(nodes.leak, 0), axis=(0, -1))
    left = left + jnp.sum(jnp.where(last, 0, end.value()), axis=-1)
    # Of a logit that is NaN, `left` is NaN, and the sum P may have lost it beside a 0.
    small = (proper & (left < 0.5)) | jnp.isnan(left)
    loss = -jnp.log1p(-jnp.where(small, left, 0))
    loss = jnp.where(small, loss, -scaled.log(total))
    return loss, (alphas, blank, label, last, total)


def path_counts(found, frames: int) -> Counts:
    """The posterior counts of both ways out of each node; 0 where P is 0."""
    alphas, blank, label, last, total = found

    def step(beta, ways):
        alpha, blank, label = ways
        by_blank, by_label = blank * beta, label * beta.shift(-1)
        taken = Counts((alpha * by_blank).value(), (alpha * by_label).value())
        # Rounding errors that a whole diagonal shares are removed.
        every = jnp.sum(taken.blank + taken.label, axis=-1, keepdims=True)
        every = jnp.where(every == 0, 1, every)
        return by_blank + by_label, jax.tree.map(lambda x: x / every, taken)

    # The recursion starts from 1 / P, so that it yields β / P instead of β.
    share = jax.tree.map(lambda x: x[..., None], total.reciprocal())
    start = jax.tree.map(lambda x: jnp.broadcast_to(x, last.shape), share).where(last)
    _, counts = jax.lax.scan(step, start, (alphas, blank, label), reverse=True)
    return jax.tree.map(lambda x: _unskew(x, frames), counts)


def is_possible(found) -> jax.Array:
    """Whether some path spells the labels, [...]."""
    return ~found[-1].is_zero()


def _skew(x, fill=0.0):
    """Entry (t, u) of [..., T, U+1] goes to (t + u, ..., u); `fill` behind frame T."""
    *batch, frames, places = x.shape
    width = frames + places
    keep = [(0, 0)] * len(batch)
    x = jnp.swapaxes(x, -1, -2)
    x = jnp.pad(x, [*keep, (0, 0), (0, places)], constant_values=fill)
    # Rows that are one entry shorter than they are long start one entry later each.
    x = x.reshape(*batch, places * width)[..., : places * (width - 1)]
    return jnp.moveaxis(x.reshape(*batch, places, width - 1), -1, 0)


def _unskew(x, frames):
    """The inverse of `_skew`."""
    x = jnp.moveaxis(x, 0, -1)
    *batch, places, steps = x.shape
    x = x.reshape(*batch, places * steps)
    x = jnp.pad(x, [(0, 0)] * len(batch) + [(0, places)])
    x = x.reshape(*batch, places, steps + 1)[..., :frames]
    return jnp.swapaxes(x, -1, -2)


def passing(frames, nodes: Nodes) -> Nodes:
    """The nodes with those of padded frames passed; `frames` is [..., T]."""
    frames = frames[..., None]
    blank = scaled.choose(frames, nodes.blank, scaled.one_like(nodes.blank))
    return Nodes(blank, nodes.label.where(frames), jnp.where(frames, nodes.leak, 0))

"""What the losses make of the logits of a block of pairs."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.numerics.exact import difference_from_own
from jaxloss._core.numerics.functions import softplus
from jaxloss._core.numerics.probability import sigmoid
from jaxloss._core.softmax import to_subtract


class Example(NamedTuple):
    """Integers and masks of the examples of one side, [N]; None where not needed."""

    position: jax.Array  # in the batch of all devices
    keep: jax.Array | None = None
    label: jax.Array | None = None


def both_kept(queries: Example, keys: Example) -> jax.Array | None:
    """Whether neither example of a pair is excluded; None if none is."""
    masks = [side.keep for side in (queries, keys) if side.keep is not None]
    if not masks:
        return None
    return masks[0] if len(masks) == 1 else masks[0] & masks[1]


def _and(mask, other):
    return mask if other is None else mask & other


class Pairs(NamedTuple):
    """Masks of the pairs of a block."""

    same: jax.Array
    kept: jax.Array | None


# The loss of a pair is softplus(-z x), z = 1 for the pair at the same position and -1
# for all others, of slope -z sigmoid(-z x).
@dataclasses.dataclass(frozen=True)
class PairwiseSigmoid:
    """The sum over all keys of -log sigmoid(z x)."""

    per_key: bool = False
    additive: ClassVar[bool] = True

    def relation(self, queries: Example, keys: Example) -> Pairs:
        return Pairs(queries.position == keys.position, both_kept(queries, keys))

    def start(self, like: jax.Array) -> jax.Array:
        return like

    def add(self, state: jax.Array, x: jax.Array, pairs: Pairs, axis: int) -> jax.Array:
        loss = softplus(jnp.where(pairs.same, -x, x))
        if pairs.kept is not None:
            loss = jnp.where(pairs.kept, loss, 0)
        return state + jnp.sum(loss, axis=axis)

    def finish(self, state: jax.Array) -> jax.Array:
        return state

    def slope(self, x, statistics, pairs: Pairs, cotangent) -> jax.Array:
        miss = sigmoid(jnp.where(pairs.same, -x, x))
        if pairs.kept is not None:
            miss = jnp.where(pairs.kept, miss, 0)
        return jnp.where(pairs.same, -miss, miss) * cotangent


class Sum(NamedTuple):
    """log Σ_j e^x_j over some pairs of each row, as top + excess.

    `top` is the maximum, -inf without a pair. It carries no derivative: the sum does
    not depend on it, and all of the derivative is that of the excess.
    """

    top: jax.Array
    excess: jax.Array


def start_sum(like: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The maximum of no number, and their sum."""
    return like - jnp.inf, like


def add_to_sum(state, x, mask, axis):
    """The maximum and the sum of exponentials below it, with those of a block."""
    top, total = state
    block = jnp.max(stop_gradient(x), axis=axis, initial=-jnp.inf, where=mask)
    highest = jnp.maximum(top, block)
    gap, _ = difference_from_own(x, jnp.expand_dims(to_subtract(highest), axis))
    parts = jnp.exp(jnp.where(mask, gap, -jnp.inf))
    shrunk = total * jnp.exp(to_subtract(top - to_subtract(highest)))
    return highest, shrunk + jnp.sum(parts, axis=axis)


def finish_sum(state) -> Sum:
    top, total = state
    empty = jnp.isneginf(top)
    return Sum(top, jnp.log(jnp.where(empty, 1, total)))


def shares(x: jax.Array, of: Sum, mask: jax.Array) -> jax.Array:
    """The softmax over the pairs of a sum, 0 elsewhere: the slope of its excess."""
    gap, _ = difference_from_own(x, to_subtract(of.top))
    return jnp.exp(jnp.where(mask, gap - of.excess, -jnp.inf))


class Against(NamedTuple):
    """Mask of the pairs that a log-sum-exp runs over."""

    other: jax.Array


@dataclasses.dataclass(frozen=True)
class OthersSum:
    """The log-sum-exp over all keys but that of the query's own position.

    A key with the query's label is left out too, where there are labels. The relation
    is symmetric, and so the same sums can be taken per key.
    """

    per_key: bool = False
    additive: ClassVar[bool] = False

    def relation(self, queries: Example, keys: Example) -> Against:
        other = queries.position != keys.position
        if queries.label is not None:
            other = other & (queries.label != keys.label)
        return Against(_and(other, both_kept(queries, keys)))

    def start(self, like: jax.Array):
        return start_sum(like)

    def add(self, state, x: jax.Array, pairs: Against, axis: int):
        return add_to_sum(state, x, pairs.other, axis)

    def finish(self, state) -> Sum:
        return finish_sum(state)

    def slope(self, x, statistics: Sum, pairs: Against, cotangent: Sum) -> jax.Array:
        return shares(x, statistics, pairs.other) * cotangent.excess


class Groups(NamedTuple):
    """Masks of the pairs of one label, without the query itself, and of the rest."""

    positive: jax.Array
    negative: jax.Array


class GroupSums(NamedTuple):
    """The statistics of a query with several positives."""

    positive: Sum
    negative: Sum
    count: jax.Array  # of positives, without a derivative
    spread: jax.Array  # log-sum-exp of the positives less their mean
    gap: jax.Array  # log-sum-exp of the negatives less that of the positives


# With A and B the log-sum-exps of the positives and of the negatives, c the number of
# positives and m their mean, p and q the softmax over either group,
#     spread = A - m,   d spread / d x_j = p_j - 1/c  at the positives,
#     gap = B - A,      d gap / d x_j = -p_j at the positives and q_j at the negatives.
# With one positive, A = m = x_j and p_j = 1, all exactly: the spread and its slope are
# 0, and the loss, spread + softplus(gap), keeps its digits however small it is.
@dataclasses.dataclass(frozen=True)
class LabelSums:
    """The log-sum-exps of a query's positives and of its negatives."""

    per_key: bool = False
    additive: ClassVar[bool] = False

    def relation(self, queries: Example, keys: Example) -> Groups:
        kept = both_kept(queries, keys)
        same = queries.label == keys.label
        other = queries.position != keys.position
        return Groups(_and(same & other, kept), _and(~same, kept))

    def start(self, like: jax.Array):
        return start_sum(like), start_sum(like), like, like

    def add(self, state, x: jax.Array, pairs: Groups, axis: int):
        positive, negative, count, below = state
        positive, before = add_to_sum(positive, x, pairs.positive, axis), positive
        negative = add_to_sum(negative, x, pairs.negative, axis)
        top = to_subtract(positive[0])
        gap = jnp.where(pairs.positive, x - jnp.expand_dims(top, axis), 0)
        moved = jnp.where(count > 0, to_subtract(before[0]) - top, 0)
        below = below + count * moved + jnp.sum(gap, axis=axis)
        count = count + jnp.sum(pairs.positive, axis=axis, dtype=count.dtype)
        return positive, negative, count, below

    def finish(self, state) -> GroupSums:
        positive, negative = map(finish_sum, state[:2])
        count, below = state[2:]
        spread = positive.excess - below / jnp.maximum(count, 1)
        gap = (negative.top - to_subtract(positive.top)) + (
            negative.excess - positive.excess
        )
        return GroupSums(positive, negative, count, spread, gap)

    def slope(self, x, statistics: GroupSums, pairs: Groups, cotangent: GroupSums):
        p = shares(x, statistics.positive, pairs.positive)
        q = shares(x, statistics.negative, pairs.negative)
        mean = 1 / jnp.maximum(statistics.count, 1)
        beyond = p - jnp.where(pairs.positive, mean, 0)
        at_negative = cotangent.negative.excess + cotangent.gap
        at_positive = cotangent.positive.excess - cotangent.gap
        return beyond * cotangent.spread + p * at_positive + q * at_negative

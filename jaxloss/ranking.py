"""Ranking losses: scores of a list of items against the relevance of the items."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.soft_labels import soft_cross_entropy


@public()
def ranking_softmax_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduce_fn: Callable[..., ArrayLike] | None = jnp.mean,
) -> jax.Array:
    r"""Ranking softmax loss: cross entropy of relevance over a list of items.

    Choose it to learn an order from graded relevance, a whole list at a time.
    `softmax_cross_entropy` has the same formula, but weights per list, not per item.

    With $s$ the logits, $y$ the labels and $w$ the weights of the items:

    $$ -\sum_i w_i \, y_i \log \frac{e^{s_i}}{\sum_j e^{s_j}} $$

    Also known as ListNet's loss.

    Args:
        logits: Floating, `[..., items]`, the score of each item.
        labels: Real, at least 0, broadcastable to `logits`: the relevance of each item.
            The loss is proportional to them.
        where: Boolean mask, broadcastable to `logits`; False items, such as padding,
            are not in the list. A list without items is excluded.
        weights: Real weights per item, broadcastable to `logits`.
        reduce_fn: The function that reduces the losses of the lists, called as
            `reduce_fn(losses, where=lists)`. `lists` is True where a list has an item,
            or None if there is no `where`. None returns the losses, 0 for a list
            without items.

    Returns:
        The result of `reduce_fn` on losses `[...]`, in nats times relevance; 0 where
        there is nothing to reduce.

    Gradient:
        With $p$ the softmax of a list and $Y = \sum_i w_i y_i$: $Y p_i - w_i y_i$ for
        `logits`, $-w_i \log p_i$ for `labels` and $-y_i \log p_i$ for `weights`;
        exactly 0 for an item that is not in the list.

    Example:
        >>> import jaxloss as jl
        >>> scores, relevance = [[2.0, 1.0, 0.0], [1.0, 0.5, 1.5]], [0.0, 0.0, 1.0]
        >>> where = [[True, True, False], [True, True, True]]
        >>> f"{jl.ranking_softmax_loss(scores, relevance, where=where):.4f}"
        '0.3401'
        >>> losses = jl.ranking_softmax_loss(scores, relevance, reduce_fn=None)
        >>> [f"{x:.4f}" for x in losses]
        ['2.4076', '0.6803']

    References:
        Zhe Cao, Tao Qin, Tie-Yan Liu, Ming-Feng Tsai and Hang Li, "Learning to Rank:
        From Pairwise Approach to Listwise Approach", 2007,
        https://doi.org/10.1145/1273496.1273513
    """
    logits, axes = checks.class_array("logits", logits, -1)
    labels = checks.to_array("labels", labels)
    dtype = checks.compute_dtype(logits, labels)
    valid = None
    if where is not None:
        where = checks.to_mask("where", where)
        checks.check_broadcast("where", where.shape, "logits", logits.shape)
        where = checks.broadcast_to(where, logits)
        valid = jnp.any(where, axis=axes)
        # An item outside the list has probability 0 here, and relevance 0 below.
        logits = jnp.where(where, logits, -jnp.inf)
    gains = _per_item("labels", labels, logits, where, dtype)
    if weights is not None:
        gains = gains * _per_item("weights", weights, logits, where, dtype)
    loss = soft_cross_entropy(logits, gains, axis=axes)
    return _reduce(loss, valid, reduce_fn)


def _per_item(name, value, logits, where, dtype):
    array = checks.to_array(name, value)
    checks.check_broadcast(name, array.shape, "logits", logits.shape)
    array = checks.broadcast_to(array.astype(dtype), logits)
    return array if where is None else jnp.where(where, array, 0)


def _reduce(loss, valid, reduce_fn):
    """`reduce_fn` over the lists that have an item; 0 where there is none."""
    if reduce_fn is None:
        return loss
    if not loss.size:
        result = jax.eval_shape(lambda a: reduce_fn(a, where=None), loss)
        return jnp.zeros(result.shape, result.dtype)
    if valid is None:
        return jnp.asarray(reduce_fn(loss, where=None))
    # A list without items has a loss of 0. If no list has an item, all lists take part,
    # so that a mean is 0 and not 0/0. A mean along one axis is NaN for a group without
    # a valid list; the mean of all losses of the group, which is 0, replaces it.
    value = reduce_fn(loss, where=valid | ~jnp.any(valid))
    return jnp.where(jnp.isnan(value), reduce_fn(loss, where=None), value)

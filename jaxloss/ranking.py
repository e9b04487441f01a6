"""Ranking losses: the scores of a list of items against their relevance."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.public import public
from jaxloss._core.softmax import soft_cross_entropy


@public()
def ranking_softmax_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduce_fn: Callable[..., ArrayLike] | None = jnp.mean,
) -> jax.Array:
    r"""Returns the cross entropy of relevance and softmax(scores) over a list of items.

    Choose it to learn an order from graded relevance, a whole list at a time.
    `softmax_cross_entropy` is the same for one list without padding, and has weights
    for lists instead of items.

    With $s$ the logits, $y$ the labels and $w$ the weights of the items:

    $$ -\sum_i w_i \, y_i \log \frac{e^{s_i}}{\sum_j e^{s_j}} $$

    Args:
        logits: Floating, `[..., items]`, the score of each item.
        labels: Real, at least 0, broadcastable to `logits`: the relevance of each item;
            its scale is the loss's.
        where: Boolean mask, broadcastable to `logits`: False for an item that is not in
            the list, such as padding. A list without any item counts nowhere.
        weights: Real weights of the items, broadcastable to `logits`.
        reduce_fn: What reduces the losses of the lists, called as
            `reduce_fn(losses, where=lists)`, with `lists` True where a list has an
            item, or None without `where`. None returns the losses, 0 for a list without
            items.

    Returns:
        What `reduce_fn` makes of `[...]`, in nats times relevance; 0 where there is
        nothing to reduce.

    Gradient:
        With $p$ the softmax of a list and $Y = \sum_i w_i y_i$: $Y p_i - w_i y_i$ for
        `logits`, $-w_i \log p_i$ for `labels`, $-y_i \log p_i$ for `weights`; exactly 0
        for an item that is not in the list.

    Numerics:
        Computes in float32, or float64 if `logits` or `labels` are float64; time and
        memory are linear in the number of elements. The largest score is left out of
        the sum of exponentials: a loss of 1e-20 keeps its digits. A score of -inf has
        probability and gradient 0; a relevance of 0 there adds 0, another gives inf.

    Raises:
        TypeError: If `logits` is not floating, another input not real, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `logits`, or that has no items.

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
        # Without a score and without relevance an item is not in the list.
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
    """`reduce_fn` over the lists that have a valid item; 0 where there is none."""
    if reduce_fn is None:
        return loss
    if not loss.size:
        result = jax.eval_shape(lambda a: reduce_fn(a, where=None), loss)
        return jnp.zeros(result.shape, result.dtype)
    if valid is None:
        return jnp.asarray(reduce_fn(loss, where=None))
    # The loss of an invalid list is 0, and so is any mean over those alone.
    value = reduce_fn(loss, where=valid | ~jnp.any(valid))
    return jnp.where(jnp.isnan(value), reduce_fn(loss, where=None), value)

"""Losses that a convex function of the scores makes: sparsemax, and any other."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.devices import whole
from jaxloss._core.numerics.exact import two_difference, zero_safe_product
from jaxloss._core.numerics.functions import relu
from jaxloss._core.rule.analytic import analytic
from jaxloss._core.softmax import at_label
from jaxloss.multiclass._scores import own_score, score_arguments


@public()
def multiclass_sparsemax_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the sparsemax loss, whose probabilities reach exactly zero.

    Choose it over `softmax_cross_entropy_with_integer_labels` where a clear decision
    should cost exactly 0. `sparsemax_loss` is the binary one.

    With $s$ the scores, $y$ the label and $q$ running over all distributions:

    $$ \max_q \left( \sum_j q_j\,s_j - \frac{1}{2} \sum_j q_j^2 \right)
    - s_y + \frac{1}{2} $$

    Args:
        scores: Floating, `[..., C]`, of which the largest is the decision.
        labels: Integer, in [0, C), broadcastable to `[...]`.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). A mask of the rank of `scores` drops single
            classes.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0; a scalar if reduced.

    Gradient:
        $p_j - [j = y]$ for `scores`, $p$ being the distribution at which the maximum is
        taken, the projection of the scores on the simplex; continuous, so that there is
        no kink to decide. `labels` receive none.

    Numerics:
        Computes in float32, or float64 if `scores` are float64; the sort takes time of
        the order of C log C for an example. An empty or fully masked input has sum and
        mean 0. A score of -inf has probability and gradient 0. A label outside [0, C)
        gives NaN, and raises under `checkify`.

    Raises:
        TypeError: If `scores` is not floating, `labels` is not integer, another input
            not real, or `where` not boolean.
        ValueError: If an input does not fit the shapes above, there is no class, or
            `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> scores = [[2.0, 0.5, 0.0], [0.5, 0.5, -3.0]]
        >>> print(jl.multiclass_sparsemax_loss(scores, [0, 1]))
        [0.   0.25]

    References:
        André F. T. Martins and Ramón F. Astudillo, "From Softmax to Sparsemax: A Sparse
        Model of Attention and Multi-Label Classification", 2016,
        https://arxiv.org/abs/1602.02068
    """
    scores, labels, examples = score_arguments(
        scores, labels, where, weights, reduction
    )
    loss = _sparsemax(whole(scores, -1), labels, axis=-1)
    return examples.tail.reduce(loss)


# With p the projection of the scores s on the simplex, p_j = max(s_j - τ, 0), and e the
# label's corner, Σ p_j = 1 turns the definition (max_q <q, s> - |q|²/2) - (s_y - 1/2)
# into a sum without cancellation,
#     f = |p - e|²/2 + max(τ - s_y, 0),   p_y - 1 = -Σ_{j != y} p_j,
# whose gradient is p - e: τ moves with the mean of the scores in the support. With m a
# largest score and the levels c_j = 1 - (m - s_j), a support of k classes has
#     p_j = c_j - θ,   θ = Σ_{j not at m} c_j / k,
# so that the smallest mass beside a class of nearly all keeps its digits.
def _sparsemax_forward(scores, labels, *, axis):
    moved, beneath = _projection(scores, labels)
    return 0.5 * jnp.sum(moved * moved, axis=axis) + beneath, (scores, labels)


def _sparsemax_backward(residuals, cotangent, *, axis):
    moved, _ = _projection(*residuals)
    return jnp.expand_dims(cotangent, axis) * moved, None


_sparsemax = analytic(_sparsemax_forward, _sparsemax_backward)


def _projection(scores, labels):
    """p - e, and max(τ - s_y, 0)."""
    axis = scores.ndim - 1
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    gap, lost = two_difference(jnp.where(jnp.isneginf(top), 0, top), scores)
    level = (1 - gap) - lost
    support = _support(jax.lax.stop_gradient(level)) & ~jnp.isneginf(scores)
    size = jnp.sum(support, axis=-1, keepdims=True, dtype=scores.dtype)
    # At m, of which only the derivative counts.
    others = jnp.where(at_label(scores, jnp.argmax(scores, -1), axis), -gap, level)
    others = jnp.where(support, others, 0)
    theta = jnp.sum(others, axis=-1, keepdims=True) / jnp.maximum(size, 1)
    own = at_label(scores, labels, axis)
    rest = jnp.where(support & ~own, level - theta, 0)
    moved = jnp.where(own, -jnp.sum(rest, axis=-1, keepdims=True), rest)
    return moved, relu(jnp.squeeze(theta, -1) - own_score(level, labels))


def _support(level):
    """The classes to which the projection on the simplex gives mass."""
    ranked = jnp.flip(jnp.sort(level, axis=-1), axis=-1)
    ranks = jnp.arange(1, level.shape[-1] + 1, dtype=level.dtype)
    ranks = ranks.reshape((1,) * (level.ndim - 1) + (-1,))
    within = ranks * ranked > jnp.cumsum(jnp.where(ranks == 1, 0, ranked), axis=-1)
    size = jnp.sum(within, axis=-1, keepdims=True)
    return level >= jnp.take_along_axis(ranked, jnp.maximum(size - 1, 0), axis=-1)


def make_fenchel_young_loss(
    max_fun: Callable[..., jax.Array],
) -> Callable[..., jax.Array]:
    r"""Returns the Fenchel-Young loss that belongs to a max function.

    Choose it to make a loss for a prediction rule of your own: the maximum of scores
    plus a regulariser, over any set of outputs. With `jax.nn.logsumexp` it makes
    `softmax_cross_entropy`, but for the labels' entropy.

    With $s$ the scores, $t$ the targets and $f$ the `max_fun`:

    $$ f(s) - \sum_j t_j\,s_j $$

    Args:
        max_fun: Takes the scores of one example, `[C]`, and what else the loss is
            given, and returns a scalar: the regularised maximum.

    Returns:
        The loss `(scores, targets, *args, **kwargs)` of floating scores `[..., C]` and
        targets that broadcast to them. It gives `[...]` and hands `args` and `kwargs`
        on to `max_fun`; it has no mask, weights or reduction of its own.

    Gradient:
        $f'(s) - t$ for the scores, $f'$ being that of `max_fun`: its regularised
        argmax. $-s$ for the targets.

    Numerics:
        The scores reach `max_fun` in float32, or float64 if they or the targets are
        float64. A target of 0 at a score of -inf adds 0.

    Raises:
        TypeError: If the loss is given scores that are not floating, or targets that
            are not real.
        ValueError: If the loss is given scores without a class, or targets that do not
            broadcast to them.

    Example:
        >>> import jax
        >>> import jaxloss as jl
        >>> loss = jl.make_fenchel_young_loss(max_fun=jax.nn.logsumexp)
        >>> print(f"{loss([2.0, 0.0, 0.0], [1.0, 0.0, 0.0]):.4f}")
        0.2395

    References:
        Mathieu Blondel, André F. T. Martins and Vlad Niculae, "Learning with
        Fenchel-Young Losses", 2020, https://arxiv.org/abs/1901.02324
    """

    def fenchel_young_loss(scores, targets, *args, **kwargs):
        scores, _ = checks.class_array("scores", scores, -1)
        targets = checks.to_array("targets", targets)
        checks.check_broadcast("targets", targets.shape, "scores", scores.shape)
        dtype = checks.compute_dtype(scores, targets)
        scores = scores.astype(dtype)
        targets = jnp.broadcast_to(targets.astype(dtype), scores.shape)

        def row(row_of_scores):
            return max_fun(row_of_scores, *args, **kwargs)

        maximum = jnp.vectorize(row, signature="(n)->()")(scores)
        return maximum - jnp.sum(zero_safe_product(targets, scores), axis=-1)

    return fenchel_young_loss

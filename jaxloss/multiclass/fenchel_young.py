"""Fenchel-Young losses: sparsemax, and the loss of any regularised maximum."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
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
    r"""Multiclass sparsemax loss, whose probabilities can be exactly zero.

    Choose it over `softmax_cross_entropy_with_integer_labels` where an example should
    cost exactly 0 once the label's score leads by 1. `sparsemax_loss` is the binary
    case.

    With $s$ the scores, $y$ the label and $q$ ranging over all distributions:

    $$ \max_q \left( \sum_j q_j\,s_j - \frac{1}{2} \sum_j q_j^2 \right)
    - s_y + \frac{1}{2} $$

    Args:
        scores: Floating, `[..., C]`; the class of the largest is the decision.
        labels: Integer, in [0, C), broadcastable to `[...]`.
        where: Boolean mask; False entries are excluded. A mask of the rank of `scores`
            excludes single classes.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0; a scalar if reduced.

    Gradient:
        $p_j - [j = y]$ for `scores`, where the distribution $p$ attains the maximum: it
        is the Euclidean projection of the scores onto the simplex. Continuous, so there
        is no kink.

    Numerics:
        The scores of each example are sorted, in time of order $C \log C$.

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


# Let p be the projection of the scores s onto the simplex, p_j = max(s_j - τ, 0), and e
# the one-hot label. As Σ p_j = 1, (max_q <q, s> - |q|²/2) - (s_y - 1/2) equals
#     f = |p - e|²/2 + max(τ - s_y, 0),   p_y - 1 = -Σ_{j != y} p_j,
# without cancellation. By the envelope theorem its gradient is p - e. With i the first
# class of the largest score m, and the levels c_j = 1 - (m - s_j), the k classes of the
# support have
#     p_j = c_j - θ,   θ = Σ_{j != i} c_j / k,   since c_i = 1 = Σ p_j.
# So a small p_j keeps its digits even where one class has almost all the mass.
def _sparsemax_forward(scores, labels, *, axis):
    gradient, deficit = _projection(scores, labels)
    return 0.5 * jnp.sum(gradient * gradient, axis=axis) + deficit, (scores, labels)


def _sparsemax_backward(residuals, cotangent, *, axis):
    gradient, _ = _projection(*residuals)
    return jnp.expand_dims(cotangent, axis) * gradient, None


_sparsemax = analytic(_sparsemax_forward, _sparsemax_backward)


def _projection(scores, labels):
    """p - e, of shape [..., C], and max(τ - s_y, 0), of shape [...]."""
    axis = scores.ndim - 1
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    gap, rounding = two_difference(jnp.where(jnp.isneginf(top), 0, top), scores)
    level = (1 - gap) - rounding
    support = _support(jax.lax.stop_gradient(level)) & ~jnp.isneginf(scores)
    size = jnp.sum(support, axis=-1, keepdims=True, dtype=scores.dtype)
    # c_i - 1 = -gap is 0 at class i, but its derivative is not.
    others = jnp.where(at_label(scores, jnp.argmax(scores, -1), axis), -gap, level)
    others = jnp.where(support, others, 0)
    theta = jnp.sum(others, axis=-1, keepdims=True) / jnp.maximum(size, 1)
    own = at_label(scores, labels, axis)
    rest = jnp.where(support & ~own, level - theta, 0)
    gradient = jnp.where(own, -jnp.sum(rest, axis=-1, keepdims=True), rest)
    return gradient, relu(jnp.squeeze(theta, -1) - own_score(level, labels))


def _support(level):
    """True at the classes that the projection onto the simplex gives positive mass."""
    ranked = jnp.flip(jnp.sort(level, axis=-1), axis=-1)
    ranks = jnp.arange(1, level.shape[-1] + 1, dtype=level.dtype)
    ranks = ranks.reshape((1,) * (level.ndim - 1) + (-1,))
    within = ranks * ranked > jnp.cumsum(jnp.where(ranks == 1, 0, ranked), axis=-1)
    size = jnp.sum(within, axis=-1, keepdims=True)
    return level >= jnp.take_along_axis(ranked, jnp.maximum(size - 1, 0), axis=-1)


def make_fenchel_young_loss(
    max_fun: Callable[..., jax.Array],
) -> Callable[..., jax.Array]:
    r"""Factory of Fenchel-Young losses, one for each regularised maximum `max_fun`.

    Choose it to make a loss for a prediction rule of your own: the maximum of scores
    plus a regulariser, over any set of outputs. With `jax.nn.logsumexp` it makes
    `softmax_cross_entropy` for labels that sum to 1.

    With $s$ the scores, $t$ the targets and $f$ the `max_fun`:

    $$ f(s) - \sum_j t_j\,s_j $$

    Args:
        max_fun: A function of one example's scores `[C]`, and of any further arguments
            that the loss receives. It returns a scalar, the regularised maximum.

    Returns:
        The loss, a function `(scores, targets, *args, **kwargs)` of floating scores
        `[..., C]` and targets that broadcast to them. It returns `[...]` and passes
        `args` and `kwargs` on to `max_fun`. It has no mask, weights or reduction.

    Gradient:
        $\nabla f(s) - t$ for the scores and $-s$ for the targets. JAX differentiates
        `max_fun` to obtain $\nabla f$, the regularised argmax.

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

        def maximum_of_example(scores_of_example):
            return max_fun(scores_of_example, *args, **kwargs)

        maximum = jnp.vectorize(maximum_of_example, signature="(n)->()")(scores)
        return maximum - jnp.sum(zero_safe_product(targets, scores), axis=-1)

    return fenchel_young_loss

"""Margin losses: the label's score against the scores of the other classes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.classes import class_weight_array, weight_of_label
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.numerics.exact import two_difference, zero_safe_product
from jaxloss._core.numerics.functions import relu
from jaxloss._core.softmax import at_label
from jaxloss.multiclass._labels import dense_arguments
from jaxloss.multiclass._scores import count_classes, own_score, score_arguments


@public()
def multiclass_hinge_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Multiclass hinge loss: the label's score should lead the best other score by 1.

    Choose it to train a multiclass support vector machine. `multi_margin_loss`
    penalises every class that comes too close; `multiclass_perceptron_loss` requires no
    margin.

    With $s$ the scores and $y$ the label:

    $$ \max\left(0,\; 1 + \max_{j \ne y} s_j - s_y\right) $$

    Also known as Crammer-Singer loss.

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
        Where the loss is positive, -1 for `scores` at the label and 1 at the best other
        class, shared evenly among ties; 0 elsewhere, including the kink.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.multiclass_hinge_loss([[2.0, 1.5, 0.0], [2.0, 1.5, 0.0]], [0, 1]))
        [0.5 1.5]

    References:
        Koby Crammer and Yoram Singer, "On the Algorithmic Implementation of Multiclass
        Kernel-based Vector Machines", 2001,
        https://www.jmlr.org/papers/v2/crammer01a.html
    """
    scores, labels, examples = score_arguments(
        scores, labels, where, weights, reduction
    )
    lead, rounding = _lead(scores, labels)
    return examples.tail.reduce(relu((lead + 1) + rounding))


@public()
def multiclass_perceptron_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Multiclass perceptron loss: how far the label falls below the best score.

    Choose it where the correct decision is enough; `multiclass_hinge_loss` also
    requires a margin.

    With $s$ the scores and $y$ the label:

    $$ \max\left(0,\; \max_{j \ne y} s_j - s_y\right) = \max_j s_j - s_y $$

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
        Where the loss is positive, -1 for `scores` at the label and 1 at the best
        class, shared evenly among ties; 0 elsewhere, also where the label ties for the
        best score.

    Example:
        >>> import jaxloss as jl
        >>> scores = [[2.0, 1.5, 0.0], [2.0, 1.5, 0.0]]
        >>> print(jl.multiclass_perceptron_loss(scores, [0, 1]))
        [0.  0.5]

    References:
        Michael Collins, "Discriminative Training Methods for Hidden Markov Models:
        Theory and Experiments with Perceptron Algorithms", 2002,
        https://aclanthology.org/W02-1001/
    """
    scores, labels, examples = score_arguments(
        scores, labels, where, weights, reduction
    )
    lead, _ = _lead(scores, labels)
    return examples.tail.reduce(relu(lead))


def _lead(scores, labels):
    """The best other score minus the label's score, and the rounding error of this."""
    hit = at_label(scores, labels, scores.ndim - 1)
    rival = jnp.max(jnp.where(hit, -jnp.inf, scores), axis=-1)
    own = own_score(scores, labels)
    # If no other class is possible, the lead is -inf, even for a label's score of -inf.
    unrivalled = jnp.isneginf(rival)
    lead, rounding = two_difference(
        jnp.where(unrivalled, 0, rival), jnp.where(unrivalled, 0, own)
    )
    return jnp.where(unrivalled & ~jnp.isnan(own), -jnp.inf, lead), rounding


@public()
def multi_margin_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    p: int = 1,
    margin: ArrayLike = 1.0,
    class_weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Multi-margin loss: the mean over the classes of their violations of the margin.

    Choose it over `multiclass_hinge_loss` to penalise every class that comes too close
    to the label's score, not only the closest.

    With $s$ the scores, $y$ the label and $w$ the `class_weights`:

    $$ \frac{w_y}{C} \sum_{j \ne y} \max(0,\; \text{margin} - s_y + s_j)^p $$

    PyTorch: `nn.MultiMarginLoss`.

    Args:
        scores: Floating, `[..., C]`; the class of the largest is the decision.
        labels: Integer, in [0, C), broadcastable to `[...]`.
        p: 1 or 2, the power of each violation. 1 as in PyTorch.
        margin: Scalar, by how much the label's score should lead. 1.0 as in PyTorch.
        class_weights: Real, `[C]`, a factor per class; None means 1. As in PyTorch, the
            mean does not divide by them.
        where: Boolean mask; False entries are excluded. A mask of the rank of `scores`
            excludes single classes.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0; a scalar if reduced.

    Gradient:
        With $v_j$ the violations: $p\,w_y\,v_j^{p-1} / C$ for `scores` at each class
        with $v_j > 0$; the label receives minus their sum and `margin` their sum. 0 at
        the kink, as in PyTorch. Also differentiable in `class_weights`.

    Raises:
        ValueError: If `p` is neither 1 nor 2.

    Example:
        >>> import jaxloss as jl
        >>> scores = [[2.0, 1.5, 1.0, 0.0], [2.0, 1.5, 0.0, 0.0]]
        >>> print(jl.multi_margin_loss(scores, [0, 1]))
        [0.125 0.375]

    References:
        PyTorch, "torch.nn.MultiMarginLoss",
        https://docs.pytorch.org/docs/stable/generated/torch.nn.MultiMarginLoss.html
    """
    checks.check_option("p", p, (1, 2))
    scores, labels, examples = score_arguments(
        scores, labels, where, weights, reduction
    )
    margin = checks.scalar("margin", margin, scores.dtype)
    margin = examples.share(margin, scores)
    own = jnp.expand_dims(own_score(scores, labels), -1)
    # A class at -inf violates no margin.
    rival = ~at_label(scores, labels, scores.ndim - 1) & ~jnp.isneginf(scores)
    lead, rounding = two_difference(
        jnp.where(rival, scores, 0), jnp.where(rival, own, 0)
    )
    excess = jnp.where(rival, relu((lead + margin) + rounding), 0)
    share = excess / count_classes(examples.classes, scores)
    loss = jnp.sum(share if p == 1 else share * excess, axis=-1)
    loss = jnp.where(jnp.isnan(jnp.squeeze(own, -1)), jnp.nan, loss)
    if class_weights is not None:
        scale = class_weight_array(class_weights, scores, examples)
        loss = zero_safe_product(weight_of_label(scale, labels, examples), loss)
    return examples.tail.reduce(loss)


@public()
def categorical_hinge_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Categorical hinge loss: the score of a dense label against the best wrong score.

    Choose it for dense labels, or to reproduce Keras. For one label per example,
    `multiclass_hinge_loss` compares with the wrong classes alone.

    With $s$ the scores and $l$ the labels:

    $$ \max\left(0,\; 1 + \max_j (1 - l_j)\,s_j - \sum_j l_j\,s_j\right) $$

    where, as in Keras, each correct class adds a 0 to the inner maximum.

    Keras: `CategoricalHinge`.

    Args:
        scores: Floating, `[..., C]`; the class of the largest is the decision.
        labels: Real, in [0, 1], broadcastable to `scores`; usually one-hot.
        where: Boolean mask; False entries are excluded. A mask of the rank of `scores`
            excludes single classes.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0; a scalar if reduced.

    Gradient:
        Where the loss is positive, $-l_j$ for `scores` and $-s_j$ for `labels`. The
        class of the inner maximum, shared evenly among ties, adds $1 - l_j$ for
        `scores` and another $-s_j$ for `labels`. 0 elsewhere, including the kink.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.categorical_hinge_loss([2.0, 1.5, 0.0], [1, 0, 0]))
        0.5

    References:
        Keras, "Hinge losses for maximum-margin classification", `CategoricalHinge`,
        https://keras.io/api/losses/hinge_losses/
    """
    scores, labels, examples = dense_arguments(
        scores, labels, -1, where, weights, reduction, "scores"
    )
    scores = scores.astype(labels.dtype)
    right = jnp.sum(zero_safe_product(labels, scores), axis=-1)
    # An impossible class is never the best wrong class.
    impossible = jnp.isneginf(scores)
    if examples.classes is not None:
        impossible = impossible | ~examples.classes
    wrong = jnp.where(
        impossible, -jnp.inf, (1 - labels) * jnp.where(impossible, 0, scores)
    )
    lead, rounding = two_difference(jnp.max(wrong, axis=-1), right)
    return examples.tail.reduce(relu((lead + 1) + rounding))

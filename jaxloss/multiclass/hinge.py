"""Margins between the label's score and those of other classes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.classes import class_weight_array, weight_of_label
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
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
    r"""Returns the hinge loss of the label's score against the best other one.

    Choose it for the margin of a multiclass support vector machine. `multi_margin_loss`
    charges every class that comes too close, `multiclass_perceptron_loss` asks for no
    margin.

    With $s$ the scores and $y$ the label:

    $$ \max\left(0,\; 1 + \max_{j \ne y} s_j - s_y\right) $$

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
        Where the loss is positive, -1 for `scores` at the label and 1 at the best other
        class, shared evenly among equals; 0 elsewhere, the kink included. `labels`
        receive none.

    Numerics:
        Computes in float32, or float64 if `scores` are float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. What rounding took from the difference is put back, so that small losses
        keep their digits. A score of -inf is no rival. A label outside [0, C) gives
        NaN, and raises under `checkify`.

    Raises:
        TypeError: If `scores` is not floating, `labels` is not integer, another input
            not real, or `where` not boolean.
        ValueError: If an input does not fit the shapes above, there is no class, or
            `reduction` is unknown.

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
    lead, lost = _lead(scores, labels)
    return examples.tail.reduce(relu((lead + 1) + lost))


@public()
def multiclass_perceptron_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns what the label's score lacks to the best other one.

    Choose it where the right decision is enough; `multiclass_hinge_loss` also asks for
    a margin.

    With $s$ the scores and $y$ the label:

    $$ \max\left(0,\; \max_{j \ne y} s_j - s_y\right) = \max_j s_j - s_y $$

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
        Where the loss is positive, -1 for `scores` at the label and 1 at the best
        class, shared evenly among equals; 0 elsewhere, a label that ties for the best
        included. `labels` receive none.

    Numerics:
        Computes in float32, or float64 if `scores` are float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. A score of -inf is no rival. A label outside [0, C) gives NaN, and
        raises under `checkify`.

    Raises:
        TypeError: If `scores` is not floating, `labels` is not integer, another input
            not real, or `where` not boolean.
        ValueError: If an input does not fit the shapes above, there is no class, or
            `reduction` is unknown.

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
    """How far the best wrong class is ahead of the label, and the rounding lost."""
    hit = at_label(scores, labels, scores.ndim - 1)
    rival = jnp.max(jnp.where(hit, -jnp.inf, scores), axis=-1)
    own = own_score(scores, labels)
    # Where the rival is impossible, so is the lead, whatever the label's own score.
    beaten = jnp.isneginf(rival)
    lead, lost = two_difference(jnp.where(beaten, 0, rival), jnp.where(beaten, 0, own))
    return jnp.where(beaten & ~jnp.isnan(own), -jnp.inf, lead), lost


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
    r"""Returns the mean over the classes of each one's violation of the label's margin.

    Choose it over `multiclass_hinge_loss` where every class that comes too close should
    count, not the closest alone.

    With $s$ the scores, $y$ the label and $w_y$ its class weight:

    $$ \frac{w_y}{C} \sum_{j \ne y} \max(0,\; \text{margin} - s_y + s_j)^p $$

    Args:
        scores: Floating, `[..., C]`, of which the largest is the decision.
        labels: Integer, in [0, C), broadcastable to `[...]`.
        p: 1 or 2, the power of each violation. 1 as in PyTorch.
        margin: A scalar, by how much the label's score should lead. 1.0 as in PyTorch.
        class_weights: Real, `[C]`, what each class counts for. None counts each 1. The
            mean is not divided by them, as in PyTorch.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). A mask of the rank of `scores` drops single
            classes.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0; a scalar if reduced.

    Gradient:
        With $v_j$ the violations: $p\,w_y\,v_j^{p-1} / C$ for `scores` at each class
        with $v_j > 0$, the negative of their sum at the label, and 0 at the kink as in
        PyTorch. `margin` receives that sum, `class_weights` theirs, `labels` none.

    Numerics:
        Computes in float32, or float64 if `scores` are float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. What rounding took from a difference is put back, so that small
        violations keep their digits. A score of -inf is no rival. A label outside [0,
        C) gives NaN, and raises under `checkify`.

    Raises:
        TypeError: If `scores` is not floating, `labels` is not integer, another input
            not real, or `where` not boolean.
        ValueError: If an input does not fit the shapes above, there is no class, `p` is
            neither 1 nor 2, or `reduction` is unknown.

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
    # An impossible class is no rival.
    rival = ~at_label(scores, labels, scores.ndim - 1) & ~jnp.isneginf(scores)
    lead, lost = two_difference(jnp.where(rival, scores, 0), jnp.where(rival, own, 0))
    excess = jnp.where(rival, relu((lead + margin) + lost), 0)
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
    r"""Returns the hinge loss of the right classes' scores against the best wrong one.

    Choose it for dense labels, or to reproduce Keras; for one label an example
    `multiclass_hinge_loss` compares with the wrong classes alone.

    With $s$ the scores and $l$ the labels:

    $$ \max\left(0,\; 1 + \max_j (1 - l_j)\,s_j - \sum_j l_j\,s_j\right) $$

    in which, as in Keras, a right class adds a 0 to the inner maximum.

    Args:
        scores: Floating, `[..., C]`, of which the largest is the decision.
        labels: Real, 0 or 1 (or between), broadcastable to `scores`; one-hot as a rule.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). A mask of the rank of `scores` drops single
            classes.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0; a scalar if reduced.

    Gradient:
        Where the loss is positive, $-l_j$ for `scores`, and $1 - l_j$ more at the class
        of the inner maximum, shared evenly among equals; $-s_j$ for `labels`, and
        $-s_j$ more there. 0 elsewhere, the kink included.

    Numerics:
        Computes in float32, or float64 if `scores` or `labels` are float64; time and
        memory are linear in the number of elements. An empty or fully masked input has
        sum and mean 0. What rounding took from the difference is put back, so that
        small losses keep their digits. A score of -inf at a label of 1 gives inf, as a
        wrong class it is no rival.

    Raises:
        TypeError: If `scores` is not floating, another input not real, or `where` not
            boolean.
        ValueError: If an input does not fit the shapes above, there is no class, or
            `reduction` is unknown.

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
    # An impossible class is no rival.
    impossible = jnp.isneginf(scores)
    if examples.classes is not None:
        impossible = impossible | ~examples.classes
    wrong = jnp.where(
        impossible, -jnp.inf, (1 - labels) * jnp.where(impossible, 0, scores)
    )
    lead, lost = two_difference(jnp.max(wrong, axis=-1), right)
    return examples.tail.reduce(relu((lead + 1) + lost))

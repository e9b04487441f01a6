"""Multiclass margin losses on scores, and the Fenchel-Young losses."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxloss._core import checks
from jaxloss._core.classes import (
    class_weight_array,
    drop,
    integer_arguments,
    mask_classes,
    weight_of,
)
from jaxloss._core.mesh import whole
from jaxloss._core.numerics import product, relu, softplus, two_difference
from jaxloss._core.reduction import Reduction, reduce_loss
from jaxloss._core.softmax import at_label, is_class, pick, widen


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
    scores, labels, _, keep, weights = _scores(
        scores, labels, where, weights, reduction
    )
    lead, lost = _lead(scores, labels)
    return reduce_loss(relu((lead + 1) + lost), keep, weights, reduction)


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
    scores, labels, _, keep, weights = _scores(
        scores, labels, where, weights, reduction
    )
    lead, _ = _lead(scores, labels)
    return reduce_loss(relu(lead), keep, weights, reduction)


def _lead(scores, labels):
    """How far the best wrong class is ahead of the label, and the rounding lost."""
    hit = at_label(scores, labels, scores.ndim - 1)
    rival = jnp.max(jnp.where(hit, -jnp.inf, scores), axis=-1)
    own = _own(scores, labels)
    # Where the rival is impossible, so is the lead, whatever the label's own score.
    beaten = jnp.isneginf(rival)
    lead, lost = two_difference(jnp.where(beaten, 0, rival), jnp.where(beaten, 0, own))
    return jnp.where(beaten & ~jnp.isnan(own), -jnp.inf, lead), lost


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
    scores, labels, _, keep, weights = _scores(
        scores, labels, where, weights, reduction
    )
    return reduce_loss(_sparsemax(scores, labels), keep, weights, reduction)


# With p the projection of the scores s on the simplex, p_j = max(s_j - τ, 0), and e the
# label's corner, Σ p_j = 1 turns the definition (max_q <q, s> - |q|²/2) - (s_y - 1/2)
# into a sum without cancellation,
#     f = |p - e|²/2 + max(τ - s_y, 0),   p_y - 1 = -Σ_{j != y} p_j,
# whose gradient is p - e: τ moves with the mean of the scores in the support.
def _sparsemax(scores, labels):
    scores = whole(scores, -1)
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    scores = scores - jnp.where(jnp.isneginf(top), 0, top)
    support = _support(jax.lax.stop_gradient(scores)) & ~jnp.isneginf(scores)
    size = jnp.sum(support, axis=-1, keepdims=True, dtype=scores.dtype)
    inside = jnp.where(support, scores, 0)
    tau = (jnp.sum(inside, axis=-1, keepdims=True) - 1) / jnp.maximum(size, 1)
    wrong = support & ~at_label(scores, labels, scores.ndim - 1)
    rest = jnp.where(wrong, inside - tau, 0)
    miss = jnp.sum(rest, axis=-1)
    gap = relu(jnp.squeeze(tau, -1) - _own(scores, labels))
    return 0.5 * (jnp.sum(rest * rest, axis=-1) + miss * miss) + gap


def _support(scores):
    """The classes to which the projection on the simplex gives mass."""
    ranked = jnp.flip(jnp.sort(scores, axis=-1), axis=-1)
    ranks = jnp.arange(1, scores.shape[-1] + 1, dtype=scores.dtype)
    ranks = ranks.reshape((1,) * (scores.ndim - 1) + (-1,))
    within = 1 + ranks * ranked > jnp.cumsum(ranked, axis=-1)
    size = jnp.sum(within, axis=-1, keepdims=True)
    return scores >= jnp.take_along_axis(ranked, jnp.maximum(size - 1, 0), axis=-1)


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
    scores, labels, classes, keep, weights = _scores(
        scores, labels, where, weights, reduction
    )
    margin = checks.scalar("margin", margin, scores.dtype)
    own = jnp.expand_dims(_own(scores, labels), -1)
    # An impossible class is no rival.
    rival = ~at_label(scores, labels, scores.ndim - 1) & ~jnp.isneginf(scores)
    lead, lost = two_difference(jnp.where(rival, scores, 0), jnp.where(rival, own, 0))
    excess = jnp.where(rival, relu((lead + margin) + lost), 0)
    loss = jnp.sum(excess**p, axis=-1) / _count(classes, scores)
    loss = jnp.where(jnp.isnan(jnp.squeeze(own, -1)), jnp.nan, loss)
    if class_weights is not None:
        scale = class_weight_array(
            class_weights, scores, (scores.ndim - 1,), scores.dtype
        )
        loss = product(weight_of(scale, labels), loss)
    return reduce_loss(loss, keep, weights, reduction)


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
    scores, labels, classes, keep, weights = _dense(
        scores, labels, where, weights, reduction
    )
    right = jnp.sum(product(labels, scores), axis=-1)
    # An impossible class is no rival.
    impossible = jnp.isneginf(scores)
    if classes is not None:
        impossible = impossible | ~classes
    wrong = jnp.where(
        impossible, -jnp.inf, (1 - labels) * jnp.where(impossible, 0, scores)
    )
    lead, lost = two_difference(jnp.max(wrong, axis=-1), right)
    return reduce_loss(relu((lead + 1) + lost), keep, weights, reduction)


def multilabel_margin_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the mean violation of the margin between named and other classes.

    Choose it where each example names a few classes that should outrank all others;
    `multilabel_soft_margin_loss` decides on each class by itself.

    With $s$ the scores and $Y$ the classes that the labels name:

    $$ \frac{1}{C} \sum_{i \in Y} \sum_{j \notin Y} \max(0,\; 1 - (s_i - s_j)) $$

    Args:
        scores: Floating, `[..., C]`; larger means more likely.
        labels: Integer, `[..., L]`, class indices in [0, C), ended by the first -1:
            what follows it is not read.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). A mask of the rank of `scores` drops single
            classes.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0; a scalar if reduced.

    Gradient:
        For each pair with a positive violation, $-1 / C$ for `scores` at the named
        class and $1 / C$ at the other, 0 at the kink as in PyTorch. `labels` receive
        none.

    Numerics:
        Computes in float32, or float64 if `scores` are float64; time is of the order of
        L C for an example. An empty or fully masked input has sum and mean 0. A score
        of -inf is no rival. A label outside [0, C) before the first -1 gives NaN, and
        raises under `checkify`.

    Raises:
        TypeError: If `scores` is not floating, `labels` is not integer, another input
            not real, or `where` not boolean.
        ValueError: If an input does not fit the shapes above, there is no class, or
            `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.multilabel_margin_loss([0.5, 1.0, 0.0, 0.25], [1, 0, -1, -1]))
        0.375

    References:
        PyTorch, "torch.nn.MultiLabelMarginLoss",
        https://docs.pytorch.org/docs/stable/generated/torch.nn.MultiLabelMarginLoss.html
    """
    scores, (axis,) = checks.class_array("scores", scores, -1)
    labels = checks.integer_array("labels", labels)
    batch = scores.shape[:-1]
    if labels.ndim != scores.ndim or labels.shape[:-1] != batch:
        raise ValueError(
            f"`labels` must have shape {(*batch, 'L')}, a row of class indices padded "
            f"with -1 for each row of `scores`, got shape {labels.shape}."
        )
    dtype = checks.compute_dtype(scores)
    scores, classes, keep, weights = mask_classes(
        scores, (axis,), where, weights, reduction, dtype
    )
    scores = whole(widen(scores), -1)
    if keep is not None:
        labels = jnp.where(jnp.expand_dims(keep, -1), labels, -1)
    named = jnp.cumsum(labels == -1, axis=-1) == 0  # up to the first -1
    known = (labels >= 0) & (labels < scores.shape[-1])
    checks.check_values(
        "labels", known | ~named, f"in [0, {scores.shape[-1]}), padded with -1"
    )
    index = jnp.clip(labels, 0, scores.shape[-1] - 1)
    own = jnp.take_along_axis(scores, index, axis=-1)
    each = jnp.arange(scores.shape[-1], dtype=index.dtype)
    each = each.reshape((1,) * scores.ndim + (-1,))
    hit = (jnp.expand_dims(index, -1) == each) & jnp.expand_dims(named, -1)
    target = jnp.any(hit, axis=-2)
    # Every named class against every class not named: [..., L, C], which the compiler
    # sums without writing it.
    other = jnp.expand_dims(~target & ~jnp.isneginf(scores), -2)
    pair = other & jnp.expand_dims(named, -1)
    lead, lost = two_difference(
        jnp.where(pair, jnp.expand_dims(scores, -2), 0),
        jnp.where(pair, jnp.expand_dims(own, -1), 0),
    )
    excess = jnp.where(pair, relu((lead + 1) + lost), 0)
    loss = jnp.sum(excess, axis=(-2, -1)) / _count(classes, scores)
    loss = jnp.where(jnp.all(known | ~named, axis=-1), loss, jnp.nan)
    return reduce_loss(loss, keep, weights, reduction)


def multilabel_soft_margin_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    class_weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the mean over the classes of their binary cross entropies.

    Choose it for several independent labels an example, averaged as PyTorch does;
    `sigmoid_binary_cross_entropy` keeps one loss for each.

    With $x$ the logits, $l$ the labels and $w$ the `class_weights`:

    $$
    \frac{1}{C} \sum_j w_j \left( l_j \log(1 + e^{-x_j})
    + (1 - l_j) \log(1 + e^{x_j}) \right)
    $$

    Args:
        logits: Floating, `[..., C]`, log-odds of each class.
        labels: Real, 0, 1 or a probability between them, broadcastable to `logits`.
        class_weights: Real, `[C]`, what each class counts for. None counts each 1.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). A mask of the rank of `logits` drops single
            classes.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, in nats, at least 0 for labels in [0, 1]; a scalar if reduced.

    Gradient:
        $w_j\,(1 / (1 + e^{-x_j}) - l_j) / C$ for `logits`, $-w_j\,x_j / C$ for
        `labels`; `class_weights` receive theirs, all smooth.

    Numerics:
        Computes in float32, or float64 if `logits` or `labels` are float64; time and
        memory are linear in the number of elements. An empty or fully masked input has
        sum and mean 0. No exponential overflows, and small losses keep their digits. A
        logit of inf or -inf costs 0 where the label agrees, else inf.

    Raises:
        TypeError: If `logits` is not floating, another input not real, or `where` not
            boolean.
        ValueError: If an input does not fit the shapes above, there is no class, or
            `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> print(f"{jl.multilabel_soft_margin_loss([0.0, 2.0, -1.0], [1, 1, 0]):.4f}")
        0.3778

    References:
        PyTorch, "torch.nn.MultiLabelSoftMarginLoss",
        https://docs.pytorch.org/docs/stable/generated/torch.nn.MultiLabelSoftMarginLoss.html
    """
    logits, labels, classes, keep, weights = _dense(
        logits, labels, where, weights, reduction, "logits"
    )
    each = product(labels, softplus(-logits)) + product(1 - labels, softplus(logits))
    if class_weights is not None:
        scale = class_weight_array(
            class_weights, logits, (logits.ndim - 1,), logits.dtype
        )
        each = product(scale, each)
    if classes is not None:
        each = jnp.where(classes, each, 0)
    loss = jnp.sum(each, axis=-1) / _count(classes, logits)
    return reduce_loss(loss, keep, weights, reduction)


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
        return maximum - jnp.sum(product(targets, scores), axis=-1)

    return fenchel_young_loss


def _scores(scores, labels, where, weights, reduction):
    """Scores in float32 or wider and class labels, checked and masked."""
    scores, (axis,) = checks.class_array("scores", scores, -1)
    scores, labels, classes, keep, weights, _ = integer_arguments(
        "scores", scores, labels, axis, where, weights, reduction, None
    )
    return widen(scores), labels, classes, keep, weights


def _dense(scores, labels, where, weights, reduction, name="scores"):
    """Scores and dense labels of one shape and dtype, checked and masked."""
    scores, (axis,) = checks.class_array(name, scores, -1)
    labels = checks.to_array("labels", labels)
    checks.check_broadcast("labels", labels.shape, name, scores.shape)
    dtype = checks.compute_dtype(scores, labels)
    labels = jnp.broadcast_to(labels.astype(dtype), scores.shape)
    scores, classes, keep, weights = mask_classes(
        scores, (axis,), where, weights, reduction, dtype
    )
    labels = drop(labels, classes, keep, (axis,))
    return scores.astype(dtype), labels, classes, keep, weights


def _own(scores, labels):
    """The label's score, NaN for a label that is no class."""
    own = pick(scores, labels, axis=scores.ndim - 1)
    return jnp.where(is_class(scores, labels, scores.ndim - 1), own, jnp.nan)


def _count(classes, scores):
    """How many classes count for each example."""
    if classes is None:
        return scores.shape[-1]
    return jnp.maximum(jnp.sum(classes, axis=-1), 1).astype(scores.dtype)

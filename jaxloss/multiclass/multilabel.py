"""Losses of several labels per example."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.classes import class_weight_array, mask_classes
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.devices import whole
from jaxloss._core.numerics.exact import two_difference, zero_safe_product
from jaxloss._core.numerics.functions import relu, softplus
from jaxloss._core.numerics.probability import sigmoid
from jaxloss._core.rule.analytic import pointwise
from jaxloss._core.softmax import widen
from jaxloss.multiclass._labels import dense_arguments
from jaxloss.multiclass._scores import count_classes


@public()
def multilabel_margin_loss(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Multilabel margin loss: each named class should outrank every other class by 1.

    Choose it where each example names a few classes that should outrank all others;
    `multilabel_soft_margin_loss` decides on each class separately.

    With $s$ the scores and $Y$ the classes that the labels name:

    $$ \frac{1}{C} \sum_{i \in Y} \sum_{j \notin Y} \max(0,\; 1 - (s_i - s_j)) $$

    PyTorch: `nn.MultiLabelMarginLoss`.

    Args:
        scores: Floating, `[..., C]`; larger means more likely.
        labels: Integer, `[..., L]`, class indices in [0, C). The first -1 ends the
            list; the entries after it are ignored.
        where: Boolean mask; False entries are excluded. A mask of the rank of `scores`
            excludes single classes.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0; a scalar if reduced.

    Gradient:
        Each pair with a positive violation adds $-1 / C$ for `scores` at the named
        class and $1 / C$ at the other; 0 at the kink, as in PyTorch.

    Numerics:
        Time and memory are of order $L\,C$ per example.

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
    scores, examples = mask_classes(
        scores, (axis,), where, weights, reduction, dtype, name="scores"
    )
    scores = whole(widen(scores), -1)
    classes, keep = examples.classes, examples.tail.keep
    if keep is not None:
        labels = jnp.where(jnp.expand_dims(keep, -1), labels, -1)
    named = jnp.cumsum(labels == -1, axis=-1) == 0  # up to the first -1
    known = (labels >= 0) & (labels < scores.shape[-1])
    valid = jnp.all(known | ~named, axis=-1)
    labels = checks.check_values(
        "labels",
        labels,
        examples.tail.counts(valid),
        f"in [0, {scores.shape[-1]}), padded with -1",
    )
    index = jnp.clip(labels, 0, scores.shape[-1] - 1)
    own = jnp.take_along_axis(scores, index, axis=-1)
    each = jnp.arange(scores.shape[-1], dtype=index.dtype)
    each = each.reshape((1,) * scores.ndim + (-1,))
    hit = (jnp.expand_dims(index, -1) == each) & jnp.expand_dims(named, -1)
    target = jnp.any(hit, axis=-2)
    # The pairs of a named and another class have shape [..., L, C]. XLA for CPU
    # materialises one float array of this shape for the value, two for the gradient.
    other = jnp.expand_dims(~target & ~jnp.isneginf(scores), -2)
    pair = other & jnp.expand_dims(named, -1)
    lead, rounding = two_difference(
        jnp.where(pair, jnp.expand_dims(scores, -2), 0),
        jnp.where(pair, jnp.expand_dims(own, -1), 0),
    )
    excess = jnp.where(pair, relu((lead + 1) + rounding), 0)
    count = count_classes(classes, scores)
    count = count if classes is None else jnp.expand_dims(count, -1)
    loss = jnp.sum(excess / count, axis=(-2, -1))
    loss = jnp.where(valid, loss, jnp.nan)
    return examples.tail.reduce(loss)


@public()
def multilabel_soft_margin_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    class_weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Multilabel soft margin loss: the mean binary cross entropy over the classes.

    Choose it for several independent labels per example, averaged as in PyTorch;
    `sigmoid_binary_cross_entropy` keeps one loss per label.

    With $x$ the logits, $l$ the labels and $w$ the `class_weights`:

    $$
    \frac{1}{C} \sum_j w_j \left( l_j \log(1 + e^{-x_j})
    + (1 - l_j) \log(1 + e^{x_j}) \right)
    $$

    PyTorch: `nn.MultiLabelSoftMarginLoss`.

    Args:
        logits: Floating, `[..., C]`, the log-odds of each class.
        labels: Real, in [0, 1], broadcastable to `logits`; usually 0 or 1.
        class_weights: Real, `[C]`, a factor per class; None means 1.
        where: Boolean mask; False entries are excluded. A mask of the rank of `logits`
            excludes single classes.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, at least 0 for labels in [0, 1]; a scalar if reduced.

    Gradient:
        $w_j\,(1 / (1 + e^{-x_j}) - l_j) / C$ for `logits` and $-w_j\,x_j / C$ for
        `labels`. Smooth, also in `class_weights`.

    Numerics:
        A logit of inf or -inf costs 0 where the label agrees, otherwise inf.

    Example:
        >>> import jaxloss as jl
        >>> print(f"{jl.multilabel_soft_margin_loss([0.0, 2.0, -1.0], [1, 1, 0]):.4f}")
        0.3778

    References:
        PyTorch, "torch.nn.MultiLabelSoftMarginLoss",
        https://docs.pytorch.org/docs/stable/generated/torch.nn.MultiLabelSoftMarginLoss.html
    """
    logits, labels, examples = dense_arguments(
        logits, labels, -1, where, weights, reduction
    )
    logits = logits.astype(labels.dtype)
    each = _binary_cross_entropy(logits, labels)
    if class_weights is not None:
        scale = class_weight_array(class_weights, logits, examples)
        each = zero_safe_product(examples.share(scale, logits), each)
    if examples.classes is not None:
        each = jnp.where(examples.classes, each, 0)
    loss = jnp.sum(each / count_classes(examples.classes, logits), axis=-1)
    return examples.tail.reduce(loss)


# f = t softplus(-x) + (1 - t) softplus(x), with the slope sigmoid(x) - t by x and
# softplus(-x) - softplus(x) = -x by t. JAX's own derivative by t is that difference,
# which loses the digits of an x near 0. A product 0 · inf is 0, in the slope too.
@pointwise
def _binary_cross_entropy(x, t):
    rest = 1 - t
    loss = zero_safe_product(t, softplus(-x)) + zero_safe_product(rest, softplus(x))
    # Neither term has the rounding of sigmoid(x) next to 1.
    slope = rest * sigmoid(x) - t * sigmoid(-x)
    return loss, (slope, jnp.where(jnp.isinf(x) & (loss == 0), 0, -x))

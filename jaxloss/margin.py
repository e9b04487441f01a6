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
    top = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    scores = scores - jnp.where(jnp.isneginf(top), 0, top)
    support = _support(jax.lax.stop_gradient(scores)) & ~jnp.isneginf(scores)
    size = jnp.sum(support, axis=-1, keepdims=True)
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
    scores, labels, classes, keep, weights = _dense(
        scores, labels, where, weights, reduction
    )
    right = jnp.sum(product(labels, scores), axis=-1)
    wrong = product(1 - labels, scores)
    if classes is not None:
        wrong = jnp.where(classes, wrong, -jnp.inf)
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
    scores = widen(scores)
    if keep is not None:
        labels = jnp.where(jnp.expand_dims(keep, -1), labels, -1)
    named = jnp.cumsum(labels == -1, axis=-1) == 0  # up to the first -1
    known = (labels >= 0) & (labels < scores.shape[-1])
    checks.check_values(
        "labels", known | ~named, f"in [0, {scores.shape[-1]}), padded with -1"
    )
    index = jnp.clip(labels, 0, scores.shape[-1] - 1)
    own = jnp.take_along_axis(scores, index, axis=-1)
    each = jnp.arange(scores.shape[-1]).reshape((1,) * scores.ndim + (-1,))
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

"""Contrastive losses: every example against the rest of its batch."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import Precision, stop_gradient

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import above
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.devices import automatic_devices
from jaxloss._core.numerics.exact import difference_from_own
from jaxloss._core.numerics.functions import softplus
from jaxloss._core.numerics.probability import sigmoid
from jaxloss._core.rule.analytic import analytic
from jaxloss._core.softmax import to_subtract
from jaxloss._core.sweeps.linear import LARGE, Rule, map_rows_to_any
from jaxloss._core.sweeps.operands import Operands, Options
from jaxloss._core.sweeps.reduction import reduced, share_of_mean, weighted_losses
from jaxloss.embedding._vectors import clamp, unit_vector


@public(temperature=above(0))
def ntxent(
    embeddings: ArrayLike,
    labels: ArrayLike,
    temperature: ArrayLike = 0.07,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    r"""NT-Xent: normalized temperature-scaled cross entropy of all pairs in a batch.

    Choose it over `triplet_margin_loss` where every other example of the batch should
    serve as a negative, as in SimCLR.

    With $s_{ij}$ the cosine of embeddings $i$ and $j$ over the temperature, for each
    ordered pair of the same label, and $N(i)$ the examples of another label:

    $$ -\log \frac{e^{s_{ij}}}{e^{s_{ij}} + \sum_{k \in N(i)} e^{s_{ik}}} $$

    Also known as SimCLR's loss.

    Args:
        embeddings: Floating, `[N, D]`, in any unit: only their directions matter.
        labels: Integer, `[N]`, equal for examples that belong together.
        temperature: Scalar above 0 that divides the cosines. 0.07 as in optax.
        where: Boolean mask; False entries are excluded. An excluded example is also in
            no pair of another example.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted). The loss of an example is the sum
            over its pairs; "mean", the default as in optax, averages over all pairs.

    Returns:
        A scalar; `[N]`, at least 0, for the reduction "none". Without any pair the mean
        is 0.

    Gradient:
        With $p$ the softmax of each pair over its positive and the negatives, $p_j - 1$
        for the positive $s_{ij}$ and $p_k$ for each negative $s_{ik}$; from there
        through the cosines to `embeddings` and `temperature`. A zero vector has cosine
        0 with every vector, and gradient 0.

    Numerics:
        The matrix products have full precision on every backend. Memory is that of the
        gradient and of the scores of a block of examples against all N: at most 256
        examples on CPU, and 64 MiB of scores on TPU and GPU. "sum" and "mean" compute
        the gradient together with the value; for "none" the backward pass computes the
        scores again.

    Example:
        >>> import jaxloss as jl
        >>> embeddings = [[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]]
        >>> print(jl.ntxent(embeddings, [0, 0, 1, 1], 0.5))
        0.23954

    References:
        Ting Chen et al., "A Simple Framework for Contrastive Learning of Visual
        Representations", ICML 2020, https://arxiv.org/abs/2002.05709, equation 1
    """
    batch, tail = _examples(embeddings, labels, where, weights, reduction)
    temperature = checks.scalar("temperature", temperature, batch.x.dtype)
    # optax has a lower bound for the squared length, 1.2e-7 in float32, below which the
    # cosines shrink with the length. Here the length never counts.
    u, _ = unit_vector(batch.x, (1,))

    return _reduced(_ntxent_rows, batch, u, (temperature,), tail, per_pair=True)


def _ntxent_rows(scores, pairs, temperature):
    return _contrast(scores / temperature, *pairs, axis=1)


# The loss of a pair is -log(e^{s_ij} / (e^{s_ij} + Σ_k e^{s_ik})), k over the negatives
# of i. It is a softplus: with a_i = log Σ_k e^{s_ik} and h_ij = sigmoid(a_i - s_ij),
#     loss_i = Σ_j softplus(a_i - s_ij),
#     d loss_i / d s_ij = -h_ij at the positives j of i,
#     d loss_i / d s_ik = (Σ_j h_ij) e^{s_ik - a_i} at the negatives k of i.
# The rule writes the gradient in one pass over the scores; JAX's own differentiation
# would keep five arrays of their size as residuals.
def _contrast_forward(scores, same, other, *, axis):
    top, excess = _masked_log_sum_exp(scores, other, axis)
    gap, _ = difference_from_own(scores, top)
    loss = jnp.sum(jnp.where(same, softplus(excess - gap), 0), axis=axis)
    return loss, (scores, same, other, top, excess)


def _contrast_backward(residuals, cotangent, *, axis):
    scores, same, other, top, excess = residuals
    gap, _ = difference_from_own(scores, top)
    miss = jnp.where(same, sigmoid(excess - gap), 0)
    cotangent = jnp.expand_dims(cotangent, axis)
    push = cotangent * jnp.sum(miss, axis=axis, keepdims=True)
    share = jnp.exp(jnp.where(other, gap - excess, 0))
    return jnp.where(other, push * share, -cotangent * miss), None, None


_contrast = analytic(_contrast_forward, _contrast_backward)


@public()
def circle_loss(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    gamma: ArrayLike = 80.0,
    margin: ArrayLike = 0.4,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Circle loss: all pairs of a batch, each weighted by its distance from its goal.

    Choose it over `ntxent` where pairs far from their goal should have a larger
    gradient than pairs near it.

    With $d_{ij} = \max(0, 1 - \langle x_i, x_j \rangle)$, $P(i)$ the other examples of
    the same label, $N(i)$ the examples of another label, $m$ the margin and $\gamma$
    `gamma`:

    $$ \log\Big(1 + \sum_{j \in P(i)} e^{\gamma (m + d_{ij}) (d_{ij} - m)}
       \sum_{k \in N(i)} e^{\gamma \max(0, 1 + m - d_{ik}) (1 - m - d_{ik})}\Big) $$

    Keras: `Circle`.

    Args:
        embeddings: Floating, `[N, D]`, of unit length; as in Keras, the loss does not
            normalize them.
        labels: Integer, `[N]`, equal for examples that belong together.
        gamma: Scalar, the scale of the exponents. 80.0 as in Keras.
        margin: Scalar, the relaxation of the goals. 0.4 as in Keras.
        where: Boolean mask; False entries are excluded. An excluded example is also in
            no pair of another example.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[N]`, at least 0; a scalar if reduced. The loss of an example without a
        positive or without a negative is 0.

    Gradient:
        Each exponent has as gradient its share of its sum times $1 - e^{-\text{loss}}$;
        from there to `embeddings`, `gamma` and `margin`. As in Keras, the factors
        $m + d_{ij}$ and $\max(0, 1 + m - d_{ik})$ are differentiated too.

    Numerics:
        The matrix products have full precision on every backend. Memory is that of the
        gradient and of the scores of a block of examples against all N: at most 256
        examples on CPU, and 64 MiB of scores on TPU and GPU. "sum" and "mean" compute
        the gradient together with the value; for "none" the backward pass computes the
        scores again.

    Example:
        >>> import jaxloss as jl
        >>> embeddings = [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]
        >>> print(jl.circle_loss(embeddings, [0, 0, 1], gamma=1.0))
        [0.6163 0.9617 0.    ]

    References:
        Yifan Sun et al., "Circle Loss: A Unified Perspective of Pair Similarity
        Optimization", CVPR 2020, https://arxiv.org/abs/2002.10857, equation 6
    """
    batch, tail = _examples(embeddings, labels, where, weights, reduction)
    gamma = checks.scalar("gamma", gamma, batch.x.dtype)
    margin = checks.scalar("margin", margin, batch.x.dtype)

    return _reduced(_circle_rows, batch, batch.x, (gamma, margin), tail)


def _circle_rows(scores, pairs, gamma, margin):
    each = (jnp.broadcast_to(v, scores.shape[:1]) for v in (gamma, margin))
    return _circle(scores, *pairs, *each, axis=1)


# Let e_ij be the distance of a score from its goal: max(0, 1 - s_ij) for a pair of the
# same label, min(s_ij, 1) for a pair of different labels. Both kinds have the exponent
#     f_ij = γ max(0, m + e_ij) (e_ij - m) = γ (e_ij² - m²), or 0 where e_ij <= -m.
# With A_i and B_i the log-sum-exp of f_ij over the pairs of each kind, and
# h_i = sigmoid(A_i + B_i),
#     loss_i = softplus(A_i + B_i),
#     d loss_i / d f_ij = h_i e^{f_ij - A_i} (same label) or h_i e^{f_ij - B_i},
#     d f / d e = 2 γ e,    d f / d γ = e² - m²,    d f / d m = -2 γ m.
def _circle_forward(scores, same, other, gamma, margin, *, axis):
    exponents, _, _ = _circle_exponents(scores, same, gamma, margin, axis)
    positive = _masked_log_sum_exp(exponents, same, axis)
    negative = _masked_log_sum_exp(exponents, other, axis)
    total = sum(positive) + sum(negative)  # -inf where one of them is empty
    residuals = (scores, same, other, gamma, margin, positive, negative, total)
    return softplus(jnp.squeeze(total, axis)), residuals


def _circle_backward(residuals, cotangent, *, axis):
    scores, same, other, gamma, margin, positive, negative, total = residuals
    exponents, e, active = _circle_exponents(scores, same, gamma, margin, axis)
    top, excess = (
        jnp.where(same, p, n) for p, n in zip(positive, negative, strict=True)
    )
    gap, _ = difference_from_own(exponents, top)
    share = jnp.exp(jnp.where((same | other) & active, gap - excess, -jnp.inf))
    slope = (jnp.expand_dims(cotangent, axis) * sigmoid(total)) * share
    twice = 2 * jnp.expand_dims(gamma, axis)
    to_goal = jnp.where(scores > 1, 0, jnp.where(same, -twice, twice)) * e
    by_gamma = jnp.sum(slope * _excess_square(e, margin, axis), axis=axis)
    by_margin = (-2 * gamma * margin) * jnp.sum(slope, axis=axis)
    return slope * to_goal, None, None, by_gamma, by_margin


def _circle_exponents(scores, same, gamma, margin, axis):
    """The exponents f, the distances e, and where the exponent is active (e > -m)."""
    distance = jnp.where(same, clamp(1 - scores), jnp.where(scores > 1, 1, scores))
    active = distance > -jnp.expand_dims(margin, axis)
    e = jnp.where(active, distance, 0)
    exponents = jnp.expand_dims(gamma, axis) * _excess_square(e, margin, axis)
    return jnp.where(active, exponents, 0), e, active


def _excess_square(e, margin, axis):
    margin = jnp.expand_dims(margin, axis)
    return (e + margin) * (e - margin)


_circle = analytic(_circle_forward, _circle_backward)


def _masked_log_sum_exp(exponents, pairs, axis):
    """log Σ exp(exponents) over the selected pairs of each row, in two parts.

    Their sum is the logarithm. The first is the largest exponent, 0 without any; the
    second is at least 0, and -inf without any.
    """
    top = jnp.max(exponents, axis=axis, keepdims=True, initial=-jnp.inf, where=pairs)
    empty = jnp.isneginf(top)
    top = stop_gradient(to_subtract(top))
    gap, _ = difference_from_own(exponents, top)
    parts = jnp.exp(jnp.where(pairs, gap, -jnp.inf))
    total = jnp.sum(parts, axis=axis, keepdims=True)
    return top, jnp.where(empty, -jnp.inf, jnp.log(jnp.where(empty, 1, total)))


class _Facts(NamedTuple):
    """What decides which examples form a pair, [N]; of some rows or of the batch."""

    label: jax.Array
    keep: jax.Array | None
    index: jax.Array  # the position in the batch


class _Examples(NamedTuple):
    """The examples of a batch."""

    x: jax.Array  # [N, D]
    facts: _Facts


def _examples(embeddings, labels, where, weights, reduction):
    """Checks the arguments; returns the batch and its tail."""
    (x,) = checks.real_arrays(embeddings=embeddings)
    if x.ndim != 2:
        raise ValueError(f"`embeddings` must have shape [N, D], got shape {x.shape}.")
    labels = checks.integer_array("labels", labels)
    if labels.shape != x.shape[:1]:
        raise ValueError(
            f"`labels` must have one label per example, shape {x.shape[:1]}, "
            f"got shape {labels.shape}."
        )
    tail = checks.tail(where, weights, reduction, shape=labels.shape, dtype=x.dtype)
    tail = tail.spread(labels.shape)
    (x,) = tail.select(x, axes=1)
    return _Examples(x, _Facts(labels, tail.keep, jnp.arange(labels.shape[0]))), tail


def _pairs(rows, columns):
    """Masks of the pairs of equal and of different labels, without excluded pairs."""

    def each(relation, a, b):
        return relation(jnp.expand_dims(a, 1), jnp.expand_dims(b, 0))

    same = each(jnp.equal, rows.label, columns.label)
    other = ~same
    same = same & each(jnp.not_equal, rows.index, columns.index)
    if rows.keep is None:
        return same, other
    both = each(jnp.logical_and, rows.keep, columns.keep)
    return same & both, other & both


def _reduced(of_rows, batch, vectors, parameters, tail, *, per_pair=False):
    """The losses of rows of scores, weighted and reduced; `per_pair` is for the mean.

    The scores of some rows at a time are the outputs of a linear layer whose kernel is
    the batch itself, in the precision of the vectors on every backend: by default, TPUs
    would multiply float32 in bfloat16 and GPUs in TF32.
    """

    def losses(scores, _, shared, rows, *__):
        parameters, columns = shared
        return of_rows(scores, _pairs(rows, columns), *parameters)

    def counts(scores, _, shared, rows, *__):
        same, _ = _pairs(rows, shared[1])
        return jnp.sum(same, axis=1, dtype=scores.dtype)

    facts, n = batch.facts, vectors.shape[0]
    operands = Operands(vectors, vectors, shared=(parameters, facts))
    options = _in_blocks(vectors)
    pairs = None
    if per_pair and tail.reduction == "mean":
        pairs = map_rows_to_any(counts, operands, facts, tail.keep, options)
    share, counted = share_of_mean(tail, pairs, (n,), vectors.dtype)
    loss = weighted_losses(Rule(losses), operands, facts, tail, options, share)
    return reduced(loss, counted)


# On CPU a block of scores should stay in the cache, and XLA materialises three arrays
# of its size for either loss, one per sum over the columns with a computed summand. Two
# cores took for value and gradient of `ntxent` at D = 128, N = 4096 in blocks of 128,
# 256, 512 and 2,048 rows 266, 290, 347 and 466 ms. TPU and GPU read and write all
# vectors once per block, and so have a single one as long as its memory is harmless.
_BLOCKS, _MIN_ROWS, _MAX_ROWS = 8, 64, 256


def _in_blocks(vectors):
    """The scores of at most an eighth of the rows at once, and of at most `_MAX_ROWS`.

    On TPU and GPU of as many rows as need `LARGE` bytes on each device. A batch whose
    size is not known when the function is traced is one block.
    """
    n, elsewhere = vectors.shape[0], None
    rows = n
    if isinstance(n, int):
        rows = min(max(math.ceil(n / _BLOCKS), _MIN_ROWS), _MAX_ROWS)
        each = max(n, 1) * vectors.dtype.itemsize
        elsewhere = max(LARGE // each * automatic_devices(vectors), rows)
    return Options(rows, precision=Precision.HIGHEST, class_axis=0, elsewhere=elsewhere)

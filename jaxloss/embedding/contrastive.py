"""Losses over all pairs of a batch."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.typing import ArrayLike

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import above
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.devices import is_split, whole
from jaxloss._core.numerics.functions import softplus
from jaxloss._core.numerics.probability import sigmoid
from jaxloss._core.rule.analytic import analytic
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
    r"""Returns the normalized temperature-scaled cross entropy of a batch (NT-Xent).

    Choose it over `triplet_margin_loss` where every other example of the batch should
    serve as a negative: SimCLR and its kin.

    With $s_{ij}$ the cosine of embeddings $i$ and $j$ over the temperature, for each
    ordered pair of the same label, and $N(i)$ the examples of another label:

    $$ -\log \frac{e^{s_{ij}}}{e^{s_{ij}} + \sum_{k \in N(i)} e^{s_{ik}}} $$

    Args:
        embeddings: Floating, `[N, D]`, in any unit: their length does not count.
        labels: Integer, `[N]`, equal for examples that belong together.
        temperature: A scalar above 0 that scales the cosines. 0.07 as in optax.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). A masked example is no negative either.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]). The loss of an example is
            the sum over its pairs, and the mean, the default as in optax, is that over
            all pairs.

    Returns:
        A scalar; `[N]`, at least 0, for the reduction "none".

    Gradient:
        Each pair's softmax of the positive against the negatives, less one at the
        positive, through the cosines to `embeddings`, and to `temperature`. A zero
        vector has gradient 0.

    Numerics:
        Computes in float32, or float64 if the embeddings are float64, the products in
        full precision on every backend; memory is less than that of one `[N, N]`
        matrix, which is never built whole. A pair is a softplus, so that a small loss
        keeps its digits. Without a pair the mean is 0 with a zero gradient.

    Raises:
        TypeError: If `embeddings` is not floating, `labels` is not integer, or `where`
            not boolean.
        ValueError: If an input does not fit the shapes above, `temperature` is not
            positive, or `reduction` is unknown.

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
    floor = jnp.finfo(batch.x.dtype).eps  # of the squared norm, as optax's
    u, _ = unit_vector(batch.x, jnp.asarray(floor, batch.x.dtype), (1,))

    def against_all(rows, columns):
        same, other = _pairs(rows, columns)
        scores = _products(rows.x, columns.x) / temperature
        loss = _contrast(scores, same, other, axis=1)
        return loss, jnp.sum(same, axis=1, dtype=scores.dtype)

    loss, pairs = _by_rows(against_all, batch._replace(x=u))
    return tail.reduce(loss, pairs)


# A pair's -log(e^{s_ij} / (e^{s_ij} + Σ_k e^{s_ik})), k over the negatives of i, is a
# softplus: with a_i = log Σ_k e^{s_ik} and h_ij = sigmoid(a_i - s_ij),
#     loss_i = Σ_j softplus(a_i - s_ij),
#     d loss_i / d s_ij = -h_ij at its positives j,
#     d loss_i / d s_ik = (Σ_j h_ij) e^{s_ik - a_i} at its negatives k.
# The rule writes the gradient in one pass over the scores, where plain differentiation
# keeps five arrays of their size.
def _contrast_forward(scores, same, other, *, axis):
    against = _log_total(scores, other, axis)
    loss = jnp.sum(jnp.where(same, softplus(against - scores), 0), axis=axis)
    return loss, (scores, same, other, against)


def _contrast_backward(residuals, cotangent, *, axis):
    scores, same, other, against = residuals
    miss = jnp.where(same, sigmoid(against - scores), 0)
    cotangent = jnp.expand_dims(cotangent, axis)
    push = cotangent * jnp.sum(miss, axis=axis, keepdims=True)
    share = jnp.exp(jnp.where(other, scores - against, 0))
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
    r"""Returns the circle loss of each example against the rest of its batch.

    Choose it over `ntxent` where pairs far from their goal should pull harder than
    those near it.

    With $d_{ij} = \max(0, 1 - \langle x_i, x_j \rangle)$, $P(i)$ the other examples of
    the same label, $N(i)$ those of another, $m$ the margin and $\gamma$ gamma:

    $$ \log\Big(1 + \sum_{j \in P(i)} e^{\gamma (m + d_{ij}) (d_{ij} - m)}
       \sum_{k \in N(i)} e^{\gamma \max(0, 1 + m - d_{ik}) (1 - m - d_{ik})}\Big) $$

    Args:
        embeddings: Floating, `[N, D]`, of unit length: they are not normalized here, as
            in Keras.
        labels: Integer, `[N]`, equal for examples that belong together.
        gamma: A scalar, the scale of the exponents. 80.0 as in Keras.
        margin: A scalar, the relaxation of the goals. 0.4 as in Keras.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). A masked example is in no pair either.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[N]`, at least 0; a scalar if reduced.

    Gradient:
        That of the two softmaxes over the pairs, times the sigmoid of the loss's
        exponent, for `embeddings`, `gamma` and `margin`; the weights in the exponents
        are differentiated too, as in Keras.

    Numerics:
        Computes in float32, or float64 if the embeddings are float64, the products in
        full precision on every backend; memory is less than that of one `[N, N]`
        matrix, which is never built whole. An example without a positive or without a
        negative has loss 0 with a zero gradient. An empty or fully masked input has sum
        and mean 0.

    Raises:
        TypeError: If `embeddings` is not floating, `labels` is not integer, or `where`
            not boolean.
        ValueError: If an input does not fit the shapes above or `reduction` is unknown.

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

    def against_all(rows, columns):
        shared = (checks.broadcast_to(v, rows.label) for v in (gamma, margin))
        scores = _products(rows.x, columns.x)
        return _circle(scores, *_pairs(rows, columns), *shared, axis=1)

    loss = _by_rows(against_all, batch)
    return tail.reduce(loss)


# With e_ij what a pair lacks to its goal, 1 - s_ij and at least 0 for one of the same
# label and s_ij and at most 1 for one of different labels, both kinds have the exponent
#     f_ij = γ max(0, m + e_ij) (e_ij - m) = γ (e_ij² - m²) or 0,
# and with A_i and B_i the logarithms of their sums of e^f and h_i = sigmoid(A_i + B_i),
#     loss_i = softplus(A_i + B_i),
#     d loss_i / d f_ij = h_i e^{f_ij - A_i}, or B_i for A_i,
#     d f / d e = 2 γ e,    d f / d γ = e² - m²,    d f / d m = -2 γ m.
def _circle_forward(scores, same, other, gamma, margin, *, axis):
    powers, _, _ = _circle_powers(scores, same, gamma, margin, axis)
    positive = _log_total(powers, same, axis)
    negative = _log_total(powers, other, axis)
    lone = jnp.isneginf(positive) | jnp.isneginf(negative)
    total = jnp.where(lone, -jnp.inf, positive + negative)
    residuals = (scores, same, other, gamma, margin, positive, negative, total)
    return softplus(jnp.squeeze(total, axis)), residuals


def _circle_backward(residuals, cotangent, *, axis):
    scores, same, other, gamma, margin, positive, negative, total = residuals
    powers, e, active = _circle_powers(scores, same, gamma, margin, axis)
    level = jnp.where(same, positive, negative)
    share = jnp.exp(jnp.where((same | other) & active, powers - level, -jnp.inf))
    slope = (jnp.expand_dims(cotangent, axis) * sigmoid(total)) * share
    twice = 2 * jnp.expand_dims(gamma, axis)
    to_goal = jnp.where(scores > 1, 0, jnp.where(same, -twice, twice)) * e
    by_gamma = jnp.sum(slope * _excess_square(e, margin, axis), axis=axis)
    by_margin = (-2 * gamma * margin) * jnp.sum(slope, axis=axis)
    return slope * to_goal, None, None, by_gamma, by_margin


def _circle_powers(scores, same, gamma, margin, axis):
    """The exponents, what each pair lacks, and whether it is pulled or pushed."""
    lacks = jnp.where(same, clamp(1 - scores), jnp.where(scores > 1, 1, scores))
    active = lacks > -jnp.expand_dims(margin, axis)
    e = jnp.where(active, lacks, 0)
    powers = jnp.expand_dims(gamma, axis) * _excess_square(e, margin, axis)
    return jnp.where(active, powers, 0), e, active


def _excess_square(e, margin, axis):
    margin = jnp.expand_dims(margin, axis)
    return (e + margin) * (e - margin)


_circle = analytic(_circle_forward, _circle_backward)


def _log_total(powers, pairs, axis):
    """log Σ exp(powers) over the pairs of each row, -inf without one."""
    top = jnp.max(powers, axis=axis, keepdims=True, initial=-jnp.inf, where=pairs)
    lone = jnp.isneginf(top)
    top = stop_gradient(jnp.where(lone, 0, top))
    parts = jnp.exp(jnp.where(pairs, powers - top, -jnp.inf))
    total = jnp.sum(parts, axis=axis, keepdims=True)
    return jnp.where(lone, -jnp.inf, top + jnp.log(jnp.where(lone, 1, total)))


class _Examples(NamedTuple):
    """Some examples of a batch."""

    x: jax.Array  # [N, D]
    label: jax.Array  # [N]
    keep: jax.Array | None  # [N]
    index: jax.Array  # [N], in the batch


def _examples(embeddings, labels, where, weights, reduction):
    """The batch and its tail, checked."""
    (x,) = checks.real_arrays(embeddings=embeddings)
    if x.ndim != 2:
        raise ValueError(f"`embeddings` must have shape [N, D], got shape {x.shape}.")
    labels = checks.integer_array("labels", labels)
    if labels.shape != x.shape[:1]:
        raise ValueError(
            f"`labels` must have one label an example, shape {x.shape[:1]}, "
            f"got shape {labels.shape}."
        )
    tail = checks.tail(where, weights, reduction, shape=labels.shape, dtype=x.dtype)
    tail = tail.spread(labels.shape)
    (x,) = tail.select(x, axes=1)
    return _Examples(x, labels, tail.keep, jnp.arange(len(labels))), tail


def _pairs(rows, columns):
    """Which pairs are of the same and of different labels; a masked one is neither."""

    def each(relation, a, b):
        return relation(jnp.expand_dims(a, 1), jnp.expand_dims(b, 0))

    same = each(jnp.equal, rows.label, columns.label)
    other = ~same
    same = same & each(jnp.not_equal, rows.index, columns.index)
    if rows.keep is None:
        return same, other
    both = each(jnp.logical_and, rows.keep, columns.keep)
    return same & both, other & both


def _products(x, y):
    """All inner products, in the precision of the arguments on every backend."""
    return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


# With the scores of all pairs at once XLA on CPU writes three [N, N] arrays for either
# loss, one for each sum over the columns that reads more than a matrix.
_BLOCKS, _LEAST_ROWS = 8, 64


def _by_rows(loss, batch):
    """loss(rows, columns) of every example against the batch, by blocks of rows.

    No [N, N] matrix is there at any time, but an eighth: each block's scores go before
    the next one's come, and the gradient computes them again, which makes four products
    of matrices out of three.
    """
    # On an explicit mesh each device has its own rows, and all columns.
    columns = jax.tree.map(lambda a: whole(a, 0), batch)
    each = jax.checkpoint(lambda rows: loss(rows, columns), prevent_cse=False)
    n = len(batch.label)
    count = min(n // _LEAST_ROWS, _BLOCKS)
    if count < 2 or is_split(batch.x, 0):
        return each(batch)

    def split(a):
        # A block is every count-th row: of rows spread over devices, some of each.
        rows = a[: n - n % count].reshape(-1, count, *a.shape[1:])
        return rows.swapaxes(0, 1)

    def joined(blocks, rest):
        return jnp.concatenate([blocks.swapaxes(0, 1).reshape(-1), rest])

    blocks = jax.lax.map(each, jax.tree.map(split, batch))
    rest = each(jax.tree.map(lambda a: a[n - n % count :], batch))
    return jax.tree.map(joined, blocks, rest)

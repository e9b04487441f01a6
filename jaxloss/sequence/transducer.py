"""Transducers: labels at unknown frames, each predicted from the labels before it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.compilers.pieces import in_pieces
from jaxloss._core.compilers.places import number_in_a_pass
from jaxloss._core.numerics import scaled
from jaxloss._core.numerics.exact import difference_from_own
from jaxloss._core.rule.analytic import analytic
from jaxloss._core.rule.known import known_as
from jaxloss._core.rule.stored import gradient_stored
from jaxloss._core.softmax import maximum, widen
from jaxloss.sequence._inputs import lattice, positions, reached
from jaxloss.sequence._lattice import (
    Nodes,
    is_possible,
    passing,
    path_counts,
    path_loss,
)


@public()
def transducer_loss(
    logits: ArrayLike,
    logit_paddings: ArrayLike,
    labels: ArrayLike,
    label_paddings: ArrayLike,
    *,
    blank_id: int = 0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Transducer (RNN-T) loss: alignments in which each label depends on those before.

    Choose it over `ctc_loss` where the model has a prediction network beside the
    encoder, as in streaming speech recognition: it may emit several labels per frame,
    and does not assume that labels are independent of each other.

    A path starts at frame 1 with no label. At each node, frame $t$ after $u$ labels, it
    either emits label $y_{u+1}$ and stays in the frame, or emits the blank and goes to
    the next frame; the last blank leaves from frame $T$ after all $U$ labels. With
    $p_{tu}$ the softmax of the logits of a node:

    $$ -\log \sum_{\text{paths}} \; \prod_{(t, u, k) \in \text{path}} p_{tu}(k) $$

    Also known as RNN-T loss. torchaudio: `rnnt_loss`.

    Args:
        logits: Floating, `[..., T, U + 1, V]`, for each frame and each number of labels
            emitted the unnormalized log-probabilities of the classes, including the
            blank. Log-probabilities are valid too.
        logit_paddings: 1 for padded frames, 0 for the others, broadcastable to
            `[..., T]`. Padded frames are skipped wherever they are.
        labels: Integer, in [0, V), broadcastable to `[..., U]`.
        label_paddings: 1 for padded labels, 0 for the others, broadcastable to
            `[..., U]`. Padding follows the labels: the number of zeros is the number of
            labels used, from the front.
        blank_id: Python int in [0, V), the class that stands for no label.
        where: Boolean mask; False entries are excluded. An example is a sequence. A
            mask of the rank of `logits` excludes single classes, and frames without any
            class left.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, at least 0 unless a label is the blank; a scalar if reduced.
        +inf where every path meets a logit of -inf. Without frames, +inf if there are
        labels and 0 if there are none.

    Gradient:
        $(\gamma_{tu}^b + \gamma_{tu}^y) \, p_{tu}(k) - [k = b] \gamma_{tu}^b -
        [k = y_{u+1}] \gamma_{tu}^y$ for `logits`, with $b$ the blank and $\gamma$ the
        posterior probabilities of the two ways out of the node, by the forward-backward
        recursion; 0 in padded frames, behind the last label, and where the loss is
        +inf. None for the paddings and `labels`.

    Numerics:
        Each probability in the recursion has its own exponent: the range is that of log
        space, and thousands of frames lose no accuracy. A loss below 0.7 is computed
        from the probabilities of all ways that leave the labels, and keeps its digits
        however small it is. T + U steps, of U + 1 nodes at once. Beside `logits` and
        their gradient, memory is linear in T·U: no array of log-probabilities exists.
        On CPU a mask of the rank of `logits` stores the masked logits, in the memory of
        the gradient where there is one.
        A padding value other than 0 and 1 counts as 1, and `checkify` reports it.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss as jl
        >>> logits = jnp.zeros((1, 2, 2, 2))  # two frames, one label, two classes
        >>> frames, labels, unused = [[0, 0]], jnp.array([[1]]), [[0]]
        >>> loss = jl.transducer_loss(logits, frames, labels, unused)
        >>> print(jnp.exp(-loss))  # two paths of three steps, 2/8
        [0.25]

    References:
        Alex Graves, "Sequence Transduction with Recurrent Neural Networks", 2012,
        https://arxiv.org/abs/1211.3711, section 2
    """
    logits, _ = checks.class_array("logits", logits, -1)
    if logits.ndim < 3:
        raise ValueError(
            "`logits` must have axes of frames, of labels and of classes, "
            f"got shape {logits.shape}."
        )
    logits = gradient_stored(logits)
    batch, classes = logits.shape[:-3], logits.shape[-1]
    possible = None
    if where is not None:
        where = checks.to_mask("where", where)
        if where.ndim == logits.ndim:
            checks.check_broadcast("where", where.shape, "logits", logits.shape)
            logits = jnp.where(where, logits, -jnp.inf)
            possible = jnp.any(where, axis=(-2, -1))
            possible = jnp.broadcast_to(possible, logits.shape[:-2])
            where = jnp.any(possible, axis=-1)
    dtype = checks.compute_dtype(logits)
    tail = checks.tail(where, weights, reduction, shape=batch, dtype=dtype)
    given = lattice(
        "logits", logits.shape[:-1], classes, tail.spread(batch),
        logit_paddings, labels, label_paddings, blank_id, possible,
    )  # fmt: skip
    wide = given.tail.guard(widen(logits), (-3, -2, -1))
    loss = _transducer(
        wide, jax.lax.stop_gradient(logits),
        given.ways, given.frames, given.lengths,
        blank=given.blank, axis=(-3, -2, -1),
    )  # fmt: skip
    return given.tail.reduce(jnp.where(given.valid, loss, jnp.nan))


# With γ_b and γ_y the posterior counts of the two ways out of a node, which occur with
# the probabilities p(b) and p(y), the loss has ∂L/∂log p(b) = -γ_b and likewise for y.
# Hence d loss / d x(k) = (γ_b + γ_y) p(k) - [k = b] γ_b - [k = y] γ_y. For p(b) > 1/2
# the two terms at the blank cancel, and 1 - p(b) = (p(y) + the others) gives
#     γ_y - (γ_b + γ_y) (1 - p(b)),
# in which they do not; likewise for the label. The logits of nodes on no path may be
# NaN: they are excluded here, and not before the rule, since XLA for CPU would store
# masked logits for the maximum and for the gather.
#
# XLA for CPU stores exponentials before it sums them, in an array of the logits' size.
# So the maximum and the sum are computed a few rows at a time, from `unwidened`, the
# logits as they came, and the backward rule computes the exponentials once more, where
# it writes the gradient. That takes the time of the array that is not stored.
def _transducer_forward(logits, unwidened, ways, frames, lengths, *, blank, axis):
    del axis  # only the decorator `analytic` uses it
    sums, picked = _node_sums(logits, unwidened, ways, frames, lengths, blank)
    has_label = (positions(ways) < lengths[..., None])[..., None, :]
    by_blank, by_label = (scaled.probability(x, sums.top, sums.total) for x in picked)
    nodes = Nodes(by_blank, by_label.where(has_label), sums.others / sums.total)
    proper = ~jnp.any(sums.same & has_label, axis=(-2, -1))
    loss, found = path_loss(passing(frames, nodes), lengths, proper)
    return loss, (logits, ways, frames, lengths, sums, found)


def _transducer_backward(residuals, cotangent, *, blank, axis):
    del axis
    logits, ways, frames, lengths, sums, found = residuals
    counts = path_counts(found, logits.shape[-3])
    active = reached(ways, frames, lengths)
    scale = jnp.where(is_possible(found), cotangent, 0)[..., None, None]
    scale = jnp.where(active, scale, 0)
    of_blank, of_label = (scale * slope for slope in _slopes(counts, sums))
    share = scale * (counts.blank + counts.label) / sums.total
    at_blank, at_label = _places(logits, _index(ways, active), blank)
    gradient = share[..., None] * _exponentials(logits, sums.top, active[..., None])
    gradient = jnp.where(at_blank, of_blank[..., None], gradient)
    gradient = jnp.where(at_label, of_label[..., None], gradient)
    return gradient, None, None, None, None


def _slopes(counts, sums):
    """The slopes in the logits of blank and label of each node."""
    visits = counts.blank + counts.label

    def slope(at, rest, own, other):
        plain = visits * (at / sums.total) - own
        return jnp.where(
            at > 0.5 * sums.total, other - visits * (rest / sums.total), plain
        )

    of_blank = slope(
        sums.blank,
        sums.others + sums.label,
        # Where label and blank are one class, it has both ways out.
        jnp.where(sums.same, visits, counts.blank),
        jnp.where(sums.same, 0, counts.label),
    )
    of_label = slope(sums.label, sums.others + sums.blank, counts.label, counts.blank)
    return of_blank, jnp.where(sums.same, of_blank, of_label)


_transducer = jax.jit(
    analytic(_transducer_forward, _transducer_backward),
    static_argnames=("axis", "blank"),
)


class _Sums(NamedTuple):
    """Of each node, [..., T, U+1]: sums of exponentials of the logits less `top`."""

    top: jax.Array  # the largest logit
    total: jax.Array  # over all classes
    others: jax.Array  # over all but the blank and the label
    blank: jax.Array
    label: jax.Array  # 0 where the label is the blank
    same: jax.Array  # boolean: whether it is


def _node_sums(logits, unwidened, ways, frames, lengths, blank):
    """The sums of each node, and its logits of blank and label."""
    active = reached(ways, frames, lengths)
    index = _index(ways, active)

    def of_rows(x, label, active):
        top = jnp.where(active, maximum(x, -1), 0)
        return top, _sum_of_others(widen(x), top, label, active, blank)

    top, others = in_pieces(of_rows, unwidened, index, active)
    others = known_as(others, _sum_of_others(logits, top, index, active, blank))
    _, at_label = _places(logits, index, blank)
    label = number_in_a_pass(logits, index, logits.ndim - 1, at_label)
    picked = tuple(jnp.where(active, x, 0) for x in (logits[..., blank], label))
    of_blank, of_label = (jnp.exp(difference_from_own(x, top)[0]) for x in picked)
    same = index == blank
    of_label = jnp.where(same, 0, of_label)
    total = others + of_blank + of_label
    total = jnp.where(total == 0, 1, total)  # all logits are -inf
    return _Sums(top, total, others, of_blank, of_label, same), picked


def _index(ways, active):
    """The class of the label that may follow each node, [..., T, U+1]."""
    return jnp.broadcast_to(ways[..., None, :], active.shape)


def _sum_of_others(logits, top, label, active, blank):
    """The sum of exp(logits - top) over all classes but the blank and the label."""
    at_blank, at_label = _places(logits, label, blank)
    others = active[..., None] & ~(at_blank | at_label)
    return jnp.sum(_exponentials(logits, top, others), axis=-1)


def _places(logits, label, blank):
    """True at the blank, and True at the label of each node."""
    index = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    return index == blank, index == label[..., None]


def _exponentials(logits, top, which):
    """exp(logits - top) where `which`, else 0, also of a logit that is NaN."""
    gap, _ = difference_from_own(logits, top[..., None])
    return jnp.exp(jnp.where(which, gap, -jnp.inf))

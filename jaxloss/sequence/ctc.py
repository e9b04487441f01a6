"""Connectionist temporal classification: labels in order, without their timing."""

from __future__ import annotations

import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import Interval
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import HARMLESS, Reduction, Tail
from jaxloss._core.softmax import is_class, widen
from jaxloss.sequence._alignment import ctc, log_alphas, positions


@public(log_epsilon=Interval(maximum=0))
def ctc_loss(
    logits: ArrayLike,
    logit_paddings: ArrayLike,
    labels: ArrayLike,
    label_paddings: ArrayLike,
    *,
    blank_id: int = 0,
    log_epsilon: ArrayLike = -1e5,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the connectionist temporal classification loss of label sequences.

    Choose it where a sequence of frames is labelled by a shorter sequence without
    timing: speech, handwriting. `softmax_cross_entropy_with_integer_labels` wants a
    label for each frame; `ctc_loss_with_forward_probs` also returns the forward
    probabilities.

    An alignment $\pi$ gives each of the $T$ frames a class. It spells the labels $y$ if
    they remain when repeated classes are merged and then blanks are dropped. With
    $p_t$ the softmax of frame $t$'s logits:

    $$ -\log \sum_{\pi \text{ spells } y} \; \prod_{t=1}^{T} p_t(\pi_t) $$

    Args:
        logits: Floating, `[..., T, C]`: unnormalized log-probabilities of the classes,
            blank included, in each frame. Log-probabilities do as well.
        logit_paddings: 0 where a frame counts and 1 where it is padding, `[..., T]` or
            broadcastable to it. Padded frames are skipped wherever they stand.
        labels: Integer, in [0, C), `[..., N]` or broadcastable to it.
        label_paddings: 0 where a label counts and 1 where it is padding, `[..., N]` or
            broadcastable to it. Padding stands behind the labels: as many labels count
            as entries are 0, from the front.
        blank_id: The class that stands for no label, in [0, C).
        log_epsilon: Stands for log(0) in `ctc_loss_with_forward_probs`, a number of at
            most 0; the loss itself needs no approximation and does not depend on it.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). An example is a sequence. A mask of the rank of
            `logits` drops single classes, and a frame that has none left.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, in nats, at least 0; a scalar if reduced. +inf where no alignment
        spells the labels: too few frames (it takes one for each label and one more
        between equal neighbours), or a -inf logit in the way of each.

    Gradient:
        $p_t(k) - \gamma_t(k)$ for `logits`, with $\gamma_t(k)$ the posterior
        probability that frame $t$ is aligned to class $k$, by the forward-backward
        recursion; 0 in padded frames and where the loss is +inf. The paddings, `labels`
        and `log_epsilon` receive none.

    Numerics:
        Computes in float32, or float64 if `logits` are float64. Probabilities carry an
        exponent of their own: the range of a recursion in log space, while thousands of
        frames lose no digits to the size of the logarithm. Time and memory of the
        recursion are linear in T·N, those of the rest in T·C. Labels that are blank,
        empty labels and empty sequences of frames are allowed. Padded or masked entries
        may hold anything. A label outside [0, C) gives NaN, and raises under
        `checkify`, as does a padding indicator other than 0 and 1, which else counts as
        1. Where optax gives about `-log_epsilon`, the loss of labels that cannot be
        spelled is +inf, as in PyTorch; drop them by `where` as in the example
        (PyTorch's `zero_infinity`).

    Raises:
        TypeError: If `logits` is not floating, `labels` is not integer, `blank_id` not
            an int, another input not real, or `where` not boolean.
        ValueError: If an input does not fit the shapes above, there is no class,
            `blank_id` is no class, `log_epsilon` is above 0, or `reduction` is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss as jl
        >>> logits = jnp.log(jnp.array([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]))
        >>> logits = jnp.stack([logits, logits])  # [sequences, frames, classes]
        >>> frames = jnp.array([[0, 0, 0], [0, 0, 1]])
        >>> labels, unused = jnp.array([[1, 0], [1, 1]]), jnp.array([[0, 1], [0, 0]])
        >>> loss = jl.ctc_loss(logits, frames, labels, unused)
        >>> print(loss)  # 6 of 8 alignments spell 1; two frames cannot spell 1, 1
        [0.2876821       inf]
        >>> print(jnp.mean(loss, where=jnp.isfinite(loss)))
        0.2876821

    References:
        Alex Graves, Santiago Fernández, Faustino Gomez and Jürgen Schmidhuber,
        "Connectionist Temporal Classification: Labelling Unsegmented Sequence Data with
        Recurrent Neural Networks", 2006, equations 5 to 16,
        https://doi.org/10.1145/1143844.1143891
    """
    batch = _arguments(
        logits, logit_paddings, labels, label_paddings, blank_id,
        where, weights, reduction,
    )  # fmt: skip
    _log_zero(log_epsilon, batch)
    return _reduced(batch, reduction)


@public(log_epsilon=Interval(maximum=0))
def ctc_loss_with_forward_probs(
    logits: ArrayLike,
    logit_paddings: ArrayLike,
    labels: ArrayLike,
    label_paddings: ArrayLike,
    *,
    blank_id: int = 0,
    log_epsilon: ArrayLike = -1e5,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> tuple[jax.Array, jax.Array, jax.Array]:
    r"""Returns the loss of `ctc_loss` with the forward probabilities behind it.

    Choose it to look into the alignments: where along the frames the probability of the
    labels is lost. `ctc_loss` alone takes half the time.

    The loss is that of `ctc_loss`. The forward probabilities belong to the alignments
    of the first $t$ frames that have spelled the first $n$ labels and end with a blank
    or with the $n$-th label:

    $$ \log \alpha_\text{blank}(t, n) = \log \sum_{\substack{\pi \text{ spells } y_{1:n}
    \\ \pi_t \text{ is blank}}} \prod_{s=1}^{t} p_s(\pi_s), \qquad
    \log \alpha_\text{label}(t, n) = \log \sum_{\substack{\pi \text{ spells } y_{1:n}
    \\ \pi_t = y_n}} \prod_{s=1}^{t} p_s(\pi_s) $$

    Args:
        logits: Floating, `[..., T, C]`: unnormalized log-probabilities of the classes,
            blank included, in each frame. Log-probabilities do as well.
        logit_paddings: 0 where a frame counts and 1 where it is padding, `[..., T]` or
            broadcastable to it. Padded frames repeat the probabilities before them.
        labels: Integer, in [0, C), `[..., N]` or broadcastable to it.
        label_paddings: 0 where a label counts and 1 where it is padding, `[..., N]` or
            broadcastable to it. Padding stands behind the labels: as many labels count
            as entries are 0, from the front.
        blank_id: The class that stands for no label, in [0, C).
        log_epsilon: What the forward probabilities have for log(0), a number of at most
            0, -inf included. The loss does not depend on it.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). An example is a sequence. A mask of the rank of
            `logits` drops single classes, and a frame that has none left. The
            forward probabilities of a dropped sequence mean nothing.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
            They weigh the loss alone.
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]). It reduces the loss alone.

    Returns:
        The loss as `ctc_loss` has it; $\log \alpha_\text{blank}$ for n from 0 to N,
        `[T, ..., N + 1]`; $\log \alpha_\text{label}$ for n from 1 to N, `[T, ..., N]`.
        As in optax, the last frame's blank of n includes its label of n, so that the
        loss is minus its entry at the number of labels. Entries behind that number mean
        nothing.

    Gradient:
        The loss has that of `ctc_loss`. The forward probabilities have theirs by plain
        differentiation of the recursion, 0 where they are `log_epsilon`, and the rate 1
        in `log_epsilon` there. The paddings and `labels` receive none.

    Numerics:
        As `ctc_loss`. The forward probabilities are logarithms of exact recursions,
        each within a few units in the last place for each frame; optax's differ where
        they are unreachable: there it adds to `log_epsilon` what an alignment that
        began amid the labels would have.

    Raises:
        TypeError: If `logits` is not floating, `labels` is not integer, `blank_id` not
            an int, another input not real, or `where` not boolean.
        ValueError: If an input does not fit the shapes above, there is no class,
            `blank_id` is no class, `log_epsilon` is above 0, or `reduction` is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss as jl
        >>> logits = jnp.zeros((1, 2, 2))  # a sequence of two frames, two classes
        >>> frames, labels, unused = [[0, 0]], jnp.array([[1]]), [[0]]
        >>> loss, log_blank, log_label = jl.ctc_loss_with_forward_probs(
        ...     logits, frames, labels, unused
        ... )
        >>> print(jnp.exp(-loss), jnp.exp(log_label[:, 0, 0]))
        [0.75] [0.5 0.5]
        >>> print(jnp.exp(log_blank[:, 0]))
        [[0.5  0.  ]
         [0.25 0.75]]

    References:
        Alex Graves, Santiago Fernández, Faustino Gomez and Jürgen Schmidhuber,
        "Connectionist Temporal Classification: Labelling Unsegmented Sequence Data with
        Recurrent Neural Networks", 2006, equations 5 to 8,
        https://doi.org/10.1145/1143844.1143891
    """
    batch = _arguments(
        logits, logit_paddings, labels, label_paddings, blank_id,
        where, weights, reduction,
    )  # fmt: skip
    log_zero = _log_zero(log_epsilon, batch)
    log_probs = log_alphas(batch.logits, batch.words, batch.frames, log_zero)
    return _reduced(batch, reduction), *log_probs


class _Batch(NamedTuple):
    """Arguments, checked, with what does not count made harmless."""

    logits: jax.Array  # [..., T, C], in the dtype to compute in
    words: jax.Array  # [..., N+1], the blank and then the labels, all in [0, C)
    frames: jax.Array  # [..., T], True where a frame counts
    lengths: jax.Array  # [...], how many labels count
    valid: jax.Array  # [...], False where one of those was no class
    tail: Tail


def _arguments(
    logits, logit_paddings, labels, label_paddings, blank_id, where, weights, reduction
):
    logits, _ = checks.class_array("logits", logits, -1)
    if logits.ndim < 2:
        raise ValueError(
            f"`logits` must have a frame and a class axis, got shape {logits.shape}."
        )
    labels = checks.integer_array("labels", labels)
    if not labels.ndim:
        raise ValueError("`labels` must have an axis of labels, got a scalar.")
    batch, classes = logits.shape[:-2], logits.shape[-1]
    shape = (*batch, labels.shape[-1])
    checks.check_broadcast("labels", labels.shape, "the batch's labels", shape)
    labels = jnp.broadcast_to(labels, shape)
    blank = _blank(blank_id, classes)
    dtype = checks.compute_dtype(logits)
    heard = True
    if where is not None:
        where = checks.to_mask("where", where)
        if where.ndim == logits.ndim:
            logits, heard, where = _drop_classes(logits, where)
    tail = checks.tail(where, weights, reduction, shape=batch, dtype=dtype)
    tail = tail.spread(batch)
    to = "logits without classes"
    frames = _counts("logit_paddings", logit_paddings, to, logits.shape[:-1], tail)
    frames = frames & heard
    counts = _counts("label_paddings", label_paddings, "labels", shape, tail)

    lengths = jnp.sum(counts, axis=-1, dtype=jnp.int32)
    known = is_class(logits, labels, -1)
    valid = known | (positions(labels) >= lengths[..., None])
    valid = jnp.all(valid, axis=-1)
    labels = checks.check_values(
        "labels", labels, tail.counts(valid), f"in [0, {classes})"
    )
    words = jnp.where(known, labels.astype(jnp.int32), blank)
    front = [(0, 0)] * len(batch) + [(1, 0)]
    words = jnp.pad(words, front, constant_values=blank)
    logits = jnp.where(frames[..., None], logits, jnp.asarray(HARMLESS, logits.dtype))
    logits = tail.guard(widen(logits), (-2, -1))
    return _Batch(logits, words, frames, lengths, valid, tail)


def _drop_classes(logits, mask):
    """The logits, the frames that keep a class, and the sequences that keep a frame."""
    checks.check_broadcast("where", mask.shape, "logits", logits.shape)
    mask = jnp.broadcast_to(mask, logits.shape)
    frames = jnp.any(mask, axis=-1)
    return jnp.where(mask, logits, -jnp.inf), frames, jnp.any(frames, axis=-1)


def _blank(blank_id, classes):
    try:
        blank = operator.index(blank_id)
    except TypeError as error:
        raise TypeError(f"`blank_id` must be an int, got {blank_id!r}.") from error
    if not 0 <= blank < classes:
        raise ValueError(f"`blank_id` must be in [0, {classes}), got {blank}.")
    return blank


def _counts(name, paddings, to, shape, tail):
    """True where padding indicators are 0, in the sequences to keep."""
    paddings = checks.to_array(name, paddings)
    checks.check_broadcast(name, paddings.shape, to, shape)
    padded = paddings.astype(bool)
    known = paddings == padded.astype(paddings.dtype)
    if tail.keep is not None:
        padded = padded | ~tail.keep[..., None]
    known = jnp.all(jnp.broadcast_to(known, shape), axis=-1)
    padded = checks.check_values(name, padded, tail.counts(known), "0 or 1")
    return jnp.broadcast_to(~padded, shape)


def _log_zero(log_epsilon, batch):
    return checks.scalar("log_epsilon", log_epsilon, batch.logits.dtype)


def _reduced(batch, reduction):
    loss = ctc(batch.logits, batch.words, batch.frames, batch.lengths, axis=(-2, -1))
    loss = jnp.where(batch.valid, loss, jnp.nan)
    return batch.tail.reduce(loss)

"""Connectionist temporal classification: labels in a known order, at unknown frames."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import Interval
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import HARMLESS, Reduction, Tail
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.softmax import is_class, widen
from jaxloss.sequence._alignment import ctc, log_alphas
from jaxloss.sequence._inputs import blank_class, positions, unpadded


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
    r"""CTC: the connectionist temporal classification loss of label sequences.

    Choose it where a sequence of frames is labelled by a shorter sequence without
    timing: speech, handwriting. With one label per frame, use
    `softmax_cross_entropy_with_integer_labels`; `ctc_loss_with_forward_probs` also
    returns the forward probabilities.

    An alignment $\pi$ gives each of the $T$ frames a class. It spells the labels $y$ if
    merging repeated classes and then dropping blanks leaves $y$. With $p_t$ the softmax
    of the logits of frame $t$:

    $$ -\log \sum_{\pi \text{ spells } y} \; \prod_{t=1}^{T} p_t(\pi_t) $$

    PyTorch: `nn.CTCLoss`; Keras: `CTC`.

    Args:
        logits: Floating, `[..., T, C]`, for each frame the unnormalized
            log-probabilities of the classes, including the blank. Log-probabilities are
            valid too.
        logit_paddings: 1 for padded frames, 0 for the others, broadcastable to
            `[..., T]`. Padded frames are skipped wherever they are.
        labels: Integer, in [0, C), broadcastable to `[..., N]`.
        label_paddings: 1 for padded labels, 0 for the others, broadcastable to
            `[..., N]`. Padding follows the labels: the number of zeros is the number of
            labels used, from the front.
        blank_id: Python int in [0, C), the class that stands for no label.
        log_epsilon: At most 0, replaces log(0) in `ctc_loss_with_forward_probs`. This
            loss does not depend on it. -1e5 as in optax.
        where: Boolean mask; False entries are excluded. An example is a sequence. A
            mask of the rank of `logits` excludes single classes, and frames without any
            class left.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, at least 0; a scalar if reduced. +inf where no alignment
        spells the labels: there are too few frames (one per label and one more between
        equal neighbours), or every alignment meets a logit of -inf.

    Gradient:
        $p_t(k) - \gamma_t(k)$ for `logits`, with $\gamma_t(k)$ the posterior
        probability that frame $t$ is aligned to class $k$, by the forward-backward
        recursion; 0 in padded frames and where the loss is +inf. None for the paddings,
        `labels` and `log_epsilon`.

    Numerics:
        Each probability in the recursion has its own exponent: the range is that of log
        space, and thousands of frames lose no accuracy. In float32 a loss below 1 has
        an absolute error of at most 6e-8 per frame, so that a loss far below that, of
        an alignment that is nearly sure, may be 0. The recursion takes time and memory
        linear in T·N, the softmax linear in T·C. Blanks among the labels, empty
        labels and sequences without frames are allowed. A padding value other than 0
        and 1 counts as 1, and `checkify` reports it. Labels that no alignment spells
        have loss +inf as in PyTorch, where optax gives about `-log_epsilon`; exclude
        them as in the example (`zero_infinity` in PyTorch).

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
    r"""CTC loss together with the forward probabilities of its recursion.

    Choose it to inspect the alignments: it shows at which frames the labels lose their
    probability. `ctc_loss` alone takes half the time.

    The loss is that of `ctc_loss`. The forward probabilities sum over the alignments of
    the first $t$ frames that spell the first $n$ labels and end with a blank, or with
    label number $n$:

    $$ \log \alpha_\text{blank}(t, n) = \log \sum_{\substack{\pi \text{ spells } y_{1:n}
    \\ \pi_t \text{ is blank}}} \prod_{s=1}^{t} p_s(\pi_s), \qquad
    \log \alpha_\text{label}(t, n) = \log \sum_{\substack{\pi \text{ spells } y_{1:n}
    \\ \pi_t = y_n}} \prod_{s=1}^{t} p_s(\pi_s) $$

    Args:
        logits: Floating, `[..., T, C]`, as in `ctc_loss`.
        logit_paddings: 1 for padded frames, 0 for the others, broadcastable to
            `[..., T]`. A padded frame repeats the forward probabilities of the frame
            before it.
        labels: Integer, in [0, C), broadcastable to `[..., N]`.
        label_paddings: 1 for padded labels, 0 for the others, broadcastable to
            `[..., N]`, as in `ctc_loss`.
        blank_id: Python int in [0, C), the class that stands for no label.
        log_epsilon: At most 0, -inf included; replaces log(0) in the forward
            probabilities. The loss does not depend on it. -1e5 as in optax.
        where: Boolean mask; False entries are excluded. As in `ctc_loss`; the forward
            probabilities of an excluded sequence are undefined.
        weights: Real weights per example. They apply to the loss only.
        reduction: "none", "sum" or "mean" (weighted). It applies to the loss only.

    Returns:
        The loss, as from `ctc_loss`; $\log \alpha_\text{blank}$ for n from 0 to N,
        `[T, ..., N + 1]`; $\log \alpha_\text{label}$ for n from 1 to N, `[T, ..., N]`.
        As in optax, in the last frame the blank entry of n includes the label entry of
        n, so that the loss is minus the blank entry at the number of labels. Entries
        beyond that number are undefined.

    Gradient:
        The loss has the gradient of `ctc_loss`. The forward probabilities are
        differentiated through the recursion; where they equal `log_epsilon` their
        gradient is 0 for `logits` and 1 for `log_epsilon`. None for the paddings and
        `labels`.

    Numerics:
        As in `ctc_loss`. The rounding of a forward probability is a few units in the
        last place per frame. Unreachable entries are `log_epsilon` exactly; optax adds
        to it the log-probability of alignments that start amid the labels.

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
    log_probs = log_alphas(batch.logits, batch.symbols, batch.frames, log_zero)
    return _reduced(batch, reduction), *log_probs


class _Batch(NamedTuple):
    """The checked arguments; excluded entries are replaced by harmless values."""

    logits: jax.Array  # [..., T, C], in the dtype to compute in
    symbols: jax.Array  # [..., N+1], the blank, then the labels, all in [0, C)
    frames: jax.Array  # [..., T], False for padded frames
    lengths: jax.Array  # [...], the number of labels
    valid: jax.Array  # [...], False if one of those was out of range
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
    blank = blank_class(blank_id, classes)
    dtype = checks.compute_dtype(logits)
    possible = True
    if where is not None:
        where = checks.to_mask("where", where)
        if where.ndim == logits.ndim:
            logits, possible, where = _drop_classes(logits, where)
    tail = checks.tail(where, weights, reduction, shape=batch, dtype=dtype)
    tail = tail.spread(batch)
    to = "logits without classes"
    frames = unpadded("logit_paddings", logit_paddings, to, logits.shape[:-1], tail)
    frames = frames & possible
    counts = unpadded("label_paddings", label_paddings, "labels", shape, tail)

    lengths = jnp.sum(counts, axis=-1, dtype=jnp.int32)
    known = is_class(logits, labels, -1)
    valid = known | (positions(labels) >= lengths[..., None])
    valid = jnp.all(valid, axis=-1)
    labels = checks.check_values(
        "labels", labels, tail.counts(valid), f"in [0, {classes})"
    )
    symbols = jnp.where(known, labels.astype(jnp.int32), blank)
    front = [(0, 0)] * len(batch) + [(1, 0)]
    symbols = jnp.pad(symbols, front, constant_values=blank)
    logits = jnp.where(frames[..., None], logits, jnp.asarray(HARMLESS, logits.dtype))
    logits = tail.guard(widen(logits), (-2, -1))
    return _Batch(logits, symbols, frames, lengths, valid, tail)


def _drop_classes(logits, mask):
    """Masks the logits; finds the frames and sequences with a class left."""
    checks.check_broadcast("where", mask.shape, "logits", logits.shape)
    mask = jnp.broadcast_to(mask, logits.shape)
    frames = jnp.any(mask, axis=-1)
    return jnp.where(mask, logits, -jnp.inf), frames, jnp.any(frames, axis=-1)


def _log_zero(log_epsilon, batch):
    return checks.scalar("log_epsilon", log_epsilon, batch.logits.dtype)


def _reduced(batch, reduction):
    loss = ctc(batch.logits, batch.symbols, batch.frames, batch.lengths, axis=(-2, -1))
    loss = jnp.where(batch.valid, loss, jnp.nan)
    return batch.tail.reduce(loss)

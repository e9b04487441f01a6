"""The forward-backward recursion over all alignments of labels to frames."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxloss._core.numerics import scaled
from jaxloss._core.numerics.exact import difference_from_own
from jaxloss._core.numerics.scaled import Scaled
from jaxloss._core.rule.analytic import analytic
from jaxloss._core.softmax import maximum
from jaxloss.sequence._inputs import positions


# With p_t = softmax(x_t), an alignment π has the probability Π_t p_t(π_t). The loss is
# -log P, where P sums the probabilities of all alignments that spell y_1 ... y_N. After
# frame t an alignment has spelled n labels and ends with a blank or with label n:
#     α_t(n, blank) = p_t(blank) [α(n, blank) + α(n, label)],          α = α_{t-1},
#     α_t(n, label) = p_t(y_n) [α(n, label) + α(n-1, blank) + α(n-1, label)],
# the last term only if y_n differs from y_{n-1}. The recursion starts with
# α_0(0, blank) = 1 and ends with P = α_T(N, blank) + α_T(N, label). The backward
# recursion sums over the frames after t and starts with β_T = 1 at n = N; with
# q = p_{t+1} β_{t+1},
#     β_t(n, blank) = q(n, blank) + q(n+1, label),
#     β_t(n, label) = q(n, label) + q(n, blank) + q(n+1, label),
# the last term only if y_{n+1} differs from y_n. Each term of P has one factor p per
# frame. Hence p ∂log P/∂p is the posterior γ_t(k) = Σ α_t β_t / P, summed over the
# states of class k, and
#     d loss / d x_t(k) = p_t(k) - γ_t(k).
# In each frame p and γ sum to 1 over the classes, so the gradient sums to 0. At a class
# with p > 1/2, where p - γ may cancel, it is computed as minus the sum over the others.
def _ctc_forward(logits, symbols, frames, lengths, *, axis):
    del axis  # only the decorator `analytic` uses it
    emission, rounding = _emission(logits, symbols, frames)
    alphas, end = _forward(emission, symbols, frames)
    final = _final_states(symbols, lengths)
    total = jax.tree.map(
        lambda x: jnp.sum(jnp.where(final, x, 0), axis=-1), end.blank + end.label
    )
    # Rounding may make P slightly larger than 1.
    loss = jnp.maximum(rounding - scaled.log(total), 0)
    return loss, (logits, symbols, frames, lengths, emission, alphas, total)


def _ctc_backward(residuals, cotangent, *, axis):
    del axis
    logits, symbols, frames, lengths, emission, alphas, total = residuals
    posterior = _posterior(emission, symbols, frames, lengths, alphas, total)
    one_hot = jax.nn.one_hot(symbols, logits.shape[-1], dtype=logits.dtype)
    posterior = jnp.matmul(posterior, one_hot, precision=jax.lax.Precision.HIGHEST)
    # The exact posterior of a frame sums to 1. Dividing by its sum removes a rounding
    # error that both recursions share among all classes.
    total_posterior = jnp.sum(posterior, axis=-1, keepdims=True)
    posterior = posterior / jnp.where(total_posterior == 0, 1, total_posterior)
    exps, _, normalizer, _ = _softmax(logits)
    p = exps / normalizer
    likely = p > 0.5
    slope = jnp.where(likely, 0, p - posterior)
    slope = jnp.where(likely, -jnp.sum(slope, axis=-1, keepdims=True), slope)
    counts = frames & ~total.is_zero()[..., None]
    scale = jnp.where(counts, cotangent[..., None], 0)
    return scale[..., None] * slope, None, None, None


# Inside of a `jit` this one changes nothing. Outside, a gradient of a small batch would
# take half as long again without it.
ctc = jax.jit(analytic(_ctc_forward, _ctc_backward), static_argnames="axis")


class _State(NamedTuple):
    """α or β, [..., N+1]: n labels are spelled, and the frame is blank or label n."""

    blank: Scaled
    label: Scaled


def _forward(emission, symbols, frames):
    """α after each frame, [T, ..., N+1], and after the last frame, [..., N+1]."""
    may_skip = _may_skip_blank(symbols)

    def step(state, frame):
        probs, counts = frame
        either = state.blank + state.label.where(counts)
        before = scaled.choose(may_skip, either, state.blank).where(counts).shift(1)
        new = _State(either * _blank_entry(probs), (state.label + before) * probs)
        return new, new

    # A sum over no frames is 0, and has the sharding of the emissions.
    zero = jnp.sum(emission.mantissa[:0], axis=0)
    one = Scaled(zero + 1, zero)
    start = _State(
        one.where(positions(symbols) == 0), one.where(positions(symbols) < 0)
    )
    end, alphas = jax.lax.scan(step, start, (emission, _by_frame(frames)))
    return alphas, end


@jax.jit
def log_alphas(logits, symbols, frames, log_zero):
    emission, _ = _emission(logits, symbols, frames)
    alphas, end = _forward(emission, symbols, frames)
    log_blank = scaled.log(alphas.blank, log_zero)
    log_label = scaled.log(alphas.label, log_zero)
    # In the last frame optax adds the label entry of n to its blank entry.
    passed = scaled.log(end.blank + end.label, log_zero)
    frame = jax.lax.broadcasted_iota(jnp.int32, log_blank.shape, 0)
    last = frame == len(log_blank) - 1
    return jnp.where(last, passed[None], log_blank), log_label[..., 1:]


def _posterior(emission, symbols, frames, lengths, alphas, total):
    """The posterior α β / P of each label, [..., T, N+1]; entry 0 sums the blanks."""
    may_skip = _may_skip_blank(symbols)
    front = positions(symbols) == 0

    def step(state, frame):
        alpha, probs, counts = frame
        at_blank = jnp.sum((alpha.blank * state.blank).value(), axis=-1, keepdims=True)
        at_label = (alpha.label * state.label).value()
        blank, label = state.blank * _blank_entry(probs), state.label * probs
        either = blank + label.shift(-1).where(counts)
        after = scaled.choose(may_skip, either, blank).where(counts)
        return _State(either, label + after), jnp.where(front, at_blank, at_label)

    # The recursion starts from 1 / P, so that it yields β / P instead of β.
    share = jax.tree.map(lambda x: x[..., None], total.reciprocal())
    final = share.where(_final_states(symbols, lengths))
    xs = alphas, emission, _by_frame(frames)
    _, posterior = jax.lax.scan(step, _State(final, final), xs, reverse=True)
    return jnp.moveaxis(posterior, 0, -2)


def _emission(logits, symbols, frames):
    """The probability of blank and labels in each frame, and a rounding error.

    Returns:
        The probabilities, [T, ..., N+1], which are 1 in padded frames, so that the
        recursions do not change there; and the rounding error of the logarithms of
        the normalizers, summed over the frames, [...], which the loss adds.
    """
    _, top, total, rounding = _softmax(logits)
    rounding = jnp.sum(jnp.where(frames, rounding[..., 0], 0), axis=-1)
    picked = jnp.take_along_axis(logits, symbols[..., None, :], axis=-1, mode="clip")
    picked, top, total = (jnp.moveaxis(x, -2, 0) for x in (picked, top, total))
    emission = scaled.probability(picked, top, total)
    one = scaled.one_like(emission)
    return scaled.choose(_by_frame(frames), emission, one), rounding


def _softmax(logits):
    """softmax(logits) as exps / total, the largest logit, and a rounding error.

    The last is the exact log(total) less the rounded one. It matters if one class has
    nearly all the probability.
    """
    top = maximum(logits, -1)[..., None]
    gap, lost = difference_from_own(logits, top)
    exps = jnp.exp(gap) * (1 + lost)
    total = jnp.sum(exps, axis=-1, keepdims=True)
    rest = jnp.sum(jnp.where(gap == 0, 0, exps), axis=-1, keepdims=True)
    rounding = jnp.where((total >= 1) & (total < 1.5), rest - (total - 1), 0)
    total = jnp.where(total == 0, 1, total)  # all logits are -inf
    return exps, top, total, rounding / total


def _final_states(symbols, lengths):
    return positions(symbols) == lengths[..., None]


def _may_skip_blank(symbols):
    """True at n if label n + 1 may follow label n without a blank between them."""
    differs = symbols[..., 1:] != symbols[..., :-1]
    return jnp.pad(differs, [(0, 0)] * (symbols.ndim - 1) + [(0, 1)])


def _by_frame(frames):
    return jnp.moveaxis(frames, -1, 0)[..., None]


def _blank_entry(probs):
    return jax.tree.map(lambda x: x[..., :1], probs)

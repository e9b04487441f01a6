"""The sum over all alignments of labels to frames, forward and backward."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxloss._core.numerics import scaled
from jaxloss._core.numerics.exact import two_difference
from jaxloss._core.numerics.scaled import Scaled
from jaxloss._core.rule.analytic import analytic
from jaxloss._core.softmax import maximum


# With p_t = softmax(x_t), an alignment π has the probability Π_t p_t(π_t), and the loss
# is -log P, P their sum over the alignments that spell the labels y_1 ... y_N. By frame
# t an alignment has spelled n of them and stands at blank or at the n-th label:
#     α_t(n, blank) = p_t(blank) [α(n, blank) + α(n, label)],          α = α_{t-1},
#     α_t(n, label) = p_t(y_n) [α(n, label) + α(n-1, blank) + α(n-1, label)],
# the last term only where y_n differs from y_{n-1}, from α_0(0, blank) = 1 to
# P = α_T(N, blank) + α_T(N, label). The same steps backwards sum over the frames behind
# t, from β_T = 1 at n = N; with q = p_{t+1} β_{t+1},
#     β_t(n, blank) = q(n, blank) + q(n+1, label),
#     β_t(n, label) = q(n, label) + q(n, blank) + q(n+1, label),
# the last term only where y_{n+1} differs from y_n. P is a sum of products with one
# factor from each frame, so that p ∂log P/∂p is the posterior γ_t(k) = Σ α_t β_t / P
# over the states at class k, and
#     d loss / d x_t(k) = p_t(k) - γ_t(k).
# Both sum to 1, hence the gradients of a frame to 0: at a class of p > 1/2, where p - γ
# may cancel, the gradient is minus the sum of the others.
def _ctc_forward(logits, words, frames, lengths, *, axis):
    del axis  # read by the adapter
    emission, slack = _emission(logits, words, frames)
    alphas, end = _forward(emission, words, frames)
    finish = _finish(words, lengths)
    total = jax.tree.map(
        lambda x: jnp.sum(jnp.where(finish, x, 0), axis=-1), end.blank + end.label
    )
    # Rounding may carry a probability beyond 1.
    loss = jnp.maximum(slack - scaled.log(total), 0)
    return loss, (logits, words, frames, lengths, emission, alphas, total)


def _ctc_backward(residuals, cotangent, *, axis):
    del axis
    logits, words, frames, lengths, emission, alphas, total = residuals
    posterior = _posterior(emission, words, frames, lengths, alphas, total)
    spelled = jax.nn.one_hot(words, logits.shape[-1], dtype=logits.dtype)
    posterior = jnp.matmul(posterior, spelled, precision=jax.lax.Precision.HIGHEST)
    # Its sum is 1 but for the rounding of both recursions, which is thus divided out.
    certain = jnp.sum(posterior, axis=-1, keepdims=True)
    posterior = posterior / jnp.where(certain == 0, 1, certain)
    powers, _, normalizer, _ = _softmax(logits)
    p = powers / normalizer
    likely = p > 0.5
    slope = jnp.where(likely, 0, p - posterior)
    slope = jnp.where(likely, -jnp.sum(slope, axis=-1, keepdims=True), slope)
    counts = frames & ~total.is_zero()[..., None]
    scale = jnp.where(counts, cotangent[..., None], 0)
    return scale[..., None] * slope, None, None, None


# Compiled on its own: without a `jit` around, each call would compile its scans anew.
ctc = jax.jit(analytic(_ctc_forward, _ctc_backward), static_argnames="axis")


class _State(NamedTuple):
    """α or β, [..., N+1]: n labels are spelled, and the frame is blank or the n-th."""

    blank: Scaled
    label: Scaled


def _forward(emission, words, frames):
    """α behind each frame, [T, ..., N+1], and behind the last."""
    onward = _onward(words)

    def step(state, frame):
        heard, counts = frame
        either = state.blank + state.label.where(counts)
        before = _choose(onward, either, state.blank).where(counts).shift(1)
        new = _State(either * _blank_of(heard), (state.label + before) * heard)
        return new, new

    # A sum of no frames is 0, and lies on the devices where the emissions lie.
    zero = jnp.sum(emission.mantissa[:0], axis=0)
    one = Scaled(zero + 1, zero)
    start = _State(one.where(positions(words) == 0), one.where(positions(words) < 0))
    end, alphas = jax.lax.scan(step, start, (emission, _by_frame(frames)))
    return alphas, end


@jax.jit
def log_alphas(logits, words, frames, log_zero):
    emission, _ = _emission(logits, words, frames)
    alphas, end = _forward(emission, words, frames)
    log_blank = scaled.log(alphas.blank, log_zero)
    log_label = scaled.log(alphas.label, log_zero)
    # In the last frame optax lets each label pass on to the blank behind it.
    passed = scaled.log(end.blank + end.label, log_zero)
    frame = jax.lax.broadcasted_iota(jnp.int32, log_blank.shape, 0)
    last = frame == len(log_blank) - 1
    return jnp.where(last, passed[None], log_blank), log_label[..., 1:]


def _posterior(emission, words, frames, lengths, alphas, total):
    """Σ α β / P over the states at each word, [..., T, N+1]; the blank is in front."""
    onward = _onward(words)
    front = positions(words) == 0

    def step(state, frame):
        alpha, heard, counts = frame
        at_blank = jnp.sum((alpha.blank * state.blank).value(), axis=-1, keepdims=True)
        at_label = (alpha.label * state.label).value()
        blank, label = state.blank * _blank_of(heard), state.label * heard
        either = blank + label.shift(-1).where(counts)
        after = _choose(onward, either, blank).where(counts)
        return _State(either, label + after), jnp.where(front, at_blank, at_label)

    # β / P in the place of β.
    share = jax.tree.map(lambda x: x[..., None], total.reciprocal())
    finish = share.where(_finish(words, lengths))
    xs = alphas, emission, _by_frame(frames)
    _, posterior = jax.lax.scan(step, _State(finish, finish), xs, reverse=True)
    return jnp.moveaxis(posterior, 0, -2)


def _emission(logits, words, frames):
    """The probability of each word in each frame, [T, ..., N+1], and what rounding the
    normalizers took from the log-likelihood, [...].

    In a padded frame the recursions stay where they are: every probability is 1.
    """
    _, top, total, slack = _softmax(logits)
    slack = jnp.sum(jnp.where(frames, slack[..., 0], 0), axis=-1)
    heard = jnp.take_along_axis(logits, words[..., None, :], axis=-1, mode="clip")
    heard, top, total = (jnp.moveaxis(x, -2, 0) for x in (heard, top, total))
    gap, lost = two_difference(heard, top)
    power = scaled.exp(gap, lost)
    emission = Scaled(power.mantissa / total, power.exponent)
    one = Scaled(jnp.ones_like(gap), jnp.zeros_like(gap))
    return _choose(_by_frame(frames), emission, one), slack


def _softmax(logits):
    """softmax(logits) as powers / total, the largest logit, and what rounding took from
    log(total) where one class has nearly all."""
    top = maximum(logits, -1)[..., None]
    gap, lost = two_difference(logits, top)
    powers = jnp.exp(gap) * (1 + lost)
    total = jnp.sum(powers, axis=-1, keepdims=True)
    rest = jnp.sum(jnp.where(gap == 0, 0, powers), axis=-1, keepdims=True)
    slack = jnp.where((total >= 1) & (total < 1.5), rest - (total - 1), 0)
    total = jnp.where(total == 0, 1, total)  # no class is possible
    return powers, top, total, slack / total


def positions(words):
    return jax.lax.broadcasted_iota(jnp.int32, words.shape, words.ndim - 1)


def _finish(words, lengths):
    return positions(words) == lengths[..., None]


def _onward(words):
    """True at n where the next label may follow the n-th without a blank."""
    differs = words[..., 1:] != words[..., :-1]
    return jnp.pad(differs, [(0, 0)] * (words.ndim - 1) + [(0, 1)])


def _by_frame(frames):
    return jnp.moveaxis(frames, -1, 0)[..., None]


def _blank_of(heard):
    return jax.tree.map(lambda x: x[..., :1], heard)


def _choose(mask, x, y):
    return jax.tree.map(lambda a, b: jnp.where(mask, a, b), x, y)

"""What the planned rows are compared with: optax's functions and plain formulas.

Each function takes the row's inputs and returns the mean loss. `wide` computes in
float32 whatever the inputs' dtype, as jaxloss does.
"""

import jax
import jax.numpy as jnp
import optax

from benchmarks import plain
from benchmarks.cases import Loss, by_chunks

_integer = optax.softmax_cross_entropy_with_integer_labels
SMOOTHING, Z_LOSS, IGNORED = 0.1, 1e-4, -100


def wide(loss: Loss) -> Loss:
    """The loss of the inputs in float32; the gradient has the inputs' own dtype."""

    def widened(x):
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        return x.astype(jnp.float32) if floating else x

    return lambda *inputs: loss(*map(widened, inputs))


def smoothed(logits, labels):
    return jnp.mean(_smoothed(logits, labels))


def smoothed_by_hand(logits, labels):
    """Without an array of smoothed labels."""
    log_probs = jax.nn.log_softmax(logits)
    own = _at(labels, log_probs)
    others = jnp.mean(log_probs, axis=-1)
    return -jnp.mean((1 - SMOOTHING) * own + SMOOTHING * others)


def with_z_loss(logits, labels):
    return jnp.mean(_integer(logits, labels) + _z_loss(logits))


def smoothed_with_z_loss(logits, labels):
    return jnp.mean(_smoothed(logits, labels) + _z_loss(logits))


def class_weighted(logits, labels, class_weights):
    weights = class_weights[labels]
    return jnp.sum(_integer(logits, labels) * weights) / jnp.sum(weights)


def masked(logits, labels, where):
    return jnp.mean(_integer(logits, labels), where=where)


def ignoring(logits, labels):
    keep = labels != IGNORED
    return masked(logits, jnp.where(keep, labels, 0), keep)


def softmax_focal(logits, labels):
    own = _log_prob(logits, labels)
    return -jnp.mean((1 - jnp.exp(own)) ** 2 * own)


def generalized(logits, labels, q=0.7):
    return jnp.mean((1 - jnp.exp(q * _log_prob(logits, labels))) / q)


def circle(embeddings, labels, gamma=80.0, margin=0.4):
    """With all pairs in one matrix."""
    same = labels[:, None] == labels
    positive = same & ~jnp.eye(len(labels), dtype=bool)
    distances = jnp.maximum(0.0, 1 - embeddings @ embeddings.T)
    pull = gamma * (margin + distances) * (distances - margin)
    push = gamma * jnp.maximum(0.0, 1 + margin - distances) * (1 - margin - distances)
    pulls = jax.nn.logsumexp(pull, axis=1, where=positive)
    pushes = jax.nn.logsumexp(push, axis=1, where=~same)
    return jnp.mean(jax.nn.softplus(pulls + pushes))


def jaccard(logits, targets):
    probs, axes = jax.nn.softmax(logits), tuple(range(1, logits.ndim - 1))
    hits = jnp.sum(probs * targets, axes)
    union = jnp.sum(probs, axes) + jnp.sum(targets, axes) - hits
    return jnp.mean(1 - (hits + 1) / (union + 1))


def product(hidden, kernel, labels):
    """The cross entropy of logits in the inputs' dtype."""
    return jnp.mean(_integer(hidden @ kernel, labels))


def of_table(hidden, table, labels):
    return product(hidden, table.T, labels)


def product_then_wide(hidden, kernel, labels):
    """The same logits; the cross entropy in float32."""
    return jnp.mean(_integer((hidden @ kernel).astype(jnp.float32), labels))


def wide_product(hidden, kernel, labels):
    """The cross entropy of logits in float32."""
    return jnp.mean(_integer(plain.wide_product(hidden, kernel), labels))


product_by_chunks = by_chunks(wide_product, rows=1024)
log_probs_by_chunks = by_chunks(plain.linear_log_probs, rows=1024)


def _smoothed(logits, labels):
    hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(hot, SMOOTHING))


def _z_loss(logits):
    return Z_LOSS * jax.nn.logsumexp(logits, axis=-1) ** 2


def _log_prob(logits, labels):
    return _at(labels, jax.nn.log_softmax(logits))


def _at(labels, log_probs):
    return jnp.take_along_axis(log_probs, labels[..., None], -1)[..., 0]

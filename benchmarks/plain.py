"""Textbook forms of losses that no timed library has, each the mean over a batch.

Those that take `of` are written with `jax.numpy` or with `torch`.
"""

import math

import jax
import jax.numpy as jnp


def in_checkpointed_scan(total, shared, rows=512):
    """`total`, a sum over the rows of its inputs, of some rows at a time.

    This is how JAX trainers keep the logits of a vocabulary out of memory by hand: the
    gradient makes them again. The inputs at the places `shared` have no rows.
    """

    def loss(*inputs):
        size = math.gcd(len(inputs[0]), rows)
        places = range(len(inputs))
        kernels = {i: inputs[i] for i in shared}
        chunks = {
            i: inputs[i].reshape(-1, size, *inputs[i].shape[1:])
            for i in places
            if i not in shared
        }

        @jax.checkpoint
        def of_chunk(kernels, chunk):
            return total(*((kernels | chunk)[i] for i in places))

        def step(before, chunk):
            return before + of_chunk(kernels, chunk), None

        return jax.lax.scan(step, jnp.zeros(()), chunks)[0]

    return loss


def linear_log_probs(hidden, kernel, labels):
    """Log-probabilities of the labels and entropies; one number per row, their sum."""
    log_probs = jax.nn.log_softmax(wide_product(hidden, kernel))
    own = jnp.take_along_axis(log_probs, labels[:, None], -1)[:, 0]
    return jnp.mean(own - jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1))


def softmax_statistics(logits, labels):
    """The loss of `with_z_loss_and_bonus`, from one log-sum-exp."""
    log_normalizers = jax.nn.logsumexp(logits, axis=-1)
    log_probs = logits - log_normalizers[:, None]
    own = jnp.take_along_axis(log_probs, labels[:, None], -1)[:, 0]
    entropies = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)
    return with_z_loss_and_bonus(own, entropies, log_normalizers)


def linear_statistics(hidden, kernel, labels):
    """The same of the logits of all rows."""
    return softmax_statistics(wide_product(hidden, kernel), labels)


def with_z_loss_and_bonus(log_probs, entropies, log_normalizers):
    """Cross entropy with a z-loss and a bonus for entropy, of their statistics."""
    return jnp.mean(1e-4 * log_normalizers**2 - log_probs - 0.01 * entropies)


def wide_product(hidden, kernel):
    """In float32 whatever the inputs' dtype."""
    return jnp.dot(hidden, kernel, preferred_element_type=jnp.float32)


def kto(log_probs, reference_log_probs, desirable, of=jnp, sigmoid=jax.nn.sigmoid):
    """As in TRL, with its default of beta."""
    margin = 0.1 * (log_probs - reference_log_probs)
    return of.where(desirable, 1 - sigmoid(margin), 1 - sigmoid(-margin)).mean()


def orpo(chosen, rejected, of=jnp, log_sigmoid=jax.nn.log_sigmoid):
    """As in TRL, with its default of beta."""
    log_odds = chosen - rejected
    log_odds -= of.log1p(-of.exp(chosen)) - of.log1p(-of.exp(rejected))
    return -0.1 * log_sigmoid(log_odds).mean()


def kl_estimate(log_probs, reference_log_probs, of=jnp):
    """The estimator k3, as trainers write it."""
    d = reference_log_probs - log_probs
    return (of.exp(d) - d - 1).mean()


def clipped_policy(log_probs, old_log_probs, advantages, of=jnp, sequences=False):
    """As trainers write it; with the ratios of sequences, one in each row."""
    log_ratio = log_probs - old_log_probs
    log_ratio = log_ratio.mean(-1, keepdims=True) if sequences else log_ratio
    ratio = of.exp(log_ratio)
    clipped = of.clip(ratio, 0.8, 1.2)
    return -of.minimum(ratio * advantages, clipped * advantages).mean()


def router_balance(router_logits, expert_ids):
    """With the means of one-hot vectors and of probabilities, as in Mixtral's code."""
    experts = router_logits.shape[-1]
    hits = jax.nn.one_hot(expert_ids, experts)
    probabilities = jnp.mean(jax.nn.softmax(router_logits), axis=0)
    return experts * jnp.sum(jnp.mean(hits, axis=(0, 1)) * probabilities)


def router_z(router_logits):
    return jnp.mean(jax.nn.logsumexp(router_logits, axis=-1) ** 2)


def generalized_box_iou(boxes, targets):
    """The textbook form, as in torchvision."""
    iou, union, outer = _overlap(boxes, targets)
    hull = jnp.prod(outer, axis=-1)
    return jnp.mean(1 - iou + (hull - union) / (hull + 1e-7))


def distance_box_iou(boxes, targets):
    """The textbook form, as in torchvision."""
    iou, _, outer = _overlap(boxes, targets)
    return jnp.mean(1 - iou + _distance(boxes, targets, outer))


def complete_box_iou(boxes, targets):
    """The textbook form, as in torchvision."""
    iou, _, outer = _overlap(boxes, targets)
    (w, h), (v, g) = (jnp.moveaxis(x[:, 2:] - x[:, :2], 1, 0) for x in (boxes, targets))
    shape = 4 / jnp.pi**2 * (jnp.arctan(v / g) - jnp.arctan(w / h)) ** 2
    alpha = jax.lax.stop_gradient(shape / (1 - iou + shape + 1e-7))
    return jnp.mean(1 - iou + _distance(boxes, targets, outer) + alpha * shape)


def _overlap(boxes, targets):
    """Intersection over union, the union's area, and the sides of the hull."""
    low = jnp.maximum(boxes[:, :2], targets[:, :2])
    high = jnp.minimum(boxes[:, 2:], targets[:, 2:])
    common = jnp.prod(jnp.maximum(high - low, 0), axis=-1)
    areas = jnp.prod(boxes[:, 2:] - boxes[:, :2], axis=-1)
    union = areas + jnp.prod(targets[:, 2:] - targets[:, :2], axis=-1) - common
    outer = jnp.maximum(boxes[:, 2:], targets[:, 2:])
    outer -= jnp.minimum(boxes[:, :2], targets[:, :2])
    return common / (union + 1e-7), union, outer


def _distance(boxes, targets, outer):
    """Squared distance of the centers over the hull's squared diagonal."""
    between = (boxes[:, :2] + boxes[:, 2:] - targets[:, :2] - targets[:, 2:]) / 2
    square = jnp.sum(between * between, axis=-1)
    return square / (jnp.sum(outer * outer, axis=-1) + 1e-7)


def transducer(logits, frames, labels, unused):
    """In log space, frame by frame, without padding; blank 0."""
    log_p = jax.nn.log_softmax(logits)
    index = jnp.pad(labels, [(0, 0), (0, 1)])[:, None, :, None]
    blank = jnp.moveaxis(log_p[..., 0], 1, 0)
    label = jnp.moveaxis(jnp.take_along_axis(log_p, index, -1)[..., 0], 1, 0)
    emitted = jnp.cumsum(jnp.pad(label[..., :-1], [(0, 0), (0, 0), (1, 0)]), axis=-1)

    def frame(before, ways):
        blank, emitted = ways
        after = jax.lax.cumlogsumexp(before - emitted, axis=1) + emitted
        return after + blank, None

    start = jnp.full_like(blank[0], -1e30).at[:, 0].set(0)
    end, _ = jax.lax.scan(frame, start, (blank, emitted))
    return -jnp.mean(end[:, -1])


def linear_transducer(encodings, predictions, kernel, labels, frames, unused):
    """The same of the logits of all nodes."""
    states = jnp.tanh(encodings[:, :, None] + predictions[:, None])
    return transducer(states @ kernel, frames, labels, unused)


def lovasz_softmax(logits, labels):
    """All classes at once, over the present ones, by differences of the index."""
    count = logits.shape[-1]
    p = jax.nn.softmax(logits).reshape(len(logits), -1, count)
    hit = jax.nn.one_hot(labels.reshape(len(logits), -1), count)
    errors = jnp.abs(hit - p)
    order = jnp.argsort(-errors, axis=1)
    errors = jnp.take_along_axis(errors, order, axis=1)
    ranked = jnp.take_along_axis(hit, order, axis=1)
    size = jnp.sum(ranked, axis=1, keepdims=True)
    found = size - jnp.cumsum(ranked, axis=1)
    index = 1 - found / jnp.maximum(size + jnp.cumsum(1 - ranked, axis=1), 1)
    steps = jnp.diff(index, axis=1, prepend=jnp.zeros_like(size))
    losses, present = jnp.sum(errors * steps, axis=1), size[:, 0] > 0
    return jnp.mean(jnp.mean(losses, axis=1, where=present))


def lovasz_hinge(logits, labels):
    """All pixels of an image sorted by their hinge errors, as in the authors' code."""
    x, hit = (z.reshape(len(logits), -1) for z in (logits, labels))
    errors = 1 - x * (2 * hit - 1)
    order = jnp.argsort(-errors, axis=1)
    errors = jnp.take_along_axis(errors, order, axis=1)
    ranked = jnp.take_along_axis(hit, order, axis=1)
    size = jnp.sum(ranked, axis=1, keepdims=True)
    found = size - jnp.cumsum(ranked, axis=1)
    index = 1 - found / (size + jnp.cumsum(1 - ranked, axis=1))
    steps = jnp.diff(index, axis=1, prepend=jnp.zeros_like(size))
    return jnp.mean(jnp.sum(jax.nn.relu(errors) * steps, axis=1))

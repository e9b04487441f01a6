"""Textbook forms of losses that no timed library has, each the mean over a batch."""

import jax
import jax.numpy as jnp


def generalized_box_iou(boxes, targets):
    """The textbook form, as in torchvision."""
    low = jnp.maximum(boxes[:, :2], targets[:, :2])
    high = jnp.minimum(boxes[:, 2:], targets[:, 2:])
    common = jnp.prod(jnp.maximum(high - low, 0), axis=-1)
    areas = jnp.prod(boxes[:, 2:] - boxes[:, :2], axis=-1)
    union = areas + jnp.prod(targets[:, 2:] - targets[:, :2], axis=-1) - common
    outer = jnp.maximum(boxes[:, 2:], targets[:, 2:])
    hull = jnp.prod(outer - jnp.minimum(boxes[:, :2], targets[:, :2]), axis=-1)
    iou = common / (union + 1e-7)
    return jnp.mean(1 - iou + (hull - union) / (hull + 1e-7))


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

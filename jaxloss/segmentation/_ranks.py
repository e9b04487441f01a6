"""The Lovász extension of the Jaccard loss: errors weighed by their ranks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.devices import broadcast_to
from jaxloss._core.rule.analytic import analytic


# Let the errors of the pixels be ranked, the largest first, and let J_k be the Jaccard
# loss if the first k pixels were wrong. With G the weight of the region, F_k and B_k
# those of its pixels and of the others among the first k,
#     J_k = (F_k + B_k) / (G + B_k),
# and the loss is Σ e_k (J_k - J_{k-1}). The differences, in the form without
# cancellation, for a pixel of weight w:
#     in the region   w / (G + B_k),
#     outside         w / (G + B_k) · (G - F_k) / (G + B_{k-1}).
# Where G = 0, J is 1 from the first pixel on. As a function of the errors the loss is
# linear for each order of them, so that the differences are its gradient.
def ranked(errors, hit, weights):
    """The loss, [N], and its gradient by the errors, [N, P].

    Args:
        errors: Real, [N, P], with the derivative of the loss.
        hit: Boolean, [N, P], the pixels of the region.
        weights: Real, [N, P], at least 0.
    """
    hit, weights = (broadcast_to(x, errors) for x in (hit, weights))
    order = broadcast_to(jnp.argsort(-stop_gradient(errors), axis=-1), errors)
    e, h, w = (jax.vmap(_at)(x, order) for x in (errors, hit, weights))
    inside, outside = jnp.where(h, w, 0), jnp.where(h, 0, w)
    size = jnp.sum(inside, axis=-1, keepdims=True)
    missing = jax.lax.cumsum(inside, axis=inside.ndim - 1, reverse=True)
    wrong = jax.lax.cumsum(outside, axis=outside.ndim - 1)
    wrong_before = jnp.pad(wrong, [(0, 0), (1, 0)])[:, :-1]
    union, union_before = size + wrong, size + wrong_before
    own = w / jnp.where(union == 0, 1, union)
    other = own * (missing / jnp.where(union_before == 0, 1, union_before))
    first = ((wrong_before == 0) & (w > 0)).astype(w.dtype)
    steps = jnp.where(size == 0, first, jnp.where(h, own, other))
    # A pixel of weight 0 may have any error. Another NaN has no rank, and makes the
    # loss and the gradient of its image NaN: the sort alone would put it last, where
    # its step can be 0.
    nan = jnp.any((w != 0) & jnp.isnan(e + w), axis=-1, keepdims=True)
    steps = steps * jnp.where(nan & (w != 0), jnp.nan, 1)
    # 0 · inf is 0, the limit where the ranks above an infinite error settle the loss.
    loss = jnp.sum(jnp.where(steps == 0, 0, e) * steps, axis=-1)
    return loss, jax.vmap(_put)(steps, order)


# Of one image each: `vmap` tells XLA that images are apart, on a mesh as well.
def _at(row, order):
    return row.at[order].get(unique_indices=True, mode="promise_in_bounds")


def _put(row, order):
    empty = jnp.zeros_like(row)
    return empty.at[order].set(row, unique_indices=True, mode="promise_in_bounds")


def _forward(errors, weights, hit):
    loss, slope = ranked(errors, hit, weights)
    return loss, (errors, weights, hit, slope)


def _backward(residuals, cotangent):
    errors, weights, hit, slope = residuals
    _, pull_back = jax.vjp(lambda w: ranked(errors, hit, w)[0], weights)
    return cotangent[:, None] * slope, *pull_back(cotangent), None


# The loss, [N], of errors [N, P] and weights [N, P], which is differentiable in both.
rank_loss = analytic(_forward, _backward)

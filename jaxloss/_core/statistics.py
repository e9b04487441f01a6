"""Numbers of a softmax over the last axis, made of one set of exponentials.

All are functions of the gaps g_j = x_j - m to the largest logit m, at most 0. Where one
class alone has the maximum, its own gap is 0 for good: its exponential is left out of
the sum r of the others, which keeps its digits, and so does every derivative, since
what m moves is the sum of what the other gaps move. With e_j = e^{g_j} and s = Σ_j e_j,

    log-sum-exp = m + log s,
    log p_k     = g_k - log s,                  no term above 0,
    entropy     = log s + Σ_j e_j (-g_j) / s,   no term below 0,
    log tail    = -log(1 + Σ_S e / Σ_T e),      S the labels' classes, T the others.

The derivatives are JAX's own of these forms.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.devices import (
    class_count,
    is_split,
    max_over_devices,
    own_index,
    placement,
    sum_over_devices,
)
from jaxloss._core.numerics.exact import quotient
from jaxloss._core.numerics.probability import Gaps, gaps
from jaxloss._core.softmax import pick


def log_normalizer(g: Gaps) -> jax.Array:
    """log Σ_j e^{x_j}, [...]; -inf without a gradient where no class is possible."""
    none = (g.sum(g.exponentials) == 0) & (g.alone == 0)
    return jnp.where(none, -jnp.inf, g.top + g.log_sum)[..., 0]


def entropy(g: Gaps) -> jax.Array:
    """The entropy, [...]."""
    e = g.exponentials
    behind = jnp.where(e == 0, 0, -g.gap)
    return (g.log_sum + g.sum(e * behind) / g.whole)[..., 0]


def log_probs_at(g: Gaps, ids: jax.Array) -> jax.Array:
    """log p of the classes `ids` [..., K]; any number for one that is no class."""
    return pick_several(g.gap, ids, g.axis_name) - g.log_sum


def pick_several(x: jax.Array, ids: jax.Array, axis_name: str | None) -> jax.Array:
    """The numbers of x [..., C] at `ids` [..., K], of the classes of all devices."""
    if ids.shape[-1] == 1:  # its gradient needs no scatter, an array of its own
        return pick(x, ids[..., 0], axis=x.ndim - 1, axis_name=axis_name)[..., None]
    local = own_index(ids, x, -1, axis_name)
    if is_split(x, -1):  # a gather does not know where to put its result
        at = members_each(x, local)
        return jnp.sum(jnp.where(at, x[..., None, :], 0), axis=-1)
    picked = jnp.take_along_axis(x, local, axis=-1, mode="clip")
    if axis_name is None:
        return picked
    here = (local >= 0) & (local < x.shape[-1])
    return sum_over_devices(jnp.where(here, picked, 0), axis_name)


def members_each(like, local):
    """[..., K, C], True at each of the classes."""
    classes = jax.lax.broadcasted_iota(
        jnp.int32, like.shape, like.ndim - 1, out_sharding=placement(like)
    )
    return local[..., :, None] == classes[..., None, :]


# With T the sum of the others' exponentials and S that of the labels' classes. T below
# the smallest normal number would be flushed to 0, and its own maximum takes the place
# of m: log T = t + log Σ_T e^{g_j - t}.
def log_tail(g: Gaps, ids: jax.Array, counted: jax.Array | None) -> jax.Array:
    """log of the mass outside the classes `ids` [..., K] that are counted, [...].

    A comparison with each label, since a scatter would be a pass of its own.
    """
    at = members_each(g.gap, own_index(ids, g.gap, -1, g.axis_name))
    if counted is not None:
        at = at & counted[..., None]
    inside = jnp.any(at, axis=-2)

    own_top = (g.gap == 0) & (g.alone == 1)
    e = jnp.where(own_top, 1, g.exponentials)
    here, there = (g.sum(jnp.where(m, e, 0)) for m in (inside, ~inside))
    ample = there > 1e-12
    ratio = quotient(here, jnp.where(ample, there, 1))
    near = -jnp.log1p(jnp.where(ample, ratio, 0))

    outer = jnp.where(inside, -jnp.inf, g.gap)
    top = max_over_devices(
        jnp.max(stop_gradient(outer), axis=-1, keepdims=True), g.axis_name
    )
    nothing = jnp.isneginf(top)
    top = jnp.where(nothing, 0, top)
    rest = g.sum(jnp.where(inside | jnp.isneginf(g.gap), 0, jnp.exp(outer - top)))
    far = jnp.where(nothing, -jnp.inf, jnp.log(jnp.where(nothing, 1, rest)))
    far = top + far - g.log_sum
    return jnp.where(ample, near, far)[..., 0]


def argmax(x: jax.Array, axis_name: str | None) -> jax.Array:
    """The most probable class of logits, the lowest of several, as int32 [...]."""
    x = stop_gradient(x)
    own = jnp.argmax(x, axis=-1).astype(jnp.int32)
    if axis_name is None:
        return own
    top = jnp.max(x, axis=-1)
    best = max_over_devices(top, axis_name)
    own = own + jax.lax.axis_index(axis_name) * x.shape[-1]
    last = class_count(x, (x.ndim - 1,), axis_name)
    # NaN is the best of all, as in `argmax`.
    ours = (top == best) | jnp.isnan(top)
    return -max_over_devices(-jnp.where(ours, own, last), axis_name)


def statistics(
    x: jax.Array,
    ids: jax.Array | None,
    counted: jax.Array | None,
    axis_name: str | None,
) -> tuple[Any, ...]:
    """log_probs [..., K], entropies, log_normalizers and log_tail of logits [..., C].

    Args:
        x: In the dtype to compute in, the classes on the last axis.
        ids: Integer [..., K], or None: no log_probs and no log_tail. NaN is the answer
            to one outside [0, classes), in log_tail too.
        counted: Boolean [..., K], False for an id that is to be ignored, or None.
        axis_name: The mesh axis of `shard_map` over which the classes are split.
    """
    g = gaps(x, -1, axis_name)
    log_probs = tail = None
    if ids is not None:
        valid = (ids >= 0) & (ids < class_count(x, (x.ndim - 1,), axis_name))
        if counted is not None:
            valid = valid | ~counted
        log_probs = jnp.where(valid, log_probs_at(g, ids), jnp.nan)
        if counted is not None:
            log_probs = jnp.where(counted, log_probs, 0)
        tail = log_tail(g, ids, counted)
        tail = jnp.where(jnp.all(valid, axis=-1), tail, jnp.nan)
    return log_probs, entropy(g), log_normalizer(g), tail


def as_digits(x: jax.Array, like: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A class as two real numbers, exact in the dtype of `like`: x = 4096 a + b.

    A sweep returns real numbers alone.
    """
    high, low = jnp.divmod(x, 4096)
    return high.astype(like.dtype), low.astype(like.dtype)


def join_digits(high: jax.Array, low: jax.Array) -> jax.Array:
    return high.astype(jnp.int32) * 4096 + low.astype(jnp.int32)

"""The divergence from a teacher of whom K classes are known, and the rest as a sum."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.arguments import checks
from jaxloss._core.devices import class_count
from jaxloss._core.numerics.divergence import difference_of_logs
from jaxloss._core.numerics.probability import LogSoftmax, gaps
from jaxloss._core.rule.analytic import pointwise
from jaxloss._core.rule.by_rows import by_rows
from jaxloss._core.statistics import log_normalizer, statistics
from jaxloss.distillation._divergences import (
    Divergence,
    check_divergence,
    divergence_of_logits,
    divergence_terms,
)

TailKind = Literal["bucket", "renormalize", "ignore"]


class Teacher(NamedTuple):
    """The teacher's classes, checked; padding has the log-probability -inf."""

    ids: jax.Array  # [..., K]
    log_probs: jax.Array  # [..., K]
    counted: jax.Array  # [..., K], False for padding
    valid: jax.Array  # [...], whether all ids are classes, each once
    log_tail: jax.Array | None  # [...], as given


def check_kinds(divergence, beta, kind, log_tail):
    check_divergence(divergence, beta)
    checks.check_option("tail", kind, get_args(TailKind))
    if kind == "ignore" and divergence != "forward_kl":
        raise ValueError(
            '`tail` must be "bucket" or "renormalize" unless `divergence` is '
            f'"forward_kl", got "ignore" with {divergence!r}.'
        )
    if log_tail is not None and kind != "bucket":
        raise ValueError(
            '`teacher_log_tail` must be None unless `tail` is "bucket", got one with '
            f"{kind!r}."
        )


def teacher_arrays(ids, log_probs, log_tail, kind, batch, dtype):
    """Checks the teacher's arrays: ids and log-probabilities [..., K]."""
    ids = checks.integer_array("teacher_ids", ids)
    log_probs = checks.to_array("teacher_log_probs", log_probs).astype(dtype)
    if not ids.ndim or not ids.shape[-1]:
        raise ValueError(
            "`teacher_ids` must have at least one class per example on its last axis, "
            f"got shape {ids.shape}."
        )
    if kind == "renormalize" and ids.shape[-1] == 1:
        raise ValueError(
            "`teacher_ids` must have at least two classes per example to renormalize, "
            f"since one gives 0 for every student, got shape {ids.shape}."
        )
    shape = (*batch, ids.shape[-1])
    of = "the student with K classes on the last axis"
    checks.check_broadcast("teacher_ids", ids.shape, of, shape)
    checks.check_broadcast("teacher_log_probs", log_probs.shape, of, shape)
    if ids.dtype.itemsize < 4:
        ids = ids.astype(jnp.int32)
    ids, log_probs = (jnp.broadcast_to(x, shape) for x in (ids, log_probs))
    if log_tail is not None:
        log_tail = checks.to_array("teacher_log_tail", log_tail).astype(dtype)
        checks.check_broadcast(
            "teacher_log_tail", log_tail.shape, "the per-example loss", batch
        )
        log_tail = jnp.broadcast_to(log_tail, batch)
    return ids, log_probs, log_tail


def checked_teacher(ids, log_probs, log_tail, tail, classes):
    """The teacher, whose excluded examples hold nothing that harms."""
    ids_of_rest = -jnp.arange(2, 2 + ids.shape[-1], dtype=ids.dtype)
    padding = (ids == -1) & jnp.isneginf(log_probs)
    inside = (ids >= 0) & (ids < jnp.asarray(classes, ids.dtype))
    each = jnp.sort(jnp.where(padding, ids_of_rest, ids), axis=-1)
    repeated = jnp.any(each[..., 1:] == each[..., :-1], axis=-1)
    valid = tail.counts(jnp.all(padding | inside, axis=-1) & ~repeated)
    ids = checks.check_values(
        "teacher_ids", ids, valid, f"distinct and in [0, {classes}), or -1 for padding"
    )
    nothing = -jnp.log(2.0 * ids.shape[-1]).astype(log_probs.dtype)
    if tail.keep is not None:
        keep = tail.keep[..., None]
        ids = jnp.where(keep, ids, 0)
        padding = padding & keep
        log_probs = jnp.where(keep, log_probs, nothing)
    log_probs = tail.guard(log_probs, -1)
    if log_tail is not None:
        (log_tail,) = tail.select(log_tail, nothing=-0.7)
    return Teacher(ids, log_probs, ~padding, valid, log_tail)


def without_classes(teacher: Teacher, there: jax.Array) -> Teacher:
    """The teacher without the classes that a mask excludes."""
    return teacher._replace(
        counted=teacher.counted & there,
        log_probs=jnp.where(there, teacher.log_probs, -jnp.inf),
    )


def sparse_divergence(
    divergence: Divergence,
    kind: TailKind,
    logits: jax.Array,
    teacher: Teacher,
    beta: jax.Array | None,
    keep: jax.Array | None,
    axis_name: str | None,
) -> jax.Array:
    """The loss [...] of a student's logits [..., C] in the dtype to compute in.

    `beta` [...] is for "jensen_shannon"; `keep` [...] is False in excluded examples.
    """
    classes = class_count(logits, (logits.ndim - 1,), axis_name)

    def of_rows(inputs):
        logits, teacher, beta, keep = inputs
        log_q, _, _, rest = statistics(logits, teacher.ids, teacher.counted, axis_name)
        return _of_known(divergence, kind, teacher, log_q, rest, beta, classes, keep)

    return by_rows(of_rows, (logits, teacher, beta, keep), axis_name)


def _of_known(divergence, kind, teacher, log_q, student_tail, beta, classes, keep):
    """The loss of a student's log-probabilities [..., K] and log tail [...]."""
    log_p = teacher.log_probs
    log_q = jnp.where(teacher.counted, log_q, -jnp.inf)
    if keep is not None:  # numbers that harm no formula
        log_q = jnp.where(keep[..., None], log_q, -jnp.log(2.0 * log_q.shape[-1]))
        student_tail = jnp.where(keep, student_tail, -0.7)
    if kind == "renormalize":
        loss = divergence_of_logits(divergence, log_q, log_p, beta)
    elif kind == "ignore":
        loss = jnp.sum(_forward_term(log_p, log_q), axis=-1)
    else:
        beta = None if beta is None else beta[..., None]
        loss = _of_buckets(divergence, teacher, log_q, student_tail, beta, classes)
    return jnp.where(teacher.valid, loss, jnp.nan)


# With the rest as one class more, p and q are distributions over K + 1 classes, and a
# divergence is a sum of terms none of which is below 0. Those are
#     p log(p/q) - p + q,   in sum   Σ p log(p/q) - (Σ p - 1),
# so that a teacher whose numbers do not add up to 1 needs c = Σ p - 1 added: 0 where
# its own rest makes up for it.
def _of_buckets(divergence, teacher, log_q, log_qt, beta, classes):
    log_p = teacher.log_probs
    eps = float(jnp.finfo(log_p.dtype).eps)
    whole = log_normalizer(gaps(log_p, -1))  # log Σ p
    log_pt = teacher.log_tail
    own = log_pt is None
    if own:
        log_pt = _log_of_rest(whole)
    # Where no class of the student is outside, a rest from rounding is none.
    every = jnp.sum(teacher.counted, axis=-1) == classes
    rounding = jnp.exp(stop_gradient(log_pt)) < 16 * eps
    empty = jnp.isneginf(log_qt) & (every | rounding)
    log_pt = jnp.where(empty, -jnp.inf, log_pt)

    def with_rest(x, rest):
        x = jnp.concatenate([x, rest[..., None]], axis=-1)
        zero = jnp.zeros_like(x)
        return LogSoftmax(x, zero, zero)

    p, q = with_rest(log_p, log_pt), with_rest(log_q, log_qt)
    loss = jnp.sum(divergence_terms(divergence, p, q, beta), axis=-1)
    if divergence == "jensen_shannon":
        return loss
    surplus = jnp.expm1(whole) + jnp.exp(log_pt)
    if own:
        surplus = jnp.where(~empty & (whole < 0), 0, surplus)
    # What rounding makes of a sum of 1 is left out, but not its derivative.
    near = jnp.abs(surplus) < 16 * eps
    surplus = surplus - stop_gradient(jnp.where(near, surplus, 0))
    return loss + surplus if divergence == "forward_kl" else loss - surplus


def _log_of_rest(whole):
    """log(1 - e^L) for L = log Σ p; -inf without a gradient where L >= 0."""
    none = whole >= 0
    low = whole < -0.5
    near = jnp.log(-jnp.expm1(jnp.where(none | low, -0.5, whole)))
    far = jnp.log1p(-jnp.exp(jnp.where(low, whole, -1)))
    return jnp.where(none, -jnp.inf, jnp.where(low, far, near))


# f = p (log p - log q), df/dlog p = p (log p - log q + 1), df/dlog q = -p.
@pointwise
def _forward_term(log_p, log_q):
    p, absent = jnp.exp(log_p), jnp.isneginf(log_p)
    gap = jnp.where(absent, 0, difference_of_logs(log_p, log_q, 0.0))
    excluded = jnp.isposinf(gap)
    finite = jnp.where(excluded, 0, gap)
    value = jnp.where(excluded, jnp.inf, p * finite)
    return value, (jnp.where(excluded, 0, p * (finite + 1)), -p)

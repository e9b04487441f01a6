"""The divergences of a student from its teacher, from their log-probabilities."""

from __future__ import annotations

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.compilers.order import recomputed
from jaxloss._core.compilers.pieces import in_pieces
from jaxloss._core.devices import broadcast_batch, broadcast_to, sum_over_devices
from jaxloss._core.numerics.divergence import (
    difference_of_logs,
    expm1_near_0,
    jensen_shannon_rule,
    jensen_shannon_term,
    kl_rule,
    kl_term,
    shift_of_ratio,
)
from jaxloss._core.numerics.functions import accurate_expm1
from jaxloss._core.numerics.probability import (
    LogSoftmax,
    gaps,
    log_softmax_of,
    made_again,
)
from jaxloss._core.rule.analytic import pointwise

Divergence = Literal["forward_kl", "reverse_kl", "jensen_shannon"]


def check_divergence(divergence, beta):
    checks.check_option("divergence", divergence, get_args(Divergence))
    if beta is not None and divergence != "jensen_shannon":
        raise ValueError(
            '`beta` must be None unless `divergence` is "jensen_shannon", got one with '
            f"{divergence!r}."
        )


def beta_array(beta, dtype):
    """`beta` as a scalar, 0.5 for None."""
    return checks.scalar("beta", 0.5 if beta is None else beta, dtype)


def one_per_example(x: jax.Array, logits: jax.Array) -> jax.Array:
    """Broadcasts to the batch [...] of logits [..., C], and to its placement."""
    return broadcast_batch(x, logits, logits.ndim - 1, ())


def divergence_of_logits(
    divergence: Divergence,
    student: jax.Array,
    teacher: jax.Array,
    beta: jax.Array | None,
    axis_name: str | None = None,
    temperature: jax.Array | None = None,
) -> jax.Array:
    """The divergence [...] of logits [..., C] in the dtype to compute in.

    `beta` [...] is for "jensen_shannon", and None for the others. `temperature` [...]
    divides the logits of both.
    """
    if beta is None:
        beta = one_per_example(jnp.zeros((), student.dtype), student)
    numbers = (beta,) if temperature is None else (beta, temperature)
    return _of_logits(
        student, teacher, *numbers, divergence=divergence, axis_name=axis_name
    )


# With f the term of one class as a function of log p and log q, and b = df/dlog q,
#     dlog q_k / dx_j = [k = j] - q_j,   so that   dV/dx_j = b_j - q_j B,   B = Σ_k b_k,
# by the student's logits x, and likewise by the teacher's. The slopes add up to 0: that
# of a class with more than half of the probability, where the two terms nearly cancel,
# is minus the sum of the others. A class without probability has a fixed logit.
#
# The logits x and y are divided by a temperature T after their maximum is taken off:
# rounding x/T would cost near-equal ones their difference. With s and t the slopes by
# x/T and y/T, z = log p - log q, and a and b the derivatives of f by log p and log q,
#     dV/dx = s/T,     -T dV/dT = Σ (s log q + t log p) = Σ ((s + t) log p - s z),
# where for near-equal distributions s and t nearly cancel, but f = a + b, so that
#     s + t = f - p Σ a - q Σ b = f - p V + (p - q) Σ b
# is of second order, as s z is.
@pointwise
def _of_logits(student, teacher, *numbers, divergence, axis_name):
    of_rows, again = (
        functools.partial(_value_and_slopes, divergence, axis_name, again)
        for again in (False, True)
    )
    arrays = student, teacher, *numbers
    return in_pieces(of_rows, *arrays, axis_name=axis_name, otherwise=again)


def _value_and_slopes(
    divergence, axis_name, again, student, teacher, beta, temperature=None
):
    """With `again`, each pass over the classes makes what it reads once more."""

    def total(x):
        return sum_over_devices(jnp.sum(x, axis=-1, keepdims=True), axis_name)

    def slope(by, of, balanced):
        if not balanced:
            by = by - of.p * total(by)
            most = of.p > 0.5
            by = jnp.where(most, -total(jnp.where(most, 0, by)), by)
        return jnp.where(jnp.isneginf(of.log_p), 0, by)

    # The series costs less, but so little that XLA for GPU stores the terms of a sum.
    expm1 = accurate_expm1 if again else expm1_near_0
    scale = None if temperature is None else temperature[..., None]
    rows = [(gaps(x, -1, axis_name, scale), x) for x in (teacher, student)]

    def distributions(times):
        made = [made_again(g, x, times) if again else g for g, x in rows]
        return map(log_softmax_of, made)

    def terms(p, q, shift):
        lost = p.lost - shift
        of_p, of_q = (None, None) if again else (p.p, q.p)
        if divergence == "forward_kl":
            f, (by_p, by_q, *_) = kl_rule(
                p.log_p, q.log_p, lost, q.lost, of_p, of_q, expm1
            )
        elif divergence == "reverse_kl":
            f, (by_q, by_p, *_) = kl_rule(
                q.log_p, p.log_p, q.lost, lost, of_q, of_p, expm1
            )
        else:
            each = broadcast_to(beta[..., None], p.log_p)
            f, (by_p, by_q, *_, by_beta) = jensen_shannon_rule(
                p.log_p, q.log_p, lost, q.lost, each, of_p, of_q
            )
            return f, by_p, by_q, by_beta
        return f, by_p, by_q, jnp.zeros_like(f)

    p, q = distributions(1)
    shift = shift_of_ratio(p, q, -1, axis_name, expm1)
    if again:
        p, q = distributions(2)
    f, by_p, by_q, by_beta = terms(p, q, shift)
    value, by_beta = (total(x)[..., 0] for x in (f, by_beta))
    if again:
        p, q = distributions(3)
        _, by_p, by_q, _ = terms(p, q, recomputed(shift))
    # Of KL(a|b) the slopes by log b are b - a, which add up to 0 as they are.
    of_student = slope(by_q, q, divergence == "forward_kl")
    of_teacher = slope(by_p, p, divergence == "reverse_kl")
    if temperature is None:
        return value, (of_student, of_teacher, by_beta)
    gap = difference_of_logs(p.log_p, q.log_p, p.lost - shift - q.lost)
    both = f - p.p * value[..., None] + (p.p - q.p) * total(by_q)
    moved = _moved(gap, both, p.log_p, q.log_p, of_teacher, of_student)
    each = temperature[..., None]
    slopes = of_student / each, of_teacher / each, by_beta
    return value, (*slopes, -total(moved)[..., 0] / temperature)


def _moved(gap, both, log_p, log_q, of_teacher, of_student):
    """s log q + t log p, by the sum of s and t where the distributions are near."""
    near = both * log_p - of_student * gap
    apart = (
        jnp.where(jnp.isneginf(log), 0, slope * log)
        for log, slope in ((log_p, of_teacher), (log_q, of_student))
    )
    return jnp.where(jnp.abs(gap) < 1, near, sum(apart))


def divergence_terms(
    divergence: Divergence, p: LogSoftmax, q: LogSoftmax, beta: jax.Array | None
) -> jax.Array:
    """One term per class, none below 0; p is the teacher's and q the student's."""
    if divergence == "forward_kl":
        return kl_term(p.log_p, q.log_p, p.lost, q.lost)
    if divergence == "reverse_kl":
        return kl_term(q.log_p, p.log_p, q.lost, p.lost)
    beta = jnp.broadcast_to(jnp.asarray(beta), p.log_p.shape)
    return jensen_shannon_term(p.log_p, q.log_p, p.lost, q.lost, beta)

"""The divergences of a student from its teacher, from their log-probabilities."""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.devices import sum_over_devices
from jaxloss._core.numerics.divergence import (
    jensen_shannon_term,
    kl_term,
    shift_of_ratio,
)
from jaxloss._core.numerics.probability import LogSoftmax, log_softmax

Divergence = Literal["forward_kl", "reverse_kl", "jensen_shannon"]


def check_divergence(divergence, beta):
    checks.check_option("divergence", divergence, get_args(Divergence))
    if beta is not None and divergence != "jensen_shannon":
        raise ValueError(
            '`beta` must be None unless `divergence` is "jensen_shannon", got it with '
            f"{divergence!r}."
        )


def beta_array(beta, dtype):
    """`beta` as a scalar, 0.5 for None."""
    return checks.scalar("beta", 0.5 if beta is None else beta, dtype)


def divergence_of_logits(
    divergence: Divergence,
    student: jax.Array,
    teacher: jax.Array,
    beta: jax.Array | None,
    axis_name: str | None = None,
) -> jax.Array:
    """The divergence of logits [..., C] in the dtype to compute in.

    `beta`, in the shape of the logits or a scalar, is for "jensen_shannon".
    """
    p = log_softmax(teacher, -1, axis_name)
    q = log_softmax(student, -1, axis_name)
    shift = shift_of_ratio(p, q, -1, axis_name)
    p = p._replace(lost=p.lost - shift)
    terms = divergence_terms(divergence, p, q, beta)
    return sum_over_devices(jnp.sum(terms, axis=-1), axis_name)


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

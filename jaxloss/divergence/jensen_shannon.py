"""The Jensen-Shannon divergence."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import between
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.numerics.exact import two_difference
from jaxloss._core.numerics.functions import accurate_expm1, magnitude
from jaxloss._core.numerics.probability import log_softmax
from jaxloss._core.rule.analytic import pointwise
from jaxloss.divergence._terms import bregman, divergence_arguments


@public(beta=between(0, 1))
def jensen_shannon_divergence(
    logits_p: ArrayLike,
    logits_q: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    *,
    beta: ArrayLike = 0.5,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Jensen-Shannon divergence of two softmax distributions.

    Choose it to draw two networks, or a student and a teacher, towards each other with
    a bounded penalty. `kl_divergence` is infinite where the predictions exclude a class
    that the targets allow.

    With $p$ and $q$ the softmax of the logits, $b$ the `beta` and
    $m = b\,p + (1 - b)\,q$:

    $$ b \sum_j p_j \log \frac{p_j}{m_j} + (1 - b) \sum_j q_j \log \frac{q_j}{m_j} $$

    Args:
        logits_p: Floating, `[..., C]` with the classes along `axis`, unnormalised
            log-probabilities.
        logits_q: Real, broadcastable to `logits_p`, unnormalised log-probabilities.
        axis: The class axis, or a tuple of axes that share one distribution; None for
            all axes.
        beta: In [0, 1], broadcastable to `[...]`, the weight of the first distribution.
            0.5 is the symmetric divergence; 0 and 1 give 0.
        where: Boolean mask; False entries are excluded. A mask of the rank of
            `logits_p` excludes single classes.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, from 0 to log 2; a scalar if reduced.

    Gradient:
        $b\,p_j \left( \log(p_j / m_j) - \sum_k p_k \log(p_k / m_k) \right)$ for
        `logits_p`, likewise for `logits_q`, and the first sum of the formula minus the
        second for `beta`.

    Raises:
        ValueError: If `beta` lies outside [0, 1].

    Example:
        >>> import jaxloss as jl
        >>> p, q = [[0.0, 0.0], [100.0, 0.0]], [[0.0, 1e-3], [0.0, 100.0]]
        >>> [f"{x:.4g}" for x in jl.jensen_shannon_divergence(p, q)]
        ['3.125e-08', '0.6931']

    References:
        Jianhua Lin, "Divergence Measures Based on the Shannon Entropy", 1991,
        https://doi.org/10.1109/18.61115, equation 4.1
    """
    x, y, examples = divergence_arguments(
        "logits_p", logits_p, "logits_q", logits_q,
        axis, where, weights, reduction, fill=(-jnp.inf, -jnp.inf),
    )  # fmt: skip
    axes = examples.axes
    batch = tuple(n for a, n in enumerate(x.shape) if a not in axes)
    beta = checks.to_array("beta", beta).astype(x.dtype)
    checks.check_broadcast("beta", beta.shape, "the per-example loss", batch)
    (beta,) = examples.tail.select(jnp.broadcast_to(beta, batch))
    beta = checks.broadcast_to(jnp.expand_dims(beta, axes), x)
    p, q = log_softmax(x, axes), log_softmax(y, axes)

    # The rounding of the two log-sum-exps shifts log(p/q) by one number per example.
    # Since Σ_j q_j (p_j/q_j) = 1, that shift is log(1 + Σ_j q_j (e^gap_j - 1)).
    gap = _difference(p.log_p, q.log_p, p.lost - q.lost)
    near = jnp.abs(gap) < 1
    excess = jnp.where(near, q.p * accurate_expm1(jnp.where(near, gap, 0)), p.p - q.p)
    shift = stop_gradient(jnp.log1p(jnp.sum(excess, axis=axes, keepdims=True)))

    terms = _jensen_shannon_term(p.log_p, q.log_p, p.lost - shift, q.lost, beta)
    loss = jnp.sum(terms, axis=axes)
    return examples.tail.reduce(loss)


# With m = beta p + (1 - beta) q,
#     f = beta p log(p/m) + (1 - beta) q log(q/m)
#       = beta (p log(p/m) - p + m) + (1 - beta) (q log(q/m) - q + m),
# without negative terms. Up to terms that cancel in the sum over the classes,
#     df/dlog p = beta p log(p/m),   df/dlog q = (1 - beta) q log(q/m),
#     df/dbeta = (p log(p/m) - p + m) - (q log(q/m) - q + m).
# Let h be the larger of p and q, with weight w, l the smaller, with weight v = 1 - w,
# and u = log(h/l):
#     log(m/h) = log(1 + v (e^-u - 1)),   log(m/l) = log(1 + w (e^u - 1)).
@pointwise
def _jensen_shannon_term(log_p, log_q, lost_p, lost_q, beta):
    p, q = jnp.exp(log_p) * (1 + lost_p), jnp.exp(log_q) * (1 + lost_q)
    gap = _difference(log_p, log_q, lost_p - lost_q)
    ahead = gap >= 0
    u = jnp.where(jnp.isinf(gap), jnp.finfo(gap.dtype).max, magnitude(gap))
    w, v = jnp.where(ahead, beta, 1 - beta), jnp.where(ahead, 1 - beta, beta)
    high, low = jnp.where(ahead, p, q), jnp.where(ahead, q, p)
    m = w * high + v * low

    step = v * accurate_expm1(-u)
    near = step > -0.5
    ratio = jnp.where(near, 1, w + v * jnp.exp(-u))
    zero = ratio == 0  # w = 0 and u is large
    far = jnp.where(zero, -u, jnp.log(jnp.where(zero, 1, ratio)))
    z_high = jnp.where(near, jnp.log1p(jnp.where(near, step, 0)), far)
    moderate = u < 80  # beyond, e^u may overflow: log(m/l) = u + log(m/h)
    z_low = jnp.log1p(w * accurate_expm1(jnp.where(moderate, u, 0)))
    z_low = jnp.where(moderate, z_low, u + z_high)

    term_high, term_low = bregman(high, m, z_high), bregman(low, m, z_low)
    value = w * term_high + v * term_low
    slope_high, slope_low = -w * high * z_high, -v * low * z_low
    return value, (
        jnp.where(ahead, slope_high, slope_low),
        jnp.where(ahead, slope_low, slope_high),
        jnp.zeros_like(p),
        jnp.zeros_like(q),
        jnp.where(ahead, term_high - term_low, term_low - term_high),
    )


def _difference(a, b, correction):
    """(a - b) + correction; 0 where the class is impossible under both."""
    impossible = jnp.isneginf(a) & jnp.isneginf(b)
    difference, rounding = two_difference(
        jnp.where(impossible, 0, a), jnp.where(impossible, 0, b)
    )
    return difference + (rounding + correction)

"""The Jensen-Shannon divergence."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import between
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.numerics.divergence import jensen_shannon_term, shift_of_ratio
from jaxloss._core.numerics.probability import log_softmax
from jaxloss.divergence._terms import divergence_arguments


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

    Also known as JSD.

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

    shift = shift_of_ratio(p, q, axes)
    terms = jensen_shannon_term(p.log_p, q.log_p, p.lost - shift, q.lost, beta)
    loss = jnp.sum(terms, axis=axes)
    return examples.tail.reduce(loss)

"""Log-probabilities of all classes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.classes import mask_classes
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.devices import check_split
from jaxloss._core.numerics.probability import gaps
from jaxloss._core.softmax import widen


@public()
def log_softmax(
    logits: ArrayLike,
    axis: int = -1,
    *,
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    r"""Logarithm of the softmax, with all its digits for a sure class.

    Choose it where you need the log-probabilities of all classes. A loss of one label
    per example is `softmax_cross_entropy_with_integer_labels`, without an array of
    them.

    With $x$ the logits:

    $$ x_j - \log \sum_k e^{x_k} $$

    Args:
        logits: Floating, `[..., C]` with the classes along `axis`, unnormalised
            log-probabilities; -inf for an impossible class.
        axis: The class axis.
        where: Boolean mask; False entries are excluded, and 0 in the result. A mask of
            the rank of `logits` excludes single classes, which are -inf in the result,
            as in `jax.nn.log_softmax`.
        axis_name: The mesh axis over which the classes are split, inside
            `jax.shard_map`. Each device then has the log-probabilities of its own
            classes.

    Returns:
        The shape of `logits`, in nats, at most 0; -inf for an impossible class.

    Gradient:
        $[i = j] - p_i$ of entry $j$ for logit $i$, with $p$ the softmax.

    Numerics:
        A class of probability near 1 keeps its digits, which `jax.nn.log_softmax`
        rounds to 0.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss as jl
        >>> for log_p in jl.log_softmax(jnp.array([50.0, 0.0, -jnp.inf])):
        ...     print(f"{log_p:.4g}")
        -1.929e-22
        -50
        -inf

    References:
        Pierre Blanchard, Desmond J. Higham and Nicholas J. Higham, "Accurately
        computing the log-sum-exp and softmax functions", 2021,
        https://doi.org/10.1093/imanum/draa038
    """
    logits, _ = checks.class_array("logits", logits, axis)
    axis = checks.canonical_axis("axis", axis, logits.ndim)
    check_split("logits", logits, axis_name)
    dtype = checks.compute_dtype(logits)
    where = checks.unweighted_mask(where)
    logits, examples = mask_classes(
        logits, (axis,), where, None, "none", dtype, axis_name=axis_name
    )
    g = gaps(widen(logits), axis, axis_name)
    log_p = g.gap - g.log_sum
    if examples.classes is not None:
        return jnp.where(examples.classes, log_p, -jnp.inf)
    keep = examples.tail.keep
    return log_p if keep is None else jnp.where(jnp.expand_dims(keep, axis), log_p, 0)

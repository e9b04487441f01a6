"""The binary sparsemax loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction


@public()
def sparsemax_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the binary sparsemax loss for labels of zero and one.

    Choose it over `sigmoid_binary_cross_entropy` where a clear decision should cost
    exactly 0 and probabilities of exactly 0 and 1 are wanted.

    With $z$ the logit at label 0 and its negative at label 1:

    $$
    \begin{cases}
    0 & z \le -1 \\
    (z + 1)^2 / 4 & -1 < z < 1 \\
    z & z \ge 1
    \end{cases}
    $$

    Args:
        logits: Floating, `[...]`, scores whose sign is the decision.
        labels: Real, integer or boolean, 0 or 1, broadcastable to `logits`.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0; a scalar if reduced.

    Gradient:
        $\max(0, \min((z + 1) / 2, 1))$ for `logits`, negative at label 1; continuous,
        so that there is no kink to decide. `labels` choose the branch and receive 0.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. A logit of inf or -inf costs 0 or inf. A label other than 0 and 1 gives
        NaN, and raises under `checkify`.

    Raises:
        TypeError: If an input is not real, `logits` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `logits` or `reduction` is
            unknown.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.sparsemax_loss([0.0, 2.0, 2.0], [1, 1, 0]))
        [0.25 0.   2.  ]

    References:
        André F. T. Martins and Ramón F. Astudillo, "From Softmax to Sparsemax: A Sparse
        Model of Attention and Multi-Label Classification", 2016,
        https://arxiv.org/abs/1602.02068
    """
    (x, y), tail = checks.elementwise(
        where, weights, reduction, logits=logits, labels=labels
    )
    valid = (y == 0) | (y == 1)
    y = checks.check_values("labels", y, tail.counts(valid), "0 or 1")
    loss = _sparse_plus(jnp.where(y == 0, x, jnp.where(valid, -x, jnp.nan)))
    return tail.reduce(loss)


def _sparse_plus(x):
    """0 up to -1, x from 1 on, (x + 1)²/4 between."""
    middle = jnp.where(jnp.abs(x) >= 1, 0, x + 1)
    return jnp.where(x <= -1, 0, jnp.where(x >= 1, x, middle * middle / 4))

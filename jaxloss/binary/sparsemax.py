"""The binary sparsemax loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike


@public()
def sparsemax_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Binary sparsemax loss: exactly zero for a logit beyond 1 on the correct side.

    Choose it over `sigmoid_binary_cross_entropy` where a clear decision should cost
    exactly 0 and the model's probabilities should reach exactly 0 and 1.

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
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0.

    Gradient:
        $\max(0, \min((z + 1) / 2, 1))$ for `logits`, negative at label 1; continuous,
        without a kink. `labels` select the sign of $z$ and have gradient 0.

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
    """The loss of z = x: 0 for x <= -1, (x + 1)²/4 up to 1, x beyond."""
    middle = jnp.where(jnp.abs(x) >= 1, 0, x + 1)
    return jnp.where(x <= -1, 0, jnp.where(x >= 1, x, middle * middle / 4))

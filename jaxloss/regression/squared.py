"""Squared errors."""

from __future__ import annotations

import jax

from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss.regression._inputs import errors


@public()
def squared_error(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Squared error: the squared difference of predictions and targets.

    Choose it where one large error is worse than many small ones. `l2_loss` is half of
    it; `huber_loss` and `absolute_error` are less sensitive to outliers.

    $$ e^2, \quad e = \text{predictions} - \text{targets} $$

    Also known as mean squared error (MSE). PyTorch: `nn.MSELoss`; Keras:
    `MeanSquaredError`.

    Args:
        predictions: Floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `predictions`. None means 0.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0, in the squared unit.

    Gradient:
        $2e$ for `predictions`, $-2e$ for `targets`; smooth everywhere.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.squared_error([1.0, 2.5], [1.0, 1.0]))
        [0.   2.25]

    References:
        Trevor Hastie, Robert Tibshirani and Jerome Friedman, "The Elements of
        Statistical Learning", 2nd edition, 2009, section 10.6,
        https://hastie.su.domains/ElemStatLearn/
    """
    (e,), tail = errors(predictions, targets, where, weights, reduction)
    return tail.reduce(e * e)


@public()
def l2_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""L2 loss: half the squared error.

    Choose it over `squared_error` where the gradient should be the error itself, as in
    optax and in the textbooks on linear models.

    $$ e^2 / 2, \quad e = \text{predictions} - \text{targets} $$

    Args:
        predictions: Floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `predictions`. None means 0.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0, in the squared unit.

    Gradient:
        $e$ for `predictions`, $-e$ for `targets`; smooth everywhere.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.l2_loss([1.0, 2.5], [1.0, 1.0]))
        [0.    1.125]

    References:
        Christopher M. Bishop, "Pattern Recognition and Machine Learning", 2006, section
        1.5.5, https://www.microsoft.com/en-us/research/people/cmbishop/prml-book/
    """
    (e,), tail = errors(predictions, targets, where, weights, reduction)
    return tail.reduce((0.5 * e) * e)

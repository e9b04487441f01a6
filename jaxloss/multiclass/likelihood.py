"""The negative log-likelihood of given log-probabilities."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.classes import (
    class_weight_array,
    integer_arguments,
    weight_of_label,
)
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.numerics.exact import zero_safe_product
from jaxloss._core.softmax import is_class, pick, widen


@public()
def nll_loss(
    log_probs: ArrayLike,
    labels: ArrayLike,
    axis: int = -1,
    *,
    class_weights: ArrayLike | None = None,
    ignore_index: int | None = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Negative log-likelihood of class labels under given log-probabilities.

    Choose it where log-probabilities already exist. From logits,
    `softmax_cross_entropy_with_integer_labels` is faster and more accurate.

    With $y$ the label and $w$ the `class_weights`:

    $$ -w_y \, \text{logprobs}_y $$

    PyTorch: `nn.NLLLoss`, `nn.NLLLoss2d`.

    Args:
        log_probs: Floating, `[..., C]` with the classes along `axis`, in nats. They are
            not normalised.
        labels: Integer, in [0, C), broadcastable to `[...]`.
        axis: The class axis.
        class_weights: Real, `[C]`, a factor per class; None means 1. As in PyTorch,
            "mean" divides by the sum of `class_weights[label]`.
        ignore_index: Python int, possibly outside [0, C). Examples with this label are
            excluded. None ignores no label (PyTorch's default is -100).
        where: Boolean mask; False entries are excluded. A mask of the rank of
            `log_probs` excludes single classes.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, at least 0 for log-probabilities at most 0; a scalar if
        reduced.

    Gradient:
        $-w_y$ for `log_probs` at the label, 0 elsewhere, and $-\text{logprobs}_y$ for
        the class weight $w_y$.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.nll_loss([[-0.25, -1.5], [-0.125, -2.125]], [0, 1]))
        [0.25  2.125]

    References:
        PyTorch, "torch.nn.NLLLoss",
        https://docs.pytorch.org/docs/stable/generated/torch.nn.NLLLoss.html
    """
    log_probs, (axis,) = checks.class_array("log_probs", log_probs, (axis,))
    log_probs, labels, examples = integer_arguments(
        "log_probs", log_probs, labels, axis, where, weights, reduction, ignore_index
    )
    loss = -widen(pick(log_probs, labels, axis=axis))
    loss = jnp.where(is_class(log_probs, labels, axis), loss, jnp.nan)
    mass = None
    if class_weights is not None:
        scale = class_weight_array(class_weights, log_probs, examples)
        mass = weight_of_label(scale, labels, examples)
        loss = zero_safe_product(mass, loss)
    return examples.tail.reduce(loss, mass)

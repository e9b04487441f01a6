"""The negative log-likelihood of classes that have log-probabilities."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.classes import (
    class_weight_array,
    integer_arguments,
    weight_of_label,
)
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
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
    r"""Returns the negative log-likelihood of class labels under log-probabilities.

    Choose it where the log-probabilities are there already; from logits
    `softmax_cross_entropy_with_integer_labels` is faster and more exact.

    With $y$ the label and $w_y$ its class weight:

    $$ -w_y \, \text{logprobs}_y $$

    Args:
        log_probs: Floating, `[..., C]` with the classes along `axis`, in nats; they are
            taken as they are, not normalised.
        labels: Integer, in [0, C), broadcastable to `[...]`.
        axis: The class axis.
        class_weights: Real, `[C]`, what each class counts for. None counts each 1.
            "mean" divides by the sum of class_weights[label], as in PyTorch.
        ignore_index: Python int, in [0, C) or not: examples with this label count
            nowhere. None, unlike PyTorch's -100, ignores no label.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). A mask of the rank of `log_probs` drops single
            classes.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, in nats, at least 0 for log-probabilities at most 0; a scalar if
        reduced.

    Gradient:
        $-w_y$ for `log_probs` at the label, 0 elsewhere; `class_weights` receive
        theirs, `labels` none.

    Numerics:
        Computes in float32, or float64 if `log_probs` are float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. A log-probability of -inf at the label gives inf. A label outside [0, C)
        gives NaN, and raises under `checkify`.

    Raises:
        TypeError: If `log_probs` is not floating, `labels` is not integer, another
            input not real, or `where` not boolean.
        ValueError: If an input does not fit the shapes above, `axis` names no axis,
            there is no class, or `reduction` is unknown.

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

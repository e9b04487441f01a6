"""Label smoothing as a step of its own."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import between
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.types import ArrayLike


@public(alpha=between(0, 1))
def smooth_labels(
    labels: ArrayLike,
    alpha: ArrayLike,
    *,
    axis: int | tuple[int, ...] | None = -1,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Label distributions mixed with the uniform distribution.

    Choose it for soft labels that several losses share. The class losses have their own
    `label_smoothing`, which needs no second array.

    With $C$ the number of classes along `axis`, or of those that `where` keeps:

    $$ (1 - \alpha) \cdot \text{labels} + \alpha / C $$

    Args:
        labels: Floating, `[..., C]`, such as the result of `jax.nn.one_hot`.
        alpha: $\alpha$ in [0, 1], broadcastable to `labels`, the share that is spread
            evenly over the classes.
        axis: The class axis, a tuple of axes, or None for all of them.
        where: Boolean mask of classes, broadcastable to `labels`. As in optax, $C$
            counts only its True entries, but every class receives $\alpha / C$.

    Returns:
        The shape and dtype of `labels`.

    Gradient:
        $1 - \alpha$ for `labels`, $1 / C - \text{labels}$ for `alpha`; linear in each.

    Numerics:
        Half-precision labels are mixed in half precision.

    Raises:
        ValueError: If `alpha` lies outside [0, 1].

    Example:
        >>> import jaxloss as jl
        >>> print(jl.smooth_labels([0.0, 1.0, 0.0, 0.0], 0.2))
        [0.05 0.85 0.05 0.05]

    References:
        Christian Szegedy, Vincent Vanhoucke, Sergey Ioffe, Jonathon Shlens and Zbigniew
        Wojna, "Rethinking the Inception Architecture for Computer Vision", 2016,
        section 7, https://arxiv.org/abs/1512.00567
    """
    labels = checks.to_array("labels", labels)
    if not jnp.issubdtype(labels.dtype, jnp.floating):
        raise TypeError(
            f"`labels` must be floating, got {labels.dtype}; for class indices use "
            "`jax.nn.one_hot(labels, classes)`."
        )
    every = tuple(range(labels.ndim))
    axes = every if axis is None else checks.canonical_axes("axis", axis, labels.ndim)
    alpha = checks.to_array("alpha", alpha).astype(labels.dtype)
    if where is None:
        count = math.prod(labels.shape[a] for a in axes)
    else:
        where = checks.to_mask("where", where, weighted=False)
        checks.check_broadcast("where", where.shape, "labels", labels.shape)
        where = jnp.broadcast_to(where, labels.shape)
        count = jnp.sum(where, axis=axes, keepdims=True).astype(labels.dtype)
        count = jnp.maximum(count, 1)
    return (1 - alpha) * labels + alpha / count

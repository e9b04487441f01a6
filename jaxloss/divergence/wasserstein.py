"""The Wasserstein distance of histograms on a line."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.devices import whole
from jaxloss.divergence._terms import divergence_arguments


@public()
def wasserstein_distance(
    probabilities: ArrayLike,
    targets: ArrayLike,
    axis: int = -1,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Wasserstein (earth mover's) distance of histograms on an integer grid.

    Choose it for ordered classes, such as ages, ratings or bins of a value, where a
    near miss should cost less than a far one; `kl_divergence` ignores the order.

    With $p$ the probabilities and $t$ the targets:

    $$ \sum_{k < C} \Big| \sum_{j \le k} (p_j - t_j) \Big| $$

    Also known as EMD.

    Args:
        probabilities: Floating, `[..., C]` with the classes along `axis`, at least 0.
        targets: Real, at least 0, broadcastable to `probabilities`, of the same sum.
        axis: The class axis, whose neighbours are a distance of 1 apart.
        where: Boolean mask; False entries are excluded. A mask of the rank of
            `probabilities` excludes single classes and closes the gaps in the grid.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in steps of the grid times mass, from 0 to C - 1 for probabilities; a
        scalar if reduced.

    Gradient:
        $\sum_{j \le k < C} \operatorname{sign} \sum_{i \le k} (p_i - t_i)$, with
        $\operatorname{sign} 0 = 0$, for probability $j$, and its negative for target
        $j$.

    Numerics:
        If the two sums differ, neither histogram is rescaled: the surplus stays at the
        last class, at no cost. A negative entry gives NaN.

    Example:
        >>> import jaxloss as jl
        >>> probabilities, targets = [[0.0, 1.0, 0.0], [0.2, 0.5, 0.3]], [0.0, 0.0, 1.0]
        >>> [f"{x:.4f}" for x in jl.wasserstein_distance(probabilities, targets)]
        ['1.0000', '0.9000']

    References:
        Sergei S. Vallender, "Calculation of the Wasserstein distance between
        probability distributions on the line", 1974, https://doi.org/10.1137/1118101

        Le Hou, Chen-Ping Yu and Dimitris Samaras, "Squared Earth Mover's Distance-based
        Loss for Training Deep Neural Networks", 2016, https://arxiv.org/abs/1611.05916
    """
    ndim = checks.to_array("probabilities", probabilities).ndim
    axis = checks.canonical_axis("axis", axis, ndim)
    p, t, examples = divergence_arguments(
        "probabilities", probabilities, "targets", targets,
        axis, where, weights, reduction, fill=(0.0, 0.0),
    )  # fmt: skip
    p, t = (
        checks.check_values(name, mass, examples.holds(mass >= 0), "at least 0")
        for name, mass in (("probabilities", p), ("targets", t))
    )
    surplus = whole(jnp.where((p >= 0) & (t >= 0), p - t, jnp.nan), axis)
    # The mass that moves from each class to the next; none moves beyond the last.
    flow = jnp.cumsum(surplus, axis=axis)
    total = jax.lax.index_in_dim(flow, -1, axis, keepdims=False)
    classes = examples.classes
    if classes is None:
        flow = jax.lax.slice_in_dim(flow, 0, flow.shape[axis] - 1, axis=axis)
    else:
        rank = jnp.cumsum(classes, axis=axis, dtype=jnp.int32)
        last = jnp.max(rank, axis=axis, keepdims=True)
        flow = jnp.where(classes & (rank < last), flow, 0)
    loss = jnp.sum(jnp.sign(flow) * flow, axis=axis)
    # The last class has no flow, but its mass must be valid too.
    loss = jnp.where(jnp.isnan(total), jnp.nan, loss)
    return examples.tail.reduce(loss)

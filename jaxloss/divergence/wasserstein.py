"""The Wasserstein distance on a line."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.devices import whole
from jaxloss.divergence._terms import arguments


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
    r"""Returns the earth mover's distance of histograms on an integer grid.

    Choose it where the classes are ordered, such as ages, ratings or bins of a value,
    so that a near miss costs less than a far one; `kl_divergence` knows no order.

    With $p$ the probabilities and $t$ the targets:

    $$ \sum_{k < C} \Big| \sum_{j \le k} (p_j - t_j) \Big| $$

    Args:
        probabilities: Floating, `[..., C]` with the classes along `axis`, at least 0.
        targets: Real, at least 0, broadcastable to `probabilities`, of the same sum.
        axis: The class axis, whose neighbours are a distance of 1 apart.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). A mask of the rank of `probabilities` drops
            single classes, whose neighbours then are neighbours.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, in steps of the grid times mass, from 0 to C - 1 for probabilities; a
        scalar if reduced.

    Gradient:
        $\sum_{j \le k < C} \operatorname{sign} \sum_{i \le k} (p_i - t_i)$ for
        probability $j$, the opposite for its target; 0 counts where the cumulative sums
        agree.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. Sums that differ are not scaled: the difference stays on the last class.
        A negative entry gives NaN.

    Raises:
        TypeError: If `probabilities` is not floating, another input not real, or
            `where` not boolean.
        ValueError: If an input does not fit the shapes above, `axis` names no axis,
            there is no class, or
            `reduction` is unknown.

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
    p, t, examples = arguments(
        "probabilities", probabilities, "targets", targets,
        axis, where, weights, reduction, nothing=(0.0, 0.0),
    )  # fmt: skip
    p, t = (
        checks.check_values(name, mass, examples.holds(mass >= 0), "at least 0")
        for name, mass in (("probabilities", p), ("targets", t))
    )
    surplus = whole(jnp.where((p >= 0) & (t >= 0), p - t, jnp.nan), axis)
    # What has to cross from each point to the next; beyond the last there is none.
    flow = jnp.cumsum(surplus, axis=axis)
    classes = examples.classes
    if classes is None:
        flow = jax.lax.slice_in_dim(flow, 0, flow.shape[axis] - 1, axis=axis)
    else:
        rank = jnp.cumsum(classes, axis=axis, dtype=jnp.int32)
        last = jnp.max(rank, axis=axis, keepdims=True)
        flow = jnp.where(classes & (rank < last), flow, 0)
    loss = jnp.sum(jnp.sign(flow) * flow, axis=axis)
    return examples.tail.reduce(loss)

"""Losses that keep the features of two views apart: Barlow Twins and VICReg."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.sharding import PartitionSpec

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import at_least
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.devices import (
    max_over_devices,
    on_each_device,
    sum_over_devices,
    whole,
)
from jaxloss._core.numerics.exact import scale_of, squarable
from jaxloss._core.numerics.functions import relu
from jaxloss._core.sweeps.pairs import spread_over
from jaxloss.contrast._arguments import check_spread


@public(off_diagonal_weight=at_least(0), epsilon=at_least(0))
def barlow_twins_loss(
    x: ArrayLike,
    y: ArrayLike,
    *,
    off_diagonal_weight: ArrayLike = 5e-3,
    epsilon: ArrayLike = 1e-5,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Barlow Twins loss: the features of two views agree, and no two say the same.

    Choose it over `info_nce_loss` to learn from two views without negatives, and over
    `vicreg_loss` where the scale of the features should not matter.

    With $a$ and $b$ the features of `x` and `y`, each without its mean over the batch
    and divided by $\sqrt{\text{variance} + \text{epsilon}}$, and $\lambda$ the
    `off_diagonal_weight`:

    $$ \sum_i (1 - C_{ii})^2 + \lambda \sum_{i \ne j} C_{ij}^2, \qquad
       C_{ij} = \frac{1}{N} \sum_n a_{ni} b_{nj} $$

    lightly: `BarlowTwinsLoss`.

    Args:
        x: Floating, `[N, D]`, the embeddings of one view of each example.
        y: Real, `[N, D]`, those of the other view.
        off_diagonal_weight: Scalar, at least 0. 5e-3 as in the paper.
        epsilon: Scalar, at least 0, added to each variance. 1e-5 as in the batch
            normalization of the paper's code.
        axis_name: The mesh axis over which the examples are spread, inside
            `jax.shard_map`. The statistics are summed over the devices, so that value
            and gradient are those of the whole batch.
        where: Boolean mask; False entries are excluded, from the means and variances
            too.

    Returns:
        A scalar, at least 0; 0 if every example is excluded.

    Gradient:
        $2 \lambda C_{ij} / N$ off the diagonal of $C$ and $-2 (1 - C_{ii}) / N$ on it,
        times the other view's feature; from there through the standardization to `x`
        and `y`. Also differentiable in both hyperparameters. A constant feature has a
        finite gradient, and with `epsilon` 0 the gradient 0.

    Numerics:
        The variance is divided by N. The matrix products have full precision on every
        backend. $1 - C_{ii}$ is computed without cancellation. Memory is that of a
        `[D, D]` matrix, or of two `[N, N]` matrices where D is at least 2 N and all
        examples are on one device.

    Example:
        >>> import jaxloss as jl
        >>> x = [[1.0, 2.0], [3.0, 1.0], [2.0, 6.0]]
        >>> y = [[1.0, 1.0], [2.0, 1.0], [2.0, 3.0]]
        >>> print(f"{jl.barlow_twins_loss(x, y):.5f}")
        0.01882

    References:
        Jure Zbontar, Li Jing, Ishan Misra, Yann LeCun and Stéphane Deny, "Barlow Twins:
        Self-Supervised Learning via Redundancy Reduction", ICML 2021,
        https://arxiv.org/abs/2103.03230, equations 1-2
    """
    views = _views(x, y, where, axis_name)
    weight = checks.scalar("off_diagonal_weight", off_diagonal_weight, views.dtype)
    epsilon = checks.scalar("epsilon", epsilon, views.dtype)
    return _of_whole_batch(_barlow_twins, views, (weight, epsilon), axis_name)


# On the diagonal 1 - C_ii would cancel where the views agree. With r the part of a
# variance that epsilon takes, mean(a²) = 1 - r, and so
#     1 - C_ii = (mean((a - b)²) + r_a + r_b) / 2,       where no term is negative.
# The sum of all C_ij² is that of the products of the entries of A Aᵀ and B Bᵀ over N²,
# two N x N matrices. The diagonal is taken from it afterwards. With D >= 2 N features C
# has a rank below N, and the rest of the sum is at least as large as the diagonal.
def _barlow_twins(views, parameters, axis_name):
    weight, epsilon = parameters
    x, y, keep = views
    count = _count(x, keep, axis_name)
    n = jnp.maximum(count, 1)
    a, of_a = _standardized(_centred(x, keep, n, axis_name), n, epsilon, axis_name)
    b, of_b = _standardized(_centred(y, keep, n, axis_name), n, epsilon, axis_name)
    squares = sum_over_devices(jnp.sum(jnp.square(a - b), axis=0), axis_name) / n
    gap = (squares + of_a + of_b) / 2
    rows, features = x.shape
    static = isinstance(rows, int) and isinstance(features, int)
    if axis_name is None and static and features >= 2 * rows:
        every = jnp.sum((_product(a, a.T) / n) * (_product(b, b.T) / n))
        rest = every - jnp.sum(jnp.square(1 - gap))
    else:
        c = sum_over_devices(_product(a.T, b), axis_name) / n
        rest = jnp.sum(jnp.square(_off_diagonal(c)))
    return jnp.where(count > 0, jnp.sum(jnp.square(gap)) + weight * rest, 0)


@public(
    invariance=at_least(0), variance=at_least(0), covariance=at_least(0),
    epsilon=at_least(0),
)  # fmt: skip
def vicreg_loss(
    x: ArrayLike,
    y: ArrayLike,
    *,
    invariance: ArrayLike = 25.0,
    variance: ArrayLike = 25.0,
    covariance: ArrayLike = 1.0,
    epsilon: ArrayLike = 1e-4,
    axis_name: str | None = None,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""VICReg loss: two views agree, features vary, and no two vary together.

    Choose it over `barlow_twins_loss` where the views come from different networks or
    modalities: each view is regularized on its own.

    With $\lambda$ the `invariance`, $\mu$ the `variance` and $\nu$ the `covariance`:

    $$ \frac{\lambda}{N D} \sum_{ni} (x_{ni} - y_{ni})^2 + \mu \, (v(x) + v(y)) +
       \nu \, (c(x) + c(y)) $$

    $$ v(z) = \frac{1}{D} \sum_i \max\big(0, 1 -
       \sqrt{\text{Var}(z_i) + \text{epsilon}}\big), \qquad
       c(z) = \frac{1}{D} \sum_{i \ne j} \text{Cov}(z_i, z_j)^2 $$

    lightly: `VICRegLoss`.

    Args:
        x: Floating, `[N, D]`, the embeddings of one view of at least two examples.
        y: Real, `[N, D]`, those of the other view.
        invariance: Scalar, at least 0. 25.0 as in the paper.
        variance: Scalar, at least 0. 25.0 as in the paper.
        covariance: Scalar, at least 0. 1.0 as in the paper.
        epsilon: Scalar, at least 0, added to each variance. 1e-4 as in the paper.
        axis_name: The mesh axis over which the examples are spread, inside
            `jax.shard_map`. The statistics are summed over the devices, so that value
            and gradient are those of the whole batch.
        where: Boolean mask; False entries are excluded, from the means and variances
            too.

    Returns:
        A scalar, at least 0; 0 if every example is excluded.

    Gradient:
        $2 \lambda (x - y) / (N D)$ of the first term. The standard deviation has as
        gradient the centred feature over $(N - 1)$ and over itself, and at a standard
        deviation of 1 the term's slope is 0, as that of PyTorch's `relu`. Also
        differentiable in all hyperparameters. A constant feature has a finite gradient,
        and with `epsilon` 0 the gradient 0.

    Numerics:
        Variances and covariances are divided by N - 1, as in the paper's algorithm 1.
        The matrix products have full precision on every backend. Memory is that of two
        `[D, D]` matrices.

    Raises:
        ValueError: If there are fewer than two examples, on all devices together.

    Example:
        >>> import jaxloss as jl
        >>> x = [[1.0, 2.0], [3.0, 1.0], [2.0, 6.0]]
        >>> y = [[1.0, 1.0], [2.0, 1.0], [2.0, 3.0]]
        >>> print(jl.vicreg_loss(x, y))
        51.476486

    References:
        Adrien Bardes, Jean Ponce and Yann LeCun, "VICReg: Variance-Invariance-
        Covariance Regularization for Self-Supervised Learning", ICLR 2022,
        https://arxiv.org/abs/2105.04906, equations 1-6
    """
    views = _views(x, y, where, axis_name)
    examples = views.x.shape[0]
    if axis_name is not None:
        examples = examples * jax.lax.axis_size(axis_name)
    if isinstance(examples, int) and examples < 2:
        raise ValueError(
            f"`x` must have at least two examples, got shape {views.x.shape}."
        )
    parameters = tuple(
        checks.scalar(name, value, views.dtype)
        for name, value in (
            ("invariance", invariance),
            ("variance", variance),
            ("covariance", covariance),
            ("epsilon", epsilon),
        )
    )
    return _of_whole_batch(_vicreg, views, parameters, axis_name)


def _vicreg(views, parameters, axis_name):
    invariance, variance, covariance, epsilon = parameters
    x, y, keep = views
    count = _count(x, keep, axis_name)
    n = jnp.maximum(count, 1)
    features = x.shape[1]
    squares = jnp.sum(jnp.square(x - y) / n) / features
    loss = invariance * sum_over_devices(squares, axis_name)
    for view in (x, y):
        centred = _centred(view, keep, n, axis_name)
        freedom = jnp.maximum(count - 1, 1)
        scale, _, root, _ = _deviation(centred, freedom, epsilon, axis_name)
        loss += variance * jnp.sum(relu(1 - scale * root) / features)
        small = centred / jnp.sqrt(freedom)
        c = sum_over_devices(_product(small.T, small), axis_name)
        loss += covariance * jnp.sum(jnp.square(_off_diagonal(c)) / features)
    return jnp.where(count > 0, loss, 0)


class _Views(NamedTuple):
    """Two views of a batch; masked examples are 0 in both."""

    x: jax.Array  # [N, D]
    y: jax.Array  # [N, D]
    keep: jax.Array | None  # [N]

    @property
    def dtype(self) -> Any:
        return self.x.dtype


def _views(x, y, where, axis_name):
    x, y = checks.real_arrays(x=x, y=y)
    if x.ndim != 2:
        raise ValueError(f"`x` must have shape [N, D], got {x.shape}.")
    if axis_name is not None:
        for name, array in (("x", x), ("y", y)):
            check_spread(name, array, axis_name)
    x, y = whole(x, 1), whole(y, 1)
    n = x.shape[:1]
    where = checks.unweighted_mask(where)
    tail = checks.tail(where, None, "none", shape=n, dtype=x.dtype).spread(n)
    x, y = tail.select(x, y, axes=1, nothing=0)
    return _Views(x, y, tail.keep)


def _of_whole_batch(
    loss: Callable[..., jax.Array], views: _Views, parameters: Any, axis_name: Any
) -> jax.Array:
    """loss(views, parameters, axis_name) on each device of an explicit mesh."""
    axis = spread_over(views.x, views.y)
    if axis is None:
        return loss(views, parameters, axis_name)
    by_example = PartitionSpec(axis)
    specs = jax.tree.map(lambda _: by_example, views)
    everywhere = PartitionSpec()

    def local(views, parameters):
        return loss(views, parameters, axis)

    specs = specs, jax.tree.map(lambda _: everywhere, parameters)
    return on_each_device(local, (views, parameters), specs, everywhere)


def _count(x, keep, axis_name):
    """The number of examples that are not excluded."""
    ones = jnp.ones_like(x[:, :1] if keep is None else keep, x.dtype)
    if keep is not None:
        ones = jnp.where(keep, ones, 0)
    return sum_over_devices(jnp.sum(ones), axis_name)


def _centred(x, keep, n, axis_name):
    """x without its mean over the n examples, 0 where excluded."""
    # The rounded mean of equal numbers may be another number. What a feature that is
    # constant has of it must not be mistaken for its variation.
    every = True if keep is None else keep[:, None]
    fixed = stop_gradient(x)
    high = jnp.max(fixed, axis=0, initial=-jnp.inf, where=every)
    low = -jnp.max(-fixed, axis=0, initial=-jnp.inf, where=every)
    high = max_over_devices(high, axis_name)
    low = -max_over_devices(-low, axis_name)
    x = x - jnp.where(high == low, high, 0)[None]
    if keep is not None:
        x = jnp.where(every, x, 0)
    mean = sum_over_devices(jnp.sum(x / n, axis=0), axis_name)
    centred = x - mean[None]
    return centred if keep is None else jnp.where(keep[:, None], centred, 0)


def _deviation(centred, n, epsilon, axis_name):
    """sqrt(variance + epsilon) of each feature, as scale · root.

    Returns:
        The scale; the centred feature divided by it; the root; and the part of
        variance + epsilon that epsilon has, 1 where both are 0. The scale keeps the
        squares in range, and carries no derivative.
    """
    largest = stop_gradient(jnp.max(jnp.abs(centred), axis=0, initial=0))
    largest = max_over_devices(largest, axis_name)
    scale = scale_of(jnp.maximum(largest, stop_gradient(jnp.sqrt(epsilon))))
    inverse = 1 / scale
    small = squarable(centred, jnp.broadcast_to(inverse, centred.shape))
    variance = sum_over_devices(jnp.sum(small * small, axis=0), axis_name) / n
    floor = (epsilon * inverse) * inverse
    both = variance + floor
    nothing = both == 0
    root = jnp.where(nothing, 0, jnp.sqrt(jnp.where(nothing, 1, both)))
    share = jnp.where(nothing, 1, floor / jnp.where(nothing, 1, both))
    return scale, small, root, share


def _standardized(centred, n, epsilon, axis_name):
    """The features over their deviations, 0 where constant, and epsilon's part."""
    _, small, root, share = _deviation(centred, n, epsilon, axis_name)
    fixed = (root == 0)[None]
    return jnp.where(fixed, 0, small / jnp.where(fixed, 1, root[None])), share


def _off_diagonal(c):
    row, column = (jax.lax.broadcasted_iota(jnp.int32, c.shape, a) for a in (0, 1))
    return jnp.where(row == column, 0, c)


def _product(a, b):
    """a b, in the precision of the arguments on every backend."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)

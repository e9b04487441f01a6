"""Scores of an ensemble of forecasts against what happened."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import between
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.compilers.places import first_plus_last, unsorted
from jaxloss._core.devices import broadcast_to, whole
from jaxloss._core.numerics.exact import (
    direction,
    times_difference,
    with_derivative_of,
)
from jaxloss._core.rule.analytic import analytic
from jaxloss.forecast._inputs import check_fairness, per_example, valid_fairness


@public(static=("fairness",), fairness=between(0, 1))
def crps_ensemble_loss(
    members: ArrayLike,
    targets: ArrayLike,
    axis: int = -1,
    *,
    fairness: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Continuous ranked probability score (CRPS) of an ensemble forecast.

    Choose it to train a model that samples: the expected score is least where the
    members have the distribution of the target. `energy_score_loss` scores vectors,
    `quantile_loss` quantiles; `gaussian_nll_loss` needs a density.

    With $x_1, \dots, x_M$ the members, $y$ the target and $f$ the fairness:

    $$ \frac{1}{M} \sum_i \lvert x_i - y \rvert - \Big( \frac{1 - f}{2 M^2} +
       \frac{f}{2 M (M - 1)} \Big) \sum_{i, j} \lvert x_i - x_j \rvert $$

    Args:
        members: Floating, `[..., M]` with the members along `axis`, in any unit.
        targets: Real, in the same unit, broadcastable to `[...]`.
        axis: The axis of the members.
        fairness: In [0, 1], broadcastable to `[...]`. At 1.0 the expected loss does not
            depend on M (the fair score), at 0.0 the ensemble is scored as the
            distribution that it is; in between, the almost fair score. A Python number
            is a constant of the compiled program.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0, in the unit of the members; a scalar if reduced.

    Gradient:
        With $s_i$ the sign of $x_i - y$ (0 at 0), $r_i$ the rank of member $i$ and
        $t_i = 2 r_i - M - 1$: $(1 - f) (M s_i - t_i) / M^2 + f ((M - 1) s_i - t_i) /
        (M (M - 1))$ for member $i$. Equal members have their mean rank. $-\sum_i s_i /
        M$ for the target, and $-\sum_i t_i x_i / (M^2 (M - 1))$ for `fairness`.

    Numerics:
        One sort, which is not differentiated: $O(M \log M)$ operations and $O(M)$
        memory per example. The score is computed as a sum of terms that are at least 0.
        A traced fairness outside [0, 1], or above 0 for one member, gives NaN and
        raises under `checkify`. An infinite member can give NaN too.

    Raises:
        ValueError: If `fairness` is outside [0, 1], or above 0 for one member.

    Example:
        >>> import jaxloss as jl
        >>> members, targets = [[1.0, 2.0, 4.0], [0.0, 0.0, 3.0]], [2.0, 5.0]
        >>> [f"{x:.4f}" for x in jl.crps_ensemble_loss(members, targets)]
        ['0.0000', '3.0000']
        >>> [f"{x:.4f}" for x in jl.crps_ensemble_loss(members, targets, fairness=0.0)]
        ['0.3333', '3.3333']

    References:
        Tilmann Gneiting and Adrian E. Raftery, "Strictly Proper Scoring Rules,
        Prediction, and Estimation", 2007,
        https://doi.org/10.1198/016214506000001437, equation 20

        Christopher A. T. Ferro, "Fair scores for ensemble forecasts", 2014,
        https://doi.org/10.1002/qj.2270

        Simon Lang et al., "AIFS-CRPS: Ensemble forecasting using a model trained with a
        loss function based on the Continuous Ranked Probability Score", 2024,
        https://arxiv.org/abs/2412.15832
    """
    x, (axis,) = checks.class_array("members", members, (axis,), "member")
    targets = checks.to_array("targets", targets)
    x = jnp.moveaxis(x.astype(checks.compute_dtype(x, targets)), axis, -1)
    x = whole(x, -1)
    check_fairness(fairness, x.shape[-1])
    like = x[..., 0]
    y = per_example("targets", targets, like)
    f = per_example("fairness", fairness, like)
    tail = checks.tail(where, weights, reduction, shape=like.shape, dtype=x.dtype)
    (x,) = tail.select(x, axes=-1)
    y, f = tail.select(y, f)
    f = valid_fairness(f, x.shape[-1], tail)
    # A target that every member hits has no length for f to multiply.
    return tail.reduce(jnp.where(jnp.isnan(f), jnp.nan, _crps(x, y, f)))


# Between neighbours among the members and y, |x_i - y| and |x_i - x_j| add up to a
# length times the number of members and of pairs on the two sides. With k members on
# the side away from y, a length counts k/M - 2 c k (M - k) in the loss, which is
#     A_k = k/M ((1 - f) k/M + f (k - 1)/(M - 1)) >= 0,
# so that no term cancels another.
# With s_i = sign(x_i - y), and t_i = 2 rank_i - M - 1 the number of members below x_i
# less that above it,
#     df/dx_i = s_i/M - 2 c t_i = (1 - f) (M s_i - t_i)/M² + f ((M - 1) s_i - t_i)/
#               (M (M - 1)),
#     df/dy = -Σ s_i/M,     df/df = -Σ_i t_i x_i/(M² (M - 1)).
# Ranks and signs are piecewise constant: only f and the last sum are differentiated
# again.
def _crps_forward(x, y, f):
    position = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    position = broadcast_to(position, x)
    ordered, place = jax.lax.sort((x, position), num_keys=1)
    own, share = jnp.expand_dims(y, -1), jnp.expand_dims(f, -1)
    infinity = jnp.full_like(own, jnp.inf)
    after = jnp.concatenate([ordered[..., 1:], infinity], axis=-1)
    before = jnp.concatenate([-infinity, ordered[..., :-1]], axis=-1)
    # The length from each member to its neighbour or to y, whichever is nearer, on the
    # side of y.
    below = ordered < own
    high = jnp.where(below, jnp.minimum(after, own), ordered)
    low = jnp.where(below, ordered, jnp.maximum(before, own))
    count = x.shape[-1]
    part = _part(jnp.where(below, position + 1, count - position), x, share)
    value = jnp.sum(_length(low, high, part), axis=-1)
    return value, (x, y, f, *map(stop_gradient, (ordered, place)))


def _length(low, high, part):
    """part · (high - low), 0 where high is not above low."""
    return jnp.where(high <= low, 0, times_difference(part, high, low))


def _part(k, x, f):
    """A_k of the members of x."""
    count, k = x.shape[-1], k.astype(x.dtype)
    fair = (k - 1) / (count - 1) if count != 1 else k - 1
    return (k / count) * ((1 - f) * (k / count) + f * fair)


def _crps_backward(residuals, cotangent):
    x, y, f, ordered, place = residuals
    count = x.shape[-1]
    tilt = _tilt(ordered, place)
    side, f = direction(x, jnp.expand_dims(y, -1)), jnp.expand_dims(f, -1)
    pairs = count * max(count - 1, 1) if isinstance(count, int) else count * (count - 1)
    plain = (count * side - tilt) / (count * count)
    fair = ((count - 1) * side - tilt) / pairs
    excess = with_derivative_of(
        _spread(ordered), jnp.sum(tilt / count * (x / pairs), axis=-1)
    )
    return (
        jnp.expand_dims(cotangent, -1) * ((1 - f) * plain + f * fair),
        cotangent * (jnp.sum(-side, axis=-1) / count),
        cotangent * -excess,
    )


def _spread(ordered):
    """Σ_i t_i x_i/(M² (M - 1)), as a sum of terms that are at least 0."""
    count = ordered.shape[-1]
    k = jax.lax.broadcasted_iota(jnp.int32, ordered.shape, ordered.ndim - 1)
    k = (k[..., 1:]).astype(ordered.dtype)
    part = (k / count) * ((count - k) / (count - 1) / count) if count != 1 else k
    return jnp.sum(times_difference(part, ordered[..., 1:], ordered[..., :-1]), axis=-1)


_crps = analytic(_crps_forward, _crps_backward)


def _tilt(ordered, place):
    """t_i of each member in the place that it had before the sort; no derivative."""
    # Of 0-based first and last ranks: 2 rank - M - 1 = first + last + 1 - M.
    return unsorted(first_plus_last(ordered) + (1 - ordered.shape[-1]), place)

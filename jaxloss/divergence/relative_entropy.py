"""Relative entropies: the Kullback-Leibler divergence and its variants."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.numerics.divergence import bregman
from jaxloss._core.numerics.exact import zero_safe_product
from jaxloss._core.numerics.functions import accurate_expm1
from jaxloss._core.numerics.probability import log_quotient
from jaxloss._core.rule.analytic import pointwise
from jaxloss.divergence._terms import divergence_arguments


@public()
def kl_divergence(
    log_predictions: ArrayLike,
    targets: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    where: ArrayLike | None = None,
    *,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Kullback-Leibler divergence of log-predictions from target probabilities.

    Choose it to fit log-probabilities to a target distribution, with 0 where both
    agree. `softmax_cross_entropy` takes logits and has the same gradient for them.
    Where the two distributions nearly agree, the terms cancel;
    `generalized_kl_divergence` has the same value there and keeps the digits.

    With $x$ the log-predictions and $t$ the targets, as in PyTorch's `kl_div`:

    $$ \sum_j t_j \, (\log t_j - x_j), \qquad 0 \log 0 = 0 $$

    Also known as KL divergence and relative entropy. PyTorch: `nn.KLDivLoss`; Keras:
    `KLDivergence`.

    Args:
        log_predictions: Floating, `[..., C]` with the classes along `axis`,
            log-probabilities.
        targets: Real, at least 0, broadcastable to `log_predictions`: probabilities.
        axis: The class axis, or a tuple of axes that share one distribution; None for
            all axes.
        where: Boolean mask; False entries are excluded. A mask of the rank of
            `log_predictions` excludes single classes.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, at least 0 if both are distributions; a scalar if reduced.

    Gradient:
        $-t_j$ for `log_predictions` and $\log t_j - x_j + 1$ for `targets`. 0 replaces
        infinite derivatives: at a target of 0, as in PyTorch, and at a log-prediction
        of -inf.

    Numerics:
        Each $\log t_j - x_j$ is off by at most one rounding and 2e-9 (4e-18 in
        float64); the rounding of $\log t_j$ alone could reach 4e-6.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss as jl
        >>> targets = [[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]]
        >>> log_predictions = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]))
        >>> [f"{x:.4f}" for x in jl.kl_divergence(log_predictions, targets)]
        ['0.3466', '0.0000']

    References:
        Solomon Kullback and Richard A. Leibler, "On Information and Sufficiency", 1951,
        https://doi.org/10.1214/aoms/1177729694
    """
    x, t, examples = divergence_arguments(
        "log_predictions", log_predictions, "targets", targets,
        axis, where, weights, reduction, fill=(-jnp.inf, 0.0),
    )  # fmt: skip
    t = checks.check_values("targets", t, examples.holds(t >= 0), "at least 0")
    loss = jnp.sum(_kl_term(x, t), axis=examples.axes)
    return examples.tail.reduce(loss)


# f = t (log t - x),   df/dx = -t,   df/dt = log t - x + 1.
# The last is infinite at t = 0 and at x = -inf. 0 replaces it there: times a cotangent
# of 0, from an example of weight 0, infinity would be NaN.
@pointwise
def _kl_term(x, t):
    absent = t == 0
    gain = log_quotient(jnp.where(absent, 1, t), x)
    value = jnp.where(absent, 0, t * gain)
    return value, (-t, jnp.where(absent | jnp.isinf(gain), 0, gain + 1))


@public()
def kl_divergence_with_log_targets(
    log_predictions: ArrayLike,
    log_targets: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    where: ArrayLike | None = None,
    *,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Kullback-Leibler divergence of log-predictions from log-targets.

    Choose it where the targets are another network's log-probabilities, as in
    distillation; `kl_divergence` takes probabilities.

    With $x$ the log-predictions and $y$ the log-targets:

    $$ \sum_j e^{y_j} (y_j - x_j) $$

    PyTorch: `nn.KLDivLoss(log_target=True)`.

    Args:
        log_predictions: Floating, `[..., C]` with the classes along `axis`,
            log-probabilities.
        log_targets: Real, broadcastable to `log_predictions`: log-probabilities, -inf
            for an impossible class.
        axis: The class axis, or a tuple of axes that share one distribution; None for
            all axes.
        where: Boolean mask; False entries are excluded. A mask of the rank of
            `log_predictions` excludes single classes.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, at least 0 if both are distributions; a scalar if reduced.

    Gradient:
        $-e^{y_j}$ for `log_predictions` and $e^{y_j} (y_j - x_j + 1)$ for
        `log_targets`, 0 where either input is -inf.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss as jl
        >>> log_targets = jnp.log(jnp.array([0.5, 0.5, 0.0]))
        >>> log_predictions = jnp.log(jnp.array([0.5, 0.25, 0.25]))
        >>> f"{jl.kl_divergence_with_log_targets(log_predictions, log_targets):.4f}"
        '0.3466'

    References:
        Solomon Kullback and Richard A. Leibler, "On Information and Sufficiency", 1951,
        https://doi.org/10.1214/aoms/1177729694
    """
    x, y, examples = divergence_arguments(
        "log_predictions", log_predictions, "log_targets", log_targets,
        axis, where, weights, reduction, fill=(-jnp.inf, -jnp.inf),
    )  # fmt: skip
    loss = jnp.sum(_kl_term_of_logs(x, y), axis=examples.axes)
    return examples.tail.reduce(loss)


# f = e^y (y - x),   df/dx = -e^y,   df/dy = e^y (y - x + 1), with 0 for infinity.
@pointwise
def _kl_term_of_logs(x, y):
    absent = jnp.isneginf(y)
    t = jnp.exp(y)
    gain = jnp.where(absent, 0, y) - jnp.where(absent, 0, x)
    # The target is possible, even if e^y underflows, and the prediction excludes it.
    excluded = jnp.isposinf(gain)

    gain = jnp.where(excluded, 0, gain)
    value = jnp.where(excluded, jnp.inf, zero_safe_product(t, gain))
    return value, (-t, jnp.where(excluded, 0, zero_safe_product(t, gain + 1)))


@public()
def generalized_kl_divergence(
    log_predictions: ArrayLike,
    targets: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    where: ArrayLike | None = None,
    *,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Generalized Kullback-Leibler divergence of masses that need not sum to 1.

    Choose it for unnormalised masses such as counts or intensities, and for
    distributions that nearly agree: it equals `kl_divergence` for distributions, but
    all its terms have the same sign.

    With $x$ the log-predictions and $t$ the targets:

    $$ \sum_j \left( t_j \, (\log t_j - x_j) - t_j + e^{x_j} \right), \qquad
    0 \log 0 = 0 $$

    Args:
        log_predictions: Floating, `[..., C]` with the classes along `axis`, logarithms
            of masses.
        targets: Real, at least 0, broadcastable to `log_predictions`: masses.
        axis: The class axis, or a tuple of axes over which the terms are summed; None
            for all axes.
        where: Boolean mask; False entries are excluded. A mask of the rank of
            `log_predictions` excludes single classes.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0, and 0 only where all masses agree; a scalar if reduced.

    Gradient:
        $e^{x_j} - t_j$ for `log_predictions` and $\log t_j - x_j$ for `targets`, with 0
        in place of infinite derivatives.

    Numerics:
        Each $\log t_j - x_j$ is off by at most one rounding and 2e-9 (4e-18 in
        float64). A power series replaces terms near 0, where the formula cancels.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss as jl
        >>> log_predictions = jnp.log(jnp.array([2.0, 1.0, 0.5]))
        >>> f"{jl.generalized_kl_divergence(log_predictions, [2.0, 2.0, 0.0]):.4f}"
        '0.8863'

    References:
        Stephen Boyd and Lieven Vandenberghe, "Convex Optimization", 2004,
        https://stanford.edu/~boyd/cvxbook/bv_cvxbook.pdf, section 3.2.6
    """
    x, t, examples = divergence_arguments(
        "log_predictions", log_predictions, "targets", targets,
        axis, where, weights, reduction, fill=(-jnp.inf, 0.0),
    )  # fmt: skip
    t = checks.check_values("targets", t, examples.holds(t >= 0), "at least 0")
    loss = jnp.sum(_generalized_kl_term(x, t), axis=examples.axes)
    return examples.tail.reduce(loss)


# With q = e^x and z = x - log t = log(q/t),
#     f = t log(t/q) - t + q = t (e^z - 1 - z) >= 0,
#     df/dx = q - t = t (e^z - 1),   df/dt = -z, with 0 for infinity.
@pointwise
def _generalized_kl_term(x, t):
    absent = t == 0
    q = jnp.exp(x)
    z = -log_quotient(jnp.where(absent, 1, t), x)
    near = ~absent & (jnp.abs(z) < 1)
    value = jnp.where(absent, q, bregman(t, q, z))
    slope = jnp.where(near, t * accurate_expm1(jnp.where(near, z, 0)), q - t)
    return value, (slope, jnp.where(absent | jnp.isinf(z), 0, -z))


@public()
def convex_kl_divergence(
    log_predictions: ArrayLike,
    targets: ArrayLike,
    axis: int | tuple[int, ...] | None = -1,
    where: ArrayLike | None = None,
    *,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    """Generalized Kullback-Leibler divergence under the name that optax first gave it.

    An alias of `generalized_kl_divergence`. It lets code written for optax run
    unchanged.
    """
    return generalized_kl_divergence(
        log_predictions, targets, axis, where, weights=weights, reduction=reduction
    )

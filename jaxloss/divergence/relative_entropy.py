"""Relative entropies: the Kullback-Leibler divergence and its kin."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.numerics.exact import zero_safe_product
from jaxloss._core.numerics.functions import accurate_expm1
from jaxloss._core.numerics.probability import log_quotient
from jaxloss._core.rule.analytic import pointwise
from jaxloss.divergence._terms import arguments, bregman


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
    r"""Returns the Kullback-Leibler divergence of log-predictions from targets.

    Choose it to fit log-probabilities to a target distribution and to have 0 where both
    agree; `softmax_cross_entropy` has the same gradient in the logits and takes those.
    Where the two nearly agree its terms cancel: `generalized_kl_divergence` then keeps
    the digits, and is the same for distributions.

    With $x$ the log-predictions and $t$ the targets, PyTorch's `kl_div`:

    $$ \sum_j t_j \, (\log t_j - x_j), \qquad 0 \log 0 = 0 $$

    Args:
        log_predictions: Floating, `[..., C]` with the classes along `axis`,
            log-probabilities.
        targets: Real, at least 0, broadcastable to `log_predictions`: probabilities.
        axis: The class axis, or a tuple of axes that share one distribution; None for
            all axes.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). A mask of the rank of `log_predictions` drops
            single classes.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, in nats, at least 0 if both are distributions; a scalar if reduced.

    Gradient:
        $-t_j$ for `log_predictions`, $\log t_j - x_j + 1$ for `targets`, taken as 0
        where that is infinite: at a target of 0, as PyTorch does, and at a
        log-prediction of -inf.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0.
        A class's $\log t_j - x_j$ is off by at most one rounding and 2e-9 (4e-18 in
        float64) where the logarithm alone would lose up to 4e-6. A log-prediction of
        -inf adds 0 under a target of 0, and is inf under another. A negative target
        gives NaN.

    Raises:
        TypeError: If `log_predictions` is not floating, another input not real, or
            `where` not boolean.
        ValueError: If an input does not fit the shapes above, `axis` names no axis, or
            one twice, there is no class, or
            `reduction` is unknown.

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
    x, t, examples = arguments(
        "log_predictions", log_predictions, "targets", targets,
        axis, where, weights, reduction, nothing=(-jnp.inf, 0.0),
    )  # fmt: skip
    t = checks.check_values("targets", t, examples.holds(t >= 0), "at least 0")
    loss = jnp.sum(_relative_entropy(x, t), axis=examples.axes)
    return examples.tail.reduce(loss)


# f = t (log t - x): df/dx = -t, df/dt = log t - x + 1. Where the latter is infinite, at
# t = 0 and x = -inf, it is taken as 0: a loss of weight 0 has no gradient then either.
@pointwise
def _relative_entropy(x, t):
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
    r"""Returns the Kullback-Leibler divergence of log-predictions from log-targets.

    Choose it where the targets are another network's log-probabilities, as in
    distillation; `kl_divergence` takes probabilities.

    With $x$ the log-predictions and $y$ the log-targets:

    $$ \sum_j e^{y_j} (y_j - x_j) $$

    Args:
        log_predictions: Floating, `[..., C]` with the classes along `axis`,
            log-probabilities.
        log_targets: Real, broadcastable to `log_predictions`: log-probabilities.
        axis: The class axis, or a tuple of axes that share one distribution; None for
            all axes.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). A mask of the rank of `log_predictions` drops
            single classes.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, in nats, at least 0 if both are distributions; a scalar if reduced.

    Gradient:
        $-e^{y_j}$ for `log_predictions`, $e^{y_j} (y_j - x_j + 1)$ for `log_targets`,
        0 where either is -inf.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0.
        A log-target of -inf adds 0; a log-prediction of -inf under another gives inf.

    Raises:
        TypeError: If `log_predictions` is not floating, another input not real, or
            `where` not boolean.
        ValueError: If an input does not fit the shapes above, `axis` names no axis, or
            one twice, there is no class, or
            `reduction` is unknown.

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
    x, y, examples = arguments(
        "log_predictions", log_predictions, "log_targets", log_targets,
        axis, where, weights, reduction, nothing=(-jnp.inf, -jnp.inf),
    )  # fmt: skip
    loss = jnp.sum(_log_relative_entropy(x, y), axis=examples.axes)
    return examples.tail.reduce(loss)


# f = e^y (y - x): df/dx = -e^y, df/dy = e^y (y - x + 1), 0 where it is infinite.
@pointwise
def _log_relative_entropy(x, y):
    absent = jnp.isneginf(y)
    t = jnp.exp(y)
    gain = jnp.where(absent, 0, y) - jnp.where(absent, 0, x)
    # A possible target that is predicted impossible, whether or not e^y underflows.
    never = jnp.isposinf(gain)

    gain = jnp.where(never, 0, gain)
    value = jnp.where(never, jnp.inf, zero_safe_product(t, gain))
    return value, (-t, jnp.where(never, 0, zero_safe_product(t, gain + 1)))


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
    r"""Returns the Kullback-Leibler divergence of masses that need not add up to 1.

    Choose it for unnormalised masses such as counts or intensities, and for
    distributions that nearly agree: for those it equals `kl_divergence`, but adds up
    no terms of different signs.

    With $x$ the log-predictions and $t$ the targets:

    $$ \sum_j \left( t_j \, (\log t_j - x_j) - t_j + e^{x_j} \right), \qquad
    0 \log 0 = 0 $$

    Args:
        log_predictions: Floating, `[..., C]` with the classes along `axis`, logarithms
            of masses.
        targets: Real, at least 0, broadcastable to `log_predictions`: masses.
        axis: The class axis, or a tuple of axes that share one distribution; None for
            all axes.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). A mask of the rank of `log_predictions` drops
            single classes.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0, and 0 only where all masses agree; a scalar if reduced.

    Gradient:
        $e^{x_j} - t_j$ for `log_predictions`, $\log t_j - x_j$ for `targets`, taken as
        0 where that is infinite.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0.
        A class's term is $t (e^z - 1 - z)$ with $z = x - \log t$, a power series for
        small $z$, which is off by at most one rounding and 2e-9 (4e-18 in float64). A
        log-prediction of -inf adds 0 under a target of 0, and is inf under another. A
        negative target gives NaN.

    Raises:
        TypeError: If `log_predictions` is not floating, another input not real, or
            `where` not boolean.
        ValueError: If an input does not fit the shapes above, `axis` names no axis, or
            one twice, there is no class, or
            `reduction` is unknown.

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
    x, t, examples = arguments(
        "log_predictions", log_predictions, "targets", targets,
        axis, where, weights, reduction, nothing=(-jnp.inf, 0.0),
    )  # fmt: skip
    t = checks.check_values("targets", t, examples.holds(t >= 0), "at least 0")
    loss = jnp.sum(_generalized_entropy(x, t), axis=examples.axes)
    return examples.tail.reduce(loss)


# With q = e^x and z = x - log t = log(q/t),
#     f = t log(t/q) - t + q = t (e^z - 1 - z),   no class's term negative,
#     df/dx = q - t = t (e^z - 1),   df/dt = -z,
# the last 0 where it is infinite.
@pointwise
def _generalized_entropy(x, t):
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
    r"""Returns `generalized_kl_divergence` under the name that optax first gave it.

    Choose `generalized_kl_divergence` in new code; this one lets optax code run
    unchanged.

    With $x$ the log-predictions and $t$ the targets:

    $$ \sum_j \left( t_j \, (\log t_j - x_j) - t_j + e^{x_j} \right), \qquad
    0 \log 0 = 0 $$

    Args:
        log_predictions: Floating, `[..., C]` with the classes along `axis`, logarithms
            of masses.
        targets: Real, at least 0, broadcastable to `log_predictions`: masses.
        axis: The class axis, or a tuple of axes that share one distribution; None for
            all axes.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). A mask of the rank of `log_predictions` drops
            single classes.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0, and 0 only where all masses agree; a scalar if reduced.

    Gradient:
        $e^{x_j} - t_j$ for `log_predictions`, $\log t_j - x_j$ for `targets`, taken as
        0 where that is infinite.

    Numerics:
        Those of `generalized_kl_divergence`.

    Raises:
        TypeError: If `log_predictions` is not floating, another input not real, or
            `where` not boolean.
        ValueError: If an input does not fit the shapes above, `axis` names no axis, or
            one twice, there is no class, or
            `reduction` is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss as jl
        >>> log_predictions = jnp.log(jnp.array([2.0, 1.0, 0.5]))
        >>> f"{jl.convex_kl_divergence(log_predictions, [2.0, 2.0, 0.0]):.4f}"
        '0.8863'

    References:
        Lev M. Bregman, "The relaxation method of finding the common point of convex
        sets and its application to the solution of problems in convex programming",
        1967, https://doi.org/10.1016/0041-5553(67)90040-7
    """
    return generalized_kl_divergence(
        log_predictions, targets, axis, where, weights=weights, reduction=reduction
    )

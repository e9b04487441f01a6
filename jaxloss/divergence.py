"""Divergences: how far one distribution over a class axis is from another."""

import math

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.typing import ArrayLike

from jaxloss._core import checks
from jaxloss._core.classes import drop, mask_classes
from jaxloss._core.derivative import pointwise
from jaxloss._core.mesh import whole
from jaxloss._core.numerics import (
    expm1,
    magnitude,
    power_series,
    product,
    two_difference,
)
from jaxloss._core.probability import log_quotient, log_softmax
from jaxloss._core.reduction import Reduction, reduce_loss, select


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
    x, t, axes, keep, weights, _ = _arguments(
        "log_predictions", log_predictions, "targets", targets,
        axis, where, weights, reduction, nothing=(-jnp.inf, 0.0),
    )  # fmt: skip
    checks.check_values("targets", t >= 0, "at least 0")
    loss = jnp.sum(_relative_entropy(x, t), axis=axes)
    return reduce_loss(loss, keep, weights, reduction)


# f = t (log t - x): df/dx = -t, df/dt = log t - x + 1. Where the latter is infinite, at
# t = 0 and x = -inf, it is taken as 0: a loss of weight 0 has no gradient then either.
@pointwise
def _relative_entropy(x, t):
    absent = t == 0
    gain = log_quotient(jnp.where(absent, 1, t), x)
    value = jnp.where(absent, 0, t * gain)
    return value, (-t, jnp.where(absent | jnp.isinf(gain), 0, gain + 1))


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
    x, y, axes, keep, weights, _ = _arguments(
        "log_predictions", log_predictions, "log_targets", log_targets,
        axis, where, weights, reduction, nothing=(-jnp.inf, -jnp.inf),
    )  # fmt: skip
    loss = jnp.sum(_log_relative_entropy(x, y), axis=axes)
    return reduce_loss(loss, keep, weights, reduction)


# f = e^y (y - x): df/dx = -e^y, df/dy = e^y (y - x + 1), 0 where it is infinite.
@pointwise
def _log_relative_entropy(x, y):
    absent = jnp.isneginf(y)
    t = jnp.exp(y)
    gain = jnp.where(absent, 0, y) - jnp.where(absent, 0, x)
    # A possible target that is predicted impossible, whether or not e^y underflows.
    never = jnp.isposinf(gain)

    gain = jnp.where(never, 0, gain)
    value = jnp.where(never, jnp.inf, product(t, gain))
    return value, (-t, jnp.where(never, 0, product(t, gain + 1)))


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
    x, t, axes, keep, weights, _ = _arguments(
        "log_predictions", log_predictions, "targets", targets,
        axis, where, weights, reduction, nothing=(-jnp.inf, 0.0),
    )  # fmt: skip
    checks.check_values("targets", t >= 0, "at least 0")
    loss = jnp.sum(_generalized_entropy(x, t), axis=axes)
    return reduce_loss(loss, keep, weights, reduction)


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
    value = jnp.where(absent, q, _bregman(t, q, z))
    slope = jnp.where(near, t * expm1(jnp.where(near, z, 0)), q - t)
    return value, (slope, jnp.where(absent | jnp.isinf(z), 0, -z))


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


def jensen_shannon_divergence(
    logits_p: ArrayLike,
    logits_q: ArrayLike,
    axis: int | tuple[int, ...] = -1,
    *,
    beta: ArrayLike = 0.5,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the Jensen-Shannon divergence of two softmax distributions.

    Choose it to pull two networks towards each other, or a student to a teacher without
    the unbounded penalty of `kl_divergence` where one of them finds impossible what the
    other does not.

    With $p$ and $q$ the softmax of the logits, $b$ the `beta` and
    $m = b\,p + (1 - b)\,q$:

    $$ b \sum_j p_j \log \frac{p_j}{m_j} + (1 - b) \sum_j q_j \log \frac{q_j}{m_j} $$

    Args:
        logits_p: Floating, `[..., C]` with the classes along `axis`, unnormalised
            log-probabilities.
        logits_q: Real, broadcastable to `logits_p`, likewise.
        axis: The class axis, or a tuple of axes that share one distribution; None for
            all axes.
        beta: In [0, 1], the weight of the first distribution, broadcastable to the
            per-example loss. 0.5 is the symmetric divergence; 0 and 1 give 0.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]). A mask of the rank of `logits_p` drops
            single classes.
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, in nats, from 0 to log 2; a scalar if reduced.

    Gradient:
        $b\,p_j \left( \log(p_j / m_j) - \sum_k p_k \log(p_k / m_k) \right)$ for
        `logits_p`, likewise for `logits_q`; `beta` receives its own, the first sum of
        the formula less the second.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0.
        No class's term is a difference, nor is the ratio of $p$ to $q$: a divergence of
        1e-20 keeps its digits. A logit of -inf has probability and gradient 0. A NaN or
        +inf logit gives NaN.

    Raises:
        TypeError: If `logits_p` is not floating, another input not real, or
            `where` not boolean.
        ValueError: If an input does not fit the shapes above, `axis` names no axis, or
            one twice, there is no class, `beta` lies outside [0, 1], or
            `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> p, q = [[0.0, 0.0], [100.0, 0.0]], [[0.0, 1e-3], [0.0, 100.0]]
        >>> [f"{x:.4g}" for x in jl.jensen_shannon_divergence(p, q)]
        ['3.125e-08', '0.6931']

    References:
        Jianhua Lin, "Divergence Measures Based on the Shannon Entropy", 1991,
        https://doi.org/10.1109/18.61115, equation 4.1
    """
    checks.check_number("beta", beta, minimum=0, maximum=1)
    x, y, axes, keep, weights, _ = _arguments(
        "logits_p", logits_p, "logits_q", logits_q,
        axis, where, weights, reduction, nothing=(-jnp.inf, -jnp.inf),
    )  # fmt: skip
    batch = tuple(n for a, n in enumerate(x.shape) if a not in axes)
    beta = checks.to_array("beta", beta).astype(x.dtype)
    checks.check_broadcast("beta", beta.shape, "the per-example loss", batch)
    beta = jnp.expand_dims(jnp.broadcast_to(beta, batch), axes)
    beta = checks.broadcast_to(beta, x)
    if keep is not None:
        (beta,) = select(jnp.expand_dims(keep, axes), beta)
    p, q = log_softmax(x, axes), log_softmax(y, axes)

    # log p - log q is off by one shift, the rounding of the two log-sum-exps. It is
    # known as exactly as p and q differ, since Σ q (p/q) = 1.
    gap = _difference(p.log_p, q.log_p, p.lost - q.lost)
    near = jnp.abs(gap) < 1
    excess = jnp.where(near, q.p * expm1(jnp.where(near, gap, 0)), p.p - q.p)
    shift = stop_gradient(jnp.log1p(jnp.sum(excess, axis=axes, keepdims=True)))

    terms = _mixture_entropy(p.log_p, q.log_p, p.lost - shift, q.lost, beta)
    loss = jnp.sum(terms, axis=axes)
    return reduce_loss(loss, keep, weights, reduction)


# With m = beta p + (1 - beta) q,
#     f = beta p log(p/m) + (1 - beta) q log(q/m)
#       = beta (p log(p/m) - p + m) + (1 - beta) (q log(q/m) - q + m),
# in which no term is negative, and, up to terms that the sum over the classes cancels,
#     df/dlog p = beta p log(p/m),   df/dlog q = (1 - beta) q log(q/m),
#     df/dbeta = (p log(p/m) - p + m) - (q log(q/m) - q + m).
# Of p and q let h be the higher with weight w, l the lower with weight v = 1 - w, and
# u = log(h/l):
#     log(m/h) = log(1 + v (e^-u - 1)),   log(m/l) = log(1 + w (e^u - 1)).
@pointwise
def _mixture_entropy(log_p, log_q, lost_p, lost_q, beta):
    p, q = jnp.exp(log_p) * (1 + lost_p), jnp.exp(log_q) * (1 + lost_q)
    gap = _difference(log_p, log_q, lost_p - lost_q)
    ahead = gap >= 0
    u = jnp.where(jnp.isinf(gap), jnp.finfo(gap.dtype).max, magnitude(gap))
    w, v = jnp.where(ahead, beta, 1 - beta), jnp.where(ahead, 1 - beta, beta)
    high, low = jnp.where(ahead, p, q), jnp.where(ahead, q, p)
    m = w * high + v * low

    step = v * expm1(-u)
    near = step > -0.5
    share = jnp.where(near, 1, w + v * jnp.exp(-u))
    none = share == 0  # w = 0 and u is large
    far = jnp.where(none, -u, jnp.log(jnp.where(none, 1, share)))
    z_high = jnp.where(near, jnp.log1p(jnp.where(near, step, 0)), far)
    moderate = u < 80
    z_low = jnp.log1p(w * expm1(jnp.where(moderate, u, 0)))
    z_low = jnp.where(moderate, z_low, u + z_high)

    of_high, of_low = _bregman(high, m, z_high), _bregman(low, m, z_low)
    value = w * of_high + v * of_low
    to_high, to_low = -w * high * z_high, -v * low * z_low
    return value, (
        jnp.where(ahead, to_high, to_low),
        jnp.where(ahead, to_low, to_high),
        jnp.zeros_like(p),
        jnp.zeros_like(q),
        jnp.where(ahead, of_high - of_low, of_low - of_high),
    )


def _difference(a, b, lost):
    """(a - b) + lost, 0 where neither class is possible."""
    never = jnp.isneginf(a) & jnp.isneginf(b)
    difference, rounding = two_difference(
        jnp.where(never, 0, a), jnp.where(never, 0, b)
    )
    return difference + (rounding + lost)


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
    p, t, (axis,), keep, weights, classes = _arguments(
        "probabilities", probabilities, "targets", targets,
        axis, where, weights, reduction, nothing=(0.0, 0.0),
    )  # fmt: skip
    for name, mass in (("probabilities", p), ("targets", t)):
        checks.check_values(name, mass >= 0, "at least 0")
    surplus = whole(jnp.where((p >= 0) & (t >= 0), p - t, jnp.nan), axis)
    # What has to cross from each point to the next; beyond the last there is none.
    flow = jnp.cumsum(surplus, axis=axis)
    if classes is None:
        flow = jax.lax.slice_in_dim(flow, 0, flow.shape[axis] - 1, axis=axis)
    else:
        rank = jnp.cumsum(classes, axis=axis, dtype=jnp.int32)
        last = jnp.max(rank, axis=axis, keepdims=True)
        flow = jnp.where(classes & (rank < last), flow, 0)
    loss = jnp.sum(jnp.sign(flow) * flow, axis=axis)
    return reduce_loss(loss, keep, weights, reduction)


# t log(t/s) - t + s = t (e^z - 1 - z) with s = t e^z, the entropy's Bregman divergence,
# by a power series where its terms cancel.
def _bregman(t, s, z):
    near = jnp.abs(z) < 1
    small = jnp.where(near, z, 0)
    series = t * (small * small) * power_series(_EXP_TAIL[z.dtype], small)
    return jnp.where(near, series, s - t * (1 + jnp.where(near, 0, z)))


# (e^z - 1 - z)/z² = Σ_k _EXP_TAIL[k] z^k.
_EXP_TAIL = {
    jnp.dtype("float32"): [1 / math.factorial(k + 2) for k in range(10)],
    jnp.dtype("float64"): [1 / math.factorial(k + 2) for k in range(18)],
}


def _arguments(
    name, first, other_name, second, axis, where, weights, reduction, nothing
):
    """Two arrays over the classes, checked, masked, of one shape and one dtype.

    `nothing` is what each of them holds where there is no such class.
    """
    if axis is None:
        axis = tuple(range(checks.to_array(name, first).ndim))
    first, axes = checks.class_array(name, first, axis)
    second = checks.to_array(other_name, second)
    checks.check_broadcast(other_name, second.shape, name, first.shape)
    dtype = checks.compute_dtype(first, second)
    second = checks.broadcast_to(second.astype(dtype), first)
    first, classes, keep, weights = mask_classes(
        first, axes, where, weights, reduction, dtype, name=name
    )
    first = drop(first.astype(dtype), classes, keep, axes, nothing[0])
    second = drop(second, classes, keep, axes, nothing[1])
    return first, second, axes, keep, weights, classes

"""Regression losses, elementwise in e = predictions - targets."""

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jax.typing import ArrayLike

from jaxloss._core import checks
from jaxloss._core.derivative import pointwise
from jaxloss._core.numerics import (
    LOG_2_PI,
    difference_over,
    direction,
    excess,
    log1p,
    log_of_cosh,
    minus_product,
    quotient,
    remainder,
    scaled_difference,
    tanh,
    times_difference,
    two_difference,
)
from jaxloss._core.reduction import Reduction, reduce_loss, select
from jaxloss._core.robust import robust


def squared_error(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the squared error of each prediction.

    Choose it where one large error is worse than many small ones. `l2_loss` is half of
    it, `huber_loss` and `absolute_error` follow outliers less.

    With $e = \text{predictions} - \text{targets}$:

    $$ e^2 $$

    Args:
        predictions: Floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `predictions`. None, as in
            optax, stands for zeros.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0, in the squared unit; a scalar if reduced.

    Gradient:
        $2e$ for `predictions`, $-2e$ for `targets`; smooth everywhere.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. The square overflows to inf beyond errors of 1.8e19 in float32, the
        gradient does not. Equal infinities give NaN.

    Raises:
        TypeError: If an input is not real, `predictions` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `predictions` or `reduction` is
            unknown.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.squared_error([1.0, 2.5], [1.0, 1.0]))
        [0.   2.25]

    References:
        Trevor Hastie, Robert Tibshirani and Jerome Friedman, "The Elements of
        Statistical Learning", 2nd edition, 2009, section 10.6,
        https://hastie.su.domains/ElemStatLearn/
    """
    (e,), keep, weights = _errors(predictions, targets, where, weights, reduction)
    return reduce_loss(e * e, keep, weights, reduction)


def l2_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns half the squared error of each prediction.

    Choose it over `squared_error` where the gradient should be the error itself, as in
    optax and in the textbooks on linear models.

    With $e = \text{predictions} - \text{targets}$:

    $$ e^2 / 2 $$

    Args:
        predictions: Floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `predictions`. None, as in
            optax, stands for zeros.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0, in the squared unit; a scalar if reduced.

    Gradient:
        $e$ for `predictions`, $-e$ for `targets`; smooth everywhere.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. The square overflows to inf beyond errors of 2.6e19 in float32, the
        gradient does not. Equal infinities give NaN.

    Raises:
        TypeError: If an input is not real, `predictions` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `predictions` or `reduction` is
            unknown.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.l2_loss([1.0, 2.5], [1.0, 1.0]))
        [0.    1.125]

    References:
        Christopher M. Bishop, "Pattern Recognition and Machine Learning", 2006, section
        1.5.5, https://www.microsoft.com/en-us/research/people/cmbishop/prml-book/
    """
    (e,), keep, weights = _errors(predictions, targets, where, weights, reduction)
    return reduce_loss((0.5 * e) * e, keep, weights, reduction)


def absolute_error(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the absolute error of each prediction.

    Choose it over `squared_error` where outliers should not decide the fit: its minimum
    is the median of the targets. `huber_loss` and `charbonnier_loss` are smooth near 0.

    With $e = \text{predictions} - \text{targets}$:

    $$ |e| $$

    Args:
        predictions: Floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `predictions`. None, as in
            optax, stands for zeros.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0, in the unit of the error; a scalar if reduced.

    Gradient:
        $\operatorname{sign}(e)$ for `predictions`, its negative for `targets`; 0 at
        $e = 0$, as in PyTorch.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. Infinite errors give inf with a gradient of 1 or -1, equal infinities
        NaN.

    Raises:
        TypeError: If an input is not real, `predictions` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `predictions` or `reduction` is
            unknown.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.absolute_error([1.0, -2.5], [1.0, 1.0]))
        [0.  3.5]

    References:
        Trevor Hastie, Robert Tibshirani and Jerome Friedman, "The Elements of
        Statistical Learning", 2nd edition, 2009, section 10.6,
        https://hastie.su.domains/ElemStatLearn/
    """
    inputs, keep, weights = _arguments(predictions, targets, where, weights, reduction)
    return reduce_loss(_absolute(*inputs), keep, weights, reduction)


@pointwise
def _absolute(p, t):
    # The derivative of `jnp.abs` at 0 is 1; PyTorch's, and this one, is 0.
    sign = direction(p, t)
    return jnp.abs(p - t), (sign, -sign)


def huber_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    delta: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns Huber's loss, quadratic up to an error of delta and linear beyond.

    Choose it over `squared_error` where a few targets are far off. `smooth_l1_loss` is
    this loss over delta, `log_cosh` is smooth to every order.

    With $e = \text{predictions} - \text{targets}$:

    $$
    \begin{cases}
    e^2 / 2 & |e| \le \delta \\
    \delta\,(|e| - \delta / 2) & |e| > \delta
    \end{cases}
    $$

    Args:
        predictions: Floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `predictions`. None, as in
            optax, stands for zeros.
        delta: $\delta \ge 0$, the error at which the line begins, broadcastable to
            `predictions`. 1.0 as in optax and PyTorch; choose it near the size of the
            errors that are still noise.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0, in the squared unit; a scalar if reduced.

    Gradient:
        $\max(-\delta, \min(e, \delta))$ for `predictions`, its negative for `targets`,
        $\max(|e| - \delta, 0)$ for `delta`; continuous, so that there is no kink to
        decide.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. Neither branch squares an error that the other one takes: nothing
        overflows before the loss itself does. Infinite errors give inf and a gradient
        of $\pm\delta$.

    Raises:
        TypeError: If an input is not real, `predictions` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `predictions`, `delta` is
            negative, or `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.huber_loss([0.5, 3.0], [0.0, 0.0], delta=1.0))
        [0.125 2.5  ]

    References:
        Peter J. Huber, "Robust Estimation of a Location Parameter", 1964,
        https://doi.org/10.1214/aoms/1177703732
    """
    checks.check_number("delta", delta, minimum=0)
    inputs, keep, weights = _arguments(
        predictions, targets, where, weights, reduction, delta=delta
    )
    return reduce_loss(_huber(*inputs), keep, weights, reduction)


# Outside, delta (abs(e) - delta/2) by halves, since e may overflow where the loss does
# not; the slope in delta is abs(e) - delta, a difference that ends near 0.
@pointwise
def _huber(p, t, delta):
    e = p - t
    beyond = excess(p, t, delta)
    inside = beyond <= 0
    inner = jnp.where(inside, e, 0)
    outer = (2 * delta) * excess(p / 2, t / 2, delta / 4)
    value = jnp.where(inside, (0.5 * inner) * inner, outer)
    slope = jnp.where(inside, e, delta * direction(p, t))
    return value, (slope, -slope, jnp.where(inside, 0, beyond))


def smooth_l1_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    beta: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the smooth L1 loss, which is Huber's loss over beta.

    Choose it over `huber_loss` where the slope of large errors should stay 1 whatever
    the width of the parabola, as in box regression. At beta 0 it is `absolute_error`.

    With $e = \text{predictions} - \text{targets}$:

    $$
    \begin{cases}
    e^2 / (2 \beta) & |e| < \beta \\
    |e| - \beta / 2 & |e| \ge \beta
    \end{cases}
    $$

    Args:
        predictions: Floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `predictions`. None stands for
            zeros.
        beta: $\beta \ge 0$, the error at which the line begins, broadcastable to
            `predictions`. 1.0 as in PyTorch and in Fast R-CNN.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0, in the unit of the error; a scalar if reduced.

    Gradient:
        $\max(-1, \min(e / \beta, 1))$ for `predictions`, its negative for `targets`,
        $-\min(e^2 / \beta^2, 1) / 2$ for `beta`. At `beta` 0 and $e = 0$ the slope is
        0.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. The parabola is formed as $(e / \beta)\,e$, which a tiny `beta` does not
        overflow. Infinite errors give inf and a gradient of 1 or -1.

    Raises:
        TypeError: If an input is not real, `predictions` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `predictions`, `beta` is negative,
            or `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.smooth_l1_loss([0.5, 3.0], [0.0, 0.0], beta=2.0))
        [0.0625 2.    ]

    References:
        Ross Girshick, "Fast R-CNN", 2015, equation 3, https://arxiv.org/abs/1504.08083
    """
    checks.check_number("beta", beta, minimum=0)
    inputs, keep, weights = _arguments(
        predictions, targets, where, weights, reduction, beta=beta
    )
    return reduce_loss(_smooth_l1(*inputs), keep, weights, reduction)


@pointwise
def _smooth_l1(p, t, beta):
    e = p - t
    inside = jnp.abs(e) < beta
    sign = direction(p, t)
    ratio = difference_over(p, t, jnp.where(inside, beta, 1))
    value = jnp.where(inside, (0.5 * ratio) * e, excess(p, t, beta / 2))
    slope = jnp.where(inside, ratio, sign)
    # At e = beta = 0 the loss is 0 for every beta, and so is its slope.
    return value, (slope, -slope, -0.5 * slope * slope)


def log_cosh(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the logarithm of the hyperbolic cosine of each error.

    Choose it over `huber_loss` where the second derivative should be continuous, as for
    Newton's method: it is $e^2 / 2$ near 0 and $|e| - \log 2$ far from it, without a
    width to set.

    With $e = \text{predictions} - \text{targets}$:

    $$ \log(\cosh(e)) $$

    Args:
        predictions: Floating, `[...]`, in a unit in which typical errors are near 1.
        targets: Real, in the same unit, broadcastable to `predictions`. None, as in
            optax, stands for zeros.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0; a scalar if reduced.

    Gradient:
        $\tanh(e)$ for `predictions`, its negative for `targets`; smooth everywhere.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. Value and gradient keep their digits for tiny errors, where the textbook
        form cancels, and never overflow before $|e|$ does. Infinite errors give inf and
        a gradient of 1 or -1.

    Raises:
        TypeError: If an input is not real, `predictions` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `predictions` or `reduction` is
            unknown.

    Example:
        >>> import jaxloss as jl
        >>> [f"{x:.3f}" for x in jl.log_cosh([0.0, 1.0, -100.0])]
        ['0.000', '0.434', '99.307']

    References:
        Pengfei Chen, Guangyong Chen and Shengyu Zhang, "Log Hyperbolic Cosine Loss
        Improves Variational Auto-Encoder", 2018,
        https://openreview.net/forum?id=rkglvsC9Ym
    """
    (p, t), keep, weights = _arguments(predictions, targets, where, weights, reduction)
    return reduce_loss(_log_cosh(p, t), keep, weights, reduction)


# d log(cosh e)/de = tanh(e). A mean and its gradient are two passes over p and t
# without a temporary, 1.3 times the speed of the textbook form: for that they share
# nothing that XLA would write to memory, not even p - t.
@pointwise
def _log_cosh(p, t):
    slope = tanh(t - p)
    return log_of_cosh(p - t), (-slope, slope)


def quantile_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    quantile: ArrayLike = 0.5,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the pinball loss, whose minimum is a quantile of the targets.

    Choose it to predict a quantile or, with two of them, an interval. At quantile 0.5
    it is half of `absolute_error`.

    With $q$ the quantile and $d = \text{targets} - \text{predictions}$:

    $$ \max(q\,d,\; (q - 1)\,d) $$

    Args:
        predictions: Floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `predictions`. None stands for
            zeros.
        quantile: $q$ in [0, 1], broadcastable to `predictions`, so that several
            quantiles can share one call. 0.5 is the median.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0, in the unit of the error; a scalar if reduced.

    Gradient:
        $-q$ for `predictions` below the target, $1 - q$ above it and 0 at $d = 0$; the
        negative for `targets`; $d$ for `quantile`.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. Finite wherever the product is, also where $d$ itself overflows.
        Infinite errors give inf, equal infinities NaN.

    Raises:
        TypeError: If an input is not real, `predictions` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `predictions`, `quantile` lies
            outside [0, 1], or `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.quantile_loss([1.0, 3.0], [2.0, 2.0], quantile=0.9))
        [0.9 0.1]

    References:
        Roger Koenker and Gilbert Bassett, "Regression Quantiles", 1978,
        https://doi.org/10.2307/1913643
    """
    checks.check_number("quantile", quantile, minimum=0, maximum=1)
    inputs, keep, weights = _arguments(
        predictions, targets, where, weights, reduction, quantile=quantile
    )
    return reduce_loss(_quantile(*inputs), keep, weights, reduction)


@pointwise
def _quantile(p, t, q):
    slope = jnp.where(t > p, q, jnp.where(t < p, q - 1, 0 * (t - p)))
    return times_difference(slope, t, p), (-slope, slope, t - p)


def epsilon_insensitive_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    epsilon: ArrayLike = 0.1,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the absolute error in excess of epsilon.

    Choose it over `absolute_error` where errors below a tolerance should cost nothing,
    as in support vector regression.

    With $e = \text{predictions} - \text{targets}$:

    $$ \max(|e| - \epsilon,\; 0) $$

    Args:
        predictions: Floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `predictions`. None stands for
            zeros.
        epsilon: $\epsilon \ge 0$, the tolerance in the unit of the error, broadcastable
            to `predictions`. 0.1 as in scikit-learn's `SVR`.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0, in the unit of the error; a scalar if reduced.

    Gradient:
        $\operatorname{sign}(e)$ for `predictions` where $|e| > \epsilon$, its negative
        for `targets`, -1 for `epsilon`; 0 for all of them elsewhere, the kink included.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. What rounding took from $e$ is put back, so that the small excess just
        beyond epsilon keeps its digits.

    Raises:
        TypeError: If an input is not real, `predictions` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `predictions`, `epsilon` is
            negative, or `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.epsilon_insensitive_loss([0.25, 2.0], [0.0, 0.0], epsilon=0.5))
        [0.  1.5]

    References:
        Harris Drucker, Christopher J. C. Burges, Linda Kaufman, Alex Smola and Vladimir
        Vapnik, "Support Vector Regression Machines", 1996,
        https://papers.nips.cc/paper/1238-support-vector-regression-machines
    """
    checks.check_number("epsilon", epsilon, minimum=0)
    inputs, keep, weights = _arguments(
        predictions, targets, where, weights, reduction, epsilon=epsilon
    )
    return reduce_loss(_epsilon_insensitive(*inputs), keep, weights, reduction)


@pointwise
def _epsilon_insensitive(p, t, epsilon):
    beyond = excess(p, t, epsilon)
    inside = beyond <= 0
    slope = jnp.where(inside, 0, direction(p, t))
    return jnp.where(inside, 0, beyond), (slope, -slope, -jnp.abs(slope))


def charbonnier_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    epsilon: ArrayLike = 1e-3,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns Charbonnier's loss, an absolute error that is smooth at 0.

    Choose it over `absolute_error` where a smooth gradient matters, as in image
    restoration. `huber_loss` differs in being 0 at a perfect prediction; this loss is
    epsilon there.

    With $e = \text{predictions} - \text{targets}$:

    $$ \sqrt{e^2 + \epsilon^2} $$

    Args:
        predictions: Floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `predictions`. None stands for
            zeros.
        epsilon: $\epsilon \ge 0$, the width of the rounded tip in the unit of the
            error, broadcastable to `predictions`. 1e-3 suits pixels in [0, 1].
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least `epsilon`, in the unit of the error; a scalar if reduced.

    Gradient:
        $e / \sqrt{e^2 + \epsilon^2}$ for `predictions`, its negative for `targets`,
        $\epsilon / \sqrt{e^2 + \epsilon^2}$ for `epsilon`; all 0 where $e$ and
        $\epsilon$ are both 0.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. The larger of $|e|$ and $\epsilon$ is taken out of the root: no square
        over- or underflows. Infinite errors give inf and a gradient of 1 or -1.

    Raises:
        TypeError: If an input is not real, `predictions` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `predictions`, `epsilon` is
            negative, or `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.charbonnier_loss([0.0, 3.0], [0.0, 0.0], epsilon=4.0))
        [4. 5.]

    References:
        Pierre Charbonnier, Laure Blanc-Féraud, Gilles Aubert and Michel Barlaud, "Two
        deterministic half-quadratic regularization algorithms for computed imaging",
        1994, https://doi.org/10.1109/ICIP.1994.413553
    """
    checks.check_number("epsilon", epsilon, minimum=0)
    inputs, keep, weights = _arguments(
        predictions, targets, where, weights, reduction, epsilon=epsilon
    )
    return reduce_loss(_charbonnier(*inputs), keep, weights, reduction)


# With m the larger of abs(e) and epsilon, x = e/m and y = epsilon/m, the loss is
# m sqrt(x² + y²), where no square over- or underflows, and its slopes are x and y over
# the root. With e and epsilon both 0 it is abs(e), and its subgradient 0.
@pointwise
def _charbonnier(p, t, epsilon):
    e, epsilon, k = scaled_difference(p, t, jnp.abs(epsilon))
    a = jnp.abs(e)
    larger = jnp.where(a > epsilon, a, epsilon)
    m = jnp.where((larger == 0) | jnp.isinf(larger), 1, larger)
    x = jnp.where(jnp.isinf(e), jnp.sign(e), quotient(e, m))
    y = jnp.where(jnp.isinf(e), 0, quotient(epsilon, m))
    square = x * x + y * y
    root = jnp.sqrt(jnp.where(square == 0, 1, square))
    slope = x / root
    value = larger * jnp.where(square == 0, 0, root) / k
    return value, (slope, -slope, y / root)


def robust_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    alpha: ArrayLike = 1.0,
    scale: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns Barron's general robust loss, whose shape is set by alpha.

    Choose it to move between known losses with one number: `l2_loss` at alpha 2,
    `charbonnier_loss` less its minimum at 1, Cauchy at 0, Geman-McClure at -2 and
    Welsch at -inf.

    With $s = (\text{predictions} - \text{targets}) / \text{scale}$ and
    $b = |\alpha - 2|$:

    $$
    \frac{b}{\alpha} \left( \left( \frac{s^2}{b} + 1 \right)^{\alpha/2} - 1 \right)
    $$

    and its limits $s^2 / 2$ at $\alpha = 2$, $\log(1 + s^2 / 2)$ at 0 and
    $1 - \exp(-s^2 / 2)$ at $-\infty$.

    Args:
        predictions: Floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `predictions`. None stands for
            zeros.
        alpha: $\alpha$ in [-inf, 2], broadcastable to `predictions`; smaller forgives
            outliers more. 1.0 grows linearly.
        scale: Positive, the width of the parabola at 0 in the unit of the error,
            broadcastable to `predictions`.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0, without unit; a scalar if reduced.

    Gradient:
        $g = (s / \text{scale}) (s^2 / b + 1)^{\alpha/2 - 1}$ for `predictions`, $-g$
        for `targets`, $-g\,s$ for `scale`. `alpha` receives its derivative too, at 0
        and 2 as the limit; at 2, where that limit is infinite, the one at a rounding
        error's distance. The loss rises with alpha: to fit alpha or scale, add the
        log-partition function of the paper, or both run away.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. No cancellation near alpha 0 or 2 and no overflow of $s^2$. An alpha
        above 2 that a trace cannot see gives NaN, and raises under `checkify`.

    Raises:
        TypeError: If an input is not real, `predictions` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `predictions`, `alpha` is above 2,
            `scale` is not positive, or `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> loss = jl.robust_loss([2.0, 2.0, 2.0], alpha=[2.0, 0.0, -2.0])
        >>> [f"{x:.4f}" for x in loss]
        ['2.0000', '1.0986', '1.0000']

    References:
        Jonathan T. Barron, "A General and Adaptive Robust Loss Function", 2019,
        equation 1, https://arxiv.org/abs/1701.03077
    """
    checks.check_number("alpha", alpha, maximum=2)
    checks.check_number("scale", scale, minimum=0, open_minimum=True)
    inputs, keep, weights = _arguments(
        predictions, targets, where, weights, reduction, alpha=alpha, scale=scale
    )
    checks.check_values("alpha", inputs[2] <= 2, "at most 2")
    return reduce_loss(robust(*inputs), keep, weights, reduction)


def absolute_percentage_error(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    epsilon: ArrayLike = 1e-7,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the absolute error in percent of the target.

    Choose it over `absolute_error` where targets span orders of magnitude and none is
    near 0. A prediction that is too low costs at most 100, one that is too high any
    amount; `squared_log_error` weighs both ratios alike.

    $$
    100 \cdot \frac{|\text{predictions} - \text{targets}|}
    {\max(|\text{targets}|,\; \epsilon)}
    $$

    Args:
        predictions: Floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `predictions`. None stands for
            zeros, which leaves `epsilon` as the divisor.
        epsilon: $\epsilon \ge 0$, the smallest divisor, in the unit of the targets and
            broadcastable to `predictions`. 1e-7 as in Keras.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0, in percent; a scalar if reduced.

    Gradient:
        With $e = \text{predictions} - \text{targets}$: for `predictions`
        $100 \operatorname{sign}(e)$ over the divisor, 0 at $e = 0$; for `targets` its
        negative times $\text{predictions} / \text{targets}$, or times 1 where `epsilon`
        is the divisor; `epsilon` receives a gradient there alone.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. An error beyond the largest float is no obstacle where the quotient is
        finite. With `epsilon` 0, a target of 0 gives inf or, predicted right, NaN.

    Raises:
        TypeError: If an input is not real, `predictions` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `predictions`, `epsilon` is
            negative, or `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.absolute_percentage_error([110.0, 1.0], [100.0, 2.0]))
        [10. 50.]

    References:
        Arnaud de Myttenaere, Boris Golden, Bénédicte Le Grand and Fabrice Rossi, "Mean
        Absolute Percentage Error for regression models", 2016,
        https://arxiv.org/abs/1605.02541
    """
    checks.check_number("epsilon", epsilon, minimum=0)
    inputs, keep, weights = _arguments(
        predictions, targets, where, weights, reduction, epsilon=epsilon
    )
    return reduce_loss(_percentage(*inputs), keep, weights, reduction)


# With f = 100 abs(p - t)/d and d = max(abs(t), epsilon), at d = abs(t):
#     df/dt = -100 sign(e) sign(t)·p/t², in which the two terms have been added up.
# No product leaves the range before the result: where 100 p may, it is 8·8·1.5625 p.
@pointwise
def _percentage(p, t, epsilon):
    own = jnp.abs(t) > epsilon
    d = jnp.where(own, jnp.abs(t), epsilon)
    rate = quotient(jnp.full_like(d, 100), d)
    e, d_k, _ = scaled_difference(p, t, d)
    value = jnp.abs(e) * (100 / d_k)
    sign = direction(p, t)

    low = jnp.abs(p) < 1
    divisor = jnp.where(own, d * jnp.where(low, 1, 0.125), 1)
    once = quotient(p * jnp.where(low, 100, 1), divisor)
    # The select keeps XLA from dividing once by divisor², which may underflow.
    twice = quotient(jnp.where(own, once, 0), divisor) * jnp.where(low, 1, 1.5625)
    t_slope = jnp.where(own, jnp.sign(t) * twice, rate)
    fixed = jnp.where(own, 1, epsilon)
    size = difference_over(jnp.where(own, 0, p), jnp.where(own, 0, t), fixed) * sign
    epsilon_slope = jnp.where(size > 0.01, size * rate, quotient(value, fixed))
    slopes = (sign * rate, -sign * t_slope, jnp.where(own, 0, -epsilon_slope))
    return value, slopes


def squared_log_error(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    epsilon: ArrayLike = 1e-7,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the squared difference of the logarithms of one plus each side.

    Choose it over `squared_error` for counts and amounts whose ratio matters more than
    their difference.

    $$
    \left( \log(1 + \max(\text{predictions}, \epsilon))
    - \log(1 + \max(\text{targets}, \epsilon)) \right)^2
    $$

    Args:
        predictions: Floating, `[...]`, at least 0; what is below `epsilon` is raised to
            it.
        targets: Real, in the same unit, broadcastable to `predictions`. None stands for
            zeros.
        epsilon: $\epsilon \ge 0$, the smallest value on either side, broadcastable to
            `predictions`. 1e-7 as in Keras.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0; a scalar if reduced.

    Gradient:
        With $d$ the difference of the logarithms: $2d / (1 + \text{predictions})$ for
        `predictions`, $-2d / (1 + \text{targets})$ for `targets`. At and below
        `epsilon` a side receives 0, and `epsilon` its gradient instead.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. The two logarithms are one, of the ratio, so that near-equal sides keep
        their digits. A side of inf gives inf, two of them NaN.

    Raises:
        TypeError: If an input is not real, `predictions` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `predictions`, `epsilon` is
            negative, or `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> [f"{x:.4f}" for x in jl.squared_log_error([1.0, 3.0], [1.0, 1.0])]
        ['0.0000', '0.4805']

    References:
        Keras, "Regression losses", `MeanSquaredLogarithmicError`,
        https://keras.io/api/losses/regression_losses/
    """
    checks.check_number("epsilon", epsilon, minimum=0)
    (p, t, epsilon), keep, weights = _arguments(
        predictions, targets, where, weights, reduction, epsilon=epsilon
    )
    loss = _squared_log(
        jnp.where(p <= epsilon, epsilon, p), jnp.where(t <= epsilon, epsilon, t)
    )
    return reduce_loss(loss, keep, weights, reduction)


# log1p(p) - log1p(t) = ± log1p(abs(p - t)/(1 + min(p, t))): no two logs to subtract.
# What rounding takes from the argument, which the square would double, is put back.
@pointwise
def _squared_log(p, t):
    sign = jnp.where(p < t, -1, 1)
    e, e_lost = two_difference(p, t)
    base, base_lost = two_difference(jnp.where(p < t, p, t), -jnp.ones_like(p))
    ratio = sign * e / base
    lost = remainder(sign * e, base, ratio) + sign * e_lost - ratio * base_lost
    log, log_lost = log1p(ratio, stop_gradient(lost / base))
    slope = 2 * sign * log
    return log * log + 2 * log * log_lost, (slope / (1 + p), -slope / (1 + t))


def poisson_nll_loss(
    predictions: ArrayLike,
    targets: ArrayLike | None = None,
    *,
    log_input: bool = True,
    full: bool = False,
    eps: ArrayLike = 1e-8,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the negative log-likelihood of counts under a Poisson distribution.

    Choose it over `squared_error` for counts, whose variance grows with their mean.
    Keras's `poisson` is the one with `log_input=False`.

    With $p$ the predictions and $t$ the targets, but for $\log t!$, which no fit
    depends on (see `full`):

    $$
    \begin{cases}
    e^p - t\,p & \text{if log_input} \\
    p - t \log(p + \text{eps}) & \text{if not}
    \end{cases}
    $$

    Args:
        predictions: Floating, `[...]`: the logarithm of the rate if `log_input`, else
            the rate, at least 0.
        targets: Counts, real and at least 0, broadcastable to `predictions`. None
            stands for zeros.
        log_input: Python bool, whether `predictions` are logarithms. True as in
            PyTorch, and the stabler choice.
        full: Python bool, whether to add Stirling's approximation of $\log t!$, which
            is $t \log t - t + \log(2 \pi t) / 2$, where $t > 1$. False as in PyTorch.
        eps: At least 0, keeps the logarithm of a rate of 0 finite; broadcastable to
            `predictions`, without effect if `log_input`. 1e-8 as in PyTorch.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, in nats, of either sign; a scalar if reduced.

    Gradient:
        For `predictions` $e^p - t$, or $1 - t / (p + \text{eps})$ without `log_input`.
        For `targets` $-p$ or $-\log(p + \text{eps})$, with `full` and $t > 1$ plus
        $\log t + 1 / (2t)$. For `eps` $-t / (p + \text{eps})$ without `log_input`.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. $0 \log 0$ is 0. In float32 $e^p$ overflows to inf at a `predictions` of
        88.7; a negative rate gives NaN.

    Raises:
        TypeError: If an input is not real, `predictions` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `predictions`, `eps` is negative,
            or `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> [f"{x:.4f}" for x in jl.poisson_nll_loss([0.0, 1.0], [2.0, 3.0])]
        ['1.0000', '-0.2817']

    References:
        PyTorch, "torch.nn.PoissonNLLLoss",
        https://docs.pytorch.org/docs/stable/generated/torch.nn.PoissonNLLLoss.html
    """
    checks.check_number("eps", eps, minimum=0)
    (p, t, eps), keep, weights = _arguments(
        predictions, targets, where, weights, reduction, eps=eps
    )
    own, rest = _stirling(t) if full else (jnp.zeros_like(t), jnp.zeros_like(t))
    loss = _poisson(p, t, own) if log_input else _poisson_of_rate(p, t, own, eps)
    return reduce_loss(loss + rest, keep, weights, reduction)


def _stirling(t):
    """Stirling's log(t!) = t·own + rest, which PyTorch takes for t > 1, else 0."""
    log_t = jnp.log(jnp.where(t > 1, t, 1))
    return jnp.where(t > 1, log_t - 1, 0), jnp.where(t > 1, (LOG_2_PI + log_t) / 2, 0)


# e^p - t (p - own), 0 · inf being 0. Where e^p overflows, p (e^p/p - t (p - own)/p)
# still has its sign; beyond p = 100, e^p is larger than any product.
@pointwise
def _poisson(p, t, own):
    rate = jnp.exp(p)
    q = jnp.clip(p, 88, 100)
    far = q * (jnp.exp(q - jnp.log(q)) - t * ((q - own) / q))
    near = minus_product(rate, t, jnp.where(t == 0, 0, p - own))
    return jnp.where(jnp.isinf(rate), far, near), (rate - t, own - p, t)


# p - t (log(p + eps) - own), with 0 log 0 = 0 log inf = 0. What rounding took from
# p + eps matters where the sum is near 1, and the logarithm near 0.
@pointwise
def _poisson_of_rate(p, t, own, eps):
    rate, lost = two_difference(p, -eps)
    none = (rate == 0) & (t == 0)
    rate = jnp.where(none, 1, rate)
    log_rate = jnp.log(rate) + stop_gradient(lost / jnp.where(rate == 0, 1, rate))
    surplus = jnp.where(none, 0, log_rate) - own
    share = quotient(t, rate)
    value = minus_product(p, t, jnp.where(t == 0, 0, surplus))
    return value, (1 - share, -surplus, t, -share)


def gaussian_nll_loss(
    means: ArrayLike,
    targets: ArrayLike,
    variances: ArrayLike,
    *,
    full: bool = False,
    eps: ArrayLike = 1e-6,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Returns the negative log-likelihood of targets under normal distributions.

    Choose it over `squared_error` for a model that also predicts its own uncertainty.

    With $v = \max(\text{variances}, \text{eps})$:

    $$
    \frac{1}{2} \left( \log(v) + \frac{(\text{means} - \text{targets})^2}{v} \right)
    $$

    Args:
        means: Predicted means, floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `means`.
        variances: Predicted variances in the squared unit, at least 0, broadcastable to
            `means`: `[..., 1]` for one a row.
        full: Python bool, whether to add the constant $\log(2 \pi) / 2$. False as in
            PyTorch.
        eps: At least 0, the smallest variance that counts, broadcastable to `means`.
            1e-6 as in PyTorch.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, in nats, of either sign; a scalar if reduced.

    Gradient:
        With $r = (\text{means} - \text{targets}) / v$: $r$ for `means`, $-r$ for
        `targets`, $(1 / v - r^2) / 2$ for `variances`. A variance below `eps` receives
        it too, as if the maximum were not there (PyTorch's straight-through clamp), so
        that it can recover; `eps` receives the same there, 0 elsewhere.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. The square is formed as $r\,(\text{means} - \text{targets})$, which
        overflows later. A negative variance gives NaN, and raises under `checkify`.

    Raises:
        TypeError: If an input is not real, `means` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `means`, `eps` is negative, or
            `reduction` is unknown.

    Example:
        >>> import jaxloss as jl
        >>> loss = jl.gaussian_nll_loss([1.0, 1.0], [3.0, 3.0], [1.0, 4.0])
        >>> [f"{x:.4f}" for x in loss]
        ['2.0000', '1.1931']

    References:
        David A. Nix and Andreas S. Weigend, "Estimating the mean and variance of the
        target probability distribution", 1994, https://doi.org/10.1109/ICNN.1994.374138
    """
    checks.check_number("eps", eps, minimum=0)
    named = {"means": means, "targets": targets, "variances": variances, "eps": eps}
    (m, t, v, eps), keep, weights = checks.elementwise(where, weights, reduction, named)
    m, t, v, eps = select(keep, m, t, v, eps)
    checks.check_values("variances", v >= 0, "at least 0")
    loss = _gaussian(m, t, v, eps) + (0.5 * LOG_2_PI if full else 0)
    return reduce_loss(loss, keep, weights, reduction)


# PyTorch clamps the variance without stopping its gradient, so that a variance below
# eps can recover: the derivative is the one at the clamped variance.
@pointwise
def _gaussian(m, t, v, eps):
    low = v < eps
    variance = jnp.where(low, eps, v)
    variance = jnp.where(v >= 0, variance, jnp.nan)
    ratio = difference_over(m, t, variance)
    value = 0.5 * jnp.log(variance) + times_difference(0.5 * ratio, m, t)
    v_slope = 0.5 / variance - (0.5 * ratio) * ratio
    return value, (ratio, -ratio, v_slope, jnp.where(low, v_slope, 0))


def _arguments(predictions, targets, where, weights, reduction, **parameters):
    """(predictions, targets, *parameters) of one shape, checked and masked."""
    targets = 0.0 if targets is None else targets
    named = {"predictions": predictions, "targets": targets, **parameters}
    arrays, keep, weights = checks.elementwise(where, weights, reduction, named)
    return select(keep, *arrays), keep, weights


def _errors(predictions, targets, where, weights, reduction, **parameters):
    """(e, *parameters) of one shape, checked and masked."""
    (p, t, *rest), keep, weights = _arguments(
        predictions, targets, where, weights, reduction, **parameters
    )
    return (p - t, *rest), keep, weights

"""Negative log-likelihood of values with outliers, of which the model says how many."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.numerics.exact import difference_over
from jaxloss._core.numerics.functions import LOG_2_PI
from jaxloss._core.rule.analytic import pointwise
from jaxloss.forecast._gamma import log1p_remainder, remainder_of_inverse


@public()
def student_t_nll_loss(
    means: ArrayLike,
    targets: ArrayLike,
    scales: ArrayLike,
    degrees_of_freedom: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Student-t negative log-likelihood of targets with outliers.

    Choose it over `gaussian_nll_loss` where some errors are far larger than the rest:
    an outlier pulls less the fewer degrees of freedom there are.

    With $e$ the means less the targets, $s$ the scales, $\nu$ the degrees of freedom:

    $$ \frac{\nu + 1}{2} \log\Big(1 + \frac{e^2}{\nu s^2}\Big) + \log s +
       \frac{1}{2} \log(\pi \nu) + \log \Gamma\Big(\frac{\nu}{2}\Big) -
       \log \Gamma\Big(\frac{\nu + 1}{2}\Big) $$

    Args:
        means: Predicted locations, floating, `[...]`, in any unit.
        targets: Real, in the same unit, broadcastable to `means`.
        scales: Predicted scales in the same unit, above 0, broadcastable to `means`.
        degrees_of_freedom: Real, above 0, broadcastable to `means`: 1 is the Cauchy
            distribution, inf the Gaussian.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, of either sign; a scalar if reduced.

    Gradient:
        With $x = e / s$, $b = 1 / \nu$ and $g = (1 + b) x / (1 + b x^2)$: $g / s$ for
        `means`, $-g / s$ for `targets`, $(1 - x^2) / ((1 + b x^2) s)$ for `scales`, and
        for `degrees_of_freedom` $-b^2$ times the derivative in $b$, which is 0 at inf.

    Numerics:
        No difference of log-gamma functions is taken. A scale of 0 gives the limit:
        -inf for a target at the mean, inf for any other. A negative scale or degree
        gives NaN, and raises under `checkify`.

    Example:
        >>> import jaxloss as jl
        >>> loss = jl.student_t_nll_loss([0.0, 0.0], [1.0, 9.0], 1.0, [1.0, 4.0])
        >>> [f"{x:.4f}" for x in loss]
        ['1.8379', '8.6217']

    References:
        Kenneth L. Lange, Roderick J. A. Little and Jeremy M. G. Taylor, "Robust
        Statistical Modeling Using the t Distribution", 1989,
        https://doi.org/10.1080/01621459.1989.10478852
    """
    named = {
        "means": means,
        "targets": targets,
        "scales": scales,
        "degrees_of_freedom": degrees_of_freedom,
    }
    (m, t, s, degrees), tail = checks.elementwise(where, weights, reduction, **named)
    valid = True
    for name, value in (("scales", s), ("degrees_of_freedom", degrees)):
        holds = value >= 0
        m = checks.check_values(name, m, tail.counts(holds), "at least 0")
        valid = valid & holds
    return tail.reduce(jnp.where(valid, _student_t(m, t, s, degrees), jnp.nan))


# With x = (m - t)/s, b = 1/ν, z = b x² and L(z) = (z - log(1 + z))/z²,
#     f = log s + log(2π)/2 + K(b) + (1 + b) log(1 + z)/(2 b),
#     K(b) = b L(b)/2 + S(ν/2) - S((ν + 1)/2),
# S the remainder of Stirling's formula: K is 0 at b = 0, and smooth there. With
# g = (1 + b) x/(1 + z),
#     df/dx = g,     df/ds = (1 - x²)/((1 + z) s),
#     df/dν = -b (b K'(b) + (z/(1 + z) - b x⁴ N(z))/2),
#     N(z) = (log(1 + z) - z/(1 + z))/z² = 1/(1 + z) - L(z).
# For |x| > 1 the fractions are divided by x or x², which may overflow.
@pointwise
def _student_t(m, t, s, degrees):
    b = 1 / degrees
    x = difference_over(m, t, s)
    constant, slope = jax.jvp(_constant, (b,), (jnp.ones_like(b),))
    large = jnp.abs(x) > 1
    far, close = jnp.where(large, x, 1), jnp.where(large, 0, x)
    inverse = 1 / far
    z = (b * far) * far
    z = jnp.where(large, jnp.where(b == 0, 0, z), (b * close) * close)

    value = (jnp.log(s) + 0.5 * LOG_2_PI) + constant
    near = z < 0.5
    small = jnp.where(near, z, 0)
    over = jnp.isinf(z)
    log_x = jnp.where(
        jnp.isinf(x), jnp.log(jnp.abs(m - t)) - jnp.log(s), jnp.log(jnp.abs(far))
    )
    log1p = jnp.where(over, 2 * log_x + jnp.log(b), jnp.log1p(jnp.where(over, 0, z)))
    tail = jnp.where(
        near, 0.5 * x * (x * (1 - small * log1p_remainder(small))), 0.5 * log1p / b
    )
    value += tail + b * tail
    value = jnp.where(s == 0, jnp.where(m == t, -jnp.inf, jnp.inf), value)

    # g/s, of which x may overflow, but not s x = m - t.
    error = jnp.where(large, m - t, 1)
    by_mean = jnp.where(
        large,
        (1 + b) / (s * inverse + b * error),
        (1 + b) * (close / s) / (1 + b * close * close),
    )
    square = inverse * inverse
    by_scale = jnp.where(
        large,
        (square - 1) / (square + b),
        (1 - close) * (1 + close) / (1 + b * close * close),
    )
    share = jnp.where(large, b / (square + b), z / (1 + jnp.where(large, 0, z)))
    bend = x * (x * (small * (1 / (1 + small) - log1p_remainder(small))))
    bend = jnp.where(near, bend, (log1p - share) / b)
    by_degrees = -b * (b * slope + 0.5 * (share - bend))
    return value, (by_mean, -by_mean, by_scale / s, by_degrees)


def _constant(b):
    """K(b)."""
    gap = remainder_of_inverse(2 * b) - remainder_of_inverse(2 * b / (1 + b))
    near = b < 0.5
    small, large = jnp.where(near, b, 0), jnp.where(near, 1, b)
    half = jnp.where(near, small * log1p_remainder(small), 1 - jnp.log1p(large) / large)
    return 0.5 * half + gap

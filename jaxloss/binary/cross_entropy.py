"""Binary cross entropies of logits and of probabilities."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import between
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.compilers.terms import capped_product
from jaxloss._core.numerics.exact import quotient
from jaxloss._core.numerics.functions import magnitude
from jaxloss._core.rule.analytic import pointwise


@public(label_smoothing=between(0, 1))
def sigmoid_binary_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    pos_weight: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Binary cross entropy of logits: the negative log-likelihood of yes-or-no labels.

    Choose it for every yes-or-no output of a network, also for several independent ones
    per example. `binary_cross_entropy` takes probabilities and is less exact;
    `sigmoid_focal_loss` reduces the loss of easy examples.

    With $x$ the logits, $w$ the `pos_weight` (1 if None), $a$ the `label_smoothing` and
    $y = (1 - a) \cdot \text{labels} + a / 2$:

    $$ w\,y \log(1 + e^{-x}) + (1 - y) \log(1 + e^{x}) $$

    Also known as BCE with logits and logistic loss. PyTorch: `nn.BCEWithLogitsLoss`;
    Keras: `BinaryCrossentropy(from_logits=True)`.

    Args:
        logits: Floating, `[...]`, log-odds.
        labels: Real, 0, 1 or a probability between them, broadcastable to `logits`.
            Others, such as -1, give the value of the formula and raise under
            `checkify`.
        pos_weight: Factor on the loss of a positive label, broadcastable to `logits`:
            `[C]` for C outputs. The ratio of negative to positive examples balances a
            rare class. None means 1.
        label_smoothing: In [0, 1], the share of each label that is spread evenly over
            yes and no, broadcastable to `logits`.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, at least 0 for labels in [0, 1].

    Gradient:
        With $p = 1 / (1 + e^{-x})$: $(1 - y)\,p - w\,y\,(1 - p)$ for `logits`, which is
        $p - y$ at $w = 1$. Also differentiable in `labels`, `pos_weight` and
        `label_smoothing`; smooth everywhere.

    Numerics:
        A logit of inf or -inf gives 0 with gradient 0 where it agrees with the label,
        else inf with gradient 1 or -1 (times the label's weight).

    Raises:
        ValueError: If `label_smoothing` is outside [0, 1].

    Example:
        >>> import jaxloss as jl
        >>> loss = jl.sigmoid_binary_cross_entropy([0.0, 2.0, -1000.0], [1.0, 0.0, 0.0])
        >>> [f"{x:.4f}" for x in loss]
        ['0.6931', '2.1269', '0.0000']

    References:
        Christopher M. Bishop, "Pattern Recognition and Machine Learning", 2006,
        equation 4.90,
        https://www.microsoft.com/en-us/research/people/cmbishop/prml-book/
    """
    (x, y, weight, smoothing), tail = checks.elementwise(
        where,
        weights,
        reduction,
        logits=logits,
        labels=labels,
        pos_weight=1.0 if pos_weight is None else pos_weight,
        label_smoothing=label_smoothing,
    )
    y = checks.check_probability("labels", y, tail)
    return tail.reduce(_cross_entropy(x, y, weight, smoothing))


# Let w be the weight, s the smoothing, q = w ((1 - s) y + s/2) the mass of the smoothed
# label on the positive class, n = (1 - s)(1 - y) + s/2 its mass on the negative class,
# and u = e^-|x|. Then softplus(x) = max(x, 0) + log1p(u), and
#     f = q softplus(-x) + n softplus(x)
#       = n max(x, 0) - q min(x, 0) + (q + n) log1p(u),       no term is negative,
#     df/dx = n sigmoid(x) - q sigmoid(-x)
#           = (n - q u)/(1 + u) for x >= 0, (n u - q)/(1 + u) for x < 0,
#     df/dy = (1 - s) T,     df/ds = (1/2 - y) T,
#     T = w softplus(-x) - softplus(x) = -w min(x, 0) - max(x, 0) + (w - 1) log1p(u).
# A hard label leaves one term of df/dx, so that no terms cancel as f -> 0.
#
# XLA for CPU computes a mean with its gradient in two passes over x and y and without a
# temporary array, 2.9 times as fast as two log-sigmoids. This needs two properties:
# - The value contains no select, which XLA would not fuse into the sum.
# - The value and the slope share no subexpression, which XLA would store for both
#   passes: neither the exponential nor a constant. Hence the value uses -0.0 for 0, and
#   m = -n formed from y - 1.
@pointwise
def _cross_entropy(x, y, weight, smoothing):
    kept, uniform = 1 - smoothing, smoothing / 2
    positive, m = weight * (kept * y + uniform), kept * (y + (-1.0)) - uniform
    soft = jnp.log1p(jnp.exp(-jnp.abs(x)))
    from_negative = capped_product(m, jnp.maximum(x, -0.0))
    from_positive = capped_product(positive, -jnp.minimum(x, -0.0))
    value = (positive - m) * soft - from_negative + from_positive

    u = jnp.exp(-magnitude(x))
    negative = kept * (1 - y) + uniform
    slope = jnp.where(x >= 0, negative - positive * u, negative * u - positive)
    finite = jnp.where(jnp.isinf(x), 0, x)
    # At x = 0 both have the derivative of the branch for x >= 0, as `magnitude` has.
    # With different one-sided derivatives the second derivatives at 0 would be wrong.
    high, low = jnp.where(x >= 0, finite, 0), jnp.where(x >= 0, 0, -finite)
    soft = jnp.log1p(u)

    def label_slope(c):
        """c · T."""
        return (c * weight) * low - c * high + (c * (weight - 1)) * soft

    weight_slope = (kept * y + uniform) * (low + soft)
    return value, (
        slope / (1 + u),
        label_slope(kept),
        weight_slope,
        label_slope(0.5 - y),
    )


@public()
def binary_cross_entropy(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Binary cross entropy of probabilities, at most 100 for a hard label.

    Choose it only where you have no logits: `sigmoid_binary_cross_entropy` takes
    logits, and keeps the digits that a probability near 1 has lost.

    With $p$ the probabilities and $y$ the labels:

    $$ -y \log(p) - (1 - y) \log(1 - p), \qquad \log(0) = -100 $$

    Also known as BCE and log loss. PyTorch: `nn.BCELoss`; Keras: `BinaryCrossentropy`.

    Args:
        probabilities: Floating, `[...]`, in [0, 1].
        labels: Real, in [0, 1], broadcastable to `probabilities`.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, at least 0 for labels in [0, 1].

    Gradient:
        $(1 - y) / (1 - p) - y / p$ for `probabilities`, $\log(1 - p) - \log(p)$ for
        `labels`. At $p = 0$ and $p = 1$ the slope is $(p - y) / 10^{-12}$, as in
        PyTorch, which uses that divisor for every $p$ below $10^{-12}$.

    Numerics:
        A probability of 0 or 1 that contradicts the label gives 100, not inf. A
        probability outside [0, 1] gives NaN, and raises under `checkify`.

    Example:
        >>> import jaxloss as jl
        >>> loss = jl.binary_cross_entropy([0.5, 0.75, 0.0], [1.0, 0.0, 1.0])
        >>> [f"{x:.3f}" for x in loss]
        ['0.693', '1.386', '100.000']

    References:
        PyTorch, "torch.nn.BCELoss",
        https://docs.pytorch.org/docs/stable/generated/torch.nn.BCELoss.html
    """
    (p, y), tail = checks.elementwise(
        where, weights, reduction, probabilities=probabilities, labels=labels
    )
    p = checks.check_probability("probabilities", p, tail)
    y = checks.check_probability("labels", y, tail)
    return tail.reduce(_probability_cross_entropy(p, y))


# PyTorch replaces logarithms below -100 by -100, and divides by at least 1e-12 in the
# slope (p - y)/(p (1 - p)). This loss does both at p = 0 and p = 1 only: elsewhere the
# true slope (1 - y)/(1 - p) - y/p is finite.
@pointwise
def _probability_cross_entropy(p, y):
    end = (p == 0) | (p == 1)
    inside = jnp.where(end, 0.5, p)
    log_p = jnp.where(p == 0, -100, jnp.where(p == 1, 0, jnp.log(inside)))
    log_q = jnp.where(p == 1, -100, jnp.where(p == 0, 0, jnp.log1p(-inside)))
    slope = quotient(1 - y, 1 - inside) - quotient(y, inside)
    slope = jnp.where(end, (p - y) / 1e-12, slope)
    return -(y * log_p + (1 - y) * log_q), (slope, log_q - log_p)

"""Binary losses with a margin: a score or a distance, and a target of 1 or -1."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.numerics.functions import relu, softplus
from jaxloss._core.numerics.probability import sigmoid
from jaxloss._core.rule.analytic import pointwise


@public()
def hinge_loss(
    predictor_outputs: ArrayLike,
    targets: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Hinge loss: zero where the score exceeds a margin of 1, linear below.

    Choose it for the margin of a support vector machine. `squared_hinge_loss` has a
    continuous gradient, `soft_margin_loss` has a gradient at every score, and
    `perceptron_loss` asks for no margin.

    $$ \max(0,\; 1 - \text{targets} \cdot \text{outputs}) $$

    Also known as the loss of a support vector machine (SVM). Keras: `Hinge`.

    Args:
        predictor_outputs: Floating, `[...]`, scores whose sign is the decision.
        targets: Real, broadcastable, -1 or 1: `2 * labels - 1` for labels of 0 and 1.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0.

    Gradient:
        $-\text{targets}$ for `predictor_outputs` and $-\text{outputs}$ for `targets`
        where the loss is positive; 0 elsewhere, also at the kink.

    Numerics:
        Targets other than -1 and 1 raise only under `checkify`; the formula takes them.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.hinge_loss([0.25, 2.0, 2.0], [1, 1, -1]))
        [0.75 0.   3.  ]

    References:
        Corinna Cortes and Vladimir Vapnik, "Support-Vector Networks", 1995,
        https://doi.org/10.1007/BF00994018
    """
    (x, t), tail = _signed(predictor_outputs, targets, where, weights, reduction)
    return tail.reduce(_hinge(x, t))


@public()
def squared_hinge_loss(
    predictor_outputs: ArrayLike,
    targets: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Squared hinge loss: the square of the hinge loss, with a continuous gradient.

    Choose it over `hinge_loss` where the gradient should be continuous and large
    violations of the margin should cost more.

    $$ \max(0,\; 1 - \text{targets} \cdot \text{outputs})^2 $$

    Keras: `SquaredHinge`.

    Args:
        predictor_outputs: Floating, `[...]`, scores whose sign is the decision.
        targets: Real, broadcastable, -1 or 1: `2 * labels - 1` for labels of 0 and 1.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0.

    Gradient:
        With $h$ the hinge loss, $-2h \cdot \text{targets}$ for `predictor_outputs` and
        $-2h \cdot \text{outputs}$ for `targets`; continuous, without a kink.

    Numerics:
        Targets other than -1 and 1 raise only under `checkify`; the formula takes them.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.squared_hinge_loss([0.5, 2.0, 2.0], [1, 1, -1]))
        [0.25 0.   9.  ]

    References:
        Kai-Wei Chang, Cho-Jui Hsieh and Chih-Jen Lin, "Coordinate Descent Method for
        Large-scale L2-loss Linear Support Vector Machines", 2008,
        https://www.jmlr.org/papers/v9/chang08a.html
    """
    (x, t), tail = _signed(predictor_outputs, targets, where, weights, reduction)
    return tail.reduce(_squared_hinge(x, t))


@public()
def soft_margin_loss(
    predictor_outputs: ArrayLike,
    targets: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Soft margin loss: the logistic loss for targets of -1 and 1.

    Choose it over `hinge_loss` for a smooth loss that also gives probabilities. It is
    `sigmoid_binary_cross_entropy` with labels written as -1 and 1.

    $$ \log(1 + \exp(-\text{targets} \cdot \text{outputs})) $$

    PyTorch: `nn.SoftMarginLoss`.

    Args:
        predictor_outputs: Floating, `[...]`, log-odds.
        targets: Real, broadcastable, -1 or 1: `2 * labels - 1` for labels of 0 and 1.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, in nats, at least 0.

    Gradient:
        With $\sigma = 1 / (1 + \exp(\text{targets} \cdot \text{outputs}))$,
        $-\sigma \cdot \text{targets}$ for `predictor_outputs` and
        $-\sigma \cdot \text{outputs}$ for `targets`; smooth everywhere.

    Numerics:
        Targets other than -1 and 1 raise only under `checkify`; the formula takes them.

    Example:
        >>> import jaxloss as jl
        >>> [f"{x:.3f}" for x in jl.soft_margin_loss([0.0, 1.0, 100.0], [1, 1, -1])]
        ['0.693', '0.313', '100.000']

    References:
        Jerome Friedman, Trevor Hastie and Robert Tibshirani, "Additive logistic
        regression: a statistical view of boosting", 2000,
        https://doi.org/10.1214/aos/1016218223
    """
    (x, t), tail = _signed(predictor_outputs, targets, where, weights, reduction)
    return tail.reduce(_soft_margin(x, t))


@public()
def perceptron_loss(
    predictor_outputs: ArrayLike,
    targets: ArrayLike,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Perceptron loss: zero for scores of the right sign, linear otherwise.

    Choose it where the right sign is enough; `hinge_loss` also asks for a margin.

    $$ \max(0,\; -\text{targets} \cdot \text{outputs}) $$

    Args:
        predictor_outputs: Floating, `[...]`, scores whose sign is the decision.
        targets: Real, broadcastable, -1 or 1: `2 * labels - 1` for labels of 0 and 1.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0.

    Gradient:
        $-\text{targets}$ for `predictor_outputs` and $-\text{outputs}$ for `targets`
        where the loss is positive; 0 elsewhere, also at the kink at score 0: a model
        whose scores all start at 0 does not learn.

    Numerics:
        Targets other than -1 and 1 raise only under `checkify`; the formula takes them.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.perceptron_loss([0.25, 2.0, -2.0], [1, -1, 1]))
        [0. 2. 2.]

    References:
        Christopher M. Bishop, "Pattern Recognition and Machine Learning", 2006,
        equation 4.54,
        https://www.microsoft.com/en-us/research/people/cmbishop/prml-book/
    """
    (x, t), tail = _signed(predictor_outputs, targets, where, weights, reduction)
    return tail.reduce(_perceptron(x, t))


@public()
def hinge_embedding_loss(
    distances: ArrayLike,
    targets: ArrayLike,
    *,
    margin: ArrayLike = 1.0,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Hinge embedding loss: small for close similar pairs and distant different pairs.

    Choose it to train embeddings on pairs that are marked as similar or different, with
    any distance that you compute.

    With $d$ the distances:

    $$
    \begin{cases}
    d & \text{targets} = 1 \\
    \max(0,\; \text{margin} - d) & \text{targets} = -1
    \end{cases}
    $$

    PyTorch: `nn.HingeEmbeddingLoss`.

    Args:
        distances: Floating, `[...]`, in any unit.
        targets: Real, broadcastable, 1 for a similar pair and -1 for a different one.
        margin: The distance at which a different pair is far enough apart,
            broadcastable to `distances`. 1.0 as in PyTorch.
        where: Boolean mask; False entries are excluded.
        weights: Real weights per example.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0 if the distances are.

    Gradient:
        At target 1, 1 for `distances`. At target -1 up to and including the margin, as
        in PyTorch, -1 for `distances` and 1 for `margin`; 0 beyond. `targets` select
        the case and have gradient 0.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.hinge_embedding_loss([0.25, 0.25, 2.0], [1, -1, -1]))
        [0.25 0.75 0.  ]

    References:
        PyTorch, "torch.nn.HingeEmbeddingLoss",
        https://docs.pytorch.org/docs/stable/generated/torch.nn.HingeEmbeddingLoss.html
    """
    (x, t, margin), tail = checks.elementwise(
        where, weights, reduction, distances=distances, targets=targets, margin=margin
    )
    valid = jnp.abs(t) == 1
    t = checks.check_values("targets", t, tail.counts(valid), "1 or -1")
    # At the margin itself the gradient is -1: PyTorch's clamp has it too.
    apart = jnp.where(margin - x < 0, 0, margin - x)
    loss = jnp.where(t == 1, x, jnp.where(valid, apart, jnp.nan))
    return tail.reduce(loss)


# A loss f(m) of the margin m = x t: df/dx = f'(m) t and df/dt = f'(m) x. Where f'(m) is
# 0 both are 0, also for infinite x, where the product would be 0 · inf = NaN.
def _of_margin(loss_and_slope):
    @pointwise
    def loss(x, t):
        value, slope = loss_and_slope(x * t)
        flat = slope == 0
        return value, tuple(slope * jnp.where(flat, 0, factor) for factor in (t, x))

    return loss


_hinge = _of_margin(lambda m: (relu(1 - m), jnp.where(1 - m <= 0, 0.0, -1.0)))
_squared_hinge = _of_margin(lambda m: (relu(1 - m) ** 2, -2 * relu(1 - m)))
_soft_margin = _of_margin(lambda m: (softplus(-m), -sigmoid(-m)))
_perceptron = _of_margin(lambda m: (relu(-m), jnp.where(-m <= 0, 0.0, -1.0)))


def _signed(predictor_outputs, targets, where, weights, reduction):
    """Checked and masked scores and targets in the same shape, and the `Tail`."""
    (x, t), tail = checks.elementwise(
        where,
        weights,
        reduction,
        predictor_outputs=predictor_outputs,
        targets=targets,
    )
    signs = jnp.abs(t) == 1
    return (x, checks.check_values("targets", t, tail.counts(signs), "1 or -1")), tail

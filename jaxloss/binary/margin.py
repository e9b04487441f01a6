"""Losses of the margin: a score, or a distance, against a target of 1 or -1."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
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
    r"""Returns the hinge loss of scores for targets of plus and minus one.

    Choose it for the margin of a support vector machine; `squared_hinge_loss` is
    smooth, `soft_margin_loss` never stops pushing, `perceptron_loss` asks for no
    margin.

    $$ \max(0,\; 1 - \text{targets} \cdot \text{outputs}) $$

    Args:
        predictor_outputs: Floating, `[...]`, scores whose sign is the decision.
        targets: Real, -1 or 1, broadcastable to `predictor_outputs`. Targets of 0 and 1
            are an error: convert them with `2 * labels - 1`.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0; a scalar if reduced.

    Gradient:
        $-\text{targets}$ for `predictor_outputs` and $-\text{outputs}$ for `targets`
        where the loss is positive, 0 elsewhere, the kink included.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. A score of inf costs 0 or inf, by its sign. Targets other than -1 and 1
        raise under `checkify` alone: the formula takes them as they are, and 0 gives a
        constant 1.

    Raises:
        TypeError: If an input is not real, `predictor_outputs` not floating, or `where`
            not boolean.
        ValueError: If an input does not broadcast to `predictor_outputs` or `reduction`
            is unknown.

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
    r"""Returns the square of the hinge loss for targets of plus and minus one.

    Choose it over `hinge_loss` where the gradient should be continuous and large
    violations should count more.

    $$ \max(0,\; 1 - \text{targets} \cdot \text{outputs})^2 $$

    Args:
        predictor_outputs: Floating, `[...]`, scores whose sign is the decision.
        targets: Real, -1 or 1, broadcastable to `predictor_outputs`. Targets of 0 and 1
            are an error: convert them with `2 * labels - 1`.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0; a scalar if reduced.

    Gradient:
        With $h$ the hinge loss, $-2h \cdot \text{targets}$ for `predictor_outputs` and
        $-2h \cdot \text{outputs}$ for `targets`; continuous, so that there is no kink
        to decide.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. The square overflows to inf beyond scores of 1.8e19 in float32. Targets
        other than -1 and 1 raise under `checkify` alone: the formula takes them as they
        are, and 0 gives a constant 1.

    Raises:
        TypeError: If an input is not real, `predictor_outputs` not floating, or `where`
            not boolean.
        ValueError: If an input does not broadcast to `predictor_outputs` or `reduction`
            is unknown.

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
    r"""Returns the logistic loss of scores for targets of plus and minus one.

    Choose it over `hinge_loss` for a smooth loss that also gives probabilities. It is
    `sigmoid_binary_cross_entropy` for those who write their labels as -1 and 1.

    $$ \log(1 + \exp(-\text{targets} \cdot \text{outputs})) $$

    Args:
        predictor_outputs: Floating, `[...]`, log-odds.
        targets: Real, -1 or 1, broadcastable to `predictor_outputs`. Targets of 0 and 1
            are an error: convert them with `2 * labels - 1`.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, in nats, at least 0; a scalar if reduced.

    Gradient:
        With $\sigma = 1 / (1 + \exp(\text{targets} \cdot \text{outputs}))$,
        $-\sigma \cdot \text{targets}$ for `predictor_outputs` and
        $-\sigma \cdot \text{outputs}$ for `targets`; smooth everywhere.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. No exponential overflows, and small losses keep their digits. Targets
        other than -1 and 1 raise under `checkify` alone: the formula takes them as they
        are, and 0 gives a constant $\log 2$.

    Raises:
        TypeError: If an input is not real, `predictor_outputs` not floating, or `where`
            not boolean.
        ValueError: If an input does not broadcast to `predictor_outputs` or `reduction`
            is unknown.

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
    r"""Returns the perceptron loss of scores for targets of plus and minus one.

    Choose it where the right sign is enough; `hinge_loss` also asks for a margin.

    $$ \max(0,\; -\text{targets} \cdot \text{outputs}) $$

    Args:
        predictor_outputs: Floating, `[...]`, scores whose sign is the decision.
        targets: Real, -1 or 1, broadcastable to `predictor_outputs`. Targets of 0 and 1
            are an error: convert them with `2 * labels - 1`.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0; a scalar if reduced.

    Gradient:
        $-\text{targets}$ for `predictor_outputs` and $-\text{outputs}$ for `targets`
        where the loss is positive, 0 elsewhere, the kink at a score of 0 included: a
        model whose scores all start at 0 does not move.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. A score of inf costs 0 or inf, by its sign. Targets other than -1 and 1
        raise under `checkify` alone: the formula takes them as they are, and 0 gives a
        constant 0.

    Raises:
        TypeError: If an input is not real, `predictor_outputs` not floating, or `where`
            not boolean.
        ValueError: If an input does not broadcast to `predictor_outputs` or `reduction`
            is unknown.

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
    r"""Returns the distance of a pair, or what it lacks to the margin if they differ.

    Choose it to train embeddings from pairs that are marked alike or different, with a
    distance of your own.

    With $d$ the distances:

    $$
    \begin{cases}
    d & \text{targets} = 1 \\
    \max(0,\; \text{margin} - d) & \text{targets} = -1
    \end{cases}
    $$

    Args:
        distances: Floating, `[...]`, in any unit.
        targets: Real, 1 for a pair that belongs together and -1 for one that does not,
            broadcastable to `distances`. Targets of 0 and 1 are an error.
        margin: The distance at which a pair is far enough apart, in the unit of the
            distances and broadcastable to them. 1.0 as in PyTorch.
        where: Boolean mask, broadcastable to the per-example loss; False entries count
            nowhere ([conventions][]).
        weights: Real weights, broadcastable to the per-example loss ([conventions][]).
        reduction: "none" for the per-example losses, "sum" for their weighted sum,
            "mean" for their weighted mean ([conventions][]).

    Returns:
        `[...]`, at least 0 for distances that are; a scalar if reduced.

    Gradient:
        1 for `distances` at target 1; -1 for them and 1 for `margin` at target -1 up to
        the margin, the margin itself included as in PyTorch, 0 beyond. `targets` choose
        the branch and receive 0.

    Numerics:
        Computes in float32, or float64 if an input is float64; time and memory are
        linear in the number of elements. An empty or fully masked input has sum and
        mean 0. An infinite distance costs inf at target 1 and 0 at -1. A target other
        than -1 and 1 gives NaN, and raises under `checkify`.

    Raises:
        TypeError: If an input is not real, `distances` not floating, or `where` not
            boolean.
        ValueError: If an input does not broadcast to `distances` or `reduction` is
            unknown.

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
    # PyTorch's clamp lets the gradient through at the margin itself.
    apart = jnp.where(margin - x < 0, 0, margin - x)
    loss = jnp.where(t == 1, x, jnp.where(valid, apart, jnp.nan))
    return tail.reduce(loss)


# Losses of the margin x t. Where they are flat, they are so in t too, at infinite x as
# well, where the product rule would take 0 · inf.
def _of_margin(loss_and_slope):
    @pointwise
    def loss(x, t):
        value, slope = loss_and_slope(x * t)
        flat = slope == 0
        return value, tuple(slope * jnp.where(flat, 0, by) for by in (t, x))

    return loss


_hinge = _of_margin(lambda m: (relu(1 - m), jnp.where(1 - m <= 0, 0.0, -1.0)))
_squared_hinge = _of_margin(lambda m: (relu(1 - m) ** 2, -2 * relu(1 - m)))
_soft_margin = _of_margin(lambda m: (softplus(-m), -sigmoid(-m)))
_perceptron = _of_margin(lambda m: (relu(-m), jnp.where(-m <= 0, 0.0, -1.0)))


def _signed(predictor_outputs, targets, where, weights, reduction):
    """Scores and targets in one shape, checked and masked."""
    (x, t), tail = checks.elementwise(
        where,
        weights,
        reduction,
        predictor_outputs=predictor_outputs,
        targets=targets,
    )
    signs = jnp.abs(t) == 1
    return (x, checks.check_values("targets", t, tail.counts(signs), "±1")), tail

"""Losses that `make_loss` makes: one of numbers, one of a vector and a label."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxloss as jl
from cases.case import Case


def smooth_quantile(prediction, target, quantile, width):
    """Zheng's smooth pinball loss, 2011: q u + w log(1 + exp(-u/w)), u = t - p."""
    u = target - prediction
    steps = u / width
    miss = jax.nn.sigmoid(-steps)
    softplus = jax.nn.softplus(-steps)
    loss = quantile * u + width * softplus
    return loss, (miss - quantile, quantile - miss, u, softplus + steps * miss)


def brier(logits, label):
    """The Brier score, 1950: squared distance of softmax from the one-hot label."""
    p = jax.nn.softmax(logits)
    distance = p - jax.nn.one_hot(label, p.size, dtype=p.dtype)
    gradient = 2 * p * (distance - jnp.sum(p * distance))
    return jnp.sum(distance**2), (gradient, None)


def smooth_quantile_reference(**arguments):
    prediction, target, quantile, width = arguments.values()
    u = target - prediction
    return quantile * u + width * np.log1p(np.exp(-u / width))


def brier_reference(**arguments):
    losses = []
    for logits, label in zip(*arguments.values(), strict=True):
        p = np.exp(logits - logits.max())
        p /= p.sum()
        losses.append(sum((p[j] - (j == label)) ** 2 for j in range(p.size)))
    return np.array(losses)


def by_keyword(loss, real=0):
    """A made loss by keyword: it takes its arguments by position, named in messages so.

    Integers are labels to a made loss. Of the arguments behind the first, the next
    `real` ones are numbers, as a user's own wrapper would make them.
    """

    def call(*, where=None, weights=None, reduction="none", **named):
        arguments = [named[f"arguments[{i}]"] for i in range(len(named))]
        for i in range(1, real + 1):
            x = jnp.asarray(arguments[i])
            inexact = jnp.issubdtype(x.dtype, jnp.floating)
            arguments[i] = x if inexact else x.astype(jnp.float32)
        return loss(*arguments, where=where, weights=weights, reduction=reduction)

    return call


# fmt: off
CASES = [
    Case(
        by_keyword(jl.make_loss(smooth_quantile), real=3),
        smooth_quantile_reference,
        {
            "arguments[0]": np.array([0.7, -1.2, 3.5, 0.1, -4.0, 2.2]),
            "arguments[1]": np.array([0.2, 0.4, -1.5, 0.3, 3.0, 2.9]),
        },
        {"arguments[2]": 0.8, "arguments[3]": 0.6},
        name="make_loss", variant="scalars",
        domain={"arguments[2]": (0.0, 1.0), "arguments[3]": (0.01, np.inf)},
    ),
    Case(
        by_keyword(jl.make_loss(brier, "(c),()->()")), brier_reference,
        {
            "arguments[0]": np.array([
                [0.3, -1.1, 0.8, 0.0, 0.4],
                [2.5, 0.1, -0.7, 1.9, -0.2],
                [-3.0, 4.0, 0.6, 0.2, 1.1],
                [0.0, 0.2, 0.1, -0.3, 0.5],
                [6.0, -2.0, 1.3, 0.9, -1.0],
                [-0.4, -0.9, 1.7, -2.2, 0.7],
            ]),
            "arguments[1]": np.array([0, 3, 1, 2, 1, 0]),
        },
        name="make_loss", variant="vector and label",
        core={"arguments[0]": 1},
    ),
]
# fmt: on

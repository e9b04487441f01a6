"""Log-probabilities of answers from those of their tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.types import ArrayLike
from jaxloss.alignment._segments import check_token_axis, segments, token_counts


@public()
def sequence_log_probs(
    log_probs: ArrayLike,
    *,
    segment_ids: ArrayLike | None = None,
    num_segments: int | None = None,
    average: bool = False,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Log-probability of each answer: the sum, or the mean, over its tokens.

    Choose it between `linear_log_probs` or `log_softmax` and the preference losses,
    which take one number per answer. It also forms the mean of any other number per
    token over each sequence, packed or not.

    $$ \sum_{t \in \text{answer}} \text{log\_probs}_t \qquad \text{or} \qquad
       \frac{1}{|\text{answer}|} \sum_{t \in \text{answer}} \text{log\_probs}_t $$

    Args:
        log_probs: Floating, `[..., T]`, one number per token.
        segment_ids: Integer, broadcastable to `log_probs`: for several answers packed
            into the last axis, which one each token belongs to. Tokens whose id is
            outside $[0, \text{num\_segments})$ are padding, and excluded. None means
            that the last axis is one answer.
        num_segments: The number of answers in the last axis, required with
            `segment_ids`.
        average: Whether to divide by the number of tokens that remain.
        where: Boolean mask, broadcastable to `log_probs`; False entries are excluded.

    Returns:
        `[...]`, or `[..., num_segments]` with `segment_ids`. An answer without tokens
        has 0.

    Gradient:
        1 for each token that remains, or 1 over their number; 0 for the others.

    Numerics:
        With `segment_ids` each token is compared with each answer: the time is that of
        `T * num_segments` operations, without an array of that size.

    Raises:
        ValueError: If only one of `segment_ids` and `num_segments` is given.

    Example:
        >>> import jaxloss as jl
        >>> log_probs = [[-1.0, -2.0, -3.0, -4.0]]
        >>> print(jl.sequence_log_probs(log_probs))
        [-10.]
        >>> packed = [[0, 0, 1, -1]]  # two answers and a token of padding
        >>> print(jl.sequence_log_probs(log_probs, segment_ids=packed, num_segments=2))
        [[-3. -3.]]

    References:
        Yu Meng, Mengzhou Xia and Danqi Chen, "SimPO: Simple Preference Optimization
        with a Reference-Free Reward", 2024, equation 3,
        https://arxiv.org/abs/2405.14734
    """
    (x,) = checks.real_arrays(log_probs=log_probs)
    check_token_axis("log_probs", x)
    of_answers = segments(segment_ids, num_segments, x, "log_probs")
    keep = None
    if where is not None:
        keep = checks.to_mask("where", where, weighted=False)
        checks.check_broadcast("where", keep.shape, "log_probs", x.shape)
        keep = jnp.broadcast_to(keep, x.shape)
        x = jnp.where(keep, x, 0)
    total = of_answers.sum(x)
    if not average:
        return total
    return total / token_counts(of_answers, keep, x)

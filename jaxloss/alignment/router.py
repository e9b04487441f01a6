"""Losses of routers, which send each token to a few experts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.classes import mask_classes
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.devices import sum_over_devices
from jaxloss._core.log_sum_exp import log_sum_exp
from jaxloss._core.rule.varying import vary_as, varying
from jaxloss._core.softmax import softmax, widen


@public()
def router_balance_loss(
    router_logits: ArrayLike,
    expert_ids: ArrayLike,
    *,
    where: ArrayLike | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    r"""Load-balancing loss of a router: 1 where all experts get their share of tokens.

    Choose it beside the task's loss, times a small factor, to keep a mixture of experts
    from using a few of them only. `router_z_loss` keeps the logits small.

    With $E$ experts, $f_i$ the share of expert $i$ in all assignments and $P_i$ the
    mean over the tokens of its probability:

    $$ E \sum_i f_i P_i $$

    Args:
        router_logits: Floating, `[..., E]`. All axes but the last are tokens; `vmap`
            over layers that are balanced one by one.
        expert_ids: Integer, `[...]` or `[..., K]`: the experts that each token was sent
            to.
        where: Boolean mask, broadcastable to `[...]`; False entries are excluded, from
            both factors and from the number of tokens.
        axis_name: The mesh axis of `jax.shard_map` over which the tokens are split. The
            counts and the probabilities are summed over the devices before they are
            multiplied, so that value and gradient are those of all tokens, and equal on
            all devices.

    Returns:
        A scalar: 1 at balance for every K, at most E. 0 if there is no token.

    Gradient:
        $E / N \cdot p_{ti} (f_i - \sum_j f_j p_{tj})$ for the logit $i$ of token $t$,
        with $p$ its probabilities and $N$ the number of tokens. The shares $f$ are
        counts, and have none.

    Numerics:
        A logit of -inf is an expert of probability 0. An id outside $[0, E)$ gives NaN,
        and raises under `checkify`.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss as jl
        >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]))
        >>> print(jl.router_balance_loss(logits, [[0, 1], [0, 2]]))  # K = 2
        1.125

    References:
        William Fedus, Barret Zoph and Noam Shazeer, "Switch Transformers: Scaling to
        Trillion Parameter Models with Simple and Efficient Sparsity", 2021, equations
        4 to 6, https://arxiv.org/abs/2101.03961
    """
    logits, _ = checks.class_array("router_logits", router_logits, -1, "expert")
    if axis_name is not None and axis_name not in varying(logits):
        raise ValueError(
            "`axis_name` must name the mesh axis over which the tokens of "
            f"`router_logits` are split inside `jax.shard_map`, got {axis_name!r}, but "
            f"they differ over {sorted(varying(logits))}; name the axis in `in_specs`, "
            "and leave `check_vma` at True."
        )
    logits = widen(logits)
    batch, experts = logits.shape[:-1], logits.shape[-1]
    ids, per_token = _expert_ids(expert_ids, logits)
    keep = None
    if where is not None:
        keep = checks.to_mask("where", where, weighted=False)
        checks.check_broadcast("where", keep.shape, "the tokens", batch)
        keep = jnp.broadcast_to(keep, batch)
        logits = jnp.where(keep[..., None], logits, 0)
        ids = jnp.where(keep[..., None], ids, 0)
    valid = (ids >= 0) & (ids < experts)
    ids = checks.check_values("expert_ids", ids, valid, f"in [0, {experts})")

    tokens = tuple(range(len(batch)))
    p = softmax(logits, -1)
    hits = _counts(ids, logits, keep)
    p = p if keep is None else jnp.where(keep[..., None], p, 0)
    kept = jnp.ones(batch, jnp.int32) if keep is None else keep.astype(jnp.int32)
    probability = sum_over_devices(jnp.sum(p, axis=tokens), axis_name)
    counts, number, wrong = (
        sum_over_devices(vary_as(x, logits), axis_name)
        for x in (hits, jnp.sum(kept), jnp.sum(~valid, dtype=jnp.int32))
    )
    # Each share is formed before the product: a count times a sum may leave the range.
    number = jnp.maximum(number, 1).astype(p.dtype)
    share = counts.astype(p.dtype) / (number * per_token)
    balance = experts * jnp.sum(stop_gradient(share) * (probability / number))
    return jnp.where(wrong > 0, jnp.nan, balance)


def _expert_ids(expert_ids, logits):
    """The ids with an axis for each token's experts, and how many it has."""
    ids = checks.integer_array("expert_ids", expert_ids, kind="expert")
    batch = logits.shape[:-1]
    if ids.shape == batch:
        ids = ids[..., None]
    elif ids.shape[:-1] != batch or not ids.ndim:
        raise ValueError(
            f"`expert_ids` must have shape {batch} as router_logits without the "
            "experts' axis, or that shape and a last axis of several experts per "
            f"token, got shape {ids.shape}."
        )
    if not ids.shape[-1]:
        raise ValueError(
            f"`expert_ids` must name at least one expert, got shape {ids.shape}."
        )
    if ids.dtype.itemsize < 4:  # int8 may not hold the number of experts
        ids = ids.astype(jnp.int32)
    return ids, ids.shape[-1]


def _counts(ids, logits, keep):
    """How many assignments each expert has, in int32, by comparison."""
    shape = (*ids.shape, logits.shape[-1])
    experts = jnp.arange(shape[-1], dtype=ids.dtype).reshape(*(1,) * ids.ndim, -1)
    hit = jnp.expand_dims(ids, -1) == experts
    if keep is not None:
        hit = hit & keep[..., None, None]
    return jnp.sum(hit, axis=tuple(range(ids.ndim)), dtype=jnp.int32)


@public()
def router_z_loss(
    router_logits: ArrayLike,
    axis: int = -1,
    *,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Router z-loss: the squared log-sum-exp of a router's logits.

    Choose it to keep the logits of a router near 0, where half precision is accurate.
    `router_balance_loss` spreads the tokens over the experts.

    $$ \Bigl( \log \sum_i e^{x_i} \Bigr)^2 $$

    Args:
        router_logits: Floating, `[..., E]`.
        axis: The axis of the experts.
        where: Boolean mask; False entries are excluded. A mask of the shape of the
            logits excludes single experts.
        weights: Real weights per example. The examples are the tokens.
        reduction: "none", "sum" or "mean" (weighted).

    Returns:
        `[...]`, at least 0, one number per token; a scalar if reduced.

    Gradient:
        Twice the log-sum-exp times the probability of each expert.

    Numerics:
        A logit of -inf has probability 0. The loss of a token without any possible
        expert is 0.

    Example:
        >>> import jaxloss as jl
        >>> print(jl.router_z_loss([[0.0, 0.0], [-1.0, 2.0]]))
        [0.480453 4.19671 ]

    References:
        Barret Zoph et al., "ST-MoE: Designing Stable and Transferable Sparse Expert
        Models", 2022, equation 5, https://arxiv.org/abs/2202.08906
    """
    logits, axes = checks.class_array("router_logits", router_logits, axis, "expert")
    dtype = checks.compute_dtype(logits)
    logits, examples = mask_classes(
        logits, axes, where, weights, reduction, dtype, name="router_logits"
    )
    size = log_sum_exp(logits, axis=axes)
    return examples.tail.reduce(size * size)

"""The softmax loss of pairs: InfoNCE, and CLIP's symmetric form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.lax import PrecisionLike

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.checks import above
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss._core.numerics.functions import softplus
from jaxloss._core.sweeps.blocks import Facts, Operands
from jaxloss._core.sweeps.pairs import statistics
from jaxloss.contrast._arguments import batch_of, label_array
from jaxloss.contrast._losses import reduce_pairs
from jaxloss.contrast._rules import OthersSum


@public(temperature=above(0))
def info_nce_loss(
    queries: ArrayLike,
    keys: ArrayLike,
    *,
    temperature: ArrayLike = 0.07,
    symmetric: bool = False,
    log_q: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    chunk_size: int | None = None,
    axis_name: str | None = None,
    precision: PrecisionLike = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""InfoNCE: cross entropy of each query's own key among the keys of the batch.

    Choose it for two towers whose pairs stand at the same position, with
    `symmetric=True` for the loss of CLIP; `supervised_contrastive_loss` has several
    positives per example.

    With $x_{ij} = \langle q_i, k_j \rangle / \tau - \text{log\_q}_j$ for the
    temperature $\tau$:

    $$ -\log \frac{e^{x_{ii}}}{\sum_j e^{x_{ij}}} $$

    With `symmetric`, half the sum of this and of the same with the roles exchanged,
    where the sum runs over the queries of one key.

    Also known as CLIP's loss and in-batch softmax. open_clip: `ClipLoss`.

    Args:
        queries: Floating, `[N, D]`, usually of unit length; the loss does not normalize
            them.
        keys: Floating, `[N, D]`; key $i$ is the positive of query $i$.
        temperature: Scalar above 0 that divides the inner products. 0.07 is where CLIP
            starts.
        symmetric: Whether every key has to find its query too, as in CLIP.
        log_q: Real, `[N]`, the logarithm of the probability with which each key was
            sampled into the batch, which corrects the bias towards frequent keys. Not
            with `symmetric`.
        labels: Integer, `[N]`, an id of each key's item. A key of another position with
            the id of the query's own key is no negative: such an accidental hit is left
            out of the sum, in both directions.
        chunk_size: The largest number of queries whose logits exist at once, against
            all keys of one device. None takes 256, on a GPU 1024.
        axis_name: The mesh axis over which the pairs are spread, inside
            `jax.shard_map`. Each device has as many; the keys travel round the ring of
            devices, and are never gathered.
        precision: Of the matrix products, as in `jax.lax.dot`. For bfloat16 inputs None
            also rounds the logits' gradient to bfloat16 before its products; "highest"
            keeps it in float32.
        where: Boolean mask; False entries are excluded. An excluded pair is also in no
            sum of another query.
        weights: Real weights per example. A key keeps its part in the losses of the
            other queries whatever its weight, 0 included.
        reduction: "none", "sum" or "mean" (weighted). With `axis_name` the reduction
            runs over the pairs of this device.

    Returns:
        `[N]`, in nats, at least 0; a scalar if reduced.

    Gradient:
        With $p_{ij}$ the softmax of $x_{ij}$ over $j$, $p_{ij} - [i = j]$ for $x_{ij}$;
        from there to both embeddings, `temperature` and `log_q`. Integer labels have no
        gradient. Smooth everywhere. Inside `shard_map`, `jax.grad` of the loss of each
        device is the gradient of the sum over all devices.

    Numerics:
        Half-precision inputs are multiplied as they are and summed in float32. The
        query's own key is excluded from the sum of exponentials, so that a loss near 0
        keeps its digits. Memory is that of `chunk_size` x N logits and of the
        gradients, over devices too. On one device and without `symmetric`, "sum" and
        "mean" compute the gradient together with the value; otherwise the backward pass
        computes the logits again.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss as jl
        >>> queries, keys = jnp.eye(2), jnp.array([[0.8, 0.6], [0.0, 1.0]])
        >>> print(jl.info_nce_loss(queries, keys, temperature=0.5))
        [0.18390074 0.3711007 ]
        >>> print(jl.info_nce_loss(queries, keys, temperature=0.5, symmetric=True))
        [0.348458   0.24901435]

    References:
        Aaron van den Oord, Yazhe Li and Oriol Vinyals, "Representation Learning with
        Contrastive Predictive Coding", 2018,
        https://arxiv.org/abs/1807.03748, equation 4

        Alec Radford et al., "Learning Transferable Visual Models From Natural Language
        Supervision", ICML 2021 (symmetric), https://arxiv.org/abs/2103.00020

        Xinyang Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus
        Item Recommendations", RecSys 2019 (log_q),
        https://doi.org/10.1145/3298689.3346996, section 4
    """
    if symmetric and log_q is not None:
        raise ValueError(
            "`log_q` must be None with `symmetric=True`, since it corrects for the "
            "sampling of keys and not of queries; call the loss once per direction."
        )
    batch = batch_of(
        where, weights, reduction, chunk_size, axis_name, precision,
        both_ways=symmetric, queries=queries, keys=keys,
    )  # fmt: skip
    scale = 1 / checks.scalar("temperature", temperature, batch.dtype)
    own = jnp.sum(batch.queries * batch.keys, axis=1) * scale
    shifts = None
    if log_q is not None:
        shifts = -_log_q(log_q, batch)
        own = own + shifts
    if labels is not None:
        batch = batch.with_labels(label_array(labels, batch))

    def losses(others, own):
        return softplus((others.top - own) + others.excess), jnp.ones_like(own)

    if not symmetric:
        return reduce_pairs(OthersSum(), losses, batch, scale, shifts, own)
    operands = Operands(batch.queries, batch.keys, scale)
    facts = Facts(batch.example, batch.key)
    both = statistics(OthersSum(per_key=True), operands, facts, batch.options)
    forward, back = (losses(others, own)[0] for others in both)
    return batch.tail.reduce((forward + back) / 2)


def _log_q(log_q, batch):
    """The logarithms [N], 0 for excluded keys."""
    array = checks.to_array("log_q", log_q).astype(batch.dtype)
    n = batch.keys.shape[:1]
    if array.shape != n:
        raise ValueError(
            f"`log_q` must have one number per key, shape {n}, got {array.shape}."
        )
    return array if batch.tail.keep is None else jnp.where(batch.tail.keep, array, 0)

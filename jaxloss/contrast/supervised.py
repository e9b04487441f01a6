"""The supervised contrastive loss: all examples of a label are positives."""

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
from jaxloss.contrast._arguments import batch_of, label_array
from jaxloss.contrast._losses import reduce_pairs
from jaxloss.contrast._rules import LabelSums


@public(temperature=above(0))
def supervised_contrastive_loss(
    embeddings: ArrayLike,
    labels: ArrayLike,
    *,
    temperature: ArrayLike = 0.1,
    chunk_size: int | None = None,
    axis_name: str | None = None,
    precision: PrecisionLike = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""Supervised contrastive loss: each example finds those of its label in the batch.

    Choose it over `ntxent` for classes: here the positives share one softmax, whose sum
    includes them all, and an example's loss is the mean over its positives. `ntxent`
    compares each positive with the negatives alone.

    With $x_{ij} = \langle e_i, e_j \rangle / \tau$ for the temperature $\tau$ and
    $P(i)$ the other examples with the label of example $i$:

    $$ -\frac{1}{|P(i)|} \sum_{p \in P(i)}
       \log \frac{e^{x_{ip}}}{\sum_{a \ne i} e^{x_{ia}}} $$

    Also known as SupCon. pytorch-metric-learning: `SupConLoss`.

    Args:
        embeddings: Floating, `[N, D]`, usually of unit length; the loss does not
            normalize them.
        labels: Integer, `[N]`, equal for examples that belong together; any integers.
        temperature: Scalar above 0 that divides the inner products. 0.1 as in the
            paper.
        chunk_size: The largest number of examples whose logits exist at once, against
            all examples of one device. None takes 256, on a GPU 1024.
        axis_name: The mesh axis over which the examples are spread, inside
            `jax.shard_map`. Each device has as many; embeddings travel round the ring
            of devices, and are never gathered.
        precision: Of the matrix products, as in `jax.lax.dot`. For bfloat16 inputs None
            also rounds the logits' gradient to bfloat16 before its products; "highest"
            keeps it in float32.
        where: Boolean mask; False entries are excluded. An excluded example is also in
            no pair of another example.
        weights: Real weights per example. An example keeps its part in the losses of
            the others whatever its weight, 0 included.
        reduction: "none", "sum" or "mean" (weighted). An example without positives is
            excluded from the mean. With `axis_name` the reduction runs over the
            examples of this device.

    Returns:
        `[N]`, in nats, at least 0, and 0 without positives; a scalar if reduced.

    Gradient:
        With $p_{ij}$ the softmax of $x_{ij}$ over all $j \ne i$,
        $p_{ij} - [j \in P(i)] / |P(i)|$ for $x_{ij}$; from there to `embeddings`, as
        either side of a pair, and to `temperature`. Integer labels have no gradient.
        Smooth everywhere. Inside `shard_map`, `jax.grad` of the loss of each device is
        the gradient of the sum over all devices.

    Numerics:
        Half-precision inputs are multiplied as they are and summed in float32. A loss
        near 0 keeps its digits. Memory is that of `chunk_size` x N logits and of the
        gradients, over devices too. On one device "sum" and "mean" compute the gradient
        together with the value; for "none" and over devices the backward pass computes
        the logits again.

    Example:
        >>> import jaxloss as jl
        >>> x, labels = [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], [0, 0, 1]
        >>> print(jl.supervised_contrastive_loss(x, labels, temperature=1.0))
        [0.437488  0.7981389 0.       ]

    References:
        Prannay Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020,
        https://arxiv.org/abs/2004.11362, equation 2
    """
    batch = batch_of(
        where, weights, reduction, chunk_size, axis_name, precision,
        embeddings=embeddings,
    )  # fmt: skip
    batch = batch.with_labels(label_array(labels, batch))
    scale = 1 / checks.scalar("temperature", temperature, batch.dtype)

    def losses(found, _):
        some = found.count > 0
        loss = jnp.where(some, found.spread + softplus(found.gap), 0)
        return loss, some.astype(loss.dtype)

    return reduce_pairs(LabelSums(), losses, batch, scale)

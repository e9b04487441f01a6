"""The sigmoid loss of image and text pairs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.lax import PrecisionLike

from jaxloss._core.arguments import checks
from jaxloss._core.arguments.public import public
from jaxloss._core.arguments.tail import Reduction
from jaxloss._core.arguments.types import ArrayLike
from jaxloss.contrast._arguments import batch_of
from jaxloss.contrast._losses import reduce_pairs
from jaxloss.contrast._rules import PairwiseSigmoid


@public()
def siglip_loss(
    image_embeddings: ArrayLike,
    text_embeddings: ArrayLike,
    *,
    logit_scale: ArrayLike = 10.0,
    logit_bias: ArrayLike = -10.0,
    chunk_size: int | None = None,
    axis_name: str | None = None,
    precision: PrecisionLike = None,
    where: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> jax.Array:
    r"""SigLIP loss: a binary cross entropy for every pair of an image and a text.

    Choose it over `info_nce_loss` for pairs in very large batches: without a softmax
    over the batch, one sweep over the pairs gives the loss and its gradient.

    With $x_{ij} = \text{logit\_scale} \cdot \langle u_i, v_j \rangle +
    \text{logit\_bias}$ for image embedding $u_i$ and text embedding $v_j$, and
    $z_{ij} = 1$ for $i = j$ and $-1$ otherwise, the loss of image $i$ is

    $$ -\sum_j \log \sigma(z_{ij} x_{ij}) $$

    open_clip: `SigLipLoss`.

    Args:
        image_embeddings: Floating, `[N, D]`, usually of unit length; the loss does not
            normalize them.
        text_embeddings: Floating, `[N, D]`; text $i$ belongs to image $i$.
        logit_scale: Scalar that multiplies the inner products: the scale itself, not
            its logarithm. 10.0 is where the paper starts.
        logit_bias: Scalar added to the logits. -10.0 is where the paper starts.
        chunk_size: The largest number of images whose logits exist at once, against all
            texts of one device. None takes 256, on a GPU 1024.
        axis_name: The mesh axis over which the pairs are spread, inside
            `jax.shard_map`. Each device has as many; the texts travel round the ring of
            devices, and are never gathered.
        precision: Of the matrix products, as in `jax.lax.dot`. For bfloat16 inputs None
            also rounds the logits' gradient to bfloat16 before its products; "highest"
            keeps it in float32.
        where: Boolean mask; False entries are excluded. An excluded pair is also in no
            sum of another image.
        weights: Real weights per example. A text keeps its part in the losses of the
            other images whatever its weight, 0 included.
        reduction: "none", "sum" or "mean" (weighted). The paper's loss is "mean". With
            `axis_name` the reduction runs over the images of this device.

    Returns:
        `[N]`, at least 0, one loss per image; a scalar if reduced.

    Gradient:
        With $g_{ij} = -z_{ij}\,\sigma(-z_{ij} x_{ij})$ times the weight of image $i$,
        $\text{logit\_scale} \sum_j g_{ij} v_j$ for image $i$ and
        $\text{logit\_scale} \sum_i g_{ij} u_i$ for text $j$; the sums of
        $g_{ij} \langle u_i, v_j \rangle$ and of $g_{ij}$ for the scale and the bias.
        Smooth everywhere. Inside `shard_map`, `jax.grad` of the loss of each device is
        the gradient of the sum over all devices.

    Numerics:
        Half-precision inputs are multiplied as they are and summed in float32. Memory
        is that of `chunk_size` x N logits and of the gradients, over devices too. "sum"
        and "mean" compute the gradient together with the value. Over devices that is
        one round of the ring, and a second one if the devices' losses do not all have
        the same cotangent, as they have in a mean over devices. For "none" the backward
        pass computes the logits again.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxloss as jl
        >>> images, texts = jnp.eye(2), jnp.array([[0.8, 0.6], [0.0, 1.0]])
        >>> print(jl.siglip_loss(images, texts))
        [2.1269732 0.7112971]

    References:
        Xiaohua Zhai, Basil Mustafa, Alexander Kolesnikov and Lucas Beyer, "Sigmoid Loss
        for Language Image Pre-Training", ICCV 2023 (algorithm 1),
        https://arxiv.org/abs/2303.15343, section 3.2
    """
    batch = batch_of(
        where, weights, reduction, chunk_size, axis_name, precision,
        image_embeddings=image_embeddings, text_embeddings=text_embeddings,
    )  # fmt: skip
    scale = checks.scalar("logit_scale", logit_scale, batch.dtype)
    bias = checks.scalar("logit_bias", logit_bias, batch.dtype)
    shifts = jnp.broadcast_to(bias, batch.keys.shape[:1])

    def loss(found, _):
        return found, jnp.ones_like(found)

    return reduce_pairs(PairwiseSigmoid(), loss, batch, scale, shifts)

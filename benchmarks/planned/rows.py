"""The planned rows: every row that is timed, and those that a CPU cannot time well.

A row has shapes in the place of arrays, since nothing runs.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxloss as jl
from benchmarks import cases, plain
from benchmarks.cases import Loss, mean, ours
from benchmarks.planned import peers
from benchmarks.planned.peers import wide
from benchmarks.planned.shapes import array, timed_inputs

_BOTH = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: the losses, and the shapes of their inputs."""

    name: str
    dtype: str
    inputs: tuple[Any, ...]
    jaxloss: Loss
    peers: Mapping[str, Loss]
    # The inputs that are differentiated, by program where they differ.
    wrt: tuple[int, ...] | Mapping[str, tuple[int, ...]] = (0,)

    @property
    def label(self) -> str:
        return self.name + ("" if self.dtype == "float32" else f", {self.dtype}")

    @property
    def largest_input(self) -> int:
        """Bytes."""
        leaves = jax.tree.leaves(self.inputs)
        return max(x.size * x.dtype.itemsize for x in leaves)

    def moving(self, program: str) -> tuple[int, ...]:
        """The inputs by which the named program is differentiated."""
        return self.wrt if isinstance(self.wrt, tuple) else self.wrt[program]


def rows() -> list[Row]:
    """All rows, the timed ones first."""
    return [
        *_timed(),
        *_elementwise(),
        *_classes(),
        *_options(),
        *_others(),
        *_linear(),
    ]


def _with_wide(dtype: str, named: Mapping[str, Loss]) -> dict[str, Loss]:
    """In half precision each peer also in float32, which is jaxloss's precision."""
    if dtype == "float32":
        return dict(named)
    return dict(named) | {f"{name}, float32": wide(p) for name, p in named.items()}


def _timed() -> Iterator[Row]:
    shapes = timed_inputs()
    for row in cases.ROWS:
        # Losses of PyTorch are not compiled by XLA.
        found = {n: p for n, p in row.peers.items() if not n.startswith("torch")}
        inputs = jax.tree.map(lambda x, row=row: _cast(x, row.dtype), shapes[row.name])
        yield Row(
            row.name,
            row.dtype,
            inputs,
            row.jaxloss,
            _with_wide(row.dtype, found),
            row.wrt,
        )


def _cast(x, dtype):
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    return jax.ShapeDtypeStruct(x.shape, jnp.dtype(dtype)) if floating else x


def _elementwise() -> Iterator[Row]:
    pair = (array("bfloat16")(1 << 24),) * 2
    for name, loss, peer in (
        (
            "binary cross entropy",
            jl.sigmoid_binary_cross_entropy,
            optax.sigmoid_binary_cross_entropy,
        ),
        ("focal loss", jl.sigmoid_focal_loss, optax.sigmoid_focal_loss),
        ("log-cosh", jl.log_cosh, optax.log_cosh),
        ("huber", jl.huber_loss, optax.huber_loss),
    ):
        found = _with_wide("bfloat16", {"optax": mean(peer)})
        yield Row(f"{name} 16.8 M", "bfloat16", pair, ours(loss), found)
    for dtype in _BOTH:
        yield Row(
            "focal loss with alpha 16.8 M",
            dtype,
            (array(dtype)(1 << 24),) * 2,
            ours(jl.sigmoid_focal_loss, alpha=0.25),
            _with_wide(
                dtype, {"optax": mean(optax.sigmoid_focal_loss, alpha=0.25, gamma=2.0)}
            ),
        )


def _classes() -> Iterator[Row]:
    """Cross entropies without options, and what the softmax's gradient reshapes."""
    integer = array("int32")
    integer_loss = jl.softmax_cross_entropy_with_integer_labels
    optaxs = optax.softmax_cross_entropy_with_integer_labels
    for dtype in _BOTH:
        real = array(dtype)
        large = real(4096, 32768), integer(4096)
        soft = (real(65536, 1000),) * 2
        yield Row(
            "integer labels 8192 x 128256",
            dtype,
            (real(8192, 128256), integer(8192)),
            ours(integer_loss),
            _with_wide(dtype, {"optax": mean(optaxs)}),
        )
        yield Row(
            "integer labels 8 x 21 x 512 x 512, axis 1",
            dtype,
            (real(8, 21, 512, 512), integer(8, 512, 512)),
            ours(integer_loss, axis=1),
            _with_wide(dtype, {"optax": mean(optaxs, axis=1)}),
        )
        yield Row(
            "softmax focal loss 4096 x 32768",
            dtype,
            large,
            ours(jl.softmax_focal_loss),
            {"plain": wide(peers.softmax_focal)},
        )
        yield Row(
            "generalized cross entropy 4096 x 32768",
            dtype,
            large,
            ours(jl.generalized_cross_entropy),
            {"plain": wide(peers.generalized)},
        )
        yield Row(
            "poly loss 65536 x 1000",
            dtype,
            soft,
            ours(jl.poly_loss_cross_entropy),
            _with_wide(dtype, {"optax": mean(optax.losses.poly_loss_cross_entropy)}),
        )
    soft = (array("bfloat16")(65536, 1000),) * 2
    for name, loss, peer in (
        ("dense labels", jl.softmax_cross_entropy, optax.softmax_cross_entropy),
        ("KL divergence", jl.kl_divergence, optax.kl_divergence),
    ):
        found = _with_wide("bfloat16", {"optax": mean(peer)})
        yield Row(f"{name} 65536 x 1000", "bfloat16", soft, ours(loss), found)


def _options() -> Iterator[Row]:
    """The options of the cross entropy with integer labels."""
    integer = array("int32")
    integer_loss = jl.softmax_cross_entropy_with_integer_labels
    smoothing, z_loss = {"label_smoothing": peers.SMOOTHING}, {"z_loss": peers.Z_LOSS}
    for dtype in _BOTH:
        real = array(dtype)
        large = real(4096, 32768), integer(4096)
        mask = jax.ShapeDtypeStruct((4096,), jnp.dtype(bool))

        def weighted(x, y, w):
            return integer_loss(x, y, class_weights=w, reduction="mean")

        def masked(x, y, where):
            return integer_loss(x, y, where=where, reduction="mean")

        for name, inputs, loss, optaxs in (
            ("label smoothing", large, ours(integer_loss, **smoothing), peers.smoothed),
            ("z_loss", large, ours(integer_loss, **z_loss), peers.with_z_loss),
            (
                "label smoothing and z_loss",
                large,
                ours(integer_loss, **smoothing, **z_loss),
                peers.smoothed_with_z_loss,
            ),
            ("class weights", (*large, real(32768)), weighted, peers.class_weighted),
            ("where", (*large, mask), masked, peers.masked),
            (
                "ignore_index",
                large,
                ours(integer_loss, ignore_index=peers.IGNORED),
                peers.ignoring,
            ),
        ):
            found = _with_wide(dtype, {"optax": optaxs})
            if name == "label smoothing":
                found["plain"] = wide(peers.smoothed_by_hand)
            label = f"integer labels 4096 x 32768, {name}"
            yield Row(label, dtype, inputs, loss, found)


def _others() -> Iterator[Row]:
    """Embeddings, segmentation and sparsemax."""
    real, integer = array("float32"), array("int32")
    for dtype in _BOTH:
        x = array(dtype)(262144, 64)
        yield Row(
            "cosine distance 262144 x 64",
            dtype,
            (x, x),
            ours(jl.cosine_distance),
            _with_wide(dtype, {"optax": mean(optax.cosine_distance)}),
        )
    x = array("bfloat16")(262144, 64)
    triplet = {"optax": mean(optax.losses.triplet_margin_loss)}
    yield Row(
        "triplet 262144 x 64",
        "bfloat16",
        (x, x, x),
        ours(jl.triplet_margin_loss),
        _with_wide("bfloat16", triplet),
    )
    yield Row(
        "circle loss 4096 x 128",
        "float32",
        (real(4096, 128), integer(4096)),
        ours(jl.circle_loss),
        {"plain": peers.circle},
    )
    pixels, sides = (real(8, 256, 256, 8),) * 2, {"alpha": 0.3, "beta": 0.7}
    yield Row(
        "Tversky 8 x 256 x 256 x 8",
        "float32",
        pixels,
        mean(jl.tversky_loss, **sides),
        {"optax": mean(optax.losses.dice_loss, **sides)},
    )
    yield Row(
        "Jaccard 8 x 256 x 256 x 8",
        "float32",
        pixels,
        mean(jl.jaccard_loss),
        {"plain": peers.jaccard},
    )
    yield Row(
        "sparsemax 16384 x 1000",
        "float32",
        (real(16384, 1000), integer(16384)),
        ours(jl.multiclass_sparsemax_loss),
        {"optax": mean(optax.losses.multiclass_sparsemax_loss)},
    )


def _linear() -> Iterator[Row]:
    """Logits that are a product: given to a loss, or left to it."""
    real, integer = array("bfloat16"), array("int32")

    def of_product(hidden, kernel, labels):
        loss = jl.softmax_cross_entropy_with_integer_labels
        return loss(hidden @ kernel, labels, reduction="mean")

    yield Row(
        "integer labels of a product 8 x 1024 x 512 x 32768",
        "bfloat16",
        (real(8, 1024, 512), real(512, 32768), integer(8, 1024)),
        of_product,
        {"optax": peers.product, "optax, float32": peers.product_then_wide},
        (0, 1),
    )
    full = {"optax": peers.product, "optax, float32": peers.wide_product}
    full["optax in a checkpointed scan"] = peers.product_by_chunks
    if cases.installed("tokamax"):
        full["tokamax in chunks"] = cases.tokamax(implementation="chunked_xla")

    for n in (8192, 32768):
        size = f"{n} x 4096 x 128256"
        inputs = real(n, 4096), real(4096, 128256), integer(n)
        linear = ours(jl.linear_cross_entropy)
        yield Row(f"linear {size}", "bfloat16", inputs, linear, full, (0, 1))
        table = real(128256, 4096)
        yield Row(
            f"linear {size}, embedding table",
            "bfloat16",
            (inputs[0], table, inputs[2]),
            ours(jl.linear_cross_entropy, class_axis=0),
            {"optax": peers.of_table},
            (0, 1),
        )
        formulas = {
            "plain": plain.linear_log_probs,
            "plain in a checkpointed scan": peers.log_probs_by_chunks,
        }
        name = f"linear log probs {size}"
        ours_of_both = cases.log_probs_and_entropies
        yield Row(name, "bfloat16", inputs, ours_of_both, formulas, (0, 1))

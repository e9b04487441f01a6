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
from benchmarks import cases
from benchmarks.cases import Loss, mean, ours
from benchmarks.planned import peers
from benchmarks.planned.peers import wide

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


def timed_inputs() -> dict[str, tuple[Any, ...]]:
    """The shapes of the timed rows' inputs, by the rows' names."""
    real, integer, boolean = map(_array, ("float32", "int32", "bool"))
    boxes = (real(1 << 20, 4),) * 2
    many, pixels = (real(1 << 24),) * 2, (real(8, 256, 256, 8),) * 2
    soft = (real(65536, 1000),) * 2
    linear = real(4096, 512), real(512, 50304), integer(4096)
    parameters = jax.eval_shape(
        lambda: jl.init_adaptive_softmax(
            jax.random.key(0), 512, 50304, (50304 // 25, 50304 // 5)
        )
    )
    return {
        "binary cross entropy 16.8 M": many,
        "focal loss 16.8 M": many,
        "log-cosh 16.8 M": many,
        "huber 16.8 M": many,
        "integer labels 4096 x 32768": (real(4096, 32768), integer(4096)),
        "integer labels 65536 x 1000": (real(65536, 1000), integer(65536)),
        "integer labels 1048576 x 10": (real(1 << 20, 10), integer(1 << 20)),
        "linear 4096 x 512 x 50304": linear,
        "linear 4096 x 512 x 50304, half ignored": linear,
        "adaptive softmax 4096 x 512 x 50304": (*linear[:2], parameters, linear[2]),
        "linear distillation 2048 x 512 x 50304, teacher 1024": (
            real(2048, 512),
            real(512, 50304),
            real(2048, 1024),
            real(1024, 50304),
        ),
        "linear JSD 2048 x 512 x 50304, teacher 1024": (
            real(2048, 512),
            real(512, 50304),
            real(2048, 1024),
            real(1024, 50304),
        ),
        "linear sparse distillation 2048 x 512 x 50304, 16 known": (
            real(2048, 512),
            real(512, 50304),
            integer(2048, 16),
            real(2048, 16),
        ),
        "dense labels 65536 x 1000": soft,
        "distillation 16384 x 4096": (real(16384, 4096),) * 2,
        "sparse distillation 16384 x 4096, 16 known": (
            real(16384, 4096),
            integer(16384, 16),
            real(16384, 16),
        ),
        "ntxent 4096 x 128": (real(4096, 128), integer(4096)),
        "SigLIP 8192 x 512": (real(8192, 512),) * 2,
        "CLIP 8192 x 512": (real(8192, 512),) * 2,
        "triplet 262144 x 64": (real(262144, 64),) * 3,
        "CRPS 65536 x 64": (real(65536, 64), real(65536)),
        "negative binomial 4.2 M": (real(1 << 22),) * 3,
        "Student t 4.2 M": (real(1 << 22),) * 4,
        "Cox 131072": (real(1 << 17),) * 3,
        "energy score 4096 x 16 x 64": (real(4096, 16, 64), real(4096, 64)),
        "CTC 16 x 400 x 64, 60 labels": (
            real(16, 400, 64),
            real(16, 400),
            integer(16, 60),
            real(16, 60),
        ),
        "transducer 8 x 200 x 51 x 512": (
            real(8, 200, 51, 512),
            real(8, 200),
            integer(8, 50),
            real(8, 50),
        ),
        "linear transducer 8 x 400 x 101 x 512 x 1024": (
            real(8, 400, 512),
            real(8, 101, 512),
            real(512, 1024),
            integer(8, 100),
            real(8, 400),
            real(8, 100),
        ),
        "Dice 8 x 256 x 256 x 8": pixels,
        "Lovász softmax 8 x 256 x 256 x 8": (pixels[0], integer(8, 256, 256)),
        "DPO 4.2 M pairs": (real(1 << 22),) * 4,
        "clipped policy loss 16.8 M": (real(1 << 24),) * 3,
        "KL divergence 65536 x 1000": soft,
        "Lovász hinge 8 x 512 x 512": (real(8, 512, 512), boolean(8, 512, 512)),
        "generalized box IoU 1 M": boxes,
        "distance box IoU 1 M": boxes,
        "complete box IoU 1 M": boxes,
    }


def _array(dtype):
    return lambda *shape: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))


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
    pair = (_array("bfloat16")(1 << 24),) * 2
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
            (_array(dtype)(1 << 24),) * 2,
            ours(jl.sigmoid_focal_loss, alpha=0.25),
            _with_wide(
                dtype, {"optax": mean(optax.sigmoid_focal_loss, alpha=0.25, gamma=2.0)}
            ),
        )


def _classes() -> Iterator[Row]:
    """Cross entropies without options, and what the softmax's gradient reshapes."""
    integer = _array("int32")
    integer_loss = jl.softmax_cross_entropy_with_integer_labels
    optaxs = optax.softmax_cross_entropy_with_integer_labels
    for dtype in _BOTH:
        real = _array(dtype)
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
    soft = (_array("bfloat16")(65536, 1000),) * 2
    for name, loss, peer in (
        ("dense labels", jl.softmax_cross_entropy, optax.softmax_cross_entropy),
        ("KL divergence", jl.kl_divergence, optax.kl_divergence),
    ):
        found = _with_wide("bfloat16", {"optax": mean(peer)})
        yield Row(f"{name} 65536 x 1000", "bfloat16", soft, ours(loss), found)


def _options() -> Iterator[Row]:
    """The options of the cross entropy with integer labels."""
    integer = _array("int32")
    integer_loss = jl.softmax_cross_entropy_with_integer_labels
    smoothing, z_loss = {"label_smoothing": peers.SMOOTHING}, {"z_loss": peers.Z_LOSS}
    for dtype in _BOTH:
        real = _array(dtype)
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
    real, integer = _array("float32"), _array("int32")
    for dtype in _BOTH:
        x = _array(dtype)(262144, 64)
        yield Row(
            "cosine distance 262144 x 64",
            dtype,
            (x, x),
            ours(jl.cosine_distance),
            _with_wide(dtype, {"optax": mean(optax.cosine_distance)}),
        )
    x = _array("bfloat16")(262144, 64)
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
    real, integer = _array("bfloat16"), _array("int32")

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

    def log_probs(hidden, kernel, labels):
        own, entropies = jl.linear_log_probs(hidden, kernel, labels)
        return jnp.mean(own + entropies)

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
        plain = {
            "plain": peers.log_probs_and_entropies,
            "plain in a checkpointed scan": peers.log_probs_by_chunks,
        }
        name = f"linear log probs {size}"
        yield Row(name, "bfloat16", inputs, log_probs, plain, (0, 1))

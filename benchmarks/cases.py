"""What is timed: value and gradient of the mean loss, by jaxloss and by its peers.

Every function takes the inputs and returns the mean loss; the gradient is that of the
first input, or of those that the row names. A peer runs in its own ordinary way, with
its own fused form where it has one. A library that is not installed is left out.
"""

import dataclasses
import functools
import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxloss as jl
from benchmarks import plain

os.environ.setdefault("KERAS_BACKEND", "jax")

Loss = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    make: Callable[[np.random.Generator, int], tuple[np.ndarray, ...]]
    jaxloss: Loss
    optax: Loss | None = None
    keras: Loss | None = None
    torch: Loss | None = None
    # More peers; the first word of a name is the library's, or "plain" for a formula.
    more: Mapping[str, Loss] = dataclasses.field(default_factory=dict)
    # What any way to value and gradient has to compute: no peer, but a measure.
    bare: Callable[..., Any] | None = None
    # The ratio best peer / jaxloss, or peer / jaxloss, that is promised on a CPU.
    floor: float | None = None
    floor_peer: str | None = None
    # The dtype of the floating inputs.
    dtype: str = "float32"
    # The inputs that are differentiated, by peer where they differ.
    wrt: tuple[int, ...] | Mapping[str, tuple[int, ...]] = (0,)

    @property
    def peers(self) -> Mapping[str, Loss]:
        """The peers' functions, of those that are installed."""
        named = {"optax": self.optax, "keras": self.keras, "torch": self.torch}
        return {
            name: loss
            for name, loss in {**named, **self.more}.items()
            if loss is not None and _available(name.split()[0])
        }

    def moving(self, name: str) -> tuple[int, ...]:
        """The inputs by which the named one is differentiated."""
        return self.wrt if isinstance(self.wrt, tuple) else self.wrt[name]


def installed(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def _available(word):
    return word == "plain" or installed(word)


def _keras(name: str, **options) -> Loss:
    def loss(predictions, targets):
        import keras

        return jnp.mean(getattr(keras.losses, name)(targets, predictions, **options))

    return loss


def _torch(name: str, **options) -> Loss:
    def loss(*inputs):
        import torch

        return getattr(torch.nn.functional, name)(*inputs, **options)

    return loss


def mean(loss: Loss, **options) -> Loss:
    return lambda *inputs: jnp.mean(loss(*inputs, **options))


def ours(loss: Loss, **options) -> Loss:
    return lambda *inputs: loss(*inputs, reduction="mean", **options)


def _normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def _binary(rng, shrink):
    n = (1 << 24) // shrink
    return _normal(rng, n), (rng.random(n) < 0.3).astype(np.float32)


def _real(rng, shrink):
    n = (1 << 24) // shrink
    return _normal(rng, n), _normal(rng, n)


def _classes(examples, classes):
    def make(rng, shrink):
        n = max(examples // shrink, 8)
        return _normal(rng, n, classes), rng.integers(0, classes, n, dtype=np.int32)

    return make


def _soft(rng, shrink):
    n = 65536 // shrink
    q = rng.random((n, 1000), dtype=np.float32)
    return _normal(rng, n, 1000), q / q.sum(-1, keepdims=True)


def _student_and_teacher(rng, shrink):
    n = max(16384 // shrink, 2)
    return _normal(rng, n, 4096), _normal(rng, n, 4096)


def _forward_kl(logits, teacher):
    log_p = jax.nn.log_softmax(teacher)
    log_q = jax.nn.log_softmax(logits)
    return jnp.mean(optax.losses.kl_divergence_with_log_targets(log_q, log_p))


def _known_classes(rng, shrink):
    logits, teacher = _student_and_teacher(rng, shrink)
    ids = np.argsort(-teacher, axis=-1)[:, :16].astype(np.int32)
    e = np.exp(teacher)
    share = np.take_along_axis(e, ids, -1) / e.sum(-1, keepdims=True)
    return logits, ids, np.log(share).astype(np.float32)


def _sparse_forward_kl(logits, ids, log_p):
    """The tail as what is left of 1, which loses its digits for a sure student."""
    log_q = jnp.take_along_axis(jax.nn.log_softmax(logits), ids, -1)
    p, q = (1 - jnp.sum(jnp.exp(x), -1) for x in (log_p, log_q))
    known = jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)
    return jnp.mean(known + p * (jnp.log(p) - jnp.log(q)))


# Two last layers with the classes of one vocabulary, the teacher's twice as wide.
def _two_layers(rng, shrink):
    n, classes = max(2048 // shrink, 2), max(50304 // shrink, 8)

    def layer(features):
        kernel = _normal(rng, features, classes) / features**0.5
        return _normal(rng, n, features), kernel

    return *layer(512), *layer(1024)


def _full_distillation(hidden, kernel, teacher_hidden, teacher_kernel):
    return _forward_kl(hidden @ kernel, teacher_hidden @ teacher_kernel)


def _full_js(hidden, kernel, teacher_hidden, teacher_kernel):
    """The Jensen-Shannon divergence, through the logarithm of the mixture."""
    log_q = jax.nn.log_softmax(hidden @ kernel)
    log_p = jax.nn.log_softmax(teacher_hidden @ teacher_kernel)
    log_m = jnp.logaddexp(log_p, log_q) - jnp.log(2)
    kl = optax.losses.kl_divergence_with_log_targets
    return jnp.mean(kl(log_m, log_p) + kl(log_m, log_q)) / 2


def by_chunks(mean_loss: Loss, shared=(1,), rows=512) -> Loss:
    """The mean over rows, by a checkpointed scan."""

    def total(*chunk):
        return len(chunk[0]) * mean_loss(*chunk)

    scan = plain.in_checkpointed_scan(total, shared, rows)
    return lambda *inputs: scan(*inputs) / len(inputs[0])


def _liger_js(hidden, kernel, teacher_hidden, teacher_kernel):
    import torch
    from liger_kernel.chunked_loss import (  # pyright: ignore[reportMissingImports]
        LigerFusedLinearJSDLoss,
    )

    loss = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, compiled=False
    )
    ignored = torch.zeros(len(hidden), dtype=torch.long)
    return loss(hidden, kernel.T, teacher_hidden, teacher_kernel.T, ignored)


def _known_of_a_layer(rng, shrink):
    hidden, kernel, *_ = _two_layers(rng, shrink)
    teacher = _normal(rng, len(hidden), kernel.shape[1])
    ids = np.argsort(-teacher, axis=-1)[:, :16].astype(np.int32)
    share = np.exp(np.take_along_axis(teacher, ids, -1))
    log_p = np.log(share / (2 * share.sum(-1, keepdims=True)))
    return hidden, kernel, ids, log_p


def _labelled_layer(rng, shrink):
    hidden, kernel, *_ = _two_layers(rng, shrink)
    return hidden, kernel, rng.integers(0, kernel.shape[1], len(hidden), np.int32)


def log_probs_and_entropies(hidden, kernel, labels):
    log_probs, entropies = jl.linear_log_probs(hidden, kernel, labels)
    return jnp.mean(log_probs + entropies)


def _of_statistics(statistics: Loss) -> Loss:
    def loss(*inputs):
        log_probs, entropies, log_normalizers, *_ = statistics(*inputs)
        return plain.with_z_loss_and_bonus(log_probs, entropies, log_normalizers)

    return loss


def _full_sparse_distillation(hidden, kernel, ids, log_p):
    return _sparse_forward_kl(hidden @ kernel, ids, log_p)


def _embeddings(rng, shrink):
    n = 4096 // shrink
    return _normal(rng, n, 128), np.repeat(np.arange(n // 2, dtype=np.int32), 2)


def _towers(rng, shrink):
    """Images and texts of unit length, 8192 of each."""
    rows = (_normal(rng, max(8192 // shrink, 8), 512) for _ in range(2))
    return tuple(x / np.linalg.norm(x, axis=1, keepdims=True) for x in rows)


def _full_siglip(images, texts):
    logits = 10 * images @ texts.T - 10
    pairs = optax.sigmoid_binary_cross_entropy(logits, jnp.eye(images.shape[0]))
    return jnp.mean(jnp.sum(pairs, axis=1))


def _full_clip(images, texts):
    logits = images @ texts.T / 0.07
    labels = jnp.arange(images.shape[0])
    rows = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    columns = optax.softmax_cross_entropy_with_integer_labels(logits.T, labels)
    return jnp.mean(rows + columns) / 2


def _torch_clip(images, texts):
    import torch

    logits = images @ texts.T / 0.07
    labels = torch.arange(images.shape[0])
    entropy = torch.nn.functional.cross_entropy
    return (entropy(logits, labels) + entropy(logits.T, labels)) / 2


def _torch_siglip(images, texts):
    import torch

    n = images.shape[0]
    logits = (10 * images @ texts.T - 10) * (2 * torch.eye(n) - 1)
    return -torch.nn.functional.logsigmoid(logits).sum() / n


def _triplets(rng, shrink):
    n = 262144 // shrink
    return tuple(_normal(rng, n, 64) for _ in range(3))


def _sequences(rng, shrink):
    n, frames, classes, labels = max(16 // shrink, 2), 400, 64, 60
    return (
        _normal(rng, n, frames, classes),
        np.zeros((n, frames), np.float32),
        rng.integers(1, classes, (n, labels), dtype=np.int32),
        np.zeros((n, labels), np.float32),
    )


def _keras_ctc(logits, frames, labels, unused):
    import keras

    ctc: Loss = keras.losses.ctc
    return jnp.mean(ctc(labels, logits))


def _torch_ctc(logits, frames, labels, unused):
    import torch

    return torch.nn.functional.ctc_loss(
        torch.log_softmax(logits, -1).transpose(0, 1),
        labels.long(),
        (1 - frames).sum(-1).long(),
        (1 - unused).sum(-1).long(),
        reduction="none",
    ).mean()


def _images(rng, shrink):
    size = max(256 // shrink, 4)
    regions = rng.integers(0, 8, (8, size, size))
    return _normal(rng, 8, size, size, 8), np.eye(8, dtype=np.float32)[regions]


def _labelled_images(rng, shrink):
    logits, targets = _images(rng, shrink)
    return logits, targets.argmax(-1).astype(np.int32)


def _masks(rng, shrink):
    size = max(512 // shrink, 4)
    return _normal(rng, 8, size, size), rng.random((8, size, size)) < 0.3


def _keras_dice(logits, targets):
    import keras

    dice: Loss = keras.losses.dice
    return jnp.mean(dice(targets, jax.nn.softmax(logits), axis=(1, 2)))


def _log_densities(rng, shrink):
    x, q = _soft(rng, shrink)
    return x - np.log(np.exp(x).sum(-1, keepdims=True)), q


def _ensemble(rng, shrink):
    n = max(65536 // shrink, 8)
    return _normal(rng, n, 64), _normal(rng, n)


def _crps_by_pairs(members, targets):
    """The fair score by its definition, as in GraphCast's notebook."""
    count = members.shape[-1]
    error = jnp.mean(jnp.abs(members - targets[:, None]), axis=-1)
    gaps = jnp.abs(members[:, :, None] - members[:, None, :])
    spread = jnp.sum(gaps, axis=(-2, -1)) / (2 * count * (count - 1))
    return jnp.mean(error - spread)


def _crps_by_sorting(members, targets):
    """The same from sorted members, by JAX's own derivative of the sort."""
    count = members.shape[-1]
    error = jnp.mean(jnp.abs(members - targets[:, None]), axis=-1)
    tilt = 2 * jnp.arange(count, dtype=members.dtype) + (1 - count)
    spread = jnp.sort(members, axis=-1) @ tilt / (count * (count - 1))
    return jnp.mean(error - spread)


def _counts(rng, shrink):
    n = (1 << 22) // shrink
    means = rng.gamma(2, 3, n).astype(np.float32)
    return (
        means,
        rng.poisson(means).astype(np.float32),
        rng.gamma(1, 0.5, n).astype("f"),
    )


def _negative_binomial_by_gammas(means, targets, dispersions):
    """By differences of log-gamma functions, as probability libraries have it."""
    lgamma, size = jax.lax.lgamma, 1 / dispersions
    ways = lgamma(targets + size) - lgamma(size) - lgamma(targets + 1)
    logs = size * jnp.log(size / (size + means))
    return -jnp.mean(ways + logs + targets * jnp.log(means / (size + means)))


def _heavy_tails(rng, shrink):
    n = (1 << 22) // shrink
    scales, degrees = (rng.gamma(2, 2, n).astype(np.float32) + 0.1 for _ in range(2))
    return _normal(rng, n), _normal(rng, n), scales, degrees


def _student_t_by_gammas(means, targets, scales, degrees):
    lgamma, x = jax.lax.lgamma, (means - targets) / scales
    constant = lgamma(degrees / 2) - lgamma((degrees + 1) / 2)
    logs = jnp.log(scales) + 0.5 * jnp.log(jnp.pi * degrees)
    return jnp.mean((degrees + 1) / 2 * jnp.log1p(x * x / degrees) + logs + constant)


def _subjects(rng, shrink):
    n = (1 << 17) // shrink
    times = rng.integers(0, n // 4 + 1, n).astype(np.float32)
    return _normal(rng, n), times, (rng.random(n) < 0.6).astype(np.float32)


def _cox_by_sums(log_hazards, times, events):
    """Breslow's ties taken one after the other, as most code on the web has it."""
    order = jnp.argsort(-times)
    x, seen = log_hazards[order], events[order]
    log_sums = jax.lax.cumlogsumexp(x)
    return jnp.sum((log_sums - x) * seen) / jnp.sum(seen)


def _paths(rng, shrink):
    n = max(4096 // shrink, 4)
    return _normal(rng, n, 16, 64), _normal(rng, n, 64)


def _energy_by_pairs(members, targets):
    """The fair score with all differences of all pairs in memory."""
    count = members.shape[1]
    error = jnp.mean(jnp.linalg.norm(members - targets[:, None], axis=-1), axis=-1)
    gaps = members[:, :, None] - members[:, None]
    square = jnp.sum(gaps * gaps, axis=-1)
    some = jnp.where(square > 0, square, 1)  # no slope from a member to itself
    spread = jnp.sum(jnp.where(square > 0, jnp.sqrt(some), 0), axis=(-2, -1))
    return jnp.mean(error - spread / (2 * count * (count - 1)))


def _answer_pairs(rng, shrink):
    """Log-probabilities of two answers, under a policy and under its reference."""
    n = (1 << 22) // shrink
    return tuple(-40 - 5 * _normal(rng, n) for _ in range(4))


def _torch_dpo(chosen, rejected, reference_chosen, reference_rejected):
    import torch

    margin = (chosen - rejected) - (reference_chosen - reference_rejected)
    return -torch.nn.functional.logsigmoid(0.1 * margin).mean()


def _single_answers(rng, shrink):
    """Log-probabilities of answers as above, and which of them are desirable."""
    policy, reference, *_ = _answer_pairs(rng, shrink)
    return policy, reference, rng.random(len(policy)) < 0.5


def _torch_kto(*inputs):
    import torch

    return plain.kto(*inputs, of=torch, sigmoid=torch.sigmoid)


def _average_pairs(rng, shrink):
    """Mean log-probabilities of the tokens of two answers."""
    return tuple(x / 40 for x in _answer_pairs(rng, shrink)[:2])


def _torch_orpo(*inputs):
    import torch

    return plain.orpo(*inputs, of=torch, log_sigmoid=torch.nn.functional.logsigmoid)


def _drawn_tokens(rng, shrink):
    """Log-probabilities of tokens now and when they were drawn, and advantages."""
    n = (1 << 24) // shrink
    now = -np.abs(_normal(rng, n))
    return now, now + _normal(rng, n) / 4, _normal(rng, n)


def _drawn_sequences(rng, shrink):
    """The same of sequences of 1024 tokens, with one advantage per sequence."""
    now, old, advantages = (x.reshape(-1, 1024) for x in _drawn_tokens(rng, shrink))
    return now, old, advantages[:, :1]


def _drawn_pairs(rng, shrink):
    """Log-probabilities of tokens under a policy and under its reference."""
    return _drawn_tokens(rng, shrink)[:2]


def _by_torch(loss: Loss, **options) -> Loss:
    """A formula of `plain` whose operations have the same names in PyTorch."""

    def of_tensors(*inputs):
        import torch

        return loss(*inputs, of=torch, **options)

    return of_tensors


def _routed(rng, shrink):
    """The logits of a router, and the experts with the largest ones."""
    logits = _normal(rng, max(65536 // shrink, 8), 64)
    return logits, np.argsort(-logits, axis=-1)[:, :8].astype(np.int32)


# The last layer of a language model: hidden states, kernel, and the next words.
def _linear(ignored=0.0):
    def make(rng, shrink):
        n, features, classes = max(4096 // shrink, 8), 512, max(50304 // shrink, 50)
        kernel = _normal(rng, classes, features) / np.float32(features**0.5)
        labels = rng.integers(0, classes, n, dtype=np.int32)
        labels[rng.random(n) < ignored] = -100
        # As PyTorch has it, [C, D], and transposed for JAX, which copies it.
        return _normal(rng, n, features), kernel.T, labels

    return make


def _full_logits(hidden, kernel, labels):
    keep = labels != -100
    losses = optax.softmax_cross_entropy_with_integer_labels(
        hidden @ kernel, jnp.where(keep, labels, 0)
    )
    return jnp.mean(losses, where=keep)


def _full_logits_by_chunks(hidden, kernel, labels):
    def total(hidden, kernel, labels):
        count = jnp.sum(labels != -100)
        return jnp.where(count > 0, count * _full_logits(hidden, kernel, labels), 0)

    scan = plain.in_checkpointed_scan(total, (1,))
    return scan(hidden, kernel, labels) / jnp.sum(labels != -100)


def _three_products(hidden, kernel, labels):
    """X = H K, X Kᵀ and Hᵀ X; by quarters, which is faster than with all of X."""

    def quarter(total, hidden):
        x = hidden @ kernel
        return total + hidden.T @ x, x @ kernel.T

    quarters = hidden.reshape(4, -1, hidden.shape[1])
    return jax.lax.scan(quarter, jnp.zeros_like(kernel), quarters)


def _torch_linear(*, chunks):
    def loss(hidden, kernel, labels):
        import torch

        options = torch.nn.LinearCrossEntropyOptions() if chunks else None
        return torch.nn.functional.linear_cross_entropy(
            hidden, kernel.T, labels.long(), options=options
        )

    return loss


def tokamax(**options):
    def loss(hidden, kernel, labels):
        import tokamax  # pyright: ignore[reportMissingImports]

        return tokamax.linear_softmax_cross_entropy_loss(
            hidden, labels, kernel, reduction="mean", **options
        )

    return loss


def _linear_row(name, ignored, more, **options):
    return Row(
        name,
        _linear(ignored),
        ours(jl.linear_cross_entropy, ignore_index=-100),
        optax=_full_logits,
        torch=_torch_linear(chunks=False),
        bare=_three_products,
        floor=0.97,
        wrt=(0, 1),
        more={
            "optax in a checkpointed scan": _full_logits_by_chunks,
            "torch in chunks": _torch_linear(chunks=True),
            **more,
        },
        **options,
    )


def _of_table(row):
    """The row with an embedding table [C, D] in the kernel's place."""

    def make(rng, shrink):
        hidden, kernel, labels = row.make(rng, shrink)
        return hidden, kernel.T, labels

    def turned(loss):
        return lambda hidden, table, labels: loss(hidden, table.T, labels)

    return dataclasses.replace(
        row,
        name=f"{row.name}, embedding table",
        make=make,
        jaxloss=ours(jl.linear_cross_entropy, ignore_index=-100, class_axis=0),
        optax=turned(row.optax),
        torch=turned(row.torch),
        more={name: turned(peer) for name, peer in row.more.items()},
        bare=None,
        floor=None,
    )


# The same layer with labels as frequent as words are, and an adaptive softmax of as
# many classes beside its kernel.
def _clusters(rng, shrink):
    hidden, kernel, labels = _linear()(rng, shrink)
    features, classes = kernel.shape
    share = 1 / (np.arange(classes) + 3)
    labels = rng.choice(classes, labels.shape, p=share / share.sum()).astype(np.int32)
    parameters = jl.init_adaptive_softmax(
        jax.random.key(0), features, classes, _cutoffs(classes)
    )
    # Fortran's order for PyTorch's sake, as above.
    parameters = jax.tree.map(lambda x: np.asfortranarray(x), parameters)
    return hidden, kernel, parameters, labels


def _cutoffs(classes):
    return classes // 25, classes // 5


def _adaptive(hidden, kernel, parameters, labels):
    cutoffs = _cutoffs(kernel.shape[1])
    return jl.adaptive_softmax_cross_entropy(
        hidden, labels, parameters, cutoffs, reduction="mean"
    )


def _torch_adaptive(hidden, kernel, parameters, labels):
    import torch

    features, classes = kernel.shape
    cutoffs = _cutoffs(classes)
    with torch.device("meta"):  # without weights of its own
        module = torch.nn.AdaptiveLogSoftmaxWithLoss(features, classes, cutoffs)
    weights = {"head.weight": parameters["head"]["kernel"].T}
    for i, part in enumerate(parameters["tail"]):
        weights[f"tail.{i}.0.weight"] = part["projection"].T
        weights[f"tail.{i}.1.weight"] = part["kernel"].T
    return torch.func.functional_call(module, weights, (hidden, labels.long())).loss


def _integer_row(examples, classes, floor, **options):
    return Row(
        f"integer labels {examples} x {classes}",
        _classes(examples, classes),
        ours(jl.softmax_cross_entropy_with_integer_labels),
        optax=mean(optax.softmax_cross_entropy_with_integer_labels),
        keras=_keras("sparse_categorical_crossentropy", from_logits=True),
        torch=lambda x, y: _torch("cross_entropy")(x, y.long()),
        floor=floor,
        **options,
    )


def _lattices(rng, shrink):
    n, frames, labels, classes = max(8 // shrink, 2), 200, 50, max(512 // shrink, 8)
    return (
        _normal(rng, n, frames, labels + 1, classes),
        np.zeros((n, frames), np.float32),
        rng.integers(1, classes, (n, labels), dtype=np.int32),
        np.zeros((n, labels), np.float32),
    )


def _joint(rng, shrink):
    n, frames, labels, features, classes = max(8 // shrink, 2), 400, 100, 512, 1024
    if shrink > 1:
        frames, labels, features, classes = 20, 5, 16, 16
    kernel = _normal(rng, features, classes) / np.float32(features**0.5)
    return (
        _normal(rng, n, frames, features),
        _normal(rng, n, labels + 1, features),
        kernel,
        rng.integers(1, classes, (n, labels), dtype=np.int32),
        np.zeros((n, frames), np.float32),
        np.zeros((n, labels), np.float32),
    )


def _boxes(rng, shrink):
    n = (1 << 20) // shrink
    first = rng.random((2, n, 2), dtype=np.float32)
    return tuple(
        np.concatenate([x, x + rng.random((n, 2), dtype=np.float32)], axis=1)
        for x in first
    )


ROWS = [
    Row(
        "binary cross entropy 16.8 M",
        _binary,
        ours(jl.sigmoid_binary_cross_entropy),
        optax=mean(optax.sigmoid_binary_cross_entropy),
        keras=_keras("binary_crossentropy", from_logits=True),
        torch=_torch("binary_cross_entropy_with_logits"),
        floor=1.6,
    ),
    Row(
        "focal loss 16.8 M",
        _binary,
        ours(jl.sigmoid_focal_loss),
        optax=mean(optax.sigmoid_focal_loss),
        keras=_keras("binary_focal_crossentropy", from_logits=True),
        floor=2.0,
    ),
    Row(
        "log-cosh 16.8 M",
        _real,
        ours(jl.log_cosh),
        optax=mean(optax.log_cosh),
        keras=_keras("log_cosh"),
        floor=0.9,
    ),
    Row(
        "huber 16.8 M",
        _real,
        ours(jl.huber_loss),
        optax=mean(optax.huber_loss),
        keras=_keras("huber"),
        torch=_torch("huber_loss"),
        floor=0.95,
    ),
    _integer_row(4096, 32768, 0.9),
    _integer_row(4096, 32768, 1.3, floor_peer="optax", dtype="bfloat16"),
    _integer_row(65536, 1000, 0.9),
    _integer_row(65536, 1000, 1.3, floor_peer="optax", dtype="bfloat16"),
    _integer_row(1 << 20, 10, 1.2),
    _linear_row(
        "linear 4096 x 512 x 50304",
        0.0,
        more={
            "tokamax": tokamax(),
            "tokamax in chunks": tokamax(implementation="chunked_xla"),
        },
    ),
    _linear_row(
        "linear 4096 x 512 x 50304, half ignored",
        0.5,
        more={},
    ),
    _of_table(_linear_row("linear 4096 x 512 x 50304", 0.0, more={})),
    Row(
        "linear log probs 2048 x 512 x 50304",
        _labelled_layer,
        log_probs_and_entropies,
        more={
            "plain": plain.linear_log_probs,
            "plain in a checkpointed scan": by_chunks(plain.linear_log_probs),
        },
        wrt=(0, 1),
    ),
    Row(
        "linear statistics 2048 x 512 x 50304",
        _labelled_layer,
        _of_statistics(jl.linear_statistics),
        more={
            "plain": plain.linear_statistics,
            "plain in a checkpointed scan": by_chunks(plain.linear_statistics),
        },
        wrt=(0, 1),
    ),
    Row(
        "adaptive softmax 4096 x 512 x 50304",
        _clusters,
        _adaptive,
        optax=lambda hidden, kernel, _, labels: _full_logits(hidden, kernel, labels),
        torch=_torch_adaptive,
        wrt={"jaxloss": (0, 2), "optax": (0, 1), "torch": (0, 2)},
    ),
    Row(
        "dense labels 65536 x 1000",
        _soft,
        ours(jl.softmax_cross_entropy),
        optax=mean(optax.softmax_cross_entropy),
        keras=_keras("categorical_crossentropy", from_logits=True),
        torch=_torch("cross_entropy"),
        floor=0.95,
    ),
    Row(
        "softmax statistics 16384 x 4096",
        _classes(16384, 4096),
        _of_statistics(jl.softmax_statistics),
        more={"plain": plain.softmax_statistics},
    ),
    Row(
        "distillation 16384 x 4096",
        _student_and_teacher,
        ours(jl.distillation_loss),
        optax=_forward_kl,
    ),
    Row(
        "sparse distillation 16384 x 4096, 16 known",
        _known_classes,
        ours(jl.sparse_distillation_loss),
        more={"jax by differences": _sparse_forward_kl},
    ),
    Row(
        "linear distillation 2048 x 512 x 50304, teacher 1024",
        _two_layers,
        ours(jl.linear_distillation_loss),
        optax=_full_distillation,
        more={"optax in a checkpointed scan": by_chunks(_full_distillation, (1, 3))},
        wrt=(0, 1),
    ),
    Row(
        "linear JSD 2048 x 512 x 50304, teacher 1024",
        _two_layers,
        ours(jl.linear_distillation_loss, divergence="jensen_shannon"),
        optax=_full_js,
        more={
            "optax in a checkpointed scan": by_chunks(_full_js, (1, 3)),
            **({"torch with Liger": _liger_js} if installed("liger_kernel") else {}),
        },
        wrt=(0, 1),
    ),
    Row(
        "linear sparse distillation 2048 x 512 x 50304, 16 known",
        _known_of_a_layer,
        ours(jl.linear_sparse_distillation_loss),
        more={
            "jax by differences": _full_sparse_distillation,
            "jax in a checkpointed scan": by_chunks(_full_sparse_distillation),
        },
        wrt=(0, 1),
    ),
    Row(
        "ntxent 4096 x 128",
        _embeddings,
        ours(jl.ntxent),
        optax=optax.losses.ntxent,
        floor=0.95,
    ),
    Row(
        "SigLIP 8192 x 512",
        _towers,
        ours(jl.siglip_loss),
        optax=_full_siglip,
        torch=_torch_siglip,
        wrt=(0, 1),
    ),
    Row(
        "CLIP 8192 x 512",
        _towers,
        ours(jl.info_nce_loss, symmetric=True),
        optax=_full_clip,
        torch=_torch_clip,
        wrt=(0, 1),
    ),
    Row(
        "triplet 262144 x 64",
        _triplets,
        ours(jl.triplet_margin_loss),
        optax=mean(optax.losses.triplet_margin_loss),
        torch=_torch("triplet_margin_loss"),
        floor=0.95,
    ),
    Row(
        "CRPS 65536 x 64",
        _ensemble,
        ours(jl.crps_ensemble_loss),
        more={"jax by pairs": _crps_by_pairs, "jax by sorting": _crps_by_sorting},
    ),
    Row(
        "energy score 4096 x 16 x 64",
        _paths,
        ours(jl.energy_score_loss),
        more={"jax by pairs": _energy_by_pairs},
    ),
    Row(
        "negative binomial 4.2 M",
        _counts,
        ours(jl.negative_binomial_nll_loss),
        more={"jax by log-gamma": _negative_binomial_by_gammas},
        wrt=(0, 2),
    ),
    Row(
        "Student t 4.2 M",
        _heavy_tails,
        ours(jl.student_t_nll_loss),
        more={"jax by log-gamma": _student_t_by_gammas},
        wrt=(0, 2, 3),
    ),
    Row(
        "Cox 131072",
        _subjects,
        ours(jl.cox_partial_likelihood_loss),
        more={"jax by sums": _cox_by_sums},
    ),
    Row(
        "CTC 16 x 400 x 64, 60 labels",
        _sequences,
        ours(jl.ctc_loss),
        optax=mean(optax.ctc_loss),
        keras=_keras_ctc,
        torch=_torch_ctc,
        floor=1.0,
    ),
    Row(
        "transducer 8 x 200 x 51 x 512",
        _lattices,
        ours(jl.transducer_loss),
        more={"plain": plain.transducer},
    ),
    Row(
        "linear transducer 8 x 400 x 101 x 512 x 1024",
        _joint,
        ours(jl.linear_transducer_loss),
        more={"plain": plain.linear_transducer},
        wrt=(0, 1, 2),
    ),
    Row(
        "Dice 8 x 256 x 256 x 8",
        _images,
        # One number an image, of which the mean is taken.
        mean(jl.dice_loss),
        optax=mean(optax.losses.dice_loss),
        keras=_keras_dice,
        floor=0.95,
    ),
    Row(
        "Lovász softmax 8 x 256 x 256 x 8",
        _labelled_images,
        mean(jl.lovasz_softmax_loss),
        more={"plain": plain.lovasz_softmax},
    ),
    Row(
        "Lovász hinge 8 x 512 x 512",
        _masks,
        mean(jl.lovasz_hinge_loss),
        more={"plain": plain.lovasz_hinge},
    ),
    Row(
        "generalized box IoU 1 M",
        _boxes,
        ours(jl.generalized_box_iou_loss),
        more={"plain": plain.generalized_box_iou},
    ),
    Row(
        "distance box IoU 1 M",
        _boxes,
        ours(jl.distance_box_iou_loss),
        more={"plain": plain.distance_box_iou},
    ),
    Row(
        "complete box IoU 1 M",
        _boxes,
        ours(jl.complete_box_iou_loss),
        more={"plain": plain.complete_box_iou},
    ),
    Row(
        "DPO 4.2 M pairs",
        _answer_pairs,
        ours(jl.dpo_loss),
        torch=_torch_dpo,
        wrt=(0, 1),
    ),
    Row(
        "KTO 4.2 M",
        _single_answers,
        ours(jl.kto_loss),
        torch=_torch_kto,
        more={"plain": plain.kto},
    ),
    Row(
        "ORPO 4.2 M pairs",
        _average_pairs,
        ours(jl.orpo_loss),
        torch=_torch_orpo,
        more={"plain": plain.orpo},
        wrt=(0, 1),
    ),
    Row(
        "clipped policy loss 16.8 M",
        _drawn_tokens,
        ours(jl.clipped_policy_loss),
        torch=_by_torch(plain.clipped_policy),
        more={"jax by hand": plain.clipped_policy},
    ),
    Row(
        "policy loss of sequences 16384 x 1024",
        _drawn_sequences,
        ours(jl.clipped_policy_loss, importance="sequence"),
        torch=_by_torch(plain.clipped_policy, sequences=True),
        more={"plain": functools.partial(plain.clipped_policy, sequences=True)},
    ),
    Row(
        "KL estimate 16.8 M",
        _drawn_pairs,
        ours(jl.kl_estimate),
        torch=_by_torch(plain.kl_estimate),
        more={"plain": plain.kl_estimate},
    ),
    Row(
        "router balance 65536 x 64, 8 per token",
        _routed,
        jl.router_balance_loss,
        more={"plain": plain.router_balance},
    ),
    Row(
        "router z-loss 65536 x 64",
        lambda rng, shrink: _routed(rng, shrink)[:1],
        ours(jl.router_z_loss),
        more={"plain": plain.router_z},
    ),
]
if hasattr(jl, "kl_divergence"):
    ROWS.append(
        Row(
            "KL divergence 65536 x 1000",
            _log_densities,
            ours(jl.kl_divergence),
            optax=mean(optax.kl_divergence),
            # torch's "batchmean" is the mean over the examples.
            torch=_torch("kl_div", reduction="batchmean"),
            floor=0.95,
        )
    )

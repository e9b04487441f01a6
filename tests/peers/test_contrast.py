"""The losses of pairs and of margins on angles beside PyTorch and its libraries.

No extra installs PyTorch Metric Learning, which requires PyTorch: see CONTRIBUTING.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss as jl

torch = pytest.importorskip("torch")
F = torch.nn.functional


def towers():
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(2, 40, 6))
    x, y = x, x + 0.7 * y
    return [np.float32(v / np.linalg.norm(v, axis=1, keepdims=True)) for v in (x, y)]


def by_torch(loss, *arrays):
    inputs = [torch.tensor(x, requires_grad=True) for x in arrays]
    value = loss(*inputs)
    value.backward()
    return value.item(), [x.grad.numpy() for x in inputs]


def assert_same(loss, torch_loss, *arrays):
    value, slopes = by_torch(torch_loss, *arrays)
    every = tuple(range(len(arrays)))
    found, gradients = jax.jit(jax.value_and_grad(loss, every))(*arrays)
    np.testing.assert_allclose(found, value, rtol=2e-6)
    for mine, its in zip(gradients, slopes, strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-5, atol=2e-6 * abs(its).max())


def test_clip():
    def full(x, y, temperature):
        logits, labels = x @ y.T / temperature, torch.arange(40)
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2

    def loss(x, y, temperature):
        return jl.info_nce_loss(
            x, y, temperature=temperature, symmetric=True, reduction="mean",
            chunk_size=16,
        )  # fmt: skip

    assert_same(loss, full, *towers(), np.float32(0.07))


def test_siglip():
    def full(x, y, scale, bias):
        signs = 2 * torch.eye(40) - 1
        return -F.logsigmoid(signs * (scale * x @ y.T + bias)).sum() / 40

    def loss(x, y, scale, bias):
        return jl.siglip_loss(
            x, y, logit_scale=scale, logit_bias=bias, reduction="mean", chunk_size=16
        )

    assert_same(loss, full, *towers(), np.float32(10), np.float32(-4))


def unit_rows(x):
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


def metric_learning():
    return pytest.importorskip("pytorch_metric_learning.losses")


def test_supervised_contrast_by_pytorch_metric_learning():
    """Its mean is over the anchors that have a positive; the last here has none."""
    labels = np.append(np.arange(39) % 7, 9)
    peer = metric_learning().SupConLoss(temperature=0.2)

    def loss(x):
        return jl.supervised_contrastive_loss(
            unit_rows(x), labels, temperature=0.2, reduction="mean", chunk_size=16
        )

    assert_same(loss, lambda x: peer(x, torch.tensor(labels)), 3 * towers()[1])


@pytest.mark.parametrize(
    ("name", "margins", "options"),
    [
        # In degrees there. The last margin takes most angles beyond pi.
        ("ArcFaceLoss", {"angular_margin": 0.5}, {"margin": np.rad2deg(0.5)}),
        ("ArcFaceLoss", {"angular_margin": 2.0}, {"margin": np.rad2deg(2.0)}),
        (
            "CosFaceLoss",
            {"angular_margin": 0.0, "cosine_margin": 0.35},
            {"margin": 0.35},
        ),
    ],
)
def test_angular_margins_by_pytorch_metric_learning(name, margins, options):
    labels = np.arange(40) % 7
    peer = getattr(metric_learning(), name)(7, 6, scale=16, **options)
    del peer.W  # a parameter, which no tensor may replace

    def full(x, prototypes):
        peer.W = prototypes.T
        return peer(x, torch.tensor(labels))

    def loss(x, prototypes):
        return jl.arcface_loss(
            x, prototypes, labels, scale=16.0, reduction="mean", chunk_size=16,
            **margins,
        )  # fmt: skip

    x, y = towers()
    assert_same(loss, full, 3 * x, y[:7] - 0.2)

"""The losses of CLIP and SigLIP beside their full matrix of pairs in PyTorch."""

import jax
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

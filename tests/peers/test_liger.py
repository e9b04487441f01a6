"""Liger's chunked losses on PyTorch, as a second opinion where it is installed."""

import jax
import numpy as np
import pytest

import jaxloss as jl

torch = pytest.importorskip("torch")
chunked = pytest.importorskip("liger_kernel.chunked_loss.jsd_loss")


@pytest.mark.parametrize("beta", [0.5, 0.3])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_divergence_of_two_layers_agrees(beta, temperature):
    rng = np.random.default_rng(0)
    shapes = [(7, 4), (9, 4), (7, 6), (9, 6)]
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    labels = rng.integers(0, 9, 7)
    theirs = chunked.LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0,
        weight_soft_loss=1.0,
        beta=beta,
        temperature=temperature,
        compiled=False,
    )
    student = [torch.tensor(x, requires_grad=True) for x in arrays[:2]]
    teacher = [torch.tensor(x) for x in arrays[2:]]
    loss = theirs(*student, *teacher, torch.tensor(labels))
    loss.backward()

    def ours(hidden, kernel):
        return jl.linear_distillation_loss(
            hidden,
            kernel,
            *arrays[2:],
            divergence="jensen_shannon",
            beta=beta,
            temperature=temperature,
            class_axis=0,
            precision="highest",
            reduction="mean",
        )

    value, slopes = jax.value_and_grad(ours, (0, 1))(*arrays[:2])
    np.testing.assert_allclose(value, loss.item(), rtol=1e-5)
    for slope, x in zip(slopes, student, strict=True):
        np.testing.assert_allclose(slope, x.grad, rtol=1e-4, atol=1e-7)

"""The adaptive softmax beside `torch.nn.AdaptiveLogSoftmaxWithLoss`, at its weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tier import first

import jaxloss as jl

torch = pytest.importorskip("torch")

FEATURES, CLASSES, CUTOFFS = 16, 40, (6, 15, 28)


def there(head_bias):
    torch.manual_seed(0)
    module = torch.nn.AdaptiveLogSoftmaxWithLoss(
        FEATURES, CLASSES, CUTOFFS, div_value=2.0, head_bias=head_bias
    ).double()
    with torch.no_grad():
        for weight in module.parameters():
            weight *= 4  # so that every cluster wins somewhere
    return module


def here(module, read):
    """The parameters, or what `read` finds at each of them, as jaxloss has them."""
    head = {"kernel": read(module.head.weight).T}
    if module.head_bias:
        head["bias"] = read(module.head.bias)
    tail = [
        {"projection": read(first.weight).T, "kernel": read(second.weight).T}
        for first, second in module.tail
    ]
    return {"head": head, "tail": tail}


def weight(tensor):
    return jnp.asarray(tensor.detach().numpy())


def draw():
    rng = np.random.default_rng(3)
    return rng.normal(size=(50, FEATURES)), rng.integers(0, CLASSES, 50)


@pytest.mark.parametrize("head_bias", first([True, False]))
def test_value_and_gradient_are_those_of_pytorch(head_bias):
    module = there(head_bias)
    hidden, labels = draw()
    inputs = torch.tensor(hidden, requires_grad=True)
    output, loss = module(inputs, torch.tensor(labels))
    loss.backward()

    with jax.enable_x64(True):
        parameters = here(module, weight)
        arguments = jnp.asarray(labels), parameters, CUTOFFS
        losses = jl.adaptive_softmax_cross_entropy(jnp.asarray(hidden), *arguments)
        np.testing.assert_allclose(losses, -output.detach(), rtol=1e-12)

        def mean(hidden, parameters):
            return jl.adaptive_softmax_cross_entropy(
                hidden,
                jnp.asarray(labels),
                parameters,
                CUTOFFS,
                chunk_size=9,
                reduction="mean",
            )

        value, slopes = jax.value_and_grad(mean, (0, 1))(
            jnp.asarray(hidden), parameters
        )
        np.testing.assert_allclose(value, loss.item(), rtol=1e-12)
        expected = weight(inputs.grad), here(module, lambda x: weight(x.grad))
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-14),
            slopes,
            expected,
        )


@pytest.mark.parametrize("head_bias", first([True, False]))
def test_log_probs_and_predictions_are_those_of_pytorch(head_bias):
    module = there(head_bias)
    hidden, _ = draw()
    with jax.enable_x64(True):
        arguments = jnp.asarray(hidden), here(module, weight), CUTOFFS
        log_probs = jl.adaptive_softmax_log_probs(*arguments)
        classes = jl.adaptive_softmax_predict(*arguments)
    inputs = torch.tensor(hidden)
    expected = module.predict(inputs).numpy()
    np.testing.assert_allclose(log_probs, module.log_prob(inputs).detach(), rtol=1e-12)
    np.testing.assert_array_equal(classes, expected)
    assert len({int(np.searchsorted(CUTOFFS, c, "right")) for c in expected}) == 4


@pytest.mark.exhaustive
def test_initial_parameters_have_the_shapes_and_bounds_of_pytorch():
    module = there(head_bias=True)
    ours = jl.init_adaptive_softmax(
        jax.random.key(0), FEATURES, CLASSES, CUTOFFS, div_value=2.0, head_bias=True
    )
    theirs = here(module, weight)
    shapes = (jax.tree.map(jnp.shape, tree) for tree in (ours, theirs))
    assert next(shapes) == next(shapes)
    for part in (ours["head"], *ours["tail"]):
        for name, x in part.items():
            rows = FEATURES if name == "bias" else len(x)
            assert 0.7 < np.abs(x).max() * rows**0.5 <= 1

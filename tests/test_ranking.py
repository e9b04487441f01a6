"""What the ranking losses promise beyond the common rules: lists, masks, reduce_fn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss as jl

pytestmark = pytest.mark.any_program

loss = jl.ranking_softmax_loss

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(3, 4, 5)).astype(np.float32) * 3
RELEVANCE = RNG.integers(0, 4, (3, 4, 5)).astype(np.float32)
WEIGHTS = RNG.uniform(0.2, 2, (3, 4, 5)).astype(np.float32)
WHERE = RNG.uniform(size=(3, 4, 5)) < 0.6
WHERE[..., 0] = True
WHERE[1, 2] = False


def by_lists(where):
    """Every list's loss from its own items alone, by the definition."""
    losses = np.zeros(SCORES.shape[:2])
    for i in np.ndindex(losses.shape):
        s, y, w = (x[i][where[i]].astype(float) for x in (SCORES, RELEVANCE, WEIGHTS))
        if s.size:
            losses[i] = np.sum(w * y * (np.log(np.sum(np.exp(s))) - s))
    return losses, where.any(-1)


def test_by_hand():
    # Softmax of (log 3, 0) is 3/4 and 1/4.
    value = loss([np.log(3.0), 0.0], [1.0, 2.0], weights=[0.5, 3.0])
    np.testing.assert_allclose(
        value, -(0.5 * np.log(3 / 4) + 6 * np.log(1 / 4)), rtol=1e-6
    )


REDUCTIONS = {
    "none": (None, lambda losses, valid: losses),
    "mean": (jnp.mean, lambda losses, valid: losses[valid].mean()),
    "sum": (jnp.sum, lambda losses, valid: losses.sum()),
    # An equal function under another name, and one that leaves an axis.
    "lambda": (
        lambda a, where: jnp.mean(a, where=where),
        lambda a, valid: a[valid].mean(),
    ),
    "by group": (
        functools.partial(jnp.mean, axis=-1),
        lambda a, valid: np.array(
            [x[v].mean() if v.any() else 0 for x, v in zip(a, valid, strict=True)]
        ),
    ),
}
each_reduction = pytest.mark.parametrize("name", REDUCTIONS)


@each_reduction
@pytest.mark.parametrize("group", [None, 0])
def test_masked_items_are_as_if_they_had_never_been(name, group):
    reduce_fn, expected = REDUCTIONS[name]
    where = WHERE.copy()
    if group is not None:
        where[group] = False
    garbage = np.resize([np.nan, np.inf, -np.inf], SCORES.shape).astype(np.float32)
    inputs = [np.where(where, x, garbage) for x in (SCORES, RELEVANCE, WEIGHTS)]

    def value(logits, labels, weights):
        return loss(logits, labels, where=where, weights=weights, reduce_fn=reduce_fn)

    @jax.jit
    def measured(*inputs):
        result, pull_back = jax.vjp(value, *inputs)
        tangent = jax.jvp(value, inputs, tuple(map(jnp.ones_like, inputs)))[1]
        return result, pull_back(jnp.ones_like(result)), tangent

    result, gradients, tangent = measured(*inputs)
    np.testing.assert_allclose(result, expected(*by_lists(where)), rtol=3e-6, atol=1e-6)
    for gradient in gradients:
        assert np.isfinite(gradient).all()
        assert not np.any(gradient[~where])
        assert np.any(gradient[where])
    total = sum(np.sum(gradient) for gradient in gradients)
    np.testing.assert_allclose(np.sum(tangent), total, rtol=1e-4, atol=1e-5)


@each_reduction
def test_nothing_valid_is_zero_with_a_zero_gradient(name):
    reduce_fn, _ = REDUCTIONS[name]
    nothing = np.zeros(SCORES.shape, bool)

    def total(logits):
        return jnp.sum(loss(logits, RELEVANCE, where=nothing, reduce_fn=reduce_fn))

    value, gradient = jax.jit(jax.value_and_grad(total))(np.full_like(SCORES, np.nan))
    assert value == 0
    assert not np.any(gradient)


def test_nothing_valid_divides_nothing_by_nothing():
    with jax.debug_nans(True):
        assert jax.jit(loss)(SCORES, RELEVANCE, where=np.zeros(SCORES.shape, bool)) == 0


def test_an_empty_batch_is_zero():
    none = np.zeros((0, 5), np.float32)
    assert loss(none, none) == 0
    assert loss(none, none, where=none > 0, reduce_fn=jnp.sum) == 0
    assert loss(none, none, reduce_fn=None).shape == (0,)
    by_item = functools.partial(jnp.mean, axis=0)
    groups = np.zeros((0, 3, 5), np.float32)
    np.testing.assert_array_equal(loss(groups, groups, reduce_fn=by_item), [0, 0, 0])
    assert not np.any(jax.grad(loss)(none, none))


def test_masks_and_weights_broadcast_as_items():
    where = np.array([True, False, True, True, False])
    weights = np.array([0.5, 1.0, 2.0, 0.1, 3.0], np.float32)
    full = loss(
        SCORES,
        RELEVANCE,
        where=np.broadcast_to(where, SCORES.shape),
        weights=np.broadcast_to(weights, SCORES.shape),
    )
    # Another program may sum in another order: an ulp or two apart.
    for relevance in (RELEVANCE, RELEVANCE.astype(int)):
        value = loss(SCORES.tolist(), relevance, where=where, weights=weights)
        np.testing.assert_allclose(value, full, rtol=3e-7)


def test_an_impossible_item_is_free_without_relevance_and_infinite_with_it():
    scores = jnp.array([[0.0, -jnp.inf, 1.0], [0.0, -jnp.inf, 1.0]])
    relevance = jnp.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    value = loss(scores, relevance, reduce_fn=None)
    np.testing.assert_allclose(value, [np.log(1 + np.e), np.inf], rtol=1e-6)
    gradient = jax.grad(lambda s: loss(s, relevance, reduce_fn=jnp.sum))(scores)
    assert np.isfinite(gradient).all()
    assert not np.any(gradient[:, 1])


def test_a_sure_list_keeps_the_digits_of_its_loss():
    value = loss([40.0, 0.0, -1.0], [1.0, 0.0, 0.0])
    np.testing.assert_allclose(value, np.exp(-40) * (1 + np.exp(-1)), rtol=1e-6)


def test_messages_name_the_argument():
    with pytest.raises(ValueError, match=r"`labels` must broadcast .* logits"):
        loss(SCORES, RELEVANCE[:, :2])
    with pytest.raises(ValueError, match=r"`where` must broadcast .* logits"):
        loss(SCORES, RELEVANCE, where=np.ones((3, 4), bool))
    with pytest.raises(ValueError, match=r"`weights` must broadcast .* logits"):
        loss(SCORES, RELEVANCE, weights=np.ones((3, 4)))
    with pytest.raises(TypeError, match="`where` must be boolean"):
        loss(SCORES, RELEVANCE, where=np.ones(5))
    with pytest.raises(TypeError, match="`logits` must be floating"):
        loss(RELEVANCE.astype(int), RELEVANCE)

"""The messages of common mistakes name the way out (rule 6)."""

import jax.numpy as jnp
import pytest

import jaxloss as jl

CE = jl.softmax_cross_entropy_with_integer_labels
X, LABELS = jnp.zeros((4, 3)), jnp.zeros(4, int)

MISTAKES = {
    "one-hot labels for the integer loss": (
        lambda: CE(X, jnp.eye(4, 3)),
        TypeError,
        "`labels` must be integer class indices, got float32; for one-hot labels pass "
        "`jnp.argmax(labels, 1)`, for soft ones use `softmax_cross_entropy`.",
    ),
    "integer one-hot labels for the integer loss": (
        lambda: CE(X, jnp.eye(4, 3, dtype=int)),
        ValueError,
        "`labels` must broadcast to the shape of logits without its class axis (4,), "
        "got shape (4, 3); for one-hot labels pass `jnp.argmax(labels, 1)`, for soft "
        "ones use `softmax_cross_entropy`.",
    ),
    "integer labels for the dense loss": (
        lambda: jl.softmax_cross_entropy(X, LABELS),
        ValueError,
        "`labels` must broadcast to the shape of logits (4, 3), got shape (4,); for "
        "class indices use `softmax_cross_entropy_with_integer_labels`, or pass "
        "`jax.nn.one_hot` of them.",
    ),
    "a column of targets": (
        lambda: jl.huber_loss(jnp.zeros(3), jnp.zeros((3, 1))),
        ValueError,
        "`targets` must broadcast to the shape of predictions (3,), got shape (3, 1); "
        "drop its last axis with `targets[..., 0]`.",
    ),
    "a column of predictions": (
        lambda: jl.huber_loss(jnp.zeros((3, 1)), jnp.zeros(3)),
        ValueError,
        "`targets` must broadcast to the shape of predictions (3, 1), got shape (3,); "
        "drop the last axis of predictions, or add one with `targets[..., None]`.",
    ),
    "a column of labels": (
        lambda: CE(X, LABELS[:, None]),
        ValueError,
        "`labels` must broadcast to the shape of logits without its class axis (4,), "
        "got shape (4, 1); drop its last axis with `labels[..., 0]`.",
    ),
    "classes on axis 1": (
        lambda: CE(jnp.zeros((2, 3, 5, 6)), jnp.zeros((2, 5, 6), int)),
        ValueError,
        "`labels` must broadcast to the shape of logits without its class axis "
        "(2, 3, 5), got shape (2, 5, 6); if the classes are on axis 1, pass `axis=1`.",
    ),
    "an embedding table": (
        lambda: jl.linear_cross_entropy(jnp.zeros((4, 2)), jnp.zeros((7, 2)), LABELS),
        ValueError,
        "`kernel` must have the shape (features, classes) with the 2 features of "
        "`hidden`, got shape (7, 2); for an embedding table [C, D] pass "
        "`class_axis=0`.",
    ),
    "real numbers of the experts": (
        lambda: jl.router_balance_loss(X, jnp.zeros(4)),
        TypeError,
        "`expert_ids` must be integer expert indices, got float32.",
    ),
    "a mask of integers for a function without weights": (
        lambda: jl.router_balance_loss(X, LABELS, where=LABELS),
        TypeError,
        "`where` must be boolean, got int32; write `where != 0`.",
    ),
    "real numbers of the answers": (
        lambda: jl.sequence_log_probs(X, segment_ids=X, num_segments=1),
        TypeError,
        "`segment_ids` must be integer sequence indices, got float32.",
    ),
    "real numbers of the teacher's classes": (
        lambda: jl.sparse_distillation_loss(X, X, X),
        TypeError,
        "`teacher_ids` must be integer class indices, got float32.",
    ),
    "a cap of the logits that caps none": (
        lambda: jl.linear_log_probs(X, jnp.eye(3), LABELS, logit_softcap=jnp.inf),
        ValueError,
        "`logit_softcap` must be in (0, inf), got inf.",
    ),
    "no feature": (
        lambda: jl.linear_cross_entropy(jnp.zeros((4, 0)), jnp.zeros((0, 7)), LABELS),
        ValueError,
        "`hidden` must have at least one feature, got shape (4, 0) with axis=-1.",
    ),
}


@pytest.mark.parametrize(("call", "kind", "text"), MISTAKES.values(), ids=MISTAKES)
def test_message_names_the_way_out(call, kind, text):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == text

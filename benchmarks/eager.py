"""What a call costs outside `jit`: jaxloss and optax take turns on 64 numbers.

People explore in notebooks, one call after another. There the time goes into Python and
into dispatching operations, not into arithmetic.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxloss as jl

_rng = np.random.default_rng(0)
_LOGITS = _rng.normal(size=(8, 8)).astype(np.float32)
_REAL, _TARGETS = _rng.normal(size=(2, 64)).astype(np.float32)
_SOFT = np.exp(_LOGITS[::-1]) / np.exp(_LOGITS[::-1]).sum(-1, keepdims=True)
_LOG_PROBS = _LOGITS - np.log(np.exp(_LOGITS).sum(-1, keepdims=True))
_CLASSES = np.arange(8, dtype=np.int32)
_YES = (_TARGETS > 0).astype(np.float32)

# The arguments of losses that both libraries have, under one name.
CALLS: dict[str, tuple[np.ndarray, ...]] = {
    "squared_error": (_REAL, _TARGETS),
    "l2_loss": (_REAL, _TARGETS),
    "huber_loss": (_REAL, _TARGETS),
    "log_cosh": (_REAL, _TARGETS),
    "sigmoid_binary_cross_entropy": (_REAL, _YES),
    "sigmoid_focal_loss": (_REAL, _YES),
    "hinge_loss": (_REAL, 2 * _YES - 1),
    "softmax_cross_entropy_with_integer_labels": (_LOGITS, _CLASSES),
    "softmax_cross_entropy": (_LOGITS, _SOFT),
    "kl_divergence": (_LOG_PROBS, _SOFT),
    "cosine_distance": (_LOGITS, _SOFT),
    "multiclass_hinge_loss": (_LOGITS, _CLASSES),
}
# What is promised: no mean ratio and no single one above.
VALUE, GRADIENT, SINGLE = 1.5, 0.8, 2.5


def measure(*, rounds: int, calls: int) -> dict[str, Any]:
    """Returns microseconds a call by loss and library, and the ratios to optax."""
    rows = [_row(name, rounds, calls) for name in CALLS]
    return {
        "rows": rows,
        "mean": {
            kind: statistics.geometric_mean(_ratio(row, kind) for row in rows)
            for kind in ("value", "gradient")
        },
    }


def missed(report: dict[str, Any]) -> list[str]:
    """The promises that a report breaks."""
    limits = {"value": VALUE, "gradient": GRADIENT}
    broken = [
        f"the mean {kind} takes {report['mean'][kind]:.2f} times optax's time"
        for kind, limit in limits.items()
        if report["mean"][kind] > limit
    ]
    return broken + [
        f"{row['loss']}: {kind} takes {_ratio(row, kind):.2f} times optax's time"
        for row in report["rows"]
        for kind in limits
        if _ratio(row, kind) > SINGLE
    ]


def markdown(report: dict[str, Any]) -> str:
    """A line for each loss: the ratio, then microseconds of both libraries."""
    mean = report["mean"]
    lines = [
        "| loss | value, jaxloss / optax | gradient, jaxloss / optax | microseconds |",
        "| --- | --- | --- | --- |",
    ]
    for row in report["rows"]:
        ratios = " | ".join(f"{_ratio(row, kind):.2f}" for kind in mean)
        times = "; ".join(
            f"{kind} {row[kind]['jaxloss']:.0f}, optax {row[kind]['optax']:.0f}"
            for kind in mean
        )
        lines.append(f"| {row['loss']} | {ratios} | {times} |")
    means = " | ".join(f"{ratio:.2f}" for ratio in mean.values())
    return "\n".join([*lines, f"| geometric mean | {means} | |"])


def _ratio(row, kind):
    return row[kind]["jaxloss"] / row[kind]["optax"]


def _row(name: str, rounds: int, calls: int) -> dict[str, Any]:
    first, *others = map(jnp.asarray, CALLS[name])
    losses = {"jaxloss": getattr(jl, name), "optax": getattr(optax.losses, name)}

    def value(loss):
        return lambda: loss(first, *others)

    def gradient(loss):
        return lambda: jax.grad(lambda x: jnp.mean(loss(x, *others)))(first)

    return {
        "loss": name,
        "value": _in_turns(
            {n: value(loss) for n, loss in losses.items()}, rounds, calls
        ),
        "gradient": _in_turns(
            {n: gradient(loss) for n, loss in losses.items()},
            rounds,
            max(calls // 8, 1),
        ),
    }


def _in_turns(
    steps: dict[str, Callable[[], Any]], rounds: int, calls: int
) -> dict[str, float]:
    """Microseconds a call, the median over rounds of which the first does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            jax.block_until_ready(step())
            start = time.perf_counter()
            for _ in range(calls):
                result = step()
            jax.block_until_ready(result)
            if turn:
                seconds[name].append((time.perf_counter() - start) / calls)
    return {name: 1e6 * statistics.median(each) for name, each in seconds.items()}

"""Times one row: every library in turn, round after round, in one process."""

import contextlib
import gc
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.cases import Row

# A row whose rounds have taken so many seconds has no more, if it has had three.
FEWEST, LONGEST = 3, 45.0

# The name of what is timed as a measure alone, and has no ratio.
BARE = "(bare products)"


def measure(row: Row, *, rounds: int, shrink: int) -> dict[str, Any]:
    """Returns milliseconds and temporaries by library, and the ratios to jaxloss.

    Machines are shared and noisy: the libraries take turns, so that a slow moment hits
    them all, the first round does not count, and the ratio of medians is the figure.
    """
    inputs = row.make(np.random.default_rng(0), shrink)
    steps, temporaries = {}, {}
    arrays = jax.tree.map(lambda x: _cast(jnp.asarray(x), row.dtype), inputs)
    for name, loss in {"jaxloss": row.jaxloss, **row.peers}.items():
        wrt = row.moving(name)
        if name.startswith("torch"):
            steps[name] = _torch_step(loss, inputs, wrt, row.dtype)
        else:
            compiled = jax.jit(jax.value_and_grad(loss, wrt)).lower(*arrays).compile()
            analysis = compiled.memory_analysis()
            temporaries[name] = analysis.temp_size_in_bytes if analysis else None
            steps[name] = _jax_step(compiled, arrays)
    if row.bare is not None:
        steps[BARE] = _jax_step(jax.jit(row.bare).lower(*arrays).compile(), arrays)
    seconds = {name: [] for name in steps}
    began = time.perf_counter()
    for turn in range(rounds + 1):
        if turn > FEWEST and time.perf_counter() - began > LONGEST:
            break
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    milliseconds = {n: 1e3 * statistics.median(s) for n, s in seconds.items()}
    gc.collect()
    return {
        "row": row.name,
        "dtype": row.dtype,
        # A floor is a promise about the row's own size.
        "floor": row.floor if shrink == 1 else None,
        "floor_peer": row.floor_peer,
        "rounds": len(seconds["jaxloss"]),
        "milliseconds": milliseconds,
        "ratio": {
            name: value / milliseconds["jaxloss"]
            for name, value in milliseconds.items()
            if name in row.peers
        },
        "temporaries": temporaries,
    }


def reached(result: dict[str, Any]) -> float | None:
    """The ratio that a row's floor is about: its peer's, or the best peer's."""
    ratios = result["ratio"]
    if not ratios:
        return None
    return ratios.get(result["floor_peer"], min(ratios.values()))


def _jax_step(compiled, arrays):
    return lambda: jax.block_until_ready(compiled(*arrays))


def torch_tensor(array, dtype="float32"):
    """The array in PyTorch, in the layout that it has in memory."""
    import torch

    tensor = torch.from_numpy(array)
    tensor = tensor.to("cuda" if jax.default_backend() == "gpu" else "cpu")
    return tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor


def _torch_step(loss, inputs, wrt, dtype):
    import torch

    tensors = jax.tree.map(lambda x: torch_tensor(x, dtype), inputs)
    moving = jax.tree.leaves([tensors[i] for i in wrt])
    for x in moving:
        x.requires_grad_(True)

    def step():
        for x in moving:
            x.grad = None
        loss(*tensors).backward()
        with contextlib.suppress(AssertionError, RuntimeError):
            torch.cuda.synchronize()

    return step


def _cast(array, dtype):
    return array.astype(dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array

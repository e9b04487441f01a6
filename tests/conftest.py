"""Settings for the whole suite, and the fixtures that its files share."""

import contextlib
import os
from collections.abc import Iterator

import jax
import pytest

# No result may rest on an implicit promotion of dtypes or ranks. A test that calls a
# library which does relaxes it: `with jax.numpy_dtype_promotion("standard")`.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# For the tests of sharding; the others see the first device alone.
jax.config.update("jax_num_cpu_devices", 8)
# The programs here are too small for the threads that would share their compilation.
# XLA reads it when its first program is compiled.
_WHOLE = "--xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_WHOLE}".strip()


def pytest_configure(config: pytest.Config) -> None:
    """What one process has compiled serves the others, and the next run."""
    if config.cache is not None:
        folder = config.cache.mkdir("jax")
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def _devices() -> Iterator[jax.Device]:
    """The first device of each platform that is present."""
    for platform in ("cpu", "gpu", "tpu"):
        with contextlib.suppress(RuntimeError):
            yield jax.devices(platform)[0]


@pytest.fixture(params=_devices(), ids=lambda device: device.platform)
def device(request):
    """Runs a test once on every platform that is present."""
    with jax.default_device(request.param):
        yield request.param


@pytest.fixture
def x64():
    """Float64 for the length of a test."""
    with jax.enable_x64(True):
        yield

"""Settings for the whole suite, and the fixtures that its files share."""

import contextlib
import gc
import os
import re
from collections.abc import Iterator

import jax
import pytest
import tier

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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--exhaustive",
        action="store_true",
        help="every variant of every loss, and more examples",
    )
    parser.addoption(
        "--optimised",
        action="store_true",
        help="all programs as users compile them, those of any_program tests too",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Traces make so many objects that Python's garbage collector took an eighth of the
    # suite's time. It runs for every 100,000 of them, not for every 700.
    gc.set_threshold(100_000, 20, 100)
    tier.EXHAUSTIVE = config.getoption("--exhaustive")
    tier.OPTIMISED = config.getoption("--optimised")
    config.addinivalue_line("markers", "exhaustive: runs with --exhaustive only")
    config.addinivalue_line(
        "markers",
        "any_program: what the test says holds however the compiler optimises, so that "
        "its programs are compiled quickly",
    )
    config.addinivalue_line("markers", "optimised: one that does not, among such tests")
    config.addinivalue_line(
        "markers", "level(n): LLVM's level of optimisation for such a test, if not 0"
    )
    # What one process has compiled serves the others, and the next run.
    cache = getattr(config, "cache", None)
    if cache is not None:
        jax.config.update("jax_compilation_cache_dir", str(cache.mkdir("jax")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """The quick tier leaves out what only the exhaustive one runs."""
    if tier.EXHAUSTIVE:
        return
    left_out = [x for x in items if x.get_closest_marker("exhaustive")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [x for x in items if not x.get_closest_marker("exhaustive")]


def pytest_collection_finish() -> None:
    """The garbage collector need not look again at what imports have made."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `pytest -n`, one process runs all tests of a case, which share programs."""
    if config.getoption("dist") != "load":
        return None  # what the command line asks for
    from catalog import CASES
    from xdist.scheduler import LoadScopeScheduling

    cases = {case.id for case in CASES}

    class ByCase(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            # tests/test_dtypes.py::test_half_...[cpu-dice_loss-all parameters-bfloat16]
            name = re.fullmatch(r"tests/test_.*\[(?:[cgt]pu-)?([^\]]+)\]", nodeid)
            words = name[1].split("-") if name else []
            for end in range(len(words), 0, -1):
                if (case := "-".join(words[:end])) in cases:
                    return case
            return nodeid

    return ByCase(config, log)


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


@pytest.fixture(autouse=True)
def _compiler(request):
    """Tests of accuracy, constants and cost see the compiler that users have."""
    node = request.node
    parameters = getattr(node, "callspec", None)
    case = parameters and parameters.params.get("case")
    level = node.get_closest_marker("level")
    level = level.args[0] if level else getattr(case, "level", 0)
    optimised = node.get_closest_marker("optimised")
    if tier.OPTIMISED or optimised or not node.get_closest_marker("any_program"):
        yield
    else:
        with tier.quick_compiler(level):
            yield


@pytest.fixture
def x64():
    """Float64 for the length of a test."""
    with jax.enable_x64(True):
        yield

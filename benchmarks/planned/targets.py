"""The accelerators that a program can be compiled for without one: a table."""

import dataclasses
import importlib.util
import os
from typing import Any

import jax
from jax.experimental import topologies

Device = Any  # `jax.Device`, which pyright takes for a variable

# What XLA for GPU has to know of a device.
_CUDA = """
gpu_device_info {{
  cuda_compute_capability {{ major: {major} }}
  core_count: {core_count}
  fpus_per_core: {fpus_per_core}
  clock_rate_ghz: {clock_rate_ghz}
  memory_bandwidth: {memory_bandwidth}
  device_memory_size: {device_memory_size}
  l2_cache_size: {l2_cache_size}
  shared_memory_per_core: {shared_memory_per_core}
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {shared_memory_per_block_optin}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_core_limit: 2048
  threads_per_block_limit: 1024
  threads_per_warp: 32
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
runtime_version {{ major: 12 minor: 8 }}
device_description_str: "{name}"
"""
_H100 = _CUDA.format(
    name="NVIDIA H100 80GB HBM3",
    major=9,
    core_count=132,
    fpus_per_core=128,
    clock_rate_ghz=1.98,
    memory_bandwidth=3352320000000,
    device_memory_size=84929347584,
    l2_cache_size=52428800,
    shared_memory_per_core=233472,
    shared_memory_per_block_optin=232448,
)
_A100 = _CUDA.format(
    name="NVIDIA A100-SXM4-40GB",
    major=8,
    core_count=108,
    fpus_per_core=64,
    clock_rate_ghz=1.41,
    memory_bandwidth=1555200000000,
    device_memory_size=42331013120,
    l2_cache_size=41943040,
    shared_memory_per_core=167936,
    shared_memory_per_block_optin=166912,
)


@dataclasses.dataclass(frozen=True)
class Target:
    """A kind of device: the compiler's platform, and how that platform names it."""

    platform: str
    topology: str
    config: str = ""


# One host of each; a row is compiled for its first device.
TARGETS = {
    "tpu-v5e": Target("tpu", "v5e:2x2"),
    "tpu-v5p": Target("tpu", "v5p:2x2x1"),
    "tpu-v6e": Target("tpu", "v6e:2x2"),
    "tpu-7x": Target("tpu", "tpu7x:2x2x1"),
    "a100": Target("cuda", "1x1x1", _A100),
    "h100": Target("cuda", "1x1x1", _H100),
}
# The Python packages that hold each platform's compiler; CUDA 12 or 13 will do.
_COMPILERS = {
    "tpu": [("libtpu",)],
    "cuda": [
        ("jax_plugins.xla_cuda12", "nvidia.cuda_nvcc"),
        ("jax_plugins.xla_cuda13", "nvidia.cu13"),
    ],
}


def missing(target: Target) -> str:
    """What to install for this target; empty if its compiler is there."""
    if any(all(map(_installed, names)) for names in _COMPILERS[target.platform]):
        return ""
    names = " and ".join(_COMPILERS[target.platform][0])
    return f"no {names}: pip install -e '.[accelerators]'"


def device(target: Target) -> Device:
    """The description of one device."""
    return devices(target)[0]


def devices(target: Target) -> list[Device]:
    """The descriptions of the topology's devices; programs compile for them alone."""
    # All arrays stay on the CPU, also where JAX would find the plugins' devices. libtpu
    # would otherwise ask the cloud for its machine, and lock the chips.
    jax.config.update("jax_platforms", "cpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if target.platform == "tpu":
        described = topologies.get_topology_desc(target.topology, "tpu")
    else:
        described = topologies.get_topology_desc(
            platform=target.platform,
            topology=target.topology,
            target_config=target.config,
        )
    return described.devices


def _installed(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False

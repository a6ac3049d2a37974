# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Accelerators: peak rates, and targets to compile for (described TPUs, CPU devices, the GPU).

Only `check_platforms`, `num_devices` and `target`, which sets options that jax reads when it
starts, ask jax for devices.
"""

import dataclasses
import functools
import importlib.util
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import jax

GIB = 2**30

# libtpu reads these when it is loaded. Without a TPU there is no metadata server to ask; and large
# programs need more stack than the compiler's fibers have by default.
_LIBTPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v4-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "LIBTPU_INIT_ARGS": "--fibers_default_thread_stack_size=4194304",
}
PLATFORMS = "JAX_PLATFORMS"  # the environment variable that names jax's backends
XLA_FLAGS = "XLA_FLAGS"  # the one with XLA's flags; it ends the process if one is not known
# Reads the flags alone; to look for devices takes JAX several times as long.
_PARSE_FLAGS = [sys.executable, "-c", "from jaxlib import xla_client; xla_client.CompileOptions()"]
FORMS = "v4:4x4x4, v5p:4x4x8, v5e:8x8, v6e:8x8 (chips along each side), cpu-8, or gpu"


@dataclasses.dataclass(frozen=True)
class Tpu:
    """A TPU generation."""

    memory: int  # bytes of a device's memory (HBM) that a program may use
    peak_flops: float  # bfloat16 operations a second
    dimensions: int  # of a topology
    torus: int  # the ends of a side are connected if its devices are a multiple of this
    # What jax's `get_topology_desc` needs besides.
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


# Peak rates: cloud.google.com/tpu/docs/v4, v5e, v5p, v6e, which give 32, 16, 95 and 32 GB of HBM;
# `memory` is what libtpu 0.0.42's compiler says it has of them.
TPUS = {
    # The two cores of a v4 chip are one device, with all of the chip's memory.
    "v4": Tpu(int(30.75 * GIB), 275e12, 3, 4, {"chip_config_name": "megacore"}),
    "v5p": Tpu(int(95.74 * GIB), 459e12, 3, 4),
    "v5e": Tpu(int(15.75 * GIB), 197e12, 2, 16),
    "v6e": Tpu(int(31.25 * GIB), 918e12, 2, 16),
}

# jax's `device_kind` -> operations a second of matrix products in bfloat16 and in float32, which
# jax multiplies by default in bfloat16 on a TPU and in TF32 on a GPU. GPUs: NVIDIA's data sheets,
# without sparsity.
_A100, _HOPPER, _HOPPER_NVL = (312e12, 156e12), (989e12, 494e12), (835e12, 417e12)
_PEAKS = {f"TPU {name}": (tpu.peak_flops,) * 2 for name, tpu in TPUS.items()}
_PEAKS |= {
    "TPU v5": _PEAKS["TPU v5p"],
    "TPU v5 lite": _PEAKS["TPU v5e"],
    "TPU v6 lite": _PEAKS["TPU v6e"],
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100-PCIE-40GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
    "NVIDIA H100 80GB HBM3": _HOPPER,
    "NVIDIA H100 PCIe": (756e12, 378e12),
    "NVIDIA H100 NVL": _HOPPER_NVL,
    "NVIDIA H200": _HOPPER,
    "NVIDIA H200 NVL": _HOPPER_NVL,
    "NVIDIA L40S": (362e12, 183e12),
    "NVIDIA L40": (181e12, 90e12),
    "NVIDIA L4": (121e12, 60e12),
}


def check_platforms(in_this_process: bool = False) -> None:
    """Raises ValueError if JAX_PLATFORMS names what is not here, or XLA_FLAGS what XLA has not.

    By default another process asks JAX, so that this one takes no accelerator from its workers.
    """
    _check_xla_flags(os.environ.get(XLA_FLAGS, "").strip())
    wanted = os.environ.get(PLATFORMS, "").strip()
    if wanted.lower() in ("", "cpu"):
        return
    if in_this_process:
        try:
            jax.devices()
            return
        except (RuntimeError, AssertionError) as error:
            said = str(error)
    else:
        command = [sys.executable, "-c", "import jax; jax.devices()"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if not ended.returncode:
            return
        said = ended.stderr.strip().rpartition("\n")[2].partition(": ")[2]
    why = f" ({said.partition(' (set JAX_PLATFORMS')[0]})" if said else ""
    raise ValueError(
        f"{PLATFORMS}={wanted}: JAX finds no such device here{why}; unset {PLATFORMS}, or set it "
        "to cpu"
    )


def num_devices() -> int:
    """Returns how many devices jax finds on this machine; ValueError: it fails.

    Another process asks, so that this one takes no accelerator from its workers.
    """
    command = [sys.executable, "-c", "import jax; print('devices:', jax.device_count())"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    counted = re.findall(r"^devices: (\d+)$", ended.stdout, re.MULTILINE)  # others print there too
    if ended.returncode or not counted:
        why = ended.stderr.strip().rpartition("\n")[2][-300:] or f"exit code {ended.returncode}"
        raise ValueError(
            f"JAX cannot count the devices of this machine ({why}); mend that, or set {PLATFORMS} "
            "to what works, such as cpu"
        )
    return int(counted[-1])


@functools.cache
def _check_xla_flags(flags: str) -> None:
    if not flags:
        return
    with subprocess.Popen(_PARSE_FLAGS, stderr=subprocess.PIPE, text=True) as process:
        _, said = process.communicate()
    if process.returncode:
        why = said.strip().rpartition("\n")[2].rpartition("] ")[2]
        raise ValueError(f"{XLA_FLAGS}={flags}: {why}; mend or unset {XLA_FLAGS}")


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Returns a device's operations a second; None for a device or dtype not in the table."""
    peaks = _PEAKS.get(device_kind, (None, None))
    return dict(zip(("bfloat16", "float32"), peaks, strict=True)).get(dtype)


@dataclasses.dataclass(frozen=True)
class Target:
    """What to compile for."""

    name: str  # as given, such as 'v4:4x4x4'
    devices: tuple[Any, ...]
    described: bool  # the devices are descriptions that no program can run on
    memory: int | None  # bytes of a device that a program may use; None without a known limit
    peak_flops: float | None = None  # bfloat16 operations a second of a device, if known


def target(name: str) -> Target:
    """Returns the target of a name of `FORMS`; call it before anything asks jax for a device.

    Raises:
      ValueError: the name is of no such form, libtpu is not installed or refuses the topology, or
        the devices are not there.
    """
    _check_xla_flags(os.environ.get(XLA_FLAGS, "").strip())
    if match := re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", name):
        return _tpu(name, match.group(1), tuple(int(n) for n in match.group(2).split("x")))
    if match := re.fullmatch(r"cpu-([1-9]\d*)", name):
        return Target(name, _cpus(int(match.group(1))), False, None)
    if name == "gpu":
        return _gpus()
    raise ValueError(f"--topology {name!r} is none of {FORMS}")


def _tpu(name: str, kind: str, shape: tuple[int, ...]) -> Target:
    tpu = TPUS.get(kind)
    if tpu is None or len(shape) != tpu.dimensions:
        raise ValueError(f"--topology {name!r} is none of {FORMS}")
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"--topology {name} needs libtpu, the compiler (no TPU): in the clone, "
            "pip install -c constraints.txt '.[tpu]'; or "
            f"take cpu-{math.prod(shape)}, which tells shardings and FLOPs"
        )
    from jax.experimental import topologies

    for variable, value in _LIBTPU_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    jax.config.update("jax_platforms", "cpu")  # What little it computes needs no accelerator.
    options = {
        "chips_per_host_bounds": (*(min(2, side) for side in shape[:2]), 1),
        "num_slices": 1,
        "wrap": (*(side % tpu.torus == 0 for side in shape), *[False] * (3 - len(shape))),
        **tpu.options,
    }
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=name, **options)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"--topology {name}: libtpu says: {error}") from error
    return Target(name, tuple(description.devices), True, tpu.memory, tpu.peak_flops)


def _cpus(count: int) -> tuple[Any, ...]:
    jax.config.update("jax_platforms", "cpu")
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # jax runs already, as it does in a test
        if len(jax.devices("cpu")) < count:
            raise ValueError(
                f"--topology cpu-{count}: jax has started in this process, with "
                f"{len(jax.devices('cpu'))} CPU devices; start another process"
            ) from None
    return tuple(jax.devices("cpu")[:count])


def _gpus() -> Target:
    check_platforms(in_this_process=True)
    try:
        devices = jax.devices("gpu")
    except RuntimeError as error:
        raise ValueError(
            f"--topology gpu, but jax finds no GPU here ({error}); run it where there is one, with "
            "pip install '.[cuda]' in the clone, or take cpu-N"
        ) from error
    memory = devices[0].memory_stats()["bytes_limit"]
    peak = peak_flops(devices[0].device_kind, "bfloat16")
    return Target("gpu", tuple(devices), False, memory, peak)

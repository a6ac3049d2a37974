# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a generator on a mesh takes of each device and of each process; prints one JSON line.

    python benchmarks/generation_memory.py
    python benchmarks/generation_memory.py --emb_dim=1024 --num_layers=8

Writes random parameters of a generator, and loads them in new processes: whole on one device, on
one process with 8 devices (`--mesh_shape="(1, 8)"`, in float32 and as int8), and on 2 processes
with 4 devices each. All devices are the CPU's, whose memory is that of the process. Of each it
measures, in MiB,

- `device`: the most that all live arrays take on a device when an image has been drawn;
- `temporaries`: what the compiled program that drew it needs of a device besides;
- `resident`: by how much the process grew while it loaded (VmRSS), the most of any process;
- `peak`: by how much at most in between (VmHWM).

`tokens` is a hash of the image: that of one device, but for int8.
"""

import argparse
import functools
import hashlib
import json
import os
import pathlib
import platform
import socket
import subprocess
import sys
import tempfile
from typing import Any

import jax
import numpy as np
import safetensors.flax
import safetensors.numpy
from flax import traverse_util

from parti.engine.distributed import multihost
from parti.engine.inference import layouts, loaded_models, sharded_reading
from parti.models.text_to_image import model as text_to_image
from parti.models.text_to_image import network, sampling

MIB = 2**20
DEVICES = 8
TEXT = np.array([[5, 6, 7, 1]], np.int32)
SAMPLES = 2
# Name -> (number of processes, whether on a mesh, whether as int8).
WAYS = {
    "one_device": (1, False, False),
    "8_devices": (1, True, False),
    "8_devices_int8": (1, True, True),
    "2_processes_of_4": (2, True, False),
}


def make_model(emb_dim: int, num_layers: int) -> text_to_image.TextToImageModel:
    """Returns a generator in float32."""
    config = network.TextToImageConfig(
        text_vocab_size=8000,
        text_length=TEXT.shape[1],
        grid_size=4,
        emb_dim=emb_dim,
        num_heads=16,
        head_dim=emb_dim // 16,
        mlp_dim=4 * emb_dim,
        num_encoder_layers=num_layers,
        num_decoder_layers=num_layers,
        local_window=3,
        dtype="float32",
    )
    return text_to_image.TextToImageModel(config).unrolled


def write(model: Any, path: pathlib.Path) -> None:
    """Writes random parameters as a bundle has them."""
    rng, flat = np.random.default_rng(0), {}
    for key, leaf in layouts.leaves(model).items():
        flat["/".join(key)] = 0.05 * rng.standard_normal(leaf.shape, np.float32)
    safetensors.numpy.save_file(flat, path)


def resident() -> dict[str, int]:
    """Returns VmRSS and VmHWM of this process in bytes."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    sizes = dict(line.split(":", 1) for line in lines)
    return {name: int(sizes[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")}


def load(model: Any, path: str, on_a_mesh: bool, int8: bool) -> loaded_models.LoadedModel:
    """Loads as `bundles.Bundle.load` does."""
    if not on_a_mesh:
        flat = safetensors.flax.load_file(path)
        return loaded_models.LoadedModel(model, traverse_util.unflatten_dict(flat, sep="/"))
    placement = layouts.Layout((1, DEVICES), int8=int8).placement()
    variables, print_ = sharded_reading.load(path, layouts.leaves(model, int8), placement, "")
    given = {"placement": placement, "fingerprint": print_}
    return loaded_models.LoadedModel(model, variables, **given)


def measure(flags: argparse.Namespace) -> dict[str, Any]:
    """Loads and draws in this process, and returns what it took."""
    count, on_a_mesh, int8 = WAYS[flags.way]
    if count > 1:
        multihost.connect(flags.coordinator_address, count, flags.process_id)
    model = make_model(flags.emb_dim, flags.num_layers)
    layouts.leaves(model)  # traced before the clock of memory starts
    jax.block_until_ready(jax.numpy.zeros(1))
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = resident()["VmRSS"]
    loaded = load(model, flags.path, on_a_mesh, int8)
    after = resident()
    settings = sampling.SamplingSettings()
    keys = sampling.image_keys(0, ["a text"], SAMPLES)
    drawn = loaded.call("sample", TEXT, keys, batch_size=1, settings=settings)
    taken = dict.fromkeys((device.id for device in jax.local_devices()), 0)
    for array in jax.live_arrays():
        for shard in array.addressable_shards:
            taken[shard.device.id] += shard.data.nbytes
    sample = functools.partial(model.sample, settings=settings)
    if on_a_mesh:
        placement = loaded._placement
        with placement.context():
            arrays = map(placement.put, (TEXT, keys))
            compiled = placement.jit(sample).lower(loaded.variables, *arrays).compile()
    else:
        compiled = jax.jit(sample).lower(loaded.variables, TEXT, keys).compile()
    return {
        "device": max(taken.values()),
        "temporaries": compiled.memory_analysis().temp_size_in_bytes,
        "resident": after["VmRSS"] - before,
        "peak": after["VmHWM"] - before,
        "tokens": hashlib.sha256(drawn.tobytes()).hexdigest()[:8],
    }


def run(way: str, path: pathlib.Path, flags: argparse.Namespace) -> dict[str, Any]:
    """Measures in new processes; of several, the most of each."""
    count = WAYS[way][0]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    devices = f"--xla_force_host_platform_device_count={DEVICES // count}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": devices}
    command = [sys.executable, __file__, f"--way={way}", f"--path={path}"]
    command += [f"--emb_dim={flags.emb_dim}", f"--num_layers={flags.num_layers}"]
    command += [f"--coordinator_address={address}"]
    processes = [
        subprocess.Popen(
            [*command, f"--process_id={i}"], env=environment, stdout=subprocess.PIPE, text=True
        )
        for i in range(count)
    ]
    found = []
    for process in processes:
        printed, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{way}: exit code {process.returncode}")
        found.append(json.loads(printed.splitlines()[-1]))
    most = {name: max(each[name] for each in found) for name in found[0]}
    return {k: v if k == "tokens" else round(v / MIB, 1) for k, v in most.items()}


def main() -> None:
    """Prints the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--emb_dim", type=int, default=768, help="a multiple of 16")
    parser.add_argument("--num_layers", type=int, default=5, help="of encoder and of decoder")
    for name in ("way", "path", "coordinator_address"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    parser.add_argument("--process_id", type=int, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.way:
        print(json.dumps(measure(flags)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "params.safetensors")
        write(make_model(flags.emb_dim, flags.num_layers), path)
        report = {
            "benchmark": "generation_memory",
            "unit": "MiB",
            "machine": platform.machine(),
            "parameters": round(path.stat().st_size / MIB, 1),
            **{way: run(way, path, flags) for way in WAYS},
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()

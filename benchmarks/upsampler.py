# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Memory and speed of the upsampler, whole and in windows, in one run; prints one JSON line.

    python benchmarks/upsampler.py --size 256 --tile 128
    python benchmarks/upsampler.py --experiment wdsr_tiny --size 1024 --tile 256

Memory is what XLA plans for one image (`memory_analysis` of the compiled program: parameters, image
in and out, and working space); nothing needs to run for it, so --memory_sizes may be large. Speed
is of one image of --size pixels from and to the host, whole and in windows in turns; the best turn
of each counts. `expected_ratio` is that of the pixels which are computed. Parameters are random.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import flax.core
import jax
import numpy as np

from parti.engine.config import gin_config
from parti.models.super_resolution import model as super_resolution
from parti.models.super_resolution import tiling

MIB = 2**20


def draw_variables(model: super_resolution.SuperResolutionModel) -> dict[str, Any]:
    """Returns random parameters of the network."""
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), np.float32)
    shapes = jax.eval_shape(model.network.init, jax.random.PRNGKey(0), image)
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jax.numpy.asarray(0.1 * rng.normal(size=leaf.shape), leaf.dtype),
        flax.core.meta.unbox(shapes),
    )


def compile_for(model: Any, variables: dict[str, Any], side: int) -> jax.stages.Compiled:
    """Returns the program for one square image."""
    image = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
    return jax.jit(model.upsample).lower(variables, image).compile()


def memory_mib(program: jax.stages.Compiled) -> int:
    """Returns what a program needs on its device, in MiB."""
    plan = program.memory_analysis()
    size = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
    return round(size / MIB)


def seconds(function: Callable[[], Any]) -> float:
    """Returns how long a call takes."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def measure(flags: argparse.Namespace) -> dict[str, object]:
    """Returns the line."""
    config = f"include 't5x_configs/experiments/{flags.experiment}.gin'\nDTYPE = '{flags.dtype}'\n"
    model = gin_config.model_from_config(config)
    tiling.check_window(model.config, flags.tile, flags.size)
    variables = draw_variables(model)
    sides = sorted({*flags.memory_sizes, flags.size, flags.tile})
    programs = {side: compile_for(model, variables, side) for side in sides}
    images = np.random.default_rng(1).uniform(-1, 1, (1, flags.size, flags.size, 3))
    images = images.astype(np.float32)

    def whole() -> np.ndarray:
        return np.asarray(programs[flags.size](variables, images))

    def tiled() -> np.ndarray:
        def window(pixels: np.ndarray) -> np.ndarray:
            return np.asarray(programs[flags.tile](variables, pixels))

        return tiling.upsample(window, images, model.config, flags.tile)

    difference = float(np.abs(whole() - tiled()).max())  # also the warm-up
    turns = [(seconds(whole), seconds(tiled)) for _ in range(flags.turns)]
    of_whole, of_tiled = (min(turn[side] for turn in turns) for side in (0, 1))
    halo = tiling.receptive_radius(model.config)
    windows = len(tiling.spans(flags.size, flags.tile, halo)) ** 2
    return {
        "figure": f"upsampler {flags.experiment}, {flags.size} px in windows of {flags.tile}",
        "value": round(of_whole / of_tiled, 3),
        "unit": "speed in windows / speed whole",
        "expected_ratio": round(flags.size**2 / (windows * flags.tile**2), 3),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}",
        "dtype": flags.dtype,
        "halo": halo,
        "windows": windows,
        "seconds_whole": round(of_whole, 3),
        "seconds_tiled": round(of_tiled, 3),
        "largest_difference": difference,
        "memory_mib_whole": {side: memory_mib(programs[side]) for side in sides},
        "memory_mib_in_windows": memory_mib(programs[flags.tile]),
    }


def main() -> int:
    """Measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiment", default="wdsr_x2", help="a name in t5x_configs/experiments")
    parser.add_argument("--size", type=int, default=256, help="side of the timed image, pixels")
    parser.add_argument("--tile", type=int, default=128, help="side of a window, pixels")
    parser.add_argument("--memory_sizes", type=int, nargs="*", default=[256, 1024])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--turns", type=int, default=3)
    print(json.dumps(measure(parser.parse_args())))
    return 0


if __name__ == "__main__":
    sys.exit(main())

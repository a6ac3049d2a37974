# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Memory and time of a process that reads its rows of the global batch; one JSON line for each.

    python benchmarks/input_rows.py
    python benchmarks/input_rows.py --processes 1 2 4 8 --batch_size 1024

Made-up pairs of JPEGs of 384 px that become 288 px, as `coca_base` reads them. The reader is that
of the first of so many processes; the memory is the most that reading takes on top of what the
process holds before it opens the data: a batch, what is read ahead, and TensorFlow's own.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

import input_pipeline
import numpy as np

from parti.stages import machine

TEXT_LENGTH, IMAGE_SIZE = 64, 288


def measure(
    folder: pathlib.Path, batch_size: int, processes: int, batches: int
) -> dict[str, float]:
    """Returns bytes and seconds of the rows that the first of so many processes reads."""
    from parti.engine.input import datasets
    from parti.tasks import contrastive, feature_converters

    class Model:
        FEATURE_CONVERTER_CLS = feature_converters.ImageTextConverter
        text_vocab_size = 1000

    name = contrastive.add_task(folder / "images", folder / "vocabulary.model", IMAGE_SIZE)
    before = machine.peak_memory()
    source = datasets.SeqioSource(name, {"inputs": TEXT_LENGTH, "image": IMAGE_SIZE})
    reader = source.open(datasets.TRAIN, batch_size, 0, Model())
    reader.keep_rows(np.arange(batch_size // processes))
    held = sum(array.nbytes for array in next(reader).values())
    began = time.perf_counter()
    for _ in range(batches):
        next(reader)
    seconds = (time.perf_counter() - began) / batches
    return {"batch": held, "peak": machine.peak_memory() - before, "seconds": seconds}


def main() -> int:
    """Measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--batch_size", type=int, default=512)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--num", type=int, default=2000, help="pairs")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.measure:
        folder = pathlib.Path(flags.folder)
        print(json.dumps(measure(folder, flags.batch_size, flags.measure, flags.batches)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        input_pipeline.write_data(pathlib.Path(folder), 4 * flags.num)
        for processes in flags.processes:
            command = [sys.executable, __file__, f"--measure={processes}", f"--folder={folder}"]
            command += [f"--batch_size={flags.batch_size}", f"--batches={flags.batches}"]
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
            )
            found = json.loads(done.stdout)
            line = {
                "figure": f"memory of reading, one of {processes} process(es)",
                "value": round(found["peak"] / 2**20, 1),
                "unit": "MiB",
                "batch_mib": round(found["batch"] / 2**20, 1),
                "seconds_a_batch": round(found["seconds"], 3),
                "batch_size": flags.batch_size,
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            }
            print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

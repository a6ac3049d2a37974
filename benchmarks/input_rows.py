# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Memory and time of a process that reads its rows of the global batch; one JSON line for each.

    python benchmarks/input_rows.py
    python benchmarks/input_rows.py --processes 1 2 --batch_size 1024

Made-up pairs of JPEGs of 384 px that become 288 px, as `coca_base` reads them. The reader is that
of the first of so many processes, with nothing else in the process: no model, no devices. `value`
is the most memory that was resident at a time, `base_mib` what of it was there before the data were
opened (Python, TensorFlow, seqio). What is between is the rows of a batch that is put together, of
the one before that is handed over, and what the decoders work on.
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
import made_up_tokens
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
        text_vocab_size = made_up_tokens.VOCABULARY_SIZE

    name = contrastive.add_task(folder / "images", folder / "vocabulary.model", IMAGE_SIZE)
    base = machine.peak_memory()
    source = datasets.SeqioSource(name, {"inputs": TEXT_LENGTH, "image": IMAGE_SIZE})
    reader = source.open(datasets.TRAIN, batch_size, 0, Model())
    reader.keep_rows(np.arange(batch_size // processes))
    batch = next(reader)
    began = time.perf_counter()
    for _ in range(batches):
        batch = next(reader)  # The one before is held meanwhile, as where it is put on devices.
    seconds = (time.perf_counter() - began) / batches
    held = sum(array.nbytes for array in batch.values())
    return {"base": base, "batch": held, "peak": machine.peak_memory(), "seconds": seconds}


def main() -> int:
    """Measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--batch_size", type=int, default=512)
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--num", type=int, default=1000, help="pairs")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.measure:
        folder = pathlib.Path(flags.folder)
        print(json.dumps(measure(folder, flags.batch_size, flags.measure, flags.batches)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        made_up_tokens.write_vocabulary(pathlib.Path(folder) / "vocabulary.model")
        input_pipeline.write_images(pathlib.Path(folder), flags.num)
        for processes in flags.processes:
            command = [sys.executable, __file__, f"--measure={processes}", f"--folder={folder}"]
            command += [f"--batch_size={flags.batch_size}", f"--batches={flags.batches}"]
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True
            )
            found = json.loads(done.stdout)
            line = {
                "figure": f"resident memory of reading, one of {processes} process(es)",
                "value": round(found["peak"] / 2**20),
                "unit": "MiB",
                "base_mib": round(found["base"] / 2**20),
                "rows_mib": round(found["batch"] / 2**20),
                "held_over_rows": round((found["peak"] - found["base"]) / found["batch"], 2),
                "seconds_a_batch": round(found["seconds"], 3),
                "batch_size": flags.batch_size,
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            }
            print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Times `parti clean` from tars to shards, by number of workers and of pairs; one JSON line.

    python benchmarks/clean_scaling.py --num 10000 100000 --workers 1 2
    python benchmarks/clean_scaling.py --num 10000 100000 --workers 1 --flag=--max_words=7

It draws scenes of 64 pixels and cleans them with near duplicates looked for, in a process of its
own for each figure: pairs per second of wall time with the start of the process, and the peak
memory of the largest process. The bytes of all runs over the same pairs are compared.
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
from typing import Any

PARTI = [sys.executable, "-m", "parti"]


def clean(
    raw: pathlib.Path, output: pathlib.Path, workers: int, size: int, more: list[str]
) -> dict[str, Any]:
    """Runs the command; returns seconds, peak memory in MB, and the output's fingerprint."""
    flags = [f"--image_size={size}", "--near_duplicates=image", f"--direct_num_workers={workers}"]
    flags += ["--direct_running_mode=multi_processing"] if workers > 1 else []
    command = [*PARTI, "clean", "--input", str(raw), "--output", str(output), *flags, *more]
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=sys.stderr)
    seconds = time.monotonic() - began
    run = json.loads((output / "run.json").read_text())
    manifest = json.loads((output / "manifest.json").read_text())
    return {
        "workers": workers,
        "pairs": manifest["counts"]["read"],
        "rejected": manifest["counts"]["rejected"],
        "seconds": round(seconds, 1),
        "pairs_per_second": round(manifest["counts"]["read"] / seconds, 1),
        "peak_memory_mb": round(run["peak_memory"] / 2**20),
        "fingerprint": manifest["fingerprint"],
    }


def main() -> int:
    """Prints the line; returns 1 if two runs over the same pairs differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--size", type=int, default=64, help="side of the pictures")
    parser.add_argument("--flag", action="append", default=[], help="a further flag of the command")
    flags = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for num in flags.num:
            raw = pathlib.Path(folder, f"raw-{num}")
            shards = max(4, num // 2500)
            made = [f"--num={num}", f"--size={flags.size}", f"--shards={shards}", "--num_prompts=0"]
            subprocess.run(
                [*PARTI, "scenes", f"--output={raw}", *made], check=True, stdout=sys.stderr
            )
            for workers in flags.workers:
                output = raw.with_name(f"{num}-{workers}")
                rows.append(clean(raw, output, workers, flags.size, flags.flag))
    same = all(
        len({row["fingerprint"] for row in rows if row["pairs"] == pairs}) == 1
        for pairs in {row["pairs"] for row in rows}
    )
    line = {
        "figure": "parti clean, pairs per second by workers and pairs",
        "runs": rows,
        "same_bytes": same,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    print(json.dumps(line))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())

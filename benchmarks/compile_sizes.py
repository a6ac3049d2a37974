# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The paper's sizes, compiled for the pods of the paper: the table of docs/compile.md.

    python benchmarks/compile_sizes.py --reports runs/compile
    python benchmarks/compile_sizes.py --reports runs/compile --rows 3b 20b

Runs `parti compile` for each row, one after another (minutes each), with libtpu and no TPU, and
keeps its report in --reports; a report that is there is read, not made again. Prints the table in
Markdown, then one JSON line with the reports.
"""

import argparse
import json
import pathlib
import subprocess
import sys
from typing import Any

EXPERIMENTS = "t5x_configs/experiments"
# Row -> what `parti compile` is asked. Batch 8192 as in the paper, which names the devices of 3B
# (512) and 20B (1024) only; 64 examples a device, or less, for the others.
ROWS = {
    "350m": [f"--gin_file={EXPERIMENTS}/parti_350m.gin", "--topology=v4:4x4x8"],
    "750m": [f"--gin_file={EXPERIMENTS}/parti_750m.gin", "--topology=v4:4x8x8"],
    "3b": [f"--gin_file={EXPERIMENTS}/parti_3b.gin", "--topology=v4:8x8x8"],
    "20b": [f"--gin_file={EXPERIMENTS}/parti_20b.gin", "--topology=v4:8x8x16"],
    "20b_pipeline": [f"--gin_file={EXPERIMENTS}/parti_20b_pipeline.gin", "--topology=v4:8x8x16"],
    "coca_base": [f"--gin_file={EXPERIMENTS}/coca_base.gin", "--topology=v4:8x8x8"],
    "text_encoder_3b": [f"--gin_file={EXPERIMENTS}/text_encoder_3b.gin", "--topology=v4:8x8x8"],
    "text_encoder_20b": [f"--gin_file={EXPERIMENTS}/text_encoder_20b.gin", "--topology=v4:8x8x16"],
    "3b_generate": [
        f"--gin_file={EXPERIMENTS}/parti_3b.gin",
        "--topology=v4:2x2x1",
        "--program=generate",
    ],
}
COLUMNS = (
    "row | topology | mesh | batch | parameters, optimizer | gradients | "
    "activations, temporaries | total | fits | FLOPs (computed again or idly) | "
    "peak-rate step | collectives of a chip | compile, CPU"
)
GIB = 2**30


def report(row: str, folder: pathlib.Path) -> dict[str, Any]:
    """Returns the report of a row; compiles if it is not in the folder.

    Raises:
      RuntimeError: the command failed.
    """
    path = folder / f"{row}.json"
    if not path.exists():
        command = [sys.executable, "-m", "parti", "compile", *ROWS[row], f"--json={path}"]
        code = subprocess.run(command, stdout=sys.stderr, check=False).returncode
        if not path.exists():  # Code 1 with a report: it does not fit.
            raise RuntimeError(f"{' '.join(command)} ended with code {code}")
    return json.loads(path.read_text(encoding="utf-8"))


def line(row: str, made: dict[str, Any]) -> str:
    """Returns a line of the table."""
    memory, devices = made["memory"], 1
    for size in made["mesh"].values():
        devices *= size
    again = made["program_flops"] / made["model_flops"] - 1
    step = made["model_flops"] / (devices * made["peak_flops"])
    sent = sum(kind["num_bytes"] for kind in (made["collectives"] or {}).values())
    cells = [
        row,
        made["topology"],
        " x ".join(f"{axis} {size}" for axis, size in made["mesh"].items()),
        f"{made['batch']:,}",
        f"{(memory['parameters'] + memory.get('optimizer', 0)) / GIB:.2f} GiB",
        f"{memory.get('gradients', 0) / GIB:.2f} GiB",
        f"{memory['activations, temporaries'] / GIB:.2f} GiB",
        f"{sum(memory.values()) / GIB:.2f} GiB",
        {True: "yes", False: "no"}[made["fits"]],
        f"{made['model_flops']:.3g} ({again:+.0%})",
        f"{step:.2f} s",
        f"{sent / GIB:.1f} GiB",
        f"{made['seconds']['compile_cpu']:.0f} s",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Makes the reports that are missing and prints them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reports", type=pathlib.Path, required=True)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    flags = parser.parse_args()
    flags.reports.mkdir(parents=True, exist_ok=True)
    made = {row: report(row, flags.reports) for row in flags.rows}
    print(f"| {COLUMNS} |")
    print("|" + " --- |" * (COLUMNS.count("|") + 1))
    for row, content in made.items():
        print(line(row, content))
    print(json.dumps({"benchmark": "compile_sizes", "reports": made}))


if __name__ == "__main__":
    main()

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Times a whole workflow, from nothing to the evaluation, and prints one JSON line.

    python benchmarks/workflow.py scenes-tiny --workdir runs/timed
    python benchmarks/workflow.py pairs-tiny --workdir runs/emoji --set input='emoji/*.tar'

The working folder must not exist: what is there already would not be timed.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import time


def main() -> int:
    """Runs the workflow; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="as of `parti workflow`")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    flags, rest = parser.parse_known_args()
    if flags.workdir.exists():
        parser.error(f"{flags.workdir} exists; choose another --workdir")
    command = [sys.executable, "-m", "parti", "workflow", flags.config]
    began = time.monotonic()
    code = subprocess.call([*command, "--workdir", str(flags.workdir), *rest], stdout=sys.stderr)
    seconds = time.monotonic() - began
    if code:
        return code
    records = [json.loads(p.read_text()) for p in (flags.workdir / ".stages").glob("*.json")]
    records.sort(key=lambda record: record["started"])
    metrics = json.loads((flags.workdir / "evaluation" / "metrics.json").read_text())
    line = {
        "figure": f"workflow {flags.config}",
        "value": round(seconds, 1),
        "unit": "seconds",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "stage_seconds": {r["name"]: round(r["updated"] - r["started"], 1) for r in records},
        "alignment": metrics.get("alignment", {}).get("overall"),
        "rerank_correlation": metrics.get("rerank_correlation"),
        "tokenizer_psnr_db": metrics.get("tokenizer"),
        "upsampler_psnr_db": metrics.get("upsampler"),
    }
    print(json.dumps(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Times `parti tokenize` by number of worker processes, and where their time goes; one JSON line.

    python benchmarks/tokenize_scaling.py --num 6000 --workers 1 2 --turns 3

It draws and cleans scenes, trains the demonstration's tokenizer for one step, and tokenizes with
1, 2, 1, 2, ... worker processes: each on a core of its own, as if it were another machine, and each
on all cores, which is how a process computes by itself. Pictures a second are from when all workers
have loaded and compiled the model to the last shard written. The shares are of the time of all
workers in that span; the rest is Beam's, and waiting for the last worker. The bytes of all runs are
compared.
"""

import argparse
import collections
import contextlib
import fcntl
import functools
import itertools
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

PARTI = [sys.executable, "-m", "parti"]
# Variables of the workers, which import this file as a plugin of Beam: where to write times, and
# whether each takes a core.
_TIMES, _A_CORE_EACH = "PARTI_TOKENIZE_TIMES", "PARTI_TOKENIZE_A_CORE_EACH"
READING, MODEL, WRITING, STARTING = "reading", "model", "writing", "starting"


def record(folder: pathlib.Path) -> None:
    """Lets this worker write the time of each part of its work to a file of its own."""
    from parti.pipelines import tokenize_images
    from parti.pipelines.beam import model_handlers
    from parti.pipelines.tokens import batches, resumable_shards

    file = open(folder / f"{os.getpid()}.jsonl", "a", buffering=1)  # noqa: SIM115 - to the end

    @contextlib.contextmanager
    def timed(name: str, pictures: int = 0) -> Iterator[None]:
        began = time.time()
        yield
        row = {"name": name, "pictures": pictures, "began": began, "ended": time.time()}
        file.write(json.dumps(row) + "\n")

    def each(name: str, process: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Iterator[Any]:
            items = iter(process(*arguments))
            while True:
                with timed(name):
                    item = next(items, None)
                if item is None:
                    return
                yield item

        return functools.wraps(process)(wrapped)

    batches.ReadBatches.process = each(READING, batches.ReadBatches.process)
    tokenize_images._WriteBatch.process = each(WRITING, tokenize_images._WriteBatch.process)
    resumable_shards.JoinShard.process = each(WRITING, resumable_shards.JoinShard.process)
    load, predict, calls = model_handlers.Handler.load_model, model_handlers.Handler.predict, []

    def load_model(handler: Any) -> Any:
        with timed(STARTING):
            return load(handler)

    def predict_batch(handler: Any, pixels: Any, model: Any) -> Any:
        calls.append(None)
        with timed(MODEL if len(calls) > 1 else STARTING, len(pixels)):
            return predict(handler, pixels, model)

    model_handlers.Handler.load_model = load_model
    model_handlers.Handler.predict = predict_batch


def take_a_core(folder: pathlib.Path) -> None:
    """Keeps this process on a core that no other worker has."""
    for core in sorted(os.sched_getaffinity(0)):
        lock = os.open(folder / f"core-{core}", os.O_CREAT | os.O_RDWR)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until the process ends
            os.sched_setaffinity(0, {core})
            return
    raise RuntimeError("more workers than cores")


def parti(*arguments: str, **environment: str) -> None:
    """Runs a command."""
    variables = {**os.environ, **environment}
    subprocess.run([*PARTI, *arguments], check=True, stdout=sys.stderr, env=variables)


def tokenize(
    pairs: pathlib.Path, model: str, output: pathlib.Path, workers: int, a_core_each: bool
) -> dict[str, Any]:
    """Runs the command; returns its figures."""
    times = pathlib.Path(f"{output}.times")
    times.mkdir()
    here = pathlib.Path(__file__)
    parti(
        *("tokenize", f"--input={pairs}", f"--model={model}", f"--output={output}"),
        *("--direct_running_mode=multi_processing", f"--direct_num_workers={workers}"),
        f"--beam_plugins={here.stem}",
        **{"PYTHONPATH": str(here.parent), _TIMES: str(times), _A_CORE_EACH: "1" * a_core_each},
    )
    lines = [line for file in times.glob("*.jsonl") for line in file.read_text().splitlines()]
    rows = list(map(json.loads, lines))
    began = max(row["ended"] for row in rows if row["name"] == STARTING)
    rows = [row for row in rows if row["began"] >= began]
    span = max(row["ended"] for row in rows) - began
    spent: collections.Counter[str] = collections.Counter()
    for row in rows:
        spent[row["name"]] += row["ended"] - row["began"]
    return {
        "workers": workers,
        "a_core_each": a_core_each,
        "seconds": round(span, 1),
        "pictures_per_second": round(sum(row["pictures"] for row in rows) / span, 1),
        "shares": {k: round(spent[k] / workers / span, 3) for k in (READING, MODEL, WRITING)},
        "fingerprint": json.loads((output / "manifest.json").read_text())["fingerprint"],
    }


def main() -> int:
    """Prints the line; returns 1 if two runs differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--num", type=int, default=10_000, help="pictures")
    add("--size", type=int, default=32, help="side of the pictures in pixels")
    add("--workers", type=int, nargs="+", default=[1, 2])
    add("--turns", type=int, default=3)
    add("--model", help="a tokenizer's training or a bundle (default: tokenizer_tiny, one step)")
    flags = parser.parse_args()
    runs = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        scenes, pairs, model = (str(folder / name) for name in ("scenes", "pairs", "tokenizer"))
        drawn = [f"--num={flags.num}", f"--size={flags.size}", "--num_prompts=0"]
        parti("scenes", f"--output={scenes}", *drawn)
        sizes = [f"--image_size={flags.size}", "--num_shards=8"]
        parti("clean", f"--input={scenes}", f"--output={pairs}", *sizes)
        if not flags.model:
            macros = {"MODEL_DIR": f"'{model}'", "PAIRS_DIR": f"'{pairs}'", "TRAIN_STEPS": 1}
            bindings = [f"--gin.{macro}={value}" for macro, value in macros.items()]
            gin = "--gin_file=t5x_configs/experiments/tokenizer_tiny.gin"
            parti("train", gin, *bindings, "--gin.WARMUP_STEPS=0", "--gin.EVAL_STEPS=1")
        for turn, a_core_each, workers in itertools.product(
            range(flags.turns), (True, False), flags.workers
        ):
            output = folder / f"{turn}-{a_core_each}-{workers}"
            made = flags.model or model, output, workers, a_core_each
            runs.append(tokenize(pathlib.Path(pairs), *made))
            print(runs[-1], file=sys.stderr)
    line = {
        "figure": "parti tokenize, pictures a second by worker processes",
        "a_core_each": summarize([run for run in runs if run["a_core_each"]]),
        "all_cores": summarize([run for run in runs if not run["a_core_each"]]),
        "same_bytes": len({run["fingerprint"] for run in runs}) == 1,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    print(json.dumps(line))
    return 0 if line["same_bytes"] else 1


def summarize(runs: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Returns {workers: medians over the turns, and each turn's speed over the first number's}."""
    groups: dict[int, list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault(run["workers"], []).append(run)
    speeds = {w: [run["pictures_per_second"] for run in group] for w, group in groups.items()}
    first = next(iter(speeds.values()))
    return {
        workers: {
            "pictures_per_second": statistics.median(speeds[workers]),
            "times_the_first": [round(b / a, 2) for a, b in zip(first, speeds[workers])],
            "shares": {
                name: statistics.median(run["shares"][name] for run in group)
                for name in (READING, MODEL, WRITING)
            },
        }
        for workers, group in groups.items()
    }


if __name__ == "__main__":
    sys.exit(main())
elif os.environ.get(_TIMES):
    if os.environ.get(_A_CORE_EACH):
        take_a_core(pathlib.Path(os.environ[_TIMES]))
    record(pathlib.Path(os.environ[_TIMES]))

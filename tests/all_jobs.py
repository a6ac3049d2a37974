# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The commands that make and use data, one after the other, with all their files below an address.

The first draws scenes; the others read what those before them wrote, and a bundle of tiny models.
"""

import importlib
import json
import pathlib

import pytest

from parti.pipelines.html import generation_card
from parti.stages import commands, files

NUM_SCENES = 16
RUN_FILES = ("report.html", "run.json")  # of `parti clean`: times and memory


def jobs(root: str) -> dict[str, list[str]]:
    """Returns {output: command and arguments}; the bundle is to be at `root`/bundle."""
    pairs, model = f"{root}/pairs", f"--model={root}/bundle"
    drawn = ("--size=32", "--world=tiny", "--shards=2", "--num_prompts=3")
    images = ("--num_samples=2", "--prompts_per_batch=2")
    reference = (f"--reference={pairs}", model)
    made = {
        "scenes": ("scenes", f"--num={NUM_SCENES}", *drawn),
        "pairs": ("clean", f"--input={root}/scenes", "--image_size=32", "--num_shards=2"),
        "words": ("vocab", f"--input={pairs}", "--vocab_size=300"),
        "tokens": (
            *("tokenize", f"--input={pairs}", model, "--write_reconstructions"),
            "--batch_size=4",
        ),
        "pictures": ("detokenize", f"--input={root}/tokens"),
        "prompts": ("prompts", f"--input={pairs}", "--num=3", "--split=train"),
        "images": ("generate", f"--prompts={root}/prompts/prompts.jsonl", model, *images),
        "report": ("evaluate", f"--generations={root}/images", *reference),
        "measured": ("evaluate", "--reconstructions", *reference, "--split=train"),
    }
    return {name: [*words, f"--output={root}/{name}"] for name, words in made.items()}


BEAM_JOBS = sorted({*jobs("")} - {"prompts"})  # which runs where it is started


def run(job: list[str]) -> int:
    """Runs a job in this process; passes on what it raises."""
    module, function, _ = commands.COMMANDS[job[0]]
    return getattr(importlib.import_module(module), function)(job[1:])


def put(source: pathlib.Path, target: str) -> None:
    """Copies a folder to an address."""
    for entry in files.walk(source):
        address = target + entry.path[len(str(source)) :]
        files.make_dirs(files.parent(address))
        files.concatenate([entry.path], address)


def content(folder: files.Path) -> dict[str, bytes]:
    """Returns {name: bytes} of an output, without times and the addresses of inputs."""
    found = {e.path[len(str(folder)) + 1 :]: files.read_bytes(e.path) for e in files.walk(folder)}
    is_pairs = json.loads(found["manifest.json"])["kind"] == "pairs"
    for name in ("manifest.json", *["report.json"] * is_pairs):
        values = json.loads(found[name])
        del values["inputs"]
        found[name] = json.dumps(values).encode()
    if card := found.get(generation_card.FILE_NAME):  # whose command names the inputs
        found[generation_card.FILE_NAME] = card.replace(files.parent(folder).encode(), b"@")
    return {name: data for name, data in found.items() if not (is_pairs and name in RUN_FILES)}


def check_finished(job: list[str], output: str) -> None:
    """Checks that a second run of a finished command writes nothing."""
    before = {entry.path: files.status(entry.path) for entry in files.walk(output)}
    with pytest.raises(ValueError, match="already finished"):
        run(job)
    assert {entry.path: files.status(entry.path) for entry in files.walk(output)} == before

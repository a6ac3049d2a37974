# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Stands for `parti` in tests of the workflow: each stage writes a small output at once.

Environment: FAKE_CALLS is a file that gets a line per call; FAKE_FAIL and FAKE_HANG name stages
(by output folder) that fail, or wait after half of their work.
"""

import hashlib
import json
import os
import pathlib
import sys
import time

BUNDLED = ("vocabulary", "tokenizer", "generator", "reranker", "upsampler")


def main(arguments: list[str]) -> int:
    command, *rest = arguments
    flags = dict(word.partition("=")[::2] for word in rest if "=" in word)
    if command == "train":
        flags["--output"] = flags["--gin.MODEL_DIR"].strip("'")
    output = pathlib.Path(flags["--output"])
    with open(os.environ["FAKE_CALLS"], "a", encoding="utf-8") as calls:
        calls.write(output.name + "\n")
    print(f"[{output.name}] at work", flush=True)
    if os.environ.get("FAKE_FAIL") == output.name:
        print("Traceback: no space left", file=sys.stderr)
        return 1
    (train if command == "train" else write)(output, rest)
    return 0


def train(output: pathlib.Path, arguments: list[str]) -> None:
    """Trains two steps in place; an interrupted training goes on after its last step."""
    if (output / "manifest.json").exists():
        sys.exit("refused: finished")
    output.mkdir(exist_ok=True)
    for step in (1, 2):
        checkpoint = output / f"checkpoint_{step}"
        if checkpoint.exists():
            print(f"resumed after step {step}", flush=True)
            continue
        checkpoint.mkdir()
        (output / "steps.txt").open("a").write(f"{step}\n")
        if step == 1:
            hang(output)
    publish(output, arguments)


def write(output: pathlib.Path, arguments: list[str]) -> None:
    """Writes beside the output and renames; refuses to replace anything."""
    if output.exists():
        sys.exit("refused: exists")
    unfinished = output.with_name(output.name + ".unfinished")
    unfinished.mkdir(exist_ok=True)
    (unfinished / "data.txt").write_text(output.name)
    hang(output)
    publish(unfinished, arguments)
    unfinished.rename(output)


def publish(folder: pathlib.Path, arguments: list[str]) -> None:
    """Writes the manifest; like a real one it depends on settings and inputs, not on times."""
    inputs = [word.partition("=")[2].strip("'") for word in arguments if "=" in word]
    inputs += [word for word in arguments if word.startswith("/")]
    folders = [f for p in map(pathlib.Path, inputs) for f in (p, p.parent)]
    if folder.name.startswith("bundle"):
        folders = sorted(p for p in folder.parent.iterdir() if p.name in BUNDLED)
    parts = [m.read_text() for f in folders if (m := f / "manifest.json").is_file()]
    settings = [w for w in arguments if not any(c in w for c in "/'") and "NO_EFFECT" not in w]
    fingerprint = hashlib.sha256(json.dumps([folder.name.split(".")[0], settings, parts]).encode())
    (folder / "manifest.json").write_text(json.dumps({"fingerprint": fingerprint.hexdigest()}))


def hang(output: pathlib.Path) -> None:
    if os.environ.get("FAKE_HANG") == output.name:
        (output.parent / "hanging").write_text(str(os.getpid()))
        time.sleep(120)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""README.md of a folder of generations: what it is, how to make it again, how to read it.

The front matter is that of data-set cards. The same command gives the same bytes.
"""

import argparse
import json
import os
import shlex
from collections.abc import Mapping
from typing import Any

from parti.stages import files, version

FILE_NAME = "README.md"
_AGAIN = "again"  # the output of the command: the name of a folder is no part of what is in it
# Flags that say where it was made, not what: another machine has others.
_OF_THE_MACHINE = ("output", "overwrite", "verbose", "process_id", "coordinator_address")
_SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M"}
_LARGEST = "n>1M"
_FILES = """\
| file | content |
|---|---|
| `manifest.jsonl` | a JSON object for each image, see below |
| `images/` | the images, a folder for each prompt; each carries prompt, seed, score, settings |
| `gallery.html` | a page to look at them, without a server |
| `tokens-*.tfrecord` | `key`, `text` and `image_tokens` of each image |
| `manifest.json` | what is said here, for programs |
| `rejected.jsonl` | rows of the prompt file that were no prompts; absent if there are none |

| field of `manifest.jsonl` | |
|---|---|
| `prompt_id`, `prompt` | the name of the prompt, and its text |
| `sample_index` | number of the image among those of its prompt, from 0 |
| `rank`, `score` | 0 is the best by the score of the reranker; null without one |
| `seed`, `settings` | with bundle, prompt and `sample_index` they decide the image |
| `image` | path of the image in this folder |
| `metadata` | further fields of the prompt file |
| `is_truncated` | whether the text is longer than what the generator reads |
"""
_READING = """\
```python
import json
import pathlib

from PIL import Image

folder = pathlib.Path(".")  # this one
for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
    made = json.loads(line)
    if made["rank"] == 0:  # the best of its prompt
        print(made["prompt"], Image.open(folder / made["image"]).size)
```
"""


def write(
    root: files.Path,
    command: str,  # as `command` returns it
    counts: Mapping[str, int],  # prompts, images, rejected
    settings: Mapping[str, Any],  # as the manifest has them, with fingerprints
) -> None:
    """Writes `root/README.md`."""
    plain = {name: value for name, value in settings.items() if name != "fingerprints"}
    num = f"{counts['images']:,} images of {counts['prompts']:,} prompts"
    what = (
        f"{num}, drawn by a text-to-image model with `parti generate` of Parti {version.VERSION}. "
        "They are made by a model: they show what it has learnt, not what there is."
    )
    sections = {
        "Make it again": f"```\n{command}\n```",
        "Counts": _table("of", counts),
        "Settings": _table("setting", plain),
        "Bundle": _table("part", settings["fingerprints"], "fingerprint"),
        "Files": _FILES.rstrip(),
        "Read it": _READING.rstrip(),
    }
    parts = [_front_matter(num, counts["images"]), f"# {num}", what]
    parts += [f"## {heading}\n{text}" for heading, text in sections.items()]
    files.write_bytes(files.join(root, FILE_NAME), ("\n\n".join(parts) + "\n").encode())


def command(parser: argparse.ArgumentParser, flags: argparse.Namespace) -> str:
    """Returns the command that makes the folder, quoted for a shell; defaults are left out."""
    words = [*(parser.prog).split()]
    for name, value in vars(flags).items():
        if name in _OF_THE_MACHINE or value == parser.get_default(name):
            continue
        words.append(f"--{name}" if value is True else f"--{name}={value}")
    return " ".join(map(_quoted, [*words, f"--output={_AGAIN}"]))


def _quoted(word: str) -> str:
    """Returns a word for a shell; a path that is not UTF-8 as the bytes that bash and zsh take."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return "$'" + "".join(f"\\x{byte:02x}" for byte in os.fsencode(word)) + "'"
    return shlex.quote(word)


def _front_matter(name: str, num_images: int) -> str:
    size = next((text for most, text in _SIZES.items() if num_images < most), _LARGEST)
    lines = (
        *("---", f"pretty_name: {name}", "task_categories:", "- text-to-image", "tags:"),
        *("- synthetic", "- parti", "size_categories:", f"- {size}", "configs:"),
        *("- config_name: default", "  data_files: manifest.jsonl", "---"),
    )
    return "\n".join(lines)


def _table(first: str, values: Mapping[str, Any], second: str = "") -> str:
    rows = (f"| {name} | `{_shown(value)}` |" for name, value in values.items())
    return "\n".join([f"| {first} | {second} |", "|---|---|", *rows])


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.replace("|", "\\|")

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti prompts`: some prompts of a file, or captions that no training saw, as a prompt file."""

import argparse
import collections
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

from parti.data.storage import records, shard_names, tfrecords
from parti.data.text import prompt_files
from parti.stages import files, flag_parser, json_text, manifests, publishing

FILE_NAME = "prompts.jsonl"


def choose(prompts: Iterable[prompt_files.Prompt], num: int) -> list[prompt_files.Prompt]:
    """Returns `num` prompts (0: all) that differ, as evenly over the challenges as can be.

    They differ in text or settings, and the choice depends on these alone, not on their order; the
    result is in their order.
    """
    different: dict[tuple[str, str], prompt_files.Prompt] = {}
    for prompt in prompts:
        different.setdefault(prompt.drawing, prompt)
    groups: dict[str, list[prompt_files.Prompt]] = collections.defaultdict(list)
    for prompt in sorted(different.values(), key=lambda p: (_hash(p.text), p.drawing)):
        groups[prompt.challenge].append(prompt)
    turns = [(turn, name) for name, group in groups.items() for turn in range(len(group))]
    chosen = {groups[name][turn].drawing for turn, name in sorted(turns)[: num or None]}
    return [prompt for drawing, prompt in different.items() if drawing in chosen]


def captions(pairs_dir: files.Path, split: str) -> Iterator[prompt_files.Prompt]:
    """Yields the captions of one split of cleaned pairs as prompts, mended as of prompt files."""
    shards = shard_names.list_shards(pairs_dir, split)
    for example in itertools.chain.from_iterable(map(tfrecords.read, shards)):
        pair = records.ImageTextPair.from_example(example)
        if pair.text.strip():
            name = re.sub(r"[^A-Za-z0-9_.-]+", "-", pair.key).strip("-.")[:80]
            scene = {name: value for name, value in pair.metadata.items() if name == "scene"}
            challenge = str(pair.metadata.get("challenge", ""))
            unique = f"{name}-{_hash(pair.key)[:8]}".strip("-")
            try:
                values = json_text.mend([pair.text, challenge, {"key": pair.key, **scene}])
            except ValueError as error:
                raise ValueError(f"{pairs_dir}: the scene of {pair.key!r}: {error}") from error
            text, challenge, metadata = values
            yield prompt_files.Prompt(unique, text, "", challenge, metadata)


def run(argv: Sequence[str]) -> int:
    """Runs `parti prompts`."""
    flags = make_parser().parse_args(list(argv))
    check_flags(flags)
    source = flags.input
    publishing.check_places([source], [flags.output])
    settings, inputs = {"num": flags.num, "split": ""}, {"input": source}
    notes: list[str] = []
    if files.is_dir(source):
        settings["split"] = flags.split
        inputs["fingerprint"] = manifests.read(source, "pairs")["fingerprint"]
        given = list(captions(source, flags.split))
    elif not files.exists(source):
        raise FileNotFoundError(f"No prompt file {source!r}; check the path.")
    else:
        given = prompt_files.read_prompts(source, notes)
    if equal := prompt_files.count_equal(given):
        notes.append(f"{equal} of {len(given)} prompts left out: equal to an earlier one")
    with publishing.OutputDirectory(
        flags.output, "prompts", settings, inputs, flags.overwrite
    ) as stage:
        for note in notes:
            print(note, flush=True)
        chosen = choose(given, flags.num)
        if not chosen:
            raise ValueError(f"{source}: no captions in the {flags.split} split; try --split=train")
        prompt_files.write_prompts(files.join(stage.address, FILE_NAME), chosen)
        stage.publish(counts={"prompts": len(chosen)})
    print(f"{len(chosen)} prompts in {files.join(flags.output, FILE_NAME)}")
    return 0


def make_parser() -> flag_parser.Parser:
    """Returns the command's flags."""
    parser = flag_parser.Parser(
        "parti prompts",
        "Chooses prompts, evenly over their challenges.",
        "example:\n  parti prompts --input pairs --output prompts --num 64",
    )
    add = parser.add_argument
    add("--input", required=True, help="a prompt file, or the folder that `parti clean` wrote")
    add("--output", required=True, help="the folder to write")
    add("--num", type=int, default=0, help="how many (default: all)")
    add("--split", default="validation", choices=records.SPLITS, help="of a folder of pairs")
    add("--overwrite", action="store_true", help="replace a finished output")
    return parser


def check_flags(flags: argparse.Namespace) -> None:
    """Raises ValueError for a value out of range."""
    if flags.num < 0:
        raise ValueError(f"--num={flags.num}: it must not be negative")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

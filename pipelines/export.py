# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti export`: trained parts and their vocabulary to one bundle (`inference/bundles.py`)."""

import argparse
import functools
from collections.abc import Sequence

from parti.engine.checkpoints import checkpoints
from parti.engine.hardware import accelerators
from parti.engine.inference import bundles, loaded_models
from parti.stages import files, flag_parser, manifests, publishing


def make_parser() -> flag_parser.Parser:
    """Returns the command's flags."""
    parser = flag_parser.Parser(
        "parti export",
        "Gathers trained parts into a bundle, all that `parti generate` needs.",
        "example:\n  parti export --workdir runs/demo --output runs/demo/bundle",
    )
    add = parser.add_argument
    add("--workdir", default="", metavar="DIR", help="where the parts are (default: here)")
    add("--output", required=True, metavar="BUNDLE", help="the folder to write")
    names = list(bundles.PARTS)
    add("--parts", nargs="+", default=names, choices=names, help="default: all there are")
    for part in bundles.PARTS:
        note = "" if part in bundles.REQUIRED else "; left out if there is none"
        help_text = f"its training, or a checkpoint_<N> of it (default: WORKDIR/{part}{note})"
        add(f"--{part}", metavar="DIR", help=help_text)
    add("--vocabulary", metavar="DIR", help="default: WORKDIR/vocabulary")
    add("--overwrite", action="store_true", help="replace a finished bundle")
    return parser


def find_parts(flags: argparse.Namespace) -> dict[str, str]:
    """Returns the training directory of each part that the bundle will have.

    Raises:
      FileNotFoundError: a part that was named, or that a bundle needs, is not there.
      ValueError: a part that a bundle needs is left out of --parts.
    """
    folders = {}
    if missing := [part for part in bundles.REQUIRED if part not in flags.parts]:
        raise ValueError(f"--parts {' '.join(flags.parts)}: a bundle needs {' and '.join(missing)}")
    for part in flags.parts:
        named = getattr(flags, part)
        folder = named or files.join(flags.workdir, part)
        if files.is_dir(folder):
            folders[part] = folder
        elif named or part in bundles.REQUIRED or files.exists(folder):
            raise FileNotFoundError(
                f"no {part} at {folder}; train it first, or say where it is with --{part} DIR"
            )
    return folders


def run(argv: Sequence[str]) -> int:
    """Runs `parti export`."""
    flags = make_parser().parse_args(list(argv))
    vocabulary = flags.vocabulary or files.join(flags.workdir, "vocabulary")
    named = filter(None, (getattr(flags, part) for part in bundles.PARTS))
    publishing.check_places([flags.workdir, vocabulary, *named], [flags.output])
    accelerators.check_platforms(in_this_process=True)
    if not (files.exists(vocabulary) or files.is_dir(vocabulary)):
        raise FileNotFoundError(
            f"no vocabulary at {vocabulary}; run `parti vocab`, or name it with --vocabulary"
        )
    folders = find_parts(flags)

    @functools.cache
    def load(part: str) -> loaded_models.LoadedModel:
        return loaded_models.LoadedModel.from_train_dir(folders[part], name=folders[part])

    def fingerprint(part: str) -> str | None:
        """Returns what a training's manifest says; a checkpoint has none."""
        if files.is_dir(files.join(folders[part], checkpoints.STATE_ITEM)):
            return load(part).fingerprint
        return manifests.read(folders[part], "training").get("fingerprint")

    stage = publishing.OutputDirectory(
        flags.output,
        kind="bundle",
        settings={"trainings": {part: fingerprint(part) for part in folders}},
        inputs={**folders, "vocabulary": vocabulary},
        overwrite=flags.overwrite,
    )
    parts = {part: load(part) for part in folders}
    with stage:
        content = bundles.write_bundle(stage.address, parts, vocabulary)
        counts = {part: row["num_params"] for part, row in content["parts"].items()}
        stage.publish(counts)
    print(f"bundle {stage.output}:")
    for part in bundles.PARTS:
        if part in parts:
            note = parts[part].fingerprint[:12]
            print(f"  {part:<10} {counts[part]:>14,} parameters  {note}")
        else:
            print(f"  {part:<10} {'none':>14}")
    if not parts["generator"].trained_on.get("tokenizer_fingerprint"):
        print(
            "note: the generator's training does not say which tokenizer made its tokens; "
            "that they are of this one could not be checked"
        )
    return 0

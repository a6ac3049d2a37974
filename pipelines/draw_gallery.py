# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti gallery`: the page of a finished folder of generations again, or of two side by side."""

from collections.abc import Sequence

from parti.pipelines import generate
from parti.pipelines.html import gallery
from parti.stages import files, flag_parser, manifests, publishing

COMPARISON = "comparison.html"


def make_parser() -> flag_parser.Parser:
    """Returns the command's flags."""
    parser = flag_parser.Parser(
        "parti gallery",
        "Writes the page of generations again, as this version draws it, or compares two runs.",
        "examples:\n  parti gallery images\n  parti gallery images --compare other",
    )
    add = parser.add_argument
    add("generations", metavar="FOLDER", help="a finished folder of `parti generate`")
    add("--compare", metavar="FOLDER", help="another one, shown beside it prompt by prompt")
    help_text = f"(default: {gallery.FILE_NAME} in the first folder, or {COMPARISON})"
    add("--output", metavar="PAGE", help=f"the .html file to write {help_text}")
    return parser


def run(argv: Sequence[str]) -> int:
    """Runs `parti gallery`."""
    flags = make_parser().parse_args(list(argv))
    name = COMPARISON if flags.compare else gallery.FILE_NAME
    page = flags.output or files.join(flags.generations, name)
    if not page.endswith(".html"):
        raise ValueError(f"--output={page}: give a name that ends in .html")
    places = [flags.generations, flags.compare] if flags.compare else [flags.generations]
    publishing.check_places(places, [files.parent(page)])
    first, *others = (_read(place) for place in places)
    files.make_dirs(files.parent(page))
    path = gallery.write_gallery(
        first.root,
        first.generations,
        inputs=first.inputs,
        path=page,
        compare=others[0] if others else None,
    )
    print(f"open {path}")
    return 0


def _read(folder: str) -> gallery.Run:
    inputs = manifests.read(folder, "generations").get("inputs", {})
    return gallery.Run(folder, generate.read_generations(folder), inputs)

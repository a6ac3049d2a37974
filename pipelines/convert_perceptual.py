# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti perceptual`: published VGG16 and LPIPS weights to the file that the perceptual loss reads.

It downloads nothing: the user names local files, whose sha256 is printed and can be demanded.
"""

import argparse
from collections.abc import Sequence

from parti.models.perceptual import weights
from parti.stages import files, flag_parser

SHA256_LENGTH = 64


def make_parser() -> flag_parser.Parser:
    """Returns the command's flags."""
    parser = flag_parser.Parser(
        "parti perceptual",
        "Converts published VGG16 weights, and LPIPS heads, for the perceptual loss.\n"
        "docs/perceptual.md says which files are meant.",
        "example:\n  parti perceptual --input vgg16.safetensors lpips_vgg.safetensors "
        "--output perceptual.safetensors\n\n"
        f"PyTorch's .pth become .safetensors with\n  {weights.PYTORCH_COMMAND}",
    )
    add = parser.add_argument
    help_text = f"VGG16, and the heads if in a file of their own ({' '.join(weights.SUFFIXES)})"
    add("--input", nargs="+", required=True, metavar="FILE", help=help_text)
    help_text = "what each input must have, in the order of --input"
    add("--sha256", nargs="+", metavar="HEX", default=[], help=help_text)
    add("--output", required=True, metavar="FILE", help="a .safetensors or .npz file to write")
    add("--overwrite", action="store_true", help="replace the output")
    return parser


def check_flags(flags: argparse.Namespace) -> None:
    """Raises ValueError for bad hashes or suffixes, FileExistsError if the output is there."""
    if flags.sha256 and len(flags.sha256) != len(flags.input):
        raise ValueError(
            f"--sha256 has {len(flags.sha256)} values for {len(flags.input)} inputs; give one each"
        )
    for digest in flags.sha256:
        if len(digest) != SHA256_LENGTH or set(digest.lower()) - set("0123456789abcdef"):
            raise ValueError(f"--sha256 {digest}: give all {SHA256_LENGTH} hexadecimal digits")
    weights.check_suffix(flags.output)
    if files.exists(flags.output) and not flags.overwrite:
        raise FileExistsError(f"{flags.output} is there already; --overwrite replaces it")


def run(argv: Sequence[str]) -> int:
    """Runs `parti perceptual`."""
    flags = make_parser().parse_args(list(argv))
    check_flags(flags)
    digests = flags.sha256 or [""] * len(flags.input)
    published = [weights.read_published(*pair) for pair in zip(flags.input, digests)]
    for file in published:
        print(f"read {file.path}: {len(file.tensors)} arrays, sha256 {file.sha256}")
    layers = weights.convert(published)
    digest = weights.write(flags.output, layers)
    kind = "VGG16 with LPIPS heads" if "head1" in layers else "VGG16 without heads"
    print(f"wrote {flags.output}: {kind}, sha256 {digest}")
    return 0

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Parti: text to image tokens to image, as a workflow of Beam, seqio and JAX.

The folders of the repository are the subpackages, in the order in which they may import:

    stages < data < tasks < models < engine < pipelines < workflow < parti (this folder)

`setup.py` maps them when the package is built. In a plain clone nothing is mapped, so the lines
below let Python look for subpackages beside this folder too.
"""

import os
import pathlib
import typing

if typing.TYPE_CHECKING:
    from parti.engine.inference import layouts, text_to_image

_folder = pathlib.Path(__file__).resolve().parent
if not (_folder / "models").exists() and (_folder.parent / "models" / "__init__.py").exists():
    __path__.append(str(_folder.parent))

from parti.stages.version import VERSION as __version__  # noqa: E402, F401


def load(
    bundle: "str | os.PathLike[str]", layout: "layouts.Layout | None" = None
) -> "text_to_image.TextToImage":
    """Loads a bundle to draw with (`parti.engine.inference.text_to_image`).

    `parti.load("bundle").generate("a red circle")[0].best` is a picture. The bundle is a folder, or
    an address such as gs://. With a layout it lies on several devices.

    Raises:
      FileNotFoundError: there is no bundle, or one of its files is gone.
      ValueError: its files are not those that were exported.
    """
    from parti.engine.inference import text_to_image

    return text_to_image.TextToImage.load(bundle, layout)

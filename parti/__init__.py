# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Parti: text to image tokens to image, as a workflow of Beam, seqio and JAX.

The folders of the repository are the subpackages, in the order in which they may import:

    stages < data < tasks < models < engine < pipelines < workflow < parti (this folder)

`setup.py` maps them when the package is built. In a plain clone nothing is mapped, so the lines
below let Python look for subpackages beside this folder too.
"""

import pathlib

_folder = pathlib.Path(__file__).resolve().parent
if not (_folder / "models").exists() and (_folder.parent / "models" / "__init__.py").exists():
    __path__.append(str(_folder.parent))

from parti.stages.version import VERSION as __version__  # noqa: E402, F401

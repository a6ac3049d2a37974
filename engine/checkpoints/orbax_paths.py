# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Addresses for Orbax, which reads and writes local folders and `gs://` by paths of its own.

On an object store a checkpoint has its final name from the start, and is whole once it holds
`commit_success.txt`; on a disk it gets its final name by a rename.
"""

import functools
import importlib.util
import os
import pathlib
from typing import Any

from etils import epath

from parti.stages import files

COMMITTED = "commit_success.txt"  # the last file of a checkpoint
SCHEME = "gs://"


def of(address: files.Path) -> Any:
    """Returns Orbax's path of an address; ValueError: nothing is installed that reads it."""
    if not files.is_remote(address):
        return pathlib.Path(address)  # In which no character is a wildcard.
    _use_fsspec()
    return epath.Path(address)


@functools.cache
def _use_fsspec() -> None:
    """Makes Orbax's paths go through gcsfs, which keeps no listings here: others write, too."""
    if importlib.util.find_spec("gcsfs") is None:
        raise ValueError(
            f"checkpoints on {SCHEME} need gcsfs, which is not installed: pip install -c "
            "constraints.txt '.[gcp]' in Parti's folder"
        )
    import fsspec.config
    from etils.epath import gpath

    # Where TensorFlow is installed, etils would take its file system, if it is not told otherwise.
    os.environ["EPATH_USE_TF"] = "false"
    gpath._is_tf_installed.cache_clear()
    fsspec.config.conf.setdefault("gs", {})["use_listings_cache"] = False

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The container file keeps up with the tree and the pins (images are not built in the tests)."""

import re

import packages

TEXT = (packages.ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_beam_of_the_image_is_the_pinned_one():
    pins = (packages.ROOT / "constraints.txt").read_text(encoding="utf-8")
    (pinned,) = re.findall(r"^apache-beam==(.+)$", pins, re.MULTILINE)
    ((python, version),) = re.findall(r"^FROM apache/beam_python(.+)_sdk:(.+)$", TEXT, re.MULTILINE)
    assert version == pinned
    assert f'python_requires=">={python},' in (packages.ROOT / "setup.py").read_text()


def test_everything_that_is_packaged_is_copied():
    copied = {
        name for line in re.findall(r"^COPY (.+)$", TEXT, re.MULTILINE) for name in line.split()
    }
    assert copied >= {*packages.FOLDERS, *packages.FILES, "constraints.txt"}

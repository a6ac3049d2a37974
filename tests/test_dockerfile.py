# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The container file and the pins keep up with the tree (images are not built in the tests)."""

import re
import runpy
import subprocess
from typing import Any

import packages
import pytest
import setuptools
from packaging import markers, requirements, utils

TEXT = (packages.ROOT / "Dockerfile").read_text(encoding="utf-8")
PINS = [
    requirements.Requirement(line)
    for line in (packages.ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]


@pytest.fixture(scope="module")
def setup() -> dict[str, Any]:
    """The arguments of `setuptools.setup`."""
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **arguments: found.update(arguments))
        runpy.run_path(str(packages.ROOT / "setup.py"))
    return found


def pinned(name: str, python: str) -> str | None:
    """Returns the version that a package has with a Python, if there is one."""
    environment: Any = markers.default_environment() | {"python_version": python}
    found = [
        str(pin.specifier).removeprefix("==")
        for pin in PINS
        if utils.canonicalize_name(pin.name) == utils.canonicalize_name(name)
        and (pin.marker is None or pin.marker.evaluate(environment))
    ]
    assert len(found) < 2, f"{name} has {len(found)} pins"
    return found[0] if found else None


@pytest.mark.parametrize("python", ["3.11", "3.13"])
def test_all_that_is_asked_for_has_one_pin_that_will_do(setup: dict[str, Any], python: str) -> None:
    names = {utils.canonicalize_name(pin.name) for pin in PINS}
    assert all(pinned(name, python) for name in names)
    asked = [*setup["install_requires"], *sum(setup["extras_require"].values(), [])]
    for asking in map(requirements.Requirement, asked):
        version = pinned(asking.name, python)
        assert version and asking.specifier.contains(version), asking


def test_beam_of_the_image_is_the_pinned_one(setup: dict[str, Any]) -> None:
    ((python, version),) = re.findall(r"^FROM apache/beam_python(.+)_sdk:(.+)$", TEXT, re.MULTILINE)
    assert version == pinned("apache-beam", python)
    assert setup["python_requires"].startswith(f">={python},")


def test_everything_that_is_packaged_is_copied() -> None:
    copied = {
        name for line in re.findall(r"^COPY (.+)$", TEXT, re.MULTILINE) for name in line.split()
    }
    assert copied >= {*packages.FOLDERS, *packages.FILES, "constraints.txt"}


@pytest.mark.parametrize(
    ("accelerator", "wanted"),
    [("", {"gcp", "aws"}), ("cuda", {"gcp", "aws", "cuda"}), ("tpu", {"gcp", "aws", "tpu"})],
)
def test_the_image_installs_extras_with_the_pins(
    setup: dict[str, Any], accelerator: str, wanted: set[str]
) -> None:
    """By the shell's own words, as `docker build --build-arg ACCELERATOR=...` gives them."""
    assert re.search(r"^ARG ACCELERATOR=$", TEXT, re.MULTILINE)
    (command,) = re.findall(r"^RUN (pip install .+?) \\$", TEXT, re.MULTILINE)
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {command}"],
        env={"ACCELERATOR": accelerator},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    assert words[words.index("-c") + 1] == "constraints.txt"
    (extras,) = (word for word in words if word.startswith("."))
    assert set(extras[2:-1].split(",")) == wanted <= setup["extras_require"].keys()

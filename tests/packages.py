# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Builds the package from a copy of the tree, so that nothing is left in it."""

import ast
import contextlib
import importlib.metadata
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
# As setup.py lists them, which cannot be imported.
(_LISTED,) = re.findall(r"^FOLDERS = (\(.+?\))$", (ROOT / "setup.py").read_text(), re.M | re.S)
FOLDERS = ("parti", *ast.literal_eval(_LISTED))
FILES = ("setup.py", "pyproject.toml", "README.md", "LICENSE")


def copy_tree(source: pathlib.Path) -> pathlib.Path:
    """Copies what the package is built from into a folder, and returns it."""
    for name in FOLDERS:
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for name in FILES:
        shutil.copy2(ROOT / name, source / name)
    return source


def build_wheel(source: pathlib.Path, output: pathlib.Path) -> pathlib.Path:
    """Builds a wheel from a folder or an sdist; returns its path."""
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(output), str(source)]
    # `make venv` installs a setuptools that is new enough; without it pip fetches one.
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        if int(importlib.metadata.version("setuptools").split(".")[0]) >= 77:
            pip.append("--no-build-isolation")
    subprocess.run(pip, check=True, cwd=output)
    (built,) = output.glob("*.whl")
    return built


def install(wheel: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Makes an environment with this package from a wheel; returns its Python.

    Its dependencies are those of the environment that runs the tests.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    find = "import sysconfig; print(sysconfig.get_path('purelib'))"
    ran = subprocess.run([python, "-c", find], check=True, capture_output=True, text=True)
    packages = pathlib.Path(ran.stdout.strip())
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # A path file that is only reached by another is not read: no link to the checkout comes along.
    shared = [path for path in sys.path if pathlib.Path(path).name == "site-packages"]
    (packages / "shared.pth").write_text("\n".join(shared) + "\n")
    return python

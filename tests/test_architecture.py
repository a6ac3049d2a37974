# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders are an order: a file imports only its own folder and the folders to its left."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
ORDER = ("data", "tasks", "models", "engine", "pipelines", "parti")
# What a family of models may import of `models/` besides itself: what all share, and a few others.
SHARED_MODELS = {"base", "layers", "losses"}
CRITICS = {"adversarial", "perceptual"}
FAMILIES_USED = {"image_tokenizer": CRITICS, "super_resolution": CRITICS}
FAMILIES = sorted({p.parent for p in (ROOT / "models").glob("*/*.py")} - {ROOT / "models/layers"})
SOURCES = [path for folder in ORDER for path in sorted((ROOT / folder).rglob("*.py"))]


def imported_names(path: pathlib.Path) -> set[str]:
    """Returns the dotted names that a file imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write `from parti. ...`"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_folders(path: pathlib.Path) -> set[str]:
    """Returns the folders that a file imports from."""
    names = imported_names(path)
    assert not {n.split(".")[0] for n in names} & set(ORDER[:-1]), f"{path}: import parti.<folder>"
    # `parti` itself holds only the version; every folder may read it.
    parts = [n.split(".") for n in names - {"parti.__version__"} if n.split(".")[0] == "parti"]
    return {p[1] if len(p) > 1 and p[1] in ORDER else "parti" for p in parts}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_to_the_left(path: pathlib.Path) -> None:
    folder = path.relative_to(ROOT).parts[0]
    allowed = set(ORDER[: ORDER.index(folder) + 1])
    assert imported_folders(path) <= allowed


@pytest.mark.parametrize("family", FAMILIES, ids=lambda path: path.name)
def test_families_of_models_do_not_import_each_other(family: pathlib.Path) -> None:
    allowed = SHARED_MODELS | FAMILIES_USED.get(family.name, set()) | {family.name}
    for path in family.rglob("*.py"):
        names = [name.split(".") for name in imported_names(path)]
        used = {name[2] for name in names if name[:2] == ["parti", "models"]}
        assert used <= allowed, f"{path} imports models/{used - allowed}"

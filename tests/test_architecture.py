# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Folders are an order, and so are the rooms in each: a file imports only what stands before it.

    python tests/test_architecture.py

prints the arrows between rooms, as `docs/architecture.md` has them.
"""

import ast
import collections
import graphlib
import pathlib
from collections.abc import Iterable, Iterator, Mapping

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = ("stages", "data", "tasks", "models", "engine", "pipelines", "workflow", "parti")
# The rooms of a folder, in their order; a file of the folder itself that is not among them stands
# after all of them.
ROOMS = {
    "data": ("storage", "text", "images", "decontamination", "scenes"),
    "models": (
        *("layers", "losses", "base", "adversarial", "perceptual"),
        *("image_tokenizer", "super_resolution", "coca", "text_encoder", "text_to_image"),
    ),
    "engine": (
        *("distributed", "input", "hardware", "monitoring", "checkpoints", "config"),
        *("inference", "experiment", "step", "pod_estimates", "loop"),
    ),
    "pipelines": (
        *("beam", "deduplicate", "rules", "readers", "html", "clean", "tokens"),
        *("evaluation", "vocabulary"),
    ),
    "pipelines/readers": ("base", "archives", "http", "tables"),
}
# What a family of models may import of `models/` besides itself: what all share, and a few others.
SHARED_MODELS = {"base", "layers", "losses"}
CRITICS = {"adversarial", "perceptual"}
FAMILIES_USED = {"image_tokenizer": CRITICS, "super_resolution": CRITICS}
# A folder of more files than this is a hall, not a room.
MOST_FILES = 15


def module(path: pathlib.Path) -> str:
    """Returns the dotted name of a file, without `parti.`; a package's is its folder's."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts[1:] if parts[0] == "parti" and len(parts) > 1 else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {module(path): path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))}


def imported_names(path: pathlib.Path) -> Iterator[str]:
    """Gives the dotted names that a file imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write `from parti. ...`"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(path: pathlib.Path) -> set[str]:
    """Returns the modules of Parti that a file imports.

    `parti` alone, whose own code only finds the folders, is free to all.
    """
    names = set(imported_names(path))
    assert not {n.split(".")[0] for n in names} & set(FOLDERS[:-1]), (
        f"{path}: import parti.<folder>"
    )
    found = set()
    for name in names:
        first, *parts = name.split(".")
        if first != "parti" or not parts:
            continue
        while parts and ".".join(parts) not in PATHS:
            parts.pop()  # A function or class of a module.
        found |= {".".join(parts)} - {""}
    return found


IMPORTS = {name: imported_modules(path) for name, path in PATHS.items()}


def folder_of(name: str) -> str:
    """Returns the top folder of a module."""
    first = name.split(".")[0]
    return first if first in FOLDERS else "parti"


def room_of(name: str, folder: str) -> str:
    """Returns the room of a folder that a module is in; '' for those that stand after all rooms."""
    below = PATHS[name].relative_to(ROOT / folder).with_suffix("").parts[0]
    return below if below in ROOMS[folder] else ""


def arrows(folder: str) -> dict[str, set[str]]:
    """Returns {room: the rooms that it imports} of a folder."""
    members = [name for name, path in PATHS.items() if path.is_relative_to(ROOT / folder)]
    found: dict[str, set[str]] = collections.defaultdict(set)
    for name in members:
        room = room_of(name, folder)
        found[room] |= {room_of(other, folder) for other in IMPORTS[name] & set(members)} - {room}
    return dict(found)


def format_arrows(folder: str) -> str:
    """Returns the arrows of a folder as lines, in the order of its rooms."""
    found = arrows(folder)
    rooms = [*ROOMS[folder], ""]

    def names(some: Iterable[str]) -> str:
        return ", ".join(room or "commands" for room in rooms if room in some) or "-"

    return "\n".join(f"{names([room])} -> {names(found.get(room, ()))}" for room in rooms)


@pytest.mark.parametrize("name", PATHS)
def test_imports_only_folders_to_the_left(name: str) -> None:
    allowed = FOLDERS[: FOLDERS.index(folder_of(name)) + 1]
    assert {folder_of(other) for other in IMPORTS[name]} <= set(allowed)


@pytest.mark.parametrize("folder", ROOMS)
def test_rooms_import_only_rooms_before_them(folder: str) -> None:
    order = [*ROOMS[folder], ""]
    for room, others in arrows(folder).items():
        later = {other for other in others if order.index(other) > order.index(room)}
        assert not later, f"{folder}/{room} imports {later}, which stands after it"


def test_no_files_import_each_other_in_a_circle() -> None:
    graph: Mapping[str, set[str]] = {
        # A package's face hands on what is in it, and is no file of its own.
        name: {other for other in others if not is_face(other)}
        for name, others in IMPORTS.items()
        if not is_face(name)
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the files


def is_face(name: str) -> bool:
    """Returns whether a module is a package's `__init__.py`."""
    return PATHS[name].name == "__init__.py"


def test_every_folder_is_a_room() -> None:
    for folder in {path.parent for path in PATHS.values()}:
        files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= MOST_FILES, f"{folder} has {len(files)} files: a hall, not a room"
    for folder, rooms in ROOMS.items():
        inside = {
            path.name for path in (ROOT / folder).iterdir() if (path / "__init__.py").exists()
        }
        assert inside <= set(rooms), f"{folder}: {inside - set(rooms)} has no place in the order"


def test_every_room_says_what_is_in_it() -> None:
    for name in filter(is_face, PATHS):
        text = ast.get_docstring(ast.parse(PATHS[name].read_text(encoding="utf-8")))
        assert text, f"{PATHS[name]} has no docstring"


def test_the_page_has_the_arrows_of_the_code() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for folder in ROOMS:
        assert format_arrows(folder) in page, f"docs/architecture.md: {folder} is now\n" + (
            format_arrows(folder)
        )


@pytest.mark.parametrize(
    "family", [name for name in ROOMS["models"] if name not in SHARED_MODELS | {"layers"}]
)
def test_families_of_models_do_not_import_each_other(family: str) -> None:
    allowed = SHARED_MODELS | FAMILIES_USED.get(family, set()) | {family}
    assert arrows("models")[family] <= allowed


if __name__ == "__main__":
    for one in ROOMS:
        print(f"{one}/\n{format_arrows(one)}\n")

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti clean --extend OLD`: new input is added to pairs that an earlier run has cleaned.

The old pairs are taken as they are, hashes and all, and win over new copies. Of the input only
files that the old run did not read are read, and with `--retry_rejected REASON` the rows that it
rejected for that reason.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from parti.data import files
from parti.engine import manifests
from parti.pipelines import clean_settings, examining, merging, readers

SOURCES = "sources"  # in a manifest's inputs: [[path, bytes], ...] that were read
# Settings that two runs need not have in common.
_FREE = ("num_shards", "preset")


def source_files(
    sources: Sequence[readers.Source], extension: "Extension | None"
) -> list[tuple[str, int]]:
    """Returns (path, bytes) of every file that was read by now, for a manifest."""
    found = dict(extension.sources) if extension else {}
    paths = {path for source in sources for path in source.paths}
    found |= {path: files.size(path) for path in paths - set(found)}
    return sorted(found.items())


class Extension:
    """A finished run, and what of it goes into a new one.

    Attributes:
      directory: its output.
      manifest: of that.
      sources: path -> bytes of the files that it read.
    """

    def __init__(self, directory: files.Path, retry: Sequence[str]) -> None:
        """Reads the manifest.

        Args:
          directory: the old output of `parti clean`.
          retry: reasons; rows rejected for one of them are read again.

        Raises:
          FileNotFoundError, ValueError: it is no finished output, or of code without hashes.
        """
        self.directory, self._retry = directory, frozenset(retry)
        self.manifest = manifests.read(directory, "pairs")
        if SOURCES not in self.manifest["inputs"]:
            raise ValueError(f"{directory}: does not say what it read; clean it again first")
        self.sources = {path: size for path, size in self.manifest["inputs"][SOURCES]}

    def check_settings(self, settings: clean_settings.CleanSettings) -> None:
        """Checks that the new run applies the old rules.

        Raises:
          ValueError: a setting differs.
        """
        old, new = dict(self.manifest["settings"]), settings.to_dict()
        for name in sorted({*old, *new} - {*_FREE, SOURCES}):
            if old.get(name) != new.get(name):
                raise ValueError(
                    f"--extend={self.directory}: it was cleaned with {name}={old.get(name)}, now "
                    f"it is {new.get(name)}; give the same settings, or clean all input again"
                )

    def known(self) -> list[examining.Source]:
        """Returns the old pairs as sources."""
        found = []
        for split, index, path in self._shards():
            hashes = files.join(self.directory, f"{merging.HASHES}-{files.name(path)[:-9]}.jsonl")
            source = readers.Source("tfrecord", (path,), num_bytes=files.size(path))
            found.append(examining.Source(f"known-{split}-{index:05d}", source, hashes=hashes))
        return found

    def _shards(self) -> Iterator[tuple[str, int, str]]:
        for entry in files.list_folder(self.directory):
            name = files.name(entry.path)
            if name.endswith(".tfrecord"):
                split, index, *_ = name.split("-")
                yield split, int(index), entry.path

    def wanted(self, sources: Sequence[readers.Source]) -> list[examining.Source]:
        """Returns what of the input is to be read: new files, and old ones with rows to retry.

        Raises:
          ValueError: a file that was read has another size now.
        """
        retried = self._rejected_keys()
        found = []
        for index, source in enumerate(sources):
            name = f"{index:06d}"
            known = [path for path in source.paths if path in self.sources]
            if not known:
                found.append(examining.Source(name, source))
                continue
            for path in known:
                if files.size(path) != self.sources[path]:
                    raise ValueError(
                        f"{path}: has changed since --extend={self.directory} read it; give it "
                        "another name, or clean all input again"
                    )
            keys = frozenset().union(*(retried.get(files.name(p), frozenset()) for p in known))
            if keys:
                found.append(examining.Source(name, source, only=keys))
        return found

    def old_rejected(self) -> list[tuple[str, frozenset[str]]]:
        """Returns the files of rejected rows to take over, and the reasons to leave out."""
        return [(path, self._retry) for path in self._rejected_files()]

    def _rejected_files(self) -> list[str]:
        entries = files.list_folder(self.directory)
        return [e.path for e in entries if files.name(e.path).startswith("rejected-")]

    def _rejected_rows(self) -> Iterator[Mapping[str, Any]]:
        for path in self._rejected_files():
            with files.open(path) as lines:
                yield from map(json.loads, lines)

    def _rejected_keys(self) -> dict[str, frozenset[str]]:
        """Returns source file -> keys of the rows to read again."""
        keys: dict[str, set[str]] = {}
        if self._retry:
            for row in self._rejected_rows():
                if row["reason"] in self._retry:
                    keys.setdefault(row["source"], set()).add(row["key"])
        return {source: frozenset(found) for source, found in keys.items()}

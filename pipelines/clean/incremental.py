# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti clean --extend OLD`: new input is added to pairs that an earlier run has cleaned.

The old pairs are taken as they are, hashes and all, and win over new copies. Of the input only
files that the old run did not read are read, and with `--retry_rejected REASON` the rows that it
rejected for that reason. A file is known by its absolute path, a row by its index in its file.
"""

import bisect
import collections
import concurrent.futures
import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from parti.data.storage import records
from parti.pipelines import readers
from parti.pipelines.clean import filter_sources, intermediate, merge_shards, report_schema
from parti.pipelines.clean import reasons as clean_reasons
from parti.pipelines.clean import settings as clean_settings
from parti.pipelines.readers.base.source_files import FOLDER, TFRECORD
from parti.pipelines.rules import rule, table
from parti.stages import files, manifests

SOURCES = "sources"  # in a manifest's inputs: [[path, bytes], ...] that were read
ROOT = "root"  # there too: what all their paths begin with; left out of rejected rows
WORD_FILES = "word_files"  # there too: {setting: sha256} of the files that rules read
# Settings that two runs need not have in common.
_FREE = ("num_shards", "preset")
_REQUESTS = 32  # at a time, to a remote file system

# Absolute path of a file -> (index, key) of the rows of it that are to be read again, sorted.
_Retried = dict[str, list[tuple[int, str]]]


def read_statuses(sources: Sequence[readers.Source]) -> dict[str, files.Status]:
    """Returns size and time of every file that will be read, by its absolute path."""
    paths = sorted({files.absolute(path) for source in sources for path in source.paths})
    with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
        return dict(zip(paths, pool.map(files.status, paths), strict=True))


def source_files(
    found: Mapping[str, files.Status], extension: "Extension | None"
) -> list[tuple[str, int]]:
    """Returns (absolute path, bytes) of every file that was read by now, for a manifest."""
    sizes = {path: status.num_bytes for path, status in found.items()}
    return sorted((sizes | (extension.sources if extension else {})).items())


def input_root(sources: Sequence[tuple[str, int]]) -> str:
    """Returns the folder that all of these files are in, with a slash; "" if there is none."""
    common = os.path.commonprefix([path.split("/")[:-1] for path, _ in sources])
    return "/".join([*common, ""])


class OldRejected(NamedTuple):
    """A file of rejected rows of an earlier run."""

    path: str
    without: frozenset[str]  # reasons whose rows are left out
    root: str  # what the addresses of its rows begin with, and was left out


class Extension:
    """A finished run, and what of it goes into a new one."""

    def __init__(self, directory: files.Path, retry: Sequence[str]) -> None:
        """Reads an old output's manifest; rows rejected for a reason of `retry` are read again.

        Raises:
          FileNotFoundError, ValueError: no finished output, or no reason to read rows again.
        """
        rule.check_names("--retry_rejected", retry, clean_reasons.REASONS)
        for reason in retry:
            if clean_reasons.find(reason).stage == clean_reasons.COPIES:
                raise ValueError(
                    f"--retry_rejected={reason}: it would be dropped again, for the same pairs; "
                    "name only reasons that a row has by itself"
                )
        self.directory, self._retry = directory, frozenset(retry)
        self._wanted: dict[str, intermediate.Wanted] = {}  # name of a source -> rows to read again
        self.manifest = manifests.read(directory, "pairs")
        if SOURCES not in self.manifest["inputs"]:
            raise ValueError(f"{directory}: does not say what it read; clean it again first")
        # Absolute path -> bytes of the files that it read.
        self.sources = {files.absolute(p): n for p, n in self.manifest["inputs"][SOURCES]}
        self._root: str = self.manifest["inputs"].get(ROOT, "")

    def check_settings(self, settings: clean_settings.CleanSettings) -> None:
        """Raises ValueError if a rule or the form of the output differs from the old run's."""
        old, new = dict(self.manifest["settings"]), settings.to_dict()
        before, now = self.manifest["inputs"].get(WORD_FILES, {}), settings.rules.hash_files()
        old |= {f"sha256 of {name}": value for name, value in before.items()}
        new |= {f"sha256 of {name}": value for name, value in now.items()}
        # A rule that there was not yet was off.
        off = {name: setting.off for name, setting in table.SETTINGS.items()}
        old = {n: list(v) if isinstance(v, tuple) else v for n, v in off.items()} | old
        for name in sorted({*old, *new} - {*_FREE}):
            if old.get(name) != new.get(name):
                raise ValueError(
                    f"--extend={self.directory}: it was cleaned with {name}={old.get(name)}, now "
                    f"it is {new.get(name)}; give the same settings, or clean all input again"
                )

    def known(self) -> list[filter_sources.Work]:
        """Returns the old pairs as sources."""
        found = []
        for path, num_bytes in files.list_folder(self.directory):
            name, _, suffix = files.name(path).rpartition(".")
            if suffix == "tfrecord":
                split, index, *_ = name.split("-")
                hashes = files.join(self.directory, f"{merge_shards.HASHES}-{name}.jsonl")
                source = readers.Source(TFRECORD, (path,), num_bytes=num_bytes)
                found.append(filter_sources.Work(f"known-{split}-{index}", source, hashes=hashes))
        return found

    def wanted(
        self, sources: Sequence[readers.Source], statuses: Mapping[str, files.Status]
    ) -> list[filter_sources.Work]:
        """Returns what of the input is to be read: new files, and old ones with rows to retry.

        Raises:
          ValueError: a file that was read has another size now, or a row to retry is not there.
        """
        retried = self._retried()
        found = []
        for index, source in enumerate(sources):
            known = [path for path in source.paths if files.absolute(path) in self.sources]
            new = [path for path in source.paths if files.absolute(path) not in self.sources]
            if new:  # a folder may have both
                found.append(filter_sources.Work(f"{index:06d}", _part(source, new)))
            for path in known:
                if statuses[files.absolute(path)].num_bytes != self.sources[files.absolute(path)]:
                    raise ValueError(
                        f"{path}: has changed since --extend={self.directory} read it; give it "
                        "another name, or clean all input again"
                    )
            paths, wanted = _take(retried, source, known)
            if wanted:
                name = f"{index:06d}-again"
                found.append(filter_sources.Work(name, _part(source, paths), in_part=True))
                self._wanted[name] = wanted
        if missing := sorted(address for address, rows in retried.items() if rows):
            (index, key), *_ = retried[missing[0]]
            raise ValueError(
                f"--retry_rejected: --input lacks row {index}, {key}, of {missing[0]}; name every "
                f"file with such rows too ({len(missing)} are missing)"
            )
        return found

    def write_wanted(self, directory: files.Path) -> None:
        """Writes for the workers which rows they read of the sources that are read in part."""
        write = functools.partial(intermediate.write_wanted, directory)
        with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
            list(pool.map(write, self._wanted.keys(), self._wanted.values()))

    def facts(self) -> report_schema.Extends:
        """Returns what the report says of the old pairs."""
        counts = self.manifest["counts"]
        kept = sum(counts[split] for split in records.SPLITS)
        return {"directory": files.text(files.absolute(self.directory)), "kept": kept}

    def old_rejected(self) -> list[OldRejected]:
        """Returns the files of rejected rows to take over."""
        return [OldRejected(path, self._retry, self._root) for path in self._rejected_files()]

    def _rejected_files(self) -> list[str]:
        entries = files.list_folder(self.directory)
        return [e.path for e in entries if files.name(e.path).startswith("rejected-")]

    def _retried(self) -> _Retried:
        """Returns the rows to read again; ValueError: where one of them is, is not known."""
        found: dict[str, dict[int, str]] = collections.defaultdict(dict)
        for path in self._rejected_files() if self._retry else ():
            with files.open(path) as lines:
                for row in map(json.loads, lines):
                    if row["reason"] in self._retry:
                        self._check_retried(row)
                        found[self._root + row["address"]][row["row"]] = row["key"]
        return {address: sorted(rows.items()) for address, rows in found.items()}

    def _check_retried(self, row: Mapping[str, Any]) -> None:
        where = f"--retry_rejected={row['reason']}"
        if row["reason"] == "broken_file" and row["key"] == row["source"]:
            raise ValueError(
                f"{where}: {row['source']} as a whole was rejected for it; mend the file and give "
                "it another name, or clean all input again"
            )
        if not row.get("address"):
            raise ValueError(
                f"{where}: {self.directory} is of an earlier version and does not say where its "
                "rejected rows are; clean all input again, or leave it out"
            )


def _part(source: readers.Source, paths: Sequence[str]) -> readers.Source:
    """Returns a source of some of the files of another."""
    num_bytes = source.num_bytes * len(paths) // len(source.paths)
    beside = dict(zip(source.paths, source.beside))
    return dataclasses.replace(
        source,
        paths=tuple(paths),
        num_bytes=num_bytes,
        beside=tuple(beside[path] for path in paths if path in beside),
    )


def _take(
    retried: _Retried, source: readers.Source, paths: Sequence[str]
) -> tuple[list[str], intermediate.Wanted]:
    """Takes rows out of `retried`; returns the files with such rows, and a source's rows."""
    found: list[str] = []
    wanted: intermediate.Wanted = {}
    for path in paths:
        rows = retried.get(files.absolute(path), [])
        first = bisect.bisect_left(rows, (source.start,))
        last = len(rows) if source.stop < 0 else bisect.bisect_left(rows, (source.stop,))
        for row, key in rows[first:last]:
            wanted[len(found) if source.format == FOLDER else row] = key
        if rows[first:last]:
            found.append(path)
        del rows[first:last]
    return found, wanted

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Every job reads and writes remote places: the bytes of a local run, and it goes on after a kill.

`store://` is a stand-in for an object store, `tree://` one for HDFS (tests/fake_remote.py).
"""

import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import fake_remote
import pytest

from parti.pipelines import tokenize_images
from parti.pipelines.beam import options
from parti.pipelines.tokens import resumable_shards
from parti.stages import files

Run = Callable[..., int]


@pytest.fixture(params=["store", "tree"])
def remote(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The address of an empty folder of a remote system."""
    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path))
    files.make_dirs(f"{request.param}://bucket")
    return f"{request.param}://bucket"


def put(source: pathlib.Path, target: str) -> str:
    """Copies a file or a folder to an address, and returns that."""
    for entry in files.walk(source) if source.is_dir() else files.match(source):
        address = target + entry.path[len(str(source)) :]
        files.make_dirs(files.parent(address))
        files.concatenate([entry.path], address)
    return target


def content(folder: files.Path) -> dict[str, bytes]:
    """Returns {name: bytes} of an output; of its manifest what does not name addresses."""
    found = {e.path[len(str(folder)) + 1 :]: files.read_bytes(e.path) for e in files.walk(folder)}
    manifest = json.loads(found["manifest.json"])
    del manifest["inputs"]
    return found | {"manifest.json": json.dumps(manifest).encode()}


def names(address: str) -> set[str]:
    """Returns the names of the folders and files directly below an address."""
    return {entry.path[len(address) + 1 :].split("/")[0] for entry in files.walk(address)}


def fail_after(patch: pytest.MonkeyPatch, owner: type, method: str, number: int) -> list[Any]:
    """Lets a generator method of a DoFn fail after some elements, which the list then has."""
    process, done = getattr(owner, method), []

    def limited(self: Any, element: Any) -> Iterator[Any]:
        if len(done) == number:
            raise RuntimeError("the machine went away")
        done.append(element)
        yield from process(self, element)

    patch.setattr(owner, method, limited)
    return done


def check_finished(run: Run, arguments: list[str], output: str) -> None:
    """Checks that a second run of a finished command writes nothing."""
    before = {entry.path: files.status(entry.path) for entry in files.walk(output)}
    with pytest.raises(ValueError, match="already finished"):
        run(arguments)
    assert {entry.path: files.status(entry.path) for entry in files.walk(output)} == before


def test_tokenize(
    remote: str, tmp_path: pathlib.Path, pairs_dir: pathlib.Path, bundle: pathlib.Path
) -> None:
    flags = ["--write_reconstructions", "--batch_size=2"]
    here = tmp_path / "tokens"
    given = [f"--input={pairs_dir}", f"--model={bundle}", f"--output={here}"]
    assert tokenize_images.run([*given, *flags]) == 0
    pairs, model = put(pairs_dir, f"{remote}/pairs"), put(bundle, f"{remote}/bundle")
    arguments = [f"--input={pairs}", f"--model={model}", f"--output={remote}/tokens", *flags]
    with pytest.MonkeyPatch.context() as patch:
        joined = fail_after(patch, resumable_shards.JoinShard, "process", 2)
        with pytest.raises(options.PipelineError, match="the machine went away"):
            tokenize_images.run(arguments)
    assert not files.exists(f"{remote}/tokens/manifest.json")
    written = [f"{remote}/tokens.unfinished/{shard}" for shard, _ in joined]
    before = [files.status(path) for path in written]
    with pytest.MonkeyPatch.context() as patch:
        # The other shard alone is encoded.
        fail_after(patch, resumable_shards.JoinShard, "process", 1)
        patch.setattr(files, "copy", lambda *names: _kill())
        patch.setattr(files, "rename", lambda *names: _kill())
        with pytest.raises(SystemExit):
            tokenize_images.run(arguments)
    assert [files.status(path) for path in written] == before
    with pytest.MonkeyPatch.context() as patch:
        # Of a kill while it publishes nothing is done again.
        fail_after(patch, resumable_shards.JoinShard, "process", 0)
        assert tokenize_images.run(arguments) == 0
    assert content(f"{remote}/tokens") == content(here)
    assert names(remote) == {"pairs", "bundle", "tokens"}
    check_finished(tokenize_images.run, arguments, f"{remote}/tokens")


def _kill() -> None:
    raise SystemExit("killed")

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Whatever is in a name: the data of the file or folder that was named, or one clear line."""

import contextlib
import io
import json
import os
import pathlib
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import fake_drawing
import hypothesis
import numpy as np
import pytest
import yaml
from hypothesis import strategies as st

from parti import cli
from parti.data.decontamination import evaluation_files
from parti.data.images import images
from parti.data.storage import records, shard_names, tfrecords
from parti.engine.config import provenance
from parti.engine.inference import bundles
from parti.pipelines import generate, readers
from parti.stages import files, manifests
from parti.tasks import sources
from parti.workflow import config_files, stage

MINE, OTHER = "a noisy picture that was named", "the picture of another name"
_PARTS = [*(bytes([byte]) for byte in b"[]*?,'\"{}\\ \n#%&;$~!=@-:()a1"), "é".encode(), b"\xe9"]
_PARTS += [b"[1]", b"{a,b}", b"{0..1}", b"**", b"\xff\xfe", "\U0001f600".encode()]
NAMES = (
    st.lists(st.sampled_from(_PARTS), min_size=1, max_size=6)
    .map(b"".join)
    .map(lambda name: b"n" + name if name[:1] in (b"~", b"-") else name)
)
# As the issue has them, so that they are tried each time; then all at once, for what takes long.
GIVEN = [b"run[1]", b"it's", b"a,b", b"{x,y}", b"a\\new", b"new\nline", b"d\xe9j\xe0", b"wh?t*"]
AT_ONCE = [b"it's {a,b}\\n [1],2 # \"*", b"{0..1}[ab]\xe9\n*"]
SETTINGS = {
    "deadline": None,
    "suppress_health_check": [hypothesis.HealthCheck.too_slow],
    "database": None,
    "derandomize": True,
}


def with_examples(names: Sequence[bytes]) -> Callable[[Any], Any]:
    def add(test: Any) -> Any:
        for name in names:
            test = hypothesis.example(name=name)(test)
        return test

    return add


def siblings(name: str) -> list[str]:
    """Returns names that a wildcard, a list, braces or an escape in a name could stand for."""
    found = {re.sub(r"[\[\]{}'\"\\]", "", name), re.sub("[*?]", "x", name), name.strip()}
    found |= {part.strip() for part in re.split(r"[,{}]", name)}
    found |= {re.sub(r"\[(.).*?\]", r"\1", name), name.replace("\\n", "\n"), name.split("#")[0]}
    found |= {re.sub(r"\{(\w)(,|\.\.)\w\}", r"\1", name), files.text(name), "a", "1"}
    return sorted(other for other in found - {name, "", ".", ".."} if "/" not in other)


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    return images.encode_png(pixels)


def write_tar(path: str, text: str) -> None:
    with tarfile.open(path, "w") as tar:
        for suffix, data in ((".png", png(len(text))), (".txt", text.encode())):
            info = tarfile.TarInfo(f"in-tar{suffix}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@contextlib.contextmanager
def folders(name: bytes) -> Iterator[tuple[str, str]]:
    """Yields a folder in which a name is ours and its siblings are others', and the name."""
    with tempfile.TemporaryDirectory() as folder:
        yield folder, os.fsdecode(name)


_opened: list[str] | None = None  # of all files, while somebody wants to know


@pytest.fixture(scope="module", autouse=True)
def audit() -> None:
    """Python cannot take such a hook away again."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if _opened is not None and event == "open" and isinstance(arguments[0], str | bytes):
            _opened.append(os.path.abspath(os.fsdecode(arguments[0])))

    sys.addaudithook(hook)


@contextlib.contextmanager
def only_opened(folder: str, *allowed: str) -> Iterator[None]:
    """Checks that below a folder no file is opened but these, and what is below them."""
    global _opened
    _opened = []
    try:
        yield
        found = [path for path in _opened if path.startswith(f"{folder}/")]
    finally:
        _opened = None
    assert [path for path in found if not any(_is_in(path, name) for name in allowed)] == []


def _is_in(path: str, name: str) -> bool:
    return path == name or path.startswith((f"{name}/", f"{name}{manifests.UNFINISHED_SUFFIX}"))


def run(*arguments: str) -> tuple[int, str]:
    """Returns the exit code of a command, and the line that it says if it fails."""
    with (
        contextlib.redirect_stderr(io.StringIO()) as said,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        code = cli.main(arguments)
    last = (said.getvalue().strip().splitlines() or [""])[-1]
    if code:
        assert code == 2, said.getvalue()
        assert last.startswith(f"parti {arguments[0]}: "), said.getvalue()
        assert "codec" not in last and "Traceback" not in said.getvalue(), said.getvalue()
    return code, last


@with_examples(GIVEN + AT_ONCE)
@hypothesis.settings(max_examples=60, **SETTINGS)
@hypothesis.given(name=NAMES)
def test_readers_read_what_was_named(name: bytes) -> None:
    with folders(name) as (folder, mine):
        for each in [*siblings(mine), mine]:
            text = MINE if each == mine else OTHER
            inner = os.path.join(folder, "dirs", each)
            os.makedirs(inner)
            write_tar(os.path.join(inner, "x.tar"), text)
            write_tar(os.path.join(inner, f"{each}.tar"), text)
            pair = records.ImageTextPair("k", png(0), text)
            tfrecords.write(os.path.join(inner, "train-0.tfrecord"), [pair.to_example()])
            manifests.write_json(os.path.join(inner, "manifest.json"), {"fingerprint": text})
        inner = os.path.join(folder, "dirs", mine)
        for given in (inner, f"{inner}/x.tar", f"{inner}/{mine}.tar", f"{inner}/*.tar"):
            found = [row for s in readers.find_sources([given]) for row in readers.read_source(s)]
            assert {row.text for row in found} == {MINE}, given
            assert all(files.is_utf8(row.key + row.source) for row in found)
        assert {i.text for i in evaluation_files.read(inner) if i.text} == {MINE}
        shards = shard_names.list_shards(inner, "train")
        assert shards == shard_names.expand_pattern(inner, "pairs")
        assert [files.name(path) for path in shards] == ["train-0.tfrecord"]
        if files.is_utf8(inner):
            split_files = sources.split_files(inner, records.ImageTextPair)
            source = sources.RecordSource(split_files)
            (row,) = source.get_dataset("train", shuffle=False).as_numpy_iterator()
            assert records.ImageTextPair.from_example(row[sources.EXAMPLE]).text == MINE
            found = provenance.data_fingerprints(f"PAIRS_DIR = {inner!r}\n")
            assert found == {"pairs_fingerprint": MINE}
        else:
            with pytest.raises(ValueError, match="not UTF-8"):
                sources.split_files(inner, records.ImageTextPair)


@with_examples(AT_ONCE)
@hypothesis.settings(max_examples=2, **SETTINGS)
@hypothesis.given(name=NAMES)
def test_clean_and_prompts(name: bytes) -> None:
    with folders(name) as (folder, mine):
        raw = os.path.join(folder, "raw", mine)
        os.makedirs(raw)
        write_tar(os.path.join(folder, f"{mine}.tar"), MINE)
        for suffix, data in ((".png", png(1)), (".txt", f"{MINE} too".encode())):
            pathlib.Path(raw, f"i{mine}{suffix}").write_bytes(data)
        for other in siblings(mine):
            write_tar(os.path.join(folder, f"{other}.tar"), OTHER)
        output = os.path.join(folder, "out", mine)
        tar, broken, more = (f"{folder}/{mine}{end}.tar" for end in ("", ".broken", ".more"))
        pathlib.Path(broken).write_bytes(b"no tar")
        write_tar(more, f"{MINE} more")
        second, chosen = f"{output}-2", f"{output}-p"
        flags = ["--validation_fraction=0", "--image_size=16"]
        with only_opened(folder, raw, tar, broken, more, output, second, chosen):
            command = ["clean", "--input", raw, tar, broken]
            code, line = run(*command, *flags, "--output", output)
            assert code == 0, line
            code, line = run(*command, more, *flags, "--output", second, "--extend", output)
            assert code == 0, line
            code, line = run("prompts", "--input", second, "--split=train", "--output", chosen)
            assert code == 0, line
        for place, count in ((output, 2), (second, 3)):
            manifest = manifests.read(place, "pairs")
            assert (manifest["counts"]["train"], manifest["counts"]["rejected"]) == (count, 1)
            assert files.absolute(tar) in [path for path, _ in manifest["inputs"]["sources"]]
        report = manifests.read_json(f"{output}/report.json", "")
        assert list(report["broken_files"]) == [files.text(broken)]
        lines = pathlib.Path(chosen, "prompts.jsonl").read_text().splitlines()
        assert {json.loads(line)["prompt"] for line in lines} == {
            MINE,
            f"{MINE} too",
            f"{MINE} more",
        }


@with_examples(AT_ONCE)
@hypothesis.settings(max_examples=1, **SETTINGS)
@hypothesis.given(name=NAMES)
def test_workflow_dry_run(name: bytes) -> None:
    with folders(name) as (folder, mine), pytest.MonkeyPatch.context() as patch:
        patch.setenv(stage.COMMAND_VARIABLE, "true")  # the settings of stages are not at issue
        inner = os.path.join(folder, mine)
        os.mkdir(inner)
        write_tar(os.path.join(inner, f"{mine}.tar"), MINE)
        changes = ["--set", f"input={inner}/{mine}.tar", "--dry_run"]
        code, line = run("workflow", "pairs-tiny", *changes, "--workdir", f"{folder}/plain")
        assert code == 0, line
        code, line = run("workflow", "pairs-tiny", *changes, "--workdir", inner)
        is_plain = files.is_utf8(mine) and not set("\n\\") & set(mine)
        assert code == (0 if is_plain else 2) and (is_plain or "--workdir" in line), line


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return fake_drawing.write_bundle(tmp_path_factory.mktemp("bundle"))


@with_examples(GIVEN + AT_ONCE)
@hypothesis.settings(max_examples=40, **SETTINGS)
@hypothesis.given(name=NAMES)
def test_generate_takes_the_prompts_and_the_bundle_that_were_named(
    bundle: pathlib.Path, name: bytes
) -> None:
    with folders(name) as (folder, mine), pytest.MonkeyPatch.context() as patch:
        fake_drawing.draw_blank(patch)
        others = [other for other in siblings(mine) if len(os.fsencode(other)) < 200]
        os.mkdir(f"{folder}/models")
        for each in [*others, mine]:
            text = MINE if each == mine else OTHER
            pathlib.Path(folder, f"{each}.txt").write_text(text)
            shutil.copytree(bundle, f"{folder}/models/{each}", copy_function=os.link)
            if each != mine:
                os.remove(f"{folder}/models/{each}/bundle.json")
                pathlib.Path(folder, "models", each, "bundle.json").write_text("{}")
        prompts, model = f"{folder}/{mine}.txt", f"{folder}/models/{mine}"
        output = f"{folder}/out/{mine}"
        command = ["generate", "--prompts", prompts, "--model", model, "--output", output]
        with only_opened(folder, prompts, model, output):
            code, line = run(*command)
        assert code == 0, line
        made = generate.read_generations(output)
        assert {generation.prompt for generation in made} == {MINE}
        wanted = bundles.Bundle.open(bundle).fingerprints
        assert manifests.read(output, "generations")["fingerprints"] == wanted
        # Nothing of another name is taken for what is not there.
        for gone, what in ((model, "no bundle at"), (prompts, "No prompt file")):
            os.rename(gone, f"{folder}/gone")
            with only_opened(folder, prompts):
                code, line = run(*command, "--overwrite")
            assert code == 2 and what in line
            os.rename(f"{folder}/gone", gone)


@hypothesis.settings(max_examples=60, **SETTINGS)
@hypothesis.given(names=st.lists(NAMES.map(os.fsdecode), min_size=1, max_size=4, unique=True))
@hypothesis.example(names=list(map(os.fsdecode, GIVEN)))
def test_inputs_of_a_workflow_file_are_what_was_named(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        others = {other for name in names for other in siblings(name)} - {*names}
        for name in [*names, *others]:
            pathlib.Path(folder, f"{name}.tar").write_text(MINE if name in names else OTHER)
        given = [f"{folder}/{name}.tar" for name in names]
        content = yaml.safe_load((config_files.folder() / "config/pairs-tiny.yaml").read_text())
        path = pathlib.Path(folder, "workflow.yaml")
        path.write_text(yaml.safe_dump(content | {"input": given}))
        config = config_files.load(str(path))
        assert config["input"] == given
        before = config_files.listing(given)
        for other in others:
            pathlib.Path(folder, f"{other}.tar").write_text("changed")
        assert config_files.listing(config["input"]) == before
        pathlib.Path(given[-1]).write_text("changed")
        assert config_files.listing(config["input"]) != before
        if set(names[-1]) & set("*?[{,"):  # what is not there may be a pattern
            return
        os.remove(given[-1])
        with pytest.raises(FileNotFoundError, match="input: no file matches"):
            config_files.load(str(path))

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Every job reads and writes remote places: the bytes of a local run, and it goes on after a kill.

`store://` is a stand-in for an object store, `tree://` one for HDFS (tests/fake_remote.py); `gs://`
and `s3://` are tried where an emulator runs (gcp-storage-emulator, moto's server).
"""

import importlib.util
import json
import os
import pathlib
import shutil
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import fake_remote
import jax
import numpy as np
import pytest
import tiny_models

from parti.engine.inference import bundles, layouts
from parti.pipelines import (
    choose_prompts,
    clean_pairs,
    detokenize,
    draw_scenes,
    evaluate,
    export,
    generate,
    tokenize_images,
    train_vocabulary,
)
from parti.pipelines.beam import options
from parti.pipelines.tokens import resumable_shards
from parti.stages import files, manifests

Run = Callable[..., int]


# Emulators that run, with a bucket `bucket`, if the variable names one, and what Beam needs.
_EMULATED = [
    pytest.param(
        scheme,
        marks=pytest.mark.skipif(
            not os.environ.get(variable) or not importlib.util.find_spec(module),
            reason=f"needs an emulator that {variable} names, and {module}",
        ),
    )
    for scheme, variable, module in (
        ("gs", "STORAGE_EMULATOR_HOST", "google.cloud"),
        ("s3", "AWS_ENDPOINT_URL", "boto3"),
    )
]


@pytest.fixture(params=["store", "tree", *_EMULATED])
def remote(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The address of an empty folder of a remote system."""
    if request.param == "gs":
        from apache_beam.internal.gcp import auth

        monkeypatch.setattr(auth._Credentials, "_credentials_init", True)  # there are none
    if request.param in ("gs", "s3"):
        return f"{request.param}://bucket/{uuid.uuid4().hex}"
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


def fail_after(patch: pytest.MonkeyPatch, owner: type, number: int) -> None:
    """Lets a DoFn fail after some elements."""
    process, done = owner.process, []

    def limited(self: Any, element: Any) -> Iterator[Any]:
        if len(done) == number:
            raise RuntimeError("the machine went away")
        yield from process(self, element)
        done.append(element)

    patch.setattr(owner, "process", limited)


def check_finished(run: Run, arguments: list[str], output: str) -> None:
    """Checks that a second run of a finished command writes nothing."""
    before = {entry.path: files.status(entry.path) for entry in files.walk(output)}
    with pytest.raises(ValueError, match="already finished"):
        run(arguments)
    assert {entry.path: files.status(entry.path) for entry in files.walk(output)} == before


Commands = dict[str, tuple[Run, list[str]]]


def commands(root: str, model: str) -> Commands:
    """Returns {output: (command, arguments)} of all jobs, whose files are below one address."""

    def to(run: Run, output: str, *flags: str) -> tuple[Run, list[str]]:
        return run, [*flags, f"--output={root}/{output}"]

    pairs, bundle = f"{root}/pairs", f"--model={model}"
    drawn = ("--num=24", "--size=32", "--world=tiny", "--shards=2", "--num_prompts=3")
    encoded = (f"--input={pairs}", bundle, "--write_reconstructions", "--batch_size=2")
    prompts = f"--prompts={root}/prompts/prompts.jsonl"
    reference = (f"--reference={pairs}", bundle)
    return {
        "scenes": to(draw_scenes.run, "scenes", *drawn),
        "tokens": to(tokenize_images.run, "tokens", *encoded),
        "pictures": to(detokenize.run, "pictures", f"--input={root}/tokens"),
        "prompts": to(choose_prompts.run, "prompts", f"--input={pairs}", "--num=3"),
        "images": to(generate.run, "images", prompts, bundle, "--num_samples=2", *PER_BATCH),
        "report": to(evaluate.run, "report", f"--generations={root}/images", *reference),
        "measured": to(evaluate.run, "measured", "--reconstructions", *reference, "--split=train"),
    }


WORKERS = (
    *("--direct_running_mode=multi_processing", "--direct_num_workers=2"),
    "--beam_plugins=fake_remote",
)
PER_BATCH = ("--prompts_per_batch=2",)
# Output -> what writes a part that is not written again, and how many parts there are.
RESUMED: dict[str, tuple[type, int]] = {
    "tokens": (resumable_shards.JoinShard, 3),
    "pictures": (resumable_shards.JoinShard, 3),
    "images": (generate._WritePrompt, 3),
    "measured": (resumable_shards.JoinShard, 2),
}


@pytest.fixture(scope="module")
def here(
    tmp_path_factory: pytest.TempPathFactory, pairs_dir: pathlib.Path, bundle: pathlib.Path
) -> pathlib.Path:
    """The outputs of all jobs on this machine."""
    folder = tmp_path_factory.mktemp("here")
    shutil.copytree(pairs_dir, folder / "pairs")
    for run, arguments in commands(str(folder), str(bundle)).values():
        assert run(arguments) == 0
    return folder


def test_every_job_writes_the_bytes_of_a_local_run(
    remote: str,
    here: pathlib.Path,
    pairs_dir: pathlib.Path,
    bundle: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put(pairs_dir, f"{remote}/pairs")
    model = put(bundle, f"{remote}/bundle")
    for name, (run, arguments) in commands(remote, model).items():
        output = f"{remote}/{name}"
        with pytest.MonkeyPatch.context() as patch:
            if name in RESUMED:
                interrupt(run, arguments, output, *RESUMED[name])
                fail_after(patch, RESUMED[name][0], 0)
            assert run(arguments) == 0, name
        assert output in capsys.readouterr().out
        assert content(output) == content(here / name), name
        check_finished(run, arguments, output)
    assert names(remote) == {"pairs", "bundle", *commands(remote, model)}


def interrupt(run: Run, arguments: list[str], output: str, owner: type, num_parts: int) -> None:
    """Kills a job before its last part and as it publishes; then no part is left to be done."""
    with pytest.MonkeyPatch.context() as patch:
        fail_after(patch, owner, num_parts - 1)
        with pytest.raises(options.PipelineError, match="the machine went away"):
            run(arguments)
    unfinished = f"{output}{manifests.UNFINISHED_SUFFIX}"
    assert not files.exists(f"{output}/manifest.json") and files.is_dir(unfinished)
    before = {e.path: files.status(e.path) for e in files.walk(unfinished)}
    with pytest.MonkeyPatch.context() as patch:
        fail_after(patch, owner, 1)  # more than the last one would fail
        patch.setattr(files, "copy", _kill)
        patch.setattr(files, "rename", _kill)
        with pytest.raises(SystemExit):
            run(arguments)
    kept = [path for path in before if path.endswith((".tfrecord", ".jsonl"))]
    assert kept and all(files.status(path) == before[path] for path in kept)


def _kill(*arguments: Any) -> None:
    raise SystemExit("killed")


@pytest.mark.slow
def test_worker_processes_write_the_same_bytes(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    here: pathlib.Path,
    pairs_dir: pathlib.Path,
    bundle: pathlib.Path,
) -> None:
    """Each loads the models from the bucket, and writes there."""
    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(fake_remote.__file__).parent))
    remote = "store://bucket"
    put(pairs_dir, f"{remote}/pairs")
    put(here / "prompts", f"{remote}/prompts")
    jobs = commands(remote, put(bundle, f"{remote}/bundle"))
    for name in ("tokens", "images"):
        run, arguments = jobs[name]
        assert run([*arguments, *WORKERS]) == 0
        assert content(f"{remote}/{name}") == content(here / name), name


def test_export_gathers_trainings_of_a_bucket(
    remote: str,
    tmp_path: pathlib.Path,
    vocabulary: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    tokenizer = tiny_models.part("tokenizer").encoder_fingerprint
    for name, facts in (("tokenizer", {}), ("generator", {"tokenizer_fingerprint": tokenizer})):
        tiny_models.write_train_dir(folder / name, tiny_models.part(name), **facts)
    older = folder / "tokenizer" / "checkpoint_3"
    shutil.copytree(folder / "tokenizer" / "checkpoint_7", older)
    (folder / "vocabulary").mkdir()
    shutil.copy(vocabulary, folder / "vocabulary" / "vocabulary.model")
    assert export.run([f"--workdir={folder}", f"--output={folder}/bundle"]) == 0
    there = put(folder, f"{remote}/run")
    files.remove_tree(f"{there}/bundle")
    # Of a training the newest checkpoint alone is read.
    files.write_bytes(f"{there}/tokenizer/checkpoint_3/state/_METADATA", b"damaged")
    arguments = [f"--workdir={there}", f"--output={there}/bundle"]
    assert export.run(arguments) == 0
    assert "could not be checked" not in capsys.readouterr().out
    assert content(f"{there}/bundle") == content(folder / "bundle")
    check_finished(export.run, arguments, f"{there}/bundle")
    named = [f"--tokenizer={there}/tokenizer/checkpoint_7", f"--output={remote}/named"]
    assert export.run([*arguments[:1], *named]) == 0
    parts = ("tokenizer/params.safetensors", "tokenizer/config.gin", "bundle.json")
    assert [files.read_bytes(f"{remote}/named/{name}") for name in parts] == [
        (folder / "bundle" / name).read_bytes() for name in parts
    ]
    files.remove(f"{there}/generator/manifest.json")
    with pytest.raises(FileNotFoundError, match=f"{there}/generator.* has not finished"):
        export.run([*arguments, "--overwrite"])


def test_a_generator_is_read_from_its_address_onto_a_mesh(
    remote: str, bundle: pathlib.Path
) -> None:
    there = put(bundle, f"{remote}/bundle")
    layout = layouts.Layout((4, 2))
    loaded, here = (bundles.Bundle.open(b).load("generator", layout) for b in (there, bundle))
    assert (
        loaded.fingerprint
        == here.fingerprint
        == bundles.Bundle.open(bundle).fingerprints["generator"]
    )
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, here.variables)
    path = f"{there}/generator/params.safetensors"
    changed = bytearray(files.read_bytes(path))
    changed[-1] ^= 64
    files.write_bytes(path, bytes(changed))
    with pytest.raises(ValueError, match=f"{there}/generator is not what was exported"):
        bundles.Bundle.open(there).load("generator", layout)


def test_damage_of_a_remote_bundle_is_found_when_it_is_opened(
    remote: str, bundle: pathlib.Path
) -> None:
    there = put(bundle, f"{remote}/bundle")
    assert bundles.Bundle.open(there).parts == bundles.Bundle.open(bundle).parts
    path = f"{there}/generator/params.safetensors"
    whole = files.read_bytes(path)
    for damaged in (whole[:-4], whole[:20], b""):
        files.write_bytes(path, damaged)
        with pytest.raises(ValueError, match=f"{path} is damaged .*export the bundle again"):
            bundles.Bundle.open(there)
    changed = bytearray(whole)
    changed[-1] ^= 64
    files.write_bytes(path, bytes(changed))
    with pytest.raises(ValueError, match=f"{there}/generator is not what was exported"):
        bundles.Bundle.open(there).load("generator")
    files.remove(path)
    with pytest.raises(FileNotFoundError, match=f"{path} is missing"):
        bundles.Bundle.open(there)


def all_jobs(root: str) -> Commands:
    """Returns the jobs above, `clean` and `vocab`."""
    return commands(root, f"{root}/bundle") | {
        "cleaned": (clean_pairs.run, [f"--input={root}/raw", f"--output={root}/cleaned"]),
        "words": (train_vocabulary.run, [f"--input={root}/pairs", f"--output={root}/words"]),
    }


@pytest.mark.parametrize("name", sorted(all_jobs("").keys() - {"prompts"}))  # which is no Beam job
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--runner=FlinkRunner", "--flink_master=10.0.0.7:8081"], "--shared_folders"),
        (["--runner=PortableRunner", "--job_endpoint=jobs:8099"], "on other machines"),
        (["--runner=DataflowRunner", "--project=p", "--region=r"], "workers of Dataflow"),
    ],
)
def test_a_local_path_is_refused_for_workers_elsewhere(
    tmp_path: pathlib.Path, name: str, flags: list[str], message: str
) -> None:
    run, arguments = all_jobs(str(tmp_path))[name]
    with pytest.raises(ValueError, match=f"{tmp_path}/.*{message}"):
        run([*arguments, *flags])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", all_jobs(""))
@pytest.mark.parametrize("method", ["create", "delete", "_list"])
def test_a_remote_place_that_is_not_ours_is_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str, method: str
) -> None:
    if (name, method) == ("scenes", "_list"):
        pytest.skip("reads nothing")
    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path))
    run, arguments = all_jobs("store://other")[name]

    def refuse(*given: Any) -> None:
        raise OSError("quota exceeded")

    monkeypatch.setattr(fake_remote.Store, method, refuse)
    verb = "listed" if method == "_list" else "written"
    with pytest.raises(ValueError, match=rf"store://other/\S+: cannot be {verb} .*check the name"):
        run(arguments)


def test_a_bucket_is_no_output(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path))
    with pytest.raises(ValueError, match="store://bucket: not a folder; name one"):
        draw_scenes.run(["--output=store://bucket/", "--num=4"])

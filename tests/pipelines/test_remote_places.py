# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Every job reads and writes remote places: the bytes of a local run, and it goes on after a kill.

`store://` is a stand-in for an object store, `tree://` one for HDFS (tests/fake_remote.py); `gs://`
and `s3://` are emulated (tests/emulated_bucket.py), which is slow.
"""

import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

import all_jobs
import emulated_bucket
import fake_remote
import jax
import numpy as np
import pytest
import tiny_models

from parti.engine.inference import bundles, layouts
from parti.pipelines import draw_scenes, export, generate
from parti.pipelines.beam import options, runners
from parti.pipelines.tokens import resumable_shards
from parti.stages import files, manifests


@pytest.fixture(
    params=[
        *("store", "tree"),
        *(pytest.param(scheme, marks=pytest.mark.slow) for scheme in ("gs", "s3")),
    ]
)
def remote(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The address of an empty folder of a remote system."""
    if request.param in ("gs", "s3"):
        bucket = request.getfixturevalue(f"{request.param}_bucket")
        for name, value in bucket.environment.items():
            monkeypatch.setenv(name, value)
        return f"{bucket.address}/{re.sub(r'[^a-z0-9_]', '-', request.node.name)}"
    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path))
    files.make_dirs(f"{request.param}://bucket")
    return f"{request.param}://bucket"


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


WORKERS = (
    *("--direct_running_mode=multi_processing", "--direct_num_workers=2"),
    "--beam_plugins=fake_remote",
)
# Output -> what writes a part that is not written again, and how many parts there are.
RESUMED: dict[str, tuple[type, int]] = {
    "tokens": (resumable_shards.JoinShard, 3),
    "pictures": (resumable_shards.JoinShard, 3),
    "images": (generate._WritePrompt, 3),
    "measured": (resumable_shards.JoinShard, 2),
}


def test_every_job_writes_the_bytes_of_a_local_run(
    remote: str, here: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    all_jobs.put(here / "bundle", f"{remote}/bundle")
    for name, job in all_jobs.jobs(remote).items():
        output = f"{remote}/{name}"
        with pytest.MonkeyPatch.context() as patch:
            if name in RESUMED:
                interrupt(job, output, *RESUMED[name])
                fail_after(patch, RESUMED[name][0], 0)
            assert all_jobs.run(job) == 0, name
        assert output in capsys.readouterr().out
        assert all_jobs.content(output) == all_jobs.content(here / name), name
        all_jobs.check_finished(job, output)
    assert names(remote) == {"bundle", *all_jobs.jobs(remote)}


def interrupt(job: list[str], output: str, owner: type, num_parts: int) -> None:
    """Kills a job before its last part and as it publishes; then no part is left to be done."""
    with pytest.MonkeyPatch.context() as patch:
        fail_after(patch, owner, num_parts - 1)
        with pytest.raises(options.PipelineError, match="the machine went away"):
            all_jobs.run(job)
    unfinished = f"{output}{manifests.UNFINISHED_SUFFIX}"
    assert not files.exists(f"{output}/manifest.json") and files.is_dir(unfinished)
    before = {e.path: files.status(e.path) for e in files.walk(unfinished)}
    with pytest.MonkeyPatch.context() as patch:
        fail_after(patch, owner, 1)  # more than the last one would fail
        patch.setattr(files, "copy", _kill)
        patch.setattr(files, "rename", _kill)
        with pytest.raises(SystemExit):
            all_jobs.run(job)
    kept = [path for path in before if path.endswith((".tfrecord", ".jsonl"))]
    assert kept and all(files.status(path) == before[path] for path in kept)


def _kill(*arguments: Any) -> None:
    raise SystemExit("killed")


@pytest.mark.slow
def test_worker_processes_write_the_same_bytes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, here: pathlib.Path
) -> None:
    """Each loads the models from the bucket, and writes there."""
    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(pathlib.Path(fake_remote.__file__).parent))
    remote = "store://bucket"
    for name in ("bundle", "pairs", "prompts"):
        all_jobs.put(here / name, f"{remote}/{name}")
    for name in ("tokens", "images"):
        assert all_jobs.run([*all_jobs.jobs(remote)[name], *WORKERS]) == 0
        assert all_jobs.content(f"{remote}/{name}") == all_jobs.content(here / name), name


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
    there = f"{remote}/run"
    all_jobs.put(folder, there)
    files.remove_tree(f"{there}/bundle")
    # Of a training the newest checkpoint alone is read.
    files.write_bytes(f"{there}/tokenizer/checkpoint_3/state/_METADATA", b"damaged")
    arguments = [f"--workdir={there}", f"--output={there}/bundle"]
    assert export.run(arguments) == 0
    assert "could not be checked" not in capsys.readouterr().out
    assert all_jobs.content(f"{there}/bundle") == all_jobs.content(folder / "bundle")
    all_jobs.check_finished(["export", *arguments], f"{there}/bundle")
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
    there = f"{remote}/bundle"
    all_jobs.put(bundle, there)
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
    there = f"{remote}/bundle"
    all_jobs.put(bundle, there)
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


@pytest.mark.parametrize("name", all_jobs.BEAM_JOBS)
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
    job = all_jobs.jobs(str(tmp_path))[name]
    with pytest.raises(ValueError, match=f"{tmp_path}/.*{message}"):
        all_jobs.run([*job, *flags])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", all_jobs.jobs(""))
@pytest.mark.parametrize("method", ["create", "delete", "_list"])
def test_a_remote_place_that_is_not_ours_is_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str, method: str
) -> None:
    if (name, method) == ("scenes", "_list"):
        pytest.skip("reads nothing")
    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path))
    job = all_jobs.jobs("store://other")[name]

    def refuse(*given: Any) -> None:
        raise OSError("quota exceeded")

    monkeypatch.setattr(fake_remote.Store, method, refuse)
    verb = "listed" if method == "_list" else "written"
    with pytest.raises(ValueError, match=rf"store://other/\S+: cannot be {verb} .*check the name"):
        all_jobs.run(job)


def test_a_bucket_is_no_output(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path))
    with pytest.raises(ValueError, match="store://bucket: not a folder; name one"):
        draw_scenes.run(["--output=store://bucket/", "--num=4"])


def test_s3_takes_empty_files_and_keeps_its_client(
    s3_bucket: emulated_bucket.Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beam's own client writes none, and is made anew for each request."""
    for name, value in s3_bucket.environment.items():
        monkeypatch.setenv(name, value)
    address = f"{s3_bucket.address}/files"
    for name, content in (("empty", b""), ("small", b"1"), ("large", bytes(6 * 2**20))):
        files.write_bytes(f"{address}/{name}", content)
        assert files.read_bytes(f"{address}/{name}") == content
    made = []
    monkeypatch.setattr("botocore.session.Session.create_client", made.append)
    with files.open(f"{address}/large") as one, files.open(f"{address}/small") as other:
        assert (one.read(2), other.read(), one.read(2)) == (b"\0\0", b"1", b"\0\0")
    assert not made


# The flags of docs/dataflow.md.
DATAFLOW = [
    *("--runner=DataflowRunner", "--project=my-project", "--region=us-central1"),
    *("--temp_location=gs://my-bucket/tmp", "--staging_location=gs://my-bucket/staging"),
    *("--sdk_container_image=my-images/parti:1", "--sdk_location=container"),
    *("--machine_type=g2-standard-8", "--max_num_workers=40"),
]
GPU = "--dataflow_service_options=worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver"
ONE_PROCESS = "--experiments=no_use_multiple_sdk_containers"


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n != "tokens")) for n in all_jobs.BEAM_JOBS],
)
def test_dataflow_accepts_the_job(
    name: str, here: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beam's Dataflow runner checks the graph and makes the request; nothing is sent."""
    pytest.importorskip("google.cloud.dataflow_v1beta3", reason="needs pip install '.[gcp]'")
    from apache_beam.runners.dataflow.internal import apiclient

    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path))
    all_jobs.put(here, "store://my-bucket")
    before = all_jobs.content(f"store://my-bucket/{name}")
    jobs, run = [], runners.run

    def keep(*arguments: Any) -> Any:
        result = run(*arguments)
        jobs.append(result.job)
        return result

    monkeypatch.setattr(runners, "run", keep)
    job = [*all_jobs.jobs("store://my-bucket")[name], "--overwrite", *DATAFLOW, GPU, ONE_PROCESS]
    threads = "--number_of_worker_harness_threads=8"
    with pytest.raises(options.PipelineError, match="the job was built and checked, and not run"):
        all_jobs.run([*job, threads, "--dry_run=True", "--no_auth"])
    assert all_jobs.content(f"store://my-bucket/{name}") == before
    [sent] = jobs
    request = apiclient.Environment([], sent.options, "2", "gs://x", sent.proto_pipeline).proto
    [pool] = request.worker_pools
    assert pool.machine_type == "g2-standard-8" and pool.num_threads_per_worker == 8
    assert pool.autoscaling_settings.max_num_workers == 40
    images = {image.container_image for image in pool.sdk_harness_container_images}
    assert images == {"my-images/parti:1"}
    assert [f"--dataflow_service_options={option}" for option in request.service_options] == [GPU]
    assert ONE_PROCESS.partition("=")[2] in request.experiments
    # What a worker unpickles must come from the package, which is all that it has.
    payload = sent.proto_pipeline.SerializeToString()
    assert not [n for n in ("__main__", "fake_remote", "all_jobs") if n.encode() in payload]


@pytest.mark.parametrize("flag", [GPU, "--experiments=worker_accelerator=type:tpu-v6e-slice"])
def test_an_accelerator_is_refused_for_several_processes(
    flag: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path))
    job = [*all_jobs.jobs("store://my-bucket")["tokens"], *DATAFLOW, flag]
    with pytest.raises(ValueError, match=f"takes the accelerator.*pass {ONE_PROCESS}"):
        all_jobs.run(job)
    for chosen in (ONE_PROCESS, ONE_PROCESS.replace("no_", "")):
        with pytest.raises(FileNotFoundError, match="store://my-bucket/pairs"):
            all_jobs.run([*job, chosen])

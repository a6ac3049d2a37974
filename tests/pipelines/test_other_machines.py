# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The jobs where workers are not this process: Beam's job API, and what is sent to Dataflow."""

import hashlib
import importlib.util
import io
import os
import pathlib
import socket
import subprocess
import sys
import tarfile
import time

import fake_remote
import packages
import pytest
from apache_beam.options import pipeline_options
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners import runner as beam_runner
from apache_beam.runners.portability import stager
from apache_beam.transforms import environments

from parti.data.images import images
from parti.data.scenes import scenes
from parti.pipelines import clean_pairs, train_vocabulary
from parti.pipelines.beam import runners
from parti.stages import files

# Of a run, not of its input: times and memory.
RUN_FILES = ("report.html", "run.json")
TIMEOUT = 300.0


def write_tars(directory: pathlib.Path, counts: tuple[int, ...] = (20, 15)) -> pathlib.Path:
    """Writes tars of drawn scenes, and a picture of the first again in the second."""
    drawn = list(scenes.generate("train", sum(counts), seed=0, size=64, world="tiny"))
    directory.mkdir()
    start = 0
    for index, count in enumerate(counts):
        with tarfile.open(directory / f"{index}.tar", "w") as tar:
            for key, _, picture, captions in [*drawn[start : start + count], *drawn[:1]][:count]:
                for suffix, data in (("png", images.encode_png(picture)), ("txt", captions[0])):
                    content = data if isinstance(data, bytes) else data.encode()
                    member = tarfile.TarInfo(f"{index}-{key}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        start += count - 1
    return directory


def digests(folder: files.Path) -> dict[str, str]:
    """Returns {name: sha256} of what a stage wrote, but for its times."""
    found = {files.name(e.path): files.read_bytes(e.path) for e in files.walk(folder)}
    assert "manifest.json" in found
    return {
        name: hashlib.sha256(data).hexdigest()
        for name, data in sorted(found.items())
        if name not in RUN_FILES
    }


def clean(tars: pathlib.Path, output: str, *flags: str) -> dict[str, str]:
    arguments = ["--input", f"{tars}/*.tar", "--output", output, "--image_size=32"]
    assert clean_pairs.run([*arguments, "--num_shards=3", *flags]) == 0
    return digests(output)


def vocab(pairs: str, output: str, *flags: str) -> dict[str, str]:
    arguments = ["--input", pairs, "--output", output, "--vocab_size=330"]
    assert train_vocabulary.run([*arguments, *flags]) == 0
    return digests(output)


@pytest.mark.parametrize("scheme", ["store", "tree"])
def test_a_remote_output_has_the_bytes_of_a_local_one(tmp_path, monkeypatch, scheme):
    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path))
    tars = write_tars(tmp_path / "raw")
    local = clean(tars, str(tmp_path / "local"))
    files.make_dirs(f"{scheme}://bucket")
    assert clean(tars, f"{scheme}://bucket/pairs") == local
    there = vocab(f"{scheme}://bucket/pairs", f"{scheme}://bucket/vocabulary")
    here = vocab(str(tmp_path / "local"), str(tmp_path / "vocabulary"))
    inputs = "manifest.json"  # which tells where the pairs were
    assert here.pop(inputs) != there.pop(inputs) and there == here
    left = {entry.path.split("/")[3] for entry in files.walk(f"{scheme}://bucket")}
    assert left == {"pairs", "vocabulary"}


@pytest.fixture(scope="module")
def job_api(tmp_path_factory):
    """Starts a job service and a pool of workers that have the package from a wheel."""
    place = tmp_path_factory.mktemp("workers")
    wheel = packages.build_wheel(
        packages.copy_tree(tmp_path_factory.mktemp("source")), tmp_path_factory.mktemp("wheel")
    )
    python = packages.install(wheel, place / "environment")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment['PATH']}"
    where = subprocess.run(
        [python, "-c", "import parti.pipelines as p; print(p.__file__)"],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(place))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        pool_port = free.getsockname()[1]
    port_file = place / "port"
    module = "apache_beam.runners."
    service = [sys.executable, "-m", f"{module}portability.local_job_service_main"]
    pool = [str(python), "-m", f"{module}worker.worker_pool_main"]
    with open(place / "log", "wb") as log:
        started = [
            subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=log)
            for command in (
                [*service, f"--port_file={port_file}", f"--staging_dir={place / 'staging'}"],
                [*pool, f"--service_port={pool_port}"],
            )
        ]
    try:
        end = time.monotonic() + TIMEOUT
        while not (port_file.exists() and port_file.read_text()):
            assert time.monotonic() < end and all(p.poll() is None for p in started)
            time.sleep(0.1)
        yield [
            *("--runner=PortableRunner", f"--job_endpoint=localhost:{port_file.read_text()}"),
            *("--environment_type=EXTERNAL", f"--environment_config=localhost:{pool_port}"),
        ]
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(TIMEOUT)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_of_another_environment_write_the_same_bytes(tmp_path, job_api, workers):
    flags = [*job_api, f"--direct_num_workers={workers}"]
    tars = write_tars(tmp_path / "raw")
    here = clean(tars, str(tmp_path / "here"))
    assert clean(tars, str(tmp_path / "there"), *flags) == here
    pairs = str(tmp_path / "here")
    assert vocab(pairs, str(tmp_path / "v1"), *flags) == vocab(pairs, str(tmp_path / "v2"))


@pytest.mark.slow
def test_setup_file_sends_a_package_that_can_be_installed(tmp_path):
    """--setup_file makes an sdist; a wheel of it is what the wheel of the tree is."""
    source = packages.copy_tree(tmp_path / "source")
    options = pipeline_options.PipelineOptions([f"--setup_file={source}/setup.py"])
    resources = stager.Stager.create_job_resources(
        options, str(tmp_path), log_submission_env_dependencies=False
    )
    sent = {}
    for resource in resources:
        name = beam_runner_api_pb2.ArtifactStagingToRolePayload.FromString(resource.role_payload)
        path = beam_runner_api_pb2.ArtifactFilePayload.FromString(resource.type_payload).path
        sent[name.staged_name] = path
    (tmp_path / "built").mkdir()
    wheel = packages.build_wheel(pathlib.Path(sent["workflow.tar.gz"]), tmp_path / "built")
    python = packages.install(wheel, tmp_path / "environment")
    code = "import parti.pipelines.clean_pairs as c; c.make_parser(); print(c.__file__)"
    ran = subprocess.run([python, "-P", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(str(tmp_path / "environment"))


class Stop(Exception):
    """Raised in place of running a job."""


class KeepProto(beam_runner.PipelineRunner):
    """Keeps the job that would be sent to a service that starts containers."""

    kept: list[beam_runner_api_pb2.Pipeline] = []

    def run_pipeline(self, pipeline, options):
        """Raises Stop."""
        image = options.view_as(pipeline_options.WorkerOptions).sdk_container_image
        environment = environments.DockerEnvironment.from_container_image(image)
        self.kept.append(pipeline.to_runner_api(default_environment=environment))
        raise Stop


@pytest.fixture
def dataflow_flags(tmp_path, monkeypatch):
    """An input and an output that are remote, and the flags of docs/dataflow.md."""
    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path))
    write_tars(tmp_path / "raw", (4,))
    files.write_bytes("store://my-bucket/0.tar", (tmp_path / "raw" / "0.tar").read_bytes())
    return [
        *("--input", "store://my-bucket/*.tar", "--output", "store://my-bucket/pairs"),
        *("--project=my-project", "--region=us-central1", "--temp_location=gs://my-bucket/tmp"),
        *("--staging_location=gs://my-bucket/staging", "--max_num_workers=40"),
        *("--machine_type=n2-standard-4", "--sdk_container_image=my-images/parti:1"),
        "--sdk_location=container",
    ]


def test_a_job_runs_in_the_given_image_and_can_be_read_back(dataflow_flags, monkeypatch):
    monkeypatch.setattr(runners, "make", lambda options: KeepProto())
    with pytest.raises(Exception, match="Stop"):
        clean_pairs.run(dataflow_flags)
    proto = beam_runner_api_pb2.Pipeline.FromString(KeepProto.kept.pop().SerializeToString())
    made = [
        beam_runner_api_pb2.DockerPayload.FromString(environment.payload).container_image
        for environment in proto.components.environments.values()
    ]
    assert set(made) == {"my-images/parti:1"}
    # What a worker unpickles must come from the package, which is all that it has.
    payload = proto.SerializeToString()
    assert b"__main__" not in payload and b"test_other_machines" not in payload


@pytest.mark.skipif(
    not importlib.util.find_spec("google.cloud")
    or not importlib.util.find_spec("google.cloud.dataflow_v1beta3"),
    reason="needs pip install '.[gcp]'",
)
def test_dataflow_accepts_the_job(dataflow_flags, monkeypatch):
    """Beam's Dataflow runner checks the graph and makes the request; nothing is sent."""
    from apache_beam.runners.dataflow.internal import apiclient

    kept = []

    def run(pipeline, options):
        kept.append(pipeline.run().job)
        raise Stop

    monkeypatch.setattr(runners, "run", run)
    with pytest.raises(Exception, match="Stop"):
        clean_pairs.run(["--runner=DataflowRunner", "--dry_run=True", "--no_auth", *dataflow_flags])
    (job,) = kept
    request = apiclient.Environment([], job.options, "2", "gs://x", job.proto_pipeline).proto
    (pool,) = request.worker_pools
    assert pool.machine_type == "n2-standard-4"
    assert pool.autoscaling_settings.max_num_workers == 40
    (image,) = {image.container_image for image in pool.sdk_harness_container_images}
    assert image == "my-images/parti:1"
    assert job.proto_pipeline.components.transforms

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The jobs where workers are on another machine: Beam's job API, and the package that is sent."""

import os
import pathlib
import socket
import subprocess
import time
from collections.abc import Iterator

import all_jobs
import emulated_bucket
import packages
import pytest
from apache_beam.options import pipeline_options
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability import stager

from parti.pipelines.beam import options

TIMEOUT = 300.0
# In the environment of workers: they open no file of this checkout, but for Python's packages, and
# none that the jobs wrote on this machine.
REFUSE = """
import sys

def refuse(event, arguments):
    path = str(arguments[0]) if event == "open" else ""
    if path.startswith({refused!r}) and not path.startswith({packages!r}):
        raise PermissionError(f"{{path}} is of the machine that sends the job")

sys.addaudithook(refuse)
"""


@pytest.fixture(scope="module")
def job_api(
    tmp_path_factory: pytest.TempPathFactory, bucket: emulated_bucket.Bucket, here: pathlib.Path
) -> Iterator[list[str]]:
    """The flags of a job service, and of a pool of workers that share only the bucket with us."""
    place = tmp_path_factory.mktemp("workers")
    wheel = packages.build_wheel(
        packages.copy_tree(tmp_path_factory.mktemp("source")), tmp_path_factory.mktemp("wheel")
    )
    python = packages.install(wheel, place / "environment")
    (installed,) = (place / "environment" / "lib").glob("python*/site-packages")
    shared = (installed / "shared.pth").read_text().split()
    refuse = {"refused": (f"{packages.ROOT}/", f"{here}/"), "packages": tuple(shared)}
    (installed / "sitecustomize.py").write_text(REFUSE.format(**refuse))
    environment = {
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "JAX_PLATFORMS": "cpu",
        **bucket.environment,
    }
    for name in ("HOME", "TMPDIR"):
        (place / name).mkdir()
        environment[name] = str(place / name)
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
    service = [str(python), "-m", f"{module}portability.local_job_service_main"]
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
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_of_another_environment_write_the_same_bytes(
    bucket: emulated_bucket.Bucket, here: pathlib.Path, job_api: list[str], workers: int
) -> None:
    root = f"{bucket.address}/workers-{workers}"
    all_jobs.put(here / "bundle", f"{root}/bundle")
    for name, job in all_jobs.jobs(root).items():
        flags = [*job_api, f"--direct_num_workers={workers}"] if name in all_jobs.BEAM_JOBS else []
        assert all_jobs.run([*job, *flags]) == 0, name
        assert all_jobs.content(f"{root}/{name}") == all_jobs.content(here / name), name


@pytest.mark.slow
def test_workers_open_no_file_of_this_machine(
    tmp_path: pathlib.Path, here: pathlib.Path, job_api: list[str]
) -> None:
    """So the test above shows that they need none."""
    job = [*all_jobs.jobs(str(here))["tokens"], f"--output={tmp_path}/tokens"]
    with pytest.raises(options.PipelineError, match="is of the machine that sends the job"):
        all_jobs.run([*job, *job_api])


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

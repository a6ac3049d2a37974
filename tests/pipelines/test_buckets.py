# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The commands of the data in an emulated bucket: kill -9 in each, then the same command again."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import all_jobs
import emulated_bucket
import pytest

from parti import cli
from parti.stages import files, manifests

TIMEOUT = 300.0


@pytest.fixture(params=["gs", "s3"])
def bucket(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[emulated_bucket.Bucket]:
    """A bucket that this process, and those it starts, find."""
    found = request.getfixturevalue(f"{request.param}_bucket")
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    yield found
    found.watch = lambda method, path: None


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables by which a process takes what an earlier one has compiled."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def is_upload(method: str, path: str) -> bool:
    """Returns whether a request begins to write a file."""
    return method == "POST" and ("/upload/" in path or "uploads" in path.partition("?")[2])


def is_copy(method: str, path: str) -> bool:
    """Returns whether a request copies a file within the store, as only publishing does."""
    is_part = "/upload/" in path or "partNumber" in path
    return "/copyTo/" in path or (method == "PUT" and not is_part)


def kill_at(
    bucket: emulated_bucket.Bucket, job: list[str], environment: dict[str, str], uploads: int
) -> None:
    """Starts a command; kills it at an upload, or (0) when it publishes."""
    seen: list[str] = []

    def watch(method: str, path: str) -> None:
        if is_upload(method, path):
            seen.append(path)
        if len(seen) == uploads if uploads else is_copy(method, path):
            process.kill()

    with subprocess.Popen([sys.executable, "-m", "parti", *job], env=environment) as process:
        bucket.watch = watch
        try:
            assert process.wait(TIMEOUT) == -9, "the command ended before it was killed"
        finally:
            bucket.watch = lambda method, path: None
            process.kill()


# Output -> the upload at which it is killed first: the probe and the attempt's mark come before.
UPLOADS = {
    "scenes": 4,
    "pairs": 5,
    "words": 3,
    "tokens": 8,
    "pictures": 9,
    "prompts": 3,
    "images": 8,
    "report": 6,
    "measured": 6,
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_killed_job_ends_with_the_bytes_of_a_local_run(
    bucket: emulated_bucket.Bucket,
    here: pathlib.Path,
    compiled: dict[str, str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Killed in the midst of its work, and when it publishes; then it is done, and done once."""
    root = f"{bucket.address}/killed"
    all_jobs.put(here / "bundle", f"{root}/bundle")
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | compiled
    for name, job in all_jobs.jobs(root).items():
        output = f"{root}/{name}"
        unfinished = output + manifests.UNFINISHED_SUFFIX
        for uploads in (UPLOADS[name], 0):
            kill_at(bucket, job, environment, uploads)
            assert not files.exists(f"{output}/{manifests.FILE_NAME}")
            is_done = files.exists(f"{unfinished}/{manifests.FILE_NAME}")
            assert files.is_dir(unfinished) and is_done == (not uploads), name
        assert cli.main(job) == 0, capfd.readouterr().err
        assert all_jobs.content(output) == all_jobs.content(here / name), name
        assert not files.is_dir(unfinished)
        all_jobs.check_finished(job, output)

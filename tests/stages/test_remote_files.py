# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What is said of a store that does not answer, or not to us."""

import threading
import time

import pytest
from apache_beam.io import filesystem, filesystems

from parti.stages import files, remote_files


class Stranger:
    """A file system each of whose methods fails, or never returns."""

    def __init__(self, error=None):
        self._error = error

    def has_dirs(self):
        return False

    def exists(self, *args, **options):
        if self._error is None:
            threading.Event().wait(60)
        raise self._error

    open = create = metadata = match = exists


@pytest.fixture(autouse=True)
def forget():
    remote_files._check_answers.cache_clear()
    yield
    remote_files._check_answers.cache_clear()


def install(monkeypatch, error=None):
    monkeypatch.setattr(remote_files.importlib, "import_module", lambda name: None)
    found = Stranger(error)
    monkeypatch.setattr(filesystems.FileSystems, "get_filesystem", lambda path: found)


CALLS = {
    "exists": lambda path: files.exists(path),
    "is_dir": lambda path: files.is_dir(path),
    "match": lambda path: files.match(path + "/*"),
    "status": lambda path: files.status(path),
    "open": lambda path: files.open(path),
    "walk": lambda path: files.walk(path),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_store_that_does_not_answer_is_named_in_seconds(monkeypatch, call):
    install(monkeypatch)
    monkeypatch.setattr(remote_files, "_ANSWER_SECONDS", 0.1)
    start = time.monotonic()
    with pytest.raises(ValueError) as error:
        CALLS[call]("gs://bucket/raw/0.tar")
    assert time.monotonic() - start < 10
    assert str(error.value) == (
        "gs://bucket: no answer in 0.1 seconds; check the network and the name, or run `gcloud "
        "auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a key file, of "
        "an account that may use it"
    )


@pytest.mark.parametrize(
    ("path", "said", "remedy"),
    [
        ("gs://b/x", "403 GET https://storage: Anonymous caller does not have", "gcloud auth"),
        ("gs://b/x", "('invalid_grant: Bad Request', 401)", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("s3://b/x", "Unable to locate credentials", "AWS_ACCESS_KEY_ID"),
        ("s3://b/x", "An error occurred (403) when calling HeadObject: Forbidden", "aws configure"),
        ("azfs://a/b/x", "Server failed to authenticate the request", "AZURE_STORAGE_CONN"),
        ("hdfs://h/x", "Permission denied: user=me, access=READ", "--hdfs_user"),
    ],
)
@pytest.mark.parametrize("call", CALLS)
def test_a_store_that_does_not_let_us_in_names_the_remedy(monkeypatch, call, path, said, remedy):
    inner = RuntimeError(said)
    for error in (inner, filesystem.BeamIOError("List operation failed", {path: inner})):
        install(monkeypatch, error)
        with pytest.raises(ValueError) as raised:
            CALLS[call](path)
        assert "not allowed; " in str(raised.value) and remedy in str(raised.value)
        assert said[:30] in str(raised.value) and "\n" not in str(raised.value)


def test_other_errors_are_of_the_system(monkeypatch):
    """Also those of a store's own library; a number in a name is not a status."""
    install(monkeypatch, RuntimeError("Timeout of 120.0s exceeded: gs://bucket/403/x"))
    with pytest.raises(OSError, match="gs://bucket/403/x: Timeout of 120.0s"):
        files.exists("gs://bucket/403/x")
    install(monkeypatch, FileNotFoundError("not there: '/tmp/pytest-403/gs%3A%2F%2Fbucket'"))
    with pytest.raises(FileNotFoundError):
        files.status("gs://bucket/403/x")


def test_what_brings_a_store_can_be_installed():
    """Parti itself is on no index."""
    assert all("parti[" not in install for _, install, _ in remote_files._EXTRAS.values())
    assert "'.[gcp]'" in remote_files._EXTRAS["gs"][1]

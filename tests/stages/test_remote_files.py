# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What is said of a store that does not answer, or not to us."""

import io
import threading
import time

import fake_remote
import pytest
from apache_beam.io import filesystem, filesystems

from parti.stages import files, manifests, remote_files


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


BEAM = filesystem.BeamIOError


@pytest.mark.parametrize("path", ["gs://b/403/x", "s3://b/x", "azfs://a/b/x", "hdfs://h/404/x"])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("Timeout of 120.0s exceeded: {path}"), "Timeout of 120.0s"),
        (BEAM("503 backend error"), "503 backend error"),
        (BEAM("List operation failed", {"{path}": RuntimeError("503 no")}), "503 no"),
        (BEAM("libhdfs error in renaming", RuntimeError("standby")), "renaming .* standby"),
        (BEAM("Delete operation failed", {"a": BEAM("404"), "b": BEAM("503 no")}), "404 .*503 no"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (ConnectionResetError(104, "Connection reset by peer"), "reset by peer"),
    ],
)
def test_a_store_that_fails_is_named_with_what_to_do(monkeypatch, path, error, said):
    """Whatever raises it; a number in a name is no status."""
    install(monkeypatch, error)
    message = rf"^{path}: the store failed \(.*{said}.*\); run the same command again$"
    for call in ("exists", "status", "open"):
        with pytest.raises(files.StoreError, match=message):
            CALLS[call](path)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError("not there: '/tmp/pytest-403/gs%3A%2F%2Fbucket'"), FileNotFoundError),
        (BEAM("File not found: hdfs://h/403/x"), FileNotFoundError),
        (BEAM("Metadata failed", {"azfs://a/b/x": RuntimeError("no", 404)}), FileNotFoundError),
        (BEAM("Path already exists: /403/x"), FileExistsError),
        (BEAM("List failed", {"x": RuntimeError("'/x' is not a directory.")}), NotADirectoryError),
        (FileExistsError("there"), FileExistsError),
        (ValueError("Could not parse url"), ValueError),
    ],
)
def test_what_is_there_or_not_is_no_failure(monkeypatch, error, kind):
    install(monkeypatch, error)
    with pytest.raises(kind) as raised:
        files.status("hdfs://h/403/x")
    assert not isinstance(raised.value, files.StoreError | files.AccessError)


class Interrupted(io.BytesIO):
    """A file of a store that fails at one of its methods."""

    def __init__(self, method):
        super().__init__(b"content")
        setattr(self, method, self._fail)

    def _fail(self, *args):
        raise filesystem.BeamIOError("503 backend error")


@pytest.mark.parametrize(
    ("mode", "method", "use"),
    [
        ("rb", "read", lambda file: file.read()),
        ("rb", "seek", lambda file: file.seek(3)),
        ("wb", "write", lambda file: file.write(b"1")),
        ("wb", "close", lambda file: file.close()),
        ("w", "write", lambda file: file.close()),
    ],
)
def test_an_open_file_fails_as_its_store(tmp_path, monkeypatch, mode, method, use):
    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path))
    file = Interrupted(method)
    for name in ("open", "create"):
        monkeypatch.setattr(fake_remote.Store, name, lambda *args, **options: file)
    opened = files.open("store://b/x", mode)
    if mode == "w":
        opened.write("1")
    with pytest.raises(files.StoreError, match="^store://b/x: the store failed .503 backend"):
        use(opened)
    del file.__dict__[method]
    opened.close()


def test_a_failing_store_damages_nothing(tmp_path, monkeypatch):
    """What it holds is not called damaged, and a folder that it does not list not empty."""
    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path))

    def fail(*args, **options):
        raise filesystem.BeamIOError("503 backend error")

    for owner in (fake_remote.Store, fake_remote.Tree):
        scheme = owner.scheme()
        files.make_dirs(f"{scheme}://b")
        files.write_bytes(f"{scheme}://b/x.json", b"{}")
        with monkeypatch.context() as patch:
            patch.setattr(owner, "open", fail)
            with pytest.raises(files.StoreError, match=f"{scheme}://b/x.json: the store failed"):
                manifests.read_json(f"{scheme}://b/x.json", "remove it")
        with monkeypatch.context() as patch:
            for name in ("_list", "exists"):
                patch.setattr(owner, name, fail)
            for list_ in (files.is_empty, files.walk, files.is_dir):
                with pytest.raises(files.StoreError, match=f"{scheme}://b.*: the store failed"):
                    list_(f"{scheme}://b")


def test_what_an_error_came_of():
    """Also what was raised while another was handled, unless it says that it hides it."""
    store, middle, hiding, last = OSError("503"), KeyError("x"), ValueError("y"), ValueError("z")
    middle.__context__ = store
    hiding.__context__ = last.__cause__ = middle
    hiding.__suppress_context__ = True
    assert list(files.causes(last)) == [last, middle, store]
    assert list(files.causes(hiding)) == [hiding]


def test_what_brings_a_store_can_be_installed():
    """Parti itself is on no index."""
    assert all("parti[" not in install for _, install, _ in remote_files._EXTRAS.values())
    assert "'.[gcp]'" in remote_files._EXTRAS["gs"][1]

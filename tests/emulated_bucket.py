# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A bucket on the loopback: `gs://parti-test`, which fails when it is told to, or `s3://parti-test`.

One of each for a whole test process: the libraries keep its address. Generations of objects of
`gs://`, of which TensorStore makes much, are added to what the emulator does.
"""

import contextlib
import functools
import http
import http.server
import io
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from parti.stages import files

NAME = "parti-test"


class Bucket:
    """The bucket.

    Attributes:
      address: of the bucket.
      environment: the variables by which a process finds it.
      status: what `gs://` answers to each request until `until`, a moment of `time.monotonic`.
      refused: how many requests were answered with it.
      watch: called with method and path of each request, also of those in a batch, before it is
        answered.
    """

    def __init__(self, scheme: str, environment: dict[str, str]) -> None:
        self.address, self.environment = f"{scheme}://{NAME}", environment
        self.status, self.until, self.refused = 503, 0.0, 0
        self.watch: Callable[[str, str], None] = lambda method, path: None

    @contextlib.contextmanager
    def answering(self, status: int, seconds: float = 1e9) -> Iterator[None]:
        """Refuses all requests inside, or for some seconds of it."""
        self.status, self.until, self.refused = status, time.monotonic() + seconds, 0
        try:
            yield
        finally:
            self.until = 0.0

    def flip(self, path: str) -> None:
        """Changes a bit in the middle of a file."""
        content = bytearray(files.read_bytes(path))
        content[len(content) // 2] ^= 1
        files.write_bytes(path, bytes(content))


@contextlib.contextmanager
def serve() -> Iterator[Bucket]:
    """Serves the bucket as `gs://`; skips where the packages for it are missing."""
    server = pytest.importorskip("gcp_storage_emulator.server")
    exceptions = pytest.importorskip("gcp_storage_emulator.exceptions")
    pytest.importorskip("gcsfs")

    class Handler(server.RequestHandler):
        def handle_one_request(self) -> None:
            for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
                answer = functools.partial(self._answer, method)
                setattr(self, f"do_{method}", answer)
            super().handle_one_request()

        def _answer(self, method: str) -> None:
            bucket.watch(method, self.path)
            self.generation = ""
            whole = self.rfile
            if "/batch/" in self.path:
                body = whole.read(int(self.headers["Content-Length"]))
                for inner, path in re.findall(r"^([A-Z]+) (\S+) HTTP", body.decode(), re.MULTILINE):
                    bucket.watch(inner, path)
                self.rfile = io.BytesIO(body)
            try:
                self._answer_or_refuse(method)
            finally:
                self.rfile = whole

        def _answer_or_refuse(self, method: str) -> None:
            if time.monotonic() < bucket.until:
                bucket.refused += 1
                self._refuse(bucket.status)
                return
            with lock:
                if status := self._check_generation(method):
                    self._refuse(status)
                else:
                    getattr(super(), f"do_{method}")()

        def _check_generation(self, method: str) -> int:
            """Returns the status if the generation of an object is not as a request wants it."""
            url = urllib.parse.urlsplit(self.path)
            query = dict(urllib.parse.parse_qsl(url.query))
            is_read = method == "GET" and query.get("alt") == "media"
            name = url.path.partition("/o/")[2] if is_read else query.get("name", "")
            if not name:
                return 0
            try:
                found = self.storage.get_file_obj(NAME, urllib.parse.unquote(name))
            except exceptions.NotFound:
                found = {"generation": "0"}
            if is_read and found["generation"] != "0":
                self.generation = found["generation"]
            if query.get("ifGenerationNotMatch") == self.generation != "":
                return http.HTTPStatus.NOT_MODIFIED
            wanted = query.get("ifGenerationMatch", found["generation"])
            return 0 if wanted == found["generation"] else http.HTTPStatus.PRECONDITION_FAILED

        def end_headers(self) -> None:
            if self.generation:
                self.send_header("x-goog-generation", self.generation)
            super().end_headers()

        def _refuse(self, status: int) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(http.HTTPStatus(status))
            self.send_header("Content-Length", "0")
            self.end_headers()

    lock = threading.Lock()
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(server, "RequestHandler", Handler)
            # In a thread each: a connection on which nothing is asked yet would hold up all others.
            patch.setattr(http.server, "HTTPServer", http.server.ThreadingHTTPServer)
            made = server.create_server("127.0.0.1", 0, in_memory=True, default_bucket=NAME)
            running = stack.enter_context(made)
        url = f"http://127.0.0.1:{running._api._httpd.server_address[1]}"
        environment = {
            "STORAGE_EMULATOR_HOST": url,
            "TENSORSTORE_GCS_HTTP_URL": url,
            "GOOGLE_CLOUD_PROJECT": "test",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }
        bucket = Bucket("gs", environment)
        yield bucket


@contextlib.contextmanager
def serve_s3() -> Iterator[Bucket]:
    """Serves the bucket as `s3://`; skips where the packages for it are missing."""
    boto3 = pytest.importorskip("boto3")
    moto = pytest.importorskip("moto.moto_server.werkzeug_app")
    serving = pytest.importorskip("werkzeug.serving")
    answer = moto.DomainDispatcherApplication(moto.create_backend_app)

    class Handler(serving.WSGIRequestHandler):
        def log(self, *arguments: Any) -> None:
            pass

    def application(request: dict[str, Any], start: Any) -> Any:
        path = request["PATH_INFO"] + "?" + request["QUERY_STRING"]
        bucket.watch(request["REQUEST_METHOD"], path)
        return answer(request, start)

    server = serving.make_server("127.0.0.1", 0, application, True, request_handler=Handler)
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    url = f"http://127.0.0.1:{server.server_port}"
    places = {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1"}
    bucket = Bucket("s3", keys | places)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in bucket.environment.items():
                patch.setenv(name, value)
            boto3.client("s3").create_bucket(Bucket=NAME)
        yield bucket
    finally:
        server.shutdown()
        thread.join()

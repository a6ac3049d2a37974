# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures by URL, from a local server that misbehaves in the ways of real ones."""

import collections
import contextlib
import dataclasses
import email.utils
import gzip
import json
import threading
import time
from http import server

import pytest
import urllib3

from parti.pipelines import readers
from parti.pipelines.readers.base import rows
from parti.pipelines.readers.http import connections, downloads, fetching
from parti.pipelines.readers.tables import pairs

PICTURE = b"\x89PNG" + bytes(range(256)) * 8
SETTINGS = fetching.FetchSettings(
    threads=16,
    per_host=16,
    connect_timeout=20,  # the machine may be busy
    read_timeout=20,
    total_timeout=30,
    retries=1,
    backoff=0.01,
    max_wait=2,
    max_bytes=10_000,
    allow_private=True,
)


class Handler(server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        state = self.server
        path = self.path.partition("?")[0]
        with state.lock:
            state.asked[self.path] += 1
            state.times.append(time.monotonic())
            state.agents.add(self.headers["User-Agent"])
            state.active += 1
            state.most = max(state.most, state.active)
            count = state.asked[self.path]
        try:
            with contextlib.suppress(OSError):
                getattr(self, path.strip("/").replace("-", "_"), self.missing)(count)
        finally:
            with state.lock:
                state.active -= 1

    def answer(self, status=200, body=PICTURE, length=None, **headers):
        self.send_response(status)
        headers = {"Content_Type": "image/png", **headers}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def missing(self, count):
        self.answer(404)

    def good(self, count):
        self.answer()

    def slowish(self, count):
        time.sleep(0.05)
        self.answer()

    def untyped(self, count):
        self.answer(Content_Type="application/octet-stream")

    def gone(self, count):
        self.answer(410)

    def broken(self, count):
        self.answer(500)

    def broken_once(self, count):
        self.answer(503 if count == 1 else 200)

    def silent(self, count):
        time.sleep(3)

    def dripping(self, count):
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", "5000")
        self.end_headers()
        for _ in range(30):
            self.wfile.write(b"x")
            time.sleep(0.1)

    def dripping_headers(self, count):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        for _ in range(30):
            self.wfile.write(b"x")
            time.sleep(0.1)

    def truncated(self, count):
        self.answer(length=5000)
        self.close_connection = True

    def truncated_chunks(self, count):
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"5\r\nabcde\r\n")
        self.close_connection = True

    def huge(self, count):
        self.answer(body=b"", length=10**12)

    def huge_unsaid(self, count):
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        self.close_connection = True
        for _ in range(10_000):
            self.wfile.write(b"x" * 65536)

    def bomb(self, count):
        self.answer(body=gzip.compress(bytes(10**7)), Content_Encoding="gzip")

    def compressed(self, count):
        self.answer(body=gzip.compress(PICTURE), Content_Encoding="gzip")

    def page(self, count):
        self.answer(body=b"<html>", Content_Type="text/html; charset=utf-8")

    def loop(self, count):
        self.answer(302, Location="/loop")

    def onward(self, count):
        self.answer(301, Location="good")

    def to_file(self, count):
        self.answer(302, Location="file:///etc/passwd")

    def to_nowhere(self, count):
        self.answer(302)

    def limited(self, count):
        self.answer(429, Retry_After="1") if count == 1 else self.answer()

    def limited_long(self, count):
        self.answer(429, Retry_After="3600")

    def opted_out(self, count):
        self.answer(X_Robots_Tag="noai")

    def opted_out_in_a_second_header(self, count):
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("X-Robots-Tag", "otherbot: nofollow")
        self.send_header("X-Robots-Tag", "noai")
        self.send_header("Content-Length", str(len(PICTURE)))
        self.end_headers()
        self.wfile.write(PICTURE)

    def redirect_opted_out(self, count):
        self.answer(302, Location="/good", X_Robots_Tag="noimageai")

    def garbage(self, count):
        self.wfile.write(b"\x00\xff not http at all\r\n\r\n")
        self.close_connection = True


@pytest.fixture(scope="module")
def served():
    found = server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.daemon_threads = True
    found.lock = threading.Lock()
    thread = threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture
def site(served, monkeypatch):
    monkeypatch.setattr(Handler, "log_message", lambda *_: None)
    with served.lock:
        served.asked, served.times, served.agents = collections.Counter(), [], set()
        served.active = served.most = 0
    return served


def fetch(site, *paths, settings=SETTINGS, host="127.0.0.1", **changes):
    fetcher = fetching.Fetcher(dataclasses.replace(settings, **changes))
    urls = [p if "://" in p or not p else f"http://{host}:{site.server_port}/{p}" for p in paths]
    try:
        found = list(fetcher.fetch_all(enumerate(urls)))
    finally:
        fetcher.close()
    assert [index for index, _ in found] == list(range(len(paths)))
    return [answer for _, answer in found]


def reason(answer):
    return answer.reason if isinstance(answer, rows.Rejected) else ""


REASONS = {
    "good": "",
    "untyped": "",
    "compressed": "",
    "onward": "",
    "broken-once": "",
    "limited": "",
    "absent": "fetch_http_404",
    "gone": "fetch_http_410",
    "broken": "fetch_http_other",
    "truncated": "fetch_truncated",
    "truncated-chunks": "fetch_truncated",
    "huge": "fetch_too_large",
    "huge-unsaid": "fetch_too_large",
    "bomb": "fetch_too_large",
    "page": "fetch_not_image",
    "loop": "fetch_redirects",
    "to-file": "fetch_refused",
    "to-nowhere": "fetch_failed",
    "limited-long": "fetch_http_429",
    "opted-out": "fetch_opt_out",
    "opted-out-in-a-second-header": "fetch_opt_out",
    "redirect-opted-out": "fetch_opt_out",
    "garbage": "fetch_connection",
}


def test_each_misbehaviour_has_its_reason_and_rows_keep_their_order(site):
    answers = fetch(site, *REASONS)
    found = {name: reason(answer) for name, answer in zip(REASONS, answers, strict=True)}
    assert found == REASONS
    assert set(found.values()) - {""} <= set(rows.REASONS)
    for name, answer in zip(REASONS, answers, strict=True):
        assert REASONS[name] or answer == PICTURE, name
        assert not REASONS[name] or answer.measure, name


def test_no_server_can_delay_the_end(site):
    start = time.monotonic()
    slow = ("silent", "dripping", "dripping-headers")
    answers = fetch(site, *slow, read_timeout=0.3, total_timeout=0.8)
    assert [answer.reason for answer in answers] == ["fetch_timeout"] * 3
    assert all(site.asked[f"/{name}"] == 2 for name in slow)
    assert time.monotonic() - start < 5  # else they have been heard to their end


def test_only_what_may_pass_is_tried_again(site):
    fetch(site, "absent", "gone", "page", "opted-out", "huge", "broken", "truncated")
    assert {name: site.asked[f"/{name}"] for name in ("absent", "gone", "page", "opted-out")} == {
        "absent": 1,
        "gone": 1,
        "page": 1,
        "opted-out": 1,
    }
    assert site.asked["/broken"] == site.asked["/truncated"] == 2


def test_a_host_that_asks_for_rest_gets_it(site):
    # The other rows of this host wait too.
    fetch(site, "limited", *[f"good?{i}" for i in range(5)], per_host=1)
    first, second = site.times[:2]
    assert second - first > 0.95
    assert fetch(site, "limited-long")[0].measure == "HTTP 429"


def test_requests_to_one_host_are_bounded(site):
    start = time.monotonic()
    fetch(site, *[f"slowish?{i}" for i in range(12)], per_host=3)
    assert site.most <= 3
    assert time.monotonic() - start > 4 * 0.05


def test_the_bound_holds_for_all_who_use_a_fetcher(site):
    fetcher = fetching.Fetcher(dataclasses.replace(SETTINGS, per_host=2))
    urls = [f"http://127.0.0.1:{site.server_port}/slowish?{i}" for i in range(6)]

    def work():
        assert all(answer == PICTURE for _, answer in fetcher.fetch_all((u, u) for u in urls))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fetcher.close()
    assert sum(site.asked.values()) == 18
    assert site.most <= 2


def test_requests_to_one_host_keep_their_distance(site):
    fetch(site, *[f"good?{i}" for i in range(4)], delay=0.1)
    times = sorted(site.times)
    assert times[-1] - times[0] > 0.15  # 0.3 s, less what a busy machine makes of it


def test_a_slow_host_does_not_hold_up_others(site):
    # 127.0.0.2 is another host by name, on the same server if the system lets it.
    slow = [f"http://127.0.0.1:{site.server_port}/slowish?{i}" for i in range(20)]
    others = [f"http://localhost:{site.server_port}/good?{i}" for i in range(10)]
    fetch(site, *slow, *others, per_host=1, threads=2)
    done = {path: place for place, path in enumerate(site.asked)}
    assert done["/good?9"] < done["/slowish?19"]


def test_rows_without_a_url_pass_in_their_place(site):
    answers = fetch(site, "", "slowish", "", "")
    assert answers == [b"", PICTURE, b"", b""]


def test_rows_are_taken_as_there_is_room(site):
    taken = []

    def urls():
        for i in range(100):
            taken.append(i)
            yield i, f"http://127.0.0.1:{site.server_port}/good?{i}"

    fetcher = fetching.Fetcher(dataclasses.replace(SETTINGS, window=10))
    for index, _ in fetcher.fetch_all(urls()):
        assert len(taken) <= index + 11
    fetcher.close()


def test_pictures_that_wait_are_bounded(site):
    size = len(PICTURE)
    paths = ["slowish", *[f"good?{i}" for i in range(40)]]
    fetcher = fetching.Fetcher(dataclasses.replace(SETTINGS, window_bytes=3 * size, threads=2))
    rows_ = [(p, f"http://127.0.0.1:{site.server_port}/{p}") for p in paths]
    found = fetcher.fetch_all(rows_)
    next(found)
    time.sleep(0.2)
    assert len(site.asked) <= 3 + 2 + 1
    assert len(list(found)) == 40
    fetcher.close()


def test_rows_that_wait_are_bounded_with_their_metadata(site, tmp_path, monkeypatch):
    paths = ["silent", *[f"good?{i}" for i in range(15)]]
    urls = [f"http://127.0.0.1:{site.server_port}/{path}" for path in paths]
    # 20 MB each as Python objects.
    lines = [json.dumps({"url": url, "text": "t", "a": [[]] * 250_000}) for url in urls]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    (source,) = readers.find_sources([str(tmp_path / "t.jsonl")])
    taken = []
    prepare = pairs._prepare
    monkeypatch.setattr(pairs, "_prepare", lambda *args: taken.append(1) or prepare(*args))
    settings = dataclasses.replace(
        SETTINGS, retries=0, read_timeout=2, total_timeout=30, window_bytes=3 * 10**6
    )
    fetcher = fetching.Fetcher(settings)
    found = readers.read_source(source, fetcher)
    assert next(found).reason == "fetch_timeout"
    assert len(taken) == 3  # which reach the bound
    rest = list(found)
    fetcher.close()
    assert [row.image for row in rest] == [PICTURE] * 15
    assert rest[0].metadata["a"] == [[]] * 250_000


def test_long_captions_and_urls_count_too():
    pair, long = (rows.make_pair("k", b"", text, "s", {}) for text in ("t", "x" * 1000))
    for row in (
        pairs._Ready(long, b"{}"),
        pairs._Ready(pair, b"{}", url="x" * 1000),
        pairs._Ready(pair, b"{}", image=bytes(1000)),
    ):
        assert 1000 < pairs._size(row) < 2000
    assert pairs._size(rows.Rejected("k", "broken_row")) == 0


def test_threads_of_a_process_share_a_fetcher(monkeypatch):
    make = fetching.Fetcher
    monkeypatch.setattr(fetching, "Fetcher", lambda s: time.sleep(0.05) or make(s))
    monkeypatch.setattr(fetching, "_shared", {})
    found = []
    start = threading.Barrier(8)

    def work():
        start.wait()
        found.append(fetching.shared(SETTINGS))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1
    assert fetching.shared(dataclasses.replace(SETTINGS, threads=1)) is not found[0]


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:{port}/good", "http://localhost:{port}/good", "http://[::1]:{port}/good"],
)
def test_private_addresses_are_not_asked(site, url):
    (answer,) = fetch(site, url.format(port=site.server_port), allow_private=False)
    assert answer.reason == "fetch_refused"
    assert not site.asked


@pytest.mark.parametrize(
    "url",
    ["ftp://x/a.png", "file:///etc/passwd", "nonsense", "http://", "http://[", "http://a b/", "//x"]
    + ["http://x/" + "a" * 10_000, "http://\x00/", "javascript:alert(1)", "http://x:99999/"],
)
def test_what_is_no_http_address_is_refused(site, url):
    fetcher = fetching.Fetcher(dataclasses.replace(SETTINGS, retries=0))
    ((_, answer),) = fetcher.fetch_all([("row", url)])
    fetcher.close()
    assert answer.reason in ("fetch_refused", "fetch_no_host"), answer
    assert "host=" not in answer.measure  # how the library calls its connection


def test_hosts_that_are_not_there(site):
    (answer,) = fetch(site, "http://no-such-host.invalid/a.png")
    assert answer.reason == "fetch_no_host"
    (answer,) = fetch(site, "http://127.0.0.1:1/a.png")
    assert answer.reason == "fetch_connection"
    (answer,) = fetch(site, f"https://127.0.0.1:{site.server_port}/good")
    assert answer.reason in ("fetch_tls", "fetch_connection")


def test_the_server_is_told_who_asks(site):
    fetch(site, "good", user_agent="mine/1 (me@example.org)")
    assert site.agents == {"mine/1 (me@example.org)"}


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("10.0.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_public_addresses(address, public):
    assert connections.is_public(address) is public


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, ""),
        ({"X-Robots-Tag": "nofollow"}, ""),
        ({"X-Robots-Tag": "NoAI, NoImageAI"}, "X-Robots-Tag: noai"),
        ({"X-Robots-Tag": "nofollow, noimageindex"}, "X-Robots-Tag: noimageindex"),
        ({"X-Robots-Tag": "otherbot: noai"}, ""),
        ({"X-Robots-Tag": "otherbot: noai, nofollow, parti: noindex"}, "X-Robots-Tag: noindex"),
        ({"X-Robots-Tag": "max-snippet: 5, noai"}, "X-Robots-Tag: noai"),
        ({"X-Robots-Tag": "*: none"}, "X-Robots-Tag: none"),
        ({"TDM-Reservation": "1"}, "TDM-Reservation: 1"),
        ({"TDM-Reservation": "0"}, ""),
    ],
)
def test_opt_outs(headers, found):
    assert downloads.opt_out(urllib3.HTTPHeaderDict(headers), "parti/0.1") == found


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (("otherbot: nofollow", "noai"), "X-Robots-Tag: noai"),
        (("noai", "otherbot: nofollow"), "X-Robots-Tag: noai"),
        (("otherbot: nofollow", "nofollow", "parti: noindex"), "X-Robots-Tag: noindex"),
        (("nofollow", "otherbot: noai"), ""),
        (("parti: nofollow", "otherbot: noai"), ""),
    ],
)
def test_each_header_is_read_by_itself(values, found):
    headers = urllib3.HTTPHeaderDict()
    for value in values:
        headers.add("x-robots-tag", value)
    assert downloads.opt_out(headers, "parti/0.1") == found
    headers = urllib3.HTTPHeaderDict([("TDM-Reservation", "0"), ("tdm-reservation", "1")])
    assert downloads.opt_out(headers, "parti/0.1") == "TDM-Reservation: 1"


def test_opt_outs_can_be_left_unread(site):
    (answer,) = fetch(site, "opted-out", respect_opt_out=False)
    assert answer == PICTURE


def test_retry_after():
    assert downloads.retry_after("120") == 120
    assert (
        downloads.retry_after("-5")
        == downloads.retry_after("soon")
        == downloads.retry_after("")
        == 0
    )
    later = email.utils.formatdate(time.time() + 50, usegmt=True)
    assert 45 < downloads.retry_after(later) <= 50
    assert downloads.retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0


@pytest.mark.parametrize(
    "changes", [{"threads": 0}, {"delay": -1}, {"total_timeout": float("nan")}]
)
def test_settings_are_checked(changes):
    (name,) = changes
    with pytest.raises(ValueError, match=f"fetch setting {name}=.*: give"):
        fetching.FetchSettings(**changes)

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Which URLs `parti clean` asks for: those that a rule may keep, and each only once."""

import collections
import http.server
import io
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import fake_remote
import numpy as np
import pytest
from PIL import Image

from parti.pipelines import clean_pairs
from parti.pipelines.readers.http import fetching


def jpeg(seed, side=40):
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((side, side)).save(buffer, "JPEG")
    return buffer.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    """`/7.jpg` is a picture, `/500` and the like have that status, `/noai.jpg` is opted out."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        with self.server.lock:
            self.server.asked[self.path] += 1
        name = self.path.strip("/").partition(".")[0]
        time.sleep(self.server.seconds)
        status = int(name) if name.isdecimal() and len(name) == 3 else 200
        self.send_response(status)
        body = jpeg(int(name)) if name.isdecimal() and status == 200 else b"x"
        self.send_header("Content-Type", "text/html" if name == "page" else "image/jpeg")
        if name == "noai":
            self.send_header("X-Robots-Tag", "noai")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        with self.server.lock:
            self.server.answered[self.path] += 1

    def log_message(self, *_):
        pass


@pytest.fixture
def site():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        found.daemon_threads, found.lock, found.seconds = True, threading.Lock(), 0.0
        found.asked, found.answered = collections.Counter(), collections.Counter()
        found.url = f"http://127.0.0.1:{found.server_port}"
        threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True).start()
        yield found
        found.shutdown()


def write_table(path, site, names, captions=None):
    captions = captions or {}
    rows = [
        {"url": f"{site.url}/{name}", "caption": captions.get(name, f"picture number {name}")}
        for name in names
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def arguments(table, output, *more):
    given = ["--image_size=16", "--validation_fraction=0", "--fetch_private", "--fetch_retries=0"]
    return [*given, f"--input={table}", f"--output={output}", "--preset=none", *map(str, more)]


def clean(*given):
    return clean_pairs.run(arguments(*given))


def rejected(output):
    lines = (p.read_text().splitlines() for p in sorted(output.glob("rejected-*.jsonl")))
    return [json.loads(line) for file in lines for line in file]


def content(output):
    """Returns the files that do not depend on the clock."""
    clocked = ("run.json", "report.html", "manifest.json")
    return {p.name: p.read_bytes() for p in output.iterdir() if p.name not in clocked}


def test_rows_that_fall_to_rules_of_captions_and_scores_are_not_fetched(
    site, tmp_path, monkeypatch, capsys
):
    captions = {"0.jpg": "one", "1.jpg": "two", "2.jpg": "a\0b", "404": "three"}
    names = [*(f"{i}.jpg" for i in range(8)), "404", "410"]
    table = write_table(tmp_path / "urls.jsonl", site, names, captions)
    lines = [json.loads(line) for line in table.read_text().splitlines()]
    lines[3]["similarity"] = 0.1
    table.write_text("\n".join(map(json.dumps, lines)))
    more = ("--min_words=2", "--min_similarity=0.3", "--min_side=20")
    assert clean(table, tmp_path / "pairs", *more) == 0
    assert sorted(site.asked) == ["/4.jpg", "/410", "/5.jpg", "/6.jpg", "/7.jpg"]
    said = capsys.readouterr().out
    assert "pictures by URL: 5 fetched, 4 not asked for (the row fell to a rule for capt" in said
    found = {row["row"]: (row["reason"], row["measure"]) for row in rejected(tmp_path / "pairs")}
    assert found[0] == ("caption_too_few_words", "1 word; at least 2 allowed")
    assert found[2] == ("broken_caption", "a NUL at character 1")
    assert found[3][0] == "score_similarity" and found[9][0] == "fetch_http_410"
    assert found[8][0] == "caption_too_few_words"  # not 404, which nobody asked for
    # The order of before, on rows that the network gives: the same in every byte.
    table.write_text("\n".join(map(json.dumps, lines[:8])))
    assert clean(table, tmp_path / "now", *more) == 0
    images = fetching.Images
    monkeypatch.setattr(fetching, "Images", lambda f, _, part: images(f, fetching.every, part))
    assert clean(table, tmp_path / "before", *more) == 0
    assert site.asked["/0.jpg"] == 1
    assert content(tmp_path / "now") == content(tmp_path / "before")


NAMES = [*(f"{i}.jpg" for i in range(6)), "3.jpg", "404", "410", "403", "503", "page", "noai.jpg"]


def test_other_rules_and_sizes_need_no_network(site, tmp_path, capsys):
    table = write_table(tmp_path / "urls.jsonl", site, NAMES)
    keep = f"--keep_originals={tmp_path / 'originals'}"
    assert clean(table, tmp_path / "first", keep) == 0
    assert site.asked["/3.jpg"] == 1  # though two rows have it
    first = capsys.readouterr().out
    assert f"pictures by URL: 0 read from {tmp_path / 'originals'}, " in first
    site.asked.clear()
    assert clean(table, tmp_path / "second", keep, "--min_side=20") == 0
    assert site.asked == {"/503": 1}  # which may pass
    said = capsys.readouterr().out
    assert f"pictures by URL: 12 read from {tmp_path / 'originals'}, 1 fetched, 0 not" in said
    assert "12 read from" in (tmp_path / "second" / "report.html").read_text()
    assert "12 read from" in json.loads((tmp_path / "second" / "run.json").read_text())["urls"]
    assert clean(table, tmp_path / "without", "--min_side=20") == 0
    assert content(tmp_path / "second") == content(tmp_path / "without")
    # Another table, another form of output, an earlier run to add to.
    site.asked.clear()
    other = write_table(tmp_path / "other.jsonl", site, ["9.jpg", "404", *reversed(NAMES[:4])])
    more = ("--image_format=jpeg", keep)
    assert clean(other, tmp_path / "third", "--min_words=2", "--image_size=24", *more) == 0
    assert site.asked == {"/9.jpg": 1}


def test_only_what_is_missing_is_asked_with_extend(site, tmp_path):
    keep = f"--keep_originals={tmp_path / 'originals'}"
    table = write_table(tmp_path / "urls.jsonl", site, ["1.jpg", "2.jpg", "503", "404"])
    assert clean(table, tmp_path / "old", keep) == 0
    site.asked.clear()
    more = (f"--extend={tmp_path / 'old'}", "--retry_rejected", "fetch_http_other")
    assert clean(table, tmp_path / "new", *more) == 0  # also without what is kept
    assert site.asked == {"/503": 1}
    new = write_table(tmp_path / "new.jsonl", site, ["1.jpg", "5.jpg"])
    site.asked.clear()
    given = arguments(table, tmp_path / "more", keep, *more[:1])
    assert clean_pairs.run([*given, "--input", str(table), str(new)]) == 0
    assert site.asked == {"/5.jpg": 1}


def test_what_came_with_other_settings_is_not_taken(site, tmp_path, capsys):
    """A crawler of another name may be kept off, and private networks need their flag."""
    keep = f"--keep_originals={tmp_path / 'originals'}"
    table = write_table(tmp_path / "urls.jsonl", site, ["1.jpg", "2.jpg"])
    assert clean(table, tmp_path / "first", keep) == 0
    assert "came with another" not in capsys.readouterr().err
    assert clean(table, tmp_path / "second", keep, "--user_agent=parti/9", "--fetch_timeout=9") == 0
    assert site.asked == {"/1.jpg": 1, "/2.jpg": 1}
    assert clean(table, tmp_path / "third", keep, "--user_agent=other/1") == 0
    assert site.asked == {"/1.jpg": 2, "/2.jpg": 2}
    assert "came with another --user_agent or --fetch_private" in capsys.readouterr().err
    given = arguments(table, tmp_path / "fourth", keep)
    given.remove("--fetch_private")
    with pytest.raises(ValueError, match="2 fetch_refused"):
        clean_pairs.run(given)


def test_places_for_originals_that_cannot_be(site, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    table = write_table(raw / "urls.jsonl", site, ["1.jpg"])
    (tmp_path / "file").write_text("")
    for input, keep, message in (
        (raw, raw / "kept", "--keep_originals=.*: is inside --input"),
        (table, tmp_path / "pairs" / "kept", "--keep_originals=.*: is in --output"),
        (table, tmp_path / "file", "--keep_originals=.*: is a file; name a folder"),
    ):
        with pytest.raises(ValueError, match=message):
            clean(input, tmp_path / "pairs", f"--keep_originals={keep}")
    assert not site.asked


def test_a_killed_run_asks_for_nothing_twice_but_what_was_under_way(site, tmp_path):
    names = [f"{i}.jpg" for i in range(1000, 1100)]
    table = write_table(tmp_path / "urls.jsonl", site, names)
    site.seconds = 0.1
    keep = f"--keep_originals={tmp_path / 'originals'}"
    given = [*arguments(table, tmp_path / "pairs", keep), "--fetch_threads=4"]
    command = [sys.executable, "-m", "parti", "clean", *given]
    process = subprocess.Popen(command, cwd=pathlib.Path(__file__).parents[2], env=dict(os.environ))
    end = time.monotonic() + 120
    while sum(site.answered.values()) < 40 and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    assert process.wait(60) == -9
    assert 40 <= sum(site.answered.values()) < 60
    site.seconds = 0.0
    assert clean_pairs.run(given) == 0
    assert set(site.asked) == {f"/{name}" for name in names}
    assert sum(site.asked.values()) - 100 <= 4  # one for each thread
    report = json.loads((tmp_path / "pairs" / "report.json").read_text())
    assert report["kept"] == 100


@pytest.mark.parametrize("scheme", ["store", "tree"])
def test_originals_may_be_on_a_remote_system(site, tmp_path, monkeypatch, scheme):
    (tmp_path / "remote" / "tree").mkdir(parents=True)
    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path / "remote"))
    table = write_table(tmp_path / "urls.jsonl", site, NAMES)
    keep = f"--keep_originals={scheme}://bucket/kept"
    assert clean(table, tmp_path / "first", keep) == 0
    site.asked.clear()
    assert clean(table, tmp_path / "second", keep, "--min_side=20") == 0
    assert site.asked == {"/503": 1}

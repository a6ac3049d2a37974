# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What `parti clean` says of a command that cannot give what was wanted; private servers."""

import functools
import http.server
import io
import json
import pathlib
import re
import threading

import numpy as np
import pytest
from apache_beam.options import pipeline_options
from PIL import Image

from parti.pipelines import clean_pairs
from parti.pipelines.beam import disk_group_by_key


def jpeg(seed, side=40):
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((side, side)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    for i in range(8):
        (folder / f"{i}.jpg").write_bytes(jpeg(i))
        (folder / f"{i}.txt").write_text(f"picture number {i}")
    return folder


def clean(*arguments):
    return clean_pairs.run(["--image_size=16", "--validation_fraction=0", *map(str, arguments)])


@pytest.fixture
def asked():
    """The paths that the site was asked for."""
    return []


@pytest.fixture
def site(folder, asked):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_request(self, *_):
            asked.append(self.path)

        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def write_table(path, urls):
    rows = [{"url": url, "caption": f"picture number {i}"} for i, url in enumerate(urls)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_private_servers_are_asked_with_a_flag(site, tmp_path):
    output = tmp_path / "pairs"
    table = write_table(tmp_path / "urls.jsonl", [f"{site}/{i}.jpg" for i in range(8)])
    message = "kept: 8 fetch_refused (127.0.0.1: a private address; --fetch_private asks it"
    with pytest.raises(ValueError, match=re.escape(message)):
        clean("--input", table, "--output", output)
    more = ["--fetch_private", "--fetch_per_host=8", "--fetch_threads=8"]
    assert clean("--input", table, "--output", output, *more) == 0
    assert json.loads((output / "report.json").read_text())["kept"] == 8


def test_what_came_is_asked_for_again_only_if_something_else_may_come(site, asked, tmp_path):
    table = write_table(tmp_path / "urls.jsonl", [f"{site}/missing.jpg"])
    arguments = ["--input", table, "--output", tmp_path / "pairs", "--fetch_private"]
    for more in ([], ["--fetch_threads=3", "--fetch_per_host=2"], ["--user_agent=other"]):
        with pytest.raises(ValueError, match=re.escape("no pair of 1")):
            clean(*arguments, *more)
        times = asked.count("/missing.jpg")
        assert times == (2 if "--user_agent=other" in more else 1)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--fetch_threads=0", "--fetch_threads=0: give 1 or more"),
        ("--fetch_per_host=0", "--fetch_per_host=0: give 1 or more"),
        ("--fetch_retries=-1", "--fetch_retries=-1: give 0 or more"),
        ("--fetch_timeout=nan", "--fetch_timeout=nan: give 0.1 or more"),
    ],
)
def test_bad_flags_are_named(folder, tmp_path, flag, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        clean("--input", folder, "--output", tmp_path / "x", flag)


def test_an_output_within_the_input_is_refused(folder, monkeypatch):
    """The next run would take the pairs there for its input, and leave the pictures out."""
    monkeypatch.chdir(folder)
    for given, output in ((folder, folder / "pairs"), (".", "deep/pairs"), (f"{folder}/", "x")):
        with pytest.raises(ValueError, match="is inside --input .*; choose a folder beside it"):
            clean("--input", given, "--output", output)
    assert clean("--input", folder, "--output", f"{folder}2") == 0
    assert clean("--input", folder, "--output", folder / "_pairs") == 0  # not read


def test_when_nothing_is_kept_each_reason_has_an_example(folder, tmp_path):
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "broken.txt").write_text("a broken one")
    with pytest.raises(ValueError, match="was kept: 8 image_too_small .*, 1 image_und.* check the"):
        clean("--input", folder, "--output", tmp_path / "x", "--min_side=100")


def test_pairs_of_an_earlier_run_are_an_evaluation_set(folder, tmp_path):
    held = tmp_path / "held"
    held.mkdir()
    for i in range(3):
        for suffix in ("jpg", "txt"):
            (held / f"{i}.{suffix}").write_bytes((folder / f"{i}.{suffix}").read_bytes())
    assert clean("--input", held, "--output", tmp_path / "evaluation") == 0
    output = tmp_path / "pairs"
    more = ["--decontaminate", tmp_path / "evaluation"]
    assert clean("--input", folder, "--output", output, *more) == 0
    assert json.loads((output / "report.json").read_text())["kept"] == 5


@pytest.mark.parametrize("flag", ["--image_root", "--extend", "--unwanted_words_file"])
def test_workers_of_dataflow_must_reach_every_place(tmp_path, flag):
    place = tmp_path / "here"
    place.write_text("word\n")
    remote = ["--input=gs://bucket/raw", "--output=gs://bucket/pairs", "--runner=DataflowRunner"]
    with pytest.raises(ValueError, match=f"{place}: workers of Dataflow do not see the files"):
        clean(*remote, f"{flag}={place}")


def test_rows_are_grouped_in_local_files(tmp_path):
    def shuffle_dir(options):
        return options.view_as(disk_group_by_key.ShuffleOptions).shuffle_dir

    local = pipeline_options.PipelineOptions([])
    with clean_pairs._shuffle_dir("memory://bucket/scratch", local):
        folder = shuffle_dir(local)
        assert pathlib.Path(folder).is_dir()
    assert not pathlib.Path(folder).exists()
    local = pipeline_options.PipelineOptions([])
    with clean_pairs._shuffle_dir(str(tmp_path), local):
        assert pathlib.Path(shuffle_dir(local)).parent == tmp_path
    remote = pipeline_options.PipelineOptions(["--runner=FlinkRunner"])
    with clean_pairs._shuffle_dir(str(tmp_path), remote):
        assert shuffle_dir(remote) == ""
    given = pipeline_options.PipelineOptions([f"--shuffle_dir={tmp_path}"])
    with clean_pairs._shuffle_dir("memory://bucket/scratch", given):
        assert pathlib.Path(shuffle_dir(given)).parent == tmp_path
    assert not list(tmp_path.glob("parti-shuffle-*"))
    absent = pipeline_options.PipelineOptions([f"--shuffle_dir={tmp_path / 'absent'}"])
    with pytest.raises(ValueError, match="no such folder"), clean_pairs._shuffle_dir("", absent):
        pass

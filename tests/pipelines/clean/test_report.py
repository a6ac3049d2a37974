# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""report.json and report.html of `parti clean`: complete, safe, the same for the same pairs."""

import base64
import io
import json
import pathlib
import re
from typing import Any

import browser
import numpy as np
import pytest
from PIL import Image

from parti.data.images import images
from parti.pipelines.clean import histograms as clean_histograms
from parti.pipelines.clean import report as clean_report
from parti.pipelines.clean import report_schema

PICTURE = clean_report.thumbnail(images.encode_png(np.full((30, 60, 3), (200, 30, 30), np.uint8)))
RUN = {"seconds": 90.0, "num_workers": 2, "peak_memory": 910_000_000}


def sample(key: str, text: str = "a red box", **more: Any) -> report_schema.Sample:
    return report_schema.Sample(key=key, text=text, picture=PICTURE, **more)  # type: ignore[typeddict-item]


def minimal() -> dict[str, Any]:
    """A report with nothing that may be left out: 100 read, 60 kept."""
    return {
        "read": 100,
        "kept": 60,
        "splits": {"train": 50, "validation": 10},
        "num_bytes": 1_500_000,
        "settings": {"image_size": 64, "image_format": "png", "preset": "default"},
        "rules": [
            {"name": "broken_file", "seen": 100, "dropped": 4},
            {"name": "fetch_http_404", "seen": 96, "dropped": 6},
            {"name": "duplicate_pair", "seen": 90, "dropped": 30},
        ],
    }


def full() -> dict[str, Any]:
    """A report with something of everything."""
    side = {5: 30, 6: 40, 7: 20}
    rule = {
        "name": "image_too_small",
        "seen": 90,
        "dropped": 30,
        "title": "Too <small>",
        "explanation": "It would blur.",
        "stage": "Good picture",
        "threshold": 64,
        "unit": "px",
        "source": "a paper",
        "without_value": 7,
        "dropped_samples": [sample(f"d{i}", measure=f"{i} x 9") for i in range(40)],
        "near_samples": [sample("near", "a box of 65 px")],
    }
    copies = [sample(f"c{i}", reason="near_duplicate") for i in range(9)]
    report = minimal()
    report["rules"] = [
        *report["rules"][:2],
        rule,
        {"name": "near_duplicate", "seen": 60, "dropped": 0},
    ]
    report |= {
        "inputs": ["raw/*.tar"],
        "not_applied": [{"title": "Watermark", "why": "no pair has a score"}],
        "kept_samples": [sample(f"k{i}") for i in range(30)],
        "histograms": [clean_histograms.histogram("side", side, {6: 30}, [64])],
        "captions": {
            "distinct": 55,
            "top": [("a red box", 4), ("a tree", 2)],
            "repairs": [{"title": "Mended", "count": 2, "examples": [["cafÃ©", "café"]]}],
        },
        "copies": {
            "num_groups": 1,
            "num_dropped": 41,
            "skipped": 3,
            "groups": [{"size": 42, "kept": sample("best"), "dropped": copies}],
        },
        "evaluation": {
            "sets": [{"name": "P.tsv", "num_captions": 9, "num_pictures": 2, "num_hits": 2}],
            "hits": [
                {"pair": sample("h0"), "set": "P.tsv", "matched": "a crimson box"},
                {"pair": sample("h1"), "set": "P.tsv"},
            ],
        },
    }
    return report


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("report")
    clean_report.write(folder, full(), RUN)
    return folder


def text_of(page: str) -> str:
    """Returns what a reader sees of a page, with one space between words."""
    body = page[page.index("<body>") :]
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", body))


def test_the_page_loads_nothing_and_its_links_lead_somewhere(written: pathlib.Path) -> None:
    page = (written / "report.html").read_text()
    links = re.findall(r"(?:src|href)=[\"']?([^\"'> ]*)", page)
    assert all(link.startswith(("data:", "#")) for link in links)
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert not re.search(r"<script|@import|url\(|https?:", page) and "{{" not in page


@pytest.mark.parametrize(
    ("dropped", "sentence"),
    [
        ([0, 0], "Every pair passed every rule."),
        ([0, 4], "60% passed every rule. The other 4 failed one rule: b."),
        ([1, 3], "60% passed every rule. Of the other 4, 3 failed the same rule: b."),
        ([1, 1, 1, 1], "60% passed every rule. The other 4 failed a rule each."),
    ],
)
def test_the_first_sentence(dropped: list[int], sentence: str) -> None:
    rules = [{"title": "ABCD"[i], "dropped": count} for i, count in enumerate(dropped)]
    report = {"read": 10, "kept": 10 - sum(dropped), "rules": rules}
    assert clean_report._lead(report) == sentence


def test_the_page_says_what_happened(written: pathlib.Path) -> None:
    text = text_of((written / "report.html").read_text())
    for words in (
        "60 of 100 pairs kept",
        "60% passed every rule. Of the other 40, 30 failed the same rule: too &lt;small&gt;.",
        "50 for training",
        "1.5 MB on disk",
        "7 had no such score",
        "30 dropped, 30% of all",
        "Limit: 64 px",
        "After a paper",
        "Kept, nearest to the limit a box of 65 px",
        "Watermark no pair has a score",
        "Middle of the kept: 91 to 128 px",
        "42 alike",
        "and 36 more",
        "3 comparisons were left out",
        "a crimson box",
        "55 captions differ",
        "cafÃ© café",
        "1 min 30 s for 100 pairs: 1 a second on 2 workers, at most 910.0 MB of memory",
    ):
        assert words in text, words


def test_the_funnel_counts_down(written: pathlib.Path) -> None:
    page = (written / "report.html").read_text()
    funnel = text_of("<body>" + page[page.index('id="funnel"') : page.index('id="kept"')])
    assert re.findall(
        r"(Read|Readable|Fetched|Good picture|Only one of its kind) ([\d ,−]+)", funnel
    ) == [
        ("Read", "100 "),
        ("Readable", "96 −4 "),
        ("Fetched", "90 −6 "),
        ("Good picture", "60 −30 "),
        ("Only one of its kind", "60 "),
    ]
    assert re.findall(r'bar "[^>]*width:([\d.]+)%', page)[:4] == [
        "100.00",
        "96.00",
        "90.00",
        "60.00",
    ]
    assert "Unexplained" not in page


def test_pairs_that_no_rule_accounts_for_are_shown(tmp_path: pathlib.Path) -> None:
    clean_report.write(tmp_path, minimal() | {"kept": 59})
    assert re.search(r"Unexplained 59 −1 ", text_of((tmp_path / "report.html").read_text()))


def test_examples_are_bounded(written: pathlib.Path) -> None:
    report = json.loads((written / "report.json").read_text())
    (rule,) = [rule for rule in report["rules"] if rule["name"] == "image_too_small"]
    assert len(rule["dropped_samples"]) == clean_report.MOST["dropped_samples"]
    assert len(report["kept_samples"]) == clean_report.MOST["kept_samples"]
    assert len(report["copies"]["groups"][0]["dropped"]) == clean_report.MOST["dropped"]


def test_json_has_all_but_pictures_and_does_not_depend_on_the_run(
    written: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    clean_report.write(tmp_path, full())
    data = (written / "report.json").read_bytes()
    assert (tmp_path / "report.json").read_bytes() == data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]
    assert json.loads((written / "run.json").read_text()) == RUN
    assert b'"picture":' not in data and PICTURE.encode() not in data
    report = json.loads(data)
    assert report["kept"] == 60 and report["histograms"][0]["before"] == [30, 40, 20]
    # Words of a reason that came with none.
    assert report["rules"][1]["title"] and report["rules"][1]["stage"] == "Fetched"


def test_hostile_text_cannot_break_out(tmp_path: pathlib.Path) -> None:
    evil = "\"'><script>alert(1)</script>\u202e\x00\ud800"
    report = full()
    report["kept_samples"] = [{"key": evil, "text": evil, "measure": evil}]
    report["captions"] = {"top": [(evil, 1)], "repairs": []}
    report["inputs"] = [evil]
    report["rules"][0]["dropped_samples"] = [sample(evil, evil, measure=evil)]
    report["rules"][0]["dropped"] = 4
    clean_report.write(tmp_path, report)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page and page.count("&lt;script&gt;") >= 6
    assert json.loads((tmp_path / "report.json").read_text())["inputs"] == [
        evil.replace("\ud800", "?")
    ]


def test_long_captions_are_cut(tmp_path: pathlib.Path) -> None:
    report = minimal() | {"kept_samples": [sample("k", "word " * 2_000_000)]}
    clean_report.write(tmp_path, report)
    assert (tmp_path / "report.html").stat().st_size < 60_000
    (kept,) = json.loads((tmp_path / "report.json").read_text())["kept_samples"]
    assert len(kept["text"]) == 400 and kept["text"].endswith("…")


@pytest.mark.parametrize(
    ("threshold", "unit", "text"),
    [
        (5000, "bytes", "Limit: 5,000 bytes"),
        (0.3, "", "Limit: 0.3 "),
        (2.0, "to 1", "Limit: 2 to 1 "),
        (["en", "de"], "", "Limit: en, de "),
        (list("abcdef"), "", "Limit: a, b, c, d and 2 more "),
        (None, "px", None),
    ],
)
def test_limits(tmp_path: pathlib.Path, threshold: Any, unit: str, text: str | None) -> None:
    report = minimal()
    report["rules"][0] |= {"threshold": threshold, "unit": unit, "source": "ours"}
    clean_report.write(tmp_path, report)
    page = text_of((tmp_path / "report.html").read_text())
    assert text in page if text else "Limit:" not in page
    assert "After ours" not in page


def test_where_all_are_alike_nothing_is_drawn(tmp_path: pathlib.Path) -> None:
    report = full()
    report["histograms"] = [clean_histograms.histogram("side", {5: 9}, {5: 4}, [64])]
    report["captions"] = {"top": [("a tree", 1), ("a wall", 1)]}
    clean_report.write(tmp_path, report)
    page = (tmp_path / "report.html").read_text()
    assert "All alike: 9 before, 4 kept." in page and 'class="plot"' not in page
    assert "No caption came twice." in page and "a wall" not in page


def test_what_a_run_does_not_have_is_not_on_the_page(tmp_path: pathlib.Path) -> None:
    clean_report.write(tmp_path, minimal())
    page = (tmp_path / "report.html").read_text()
    assert not re.search('id="(measures|copies|evaluation|captions)"', page)
    assert "Time and settings" not in page


def test_nothing_read_and_nothing_dropped(tmp_path: pathlib.Path) -> None:
    nothing = {"read": 0, "kept": 0, "splits": {"train": 0, "validation": 0}, "rules": []}
    clean_report.write(tmp_path, minimal() | nothing)
    assert "Every pair passed every rule." in (tmp_path / "report.html").read_text()
    assert "No rule dropped a pair." in (tmp_path / "report.html").read_text()


def test_a_wrong_report_is_refused(tmp_path: pathlib.Path) -> None:
    report = minimal() | {"not_aplied": []}
    del report["read"]
    with pytest.raises(ValueError, match=r"unknown keys \['not_aplied'\], missing keys \['read'\]"):
        clean_report.write(tmp_path, report)
    assert list(tmp_path.iterdir()) == []


def test_thumbnails_are_small_and_keep_their_shape() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (640, 320), "red").save(buffer, "PNG")
    for data in (buffer.getvalue(), buffer.getvalue()):
        with Image.open(io.BytesIO(base64.b64decode(clean_report.thumbnail(data)))) as picture:
            assert picture.size == (160, 80) and picture.format == "JPEG"
    assert clean_report.thumbnail(b"") == clean_report.thumbnail(b"no picture") == ""


@browser.needs_chromium
def test_the_page_fits_a_phone_and_a_desk(written: pathlib.Path, tmp_path: pathlib.Path) -> None:
    page = (written / "report.html").read_text()
    assert browser.probe(page, tmp_path, 390, 1280) == ["1280 1280 0", "390 390 0"]

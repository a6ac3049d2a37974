# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What all pages share: escaping, one style, and numbers put into words."""

import pathlib

import browser
import jinja2
import markupsafe
import pytest

from parti.pipelines.html import templates

VALUES = {
    "title": "a <b>bold</b> page",
    "metrics": {"num_images": 2, "num_prompts": 1},
    "notes": ["<i>", markupsafe.Markup("<hr>")],
    "reconstructions": "",
    "tables": [],
    "groups": [],
}


def test_values_are_escaped_unless_marked() -> None:
    page = templates.render("evaluation_report.html", **VALUES)
    assert "<title>a &lt;b&gt;bold&lt;/b&gt; page</title>" in page
    assert "&lt;i&gt;" in page and "<hr>" in page


def test_the_style_is_inside_and_nothing_is_loaded() -> None:
    page = templates.render("evaluation_report.html", **VALUES)
    folder = pathlib.Path(templates.__file__).parent
    assert folder.joinpath("page.css").read_text().strip() in page
    assert "<link rel=" in page and page.count("href=") == 1 and 'href="data:,"' in page


def test_a_name_that_is_not_given_is_an_error() -> None:
    given = {name: value for name, value in VALUES.items() if name != "tables"}
    with pytest.raises(jinja2.UndefinedError, match="tables"):
        templates.render("evaluation_report.html", **given)


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(1, 3, "33.3%"), (1, 2, "50%"), (0, 5, "0%"), (0, 0, "0%"), (5, 5, "100%")]
    + [(1, 100_000, "under 0.1%"), (99_999, 100_000, "over 99.9%")],
)
def test_shares(part: int, whole: int, text: str) -> None:
    assert templates.percent(part, whole) == text


@pytest.mark.parametrize(
    ("most", "texts"),
    [
        (1, ["0", "1"]),
        (4, ["0", "1", "2", "3", "4"]),
        (5, ["0", "2", "4"]),
        (1_999, ["0", "500", "1,000", "1,500"]),
    ],
)
def test_a_scale_of_counts(most: int, texts: list[str]) -> None:
    ticks = templates.count_ticks(most)
    assert [text for _, text in ticks] == texts and ticks[0][0] == 0
    assert ticks[-1][0] == pytest.approx(100 * int(texts[-1].replace(",", "")) / most)


def test_sizes_times_and_counts() -> None:
    assert [templates.size(n) for n in (0, 1_234, 2_500_000, 3.4e12)] == [
        *("0.0 kB", "1.2 kB", "2.5 MB", "3,400.0 GB")
    ]
    assert [templates.duration(s) for s in (0.44, 9.96, 59.7, 185, 7_800)] == [
        *("0.4 s", "10.0 s", "1 min 0 s", "3 min 5 s", "2 h 10 min")
    ]
    assert [templates.plural(n, "pair") for n in (0, 1, 2_000)] == [
        "0 pairs",
        "1 pair",
        "2,000 pairs",
    ]


@browser.needs_chromium
def test_a_table_of_many_columns_fits_a_phone(tmp_path: pathlib.Path) -> None:
    head = ["score", "prompts", "best of N", "any sample", "other prompts", "most aligned"]
    row = ["background", "200", *["0.123 [0.100, 0.146]"] * 4]
    tables = [{"title": "many", "head": head, "rows": [row, row]}]
    tables.append({"title": "two", "head": head[:2], "rows": [row[:2]]})
    tables.append({"title": "three", "head": head[:3], "rows": [row[2:5]]})
    page = templates.render("evaluation_report.html", **VALUES | {"tables": tables})
    assert browser.probe(page, tmp_path, 390, 1280) == ["1280 1280 0", "390 390 0"]

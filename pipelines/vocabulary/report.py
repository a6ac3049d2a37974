# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The report of `parti vocab`: `report.json`, and a page with the same figures and captions."""

import itertools
import json
from collections.abc import Mapping
from typing import Any

from parti.pipelines.html import templates
from parti.pipelines.vocabulary import statistics as vocabulary_statistics
from parti.stages import files

NAME = "report"
_KINDS = {
    "special": "padding, end of text, unknown",
    "symbols": "symbols for training objectives",
    "bytes": "bytes, to spell other characters",
    "characters": "single characters",
    "beginnings": "words and beginnings of words",
    "parts": "other parts of words",
}


def write(directory: str, report: Mapping[str, Any]) -> None:
    """Writes `statistics.report`, with captions, used_captions and settings, as JSON and a page."""
    text = json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False)
    for suffix, content in ((".json", text + "\n"), (".html", render(report))):
        files.write_bytes(files.join(directory, NAME + suffix), content.encode())


def summary(report: Mapping[str, Any]) -> str:
    """Returns two lines for the terminal."""
    train, length = report["train"], report["text_length"]
    lengths, size = train["length_percentiles"], sum(report["pieces"].values())
    rate, what = _lost(report)
    return (
        f"{size:,} pieces from {report['used_captions']:,} different captions: "
        f"{train['pieces_per_word']:.2f} pieces a word, {train[rate]:.2%} {what}\n"
        f"a caption has {lengths['50']} tokens (median), {lengths['99']} (99 in 100), "
        f"{lengths['100']} at most; {train['over_length_rate']:.1%} are over {length}"
    )


def _lost(report: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the figure of what has no piece of its own, and what happens to that."""
    if report["settings"]["byte_fallback"]:
        return "byte_rate", "spelled in bytes"
    return "unknown_rate", "unknown"


def render(report: Mapping[str, Any]) -> str:
    """Returns the page; see `write`."""
    size = sum(report["pieces"].values())
    rows = [_row("All to learn from", report["train"], report)]
    if report["held_out"]:
        rows.append(_row("Validation, not learnt from", report["held_out"], report))
    rows += [_row(_language(row["language"]), row, report) for row in report["languages"]]
    return templates.render(
        "vocabulary_report.html",
        title=f"{size:,} pieces for {report['captions']:,} captions",
        report=report,
        rows=rows,
        lengths=_length_bars(report["histogram"], report["text_length"]),
        kinds=[
            {"name": _KINDS[kind], "percent": 100 * count / size, "value": f"{count:,}"}
            for kind, count in report["pieces"].items()
            if count
        ],
        examples=[
            (_language(code), list(group))
            for code, group in itertools.groupby(report["examples"], lambda row: row["language"])
        ],
        strange=[(c, f"U+{ord(c):04X}", n) for c, n in report["strange"]],
    )


def _language(code: str) -> dict[str, str]:
    """Returns a language as a cell of a table; the page itself puts its code into words."""
    words = {"": "not clear", vocabulary_statistics.OTHER: "all others"}
    return {"text": words[code]} if code in words else {"text": code, "language": code}


def _row(
    name: str | dict[str, str], row: Mapping[str, Any], report: Mapping[str, Any]
) -> list[Any]:
    """Returns the cells of some captions' figures; those of captions that are cut are bad."""
    rate, _ = _lost(report)
    words = row["pieces_per_word"]
    return [
        name,
        f"{row['captions']:,}",
        "–" if words is None else f"{words:.2f}",
        f"{row['pieces_per_character']:.2f}",
        templates.share(row[rate]),
        *(
            {"text": f"{length:,}", "bad": length > report["text_length"]}
            for length in row["length_percentiles"].values()
        ),
        {"text": templates.share(row["over_length_rate"]), "bad": row["over_length_rate"] > 0},
    ]


def _length_bars(histogram: list[float], text_length: int) -> list[dict[str, Any]]:
    """Returns the bars of the lengths, without the empty ones between the last and the limit."""
    num, most = len(histogram) - 1, max(histogram)
    edges = [-(-index * text_length // num) for index in range(num + 1)]
    used = max((index + 1 for index in range(num) if histogram[index]), default=0)
    names = [f"{edges[index] + 1}–{edges[index + 1]}" for index in range(used)]
    shares = [*histogram[:used], histogram[-1]]
    return [
        {"name": name, "percent": 100 * share / most, "value": templates.share(share)}
        | {"bad": share > 0 and index == used}
        for index, (name, share) in enumerate(zip([*names, f"over {text_length}"], shares))
    ]

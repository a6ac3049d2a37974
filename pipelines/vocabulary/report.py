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
_SPACE = "▁"
_KINDS = {
    "special": "padding, end of text, unknown",
    "symbols": "symbols for training objectives",
    "bytes": "bytes, to spell other characters",
    "characters": "single characters",
    "beginnings": "words and beginnings of words",
    "parts": "other parts of words",
}


def write(directory: str, report: Mapping[str, Any]) -> None:
    """Writes `report.json` and `report.html`.

    Args:
      directory: where to.
      report: `vocabulary_statistics.report`, with `captions`, `used_captions` and `settings`.
    """
    text = json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False)
    for suffix, content in ((".json", text + "\n"), (".html", render(report))):
        files.write_bytes(files.join(directory, NAME + suffix), content.encode())


def summary(report: Mapping[str, Any]) -> str:
    """Returns two lines for the terminal."""
    train, length = report["train"], report["text_length"]
    lengths, size = train["length_percentiles"], sum(report["pieces"].values())
    lost = "byte_rate" if report["settings"]["byte_fallback"] else "unknown_rate"
    what = "spelled in bytes" if lost == "byte_rate" else "unknown"
    return (
        f"{size:,} pieces from {report['used_captions']:,} different captions: "
        f"{train['pieces_per_word']:.2f} pieces a word, {train[lost]:.2%} {what}\n"
        f"a caption has {lengths['50']} tokens (median), {lengths['99']} (99 in 100), "
        f"{lengths['100']} at most; {train['over_length_rate']:.1%} are over {length}"
    )


def render(report: Mapping[str, Any]) -> str:
    """Returns the page; see `write`."""
    size = sum(report["pieces"].values())
    rows = [("All to learn from", report["train"])]
    if report["held_out"]:
        rows.append(("Validation, not learnt from", report["held_out"]))
    return templates.render(
        "vocabulary_report.html",
        title=f"{size:,} pieces for {report['captions']:,} captions",
        report=report,
        rows=rows,
        languages=[(_language(row["language"]), row) for row in report["languages"]],
        bars=_bars(report["histogram"], report["text_length"]),
        kinds=[(_KINDS[kind], n, n / size) for kind, n in report["pieces"].items() if n],
        examples=[
            (_language(code), [_example(row, report["text_length"]) for row in group])
            for code, group in itertools.groupby(report["examples"], lambda row: row["language"])
        ],
        long_examples=[_example(row, report["text_length"]) for row in report["long_examples"]],
        strange=[(c, f"U+{ord(c):04X}", n) for c, n in report["strange"]],
        share=_share,
    )


def _language(code: str) -> dict[str, str]:
    """Returns the words for a language, and its code if it is one."""
    words = {"": "not clear", vocabulary_statistics.OTHER: "all others"}
    return {"words": words.get(code, code), "code": "" if code in words else code}


def _share(value: float) -> str:
    """Returns a share as text that never says 0% or 100% when that is not so."""
    return templates.percent(round(value * 1_000_000), 1_000_000)


def _bars(histogram: list[float], text_length: int) -> list[dict[str, Any]]:
    """Returns the bars of the lengths, without the empty ones between the last and the limit."""
    num = len(histogram) - 1
    edges = [-(-index * text_length // num) for index in range(num + 1)]
    bars: list[dict[str, Any]] = [
        {"name": f"{edges[i] + 1}–{edges[i + 1]}", "share": histogram[i], "cut": False}
        for i in range(num)
    ]
    while bars and not bars[-1]["share"]:
        bars.pop()
    most = max(histogram)
    bars.append({"name": f"over {text_length}", "share": histogram[-1], "cut": True})
    return [bar | {"width": 100 * bar["share"] / most} for bar in bars]


def _example(row: Mapping[str, Any], text_length: int) -> dict[str, Any]:
    """Returns a caption with its pieces, each with how it is shown."""
    pieces = []
    for index, (piece, token) in enumerate(zip(row["pieces"], row["ids"], strict=True)):
        kind = "byte" if piece.startswith("<0x") and len(piece) == 6 else ""
        kind = "unknown" if token == 2 else kind
        pieces.append(
            {
                "text": piece.removeprefix(_SPACE) or "␣",
                "begins": piece.startswith(_SPACE),
                "kind": kind,
                "cut": index >= text_length - 1,
                "id": token,
            }
        )
    more = row["num_tokens"] - 1 - len(pieces)
    return {**row, "shown": pieces, "more": more}

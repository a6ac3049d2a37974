# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a reader sees of `parti clean`: report.json, and report.html that shows the images too.

The times of a run are on the page and in run.json: report.json depends only on the pairs.
"""

import base64
import collections
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from parti.data.images import images
from parti.pipelines.clean import histograms as clean_histograms
from parti.pipelines.clean import reasons as clean_reasons
from parti.pipelines.clean import report_schema
from parti.pipelines.html import templates
from parti.stages import files

# Key of a list in the report -> items of it at most; more are left out of both files.
MOST = {
    "dropped_samples": 12,
    "near_samples": 6,
    "kept_samples": 24,
    "groups": 12,
    "dropped": 5,  # copies in a group
    "hits": 12,
    "top": 20,
    "examples": 6,
    "files": 12,
}
_PICTURE = "picture"  # key of what report.json does not have
_THUMBNAIL_SIDE = 160  # pixels
_MAX_TEXT = 400  # characters
_MAX_TICKS = 8
_MAX_NAMES = 4
_CAPTION_RULES = ("near_caption", "contaminated_caption")
# What a copy is called next to the one that stays.
_COPIES = {
    "duplicate_pair": "equal",
    "duplicate_image": "same picture",
    "near_duplicate": "nearly equal",
    "near_caption": "same words",
}
_NO_COPIES = {"num_groups": 0, "num_dropped": 0, "groups": [], "skipped": 0}


def write(
    directory: files.Path, report: Mapping[str, Any], run: Mapping[str, Any] | None = None
) -> None:
    """Writes report.json, all but the images, and report.html; with `run` also run.json.

    Texts and lists are cut to what the page shows. `run` has `seconds`, and may have `num_workers`,
    `peak_memory`, in bytes, of the largest process, and `urls`, what became of them in words.

    Raises:
      ValueError: `report` has an unknown key of `report_schema.Report`, or lacks one.
    """
    content = _checked(report)
    without = json.loads(json.dumps(content), object_hook=_without_picture)
    texts = {"report.json": _json(without), "report.html": page(content, run)}
    if run is not None:
        texts["run.json"] = _json(run)
    for name, text in texts.items():
        # A caption can hold half of a surrogate pair, which no encoding writes.
        files.write_bytes(files.join(directory, name), text.encode("utf-8", "replace"))


def thumbnail(image: bytes) -> str:
    """Returns a small JPEG of an encoded image in base64; empty if it does not open."""
    try:
        small = Image.fromarray(images.decode_image(image))
    except ValueError:
        return ""
    small.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    return base64.b64encode(buffer.getvalue()).decode()


def page(report: report_schema.Report, run: Mapping[str, Any] | None = None) -> str:
    """Returns report.html."""
    sets = report["evaluation"]["sets"]
    return templates.render(
        "clean_report.html",
        title=f"{report['kept']:,} of {report['read']:,} pairs kept",
        report=report,
        lead=_lead(report),
        funnel=_funnel(report),
        stages=list(dict.fromkeys(rule["stage"] for rule in report["rules"])),
        limits={rule["name"]: _limit(rule) for rule in report["rules"]},
        histograms=[_drawing(histogram) for histogram in report["histograms"]],
        copy_names=_COPIES,
        sets=[
            [
                row["name"],
                f"{row['num_captions']:,}",
                f"{row['num_pictures']:,}",
                {"text": f"{row['num_hits']:,}", "bad": row["num_hits"] > 0},
            ]
            for row in sets
        ],
        top_captions=_bars(report["captions"]["top"]),
        settings=[
            (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
            for name, value in sorted(report["settings"].items())
        ],
        run=run,
    )


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _without_picture(sample: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in sample.items() if name != _PICTURE}


def _checked(report: Mapping[str, Any]) -> report_schema.Report:
    """Returns the report with every list there, cut to what is shown, and every rule in words."""
    unknown = sorted(set(report) - set(report_schema.Report.__annotations__))
    missing = sorted(report_schema.Report.__required_keys__ - set(report))
    if unknown or missing:
        raise ValueError(f"report: unknown keys {unknown}, missing keys {missing}; see Report")
    content: dict[str, Any] = {
        "inputs": [],
        "not_applied": [],
        "kept_samples": [],
        "histograms": [],
        "evaluation": {"sets": [], "hits": []},
        **report,
        "captions": {"top": [], "repairs": [], **report.get("captions", {})},
        "copies": {**_NO_COPIES, **report.get("copies", {})},
        "rules": [_rule(rule) for rule in report["rules"]],
    }
    return _shortened(content)


def _shortened(value: Any, name: str = "") -> Any:
    if isinstance(value, Mapping):
        return {key: _shortened(item, key) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(item) for item in value[: MOST.get(name)]]
    if isinstance(value, str) and len(value) > _MAX_TEXT and name != _PICTURE:
        return value[: _MAX_TEXT - 1] + "…"
    return value


def _rule(rule: report_schema.Rule) -> dict[str, Any]:
    about_text = rule["name"].startswith("caption_") or rule["name"] in _CAPTION_RULES
    return {
        **dataclasses.asdict(clean_reasons.find(rule["name"])),
        "threshold": None,
        "unit": "",
        "source": "",
        "without_value": 0,
        "show": "captions" if about_text else "pictures",
        "dropped_samples": [],
        "near_samples": [],
        **rule,
    }


def _limit(rule: report_schema.Rule) -> str:
    """Returns a rule's threshold as text, empty if it has none."""
    value = rule["threshold"]
    if isinstance(value, list | tuple):
        shown = ", ".join(map(str, value[:_MAX_NAMES]))
        return f"{shown} and {len(value) - _MAX_NAMES} more" if value[_MAX_NAMES:] else shown
    if isinstance(value, bool) or value is None:
        return ""
    text = {int: "{:,}", float: "{:g}", str: "{}"}[type(value)].format(value)
    return f"{text} {rule['unit']}".strip()


def _lead(report: report_schema.Report) -> str:
    read, dropped = report["read"], report["read"] - report["kept"]
    if not dropped:
        return "Every pair passed every rule."
    most = max(report["rules"], key=lambda rule: rule["dropped"])
    title = most["title"].lower()
    if most["dropped"] == dropped:
        rest = f"The other {dropped:,} failed one rule: {title}."
    elif most["dropped"] == 1:
        rest = f"The other {dropped:,} failed a rule each."
    else:
        rest = f"Of the other {dropped:,}, {most['dropped']:,} failed the same rule: {title}."
    return f"{templates.percent(report['kept'], read)} passed every rule. {rest}"


def _funnel(report: report_schema.Report) -> list[dict[str, Any]]:
    """Returns the bars of what was read and of what each stage left and dropped."""
    dropped: collections.Counter[str] = collections.Counter()
    for rule in report["rules"]:
        dropped[rule["stage"]] += rule["dropped"]
    if unexplained := report["read"] - dropped.total() - report["kept"]:
        dropped["Unexplained"] = unexplained
    left, whole = report["read"], max(report["read"], 1)
    bars = []
    for name, count in {"Read": 0, **dropped}.items():
        left -= count
        bars.append(
            {
                "name": name,
                "percent": 100 * left / whole,
                "value": f"{left:,}",
                "lost_percent": 100 * count / whole,
                "lost_value": f"−{count:,}" if count else "",
            }
        )
    return bars


def _bars(rows: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
    """Returns the bars of (name, count), as long as the counts' shares of the most."""
    most = max((count for _, count in rows), default=0) or 1
    return [{"name": n, "percent": 100 * count / most, "value": f"{count:,}"} for n, count in rows]


def _drawing(histogram: clean_histograms.Histogram) -> dict[str, Any]:
    """Returns what the page shows of a histogram: the plot, the rows of its table, the median."""
    edges, before, kept = histogram["edges"], histogram["before"], histogram["kept"]
    unit = histogram["unit"]
    labels = [clean_histograms.label(*ends, unit) for ends in zip(edges, edges[1:])]
    most = max(before, default=0) or 1
    rows = [(label, f"{b:,}", f"{k:,}") for label, b, k in zip(labels, before, kept)]
    ticks = _positions(histogram["ticks"], edges)
    plot = {
        "columns": [
            {
                "label": f"{label}: {b} before, {k} kept",
                "height": 100 * total / most,
                "part": 100 * stayed / most,
            }
            for (label, b, k), total, stayed in zip(rows, before, kept)
        ],
        "x_ticks": ticks[:: -(-len(ticks) // _MAX_TICKS) or 1],
        "y_ticks": templates.count_ticks(most),
        "x_lines": _positions(histogram["limits"], edges),
    }
    median = labels[clean_histograms.median_bin(kept)] if sum(kept) else ""
    return {"title": histogram["title"], "plot": plot, "rows": rows, "median": median}


def _positions(values: Sequence[float], edges: Sequence[float | None]) -> list[tuple[float, str]]:
    """Returns (position in percent of the drawing, value) for those values that are in it."""
    found = [(clean_histograms.position(value, edges), value) for value in values]
    return [(100 * position, f"{value:g}") for position, value in found if position is not None]

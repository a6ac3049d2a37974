# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a reader sees of `parti clean`: report.json, and report.html that shows the pictures too.

The page is one file: pictures are inside, nothing is loaded, no script is needed. Both files depend
only on `report`; times of a run are shown on the page and written to run.json, never to
report.json, so that two runs over the same pairs give the same report.json.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from parti.data.images import images
from parti.pipelines.clean import histograms as clean_histograms
from parti.pipelines.clean import reasons as clean_reasons
from parti.pipelines.clean import report_schema
from parti.pipelines.html import templates
from parti.stages import files

# How many examples of a rule the page shows; more are left out of both files.
NUM_DROPPED, NUM_NEAR, NUM_KEPT, NUM_GROUPS, NUM_COPIES, NUM_HITS = 12, 6, 24, 12, 5, 12
NUM_TOP_CAPTIONS, NUM_REPAIRS = 20, 6
_THUMBNAIL_SIDE = 160
_MAX_TEXT = 400
_MAX_TICKS = 8
_MAX_NAMES = 4
_CAPTION_RULES = ("near_caption", "contaminated_caption")
# What a copy is called beside the one that stays.
_COPIES = {
    "duplicate_pair": "equal",
    "duplicate_image": "same picture",
    "near_duplicate": "nearly equal",
    "near_caption": "same words",
}

Report = report_schema.Report
Run = report_schema.Run


def write(directory: files.Path, report: Mapping[str, Any], run: Run | None = None) -> None:
    """Writes report.json and report.html; with `run` also run.json.

    Args:
      directory: where to; local or remote.
      report: see `report_schema.Report`. Texts are cut to 400 characters, lists of examples
        to what the page shows; report.json has everything but the pictures.
      run: times and memory of this run.

    Raises:
      ValueError: `report` has an unknown key or lacks one.
    """
    content = _checked(report)
    texts = {"report.json": _json(_without_pictures(content)), "report.html": page(content, run)}
    if run is not None:
        texts["run.json"] = _json(run)
    for name, text in texts.items():
        # A caption can hold half of a surrogate pair, which no encoding writes.
        files.write_bytes(files.join(directory, name), text.encode("utf-8", "replace"))


def thumbnail(image: bytes) -> str:
    """Returns a small JPEG of an encoded picture in base64; empty if it does not open."""
    try:
        return small_picture(images.decode_image(image)) if image else ""
    except ValueError:
        return ""


def small_picture(pixels: np.ndarray) -> str:
    """Returns a small JPEG of [height, width, 3] uint8 in base64."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return base64.b64encode(buffer.getvalue()).decode()


def page(report: Report, run: Run | None = None) -> str:
    """Returns report.html."""
    return templates.render(
        "clean_report.html",
        title=f"{report['kept']:,} of {report['read']:,} pairs kept",
        report=report,
        lead=_lead(report),
        funnel=_funnel(report),
        stages=list(dict.fromkeys(rule["stage"] for rule in report["rules"])),
        histograms=[_drawn(histogram) for histogram in report["histograms"]],
        settings={
            name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for name, value in sorted(report["settings"].items())
        },
        limits={rule["name"]: _limit(rule) for rule in report["rules"]},
        copy_names=_COPIES,
        run=run,
    )


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _without_pictures(value: Any) -> Any:
    """Returns a JSON value without the pictures in it."""
    if isinstance(value, Mapping):
        names = [name for name in value if name not in ("picture", "matched_picture")]
        return {name: _without_pictures(value[name]) for name in names}
    if isinstance(value, list | tuple):
        return [_without_pictures(item) for item in value]
    return value


def _checked(report: Mapping[str, Any]) -> Report:
    """Returns the report with every list there, cut to what is shown, and every rule in words."""
    unknown = sorted(set(report) - set(Report.__annotations__))
    missing = sorted(Report.__required_keys__ - set(report))
    if unknown or missing:
        raise ValueError(f"report: unknown keys {unknown}, missing keys {missing}; see Report")
    content: dict[str, Any] = {
        "inputs": [],
        "not_applied": [],
        "kept_samples": [],
        "histograms": [],
        "captions": {"top": []},
        "copies": {"num_groups": 0, "num_dropped": 0, "groups": []},
        "evaluation": {"sets": [], "hits": []},
        **report,
    }
    content["rules"] = [_rule(rule) for rule in content["rules"]]
    content["kept_samples"] = list(content["kept_samples"])[:NUM_KEPT]
    captions = {"repairs": [], **content["captions"]}
    captions["top"] = list(captions["top"])[:NUM_TOP_CAPTIONS]
    captions["repairs"] = [
        {**repair, "examples": repair["examples"][:NUM_REPAIRS]} for repair in captions["repairs"]
    ]
    content["captions"] = captions
    groups = [
        {**group, "dropped": group["dropped"][:NUM_COPIES]} for group in content["copies"]["groups"]
    ]
    content["copies"] = {"skipped": 0, **content["copies"], "groups": groups[:NUM_GROUPS]}
    hits = list(content["evaluation"]["hits"])[:NUM_HITS]
    content["evaluation"] = {**content["evaluation"], "hits": hits}
    return _shortened(content)


def _shortened(value: Any) -> Any:
    """Returns a JSON value whose captions are cut; pictures are left alone."""
    if isinstance(value, Mapping):
        pictures = ("picture", "matched_picture")
        return {n: v if n in pictures else _shortened(v) for n, v in value.items()}
    if isinstance(value, list | tuple):
        return [_shortened(item) for item in value]
    if isinstance(value, str) and len(value) > _MAX_TEXT:
        return value[: _MAX_TEXT - 1] + "…"
    return value


def _rule(rule: report_schema.Rule) -> dict[str, Any]:
    """Returns a rule with everything the page needs."""
    words = clean_reasons.find(rule["name"])
    about_text = rule["name"].startswith("caption_") or rule["name"] in _CAPTION_RULES
    filled: dict[str, Any] = {
        "title": words.title,
        "explanation": words.explanation,
        "stage": words.stage,
        "threshold": None,
        "unit": "",
        "source": "",
        "without_value": 0,
        "show": "captions" if about_text else "pictures",
        **rule,
    }
    filled["dropped_samples"] = list(rule.get("dropped_samples", ()))[:NUM_DROPPED]
    filled["near_samples"] = list(rule.get("near_samples", ()))[:NUM_NEAR]
    return filled


def _limit(rule: report_schema.Rule) -> str:
    """Returns a rule's threshold as text, empty if it has none."""
    value = rule["threshold"]
    if isinstance(value, list | tuple):
        shown = ", ".join(map(str, value[:_MAX_NAMES]))
        return f"{shown} and {len(value) - _MAX_NAMES} more" if value[_MAX_NAMES:] else shown
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, float):
        value = f"{value:g}"
    text = f"{value:,}" if isinstance(value, int) else value
    return f"{text} {rule['unit']}".strip()


def _lead(report: Report) -> str:
    """Returns the first sentence: what happened, in words."""
    read, dropped = report["read"], report["read"] - report["kept"]
    if not dropped:
        return "Every pair passed every rule."
    most = max(report["rules"], key=lambda rule: rule["dropped"])
    if most["dropped"] == dropped:
        rest = f"The other {dropped:,} failed one rule: {most['title'].lower()}."
    elif most["dropped"] == 1:
        rest = f"The other {dropped:,} failed a rule each."
    else:
        rest = (
            f"Of the other {dropped:,}, {most['dropped']:,} failed the same rule: "
            f"{most['title'].lower()}."
        )
    return f"{templates.percent(report['kept'], read)} passed every rule. {rest}"


def _funnel(report: Report) -> list[dict[str, Any]]:
    """Returns what was read and what each stage left: {name, left, dropped}."""
    dropped: dict[str, int] = {}
    for rule in report["rules"]:
        dropped[rule["stage"]] = dropped.get(rule["stage"], 0) + rule["dropped"]
    left = report["read"]
    rows = [{"name": "Read", "left": left, "dropped": 0}]
    for name, count in dropped.items():
        left -= count
        rows.append({"name": name, "left": left, "dropped": count})
    if left != report["kept"]:
        # No rule accounts for these: better seen than silently added up.
        rows.append(
            {"name": "Unexplained", "left": report["kept"], "dropped": left - report["kept"]}
        )
    return rows


def _drawn(histogram: clean_histograms.Histogram) -> dict[str, Any]:
    """Returns a histogram with its bars, axis and limits in percent of the drawing."""
    edges, before, kept = histogram["edges"], histogram["before"], histogram["kept"]
    most = max(before, default=0) or 1
    bins = [
        {
            "label": clean_histograms.label(low, high, histogram["unit"]),
            "before": total,
            "kept": stayed,
            "height": 100 * total / most,
            "kept_height": 100 * stayed / most,
        }
        for low, high, total, stayed in zip(edges, edges[1:], before, kept)
    ]
    ticks = _places(histogram["ticks"], edges)
    median = bins[clean_histograms.median_bin(kept)]["label"] if sum(kept) else ""
    return {
        "title": histogram["title"],
        "bins": bins,
        "median": median,
        "limits": _places(histogram["limits"], edges),
        "axis": ticks[:: -(-len(ticks) // _MAX_TICKS) or 1],
    }


def _places(values: Sequence[float], edges: Sequence[float | None]) -> list[tuple[float, float]]:
    """Returns (place in percent of the drawing, value) for those values that lie in it."""
    found = [(clean_histograms.position(value, edges), value) for value in values]
    return [(100 * place, value) for place, value in found if place is not None]

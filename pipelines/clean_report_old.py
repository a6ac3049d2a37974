# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The first page of `parti clean`; goes when the command calls `clean_report.write`.

One self-contained file: pictures are inside, nothing is loaded, no script is needed.
"""

import base64
import dataclasses
import html
import importlib.resources
import io
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from parti.data import images

NUM_SAMPLES = 24
_SAMPLES_OF_A_RULE = 12
_THUMBNAIL_SIDE = 144
_MAX_CAPTION = 160

_BARS = 12


@dataclasses.dataclass(frozen=True)
class Stage:
    """A step of the funnel: a name and its rules, {reason: (title, explanation)}."""

    name: str
    rules: dict[str, tuple[str, str]]


STAGES = (
    Stage(
        "Readable",
        {
            "broken_file": (
                "Broken file",
                "The file ends early or is damaged. Pairs before the damage were read.",
            ),
            "unsafe_name": ("Unsafe name", "The name is absolute or climbs out with “..”."),
            "member_too_large": ("Too large a member", "One file in the archive is over 256 MiB."),
            "missing_image": ("No picture", "A caption without a picture."),
            "missing_caption": ("No caption", "A picture without a caption."),
            "broken_caption": ("Caption not text", "The caption file is not UTF-8."),
            "broken_metadata": ("Broken metadata", "The .json file is not a JSON object."),
            "not_a_pair": ("Not a pair", "A record that is not an image-text pair."),
            "image_undecodable": ("Picture does not open", "Broken, or of an unknown format."),
        },
    ),
    Stage(
        "Good picture",
        {
            "image_too_small": ("Too small", "The shorter side is under the least allowed."),
            "image_would_grow": (
                "Smaller than the output",
                "It would have to be enlarged, which blurs; --allow_upscale keeps it.",
            ),
            "image_aspect_ratio": ("Too long or too tall", "The square crop would lose too much."),
            "image_blank": ("One flat colour", "There is nothing to see."),
        },
    ),
    Stage(
        "Good caption",
        {
            "caption_empty": ("Empty caption", "There is no text."),
            "caption_no_letters": ("No letters", "Digits, signs or emoji alone."),
            "caption_too_long": ("Too long", "A page of text, not a caption."),
            "caption_address": ("Holds an address", "A web or mail address is in it."),
            "caption_file_name": ("A file name", "What a camera or a web site called the file."),
            "caption_repetitive": ("Repeats itself", "One word makes over half of it."),
        },
    ),
    Stage(
        "Only one of its kind",
        {
            "duplicate_pair": ("Same picture, same caption", "Another pair is equal to it."),
            "duplicate_image": (
                "Same picture, other caption",
                "The pair with the smallest key stays, with its caption.",
            ),
            "duplicate_key": ("Same key", "Two pairs have one key; one of them stays."),
        },
    ),
)


def thumbnail(image: bytes) -> str:
    """Returns a small JPEG of an encoded picture in base64; empty if it does not open."""
    if not image:
        return ""
    try:
        pixels = images.decode_image(image)
    except ValueError:
        return ""
    picture = Image.fromarray(pixels)
    picture.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return base64.b64encode(buffer.getvalue()).decode()


def render(
    report: Mapping[str, Any],
    samples: Mapping[str, Sequence[Sequence[Any]]],
    settings: Mapping[str, Any],
) -> str:
    """Returns the page.

    Args:
      report: the content of report.json.
      samples: reason (or "kept") -> rows of [rank, key, caption, measure, thumbnail], by rank.
      settings: of the run.
    """
    read, kept, rejected = report["read"], report["kept"], report["rejected"]
    template = (importlib.resources.files(__package__) / "clean_report_old.html").read_text("utf-8")
    parts = {
        "title": f"{kept:,} of {read:,} pairs kept",
        "lead": _lead(report),
        "facts": _facts(report, settings),
        "funnel": _funnel(read, rejected),
        "kept": _sample_list(samples.get("kept", ()), NUM_SAMPLES),
        "sides": _histogram(report["sides"], "px"),
        "words": _histogram(report["words"], ""),
        "rules": _rules(read, rejected, samples),
        "quiet_rules": _quiet_rules(rejected),
    }
    for name, value in parts.items():
        template = template.replace("{{" + name + "}}", value)
    return template


def _lead(report: Mapping[str, Any]) -> str:
    """Returns the first sentence: what happened, in words."""
    read, kept, rejected = report["read"], report["kept"], report["rejected"]
    if not rejected:
        return "Every pair passed every rule."
    title = html.escape(_title(next(iter(rejected))).lower())
    dropped, most = read - kept, next(iter(rejected.values()))
    if most == dropped:
        rest = f"The other {dropped:,} failed one rule: <b>{title}</b>."
    else:
        rest = f"Of the other {dropped:,}, {most:,} failed the same rule: <b>{title}</b>."
    return f"{_percent(kept, read)} passed every rule. {rest}"


def _facts(report: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    size = settings["image_size"]
    facts = [
        (f"{report['splits']['train']:,}", "for training"),
        (f"{report['splits']['validation']:,}", "for validation"),
        (f"{size} × {size}", f"pixels, {settings['image_format'].upper()}"),
        (megabytes(report["num_bytes"]), "on disk"),
        (html.escape(settings["preset"]), "rules"),
    ]
    return "".join(f"<li><b>{value}</b> {what}</li>" for value, what in facts)


def megabytes(num_bytes: int) -> str:
    """Returns a size as text: 1.2 kB, 3.4 MB, 5,678.9 MB."""
    return f"{num_bytes / 1e6:,.1f} MB" if num_bytes >= 1e5 else f"{num_bytes / 1e3:,.1f} kB"


def _title(reason: str) -> str:
    for stage in STAGES:
        if reason in stage.rules:
            return stage.rules[reason][0]
    return reason.replace("_", " ")


def _percent(part: int, whole: int) -> str:
    """Returns a share that never says 0% or 100% when that is not so."""
    share = 100 * part / whole if whole else 0.0
    if part and share < 0.1:
        return "under 0.1%"
    if part < whole and share > 99.9:
        return "over 99.9%"
    return f"{share:.1f}%".replace(".0%", "%")


def _funnel(read: int, rejected: Mapping[str, int]) -> str:
    """Returns a bar for what was read and for what each stage left."""
    rows, left = [("Read", read, 0)], read
    for stage in STAGES:
        dropped = sum(rejected.get(reason, 0) for reason in stage.rules)
        left -= dropped
        rows.append((stage.name, left, dropped))
    return "".join(
        f"<li><span class=name>{name}</span>"
        f'<span class=track><span class=bar style="width:{100 * count / read:.2f}%"></span></span>'
        f"<span class=count>{count:,}</span>"
        f"<span class=drop>{f'−{dropped:,}' if dropped else ''}</span></li>"
        for name, count, dropped in rows
    )


def _rules(
    read: int, rejected: Mapping[str, int], samples: Mapping[str, Sequence[Sequence[Any]]]
) -> str:
    """Returns a section for each rule that dropped a pair, in the order of the rules."""
    known = {reason: rule for stage in STAGES for reason, rule in stage.rules.items()}
    order = [reason for reason in known if reason in rejected]
    order += [reason for reason in rejected if reason not in known]
    parts = []
    for reason in order:
        title, what = known.get(reason, (_title(reason), ""))
        count = rejected[reason]
        parts.append(
            f'<section class=rule id="{html.escape(reason)}"><div class=about>'
            f"<h3>{html.escape(title)}</h3>"
            f"<p class=dropped><b>{count:,}</b> dropped, {_percent(count, read)} of all</p>"
            f"<p>{html.escape(what)}</p><p><code>{html.escape(reason)}</code></p></div>"
            f"{_sample_list(samples.get(reason, ()), _SAMPLES_OF_A_RULE)}</section>"
        )
    return "".join(parts) or "<p class=quiet>No rule dropped a pair.</p>"


def _quiet_rules(rejected: Mapping[str, int]) -> str:
    names = [
        html.escape(title.lower())
        for stage in STAGES
        for reason, (title, _) in stage.rules.items()
        if reason not in rejected
    ]
    return f"Dropped nothing: {', '.join(names)}." if names else ""


def _sample_list(rows: Sequence[Sequence[Any]], limit: int) -> str:
    """Returns pictures with captions, or lines of text if no row has a picture."""
    kind, form = ("samples", _sample) if any(row[-1] for row in rows) else ("lines", _line)
    return f"<ul class={kind}>" + "".join(map(form, rows[:limit])) + "</ul>"


def _line(row: Sequence[Any]) -> str:
    _, key, text, measure, _ = row
    parts = [f"<code>{html.escape(key)}</code>"]
    parts += [html.escape(text[:_MAX_CAPTION])] if text else []
    parts += [f"<small>{html.escape(measure)}</small>"] if measure else []
    return f"<li>{' '.join(parts)}</li>"


def _sample(row: Sequence[Any]) -> str:
    _, key, text, measure, picture = row
    short = text if len(text) <= _MAX_CAPTION else text[: _MAX_CAPTION - 1] + "…"
    image = (
        f'<img loading=lazy alt="" src="data:image/jpeg;base64,{picture}">'
        if picture
        else "<span class=none>no picture</span>"
    )
    caption = html.escape(short) if short else "<i>no caption</i>"
    why = f"<small>{html.escape(measure)}</small>" if measure else ""
    return f'<li title="{html.escape(key)}">{image}<p>{caption}</p>{why}</li>'


def _histogram(values: Sequence[Sequence[int]], unit: str) -> str:
    """Returns bars for [[value, count], ...], values in at most twelve groups of equal width."""
    if not values:
        return "<p class=quiet>Nothing was kept.</p>"
    low, high = values[0][0], values[-1][0]
    width = max(1, -(-(high - low + 1) // _BARS))
    groups = [0] * ((high - low) // width + 1)
    for value, count in values:
        groups[(value - low) // width] += count
    most = max(groups)
    bars = []
    for index, count in enumerate(groups):
        start = low + index * width
        end = min(start + width - 1, high)
        label = f"{start}" if start == end else f"{start}–{end}"
        bars.append(
            f"<li><span class=name>{label}{' ' + unit if unit else ''}</span>"
            f'<span class=track><span class=bar style="width:{100 * count / most:.2f}%"></span>'
            f"</span><span class=count>{count:,}</span></li>"
        )
    return f"<ol class=bars>{''.join(bars)}</ol>"

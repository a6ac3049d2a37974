# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""gallery.html: one file to look at a folder of generations, with no server and no network.

The best picture of every prompt, then all samples of the first prompts, are written into the file
as data URIs until a budget of bytes is spent; what is left over is linked to `images/`. The same
generations give the same bytes.
"""

import base64
import html
import io
import math
import pathlib
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import markupsafe
import PIL.Image

from parti.data.storage import records
from parti.pipelines.html import templates

FILE_NAME = "gallery.html"
# Pictures wider than this are embedded as a smaller copy; the click leads to the file itself.
_EMBEDDED_WIDTH = 384
# Below this width single pixels are shown as squares instead of being smoothed away.
_PIXELATED_BELOW = 128
_SETTINGS_SHOWN = ("num_samples", "guidance_scale", "temperature", "top_k", "top_p", "seed")


def write_gallery(
    root: str | pathlib.Path,
    generations: Iterable[records.Generation],
    *,
    title: str = "Parti generations",
    lead: str = "",
    settings: Mapping[str, Any] | None = None,
    embedded_prompts: int = 24,
    embedded_bytes: int = 16 * 2**20,
) -> pathlib.Path:
    """Writes `root/gallery.html`.

    Args:
      root: folder of generations; `Generation.image` is a path relative to it.
      generations: every image; prompts are shown in the order of their first appearance.
      title: heading of the page.
      lead: sentence below the heading; by default it says how samples were ranked.
      settings: what the pictures were made with; those that matter to a reader are shown.
      embedded_prompts: number of prompts whose samples are all embedded, not only the best one.
      embedded_bytes: size of all embedded pictures together, before base64.

    Returns:
      The path of the page.

    Raises:
      ValueError: there is nothing to show.
    """
    root = pathlib.Path(root)
    groups = group_by_prompt(generations)
    if not groups:
        raise ValueError(f"no generations to show in {root}; run `parti generate` with a prompt")
    embedded = _embed(root, groups, embedded_prompts, embedded_bytes)
    scored = any(_finite(group[0].score) for group in groups)
    page = templates.render(
        "gallery.html",
        title=title,
        lead=lead or _lead(groups, scored),
        facts=markupsafe.Markup(_facts(groups, settings or {})),
        filter=markupsafe.Markup(_filter(groups)),
        order=markupsafe.Markup(_order() if scored and len(groups) > 1 else ""),
        num_prompts=f"{len(groups)} prompts",
        card_width=_card_width(root, groups),
        cards=markupsafe.Markup("\n".join(_card(root, group, embedded) for group in groups)),
        footer=markupsafe.Markup(_footer(groups, embedded)),
    )
    path = root / FILE_NAME
    path.write_text(page, encoding="utf-8")
    return path


def group_by_prompt(generations: Iterable[records.Generation]) -> list[list[records.Generation]]:
    """Returns the images of each prompt in rank order, prompts in order of appearance."""
    groups: dict[str, list[records.Generation]] = {}
    for generation in generations:
        groups.setdefault(generation.prompt_id, []).append(generation)
    return [sorted(group, key=lambda g: (g.rank, g.sample_index)) for group in groups.values()]


def _embed(
    root: pathlib.Path,
    groups: Sequence[Sequence[records.Generation]],
    num_prompts: int,
    budget: int,
) -> dict[str, str]:
    """Returns {relative path: data URI}: best pictures first, then samples, within the budget."""
    wanted = [group[0].image for group in groups]
    wanted += [image.image for group in groups[:num_prompts] for image in group[1:]]
    uris: dict[str, str] = {}
    for path in wanted:
        kind, data = _embeddable(root / path)
        budget -= len(data)
        if budget < 0:
            break
        uris[path] = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    return uris


def _embeddable(path: pathlib.Path) -> tuple[str, bytes]:
    """Returns (image type, bytes): the file itself, or a smaller copy of a large picture."""
    with PIL.Image.open(path) as image:
        if image.width <= _EMBEDDED_WIDTH:
            return str(image.format).lower(), path.read_bytes()
        height = round(image.height * _EMBEDDED_WIDTH / image.width)
        small = image.convert("RGB").resize((_EMBEDDED_WIDTH, height), PIL.Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "webp", quality=88, method=4)
    return "webp", buffer.getvalue()


def _card(
    root: pathlib.Path, group: Sequence[records.Generation], embedded: Mapping[str, str]
) -> str:
    best = group[0]
    text = best.prompt or "(no prompt)"
    tag = _challenge(best)
    words = f"{text} {tag} {best.metadata.get('category', '')} {best.prompt_id}".lower()
    score = best.score if _finite(best.score) else -2.0  # Below every cosine.
    facts = [f'<span class="tag">{html.escape(tag)}</span>'] if tag else []
    facts += [f"<span>score {best.score:.3f}</span>"] if _finite(best.score) else []
    image = _image(root, best, embedded, f"{text}: best of {len(group)} samples")
    samples = "\n".join(_sample(root, item, embedded, len(group)) for item in group)
    return (
        f'<article class="card" id="p-{html.escape(best.prompt_id)}" '
        f'data-text="{html.escape(words)}" data-challenge="{html.escape(tag)}" '
        f'data-score="{score}">\n'
        f'<button class="open" aria-label="Show all {len(group)} samples: {html.escape(text)}">'
        f"{image}</button>\n"
        f'<p class="prompt">{html.escape(text)}</p>\n'
        f'<p class="meta">{"".join(facts)}</p>\n'
        f"<template>\n{samples}\n</template>\n</article>"
    )


def _sample(
    root: pathlib.Path, item: records.Generation, embedded: Mapping[str, str], count: int
) -> str:
    """Returns a thumbnail of the viewer; the best one borrows the picture of its card."""
    score = f"{item.score:.3f}" if _finite(item.score) else ""
    facts = [f"rank {item.rank + 1} of {count}", f"sample {item.sample_index}"]
    facts += [f"score {item.score:.4f}"] if score else []
    alt = f"{item.prompt}: rank {item.rank + 1}, sample {item.sample_index}"
    if item.rank == 0 and item.image in embedded:
        image = f'<img data-best alt="{html.escape(alt)}"{_pixelated(root / item.image)}>'
    else:
        image = _image(root, item, embedded, alt)
    return (
        f'<button data-facts="{"|".join(facts)}" data-file="{_link(item.image)}" '
        f'aria-pressed="false">{image}<span><b>{item.rank + 1}</b> {score}</span></button>'
    )


def _image(
    root: pathlib.Path, item: records.Generation, embedded: Mapping[str, str], alt: str
) -> str:
    source = embedded.get(item.image) or _link(item.image)
    width, height = _size(root / item.image)
    return (
        f'<img src="{source}" width="{width}" height="{height}" loading="lazy" decoding="async" '
        f'alt="{html.escape(alt)}"{_pixelated(root / item.image)}>'
    )


def _size(path: pathlib.Path) -> tuple[int, int]:
    with PIL.Image.open(path) as image:
        return image.size


def _pixelated(path: pathlib.Path) -> str:
    return ' class="px"' if _size(path)[0] < _PIXELATED_BELOW else ""


def _card_width(root: pathlib.Path, groups: Sequence[Sequence[records.Generation]]) -> int:
    """Returns the least width of a card in CSS pixels: small pictures are shown larger."""
    width = _size(root / groups[0][0].image)[0]
    return min(max(3 * width, 192), 256) if width < _PIXELATED_BELOW else 300


def _lead(groups: Sequence[Sequence[records.Generation]], scored: bool) -> str:
    most = max(len(group) for group in groups)
    if most == 1:
        return "One sample for each prompt."
    if not scored:
        return f"The first of {most} samples of each prompt; no reranker scored them."
    return (
        f"The best of {most} samples of each prompt, by the reranker. "
        "Click a picture to see every sample in rank order."
    )


def _facts(groups: Sequence[Sequence[records.Generation]], settings: Mapping[str, Any]) -> str:
    facts: dict[str, Any] = {
        "prompts": len(groups),
        "images": sum(len(group) for group in groups),
    }
    facts |= {name: settings[name] for name in _SETTINGS_SHOWN if name in settings}
    return "".join(
        f"<li>{html.escape(name.replace('_', ' '))} <b>{html.escape(_number(value))}</b></li>"
        for name, value in facts.items()
    )


def _filter(groups: Sequence[Sequence[records.Generation]]) -> str:
    tags = sorted({_challenge(group[0]) for group in groups} - {""})
    if len(tags) < 2:
        return ""
    options = "".join(f"<option>{html.escape(tag)}</option>" for tag in tags)
    return (
        '<select id="filter" aria-label="Kind of prompt">'
        f'<option value="">All kinds</option>{options}</select>'
    )


def _order() -> str:
    return (
        '<select id="order" aria-label="Order"><option value="">File order</option>'
        '<option value="best">Best score first</option>'
        '<option value="worst">Worst score first</option></select>'
    )


def _footer(groups: Sequence[Sequence[records.Generation]], embedded: Mapping[str, str]) -> str:
    linked = sum(item.image not in embedded for group in groups for item in group)
    lines = ["Every picture with its settings is a line of <code>manifest.jsonl</code>."]
    if linked:
        count = _plural(linked, "picture")
        lines.append(
            f"{count} beyond the size of this page {'is' if linked == 1 else 'are'} "
            "read from <code>images/</code> beside it."
        )
    return "".join(f"<p>{line}</p>" for line in lines)


def _challenge(item: records.Generation) -> str:
    return str(item.metadata.get("challenge") or item.metadata.get("category") or "")


def _link(path: str) -> str:
    return html.escape(urllib.parse.quote(path))


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _finite(score: float | None) -> bool:
    return score is not None and math.isfinite(score)

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""gallery.html: one file to look at a folder of generations, with no server and no network.

The best image of every prompt, then all samples of the first prompts, are embedded up to a budget
of bytes; the others are linked to `images/`. The same generations give the same bytes.
"""

import dataclasses
import io
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO

import PIL.Image

from parti.data.storage import records
from parti.pipelines.html import templates
from parti.stages import files

FILE_NAME = "gallery.html"
# Images wider than this are embedded as a smaller copy; the click leads to the file itself.
_EMBEDDED_WIDTH = 384
# Below this width single pixels are shown as squares instead of being smoothed away.
_PIXELATED_BELOW = 128
_SETTINGS_SHOWN = ("num_samples", "guidance_scale", "temperature", "top_k", "top_p", "seed")


@dataclasses.dataclass(frozen=True)
class _Image:
    source: str  # a data URI, or the path of the file for a link
    is_embedded: bool
    width: int  # of the file, in pixels
    height: int

    @property
    def is_pixelated(self) -> bool:
        return self.width < _PIXELATED_BELOW


def write_gallery(
    root: files.Path,  # that `Generation.image` is relative to
    generations: Iterable[records.Generation],  # prompts are shown in order of appearance
    *,
    settings: Mapping[str, Any] | None = None,  # what the images were made with
    embedded_prompts: int = 24,  # prompts whose samples are all embedded, not only the best one
    embedded_bytes: int = 16 * 2**20,  # of all embedded images together, before base64
) -> str:
    """Writes `root/gallery.html`, and returns its address; ValueError: there is nothing to show."""
    groups = group_by_prompt(generations)
    if not groups:
        raise ValueError(f"no generations to show in {root}; run `parti generate` with a prompt")
    images = _read_images(root, groups, embedded_prompts, embedded_bytes)
    made = settings or {}
    facts = {"prompts": len(groups), "images": sum(map(len, groups))}
    facts |= {name.replace("_", " "): made[name] for name in _SETTINGS_SHOWN if name in made}
    first = images[groups[0][0].image]
    scored = any(group[0].score is not None for group in groups)
    tags = sorted({_challenge(group[0]) for group in groups} - {""})
    page = templates.render(
        "gallery.html",
        title="Parti generations",
        lead=_lead(groups, scored),
        facts=facts,
        tags=tags if len(tags) > 1 else [],
        has_order=scored and len(groups) > 1,
        # Least width of a card in CSS pixels: small images are shown larger.
        card_width=min(max(3 * first.width, 192), 256) if first.is_pixelated else 300,
        cards=[_card(group) for group in groups],
        images=images,
        num_linked=sum(not images[item.image].is_embedded for group in groups for item in group),
    )
    path = files.join(root, FILE_NAME)
    files.write_bytes(path, page.encode())
    return path


def group_by_prompt(generations: Iterable[records.Generation]) -> list[list[records.Generation]]:
    """Returns the images of each prompt in rank order, prompts in order of appearance."""
    groups: dict[str, list[records.Generation]] = {}
    for generation in generations:
        groups.setdefault(generation.prompt_id, []).append(generation)
    return [sorted(group, key=lambda g: (g.rank, g.sample_index)) for group in groups.values()]


def _read_images(
    root: files.Path,
    groups: Sequence[Sequence[records.Generation]],
    num_prompts: int,
    budget: int,
) -> dict[str, _Image]:
    """Returns {relative path: image}, each file opened once.

    The best images are embedded first, then the samples of the first prompts, within the budget.
    """
    best = [group[0] for group in groups]
    samples = [item for group in groups for item in group[1:]]
    num_wanted = len(best) + sum(len(group) - 1 for group in groups[:num_prompts])
    items = {files.join(root, item.image): item.image for item in (*best, *samples)}
    wanted = {*list(items)[:num_wanted]}

    def read(path: str) -> tuple[tuple[int, int], tuple[str, bytes] | None]:
        with files.open(path) as file, PIL.Image.open(file) as image:
            is_shown = path in wanted and budget >= 0
            return image.size, _embeddable(image, file) if is_shown else None

    found: dict[str, _Image] = {}
    for name, (size, shown) in zip(items.values(), files.each(read, list(items)), strict=True):
        source = ""
        if shown and budget >= 0:
            kind, data = shown
            budget -= len(data)
            source = templates.data_uri(data, kind) if budget >= 0 else ""
        found[name] = _Image(source or urllib.parse.quote(name), bool(source), *size)
    return found


def _embeddable(image: PIL.Image.Image, file: BinaryIO) -> tuple[str, bytes]:
    """Returns (image type, bytes): the open file itself, or a smaller copy of a large image."""
    if image.width <= _EMBEDDED_WIDTH:
        file.seek(0)
        return str(image.format).lower(), file.read()
    height = round(image.height * _EMBEDDED_WIDTH / image.width)
    small = image.convert("RGB").resize((_EMBEDDED_WIDTH, height), PIL.Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "webp", quality=88, method=4)
    return "webp", buffer.getvalue()


def _card(group: Sequence[records.Generation]) -> dict[str, Any]:
    best = group[0]
    text, tag = best.prompt or "(no prompt)", _challenge(best)
    words = f"{text} {tag} {best.metadata.get('category', '')} {best.prompt_id}".lower()
    return {"samples": group, "text": text, "tag": tag, "words": words}


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


def _challenge(item: records.Generation) -> str:
    return str(item.metadata.get("challenge") or item.metadata.get("category") or "")

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""gallery.html: one file to look at a folder of generations, or at two, without a server.

The page holds a compact JSON, of which its script makes the cards that are in sight. The best image
of every prompt, then all samples of the first prompts, are embedded up to a budget of bytes; the
others are linked to `images/`. The same generations give the same bytes.
"""

import dataclasses
import json
import os
import posixpath
import shlex
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import markupsafe

from parti.data.storage import records
from parti.data.text import prompt_files
from parti.pipelines.html import templates, thumbnails
from parti.stages import files

FILE_NAME = "gallery.html"
THUMBNAILS_PER_CHUNK = 64  # a JSON of the page, read when one of them is in sight
# Below this width single pixels are shown as squares instead of being smoothed away.
_PIXELATED_BELOW = 128
_SETTINGS_SHOWN = ("num_samples", "guidance_scale", "temperature", "top_k", "top_p", "seed")
# What a score is, by `--rerank_by`.
_SCORES = {
    "contrast": "The score is the cosine of the prompt's and the picture's embedding, from the "
    "bundle's CoCa reranker (--rerank_by=contrast). It lies between -1 and 1.",
    "likelihood": "The score is the log-probability, in nats, that the bundle's CoCa reranker "
    "gives to the prompt as the picture's caption (--rerank_by=likelihood). It is 0 at most, and "
    "lower for longer prompts.",
    "both": "The score is the sum, in nats, of the prompt's log-probability as the picture's "
    "caption and of the cosine of their embeddings over the learned temperature, from the bundle's "
    "CoCa reranker (--rerank_by=both). It has no fixed range.",
}
_HIGHER = (
    " Higher is better, and rank 1 is the highest of its prompt. It compares pictures of one "
    "prompt; between prompts it also depends on the text. It is a model's opinion, not a measure "
    "of beauty."
)
_FLAGS = {"num_upsampled": "keep"}  # settings whose flag has another name


@dataclasses.dataclass(frozen=True)
class Run:
    """A folder of generations."""

    root: files.Path  # that `Generation.image` is relative to
    generations: Sequence[records.Generation]  # prompts are shown in order of appearance
    inputs: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # as in `manifest.json`


def write_gallery(
    root: files.Path,  # that `Generation.image` is relative to
    generations: Iterable[records.Generation],
    *,
    inputs: Mapping[str, Any] | None = None,  # of `manifest.json`, for the commands
    path: files.Path | None = None,  # of the page; None is `root/gallery.html`
    compare: Run | None = None,  # shown beside the first, prompt by prompt
    embedded_prompts: int = 24,  # prompts whose samples are all embedded, not only the best one
    embedded_bytes: int = 16 * 2**20,  # of all embedded images together, before base64
) -> str:
    """Writes the page, and returns its address.

    ValueError: there is nothing to show, or the page and a folder are in different storage systems.
    """
    runs = [Run(root, list(generations), inputs or {})] + ([compare] if compare else [])
    for run in runs:
        if not run.generations:
            raise ValueError(
                f"no generations to show in {run.root}; run `parti generate` with a prompt"
            )
    path = os.fspath(path) if path else files.join(root, FILE_NAME)
    bases = [_relative(run.root, files.parent(path)) for run in runs]
    cards = _match(runs)
    shown = _embed(runs, cards, embedded_prompts, embedded_bytes)
    # Least width of a card in CSS pixels: small images are shown larger.
    width = next(iter(shown.values())).width if shown else _PIXELATED_BELOW
    card_width = min(max(3 * width, 192), 256) if width < _PIXELATED_BELOW else 300
    scored = [item.score is not None for run in runs for item in run.generations]
    comparable = len(runs) == 2 and all(scored) and _ranking(runs[0]) == _ranking(runs[1])
    page = templates.render(
        "gallery.html",
        title="Parti generations" if len(runs) == 1 else "Two runs of Parti",
        lead=_lead(runs, cards, comparable),
        facts=_facts(runs, cards),
        notes=[_explain(run) for run in runs],
        names=_names(runs) if len(runs) == 2 else [],
        categories=_values(runs, "category"),
        challenges=_values(runs, "challenge"),
        has_order=any(scored) and len(cards) > 1,
        comparable=comparable,
        card_width=card_width * (1 if len(runs) == 1 else 1.5),
        num_prompts=len(cards),
        num_linked=sum(len(run.generations) for run in runs) - len(shown),
        data=_json(_page_data(runs, bases, cards, shown)),
        chunks=_chunks([one.source for one in shown.values()]),
    )
    files.write_bytes(path, page.encode())
    return path


def group_by_prompt(generations: Iterable[records.Generation]) -> list[list[records.Generation]]:
    """Returns the images of each prompt in rank order, prompts in order of appearance."""
    groups: dict[str, list[records.Generation]] = {}
    for generation in generations:
        groups.setdefault(generation.prompt_id, []).append(generation)
    return [sorted(group, key=lambda g: (g.rank, g.sample_index)) for group in groups.values()]


def redraw_command(item: records.Generation, inputs: Mapping[str, Any]) -> tuple[str, str]:
    """Returns the command that draws an image and its siblings again: (its prompt, the rest).

    It is for a POSIX shell. A text that `--prompts` would read as a path goes through a file.

    Args:
      inputs: of `manifest.json`. The bundle's address there is no part of what was made, so the
        command says BUNDLE: pages of equal images have equal bytes, wherever they were drawn.
    """
    prompts = f"--prompts={item.prompt}"
    before = ""
    if _reads_as_path(item.prompt):
        line = json.dumps({"prompt": item.prompt}, ensure_ascii=False)
        before = f"printf '%s' {shlex.quote(line)} > prompt.jsonl && "
        prompts = "--prompts=prompt.jsonl"
    flags = ["--model=BUNDLE", "--output=again"]
    for name, value in sorted((item.settings | {"seed": item.seed}).items()):
        if value is not None and not isinstance(value, dict):
            flags.append(f"--{_FLAGS.get(name, name)}={value}")
    if tile := inputs.get("upsample_tile"):
        flags.append(f"--upsample_tile={tile}")
    return f"{before}parti generate {shlex.quote(prompts)}", shlex.join(flags)


def _reads_as_path(text: str) -> bool:
    has_ending = posixpath.splitext(text)[1].lower() in prompt_files.SUFFIXES
    return has_ending or ("/" in text and len(text.split()) < 2)


_Card = list[list[records.Generation]]  # of a prompt: its images in rank order, for each run


def _match(runs: Sequence[Run]) -> list[_Card]:
    """Returns the prompts of all runs; one that a run lacks has no images there."""
    cards: dict[tuple[str, str], _Card] = {}
    for index, run in enumerate(runs):
        for group in group_by_prompt(run.generations):
            key = group[0].prompt_id, group[0].prompt
            cards.setdefault(key, [[] for _ in runs])[index] = group
    return list(cards.values())


_Key = tuple[int, str]  # of an image: the number of its run, and its path there


def _embed(
    runs: Sequence[Run], cards: Sequence[_Card], num_prompts: int, budget: int
) -> dict[_Key, thumbnails.Thumbnail]:
    """Returns the embedded images: the best first, then all samples of the first prompts."""
    first = [(run, group[0]) for card in cards for run, group in enumerate(card) if group]
    others = [
        (run, item)
        for card in cards[:num_prompts]
        for run, group in enumerate(card)
        for item in group[1:]
    ]
    keys = [(run, item.image) for run, item in first + others]
    paths = [files.join(runs[run].root, image) for run, image in keys]
    found = thumbnails.embed(paths, budget, share=budget // len(first))
    return dict(zip(keys, found))


def _page_data(
    runs: Sequence[Run],
    bases: Sequence[str],
    cards: Sequence[_Card],
    shown: Mapping[_Key, thumbnails.Thumbnail],
) -> dict[str, Any]:
    """Returns what the script of the page makes cards of.

    A sample is [sample index, rank, score, name of the file, number of its settings], and if it is
    embedded also [number of the thumbnail, 1 if that is reduced].
    """
    numbers = {key: number for number, key in enumerate(shown)}
    names = _names(runs) if len(runs) == 2 else [""]
    made: dict[str, int] = {}  # settings, seed and command as JSON -> number

    def sample(run: int, item: records.Generation) -> list[Any]:
        end = redraw_command(item, runs[run].inputs)[1]
        settings = made.setdefault(json.dumps([item.settings, item.seed, end]), len(made))
        name = posixpath.basename(item.image)
        row = [item.sample_index, item.rank, item.score, name, settings]
        if thumbnail := shown.get((run, item.image)):
            row += [numbers[run, item.image], int(thumbnail.is_reduced)]
        return row

    def of_run(run: int, group: Sequence[records.Generation]) -> dict[str, Any] | None:
        if not group:
            return None
        return {
            "folder": posixpath.dirname(group[0].image),
            "command": redraw_command(group[0], runs[run].inputs)[0],
            "metadata": group[0].metadata,
            "samples": [sample(run, item) for item in group],
        }

    prompts = []
    for card in cards:
        best = next(group[0] for group in card if group)
        of_runs = [of_run(run, group) for run, group in enumerate(card)]
        prompts.append({"id": best.prompt_id, "text": best.prompt, "runs": of_runs})
    return {
        "runs": [{"name": n, "base": base} for n, base in zip(names, bases)],
        "prompts": prompts,
        "made": [json.loads(key) for key in made],
        "chunk": THUMBNAILS_PER_CHUNK,
        "pixelated": _PIXELATED_BELOW,
    }


def _json(value: Any) -> markupsafe.Markup:
    """Returns compact JSON that may stand in a script element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return markupsafe.Markup(text.replace("<", "\\u003c"))


def _chunks(sources: Sequence[str]) -> list[markupsafe.Markup]:
    size = THUMBNAILS_PER_CHUNK
    starts = range(0, len(sources), size)
    return [_json(sources[start : start + size]) for start in starts]


def _relative(root: files.Path, folder: files.Path) -> str:
    """Returns the quoted address of a run relative to the page's folder: "" or "../other/"."""
    here, there = files.absolute(folder), files.absolute(root)
    if files.is_remote(here) or files.is_remote(there):
        ends = [address.partition("://") for address in (here, there)]
        if ends[0][:2] != ends[1][:2] or ends[0][2].split("/")[0] != ends[1][2].split("/")[0]:
            raise ValueError(f"a page at {here} cannot show images at {there}; copy the folder")
        here, there = (f"/{end[2]}" for end in ends)
    link = posixpath.relpath(there, here)
    return "" if link == "." else f"{urllib.parse.quote(link)}/"


def _names(runs: Sequence[Run]) -> list[str]:
    """Returns what two runs are called: what differs of their addresses."""
    parts = [files.absolute(run.root).split("/") for run in runs]
    while len(parts[0]) > 1 and len(parts[1]) > 1 and parts[0][-1] == parts[1][-1]:
        parts = [address[:-1] for address in parts]
    return [f"{letter}: {files.text(address[-1])}" for letter, address in zip("AB", parts)]


def _values(runs: Sequence[Run], name: str) -> list[str]:
    """Returns the categories or challenges to choose from, none if there is one only."""
    items = (item for run in runs for item in run.generations)
    found = sorted({str(item.metadata.get(name) or "") for item in items} - {""})
    return found if len(found) > 1 else []


def _facts(runs: Sequence[Run], cards: Sequence[_Card]) -> dict[str, str]:
    """Returns counts and settings; where two runs differ, both values."""

    def shown(values: Iterable[Any]) -> str:
        texts = [f"{v:g}" if isinstance(v, float) else f"{v}" for v in values]
        return " and ".join(dict.fromkeys(texts))

    facts = {"prompts": f"{len(cards)}", "images": shown(len(run.generations) for run in runs)}
    settings = [run.generations[0].settings for run in runs]
    for name in _SETTINGS_SHOWN:
        if all(name in made for made in settings):
            facts[name.replace("_", " ")] = shown(made[name] for made in settings)
    return facts


def _ranking(run: Run) -> tuple[Any, Any]:
    settings = run.generations[0].settings
    return settings.get("rerank_by"), settings.get("fingerprints", {}).get("reranker")


def _explain(run: Run) -> str:
    """Returns what the scores of a run are, in plain words."""
    scores = [item.score for item in run.generations if item.score is not None]
    if not scores:
        return "No reranker scored these pictures; they stand in the order of their sample index."
    known = _SCORES.get(_ranking(run)[0], "The score is the reranker's.")
    return f"{known}{_HIGHER} Scores here go from {min(scores):.3f} to {max(scores):.3f}."


def _lead(runs: Sequence[Run], cards: Sequence[_Card], comparable: bool) -> str:
    most = max(len(group) for card in cards for group in card)
    scored = any(item.score is not None for run in runs for item in run.generations)
    if len(runs) == 2:
        return _compared(runs, cards, comparable)
    if most == 1:
        return "One sample for each prompt."
    if not scored:
        return f"The first of {most} samples of each prompt; no reranker scored them."
    return (
        f"The best of {most} samples of each prompt, by the reranker. "
        "Click a picture to see every sample in rank order."
    )


def _compared(runs: Sequence[Run], cards: Sequence[_Card], comparable: bool) -> str:
    names, both = _names(runs), [card for card in cards if all(card)]
    said = f"{names[0]} beside {names[1]}: the best picture of each prompt. "
    said += f"{templates.plural(len(both), 'prompt')} in both."
    if not comparable:
        return f"{said} Their scores are not of one reranker and ranking, so they do not compare."
    gains = [(card[1][0].score or 0.0) - (card[0][0].score or 0.0) for card in both]
    higher, lower = (sum(sign * gain > 0 for gain in gains) for sign in (1, -1))
    return f"{said} The best score is higher in B for {higher}, in A for {lower}."

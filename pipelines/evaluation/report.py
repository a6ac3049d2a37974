# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a reader sees of an evaluation: tables for the terminal, and pages of bounded size.

`report.html` is about generations, `reconstructions.html` about the models that drew them.
"""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from parti.data.images import images
from parti.data.storage import records
from parti.pipelines.evaluation import reconstruction_metrics, reconstructions
from parti.pipelines.html import templates
from parti.stages import files

FILE_NAME = "report.html"
RECONSTRUCTIONS_FILE = "reconstructions.html"
_NUM_EXAMPLES = 6
_MAX_SIDE = 256  # pixels of an image of a page
_MAX_PNG_SIDE = 128  # larger images are JPEG
_CODE_COLUMNS = 256
_PSNR_COLUMNS = 32
_MAX_DRAWN_PSNR = 60  # dB

# Comparison -> its column heading; see `scene_alignment`.
_COMPARISONS = {
    "best": "best of N",
    "random": "any sample",
    "shuffled": "other prompts",
    "oracle": "most aligned",
    "best_minus_random": "best - any",
    "best_minus_shuffled": "best - other",
}
_MEASURES = {  # name -> what a reader calls it, and digits after the point
    "psnr": ("PSNR, dB", 2),
    "ssim": ("SSIM", 3),
    "l1": ("L1, of 255", 2),
    "token_agreement": ("tokens that come back", 3),
}
_UPSAMPLERS = {
    "upsampler": "upsampler",
    "bicubic": "bicubic",
    "nearest": "nearest",
    "gain_over_bicubic": "gain over bicubic",
    "gain_over_nearest": "gain over nearest",
}
_GROUPS = {"worst": "The worst", "best": "The best", "random": "At random"}


class Table(NamedTuple):
    """A table of text, with as many cells in each row as in the head."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def table(metrics: Mapping[str, Any]) -> str:
    """Returns all tables and notes of `metrics.json` as text for a terminal."""
    blocks = []
    for title, head, rows in _tables(metrics, narrow=True):
        widths = [max(map(len, column)) for column in zip(head, *rows)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in (head, *rows)]
        blocks.append("\n  ".join([title, *lines]))
    if blocks:
        blocks.append("±: half of the 95% interval, by bootstrap over prompts or pictures")
    blocks += [f"note: {note}" for note in metrics["notes"]]
    return "\n\n".join(blocks)


def _tables(metrics: Mapping[str, Any], narrow: bool) -> list[Table]:
    return _alignment_tables(metrics, narrow) + _reconstruction_tables(metrics, narrow)


def _alignment_tables(metrics: Mapping[str, Any], narrow: bool) -> list[Table]:
    tables = []
    if "alignment" in metrics:
        count = metrics["num_prompts_with_scene"]
        title = f"Agreement with the scenes of {count} prompts, in [0, 1]"
        tables.append(_alignment_table(title, "score", metrics["alignment"], narrow))
        title, rows = "Overall agreement by challenge", metrics["alignment_by_challenge"]
        tables.append(_alignment_table(title, "challenge", rows, narrow))
    if "rerank_correlation" in metrics:
        value = templates.estimate(metrics["rerank_correlation"], narrow=narrow)
        head = ("measure", "mean and 95% interval")
        tables.append(Table("Reranker", head, [("rank correlation with agreement", value)]))
    return tables


def _alignment_table(
    title: str, what: str, rows: Mapping[str, Mapping[str, Any]], narrow: bool
) -> Table:
    def cell(name: str, value: Mapping[str, Any]) -> str:
        return f"{value['mean']:.3f}" if name == "oracle" else templates.estimate(value, 3, narrow)

    columns = [name for name in _COMPARISONS if any(name in row for row in rows.values())]
    cells = [
        [name, str(row["best"]["count"]), *(cell(column, row[column]) for column in columns)]
        for name, row in rows.items()
    ]
    return Table(title, [what, "prompts", *(_COMPARISONS[name] for name in columns)], cells)


def _reconstruction_tables(metrics: Mapping[str, Any], narrow: bool) -> list[Table]:
    about = metrics.get("reference")
    if not about:
        return []
    count = templates.plural(about["num_images"], "picture")
    rows = [
        (label, templates.estimate(metrics["tokenizer"][name], digits, narrow))
        for name, (label, digits) in _MEASURES.items()
    ]
    head = ("measure", "mean" if narrow else "mean and 95% interval")
    tables = [
        Table(f"Reconstructions of {count}, {about['split']}", head, rows),
        _codebook_table(metrics["codebook"]),
    ]
    if "upsampler" in metrics:
        tables.append(_upsampler_table(metrics["upsampler"], narrow))
    return tables


def _codebook_table(codebook: Mapping[str, Any]) -> Table:
    size, dead, batch_size = codebook["size"], codebook["dead_codes"], codebook["batch_size"]
    rows = [("used by some picture", templates.percent(size - dead, size))]
    if batch_size == reconstruction_metrics.USAGE_BATCH:  # fewer are not what the papers count
        rows.append((f"used in a batch of {batch_size} pictures", f"{codebook['batch_usage']:.1%}"))
    rows += [("dead codes", f"{dead:,}"), ("perplexity", f"{codebook['perplexity']:,.1f}")]
    return Table(f"Codebook of {size:,}", ("measure", "value"), rows)


def _upsampler_table(upsampler: Mapping[str, Any], narrow: bool) -> Table:
    def cells(name: str) -> list[str]:
        return [
            templates.estimate(upsampler[measure][name], digits, narrow)
            for measure, digits in (("psnr", 2), ("ssim", 3))
        ]

    rows = [(label, *cells(name)) for name, label in _UPSAMPLERS.items()]
    count = templates.plural(upsampler["psnr"]["upsampler"]["count"], "picture")
    return Table(f"Upsampled reconstructions of {count}", ("picture", "PSNR, dB", "SSIM"), rows)


def write(
    directory: str,
    metrics: Mapping[str, Any],
    best: Sequence[tuple[records.Generation, float]],
    generations_dir: str,
) -> None:
    """Writes `report.html` of the content of `metrics.json`.

    `best` has the best image of each prompt with a scene, relative to a folder, and its agreement.
    """
    order = sorted(best, key=lambda item: (-item[1], item[0].image))
    half = min(_NUM_EXAMPLES, len(order) // 2)
    groups = {"Highest": order[:half], "Lowest": order[len(order) - half :]} if half else {}

    def example(item: records.Generation, agreement: float) -> dict[str, Any]:
        data = files.read_bytes(files.join(generations_dir, item.image))
        kind = pathlib.PurePath(item.image).suffix.removeprefix(".")
        image, width = templates.data_uri(data, kind), images.read_size(data)[0]
        return {"prompt": item.prompt, "agreement": agreement, "image": image, "width": width}

    page = templates.render(
        "evaluation_report.html",
        title="Parti evaluation",
        metrics=metrics,
        notes=metrics["notes"],
        tables=_tables(metrics, narrow=False),
        reconstructions=RECONSTRUCTIONS_FILE if "reference" in metrics else "",
        groups=[
            (f"{name} agreement of a best picture", [example(*row) for row in chosen])
            for name, chosen in groups.items()
        ],
    )
    files.write_bytes(files.join(directory, FILE_NAME), page.encode())


def write_reconstructions(
    directory: str,
    metrics: Mapping[str, Any],
    code_tokens: np.ndarray,  # [codes], tokens that are each code
    psnr: np.ndarray,  # [images], in dB
    shown: Mapping[str, Sequence[reconstructions.Shown]],  # by the names of its `choose`
) -> None:
    """Writes `reconstructions.html` of what `reconstructions.measure` gives and images to show."""
    page = templates.render(
        "reconstruction_report.html",
        title="Reconstructions",
        metrics=metrics,
        notes=metrics["notes"],
        tables=_reconstruction_tables(metrics, narrow=True),
        codes=_code_plot(code_tokens),
        psnr=_psnr_plot(psnr),
        groups=[(_GROUPS[name], [_views(one) for one in group]) for name, group in shown.items()],
        amplified=reconstructions.AMPLIFIED,
    )
    files.write_bytes(files.join(directory, RECONSTRUCTIONS_FILE), page.encode())


def _views(one: reconstructions.Shown) -> dict[str, Any]:
    views = ("original", "reconstruction", "difference")
    return {
        "images": {name: _embed(getattr(one, name)) for name in views},
        "row": one.row,
        "text": one.text,
        "width": min(len(one.original), _MAX_SIDE),
    }


def _embed(image: np.ndarray) -> str:
    image = images.resize(image, _MAX_SIDE) if len(image) > _MAX_SIDE else image
    if len(image) > _MAX_PNG_SIDE:
        return templates.data_uri(images.encode_jpeg(image), "jpeg")
    return templates.data_uri(images.encode_png(image), "png")


def _code_plot(code_tokens: np.ndarray) -> dict[str, Any]:
    """Returns the "plot" of how often codes are used, and the use of the "most" used one.

    The scale is logarithmic, the most used are first, and the use is 1 if all are as frequent.
    """
    use = np.sort(code_tokens)[::-1] / code_tokens.mean()
    columns = [float(part.mean()) for part in np.array_split(use, min(_CODE_COLUMNS, use.size))]
    low = math.log10(min(*(c for c in columns if c), 1.0) / 1.5)
    high = math.log10(columns[0])

    def height(value: float) -> float:
        return 100 * (math.log10(value) - low) / (high - low)

    powers = range(math.ceil(low), math.floor(high) + 1)
    plot = {
        "columns": [
            {"height": height(column) if column else 0, "label": f"{column:.3g}×"}
            for column in columns
        ],
        "x_ticks": [(0, "most used"), (100, "least used")],
        "y_ticks": [(height(10.0**power), f"{10.0**power:g}×") for power in powers],
        "y_lines": [(height(1.0), "all codes alike")],
    }
    return {"plot": plot, "most": float(use[0])}


def _psnr_plot(psnr: np.ndarray) -> dict[str, Any]:
    """Returns the "plot" of how many images have which PSNR, and the "median", in dB."""
    values = np.minimum(psnr, _MAX_DRAWN_PSNR)
    high = min(math.floor(values.max()) + 1, _MAX_DRAWN_PSNR)
    low = min(math.floor(values.min()), high - 1)
    counts, edges = np.histogram(values, bins=_PSNR_COLUMNS, range=(low, high))
    median = float(np.median(values))
    most, is_cut = int(counts.max()), bool((psnr > high).any())
    plot = {
        "columns": [
            {"height": 100 * count / most, "label": f"{start:.1f} to {end:.1f} dB: {count:,}"}
            for count, start, end in zip(counts.tolist(), edges, edges[1:])
        ],
        "x_ticks": [(0, f"{low} dB"), (100, f"{high} dB{' and more' if is_cut else ''}")],
        "y_ticks": templates.count_ticks(most),
        "x_lines": [(100 * (median - low) / (high - low), f"median: {median:.1f} dB")],
    }
    return {"plot": plot, "median": median}

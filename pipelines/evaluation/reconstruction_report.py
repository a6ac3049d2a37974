# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a reader sees of reconstructions: tables, and a page of bounded size with pictures."""

import base64
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from parti.data.images import images
from parti.pipelines.evaluation import reconstruction_metrics, reconstruction_samples
from parti.pipelines.html import templates
from parti.stages import files

FILE_NAME = "reconstructions.html"
_TITLES = {"worst": "The worst", "best": "The best", "random": "At random"}
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
_MAX_SIDE = 256  # pixels of a picture of the page
_MAX_PNG_SIDE = 128  # larger pictures are JPEG
_COLUMNS = 256  # of the drawing of the codes
_BINS = 32  # of the drawing of PSNR
_MAX_DRAWN_PSNR = 60.0  # dB

Table = list[list[str]]


def tables(metrics: Mapping[str, Any], narrow: bool = False) -> list[tuple[str, Table]]:
    """Returns (title, rows of cells, the first is the heading) of what was measured.

    Args:
      metrics: what `reconstructions.measure` gave; without "reference" there are no tables.
      narrow: see `templates.estimate`.
    """
    if "reference" not in metrics:
        return []
    pictures: Table = [["measure", "mean" if narrow else "mean and 95% interval"]]
    for name, (label, digits) in _MEASURES.items():
        pictures.append([label, templates.estimate(metrics["tokenizer"][name], digits, narrow)])
    about = metrics["reference"]
    title = (
        f"Reconstructions of {templates.plural(about['num_images'], 'picture')}, {about['split']}"
    )
    found = [(title, pictures), _codebook_table(metrics["codebook"])]
    if "upsampler" in metrics:
        rows: Table = [["picture", "PSNR, dB", "SSIM"]]
        for name, label in _UPSAMPLERS.items():
            psnr, ssim = (metrics["upsampler"][measure][name] for measure in ("psnr", "ssim"))
            cells = [templates.estimate(psnr, 2, narrow), templates.estimate(ssim, 3, narrow)]
            rows.append([label, *cells])
        count = metrics["upsampler"]["psnr"]["upsampler"]["count"]
        found.append((f"Upsampled reconstructions of {templates.plural(count, 'picture')}", rows))
    return found


def _codebook_table(codebook: Mapping[str, Any]) -> tuple[str, Table]:
    """Returns how the codes are used."""
    size, dead = codebook["size"], codebook["dead_codes"]
    rows = [
        ["measure", "value"],
        ["used by some picture", templates.percent(size - dead, size)],
        ["dead codes", f"{dead:,}"],
        ["perplexity", f"{codebook['perplexity']:,.1f}"],
    ]
    batch_size = codebook["batch_size"]
    if batch_size == reconstruction_metrics.USAGE_BATCH:  # fewer are not what the papers count
        used = f"{codebook['batch_usage']:.1%}"
        rows.insert(2, [f"used in a batch of {batch_size} pictures", used])
    return f"Codebook of {size:,}", rows


def write(
    directory: pathlib.Path,
    metrics: Mapping[str, Any],
    code_tokens: np.ndarray,
    psnr: np.ndarray,
    shown: Mapping[str, Sequence[reconstruction_samples.Shown]],
) -> None:
    """Writes the page.

    Args:
      directory: where to.
      metrics: what `reconstructions.measure` gives.
      code_tokens: [codes], tokens that are each code.
      psnr: [pictures], in dB.
      shown: the pictures, by the names of `reconstruction_samples.choose`.
    """
    page = templates.render(
        "reconstruction_report.html",
        title="Reconstructions",
        metrics=metrics,
        tables=tables(metrics, narrow=True),
        codes=_draw_codes(code_tokens),
        histogram=_draw_psnr(psnr),
        groups=[(_TITLES[name], [_tile(one) for one in group]) for name, group in shown.items()],
        amplified=reconstruction_samples.AMPLIFIED,
    )
    files.write_bytes(directory / FILE_NAME, page.encode())


def _tile(one: reconstruction_samples.Shown) -> dict[str, Any]:
    """Returns a picture for the page: three data addresses, numbers and caption."""
    pictures = {
        "original": one.original,
        "reconstruction": one.reconstruction,
        "difference": one.difference,
    }
    return {
        "pictures": {name: _address(picture) for name, picture in pictures.items()},
        "row": one.row,
        "text": one.text,
        "width": min(len(one.original), _MAX_SIDE),
    }


def _address(picture: np.ndarray) -> str:
    """Returns a square picture as the text of an address that holds it."""
    if len(picture) > _MAX_SIDE:
        picture = images.resize(picture, _MAX_SIDE)
    kind, encode = "png", images.encode_png
    if len(picture) > _MAX_PNG_SIDE:
        kind, encode = "jpeg", images.encode_jpeg
    return f"data:image/{kind};base64,{base64.b64encode(encode(picture)).decode('ascii')}"


def _draw_codes(code_tokens: np.ndarray) -> dict[str, Any]:
    """Returns the drawing of the codes, the most used first, on a logarithmic scale.

    Returns:
      "path" in a box of 100 x 100; "fair": height of the line at which all codes are as frequent;
      "most": how many times that the most used code is.
    """
    counts = np.sort(code_tokens)[::-1].astype(np.float64)
    parts = np.array_split(counts, min(_COLUMNS, counts.size))
    columns = np.array([part.mean() for part in parts])
    fair, least = counts.mean(), columns[columns > 0].min()
    low, high = math.log(min(least, fair) / 1.5), math.log(columns.max())
    heights = [100 * (math.log(c) - low) / (high - low) if c else 0.0 for c in columns]
    return {
        "path": _steps(heights),
        "fair": 100 - 100 * (math.log(fair) - low) / (high - low),
        "most": counts[0] / fair,
    }


def _draw_psnr(psnr: np.ndarray) -> dict[str, Any]:
    """Returns the drawing of how many pictures have which PSNR, in a box of 100 x 100.

    Returns:
      "path"; "low" and "high": its ends in dB; "over": whether better pictures are at the high end;
      "median" in dB, and its "place" from the left.
    """
    values = np.minimum(psnr, _MAX_DRAWN_PSNR)
    high = min(math.floor(values.max()) + 1, round(_MAX_DRAWN_PSNR))
    low = min(math.floor(values.min()), high - 1)
    counts, _ = np.histogram(values, bins=_BINS, range=(low, high))
    median = float(np.median(values))
    return {
        "path": _steps(100 * counts / counts.max()),
        "low": low,
        "high": high,
        "over": bool((psnr > high).any()),
        "median": median,
        "place": 100 * (median - low) / (high - low),
    }


def _steps(heights: Sequence[float] | np.ndarray) -> str:
    """Returns the outline of columns that fill the width, as an SVG path in 100 x 100."""
    width = 100 / len(heights)
    tops = "".join(f"V{100 - top:.2f}H{(i + 1) * width:.2f}" for i, top in enumerate(heights))
    return f"M0 100{tops}V100Z"

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""How close reconstructions are to their images, and how a codebook is used; pure, no Beam.

A row is of one image: `key`, PSNR in dB, SSIM, L1 of 255, the share of its tokens that come back,
and with an upsampler `upsampled`: {"upsampler", "bicubic", "nearest": {"psnr", "ssim"}}.
"""

import collections
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from parti.data.images import images
from parti.pipelines.evaluation import bootstrap

MAX_PSNR = 100.0  # dB; of equal images, whose PSNR is infinite
MEASURES = ("psnr", "ssim", "l1", "token_agreement")
UPSAMPLERS = ("upsampler", "bicubic", "nearest")
# Images of a batch in which the papers count the codes: see `batch_usage`.
USAGE_BATCH = 256
_DIGITS = 6


def _psnr_and_ssim(image: np.ndarray, original: np.ndarray) -> dict[str, float]:
    psnr = min(images.psnr(image, original), MAX_PSNR)
    return {"psnr": round(psnr, _DIGITS), "ssim": round(images.ssim(image, original), _DIGITS)}


def image_row(
    key: str,
    original: np.ndarray,  # [size, size, 3] uint8, as it was encoded
    reconstruction: np.ndarray,  # of the same shape, as a user gets it
    image_tokens: np.ndarray,  # [length], of the original
    tokens_again: np.ndarray,  # [length], of the reconstruction
) -> dict[str, Any]:
    """Returns the row of the image of a pair."""
    l1 = np.abs(reconstruction.astype(np.int16) - original).mean()
    return {
        "key": key,
        **_psnr_and_ssim(reconstruction, original),
        "l1": round(float(l1), _DIGITS),
        "token_agreement": round(float((image_tokens == tokens_again).mean()), _DIGITS),
    }


def upsampled_row(
    original: np.ndarray,  # [side, side, 3] uint8, not resized
    reconstruction: np.ndarray,  # [size, size, 3] uint8
    upsampled: np.ndarray,  # the same by the upsampler, [size * scale, size * scale, 3] uint8
) -> dict[str, dict[str, float]] | None:
    """Returns {name of `UPSAMPLERS`: {"psnr", "ssim"}}, compared with the original.

    None if the original has less detail than what was upsampled.
    """
    side, scale = len(upsampled), len(upsampled) // len(reconstruction)
    if len(original) < side:
        return None
    target = images.resize(original, side)
    candidates = {
        "upsampler": upsampled,
        "bicubic": images.resize(reconstruction, side),
        "nearest": reconstruction.repeat(scale, axis=0).repeat(scale, axis=1),
    }
    return {name: _psnr_and_ssim(image, target) for name, image in candidates.items()}


def summarise(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the estimates over images, of whose rows only the numbers are held.

    They are "tokenizer": {measure: estimate} and, if images were upsampled, "upsampler": {"psnr"
    and "ssim": {name of `UPSAMPLERS`, "gain_over_bicubic" or "gain_over_nearest": estimate}}.

    Raises:
      ValueError: there are no rows.
    """
    columns: dict[tuple[str, ...], list[float]] = collections.defaultdict(list)
    for row in rows:
        for name in MEASURES:
            columns[(name,)].append(row[name])
        for kind, values in row.get("upsampled", {}).items():
            for name, value in values.items():
                columns[kind, name].append(value)
    values = {name: np.array(column) for name, column in columns.items()}
    if not values:
        raise ValueError("no reference picture could be read; give the output of `parti clean`")
    estimate = bootstrap.estimate_mean
    result: dict[str, Any] = {"tokenizer": {name: estimate(values[name,]) for name in MEASURES}}
    if ("upsampler", "psnr") in values:
        result["upsampler"] = {}
        for name in ("psnr", "ssim"):
            compared = {kind: values[kind, name] for kind in UPSAMPLERS}
            for kind in ("bicubic", "nearest"):  # paired differences
                compared[f"gain_over_{kind}"] = compared["upsampler"] - compared[kind]
            result["upsampler"][name] = {kind: estimate(c) for kind, c in compared.items()}
    return result


class CodeCounts:
    """How often each code of a codebook was chosen in the images counted so far."""

    def __init__(self, codebook_size: int) -> None:
        self.num_images = 0
        self.tokens = np.zeros(codebook_size, np.int64)  # that are this code
        self.images = np.zeros(codebook_size, np.int64)  # with this code in them

    def add(self, image_tokens: np.ndarray) -> None:
        """Counts images, [images, length] integers in [0, codebook_size)."""
        self.num_images += len(image_tokens)
        self.tokens += np.bincount(image_tokens.ravel(), minlength=self.tokens.size)
        for row in image_tokens:
            self.images[np.unique(row)] += 1

    def to_dict(self) -> dict[str, Any]:
        """Returns the counts by code, as JSON."""
        return {
            "num_pictures": self.num_images,
            "tokens": self.tokens.tolist(),
            "pictures": self.images.tolist(),
        }


def codebook_metrics(counts: CodeCounts) -> dict[str, Any]:
    """Returns how much of the codebook is used.

    "usage" is the share of the codes that some image uses, "dead_codes" how many none uses,
    "perplexity" the exp of the entropy of the tokens: "size" if all codes are as frequent.
    "batch_usage" is in batches of "batch_size" images, see `batch_usage`.
    """
    shares = counts.tokens[counts.tokens > 0] / counts.tokens.sum()
    batch_size = min(USAGE_BATCH, counts.num_images)
    return {
        "size": counts.tokens.size,
        "usage": round(shares.size / counts.tokens.size, _DIGITS),
        "dead_codes": counts.tokens.size - shares.size,
        "perplexity": round(math.exp(-(shares * np.log(shares)).sum()), _DIGITS),
        "batch_usage": round(batch_usage(counts, batch_size), _DIGITS),
        "batch_size": batch_size,
    }


def batch_usage(counts: CodeCounts, batch_size: int) -> float:
    """Returns the share of the codes that a batch of images hits, in the mean over all batches.

    All batches that can be drawn without replacement, not one division of the set into batches: the
    mean is exact, and depends on no order. A code that n of N images have is missed by a batch of
    B with probability C(N - n, B) / C(N, B), the product over i < B of (N - n - i) / (N - i).

    Source: ViT-VQGAN (arXiv 2110.04627), codebook usage: the share in a batch of 256 test images,
    averaged over the test set.

    Raises:
      ValueError: the batch is empty or larger than the set.
    """
    total = counts.num_images
    if not 1 <= batch_size <= total:
        raise ValueError(f"batch_size={batch_size}: give 1 to the number of pictures, {total}")
    missed = np.ones(counts.images.size)
    for drawn in range(batch_size):
        missed *= np.maximum(total - counts.images - drawn, 0) / (total - drawn)
    return float(1 - missed.mean())

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti evaluate --reconstructions`: pictures through a tokenizer and back, measured and shown.

Every picture of a split is measured by `reconstruction_job`, which keeps none. Those that the page
shows are chosen from the rows, read again and reconstructed again (`reconstruction_samples`).
"""

import argparse
import dataclasses
import json
import pathlib
from typing import Any

from parti.data.images import images
from parti.data.storage import shard_names
from parti.engine.inference import bundles
from parti.pipelines.beam import options
from parti.pipelines.evaluation import (
    reconstruction_job,
    reconstruction_metrics,
    reconstruction_report,
    reconstruction_samples,
)
from parti.pipelines.tokens import resumable_shards
from parti.stages import files, manifests, output_directory, progress_line

KIND = "reconstructions"
CODES_FILE = "codes.json"
METRICS_FILE = "metrics.json"


@dataclasses.dataclass(frozen=True)
class Reference:
    """Pairs to reconstruct, and the models to do it with.

    Attributes:
      shards: TFRecord files of `ImageTextPair`.
      split: which they are of.
      num_pictures: about so many are measured, the same share of each shard; None for all.
      expected: how many that will be, as far as is known.
      models: what reconstructs.
      fingerprints: of the pairs and of the models.
    """

    shards: tuple[str, ...]
    split: str
    num_pictures: int | None
    expected: int
    models: reconstruction_job.Models
    fingerprints: dict[str, str]

    @classmethod
    def open(
        cls, pairs: str, model: str, split: str | None = None, num_pictures: int | None = None
    ) -> "Reference":
        """Opens pairs and models, and checks that they can be measured.

        Args:
          pairs: the output of `parti clean`.
          model: a bundle, or the training directory of a tokenizer.
          split: of `records.SPLITS`; None is validation, or train if there is no other.
          num_pictures: see the class.

        Raises:
          FileNotFoundError: no finished pairs, or no model there.
          ValueError: the split is empty, or the tokenizer's pictures are too small to measure.
        """
        manifest = manifests.read(pairs, "pairs")
        counts = manifest["counts"]
        split = split or ("validation" if counts.get("validation") else "train")
        if not counts.get(split):
            raise ValueError(f"{pairs}: the split {split} is empty; choose another --split")
        pattern = str(pathlib.Path(pairs, f"{split}-*.tfrecord"))
        models, fingerprints = _open_models(model)
        return cls(
            shards=tuple(shard_names.expand_pattern(pattern, "image-text pairs")),
            split=split,
            num_pictures=num_pictures,
            expected=min(counts[split], num_pictures or counts[split]),
            models=models,
            fingerprints={"pairs": manifest["fingerprint"], **fingerprints},
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the bytes of the report, for the manifest."""
        return {
            "split": self.split,
            "num_reference": self.num_pictures,
            "reference_fingerprints": self.fingerprints,
        }


def _open_models(source: str) -> tuple[reconstruction_job.Models, dict[str, str]]:
    """Returns what reconstructs, and the fingerprint of each part."""
    tokenizer = bundles.load_part(source, "tokenizer")
    size = tokenizer.model.image_size
    if size < images.SSIM_WINDOW:
        raise ValueError(
            f"{source}: the tokenizer's pictures have {size} px; SSIM, which is measured too, "
            f"needs {images.SSIM_WINDOW}"
        )
    fingerprints = {"tokenizer": tokenizer.fingerprint}
    if bundled := (pathlib.Path(source) / bundles.BUNDLE_FILE).is_file():
        prints = bundles.Bundle.open(source).fingerprints
        if "upsampler" in prints:
            fingerprints["upsampler"] = prints["upsampler"]
    models = reconstruction_job.Models(
        source=str(pathlib.Path(source).resolve()),
        image_size=size,
        grid_size=tokenizer.model.grid_size,
        codebook_size=tokenizer.model.codebook_size,
        bundled=bundled,
        has_upsampler="upsampler" in fingerprints,
    )
    return models, fingerprints


def run(
    reference: Reference, flags: argparse.Namespace, beam_options: Any
) -> tuple[output_directory.OutputDirectory, dict[str, Any]]:
    """Writes a report of nothing but reconstructions; returns its stage and its metrics.

    Args:
      reference: what to measure.
      flags: of `parti evaluate`.
      beam_options: from `options.parse`.

    Raises:
      ValueError: bad output, or no picture could be read.
      options.PipelineError: the job failed.
    """
    stage = output_directory.OutputDirectory(
        flags.output,
        KIND,
        settings=reference.settings,
        inputs={name: getattr(flags, name) for name in ("reference", "model")},
        overwrite=flags.overwrite,
        resume=True,
    )
    with stage:
        metrics = measure(reference, stage.path, beam_options)
        text = json.dumps(metrics, indent=2, sort_keys=True)
        (stage.path / METRICS_FILE).write_text(text + "\n", encoding="utf-8")
        numbers = metrics["reference"]
        stage.publish({"images": numbers["num_images"], "rejected": numbers["num_rejected"]})
    return stage, metrics


def measure(reference: Reference, directory: pathlib.Path, beam_options: Any) -> dict[str, Any]:
    """Runs the Beam job and writes rows, counts of codes, rejected pictures and the page.

    Args:
      reference: what to measure.
      directory: where to; shards that are finished there are not measured again.
      beam_options: from `options.parse`.

    Returns:
      "reference": what was measured; "tokenizer" and "upsampler": as
      `reconstruction_metrics.summarise` has them; "codebook"; "notes".

    Raises:
      ValueError: no picture could be read.
      options.PipelineError: the job failed.
    """
    models, shards = reference.models, reference.shards
    _run_shards(reference, directory, beam_options)
    rejected = [
        {"key": key, "reason": reason}
        for report in resumable_shards.reports(directory)
        for key, reason in sorted(report["rejected"].items())
    ]
    if rejected:
        lines = [json.dumps(row, sort_keys=True) + "\n" for row in rejected]
        path = directory / resumable_shards.REJECTED_FILE
        files.write_bytes(path, "".join(lines).encode())
    rows = reconstruction_job.Rows(directory, shards)
    counts = reconstruction_job.count_codes(directory, shards, models)
    metrics, psnr = reconstruction_metrics.summarise(row for _, row in rows)
    metrics["codebook"] = reconstruction_metrics.codebook_metrics(counts)
    metrics["reference"] = {
        "split": reference.split,
        "image_size": models.image_size,
        "grid_size": models.grid_size,
        "num_images": counts.num_pictures,
        "num_rejected": len(rejected),
    }
    metrics["notes"] = _notes(reference, metrics)
    files.write_bytes(directory / CODES_FILE, json.dumps(counts.to_dict()).encode() + b"\n")
    groups = reconstruction_samples.choose(rows, counts.num_pictures)
    shown = reconstruction_samples.show(groups, models)
    reconstruction_report.write(directory, metrics, counts.tokens, psnr, shown)
    reconstruction_job.clear(directory)
    return metrics


def _run_shards(reference: Reference, directory: pathlib.Path, beam_options: Any) -> None:
    """Measures the shards that are not measured yet."""
    done = {report["name"]: report["count"] for report in resumable_shards.reports(directory)}
    todo = [s for s in reference.shards if reconstruction_job.rows_name(s) not in done]
    total = reference.expected - sum(done.values())
    progress = progress_line.Progress("reconstruct", max(total, 0), "images")
    if todo:
        limit = reference.num_pictures and -(-reference.num_pictures // len(reference.shards))
        options.run_pipeline(
            lambda root: reconstruction_job.build(root, reference.models, todo, directory, limit),
            beam_options,
            progress,
        )
    progress.done()


def _notes(reference: Reference, metrics: dict[str, Any]) -> list[str]:
    """Returns what a reader of the numbers must know."""
    notes = []
    if rejected := metrics["reference"]["num_rejected"]:
        total = rejected + metrics["reference"]["num_images"]
        file = resumable_shards.REJECTED_FILE
        notes.append(f"{rejected} of {total} pictures could not be read, see {file}")
    if reference.split == "train":
        notes.append("the pictures are of the train split: a tokenizer may have learnt from them")
    if reference.models.bundled and "upsampler" not in metrics:
        why = "the bundle has none"
        if reference.models.has_upsampler:
            why = "the reference pictures are smaller than what it makes"
        notes.append(f"the upsampler was not measured: {why}")
    return notes

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""seqio metrics of a whole validation split.

A task names them in `metric_objs`. The embedded engine computes them at each evaluation
(engine/loop/seqio_metrics.py), seqio's `Evaluator` wherever it is used.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.struct
import numpy as np
import seqio

RECALL_AT = (1, 5, 10)
_ROWS = 1_024  # queries compared at a time


@flax.struct.dataclass(kw_only=True)
class Retrieval(seqio.metrics.Metric):
    """Recall at 1, 5 and 10 of images by their texts, and of texts by their images.

    The share of queries whose partner is among the k nearest of the whole split, by cosine. Where
    others are exactly as near as the partner, it is the chance of a draw among them.

    Source: the zero-shot retrieval of CoCa (arXiv 2205.01917), table 3.
    """

    image_embeddings: np.ndarray  # [N, dim], unit norm
    text_embeddings: np.ndarray  # [N, dim], unit norm; row i belongs to image i

    model_output_type: seqio.metrics.ModelOutputType = flax.struct.field(
        pytree_node=False, default=seqio.metrics.ModelOutputType.PREDICTION_WITH_AUX
    )

    @classmethod
    def from_model_output(
        cls,
        inputs: Sequence[Mapping[str, Any]],
        model_output: tuple[np.ndarray, Mapping[str, np.ndarray]],
        features: Mapping[str, seqio.Feature],
        target_field_name: str = "targets",
        **masks: Any,
    ) -> "Retrieval":
        """Takes what `CocaModel.predict_batch_with_aux` gives for all examples."""
        _, embeddings = model_output
        return cls(
            image_embeddings=embeddings["image_embeddings"],
            text_embeddings=embeddings["text_embeddings"],
        )

    def compute(self) -> dict[str, float]:
        """Returns the six shares, each in [0, 1]."""
        images, texts = self.image_embeddings, self.text_embeddings
        found = _recalls("text_to_image", texts, images)
        return found | _recalls("image_to_text", images, texts)


@flax.struct.dataclass(kw_only=True)
class _Classes(seqio.metrics.Metric):
    """Classes that a model gave the examples of a split, beside the true ones."""

    labels: np.ndarray  # [N] int, the feature `targets`
    predictions: np.ndarray  # [N] int

    model_output_type: seqio.metrics.ModelOutputType = flax.struct.field(
        pytree_node=False, default=seqio.metrics.ModelOutputType.PREDICTION
    )

    @classmethod
    def from_model_output(
        cls,
        inputs: Iterable[Mapping[str, Any]],
        model_output: np.ndarray,
        features: Mapping[str, seqio.Feature],
        target_field_name: str = "targets",
        **masks: Any,
    ) -> "_Classes":
        """Takes the [N] classes that `predict_batch` gives."""
        labels = np.concatenate([example[target_field_name] for example in inputs])
        return cls(labels=labels, predictions=np.asarray(model_output))

    def _counts(self) -> tuple[int, int, int, int]:
        """Returns true and false positives, false and true negatives; class 1 is positive."""
        true, given = self.labels == 1, self.predictions == 1
        return tuple(
            int(np.sum(x)) for x in (true & given, ~true & given, true & ~given, ~true & ~given)
        )


class Accuracy(_Classes):
    """The share of examples whose class is right."""

    def compute(self) -> dict[str, float]:
        """Returns `accuracy`, in [0, 1]."""
        return {"accuracy": float(np.mean(self.labels == self.predictions))}


class F1(_Classes):
    """The harmonic mean of precision and recall of class 1, of two classes.

    Source: GLUE (arXiv 1804.07461) table 1, for MRPC and QQP.
    """

    def compute(self) -> dict[str, float]:
        """Returns `f1`, in [0, 1]; 0 if no example is class 1, in truth or by the model."""
        hits, false_alarms, misses, _ = self._counts()
        return {"f1": 2 * hits / max(2 * hits + false_alarms + misses, 1)}


class MatthewsCorrelation(_Classes):
    """The correlation of the given with the true classes, of two.

    Source: Matthews 1975; GLUE (arXiv 1804.07461) table 1, for CoLA.
    """

    def compute(self) -> dict[str, float]:
        """Returns `matthews_correlation`, in [-1, 1]; 0 if either has one class only."""
        tp, fp, fn, tn = self._counts()
        scale = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
        return {"matthews_correlation": (tp * tn - fp * fn) / scale if scale else 0.0}


def _recalls(name: str, queries: np.ndarray, candidates: np.ndarray) -> dict[str, float]:
    hits = dict.fromkeys(RECALL_AT, 0.0)
    for start in range(0, len(queries), _ROWS):
        cosines = queries[start : start + _ROWS] @ candidates.T
        partners = np.diagonal(cosines, offset=start)[:, None]
        nearer = np.sum(cosines > partners, axis=1)
        as_near = np.sum(cosines == partners, axis=1)  # the partner among them
        for k in RECALL_AT:
            hits[k] += np.clip((k - nearer) / as_near, 0.0, 1.0).sum()
    return {f"{name}_recall_at_{k}": count / len(queries) for k, count in hits.items()}

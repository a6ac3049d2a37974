# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""seqio metrics of a whole validation split.

A task names them in `metric_objs`. The embedded engine computes them at each evaluation
(engine/loop/seqio_metrics.py), and so does seqio's `Evaluator` wherever it is used.
"""

import collections
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.struct
import numpy as np
import seqio

from parti.data.text import vocabularies

RECALL_AT = (1, 5, 10)
_MAX_NGRAM = 4
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
class Captioning(seqio.metrics.Metric):
    """How well a model writes the captions of the split, from each image alone.

    - `caption_perplexity`: exp of the mean negative log-likelihood of a token of the data's
      captions, after the image and the tokens before; the end counts as a token.
    - `caption_token_accuracy`: the share of those tokens that are the most likely ones.
    - `caption_exact_match`: the share of most likely captions that are the data's.
    - `caption_bleu_4`: corpus BLEU of the most likely captions on token ids with one reference
      each, in [0, 1]; the data may have other true captions of the same image.

    Source: BLEU, Papineni et al. 2002, equations 2 and 3, without smoothing.
    """

    captions: np.ndarray  # [N, length] int32, padded with 0
    text_tokens: np.ndarray  # [N, length] int32, those of the data; perhaps shorter
    log_likelihood: np.ndarray  # [N] nats, of the data's
    num_correct: np.ndarray  # [N]

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
    ) -> "Captioning":
        """Takes what `CocaModel.predict_batch_with_aux` gives for all examples."""
        _, found = model_output
        empty = np.zeros((0, 0), np.int32), np.zeros((0, 0), np.int32), np.zeros(0), np.zeros(0)
        names = ("captions", "text_tokens", "caption_log_likelihood", "caption_num_correct")
        values = [np.asarray(found[name]) for name in names] if names[0] in found else empty
        return cls(
            captions=values[0],
            text_tokens=values[1],
            log_likelihood=values[2],
            num_correct=values[3],
        )

    def compute(self) -> dict[str, float]:
        """Returns the four values; none for a model without captions."""
        if not len(self.captions):
            return {}
        num_tokens = np.count_nonzero(self.text_tokens)
        captions, references = _texts(self.captions), _texts(self.text_tokens)
        same = [one == other for one, other in zip(captions, references, strict=True)]
        return {
            "caption_perplexity": float(np.exp(-self.log_likelihood.sum() / num_tokens)),
            "caption_token_accuracy": float(self.num_correct.sum() / num_tokens),
            "caption_exact_match": float(np.mean(same)),
            "caption_bleu_4": bleu(captions, references),
        }


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
        cases = (true & given, ~true & given, true & ~given, ~true & ~given)
        hits, false_alarms, misses, others = (int(np.sum(case)) for case in cases)
        return hits, false_alarms, misses, others


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


def bleu(candidates: Sequence[Sequence[int]], references: Sequence[Sequence[int]]) -> float:
    """Returns the corpus BLEU with n-grams up to 4 of texts with one reference each, in [0, 1].

    It is 0 if no n-gram of some length is right.
    """
    matches, counts = np.zeros(_MAX_NGRAM), np.zeros(_MAX_NGRAM)
    for candidate, reference in zip(candidates, references, strict=True):
        for n in range(1, _MAX_NGRAM + 1):
            found, right = _ngrams(candidate, n), _ngrams(reference, n)
            matches[n - 1] += (found & right).total()
            counts[n - 1] += found.total()
    if not matches.all():
        return 0.0
    length, wanted = sum(map(len, candidates)), sum(map(len, references))
    brevity = min(0.0, 1.0 - wanted / length)
    return float(np.exp(brevity + np.log(matches / counts).mean()))


def _ngrams(tokens: Sequence[int], n: int) -> collections.Counter:
    return collections.Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def _texts(tokens: np.ndarray) -> list[list[int]]:
    """Returns the rows of [N, length] without padding and ends."""
    return [[i for i in row if i not in (0, vocabularies.EOS_ID)] for row in tokens.tolist()]


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

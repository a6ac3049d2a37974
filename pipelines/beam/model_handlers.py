# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""RunInference handlers over `LoadedModel`: one copy of a part in each process, fixed batches.

    keyed | model_handlers.infer("Decode", model_handlers.Decoder(bundle_dir))

takes (key, example) and gives (key, prediction); keys may be anything and travel along.

An example here is a whole batch that the pipeline has composed (images of a shard in order, prompts
of a file in order), and Beam hands over one at a time. Beam's own batches depend on the runner and
on where a bundle ends; these do not, so neither do the shapes that are compiled, nor the bytes.
"""

import abc
import functools
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference import base as inference

from parti.data.images import images
from parti.data.text import captions, vocabularies
from parti.engine.inference import bundles, loaded_models
from parti.models import base
from parti.models.super_resolution import tiling
from parti.models.text_to_image import sampling

# Images that one call of a model takes; fewer are filled up.
IMAGE_BATCH = 16


class PartHandler(abc.ABC, inference.ModelHandler[Any, Any, loaded_models.LoadedModel]):
    """Loads one part and predicts example by example; subclasses define `predict`."""

    def __init__(self, source: str | pathlib.Path, part: str, unused: Sequence[str] = ()) -> None:
        """Names the part.

        Args:
          source: a bundle, or the part's training directory; every worker must reach it.
          part: a key of `bundles.PARTS`.
          unused: top-level branches of its variables that `predict` does not read; they do not
            stay in memory.
        """
        super().__init__(min_batch_size=1, max_batch_size=1)
        self._source, self._part, self._unused = str(source), part, tuple(unused)

    def load_model(self) -> loaded_models.LoadedModel:
        """Loads the part; Beam calls this once in each process."""
        loaded = bundles.load_part(self._source, self._part)
        loaded.variables = base.without_branches(loaded.variables, self._unused)
        return loaded

    def run_inference(
        self,
        batch: Sequence[Any],
        model: loaded_models.LoadedModel,
        inference_args: Mapping[str, Any] | None = None,
    ) -> Iterable[Any]:
        """Returns a prediction for each example."""
        del inference_args
        return [self.predict(example, model) for example in batch]

    @abc.abstractmethod
    def predict(self, example: Any, model: loaded_models.LoadedModel) -> Any:
        """Returns the prediction for one example."""

    def get_num_bytes(self, batch: Sequence[Any]) -> int:
        """Returns the size of the arrays in a batch; pickling them to measure would be slow."""
        return sum(array.nbytes for array in _arrays(batch))

    def get_metrics_namespace(self) -> str:
        """Returns the name of the Beam metrics."""
        return f"parti.{self._part}"


def infer(label: str, handler: PartHandler) -> beam.PTransform:
    """Returns the transform (key, example) -> (key, prediction)."""
    return label >> inference.RunInference(inference.KeyedModelHandler(handler))


class Encoded(NamedTuple):
    """Images as tokens.

    Attributes:
      image_tokens: [batch, length] int32.
      reconstructions: [batch, height, width, 3] uint8, or None if not asked for.
    """

    image_tokens: np.ndarray
    reconstructions: np.ndarray | None


class Encoder(PartHandler):
    """Images [batch, height, width, 3] uint8, at the tokenizer's size, to `Encoded`."""

    def __init__(
        self, source: str | pathlib.Path, batch_size: int, reconstruct: bool = False
    ) -> None:
        """Names the tokenizer; `reconstruct` also decodes the tokens again."""
        super().__init__(source, "tokenizer", unused=() if reconstruct else ("decoder",))
        self._batch_size, self._reconstruct = batch_size, reconstruct

    def predict(self, example: np.ndarray, model: loaded_models.LoadedModel) -> Encoded:
        """Encodes one batch."""
        size = self._batch_size
        tokens = model.call("encode", images.to_float(example), batch_size=size)
        if not self._reconstruct:
            return Encoded(tokens, None)
        decoded = model.call("decode", tokens, batch_size=size)
        return Encoded(tokens, images.to_uint8(decoded))


class Sampler(PartHandler):
    """Prompts (a sequence of texts) to image tokens [prompts, samples, length] int32."""

    def __init__(
        self,
        source: str | pathlib.Path,
        settings: sampling.SamplingSettings,
        num_samples: int,
        prompts_per_batch: int,
        seed: int,
    ) -> None:
        """Names the generator's bundle and how to draw."""
        super().__init__(source, "generator")
        self._settings, self._num_samples = settings, num_samples
        self._prompts_per_batch, self._seed = prompts_per_batch, seed
        self._text_tokenizer: vocabularies.TextTokenizer | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_text_tokenizer": None}  # SentencePiece is loaded by the worker

    def predict(self, example: Sequence[str], model: loaded_models.LoadedModel) -> np.ndarray:
        """Draws all samples of up to `prompts_per_batch` prompts."""
        self._text_tokenizer = self._text_tokenizer or _vocabulary(self._source)
        text_tokens = encode_texts(self._text_tokenizer, example, model)
        keys = sampling.image_keys(self._seed, list(example), self._num_samples)
        batch_size = self._prompts_per_batch
        return model.call(
            "sample", text_tokens, keys, batch_size=batch_size, settings=self._settings
        )


class Decoder(PartHandler):
    """Image tokens [batch, length] to images [batch, height, width, 3] uint8."""

    def __init__(self, source: str | pathlib.Path) -> None:
        """Names the tokenizer."""
        super().__init__(source, "tokenizer", unused=("encoder",))

    def predict(self, example: np.ndarray, model: loaded_models.LoadedModel) -> np.ndarray:
        """Decodes one batch."""
        return images.to_uint8(model.call("decode", example, batch_size=IMAGE_BATCH))


class Scorer(PartHandler):
    """(text, images [batch, height, width, 3] uint8) to cosines [batch] float64 in [-1, 1]."""

    def __init__(self, source: str | pathlib.Path) -> None:
        """Names the reranker's bundle."""
        super().__init__(source, "reranker")
        self._text_tokenizer: vocabularies.TextTokenizer | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_text_tokenizer": None}

    def predict(
        self, example: tuple[str, np.ndarray], model: loaded_models.LoadedModel
    ) -> np.ndarray:
        """Scores the images of one prompt: cosine of text and image embeddings.

        Source: Parti (arXiv 2206.10789) section 2.4, reranking with CoCa's contrastive branch.
        """
        text, pictures = example
        self._text_tokenizer = self._text_tokenizer or _vocabulary(self._source)
        text_tokens = encode_texts(self._text_tokenizer, [text], model)
        text_embedding = model.call("text_embeddings", text_tokens, batch_size=1)
        size = model.model.image_size
        resized = np.stack([images.resize(picture, size) for picture in pictures])
        embeddings = model.call(
            "image_embeddings", images.to_float(resized), batch_size=IMAGE_BATCH
        )
        return (embeddings.astype(np.float64) @ text_embedding[0].astype(np.float64)).round(6)


class Upsampler(PartHandler):
    """Images [batch, height, width, 3] uint8 to larger ones, uint8."""

    def __init__(self, source: str | pathlib.Path, window_size: int = 0) -> None:
        """Names the upsampler, and the side of its windows (0: images whole; see `tiling`)."""
        super().__init__(source, "upsampler")
        self._window_size = window_size

    def predict(self, example: np.ndarray, model: loaded_models.LoadedModel) -> np.ndarray:
        """Upsamples one batch; with windows, one window of one image at a time."""
        small = images.to_float(example)
        if not self._window_size:
            return images.to_uint8(model.call("upsample", small, batch_size=IMAGE_BATCH))
        upsample = functools.partial(model.call, "upsample", batch_size=1)
        larger = tiling.upsample(upsample, small, model.model.config, self._window_size)
        return images.to_uint8(larger)


def encode_texts(
    text_tokenizer: vocabularies.TextTokenizer,
    texts: Sequence[str],
    model: loaded_models.LoadedModel,
) -> np.ndarray:
    """Returns [texts, text_length] int32 as the model's training saw captions."""
    length = model.model.text_length
    return np.stack(
        [text_tokenizer.encode(captions.normalize_caption(text), length) for text in texts]
    )


def _vocabulary(source: str) -> vocabularies.TextTokenizer:
    return bundles.Bundle.open(source).vocabulary()


def _arrays(value: Any) -> Iterator[np.ndarray]:
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _arrays(item)

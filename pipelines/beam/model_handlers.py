# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""RunInference handlers over `LoadedModel`: one copy of a part in each process, fixed batches.

    keyed | model_handlers.infer("Decode", model_handlers.DecodeHandler(bundle_dir))

takes (key, example) and gives (key, prediction); keys may be anything and travel along.

An example is a whole batch that the pipeline has composed (images of a shard in order, prompts of a
file in order), and Beam hands over one at a time. Beam's own batches depend on the runner and on
where a bundle ends; these do not, so neither do the compiled shapes, nor the bytes.
"""

import abc
import functools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import jax
import numpy as np
from apache_beam.ml.inference import base as inference

from parti.data.images import images
from parti.engine.inference import bundles, loaded_models
from parti.models import base
from parti.models.super_resolution import tiling
from parti.models.text_to_image import sampling

# Images that one call of a model takes; fewer are padded.
IMAGE_BATCH = 16


class Handler(abc.ABC, inference.ModelHandler[Any, Any, Any]):
    """Predicts example by example; subclasses define `load_model` and `predict`."""

    def __init__(self, name: str) -> None:
        """Names the handler's metrics; Beam hands over one example at a time."""
        super().__init__(min_batch_size=1, max_batch_size=1)
        self._name = name

    def run_inference(
        self,
        batch: Sequence[Any],
        model: Any,
        inference_args: Mapping[str, Any] | None = None,
    ) -> Iterable[Any]:
        """Returns a prediction for each example."""
        del inference_args
        return [self.predict(example, model) for example in batch]

    @abc.abstractmethod
    def predict(self, example: Any, model: Any) -> Any:
        """Returns the prediction for one example; `model` is what `load_model` returned."""

    def get_num_bytes(self, batch: Sequence[Any]) -> int:
        """Returns the size of the arrays in a batch; pickling them to measure would be slow."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(batch) if isinstance(leaf, np.ndarray))

    def get_metrics_namespace(self) -> str:
        """Returns the name of the Beam metrics."""
        return f"parti.{self._name}"


class PartHandler(Handler):
    """Loads one part; subclasses define `predict`."""

    def __init__(self, source: str | pathlib.Path, part: str, unused: Sequence[str] = ()) -> None:
        """Names the part, of `bundles.PARTS`.

        Args:
          source: a bundle, or the part's training directory; every worker must reach it.
          part: its name.
          unused: top-level branches of its variables that `predict` does not read; they do not
            stay in memory.
        """
        super().__init__(part)
        self._source, self._part, self._unused = str(source), part, tuple(unused)

    def load_model(self) -> loaded_models.LoadedModel:
        """Loads the part; Beam calls this once in each process."""
        loaded = bundles.load_part(self._source, self._part)
        loaded.variables = base.without_branches(loaded.variables, self._unused)
        return loaded


def infer(label: str, handler: Handler) -> beam.PTransform:
    """Returns the transform (key, example) -> (key, prediction)."""
    return label >> inference.RunInference(inference.KeyedModelHandler(handler))


class Encoded(NamedTuple):
    """Images as tokens."""

    image_tokens: np.ndarray  # [batch, length] int32
    reconstructions: np.ndarray | None  # [batch, height, width, 3] uint8, if asked for


class EncodeHandler(PartHandler):
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
        return Encoded(tokens, decode(model, tokens, size) if self._reconstruct else None)


class DecodeHandler(PartHandler):
    """Image tokens [batch, length] to images [batch, height, width, 3] uint8."""

    def __init__(self, source: str | pathlib.Path) -> None:
        """Names the tokenizer."""
        super().__init__(source, "tokenizer", unused=("encoder",))

    def predict(self, example: np.ndarray, model: loaded_models.LoadedModel) -> np.ndarray:
        """Decodes one batch."""
        return decode(model, example)


class UpsampleHandler(PartHandler):
    """Images [batch, height, width, 3] uint8 to larger ones, uint8."""

    def __init__(self, source: str | pathlib.Path) -> None:
        """Names the upsampler."""
        super().__init__(source, "upsampler")

    def predict(self, example: np.ndarray, model: loaded_models.LoadedModel) -> np.ndarray:
        """Upsamples one batch."""
        return upsample(model, example)


class SampleHandler(PartHandler):
    """Texts of prompts to image tokens [prompts, samples, length] int32."""

    def __init__(
        self,
        source: str | pathlib.Path,
        settings: sampling.SamplingSettings,
        num_samples: int,
        seed: int,
        batch_size: int,
    ) -> None:
        """Names the bundle and how to sample; `batch_size` prompts a call of the generator."""
        super().__init__(source, "generator")
        self._settings, self._num_samples = settings, num_samples
        self._seed, self._batch_size = seed, batch_size

    def predict(self, example: Sequence[str], model: loaded_models.LoadedModel) -> np.ndarray:
        """Draws all samples of some prompts."""
        return model.call(
            "sample",
            model.encode_texts(example),
            sampling.image_keys(self._seed, example, self._num_samples),
            batch_size=self._batch_size,
            settings=self._settings,
        )


class Samples(NamedTuple):
    """The samples of one prompt."""

    image_tokens: np.ndarray  # [samples, length] int32
    images: list[np.ndarray]  # one [height, width, 3] uint8 each; upsampled ones are larger
    scores: np.ndarray | None  # [samples] float64, cosines in [-1, 1]; None without a reranker

    def best_first(self) -> list[int]:
        """Returns the sample indices, best first; equal scores, or none, in sample order."""
        if self.scores is None:
            return list(range(len(self.images)))
        return np.argsort(-self.scores, kind="stable").tolist()


class Renderer:
    """A bundle's decoder, and its reranker and upsampler where there are any."""

    def __init__(
        self, source: str | pathlib.Path, num_upsampled: int, window_size: int = 0
    ) -> None:
        """Loads the parts of a bundle.

        Args:
          source: the bundle.
          num_upsampled: best samples of a prompt to upsample; with 0 no upsampler is loaded.
          window_size: side of the windows of `tiling`; 0 upsamples images whole.
        """
        bundle = bundles.Bundle.open(source)
        self._num_upsampled, self._window_size = num_upsampled, window_size
        self._tokenizer = DecodeHandler(source).load_model()
        self._reranker = bundle.load("reranker") if "reranker" in bundle.parts else None
        has_upsampler = "upsampler" in bundle.parts and num_upsampled
        self._upsampler = bundle.load("upsampler") if has_upsampler else None

    def render(self, text: str, image_tokens: np.ndarray) -> Samples:
        """Decodes, scores and upsamples the samples of a prompt, [samples, length] int32."""
        small = decode(self._tokenizer, image_tokens)
        scores = None if self._reranker is None else score(self._reranker, text, small)
        samples = Samples(image_tokens, list(small), scores)
        if self._upsampler is not None:
            best = samples.best_first()[: self._num_upsampled]
            large = upsample(self._upsampler, small[best], self._window_size)
            for index, image in zip(best, large, strict=True):
                samples.images[index] = image
        return samples


class RenderHandler(Handler):
    """(text, image tokens [samples, length] int32) of a prompt to its `Samples`."""

    def __init__(
        self, source: str | pathlib.Path, num_upsampled: int, window_size: int = 0
    ) -> None:
        """As `Renderer`; every worker must reach the bundle."""
        super().__init__("render")
        self._arguments = str(source), num_upsampled, window_size

    def load_model(self) -> Renderer:
        """Loads the parts; Beam calls this once in each process."""
        return Renderer(*self._arguments)

    def predict(self, example: tuple[str, np.ndarray], model: Renderer) -> Samples:
        """Renders the samples of one prompt."""
        return model.render(*example)


def decode(
    tokenizer: loaded_models.LoadedModel, image_tokens: np.ndarray, batch_size: int = IMAGE_BATCH
) -> np.ndarray:
    """Returns the images of tokens [batch, length]: [batch, height, width, 3] uint8."""
    return images.to_uint8(tokenizer.call("decode", image_tokens, batch_size=batch_size))


def score(reranker: loaded_models.LoadedModel, text: str, pixels: np.ndarray) -> np.ndarray:
    """Returns the cosines of a text's embedding and images', [batch] float64 in [-1, 1].

    The pixels, [batch, height, width, 3] uint8, are resized to what the reranker takes.

    Source: Parti (arXiv 2206.10789) section 2.4, reranking with CoCa's contrastive branch.
    """
    text_embedding = reranker.call("text_embeddings", reranker.encode_texts([text]), batch_size=1)
    size = reranker.model.image_size
    resized = images.to_float(np.stack([images.resize(image, size) for image in pixels]))
    embeddings = reranker.call("image_embeddings", resized, batch_size=IMAGE_BATCH)
    return (embeddings.astype(np.float64) @ text_embedding[0].astype(np.float64)).round(6)


def upsample(
    upsampler: loaded_models.LoadedModel, pixels: np.ndarray, window_size: int = 0
) -> np.ndarray:
    """Returns larger images of pixels [batch, height, width, 3] uint8.

    With a window size one window of one image is upsampled at a time.
    """
    small = images.to_float(pixels)
    if not window_size:
        return images.to_uint8(upsampler.call("upsample", small, batch_size=IMAGE_BATCH))
    call = functools.partial(upsampler.call, "upsample", batch_size=1)
    return images.to_uint8(tiling.upsample(call, small, upsampler.model.config, window_size))

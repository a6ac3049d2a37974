# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""RunInference handlers over `LoadedModel`: one copy of a part in each process, fixed batches.

An example is a whole batch that the pipeline has composed, and Beam hands over one at a time: its
own batches depend on runner and bundle, and compiled shapes and bytes must not. Keys travel along.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import jax
import numpy as np
from apache_beam.ml.inference import base as inference

from parti.data.images import images
from parti.engine.inference import bundles, layouts, loaded_models
from parti.models import base
from parti.models.super_resolution import tiling
from parti.models.text_to_image import sampling
from parti.stages import files

# Images that one call of a model takes; fewer are padded.
IMAGE_BATCH = 16

# What samples are ranked by, see `score`.
CONTRAST, LIKELIHOOD, BOTH = "contrast", "likelihood", "both"
RANKINGS = (CONTRAST, LIKELIHOOD, BOTH)


class Handler(inference.ModelHandler[Any, Any, Any]):
    """Predicts example by example; Beam hands over one at a time."""

    def __init__(
        self, name: str, load: Callable[[], Any], predict: Callable[[Any, Any], Any]
    ) -> None:
        """Sets the name of the metrics, what loads the model, and `predict(model, example)`."""
        super().__init__(min_batch_size=1, max_batch_size=1)
        self._name, self._load, self._predict = name, load, predict

    def load_model(self) -> Any:
        """Loads the model; Beam calls this once in each process."""
        return self._load()

    def predict(self, example: Any, model: Any) -> Any:
        """Returns the prediction for one example; `model` is what `load_model` returned."""
        return self._predict(model, example)

    def run_inference(
        self, batch: Sequence[Any], model: Any, inference_args: Mapping[str, Any] | None = None
    ) -> Iterable[Any]:
        """Returns a prediction for each example."""
        del inference_args
        return [self.predict(example, model) for example in batch]

    def get_num_bytes(self, batch: Sequence[Any]) -> int:
        """Returns the size of the arrays in a batch; pickling them to measure would be slow."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(batch) if isinstance(leaf, np.ndarray))

    def get_metrics_namespace(self) -> str:
        """Returns the name of the Beam metrics."""
        return f"parti.{self._name}"


def infer(label: str, handler: Handler) -> beam.PTransform:
    """Returns the transform (key, example) -> (key, prediction)."""
    return label >> inference.RunInference(inference.KeyedModelHandler(handler))


def part_handler(
    source: files.Path,  # a bundle, or the part's training directory; every worker must reach it
    part: str,  # of `bundles.PARTS`
    predict: Callable[[loaded_models.LoadedModel, Any], Any],
    unused: Sequence[str] = (),  # top-level branches of its variables that `predict` never reads
    layout: layouts.Layout | None = None,  # of the devices of a worker; None takes one of them
) -> Handler:
    """Returns the handler of one part, of which the unused branches do not stay in memory."""

    def load() -> loaded_models.LoadedModel:
        loaded = bundles.load_part(source, part, layout)
        loaded.variables = base.without_branches(loaded.variables, unused)
        return loaded

    return Handler(part, load, predict)


class Encoded(NamedTuple):
    """Images as tokens."""

    image_tokens: np.ndarray  # [batch, length] int32
    reconstructions: np.ndarray | None  # [batch, height, width, 3] uint8, if asked for


def encode_handler(
    source: files.Path,
    batch_size: int,
    reconstruct: bool = False,
    layout: layouts.Layout | None = None,
) -> Handler:
    """Images [batch, height, width, 3] uint8, at the tokenizer's size, to `Encoded`."""

    def encode(model: loaded_models.LoadedModel, pixels: np.ndarray) -> Encoded:
        tokens = model.call("encode", images.to_float(pixels), batch_size=batch_size)
        return Encoded(tokens, decode(model, tokens, batch_size) if reconstruct else None)

    return part_handler(source, "tokenizer", encode, () if reconstruct else ("decoder",), layout)


def decode_handler(source: files.Path, layout: layouts.Layout | None = None) -> Handler:
    """Image tokens [batch, length] to images [batch, height, width, 3] uint8."""
    return part_handler(source, "tokenizer", decode, ("encoder",), layout)


@dataclasses.dataclass(frozen=True)
class Request:
    """A prompt to draw, and how."""

    text: str
    settings: sampling.SamplingSettings = sampling.SamplingSettings()
    seed: int = 0
    negative_prompt: str = ""  # what to guide away from; empty is the null caption

    @property
    def program(self) -> Hashable:
        """The same for requests that one batch may hold, without changing each other's bytes."""
        return self.settings.program, bool(self.negative_prompt)


def sample_handler(
    source: files.Path,
    num_samples: int,
    batch_size: int,
    layout: layouts.Layout | None = None,
) -> Handler:
    """`Request`s, `batch_size` a call, to image tokens [prompts, samples, length] int32.

    Those of an example have one program; ValueError otherwise.
    """

    def sample(model: loaded_models.LoadedModel, requests: Sequence[Request]) -> np.ndarray:
        if len({request.program for request in requests}) != 1:
            raise ValueError("the requests of a batch need one `program`; divide them by it")
        keys = [sampling.image_keys(each.seed, [each.text], num_samples) for each in requests]
        negative = [request.negative_prompt for request in requests]
        settings = sampling.PromptSettings.of(
            [request.settings for request in requests],
            model.model.grid_size,
            model.encode_texts(negative) if any(negative) else None,
        )
        text_tokens = model.encode_texts([request.text for request in requests])
        arrays = text_tokens, np.concatenate(keys), settings
        return model.call("sample", *arrays, batch_size=batch_size)

    return part_handler(source, "generator", sample, layout=layout)


class Samples(NamedTuple):
    """The samples of one prompt."""

    image_tokens: np.ndarray  # [samples, length] int32
    images: list[np.ndarray]  # one [height, width, 3] uint8 each; upsampled ones are larger
    scores: np.ndarray | None  # [samples] float64, see `score`; None without a reranker

    def best_first(self) -> list[int]:
        """Returns the sample indices, best first; equal scores, or none, in sample order."""
        if self.scores is None:
            return list(range(len(self.images)))
        return np.argsort(-self.scores, kind="stable").tolist()


class Renderer:
    """A bundle's decoder, and its reranker and upsampler where there are any."""

    def __init__(
        self,
        source: files.Path,
        num_upsampled: int,
        window_size: int = 0,
        rerank_by: str = CONTRAST,
        layout: layouts.Layout | None = None,
    ) -> None:
        """Loads the parts of a bundle, with a layout onto each device of this process.

        Of a prompt `num_upsampled` best samples are upsampled, in windows of `tiling` with sides of
        `window_size` pixels, or whole (0). `rerank_by` is one of `RANKINGS`.
        """
        bundle = bundles.Bundle.open(source)
        self._num_upsampled, self._window_size = num_upsampled, window_size
        self._rerank_by = rerank_by
        self._tokenizer = decode_handler(source, layout).load_model()
        wanted = {"reranker", "upsampler"} if num_upsampled else {"reranker"}
        others = {part: bundle.load(part, layout) for part in bundle.parts if part in wanted}
        self._reranker, self._upsampler = others.get("reranker"), others.get("upsampler")

    def render(self, text: str, image_tokens: np.ndarray) -> Samples:
        """Decodes, scores and upsamples the samples of a prompt, [samples, length] int32."""
        small = decode(self._tokenizer, image_tokens)
        scores = None
        if self._reranker is not None:
            scores = score(self._reranker, text, small, self._rerank_by)
        samples = Samples(image_tokens, list(small), scores)
        if self._upsampler is not None:
            best = samples.best_first()[: self._num_upsampled]
            large = upsample(self._upsampler, small[best], self._window_size)
            for index, image in zip(best, large, strict=True):
                samples.images[index] = image
        return samples


def render_handler(
    source: files.Path,
    num_upsampled: int,
    window_size: int = 0,
    rerank_by: str = CONTRAST,
    layout: layouts.Layout | None = None,
) -> Handler:
    """(text, image tokens [samples, length] int32) of a prompt to its `Samples`; see `Renderer`."""
    load = functools.partial(Renderer, source, num_upsampled, window_size, rerank_by, layout)
    return Handler("render", load, lambda renderer, example: renderer.render(*example))


def decode(
    tokenizer: loaded_models.LoadedModel, image_tokens: np.ndarray, batch_size: int = IMAGE_BATCH
) -> np.ndarray:
    """Returns the images of tokens [batch, length]: [batch, height, width, 3] uint8."""
    return images.to_uint8(tokenizer.call("decode", image_tokens, batch_size=batch_size))


def rankings(reranker: Any) -> tuple[str, ...]:
    """Returns which of `RANKINGS` a reranker (its `Model`) can do."""
    has_captions = isinstance(reranker, base.Captioner) and reranker.has_captions
    return RANKINGS if has_captions else (CONTRAST,)


def score(
    reranker: loaded_models.LoadedModel, text: str, pixels: np.ndarray, rerank_by: str = CONTRAST
) -> np.ndarray:
    """Returns how well images fit a text, [batch] float64, higher is better.

    By 'contrast' it is the cosine of their embeddings, in [-1, 1]; by 'likelihood' the text's
    log-probability as a caption, in nats; by 'both' the sum of that and the cosine over the learned
    temperature. Both are in nats then: a contrastive logit estimates, up to a number for each text,
    the log of how much likelier the text is with the image than without (arXiv 1807.03748).

    The pixels, [batch, height, width, 3] uint8, are resized to what the reranker takes.

    Source: Parti (arXiv 2206.10789) section 2.4, reranking with CoCa's contrastive branch.
    """
    if rerank_by == BOTH:
        cosines, log_likelihood = (
            score(reranker, text, pixels, one) for one in (CONTRAST, LIKELIHOOD)
        )
        logit_scale = float(reranker.model.logit_scale(reranker.variables))
        return (logit_scale * cosines + log_likelihood).round(6)
    size = reranker.model.image_size
    resized = images.to_float(np.stack([images.resize(image, size) for image in pixels]))
    text_tokens = reranker.encode_texts([text])
    if rerank_by == LIKELIHOOD:
        texts = np.repeat(text_tokens, len(resized), axis=0)
        arrays = resized, texts
        found = reranker.call("caption_log_likelihood", *arrays, batch_size=IMAGE_BATCH)
        return found[0].astype(np.float64).round(6)
    text_embedding = reranker.call("text_embeddings", text_tokens, batch_size=1)
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

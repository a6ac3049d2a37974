# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""From image tokens to ranked pictures: a bundle's decoder, reranker and upsampler."""

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np

from parti.data.images import images
from parti.engine.inference import bundles, layouts, loaded_models
from parti.models import base
from parti.models.super_resolution import tiling
from parti.stages import files

# Images that one call of a model takes; fewer are padded.
IMAGE_BATCH = 16

# What samples are ranked by, see `score`.
CONTRAST, LIKELIHOOD, BOTH = "contrast", "likelihood", "both"
RANKINGS = (CONTRAST, LIKELIHOOD, BOTH)

ENCODER = ("encoder",)  # branches of a tokenizer that decoding never reads


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

    @property
    def best(self) -> np.ndarray:
        """The best image, [height, width, 3] uint8."""
        return self.images[self.best_first()[0]]


@dataclasses.dataclass(frozen=True)
class Renderer:
    """A bundle's decoder, and its reranker and upsampler where there are any."""

    tokenizer: loaded_models.LoadedModel
    reranker: loaded_models.LoadedModel | None = None
    upsampler: loaded_models.LoadedModel | None = None

    @classmethod
    def load(
        cls, source: files.Path, upsampling: bool = True, layout: layouts.Layout | None = None
    ) -> "Renderer":
        """Loads what rendering takes of a bundle, with a layout onto each device of this process.

        The tokenizer is without its encoder; without `upsampling` the upsampler is left out.

        Raises:
          FileNotFoundError, ValueError: as `bundles.Bundle.open` and `load`.
        """
        bundle = bundles.Bundle.open(source)
        wanted = {"tokenizer", "reranker"} | ({"upsampler"} if upsampling else set())
        parts = {part: bundle.load(part, layout) for part in bundle.parts if part in wanted}
        tokenizer = parts["tokenizer"]
        tokenizer.variables = base.without_branches(tokenizer.variables, ENCODER)
        return cls(**parts)

    def render(
        self,
        text: str,
        image_tokens: np.ndarray,
        num_upsampled: int | None = None,
        window_size: int = 0,
        rerank_by: str = CONTRAST,
    ) -> Samples:
        """Decodes, scores and upsamples the samples of a prompt.

        Args:
          text: the prompt.
          image_tokens: [samples, length] int32.
          num_upsampled: so many of the best are upsampled; None takes all.
          window_size: side in pixels of the windows that are upsampled (`tiling`); 0 is whole.
          rerank_by: one of `RANKINGS`.
        """
        small = decode(self.tokenizer, image_tokens)
        scores = None
        if self.reranker is not None:
            scores = score(self.reranker, text, small, rerank_by)
        samples = Samples(image_tokens, list(small), scores)
        best = samples.best_first()[:num_upsampled]
        if self.upsampler is not None and best:
            large = upsample(self.upsampler, small[best], window_size)
            for index, image in zip(best, large, strict=True):
                samples.images[index] = image
        return samples


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

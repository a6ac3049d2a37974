# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A bundle as one object that draws: `parti.load(bundle).generate("a red circle")`.

It draws what `parti generate` draws, token by token, if prompts, seed, settings and batches are the
same. It needs neither Beam nor TensorFlow.
"""

import contextlib
import dataclasses
import functools
import queue
import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from parti.data.images import images
from parti.engine.inference import bundles, layouts, loaded_models, rendering
from parti.models.text_to_image import sampling
from parti.stages import files

PROMPTS_PER_BATCH = 4
NOT_DRAWN = 128  # grey of a preview where no token is yet


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


def draw(
    generator: loaded_models.LoadedModel,
    requests: Sequence[Request],
    num_samples: int,
    batch_size: int,
    **static: Hashable,
) -> np.ndarray:
    """Draws tokens, [requests, num_samples, grid_size ** 2] int32 in raster order.

    Requests of one `program`, `batch_size` a call, fewer padded; `static` as `sample` takes it.

    Raises:
      ValueError: the requests have several programs.
    """
    if len({request.program for request in requests}) != 1:
        raise ValueError("the requests of a batch need one `program`; divide them by it")
    keys = [sampling.image_keys(each.seed, [each.text], num_samples) for each in requests]
    negative = [request.negative_prompt for request in requests]
    settings = sampling.PromptSettings.of(
        [request.settings for request in requests],
        generator.model.grid_size,
        generator.encode_texts(negative) if any(negative) else None,
    )
    text_tokens = generator.encode_texts([request.text for request in requests])
    arrays = text_tokens, np.concatenate(keys), settings
    return generator.call("sample", *arrays, batch_size=batch_size, **static)


class Partial(NamedTuple):
    """What is drawn of a prompt's samples so far."""

    image_tokens: np.ndarray  # [samples, grid_size ** 2] int32, raster order; 0 where nothing is
    num_rows: int  # whole rows of tokens that all samples have


class TextToImage:
    """The parts of a bundle, in memory.

    Attributes:
      generator, tokenizer: what every bundle has, as `LoadedModel`.
      reranker, upsampler: the same, or None if the bundle has none.
    """

    def __init__(self, generator: loaded_models.LoadedModel, renderer: rendering.Renderer) -> None:
        """Takes loaded parts; see `load`."""
        self.generator, self._renderer = generator, renderer
        self.tokenizer = renderer.tokenizer
        self.reranker, self.upsampler = renderer.reranker, renderer.upsampler
        self._on_step = _OnStep()

    @classmethod
    def load(cls, bundle: files.Path, layout: layouts.Layout | None = None) -> "TextToImage":
        """Loads a bundle, onto one device or as a layout says.

        Raises:
          FileNotFoundError: there is no bundle, or one of its files is gone.
          ValueError: its files are not those that were exported.
        """
        opened = bundles.Bundle.open(bundle)
        parts = {part: opened.load(part, layout) for part in opened.parts}
        return cls(parts.pop("generator"), rendering.Renderer(**parts))

    def sample(
        self,
        prompts: Sequence[str],
        num_samples: int = 16,
        seed: int = 0,
        prompts_per_batch: int = PROMPTS_PER_BATCH,
        **settings: Any,
    ) -> np.ndarray:
        """Draws image tokens, [prompts, num_samples, grid_size ** 2] int32 in raster order.

        Args:
          prompts: any texts; each goes through the same normal form as captions in training.
          num_samples: images of each prompt.
          seed: another seed, other images. With the prompt and the sample's index it decides one.
          prompts_per_batch: prompts of one call of the generator; fewer are padded.
          settings: fields of `sampling.SamplingSettings` such as `guidance_scale=1.2`, and
            `negative_prompt`, a text in place of the null caption.

        Raises:
          ValueError: no prompt, a number that is not positive, an unknown setting or one that the
            generator cannot follow.
        """
        if prompts_per_batch < 1:
            raise ValueError(f"prompts_per_batch is {prompts_per_batch}; it must be at least 1")
        requests = self._requests(prompts, num_samples, seed, settings)
        return draw(self.generator, requests, num_samples, min(prompts_per_batch, len(requests)))

    def _requests(
        self, prompts: Sequence[str], num_samples: int, seed: int, settings: Mapping[str, Any]
    ) -> list[Request]:
        if not prompts:
            raise ValueError("no prompts; give a text, or a list of texts")
        if num_samples < 1:
            raise ValueError(f"num_samples is {num_samples}; it must be at least 1")
        chosen = dict(settings)
        negative_prompt = chosen.pop("negative_prompt", "")
        known = [field.name for field in dataclasses.fields(sampling.SamplingSettings)]
        if unknown := sorted(set(chosen) - set(known)):
            raise ValueError(
                f"no settings: {', '.join(unknown)}; there are {', '.join(known)}, negative_prompt"
            )
        how = sampling.SamplingSettings(**chosen)
        if negative_prompt and not how.program.is_guided:
            raise ValueError("negative_prompt needs a guidance_scale other than 1")
        self.generator.model.num_steps(how, num_samples)  # raises
        return [Request(prompt, how, seed, negative_prompt) for prompt in prompts]

    def generate(
        self,
        prompts: str | Sequence[str],
        num_samples: int = 16,
        seed: int = 0,
        num_upsampled: int | None = None,
        rerank_by: str = rendering.CONTRAST,
        prompts_per_batch: int = PROMPTS_PER_BATCH,
        **settings: Any,
    ) -> list[rendering.Samples]:
        """Draws images, ranks the samples of each prompt and upsamples the best.

        Args:
          prompts: a text, or several.
          num_upsampled: best images of each prompt to upsample; None is all.
          rerank_by: what ranks them, one of `rendering.RANKINGS`; without a reranker not used.
          num_samples, seed, prompts_per_batch, settings: see `sample`.

        Returns:
          For each prompt its samples: images, tokens and scores.

        Raises:
          ValueError: as `sample`; a ranking that the reranker does not know.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        self._check_ranking(rerank_by)
        tokens = self.sample(texts, num_samples, seed, prompts_per_batch, **settings)
        rendered = functools.partial(self.render, num_upsampled=num_upsampled, rerank_by=rerank_by)
        return list(map(rendered, texts, tokens))

    def render(
        self,
        prompt: str,
        image_tokens: np.ndarray,
        num_upsampled: int | None = None,
        rerank_by: str = rendering.CONTRAST,
    ) -> rendering.Samples:
        """Decodes, ranks and upsamples tokens [samples, grid_size ** 2]; see `generate`."""
        return self._renderer.render(prompt, image_tokens, num_upsampled, rerank_by=rerank_by)

    def stream(
        self, prompt: str, num_samples: int = 16, seed: int = 0, **settings: Any
    ) -> Iterator[Partial]:
        """Yields the samples of a prompt after each row of tokens, as they are drawn.

        The last ones are whole, and those of `sample` with these arguments. One stream is drawn at
        a time; one that is left early is drawn to its end, unseen, before the next.

        Raises:
          ValueError: as `sample`; a generator on several devices.
        """
        if not self.generator.is_on_one_device:
            raise ValueError("stream draws on one device; load the bundle without a layout")
        requests = self._requests([prompt], num_samples, seed, settings)
        told: queue.SimpleQueue[_Told] = queue.SimpleQueue()

        def draw_all() -> None:
            with self._on_step.telling(told):
                draw(self.generator, requests, num_samples, 1, on_step=self._on_step)

        threading.Thread(target=draw_all, daemon=True).start()
        side, num_rows = self.generator.model.grid_size, 0
        in_queue = requests[0].settings.queue
        image_tokens = np.zeros((num_samples // in_queue, in_queue * side**2), np.int32)
        is_drawn = np.zeros(in_queue * side**2, bool)
        while step := told.get():
            if isinstance(step, BaseException):
                raise step
            positions, is_active, tokens = step
            image_tokens[:, positions[is_active]] = tokens[:, is_active]
            is_drawn[positions[is_active]] = True
            # A row that is whole in each image of the queue, and all above it.
            whole = is_drawn.reshape(in_queue, side, side).all(axis=(0, 2)).cumprod().sum()
            if whole > num_rows:
                num_rows = int(whole)
                yield Partial(image_tokens.reshape(num_samples, -1).copy(), num_rows)

    def preview(self, partial: Partial) -> np.ndarray:
        """Returns how samples look so far, [samples, height, width, 3] uint8; the rest is grey.

        The decoder looks at all tokens, so what is drawn later changes a little of what is shown.
        """
        side = self.generator.model.grid_size
        rows = partial.image_tokens.reshape(-1, side, side)
        filled = rows[:, np.minimum(np.arange(side), partial.num_rows - 1)]
        pictures = self.decode(filled.reshape(len(rows), -1))
        pictures[:, pictures.shape[1] * partial.num_rows // side :] = NOT_DRAWN
        return pictures

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Maps images [batch, height, width, 3] uint8 to tokens, [batch, grid_size ** 2] int32.

        They are resized to the tokenizer's size, and must be square for that.

        Raises:
          ValueError: another shape or type.
        """
        _check_images(pixels)
        size = self.tokenizer.model.image_size
        resized = np.stack([images.resize(image, size) for image in pixels])
        return self.tokenizer.call(
            "encode", images.to_float(resized), batch_size=rendering.IMAGE_BATCH
        )

    def decode(self, image_tokens: np.ndarray) -> np.ndarray:
        """Maps tokens [batch, grid_size ** 2] to images [batch, height, width, 3] uint8.

        Raises:
          ValueError: another shape, or a token that the codebook has not.
        """
        model = self.tokenizer.model
        image_tokens = np.asarray(image_tokens)
        shape, size = image_tokens.shape, model.codebook_size
        if len(shape) != 2 or shape[1] != model.grid_size**2 or not len(image_tokens):
            raise ValueError(f"tokens of shape {shape}; give [batch, {model.grid_size**2}]")
        if image_tokens.min() < 0 or image_tokens.max() >= size:
            raise ValueError(f"tokens must be in [0, {size}), the codebook's indices")
        return rendering.decode(self.tokenizer, image_tokens)

    def score(
        self, text: str, pixels: np.ndarray, rerank_by: str = rendering.CONTRAST
    ) -> np.ndarray:
        """Returns how well images [batch, height, width, 3] uint8 fit a text, [batch] float64.

        Higher is better; see `rendering.score` for the units.

        Raises:
          ValueError: another shape or type, no reranker, or a ranking that it does not know.
        """
        if self.reranker is None:
            raise ValueError("the bundle has no reranker; export one with --reranker DIR")
        _check_images(pixels)
        self._check_ranking(rerank_by)
        return rendering.score(self.reranker, text, pixels, rerank_by)

    def upsample(self, pixels: np.ndarray, window_size: int = 0) -> np.ndarray:
        """Enlarges images [batch, height, width, 3] uint8; see `rendering.upsample`.

        Raises:
          ValueError: another shape or type, or no upsampler.
        """
        if self.upsampler is None:
            raise ValueError("the bundle has no upsampler; export one with --upsampler DIR")
        _check_images(pixels)
        return rendering.upsample(self.upsampler, pixels, window_size)

    def _check_ranking(self, rerank_by: str) -> None:
        possible: tuple[str, ...] = rendering.RANKINGS
        if self.reranker is not None:
            possible = rendering.rankings(self.reranker.model)
        if rerank_by not in possible:
            raise ValueError(f"rerank_by is {rerank_by!r}; it must be one of {possible}")


_Told = tuple[np.ndarray, np.ndarray, np.ndarray] | BaseException | None


class _OnStep:
    """What `sample` calls of a stream: always the same object, so that it is compiled once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: queue.SimpleQueue[_Told] = queue.SimpleQueue()

    def __call__(self, positions: jax.Array, is_active: jax.Array, tokens: jax.Array) -> None:
        self._told.put((np.asarray(positions), np.asarray(is_active), np.asarray(tokens)))

    @contextlib.contextmanager
    def telling(self, told: "queue.SimpleQueue[_Told]") -> Iterator[None]:
        """Steps that are drawn inside go to `told`; at the end an exception, or None, does too."""
        with self._lock:
            self._told = told
            try:
                yield
                jax.effects_barrier()
            except BaseException as error:
                told.put(error)
            else:
                told.put(None)


def _check_images(pixels: np.ndarray) -> None:
    is_batch = isinstance(pixels, np.ndarray) and pixels.ndim == 4 and pixels.shape[-1] == 3
    if not is_batch or pixels.dtype != np.uint8 or not len(pixels):
        got = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels)
        raise ValueError(f"images must be uint8 [batch, height, width, 3]; got {got}")

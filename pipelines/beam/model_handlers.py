# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""RunInference handlers over `LoadedModel`: one copy of a part in each process, fixed batches.

An example is a whole batch that the pipeline has composed, and Beam hands over one at a time: its
own batches depend on runner and bundle, and compiled shapes and bytes must not. Keys travel along.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import jax
import numpy as np
from apache_beam.ml.inference import base as inference

from parti.data.images import images
from parti.engine.inference import bundles, layouts, loaded_models, rendering, text_to_image
from parti.models import base
from parti.stages import files


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
        return Encoded(tokens, rendering.decode(model, tokens, batch_size) if reconstruct else None)

    return part_handler(source, "tokenizer", encode, () if reconstruct else ("decoder",), layout)


def decode_handler(source: files.Path, layout: layouts.Layout | None = None) -> Handler:
    """Image tokens [batch, length] to images [batch, height, width, 3] uint8."""
    return part_handler(source, "tokenizer", rendering.decode, rendering.ENCODER, layout)


def sample_handler(
    source: files.Path,
    num_samples: int,
    batch_size: int,
    layout: layouts.Layout | None = None,
) -> Handler:
    """Requests, `batch_size` a call, to image tokens [prompts, samples, length] int32.

    Those of an example have one program (`text_to_image.Request`); ValueError otherwise.
    """

    def sample(
        model: loaded_models.LoadedModel, requests: Sequence[text_to_image.Request]
    ) -> np.ndarray:
        return text_to_image.draw(model, requests, num_samples, batch_size)

    return part_handler(source, "generator", sample, layout=layout)


def render_handler(
    source: files.Path,
    num_upsampled: int,
    window_size: int = 0,
    rerank_by: str = rendering.CONTRAST,
    layout: layouts.Layout | None = None,
) -> Handler:
    """(text, image tokens [samples, length] int32) of a prompt to its samples; see `Renderer`."""
    load = functools.partial(rendering.Renderer.load, source, bool(num_upsampled), layout)

    def render(renderer: rendering.Renderer, example: tuple[str, np.ndarray]) -> rendering.Samples:
        return renderer.render(*example, num_upsampled, window_size, rerank_by)

    return Handler("render", load, render)

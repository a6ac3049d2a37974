# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Draws a few fixed prompts while a text-to-image model trains, always with the same keys.

SAMPLES = @sample_settings.SampleSettings() turns it on. `<model_dir>/pictures/samples-<step>.png`
has a row per prompt, `samples.txt` beside it the prompts in that order; TensorBoard shows the grid
too. Drawing reads the parameters, changes nothing and uses no random number of the training.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from parti.data.text import captions, vocabularies
from parti.engine.config import provenance
from parti.engine.distributed import multihost
from parti.engine.experiment import sample_settings
from parti.engine.inference import bundles, loaded_models
from parti.engine.input import datasets
from parti.engine.monitoring import summary_writer
from parti.models import base
from parti.models.text_to_image import sampling

NAME = "samples"
# How many are drawn at once, if a prompt has no more of them.
_AT_ONCE = 16


class Sampler:
    """Draws and shows the samples of a training."""

    def __init__(
        self, samples: sample_settings.SampleSettings, model: Any, config: str, mesh: Mesh
    ) -> None:
        """Loads the vocabulary and the tokenizer, which stays on the host.

        `model`, `config` (gin text) and `mesh` are those of the training.

        Raises:
          ValueError: the model is no text-to-image model, or tokenizer and vocabulary are not its.
          FileNotFoundError: there is no such tokenizer or vocabulary.
        """
        notes: list[str] = []
        self.texts = samples.texts(notes)
        for note in notes:
            multihost.log(f"[train] SAMPLES: {note}")
        self._text_tokens = _encode(self.texts, samples.vocabulary, model, config)
        self._keys = sampling.image_keys(samples.seed, self.texts, samples.num_samples)
        # The other processes of a training have no part in decoding.
        self._here = Mesh(np.array(mesh.local_devices[:1]), ("one",))
        with jax.set_mesh(self._here):
            tokenizer = bundles.load_part(samples.tokenizer, "tokenizer")
            _check_tokenizer(tokenizer, model, config)
            self._variables = jax.device_get(tokenizer.variables)
        self._decode = jax.jit(tokenizer.model.decode)

        def sample(params: Any, text_tokens: jax.Array, keys: jax.Array) -> jax.Array:
            return model.sample({"params": params}, text_tokens, keys, samples.settings)

        self._sample = jax.jit(sample, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def draw(
        self, params: Any, after_batch: Callable[[], None] = lambda: None
    ) -> np.ndarray | None:
        """Returns [prompts, samples, image_size, image_size, 3] in [-1, 1].

        Every process of a training calls it, with the parameters divided as they are in training;
        the first one decodes, the others get None. `after_batch` is called after a few prompts.
        """
        num_samples = self._keys.shape[1]
        size = min(len(self.texts), max(_AT_ONCE // num_samples, 1))
        drawn = []
        for start in range(0, len(self.texts), size):
            batch = (self._text_tokens, self._keys)
            text, keys = (
                loaded_models.pad_rows(rows[start : start + size], size) for rows in batch
            )
            # A few rows do not divide over a mesh; the parameters stay divided as they are.
            with nn.logical_axis_rules(()):
                tokens = np.asarray(self._sample(params, text, keys))
                if multihost.is_first():
                    with jax.set_mesh(self._here):
                        rows = tokens.reshape(-1, tokens.shape[-1])
                        drawn.append(jax.device_get(self._decode(self._variables, rows)))
            after_batch()
        if not drawn:
            return None
        shape = drawn[0].shape[1:]
        return np.concatenate(drawn).reshape(-1, num_samples, *shape)[: len(self.texts)]

    def show(
        self, step: int, params: Any, writer: summary_writer.Writer, after_batch: Callable[[], None]
    ) -> None:
        """Draws and writes the grid of a step."""
        drawn = self.draw(params, after_batch)
        if drawn is not None:
            grid = base.Summaries(pictures={NAME: jnp.asarray(drawn)})
            writer.show(step, datasets.VALIDATION, grid)
            text = "".join(f"{text}\n" for text in self.texts)
            writer.save(writer.beside(f"{NAME}.txt"), text.encode("utf-8"))


def _encode(texts: Sequence[str], path: str, model: Any, config: str) -> np.ndarray:
    """Returns [prompts, text_length] int32; raises ValueError if it is no model for these."""
    if not isinstance(model, base.Generator):
        raise ValueError(
            f"SAMPLES draws from text-to-image models, and {type(model).__name__} is none; set "
            "SAMPLES = None"
        )
    vocabulary = vocabularies.TextTokenizer(path)
    trained_with = provenance.data_fingerprints(config).get("vocabulary_fingerprint")
    other = trained_with and trained_with != vocabulary.fingerprint
    if other or vocabulary.vocab_size > (model.text_vocab_size or 0):
        raise ValueError(
            f"sample_settings.SampleSettings.vocabulary {path} is not what this training reads; "
            "write sample_settings.SampleSettings.vocabulary = %VOCABULARY"
        )
    length = model.text_length
    return np.stack([vocabulary.encode(captions.normalize_caption(text), length) for text in texts])


def _check_tokenizer(tokenizer: loaded_models.LoadedModel, model: Any, config: str) -> None:
    """Raises ValueError if a tokenizer cannot decode a model's tokens, or did not make them."""
    bundles.check_role("tokenizer", tokenizer)
    for field in ("codebook_size", "grid_size"):
        theirs, ours = getattr(tokenizer.model, field), getattr(model, field)
        if theirs != ours:
            raise ValueError(
                f"SAMPLES: the tokenizer {tokenizer.name!r} has {field} {theirs}, the model has "
                f"{ours}; name the tokenizer of this training's tokens"
            )
    made_by = provenance.data_fingerprints(config).get("tokenizer_fingerprint")
    if made_by and not tokenizer.made_tokens_of(made_by):
        raise ValueError(
            f"SAMPLES: the tokens are of the encoder {made_by[:12]}, but {tokenizer.name!r} has "
            f"the encoder {tokenizer.encoder_fingerprint[:12]}; name the tokenizer that made them"
        )

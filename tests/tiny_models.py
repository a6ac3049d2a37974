# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Parts of a bundle with random parameters, small enough to compile in a second each."""

import functools
import json
import pathlib
from collections.abc import Iterator

import jax
import numpy as np
import orbax.checkpoint as ocp

from parti.data.text import vocabularies
from parti.engine.config import gin_config
from parti.engine.inference import bundles, loaded_models

IMAGE_SIZE, GRID_SIZE, CODEBOOK_SIZE, TEXT_LENGTH, TEXT_VOCAB_SIZE = 16, 4, 32, 8, 320

_BLOCKS = "emb_dim = 16, num_heads = 2, head_dim = 8, mlp_dim = 32"
_SIZES = {
    "tokenizer": (
        "image_tokenizer",
        "ImageTokenizer",
        f"image_size = {IMAGE_SIZE}, patch_size = {IMAGE_SIZE // GRID_SIZE}, {_BLOCKS}, "
        f"num_encoder_layers = 1, num_decoder_layers = 1, codebook_size = {CODEBOOK_SIZE}, "
        "codebook_dim = 4",
    ),
    "generator": (
        "text_to_image",
        "TextToImage",
        f"text_vocab_size = {TEXT_VOCAB_SIZE}, text_length = {TEXT_LENGTH}, "
        f"codebook_size = {CODEBOOK_SIZE}, grid_size = {GRID_SIZE}, {_BLOCKS}, "
        "num_encoder_layers = 1, num_decoder_layers = 1, dtype = 'float32', local_window = 3",
    ),
    "reranker": (
        "coca",
        "Coca",
        f"image_size = 24, patch_size = 8, text_vocab_size = {TEXT_VOCAB_SIZE}, "
        f"text_length = {TEXT_LENGTH}, {_BLOCKS}, num_image_layers = 1, num_text_layers = 1, "
        "embedding_dim = 8",
    ),
    "upsampler": (
        "super_resolution",
        "SuperResolution",
        f"image_size = {IMAGE_SIZE}, scale = 2, num_channels = 4, num_blocks = 1, widening = 2",
    ),
}


def config(part: str, **changes: object) -> str:
    """Returns the gin text of a part, as an export writes it."""
    family, name, sizes = _SIZES[part]
    lines = [
        "from __gin__ import dynamic_registration",
        f"from parti.models.{family} import model as {family}_model",
        f"from parti.models.{family} import network as {family}_network",
        "",
        f"MODEL = @{family}_model.{name}Model()",
        f"{family}_model.{name}Model.config = @{family}_network.{name}Config()",
    ]
    given = dict(item.split(" = ") for item in sizes.split(", ")) | changes
    lines += [f"{family}_network.{name}Config.{k} = {v}" for k, v in given.items()]
    return "\n".join(lines) + "\n"


@functools.cache
def part(name: str, seed: int = 0, **changes: object) -> loaded_models.LoadedModel:
    """Returns a part with random parameters."""
    text = config(name, **changes)
    model = gin_config.model_from_config(text)
    sizes = model.config
    num_tokens = getattr(sizes, "grid_size", GRID_SIZE) ** 2
    shapes = {
        "images": (1, IMAGE_SIZE, IMAGE_SIZE, 3),
        "encoder_input_tokens": (1, TEXT_LENGTH),
        "decoder_input_tokens": (1, num_tokens),
        "decoder_target_tokens": (1, num_tokens),
        "decoder_loss_weights": (1, num_tokens),
        "text_tokens": (1, TEXT_LENGTH),
        "low_resolution_images": (1, IMAGE_SIZE, IMAGE_SIZE, 3),
    }
    if name == "reranker":
        shapes["images"] = (1, sizes.image_size, sizes.image_size, 3)
    if name == "upsampler":
        side = sizes.total_scale * IMAGE_SIZE
        shapes["images"] = (1, side, side, 3)
    initial = functools.partial(model.get_initial_variables, input_shapes=shapes)
    variables = jax.eval_shape(initial, jax.random.PRNGKey(0))
    kept = {key: tree for key, tree in variables.items() if not key.endswith("_axes")}
    rng = np.random.default_rng(seed)

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        # The models' own initialisers would be compiled, which takes ten times as long.
        return (0.3 * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

    return loaded_models.LoadedModel(model, jax.tree.map(draw, kept), config=text, name=name)


def parts(*names: str) -> dict[str, loaded_models.LoadedModel]:
    """Returns the named parts, all four by default."""
    return {name: part(name) for name in names or tuple(_SIZES)}


def write_train_dir(
    folder: pathlib.Path, part: loaded_models.LoadedModel, **trained_on: str
) -> pathlib.Path:
    """Writes what `parti train` leaves when it has finished, as far as other stages read it."""
    host = jax.device_get(part.variables)
    mutables = {name: tree for name, tree in host.items() if name != "params"}
    state = {"target": host["params"], "state": {"step": np.int32(7), "param_states": {}}}
    state |= {"flax_mutables": mutables} if mutables else {}
    ocp.PyTreeCheckpointer().save(folder / "checkpoint_7" / "state", state)
    (folder / "model.gin").write_text(part.config)
    (folder / "config.gin").write_text("TOKENS_DIR = 'nowhere'\n" + part.config)
    manifest = {
        "kind": "training",
        "schema_version": 1,
        "fingerprint": part.fingerprint,
        "trained_on": trained_on,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def write_vocabulary(path: pathlib.Path) -> pathlib.Path:
    """Trains a vocabulary on a few captions and returns its path."""
    colours, shapes = ("red", "blue", "green", "orange"), ("circle", "square", "star")

    def captions() -> Iterator[str]:
        for colour in colours:
            for shape in shapes:
                yield from (f"a {colour} {shape}", f"{shape} that is {colour}")

    settings = vocabularies.SentencePieceSettings(vocab_size=TEXT_VOCAB_SIZE)
    vocabularies.train_sentencepiece(captions(), path, settings)
    return path


def write_bundle(folder: pathlib.Path, *names: str) -> pathlib.Path:
    """Writes a bundle of the named parts, all four by default, in a folder; returns its path."""
    vocabulary = write_vocabulary(folder / "v.model")
    bundles.write_bundle(folder / "bundle", parts(*names), vocabulary)
    return folder / "bundle"

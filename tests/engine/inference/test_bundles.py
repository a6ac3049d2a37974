# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Bundles: what goes in comes out, and parts that do not fit are refused."""

import json
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import pytest
import tiny_models

from parti.data.text import vocabularies
from parti.engine.checkpoints import checkpoints
from parti.engine.config import gin_config
from parti.engine.inference import bundles, loaded_models


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny_models.write_vocabulary(tmp_path_factory.mktemp("vocabulary") / "v.model")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, vocabulary: pathlib.Path) -> pathlib.Path:
    path = tmp_path_factory.mktemp("bundle") / "bundle"
    bundles.write_bundle(path, tiny_models.parts(), vocabulary)
    return path


def with_facts(part: loaded_models.LoadedModel, **trained_on: Any) -> loaded_models.LoadedModel:
    """Returns a part whose training recorded something."""
    return loaded_models.LoadedModel(
        part.model, part.variables, config=part.config, name=part.name, trained_on=trained_on
    )


def test_parts_come_back_equal(written: pathlib.Path) -> None:
    bundle = bundles.Bundle.open(written)
    assert bundle.parts == ("tokenizer", "generator", "reranker", "upsampler")
    for name, part in tiny_models.parts().items():
        loaded = bundle.load(name)
        assert loaded.fingerprint == part.fingerprint == bundle.fingerprints[name]
        jax.tree.map(np.testing.assert_array_equal, loaded.variables, dict(part.variables))
        assert type(loaded.model) is type(part.model) and loaded.model.config == part.model.config
    assert "stats" in bundle.load("tokenizer").variables
    assert bundle.vocabulary().vocab_size == bundle.content["vocabulary"]["vocab_size"]


def test_a_bundle_is_plain_files_and_deterministic(
    written: pathlib.Path, tmp_path: pathlib.Path, vocabulary: pathlib.Path
) -> None:
    files = {str(p.relative_to(written)) for p in written.rglob("*") if p.is_file()}
    parts = [f"{part}/{f}" for part in bundles.PARTS for f in ("config.gin", "params.safetensors")]
    assert files == {"bundle.json", "vocabulary.model", *parts}
    bundles.write_bundle(tmp_path / "again", tiny_models.parts(), vocabulary)
    for name in files:
        assert (written / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_what_only_training_reads_stays_out(
    tmp_path: pathlib.Path, vocabulary: pathlib.Path
) -> None:
    """A tokenizer trained with a discriminator: the checkpoint has it, the bundle does not."""
    trained = tiny_models.part("tokenizer")
    config = trained.config + (
        "from parti.models.image_tokenizer import losses\n"
        "image_tokenizer_model.ImageTokenizerModel.loss_weights = @losses.LossWeights()\n"
        "losses.LossWeights.adversarial = 0.1\n"
    )
    model = gin_config.model_from_config(config)
    assert model.loss_weights.adversarial == 0.1
    used = loaded_models.LoadedModel(model, trained.variables, config=config, name="tokenizer")
    branch = {"discriminator": {"stem": {"kernel": np.ones((1, 1, 3, 4), np.float32)}}}
    whole = {name: {**tree, **branch} for name, tree in trained.variables.items()}
    in_training = loaded_models.LoadedModel(model, whole, config=config)
    in_training.variables = whole  # as the checkpoint of the training holds them
    folder = tiny_models.write_train_dir(tmp_path / "tokenizer", in_training)
    loaded = loaded_models.LoadedModel.from_train_dir(folder)
    assert "discriminator" in checkpoints.load_params(folder)[0]
    assert loaded.fingerprint == used.fingerprint
    parts = tiny_models.parts("generator") | {"tokenizer": loaded}
    content = bundles.write_bundle(tmp_path / "bundle", parts, vocabulary)
    sizes = jax.tree.leaves(trained.variables["params"])
    assert content["parts"]["tokenizer"]["num_params"] == sum(leaf.size for leaf in sizes)
    exported = bundles.Bundle.open(tmp_path / "bundle").load("tokenizer")
    assert exported.fingerprint == used.fingerprint
    jax.tree.map(np.testing.assert_array_equal, exported.variables, dict(trained.variables))
    images = np.zeros((1, 16, 16, 3), np.float32)
    assert exported.call("encode", images, batch_size=1).shape == (1, 16)


def test_it_works_at_another_place(written: pathlib.Path, tmp_path: pathlib.Path) -> None:
    shutil.copytree(written, tmp_path / "moved")
    model = bundles.load_part(tmp_path / "moved", "upsampler")
    images = np.zeros((1, 16, 16, 3), np.float32)
    assert model.call("upsample", images, batch_size=1).shape == (1, 32, 32, 3)


def test_a_part_that_is_not_there(tmp_path: pathlib.Path, vocabulary: pathlib.Path) -> None:
    parts = tiny_models.parts("tokenizer", "generator")
    bundles.write_bundle(tmp_path / "bundle", parts, vocabulary)
    bundle = bundles.Bundle.open(tmp_path / "bundle")
    assert bundle.parts == ("tokenizer", "generator")
    with pytest.raises(ValueError, match="has no reranker; it has tokenizer, generator"):
        bundle.load("reranker")
    with pytest.raises(ValueError, match=r"\['generator'\] missing"):
        bundles.write_bundle(tmp_path / "half", tiny_models.parts("tokenizer"), vocabulary)
    assert not (tmp_path / "half").exists()


def test_nothing_damaged_or_foreign_is_opened(
    written: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(FileNotFoundError, match="parti export"):
        bundles.Bundle.open(tmp_path)
    for name in ("vocabulary.model", "generator/params.safetensors"):
        copy = tmp_path / name.replace("/", "-")
        shutil.copytree(written, copy)
        (copy / name).unlink()
        with pytest.raises(FileNotFoundError, match=name):
            bundles.Bundle.open(copy)
    shutil.copytree(written, tmp_path / "changed")
    params = tmp_path / "changed/generator/params.safetensors"
    data = bytearray(params.read_bytes())
    data[-1] ^= 1
    params.write_bytes(data)
    with pytest.raises(ValueError, match="generator is not what was exported"):
        bundles.Bundle.open(tmp_path / "changed").load("generator")
    for length in (len(data) - 1, 100, 0):
        params.write_bytes(data[:length])
        with pytest.raises(ValueError, match="params.safetensors is damaged .* export the bundle"):
            bundles.Bundle.open(tmp_path / "changed")
    params.write_bytes(data)
    content = json.loads((written / "bundle.json").read_text())
    (tmp_path / "changed/bundle.json").write_text(json.dumps(content | {"schema_version": 99}))
    with pytest.raises(ValueError, match="schema version 99"):
        bundles.Bundle.open(tmp_path / "changed")
    (tmp_path / "changed/bundle.json").write_text("{")
    with pytest.raises(ValueError, match="bundle.json is damaged .* export the bundle again"):
        bundles.Bundle.open(tmp_path / "changed")


def test_a_part_of_another_kind_or_without_a_description_is_damage(
    written: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(written, tmp_path / "b")
    config, content = (
        tmp_path / "b/generator/config.gin",
        json.loads((written / "bundle.json").read_text()),
    )
    for text, why in (
        ((written / "reranker/config.gin").read_text(), "a CocaModel, and no Generator"),
        ("MODEL = None\n", "a NoneType, and no Generator"),
        ("MODEL = (\n", "EOF in multi-line statement"),
    ):
        config.write_text(text)
        with pytest.raises(ValueError, match=f"generator/config.gin: .*{why}.*; export the bundle"):
            bundles.Bundle.open(tmp_path / "b").model("generator")
    for changes in ({"parts": []}, {"vocabulary": {}}, {"parts": {"generator": {}}}):
        (tmp_path / "b/bundle.json").write_text(json.dumps(content | changes))
        with pytest.raises(ValueError, match="bundle.json is damaged .* export the bundle again"):
            bundles.Bundle.open(tmp_path / "b")
    (tmp_path / "b/bundle.json").write_text("[]")
    with pytest.raises(ValueError, match="schema version None"):
        bundles.Bundle.open(tmp_path / "b")
    (tmp_path / "b/vocabulary.model").write_bytes(b"")
    with pytest.raises(ValueError, match="is not a SentencePiece model"):
        vocabularies.TextTokenizer(tmp_path / "b/vocabulary.model")


def test_models_that_do_not_fit_are_refused(
    tmp_path: pathlib.Path, vocabulary: pathlib.Path
) -> None:
    parts = tiny_models.parts("tokenizer", "generator")

    def refused(message: str, **changed: loaded_models.LoadedModel) -> None:
        with pytest.raises(ValueError, match=message):
            bundles.write_bundle(tmp_path / "bundle", parts | changed, vocabulary)
        assert not (tmp_path / "bundle").exists()

    refused("codebook_size 64", generator=tiny_models.part("generator", codebook_size=64))
    refused("grid_size 2", generator=tiny_models.part("generator", grid_size=2))
    refused("TextToImageModel, and no ImageTokenizer", tokenizer=parts["generator"])
    for name in ("generator", "reranker"):
        few = tiny_models.part(name, text_vocab_size=100)
        refused(f"the {name} {name!r} has TEXT_VOCAB_SIZE 100, the vocabulary has", **{name: few})
        few.model.text_vocab_size = None
        refused(
            f"{name!r} reads text, but {type(few.model).__name__}.text_vocab_size is None",
            **{name: few},
        )
    refused("CocaModel, and no Upsampler", upsampler=tiny_models.part("reranker"))
    other = tiny_models.part("tokenizer", seed=1).fingerprint
    refused(
        "was trained on tokens of the encoder",
        generator=with_facts(parts["generator"], tokenizer_fingerprint=other),
    )
    refused(
        "was trained with the vocabulary 123",
        generator=with_facts(parts["generator"], vocabulary_fingerprint="123"),
    )
    fitting = with_facts(parts["generator"], tokenizer_fingerprint=parts["tokenizer"].fingerprint)
    content = bundles.write_bundle(tmp_path / "b", parts | {"generator": fitting}, vocabulary)
    assert content["parts"]["generator"]["trained_on"] == fitting.trained_on

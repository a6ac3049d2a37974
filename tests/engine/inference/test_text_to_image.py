# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A bundle as one object that draws."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import parti
from parti.engine.inference import text_to_image

NOTEBOOK = pathlib.Path(__file__).parents[3] / "docs" / "generate.ipynb"
TEXTS = ["a red circle", "a blue square", "green star"]


@pytest.fixture(scope="module")
def loaded(bundle: pathlib.Path) -> text_to_image.TextToImage:
    return parti.load(bundle)


def test_what_is_generated(loaded: text_to_image.TextToImage) -> None:
    first, second, third = loaded.generate(TEXTS, 3, seed=1, num_upsampled=1, guidance_scale=1.5)
    tokens = loaded.sample(TEXTS, 3, seed=1, guidance_scale=1.5)
    assert tokens.shape == (3, 3, 16) and tokens.dtype == np.int32
    for made, drawn in zip((first, second, third), tokens, strict=True):
        np.testing.assert_array_equal(made.image_tokens, drawn)
    small = loaded.decode(first.image_tokens)
    np.testing.assert_array_equal(first.scores, loaded.score(TEXTS[0], small))
    best, *others = first.best_first()
    assert first.scores[best] == first.scores.max()
    np.testing.assert_array_equal(first.best, loaded.upsample(small[[best]])[0])
    for index in others:
        np.testing.assert_array_equal(first.images[index], small[index])


def test_a_text_alone_is_drawn_as_among_others(loaded: text_to_image.TextToImage) -> None:
    [alone] = loaded.generate(TEXTS[1], 3, seed=1, guidance_scale=1.5, prompts_per_batch=3)
    among = loaded.generate(TEXTS, 3, seed=1, guidance_scale=1.5, prompts_per_batch=3)[1]
    np.testing.assert_array_equal(alone.image_tokens, among.image_tokens)
    other = loaded.generate(TEXTS[1], 3, seed=2, guidance_scale=1.5)[0]
    assert (alone.image_tokens != other.image_tokens).any()


def test_rows_come_as_they_are_drawn(loaded: text_to_image.TextToImage) -> None:
    partials = list(loaded.stream(TEXTS[0], 3, seed=1, guidance_scale=1.5))
    assert [partial.num_rows for partial in partials] == [1, 2, 3, 4]
    [tokens] = loaded.sample(TEXTS[:1], 3, seed=1, guidance_scale=1.5)
    for partial in partials:
        known = partial.num_rows * 4
        np.testing.assert_array_equal(partial.image_tokens[:, :known], tokens[:, :known])
        pictures = loaded.preview(partial)
        assert (pictures[:, known:] == text_to_image.NOT_DRAWN).all()
    np.testing.assert_array_equal(pictures, loaded.decode(tokens))
    left_early = loaded.stream(TEXTS[1], 3, seed=1, guidance_scale=1.5)
    next(left_early)
    left_early.close()
    last = list(loaded.stream(TEXTS[0], 3, seed=1, guidance_scale=1.5))[-1]
    np.testing.assert_array_equal(last.image_tokens, tokens)
    with pytest.raises(ValueError, match="no settings: scale"):
        next(loaded.stream(TEXTS[0], scale=2))


def test_a_negative_prompt_is_guided_away_from(loaded: text_to_image.TextToImage) -> None:
    tokens = loaded.sample(TEXTS[:1], 3, guidance_scale=4.0)
    empty = loaded.sample(TEXTS[:1], 3, guidance_scale=4.0, negative_prompt="")
    other = loaded.sample(TEXTS[:1], 3, guidance_scale=4.0, negative_prompt="a blue square")
    np.testing.assert_array_equal(tokens, empty)
    assert (tokens != other).any()


def test_pictures_of_any_size_are_encoded(loaded: text_to_image.TextToImage) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3)).astype(np.uint8)
    tokens = loaded.encode(pictures)
    assert tokens.shape == (2, 16) and tokens.max() < loaded.tokenizer.model.codebook_size
    assert loaded.decode(tokens).shape == (2, 16, 16, 3)


def test_what_cannot_be_is_refused(
    loaded: text_to_image.TextToImage, small_bundle: pathlib.Path
) -> None:
    pictures = np.zeros((1, 16, 16, 3), np.uint8)
    for call, message in (
        (lambda: loaded.generate([]), "no prompts"),
        (lambda: loaded.generate("a", cfg_scale=2.0), "no settings: cfg_scale; there are temp"),
        (lambda: loaded.generate("a", temperature=-1.0), "temperature must be >= 0"),
        (lambda: loaded.generate("a", num_samples=0), "num_samples is 0"),
        (lambda: loaded.sample(["a"], prompts_per_batch=0), "prompts_per_batch is 0"),
        (
            lambda: loaded.sample(["a"], guidance_scale=1, negative_prompt="b"),
            "negative_prompt needs",
        ),
        (lambda: loaded.generate("a", rerank_by="both"), "rerank_by is 'both'; it must be one of"),
        (lambda: loaded.generate("a", decode_order="wavefront"), "SHIFT = 'row'"),
        (lambda: loaded.decode(np.zeros((1, 15))), "give .batch, 16."),
        (lambda: loaded.decode(np.full((1, 16), 99_999)), "the codebook's indices"),
        (lambda: loaded.encode(pictures[0]), "images must be uint8"),
        (lambda: loaded.score("a", pictures / 255), "images must be uint8"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    without = parti.load(small_bundle)
    for method, argument in ((without.score, ("a", pictures)), (without.upsample, (pictures,))):
        with pytest.raises(ValueError, match="the bundle has no"):
            method(*argument)


def test_the_notebook_runs(bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "bundle").symlink_to(bundle)
    check = "import sys; assert not {'tensorflow', 'apache_beam'} & set(sys.modules)"
    (tmp_path / "cells.py").write_text(f"{code}\n{check}\n")
    subprocess.run([sys.executable, "cells.py"], cwd=tmp_path, check=True, timeout=300)


def test_without_a_reranker_samples_stay_in_order(small_bundle: pathlib.Path) -> None:
    [made] = parti.load(small_bundle).generate(TEXTS[:1], 2)
    assert made.scores is None and made.best_first() == [0, 1]
    np.testing.assert_array_equal(made.best, made.images[0])

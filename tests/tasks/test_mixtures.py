# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Several data sets as one mixture: rates, order, exact positions, names, mistakes."""

import itertools
import json
import pathlib
import shutil
import types
from collections.abc import Callable

import numpy as np
import pytest
import seqio

from parti.data.storage import data_sets, records, shard_names, tfrecords
from parti.engine.input import datasets
from parti.tasks import (
    bert,
    contrastive,
    feature_converters,
    images,
    metrics,
    mixtures,
    preprocessors,
    sources,
    super_resolution,
    text_encoder,
    text_to_image,
)
from tests.tasks import conftest

LENGTHS = {"inputs": 6, "targets": conftest.NUM_TOKENS}
MODEL = types.SimpleNamespace(
    FEATURE_CONVERTER_CLS=feature_converters.TextToImageConverter, text_vocab_size=1000
)
# A record's first token says which set it is of.
FIRST = {"few": 0, "many": 20}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two sets of tokens, of 7 and 20 records."""
    root = tmp_path_factory.mktemp("tokens")
    made = {}
    for name, count in (("few", 7), ("many", 20)):
        (root / name).mkdir()
        for split in records.SPLITS:
            rows = (
                records.TokenizedPair(f"{i}", f"red {i}", FIRST[name] + i + np.arange(4))
                for i in range(count)
            )
            path = root / name / shard_names.shard_name(split, 0, 1)
            tfrecords.write(path, (row.to_example() for row in rows))
        made[name] = str(root / name)
    return made


@pytest.fixture
def add(stages: conftest.Stages) -> Callable[[data_sets.Folders], str]:
    return lambda folders: text_to_image.add_task(
        folders, stages.vocabulary, conftest.CODEBOOK_SIZE, text_drop_rate=0.3
    )


def open_batches(name: str, split: str = datasets.TRAIN, size: int = 4) -> datasets.Batches:
    return datasets.SeqioSource(name, LENGTHS).open(split, size, 3, MODEL)


def records_of(batches: list[datasets.Batch]) -> list[int]:
    return [int(row[0]) - 1 for batch in batches for row in batch["decoder_target_tokens"]]


def test_rates_are_of_examples(folders: dict[str, str], add: Callable) -> None:
    """However large the sets are; each goes through its own epochs."""
    name = add({folders["few"]: 3, folders["many"]: 1})
    found = records_of(list(itertools.islice(open_batches(name, size=50), 16)))
    few, many = ([r for r in found if (r >= 20) == is_many] for is_many in (False, True))
    assert 560 < len(few) < 640  # 600 +- 12.2
    for records_seen, first, count in ((few, 0, 7), (many, 20, 20)):
        epochs = [records_seen[i : i + count] for i in range(0, 4 * count, count)]
        assert all(sorted(epoch) == list(range(first, first + count)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == 4


def test_equal_seeds_give_equal_batches(folders: dict[str, str], add: Callable) -> None:
    name = add({folders["few"]: 1, folders["many"]: 1})
    one, other = (list(itertools.islice(open_batches(name), 12)) for _ in range(2))
    for got, want in zip(one, other, strict=True):
        for feature, values in want.items():
            np.testing.assert_array_equal(got[feature], values)


@pytest.mark.parametrize(("buffer", "chunk"), [(3, 2), (5, 64), (1_000, 64)])
def test_positions_are_exact(
    buffer: int,
    chunk: int,
    folders: dict[str, str],
    add: Callable,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the midst and at the ends of epochs: of 5 and of 8 batches, more or less."""
    monkeypatch.setattr(sources, "SHUFFLE_BUFFER", buffer)
    monkeypatch.setattr(preprocessors, "CHUNK", chunk)
    name = add({folders["few"]: 1, folders["many"]: 2})
    expected = list(itertools.islice(open_batches(name), 26))
    saved = open_batches(name)
    for taken in range(1, 20):
        next(saved)
        if taken not in (1, 3, 5, 7, 8, 15, 19):
            continue
        (tmp_path / f"{taken}").mkdir()
        saved.save(tmp_path / f"{taken}")
        restored = open_batches(name)
        restored.restore(tmp_path / f"{taken}")
        for got, want in zip(restored, expected[taken:], strict=False):
            for feature, values in want.items():
                np.testing.assert_array_equal(got[feature], values, err_msg=f"{taken}, {feature}")


def test_the_order_is_that_of_the_names(
    folders: dict[str, str], add: Callable, tmp_path: pathlib.Path
) -> None:
    """seqio sorts tasks by name, and the hash in it follows the folders' paths."""
    for number in range(4):
        root = tmp_path / f"{number}"
        moved = [str(shutil.copytree(path, root / name)) for name, path in folders.items()]
        for sets in (moved, moved[::-1]):
            mixture = seqio.MixtureRegistry.get(add(dict.fromkeys(sets, 1.0)))
            assert [mixtures.set_name(task.name) for task in mixture.tasks] == ["few", "many"]


def test_the_name_follows_the_content(folders: dict[str, str], add: Callable) -> None:
    few, many = folders.values()
    name = add({few: 1, many: 2})
    assert name.startswith("parti_text_to_image_mixture_") and name == add({few: 1.0, many: 2})
    others = {add({few: 1, many: 3}), add({many: 1, few: 2}), add(few), add({few: 5})}
    assert add({many: 2, few: 1}) == name
    assert len(others) == 3 and name not in others, "one of several folders alone is that folder"
    assert mixtures.set_name(add(few)) == add(few)


def test_all_kinds_mix(stages: conftest.Stages, tmp_path: pathlib.Path) -> None:
    pairs, reconstructions = tmp_path / "pairs", tmp_path / "reconstructions"
    shutil.copytree(stages.pairs, pairs)
    shutil.copytree(stages.reconstructions, reconstructions)
    both = {str(stages.pairs): 1, str(pairs): 1}
    added = {
        "images": images.add_task(both, 8),
        "contrastive": contrastive.add_task(both, stages.vocabulary, 8),
        "super_resolution": super_resolution.add_task(
            {str(stages.reconstructions): 1, str(reconstructions): 1}, 16, 8
        ),
        "bert": bert.add_task(stages.vocabulary, pairs_dir=both),
        "text_encoder": text_encoder.add_task(1.0, 1.0, stages.vocabulary, 12, 8, both),
    }
    measured = {
        "contrastive": [metrics.Retrieval, metrics.Captioning],
        "text_encoder": [metrics.Retrieval],
    }
    for kind, name in added.items():
        assert name.startswith(f"parti_{kind}_mixture_")
        tasks = seqio.MixtureRegistry.get(name).tasks
        assert len(tasks) == 2 and set(tasks[0].splits) == {"train", "validation"}
        assert tasks[0].metric_objs == measured.get(kind, [])


def test_caption_weights_make_another_task(stages: conftest.Stages) -> None:
    def add(weights: tuple[float, ...] | None) -> str:
        return contrastive.add_task(stages.pairs, stages.vocabulary, 8, caption_weights=weights)

    assert len({add(None), add((1, 3)), add((1, 2))}) == 3
    assert add((1, 3)) == add((1.0, 3.0))


def write_manifest(folder: str, maker: str) -> None:
    manifest = {"kind": "tokens", "fingerprint": folder, "tokenizer_fingerprint": maker}
    pathlib.Path(folder, "manifest.json").write_text(json.dumps(manifest))


def test_tokens_of_two_tokenizers_are_refused(
    folders: dict[str, str], add: Callable, tmp_path: pathlib.Path
) -> None:
    copies = [str(shutil.copytree(path, tmp_path / name)) for name, path in folders.items()]
    both = dict.fromkeys(copies, 1)
    write_manifest(copies[0], "a" * 64)
    add(both)  # of the other one it is not known
    write_manifest(copies[1], "a" * 64)
    add(both)
    write_manifest(copies[1], "b" * 64)
    message = f"of 2 tokenizers .'{copies[0]}' by a{{12}}, '{copies[1]}' by b{{12}}.*tokenize all"
    with pytest.raises(ValueError, match=message):
        add(both)


def test_mistakes_name_the_set(
    folders: dict[str, str], add: Callable, stages: conftest.Stages, tmp_path: pathlib.Path
) -> None:
    few = folders["few"]
    with pytest.raises(FileNotFoundError, match=f"No train-.* in '{tmp_path}'"):
        add({few: 1, str(tmp_path): 1})
    with pytest.raises(ValueError, match=f"{stages.pairs}/train-.*expected a tokenized pair"):
        add({few: 1, str(stages.pairs): 1})
    row = records.TokenizedPair("a", "red", np.arange(9)).to_example()
    tfrecords.write(tmp_path / "train-00000-of-00001.tfrecord", [row])
    # A set with a larger grid, seen when the tokens of all are given their length.
    name = add({few: 1, str(tmp_path): 1})
    with pytest.raises(ValueError, match=f"the task has 9. {tmp_path} .* set GRID_SIZE to 3"):
        open_batches(name)
    # A bad record in the midst of a set.
    rows = [records.TokenizedPair("a", "red", np.arange(n)).to_example() for n in (4, 4, 3)]
    tfrecords.write(tmp_path / "train-00000-of-00001.tfrecord", rows)
    batches = open_batches(add({few: 1, str(tmp_path): 1}))
    with pytest.raises(Exception, match=f"{tmp_path}: image tokens must be 4 indices"):
        list(itertools.islice(batches, 20))

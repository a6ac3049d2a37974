# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Each process its own rows: together they are, bitwise, the batches of one."""

import gc
import itertools
import pathlib
import threading
import time
import types
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import tiny_models

from parti.data.images import images
from parti.data.storage import records, shard_names, tfrecords
from parti.engine.input import datasets, prefetch, row_source
from parti.stages import files
from parti.tasks import contrastive, feature_converters, text_to_image

BATCH = 8
COUNTS = {"train": (13, 0, 20), "validation": (3, 8)}  # records of each shard


def write(folder: pathlib.Path, make: Callable[[int], records.Record], first: int = 0) -> str:
    """Writes shards of both splits; record i is `make(i)`."""
    folder.mkdir()
    for split, counts in COUNTS.items():
        numbers = itertools.count(first)
        for shard, count in enumerate(counts):
            path = folder / shard_names.shard_name(split, shard, len(counts))
            rows = (make(number).to_example() for number in itertools.islice(numbers, count))
            tfrecords.write(path, rows)
    return str(folder)


def tokens(number: int) -> records.TokenizedPair:
    more = {records.CAPTIONS: ["blue", "a blue square"]}
    return records.TokenizedPair(f"{number}", "red " * (number % 5), np.arange(4) + number, more)


def pair(number: int) -> records.ImageTextPair:
    pixels = np.random.default_rng(number).integers(0, 256, (9, 8, 3), np.uint8)
    more = {records.CAPTIONS: ["blue", "a blue square"]}
    return records.ImageTextPair(f"{number}", images.encode_png(pixels), "red", 8, 9, metadata=more)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple]:
    """{kind: (source, model)}: tokens, pairs, and tokens of two sets."""
    root = tmp_path_factory.mktemp("rows")
    vocabulary = tiny_models.write_vocabulary(root / "v.model")
    few, more = write(root / "few", tokens), write(root / "more", tokens, 100)
    pairs = write(root / "pairs", pair)
    lengths = {"inputs": 6, "targets": 4}

    def model(converter: type) -> types.SimpleNamespace:
        return types.SimpleNamespace(FEATURE_CONVERTER_CLS=converter, text_vocab_size=1000)

    def of_tokens(folders) -> tuple:
        name = text_to_image.add_task(folders, vocabulary, 200, text_drop_rate=0.3)
        source = datasets.SeqioSource(name, lengths)
        return source, model(feature_converters.TextToImageConverter)

    name = contrastive.add_task(pairs, vocabulary, 8, max_shift=2)
    of_pairs = datasets.SeqioSource(name, {"inputs": 6, "image": 8})
    return {
        "tokens": of_tokens(few),
        "mixture": of_tokens({few: 3, more: 1}),
        "pairs": (of_pairs, model(feature_converters.ImageTextConverter)),
    }


def opened(of: tuple, split: str = datasets.TRAIN, seed: int = 3) -> datasets.Batches:
    source, model = of
    return source.open(split, BATCH, seed, model)


def readers(of: tuple, count: int, split: str = datasets.TRAIN) -> list[datasets.Batches]:
    """Returns what each of `count` processes opens; the rows of one need not follow each other."""
    found = [opened(of, split) for _ in range(count)]
    for i, batches in enumerate(found):
        batches.keep_rows(np.arange(BATCH).reshape(2, count, -1)[:, i].ravel())
    return found


def together(parts: list[datasets.Batches], batches: int) -> list[datasets.Batch]:
    """Returns global batches of the rows that all readers give."""
    found = []
    for _ in range(batches):
        rows = [next(part) for part in parts]
        joined = {}
        for name in rows[0]:
            arrays = [row[name].reshape(2, -1, *row[name].shape[1:]) for row in rows]
            joined[name] = np.concatenate(arrays, 1).reshape(BATCH, *rows[0][name].shape[1:])
        found.append(joined)
    return found


def assert_same(got: list[datasets.Batch], want: list[datasets.Batch]) -> None:
    assert len(got) == len(want)
    for number, (one, other) in enumerate(zip(got, want, strict=True)):
        assert one.keys() == other.keys()
        for name in other:
            np.testing.assert_array_equal(one[name], other[name], err_msg=f"{number} {name}")


@pytest.mark.parametrize("kind", ["tokens", "mixture", "pairs"])
def test_readers_give_the_batches_of_one_and_go_on_as_more(
    kind: str, sources: dict, tmp_path: pathlib.Path
) -> None:
    """Two, then four after 3 batches, over more than one epoch of 33 examples."""
    want = list(itertools.islice(opened(sources[kind]), 9))
    assert len({batch[next(iter(batch))].tobytes() for batch in want}) == 9
    two = readers(sources[kind], 2)
    assert (
        two[0].element_spec["text_tokens" if kind == "pairs" else "decoder_input_tokens"].shape[0]
        == BATCH
    ), "the shape of a global batch"
    got = together(two, 3)
    assert_same(got, want[:3])
    two[1].save(tmp_path)
    four = readers(sources[kind], 4)
    for part in four:
        part.restore(tmp_path)
    assert_same(together(four, 6), want[3:])


@pytest.mark.parametrize("kind", ["tokens", "pairs"])
def test_validation_is_divided(kind: str, sources: dict) -> None:
    """11 examples in two batches, the last one filled up from the beginning."""
    want = list(opened(sources[kind], datasets.VALIDATION))
    assert len(want) == 2
    assert_same(together(readers(sources[kind], 4, datasets.VALIDATION), 2), want)
    if kind == "tokens":
        first = [int(row[0]) - 1 for batch in want for row in batch["decoder_target_tokens"]]
        assert first == [*range(11), *range(5)]


def test_what_is_drawn_follows_the_seed_and_the_epoch(sources: dict) -> None:
    def drawn(seed: int, batches: int) -> dict[int, list[bytes]]:
        """Returns {record: captions, in the order of epochs}."""
        found: dict[int, list[bytes]] = {}
        for batch in itertools.islice(opened(sources["tokens"], seed=seed), batches):
            for ids, row in zip(batch["encoder_input_tokens"], batch["decoder_target_tokens"]):
                found.setdefault(int(row[0]) - 1, []).append(ids.tobytes())
        return found

    one = drawn(3, 33)
    assert one == drawn(3, 33)
    assert one != drawn(4, 33)
    assert {len(captions) for captions in one.values()} == {8}, "33 batches are 8 epochs"
    assert sum(len(set(captions)) > 1 for captions in one.values()) > 25


def test_a_reader_reads_its_records_alone(sources: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """And holds the rows of one batch, a part as large as the others'."""
    read = []

    def counted(self: files.Ranges, start: int, num_bytes: int) -> bytes:
        read.append(start)
        return original(self, start, num_bytes)

    original = files.Ranges.read
    monkeypatch.setattr(files.Ranges, "read", counted)
    found = []
    for part in readers(sources["tokens"], 4, datasets.VALIDATION):
        read.clear()
        assert [len(batch["decoder_target_tokens"]) for batch in part] == [2, 2]
        found.append(len(read))
    assert found == [4, 4, 4, 4]


@pytest.mark.parametrize("kind", ["tokens", "mixture"])
def test_a_reader_that_is_gone_keeps_nothing_open(
    kind: str, sources: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow keeps each function that it was given, but not what ours read with."""
    alive = weakref.WeakSet()

    class Watched(row_source.Records):
        def __init__(self, shards: list[str]) -> None:
            super().__init__(shards)
            alive.add(self)

    monkeypatch.setattr(row_source, "Records", Watched)
    for _ in range(3):
        reader = opened(sources[kind], datasets.TRAIN)
        next(iter(reader))
        assert alive
        del reader
        end = time.monotonic() + 30  # calls that have begun end first
        while alive and time.monotonic() < end:
            gc.collect()
            time.sleep(0.05)
        assert not alive


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize(("keeps", "num_batches"), [(False, 1), (True, 4)])
def test_a_process_holds_its_rows_of_a_few_batches(
    count: int, keeps: bool, num_batches: int, sources: dict
) -> None:
    """One where devices take them over. Where they share the host's memory, all that is read
    ahead: two in the queue, one that waits to enter it, and the one that a step takes."""
    alive: dict[int, int] = {}  # bytes of arrays
    held: list[int] = []
    is_full = threading.Event()

    def place(batch: datasets.Batch) -> datasets.Batch | None:
        for name in [*batch]:
            array = batch[name] = np.array(batch[name])
            alive[id(array)] = array.nbytes
            weakref.finalize(array, alive.pop, id(array))
        held.append(sum(alive.values()))
        if len(held) == 4:
            is_full.set()
        return batch if keeps else None

    reader = readers(sources["pairs"], count)[0]
    spec = reader.element_spec.values()
    row = sum(np.prod(x.shape[1:]) * np.dtype(x.dtype).itemsize for x in spec)
    ahead = prefetch.Prefetcher(reader, place, 0, 50, lambda step: False)
    taken = next(ahead)
    assert is_full.wait(60)
    assert held[3] == num_batches * row * BATCH // count
    ahead.close()
    del taken


def test_positions_of_before_are_refused(sources: dict, tmp_path: pathlib.Path) -> None:
    batches = opened(sources["tokens"])
    with pytest.raises(ValueError, match="holds no position in the data; start a new MODEL_DIR"):
        batches.restore(tmp_path)
    (tmp_path / "train_ds-000-of-001.index").touch()
    with pytest.raises(ValueError, match="another order of the data: a Parti of before saved it"):
        batches.restore(tmp_path)

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Texts from every source, and with pairs: what is read, exact positions, determinism."""

import gzip
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator

import fake_remote
import numpy as np
import pyarrow as pa
import pytest
import seqio
import tensorflow_datasets as tfds
from pyarrow import parquet

from parti.data.storage import tfrecords
from parti.data.text import vocabularies
from parti.engine.input import datasets
from parti.models.text_encoder import model, network
from parti.stages import files
from parti.tasks import bert, masking, preprocessors, sources, text_encoder
from tests.tasks import conftest

Batch = dict[str, np.ndarray]
BATCH, LENGTH = 4, 12
NUM_TEXTS = {"train": 30, "validation": 9}
COLOURS = ("red", "blue")
KINDS = ("txt", "txt.gz", "jsonl", "json.gz", "parquet", "tfds", "pairs")


def text(split: str, i: int) -> str:
    """Returns text i of a split; the third is long, the fifth empty."""
    if i == 5:
        return ""
    words = [COLOURS[i % 2], str(i % 22), *(["blue 7 red"] * 5 if i == 3 else [])]
    return " ".join([*words, "red"] if split == "validation" else words)


def texts(split: str) -> list[str]:
    return [text(split, i) for i in range(NUM_TEXTS[split])]


def write(folder: pathlib.Path, kind: str, split: str) -> None:
    """Writes the texts of a split as two files, the first of 11."""
    rows = texts(split)
    for number, part in enumerate((rows[:7], rows[7:])):
        path = folder / f"{split}-{number}.{kind}"
        if kind == "parquet":
            table = pa.table(
                {"content": pa.array([t or None for t in part]), "n": range(len(part))}
            )
            parquet.write_table(table, path, row_group_size=4)
            continue
        lines = part if kind.startswith("txt") else [json.dumps({"content": t}) for t in part]
        opened = gzip.open if kind.endswith("gz") else open
        with opened(path, "wt", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))


def write_tfds(folder: pathlib.Path) -> None:
    """Writes the texts as `tfds build` leaves them: two shards of each split, and metadata."""
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict(
        {"content": tfds.features.Text(), "url": tfds.features.Text()}
    )
    splits = []
    for split in NUM_TEXTS:
        parts = texts(split)[:7], texts(split)[7:]
        for number, part in enumerate(parts):
            rows = [features.serialize_example({"content": t, "url": "nowhere"}) for t in part]
            tfrecords.write(folder / f"tiny_c4-{split}.tfrecord-{number:05d}-of-00002", rows)
        lengths = [len(part) for part in parts]
        splits.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=1))
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=features,
        split_infos=splits,
        filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    )


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The same texts in each form: a folder each, and a TFDS data set."""
    root = tmp_path_factory.mktemp("corpora")
    for kind in set(KINDS) - {"tfds", "pairs"}:
        (root / kind).mkdir()
        for split in NUM_TEXTS:
            write(root / kind, kind, split)
    write_tfds(root / "tfds" / "tiny_c4" / "en" / "3.1.0")
    return root


Add = Callable[..., str]


@pytest.fixture(scope="module")
def add(corpora: pathlib.Path, stages: conftest.Stages) -> Add:
    def add_task(kind: str, **changes: object) -> str:
        arguments: dict[str, object] = {"text_field": "content"}
        if kind == "pairs":
            arguments = {"pairs_dir": stages.pairs}
        elif kind == "tfds":
            arguments |= {"text_files": "tiny_c4/en:3.1.0", "tfds_data_dir": corpora / "tfds"}
        else:
            for name, split in (("text_files", "train"), ("validation_files", "validation")):
                arguments[name] = f"{corpora}/{kind}/{split}-*"
        return bert.add_task(stages.vocabulary, **(arguments | changes))

    return add_task


MODEL = model.TextEncoderModel(
    network.TextEncoderConfig(text_vocab_size=400, text_length=LENGTH, dtype="float32"),
    contrastive_weight=0.0,
)
BOTH = model.TextEncoderModel(MODEL.config)
LENGTHS = masking.feature_lengths(LENGTH)


def opened(name: str, split: str = "train", seed: int = 7) -> datasets.Batches:
    return datasets.SeqioSource(name, LENGTHS).open(split, BATCH, seed, MODEL)


def take(batches: Iterator[Batch], count: int) -> list[Batch]:
    return [next(batches) for _ in range(count)]


def same(first: list[Batch], second: list[Batch]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(np.array_equal(a[name], b[name]) for a, b in pairs for name in a)


def read_back(batches: list[Batch], tokenizer: vocabularies.TextTokenizer) -> list[str]:
    """Returns the text of each segment, in order."""
    found = []
    for batch in batches:
        rows = zip(batch[masking.TARGET_TOKENS], batch[masking.SEGMENT_IDS], strict=True)
        for tokens, segments in rows:
            for number in range(1, segments.max() + 1):
                found.append(tokenizer.decode(tokens[segments == number]))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_text_is_read(kind: str, add: Add, stages: conftest.Stages) -> None:
    """In validation all, once and in order; an epoch of training has all in another order."""
    tokenizer = vocabularies.TextTokenizer(stages.vocabulary)
    name = add(kind)
    task = seqio.TaskRegistry.get(name)
    for split in NUM_TEXTS:
        want = [t for t in texts(split) if t]
        if kind == "pairs":
            count = {"train": conftest.TRAIN, "validation": conftest.VALIDATION}[split]
            want = [f"red {i}" for i in range(0, count, 2)] + [
                f"red {i}" for i in range(1, count, 2)
            ]
        epoch = task.get_dataset(LENGTHS, split, shuffle=split == "train", seed=3, num_epochs=1)
        rows = [{k: v[None] for k, v in row.items()} for row in epoch.as_numpy_iterator()]
        got = read_back(rows, tokenizer)
        if kind == "pairs" and split == "train":
            got = [t.replace("blue", "red") for t in got]  # one of two captions
        joined, wanted = " ".join(got), " ".join(want)
        if split == "validation":
            assert sorted(joined.split()) == sorted(wanted.split())
            assert kind == "pairs" or joined == wanted, "two files, the second after the first"
        else:
            assert sorted(joined.split()) == sorted(wanted.split()) and joined != wanted
        assert {k: v.shape for k, v in rows[0].items()} == {k: (1, LENGTH) for k in LENGTHS}


def test_masks_differ_by_epoch_and_agree_in_validation(
    add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = add("txt")
    first, second = (list(opened(name, "validation")) for _ in range(2))
    assert same(first, second)
    monkeypatch.setattr(preprocessors, "CHUNK", NUM_TEXTS["validation"])  # a chunk is an epoch
    task = seqio.TaskRegistry.get(name)
    epochs = task.get_dataset(LENGTHS, "validation", shuffle=False, seed=0, num_epochs=2)
    (rows,) = epochs.batch(1_000).as_numpy_iterator()
    np.testing.assert_array_equal(*np.split(rows[masking.TARGET_TOKENS], 2))
    assert not np.array_equal(*np.split(rows[masking.LOSS_WEIGHTS], 2))


def test_hosts_share_the_texts(add: Add, stages: conftest.Stages) -> None:
    tokenizer = vocabularies.TextTokenizer(stages.vocabulary)
    for kind in ("txt", "parquet", "tfds"):
        task, seen = seqio.TaskRegistry.get(add(kind)), []
        for host in range(2):
            shard = seqio.ShardInfo(index=host, num_shards=2)
            part = task.get_dataset(LENGTHS, "validation", shuffle=False, seed=0, shard_info=shard)
            rows = [{k: v[None] for k, v in row.items()} for row in part.as_numpy_iterator()]
            seen += " ".join(read_back(rows, tokenizer)).split()
        assert sorted(seen) == sorted(" ".join(texts("validation")).split()), kind


def test_whole_words_are_another_task(add: Add) -> None:
    plain, whole, rare = add("txt"), add("txt", whole_words=True), add("txt", mask_rate=0.1)
    assert len({plain, whole, rare}) == 3 and plain == add("txt")
    batch = next(iter(opened(whole)))
    tokens, told = batch[masking.TARGET_TOKENS], batch[masking.LOSS_WEIGHTS] > 0
    assert told.any() and (tokens[told] > 3).all()


# ---------------------------------------------------------------- both objectives


def both(stages: conftest.Stages, corpora: pathlib.Path, **changes: object) -> str:
    arguments: dict[str, object] = {
        "bert_weight": 1.0,
        "contrastive_weight": 1.0,
        "vocabulary_path": stages.vocabulary,
        "text_length": LENGTH,
        "image_size": conftest.LOW,
        "pairs_dir": stages.pairs,
        "text_files": f"{corpora}/jsonl/train-*",
        "validation_files": f"{corpora}/jsonl/validation-*",
        "text_field": "content",
    }
    return text_encoder.add_task(**(arguments | changes))  # type: ignore[arg-type]


WHOLE = text_encoder.feature_lengths(1.0, 1.0, LENGTH, conftest.LOW)


def opened_both(name: str, split: str = "train") -> datasets.Batches:
    return datasets.SeqioSource(name, WHOLE).open(split, BATCH, 7, BOTH)


def test_both_objectives_in_one_batch(stages: conftest.Stages, corpora: pathlib.Path) -> None:
    """As many packed texts as pairs; captions are their pictures'."""
    name = both(stages, corpora)
    assert name == both(stages, corpora) and name.startswith("parti_text_encoder_")
    batches = take(iter(opened_both(name)), 8)
    tokenizer = vocabularies.TextTokenizer(stages.vocabulary)
    for batch in batches:
        assert {k: v.shape for k, v in batch.items()} == {
            "images": (BATCH, 8, 8, 3),
            "text_tokens": (BATCH, LENGTH),
            **dict.fromkeys(masking.FEATURES, (BATCH, LENGTH)),
        }
        for tokens, picture in zip(batch["text_tokens"], batch["images"], strict=True):
            index = round((float(picture[0, 0, 0]) + 1) * 127.5)
            assert tokenizer.decode(tokens) in (f"red {index}", f"blue {index}")
    shapes = BOTH.FEATURE_CONVERTER_CLS(pack=False).get_batch_shapes(WHOLE, BATCH)
    assert shapes == {k: v.shape for k, v in batches[0].items()}
    spec = opened_both(name).element_spec
    assert {k: str(v.dtype) for k, v in spec.items()} == dict(BOTH.feature_types)


Open = Callable[[], datasets.Batches]


@pytest.fixture
def open_kind(
    request: pytest.FixtureRequest,
    add: Add,
    stages: conftest.Stages,
    corpora: pathlib.Path,
    tmp_path: pathlib.Path,
) -> Open:
    """Opens texts of a kind or, of 'both ...', both objectives, of captions, of several sets."""
    kind = request.param
    if not kind.startswith("both"):
        name = add(kind)
        return lambda: opened(name)
    changes: dict[str, object] = {}
    if "captions" in kind:
        changes |= {"text_files": None, "validation_files": None}
    if "sets" in kind:
        more = shutil.copytree(stages.pairs, tmp_path / "more")
        changes["pairs_dir"] = {str(stages.pairs): 1, str(more): 3}
    name = both(stages, corpora, **changes)
    assert ("_mixture_" in name) == ("sets" in kind)
    return lambda: opened_both(name)


BOTH_KINDS = ("both", "both, captions", "both, sets", "both, captions, sets")


@pytest.mark.parametrize("open_kind", (*KINDS, *BOTH_KINDS), indirect=True)
def test_positions_are_exact(
    open_kind: Open, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Saved within epochs and after several (of about 5 batches); masks are the same, too."""
    monkeypatch.setattr(sources, "SHUFFLE_BUFFER", 5)
    monkeypatch.setattr(preprocessors, "CHUNK", 3)
    expected = take(iter(open_kind()), 20)
    saved = open_kind()
    for taken in range(1, 14):
        next(saved)
        if taken in (2, 6, 13):
            folder = tmp_path / f"{taken}"
            folder.mkdir()
            saved.save(folder)
            restored = open_kind()
            restored.restore(folder)
            assert same(expected[taken:], take(iter(restored), 20 - taken)), taken


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_the_batches(kind: str, add: Add) -> None:
    name = add(kind)
    expected = take(iter(opened(name)), 8)
    assert same(expected, take(iter(opened(name)), 8))
    assert not same(expected, take(iter(opened(name, seed=8)), 8))


def test_sets_of_pairs_share_the_texts(
    stages: conftest.Stages, corpora: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """In training each reads a part, here a file; in validation all."""
    more = shutil.copytree(stages.pairs, tmp_path / "more")
    parts = [{f"{colour} {i}" for i in range(10)} for colour in COLOURS]
    for number, part in enumerate(parts):
        (tmp_path / f"{number}.txt").write_text("\n".join(sorted(part)))
    changes: dict[str, object] = {"pairs_dir": {str(stages.pairs): 1, str(more): 3}}
    changes |= dict.fromkeys(("text_files", "validation_files"), f"{tmp_path}/*.txt")
    tasks = seqio.MixtureRegistry.get(both(stages, corpora, **changes)).tasks
    tokenizer = vocabularies.TextTokenizer(stages.vocabulary)
    for task, part in zip(tasks, parts, strict=True):
        assert set(read_back(take(opened_both(task.name), 6), tokenizer)) == part
        assert set(read_back(list(opened_both(task.name, "validation")), tokenizer)) > part
    shards = [
        text_encoder._part_of(seqio.ShardInfo(host, 2), seqio.ShardInfo(part, 3))
        for host in range(2)
        for part in range(3)
    ]
    assert [(shard.index, shard.num_shards) for shard in shards] == [(i, 6) for i in range(6)]


def test_captions_do_not_come_beside_their_pairs(
    stages: conftest.Stages, corpora: pathlib.Path
) -> None:
    name = both(stages, corpora, text_files=None, validation_files=None)
    (batch,) = take(iter(opened_both(name)), 1)
    tokenizer = vocabularies.TextTokenizer(stages.vocabulary)
    packed = {t.split()[1] for t in read_back([batch], tokenizer)[:BATCH]}
    assert packed != {tokenizer.decode(t).split()[1] for t in batch["text_tokens"]}


def test_validation_of_both_ends_with_the_pairs(
    stages: conftest.Stages, corpora: pathlib.Path
) -> None:
    """Converted one by one, as T5X and seqio do it, they are the same."""
    name = both(stages, corpora)
    batches = list(opened_both(name, "validation"))
    assert len(batches) == conftest.VALIDATION // BATCH
    texts = [
        vocabularies.TextTokenizer(stages.vocabulary).decode(t)
        for b in batches
        for t in b["text_tokens"]
    ]
    assert [text for _, text in datasets.SeqioSource(name, WHOLE).captions()] == texts
    alone = both(stages, corpora, contrastive_weight=0.0, text_files=None, validation_files=None)
    assert datasets.SeqioSource(alone, LENGTHS).captions() is None, "packed texts"
    single = seqio.get_dataset(
        name,
        WHOLE,
        dataset_split="validation",
        feature_converter=BOTH.FEATURE_CONVERTER_CLS(pack=False),
        batch_size=BATCH,
        shuffle=False,
        seed=7,
        num_epochs=1,
    )
    assert same(batches, list(single.as_numpy_iterator()))


def test_one_objective_is_its_own_task(stages: conftest.Stages, corpora: pathlib.Path) -> None:
    alone = both(stages, corpora, contrastive_weight=0.0, pairs_dir=None)
    assert alone.startswith("parti_bert_")
    contrast = both(stages, corpora, bert_weight=0.0)
    assert contrast.startswith("parti_contrastive_")
    assert text_encoder.feature_lengths(1.0, 0.0, 5, 8) == masking.feature_lengths(5)
    assert text_encoder.feature_lengths(0.0, 1.0, 5, 8) == {"inputs": 5, "image": 8}


def test_mistakes_name_the_remedy(
    add: Add, corpora: pathlib.Path, stages: conftest.Stages, tmp_path: pathlib.Path
) -> None:
    def refuse(match: str, kind: str = "txt", error: type[Exception] = ValueError, **changes):
        with pytest.raises(error, match=match):
            add(kind, **changes)

    refuse("names no file of text", text_files=f"{corpora}/none-*", error=FileNotFoundError)
    refuse("names no file of text", text_files=f"{corpora}/txt/*.md", error=FileNotFoundError)
    refuse("files of several kinds, json and lines", text_files=f"{corpora}/jsonl/train-*")
    refuse("no text 'body'; set TEXT_FIELD to its key. It is .*content", "jsonl", text_field="body")
    refuse("no column 'body'; set TEXT_FIELD to one of content", "parquet", text_field="body")
    refuse("the column 'n' of .* is of int64, not text; set TEXT_FIELD", "parquet", text_field="n")
    refuse("'body', which is no text .* content, url", "tfds", text_field="body")
    refuse("holds no such data set", "tfds", FileNotFoundError, text_files="c4/en:3.1.0")
    refuse("VALIDATION_TEXTS is not set", "tfds", validation_files="a.txt")
    refuse("neither TEXTS nor PAIRS_DIR", "pairs", pairs_dir=None)
    refuse("belong to TEXTS", "pairs", tfds_data_dir=corpora)
    (tmp_path / "empty.txt").write_text("")
    refuse("TEXTS: .*empty.txt' and all other files are empty", text_files=f"{tmp_path}/empty.txt")
    (tmp_path / "bad.jsonl").write_text("{not json\n")
    refuse("a line is no JSON", "jsonl", text_files=str(tmp_path / "bad.jsonl"))
    source = datasets.SeqioSource(add("txt", validation_files=None), LENGTHS)
    with pytest.raises(ValueError, match="no validation split; make one .*EVAL_PERIOD = 0"):
        datasets.validation_sources(source)
    with pytest.raises(ValueError, match="PAIRS_DIR is not set.*CONTRASTIVE_WEIGHT = 0"):
        both(stages, corpora, pairs_dir=None)
    with pytest.raises(ValueError, match="TASK_FEATURE_LENGTHS"):
        lengths = {**WHOLE, masking.POSITIONS: 5}
        datasets.SeqioSource(both(stages, corpora), lengths).open("train", BATCH, 7, BOTH)


def test_texts_that_tensorflow_cannot_read_are_refused(
    corpora: pathlib.Path,
    stages: conftest.Stages,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Tables it need not read."""
    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path))
    for kind in ("txt", "parquet"):
        data = (corpora / kind / f"train-0.{kind}").read_bytes()
        files.write_bytes(f"store://bucket/a.{kind}", data)
    remote = {"text_field": "content", "text_files": "store://bucket/a.txt"}
    with pytest.raises(ValueError, match="store://.*no file system for store.*gs://; or .*parquet"):
        bert.add_task(stages.vocabulary, **remote)
    with pytest.raises(ValueError, match="store://bucket'.*no file system for store://; copy it"):
        bert.add_task(stages.vocabulary, text_files="c4", tfds_data_dir="store://bucket")
    with pytest.raises(ValueError, match="store://bucket'.*no file system for store://; copy it"):
        bert.add_task(stages.vocabulary, pairs_dir="store://bucket")
    name = bert.add_task(stages.vocabulary, **remote | {"text_files": "store://bucket/a.parquet"})
    assert next(iter(opened(name)))[masking.TARGET_TOKENS].any()


def test_a_bad_line_stops_the_run(tmp_path: pathlib.Path, stages: conftest.Stages) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "red 1"}\n{"text": 5}\n')
    name = bert.add_task(stages.vocabulary, text_files=str(tmp_path))
    with pytest.raises(Exception, match="a line has no text 'text'.*: b'{\"text\": 5}'"):
        next(iter(opened(name)))


def test_a_vocabulary_without_mask_is_refused(
    corpora: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts("train")[:5] * 20),
        model_prefix=str(tmp_path / "plain"),
        vocab_size=20,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    with pytest.raises(ValueError, match="has no <mask>, which BERT needs; make it anew"):
        bert.add_task(tmp_path / "plain.model", text_files=f"{corpora}/txt")


def test_a_vocabulary_with_its_mask_behind_text_is_refused(
    corpora: pathlib.Path, stages: conftest.Stages, tmp_path: pathlib.Path
) -> None:
    """Of its tokens few, or none, would be told."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(stages.vocabulary.read_bytes())
    mask = proto.pieces.pop(3)
    proto.pieces.append(mask)
    (tmp_path / "v.model").write_bytes(proto.SerializeToString())
    with pytest.raises(ValueError, match="has <mask> behind '.*make it anew with `parti vocab`"):
        bert.add_task(tmp_path / "v.model", text_files=f"{corpora}/txt")

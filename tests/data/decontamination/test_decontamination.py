# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import io
import pathlib
import tarfile

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from parti.data.decontamination import decontamination, evaluation_files
from parti.data.images import image_hashes, image_sketches, images
from parti.data.scenes import scenes
from parti.data.storage import records, tfrecords
from parti.data.text import prompt_files

PARTI_PROMPTS = pathlib.Path(__file__).resolve().parents[4] / "shared" / "data" / "PartiPrompts.tsv"
NO_IMAGE = (0, bytes(image_hashes.NUM_COLOURS))
LONG = "A green sign that says Very Deep Learning and is at the edge of the Grand Canyon"


def drawn(index):
    """Returns a scene's picture ([64, 64, 3] uint8)."""
    return next(scenes.generate("train", 1, seed=5, size=64, start=index))[2]


def jpeg(image, quality=50, size=None):
    picture = Image.fromarray(image)
    buffer = io.BytesIO()
    (picture.resize(size) if size else picture).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def ask(kept_out, data, text="some words"):
    image = images.decode_image(data)
    return kept_out.hit(text, *image_hashes.fingerprint(image), image.shape[0] * image.shape[1])


def test_changed_copies_of_pictures(tmp_path):
    bar = np.zeros((10, 64, 3), np.uint8)
    bar[2:-2, 4:-4:3] = 255
    changes = {
        "mirrored": lambda image: image[:, ::-1],
        "bordered": lambda image: np.pad(image, ((4, 4), (4, 4), (0, 0)), constant_values=30),
        "cropped": lambda image: image[3:61, 3:61],
        "overlaid": lambda image: np.concatenate([image[:54], bar]),
    }
    folder = tmp_path / "evaluation"
    folder.mkdir()
    for i in range(20):
        (folder / f"{i:02d}.png").write_bytes(images.encode_png(drawn(i)))
    kept_out = decontamination.EvaluationSet.load([folder])
    kept_out.save(tmp_path / "saved")
    for evaluation in (kept_out, decontamination.EvaluationSet.open(tmp_path / "saved")):
        for change, function in changes.items():
            found = 0
            for i in range(20):
                copy = np.ascontiguousarray(function(drawn(i)))
                size = copy.shape[0] * copy.shape[1]
                hashes = (*image_hashes.fingerprint(copy), size)
                hit = evaluation.hit("some words", *hashes, image_sketches.sketch(copy))
                if hit:
                    assert hit[0] == "contaminated_image" and hit[1].startswith(f"{i:02d}.png (")
                    found += 1
            assert found >= 19, change
        for i in range(100, 130):
            hashes = image_hashes.fingerprint(drawn(i))
            assert not evaluation.hit("words", *hashes, 4096, image_sketches.sketch(drawn(i)))


@pytest.mark.parametrize(
    ("text", "is_hit"),
    [
        (LONG, True),
        (LONG.upper().replace(" ", " - "), True),
        ("Found: a green sign, that says very deep learning!", True),
        ("a sign that says very deep learning and more", False),  # seven words in a row
        ("a green sign", False),
        ("Bond.", True),
        ("bond, james bond", False),
        ("", False),
    ],
)
def test_captions(text, is_hit):
    kept_out = decontamination.EvaluationSet()
    kept_out.add_caption("prompts.txt:1", LONG)
    kept_out.add_caption("prompts.txt:2", "bond")
    kept_out.add_caption("prompts.txt:3", "BOND")
    assert kept_out.num_captions == 2
    hit = kept_out.hit(text, *NO_IMAGE)
    assert (hit is not None) == is_hit
    if hit:
        assert hit[0] == "contaminated_caption" and hit[1].startswith("prompts.txt:")


def test_captions_without_spaces():
    kept_out = decontamination.EvaluationSet(num_words=4)
    kept_out.add_caption("p", "\u8d64\u3044\u4e38\u3068\u9752\u3044\u56db\u89d2")
    assert kept_out.hit("\u56f3\uff1a\u4e38\u3068\u9752\u3044", *NO_IMAGE)
    assert not kept_out.hit("\u56f3\uff1a\u4e38\u3068\u9752", *NO_IMAGE)


def test_pictures():
    kept_out = decontamination.EvaluationSet()
    for i in range(20):
        kept_out.add_image(f"scene {i}", *image_hashes.fingerprint(drawn(i)))
    assert kept_out.num_images == 20
    for i in range(20):
        reason, measure = ask(kept_out, jpeg(drawn(i)))
        assert reason == "contaminated_image" and measure.startswith(f"scene {i} (")
        assert ask(kept_out, jpeg(drawn(i), 95, size=(32, 32)))
    assert not any(ask(kept_out, jpeg(drawn(i))) for i in range(100, 120))


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def folder(tmp_path):
    """A set of every kind of file: six pictures and five captions."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "prompts.txt").write_text("a cat on a mat\nbond\n")
    (tmp_path / "deep" / "p.tsv").write_text(f"Prompt\tNote\n{LONG}\tx\n")
    (tmp_path / "deep" / "0.png").write_bytes(images.encode_png(drawn(0)))
    (tmp_path / "deep" / "0.txt").write_text("caption of zero")
    (tmp_path / "1.JPG").write_bytes(jpeg(drawn(1), 95))
    (tmp_path / "README.md").write_text("not read")
    members = {f"{i}.jpg": jpeg(drawn(i), 95) for i in (2, 3)}
    write_tar(tmp_path / "a.tar", members | {"2.txt": b"caption of two", "2.json": b"{}"})
    pairs = [records.ImageTextPair(f"k{i}", images.encode_png(drawn(i)), "") for i in (4, 5)]
    tfrecords.write(tmp_path / "b.tfrecord", [pair.to_example() for pair in pairs])
    (tmp_path / "hashes-b.jsonl").write_text('{"key": "k4"}\n')  # of `parti clean`
    return tmp_path


def test_load(folder):
    kept_out = decontamination.EvaluationSet.load([folder])
    assert (kept_out.num_captions, kept_out.num_images) == (5, 6)
    for i in range(6):
        assert ask(kept_out, jpeg(drawn(i)))
    assert ask(kept_out, jpeg(drawn(4)))[1].startswith("b.tfrecord:k4 (")
    for text in ("caption of zero", "Caption of two", "bond"):
        assert kept_out.hit(text, *NO_IMAGE)
    where = kept_out.hit(LONG, *NO_IMAGE)[1]
    assert where.startswith("p.tsv:p00000-a-green-sign-that-says-") and where.endswith(f": {LONG}")
    # What two patterns name is one set.
    two = decontamination.EvaluationSet.load([folder / "*.txt", str(folder / "deep" / "*.png")])
    assert (two.num_captions, two.num_images) == (2, 1)


def test_what_is_left_out_of_a_prompt_file_is_said(tmp_path, capsys):
    (tmp_path / "p.txt").write_text("# of two\na cat on a mat\n\nbond\n")
    kept_out = decontamination.EvaluationSet.load([tmp_path / "p.txt"])
    assert kept_out.num_captions == 2
    assert "left out 1 comment and 1 blank line\n" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", prompt_files.SUFFIXES)
def test_prompt_files_of_every_kind(tmp_path, capsys, suffix):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a cat on a mat"}\n')
    texts = {
        ".txt": "a dog\n",
        ".json": '\ufeff [{"prompt": "a dog"}]',
        **dict.fromkeys((".csv", ".tsv"), "Prompt\na dog\n"),
        **dict.fromkeys((".jsonl", ".ndjson"), '{"prompt": "a dog"}\n'),
    }
    if suffix == ".parquet":
        parquet.write_table(pa.table({"prompt": ["a dog"]}), tmp_path / "q.parquet")
    else:
        (tmp_path / f"q{suffix}").write_text(texts[suffix])
    (tmp_path / "0.png").write_bytes(images.encode_png(drawn(0)))
    (tmp_path / "0.json").write_text("{}")  # of the picture
    for name in ("manifest.json", "1.heic", "2.SVG"):
        (tmp_path / name).write_text("{}")
    kept_out = decontamination.EvaluationSet.load([tmp_path])
    assert kept_out.num_captions == 2 and kept_out.hit("A dog.", *NO_IMAGE)
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith("not read; save them as JPEG, PNG or WebP: 1.heic, 2.SVG")
    assert said[1] == "left out 1 .json files that are no list of prompts: manifest.json"
    with pytest.raises(ValueError, match="manifest.json', read whole: it must be a list of texts"):
        decontamination.EvaluationSet.load([tmp_path / "manifest.json"])
    (tmp_path / f"q{suffix}").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(ValueError, match=f"q{suffix}"):
        decontamination.EvaluationSet.load([tmp_path / f"q{suffix}"])


def test_saved_set_answers_the_same(folder, tmp_path):
    kept_out = decontamination.EvaluationSet.load([folder], num_words=5)
    kept_out.save(tmp_path / "set.npz")
    opened = decontamination.EvaluationSet.open(tmp_path / "set.npz")
    assert (opened.num_captions, opened.num_images) == (5, 6)
    for text in ("bond", "a cat on a mat", LONG, "nothing"):
        assert opened.hit(text, *NO_IMAGE) == kept_out.hit(text, *NO_IMAGE)
    for i in range(8):
        assert ask(opened, jpeg(drawn(i))) == ask(kept_out, jpeg(drawn(i)))
    empty = decontamination.EvaluationSet()
    empty.save(tmp_path / "empty.npz")
    opened = decontamination.EvaluationSet.open(tmp_path / "empty.npz")
    assert opened.hit("bond", *NO_IMAGE) is None
    with pytest.raises(ValueError, match="not a saved evaluation set"):
        decontamination.EvaluationSet.open(folder / "prompts.txt")


def test_mistakes(folder, tmp_path):
    def load(*patterns):
        return decontamination.EvaluationSet.load(patterns)

    with pytest.raises(FileNotFoundError, match="nowhere: no evaluation data there; it takes"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="README.md: not a kind of evaluation data"):
        load(folder / "README.md")
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="broken.png: not an image .* mend or remove it"):
        load(tmp_path / "broken.png")
    (tmp_path / "cut.tar").write_bytes((folder / "a.tar").read_bytes()[:700])
    with pytest.raises(ValueError, match="cut.tar: damaged, or not a tar"):
        load(tmp_path / "cut.tar")
    with pytest.raises(ValueError, match="num_words=0"):
        decontamination.EvaluationSet(num_words=0)


def test_size_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation_files, "MAX_FILE_BYTES", 1000)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    write_tar(tmp_path / "a.tar", {"a.png": images.encode_png(noise)})
    with pytest.raises(ValueError, match="a.tar:a.png: .* at most"):
        list(evaluation_files.read(tmp_path / "a.tar"))
    (tmp_path / "a.png").write_bytes(images.encode_png(noise))
    with pytest.raises(ValueError, match="a.png: .* at most"):
        list(evaluation_files.read(tmp_path / "a.png"))


@pytest.mark.skipif(not PARTI_PROMPTS.exists(), reason="PartiPrompts.tsv is not here")
def test_parti_prompts():
    kept_out = decontamination.EvaluationSet.load([PARTI_PROMPTS])
    assert kept_out.num_captions > 1600
    prompts = [line.split("\t")[0] for line in PARTI_PROMPTS.read_text().splitlines()[1:]]
    assert all(kept_out.hit(f"{prompt}!", *NO_IMAGE) for prompt in prompts)
    captions = [c for *_, cs in scenes.generate("train", 200, seed=1, size=16) for c in cs]
    assert not any(kept_out.hit(caption, *NO_IMAGE) for caption in captions)

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Examples per second from token shards and from image shards; one JSON line for each.

    python benchmarks/input_pipeline.py
    python benchmarks/input_pipeline.py --cores 1 --num 4000

Made-up data of the paper's sizes: 128 pieces of text and 1024 tokens of 8192 codes; JPEGs of 384 px
that become 256 px. `ours` is what `parti train` reads: the seqio task, its converter, batches as
numpy arrays. `plain` is tf.data by hand with the same result: records shuffled, parsed and decoded
in parallel, captions tokenized by the batch, no seqio, no choice or drop of captions. Each
measurement is a process that may use so many cores; they take turns, and the best turn of each
counts.
"""

import argparse
import io
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import made_up_tokens
import numpy as np
from PIL import Image

from parti.data.storage import records, shard_names, tfrecords

BATCH_SIZE, TEXT_LENGTH, NUM_TOKENS, CODEBOOK_SIZE = 64, 128, 1024, 8192
STORED_SIZE, IMAGE_SIZE = 384, 256
NUM_SHARDS = 8
KINDS, WAYS = ("tokens", "images"), ("ours", "plain")


def write_images(folder: pathlib.Path, num: int) -> None:
    """Writes the shards of images and their captions."""
    rng = np.random.default_rng(0)

    def pair(i: int) -> bytes:
        coarse = rng.integers(0, 256, (24, 24, 3), np.uint8)
        side = (STORED_SIZE, STORED_SIZE)
        file = io.BytesIO()
        Image.fromarray(coarse).resize(side, Image.Resampling.BICUBIC).save(file, "JPEG")
        caption = made_up_tokens.caption(rng)
        return records.ImageTextPair(str(i), file.getvalue(), caption).to_example()

    (folder / "images").mkdir()
    for shard in range(NUM_SHARDS):
        path = folder / "images" / shard_names.shard_name("train", shard, NUM_SHARDS)
        tfrecords.write(path, (pair(i) for i in range(shard, num, NUM_SHARDS)))


def ours(folder: pathlib.Path, kind: str) -> Iterator[dict[str, np.ndarray]]:
    """Returns the batches of `parti train`."""
    from parti.engine.input import datasets
    from parti.tasks import feature_converters, images, text_to_image

    if kind == "tokens":
        name = text_to_image.add_task(folder / kind, folder / "vocabulary.model", CODEBOOK_SIZE)
        lengths = {"inputs": TEXT_LENGTH, "targets": NUM_TOKENS}
        converter: Any = feature_converters.TextToImageConverter
    else:
        name = images.add_task(folder / kind, IMAGE_SIZE)
        lengths, converter = {"image": IMAGE_SIZE}, feature_converters.ImageConverter

    class Model:
        FEATURE_CONVERTER_CLS = converter
        text_vocab_size = made_up_tokens.VOCABULARY_SIZE

    source = datasets.SeqioSource(name, lengths)
    return iter(source.open(datasets.TRAIN, BATCH_SIZE, 0, Model()))


def plain(folder: pathlib.Path, kind: str) -> Iterator[dict[str, np.ndarray]]:
    """Returns the same batches by tf.data alone."""
    import tensorflow as tf
    import tensorflow_text as tf_text

    model = (folder / "vocabulary.model").read_bytes()
    spec = {
        "tokens": {
            "text": tf.io.FixedLenFeature([], tf.string),
            "image_tokens": tf.io.FixedLenFeature([NUM_TOKENS], tf.int64),
        },
        "images": {"image": tf.io.FixedLenFeature([], tf.string)},
    }[kind]
    files = sorted(str(path) for path in (folder / kind).glob("*.tfrecord"))
    dataset = tf.data.TFRecordDataset(files).shuffle(1_000, seed=0).repeat()

    def parse(record: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_single_example(record, spec)
        if kind == "tokens":
            return parsed
        picture = tf.io.decode_jpeg(parsed["image"], channels=3)
        small = tf.image.resize(picture, (IMAGE_SIZE, IMAGE_SIZE), "area")
        return {"images": small / 127.5 - 1.0}

    def finish(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        if kind == "images":
            return batch
        ids = tf_text.SentencepieceTokenizer(model).tokenize(batch["text"])
        ids = tf.concat([ids[:, : TEXT_LENGTH - 1], tf.ones([BATCH_SIZE, 1], tf.int32)], 1)
        targets = tf.cast(batch["image_tokens"], tf.int32) + 1
        return {
            "encoder_input_tokens": ids.to_tensor(shape=[BATCH_SIZE, TEXT_LENGTH]),
            "decoder_target_tokens": targets,
            "decoder_input_tokens": tf.pad(targets[:, :-1], [[0, 0], [1, 0]]),
            "decoder_loss_weights": tf.ones_like(targets, tf.float32),
        }

    dataset = dataset.map(parse, tf.data.AUTOTUNE).batch(BATCH_SIZE, drop_remainder=True)
    return dataset.map(finish, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE).as_numpy_iterator()


def measure(folder: pathlib.Path, kind: str, way: str, seconds: float) -> float:
    """Returns examples per second, after two seconds of warming up."""
    batches = {"ours": ours, "plain": plain}[way](folder, kind)
    end = time.perf_counter() + 2.0
    while time.perf_counter() < end:
        next(batches)
    began, taken = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < seconds:
        next(batches)
        taken += BATCH_SIZE
    return taken / elapsed


def in_a_process(flags: argparse.Namespace, folder: str, kind: str, way: str, cores: int) -> float:
    """Returns what `measure` gives in a process on so many cores."""
    command = [sys.executable, __file__, f"--measure={kind},{way}", f"--folder={folder}"]
    command.append(f"--seconds={flags.seconds}")
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, allowed),
        check=True,
    )
    return float(done.stdout)


def main() -> int:
    """Measures; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--num", type=int, default=8000, help="token records; a quarter of images")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.measure:
        print(measure(pathlib.Path(flags.folder), *flags.measure.split(","), flags.seconds))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        sizes = flags.num, NUM_TOKENS, CODEBOOK_SIZE, NUM_SHARDS
        made_up_tokens.write(root / "tokens", "train", *sizes)
        made_up_tokens.write_vocabulary(root / "vocabulary.model")
        write_images(root, flags.num // 4)
        for kind in KINDS:
            for cores in flags.cores:
                best = dict.fromkeys(WAYS, 0.0)
                for _ in range(flags.turns):
                    for way in WAYS:
                        rate = in_a_process(flags, folder, kind, way, cores)
                        best[way] = max(best[way], rate)
                line = {
                    "figure": f"input pipeline, {kind}, {cores} core(s)",
                    "value": round(best["ours"], 1),
                    "unit": "examples/s",
                    "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                    "plain_tf_data": round(best["plain"], 1),
                    "ratio": round(best["ours"] / best["plain"], 3),
                    "batch_size": BATCH_SIZE,
                }
                print(json.dumps(line), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

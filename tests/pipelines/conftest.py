# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What the tests of pipelines share: tiny bundles with random parameters, and pairs of scenes."""

import pathlib
import shutil
from collections.abc import Iterator

import all_jobs
import emulated_bucket
import jax
import pytest
import tiny_models

from parti.data.images import images
from parti.data.scenes import scenes
from parti.data.storage import records, tfrecords
from parti.engine.inference import bundles
from parti.stages import manifests


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each pipeline loads its models anew; what one has compiled the next one reads."""
    names = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in names.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tiny_models.write_vocabulary(tmp_path_factory.mktemp("vocabulary") / "vocabulary.model")


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, vocabulary: pathlib.Path) -> pathlib.Path:
    """A bundle of all four parts: 16 px images of 4 x 4 tokens, upsampled to 32 px."""
    path = tmp_path_factory.mktemp("models") / "bundle"
    bundles.write_bundle(path, tiny_models.parts(), vocabulary)
    return path


@pytest.fixture(scope="session")
def small_bundle(
    tmp_path_factory: pytest.TempPathFactory, vocabulary: pathlib.Path
) -> pathlib.Path:
    """A bundle without reranker and upsampler."""
    path = tmp_path_factory.mktemp("models") / "small_bundle"
    bundles.write_bundle(path, tiny_models.parts("tokenizer", "generator"), vocabulary)
    return path


@pytest.fixture(scope="session")
def pairs_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Cleaned pairs of 32 px: two train shards of 5 and 3, a validation shard of 4."""
    path = tmp_path_factory.mktemp("pairs") / "pairs"
    path.mkdir()
    shards = {"train-00000-of-00002": 5, "train-00001-of-00002": 3, "validation-00000-of-00001": 4}
    drawn = scenes.generate("train", 12, seed=0, size=32, world="tiny")
    for name, count in shards.items():
        pairs = []
        for _ in range(count):
            key, scene, picture, captions = next(drawn)
            pairs.append(
                records.ImageTextPair(
                    key,
                    images.encode_png(picture),
                    captions[0],
                    metadata={"captions": captions, "scene": scene.to_dict()},
                ).to_example()
            )
        tfrecords.write(path / f"{name}.tfrecord", pairs)
    counts = {"train": 8, "validation": 4}
    manifests.write(path, "pairs", counts=counts, settings={}, content={})
    return path


@pytest.fixture(scope="session")
def here(tmp_path_factory: pytest.TempPathFactory, bundle: pathlib.Path) -> pathlib.Path:
    """The outputs of all jobs on this machine, and the bundle."""
    folder = tmp_path_factory.mktemp("here")
    shutil.copytree(bundle, folder / "bundle")
    for job in all_jobs.jobs(str(folder)).values():
        assert all_jobs.run(job) == 0
    return folder


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[emulated_bucket.Bucket]:
    """An `s3://` bucket, which only a process with its variables finds."""
    with emulated_bucket.serve_s3() as bucket:
        yield bucket

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`parti scenes`: the tars, their bytes, the splits, the prompts, and what is refused."""

import hashlib
import json
import pathlib
import tarfile
from collections.abc import Iterator

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing import test_pipeline, util

from parti.data.images import images
from parti.data.scenes import probe as scene_probe
from parti.data.scenes import scenes
from parti.data.text import prompt_files
from parti.pipelines import draw_scenes, readers
from parti.stages import manifests

FLAGS = ["--num=150", "--size=32", "--shards=3", "--validation_fraction=0.2", "--num_prompts=8"]
TARS = [
    "train-00000-of-00003.tar",
    "train-00001-of-00003.tar",
    "train-00002-of-00003.tar",
    "validation-00000-of-00001.tar",
]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("scenes") / "full"
    assert draw_scenes.run(["--output", str(path), *FLAGS]) == 0
    return path


def read_tars(output: pathlib.Path) -> dict[str, bytes]:
    content = {}
    for path in sorted(output.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.uname) == (0, 0, "")
                content[member.name] = tar.extractfile(member).read()
    return content


def hashes(output: pathlib.Path) -> dict[str, str]:
    paths = (path for path in output.iterdir() if path.name != manifests.FILE_NAME)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_tars_hold_pictures_captions_and_scenes(output: pathlib.Path) -> None:
    assert sorted(path.name for path in output.glob("*.tar")) == TARS
    content = read_tars(output)
    assert list(content) == sorted(content) and len(content) == 3 * 150
    for name in (name for name in content if name.endswith(".json")):
        key, metadata = name.removesuffix(".json"), json.loads(content[name])
        scene = scenes.Scene.from_dict(metadata["scene"])
        image = images.decode_image(content[f"{key}.png"])
        assert np.array_equal(image, scenes.render(scene, 32))
        assert (metadata["width"], metadata["height"]) == image.shape[:2]
        assert metadata["captions"] == scenes.captions(scene)
        assert metadata["challenge"] == scenes.CHALLENGES[scene.challenge]
        assert content[f"{key}.txt"].decode() == metadata["captions"][0]
        assert metadata["split"] == key.split("-")[0]
        assert scenes.is_held_out(scene) == (metadata["split"] == "validation")


def test_manifest_counts(output: pathlib.Path) -> None:
    manifest = manifests.read(output, "scenes")
    assert manifest["counts"] == {"train": 120, "validation": 30, "prompts": 8}
    assert manifest["settings"]["world"] == "full"


def test_prompts_are_held_out_captions_with_their_scenes(output: pathlib.Path) -> None:
    found = prompt_files.read_prompts(output / draw_scenes.PROMPTS)
    assert len(found) == len({prompt.text for prompt in found}) == 8
    assert {prompt.challenge for prompt in found} == set(scenes.CHALLENGES.values())
    for prompt in found:
        scene = scenes.Scene.from_dict(prompt.metadata["scene"])
        assert scenes.is_held_out(scene) and scenes.captions(scene)[0] == prompt.text
        perfect = scene_probe.compare(scene_probe.perfect_view(scene), scene)
        assert perfect["overall"] == 1


def test_bytes_do_not_depend_on_workers(output: pathlib.Path, tmp_path: pathlib.Path) -> None:
    flags = ["--direct_num_workers=2", "--direct_running_mode=multi_threading"]
    assert draw_scenes.run(["--output", str(tmp_path / "again"), *FLAGS, *flags]) == 0
    assert hashes(tmp_path / "again") == hashes(output)
    again = manifests.read(tmp_path / "again", "scenes")
    assert again["fingerprint"] == manifests.read(output, "scenes")["fingerprint"]


def test_scenes_do_not_depend_on_shards_or_num(output: pathlib.Path) -> None:
    settings = draw_scenes.SceneSettings(num=20, size=32, shards=1, validation_fraction=0.1)
    shards = draw_scenes.plan_shards(settings)
    assert [(shard.name, shard.start, shard.num) for shard in shards] == [
        ("train-00000-of-00001.tar", 0, 18),
        ("validation-00000-of-00001.tar", 0, 2),
    ]
    drawn = dict(draw_scenes.members(shards[0], settings))
    assert drawn.items() <= read_tars(output).items()


def test_the_readers_take_the_tars(output: pathlib.Path) -> None:
    with test_pipeline.TestPipeline() as root:
        read = root | readers.ReadPairs(readers.find_sources([str(output / "train-*.tar")]))
        keys = read.pairs | beam.Map(lambda pair: (pair.key, pair.metadata["split"]))
        expected = [(scenes.scene_key("train", index), "train") for index in range(120)]
        util.assert_that(keys, util.equal_to(expected), "pairs")
        util.assert_that(read.rejected, util.is_empty(), "rejected")


def test_build_draws_each_shard_once(tmp_path: pathlib.Path) -> None:
    settings = draw_scenes.SceneSettings(world="tiny", num=7, size=16, shards=2)
    with test_pipeline.TestPipeline() as root:
        drawn = draw_scenes.build(root, settings, str(tmp_path))
        expected = [
            ("train-00000-of-00002.tar", 3),
            ("train-00001-of-00002.tar", 3),
            ("validation-00000-of-00001.tar", 1),
        ]
        util.assert_that(drawn, util.equal_to(expected))
    assert sorted(path.name for path in tmp_path.iterdir()) == [name for name, _ in expected]


def test_shards_are_even() -> None:
    settings = draw_scenes.SceneSettings(num=100_001, validation_fraction=0.1)
    shards = draw_scenes.plan_shards(settings)
    for split, count in settings.counts.items():
        sizes = [shard.num for shard in shards if shard.split == split]
        assert sum(sizes) == count and max(sizes) - min(sizes) <= 1 and max(sizes) <= 5000


def test_all_train(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--num=3", "--size=16", "--world=tiny", "--validation_fraction=0"]
    assert draw_scenes.run(["--output", str(tmp_path / "out"), *flags]) == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["manifest.json", "train-00000-of-00001.tar"]
    assert "drew 3 train and 0 validation scenes of the tiny world" in capsys.readouterr().out


def test_a_tar_is_written_whole(tmp_path: pathlib.Path) -> None:
    def broken() -> Iterator[tuple[str, bytes]]:
        yield "a.txt", b"a"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        draw_scenes.write_tar(tmp_path / "a.tar", broken())
    assert not (tmp_path / "a.tar").exists()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--num=0", "--num=0: give at least 1"),
        ("--size=8", "--size=8: give at least 16"),
        ("--world=huge", "--world=huge: choose from full, tiny"),
        ("--validation_fraction=1", "less than 1"),
        ("--shards=10000", "more than the 9000 scenes"),
    ],
)
def test_bad_values_are_refused(flag: str, message: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=message):
        draw_scenes.run(["--output", str(tmp_path / "out"), flag])
    assert not list(tmp_path.iterdir())


def test_a_misspelt_flag_is_refused(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        draw_scenes.run(["--output", str(tmp_path / "out"), "--sise=64"])
    assert error.value.code == 2 and "did you mean --size?" in capsys.readouterr().err


def test_a_finished_output_is_kept(output: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="already finished; pass --overwrite"):
        draw_scenes.run(["--output", str(output), *FLAGS])


def test_dataflow_is_refused_before_anything_is_drawn(tmp_path: pathlib.Path) -> None:
    dataflow = ["--runner=DataflowRunner", "--project=p", "--region=r", "--temp_location=gs://b/t"]
    with pytest.raises(ValueError, match="workers of Dataflow do not see the files of this"):
        draw_scenes.run(["--output", str(tmp_path / "out"), *FLAGS, *dataflow])
    assert not list(tmp_path.iterdir())

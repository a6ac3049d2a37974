# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Generation: what is written, what an image depends on, and going on after an interruption."""

import dataclasses
import importlib
import json
import os
import pathlib
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import fake_drawing
import hypothesis
import json_values
import numpy as np
import pytest
import tiny_models
import yaml
from hypothesis import strategies

import parti
from parti import cli
from parti.data.images import encoding, images
from parti.data.storage import records, tfrecords
from parti.data.text import prompt_files, prompt_settings
from parti.engine.distributed import multihost
from parti.engine.inference import bundles, rendering
from parti.pipelines import generate
from parti.pipelines.beam import model_handlers, options
from parti.pipelines.html import generation_card
from parti.stages import commands, files, manifests
from parti.workflow import preflight

PROMPTS = ("a red circle", "a blue square", "green star", "a red star and more words than fit")
NUM_SAMPLES = 3


def run(
    output: pathlib.Path, bundle: pathlib.Path, prompts: Any = PROMPTS, **flags: Any
) -> pathlib.Path:
    """Runs the command and returns its output."""
    prompt_file = output.with_name(f"{output.name}.txt")
    prompt_file.write_text("\n".join(prompts) + "\n")
    given = {"num_samples": NUM_SAMPLES, "prompts_per_batch": 2, **flags}
    arguments = [f"--prompts={prompt_file}", f"--output={output}", f"--model={bundle}"]
    assert generate.run(arguments + [f"--{name}={value}" for name, value in given.items()]) == 0
    return output


def content(folder: pathlib.Path) -> dict[str, bytes]:
    """Returns every file of a folder; of manifest and card what does not name the prompt file."""
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    files["README.md"] = re.sub(rb"--prompts=\S+", b"", files["README.md"])
    manifest = json.loads(files.pop("manifest.json"))
    del manifest["inputs"]
    return files | {"manifest.json": json.dumps(manifest).encode()}


def drawn(folder: pathlib.Path) -> dict[tuple[str, int], tuple[list[int], float, bytes]]:
    """Returns {(prompt, sample): (tokens, score, picture)}."""
    tokens = {
        record.key: record.image_tokens.tolist()
        for data in tfrecords.read_pattern(folder / "tokens-*.tfrecord")
        for record in [records.TokenizedPair.from_example(data)]
    }
    return {
        (g.prompt, g.sample_index): (
            tokens[f"{g.prompt_id}/{g.sample_index:03d}"],
            g.score,
            (folder / g.image).read_bytes(),
        )
        for g in generate.read_generations(folder)
    }


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, bundle: pathlib.Path
) -> Iterator[pathlib.Path]:
    yield run(tmp_path_factory.mktemp("generate") / "out", bundle)


def test_every_sample_is_written_with_its_rank(
    finished: pathlib.Path, bundle: pathlib.Path
) -> None:
    made = generate.read_generations(finished)
    assert [(g.prompt, g.sample_index) for g in made] == [
        (prompt, index) for prompt in PROMPTS for index in range(NUM_SAMPLES)
    ]
    for start in range(0, len(made), NUM_SAMPLES):
        ranked = sorted(made[start : start + NUM_SAMPLES], key=lambda g: g.rank)
        assert [g.rank for g in ranked] == list(range(NUM_SAMPLES))
        scores = [g.score for g in ranked]
        assert scores == sorted(scores, reverse=True) and len(set(scores)) > 1
        assert all(-1 <= score <= 1 for score in scores)
    settings = made[0].settings
    assert settings["guidance_scale"] == 1.2 and settings["num_samples"] == NUM_SAMPLES
    assert set(settings["fingerprints"]) == {
        *("tokenizer", "encoder", "generator", "reranker", "upsampler", "vocabulary")
    }
    page = (finished / "gallery.html").read_text()
    assert all(prompt in page for prompt in PROMPTS)
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["counts"] == {"prompts": 4, "images": 12}
    hidden = [path.name for path in finished.glob(".*")]
    assert hidden == [".tokens-00000-of-00001.tfrecord.offsets"]


def test_pictures_scores_and_tokens_belong_together(
    finished: pathlib.Path, bundle: pathlib.Path
) -> None:
    tokens, score, picture = drawn(finished)["a blue square", 1]
    decoder = model_handlers.decode_handler(bundle)
    small = decoder.predict(np.array([tokens], np.int32), decoder.load_model())
    reranker = bundles.load_part(bundle, "reranker")
    scores = rendering.score(reranker, "a blue square", small)
    assert scores[0] == pytest.approx(score, abs=1e-5)
    upsampler = bundles.load_part(bundle, "upsampler")
    large = upsampler.call("upsample", images.to_float(small), batch_size=1)
    shown = images.decode_image(picture)
    assert shown.shape == (32, 32, 3)
    assert np.abs(images.to_uint8(large[0]).astype(int) - shown).max() <= 1


def test_python_draws_what_the_command_draws(finished: pathlib.Path, bundle: pathlib.Path) -> None:
    made = parti.load(bundle).generate(PROMPTS, NUM_SAMPLES, prompts_per_batch=2)
    for prompt, samples in zip(PROMPTS, made, strict=True):
        for index, image in enumerate(samples.images):
            tokens, score, picture = drawn(finished)[prompt, index]
            assert samples.image_tokens[index].tolist() == tokens
            assert samples.scores is not None and samples.scores[index] == score
            np.testing.assert_array_equal(images.decode_image(picture), image)


def test_an_image_depends_on_prompt_and_sample_only(
    finished: pathlib.Path, tmp_path: pathlib.Path, bundle: pathlib.Path
) -> None:
    other = run(tmp_path / "out", bundle, [*reversed(PROMPTS[1:]), "more"], prompts_per_batch=3)
    before, after = drawn(finished), drawn(other)
    common = before.keys() & after.keys()
    assert len(common) == 3 * NUM_SAMPLES
    assert {key: before[key] for key in common} == {key: after[key] for key in common}
    assert len({str(after[key][0]) for key in after}) == len(after)


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    finished: pathlib.Path,
    tmp_path: pathlib.Path,
    bundle: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write = generate._WritePrompt.process
    written: list[str] = []

    def process(self: Any, item: tuple[Any, rendering.Samples]) -> Iterator[str]:
        if len(written) == 3:  # The second prompt of the second batch.
            raise RuntimeError("the machine went away")
        written.append(item[0].id)
        yield from write(self, item)

    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(generate._WritePrompt, "process", process)
        with pytest.raises(options.PipelineError, match="the machine went away"):
            run(output, bundle)
    assert not output.exists()
    unfinished = output.with_name("out.unfinished")
    times = {path: path.stat().st_mtime_ns for path in unfinished.rglob("*.png")}
    assert len(times) == 3 * NUM_SAMPLES
    # What a kill -9 leaves in the middle of writing a file.
    next(iter(times)).with_name("001.png.77.partial").write_bytes(b"half a picture")
    for name in ("README.md", "rejected.jsonl", "manifest.json"):
        (unfinished / name).write_bytes(b"of an attempt that was killed as it ended")
    run(output, bundle)
    assert "3 of 4 prompts are finished" in capsys.readouterr().out
    assert content(output) == content(finished)
    for path, moment in times.items():
        assert (output / path.relative_to(unfinished)).stat().st_mtime_ns == moment


def test_other_settings_are_refused_in_the_folder_of_an_interrupted_run(
    finished: pathlib.Path,
    tmp_path: pathlib.Path,
    bundle: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stale = tmp_path / "out.unfinished"
    (stale / "images").mkdir(parents=True)
    (stale / "images" / "left.png").write_bytes(b"of other settings")
    manifest = json.loads((finished / "manifest.json").read_text())
    mark = {name: manifest[name] for name in ("kind", "settings", "inputs")}
    (stale / ".attempt.json").write_text(json.dumps(mark | {"digest": "of other settings"}))
    before = {path: path.read_bytes() for path in stale.rglob("*") if path.is_file()}
    message = (
        r"out.unfinished: an interrupted run had prompts_digest \w{12}... "
        r"\(now \w{12}...\), seed 0 \(now 1\), prompts .*; give the same again .* another "
        r"--output, or --overwrite"
    )
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "out", bundle, PROMPTS[:1], seed=1)
    assert before == {path: path.read_bytes() for path in stale.rglob("*") if path.is_file()}
    prompts = tmp_path / "one.txt"
    prompts.write_text(PROMPTS[0])
    flags = [f"--prompts={prompts}", f"--output={tmp_path / 'out'}", f"--model={bundle}"]
    assert generate.run([*flags, f"--num_samples={NUM_SAMPLES}", "--seed=1", "--overwrite"]) == 0
    assert "what it left is removed" in capsys.readouterr().err
    assert not stale.exists() and not (tmp_path / "out" / "images" / "left.png").exists()
    old, new = drawn(finished), drawn(tmp_path / "out")
    assert all(old[key][0] != new[key][0] for key in new)


def test_only_the_best_are_upsampled(tmp_path: pathlib.Path, bundle: pathlib.Path) -> None:
    output = run(tmp_path / "out", bundle, PROMPTS[:1], keep=1)
    sizes = {
        g.rank: images.decode_image((output / g.image).read_bytes()).shape[0]
        for g in generate.read_generations(output)
    }
    assert sizes == {0: 32, 1: 16, 2: 16}


def test_windows_change_no_picture(
    finished: pathlib.Path, tmp_path: pathlib.Path, bundle: pathlib.Path
) -> None:
    """The upsampler of the tests sees 4 pixels far, its images have 16: 3 x 3 windows of 11."""
    tiled = drawn(run(tmp_path / "out", bundle, PROMPTS[:2], upsample_tile=11))
    whole = drawn(finished)
    for key, (tokens, score, picture) in tiled.items():
        assert (tokens, score) == whole[key][:2]
        one, other = (images.decode_image(png).astype(int) for png in (picture, whole[key][2]))
        assert one.shape == (32, 32, 3)
        assert np.abs(one - other).max() <= 1


def test_a_bundle_without_reranker_and_upsampler(
    tmp_path: pathlib.Path, small_bundle: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = run(tmp_path / "out", small_bundle, PROMPTS[:1], temperature=0)
    made = generate.read_generations(output)
    assert [(g.sample_index, g.rank, g.score) for g in made] == [(i, i, None) for i in range(3)]
    pictures = [images.decode_image((output / g.image).read_bytes()) for g in made]
    assert len({picture.tobytes() for picture in pictures}) == 1  # Greedy.
    assert pictures[0].shape == (16, 16, 3)
    printed = capsys.readouterr().out
    assert "no reranker" in printed and "no upsampler" in printed
    with pytest.raises(ValueError, match="--upsample_tile=16: the bundle has no upsampler"):
        run(tmp_path / "tiled", small_bundle, PROMPTS[:1], upsample_tile=16)


def test_what_ranks_the_samples(bundle: pathlib.Path, small_bundle: pathlib.Path) -> None:
    """Contrast, as of older bundles; the rest only where there is a multimodal half."""
    opened = bundles.Bundle.open(bundle)
    assert generate.check_ranking(opened, None) == "contrast"
    with pytest.raises(ValueError, match="--rerank_by=both: .* writes no captions .*contrast"):
        generate.check_ranking(opened, "both")
    without = bundles.Bundle.open(small_bundle)
    assert generate.check_ranking(without, None) is None
    with pytest.raises(ValueError, match="--rerank_by=contrast: the bundle has no reranker"):
        generate.check_ranking(without, "contrast")


def test_samples_are_ranked_by_the_likelihood_of_the_prompt(
    tmp_path: pathlib.Path, vocabulary: pathlib.Path
) -> None:
    captioner = tiny_models.part("reranker", num_multimodal_layers=1, num_caption_queries=2)
    path = tmp_path / "bundle"
    parts = tiny_models.parts("tokenizer", "generator") | {"reranker": captioner}
    bundles.write_bundle(path, parts, vocabulary)
    opened = bundles.Bundle.open(path)
    assert generate.check_ranking(opened, None) == generate.DEFAULT_RANKING
    output = run(tmp_path / "out", path, PROMPTS[:1], rerank_by="likelihood")
    made = sorted(generate.read_generations(output), key=lambda g: g.rank)
    scores = [g.score for g in made]
    assert scores == sorted(scores, reverse=True) and max(scores) < 0, "nats"
    assert {g.settings["rerank_by"] for g in made} == {"likelihood"}


def test_the_card_says_how_to_make_the_folder_again(
    tmp_path: pathlib.Path, small_bundle: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_drawing.draw_blank(monkeypatch)
    output = tmp_path / "a b"
    flags = ["--prompts=it's a star", f"--model={small_bundle}", "--num_samples=2", "--seed=5"]
    assert generate.run([*flags, f"--output={output}", "--overwrite", "--format=webp"]) == 0
    page = (output / "README.md").read_text()
    _, front, _ = page.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "pretty_name": "2 images of 1 prompts",
        "task_categories": ["text-to-image"],
        "tags": ["synthetic", "parti"],
        "size_categories": ["n<1K"],
        "configs": [{"config_name": "default", "data_files": "manifest.jsonl"}],
    }
    command, code = (block.split("\n", 1)[1] for block in page.split("```")[1::2])
    words = shlex.split(command)
    assert words == ["parti", "generate", *flags, "--format=webp", "--output=again"]
    monkeypatch.chdir(tmp_path)
    assert generate.run(words[2:]) == 0
    assert content(tmp_path / "again") == content(output)
    assert (tmp_path / "again" / "README.md").read_text() == page
    for field in dataclasses.fields(records.Generation):
        assert f"`{field.name}`" in page
    for fingerprint in bundles.Bundle.open(small_bundle).fingerprints.values():
        assert f"`{fingerprint}`" in page
    monkeypatch.chdir(output)
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.stdout == "it's a star (4, 4)\n", shown.stderr


def test_a_path_that_is_not_utf8_is_in_the_card_as_bytes() -> None:
    parser, path = generate.make_parser(), "/tmp/d\udce9j\udce0 it's \\.txt"
    command = generation_card.command(
        parser, parser.parse_args([f"--prompts={path}", "--output=x"])
    )
    assert command.isascii()
    shown = subprocess.run(
        ["bash", "-c", f"printf '%s\n' {command}"], capture_output=True, check=True
    )
    assert os.fsencode(f"--prompts={path}") in shown.stdout.split(b"\n")


def test_pictures_say_how_they_were_made(finished: pathlib.Path) -> None:
    """All but the counts of the run, so that more samples change no file."""
    made = generate.read_generations(finished)
    assert [g.is_truncated for g in made] == [g.prompt == PROMPTS[-1] for g in made]
    for generation in (made[0], made[-1]):
        found = encoding.read_metadata((finished / generation.image).read_bytes())
        settings = dict(generation.settings)
        del settings["num_samples"], settings["num_upsampled"]
        assert settings["format"] == "png" and len(settings["fingerprints"]) == 6
        assert found == {
            "prompt": generation.prompt,
            "sample_index": generation.sample_index,
            "seed": 0,
            "score": generation.score,
            "settings": settings,
        }


@pytest.mark.parametrize(("kind", "beginning"), [("webp", b"RIFF"), ("jpeg", b"\xff\xd8")])
def test_other_formats_in_every_reader_of_the_folder(
    tmp_path: pathlib.Path,
    small_bundle: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    beginning: bytes,
) -> None:
    fake_drawing.draw_blank(monkeypatch)
    prompts = tmp_path / "p.jsonl"
    scene = {"shapes": [{"color": "red", "shape": "circle"}]}
    row = {"prompt": "a red circle", "scene": scene, "note": 9000 * "\U0001f600"}
    prompts.write_text(json.dumps(row))
    output = tmp_path / "out"
    flags = [f"--prompts={prompts}", f"--output={output}", f"--model={small_bundle}"]
    assert generate.run([*flags, f"--format={kind}", "--num_samples=2", "--quality=80"]) == 0
    for generation in generate.read_generations(output):
        data = (output / generation.image).read_bytes()
        assert generation.image.endswith(f".{kind}") and data.startswith(beginning)
        found = encoding.read_metadata(data)
        assert found is not None and found["prompt"] == "a red circle"
        assert (found["settings"]["format"], found["settings"]["quality"]) == (kind, 80)
    assert f"data:image/{kind};base64," in (output / "gallery.html").read_text()


def test_notes_about_prompts_that_are_cut(bundle: pathlib.Path) -> None:
    chosen = [prompt_files.Prompt("a", "star"), prompt_files.Prompt("b", "a red star " * 9)]
    opened = bundles.Bundle.open(bundle)
    truncated = generate.find_truncated(opened, chosen)
    assert truncated == {"b"}
    assert generate.check(opened, chosen, truncated) == [
        "1 prompts are longer than 8 tokens and are cut"
    ]
    chosen[0] = dataclasses.replace(chosen[0], settings={"negative_prompt": "star"})
    assert generate.check(opened, chosen, truncated, "a blue square " * 9)[1:] == [
        "1 negative prompts are longer than 8 tokens and are cut"
    ]
    chosen = [prompt_files.Prompt(name, text) for name, text in zip("abc", ["star", "star", "<b>"])]
    assert generate.check(opened, chosen, generate.find_truncated(opened, chosen)) == [
        "1 prompts hold only markup or invisible characters: nothing to draw",
        "1 prompts are equal to an earlier one, and so will be their images",
    ]


def test_prompts_of_a_table_that_hold_what_cannot_be_written(
    tmp_path: pathlib.Path, small_bundle: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        {"id": "17", "prompt": "a star \ud83d", "n\0": [float("nan"), "\udead"], "seed": "7"},
        {"id": "18", "prompt": "a star", "category": "\x1b", "captions": 3, "prompt_id": [1]},
    ]
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(["", *map(json.dumps, lines)]))
    arguments = [f"--prompts={path}", f"--output={tmp_path / 'out'}", f"--model={small_bundle}"]
    assert generate.run([*arguments, "--num_samples=1"]) == 0
    made = generate.read_generations(tmp_path / "out")
    assert [(g.prompt_id, g.prompt, g.image, g.seed) for g in made] == [
        ("17", "a star \ufffd", "images/17/000.png", 7),
        ("18", "a star", "images/18/000.png", 0),
    ]
    assert made[0].metadata == {"n ": [None, "\ufffd"]}
    assert made[1].metadata == {"category": " ", "captions": 3, "prompt_id": [1]}
    assert {key for key, _ in drawn(tmp_path / "out")} == {"a star \ufffd", "a star"}
    printed = capsys.readouterr().out
    assert "line 2: mended" in printed and "left out 1 blank line" in printed


def test_a_prompt_s_own_settings_are_those_of_its_images_alone(
    tmp_path: pathlib.Path, small_bundle: pathlib.Path
) -> None:
    """Each as if all had its settings, in any order, and the manifest says which."""
    rows = [
        {"id": "plain", "prompt": "a red circle"},
        {"id": "strong", "prompt": "a red circle", "guidance_scale": 9, "temperature": "0.5"},
        {"id": "one", "prompt": "a blue square", "guidance_scale": 1, "seed": 5},
        {"id": "from", "prompt": "a red circle", "negative_prompt": "green star"},
        {"id": "late", "prompt": "a red circle", "guidance_schedule": "interval:0.5:1"},
        {"id": "greedy", "prompt": "green star", "temperature": 0, "Top_K": 3},
    ]

    def draw(name: str, rows: list[dict[str, Any]], *more: str) -> dict[str, Any]:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        arguments = [f"--prompts={path}", f"--output={tmp_path / name}", "--num_samples=2"]
        arguments += [f"--model={small_bundle}", "--prompts_per_batch=2", "--guidance_scale=4"]
        assert generate.run([*arguments, *more]) == 0
        made = generate.read_generations(tmp_path / name)
        return {
            (g.prompt_id, g.sample_index): ((tmp_path / name / g.image).read_bytes(), g)
            for g in made
        }

    mixed = draw("mixed", rows)
    assert [key[0] for key in mixed][::2] == [row["id"] for row in rows], "the file's order"
    assert len({mixed[row["id"], 0][0] for row in rows}) == len(rows)
    said = {name: mixed[name, 1][1] for name in ("plain", "strong", "one", "from", "late")}
    assert said["plain"].settings["guidance_scale"] == 4 and said["plain"].seed == 0
    assert "negative_prompt" not in said["plain"].settings
    assert said["strong"].settings["guidance_scale"] == 9
    assert said["strong"].settings["temperature"] == 0.5
    assert said["one"].seed == said["one"].settings["seed"] == 5
    assert said["from"].settings["negative_prompt"] == "green star"
    assert said["late"].settings["guidance_schedule"] == "interval:0.5:1"
    assert not any(g.metadata for _, g in mixed.values())
    again = draw("again", rows[::-1])
    assert {key: made[0] for key, made in again.items()} == {
        key: made[0] for key, made in mixed.items()
    }
    bare = [{"id": row["id"], "prompt": row["prompt"]} for row in rows[:2]]
    alone = draw("alone", bare, "--guidance_scale=9", "--temperature=0.5")
    assert alone["strong", 1][0] == mixed["strong", 1][0]
    away = draw("away", bare[:1], "--negative_prompt= green star ")
    assert away["plain", 1][0] == mixed["from", 1][0]


def test_a_setting_is_a_prompt_s_or_of_the_run() -> None:
    flags = {action.dest for action in generate.make_parser()._actions}
    own, of_a_run = set(prompt_settings.NAMES), prompt_settings.OF_A_RUN
    assert own < flags and of_a_run < flags and not own & of_a_run
    settings = {field.name for field in dataclasses.fields(generate.GenerateSettings)}
    assert settings - {"num_upsampled"} <= own | of_a_run  # that is --keep


@pytest.mark.parametrize(
    ("row", "flag", "message"),
    [
        ({"negative_prompt": "b"}, "--guidance_scale=1", "prompt 'x': --negative_prompt='b': with"),
        (
            {"guidance_scale": 1},
            "--negative_prompt=b",
            "prompt 'x': --negative_prompt='b': without",
        ),
        (
            {},
            "--guidance_schedule=linea",
            "--guidance_schedule must be constant, linear, cosine or",
        ),
        (
            {"guidance_schedule": "interval:0.01:0.02"},
            "--seed=1",
            "prompt 'x': guidance_schedule interval:0.01:0.02: none of the 4 rows",
        ),
        ({"num_samples": 3}, "--seed=1", "line 1: 'num_samples' is not of one prompt but of a"),
        ({}, "--negative_prompt=caf\udce9", "--negative_prompt is not UTF-8 at character 4"),
    ],
)
def test_settings_that_cannot_be_obeyed_are_refused(
    tmp_path: pathlib.Path,
    small_bundle: pathlib.Path,
    row: dict[str, Any],
    flag: str,
    message: str,
) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"id": "x", "prompt": "a star"} | row))
    arguments = [f"--prompts={path}", f"--output={tmp_path / 'out'}", f"--model={small_bundle}"]
    with pytest.raises(ValueError, match=re.escape(message)):
        generate.run([*arguments, flag])
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "p.jsonl",
            '{"prompt": "a"}\n{"prompt": "b", "id": "\\ud83d"}',
            "line 2: id '\ufffd' cannot",
        ),
        ("p.tsv", "id\tprompt\nx\ta\nx\tb", "the id 'x' twice (line 2 and line 3)"),
        ("p.txt", "a\0b", "line 1: a NUL character"),
        ("caf\udce9", None, "is not UTF-8 at character 4"),
    ],
)
def test_prompts_are_refused_before_a_model_is_opened(
    tmp_path: pathlib.Path, name: str, text: str | None, message: str
) -> None:
    path = name if text is None else tmp_path / name
    if text is not None:
        pathlib.Path(path).write_text(text)
    output = tmp_path / "out"
    arguments = [f"--prompts={path}", f"--output={output}", "--model=no_bundle", "--strict"]
    with pytest.raises(ValueError, match=re.escape(message)):
        generate.run(arguments)
    assert not list(tmp_path.glob("out*"))


def test_bad_rows_are_reported_and_do_not_stop_the_job(
    tmp_path: pathlib.Path,
    small_bundle: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake_drawing.draw_blank(monkeypatch)
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a star"}\n{"text": "b"}\nnope\n{"prompt": "a circle"}\n')
    output = tmp_path / "out"
    flags = [f"--prompts={path}", f"--output={output}", f"--model={small_bundle}"]
    with pytest.raises(ValueError, match="line 2: it must be an object with a text"):
        generate.run([*flags, "--strict"])
    assert generate.run([*flags, "--num_samples=1"]) == 0
    assert "2 bad rows of the prompt file are left out" in capsys.readouterr().out
    made = generate.read_generations(output)
    assert [g.prompt_id for g in made] == ["p00000-a-star", "p00003-a-circle"]
    rows = [json.loads(line) for line in (output / "rejected.jsonl").read_text().splitlines()]
    assert [(row["where"], row["row"]) for row in rows] == [
        ("line 2", {"text": "b"}),
        ("line 3", "nope"),
    ]
    assert rows[1]["reason"].startswith("not JSON")
    counts = manifests.read(output, "generations")["counts"]
    assert counts == {"prompts": 2, "images": 2, "rejected": 2}


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    rows=strategies.lists(
        strategies.dictionaries(
            strategies.text(max_size=3)
            | strategies.sampled_from(["id", "category", "challenge", "scene", "captions"]),
            json_values.JSON,
            max_size=4,
        ),
        min_size=1,
        max_size=3,
    ),
    texts=strategies.lists(
        strategies.text(strategies.characters(), max_size=12), min_size=3, max_size=3
    ),
)
def test_every_prompt_that_is_read_can_be_written(
    rows: list[dict[str, Any]], texts: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, output = pathlib.Path(folder, "p.json"), pathlib.Path(folder, "out")
        path.write_text(json.dumps([row | {"prompt": text} for row, text in zip(rows, texts)]))
        try:
            prompts = prompt_files.read_prompts(path)
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            return
        (output / ".scratch" / "parts").mkdir(parents=True)
        settings = {"seed": 0, "num_samples": 2, "format": "png"}
        image = np.zeros((4, 4, 3), np.uint8)
        tokens = np.zeros((2, 4), np.int32)
        samples = rendering.Samples(tokens, [image, image], np.array([0.1, 0.2]))
        write = generate._WritePrompt(output, settings, ())
        for prompt in prompts:
            assert list(write.process((prompt, samples))) == [prompt.id]
        generate.finish(output, prompts, settings, inputs={})
        manifests.write(output, "generations", counts={}, settings={}, content={})
        made = generate.read_generations(output)
        assert [g.prompt for g in made] == [prompt.text for prompt in prompts for _ in range(2)]
        for generation, prompt in zip(made[::2], prompts):
            assert prompt.metadata.items() <= generation.metadata.items()
        keys = [
            records.TokenizedPair.from_example(row).key
            for row in tfrecords.read_pattern(output / "tokens-*.tfrecord")
        ]
        assert keys == [f"{prompt.id}/{index:03d}" for prompt in prompts for index in range(2)]


LINES = strategies.lists(
    strategies.text(strategies.characters(), max_size=9)
    | strategies.sampled_from(["nan", "NaN", "{a,b}", "[1]", "*.txt", "a\n", "\ud83d", "\0", "#"]),
    max_size=4,
)
CONTENTS = strategies.one_of(
    strategies.binary(max_size=60),
    LINES.map(lambda lines: "\n".join(["prompt", *lines]).encode("utf-8", "surrogatepass")),
    LINES.map(lambda lines: json.dumps(lines).encode()),
    strategies.lists(
        strategies.dictionaries(
            strategies.sampled_from(["prompt", "Prompt", "id", "challenge", "note", "NaN\ud83d"]),
            json_values.JSON | strategies.sampled_from(["a star", float("nan"), "1", "a/b"]),
            max_size=4,
        ),
        max_size=3,
    ).map(lambda rows: "\n".join(map(json.dumps, rows)).encode()),
)


def run_any(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str], *words: str
) -> tuple[int, str]:
    """Returns the exit code of a command, and what it says; if it fails that is one clear line."""
    code = cli.main([*words, "--output", str(folder / words[0])])
    said = capsys.readouterr().err
    if code:
        assert code == 2 and said.startswith(f"parti {words[0]}: "), said
        assert said.count("\n") == 1 and "Error: " not in said and "generate: 'utf-8" not in said, (
            said
        )
        assert not list(folder.glob(f"{words[0]}*")), said
    return code, said


@hypothesis.settings(
    max_examples=150,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    data=CONTENTS, suffix=strategies.sampled_from([".txt", ".csv", ".tsv", ".jsonl", ".json"])
)
def test_any_prompt_file_gives_images_or_one_line(
    small_bundle: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    data: bytes,
    suffix: str,
) -> None:
    """And `parti workflow` and `parti prompts` say the same of it."""
    monkeypatch.delenv("PARTI_COMMAND", raising=False)
    fake_drawing.draw_blank(monkeypatch)
    with tempfile.TemporaryDirectory() as name:
        folder, path = pathlib.Path(name), pathlib.Path(name, f"p{suffix}")
        path.write_bytes(data)
        (folder / "other.txt").write_text("another prompt")
        model = ["--model", str(small_bundle), "--num_samples=1"]
        arguments = ["generate", "--prompts", str(path), *model]
        code, said = run_any(folder, capsys, *arguments, "--strict")
        if code and run_any(folder, capsys, *arguments)[0] == 0:  # without its bad rows
            assert (folder / "generate" / generate.REJECTED_ROWS).stat().st_size
            generate.read_generations(folder / "generate")
            shutil.rmtree(folder / "generate")
        try:
            preflight.check_prompts([str(path)])
        except ValueError as error:
            assert code == 2 and " ".join(str(error).split()) in said
        chosen, also_said = run_any(folder, capsys, "prompts", "--input", str(path))
        assert chosen == code
        if code:
            assert f"{str(path)!r}" in said
            assert also_said.partition(": ")[2] == said.partition(": ")[2]
            return
        prompts = prompt_files.read_prompts(path)
        made = generate.read_generations(folder / "generate")
        assert [(g.prompt_id, g.prompt) for g in made] == [(p.id, p.text) for p in prompts]
        (folder / "generate").rename(folder / "first")
        again = str(folder / "prompts/prompts.jsonl")
        code, said = run_any(folder, capsys, "generate", "--prompts", again, *model)
        assert code == 0, said


DAMAGE = strategies.one_of(
    strategies.tuples(
        strategies.sampled_from(
            [
                *("bundle.json", "vocabulary.model", "generator/config.gin"),
                *("tokenizer/params.safetensors", "generator/params.safetensors"),
            ]
        ),
        strategies.binary(max_size=40)
        | strategies.text(max_size=20).map(str.encode)
        | strategies.sampled_from([b"MODEL = @a.B()\n", b"MODEL = None\n", b"MODEL = (\n", b"MO"]),
    ),
    strategies.tuples(
        strategies.just("bundle.json"),
        strategies.dictionaries(
            strategies.sampled_from(["parts", "vocabulary", "schema_version"]),
            json_values.JSON
            | strategies.dictionaries(
                strategies.sampled_from(["tokenizer", "generator", "../x", "reranker"]),
                json_values.JSON | strategies.just({"fingerprint": "x"}),
            ),
        ).map(lambda content: json.dumps({"schema_version": 1, **content}).encode())
        | json_values.JSON.map(lambda content: json.dumps(content).encode()),
    ),
)


@hypothesis.settings(
    max_examples=150,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(damage=DAMAGE)
def test_any_damage_of_a_bundle_is_one_line(
    small_bundle: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    damage: tuple[str, bytes],
) -> None:
    fake_drawing.draw_blank(monkeypatch)
    name, data = damage
    with tempfile.TemporaryDirectory() as folder:
        bundle = pathlib.Path(folder, "bundle")
        shutil.copytree(small_bundle, bundle, copy_function=os.link)
        (bundle / name).unlink()
        (bundle / name).write_bytes(data)
        code, said = run_any(
            pathlib.Path(folder), capsys, "generate", "--prompts=a star", "--model", str(bundle)
        )
        assert code == 2 and str(bundle) in said, said


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_samples": 0}, "--num_samples=0"),
        ({"keep": 4}, "--keep=4"),
        ({"top_p": 0}, "top_p must be in"),
        ({"temperature": -1}, "temperature must be"),
        ({"prompts_per_batch": 0}, "--prompts_per_batch=0"),
        ({"quality": 90}, "--quality=90: is of webp and jpeg"),
        ({"format": "webp", "quality": 0}, "--quality=0: give 1 to 100"),
        (
            {"decode_order": "wavefront"},
            "'wavefront' needs a generator .* trained with SHIFT = 'row'",
        ),
        (
            {"queue": 2},
            "--queue is of decode_order 'wavefront'; it must be 1 in raster order; got 2",
        ),
        ({"upsample_tile": -1}, "--upsample_tile=-1: give at least 0"),
        ({"upsample_tile": 8}, "--upsample_tile=8: .* too small: .* give at least 9 for images"),
        ({"upsample_tile": 16, "keep": 0}, "--upsample_tile=16: --keep is 0"),
    ],
)
def test_bad_values(
    tmp_path: pathlib.Path, bundle: pathlib.Path, flags: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "out", bundle, **flags)


def test_finished_output_and_missing_bundle(
    finished: pathlib.Path, tmp_path: pathlib.Path, bundle: pathlib.Path
) -> None:
    with pytest.raises(ValueError, match="already finished"):
        run(finished, bundle)
    with pytest.raises(FileNotFoundError, match="parti export"):
        run(tmp_path / "out", tmp_path / "nothing")


def test_the_page_has_commands_that_parse_and_every_field() -> None:
    page = (pathlib.Path(__file__).parents[2] / "docs" / "generate.md").read_text()
    lines = [line.strip() for line in page.splitlines() if line.strip().startswith("parti ")]
    named = [shlex.split(line)[1:] for line in lines]
    assert {"generate", "export", "prompts"} <= {words[0] for words in named}
    for command, *flags in named:
        module = importlib.import_module(commands.COMMANDS[command][0])
        parsed = module.make_parser().parse_args(flags)
        getattr(module, "check_flags", lambda _: None)(parsed)
    for field in dataclasses.fields(records.Generation):
        assert f"`{field.name}`" in page
    for action in generate.make_parser()._actions[1:]:
        assert action.option_strings[0] in page or action.dest in ("verbose", "model")


@pytest.fixture(scope="module")
def wide_bundle(tmp_path_factory: pytest.TempPathFactory, vocabulary: pathlib.Path) -> pathlib.Path:
    """A bundle of all four parts; the generator has eight heads, for as many devices."""
    path = tmp_path_factory.mktemp("models") / "wide_bundle"
    parts = {**tiny_models.parts(), "generator": tiny_models.part("generator", num_heads=8)}
    bundles.write_bundle(path, parts, vocabulary)
    return path


ON_A_MESH = {"num_samples": 4}  # 2 prompts of 4 images at a time, of which each device has one


@pytest.fixture(scope="module")
def on_one_device(
    tmp_path_factory: pytest.TempPathFactory, wide_bundle: pathlib.Path
) -> pathlib.Path:
    return run(tmp_path_factory.mktemp("generate") / "one", wide_bundle, **ON_A_MESH)


def assert_same_images(folder: pathlib.Path, other: pathlib.Path) -> None:
    """Compares tokens, and the rest as far as floats are rounded."""
    found, wanted = drawn(folder), drawn(other)
    assert found.keys() == wanted.keys()
    for key, (tokens, score, picture) in found.items():
        assert tokens == wanted[key][0]
        assert score == pytest.approx(wanted[key][1], abs=1e-5)
        pixels, others = (images.decode_image(p).astype(int) for p in (picture, wanted[key][2]))
        assert np.abs(pixels - others).max() <= 1


def test_a_mesh_draws_the_same_and_the_manifest_records_it(
    on_one_device: pathlib.Path,
    wide_bundle: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = generate._WritePrompt.process

    def stop(self: Any, item: Any) -> Iterator[str]:
        yield from write(self, item)
        raise RuntimeError("the machine went away")

    output = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(options.PipelineError, match="went away"):
        patch.setattr(generate._WritePrompt, "process", stop)
        run(output, wide_bundle, mesh_shape="(8, 1)", **ON_A_MESH)
    refused = r"had layout.mesh.data 8 \(now 4\), layout.mesh.model 1 \(now 2\); give the same"
    with pytest.raises(ValueError, match=refused):
        run(output, wide_bundle, mesh_shape="(4, 2)", **ON_A_MESH)
    shutil.rmtree(output.with_name("out.unfinished"))
    run(output, wide_bundle, mesh_shape="(4, 2)", **ON_A_MESH)
    assert_same_images(output, on_one_device)
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["inputs"]["layout"] == {
        "mesh": {"data": 4, "model": 2},
        "logical_axis_rules": [
            ["batch", "data"], ["vocab", "model"], ["heads", "model"], ["mlp", "model"]
        ],
        "weights": "float32",
    }  # fmt: skip
    assert (
        manifest["settings"]
        == json.loads((on_one_device / "manifest.json").read_text())["settings"]
    )


def test_int8_is_a_setting_of_every_image(
    on_one_device: pathlib.Path, wide_bundle: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    output = run(tmp_path / "out", wide_bundle, PROMPTS[:2], weights="int8", **ON_A_MESH)
    found = generate.read_generations(output)
    assert {generation.settings["weights"] for generation in found} == {"int8"}
    assert "weights" not in generate.read_generations(on_one_device)[0].settings
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["inputs"]["layout"]["weights"] == "int8"
    wanted, equal = drawn(on_one_device), 0.0
    for key, (tokens, _, _) in drawn(output).items():
        equal += np.mean(np.array(tokens) == wanted[key][0]) / 8
    assert equal > 0.5, "most tokens are those of float32"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"mesh_shape": "(3, 2)"}, "asks for 6 devices, but there are 8"),
        ({"mesh_shape": "(8, 1)", "num_samples": 3}, "6 images at a time"),
        ({"mesh_shape": "(1, 8)"}, "does not divide by 8"),
        ({"layout": "three_dimensional"}, "no gin file .*did you mean two_dimensional.gin"),
        ({"num_processes": 2}, "give all of --coordinator_address"),
        ({"mesh_shape": "(-1, 1)", "runner": "FlinkRunner"}, "of workers on other machines"),
        ({"process_id": 0, "runner": "FlinkRunner"}, "--runner=FlinkRunner: processes that join"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(
    flags: dict[str, Any], message: str, bundle: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises((ValueError, OSError), match=message):
        run(tmp_path / "out", bundle, **flags)
    assert [path.name for path in tmp_path.iterdir()] == ["out.txt"], "nothing was begun"


@pytest.mark.parametrize("method", ["finished", "finish"])
def test_the_others_learn_that_the_first_process_fails(
    method: str, bundle: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait for what it has found, and for what it publishes."""

    def fail(*arguments: Any) -> None:
        raise files.StoreError("gs://bucket: the store failed")

    def tell(condition: bool) -> list[int]:
        told.append(condition)
        return [0] if condition else []

    told: list[bool] = []
    monkeypatch.setattr(multihost, "join", lambda flags: None)
    monkeypatch.setattr(multihost, "_where", tell)
    monkeypatch.setattr(generate, "_draw_together", lambda *arguments: None)
    monkeypatch.setattr(generate, method, fail)
    with pytest.raises(files.StoreError):
        run(tmp_path / "out", bundle, process_id=0, num_samples=4)
    assert told == [False] * (1 if method == "finished" else 2) + [True]


def start_processes(arguments: list[str], count: int) -> list[subprocess.Popen]:
    """Starts `parti generate` in processes that join, on 8 devices in all."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = f"--xla_force_host_platform_device_count={8 // count}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, "-m", "parti", "generate", *arguments]
    command += [f"--coordinator_address={address}", f"--num_processes={count}"]
    return [
        subprocess.Popen(
            [*command, f"--process_id={i}"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(count)
    ]


@pytest.mark.slow
def test_two_processes_draw_with_one_generator(
    on_one_device: pathlib.Path, wide_bundle: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The first one writes; after a kill of the other the same command goes on; then it refuses."""
    prompts = on_one_device.with_name("one.txt")
    output = tmp_path / "two"
    arguments = [f"--prompts={prompts}", f"--output={output}", f"--model={wide_bundle}"]
    arguments += ["--num_samples=4", "--prompts_per_batch=2", "--mesh_shape=(1, 8)"]
    first, other = start_processes(arguments, 2)
    parts = tmp_path / "two.unfinished/.scratch/parts"
    end = time.monotonic() + 300
    while len(list(parts.glob("*.tfrecord"))) < 1 and first.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    other.kill()
    printed = [process.communicate(timeout=300)[0] for process in (first, other)]
    if not output.exists():  # else the last batch was quicker than the kill
        assert first.returncode, printed
        again = start_processes(arguments, 2)
        printed = [process.communicate(timeout=300)[0] for process in again]
        assert [process.returncode for process in again] == [0, 0], printed
        assert "of 4 prompts are finished" in printed[0]
        assert "prompts" not in printed[1], "the first process speaks for all"
    assert_same_images(output, on_one_device)
    refused = start_processes(arguments, 2)
    printed = [process.communicate(timeout=300)[0] for process in refused]
    assert [process.returncode for process in refused] == [2, 2]
    assert all("already finished; pass --overwrite" in text for text in printed)

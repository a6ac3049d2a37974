# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Evaluation of planted generations, whose agreement with their prompts is known."""

import json
import pathlib
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from parti.data.images import encoding, images
from parti.data.scenes import scenes
from parti.data.storage import records, tfrecords
from parti.engine.inference import bundles
from parti.pipelines import evaluate
from parti.stages import manifests

NUM_PROMPTS, SIZE = 12, 64


def plant(
    root: pathlib.Path,
    with_scene: bool = True,
    scored: bool = True,
    size: int = SIZE,
    kind: str = encoding.PNG,
) -> pathlib.Path:
    """Writes generations of three samples: 1 is the truth and ranked best, the others are not."""
    rng = random.Random(0)
    world = scenes.find_world("tiny")
    truths = [scenes.sample_scene(rng, world) for _ in range(NUM_PROMPTS)]
    lines = []
    for number, truth in enumerate(truths):
        shown = [truths[number - 1], truth, truths[number - 2]]
        for index, scene in enumerate(shown):
            path = f"images/p{number}/{index}.{kind}"
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(encoding.encode(scenes.render(scene, size), kind))
            rank = [1, 0, 2][index] if scored else index
            lines.append(
                records.Generation(
                    prompt_id=f"p{number}",
                    prompt=scenes.captions(truth)[0],
                    sample_index=index,
                    rank=rank,
                    score=1.0 - rank / 10 if scored else None,
                    seed=0,
                    image=path,
                    metadata={"scene": truth.to_dict()} if with_scene else {},
                ).to_json()
            )
    (root / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    manifests.write(root, "generations", counts={}, settings={}, content={})
    return root


def run(generations: pathlib.Path, output: pathlib.Path, *flags: str) -> dict[str, Any]:
    arguments = [f"--generations={generations}", f"--output={output}", *flags]
    assert evaluate.run(arguments) == 0
    return json.loads((output / "metrics.json").read_text())


def test_true_pictures_agree_and_others_do_not(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = run(plant(tmp_path / "made"), tmp_path / "out")
    overall = metrics["alignment"]["overall"]
    assert overall["best"]["mean"] >= 0.97 and overall["best"]["count"] == NUM_PROMPTS
    assert overall["oracle"]["mean"] >= overall["best"]["mean"] > overall["random"]["mean"]
    assert overall["shuffled"]["mean"] < 0.7
    assert overall["random"]["mean"] == pytest.approx(
        (overall["best"]["mean"] + 2 * overall["shuffled"]["mean"]) / 3, abs=0.08
    )
    for name in ("best_minus_random", "best_minus_shuffled"):
        difference = overall[name]
        assert 0 < difference["low"] < difference["mean"] < difference["high"]
    gap = overall["best"]["mean"] - overall["shuffled"]["mean"]
    assert overall["best_minus_shuffled"]["mean"] == pytest.approx(gap, abs=1e-5)
    assert {"shape", "colour", "background"} <= set(metrics["alignment"])
    by_challenge = metrics["alignment_by_challenge"].values()
    assert sum(row["best"]["count"] for row in by_challenge) == NUM_PROMPTS
    assert metrics["rerank_correlation"]["mean"] > 0.5
    assert metrics["notes"] == []
    printed = capsys.readouterr().out
    assert "Agreement with the scenes of 12 prompts" in printed and "best - other" in printed
    lines = (tmp_path / "out" / "alignments.jsonl").read_text().splitlines()
    assert len(lines) == 3 * NUM_PROMPTS
    manifests.read(tmp_path / "out", "evaluation")


def test_the_report_stands_alone_and_is_deterministic(tmp_path: pathlib.Path) -> None:
    made = plant(tmp_path / "made")
    outputs = [tmp_path / "a", tmp_path / "b"]
    for output in outputs:
        run(made, output)
    for name in ("metrics.json", "report.html", "alignments.jsonl"):
        assert (outputs[0] / name).read_bytes() == (outputs[1] / name).read_bytes()
    page = (outputs[0] / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 12 and "{{" not in page
    assert "http:" not in page and "https:" not in page


@pytest.mark.parametrize("kind", [encoding.WEBP, encoding.JPEG])
def test_other_formats_agree_as_well(tmp_path: pathlib.Path, kind: str) -> None:
    metrics = run(plant(tmp_path / "made", kind=kind), tmp_path / "out")
    assert metrics["alignment"]["overall"]["best"]["mean"] >= 0.97
    assert f"data:image/{kind};base64," in (tmp_path / "out" / "report.html").read_text()


def test_prompts_without_a_scene_have_no_agreement(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = run(plant(tmp_path / "made", with_scene=False), tmp_path / "out")
    assert not {"alignment", "alignment_by_challenge", "rerank_correlation"} & set(metrics)
    assert "no prompt has a `scene`" in capsys.readouterr().out
    assert "no prompt has a `scene`" in (tmp_path / "out" / "report.html").read_text()


def edit_lines(made: pathlib.Path, edit: Callable[[int, dict[str, Any]], None]) -> None:
    """Changes the lines of a manifest of generations."""
    lines = [json.loads(line) for line in (made / "manifest.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines):
        edit(number, line)
    (made / "manifest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


@pytest.mark.parametrize(
    "scene",
    [
        *("beach", 3, ["sea"], {}, {"background": "white", "objects": None}),
        *({"background": "white", "objects": "x"}, {"background": "white", "objects": []}),
        {"background": "white", "objects": [{"shape": "bus", "color": "red"}]},
        {"background": ["white"], "objects": []},
    ],
)
def test_scenes_of_another_kind_are_left_out_with_a_note(
    tmp_path: pathlib.Path, scene: Any
) -> None:
    made = plant(tmp_path / "made")
    edit_lines(
        made, lambda number, line: line["metadata"].update({"scene": scene} if number < 6 else {})
    )
    metrics = run(made, tmp_path / "out")
    assert metrics["num_prompts_with_scene"] == NUM_PROMPTS - 2
    assert metrics["notes"] == [
        "2 of 12 prompts have a `scene` that is not one of `parti scenes` (first: 'p0') and are "
        "left out"
    ]
    edit_lines(made, lambda _, line: line["metadata"].update(scene=scene))
    assert run(made, tmp_path / "all")["notes"][1:] == [
        "no prompt is left: alignment was not measured"
    ]


def test_a_scene_with_a_challenge_that_is_no_text_is_of_another_kind(
    tmp_path: pathlib.Path,
) -> None:
    made = plant(tmp_path / "made")
    edit_lines(made, lambda number, line: line["metadata"]["scene"].update(challenge=[number]))
    assert run(made, tmp_path / "out")["num_prompts_with_scene"] == 0


def test_pictures_that_cannot_be_measured_are_named(tmp_path: pathlib.Path) -> None:
    made = plant(tmp_path / "made")
    (made / "images/p0/0.png").unlink()
    (made / "images/p3/1.png").write_bytes(b"no")
    (made / "images/p4/2.png").write_bytes((made / "images/p4/1.png").read_bytes()[:200])
    oblong = np.zeros((50, 40, 3), np.uint8)
    (made / "images/p5/2.png").write_bytes(images.encode_png(oblong))
    with pytest.raises(ValueError, match="4 of 36 pictures cannot be measured") as raised:
        run(made, tmp_path / "out")
    said = str(raised.value)
    assert "images/p0/0.png, prompt 'p0': No such file" in said
    assert "images/p3/1.png, prompt 'p3': not an image (2 bytes)" in said
    assert "images/p4/2.png, prompt 'p4': not an image (200 bytes)" in said
    for path in ("p0/0", "p3/1", "p4/2"):
        (made / f"images/{path}.png").write_bytes((made / "images/p1/0.png").read_bytes())
    with pytest.raises(ValueError, match="p5/2.png, prompt 'p5': 40 x 50 px, it must be square"):
        run(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_pictures_of_another_size_are_named(tmp_path: pathlib.Path) -> None:
    made = plant(tmp_path / "made")
    for path, size in (("p1/2", 128), ("p2/0", 16)):
        image = images.decode_image((made / f"images/{path}.png").read_bytes())
        (made / f"images/{path}.png").write_bytes(images.encode_png(images.resize(image, size)))
    assert run(made, tmp_path / "out")["notes"] == [
        "2 of 36 pictures are not 64 px wide as the others, first images/p1/2.png: 128 px; were "
        "they changed?",
        "1 of 36 pictures are under 32 px wide, which the scene probe hardly reads",
    ]


def test_pictures_that_were_not_upsampled_are_no_other_size(tmp_path: pathlib.Path) -> None:
    made = plant(tmp_path / "made")
    edit_lines(made, lambda _, line: line.update(settings={"num_upsampled": 1}))
    for number in range(NUM_PROMPTS):  # sample 1 is the best
        for path in (made / f"images/p{number}/{index}.png" for index in (0, 2)):
            small = images.resize(images.decode_image(path.read_bytes()), 32)
            path.write_bytes(images.encode_png(small))
    assert run(made, tmp_path / "out")["notes"] == []


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text[:-2], "manifest.jsonl, line 36: Not a line of a generations manifest"),
        (lambda text: text.replace('"rank": 1', '"rank": "1"', 1), "line 1: .*rank is '1'"),
        (lambda text: "3" + text[text.index("\n") :], "line 1: .*not a JSON object"),
        (lambda text: "\udc80" + text, "line 1: .*can't decode byte 0x80"),
    ],
)
def test_lines_of_the_manifest_are_named(
    tmp_path: pathlib.Path, edit: Callable[[str], str], message: str
) -> None:
    made = plant(tmp_path / "made")
    lines = edit((made / "manifest.jsonl").read_text())
    (made / "manifest.jsonl").write_bytes(lines.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message):
        run(made, tmp_path / "out")


def test_lines_that_are_missing_are_said(tmp_path: pathlib.Path) -> None:
    made = plant(tmp_path / "made")
    manifests.write(made, "generations", counts={"images": 40}, settings={}, content={})
    with pytest.raises(ValueError, match="has 36 lines, but 40 images were made"):
        run(made, tmp_path / "out")


def test_halves_of_characters_in_a_manifest_are_mended(tmp_path: pathlib.Path) -> None:
    made = plant(tmp_path / "made")
    edit_lines(made, lambda _, line: line.update(prompt="cut \ud83d"))
    run(made, tmp_path / "out")
    assert "cut \ufffd" in (tmp_path / "out" / "report.html").read_text()


def test_pictures_too_small_to_read(tmp_path: pathlib.Path) -> None:
    metrics = run(plant(tmp_path / "made", size=16), tmp_path / "out")
    assert "alignment" not in metrics and "16 px wide" in metrics["notes"][0]


def test_without_scores_the_note_says_what_best_means(tmp_path: pathlib.Path) -> None:
    metrics = run(plant(tmp_path / "made", scored=False), tmp_path / "out")
    overall = metrics["alignment"]["overall"]
    assert overall["best"]["mean"] < 0.7 and overall["oracle"]["mean"] >= 0.97
    assert "rerank_correlation" not in metrics
    assert metrics["notes"] == ["no reranker scored these pictures: best is sample 0"]


def test_tokenizer_and_upsampler_against_reference_pictures(
    tmp_path: pathlib.Path, pairs_dir: pathlib.Path, bundle: pathlib.Path
) -> None:
    made = plant(tmp_path / "made", with_scene=False)
    flags = (f"--reference={pairs_dir}", f"--model={bundle}")
    metrics = run(made, tmp_path / "out", *flags)
    tokenizer = bundles.load_part(bundle, "tokenizer")
    expected: dict[str, list[float]] = {"tokenizer": [], "nearest": [], "bicubic": []}
    for data in tfrecords.read_pattern(pairs_dir / "validation-*.tfrecord"):
        original = images.decode_image(records.ImageTextPair.from_example(data).image)
        small = images.resize(original, 16)
        tokens = tokenizer.call("encode", images.to_float(small)[None], batch_size=1)
        low = images.to_uint8(tokenizer.call("decode", tokens, batch_size=1)[0])
        expected["tokenizer"].append(images.psnr(low, small))
        expected["nearest"].append(
            images.psnr(np.kron(low, np.ones((2, 2, 1), np.uint8)), original)
        )
        expected["bicubic"].append(images.psnr(images.resize(low, 32), original))
    found = {"tokenizer": metrics["tokenizer"]["psnr"], **metrics["upsampler"]["psnr"]}
    for name, values in expected.items():
        assert found[name]["mean"] == pytest.approx(np.mean(values), abs=1e-2)
        assert found[name]["count"] == 4
    gain = found["upsampler"]["mean"] - found["bicubic"]["mean"]
    assert found["gain_over_bicubic"]["mean"] == pytest.approx(gain, abs=1e-5)
    assert 'href="reconstructions.html"' in (tmp_path / "out" / "report.html").read_text()
    assert (tmp_path / "out" / "reconstructions.html").exists()


def test_a_bundle_without_upsampler_says_so(
    tmp_path: pathlib.Path, pairs_dir: pathlib.Path, small_bundle: pathlib.Path
) -> None:
    made = plant(tmp_path / "made", with_scene=False)
    flags = (f"--reference={pairs_dir}", f"--model={small_bundle}", "--num_reference=2")
    metrics = run(made, tmp_path / "out", *flags)
    assert metrics["tokenizer"]["psnr"]["count"] == 2 and "upsampler" not in metrics
    assert "the upsampler was not measured: the bundle has none" in metrics["notes"]


def test_user_mistakes(tmp_path: pathlib.Path, pairs_dir: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match="parti generate"):
        run(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(ValueError, match="needs --"):
        run(plant(tmp_path / "made"), tmp_path / "out", f"--reference={pairs_dir}")
    with pytest.raises(ValueError, match="holds pairs, not generations"):
        run(pairs_dir, tmp_path / "out")

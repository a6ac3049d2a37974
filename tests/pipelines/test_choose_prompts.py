# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Prompts from a file and from the captions of a split."""

import json
import pathlib
import tempfile

import hypothesis
import json_values
import pytest
from hypothesis import strategies

from parti.data.storage import records, tfrecords
from parti.data.text import prompt_files
from parti.pipelines import choose_prompts
from parti.stages import manifests


def make(text: str, challenge: str = "") -> prompt_files.Prompt:
    return prompt_files.Prompt(f"p-{text}", text, challenge=challenge)


def test_choice_is_even_over_challenges_and_does_not_depend_on_order() -> None:
    given = [make(f"count {i}", "count") for i in range(8)] + [make("text 0", "text")]
    given += [make(f"relation {i}", "relation") for i in range(3)]
    chosen = choose_prompts.choose(given, 6)
    counts = {name: sum(p.challenge == name for p in chosen) for name in ("count", "text")}
    assert counts == {"count": 3, "text": 1} and len(chosen) == 6
    assert choose_prompts.choose(given[::-1], 6) == chosen[::-1]
    assert chosen == [prompt for prompt in given if prompt in chosen]
    assert len(choose_prompts.choose(given, 0)) == len(given)


def test_equal_texts_count_once() -> None:
    given = [make("a cat"), prompt_files.Prompt("other", "a cat"), make("a dog")]
    assert {p.text for p in choose_prompts.choose(given, 0)} == {"a cat", "a dog"}


def test_captions_of_the_validation_split(pairs_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    output = tmp_path / "prompts"
    assert choose_prompts.run(["--input", str(pairs_dir), "--output", str(output)]) == 0
    chosen = prompt_files.read_prompts(output / "prompts.jsonl")
    assert 1 <= len(chosen) <= 4
    assert all(prompt.metadata["scene"] and prompt.metadata["key"] for prompt in chosen)
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["counts"] == {"prompts": len(chosen)}


def test_a_prompt_file(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "mine.txt").write_text("a cat\na dog\n")
    arguments = ["--input", str(tmp_path / "mine.txt"), "--output", str(tmp_path / "out")]
    assert choose_prompts.run([*arguments, "--num=1"]) == 0
    assert "1 prompts in" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--overwrite"):
        choose_prompts.run(arguments)


def test_order_and_notes_are_of_the_file(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.csv").write_text(
        'ID,Prompt,Seed,Note\n7,"a ""red"" cat",,\n8,a dog,5,n\n\n9,a dog,5,\n10,a dog,,\n'
    )
    output = tmp_path / "out"
    assert choose_prompts.run(["--input", str(tmp_path / "mine.csv"), "--output", str(output)]) == 0
    assert prompt_files.read_prompts(output / "prompts.jsonl") == [
        prompt_files.Prompt("7", 'a "red" cat'),
        prompt_files.Prompt("8", "a dog", settings={"seed": 5}, metadata={"note": "n"}),
        prompt_files.Prompt("10", "a dog"),
    ]
    printed = capsys.readouterr().out
    assert "left out 1 blank line\n" in printed
    assert "1 of 4 prompts left out: equal to an earlier one\n" in printed


def test_scenes_of_pairs_are_mended(tmp_path: pathlib.Path) -> None:
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    row = records.ImageTextPair("k", b"", "a cat", metadata={"scene": {"note": "-MARK-"}})
    rows = [row.to_example().replace(b"-MARK-", rb"\ud83d")]  # as another writer may escape it
    tfrecords.write(pairs / "validation-00000-of-00001.tfrecord", rows)
    manifests.write(pairs, "pairs", counts={}, settings={}, content={})
    assert choose_prompts.run(["--input", str(pairs), "--output", str(tmp_path / "out")]) == 0
    (found,) = prompt_files.read_prompts(tmp_path / "out" / "prompts.jsonl")
    assert found.metadata == {"key": "k", "scene": {"note": "\ufffd"}}


@hypothesis.settings(max_examples=100)
@hypothesis.given(
    texts=strategies.lists(strategies.text(strategies.characters(), max_size=12), max_size=4),
    metadata=strategies.dictionaries(
        strategies.text(max_size=3) | strategies.sampled_from(["id", "Category", "scene"]),
        json_values.JSON,
        max_size=4,
    ),
    num=strategies.integers(0, 5),
)
def test_any_prompts_give_a_file_or_one_line(
    texts: list[str], metadata: dict[str, object], num: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, output = pathlib.Path(folder, "p.jsonl"), pathlib.Path(folder, "out")
        path.write_text("".join(json.dumps({**metadata, "prompt": t}) + "\n" for t in texts))
        try:
            choose_prompts.run([f"--input={path}", f"--output={output}", f"--num={num}"])
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            return
        given = prompt_files.read_prompts(path)
        chosen = prompt_files.read_prompts(output / "prompts.jsonl")
        assert chosen == [prompt for prompt in given if prompt in chosen]
        assert len(chosen) == min(num or 9, len({prompt.text for prompt in given}))


def test_mistakes(tmp_path: pathlib.Path) -> None:
    output = ["--output", str(tmp_path / "out")]
    with pytest.raises(FileNotFoundError, match="no.txt"):
        choose_prompts.run(["--input", str(tmp_path / "no.txt"), *output])
    with pytest.raises(FileNotFoundError, match="parti clean"):
        choose_prompts.run(["--input", str(tmp_path), *output])
    with pytest.raises(ValueError, match="--num=-1"):
        choose_prompts.run(["--input", "x.txt", "--num=-1", *output])


def test_a_mistake_in_a_flag_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, said in (
        (["--outptu=x"], "unknown flag --outptu; did you mean --output?"),
        (["--input=a", "--output=b", "c"], "unexpected argument 'c'; see --help"),
        (["--input=a"], "the following arguments are required: --output"),
    ):
        with pytest.raises(SystemExit) as ended:
            choose_prompts.run(argv)
        assert ended.value.code == 2
        assert capsys.readouterr().err == f"parti prompts: {said}\n"

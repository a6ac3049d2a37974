# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import pathlib
import re

import pytest

from parti.data.text import prompt_files

PARTI_PROMPTS = pathlib.Path(__file__).resolve().parents[4] / "shared" / "data" / "PartiPrompts.tsv"


def write(path: pathlib.Path, text: str) -> pathlib.Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_text_is_one_prompt() -> None:
    assert prompt_files.read_prompts("a red circle") == [
        prompt_files.Prompt("p00000-a-red-circle", "a red circle")
    ]
    assert prompt_files.read_prompts("bond")[0].text == "bond"
    assert prompt_files.read_prompts("x" * 5000)[0].id == "p00000-" + "x" * 53


def test_txt(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "p.txt", "a cat\na cat\nÜber “alles”\n\n")
    assert [(p.id, p.text) for p in prompt_files.read_prompts(path)] == [
        ("p00000-a-cat", "a cat"),
        ("p00001-a-cat", "a cat"),
        ("p00002-uber-alles", "Über “alles”"),
    ]


def test_tsv(tmp_path: pathlib.Path) -> None:
    text = 'Prompt\tCategory\tChallenge\tNote\nthe word "START\tWorld\tWriting\t\na b\tArts\t\tn\n'
    first, second = prompt_files.read_prompts(write(tmp_path / "p.tsv", text))
    assert first == prompt_files.Prompt(
        "p00000-the-word-start", 'the word "START', "World", "Writing"
    )
    assert (second.challenge, second.metadata) == ("", {"note": "n"})


def test_jsonl_round_trip(tmp_path: pathlib.Path) -> None:
    text = '{"prompt": "a cat", "id": "cat-1", "scene": {"n": 1}}\n{"prompt": "a dog"}\n'
    found = prompt_files.read_prompts(write(tmp_path / "p.jsonl", text))
    assert found == [
        prompt_files.Prompt("cat-1", "a cat", metadata={"scene": {"n": 1}}),
        prompt_files.Prompt("p00001-a-dog", "a dog"),
    ]
    assert prompt_files.write_prompts(tmp_path / "again.jsonl", found) == 2
    assert prompt_files.read_prompts(tmp_path / "again.jsonl") == found
    clash = prompt_files.Prompt("a", "b", metadata={"prompt": "c"})
    with pytest.raises(ValueError, match="reserved"):
        prompt_files.write_prompts(tmp_path / "again.jsonl", [clash])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", "", "holds no prompts"),
        ("p.txt", "\n \n", "holds no prompts"),
        ("p.tsv", "", "holds no prompts"),
        ("p.jsonl", "", "holds no prompts"),
        ("p.tsv", "Prompt\tCategory\n", "holds no prompts"),
        ("p.txt", "a\n\nb\n", "line 2: the prompt is empty"),
        ("p.tsv", "Prompt\tCategory\na\tb\n\tc\n", "line 3: the prompt is empty"),
        ("p.tsv", "Text\tCategory\na\tb\n", "name a column `Prompt`"),
        ("p.jsonl", "{}\n", "line 1: it must be an object"),
        ("p.jsonl", '{"prompt": "a"}\nnope\n', "line 2: not JSON"),
        ("p.jsonl", '{"prompt": "a", "id": "../up"}\n', "cannot be a file name"),
        ("p.jsonl", '{"prompt": "a", "id": "x"}\n{"prompt": "b", "id": "x"}', "'x' twice"),
        ("p.csv", "a,b", "ends in '.csv'"),
    ],
)
def test_errors(tmp_path: pathlib.Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        prompt_files.read_prompts(write(tmp_path / name, text))


def test_absent_files_are_no_prompts(tmp_path: pathlib.Path) -> None:
    for source in ("absent.tsv", str(tmp_path / "absent"), tmp_path / "absent.txt"):
        with pytest.raises(FileNotFoundError, match="No prompt file"):
            prompt_files.read_prompts(source)
    with pytest.raises(ValueError, match="is a folder"):
        prompt_files.read_prompts(tmp_path)
    assert prompt_files.read_prompts("a" * 5000)[0].text == "a" * 5000  # too long for a path
    with pytest.raises(ValueError, match="The prompt is empty"):
        prompt_files.read_prompts("  ")


@pytest.mark.skipif(not PARTI_PROMPTS.exists(), reason="PartiPrompts is not beside this clone")
def test_parti_prompts() -> None:
    found = prompt_files.read_prompts(PARTI_PROMPTS)
    assert len(found) == 1632 == len({p.id for p in found})
    assert found[5] == prompt_files.Prompt(
        "p00005-yin-yang", "yin-yang", "Abstract", "Basic", {"note": "Related to five elements"}
    )
    assert len({p.category for p in found}) == 12 and len({p.challenge for p in found}) == 11
    assert all(re.fullmatch(r"p\d{5}-[a-z0-9-]{0,53}", p.id) for p in found)

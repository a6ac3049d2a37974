# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
import csv
import json
import pathlib
import re

import fake_remote
import hypothesis
import pyarrow as pa
import pytest
from hypothesis import strategies as st
from pyarrow import parquet

from parti.data.text import prompt_files
from parti.stages import files, json_text

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
    for name in ("prompt", "Seed", "num_samples"):
        clash = prompt_files.Prompt("a", "b", metadata={name: "c"})
        with pytest.raises(ValueError, match="reserved"):
            prompt_files.write_prompts(tmp_path / "again.jsonl", [clash])


def test_settings_of_a_prompt(tmp_path: pathlib.Path) -> None:
    """Numbers of tables are texts; what is empty or null is not given."""
    row = (
        '{"prompt": "a cat", "Guidance_Scale": 3, "guidance_schedule": "interval:0:0.5",'
        ' "guidance_over": "tokens", "temperature": 0.5, "top_k": 40, "top_p": null, "seed": -7,'
        ' "negative_prompt": " a dog ", "mine": 1}\n{"prompt": "a cat", "negative_prompt": ""}'
    )
    found = prompt_files.read_prompts(write(tmp_path / "p.jsonl", row))
    assert found[0].settings == {
        "guidance_scale": 3.0,
        "guidance_schedule": "interval:0:0.5",
        "guidance_over": "tokens",
        "temperature": 0.5,
        "top_k": 40,
        "seed": -7,
        "negative_prompt": "a dog",
    }
    assert found[0].metadata == {"mine": 1} and found[1].settings == {"negative_prompt": ""}
    prompt_files.write_prompts(tmp_path / "again.jsonl", found)
    assert prompt_files.read_prompts(tmp_path / "again.jsonl") == found
    assert prompt_files.count_equal([*found, found[1]]) == 1
    text = "prompt,top_p,SEED,guidance_scale\na cat,0.9,12,\na dog,,,1e1\n"
    one, two = prompt_files.read_prompts(write(tmp_path / "p.csv", text))
    assert one.settings == {"top_p": 0.9, "seed": 12} and two.settings == {"guidance_scale": 10.0}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", "", "holds no prompts"),
        ("p.txt", "\n \n", "holds no prompts"),
        ("p.tsv", "", "holds no prompts"),
        ("p.jsonl", "", "holds no prompts"),
        ("p.tsv", "Prompt\tCategory\n", "holds no prompts"),
        ("p.tsv", "Prompt\tCategory\na\tb\n\tc\n", "line 3: the prompt is empty"),
        ("p.tsv", "Text\tCategory\na\tb\n", "name a column `Prompt`"),
        ("p.jsonl", "{}\n", "line 1: it must be an object"),
        ("p.jsonl", '{"prompt": "a"}\nnope\n', "line 2: not JSON"),
        ("p.jsonl", '{"prompt": "a", "id": "../up"}\n', "cannot be a file name"),
        ("p.jsonl", '{"prompt": "a", "id": "x"}\n{"prompt": "b", "id": "x"}', "'x' twice"),
        ("p.jsonl", '["a"]\n', "line 1: it must be an object"),
        ("p.jsonl", '{"text": "a"}\n', "it has ['text']"),
        ("p.jsonl", '{"prompt": NaN}\n', "that is None"),
        ("p.jsonl", '{"prompt": "a", "Prompt": "b"}\n', "line 1: 'prompt' is given twice"),
        ("p.jsonl", '{"prompt": "a", "n": ' + 70 * "[" + 70 * "]" + "}", "line 1: nested over 64"),
        ("p.jsonl", '{"prompt": "a", "n": ' + 9999 * "[" + 9999 * "]" + "}", "line 1: n"),
        ("p.jsonl", '{"prompt": "a", "n": ' + 5000 * "9" + "}", "line 1: not JSON: Exceeds"),
        ("p.jsonl", '{"prompt": "a", "id": ""}\n', "line 1: id '' cannot be a file name"),
        ("p.txt", "# only\n# comments", "holds no prompts; put one on each line (2 comments left"),
        ("p.txt", "a\nb\0c\n", "line 2: a NUL character"),
        ("p.tsv", "id\tprompt\nx/1\ta\nx/1\tb\n", "line 2: id 'x/1' cannot be a file name"),
        ("p.tsv", "ID\tPrompt\nx\ta\n\tb\nx\tc\n", "the id 'x' twice (line 2 and line 4)"),
        ("p.tsv", "prompt\tnote\na\tb\tc\n", "line 2: 3 cells for 2 columns"),
        ("p.tsv", "prompt\tNote\tnote\na\tb\tc\n", "two columns 'note'"),
        ("p.csv", "a,b", "the first line: it has the columns ['a', 'b']"),
        ("p.csv", "prompt,note\na red, round circle,b\n", "line 2: 3 cells for 2 columns"),
        ("p.csv", 'sep=;\nprompt;note\n"a;b\n', "line 3: unexpected end of data"),
        ("p.csv", "sep=;\n", "it has the columns []"),
        ("p.csv", "\n\nsep=;\nprompt;note\na;b;c\n", "line 5: 3 cells for 2 columns"),
        ("p.csv", 'prompt,note\n\n"a "red" circle",b\n', "line 3: ',' expected after '\"'"),
        ("p.csv", 'prompt,note\n"a,b\nc,d\n', "line 2: unexpected end of data"),
        ("p.json", '{"prompt": "a"}', "it must be a list of texts or objects"),
        ("p.json", '["a", 3]', "entry 2: it must be an object"),
        ("p.json", '{"prompt": "a"}\n{"prompt": "b"}', "read whole: not JSON: Extra data"),
        (
            "p.jsonl",
            '{"prompt": "a"}\n{"prompt": "b", "seed": 1.5}',
            "line 2: seed must be a whole",
        ),
        (
            "p.jsonl",
            '{"prompt": "a", "seed": true}',
            "line 1: seed must be a whole number; got True",
        ),
        ("p.jsonl", '{"prompt": "a", "temperature": -1}', "line 1: temperature must be >= 0 (0 is"),
        (
            "p.jsonl",
            '{"prompt": "a", "temperature": [1]}',
            "temperature must be a finite number; got",
        ),
        (
            "p.jsonl",
            '{"prompt": "a", "negative_prompt": 3}',
            "negative_prompt must be a text; got 3",
        ),
        ("p.csv", "prompt,top_k\na,many\n", "line 2: top_k must be a whole number; got 'many'"),
        ("p.csv", "prompt,top_p\na,nan\n", "line 2: top_p must be in (0, 1]"),
        ("p.csv", "prompt,guidance_scale\na,inf\n", "line 2: guidance_scale must be >= 0; got inf"),
        (
            "p.json",
            '[{"prompt": "a", "guidance_schedule": "up"}]',
            "entry 1: guidance_schedule must be",
        ),
        ("p.jsonl", '{"prompt": "a", "Queue": 2}', "line 1: 'Queue' is not of one prompt but of a"),
        ("p.csv", "prompt,keep\na,3\n", "give --keep to `parti generate`, or name it otherwise"),
        ("p.doc", "a", "ends in '.doc'; it must be one of .txt, .tsv, .csv, .jsonl"),
        ("noext", "a", "has no ending; it must be one of .txt"),
    ],
)
def test_errors(tmp_path: pathlib.Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        prompt_files.read_prompts(write(tmp_path / name, text))


BAD_ROWS = {
    "p.tsv": (
        "ID\tPrompt\tNote\n\ta\n\t\tn\nx/1\tb\nx\tc\tn\tmore\nx\td\nx\te\n\tf\n\n\tg\n",
        ["p00000-a", "x", "p00006-f", "p00007-g"],
        [
            ("line 3", "the prompt is empty", {"prompt": "", "note": "n"}),
            ("line 4", "id 'x/1' cannot be a file name", {"id": "x/1", "prompt": "b"}),
            ("line 5", "4 cells for 3 columns", ["x", "c", "n", "more"]),
            ("line 7", "the id 'x' twice (line 6 and line 7)", {"id": "x", "prompt": "e"}),
        ],
    ),
    "p.jsonl": (
        '{"prompt": 3}\n["a"]\n\n{"prompt": "a"}\n{"prompt"\n'
        + f'{{"prompt": "b", "n": {70 * "["}{70 * "]"}}}\n"{2000 * "x"}\n{{"prompt": "\\ud83d"}}\n',
        ["p00002-a", "p00006"],
        [
            ("line 1", "that is 3", {"prompt": 3}),
            ("line 2", "it is ['a']", ["a"]),
            ("line 5", "not JSON: ", '{"prompt"'),
            ("line 6", "nested over 64 deep", None),
            ("line 7", "not JSON: ", '"' + 999 * "x"),
        ],
    ),
    "p.json": ('["a", 3, {"prompt": " "}, "b"]', ["p00000-a", "p00003-b"], [
        ("entry 2", "it must be an object", 3),
        ("entry 3", "the prompt is empty", {"prompt": " "}),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ROWS)
def test_bad_rows_are_collected_and_change_no_id(tmp_path: pathlib.Path, name: str) -> None:
    text, ids, wanted = BAD_ROWS[name]
    path = write(tmp_path / name, text)
    rejected: list[prompt_files.Rejected] = []
    assert [prompt.id for prompt in prompt_files.read_prompts(path, [], rejected)] == ids
    assert [(bad.where, bad.row) for bad in rejected] == [(at, row) for at, _, row in wanted]
    for bad, (where, reason, row) in zip(rejected, wanted):
        assert reason in bad.reason
        assert json.loads(bad.to_json()) == {"where": where, "reason": bad.reason, "row": row}
    with pytest.raises(ValueError, match=re.escape(f"{rejected[0].where}: {rejected[0].reason}")):
        prompt_files.read_prompts(path)


def test_a_file_that_cannot_be_read_as_a_whole_is_no_bad_row(tmp_path: pathlib.Path) -> None:
    for name, text, message in (
        ("p.tsv", "text\na\n", "name a column `Prompt`"),
        ("p.txt", "a\nb\0c\n", "a NUL character"),
        ("p.csv", 'prompt,note\n"a,b\nc,d\n', "unexpected end of data"),
        ("p.jsonl", "no\n{}\n", "no good prompts, 2 bad ones; the first is line 1: not JSON"),
        ("p.txt", "\n", "holds no prompts; put one on each line"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            prompt_files.read_prompts(write(tmp_path / name, text), [], [])


def write_parquet(path: pathlib.Path, **columns: pa.Array) -> pathlib.Path:
    parquet.write_table(pa.table(columns), path)
    return path


def test_parquet(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text, numbers, lists and structs are metadata without null cells; bytes and dates are not."""
    path = write_parquet(
        tmp_path / "P.PARQUET",
        Prompt=pa.array(["a cat", "b", "", None, "c"]).dictionary_encode(),
        ID=pa.array([7, None, None, None, 7]),
        Challenge=pa.array(["Basic", None, None, None, None], pa.large_string()),
        Scene=pa.array([{"Shapes": [{"n": 1, "x": None}]}, *[None] * 4]),
        share=pa.array([float("nan"), 0.5, None, None, None]),
        image=pa.array([{"bytes": b"x", "path": "0.png"}] * 5),
        day=pa.array([0] * 5, pa.date32()),
    )
    notes: list[str] = []
    rejected: list[prompt_files.Rejected] = []
    first, second = prompt_files.read_prompts(path, notes, rejected)
    scene = {"Shapes": [{"n": 1, "x": None}]}
    assert first == prompt_files.Prompt("7", "a cat", "", "Basic", {"scene": scene, "share": None})
    assert second == prompt_files.Prompt("p00001-b", "b", metadata={"share": 0.5})
    assert [(bad.where, bad.row) for bad in rejected] == [("row 5", {"id": 7, "prompt": "c"})]
    assert notes[-1].endswith("left out 2 blank rows and 2 non-JSON columns")
    with pytest.raises(ValueError, match="row 5: the file has the id '7' twice"):
        prompt_files.read_prompts(path)
    monkeypatch.setenv(fake_remote.ROOT, str(tmp_path))
    files.make_dirs("store://bucket")
    files.write_bytes("store://bucket/p.parquet", path.read_bytes())
    assert prompt_files.read_prompts("store://bucket/p.parquet", [], []) == [first, second]


def test_parquet_that_is_refused(tmp_path: pathlib.Path) -> None:
    for columns, message in (
        ({"text": ["a"]}, "the schema: it has the columns ['text']; it must name a column"),
        ({"id": ["a"], "prompt": [b"a"]}, "(without ['prompt'], which JSON cannot hold): it has"),
        ({"prompt": ["a"], "Prompt": ["b"]}, "it has two columns 'prompt'"),
        ({"prompt": [3]}, "row 1: it must be an object with a text under"),
        ({"prompt": pa.array([], pa.string())}, "holds no prompts"),
        ({"prompt": [None]}, "holds no prompts; put one on each line (1 blank row left out)"),
    ):
        arrays = {name: pa.array(values) for name, values in columns.items()}
        with pytest.raises(ValueError, match=re.escape(message)):
            prompt_files.read_prompts(write_parquet(tmp_path / "p.parquet", **arrays))
    whole = write_parquet(tmp_path / "p.parquet", prompt=pa.array(["a star"] * 99)).read_bytes()
    for data in (b"", b"prompt\na", whole[:-9], whole[:4] + b"\xff" * 40 + whole[44:]):
        (tmp_path / "p.parquet").write_bytes(data)
        with pytest.raises(
            ValueError, match="p.parquet', read whole: not Parquet, or damaged"
        ) as found:
            prompt_files.read_prompts(tmp_path / "p.parquet", [], [])
        assert "\n" not in str(found.value)


def test_absent_files_are_no_prompts(tmp_path: pathlib.Path) -> None:
    for source in ("absent.tsv", str(tmp_path / "absent"), tmp_path / "absent.txt"):
        with pytest.raises(FileNotFoundError, match="No prompt file"):
            prompt_files.read_prompts(source)
    with pytest.raises(ValueError, match="is a folder"):
        prompt_files.read_prompts(tmp_path)
    assert prompt_files.read_prompts("a" * 5000)[0].text == "a" * 5000  # too long for a path
    with pytest.raises(ValueError, match="The prompt is empty"):
        prompt_files.read_prompts("  ")


def test_txt_comments_and_blank_lines_are_left_out_and_counted(tmp_path: pathlib.Path) -> None:
    text = "# animals\na red circle\n\n // shapes \n  \n  # more\na blue #2 square\n\n"
    notes: list[str] = []
    found = prompt_files.read_prompts(write(tmp_path / "p.TXT", text), notes)
    assert [p.text for p in found] == ["a red circle", "// shapes", "a blue #2 square"]
    assert [p.id for p in found] == [
        "p00000-a-red-circle",
        "p00001-shapes",
        "p00002-a-blue-2-square",
    ]
    assert notes == [
        f"Prompt file {str(tmp_path / 'p.TXT')!r}: left out 2 comments and 2 blank lines"
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_and_line_ends(tmp_path: pathlib.Path, encoding: str, end: str) -> None:
    notes: list[str] = []
    for name, lines in (("p.txt", ["a café", "a dog"]), ("p.csv", ["prompt", "a café", "a dog"])):
        (tmp_path / name).write_bytes(end.join(lines).encode(encoding))
        found = prompt_files.read_prompts(tmp_path / name, notes)
        assert [p.text for p in found] == ["a café", "a dog"]
    assert len(notes) == 2 * (encoding in ("utf-16", "utf-32"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a dog\r\na café\n".encode("latin-1"), "line 2: byte 0xe9 is not UTF-8; save it"),
        (
            "a cat\n猫がマットの上に座っている\n".encode("shift_jis"),
            "line 2: byte 0x94 is not UTF-8; save it as UTF-8 (if it is SHIFT_JIS: iconv -f SHIFT",
        ),
        ("a café\n".encode("utf-16-le"), "line 1: byte 0xe9 is not UTF-8; it may be UTF-16"),
        ("a cat\n".encode("utf-16-be"), "line 1: a NUL character, as UTF-16"),
        ("a cat".encode("utf-16")[:-1], "line 1: byte 0x74 is not UTF-16; write it again"),
    ],
)
def test_other_encodings_are_said(tmp_path: pathlib.Path, data: bytes, message: str) -> None:
    (tmp_path / "p.txt").write_bytes(data)
    with pytest.raises(ValueError, match=re.escape(message)):
        prompt_files.read_prompts(tmp_path / "p.txt")


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["p.csv", "p.tsv"])
def test_tables_as_spreadsheets_and_pandas_write_them(
    tmp_path: pathlib.Path, name: str, separator: str
) -> None:
    rows = [
        ["", "Prompt", "Challenge", "ID"],
        ["0", 'a sign that says "STOP"', "Writing", "17"],
        ["", "", "", ""],
        ["1", f'"A" and{separator.strip()} "B"\nbelow', "", ""],
    ]
    with open(tmp_path / name, "w", newline="") as file:
        csv.writer(file, delimiter=separator).writerows([*rows, rows[1][:3]])
    notes: list[str] = []
    found = prompt_files.read_prompts(tmp_path / name, notes)
    assert found[0] == prompt_files.Prompt("17", 'a sign that says "STOP"', "", "Writing")
    assert found[1].text == f'"A" and{separator.strip()} "B"\nbelow'
    assert [p.id[:6] for p in found[1:]] == ["p00001", "p00002"]
    assert notes[0].endswith("left out 1 blank line and 1 nameless column")


def test_tsv_quotes_are_text_where_they_are_no_quoting(tmp_path: pathlib.Path) -> None:
    lines = ["Prompt\tNote", '"A" and "B"\t"c"', "x\ty"]
    found = prompt_files.read_prompts(write(tmp_path / "p.tsv", "\n".join(lines)))
    assert (found[0].text, found[0].metadata) == ('"A" and "B"', {"note": '"c"'})
    lines = ["Prompt\tNote", '"opened\tx', 'and closed"\ty']  # a cell over both would hold a tab
    found = prompt_files.read_prompts(write(tmp_path / "p.tsv", "\n".join(lines)))
    assert [p.text for p in found] == ['"opened', 'and closed"']
    lines = ["Prompt\tNote", '"opened\nand ""closed"""\ty']
    (found_one,) = prompt_files.read_prompts(write(tmp_path / "p.tsv", "\n".join(lines)))
    assert found_one.text == 'opened\nand "closed"'


def test_tables_of_one_column_and_with_a_named_separator(tmp_path: pathlib.Path) -> None:
    text = 'prompt\na red, round circle\n"a blue, ""round"" circle"\n'
    found = prompt_files.read_prompts(write(tmp_path / "p.csv", text))
    assert [p.text for p in found] == ["a red, round circle", 'a blue, "round" circle']
    text = "sep=;\nPrompt;Note\na, b;c\n"
    (one,) = prompt_files.read_prompts(write(tmp_path / "p.csv", text))
    assert (one.text, one.metadata) == ("a, b", {"note": "c"})


def test_json_lists(tmp_path: pathlib.Path) -> None:
    text = '["a red circle", {"Prompt": "a dog", "ID": 7, "Challenge": "Basic", "scene": {}}]'
    assert prompt_files.read_prompts(write(tmp_path / "p.json", text)) == [
        prompt_files.Prompt("p00000-a-red-circle", "a red circle"),
        prompt_files.Prompt("7", "a dog", "", "Basic", {"scene": {}}),
    ]


def test_what_cannot_be_written_is_mended_and_noted(tmp_path: pathlib.Path) -> None:
    lines = [
        '{"prompt": "a dog", "id": "b"}',
        r'{"prompt": "\ud83da\u0000cat", "id": NaN, "n": [1e999, {"\udead": "\u001b"}],'
        r' "o": "\ud83d\ude00"}',
    ]
    notes: list[str] = []
    found = prompt_files.read_prompts(write(tmp_path / "p.jsonl", "\n".join(lines)), notes)
    assert found[1] == prompt_files.Prompt(
        "p00001-a-cat", "\ufffda cat", metadata={"n": [None, {"\ufffd": " "}], "o": "😀"}
    )
    assert len(notes) == 1 and "p.jsonl', line 2: mended" in notes[0] and "1 prompt" in notes[0]
    assert prompt_files.read_prompts("a\x1bcat")[0].text == "a cat"
    with pytest.raises(ValueError, match="The prompt 'a caf.udce9' is not UTF-8 at character 6"):
        prompt_files.read_prompts("a caf\udce9")


def test_a_prompt_file_by_its_address(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a b").mkdir()
    path = write(tmp_path / "a b" / "p{1,2}.txt", "a red circle")
    assert prompt_files.read_prompts(f"file://{path}") == prompt_files.read_prompts(path)


def test_flags_in_a_prompt_are_noted(tmp_path: pathlib.Path) -> None:
    notes: list[str] = []
    prompt_files.read_prompts(write(tmp_path / "p.txt", '--prompt "a cat" --seed 5'), notes)
    assert "flags are not read" in notes[0]


def test_prompts_that_say_that_there_is_none_are_noted(tmp_path: pathlib.Path) -> None:
    notes: list[str] = []
    path = write(tmp_path / "p.csv", "prompt,n\nnan,1\na red circle,2\n-,3\n")
    assert len(prompt_files.read_prompts(path, notes)) == 3
    (note,) = notes
    assert "2 prompts such as 'nan', which is what programs write for no text" in note


def test_metadata_that_cannot_be_written_is_named(tmp_path: pathlib.Path) -> None:
    for value in (float("nan"), "\ud83d", object()):
        prompt = prompt_files.Prompt("a", "b", metadata={"n": value})
        with pytest.raises(ValueError, match="Prompt 'a' cannot be written: "):
            prompt_files.write_prompts(tmp_path / "p.jsonl", [prompt])


TEXTS = st.one_of(
    st.text(st.characters(), max_size=20),  # with halves of surrogate pairs
    st.text("ab \t\n\r\0\x1b\ufeff\x85#\",;|'\\\ud83d😀", max_size=12),
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
ROLES = st.sampled_from(
    ["prompt", "Prompt", "id", "ID", "category", "challenge", "note", "", "seed", "top_p", "keep"]
    + ["guidance_schedule", "temperature", "negative_prompt"]
)


def check_readable(path: pathlib.Path) -> list[prompt_files.Prompt]:
    """Checks that a file gives prompts that can be written and read again, or one clear line."""
    try:
        found = prompt_files.read_prompts(path)
    except ValueError as error:
        assert path.name in str(error) and "\n" not in str(error)
        return []
    again = path.with_name("again.jsonl")
    assert prompt_files.write_prompts(again, found) == len(found) > 0
    assert prompt_files.read_prompts(again) == found
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("prompts")


@hypothesis.settings(max_examples=500)
@hypothesis.given(
    data=st.binary(max_size=80) | TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")),
    name=st.sampled_from(["p.txt", "p.tsv", "p.csv", "p.jsonl", "p.json"]),
    begins=st.sampled_from(
        [b"", b"prompt\n", b"\r\nPrompt,note\n", b"sep=;\n", b"id\tprompt\n", b"\xff\xfe", b'["a",']
    ),
)
def test_any_bytes_give_prompts_or_one_line(
    folder: pathlib.Path, data: bytes, name: str, begins: bytes
) -> None:
    (folder / name).write_bytes(begins + data)
    check_readable(folder / name)


@hypothesis.settings(max_examples=300)
@hypothesis.given(
    rows=st.lists(st.dictionaries(ROLES | TEXTS, TEXTS | VALUES, max_size=4), max_size=4),
    with_prompt=st.booleans(),
)
def test_any_json_gives_prompts_or_one_line(
    folder: pathlib.Path, rows: list[dict[str, object]], with_prompt: bool
) -> None:
    rows = [{"prompt": "a cat", **row} if with_prompt else row for row in rows]
    write(folder / "p.json", json.dumps(rows))
    write(folder / "p.jsonl", "\n".join(map(json.dumps, rows)))
    assert check_readable(folder / "p.json") == check_readable(folder / "p.jsonl")


@hypothesis.settings(max_examples=300)
@hypothesis.given(
    texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=20), min_size=1, max_size=4),
    separator=st.sampled_from([",", ";", "\t", "|"]),
    suffix=st.sampled_from([".csv", ".tsv"]),
)
def test_texts_come_back_from_tables(
    folder: pathlib.Path, texts: list[str], separator: str, suffix: str
) -> None:
    path = folder / f"p{suffix}"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=separator, quoting=csv.QUOTE_ALL)
        writer.writerows([["Prompt", "note"], *([text, "x"] for text in texts)])
    found = check_readable(path)
    if found and not any("\n" in text or "\r" in text or "\ufeff" in text for text in texts):
        assert [p.text for p in found] == [json_text.mend_text(text).strip() for text in texts]


@pytest.mark.skipif(not PARTI_PROMPTS.exists(), reason="PartiPrompts is not beside this clone")
def test_parti_prompts() -> None:
    found = prompt_files.read_prompts(PARTI_PROMPTS)
    assert len(found) == 1632 == len({p.id for p in found})
    assert found[5] == prompt_files.Prompt(
        "p00005-yin-yang", "yin-yang", "Abstract", "Basic", {"note": "Related to five elements"}
    )
    assert len({p.category for p in found}) == 12 and len({p.challenge for p in found}) == 11
    assert all(re.fullmatch(r"p\d{5}-[a-z0-9-]{0,53}", p.id) for p in found)

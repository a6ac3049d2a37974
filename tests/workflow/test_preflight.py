# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""A mistake in the settings of a late stage is found before the first one runs."""

import os
import pathlib
import re

import pytest
import yaml

from parti.workflow import config_files, preflight, run_workflow

ROOT = pathlib.Path(__file__).resolve().parents[2]


def message(
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    *changes: str,
    name: str = "",
    root: str = "/work",
) -> str:
    """Returns what the check of a workflow with changes says; "" if it accepts them."""
    path = tmp_path / "workflow.yaml"
    path.write_text(yaml.safe_dump(config_files.load(name or "scenes-tiny", changes)))
    try:
        code = preflight.main(str(path), root)
    except SystemExit as stopped:
        code = stopped.code
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == ((2, 1) if error else (0, 0))
    return error.strip()


@pytest.mark.parametrize("name", ["scenes-tiny", "scenes", "pairs-tiny", "pairs"])
def test_the_workflows_that_come_with_the_package_are_accepted(name, tmp_path, capsys):
    (tmp_path / "a.tar").write_text("x")
    changes = [f"input={tmp_path}/a.tar"] if name.startswith("pairs") else []
    assert message(tmp_path, capsys, *changes, name=name) == ""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("generate.num_sample=4", "generate: unknown flag --num_sample; did you mean --num_samp"),
        ("generate.num_samples=many", "generate: argument --num_samples: invalid int"),
        ("generate.temperature=-1", "generate: --temperature must be >= 0"),
        ("clean.preset=x", "clean: --preset=x: choose from"),
        ("clean.input_format=x", "clean: --input_format=x: unknown; choose from"),
        ("scenes.world=x", "scenes: --world=x: choose from"),
        ("vocab.vocab_size=0", "vocab: --vocab_size=0: give a positive number"),
        ("tokenize.batch_size=0", "tokenize: --batch_size=0: give at least 1"),
        ("choose_prompts.num=-1", "choose_prompts: --num=-1: it must not be negative"),
        ("evaluate.num_reference=0", "evaluate: --num_reference=0: give at least 1"),
        ("export.foo=1", "export: unknown flag --foo"),
        ("beam.runnner=x", "unknown flag --runnner; did you mean --runner?"),
        ("beam.runner=DataflowRunner", "scenes: runner: DataflowRunner: its workers do not see"),
        ("clean.runner=dataflow", "clean: runner: dataflow: its workers do not see the working"),
        ("train_generator.gin.TRAIN_STEP=3", "train_generator: --gin.TRAIN_STEP: no gin file"),
        ("train_tokenizer.gin.BATCH_SIZE=0", "train_tokenizer: BATCH_SIZE must be a whole number"),
        ("train_reranker.gin.TRAIN_STEPS=20", "train_reranker: warmup_steps must be in [0, tot"),
        ("train_tokenizer.experiment=t5x_configs/experiments/wdsr_x2.gin", "--gin.PAIRS_DIR: no"),
    ],
)
def test_a_mistake_names_stage_and_remedy(change, expected, tmp_path, capsys):
    assert expected in message(tmp_path, capsys, change)


@pytest.fixture
def table(tmp_path: pathlib.Path) -> pathlib.Path:
    """A table in a folder, and a table of other columns beside it."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "t.csv").write_text("image,caption\n0.png,a red bus\n")
    (tmp_path / "bad.csv").write_text("photo,words\n0.png,a red bus\n")
    (tmp_path / "bad.doc").write_text("words")
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            ["input={0}/bad.csv"],
            "clean: {0}/bad.csv: no column is known to hold captions, of photo",
        ),
        (["clean.columns=text=words"], "--columns text=words: {0}/in/t.csv has only the columns"),
        (["clean.image_root={0}/gone"], "clean: --image_root={0}/gone: no such folder"),
        (["clean.decontaminate={0}/gone.tsv"], "clean: {0}/gone.tsv: no evaluation data there"),
        (["clean.decontaminate=[{0}/bad.doc, {0}/gone]"], "clean: {0}/bad.doc: not a kind of ev"),
        (["clean.extend={0}/in"], "clean: {0}/in"),
        (["clean.input_format=parquet"], "clean: {0}/in: no parquet files"),
        (["clean.image_root={0}/in"], ""),
    ],
)
def test_what_clean_would_refuse_of_its_input(changes, expected, table, tmp_path, capsys):
    changes = [f"input={table}", *(change.format(tmp_path) for change in changes)]
    assert expected.format(tmp_path) in message(tmp_path, capsys, *changes, name="pairs-tiny")


def test_paths_of_clean_begin_where_the_command_is_given(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("bad\n")
    changes = ("clean.image_root=in", "clean.unwanted_words_file=words.txt", "clean.preset=none")
    changes += ("clean.decontaminate=in/t.csv,words.txt", "clean.keep_originals=kept")
    config = config_files.load("pairs-tiny", ["input=in", *changes])
    assert config["clean"] == {
        "image_size": 64,
        "image_root": str(table),
        "unwanted_words_file": str(tmp_path / "words.txt"),
        "preset": "none",
        "decontaminate": [str(table / "t.csv"), str(tmp_path / "words.txt")],
        "keep_originals": str(tmp_path / "kept"),
    }


def test_several_inputs_are_accepted(tmp_path, capsys):
    (tmp_path / "a.tar").write_text("x")
    one = f"{{input: {tmp_path}/a.tar, rate: 0.5}}"
    changes = [f"inputs={{laion: {one}, own: {one}}}"]
    assert message(tmp_path, capsys, *changes, name="pairs-tiny") == ""
    wrong = [*changes, "train_generator.gin.TRAIN_STEP=3"]
    assert "train_generator: --gin.TRAIN_STEP" in message(
        tmp_path, capsys, *wrong, name="pairs-tiny"
    )


def test_flags_of_beam_reach_every_stage_that_runs_on_it(tmp_path, capsys):
    changes = ("beam.direct_num_workers=2", "clean.direct_running_mode=multi_processing")
    assert message(tmp_path, capsys, *changes) == ""
    config = config_files.load("scenes-tiny", changes)
    assert config_files.stage_flags(config, "clean")[0] == "--direct_num_workers=2"
    assert "--direct_num_workers=2" not in config_files.stage_flags(config, "export")


DATAFLOW = (
    *("beam.runner=DataflowRunner", "beam.project=p", "beam.region=r"),
    *("beam.temp_location=gs://b/tmp", "beam.sdk_container_image=image"),
)
CLUSTER = ("beam.runner=PortableRunner", "beam.job_endpoint=cluster:8099")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (DATAFLOW, ""),
        (CLUSTER, ""),
        (["clean.runner=FlinkRunner", "clean.flink_master=cluster:8081"], ""),
        (
            DATAFLOW[:3],
            "scenes: runner: DataflowRunner needs temp_location too; set them in `beam`",
        ),
        (DATAFLOW[:1], "scenes: runner: DataflowRunner needs project and region and temp_location"),
        (
            DATAFLOW[:4],
            "scenes: --runner=DataflowRunner: the workers need this package; pass --sdk",
        ),
        ((*DATAFLOW, "evaluate.runner=DirectRunner"), ""),
        ((*DATAFLOW, "generate.region=''"), "generate: runner: DataflowRunner needs region too"),
    ],
)
def test_the_runner_of_each_stage_with_data_in_a_bucket(changes, expected, tmp_path, capsys):
    config = config_files.load("scenes-tiny", ["storage=gs://bucket/run/", *changes])
    assert config["storage"] == "gs://bucket/run"
    said = message(tmp_path, capsys, "storage=gs://bucket/run", *changes, root="gs://bucket/run")
    assert said.startswith(expected) if expected else said == ""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (DATAFLOW, "scenes: runner: DataflowRunner: its workers do not see the working folder of "),
        (CLUSTER, "PortableRunner: its workers do not see .*; set storage: gs://bucket/run, or sh"),
        ((*CLUSTER, "beam.shared_folders=true"), "$"),
        (["beam.runner=PortableRunner", "beam.job_endpoint=localhost:8099"], "$"),
        (
            (*DATAFLOW, "beam.shared_folders=true"),
            "DataflowRunner: .*set storage: gs://bucket/run$",
        ),
    ],
)
def test_workers_on_other_machines_do_not_see_the_working_folder(
    changes, expected, tmp_path, capsys
):
    assert re.search(expected, message(tmp_path, capsys, *changes))


def test_workers_on_other_machines_do_not_see_pictures_of_this_one(table, tmp_path, capsys):
    changes = ["storage=gs://bucket/run", f"input={table}"]
    said = message(tmp_path, capsys, *changes, *CLUSTER, name="pairs-tiny", root="gs://bucket/run")
    assert said.startswith(f"clean: {table}: workers of --runner=PortableRunner are on other mach")
    assert message(tmp_path, capsys, *changes, name="pairs-tiny", root="gs://bucket/run") == ""
    changes = ["storage=gs://bucket/run", "input='gs://bucket/raw/*.tar'"]
    said = message(tmp_path, capsys, *changes, *CLUSTER, name="pairs-tiny", root="gs://bucket/run")
    assert said == ""


def test_the_file_for_dataflow_and_slurm_in_the_docs_is_accepted(tmp_path, capsys):
    text = (ROOT / "docs" / "workflow.md").read_text(encoding="utf-8")
    path = tmp_path / "run.yaml"
    path.write_text(re.search(r"`run.yaml`:\n```yaml\n(.*?)```", text, re.DOTALL)[1])
    assert message(tmp_path, capsys, name=str(path), root="gs://bucket/run") == ""
    config = config_files.load(str(path))
    here = {"clean", "vocab", "tokenize"}
    assert {n for n in config_files.BEAM_STAGES if config_files.has_own_workers(config, n)} >= here
    assert not config_files.has_own_workers(config, "generate")


def test_each_stage_has_its_places_and_the_flags_of_its_runner():
    """In a command `@/` is where the data are, so that it says the same at each place."""
    changes = ["storage=gs://bucket/run", *CLUSTER, "clean.runner=DirectRunner"]
    changes += ["train_text_encoder.experiment=t5x_configs/experiments/text_encoder_tiny.gin"]
    runner = ["--runner=PortableRunner", "--job_endpoint=cluster:8099"]
    drawn = ["--world=tiny", "--num=12000", "--size=64", "--seed=0"]
    model = "--model=@/bundle"
    made = config_files.commands(config_files.load("scenes-tiny", changes))
    beam_stages = {
        "scenes": ["scenes", "--output=@/raw", *runner, *drawn],
        "clean": [
            *("clean", "--input", "@/raw", "--output=@/pairs"),
            *("--runner=DirectRunner", runner[1], "--image_size=64"),
        ],
        "vocab": ["vocab", "--input=@/pairs", "--output=@/vocabulary", *runner, "--vocab_size=512"],
        "tokenize": [
            *("tokenize", "--input=@/pairs", "--model=@/tokenizer", "--write_reconstructions"),
            *("--output=@/tokens", *runner),
        ],
        "generate": [
            *("generate", "--prompts=@/prompts/prompts.jsonl", model, "--output=@/generations"),
            *(*runner, "--num_samples=16", "--guidance_scale=1.2", "--seed=0"),
        ],
        "evaluate": [
            *("evaluate", "--generations=@/generations", "--reference=@/pairs", model),
            *("--output=@/evaluation", *runner),
        ],
        "choose_prompts": [
            *("prompts", "--input=@/raw/prompts-validation.jsonl", "--output=@/prompts"),
            "--num=200",
        ],
        "export": [
            *("export", "--workdir=@/.", "--parts", *config_files.PARTS, "--output=@/bundle")
        ],
    }
    for name, words in beam_stages.items():
        assert made.pop(name)[1] == words
    assert {name: output for name, (output, _) in made.items()} == {
        f"train_{part}": part for part in config_files.TRAINED
    }
    for part in config_files.TRAINED:
        assert f"--gin.MODEL_DIR='@/{part}'" in made[f"train_{part}"][1]
    assert "--gin.TEXT_ENCODER='@/text_encoder'" in made["train_generator"][1]


@pytest.mark.parametrize(
    ("storage", "expected"),
    [
        ("runs/a", "storage is 'runs/a'; give an address such as gs://bucket/run"),
        ("[a]", r"storage is \['a'\]; give an address"),
        ("s3://bucket/run", "storage 's3://bucket/run': checkpoints are written to local folders"),
        ("gs://bucket", "storage 'gs://bucket' is a whole bucket; name a folder in it"),
    ],
)
def test_a_storage_that_cannot_work_is_refused(storage, expected, tmp_path):
    arguments = ["scenes-tiny", "--workdir", str(tmp_path / "work"), "--set", f"storage={storage}"]
    with pytest.raises(ValueError, match=expected):
        run_workflow.workflow(arguments)
    assert not (tmp_path / "work").exists()


def test_a_storage_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    def refuse(inputs, outputs):
        raise ValueError(f"{outputs[0]}: cannot be written")

    monkeypatch.setattr(run_workflow.publishing, "check_places", refuse)
    arguments = ["scenes-tiny", "--workdir", str(tmp_path / "work"), "--dry_run"]
    with pytest.raises(ValueError, match="gs://b/run/.stages: cannot be written"):
        run_workflow.workflow([*arguments, "--set", "storage=gs://b/run/"])
    assert not (tmp_path / "work").exists()


def test_the_working_folder_is_local():
    with pytest.raises(ValueError, match="must be a folder of this machine; for data elsewhere"):
        run_workflow.workflow(["scenes-tiny", "--workdir", "gs://bucket/runs", "--dry_run"])


def test_a_refused_workflow_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.delenv("PARTI_COMMAND", raising=False)
    workdir = tmp_path / "work"
    arguments = ["scenes-tiny", "--workdir", str(workdir)]
    with pytest.raises(ValueError, match="did you mean --num_samples"):
        run_workflow.workflow([*arguments, "--set", "generate.num_sample=4"])
    monkeypatch.setenv("PARTI_COMMAND", "true")  # stages of another installation check themselves
    with pytest.raises(ValueError, match="Snakemake: .*--no_such_flag"):
        run_workflow.workflow([*arguments, "--set", "generate.num_sample=4", "--no_such_flag"])
    assert not workdir.exists()


@pytest.mark.parametrize(
    "content", ['{"prompt": 5}\n', "[1\n", "", '{"id": "a/b", "prompt": "a"}\n']
)
def test_prompts_that_a_stage_refuses_are_refused_before_the_first(tmp_path, content, monkeypatch):
    monkeypatch.delenv("PARTI_COMMAND", raising=False)
    (tmp_path / "mine.jsonl").write_text(content)
    workdir = tmp_path / "work"
    arguments = ["scenes-tiny", "--workdir", str(workdir), "--dry_run"]
    with pytest.raises(ValueError, match=r"mine\.jsonl"):
        run_workflow.workflow([*arguments, "--set", f"prompts={tmp_path}/mine.jsonl"])
    assert not workdir.exists()


def test_a_platform_that_is_not_there_is_told_before_the_first_stage(tmp_path, monkeypatch):
    monkeypatch.delenv("PARTI_COMMAND", raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    arguments = ["scenes-tiny", "--workdir", str(tmp_path / "work")]
    with pytest.raises(ValueError, match="JAX_PLATFORMS=nonsense: JAX finds no such device here"):
        run_workflow.workflow(arguments)
    (tmp_path / "bad.jsonl").touch()
    # Of another machine nothing is known here: the next check is what refuses.
    with pytest.raises(ValueError, match="bad.jsonl"):
        change = f"prompts={tmp_path}/bad.jsonl"
        run_workflow.workflow([*arguments, "--executor=slurm", "--set", change])
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("name", [b"caf\xe9", b"a\nb", b"a\tb", b"a\\new"])
def test_a_working_folder_that_no_training_could_write_is_refused(tmp_path, name):
    workdir = os.fsdecode(bytes(tmp_path) + b"/" + name)
    with pytest.raises(ValueError, match="--workdir .*: checkpoints cannot be written to"):
        run_workflow.workflow(["scenes-tiny", "--workdir", workdir, "--dry_run"])
    assert not os.path.exists(workdir)

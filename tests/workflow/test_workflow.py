# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a workflow runs again, and what it does not: Snakemake with stages that do nothing."""

import glob
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import yaml

from parti.workflow import config_files, run_workflow, scheduler, stage

FAKE = pathlib.Path(__file__).parents[1] / "fake_parti.py"
ROOT = FAKE.parents[2]
OUTPUTS = [
    *("raw", "pairs", "vocabulary", "tokenizer", "tokens", "generator", "reranker", "upsampler"),
    *("bundle", "prompts", "generations", "evaluation"),
]


class Lab:
    """A workflow of fake stages in a folder of its own."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder, self.workdir = folder, folder / "work"
        self.calls_path = folder / "calls"
        self.config = folder / "fake.yaml"

    def environment(self, **variables: str) -> dict[str, str]:
        command = f"{shlex.quote(sys.executable)} -P {shlex.quote(str(FAKE))}"
        mine = {"FAKE_CALLS": str(self.calls_path), "PARTI_COMMAND": command}
        return os.environ | mine | variables

    def arguments(self, *more: str) -> list[str]:
        return [str(self.config), "--workdir", str(self.workdir), *more]

    def run(self, *more: str, **variables: str) -> int:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment(**variables).items():
                patch.setenv(name, value)
            return run_workflow.workflow(self.arguments(*more))

    def start(self, *more: str, **variables: str) -> subprocess.Popen[bytes]:
        """Starts a run and returns when a stage hangs in the middle of its work."""
        # A shell starts `make test-slow &` with SIGINT ignored, and children inherit that.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "parti", "workflow", *self.arguments(*more)],
                env=self.environment(**variables),
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        finally:
            signal.signal(signal.SIGINT, before)
        wait_for((self.workdir / "hanging").exists)
        return process

    def hanging_stage_ended(self) -> bool:
        pid = int((self.workdir / "hanging").read_text())
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        # A zombie whose parent was killed waits for init, which may be slow in a container.
        return pathlib.Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"

    def calls(self) -> list[str]:
        """Returns the outputs that stages worked on since the last call of this."""
        calls = self.calls_path.read_text().split() if self.calls_path.exists() else []
        self.calls_path.unlink(missing_ok=True)
        return calls


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A workflow that ran to its end once."""
    lab = Lab(tmp_path_factory.mktemp("finished"))
    experiment = lab.folder / "experiment.gin"
    experiment.write_text("TRAIN_STEPS = 2\n")
    trainings = {f"train_{p}": {"experiment": str(experiment)} for p in config_files.PARTS}
    config = {"source": "scenes", "jobs": 4, "scenes": {"num": 3}, **trainings}
    # Quotes, braces and references must reach the command as they are.
    config["train_generator"] |= {"gin": {"NOTE": "it's {odd}", "OPTIMIZER": "@adamw()"}}
    lab.config.write_text(yaml.safe_dump(config))
    assert lab.run() == 0
    return lab


@pytest.fixture
def lab(finished: Lab, tmp_path: pathlib.Path) -> Lab:
    """A moved copy: a working folder holds no absolute path that counts."""
    mine = Lab(tmp_path)
    shutil.copytree(finished.workdir, mine.workdir)
    shutil.copy2(finished.config, mine.config)
    return mine


def test_a_first_run_makes_everything_and_a_second_nothing(
    finished: Lab, capsys: pytest.CaptureFixture
) -> None:
    calls = finished.calls()
    assert sorted(calls) == sorted(OUTPUTS)
    road = ("raw", "pairs", "tokenizer", "tokens", "generator", "bundle", "generations")
    assert [call for call in calls if call in road] == list(road)
    assert calls[0] == "raw" and calls[-1] == "evaluation"
    record = json.loads((finished.workdir / ".stages" / "train_generator.json").read_text())
    assert '--gin.NOTE="it\'s {odd}"' in record["command"]
    assert "--gin.OPTIMIZER=@adamw()" in record["command"]
    capsys.readouterr()
    assert finished.run() == 0
    assert "nothing to do" in capsys.readouterr().out
    assert finished.calls() == []


def test_a_changed_setting_runs_only_what_depends_on_it(
    lab: Lab, capsys: pytest.CaptureFixture
) -> None:
    change = ("--set", "vocab.vocab_size=9")
    assert lab.run("--dry_run", *change) == 0
    plan = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines()[1:])
    stale = "vocab train_generator train_reranker export generate evaluate"
    assert set(plan) == set(stale.split())
    assert plan["vocab"] == "its settings changed"
    assert plan["export"].endswith("before it") and "vocab" in plan["export"]
    assert lab.calls() == []

    assert lab.run(*change) == 0
    outputs = ["vocabulary", "generator", "reranker", "bundle", "generations", "evaluation"]
    assert sorted(lab.calls()) == sorted(outputs)
    # The stale training was replaced, not continued, and what it replaced is gone.
    assert (lab.workdir / "generator" / "steps.txt").read_text() == "1\n2\n"
    assert not list((lab.workdir / ".stages" / "replaced").iterdir())


def test_a_lost_output_is_made_again_and_what_reads_the_same_bytes_is_not(
    lab: Lab, capsys: pytest.CaptureFixture
) -> None:
    shutil.rmtree(lab.workdir / "pairs")
    (lab.workdir / "generations" / "data.txt").unlink()
    assert lab.run() == 0
    assert sorted(lab.calls()) == ["generations", "pairs"]
    assert "vocab: unchanged" in capsys.readouterr().out
    assert lab.run("--dry_run") == 0
    assert "nothing to do" in capsys.readouterr().out


def test_an_output_changed_by_hand_is_kept_and_what_reads_it_runs(lab: Lab) -> None:
    (lab.workdir / "vocabulary" / "manifest.json").write_text('{"fingerprint": "mine"}')
    assert lab.run() == 0
    assert "vocabulary" not in (calls := lab.calls())
    assert {"generator", "reranker", "evaluation"} <= set(calls) and "tokens" not in calls


def test_the_experiment_file_is_a_setting(lab: Lab, capsys: pytest.CaptureFixture) -> None:
    experiment = lab.folder / "other.gin"
    experiment.write_text("TRAIN_STEPS = 3\n")
    assert lab.run("--dry_run", "--set", f"train_upsampler.experiment={experiment}") == 0
    plan = capsys.readouterr().out
    assert "train_upsampler  its settings changed" in plan and "train_reranker" not in plan


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_an_interrupted_run_goes_on_where_it_stopped(lab: Lab, number: signal.Signals) -> None:
    change = ("--set", "train_generator.gin.LEARNING_RATE=0.1")
    process = lab.start(*change, FAKE_HANG="generator")
    process.send_signal(number)
    assert process.wait(60) == (130 if number == signal.SIGINT else -signal.SIGKILL)
    wait_for(lab.hanging_stage_ended)
    lab.calls()
    assert lab.run(*change) == 0
    assert lab.calls() == ["generator", "bundle", "generations", "evaluation"]
    assert (lab.workdir / "generator" / "steps.txt").read_text() == "1\n2\n"
    assert "resumed after step 1" in (lab.workdir / "logs" / "train_generator.log").read_text()


def test_a_failure_names_its_log_and_old_settings_bring_the_old_result_back(
    lab: Lab, capsys: pytest.CaptureFixture
) -> None:
    change = ("--set", "train_generator.gin.LEARNING_RATE=1000")
    assert lab.run(*change, FAKE_FAIL="generator") == 1
    message = capsys.readouterr().err
    assert "Traceback: no space left" in message and "train_generator.log" in message
    assert "to go on: parti workflow" in message and "LEARNING_RATE=1000" in message
    assert not (lab.workdir / "generator").exists()
    lab.calls()
    assert lab.run() == 0
    assert lab.calls() == []
    assert (lab.workdir / "generator" / "manifest.json").exists()


@pytest.mark.slow
def test_the_real_stages_survive_a_kill(tmp_path: pathlib.Path) -> None:
    """The demonstration with a handful of steps, killed while the generator trains."""
    workdir = tmp_path / "demo"
    command = [sys.executable, "-m", "parti", "demo", "--workdir", str(workdir)]
    for part in config_files.PARTS:
        numbers = {"TRAIN_STEPS": 20, "CHECKPOINT_PERIOD": 5, "BATCH_SIZE": 8, "EVAL_STEPS": 1}
        numbers["optimizers.warmup_cosine.warmup_steps"] = 2
        for name, value in numbers.items():
            command += ["--set", f"train_{part}.gin.{name}={value}"]
    command += ["--set", "scenes.num=300", "--set", "choose_prompts.num=4"]
    command += ["--set", "generate.num_samples=2"]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    wait_for(lambda: (workdir / "generator" / "checkpoint_5").exists(), 1800)
    process.kill()
    process.wait()
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    assert "going on from step" in (workdir / "logs" / "train_generator.log").read_text()
    for output in OUTPUTS:
        assert (workdir / output / "manifest.json").is_file()
    assert (workdir / "generations" / "gallery.html").is_file()
    metrics = json.loads((workdir / "evaluation" / "metrics.json").read_text())
    assert metrics["num_prompts_with_scene"] == 4
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "nothing to do" in ended.stdout


def test_a_text_encoder_comes_before_the_generator(lab: Lab) -> None:
    """It is optional, and no part of the bundle; the generator starts from it."""
    experiment = yaml.safe_load(lab.config.read_text())["train_generator"]["experiment"]
    change = ("--set", f"train_text_encoder.experiment={experiment}")
    assert lab.run(*change) == 0
    assert lab.calls() == ["text_encoder", "generator", "bundle", "generations", "evaluation"]
    record = json.loads((lab.workdir / ".stages" / "train_generator.json").read_text())
    assert "--gin.TEXT_ENCODER='@/text_encoder'" in record["command"]
    record = json.loads((lab.workdir / ".stages" / "train_text_encoder.json").read_text())
    assert "--gin.PAIRS_DIR='@/pairs'" in record["command"]
    record = json.loads((lab.workdir / ".stages" / "export.json").read_text())
    assert "text_encoder" not in record["command"]


def test_one_run_at_a_time(tmp_path: pathlib.Path) -> None:
    locks = tmp_path / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    (locks / "0.input.lock").write_text("left by a kill")
    with scheduler.only_run(tmp_path):
        assert not list(locks.iterdir())
        second = scheduler.only_run(tmp_path, patience=0.0)
        with pytest.raises(ValueError, match=f"another run .* {os.getpid()}"):
            second.__enter__()


def test_graph(finished: Lab, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert finished.run("--graph", str(tmp_path / "stages.dot")) == 0
    text = (tmp_path / "stages.dot").read_text()
    names = set(re.findall(r'label = "(\w+)"', text)) - {"all"}
    assert {"scenes", "train_generator", "evaluate"} <= names and len(names) == len(OUTPUTS)
    assert text.startswith("digraph")
    with pytest.raises(ValueError, match=".dot, .svg"):
        finished.run("--graph", str(tmp_path / "stages.gif"))
    monkeypatch.setattr(run_workflow.shutil, "which", lambda program: None)
    with pytest.raises(ValueError, match="svg needs Graphviz .*; install it, or write .dot"):
        finished.run("--graph", str(tmp_path / "stages.svg"))
    # A stand-in for Graphviz's program, which writes down how it was called.
    program = tmp_path / "dot"
    program.write_text('#!/bin/sh\n{ echo "$1"; cat; } > "$3"\n')
    program.chmod(0o755)
    monkeypatch.setattr(run_workflow.shutil, "which", lambda name: str(program))
    assert finished.run("--graph", str(tmp_path / "new" / "stages.svg")) == 0
    drawn = (tmp_path / "new" / "stages.svg").read_text().splitlines()
    assert drawn[0] == "-Tsvg" and sorted(drawn[1:]) == sorted(text.splitlines())


def test_a_wrong_snakemake_flag_is_one_line(finished: Lab) -> None:
    with pytest.raises(ValueError, match="Snakemake: .*--no_such_flag"):
        finished.run("--no_such_flag")
    with pytest.raises(ValueError, match="--forcerun: .* delete its folder"):
        finished.run("--forcerun", "vocab")
    with pytest.raises(ValueError, match="--executor.*snakemake-executor-plugin-NAME"):
        finished.run("--executor", "no_such_executor")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("vocabulary.vocab_size=9", "unknown key 'vocabulary'; did you mean 'vocab'"),
        ("jobs=0", "jobs is 0"),
        ("source=cats", "allowed: scenes, pairs"),
        ("source=pairs", "--set input="),
        ("clean=5", "must be a section"),
        ("jobs.x=5", "'jobs' is a value"),
        ("jobs", "write key=value"),
        ("train_generator.experiment=no.gin", "no experiment file 'no.gin'"),
        ("train_generator.steps=5", "unknown key 'steps'"),
        ("prompts=no.txt", "no file matches"),
        ("generate.output=x", "generate.output is for the workflow to set"),
        ("clean.overwrite=true", "clean.overwrite is for the workflow to set"),
        ("train_generator.gin.MODEL_DIR=x", "MODEL_DIR is for the workflow to set"),
        ("train_generator.gin=5", "gin is 5; it holds macros"),
    ],
)
def test_mistakes_in_a_workflow_file(finished: Lab, change: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        config_files.load(str(finished.config), [change])


def test_own_pictures_and_prompts(finished: Lab, tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.tar").write_text("x")
    (tmp_path / "prompts.txt").write_text("a cat\n")
    changes = ["source=pairs", f"input={tmp_path}/*.tar", f"prompts={tmp_path}/prompts.txt"]
    config = config_files.load(str(finished.config), changes)
    before = config_files.listing(config["input"])
    (tmp_path / "b.tar").write_text("y")
    assert config_files.listing(config["input"]) != before
    lab = Lab(tmp_path)
    lab.config.write_text(yaml.safe_dump(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAKE_CALLS", str(lab.calls_path))
        tool = scheduler.Scheduler(tmp_path, lab.config, 1)
        names = [planned.name for planned in tool.plan()]
    assert "scenes" not in names and names[0] in ("clean", "choose_prompts")


@pytest.fixture
def elsewhere(finished: Lab, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Stages for a runner of Beam with workers elsewhere, but `clean`; an executor, `shell`."""
    changes = [f"beam.{x}" for x in ("runner=PortableRunner", "job_endpoint=cluster:8099")]
    changes += ["clean.runner=DirectRunner", "choose_prompts.num=5"]
    lab = Lab(tmp_path)
    lab.config.write_text(yaml.safe_dump(config_files.load(str(finished.config), changes)))
    monkeypatch.setenv("PYTHONPATH", str(FAKE.parent))
    monkeypatch.setenv("EXECUTED", str(tmp_path / "executed"))
    return lab


HERE = {"scenes", "vocab", "tokenize", "generate", "evaluate"}
EXECUTED = {"clean", "export", "choose_prompts", *(f"train_{p}" for p in config_files.PARTS)}


def test_a_stage_that_waits_for_workers_elsewhere_is_no_job_of_an_executor(elsewhere: Lab) -> None:
    config = yaml.safe_load(elsewhere.config.read_text())
    stages = config_files.BEAM_STAGES
    assert {name for name in stages if config_files.has_own_workers(config, name)} == HERE
    assert not config_files.has_own_workers(config, "export")
    config["beam"] = {}
    assert not any(config_files.has_own_workers(config, name) for name in stages)


@pytest.mark.slow
def test_an_executor_runs_the_other_stages(elsewhere: Lab) -> None:
    assert elsewhere.run("--executor", "shell", "--seconds-between-status-checks=1") == 0
    assert sorted(elsewhere.calls()) == sorted(OUTPUTS)
    assert set((elsewhere.folder / "executed").read_text().split()) == EXECUTED
    records = stage.read_records(elsewhere.workdir)
    assert records.keys() == HERE | EXECUTED
    assert "--runner=PortableRunner" in records["scenes"]["command"]
    assert "--runner=DirectRunner" in records["clean"]["command"]


def test_jobs_that_do_not_see_the_working_folder_are_refused(
    elsewhere: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APART", "1")
    with pytest.raises(ValueError, match="--executor: the jobs of this one do not see --workdir"):
        elsewhere.run("--executor", "shell")
    with pytest.raises(ValueError, match="--default-storage-provider: .* for data elsewhere --set"):
        elsewhere.run("--executor", "shell", "--default-storage-provider", "gcs")
    assert not elsewhere.workdir.exists()


INPUTS = "inputs={{laion: {{input: {0}/a.tar, rate: 0.7}}, own: {{input: {0}/b, rate: 0.3}}}}"


def test_several_inputs_are_mixed(finished: Lab, tmp_path: pathlib.Path) -> None:
    """Each is cleaned and tokenized by itself; trainings read all, by rate."""
    (tmp_path / "a.tar").write_text("x")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "b.jpg").write_text("y")
    changes = ["source=pairs", INPUTS.format(tmp_path)]
    config = config_files.load(str(finished.config), changes)
    assert config["inputs"]["own"] == {"input": [f"{tmp_path}/b"], "rate": 0.3}
    lab = Lab(tmp_path)
    lab.config.write_text(yaml.safe_dump(config))
    assert lab.run() == 0
    own = {
        "raw": [],
        "pairs": ["pairs_laion", "pairs_own"],
        "tokens": ["tokens_laion", "tokens_own"],
    }
    assert sorted(lab.calls()) == sorted(x for name in OUTPUTS for x in own.get(name, [name]))

    def command(name: str) -> str:
        record = json.loads((lab.workdir / ".stages" / f"{name}.json").read_text())
        log = (lab.workdir / "logs" / f"{name}.log").read_text().splitlines()[0]
        assert record["command"]
        return log

    assert f"--input {tmp_path}/a.tar" in command("clean_laion")
    work = lab.workdir
    assert f"--input {work}/pairs_laion {work}/pairs_own" in command("vocab")
    assert f"--input={work}/pairs_own" in command("tokenize_own")
    tokens = f"{{'{work}/tokens_laion': 0.7, '{work}/tokens_own': 0.3}}"
    assert f"--gin.TOKENS_DIR={tokens}" in command("train_generator")
    assert f"'{work}/tokens_own/reconstructions': 0.3" in command("train_upsampler")
    # The set of the highest rate gives prompts and reference pictures.
    assert f"--input={work}/pairs_laion" in command("choose_prompts")
    assert f"--reference={work}/pairs_laion" in command("evaluate")
    # Another rate: the trainings and what depends on them, but no cleaning and no tokens again.
    assert lab.run("--set", "inputs.own.rate=0.5") == 0
    calls = lab.calls()
    assert "generator" in calls and not any(c.startswith(("pairs", "vocab")) for c in calls)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("inputs=5", "inputs is 5; write inputs: {laion: {input:"),
        ("inputs={a: {input: b, rate: 1}}", "inputs has one, 'a'; set `input` to it"),
        ("inputs={A-b: {input: b, rate: 1}, c: 1}", "names 'A-b'; a name is of small letters"),
        ("inputs={a: {input: b}, c: {input: b, rate: 1}}", "inputs.a is .*; write inputs: {la"),
        ("inputs={a: {input: b, rate: 0}, c: {input: b, rate: 1}}", "a.rate is 0; give a number"),
        ("inputs={a: {input: /no, rate: 1}, c: {input: b, rate: 1}}", "inputs.a.input: no file"),
    ],
)
def test_mistakes_in_inputs(finished: Lab, change: str, message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        config_files.load(str(finished.config), ["source=pairs", change])
    with pytest.raises(ValueError, match="instead of `input`; set one"):
        changes = ["source=pairs", "input=a", "inputs={a: {input: b, rate: 1}, b: 1}"]
        config_files.load(str(finished.config), changes)


@pytest.mark.parametrize(
    "name",
    ["run[1].tar", "a,b.tar", "{x,y}.tar", "a #1.tar", "0012", "it's", '"q', "[x]", "a: b", " s "],
)
def test_an_input_that_exists_is_that_one(
    finished: Lab, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for other in ("run1.tar", "a", "b.tar", "x.tar", "y.tar", "10", "q", "x", "s"):
        (tmp_path / other).write_text("another")
    (tmp_path / name).write_text("this one")
    monkeypatch.chdir(tmp_path)
    for given in (name, f"{tmp_path}/{name}"):
        config = config_files.load(str(finished.config), ["source=pairs", f"input={given}"])
        assert config["input"] == [f"{tmp_path}/{name}"]
    assert config_files.listing(config["input"]) == config_files.listing(
        [glob.escape(f"{tmp_path}/{name}")]
    )


def test_inputs_may_be_lists_and_patterns(finished: Lab, tmp_path: pathlib.Path) -> None:
    for number in range(3):
        (tmp_path / f"s-{number:04d}.tar").write_text("x")

    def load(value: str) -> list[str]:
        return config_files.load(str(finished.config), ["source=pairs", f"input={value}"])["input"]

    whole = f"{tmp_path}/s-{{0000..0002}}.tar"
    assert load(whole) == [whole]
    assert config_files.listing([whole]) == config_files.listing([f"{tmp_path}/*.tar"])
    assert load(f"{whole},gs://b/{{a,b}}.tar") == [whole, "gs://b/{a,b}.tar"]
    assert load(f"['{whole}', '{tmp_path}']") == [whole, str(tmp_path)]
    with pytest.raises(FileNotFoundError, match=r"no file matches '.*s-0003\.tar'"):
        load(f"{tmp_path}/s-{{0000..0003}}.tar")


def test_unknown_workflow_names_those_that_exist() -> None:
    with pytest.raises(FileNotFoundError, match="pairs, pairs-tiny, scenes, scenes-tiny"):
        config_files.load("no-such-workflow")


def test_names_in_gin_have_dots(finished: Lab) -> None:
    change = "train_generator.gin.optimizers.adamw.weight_decay=0.1"
    config = config_files.load(str(finished.config), [change])
    command = config_files.train_command(config, "generator")
    assert "--gin.optimizers.adamw.weight_decay=0.1" in command
    assert not any("TEXT_ENCODER" in word for word in command)


def test_flags() -> None:
    section = {"num": 3, "overwrite": True, "quiet": False, "seed": None, "sizes": [1, 2]}
    assert config_files.flags(section) == ["--num=3", "--overwrite", "--sizes", "1", "2"]


def test_a_mistake_on_the_command_line_is_one_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_workflow.workflow(["--dry_run"])
    assert capsys.readouterr().err == (
        "parti workflow: the following arguments are required: config\n"
    )
    file = tmp_path / "file"
    file.touch()
    for flag in ("--dry_run", "--dry-run", "-n"):
        for folder in (file, file / "below" / "it"):
            with pytest.raises(NotADirectoryError, match="file is a file; it must be a folder"):
                run_workflow.workflow(["scenes-tiny", "--workdir", str(folder), flag])


def test_a_stage_that_was_stopped_has_not_failed(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / ".stages").mkdir()
    for name, state in (("tokenizer", "stopped"), ("generator", "failed"), ("pairs", "done")):
        record = {"name": name, "state": state, "updated": 2.0}
        (tmp_path / ".stages" / f"{name}.json").write_text(json.dumps(record))
    run_workflow._print_failure(tmp_path, 1.0, tmp_path / "log", "parti demo")
    titles = [line for line in capsys.readouterr().err.splitlines() if "; the end of" in line]
    assert [title.split(";")[0] for title in titles] == [
        "generator failed",
        "tokenizer was stopped",
    ]

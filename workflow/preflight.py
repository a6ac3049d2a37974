# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Checks the flags and gin macros of every stage of a workflow, before the first one runs.

A program of its own: it imports all stages, and Beam, TensorFlow and JAX with them.
"""

import importlib
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

import yaml
from apache_beam.options import pipeline_options

from parti.data.text import prompt_files
from parti.pipelines import choose_prompts, clean_pairs
from parti.pipelines.beam import options, runners
from parti.stages import commands, files, manifests, quiet
from parti.workflow import config_files, stage


def check(config_path: pathlib.Path, root: str, environment: Mapping[str, str]) -> None:
    """Checks the flags and macros of a file that `config_files.load` has accepted.

    The data will be at `root`, the working folder or an address. Stages that run elsewhere
    (`PARTI_COMMAND`, e.g. in a container) check their own.

    Raises:
      ValueError: a stage would refuse what is set for it; one line.
    """
    if os.environ.get(stage.COMMAND_VARIABLE):
        return
    print("checking the settings of every stage", flush=True)
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "parti.workflow.preflight", str(config_path), root],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or ["no message"]
        raise ValueError(lines[-1])


def check_prompts(paths: Sequence[str]) -> None:
    """Reads the prompts of a workflow file and writes them as `parti prompts` will.

    Stages that run elsewhere check their own. Raises ValueError, or OSError, as these stages would.
    """
    for path in [] if os.environ.get(stage.COMMAND_VARIABLE) else paths:
        if files.is_dir(path):
            manifests.read(path, "pairs")
            continue
        prompts = choose_prompts.choose(prompt_files.read_prompts(path), num=0)
        with tempfile.TemporaryDirectory(prefix="parti-") as folder:
            written = pathlib.Path(folder, choose_prompts.FILE_NAME)
            try:
                prompt_files.write_prompts(written, prompts)
                prompt_files.read_prompts(written)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error


def main(config_path: str, root: str) -> int:
    """Checks every section; at the first mistake prints a line and returns, or exits with, 2."""
    from parti.engine.experiment import experiments

    config = yaml.safe_load(pathlib.Path(config_path).read_text(encoding="utf-8"))
    is_drawn = config["source"] == "scenes"
    # The trainings first: their files hold the most.
    found = config_files.commands(config).items()
    for name, (_, (verb, *words)) in sorted(found, key=lambda of: not of[0].startswith("train_")):
        try:
            if verb == "train":
                experiments.check_experiment(
                    [words[0].removeprefix("--gin_file=")],
                    [word.removeprefix("--gin.") for word in words[1:]],
                )
            else:
                words = [stage.in_folder(word, root) for word in words]
                _check_flags(verb, name, words, is_drawn)
        except (ValueError, OSError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 2
    return 0


def _check_flags(verb: str, name: str, argv: Sequence[str], is_drawn: bool) -> None:
    """Checks a stage's flags as its command will, and whether its workers see its places.

    `is_drawn` says that the pictures are still to be drawn.
    """
    module = importlib.import_module(commands.COMMANDS[verb][0])
    parser = module.make_parser()
    parser.prog = name
    if verb not in config_files.BEAM_STAGES:
        flags = parser.parse_args(argv)
        if hasattr(module, "check_flags"):
            module.check_flags(flags)
        return
    flags, beam_options = options.parse(parser, argv)
    settings, places = module.check_flags(flags), [flags.output]
    if verb == "clean":
        places += [place for part in clean_pairs.places(flags, settings) for place in part]
        flags.input = [] if is_drawn else flags.input
        clean_pairs.check_input(flags)
    _check_runner(beam_options, places)


def _check_runner(beam_options: pipeline_options.PipelineOptions, places: Sequence[str]) -> None:
    """Refuses a runner that was not told all, or whose workers do not see the output, the first.

    Raises:
      ValueError: such a runner, with the keys of the workflow file to set.
    """
    runner = beam_options.view_as(pipeline_options.StandardOptions).runner
    is_dataflow = runners.is_dataflow(beam_options)
    if not files.is_remote(places[0]) and not runners.sees_local_files(beam_options):
        or_shared = "" if is_dataflow else ", or shared_folders: true if they have it by a mount"
        raise ValueError(
            f"runner: {runner}: its workers do not see the working folder of this machine; set "
            f"storage: gs://bucket/run{or_shared}"
        )
    cloud = beam_options.view_as(pipeline_options.GoogleCloudOptions)
    missing = [key for key in ("project", "region", "temp_location") if not getattr(cloud, key)]
    if is_dataflow and missing:
        raise ValueError(
            f"runner: {runner} needs {' and '.join(missing)} too; set them in `beam`, such as "
            "beam: {project: P, region: us-central1, temp_location: gs://bucket/tmp}"
        )
    runners.check(beam_options, places)


if __name__ == "__main__":
    quiet.install()
    sys.exit(main(*sys.argv[1:]))

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Checks the flags and gin macros of every stage of a workflow, before the first one runs.

A program of its own: it imports all stages, and Beam, TensorFlow and JAX with them.
"""

import argparse
import importlib
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

import yaml

from parti.data.text import prompt_files
from parti.pipelines import choose_prompts, clean_pairs
from parti.stages import commands, manifests, quiet
from parti.workflow import config_files, stage


def check(config_path: pathlib.Path, environment: Mapping[str, str]) -> None:
    """Checks the flags and macros of a file that `config_files.load` has accepted.

    Stages that run elsewhere (`PARTI_COMMAND`, e.g. in a container) check their own.

    Raises:
      ValueError: a stage would refuse what is set for it; one line.
    """
    if os.environ.get(stage.COMMAND_VARIABLE):
        return
    print("checking the settings of every stage", flush=True)
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "parti.workflow.preflight", str(config_path)],
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
    for path in [] if os.environ.get(stage.COMMAND_VARIABLE) else map(pathlib.Path, paths):
        if path.is_dir():
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


def main(config_path: str) -> int:
    """Checks every section; at the first mistake prints a line and returns, or exits with, 2."""
    from parti.engine.experiment import experiments

    config = yaml.safe_load(pathlib.Path(config_path).read_text(encoding="utf-8"))
    section = ""
    try:
        for part, section in zip(config_files.TRAINED, config_files.TRAININGS, strict=True):
            if config[section]:
                _, gin_file, *bindings = config_files.train_command(config, part)
                experiments.check_experiment(
                    [gin_file.removeprefix("--gin_file=")],
                    [binding.removeprefix("--gin.") for binding in bindings],
                )
        for section in config_files.FLAG_SECTIONS:
            if section != "beam":
                flags = _check_flags(section, config_files.stage_flags(config, section))
            if section == "clean":
                flags.input = config["input"] if config["source"] == "pairs" else []
                clean_pairs.check_input(flags)
    except (ValueError, OSError) as error:
        print(f"{section}: {error}", file=sys.stderr)
        return 2
    return 0


def _check_flags(name: str, argv: Sequence[str]) -> argparse.Namespace:
    """Parses a stage's flags as its command will; `check_flags`, where it has one, checks more."""
    module = importlib.import_module(commands.COMMANDS[config_files.verb(name)][0])
    parser = module.make_parser()
    parser.prog = name
    parser.require_nothing()
    if name in config_files.BEAM_STAGES:
        from parti.pipelines.beam import options, runners

        flags, beam_options = options.parse(parser, argv)
        if runners.name(beam_options) in ("dataflow", "dataflowrunner"):
            raise ValueError(
                "runner: DataflowRunner cannot work here: the folders of a workflow are on this "
                "machine, and Dataflow's workers do not see them; remove it (docs/dataflow.md "
                "tells what runs there)"
            )
    else:
        flags = parser.parse_args(argv)
    if hasattr(module, "check_flags"):
        module.check_flags(flags)
    return flags


if __name__ == "__main__":
    quiet.install()
    sys.exit(main(sys.argv[1]))

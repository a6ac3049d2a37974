# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Would every stage of a workflow accept its flags and its gin macros? Asked before the first runs.

    python -m parti.workflow.preflight WORKFLOW.yaml

It is a program of its own because it imports all stages, and Beam, TensorFlow and JAX with them.
"""

import importlib
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from parti.stages import commands, quiet
from parti.workflow import config_files, stage


def check(config_path: pathlib.Path, environment: Mapping[str, str]) -> None:
    """Checks the flags and macros of a workflow file.

    Stages that run elsewhere (`PARTI_COMMAND`, e.g. in a container) check their own.

    Args:
      config_path: a file that `config_files.load` has accepted.
      environment: of the process that looks.

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


def main(config_path: str) -> int:
    """Checks every section; at the first mistake a line on stderr and 2, returned or as exit."""
    config = yaml.safe_load(pathlib.Path(config_path).read_text(encoding="utf-8"))
    section = ""
    try:
        for part, section in zip(config_files.PARTS, config_files.TRAININGS, strict=True):
            if config[section]:
                _check_training(config_files.train_command(part, config[section]))
        for section in config_files.FLAG_SECTIONS:
            if section != "beam":
                _check_flags(section, config["beam"], config[section])
    except (ValueError, OSError) as error:
        print(f"{section}: {error}", file=sys.stderr)
        return 2
    return 0


def _check_training(command: Sequence[str]) -> None:
    from parti.engine.experiment import experiments

    _, gin_file, *bindings = command
    experiments.check_experiment(
        [gin_file.partition("=")[2]], [binding.removeprefix("--gin.") for binding in bindings]
    )


def _check_flags(name: str, beam: Mapping[str, Any], section: Mapping[str, Any]) -> None:
    command = {"choose_prompts": "prompts"}.get(name, name)
    module = importlib.import_module(commands.COMMANDS[command][0])
    parser = module.make_parser()
    parser.prog = name
    parser.require_nothing()
    if uses_beam := hasattr(module, "build"):
        section = {**beam, **section}
    argv = config_files.flags(section)
    if uses_beam:
        from parti.pipelines.beam import options

        flags, _ = options.parse(parser, argv)
    else:
        flags = parser.parse_args(argv)
    if hasattr(module, "check_flags"):
        module.check_flags(flags)


if __name__ == "__main__":
    quiet.install()
    sys.exit(main(sys.argv[1]))

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The scripts of docs/clusters.md, with stand-ins for the clusters' own commands."""

import json
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import jax
import packages
import pytest
import toy_training
import yaml

from parti.engine import train
from parti.engine.checkpoints import checkpoints
from parti.engine.distributed import multihost
from parti.engine.experiment import experiments

PAGE = (packages.ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
JOB = "4096"  # of Slurm
NUM_PROCESSES = 2
TIMEOUT = 120.0
# Starts a process for each of two nodes, which are this machine, and hands on a SIGTERM, as srun.
SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
export SLURM_STEP_NODELIST=localhost SLURM_STEP_NUM_NODES=2 SLURM_NTASKS=2 SLURM_LOCALID=0
for i in 0 1; do SLURM_PROCID=$i "$@" & started+=($!); done
trap 'kill -TERM "${started[@]}"' TERM
code=0
for one in "${started[@]}"; do
  wait "$one"; last=$?
  while kill -0 "$one" 2>/dev/null; do wait "$one"; last=$?; done
  [ "$last" -gt "$code" ] && code=$last
done
exit "$code"
"""
PRINT = """#!/bin/bash
printf '%s\\n' "$@"
"""


def blocks(language: str) -> list[str]:
    """Returns the page's pieces of code in a language."""
    return re.findall(rf"^```{language}\n(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def commands(tmp_path: pathlib.Path) -> pathlib.Path:
    """The folder of the stand-ins."""
    folder = tmp_path / "bin"
    folder.mkdir()
    add(folder, "parti", f'#!/bin/bash\nexec {shlex.quote(sys.executable)} -m parti "$@"\n')
    add(folder, "srun", SRUN)
    return folder


def add(folder: pathlib.Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def environment(folder: pathlib.Path, **others: str) -> dict[str, str]:
    mine = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    here = os.pathsep.join([str(packages.ROOT / "tests"), str(packages.ROOT)])
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return mine | {"PATH": path, "PYTHONPATH": here} | others


def printed(script: str, folder: pathlib.Path, *arguments: str, **others: str) -> list[str]:
    """Returns the lines that a script writes."""
    ran = subprocess.run(
        ["bash", "-euc", script, "script", *arguments],
        env=environment(folder, **others),
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.splitlines()


def start(script: pathlib.Path, folder: pathlib.Path, *arguments: str) -> subprocess.Popen[str]:
    """Starts the batch script, as Slurm does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    found = environment(
        folder,
        SLURM_JOB_ID=JOB,
        JAX_COORDINATOR_PORT=port,
        JAX_PLATFORMS="cpu",
        XLA_FLAGS="--xla_force_host_platform_device_count=1",
        PARTI_PROGRESS_FILE=str(script.with_suffix(".progress")),
    )
    return subprocess.Popen(
        ["bash", str(script), *arguments], env=found, stderr=subprocess.PIPE, text=True
    )


def check_flags(argv: list[str]) -> Any:
    """Returns the flags of `parti train`; its experiment is read, without data."""
    assert argv[0] == "train"
    flags = train._parse_flags(argv[1:], ())
    experiment, _ = experiments.load_without_data(flags.gin_file, flags.gin_bindings)
    assert experiment.model_dir == "gs://BUCKET/generator"
    return flags


@pytest.mark.slow
def test_slurm_starts_stops_and_goes_on(tmp_path: pathlib.Path, commands: pathlib.Path) -> None:
    script, gin, run = tmp_path / "train.sbatch", tmp_path / "toy.gin", tmp_path / "run"
    script.write_text(blocks("bash")[0])
    gin.write_text(toy_training.GIN + "TRAIN_STEPS = 1_000_000\nEVAL_PERIOD = 0\n")
    add(commands, "scontrol", f'#!/bin/bash\necho "$@" >> {tmp_path / "scontrol"}\n')
    flags = [f"--gin_file={gin}", f"--gin.MODEL_DIR='{run}'"]
    started = start(script, commands, *flags)
    progress, end = script.with_suffix(".progress"), time.monotonic() + TIMEOUT
    while not (progress.is_file() and json.loads(progress.read_text())["done"] >= 4):
        assert started.poll() is None and time.monotonic() < end, started.communicate()[1]
        time.sleep(0.1)
    # To the step alone, as `--signal` without `B:`.
    children = pathlib.Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
    (srun,) = map(int, children)
    os.kill(srun, signal.SIGTERM)
    _, said = started.communicate(timeout=TIMEOUT)
    assert started.returncode == 143, said
    assert "of 2 processes" in said and "saving, then stopping" in said
    assert (tmp_path / "scontrol").read_text() == f"requeue {JOB}\n"
    (stopped,) = checkpoints.steps(run)[-1:]
    started = start(script, commands, *flags, f"--gin.TRAIN_STEPS={stopped + 6}")
    _, said = started.communicate(timeout=TIMEOUT)
    assert started.returncode == 0, said
    assert f"going on from step {stopped}" in said
    assert checkpoints.steps(run)[-1] == stopped + 6 and (run / "manifest.json").is_file()
    assert (tmp_path / "scontrol").read_text() == f"requeue {JOB}\n", "and not queued again"


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        (
            {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_NODES": "4", "SLURM_GPUS_ON_NODE": "8"},
            [*range(8)],
        ),
        ({"SLURM_NTASKS": "32", "SLURM_STEP_NUM_NODES": "4", "SLURM_GPUS_ON_NODE": "8"}, None),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NUM_NODES": "4"}, None),
        ({}, None),
    ],
)
def test_a_lone_task_of_a_host_has_all_its_gpus(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], wanted: list[int] | None
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **options: given.update(options))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    multihost.connect()
    assert given["local_device_ids"] == wanted and given["cluster_detection_method"] is None
    multihost.connect("host0:1234", 4, 1)
    assert given["local_device_ids"] is None
    assert given["cluster_detection_method"] == "deactivate"
    monkeypatch.setenv("JAX_LOCAL_DEVICE_IDS", "0,1")
    multihost.connect()
    assert given["local_device_ids"] is None


def test_t5x_is_told_who_is_who_by_slurm(commands: pathlib.Path) -> None:
    add(commands, "scontrol", "#!/bin/bash\nprintf 'node7\\nnode8\\n'\n")
    add(commands, "python", PRINT)
    lines = printed(blocks("bash")[1], commands, "--gin_file=x", SLURM_JOB_NODELIST="node[7-8]")
    for index in range(NUM_PROCESSES):
        assert f"--process_index={index}" in lines
    assert lines.count("--coordinator_address=node7:12345") == NUM_PROCESSES
    assert lines.count("--process_count=2") == lines.count("--gin_file=x") == NUM_PROCESSES


def test_the_job_of_kubernetes(commands: pathlib.Path) -> None:
    service, job = yaml.safe_load_all(blocks("yaml")[0])
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    (container,) = pod["containers"]
    add(commands, "parti", PRINT)
    argv = [*container["command"][:1], "-euc", *container["args"]]
    ran = subprocess.run(
        argv, env=environment(commands, JOB_COMPLETION_INDEX="3"), capture_output=True, text=True
    )
    flags = check_flags(ran.stdout.splitlines())
    assert flags.num_processes == spec["completions"] == spec["parallelism"]
    assert flags.process_id == 3
    host = f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert flags.coordinator_address.split(":")[0] == host


def test_the_command_for_each_host_of_a_tpu(commands: pathlib.Path) -> None:
    """`gcloud ... ssh --command=...` hands it to a shell there."""
    add(
        commands,
        "gcloud",
        '#!/bin/bash\nfor word in "$@"; do\n'
        '  [[ $word == --command=* ]] && exec bash -euc "${word#--command=}"\ndone\n',
    )
    add(commands, "sudo", PRINT)
    script = blocks("bash")[2]
    assert script.count("gcloud ") == 2
    lines = printed(script.split("\n", 2)[2], commands)
    argv = lines[lines.index("IMAGE") + 1 :]
    assert "--entrypoint=parti" in lines and check_flags(argv).distributed

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""One training, or generation, in many processes, a process per host.

Each process runs the same program on its own devices. All read the same files; those of a training
share a file system or bucket. The first process alone writes the output (checkpoints are written by
all, each its own parts). A process that dies ends the others within HEARTBEAT_SECONDS; the same
command, of a training on as many processes as there are then, goes on from what was saved last.
"""

import argparse
import hashlib
import json
import os
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from parti.stages import files, quiet

Value = TypeVar("Value")

# How long a process may be silent before the others give up.
HEARTBEAT_SECONDS = 60
# How long a file of one process may take to be seen by the others.
SHARED_SECONDS = 30.0
_ROUND_BYTES = 2**24  # of a process, that go over the devices at a time
# Errors of the runtime when another process does not answer; gloo and NCCL have words of their own,
# under codes that other errors have, too.
_LOST_CODES = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED")
_LOST_WORDS = ("gloo", "remote process exited", "connection closed", "connection reset")


def connect(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the processes of one training; call it before anything else touches a device.

    Without arguments JAX finds them out: on Cloud TPU, Slurm and Open MPI, on Kubernetes with its
    package `kubernetes`. A process has all GPUs of its host; if Slurm starts several on a host, it
    has the one of its SLURM_LOCALID.

    Args:
      coordinator_address: `host:port` of process 0; the port must be free there.
      num_processes, process_id: how many there are, and which this is, from 0.

    Raises:
      ValueError: only some of the three are given, or they do not fit.
      RuntimeError: the others did not come, or no cluster was found.
    """
    given = (coordinator_address, num_processes, process_id)
    if any(x is None for x in given) and any(x is not None for x in given):
        raise ValueError(
            "give all of --coordinator_address, --num_processes and --process_id, or none of them "
            "(--distributed finds them out where JAX knows the cluster)"
        )
    if num_processes is not None and not 0 <= (process_id or 0) < num_processes:
        raise ValueError(
            f"--process_id {process_id} of --num_processes {num_processes}: count from 0 to "
            f"{num_processes - 1}"
        )
    jax.distributed.initialize(
        *given,
        local_device_ids=_gpus_of_lone_task() if process_id is None else None,
        # jax would look for Slurm even if it is told all, and take one GPU.
        cluster_detection_method=None if process_id is None else "deactivate",
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        # An error that only one process meets ends it without a long wait for the others.
        shutdown_timeout_seconds=HEARTBEAT_SECONDS,
    )


def _gpus_of_lone_task() -> list[int] | None:
    """Returns all GPUs of a host on which Slurm starts one process: jax would take the first.

    None elsewhere, and if JAX_LOCAL_DEVICE_IDS names them.
    """
    names = ("SLURM_NTASKS", "SLURM_STEP_NUM_NODES", "SLURM_GPUS_ON_NODE")
    tasks, nodes, gpus = map(os.environ.get, names)
    if not gpus or tasks != nodes or os.environ.get("JAX_LOCAL_DEVICE_IDS"):
        return None
    return list(range(int(gpus)))


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say how to join other processes; see `join`."""
    add = parser.add_argument
    add("--distributed", action="store_true", help="join the other processes, as JAX finds them")
    add("--coordinator_address", metavar="HOST:PORT", help="of process 0, to join the others")
    add("--num_processes", type=int, metavar="N", help="how many join")
    add("--process_id", type=int, metavar="I", help="which of them this is, from 0")


def asked(flags: argparse.Namespace) -> bool:
    """Returns whether the flags of `add_flags` ask to join other processes."""
    return flags.distributed or any(flag is not None for flag in _addressed(flags))


def join(flags: argparse.Namespace) -> None:
    """Joins the other processes if the flags ask for it."""
    if asked(flags):
        connect(*_addressed(flags))


def _addressed(flags: argparse.Namespace) -> tuple[Any, ...]:
    return flags.coordinator_address, flags.num_processes, flags.process_id


def count() -> int:
    """Returns how many processes work together."""
    return jax.process_count()


def index() -> int:
    """Returns which of them this is, from 0."""
    return jax.process_index()


def is_first() -> bool:
    """Returns whether this process writes what is written once."""
    return index() == 0


def log(text: str) -> None:
    """Prints a line for the user, once."""
    if is_first():
        print(text, file=sys.stderr, flush=True)


def wait_for_all(name: str) -> None:
    """Returns when every process has come to this barrier."""
    if count() > 1:
        multihost_utils.sync_global_devices(name)


def check_equal(what: str, text: str) -> None:
    """Raises ValueError unless all processes have the same text."""
    if count() == 1:
        return
    mine = np.frombuffer(hashlib.sha256(text.encode("utf-8")).digest(), np.uint8)
    others = multihost_utils.process_allgather(mine)
    differing = [i for i, other in enumerate(others) if not np.array_equal(other, others[0])]
    if differing:
        raise ValueError(
            f"{what} differs between process 0 and process {differing[0]}; give all processes the "
            "same command, files and versions"
        )


def all_agree(condition: bool) -> bool:
    """Returns whether a condition holds in every process."""
    return not _where(not condition)


def _where(condition: bool) -> list[int]:
    """Returns the processes in which a condition holds."""
    if count() == 1:
        return [0] if condition else []
    return np.flatnonzero(multihost_utils.process_allgather(np.asarray(condition))).tolist()


def gather(data: bytes) -> list[bytes]:
    """Returns what each process gives, in their order; it goes over the devices, in rounds."""
    if count() == 1:
        return [data]
    size = np.array([len(data)], np.int64).view(np.uint32)  # devices may have no int64
    every = np.ascontiguousarray(multihost_utils.process_allgather(size))
    sizes: list[int] = every.view(np.int64).ravel().tolist()
    parts = [bytearray() for _ in sizes]
    for begin in range(0, max(sizes), _ROUND_BYTES):
        width = min(_ROUND_BYTES, max(sizes) - begin)
        mine = np.frombuffer(data[begin : begin + width].ljust(width, b"\0"), np.uint8)
        for part, row in zip(parts, multihost_utils.process_allgather(mine), strict=True):
            part += row.tobytes()
    return [bytes(part[:size]) for part, size in zip(parts, sizes)]


def of_first(make: Callable[[], Value]) -> Value:
    """Returns what the first process makes, a JSON value; the others wait for it.

    An error that it meets is raised in all.
    """
    if count() == 1:
        return make()
    text = ""
    with failing_together():
        if is_first():
            text = json.dumps(make())
    return json.loads(gather(text.encode("utf-8"))[0])


@contextmanager
def failing_together() -> Iterator[None]:
    """Raises an error in all processes if the block, which may not wait for the others, fails.

    Raises:
      Exception: what failed here.
      ValueError: nothing failed here, but in another process.
    """
    mine: Exception | None = None
    try:
        yield
    except Exception as error:
        mine = error
    if failed := _where(mine is not None):
        raise mine or ValueError(f"process {failed[0]} has failed; its own line says why")


def check_shared(folder: files.Path) -> None:
    """Raises ValueError unless all processes see a file of the first one within SHARED_SECONDS."""
    if count() == 1:
        return
    name = np.frombuffer(uuid.uuid4().bytes, np.uint8)
    if is_first():
        files.make_dirs(folder)
        files.write_bytes(files.join(folder, f".shared-{name.tobytes().hex()}"), b"")
    # When it has come, the file is written.
    name = np.asarray(multihost_utils.broadcast_one_to_all(name))
    token = files.join(folder, f".shared-{name.tobytes().hex()}")
    end = time.monotonic() + SHARED_SECONDS
    while not (is_there := files.exists(token)) and time.monotonic() < end:
        time.sleep(0.2)
    seen = multihost_utils.process_allgather(np.asarray(is_there))
    if is_first():
        files.remove(token)
    if blind := np.flatnonzero(~seen).tolist():
        raise ValueError(
            f"process {blind[0]} does not see what process 0 writes into {folder}; MODEL_DIR must "
            "lie where all hosts write: a shared file system such as NFS, or a bucket (gs://)"
        )


@contextmanager
def ending_if_one_is_lost(command: str = "train", what: str = "training") -> Iterator[None]:
    """Ends this process, saying why, if computing with the others fails inside.

    At once and not by an exception: whatever is left to do would wait for the others.
    """
    with _ending_at(jax.errors.JaxRuntimeError, command, what):
        yield


@contextmanager
def ending_if_one_fails(command: str = "train", what: str = "training") -> Iterator[None]:
    """The same at any error inside, where the others wait for what this process does.

    Once it is gone they end too, within HEARTBEAT_SECONDS. One process alone raises the error.
    """
    with _ending_at(Exception, command, what):
        yield


@contextmanager
def _ending_at(kind: type[Exception], command: str, what: str) -> Iterator[None]:
    try:
        yield
    except kind as error:
        if count() == 1:
            raise
        text = _explain(error, what)
        print(f"[{command}] process {index()}: {text}", file=sys.stderr, flush=True)
        os._exit(1)


def _explain(error: Exception, what: str) -> str:
    """Returns a line of a failure that a user can mend, else the traceback."""
    message, is_of_jax = str(error), isinstance(error, jax.errors.JaxRuntimeError)
    is_lost = message.startswith(_LOST_CODES) or any(w in message.lower() for w in _LOST_WORDS)
    if is_of_jax and is_lost:
        return (
            f"{message.splitlines()[0][:300]}. Perhaps another process of this {what} has died: "
            "its own log says why. The same command, for all processes, goes on from what was "
            "saved last"
        )
    is_known = isinstance(error, RuntimeError | ValueError | OSError) and not is_of_jax
    if is_known and not os.environ.get(quiet.VARIABLE):
        return f"{type(error).__name__}: {' '.join(message.split())[:500]}"
    return "".join(traceback.format_exception(error)).rstrip()

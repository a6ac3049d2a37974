# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""One training in many processes, a process per host, that share a file system.

Each process runs the same program on its own devices. All read the same files; the first process
alone writes the run directory (checkpoints are written by all, each its own parts). A process that
dies ends the others within HEARTBEAT_SECONDS; the same command, on as many processes as there are
then, goes on from the last checkpoint.
"""

import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

# How long a process may be silent before the others give up.
HEARTBEAT_SECONDS = 60


def connect(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the processes of one training; call it before anything else touches a device.

    Without arguments JAX finds them out: on Cloud TPU, Slurm, Kubernetes and Open MPI.

    Args:
      coordinator_address: `host:port` of process 0; the port must be free there.
      num_processes: how many there are.
      process_id: which this is, from 0.

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
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        # An error that only one process meets ends it without a long wait for the others.
        shutdown_timeout_seconds=HEARTBEAT_SECONDS,
    )


def count() -> int:
    """Returns how many processes train together."""
    return jax.process_count()


def index() -> int:
    """Returns which process this is, from 0."""
    return jax.process_index()


def is_first() -> bool:
    """Returns whether this process writes what is written once."""
    return index() == 0


def log(text: str) -> None:
    """Prints a line for the user, once."""
    if is_first():
        print(text, file=sys.stderr, flush=True)


def wait_for_all(name: str) -> None:
    """Returns when every process has come to the place of this name."""
    if count() > 1:
        multihost_utils.sync_global_devices(name)


def check_equal(what: str, text: str) -> None:
    """Checks that all processes have the same text.

    Raises:
      ValueError: another process has another one.
    """
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
    if count() == 1:
        return condition
    return bool(multihost_utils.process_allgather(np.asarray(condition)).all())


@contextmanager
def ending_if_one_is_lost() -> Iterator[None]:
    """Ends this process, with a line that says why, if computing with the others fails inside.

    At once and not by an exception: whatever is left to do would wait for the others.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if count() == 1:
            raise
        print(
            f"[train] process {index()}: {str(error).splitlines()[0][:300]}. Perhaps another "
            "process of this training has died: its own log says why. The same command, for all "
            "processes, goes on from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)


class StopRequest:
    """Whether the run was asked to stop, by SIGTERM or SIGINT (many processes: SIGTERM to any).

    Attributes:
      signal_number: the signal; 0 before it came.
    """

    def __init__(self) -> None:
        self.signal_number = 0

    def at(self, step: int) -> bool:
        """Returns whether to stop, asked once after each step; True in all processes at one step.

        The step is the first that all processes can still stop after.
        """
        if count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            log("[train] SIGTERM: saving, then stopping")
            self.signal_number = signal.SIGTERM
        return bool(self.signal_number)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Listens for signals; in one process a second one of them ends it as usual."""
    request = StopRequest()
    numbers = (signal.SIGTERM, signal.SIGINT)
    before: dict[signal.Signals, Any] = {}

    def handle(number: int, _: object) -> None:
        request.signal_number = number
        for other, handler in before.items():
            signal.signal(other, handler)
        log(f"[train] {signal.Signals(number).name}: saving, then stopping")

    try:
        # With many processes JAX listens for SIGTERM, and tells the others.
        if count() == 1:
            before = {number: signal.getsignal(number) for number in numbers}
            for number in numbers:
                signal.signal(number, handle)
    except ValueError:  # Not the main thread: whoever runs us handles signals.
        before = {}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

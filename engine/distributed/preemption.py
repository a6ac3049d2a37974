# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Preemption: at SIGTERM or SIGINT a training saves and stops, all its processes at one step.

One process notes the signal itself. With many, jax listens for SIGTERM and tells the others; SIGINT
is handed to it as SIGTERM.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

from jax.experimental import multihost_utils

from parti.engine.distributed import multihost


class StopRequest:
    """Whether the run was asked to stop, by a signal to this process or, of many, to any.

    Attributes:
      signal_number: the signal; 0 before all processes know of it.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        self._received, self._asked = 0, 0

    def stops(self) -> bool:
        """Returns whether to stop: True in all processes at once, which all ask equally often."""
        if multihost.count() > 1 and not self.signal_number:
            # Step numbers go back at a rollback; jax counts forwards.
            self._asked += 1
            if multihost_utils.reached_preemption_sync_point(self._asked):
                self._stop(self._received or signal.SIGTERM)
        return bool(self.signal_number)

    def receive(self, number: int) -> None:
        """Notes a signal to this process."""
        if multihost.count() == 1:
            self._stop(number)
        else:
            self._received = number
            os.kill(os.getpid(), signal.SIGTERM)

    def _stop(self, number: int) -> None:
        self.signal_number = number
        multihost.log(f"[train] {signal.Signals(number).name}: saving, then stopping")
        if multihost.count() > 1:  # jax has told the others and is done with it.
            with contextlib.suppress(ValueError):  # Not the main thread.
                signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def handled(number: signal.Signals, handler: Any) -> Iterator[None]:
    """Gives a signal a handler inside: a function, or `signal.SIG_IGN`."""
    try:
        before = signal.signal(number, handler)
    except ValueError:  # Not the main thread: whoever runs us handles signals.
        yield
        return
    try:
        yield
    finally:
        signal.signal(number, before)


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Listens for signals inside; a second one ends the process as usual."""
    request = StopRequest()
    numbers = [signal.SIGINT, signal.SIGTERM][: 2 if multihost.count() == 1 else 1]
    before: dict[signal.Signals, Any] = {number: signal.getsignal(number) for number in numbers}

    def handle(number: int, _: object) -> None:
        for other, handler in before.items():
            # Of many processes, cleaning up after an exception would wait for the others.
            signal.signal(other, handler if multihost.count() == 1 else signal.SIG_DFL)
        request.receive(number)

    with contextlib.ExitStack() as stack:
        for number in numbers:
            stack.enter_context(handled(number, handle))
        yield request

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Prefetching: a thread reads batches and puts them on the devices; positions stay exact."""

import contextlib
import pathlib
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

from parti.engine.input import datasets


class Prefetcher:
    """Reads batches and puts them on the devices in a thread, ahead of the steps that take them.

    The position of the data is kept at the steps where a checkpoint will be saved, by the thread
    itself and before it reads on, so what is read ahead never enters a checkpoint. To stop at any
    other step, `finish_after`: a few batches are still handed out, then the end comes, with the
    position after the last of them.
    """

    def __init__(
        self,
        batches: datasets.Batches,
        place: Callable[[datasets.Batch], Any],
        start: int,
        stop: int,
        keep_position: Callable[[int], bool],
        depth: int = 2,
    ) -> None:
        """Starts to read, `depth` batches ahead, the data after step `start`, to step `stop`.

        `place` puts a batch on the devices; `keep_position` says whether the position after a
        number of steps will be asked for.
        """
        self._batches, self._place, self._keep_position = batches, place, keep_position
        self._start, self._stop, self._depth = start, stop, depth
        self._folder = tempfile.TemporaryDirectory(prefix="parti-position-")
        self._queue: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(depth)
        self._finishing = threading.Event()
        self._thread = threading.Thread(target=self._read, name="prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        batch, error = self._queue.get()
        if error is not None:
            self._queue.put((None, error))  # The end stays the end.
            raise error
        return batch

    def finish_after(self, step: int) -> None:
        """Ends the batches soon after step `step`, the last one taken.

        It is always the same number of steps later, whatever this process has read already, so that
        all processes of a training end together.
        """
        # The batches in the queue, and one that waits to enter it.
        self._stop = min(self._stop, step + self._depth + 1)

    def position(self, step: int) -> pathlib.Path:
        """Returns the folder with the position after a number of steps."""
        return pathlib.Path(self._folder.name) / str(step)

    def close(self) -> None:
        """Stops reading and forgets the positions."""
        self._finishing.set()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._queue.get(timeout=0.05)
        self._folder.cleanup()

    def _read(self) -> None:
        step = self._start
        try:
            while step < self._stop and not self._finishing.is_set():
                batch = self._place(next(self._batches))
                step += 1
                if step == self._stop or self._keep_position(step):
                    self._save(step)
                self._queue.put((batch, None))
            if step > self._start and not self.position(step).exists():
                self._save(step)
            self._queue.put((None, StopIteration()))
        except StopIteration:
            message = f"the training data ended after {step} batches; the source must repeat"
            self._queue.put((None, ValueError(message)))
        except BaseException as error:  # It is raised where the batch is taken.
            self._queue.put((None, error))

    def _save(self, step: int) -> None:
        self.position(step).mkdir(parents=True)
        self._batches.save(self.position(step))

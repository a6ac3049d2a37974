# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a run shows: scalars and what a model shows of itself, in TensorBoard and as pictures.

`<model_dir>/<split>/`: TensorBoard files. `<model_dir>/pictures/<name>-<step>.png`: grids of
pictures at each evaluation; the model's `summaries` says what their rows are.
"""

import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from parti.data.images import images
from parti.models import base
from parti.stages import files

PICTURES = "pictures"
_GAP = 2  # pixels between the pictures of a grid


def grid(pictures: np.ndarray) -> np.ndarray:
    """Lays pictures out in rows and columns, on white.

    Args:
      pictures: [rows, columns, height, width, 3] in [-1, 1]; clipped here.

    Returns:
      [rows * (height + 2) + 2, columns * (width + 2) + 2, 3] uint8.
    """
    rows, columns, height, width, _ = pictures.shape
    size = (rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3)
    page = np.full(size, 255, np.uint8)
    for i in range(rows):
        for j in range(columns):
            top, left = i * (height + _GAP) + _GAP, j * (width + _GAP) + _GAP
            page[top : top + height, left : left + width] = images.to_uint8(pictures[i, j])
    return page


class Writer:
    """Writes TensorBoard files, a folder per split, and pictures.

    TensorFlow is imported at the first write; where it is not installed there are only pictures.
    """

    def __init__(self, directory: str, tensorboard: bool, start: int = 0) -> None:
        """Takes the run's directory, and the step that it goes on from.

        `tensorboard` False writes no such files. TensorBoard is told to drop the later steps of
        earlier files, of a run that was cut off.
        """
        self._directory, self._tensorboard = pathlib.Path(directory), tensorboard
        self._start = start
        self._writers: dict[str, Any] = {}

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Writes scalars."""
        if writer := self._writer(split):
            writer.write_scalars(step, values)

    def show(self, step: int, split: str, summaries: base.Summaries) -> None:
        """Writes histograms and grids of pictures; the scalars are `write`'s."""
        grids = {name: grid(np.asarray(value)) for name, value in summaries.pictures.items()}
        for name, page in grids.items():
            path = self._picture(step, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_bytes(path, images.encode_png(page))
        if (grids or summaries.histograms) and (writer := self._writer(split)):
            writer.write_histograms(step, summaries.histograms)
            writer.write_images(step, {name: page[None] for name, page in grids.items()})

    def has_shown(self, step: int, name: str) -> bool:
        """Returns whether the grid of a step is there."""
        return self._picture(step, name).is_file()

    def note(self, name: str, text: str) -> None:
        """Writes a text beside the pictures."""
        path = self._directory / PICTURES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(path, text.encode("utf-8"))

    def close(self) -> None:
        """Waits until all is written."""
        for writer in self._writers.values():
            writer.close()

    def _picture(self, step: int, name: str) -> pathlib.Path:
        return self._directory / PICTURES / f"{name}-{step:08d}.png"

    def _writer(self, split: str) -> Any:
        """Returns the writer of a split; None where there is to be none."""
        if self._tensorboard and split not in self._writers:
            try:
                from clu import metric_writers
            except ImportError as error:
                self._tensorboard = False
                print(f"[train] no TensorBoard files: {error}", file=sys.stderr)
                return None
            writer = metric_writers.SummaryWriter(str(self._directory / split))
            _drop_after(self._start, writer)
            self._writers[split] = metric_writers.AsyncWriter(writer)
        return self._writers.get(split)


def _drop_after(step: int, writer: Any) -> None:
    """Writes first into a new event file that what earlier files have after a step is void."""
    import tensorflow as tf

    session = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
    event = tf.compat.v1.Event(step=step + 1, wall_time=time.time(), session_log=session)
    # TensorFlow's and clu's public writers take summaries alone.
    resource = writer._summary_writer._resource
    tf.raw_ops.ImportEvent(writer=resource, event=event.SerializeToString())

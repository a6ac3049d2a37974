# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes summaries: scalars and histograms for TensorBoard, grids of images also as files.

`<model_dir>/<split>/`: TensorBoard files. `<model_dir>/pictures/<name>-<step>.png`: grids of
images at each evaluation; the model's `summaries` says what their rows are. Where a model also says
something of the rows, it is printed beside them, and in `<name>-<step>.txt`.

TensorFlow appends to its files. So for an object store they are written on this machine, and each
is uploaded anew at each flush until it has `_EVENT_BYTES`; then the next one begins.
"""

import importlib.util
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from parti.data.images import images
from parti.models import base
from parti.stages import files

PICTURES = "pictures"
_GAP = 2  # pixels between the images of a grid
_LINE = 12  # pixels from a line of text to the next
_EVENT_BYTES = 8 * 2**20  # of TensorBoard files on an object store

Texts = Mapping[
    str, Mapping[str, Sequence[str]]
]  # name of a grid -> who says it -> text of each row


def check_installed(tensorboard: bool) -> None:
    """Raises ValueError if TENSORBOARD is True and TensorFlow, not imported here, is missing."""
    if tensorboard and importlib.util.find_spec("tensorflow") is None:
        raise ValueError(
            "TENSORBOARD is True, but TensorFlow, which writes its files, is not installed: "
            "pip install tensorflow (a plain install of Parti has it), or set TENSORBOARD = False"
        )


def grid(images_of_rows: np.ndarray) -> np.ndarray:
    """Lays images out in rows and columns, on white.

    Args:
      images_of_rows: [rows, columns, height, width, 3] in [-1, 1]; clipped here.

    Returns:
      [rows * (height + 2) + 2, columns * (width + 2) + 2, 3] uint8.
    """
    rows, columns, height, width, _ = images_of_rows.shape
    gaps = ((0, 0), (0, 0), (_GAP, 0), (_GAP, 0), (0, 0))  # above and to the left of each image
    cells = np.pad(images.to_uint8(images_of_rows), gaps, constant_values=255)
    page = cells.swapaxes(1, 2).reshape(rows * (height + _GAP), columns * (width + _GAP), 3)
    return np.pad(page, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=255)


def beside(images_of_rows: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Lays images out as `grid` does, and prints a text to the right of each row.

    Args:
      images_of_rows: [rows, columns, height, width, 3] in [-1, 1]; rows too low for their text are
        padded with white.
      texts: One for each row, of one line or more; letters that Pillow's own font lacks are boxes.

    Returns:
      [height, width, 3] uint8.
    """
    most_lines = max(text.count("\n") for text in texts) + 1
    below = (0, max(_LINE * most_lines - images_of_rows.shape[2], 0))
    padded = np.pad(images_of_rows, ((0, 0), (0, 0), below, (0, 0), (0, 0)), constant_values=1)
    pictures, font = grid(padded), ImageFont.load_default()
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    width = max(math.ceil(measure.multiline_textbbox((0, 0), text, font)[2]) for text in texts)
    page = np.pad(pictures, ((0, 0), (0, width + 4 * _GAP), (0, 0)), constant_values=255)
    printed = Image.fromarray(page)
    draw, step = ImageDraw.Draw(printed), padded.shape[2] + _GAP
    for row, text in enumerate(texts):
        at = (pictures.shape[1] + 2 * _GAP, _GAP + row * step)
        draw.multiline_text(at, text, "black", font, spacing=_GAP)
    return np.asarray(printed)


class Writer:
    """Writes TensorBoard files, a folder per split, and grids of images."""

    def __init__(self, directory: files.Path, tensorboard: bool, start: int = 0) -> None:
        """Takes the run's directory, TENSORBOARD, and the step that the run goes on from.

        New files tell TensorBoard to drop the later steps of earlier ones, of an interrupted run.
        """
        self._directory = directory
        self._tensorboard, self._last = tensorboard, start
        self._writers: dict[str, Any] = {}
        # Where TensorFlow writes, and the size of each of its files when it was uploaded.
        self._events, self._uploaded = directory, dict[str, int]()
        self._temporary: tempfile.TemporaryDirectory | None = None
        if tensorboard and files.is_remote(directory):
            self._temporary = tempfile.TemporaryDirectory(prefix="parti-events-")
            self._events = self._temporary.name

    def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
        """Writes scalars."""
        if writer := self._writer(split):
            writer.write_scalars(step, values)
        self._last = max(self._last, step)

    def show(
        self, step: int, split: str, summaries: base.Summaries, texts: Texts | None = None
    ) -> None:
        """Writes histograms and grids of images, with texts beside their rows.

        `write` writes the scalars; `texts` are those of the summaries, as strings.
        """
        lines = {name: _lines(columns) for name, columns in (texts or {}).items()}
        grids = {}
        for name, value in summaries.pictures.items():
            rows = np.asarray(value)
            grids[name] = beside(rows, lines[name]) if name in lines else grid(rows)
            self.save(self.path(step, name), images.encode_png(grids[name]))
        for name, said in lines.items():
            text = "".join(f"{row}\n\n" for row in said)
            self.save(self.path(step, name, ".txt"), text.encode("utf-8"))
        if (grids or summaries.histograms) and (writer := self._writer(split)):
            writer.write_histograms(step, summaries.histograms)
            writer.write_images(step, {name: page[None] for name, page in grids.items()})

    def path(self, step: int, name: str, suffix: str = ".png") -> str:
        """Returns the file of the grid of a step."""
        return self.beside(f"{name}-{step:08d}{suffix}")

    def beside(self, name: str) -> str:
        """Returns a file beside the grids."""
        return files.join(self._directory, PICTURES, name)

    def save(self, path: str, content: bytes) -> None:
        """Writes a file, whole, and its folder if that is missing."""
        files.make_dirs(files.parent(path))
        files.write_bytes(path, content)

    def flush(self) -> None:
        """Uploads the TensorBoard files that an object store has not, or not all of."""
        if self._temporary is None:
            return
        for writer in self._writers.values():
            writer.flush()
        for path, num_bytes in files.walk(self._events):
            if self._uploaded.get(path) != num_bytes:
                below = path[len(self._temporary.name) + 1 :]
                files.concatenate([path], files.join(self._directory, below))
                self._uploaded[path] = num_bytes
            split = files.name(files.parent(path))
            if num_bytes >= _EVENT_BYTES and split in self._writers:
                self._writers.pop(split).close()
                files.remove(path)

    def close(self) -> None:
        """Waits until all is written; on an object store, what was flushed."""
        for writer in self._writers.values():
            writer.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _writer(self, split: str) -> Any:
        """Returns the writer of a split; None with TENSORBOARD = False."""
        if self._tensorboard and split not in self._writers:
            from clu import metric_writers

            writer = metric_writers.SummaryWriter(files.join(self._events, split))
            _drop_after(self._last, writer)
            self._writers[split] = metric_writers.AsyncWriter(writer)
        return self._writers.get(split)


def _lines(columns: Mapping[str, Sequence[str]]) -> list[str]:
    """Returns what stands beside each row: a line for each who says something."""
    names = columns.keys()
    rows = zip(*columns.values(), strict=True)
    return ["\n".join(f"{name}: {text}" for name, text in zip(names, row)) for row in rows]


def _drop_after(step: int, writer: Any) -> None:
    """Voids, in a new event file, what earlier files have after a step."""
    import tensorflow as tf

    session = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
    event = tf.compat.v1.Event(step=step + 1, wall_time=time.time(), session_log=session)
    tf.raw_ops.ImportEvent(writer=event_resource(writer), event=event.SerializeToString())


def event_resource(writer: Any) -> Any:
    """Returns the resource that TensorFlow's ops write the events of clu's writer to.

    It is private in clu and in TensorFlow, whose public writers take summaries alone.
    """
    return writer._summary_writer._resource

"""Logs of a run: metrics.jsonl and TensorBoard's. A disk that is full does not end the training."""

import io
import json
import logging
import os
import platform
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image


def make_writer(workdir: str | os.PathLike) -> "MetricWriter":
    """Logs of a run in `workdir`: metrics.jsonl, and TensorBoard's events.

    Only the first of several hosts writes.

    Args:
      workdir: a folder; made if missing.

    Raises:
      OSError: a file cannot be made there.
    """
    if jax.process_index() != 0:
        return MetricWriter([])
    os.makedirs(workdir, exist_ok=True)
    writers: list[Any] = [JsonLines(os.path.join(workdir, "metrics.jsonl"))]
    try:
        writers.append(TensorBoardEvents(workdir))
    except ImportError as error:
        logging.warning("No TensorBoard logs, only metrics.jsonl: %s.", error)
    return MetricWriter(writers)


class MetricWriter:
    """Passes what is logged on to several writers.

    What cannot be written costs one warning for each of them, and is written later if it can be.
    """

    def __init__(self, writers: Sequence[Any]):
        self._writers = writers
        self._warned = set()

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        """scalars: {name: number}."""
        self._all("write_scalars", step, scalars)

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        """images: {name: [N, H, W, 3] or [H, W, 3], uint8 or float in [0, 1]}."""
        self._all("write_images", step, images)

    def flush(self) -> None:
        self._all("flush")

    def close(self) -> None:
        self._all("close")

    def _all(self, method, *arguments):
        for writer in self._writers:
            try:
                getattr(writer, method)(*arguments)
            except OSError as error:
                if writer.path not in self._warned:
                    self._warned.add(writer.path)
                    logging.warning(
                        "%s cannot be written: %s; the training goes on, and what is missing "
                        "there is written as soon as it can be.",
                        *(writer.path, error.strerror or error),
                    )


class _Appended:
    """A file to whose end things are written; what the disk does not take comes with the next."""

    def __init__(self, path):
        self.path = path
        self._file = open(path, "a+b", buffering=0)
        self._kept = b""

    def append(self, content: bytes) -> None:
        """Raises OSError where some of it is only kept."""
        self._kept += content
        self.flush()

    def flush(self):
        while self._kept:
            self._kept = self._kept[self._file.write(self._kept) :]

    def close(self):
        try:
            self.flush()
        finally:
            self._file.close()


class JsonLines(_Appended):
    """One JSON object a line: {"step": ..., name: value, ...}; a run that goes on appends."""

    def __init__(self, path: str | os.PathLike):
        super().__init__(path)
        if self._file.tell():
            self._file.seek(-1, os.SEEK_END)
            if self._file.read() != b"\n":  # of a run that was killed in the middle of a line
                self._kept = b"\n"

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        line = {"step": int(step)} | {k: float(np.asarray(v)) for k, v in scalars.items()}
        self.append(json.dumps(line).encode() + b"\n")

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        """Pictures have no place in it."""


class TensorBoardEvents(_Appended):
    """A file of events as TensorBoard reads them, written without TensorFlow.

    TensorFlow's own writer has a page to say about every write that fails, and takes seconds and
    300 MB to import.

    Raises:
      ImportError: TensorBoard, which has the formats, is not installed.
    """

    def __init__(self, folder: str | os.PathLike):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
        from tensorboard.plugins.image.metadata import create_summary_metadata as about_image
        from tensorboard.plugins.scalar.metadata import create_summary_metadata as about_scalar
        from tensorboard.util.tensor_util import make_tensor_proto

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._checksum, self._tensor = masked_crc32c, make_tensor_proto
        self._about_scalar = about_scalar(display_name="", description="")
        self._about_image = about_image(display_name="", description="")
        name = f"events.out.tfevents.{int(time.time()):010d}.{platform.node()}.{os.getpid()}.v2"
        super().__init__(os.path.join(folder, name))
        self._kept = self._record(self._event(wall_time=time.time(), file_version="brain.Event:2"))

    def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
        self._write(
            step,
            {name: np.asarray(value, np.float32) for name, value in scalars.items()},
            self._about_scalar,
        )

    def write_images(self, step: int, images: Mapping[str, Any]) -> None:
        self._write(step, {k: _encoded(v) for k, v in images.items()}, self._about_image)

    def _write(self, step, values, metadata):
        records = b""
        for name, value in values.items():
            value = self._summary.Value(tag=name, tensor=self._tensor(value), metadata=metadata)
            event = self._event(wall_time=time.time(), step=int(step))
            event.summary.value.append(value)
            records += self._record(event)
        self.append(records)

    def _record(self, event):
        """TFRecord: length and content, each with its checksum."""
        content = event.SerializeToString()
        length = struct.pack("<Q", len(content))
        sums = (struct.pack("<I", self._checksum(part)) for part in (length, content))
        return length + next(sums) + content + next(sums)


def _encoded(images):
    """Width, height and PNGs of images [N, H, W, 3] or [H, W, 3], uint8 or float in [0, 1]."""
    images = np.asarray(images)
    if images.dtype != np.uint8:
        images = (np.clip(images, 0, 1) * 255 + 0.5).astype(np.uint8)
    height, width = images.shape[-3:-1]
    encoded = [str(width).encode(), str(height).encode()]
    for image in images.reshape(-1, height, width, images.shape[-1]):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "png")
        encoded.append(file.getvalue())
    return encoded

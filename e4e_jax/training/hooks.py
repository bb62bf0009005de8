"""What surrounds the steps of a run: progress on the screen, logs, signals, a watch for NaN."""

import collections
import contextlib
import json
import logging
import math
import os
import shutil
import signal
import sys
import threading
import time

import jax
import numpy as np

from e4e_jax.runtime import program
from e4e_jax.training.hosts import on_any_host


class NonFiniteLoss(program.Failure, ArithmeticError):
    """A loss is NaN or infinite: going on would only spoil the weights."""


def check_finite(metrics, step: int, last_checkpoint=None) -> None:
    """Raises NonFiniteLoss at the first of `metrics` {name: number} that is NaN or infinite.

    Args:
      metrics: names and values of one step.
      step: its number, for the message.
      last_checkpoint: path of the last good checkpoint, for the message; None if there is none.
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            remedy = (
                f"the last good checkpoint is {last_checkpoint}"
                if last_checkpoint
                else "there is no checkpoint yet"
            )
            raise NonFiniteLoss(f"{name} became {float(value)} at step {step}; {remedy}.")


class StopSignal:
    """Turns SIGTERM, and the first Ctrl-C, into a flag for as long as its context lasts.

    A second Ctrl-C interrupts as usual. Outside the main thread, which alone gets signals, the
    flag stays down.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGINT)
    _AGREE_EVERY = 16

    def __init__(self):
        self.interrupted = False  # by Ctrl-C
        self._received = False
        self._agreed = False
        self._asked = 0
        self._previous = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._taken = program.signals_are_taken()
            self._taken.__enter__()
            for number in self._SIGNALS:
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._previous:
            self._taken.__exit__(None, None, None)
        self._previous = {}

    @property
    def requested(self) -> bool:
        """Whether the run should save and end.

        On several hosts all ask equally often, and get the same answer: a signal to one of them
        is known to all after at most 16 questions.
        """
        if not self._agreed:
            if jax.process_count() == 1:
                self._agreed = self._received
            elif self._asked % self._AGREE_EVERY == 0:
                self._agreed = on_any_host(self._received)
            self._asked += 1
        return self._agreed

    def _receive(self, number, frame):
        del frame
        self._received = True
        if number == signal.SIGINT:
            self.interrupted = True
            signal.signal(number, self._previous[number])
            # Not print: the signal may have come in the middle of one.
            os.write(2, b"\nStopping after this step; press Ctrl-C again to stop at once.\n")


class ProgressBar:
    """Step, losses, images per second and time left: one line that is rewritten on a terminal.

    Where the output is not a terminal, whole lines appear at intervals instead. Only the first of
    several hosts writes.

    Args:
      total_steps: where the bar is full.
      batch_size: images of a step, of all hosts together.
      first_step: steps done before.
      interval: seconds between lines in a file; a terminal is refreshed five times a second.
      stream: where to write, by default the standard error.
    """

    def __init__(self, total_steps, batch_size, *, first_step=0, interval=10.0, stream=None):
        self._total = total_steps
        self._batch_size = batch_size
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._interval = 0.2 if self._terminal else interval
        self._silent = jax.process_index() != 0
        self._line = ""
        self._drawn = -math.inf
        # Start of the rate: the first update, so that compilation does not count.
        self._updates = collections.deque(maxlen=32)
        self._step = first_step

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def update(self, step: int, metrics=None) -> None:
        """Shows a step and its metrics {name: number}; those named "stage" and "step" as whole."""
        now = time.monotonic()
        if self._silent or step <= self._step:
            return
        self._step = step
        self._updates.append((now, step))
        if now - self._drawn < self._interval and step < self._total:
            return
        self._drawn = now
        self._line = self._describe(step, metrics or {})
        self._draw() if self._terminal else self._print(self._line)

    def write(self, text: str) -> None:
        """Prints a line of its own above the bar."""
        if self._silent:
            return
        if self._terminal:
            self._stream.write("\r\x1b[K")
        self._print(text)
        if self._terminal and self._line:
            self._draw()

    def close(self) -> None:
        """Leaves the bar as it is, and the cursor below it."""
        if self._terminal and self._line:
            self._print("")
        self._line = ""

    def _describe(self, step, metrics):
        parts = [f"{step}/{self._total}"]
        if "stage" in metrics:
            parts[0] += f" stage {int(metrics['stage'])}"
        losses = [f"{k} {float(v):.4g}" for k, v in metrics.items() if k != "stage"]
        (then, first), (now, last) = self._updates[0], self._updates[-1]
        if last > first:
            rate = (last - first) / max(now - then, 1e-9)  # steps per second
            left = (self._total - step) / rate
            parts.append(f"{rate * self._batch_size:.3g} images/s")
            parts.append(f"{_duration(left)} left")
        if losses:
            parts.append(", ".join(losses))
        return " | ".join(parts)

    def _draw(self):
        columns = shutil.get_terminal_size().columns - 1
        filled = round(20 * min(self._step / max(self._total, 1), 1.0))
        line = f"[{'█' * filled}{'·' * (20 - filled)}] {self._line}"
        self._stream.write("\r\x1b[K" + line[:columns])
        self._stream.flush()

    def _print(self, text):
        self._stream.write(text + "\n")
        self._stream.flush()


def _duration(seconds):
    seconds = int(seconds + 0.5)
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours}:{minutes:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"


def make_writer(workdir) -> "MetricWriter":
    """Logs of a run in `workdir`: metrics.jsonl, and TensorBoard's where TensorFlow is installed.

    Only the first of several hosts writes.

    Args:
      workdir: a folder; made if missing.
    """
    if jax.process_index() != 0:
        return MetricWriter([])
    os.makedirs(workdir, exist_ok=True)
    writers = [_JsonLines(os.path.join(workdir, "metrics.jsonl"))]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it says so at length when they are on
    try:
        import tensorflow as tf
        from clu import metric_writers
    except ImportError as error:
        logging.warning("No TensorBoard logs, only metrics.jsonl: %s.", error)
        return MetricWriter(writers)

    with contextlib.suppress(RuntimeError):  # in use already
        tf.config.set_visible_devices([], "GPU")  # it would take all of the memory
    # In the background: a picture takes a while to encode.
    writers.append(metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(workdir))))
    return MetricWriter(writers)


class MetricWriter:
    """Passes what is logged on to several writers; `clu.metric_writers` without TensorFlow."""

    def __init__(self, writers):
        self._writers = writers

    def write_scalars(self, step: int, scalars) -> None:
        """scalars: {name: number}."""
        for writer in self._writers:
            writer.write_scalars(step, scalars)

    def write_images(self, step: int, images) -> None:
        """images: {name: [N, H, W, 3] or [H, W, 3], uint8 or float in [0, 1]}."""
        for writer in self._writers:
            writer.write_images(step, images)

    def flush(self) -> None:
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


class _JsonLines:
    """One JSON object a line: {"step": ..., name: value, ...}; a run that goes on appends."""

    def __init__(self, path):
        self._file = open(path, "a+b")
        if self._file.tell():
            self._file.seek(-1, os.SEEK_END)
            if self._file.read() != b"\n":  # of a run that was killed in the middle of a line
                self._file.write(b"\n")

    def write_scalars(self, step, scalars):
        line = {"step": int(step)} | {k: float(np.asarray(v)) for k, v in scalars.items()}
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()

    def write_images(self, step, images):
        """Pictures have no place in it."""

    def flush(self):
        self._file.flush()

    def close(self):
        self._file.close()

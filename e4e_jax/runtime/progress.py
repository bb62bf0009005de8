"""Progress on the screen."""

import collections
import contextlib
import math
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

import jax


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

    def __init__(
        self,
        total_steps: int,
        batch_size: int,
        *,
        first_step: int = 0,
        interval: float = 10.0,
        stream: TextIO | None = None,
    ):
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
        self._known = set()  # what has been waited for once

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def update(self, step: int, metrics: Mapping[str, Any] | None = None) -> None:
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

    @contextlib.contextmanager
    def patience(self, what: str, after: float = 5.0) -> Iterator[None]:
        """Says that a block, which at first compiles, takes long if it does, and then how long.

        Args:
          what: with a capital, such as "The training step".
          after: seconds until the first word.
        """
        start, done = time.monotonic(), threading.Event()
        first = what not in self._known
        self._known.add(what)

        def wait():
            if not done.wait(after):
                self.write(f"{what} compiles, which can take minutes for large networks ...")
                said.set()

        said = threading.Event()
        if first:
            thread = threading.Thread(target=wait, daemon=True)
            thread.start()
        try:
            yield
        finally:
            done.set()
        if first:
            thread.join()
            if said.is_set():
                self.write(f"{what} took {time.monotonic() - start:.0f} s with its compilation.")

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

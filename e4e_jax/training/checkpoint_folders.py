"""What lies in a folder of checkpoints: which of it is a checkpoint, whether one can be read, and
which stay."""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from e4e_jax.runtime import checksums
from e4e_jax.runtime.hosts import on_any_host

ARRAYS, DESCRIPTION = "state", "run"  # the two items of a checkpoint


class Damaged(Exception):
    """A checkpoint that cannot be read; the message names it."""


class NewestAndMore(ocp.checkpoint_managers.PreservationPolicy):
    """Which checkpoints stay: the newest few, those of `more(steps)`, and all that is not ours."""

    def __init__(
        self, keep: int, more: Callable[[list[int]], set[int]], directory: str | os.PathLike
    ):
        self._keep = keep
        self._more = more
        self._directory = epath.Path(directory)

    def should_preserve(self, checkpoints: Any, *, context: Any) -> Any:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        paths = {step: self._directory / str(step) for step in steps}
        # That of the newest is still being written, under another name.
        ours = [step for step in steps if is_checkpoint(paths[step]) or not paths[step].exists()]
        leaving = {*sorted(ours)[: -self._keep]} - self._more(ours)
        return [step not in leaving for step in steps]


class ChecksumsWriter:
    """A thread that waits until a checkpoint is written, and writes its checksums then.

    Not at the next save, before which the run may be killed.
    """

    def __init__(self, path: str | os.PathLike, finished: Callable[[], bool]):
        self._path = epath.Path(path)
        self._finished = finished
        self._written = threading.Event()  # or given up
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """To be called when the checkpoint is written; raises what writing checksums has."""
        self._written.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self):
        try:
            while not self._finished() and not self._written.wait(0.05):
                pass
            if self._finished():
                checksums.write(self._path)
        except Exception as error:
            self._error = error


def is_checkpoint(path: str | os.PathLike) -> bool:
    """Whether a folder named as a step is one that Orbax made: has one of the parts of one."""
    folder = epath.Path(path)
    return any((folder / name).exists() for name in ("_CHECKPOINT_METADATA", ARRAYS, DESCRIPTION))


def checked(description: Any) -> tuple[dict[str, str], list[Any]]:
    """The arrays {name: description} and the data states [hosts] of a checkpoint's JSON.

    Raises:
      ValueError, KeyError, TypeError, AttributeError: it is none that `save` wrote.
    """
    saved, data_states = description["arrays"], description["data"]
    metrics = description["metrics"]
    if not all(isinstance(text, str) for text in saved.values()):
        raise ValueError("arrays are not described by strings")
    if not isinstance(data_states, list) or not data_states:
        raise ValueError("no places of data iterators")
    if not all(isinstance(value, int | float) for value in metrics.values()):
        raise ValueError("metrics are no numbers")
    return saved, data_states


def without_traces(record: logging.LogRecord) -> bool:
    """Leaves out the traces that Orbax's threads log of an error that they also hand over."""
    return not (record.exc_info and "orbax" in record.pathname)


@contextlib.contextmanager
def agreed(folder: str | os.PathLike) -> Iterator[None]:
    """Raises Damaged on all hosts if reading fails on one.

    A fault that says nothing about the files, such as too little memory, passes as it is.
    """
    error = None
    try:
        yield
    except (MemoryError, PermissionError, jax.errors.JaxRuntimeError):
        raise
    except Exception as caught:
        error = caught
    if on_any_host(error is not None):
        reason = " ".join(f"{type(error).__name__}: {error}".split()) if error else "another host"
        raise Damaged(f"{folder} is damaged ({reason[:120]})") from error


def read_json(folder: str | os.PathLike) -> Any:
    return ocp.JsonCheckpointHandler().restore(folder)

"""Signals that end a run after its step."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

import jax

from e4e_jax.runtime import program
from e4e_jax.runtime.hosts import CommonStop


class _CutShort(BaseException):
    """Raised by a signal's handler inside `StopSignal.cuts_short`."""


class StopSignal:
    """Turns SIGTERM, and the first Ctrl-C, into a flag for as long as its context lasts.

    A second Ctrl-C, half a second later or more, interrupts as usual. Outside the main thread,
    which alone gets signals, the flag stays down.

    Attributes:
      received: whether this host has got a signal, whatever the others have.
      interrupted: whether it was Ctrl-C.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.interrupted = self.received = False
        self._cutting = False
        self._agreed = False
        self._common = None
        if jax.process_count() > 1:
            self._common = CommonStop.of_all_hosts(self._follow)
        self._previous, self._taken = {}, None
        self._since = 0.0  # of the first Ctrl-C

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._taken = program.signals_are_taken()
            self._taken.__enter__()
            for number in self._SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # as in background jobs
                    self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._taken:
            self._taken.__exit__(None, None, None)
        self._previous, self._taken = {}, None
        self.close()

    def close(self) -> None:
        """No more questions come; to be called once the context was left, or is not entered."""
        if self._common:
            self._common.close()

    @property
    def requested(self) -> bool:
        """Whether the run should save and end; asked before each step.

        On several hosts all ask equally often, and get yes at the same question: a signal to one
        of them is known to all at once, and none goes further than the one that is furthest.
        """
        if not self._agreed:
            common = self._common
            self._agreed = common.reached(self.received) if common else self.received
        return self._agreed

    @contextlib.contextmanager
    def cuts_short(self) -> Iterator[None]:
        """A block that a signal ends at once, where it is: it is left, and the program goes on."""
        self._cutting = bool(self._previous) and not self.received
        try:
            try:
                yield
            finally:
                self._cutting = False
        except _CutShort:
            if self._common:
                self._common.request()  # the others leave theirs, too

    def _follow(self):
        """Another host has got a signal; in a thread, before the next question is answered."""
        if self._cutting:
            os.kill(os.getpid(), signal.SIGTERM)

    def _receive(self, number, frame):
        self.received = True
        if number == signal.SIGINT and self.interrupted:
            if time.monotonic() - self._since >= program.TOGETHER:
                signal.signal(number, self._previous[number])
                self._previous[number](number, frame)
        elif number == signal.SIGINT:
            self.interrupted, self._since = True, time.monotonic()
            # Not print: the signal may have come in the middle of one.
            os.write(2, b"\nStopping after this step; press Ctrl-C again to stop at once.\n")
        if self._cutting:
            self._cutting = False
            raise _CutShort

"""A watch over the other hosts of a run: when one ends, all end, with one sentence and code 75.

JAX's own watch ends a process by abort, with pages of C++ stack. This one is quicker, names the
host, and catches JAX's where that comes first.
"""

import contextlib
import ctypes
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

EXIT_CODE = 75  # EX_TEMPFAIL of <sysexits.h>: the same command may work the next time

_BEAT = 2.0  # seconds between two signs of life
_SILENCE = 40.0  # without one, a host has ended: no import or compilation lasts that long unseen
_SILENCE_AFTER_FAILURE = 15.0  # where a step has failed, so that one of them has
_GRACE = 5.0  # until a mistake that all hosts meet has come up on this one, too
_LEAVING = 20.0  # for the last words of one who ends by itself
_LINGER = 6.0  # how long host 0, where all signs meet, stays for the others to read them

# Of each host: a number that grows; why it ended, if it was the first; that it is gone.
_ALIVE, _ENDED, _LEFT = "e4e/alive", "e4e/ended", "e4e/left"


class Watch:
    """The signs of life of all hosts, in the key-value store of JAX's coordination service.

    Args:
      client: of the coordination service.
      host, hosts: this one's number, and how many there are.
      end: (sentence) -> ends the process, for tests to replace.

    Attributes:
      advice: what to do when a host has ended; the second half of the sentence.
      leaving: whether this host is about to end itself, so that none is missed.
    """

    def __init__(self, client: Any, host: int, hosts: int, *, end: Callable | None = None):
        self._client = client
        self._host = host
        self._others = [i for i in range(hosts) if i != host]
        self.advice = "start all again"
        self.leaving = False
        self._end = end or self._say_and_exit
        self._values = {}  # host -> its latest sign
        self._silent = dict.fromkeys(self._others, 0.0)  # host -> seconds since
        self._unanswered = 0.0  # seconds since the store last answered
        self._ended = {}  # host -> what it said when it ended
        self._known = 0.0  # seconds since one of them is known to have ended
        self._alone = False  # whether this process can only wait for what the watch finds
        self._exit_code = EXIT_CODE
        self._count = 0
        self._once = threading.Lock()
        self._threads = []
        self._stopped = threading.Event()

    def start(self) -> None:
        """Beats and looks in threads of their own, until the process ends."""
        for loop in (self._beat_on, self._look_on):
            thread = threading.Thread(target=loop, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """The hosts part as they should: from now on none of them is missed."""
        self.leaving = True
        self._stopped.set()
        for thread in self._threads:
            # A thread that native code holds while Python ends would take the process with it.
            thread.join(timeout=5.0)

    def beat(self) -> None:
        """One sign of life, and a look at those of the others."""
        self._count += 1
        self._client.key_value_set(f"{_ALIVE}/{self._host}", str(self._count), allow_overwrite=True)
        for host, value in self._read(_ALIVE).items():
            if self._values.get(host) != value:
                self._values[host] = value
                self._silent[host] = 0.0
        self._ended = {h: r for h, r in self._read(_ENDED).items() if h != self._host}
        self._unanswered = 0.0

    def look(self, seconds: float) -> None:
        """Ends the process if a host has ended; `seconds` have passed since the last look."""
        if self.leaving:
            return
        for host in self._silent:
            self._silent[host] += seconds
        self._unanswered += seconds
        if self._ended:
            self._known += seconds
        told = self._ended and (self._alone or self._known > _GRACE)
        answers = self._unanswered <= 2 * _BEAT
        if told or (answers and self._missed()) or self._unanswered > self._limit():
            self._end(self.verdict())

    def verdict(self) -> str:
        """One sentence: which host has ended, why if it is known, and what to do."""
        if self._ended:
            host = min(self._ended)
        else:
            missed = self._missed()
            # A store that does not answer is host 0's.
            host = missed[0] if missed and self._unanswered <= self._limit() else 0
        who = "another host" if host == self._host else f"host {host}"
        reason = self._ended.get(host, "").strip().rstrip(".")
        return f"{who} ended{f' ({reason})' if reason else ''}; {self.advice}."

    def wait_for_verdict(self) -> None:
        """For an error that another host's end may have caused: ends the process if so.

        Returns after a minute in which no host was missed.
        """
        self._alone = True
        deadline = time.monotonic() + _SILENCE + 20
        while time.monotonic() < deadline:
            time.sleep(0.2)

    def announce(self, reason: str, exit_code: int) -> None:
        """Tells the others that this host ends, and why; it is about to, with a code of its own."""
        self._exit_code = exit_code
        self.stop()
        self._set(_ENDED, self._host, reason[:500])
        self._leave()

    def catch_native_end(self) -> None:
        """Turns the end that JAX's own watch decides on into this one's.

        JAX calls back into Python with a C++ status that Python cannot be given; what follows
        is std::bad_cast without a handler, so std::terminate, which is caught here. Where there
        is no GNU C++ library all stays as it is.
        """
        try:
            library = ctypes.CDLL("libstdc++.so.6")
            # Not as an attribute: Python changes such names within a class.
            current_type = getattr(library, "__cxa_current_exception_type")  # noqa: B009
            current_type.restype = ctypes.c_void_p
            set_terminate = library._ZSt13set_terminatePFvvE
        except (OSError, AttributeError):
            return
        set_terminate.restype = ctypes.c_void_p
        function = ctypes.CFUNCTYPE(None)

        @function
        def terminate():
            kind = current_type()
            # A type_info is a pointer to its methods and one to its name.
            name = ctypes.c_char_p.from_address(kind + 8).value if kind else None
            if name == b"St8bad_cast":
                if self.leaving:  # the main thread ends as it means to, host 0 was quicker
                    time.sleep(_LEAVING)
                    os._exit(self._exit_code)
                self._end(self.verdict())
            else:
                function(previous)()

        previous = set_terminate(terminate)
        self._terminate = terminate  # C++ does not count references

    def _limit(self):
        return _SILENCE_AFTER_FAILURE if self._alone else _SILENCE

    def _missed(self):
        return [host for host in self._others if self._silent[host] > self._limit()]

    def _say_and_exit(self, sentence):
        if not self._once.acquire(blocking=False):  # another thread is at it
            time.sleep(2 * _LINGER)
        if sentence:
            start = "\n" if sys.stderr is not None and sys.stderr.isatty() else ""
            with contextlib.suppress(OSError):
                os.write(2, f"{start}{program_name()}: {sentence}\n".encode())
        for host in self._missed():
            self._set(_ENDED, host, "")
            self._set(_LEFT, host, "")
        self._leave()
        os._exit(self._exit_code)

    def _leave(self):
        """Host 0 goes last, or some seconds later: the store is gone with it."""
        self._set(_LEFT, self._host, "")
        deadline = time.monotonic() + _LINGER
        while self._host == 0 and time.monotonic() < deadline:
            if set(self._others) <= self._read(_LEFT).keys():
                return
            time.sleep(0.2)

    def _set(self, folder, host, value):
        """Does not wait for a store that is gone."""

        def write():
            with contextlib.suppress(Exception):
                self._client.key_value_set(f"{folder}/{host}", value, allow_overwrite=True)

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        thread.join(timeout=2.0)

    def _read(self, folder):
        found = {}
        with contextlib.suppress(Exception):
            for key, value in self._client.key_value_dir_get(f"{folder}/"):
                found[int(key.rsplit("/", 1)[1])] = value
        return found

    def _beat_on(self):
        while not self._stopped.is_set():
            with contextlib.suppress(Exception):  # `look` sees that nothing comes
                self.beat()
            self._stopped.wait(_BEAT)

    def _look_on(self):
        last = time.monotonic()
        while not self._stopped.wait(1.0):
            now = time.monotonic()
            # Time in which this process itself did not run says nothing about the others.
            self.look(min(now - last, _BEAT))
            last = now


def program_name() -> str:
    """What this process is called in its messages."""
    path = pathlib.Path(sys.argv[0])
    return path.parent.name if path.name == "__main__.py" else path.name or "e4e_jax"

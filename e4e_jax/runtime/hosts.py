"""What the processes of several hosts have to agree on.

They meet in the key-value store of JAX's coordination service, not on their devices: there they
can wait for one another as long as it takes, and a device collective cannot (between CPUs the
first one fails after 30 seconds). All processes make the same calls in the same order, in their
main threads. With one process they cost nothing.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from e4e_jax.runtime.rendezvous import named
from e4e_jax.runtime.watch import program_name

_SLICE = 1000  # milliseconds of waiting in native code, where no signal is noticed
_FIRST_WORD, _NEXT_WORD = 30.0, 300.0  # seconds of waiting until it is said whom for

_meetings = itertools.count()
_stops = itertools.count()


@dataclasses.dataclass(frozen=True)
class Share:
    """Whose part of some work a host does.

    Attributes:
      host, hosts: the host's number, and how many there are.
    """

    host: int
    hosts: int

    @classmethod
    def of_this_host(cls) -> "Share":
        """All hosts divide the work, and put together what they found."""
        return cls(jax.process_index(), jax.process_count())


# Each host does all of the work by itself, and no other one is waited for: what only one of them
# does, or what may be cut short on one.
ALL_OF_IT = Share(0, 1)


def gather_json(value: Any, what: str = "an agreement") -> list:
    """The JSON-serialisable values of all hosts, in the order of their indices.

    Waits for the others as long as it takes; after half a minute it says for whom.

    Args:
      value: this host's.
      what: where they meet, for that message.
    """
    hosts, host = jax.process_count(), jax.process_index()
    if hosts == 1:
        return [json.loads(json.dumps(value))]
    return Meeting(client(), host, hosts, f"e4e/meeting/{next(_meetings)}", what).gather(value)


def on_any_host(flag: bool) -> bool:
    """Whether the flag is true on one host at least; the same answer on all."""
    return any(gather_json(bool(flag)))


def wait_for_hosts(what: str) -> None:
    """Returns when all hosts have come to this call; `what` names the place."""
    gather_json(None, what)


def gather_arrays(array: np.ndarray) -> list[np.ndarray]:
    """One-dimensional arrays of all hosts, of one type and any length, over the devices."""
    if jax.process_count() == 1:
        return [array]
    sizes = gather_json(len(array), "the gathering of arrays")
    padded = np.zeros(max(sizes), array.dtype)
    padded[: len(array)] = array
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [row[:size] for row, size in zip(rows, sizes, strict=True)]


def check_shared(folder: str, what: str) -> None:
    """Makes a folder, and looks whether all hosts see the same one; all make this call.

    Raises:
      ValueError: one does not; in one sentence that names it and `what` the folder is.
    """
    if "://" not in folder:
        os.makedirs(folder, exist_ok=True)
    if jax.process_count() == 1 or "://" in folder:
        return
    # A name that no host has looked for before, which a network's cache could answer.
    name = gather_json(f".seen_by_all_{os.getpid()}_{time.time_ns()}", what)[0]
    path = os.path.join(folder, name)
    try:
        if jax.process_index() == 0:
            open(path, "w").close()
        wait_for_hosts(what)
        sees = gather_json(os.path.exists(path), what)
    finally:
        if jax.process_index() == 0:
            with contextlib.suppress(OSError):
                os.remove(path)
    if not all(sees):
        raise ValueError(
            f"host {sees.index(False)} does not see the {what} {folder} of host 0; expected a "
            "folder on a disk that all hosts share."
        )


def client() -> Any:
    """JAX's client of the coordination service; JAX has no public name for it."""
    from jax._src import distributed

    return distributed.global_state.client


class Meeting:
    """One exchange of values: each host leaves its own, host 0 hands all of them out.

    Args:
      client: of the coordination service.
      host, hosts: this one's number, and how many there are.
      place: its own folder in the store, of the same name on all hosts.
      what: where in the program they meet, for messages.
    """

    def __init__(self, client: Any, host: int, hosts: int, place: str, what: str):
        self._client = client
        self._host = host
        self._hosts = hosts
        self._place = place
        self._what = what
        self._started = time.monotonic()
        self._next_word = _FIRST_WORD

    def gather(self, value: Any) -> list:
        self._client.key_value_set(f"{self._place}/{self._host}", json.dumps(value))
        if self._host == 0:
            found = [self._get(f"{self._place}/{i}") for i in range(self._hosts)]
            self._client.key_value_set(f"{self._place}/all", f"[{','.join(found)}]")
        values = json.loads(self._get(f"{self._place}/all"))
        # All have come here, so all have left the meeting before: its values can go.
        folder, _, number = self._place.rpartition("/")
        if self._host == 0 and int(number) > 0:
            self._client.key_value_delete(f"{folder}/{int(number) - 1}")
        return values

    def _get(self, key):
        while True:
            found = get_in_time(self._client, key)
            if found is not None:
                return found
            if time.monotonic() - self._started > self._next_word:
                self._next_word += _NEXT_WORD
                self._say_who_is_missing()

    def _say_who_is_missing(self):
        there = {key.rsplit("/", 1)[1] for key, _ in self._client.key_value_dir_get(self._place)}
        missing = [i for i in range(self._hosts) if str(i) not in there] or [0]
        print(f"{program_name()}: waits for {named(missing)} at {self._what}.", file=sys.stderr)


def get_in_time(client: Any, key: str) -> str | None:
    """The value of a key; None if nobody has set it within a second."""
    try:
        return client.blocking_key_value_get(key, _SLICE)
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
            raise
        return None


class CommonStop:
    """A stop that one host asks for and all make at the same question.

    Each host asks `reached` once before each step. No host answers for another: a thread learns
    of the request at once, holds its host at the question that it has come to, and says which
    one that is; the stop is at the latest of them. So a host that waits in a step for one that
    is held gets it, and no step costs a message.

    Args:
      client, host, hosts: as of `Meeting`.
      place: its own folder in the store, of the same name on all hosts.
      follow: called in a thread when a host has asked for the stop.
    """

    def __init__(
        self, client: Any, host: int, hosts: int, place: str, follow: Callable = lambda: None
    ):
        self._client = client
        self._host = host
        self._hosts = hosts
        self._place = place
        self._follow = follow
        self._lock = threading.Lock()
        self._asked = 0  # questions that were answered with no
        self._told = False
        self._held = threading.Event()
        self._known = threading.Event()
        self._target = 0  # once known
        self._closed = False
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    @classmethod
    def of_all_hosts(cls, follow: Callable = lambda: None) -> "CommonStop":
        """That of this run; every host makes as many of them, in the same order."""
        place = f"e4e/stop/{next(_stops)}"
        return cls(client(), jax.process_index(), jax.process_count(), place, follow)

    def request(self) -> None:
        """Asks all hosts, this one as well, to stop at their next common question."""
        if not self._told:
            self._told = True
            self._client.key_value_set(f"{self._place}/request", "", allow_overwrite=True)
            self._wait(self._held)

    def reached(self, requested: bool) -> bool:
        """Whether to stop before this step; `requested` is this host's own wish."""
        if requested:
            self.request()
        with self._lock:
            if not self._held.is_set():
                self._asked += 1
                return False
        self._wait(self._known)
        if self._asked < self._target:
            self._asked += 1
            return False
        return True

    def close(self) -> None:
        """No more questions come: the others need not wait for an answer."""
        self._closed = True
        self._hold()
        self._thread.join(timeout=5.0)  # not in native code when Python ends

    def _listen(self):
        with contextlib.suppress(Exception):  # the store is gone, and soon this process
            while get_in_time(self._client, f"{self._place}/request") is None:
                if self._closed:
                    return
            self._hold()
            self._follow()
            latest = [self._answer(i) for i in range(self._hosts)]
            self._target = max(latest)
            self._known.set()

    def _answer(self, host):
        while (found := get_in_time(self._client, f"{self._place}/{host}")) is None:
            if self._closed:
                return 0
        return int(found)

    def _hold(self):
        with self._lock:
            if self._held.is_set():
                return
            self._held.set()
            asked = str(self._asked)
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.key_value_set(f"{self._place}/{self._host}", asked)

    def _wait(self, event):
        while not event.wait(0.2):  # a signal is noticed in between
            pass

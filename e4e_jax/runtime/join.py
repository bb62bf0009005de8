"""Joining the processes of several hosts, and parting: as they should, or with one sentence."""

import atexit
import contextlib
import ctypes
import functools
import inspect
import os
import sys
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import distributed  # JAX has no public names for what is used of it here

from e4e_jax.runtime import hosts, rendezvous
from e4e_jax.runtime.watch import Watch, program_name

PATIENCE = 300.0  # seconds in which all hosts have to come

# JAX's own watch: slower than ours, which knows the host and has better words.
_NATIVE_PATIENCE = 600
_PATIENCES = ("initialization_timeout", "heartbeat_timeout_seconds", "shutdown_timeout_seconds")

# What the errors say that a step has when another host is gone.
_SIGNS = ("Gloo", "NCCL", "oordination", "UNAVAILABLE", "DEADLINE_EXCEEDED", "Connection", "peer")

_watch = None  # of this process, once it has joined


class NotJoined(OSError):
    """JAX's coordination service did not take this process; the message is one sentence."""


def join(address: str | None, num_hosts: int | None, host: int | None) -> None:
    """Makes this process one of several; see `parallel.initialize_distributed`.

    Args:
      address: "name:port" of host 0.
      num_hosts: how many there are.
      host: this one's number. All three, or None where a launcher tells JAX.

    Raises:
      ValueError, OSError: in one sentence.
    """
    if address is not None and num_hosts is not None and host is not None:
        rendezvous.meet(address, host, num_hosts, patience=PATIENCE, say=_say)
    with contextlib.suppress(AttributeError):  # Orbax is told by us, see `CommonStop`
        jax.config.update("jax_enable_preemption_service", False)
    try:
        with _calling_back():
            known = inspect.signature(jax.distributed.initialize).parameters
            patience: dict[str, Any] = {
                name: _NATIVE_PATIENCE for name in _PATIENCES if name in known
            }
            jax.distributed.initialize(address, num_hosts, host, **patience)
    except RuntimeError as error:
        _forget()
        atexit.register(_exit_at_once, 1)
        reason = str(error).splitlines()[0].rstrip(".")
        raise NotJoined(
            "a host ended before all had joined; start all again."
            if "bad_cast" in reason
            else f"the hosts could not be joined ({reason}); start all again."
        ) from error
    state = distributed.global_state
    if state.num_processes == 1:
        return
    global _watch
    who = (state.client, state.process_id, state.num_processes)
    _watch = Watch(*who)
    _watch.catch_native_end()
    _watch.start()
    atexit.register(_part_at_exit)
    # Before JAX looks for the devices of all hosts, for which it has not as much patience.
    hosts.Meeting(*who, "e4e/start/0", "the start").gather(None)


@contextlib.contextmanager
def together(advice: str) -> Iterator[None]:
    """While the block runs, this host ends when another does, and the others when it does.

    Leaves the block when all hosts have come to its end.

    Args:
      advice: what to do when a host has ended, for the message: "start all again ...".
    """
    if _watch is None:
        yield
        return
    _watch.advice = advice
    try:
        yield
    except BaseException as error:
        # Ctrl-C with a word about it has stopped all of them, see `training.loop`.
        stopped = isinstance(error, KeyboardInterrupt) and error.args
        if stopped or (isinstance(error, SystemExit) and not error.code):
            _part()
        else:
            _end(error)
        raise
    _part()


def _part():
    """The hosts wait for each other, and JAX then ends its service."""
    if _watch is not None and not _watch.leaving:
        hosts.wait_for_hosts("the end")
        _watch.stop()
        jax.distributed.shutdown()


def _end(error):
    """Tells the others that this one ends, unless one of them is the reason."""
    if _watch.leaving:
        return
    if _is_of_another(error):
        _watch.wait_for_verdict()
    reason = "" if isinstance(error, KeyboardInterrupt | SystemExit) else str(error)
    code = _exit_code(error)
    _watch.announce(" ".join(reason.split()), code)
    _forget()
    atexit.register(_exit_at_once, code)


def _exit_code(error):
    """What `program.run`, or Python, makes of an error."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    code = getattr(error, "code" if isinstance(error, SystemExit) else "exit_code", 1)
    return code if isinstance(code, int) else 1


def _exit_at_once(code):
    """JAX's threads must not find that their service is gone while Python ends."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def _is_of_another(error):
    while error is not None:
        if any(sign in str(error) for sign in _SIGNS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _part_at_exit():
    error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    if error is None:
        _part()
    else:
        _end(error)


def _forget():
    """JAX would wait for the others at exit, and end by abort if one is gone."""
    state = distributed.global_state
    for left in (state.client, state.service):
        if left is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(left))  # its end would wait, too
    state.client = state.service = state.preemption_sync_manager = None


@contextlib.contextmanager
def _calling_back():
    """JAX's client calls Python, which `Watch.catch_native_end` needs, instead of aborting."""
    native: Any = getattr(distributed, "_jax", None)
    make = getattr(native, "get_distributed_runtime_client", None)
    if make is None or "missed_heartbeat_callback" not in (make.__doc__ or ""):
        yield
        return
    native.get_distributed_runtime_client = functools.partial(
        make, missed_heartbeat_callback=lambda status: None
    )
    try:
        yield
    finally:
        native.get_distributed_runtime_client = make


def _say(sentence):
    print(f"{program_name()}: {sentence}", file=sys.stderr, flush=True)

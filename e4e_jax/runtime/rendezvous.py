"""All processes of a run find each other, before JAX's coordination service starts.

The service ends a process by abort where an argument is wrong, a port is taken or a host does not
come. Here each of these is a sentence, and one who waits says for whom. Host 0 listens on the
port that the service will have; the others tell it who they are, and all go on together.
"""

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Callable, Sequence

_FIRST_WORD, _NEXT_WORD = 10.0, 60.0  # seconds of waiting until it is said whom for
_UNKNOWN_NAME = 60.0  # seconds: names of new machines may come late, but not for ever
_GREETING = 10.0  # seconds in which a connection says who it is
_TICK = 0.2


class NoRendezvous(OSError):
    """The hosts do not find each other; the message is one sentence."""


def meet(
    address: str, host: int, hosts: int, *, patience: float, say: Callable[[str], None]
) -> None:
    """Returns when processes 0 to `hosts` - 1 have all come to this call.

    Args:
      address: "name:port" of host 0.
      host: this one's number.
      hosts: how many there are.
      patience: seconds to wait for all.
      say: prints a line: whom this host waits for.

    Raises:
      ValueError: an argument is no good.
      NoRendezvous: the port is in use, a host does not come, or is another run's.
    """
    name, port = split_address(address)
    if hosts < 1 or not 0 <= host < hosts:
        raise ValueError(
            f"this is process {host} of {hosts}; expected PROCESS_ID from 0 to NUM_PROCESSES - 1."
        )
    if hosts == 1:
        return
    if host == 0:
        _receive(port, hosts, time.monotonic() + patience, say)
    else:
        _visit(name, port, host, hosts, time.monotonic() + patience, say)


def split_address(address: str) -> tuple[str, int]:
    """Name and port of "name:port"; ValueError for anything else."""
    name, _, port = address.rpartition(":")
    if not name or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(
            f"COORDINATOR_ADDRESS is {address!r}; expected name:port of process 0, such as "
            "10.0.0.1:1234."
        )
    return name.strip("[]"), int(port)


def _receive(port, hosts, deadline, say):
    """Host 0: collects the others."""
    there = {}  # host -> its connection
    word = _Word(say)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_listen(port))
        try:
            while missing := [i for i in range(1, hosts) if i not in there]:
                if time.monotonic() > deadline:
                    raise NoRendezvous(
                        f"{named(missing)} of {hosts} did not come to port {port}; start all with "
                        "the same COORDINATOR_ADDRESS and NUM_PROCESSES."
                    )
                word.about(f"waits for {named(missing)} of {hosts} at port {port}.")
                with contextlib.suppress(TimeoutError):
                    connection, _ = server.accept()
                    stack.enter_context(connection)
                    _greet(connection, hosts, there, say)
                for i in [i for i, c in there.items() if _is_gone(c)]:
                    there.pop(i).close()
            server.close()  # before the others look for JAX's service at this port
            for connection in there.values():
                _send(connection, {"go": True})
        except BaseException as error:
            reason = str(error) if isinstance(error, NoRendezvous) else "host 0 ended."
            for connection in there.values():
                _send(connection, {"error": reason})
            raise
        for connection in there.values():
            with contextlib.suppress(OSError):
                connection.settimeout(_GREETING)
                connection.recv(1)  # the others hang up first: the port is free at once


def _listen(port):
    try:
        try:
            server = socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
            )
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) == errno.EADDRINUSE:
                raise
            server = socket.create_server(("", port), backlog=1024)  # no IPv6 here
    except OSError as error:
        reason = (os.strerror(error.errno) if error.errno else str(error)).lower()
        raise NoRendezvous(
            f"port {port} of this host cannot be listened at ({reason}); choose another one "
            "for COORDINATOR_ADDRESS."
        ) from error
    server.settimeout(_TICK)
    return server


def _greet(connection, hosts, there, say):
    connection.settimeout(_GREETING)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        greeting = json.loads(_line(connection))
        host, count = int(greeting["e4e_host"]), int(greeting["of"])
        if count != hosts:
            reason = f"process {host} was started as one of {count}, process 0 as one of {hosts}."
        elif not 0 < host < hosts:
            reason = f"process {host} is none of 1 to {hosts - 1}."
        elif host in there and not _is_gone(there[host]):
            reason = f"two processes were started with the number {host}."
        else:
            there[host] = connection
            return
        say(f"refused: {reason}")
        _send(connection, {"error": reason})
    connection.close()


def _visit(name, port, host, hosts, deadline, say):
    """Any other host: goes to host 0."""
    word = _Word(say)
    started = time.monotonic()
    where = f"host 0 at {name}:{port}"
    while True:
        why = "it does not answer"
        try:
            with socket.create_connection((name, port), timeout=_GREETING) as connection:
                _send(connection, {"e4e_host": host, "of": hosts})
                answer = _wait_for_answer(connection, where, word, deadline)
                if answer is not None:
                    if "error" in answer:
                        raise NoRendezvous(str(answer["error"]))
                    return
        except NoRendezvous:
            raise
        except socket.gaierror as error:
            why = f"the name is unknown: {error.strerror}"
            if time.monotonic() - started > _UNKNOWN_NAME:
                deadline = 0
        except OSError as error:
            why = (error.strerror or str(error) or why).lower()
        if time.monotonic() > deadline:
            raise NoRendezvous(
                f"{where} cannot be reached ({why}); start all hosts with the same "
                "COORDINATOR_ADDRESS, which process 0 listens at."
            )
        word.about(f"waits for {where} ({why}).")
        time.sleep(_TICK)


def _wait_for_answer(connection, where, word, deadline):
    """The answer of host 0; None if it has hung up without one."""
    connection.settimeout(_TICK)
    received = b""
    while not received.endswith(b"\n"):
        try:
            part = connection.recv(4096)
            if not part:
                break
            received += part
            # Other services greet in other words, at once or after ours.
            if not b'{"'.startswith(received[:2]) or len(received) > 4096:
                break
        except TimeoutError:
            word.about(f"waits, with {where}, for the other hosts.")
            if time.monotonic() > deadline + _GREETING:
                raise NoRendezvous(f"{where} did not say to go on.") from None
    if not received:
        return None
    with contextlib.suppress(ValueError):
        answer = json.loads(received)
        if isinstance(answer, dict) and ("go" in answer or "error" in answer):
            return answer
    raise NoRendezvous(
        f"{where} answers, but does not wait for this host: its run has begun already, or another "
        "program has the port."
    )


def _line(connection):
    received = b""
    while not received.endswith(b"\n") and len(received) < 4096:
        part = connection.recv(4096)
        if not part:
            break
        received += part
    return received


def _send(connection, message):
    with contextlib.suppress(OSError):
        connection.sendall(json.dumps(message).encode() + b"\n")


def _is_gone(connection):
    """Whether the other side has hung up."""
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def named(hosts: Sequence[int]) -> str:
    """host 1; hosts 1, 2 and 5; hosts 1, 2, 3 and 20 more"""
    names = [str(host) for host in hosts]
    if len(names) == 1:
        return f"host {names[0]}"
    if len(names) > 4:
        names = [*names[:3], f"{len(names) - 3} more"]
    return f"hosts {', '.join(names[:-1])} and {names[-1]}"


class _Word:
    """Says whom this host waits for: after a while, and then now and again."""

    def __init__(self, say):
        self._say = say
        self._next = time.monotonic() + _FIRST_WORD

    def about(self, sentence):
        if time.monotonic() > self._next:
            self._next = time.monotonic() + _NEXT_WORD
            self._say(sentence)

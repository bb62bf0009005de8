"""Hosts that find each other, or do not: each a sentence."""

import concurrent.futures
import functools
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from e4e_jax.runtime import rendezvous
from e4e_jax.runtime.rendezvous import NoRendezvous, meet


@pytest.fixture
def address():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return f"localhost:{probe.getsockname()[1]}"


class Door:
    """What host 0 has done so far, which the others can wait for."""

    def __init__(self, monkeypatch):
        self.listens, self.greeted = False, 0
        listen, greet = rendezvous._listen, rendezvous._greet

        def listened(*args):
            server = listen(*args)
            self.listens = True
            return server

        def greeted(*args):
            greet(*args)
            self.greeted += 1

        monkeypatch.setattr(rendezvous, "_listen", listened)
        monkeypatch.setattr(rendezvous, "_greet", greeted)

    def has_greeted(self, number):
        wait_until(lambda: self.greeted >= number)


@pytest.fixture
def door(monkeypatch):
    return Door(monkeypatch)


def wait_until(happens):
    deadline = time.monotonic() + 60
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def come(address, numbers, *, of=3, patience=60.0, after=None, said=None):
    """Processes of these numbers -> (what each ended with, all that was said).

    Process i comes when after[i], a function that waits for something, returns.
    """
    said = [] if said is None else said

    def one(i):
        (after or {}).get(i, lambda: None)()
        try:
            count = of[i] if isinstance(of, tuple) else of
            return meet(address, numbers[i], count, patience=patience, say=said.append)
        except (ValueError, OSError) as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(len(numbers)) as pool:
        return list(pool.map(one, range(len(numbers)))), said


def test_all_come_in_any_order_and_the_port_is_free_afterwards(address):
    for _ in range(2):
        after = {0: lambda: time.sleep(0.3)}  # host 0 is the last one, or nearly
        assert come(address, [0, 1, 2], after=after) == ([None] * 3, [])
    socket.create_server(("", int(address.split(":")[1]))).close()


def test_a_late_host_is_waited_for_by_name(address, door, monkeypatch):
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now, sleep=time.sleep)
    monkeypatch.setattr(rendezvous, "time", clock)
    said = []

    def both_have_spoken():
        door.has_greeted(1)
        clock.now = 11.0
        wait_until(lambda: len(said) == 2)

    after = {1: lambda: wait_until(lambda: door.listens), 2: both_have_spoken}
    ends, _ = come(address, [0, 1, 2], after=after, said=said)
    assert ends == [None] * 3
    port = address.split(":")[1]
    assert set(said) == {
        f"waits for host 2 of 3 at port {port}.",
        f"waits, with host 0 at {address}, for the other hosts.",
    }


def test_a_host_that_does_not_come_is_named_on_all(address, door, monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: 3.0 * door.greeted, sleep=time.sleep)
    monkeypatch.setattr(rendezvous, "time", clock)
    (first, second), _ = come(address, [0, 1], patience=1.0)
    missing = f"host 2 of 3 did not come to port {address.split(':')[1]}"
    assert str(first).startswith(f"{missing}; start all with the same COORDINATOR_ADDRESS")
    assert str(second) == str(first)


def test_host_0_is_missed(address):
    (error,), _ = come(address, [1], of=2, patience=0.0)
    assert str(error).startswith(f"host 0 at {address} cannot be reached (")


def test_a_name_that_nobody_knows(monkeypatch):
    monkeypatch.setattr(rendezvous, "_UNKNOWN_NAME", 0.5)
    (error,), _ = come("nohost.invalid:1234", [1])
    assert "host 0 at nohost.invalid:1234 cannot be reached (the name is unknown" in str(error)


def test_a_number_twice_and_another_count_are_refused(address, door):
    after = {i: functools.partial(door.has_greeted, i - 1) for i in range(1, 5)}
    ends, said = come(address, [0, 1, 1, 2, 2], of=(3, 3, 3, 4, 3), after=after)
    assert [ends[i] for i in (0, 1, 4)] == [None] * 3
    assert str(ends[2]) == "two processes were started with the number 1."
    assert str(ends[3]) == "process 2 was started as one of 4, process 0 as one of 3."
    assert len(said) == 2


def test_a_process_that_was_ended_while_it_waited_may_come_again(address, door):
    host, port = address.split(":")

    def another_has_died():
        wait_until(lambda: door.listens)
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b'{"e4e_host": 1, "of": 3}\n')
            door.has_greeted(1)

    after = {1: another_has_died, 2: lambda: door.has_greeted(2)}
    assert come(address, [0, 1, 2], after=after)[0] == [None] * 3


def test_a_port_that_is_taken_by_something_else():
    with socket.create_server(("localhost", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"

        def greet():
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"220 a mail server\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        (visitor,), _ = come(address, [1])
        thread.join()
        assert "answers, but does not wait for this host" in str(visitor)
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        (error,), _ = come(f"localhost:{port}", [0])
    assert isinstance(error, NoRendezvous)
    assert str(error).startswith(f"port {port} of this host cannot be listened at (")
    assert "in use" in str(error)


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":1234", "localhost:0", "a:65536"])
def test_an_address_that_is_none(address):
    with pytest.raises(ValueError, match="expected name:port of process 0"):
        meet(address, 0, 2, patience=1.0, say=print)


@pytest.mark.parametrize("host, hosts", [(2, 2), (-1, 2), (0, 0)])
def test_numbers_that_do_not_fit(host, hosts):
    with pytest.raises(ValueError, match=f"this is process {host} of {hosts}; expected"):
        meet("localhost:1", host, hosts, patience=1.0, say=print)

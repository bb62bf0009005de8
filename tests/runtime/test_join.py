"""How a host parts from the others: with them, or by telling them why."""

import pytest

from e4e_jax.runtime import join
from e4e_jax.runtime.program import Failure


class Watch:
    """Notes what it is told."""

    def __init__(self):
        self.leaving = False
        self.told = []

    def announce(self, reason, exit_code):
        self.told.append((reason, exit_code))

    def wait_for_verdict(self):
        self.told.append("verdict")


@pytest.fixture
def watch(monkeypatch):
    watch = Watch()
    monkeypatch.setattr(join, "_watch", watch)
    monkeypatch.setattr(join, "_part", lambda: watch.told.append("parted"))
    monkeypatch.setattr(join, "_forget", lambda: None)
    monkeypatch.setattr(join.atexit, "register", lambda *_: None)
    return watch


class Stopped(Failure):
    exit_code = 3


def gloo():
    """What a step fails with on a processor where another host is gone."""
    try:
        raise ValueError("UNKNOWN: Gloo AllReduce failed: Connection closed by peer [10.0.0.2]")
    except ValueError as error:
        raise OSError("The checkpoint /run/10 could not be written.") from error


def throw(error):
    raise error


@pytest.mark.parametrize(
    "block, told",
    [
        (lambda: None, ["parted"]),
        (lambda: throw(SystemExit(0)), ["parted"]),
        (lambda: throw(KeyboardInterrupt("Stopped at step 7.")), ["parted"]),
        (lambda: throw(ValueError("x.png\nis damaged.")), [("x.png is damaged.", 1)]),
        (lambda: throw(Stopped("no more")), [("no more", 3)]),
        (lambda: throw(KeyboardInterrupt()), [("", 130)]),
        (lambda: throw(SystemExit(2)), [("", 2)]),
        (gloo, ["verdict", ("The checkpoint /run/10 could not be written.", 1)]),
    ],
)
def test_the_others_are_told_of_a_bad_end_and_met_at_a_good_one(watch, block, told):
    try:
        with join.together("start all again"):
            block()
    except BaseException:
        assert block is not None
    assert watch.told == told and watch.advice == "start all again"


def test_a_process_that_is_alone_runs_as_it_is():
    with join.together("nothing"), pytest.raises(ValueError):
        raise ValueError

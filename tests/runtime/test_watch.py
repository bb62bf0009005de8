"""The watch over other hosts, with a store and a clock of its own."""

import pytest
from key_value_store import Store

from e4e_jax.runtime import watch
from e4e_jax.runtime.watch import Watch


class Hosts:
    """Three watches over one store; those that are `alive` beat every two seconds."""

    def __init__(self, monkeypatch):
        monkeypatch.setattr(watch, "_LINGER", 0.0)
        self.store = Store()
        self.said = {}
        self.alive = [0, 1, 2]
        self.watches = [
            Watch(self.store, i, 3, end=lambda text, i=i: self.said.setdefault(i, text))
            for i in range(3)
        ]
        for one in self.watches:
            one.advice = "start all again with the same work directory"

    def let_pass(self, seconds):
        for second in range(seconds):
            for i in self.alive:
                if i not in self.said:
                    if second % 2 == 0:
                        try:
                            self.watches[i].beat()
                        except Exception:
                            assert not self.store.answers
                    self.watches[i].look(1.0)


@pytest.fixture
def three(monkeypatch):
    return Hosts(monkeypatch)


def sentence(host, reason=""):
    return f"host {host} ended{reason}; start all again with the same work directory."


def test_nobody_is_missed_while_all_are_there(three):
    three.let_pass(200)
    assert not three.said


@pytest.mark.parametrize("dead", [1, 2])
def test_a_host_that_is_silent_ends_the_others_within_a_minute(three, dead):
    three.let_pass(10)
    three.alive.remove(dead)
    three.let_pass(35)
    assert not three.said  # a machine may be slow
    three.let_pass(15)
    assert three.said == {i: sentence(dead) for i in three.alive}


def test_a_host_that_never_gave_a_sign_is_missed(three):
    three.alive.remove(2)
    three.let_pass(50)
    assert three.said == {i: sentence(2) for i in (0, 1)}


def test_the_end_of_host_0_is_the_end_of_the_store(three):
    three.let_pass(10)
    three.alive.remove(0)
    three.store.answers = False
    three.let_pass(50)
    assert three.said == {i: sentence(0) for i in (1, 2)}


def test_a_host_says_why_it_ends(three):
    three.let_pass(4)
    three.watches[1].announce("the disk is full.", 1)
    three.alive.remove(1)
    three.let_pass(4)
    assert not three.said  # they may come to the same mistake themselves
    three.let_pass(10)
    assert three.said == {i: sentence(1, " (the disk is full)") for i in (0, 2)}


def test_after_a_step_that_failed_the_answer_comes_sooner(three):
    three.let_pass(10)
    three.alive.remove(1)
    three.watches[0]._alone = True
    three.let_pass(20)
    assert three.said == {0: sentence(1)}


def test_one_who_leaves_misses_nobody(three):
    three.let_pass(4)
    for one in three.watches:
        one.stop()
    three.alive.remove(0)
    three.let_pass(100)
    assert not three.said


def test_the_name_of_the_program(monkeypatch):
    monkeypatch.setattr(watch.sys, "argv", ["/somewhere/train.py"])
    assert watch.program_name() == "train.py"
    monkeypatch.setattr(watch.sys, "argv", ["/somewhere/e4e_jax/__main__.py"])
    assert watch.program_name() == "e4e_jax"

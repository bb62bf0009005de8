"""Agreements of several hosts, which are threads here."""

import concurrent.futures
import threading
import time
from types import SimpleNamespace

import pytest
from key_value_store import Store

from e4e_jax.runtime import hosts
from e4e_jax.runtime.hosts import CommonStop, Meeting


def on_hosts(function, number=3):
    """function(host) on each host at once -> their results."""
    with concurrent.futures.ThreadPoolExecutor(number) as pool:
        return list(pool.map(function, range(number)))


def test_values_come_in_the_order_of_the_hosts_and_leave_nothing_behind():
    store = Store()

    def meet(host):
        time.sleep(0.1 * (2 - host))  # the last host comes first
        return [
            Meeting(store, host, 3, f"m/{i}", "a test").gather({"host": host, "round": i})
            for i in range(4)
        ]

    expected = [[{"host": h, "round": i} for h in range(3)] for i in range(4)]
    assert on_hosts(meet) == [expected] * 3
    assert {key.split("/")[1] for key in store.values} == {"3"}  # those of old meetings are gone


def test_who_waits_says_for_whom(monkeypatch):
    monkeypatch.setattr(hosts, "_SLICE", 50)
    store, lines = Store(), []
    monkeypatch.setattr("builtins.print", lambda text, **_: lines.append(text))

    def now():  # half a minute passes when both have come
        return 31.0 if {"m/0/0", "m/0/2"} <= store.values.keys() else 0.0

    monkeypatch.setattr(hosts, "time", SimpleNamespace(monotonic=now))

    def meet(host):
        while host == 1 and len(lines) < 2:
            time.sleep(0.01)
        Meeting(store, host, 3, "m/0", "the first step").gather(host)

    on_hosts(meet)
    assert len(lines) == 2  # of the two who wait
    assert all("waits for host 1 at the first step." in line for line in lines)


def test_one_process_agrees_with_itself():
    assert hosts.gather_json({"a": (1, 2)}) == [{"a": [1, 2]}]
    assert hosts.on_any_host(True) and not hosts.on_any_host(False)
    hosts.wait_for_hosts("nothing")


@pytest.mark.parametrize("asking", [0, 2])
def test_a_stop_is_at_one_question_on_all_hosts_and_at_most_a_step_late(asking):
    """The hosts are as far apart as the queue of steps lets them be."""
    store = Store()
    steps = [0] * 3

    def run(host):
        stop = CommonStop(store, host, 3, "stop")
        while steps[host] < 500 and not stop.reached(host == asking and steps[host] >= 20):
            while steps[host] > min(steps) + 1:  # a step needs all hosts for its end
                time.sleep(0.001)
            time.sleep(0.002 * host)
            steps[host] += 1
        assert stop.reached(False) or steps[host] == 500
        stop.close()
        return steps[host]

    ends = on_hosts(run)
    assert len(set(ends)) == 1 and 20 <= ends[0] <= 23


def test_a_stop_that_comes_after_the_end_of_another_host_waits_for_nobody():
    store, ended = Store(), threading.Event()

    def run(host):
        stop = CommonStop(store, host, 2, "stop")
        done = 0
        while done < 10 and not stop.reached(host == 1 and done == 9):
            done += 1
            if host == 1 and done == 9:
                ended.wait(60)
        stop.close()
        ended.set()
        return done

    assert on_hosts(run, 2) == [10, 10]


@pytest.mark.parametrize("shared", [True, False])
def test_a_folder_that_one_host_does_not_see(monkeypatch, tmp_path, shared):
    store, told = Store(), []
    local = threading.local()

    def gather(value, what=""):
        local.meeting += 1
        return Meeting(store, local.host, 2, f"m/{local.meeting}", what).gather(value)

    monkeypatch.setattr(hosts.jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts.jax, "process_index", lambda: local.host)
    monkeypatch.setattr(hosts, "gather_json", gather)

    def run(host):
        local.host, local.meeting = host, -1
        folder = tmp_path / ("run" if shared else f"run{host}")
        try:
            hosts.check_shared(str(folder), "work directory")
        except ValueError as error:
            told.append(str(error).replace(str(folder), "RUN"))

    on_hosts(run, 2)
    assert not list(tmp_path.glob("*/*"))
    sentence = (
        "host 1 does not see the work directory RUN of host 0; expected a folder on a disk that "
        "all hosts share."
    )
    assert told == ([] if shared else [sentence] * 2)

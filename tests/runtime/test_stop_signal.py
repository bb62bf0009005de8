import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest
from key_value_store import Store

from e4e_jax.runtime import program, stop_signal
from e4e_jax.runtime.hosts import CommonStop


def test_sigterm_becomes_a_flag_within_the_context_only():
    before = signal.getsignal(signal.SIGTERM)
    with stop_signal.StopSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested and stop.requested
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_to_another_host_cuts_this_one_short_as_well(monkeypatch):
    store, stops = Store(), []

    def of_all_hosts(follow):
        return CommonStop(store, len(stops), 2, "stop", follow)

    monkeypatch.setattr(stop_signal.jax, "process_count", lambda: 2)
    monkeypatch.setattr(stop_signal.CommonStop, "of_all_hosts", of_all_hosts)
    for _ in range(2):
        stops.append(stop_signal.StopSignal())
    here, there = stops
    with here:
        assert not here.requested and not there.requested
        with here.cuts_short():
            there.received = True
            thread = threading.Thread(target=lambda: there.requested)
            thread.start()
            for _ in range(6000):  # the handler runs between two calls, or cuts one short
                time.sleep(0.01)
            raise AssertionError("it should have been cut short")
        assert here.received and here.requested
        thread.join()
        assert there.requested
        there.close()


def test_second_interrupt_interrupts(capfd, request, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(stop_signal, "time", SimpleNamespace(monotonic=lambda: now[0]))
    # A shell starts what runs in the background with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with stop_signal.StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        os.kill(os.getpid(), signal.SIGINT)  # at once: the same one, to the process and its group
        now[0] += program.TOGETHER
        assert capfd.readouterr().err.count("Ctrl-C again") == 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


def test_stop_signal_in_another_thread_does_nothing():
    results = []

    def run():
        with stop_signal.StopSignal() as stop:
            results.append(stop.requested)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert results == [False]

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from key_value_store import Store

from e4e_jax.runtime import program
from e4e_jax.runtime.hosts import CommonStop
from e4e_jax.training import hooks, logs


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_non_finite_loss_names_loss_and_step():
    hooks.check_finite({"l2": 0.5, "lpips": np.float32(3)}, 10)
    with pytest.raises(hooks.NonFiniteLoss, match=r"l2 became nan at step 12$"):
        hooks.check_finite({"lpips": 1.0, "l2": float("nan")}, 12)
    with pytest.raises(hooks.NonFiniteLoss, match=r"inf at step 3$"):
        hooks.check_finite({"l2": np.inf}, 3)


def test_sigterm_becomes_a_flag_within_the_context_only():
    before = signal.getsignal(signal.SIGTERM)
    with hooks.StopSignal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested and stop.requested
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_to_another_host_cuts_this_one_short_as_well(monkeypatch):
    store, stops = Store(), []

    def of_all_hosts(follow):
        return CommonStop(store, len(stops), 2, "stop", follow)

    monkeypatch.setattr(hooks.jax, "process_count", lambda: 2)
    monkeypatch.setattr(hooks.CommonStop, "of_all_hosts", of_all_hosts)
    for _ in range(2):
        stops.append(hooks.StopSignal())
    here, there = stops
    with here:
        assert not here.requested and not there.requested
        with here.cuts_short():
            there.received = True
            thread = threading.Thread(target=lambda: there.requested)
            thread.start()
            time.sleep(60)
            raise AssertionError("it should have been cut short")
        assert here.received and here.requested
        thread.join()
        assert there.requested
        there.close()


def test_second_interrupt_interrupts(capfd, request):
    # A shell starts what runs in the background with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    with hooks.StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        os.kill(os.getpid(), signal.SIGINT)  # at once: the same one, to the process and its group
        time.sleep(program.TOGETHER + 0.1)
        assert capfd.readouterr().err.count("Ctrl-C again") == 1
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)


def test_stop_signal_in_another_thread_does_nothing():
    results = []

    def run():
        with hooks.StopSignal() as stop:
            results.append(stop.requested)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert results == [False]


def test_progress_in_a_file_is_a_line_at_intervals(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(hooks.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    with hooks.ProgressBar(100, 8, first_step=10, interval=10, stream=stream) as bar:
        for step in range(20, 101, 10):
            bar.update(step, {"stage": 3, "l2": 0.123456})
            now[0] += 4.0
        bar.write("done")
    lines = stream.getvalue().splitlines()
    # At 0, 12, 24 seconds, and at the end.
    assert [line.split()[0] for line in lines] == ["20/100", "50/100", "80/100", "100/100", "done"]
    assert lines[0] == "20/100 stage 3 | l2 0.1235"
    # 10 steps of 8 images in 4 seconds; 50 steps remain.
    assert lines[1] == "50/100 stage 3 | 20 images/s | 0:20 left | l2 0.1235"


def test_progress_on_a_terminal_is_one_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    stream = Terminal()
    with hooks.ProgressBar(10, 1, stream=stream) as bar:
        bar.update(5, {"loss": 1.0, "a long name of something": 2.0})
        bar.write("validated")
        bar.update(10, {"loss": 0.5})
    text = stream.getvalue()
    assert text.count("\n") == 2 and text.endswith("\n")  # behind "validated" and at the end
    rewritten = [part.split("\x1b[K")[-1] for part in text.split("\r")]
    assert all(len(line.splitlines()[0]) < 50 for line in rewritten if line)
    assert "[██████████··········] 5/10 | loss 1" in text
    assert "[████████████████████] 10/10" in text


def test_durations_above_an_hour(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(hooks.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    bar = hooks.ProgressBar(7203, 1, interval=0, stream=stream)
    bar.update(1)
    now[0] = 1.0
    bar.update(2)
    assert "2:00:01 left" in stream.getvalue()


def test_what_takes_long_the_first_time_is_said_to_compile():
    stream = io.StringIO()
    bar = hooks.ProgressBar(10, 1, stream=stream)
    for _ in range(2):
        with bar.patience("The step", after=0.05):
            time.sleep(0.3)
    with bar.patience("The validation", after=60):
        pass
    first, second = stream.getvalue().splitlines()
    assert first.startswith("The step compiles, which can take minutes")
    assert second == "The step took 0 s with its compilation."


class FullDisk:
    """A file on a disk that has room for some bytes."""

    def __init__(self, room):
        self.room, self.content = room, b""

    def write(self, content):
        if not self.room:
            raise OSError(28, "No space left on device")
        part = content[: self.room]
        self.room -= len(part)
        self.content += part
        return len(part)

    def close(self):
        pass


def test_a_full_disk_is_one_warning_for_each_log_and_loses_nothing(tmp_path, caplog):
    writer = logs.make_writer(tmp_path)
    disks = []
    for log in writer._writers:
        log.close()
        log._file = FullDisk(50)
        disks.append(log._file)
    for step in range(1, 6):
        writer.write_scalars(step, {"l2": 0.5, "loss": 0.25})
    assert len(caplog.messages) == 2
    assert all(": No space left on device; the training goes on" in m for m in caplog.messages)
    assert f"{tmp_path}/metrics.jsonl cannot be written" in " ".join(caplog.messages)
    for disk in disks:
        disk.room = 10**6
    writer.write_scalars(6, {"l2": 0.5, "loss": 0.25})
    lines = [json.loads(line) for line in disks[0].content.splitlines()]
    assert lines == [{"step": step, "l2": 0.5, "loss": 0.25} for step in range(1, 7)]
    content, lengths = disks[1].content, []
    while content:  # a record is whole: length, its checksum, the event, its checksum
        lengths.append(int.from_bytes(content[:8], "little"))
        assert len(content) >= lengths[-1] + 16
        content = content[lengths[-1] + 16 :]
    assert len(lengths) == 12


def test_json_lines_go_on_behind_a_torn_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)  # importing it fails
    path = tmp_path / "run" / "metrics.jsonl"
    writer = logs.make_writer(tmp_path / "run")
    writer.write_scalars(1, {"l2": np.float32(0.5)})
    writer.write_images(1, {"grid": np.zeros((4, 4, 3), np.uint8)})
    writer.close()
    with open(path, "a") as file:
        file.write('{"step": 2, "l')
    writer = logs.make_writer(tmp_path / "run")
    writer.write_scalars(2, {"l2": 0.25})
    writer.flush()
    lines = path.read_text().splitlines()
    assert [json.loads(lines[0]), json.loads(lines[2])] == [
        {"step": 1, "l2": 0.5},
        {"step": 2, "l2": 0.25},
    ]


@pytest.mark.slow
def test_tensorboard_logs_and_late_import_of_tensorflow(tmp_path):
    code = f"""
import sys
from e4e_jax.runtime import program
from e4e_jax.training import hooks, logs
assert "tensorflow" not in sys.modules
import numpy as np
writer = logs.make_writer({str(tmp_path)!r})
writer.write_scalars(7, {{"l2": 0.5}})
writer.write_images(7, {{"grid": np.zeros((1, 8, 8, 3), np.uint8)}})
writer.close()
assert "tensorflow" not in sys.modules
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator({str(tmp_path)!r}).Reload()
assert events.Tags()["tensors"] == ["l2", "grid"], events.Tags()
(l2,), (grid,) = events.Tensors("l2"), events.Tensors("grid")
assert l2.step == grid.step == 7 and l2.tensor_proto.float_val[0] == 0.5
assert grid.tensor_proto.string_val[:2] == [b"8", b"8"]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 7, "l2": 0.5}

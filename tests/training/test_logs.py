import json
import subprocess
import sys

import numpy as np
import pytest

from e4e_jax.training import logs


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
from e4e_jax.training import logs
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

"""Two hosts on this machine: one is late, is killed, is stopped, or has a mistake of its own."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
AGAIN = "start all again with the same work directory."
PROGRAM = """
import os, signal, sys, time
sys.argv[0] = "train.py"
from e4e_jax.runtime import program
program.begin("train.py")
import jax, numpy as np
from e4e_jax.runtime import hosts
from e4e_jax.runtime import parallel

def main():
    with parallel.all_hosts(advice="start all again with the same work directory"):
        mode, host = sys.argv[1], jax.process_index()
        mesh = parallel.make_mesh()
        def step(state, batch):
            total = jax.lax.pmean(batch.sum(), "data")
            return state + total, {"loss": total}
        step = parallel.parallelize(step, mesh)
        state = parallel.replicate(np.float32(0), mesh)
        batch = np.ones(4, np.float32)
        if mode == "late" and host == 1:
            time.sleep(60)
        if mode == "mistake" and host == 1:
            raise ValueError("x.png is damaged.")
        for i in range(5 if mode == "late" else 3000):
            state, metrics = step(state, parallel.put_batch(batch, mesh))
            loss = float(metrics["loss"])
            if i == 2:
                print("running", flush=True)
            time.sleep(0.1)
        print("state", float(state))

program.end(program.run("train.py", main))
"""


CONFIG = """
from configs import toy_features


def get_config():
    config = toy_features.get_config()
    config.batch_size, config.validation_batch_size = 4, 4
    config.log_every, config.validate_every, config.checkpoint_every = 1, 10_000, 10_000
    config.data.num_validation, config.features.embedding_dim = 6, 8
    config.data.image_size = (16, 16)
    config.features.widths, config.features.depths = (16, 16, 16, 16), (1, 1, 1, 1)
    config.optimizer.schedule, config.optimizer.schedule_options = "constant", {}
    return config
"""


class Cluster:
    """Two processes, or one of two devices; what each says is in a file of its own."""

    def __init__(self, folder, name, command, *, hosts=2, devices=1):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "COORDINATOR_ADDRESS": f"localhost:{port}",
            "NUM_PROCESSES": str(hosts),
            "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=4", f"count={devices}"),
        }
        self.files = [folder / f"{name}.{i}" for i in range(hosts)]
        self.processes = []
        for i, file in enumerate(self.files):
            with open(file, "w") as output:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, *command], stdout=output, stderr=output,
                        env=environment | {"PROCESS_ID": str(i)}, cwd=ROOT,
                    )
                )  # fmt: skip

    def lines(self, host):
        """What the host said, without Gloo's lines about its connections."""
        return [t for t in self.files[host].read_text().splitlines() if "[Gloo]" not in t]

    def wait_until_running(self):
        deadline = time.monotonic() + 300
        while not all("running" in self.lines(i) for i in range(2)):
            assert time.monotonic() < deadline and self.processes[0].poll() is None
            time.sleep(0.1)

    def end_of(self, host, timeout):
        return self.processes[host].wait(timeout=timeout)

    def ends(self):
        return [self.end_of(i, timeout=300) for i in range(len(self.processes))]


@pytest.fixture
def cluster(tmp_path):
    """cluster(mode) or with the arguments of Cluster: it is gone after the test."""
    started = []

    def start(name, command=None, **options):
        started.append(Cluster(tmp_path, name, command or ["-c", PROGRAM, name], **options))
        return started[-1]

    yield start
    for one in started:
        for process in one.processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize("host", [0, 1])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_when_one_is_gone_the_other_ends_with_one_sentence_within_a_minute(cluster, host, how):
    pair = cluster("run")
    pair.wait_until_running()
    pair.processes[host].send_signal(how)
    assert pair.end_of(1 - host, timeout=60) == 75
    assert pair.lines(1 - host) == ["running", f"train.py: host {host} ended; {AGAIN}"]
    if how == signal.SIGSTOP:  # the machine comes back: its run is over
        pair.processes[host].send_signal(signal.SIGCONT)
        assert pair.end_of(host, timeout=60) == 75
        assert pair.lines(host)[1].startswith("train.py: ")
        assert len(pair.lines(host)) == 2


def test_one_is_a_minute_late_with_the_first_step(cluster):
    """As where a cache of compiled programs serves the other one."""
    pair = cluster("late")
    assert pair.ends() == [0, 0]
    waiting = "train.py: waits for host 1 at the first training step, which each of them compiles."
    assert pair.lines(0) == [waiting, "running", "state 20.0"]
    assert pair.lines(1) == ["running", "state 20.0"]


def test_a_mistake_on_one_is_told_on_both(cluster):
    pair = cluster("mistake")
    assert pair.end_of(1, timeout=300) == 1
    assert pair.end_of(0, timeout=60) == 75
    assert pair.lines(1) == ["train.py: x.png is damaged."]
    assert pair.lines(0) == [f"train.py: host 1 ended (x.png is damaged); {AGAIN}"]


def losses(workdir):
    """{step: loss}, of the lines that are whole."""
    lines = (workdir / "metrics.jsonl").read_text().split("\n")[:-1]
    records = [json.loads(line) for line in lines]
    name = "train/factor_error"
    return {record["step"]: record[name] for record in records if name in record}


def test_a_run_stops_on_two_hosts_and_goes_on_on_any_number(cluster, tmp_path):
    (tmp_path / "tiny.py").write_text(CONFIG)

    def train(workdir, steps, **options):
        flags = ["train.py", f"--config={tmp_path}/tiny.py", f"--workdir={tmp_path / workdir}"]
        steps = f"--config.total_steps={steps}"
        return cluster(f"{workdir}-{len(os.listdir(tmp_path))}", [*flags, steps], **options)

    pair = train("cut", 100_000)
    while not (tmp_path / "cut" / "metrics.jsonl").exists() or not losses(tmp_path / "cut"):
        assert pair.processes[0].poll() is None
        time.sleep(0.01)
    at = max(losses(tmp_path / "cut"))
    pair.processes[1].send_signal(signal.SIGTERM)
    assert pair.ends() == [0, 0]
    stopped = max(losses(tmp_path / "cut"))
    assert at <= stopped and f"Stopped at step {stopped};" in pair.files[0].read_text()
    assert os.listdir(tmp_path / "cut" / "checkpoints") == [str(stopped)]

    for steps, options in (
        (stopped + 1, {"hosts": 1, "devices": 2}),
        (stopped + 2, {"hosts": 1}),
        (stopped + 3, {"hosts": 2}),
    ):
        going_on = train("cut", steps, **options)
        assert going_on.ends() == [0] * options["hosts"]
        assert "Going on from" in going_on.files[0].read_text()

    assert train("whole", stopped + 3, hosts=1).ends() == [0]
    whole, cut = losses(tmp_path / "whole"), losses(tmp_path / "cut")
    assert list(whole) == list(cut) == list(range(1, stopped + 4))
    np.testing.assert_allclose(list(cut.values()), list(whole.values()), rtol=1e-3)

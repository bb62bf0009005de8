"""The loop around a run of one number: what it saves, when it stops, what it calls good."""

import os
import signal
import time

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from e4e_jax.runtime import parallel
from e4e_jax.training import finite, loop
from e4e_jax.training.checkpoints import Checkpoints
from e4e_jax.training.run import Run


class Batches:
    """Where a pipeline stands in a run; `fail` is called before each batch."""

    def __init__(self, fail=lambda step: None):
        self.step, self.fail = 0, fail

    def __next__(self):
        self.step += 1
        self.fail(self.step)
        return np.ones((4, 1), np.float32)

    def get_state(self):
        return {"step": self.step}

    check_state = staticmethod(lambda state: state["step"])

    def set_state(self, state):
        self.step = state["step"]

    def close(self):
        pass


def make_config(**fields):
    config = ml_collections.ConfigDict(
        {"total_steps": 6, "batch_size": 4, "log_every": 100, "validate_every": 100,
         "checkpoint_every": 2, "keep_checkpoints": 2}
    )  # fmt: skip
    config.update(fields)
    return config


@jax.jit
def tenfold(state, batch):
    """Grows tenfold a step; its loss, taken before, is NaN from 10,000 on."""
    w = state["w"]
    loss = jnp.where(w < 1e4, w, jnp.nan)
    return {"step": state["step"] + 1, "w": w * 10}, {"loss": loss}


@jax.jit
def counted(state, batch):
    return {"step": state["step"] + 1, "w": state["w"] + 1}, {"loss": state["w"]}


def train(workdir, step=counted, before=lambda n: None, batches=None, config=None, **fields):
    """Returns the steps that were done; `before(n)` is called before each."""
    mesh = parallel.make_mesh()
    state = parallel.replicate({"step": jnp.int32(0), "w": jnp.float32(1)}, mesh)
    done = []

    def counting(state, batch):
        before(len(done) + 1)
        done.append(int(state["step"]) + 1)
        return step(state, batch)

    run = Run(
        **{
            "state": state, "step": counting, "batches": batches or Batches(),
            "validate": lambda state: {"l2": 0.5}, "best": "l2",
            "picture": lambda state: np.zeros((8, 8, 3), np.uint8),
            "finish": lambda state, workdir: {},
        } | fields
    )  # fmt: skip
    loop.run_loop(run, config or make_config(), mesh, str(workdir))
    return done


def steps(workdir):
    return Checkpoints(workdir / "checkpoints").steps()


def send(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # its handler runs


def test_a_checkpoint_is_good_once_the_loss_after_it_was_finite(tmp_path):
    """The parameters of step 4 are finite, and what they lead to is not."""
    for _ in range(2):  # started again, it ends in the same way
        with pytest.raises(finite.NonFiniteLoss) as error:
            train(tmp_path, tenfold)
        folder = tmp_path / "checkpoints"
        assert str(error.value) == (
            f"loss became nan at step 5; the last good checkpoint is {folder}/2 (that of step 4, "
            f"which led to it, is {folder}/4.not_finite now)."
        )
        assert steps(tmp_path) == [2]


def test_parameters_that_are_not_finite_are_not_saved(tmp_path):
    @jax.jit
    def explode(state, batch):
        w = jnp.where(state["step"] == 3, jnp.inf, state["w"])
        return {"step": state["step"] + 1, "w": w}, {"loss": jnp.float32(1)}

    with pytest.raises(finite.NonFiniteLoss, match="w of the state .* after step 4; .*/2.$"):
        train(tmp_path, explode)
    assert steps(tmp_path) == [2]


def test_a_last_validation_that_is_not_finite_is_no_good_end(tmp_path):
    finished = []
    with pytest.raises(finite.NonFiniteLoss, match="validation/l2 became nan at step 6; .*/4.$"):
        train(
            tmp_path,
            validate=lambda state: {"l2": float("nan")},
            finish=lambda *_: finished.append(True),
        )
    assert not finished and steps(tmp_path) == [2, 4]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_looked_at_in_every_step_and_nothing_comes_before_the_save(
    tmp_path, capfd, request, number
):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    validated = []
    config = make_config(validate_every=1, checkpoint_every=100, total_steps=50)

    def validate(state):
        validated.append(int(state["step"]))
        return {"l2": 0.5}

    def run():
        return train(
            tmp_path, before=lambda n: send(number) if n == 3 else None,
            validate=validate, config=config,
        )  # fmt: skip

    if number == signal.SIGINT:
        with pytest.raises(KeyboardInterrupt, match="Stopped at step 3; the same command goes on"):
            run()
    else:
        assert run() == [1, 2, 3]
        assert "Stopped at step 3; the same command goes on" in capfd.readouterr().err
    assert validated == [1, 2] and steps(tmp_path) == [3]


def test_a_validation_is_cut_short(tmp_path):
    def validate(state):
        send(signal.SIGTERM)
        time.sleep(60)
        raise AssertionError("it should have been cut short")

    config = make_config(validate_every=3, checkpoint_every=100, total_steps=50)
    assert train(tmp_path, validate=validate, config=config) == [1, 2, 3]
    assert steps(tmp_path) == [3]
    config.total_steps = 4
    assert train(tmp_path, config=config) == [4]


def test_workers_that_a_signal_ended_are_no_error(tmp_path):
    def fail(step):
        if step == 4:
            send(signal.SIGTERM)
            raise RuntimeError("Worker process was terminated unexpectedly with exit code -15.")

    assert train(tmp_path, batches=Batches(fail)) == [1, 2, 3]
    assert steps(tmp_path) == [2, 3]


class Pending:
    """A number on a device that is still at work."""

    def __init__(self, n, waited):
        self.n, self.waited = n, waited

    def block_until_ready(self):
        self.waited.append(self.n)

    def __float__(self):
        return 1.0


def test_one_step_runs_and_one_waits(tmp_path):
    waited, ahead = [], []

    def step(state, batch):
        n = int(state["step"]) + 1
        ahead.append(n - 1 - max(waited, default=0))
        return {**state, "step": state["step"] + 1}, {"loss": Pending(n, waited)}

    config = make_config(total_steps=20, checkpoint_every=100)
    assert len(train(tmp_path, step, config=config)) == 20
    assert max(ahead) == 1 and ahead.count(1) >= 17  # the first, which compiles, is waited for


def test_a_picture_that_the_disk_does_not_take_is_done_without(tmp_path, monkeypatch, capfd):
    def full(path, image):
        raise OSError(f"{path} cannot be written: No space left on device.")

    monkeypatch.setattr(loop, "save_png", full)
    assert len(train(tmp_path, config=make_config(validate_every=3))) == 6
    assert capfd.readouterr().err.count("No space left on device. The training goes on.") == 2

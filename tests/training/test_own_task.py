"""A task of others by import path; optimisers with states of their own in its checkpoints."""

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath

from configs import common
from e4e_jax.training import loop
from e4e_jax.training.checkpoint_folders import ARRAYS
from e4e_jax.training.checkpoints import Checkpoints

TASK = """
import jax
import jax.numpy as jnp
import numpy as np
import optax

from e4e_jax.runtime import parallel
from e4e_jax.training.run import Run, build_optimizer, training_batches


def brightness(config, mesh):
    optimizer = build_optimizer(config.optimizer, config.total_steps)
    params = {"w": jnp.full((3, config.brightness.outputs), 0.1), "b": jnp.zeros(())}

    def loss(params, images):
        means = images.astype(jnp.float32).mean((1, 2)) / 255
        return jnp.mean(jnp.square(means @ params["w"] + params["b"] - means[:, :1]))

    @jax.jit
    def step(state, batch):
        value, gradients = jax.value_and_grad(loss)(state["params"], batch["image"])
        updates, kept = optimizer.update(gradients, state["optimizer"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {"step": state["step"] + 1, "params": params, "optimizer": kept}, {"loss": value}

    state = {"step": jnp.int32(0), "params": params, "optimizer": optimizer.init(params)}
    return Run(
        state=parallel.replicate(state, mesh), step=step, batches=training_batches(config),
        validate=lambda state: {"error": float(jnp.abs(state["params"]["b"]))}, best="error",
        picture=lambda state: np.zeros((8, 8, 3), np.uint8), finish=lambda state, workdir: {},
    )


def not_a_run(config, mesh):
    return {"state": config}


def forgets(config):
    return config
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    (tmp_path / "own_tasks.py").write_text(TASK)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = common.get_base_config()
    config.task = "own_tasks:brightness"
    config.brightness = {"outputs": 4}
    config.batch_size, config.total_steps = 4, 6
    config.validate_every = config.checkpoint_every = config.log_every = 3
    config.data.source, config.data.num_images, config.data.image_size = "toy", 64, (8, 8)
    config.data.workers = 0
    config.optimizer = common.optimizer("adam", 0.02)
    return config


def states(workdir, step):
    """The arrays of a checkpoint, without names."""
    folder = epath.Path(Checkpoints(workdir / "checkpoints").path(step)) / ARRAYS
    return jax.tree.leaves(ocp.PyTreeCheckpointHandler().restore(folder))


@pytest.mark.parametrize(
    "name, options, schedule",
    [
        ("lion", {"weight_decay": 0.01}, ("cosine_decay_schedule", {"decay_steps": 6})),
        ("adafactor", {"min_dim_size_to_factor": 2, "momentum": 0.5}, ("constant", {})),
        ("optax.contrib:adopt", {"b1": 0.8}, ("warmup_cosine", {"warmup_steps": 2})),
    ],
)
def test_a_run_goes_on_bit_for_bit(config, tmp_path, name, options, schedule):
    config.optimizer.name, config.optimizer.options = name, options
    config.optimizer.schedule, config.optimizer.schedule_options = schedule
    loop.train(config, str(tmp_path / "whole"))
    config.total_steps = 3
    loop.train(config, str(tmp_path / "cut"))
    config.total_steps = 6
    loop.train(config, str(tmp_path / "cut"))
    whole, cut = (states(tmp_path / folder, 6) for folder in ("whole", "cut"))
    assert len(whole) == len(cut) > 4
    for a, b in zip(whole, cut, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "task, words",
    [
        (
            "own_tasks:not_a_run",
            "own_tasks:not_a_run gives dict; expected e4e_jax.training.run.Run",
        ),
        ("own_tasks:forgets", "own_tasks:forgets takes .config.; expected one that takes 2 argum"),
        ("own_tasks:gone", "the task own_tasks:gone cannot be imported: AttributeError"),
        ("own_task:x", "the task own_task:x cannot be imported: ModuleNotFoundError"),
    ],
)
def test_what_is_no_task_is_one_sentence(config, tmp_path, task, words):
    config.task = task
    with pytest.raises(ValueError, match=words):
        loop.train(config, str(tmp_path / "run"))

"""What all runs share: sources by name, optimisers by name, evaluation in batches."""

import numpy as np
import optax
import pytest

from configs import common, toy
from e4e_jax.training import run


def test_toy_images_are_held_out_with_their_factors():
    config = toy.get_config()
    config.data.num_validation = 70
    images, factors = run.held_out_images(config)
    assert images.shape == (70, 64, 64, 3) and images.dtype == np.uint8
    assert factors.shape == (70, 11)
    trained_on = run.build_source(config.data, held_out=False)
    assert not any(np.array_equal(trained_on[i], images[i]) for i in range(5))


def test_sources_and_optimisers_that_do_not_exist_are_named():
    data = toy.get_config().data
    data.source = "webcam"
    with pytest.raises(ValueError, match="config.data.source is 'webcam'"):
        run.build_source(data, held_out=False)
    data.source, data.path = "folder", ""
    with pytest.raises(ValueError, match="config.data.path is empty"):
        run.build_source(data, held_out=False)
    with pytest.raises(ValueError, match="'sgd'"):
        run.build_optimizer(common.optimizer("sgd", 1e-3), 10)


def test_schedules_reach_the_optimiser():
    section = common.optimizer(
        "adam", 1.0, schedule="linear", schedule_options={"begin": 1, "final_fraction": 0.0}
    )
    optimizer = run.build_optimizer(section, 3)
    params = np.zeros(1, np.float32)
    state = optimizer.init(params)
    taken = []
    for _ in range(3):
        updates, state = optimizer.update(np.ones(1, np.float32), state, params)
        taken.append(float(-updates[0]))
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(taken, [1.0, 1.0, 0.5], rtol=1e-4)  # Adam rounds

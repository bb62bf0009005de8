import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import relative_error, run_two_processes

from e4e_jax.runtime import parallel
from e4e_jax.runtime.parallel import PER_DEVICE, REPLICATED

LEARNING_RATE = 0.1
SPECS = {"weight": REPLICATED, "pool": PER_DEVICE}


def loss_fn(weight, x, keys, axis_name):
    """A loss with noise, and with a batch statistic shared over devices."""
    noise = jax.vmap(lambda key: jax.random.normal(key, (4,)))(keys)
    y = jnp.tanh((x + noise) @ weight)
    mean = jnp.mean(y, axis=0)
    if axis_name:
        mean = jax.lax.pmean(mean, axis_name)
    return jnp.mean(jnp.square(y - mean)) - jnp.mean(y)


def train_step(state, batch, step, key, axis_name="data"):
    """One step of gradient descent; the pool keeps this device's last example."""
    first = jax.lax.axis_index(axis_name) * len(batch["x"]) if axis_name else 0
    keys = parallel.example_keys(key, step, first + jnp.arange(len(batch["x"])))
    loss, gradient = jax.value_and_grad(loss_fn)(state["weight"], batch["x"], keys, axis_name)
    if axis_name:
        loss, gradient = jax.lax.pmean((loss, gradient), axis_name)
    pool = {"last": batch["x"][-1], "count": state["pool"]["count"] + 1}
    return {"weight": state["weight"] - LEARNING_RATE * gradient, "pool": pool}, {"loss": loss}


def problem(steps=10, batch=8):
    rng = np.random.default_rng(0)
    weight = jnp.asarray(0.5 * rng.normal(size=(4, 3)), jnp.float32)
    pool = {"last": jnp.zeros(4), "count": jnp.int32(0)}
    batches = rng.normal(size=(steps, batch, 4)).astype(np.float32)
    return weight, pool, batches, jax.random.key(7)


def run_sharded():
    mesh = parallel.make_mesh()
    weight, pool, batches, key = problem()
    state = {
        "weight": parallel.replicate(weight, mesh),
        "pool": parallel.stack_per_device(pool, mesh),
    }
    traces = []

    def counted(*args):
        traces.append(1)
        return train_step(*args)

    step_fn = parallel.parallelize(counted, mesh, state_specs=SPECS)
    losses = []
    for i, x in enumerate(batches):
        state, metrics = step_fn(state, parallel.put_batch({"x": x}, mesh), i, key)
        losses.append(float(metrics["loss"]))
    assert len(traces) == 1  # one program for all steps
    np.testing.assert_array_equal(weight, problem()[0])  # donation spared the caller's arrays
    return state, losses


def test_four_devices_equal_one():
    weight, pool, batches, key = problem()
    state, losses = run_sharded()
    expected_state = {"weight": weight, "pool": pool}
    for i, x in enumerate(batches):
        expected_state, metrics = train_step(expected_state, {"x": x}, i, key, axis_name=None)
        assert relative_error(losses[i], metrics["loss"]) < 1e-5
    assert relative_error(state["weight"], expected_state["weight"]) < 1e-5
    # Per-device state: each device kept the last of its own two examples.
    np.testing.assert_array_equal(state["pool"]["last"], batches[-1][1::2])
    np.testing.assert_array_equal(state["pool"]["count"], [10] * 4)


def test_pmap_of_the_same_function_gives_the_same_numbers():
    weight, pool, batches, key = problem()
    sharded_state, sharded_losses = run_sharded()
    axes = {"weight": None, "pool": 0}
    step_fn = jax.pmap(train_step, "data", in_axes=(axes, 0, None, None), out_axes=(axes, None))
    pool = jax.tree.map(lambda x: jnp.stack([x] * 4), pool)
    state = {"weight": weight, "pool": pool}
    for i, x in enumerate(batches):
        state, metrics = step_fn(state, {"x": x.reshape(4, 2, 4)}, i, key)
        np.testing.assert_array_equal(sharded_losses[i], metrics["loss"])
    for actual, expected in zip(
        jax.tree.leaves(sharded_state), jax.tree.leaves(state), strict=True
    ):
        np.testing.assert_array_equal(actual, expected)


PROCESS = """
import jax
import test_parallel as t
assert jax.process_count() == 2 and jax.device_count() == 4
mesh = parallel.make_mesh()
weight, pool, batches, key = t.problem()
rows = slice(4 * jax.process_index(), 4 * jax.process_index() + 4)
state = {"weight": parallel.replicate(weight, mesh), "pool": parallel.stack_per_device(pool, mesh)}
key = parallel.replicate(key, mesh)
step_fn = parallel.parallelize(t.train_step, mesh, state_specs=t.SPECS)
for i, x in enumerate(batches):
    state, metrics = step_fn(state, parallel.put_batch({"x": x[rows]}, mesh), i, key)
    print("loss", repr(float(metrics["loss"])))
"""


@pytest.mark.slow
def test_two_processes_of_two_devices():
    _, expected = run_sharded()
    for output in run_two_processes(PROCESS):
        losses = [float(line.split()[1]) for line in output.splitlines() if "loss" in line]
        assert relative_error(losses, expected) < 1e-5


def test_initialize_distributed_stays_alone_or_names_what_is_missing(monkeypatch):
    for name in ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"JAX_{name}", raising=False)
    parallel.initialize_distributed()
    parallel.initialize_distributed(num_processes=1)
    assert not jax.distributed.is_initialized()
    with pytest.raises(ValueError, match="missing: num_processes, process_id"):
        parallel.initialize_distributed("localhost:1234")
    monkeypatch.setenv("NUM_PROCESSES", "two")
    with pytest.raises(ValueError, match="NUM_PROCESSES is 'two', expected a whole number"):
        parallel.initialize_distributed()


def test_put_batch_needs_an_even_split():
    with pytest.raises(ValueError, match="6 examples cannot be split .* 4 devices"):
        parallel.put_batch(np.zeros((6, 2)), parallel.make_mesh())


def test_example_keys_depend_on_seed_step_and_index_alone():
    key = jax.random.key(3)
    whole = parallel.example_keys(key, 5, jnp.arange(8))
    part = parallel.example_keys(key, 5, jnp.arange(4, 8))
    assert jnp.array_equal(jax.random.key_data(whole)[4:], jax.random.key_data(part))
    assert len(np.unique(jax.random.key_data(whole), axis=0)) == 8
    other = parallel.example_keys(key, 6, jnp.arange(8))
    assert not jnp.any(jnp.all(jax.random.key_data(whole) == jax.random.key_data(other), axis=-1))


def test_replicate_copies_keys_and_arrays():
    mesh = parallel.make_mesh()
    tree = {"key": jax.random.key(1), "x": jnp.arange(3.0)}
    copy = parallel.replicate(tree, mesh)
    assert copy["x"].sharding.is_fully_replicated and len(copy["x"].addressable_shards) == 4
    jax.tree.map(lambda a: a.delete(), copy)
    np.testing.assert_array_equal(tree["x"], [0.0, 1.0, 2.0])
    assert jax.random.key_data(tree["key"]).tolist() == [0, 1]

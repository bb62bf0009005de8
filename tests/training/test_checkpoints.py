import json
import logging
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, struct
from helpers import run_two_processes

from e4e_jax.runtime import parallel
from e4e_jax.runtime.parallel import PER_DEVICE, REPLICATED
from e4e_jax.training.checkpoints import Checkpoints
from e4e_jax.training.w_pool import WPool, deal_w_pools, init_w_pool

NO_DATA = {"step": 0}


def messages(caplog):
    """What was logged by us: asyncio reports Orbax's failed reads whenever it collects them."""
    return [record.getMessage() for record in caplog.records if record.name != "asyncio"]


@struct.dataclass
class State:
    """As a training step has it: modules, an optimiser, pools of each device, keys."""

    step: jax.Array
    key: jax.Array
    model: nnx.State
    optimizer: optax.OptState
    pool: tuple
    empty_pool: tuple
    odd: dict


SPECS = State(REPLICATED, REPLICATED, REPLICATED, REPLICATED, PER_DEVICE, PER_DEVICE, REPLICATED)


def make_state(seed=0, features=8):
    mesh = parallel.make_mesh()
    model = nnx.state(nnx.Linear(64, features, rngs=nnx.Rngs(seed)))
    odd = {
        "negative zero": jnp.full((5,), -0.0),
        "nan": jnp.asarray(np.array([0x7FC12345, 0xFFC00001, 0], np.uint32).view(np.float32)),
        "half": jnp.linspace(0, 1, 7, dtype=jnp.bfloat16),
        "flag": jnp.array(True),
    }
    keys = jax.device_put(
        jax.random.split(jax.random.key(seed), 4), jax.NamedSharding(mesh, PER_DEVICE)
    )
    replicated = parallel.replicate(
        (jnp.int32(seed), jax.random.key(seed), model, optax.adam(1e-3).init(model)), mesh
    )
    pool = parallel.stack_per_device(init_w_pool(3, (16,)), mesh)
    entries = pool.entries + jax.random.normal(jax.random.key(seed), pool.entries.shape)
    pool = pool._replace(entries=jax.device_put(entries, pool.entries.sharding))
    empty = parallel.stack_per_device(init_w_pool(0, (16,)), mesh)
    return State(*replicated, (pool, keys), empty, odd | {"rbg": jax.random.key(1, impl="rbg")})


def numpy_leaves(tree):
    def to_numpy(x):
        is_key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.array(jax.random.key_data(x) if is_key else x)

    return [to_numpy(x) for x in jax.tree.leaves(tree)]


def assert_identical(actual, expected):
    """Bit for bit, with types; `expected` may be what `numpy_leaves` took before."""
    actual = numpy_leaves(actual)
    expected = expected if isinstance(expected, list) else numpy_leaves(expected)
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def save_steps(directory, steps, **kwargs):
    """One checkpoint a step, of the state with the step as its seed."""
    with Checkpoints(directory, **kwargs) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), {"step": step})


def test_restores_bits_types_shardings_and_places(tmp_path):
    state = make_state(3)
    template = make_state(0)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(template) is None
        checkpoints.save(3, state, {"step": 3, "bad_images": {"a.png": "cut"}}, {"l2": 0.5})
        checkpoints.wait()
        assert json.loads((tmp_path / "3" / "run" / "metadata").read_text())["metrics"]
    for like in (template, jax.eval_shape(lambda: state)):
        restored, data_state, step = Checkpoints(tmp_path).restore(like)
        assert step == 3 and data_state == {"step": 3, "bad_images": {"a.png": "cut"}}
        assert jax.tree.structure(restored) == jax.tree.structure(state)
        assert_identical(restored, state)
        for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(like), strict=True):
            assert a.dtype == b.dtype
            if isinstance(b, jax.Array):
                assert a.sharding.is_equivalent_to(b.sharding, a.ndim)
                assert a.committed == b.committed


def test_a_write_in_the_background_keeps_the_values_of_its_step(tmp_path):
    """The next steps take the buffers over and fill them with other numbers."""
    mesh = parallel.make_mesh()
    x = np.random.default_rng(0).normal(size=(1_000_000,)).astype(np.float32)
    state = {"x": parallel.replicate(x, mesh), "single": jnp.asarray(x)}
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 5, tree), donate_argnums=0)
    with Checkpoints(tmp_path, keep=4) as checkpoints:
        for step in range(1, 5):
            expected = numpy_leaves(state)
            before = state
            checkpoints.save(step, state)
            for _ in range(3):
                state = overwrite(state)
            jax.block_until_ready(state)
            assert before["x"].is_deleted()
            checkpoints.wait()
            assert_identical(checkpoints.restore(state).state, expected)
            state = jax.tree.map(lambda x, n=step: x * 0 + n, state)


def test_a_resumed_run_is_the_same_run(tmp_path):
    optimizer = optax.adam(1e-3)

    def step_fn(state, batch):
        noise = jax.random.normal(jax.random.fold_in(state.key, state.step), (64,))
        x = jax.lax.pmean(batch["x"][0] + noise, "data")
        gradients = jax.tree.map(lambda w: w * x[: w.shape[-1]], state.model)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer)
        pool, keys = state.pool
        pool = pool._replace(entries=pool.entries + batch["x"][0, :16], count=pool.count + 1)
        state = state.replace(
            step=state.step + 1,
            model=optax.apply_updates(state.model, updates),
            optimizer=optimizer_state,
            pool=(pool, keys),
        )
        return state, {}

    mesh = parallel.make_mesh()
    step_fn = parallel.parallelize(step_fn, mesh, state_specs=SPECS)
    batches = np.random.default_rng(1).normal(size=(6, 8, 64)).astype(np.float32)

    def run(state, first, last, checkpoints=None):
        for i in range(first, last):
            state, _ = step_fn(state, parallel.put_batch({"x": batches[i]}, mesh))
            if checkpoints:
                checkpoints.save(i + 1, state, {"step": i + 1})
        return state

    with Checkpoints(tmp_path) as checkpoints:
        whole = run(make_state(5), 0, 6, checkpoints)
    shutil.rmtree(tmp_path / "6")
    shutil.rmtree(tmp_path / "5")
    restored, data_state, step = Checkpoints(tmp_path).restore(make_state(0))
    assert step == data_state["step"] == 4
    assert_identical(run(restored, 4, 6), whole)


def test_newest_and_best_stay(tmp_path):
    state = {"x": jnp.ones(3)}
    losses = {1: 0.5, 2: 0.2, 3: None, 4: float("nan"), 5: 0.3, 6: 0.2, 7: 0.4, 8: 0.1, 9: 0.6}
    kept = []
    for step, loss in losses.items():
        # A new object each time, as if the run was stopped after every save.
        with Checkpoints(tmp_path, keep=2, best="l2") as checkpoints:
            assert (checkpoints.restore(state) is None) == (step == 1)
            checkpoints.save(step, state, metrics=None if loss is None else {"l2": loss})
            checkpoints.wait()
            kept.append(checkpoints.steps())
            best = checkpoints.best_step()
    assert kept[:5] == [[1], [1, 2], [2, 3], [2, 3, 4], [2, 4, 5]]
    assert kept[5:] == [[2, 5, 6], [2, 6, 7], [7, 8], [8, 9]]
    assert best == 8
    assert checkpoints.restore(state, step=best).step == 8
    assert checkpoints.path(best) == str(tmp_path / "8")


def test_largest_is_best_where_asked(tmp_path):
    state = {"x": jnp.ones(3)}
    with Checkpoints(tmp_path, keep=1, best="psnr", best_mode="max") as checkpoints:
        for step, psnr in enumerate([10.0, 30.0, 20.0, 25.0]):
            checkpoints.save(step, state, metrics={"psnr": psnr})
        checkpoints.wait()
        assert checkpoints.steps() == [1, 3] and checkpoints.best_step() == 1


def files_below(folder):
    return [os.path.join(at, name) for at, _, names in os.walk(folder) for name in names]


def damages(path):
    """Ways in which a write that is cut short leaves a file."""
    with open(path, "rb") as file:
        content = file.read()
    yield lambda: os.remove(path)
    for left in {0, len(content) // 2, len(content) - 1}:
        yield lambda left=left: os.truncate(path, left)


def test_every_cut_falls_back_or_loses_nothing(tmp_path, caplog):
    save_steps(tmp_path / "whole", [1, 2])
    template, last, before = make_state(0), make_state(2), make_state(1)
    passed_over = 0
    for file in files_below(tmp_path / "whole" / "2"):
        file = os.path.join(tmp_path / "cut", os.path.relpath(file, tmp_path / "whole"))
        shutil.copytree(tmp_path / "whole", tmp_path / "cut")
        count = len(list(damages(file)))
        for i in range(count):
            shutil.rmtree(tmp_path / "cut")
            shutil.copytree(tmp_path / "whole", tmp_path / "cut")
            list(damages(file))[i]()
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                state, data_state, step = Checkpoints(tmp_path / "cut").restore(template)
            assert data_state == {"step": step}
            if step == 2:  # a file that is not needed to read the arrays
                assert_identical(state, last)
                assert not messages(caplog)
            else:
                passed_over += 1
                assert_identical(state, before)
                (message,) = messages(caplog)
                assert f"{tmp_path}/cut/2 is damaged" in message
                assert message.endswith(f"going on from {tmp_path}/cut/1.")
        shutil.rmtree(tmp_path / "cut")
    assert passed_over >= 15


def test_a_run_goes_on_behind_what_was_cut_short(tmp_path, caplog):
    save_steps(tmp_path, [1, 2, 3])
    for path in files_below(tmp_path / "3" / "state"):
        os.truncate(path, 0)
    shutil.copytree(tmp_path / "2", tmp_path / "4.orbax-checkpoint-tmp")
    shutil.rmtree(tmp_path / "4.orbax-checkpoint-tmp" / "run")
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.restore(make_state()).step == 2
        (message,) = messages(caplog)
        assert "3 is damaged" in message and "4.orbax-checkpoint-tmp was not finished" in message
        names = {"1", "2", "3", "4.orbax-checkpoint-tmp"}
        assert set(os.listdir(tmp_path)) == names  # reading changes nothing
        checkpoints.save(2, make_state(2))  # the step it started from
        checkpoints.save(3, make_state(3), {"step": 3})
    assert set(os.listdir(tmp_path)) == {"2", "3", "3.damaged"}
    assert_identical(Checkpoints(tmp_path).restore(make_state()).state, make_state(3))


def test_nothing_usable_starts_anew(tmp_path, caplog):
    save_steps(tmp_path, [1])
    (tmp_path / "1" / "state" / "manifest.ocdbt").unlink()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(make_state()) is None
        assert messages(caplog)[0].endswith("starting anew.")
        checkpoints.save(1, make_state(1))
    assert Checkpoints(tmp_path).restore(make_state()).step == 1


def test_a_flipped_bit_falls_back_to_the_checkpoint_before(tmp_path, caplog):
    save_steps(tmp_path / "whole", [1, 2])
    template, before = make_state(0), make_state(1)
    files = files_below(tmp_path / "whole" / "2")
    assert any(file.endswith("checksums.json") for file in files)
    arrays = [file for file in files if os.path.getsize(file) > 500]
    assert len(arrays) >= 3
    for file in arrays:
        shutil.copytree(tmp_path / "whole", tmp_path / "cut")
        file = tmp_path / "cut" / os.path.relpath(file, tmp_path / "whole")
        content = bytearray(file.read_bytes())
        content[-len(content) // 3] ^= 16
        file.write_bytes(content)
        caplog.clear()
        state, _, step = Checkpoints(tmp_path / "cut").restore(template)
        assert step == 1
        assert_identical(state, before)
        (message,) = messages(caplog)
        assert f"{tmp_path}/cut/2 is damaged" in message and message.endswith("cut/1.")
        shutil.rmtree(tmp_path / "cut")


def test_a_checkpoint_of_a_version_without_checksums_is_read(tmp_path, caplog):
    save_steps(tmp_path, [1])
    (tmp_path / "1" / "checksums.json").unlink()
    assert Checkpoints(tmp_path).restore(make_state()).step == 1
    assert not messages(caplog)


def test_what_orbax_has_not_made_stays(tmp_path, caplog):
    folders = ["2026-results", "2026", "7.old", "3 copy", "12.orbax-notes", "0007"]
    for name in folders:
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.csv").write_text(name)
    (tmp_path / "99").write_text("a file")
    (tmp_path / "5.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    for step in (1, 2, 3):
        with Checkpoints(tmp_path, keep=1) as checkpoints:
            assert (checkpoints.restore({"x": jnp.ones(3)}) is None) == (step == 1)
            checkpoints.save(step, {"x": jnp.ones(3)})
    (message,) = [text for text in messages(caplog) if text.startswith("Passing over")]
    assert "5.orbax-checkpoint-tmp was not finished; starting anew." in message
    assert set(os.listdir(tmp_path)) == {*folders, "99", "3"}
    for name in folders:
        assert (tmp_path / name / "results.csv").read_text() == name


def test_odd_metadata_is_passed_over(tmp_path, caplog):
    def accept(data_state):
        if data_state["step"] < 0:
            raise ValueError("a negative step")

    save_steps(tmp_path, [1, 2])
    (tmp_path / "2" / "checksums.json").unlink()
    file = tmp_path / "2" / "run" / "metadata"
    whole = json.loads(file.read_text())
    missing = [{k: v for k, v in whole.items() if k != key} for key in whole]
    odd = [{"arrays": 3}, {"arrays": {"step": 1}}, {"data": {}}, {"data": []}, {"data": 3},
           {"data": [{"step": -1}]}, {"data": [None]}, {"data": [{}]}, {"metrics": []},
           {"metrics": {"l2": "small"}}, {"metrics": None}]  # fmt: skip
    for content in [*missing, *[whole | change for change in odd], [], None, 3, "x"]:
        file.write_text(json.dumps(content))
        caplog.clear()
        with Checkpoints(tmp_path, best="l2") as checkpoints:
            assert checkpoints.restore(make_state(), accept=accept).step == 1, content
            checkpoints.best_step()
        (message,) = messages(caplog)
        assert f"{tmp_path}/2 is damaged" in message
    file.write_text(json.dumps(whole))
    assert Checkpoints(tmp_path).restore(make_state(), accept=accept).step == 2


def test_the_newest_good_one_stays_until_another_is_known_to_be(tmp_path):
    state = {"x": jnp.ones(3)}
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        kept = []
        for step, good in [(1, 1), (2, None), (3, 3), (4, None)]:
            checkpoints.save(step, state)
            if good:
                checkpoints.confirm(good)
            checkpoints.wait()
            kept.append(checkpoints.steps())
        assert kept == [[1], [1, 2], [1, 3], [3, 4]]
        assert checkpoints.reject(4) == str(tmp_path / "4.not_finite")
        assert checkpoints.reject(5) is None
    assert set(os.listdir(tmp_path)) == {"3", "4.not_finite"}
    assert Checkpoints(tmp_path).restore(state).step == 3


def on_devices(count, seed):
    """A state whose pool is the devices' own, on some of them."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:count]), (parallel.AXIS,))
    x = jax.random.normal(jax.random.key(seed), (count, 3, 2))
    pool = WPool(x, jnp.full(count, 3, jnp.int32))
    own = jax.NamedSharding(mesh, PER_DEVICE)
    return {
        "shared": parallel.replicate(jnp.arange(4.0) + seed, mesh),
        "pool": jax.tree.map(lambda x: jax.device_put(x, own), pool),
    }


@pytest.mark.parametrize("then, now", [(1, 2), (4, 2), (2, 4), (2, 2)])
def test_a_state_goes_on_on_another_number_of_devices(tmp_path, caplog, then, now):
    saved, template = on_devices(then, 1), on_devices(now, 0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, saved)
    restored = Checkpoints(tmp_path).restore(template, deal={"pool": deal_w_pools}).state
    np.testing.assert_array_equal(restored["shared"], saved["shared"])
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(template), strict=True):
        assert a.shape == b.shape and a.sharding.is_equivalent_to(b.sharding, a.ndim)
    if then == now:
        assert_identical(restored, saved)
        assert not messages(caplog)
        return
    expected = deal_w_pools({k: np.asarray(v) for k, v in saved["pool"]._asdict().items()}, now)
    for name, array in expected.items():
        np.testing.assert_array_equal(getattr(restored["pool"], name), array)
    (message,) = messages(caplog)
    assert f"saved on {then} device" in message and f"goes on on {now} device" in message
    with pytest.raises(ValueError, match="of another configuration: pool/count"):
        Checkpoints(tmp_path).restore(template)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.replace(model=make_state(0, features=4).model), r"\[8\] in it and .*\[4\] in"),
        (lambda s: s.replace(odd=s.odd | {"more": jnp.ones(2)}), r"odd/more is missing in it"),
        (lambda s: s.replace(odd={}), r"odd/flag is bool \[\] in it and missing in this run"),
        (lambda s: s.replace(step=jnp.float32(0)), r"step is int32 \[\] in it and float32 \[\]"),
        (lambda s: s.replace(key=jax.random.key(0, impl="rbg")), r"key<fry> \[\] .* key<rbg> \[\]"),
    ],
)  # fmt: skip
def test_another_configuration_is_an_error(tmp_path, change, message):
    save_steps(tmp_path, [1, 2])
    with pytest.raises(ValueError, match=message) as error:
        Checkpoints(tmp_path).restore(change(make_state(0)))
    assert f"The checkpoint {tmp_path}/2 is of another configuration" in str(error.value)
    assert "\n" not in str(error.value) and str(error.value).endswith("another work directory.")


def test_what_a_caller_can_get_wrong(tmp_path):
    save_steps(tmp_path, [1, 2])
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint .*/7"):
        checkpoints.restore(make_state(), step=7)
    with pytest.raises(ValueError, match="/2 exists already"):
        checkpoints.save(2, make_state(2))
    checkpoints.close()
    with pytest.raises(ValueError, match="count of the state is 3; expected an array"):
        Checkpoints(tmp_path).restore({"count": 3})
    with pytest.raises(ValueError, match="keep is 0"):
        Checkpoints(tmp_path, keep=0)
    with pytest.raises(ValueError, match="best_mode is 'least'"):
        Checkpoints(tmp_path, best="l2", best_mode="least")


FULL_DISK = """
import resource, sys
import jax, jax.numpy as jnp
from e4e_jax.training.checkpoints import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(1, {"x": jnp.arange(1000.0)})
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # as if the disk ended there
try:
    checkpoints.save(2, {"x": jax.random.normal(jax.random.key(0), (100_000,))})
    checkpoints.close()
except OSError as error:
    print(error)
else:
    print("written")
"""


def test_a_disk_that_takes_no_more_is_one_sentence(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=300,
    )  # fmt: skip
    assert result.stdout == f"The checkpoint {tmp_path}/2 could not be written: File too large.\n"
    assert os.listdir(tmp_path) == ["1"]  # nothing half-written is left


PROCESS = """
import jax
import test_checkpoints as t
host = jax.process_index()
mesh = parallel.make_mesh()
def state(seed):
    x = jax.random.normal(jax.random.key(seed), (6, 5))
    tree = parallel.replicate({"x": x, "key": jax.random.key(seed)}, mesh)
    return tree | {"pool": parallel.put_batch(x[2 * host : 2 * host + 2], mesh)}
with t.Checkpoints(sys.argv[1], keep=1, best="l2") as checkpoints:
    assert checkpoints.restore(state(0)) is None
    for step in (1, 2, 3):
        data_state = {"step": step, "host": "h" * (host + 1)}
        checkpoints.save(step, state(step), data_state, {"l2": step})
    checkpoints.wait()
    assert checkpoints.steps() == [1, 3], checkpoints.steps()
    restored = checkpoints.restore(state(0))
    assert restored.data_state == {"step": 3, "host": "h" * (host + 1)}
    for a, b in zip(jax.tree.leaves(restored.state), jax.tree.leaves(state(3)), strict=True):
        assert a.sharding == b.sharding
        a, b = ([shard.data for shard in x.addressable_shards] for x in (a, b))
        t.assert_identical(a, t.numpy_leaves(b))
"""


@pytest.mark.slow
def test_two_hosts_share_a_checkpoint(tmp_path):
    run_two_processes(PROCESS, str(tmp_path))


def test_another_number_of_devices(tmp_path):
    """Replicated arrays saved from four devices are read by one."""
    mesh = parallel.make_mesh()
    x = jnp.arange(12.0).reshape(3, 4)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": parallel.replicate(x, mesh)})
    restored = Checkpoints(tmp_path).restore({"x": jnp.zeros((3, 4))})
    np.testing.assert_array_equal(restored.state["x"], x)
    assert len(restored.state["x"].devices()) == 1

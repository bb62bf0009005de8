"""Data parallelism over all devices of all hosts.

A training step is one per-device function over the named axis "data" that writes its collectives
out (`jax.lax.pmean` of gradients and metrics). `parallelize` maps it with `jax.shard_map`;
`jax.pmap` maps the very same function to the same numbers.
"""

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from e4e_jax.runtime import hosts
from e4e_jax.runtime.join import join, together

AXIS = "data"
REPLICATED = PartitionSpec()  # the same on every device
PER_DEVICE = PartitionSpec(AXIS)  # one value for each device, stacked on a leading axis


def initialize_distributed(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins this process with those of the other hosts; call it before anything uses a device.

    Cloud TPU pods and processes started by `srun` or `mpirun` are recognised by JAX itself.
    Elsewhere the three arguments say it, or the environment variables COORDINATOR_ADDRESS,
    NUM_PROCESSES and PROCESS_ID (each also with the prefix JAX_). A single process without any
    of these goes on alone, and so does one with `num_processes` 1.

    A host that comes late is waited for, up to five minutes. From then on the end of one host
    ends the others with one sentence and the exit code 75, see `runtime.watch`.

    Args:
      coordinator_address: "host:port" of process 0, reachable from all.
      num_processes: how many processes there are.
      process_id: this one's number, from 0.

    Raises:
      ValueError: some of the three are given, others are missing, and no launcher fills them in;
        or one of them is no good; or the hosts have different numbers of devices.
      OSError: the port is taken, or a host does not come.
    """
    _join(coordinator_address, num_processes, process_id)
    _connect()


def _join(coordinator_address, num_processes, process_id):
    given = {
        "coordinator_address": coordinator_address or _environment("COORDINATOR_ADDRESS"),
        "num_processes": _integer(num_processes, "NUM_PROCESSES"),
        "process_id": _integer(process_id, "PROCESS_ID"),
    }
    if jax.distributed.is_initialized() or given["num_processes"] == 1:
        return
    missing = [name for name, value in given.items() if value is None]
    if not missing or _started_by_launcher():
        join(*given.values())
    elif len(missing) < len(given):
        raise ValueError(
            "Several hosts need COORDINATOR_ADDRESS, NUM_PROCESSES and PROCESS_ID, as arguments or "
            f"environment variables; missing: {', '.join(missing)}."
        )
    elif _on_tpu_host():
        try:
            join(None, None, None)
        except ValueError:  # JAX found no pod that this TPU is part of
            pass


@contextlib.contextmanager
def all_hosts(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    advice: str = "start all again",
) -> Iterator[None]:
    """`initialize_distributed` for a whole program: the block runs on all hosts, or on none.

    Args:
      coordinator_address, num_processes, process_id: as there.
      advice: what the others are told to do when one host ends.
    """
    _join(coordinator_address, num_processes, process_id)
    with together(advice):
        _connect()
        yield


def _connect():
    """Connects the devices of all hosts while no host has anything else to do.

    Processors give up a first collective of the hosts after 30 seconds; later ones wait. Those of
    a step span all devices, those of `multihost_utils` one device of each host.
    """
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        return
    counts = hosts.gather_json(jax.local_device_count())
    if len(set(counts)) > 1:
        other = next(i for i, count in enumerate(counts) if count != counts[0])
        raise ValueError(
            f"host 0 has {counts[0]} devices and host {other} has {counts[other]}; expected the "
            "same number on all."
        )
    if jax.default_backend() == "cpu":
        mesh = make_mesh()
        one = put_batch(np.zeros(jax.local_device_count(), np.float32), mesh)
        total = jax.shard_map(
            lambda x: jax.lax.psum(x, AXIS), mesh=mesh, in_specs=PER_DEVICE, out_specs=REPLICATED
        )
        total = jax.jit(total).lower(one).compile()
        hosts.wait_for_hosts("the connection of their devices")
        jax.block_until_ready(total(one))
        multihost_utils.sync_global_devices("connected")


def _environment(name):
    return os.environ.get(name) or os.environ.get(f"JAX_{name}")


def _integer(value, name):
    value = _environment(name) if value is None else value
    try:
        return None if value is None else int(value)
    except ValueError:
        raise ValueError(f"{name} is {value!r}, expected a whole number.") from None


def _started_by_launcher():
    """Whether `srun` or `mpirun` started several processes, which JAX recognises by itself.

    Slurm's variable of the *step* is read: an interactive allocation of many tasks sets
    SLURM_NTASKS for a lone process too, which would then wait for the others in vain.
    """
    tasks = (os.environ.get(v, "1") for v in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    return any(int(n) > 1 for n in tasks)


def _on_tpu_host():
    has_device = any(os.path.exists(path) for path in ("/dev/accel0", "/dev/vfio/0"))
    return has_device and importlib.util.find_spec("libtpu") is not None


def make_mesh() -> Mesh:
    """All devices of all hosts on one axis "data".

    Devices are ordered by process, so that consecutive rows of a global batch come from
    consecutive hosts. (`jax.make_mesh` may reorder them after the topology, which an all-reduce
    over all devices does not gain from.)
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), (AXIS,))


def parallelize(step: Callable, mesh: Mesh, *, state_specs: Any = REPLICATED) -> Callable:
    """Maps a per-device step over the mesh and compiles it, donating the state.

    Args:
      step: (state, batch, *scalars) -> (state, metrics) for one device. It sees its share of the
        batch, and its own slice of per-device state without the leading axis, as under
        `jax.pmap`. It has to make new replicated state and metrics equal on all devices by
        collectives over the axis "data".
      mesh: from `make_mesh`.
      state_specs: REPLICATED, or a tree prefix of the state with PER_DEVICE at what differs
        between devices, such as W pools.

    Returns:
      A compiled function of global arrays: state (see `replicate` and `stack_per_device`), batch
      (see `put_batch`), and scalars or keys that are the same everywhere.
    """

    def per_device(state, batch, *scalars):
        state = _map_per_device(lambda x: jnp.squeeze(x, 0), state_specs, state)
        state, metrics = step(state, batch, *scalars)
        return _map_per_device(lambda x: jnp.expand_dims(x, 0), state_specs, state), metrics

    def whole(state, batch, *scalars):
        # check_vma=True would make JAX sum the gradients of replicated parameters over devices
        # on its own, and the step's pmean would then leave them too large by the number of
        # devices. Without it every collective is one that is written in the step, and the step
        # means the same under jax.pmap. The price: that replicated outputs are in fact equal is
        # the step's promise, not checked.
        mapped = jax.shard_map(
            per_device,
            mesh=mesh,
            in_specs=(state_specs, PartitionSpec(AXIS), *[REPLICATED] * len(scalars)),
            out_specs=(state_specs, REPLICATED),
            check_vma=False,
        )
        return mapped(state, batch, *scalars)

    compiled = jax.jit(whole, donate_argnums=0)
    return compiled if jax.process_count() == 1 else _meeting_first(compiled)


def _meeting_first(function):
    """The hosts meet between compilation and first call: a cache may serve one and not the other.

    No device has to wait for as long as a compilation takes, which not all of them do.
    """
    met = False

    def call(*arguments):
        nonlocal met
        if not met:
            function.lower(*arguments).compile()  # JAX keeps it for the call
            hosts.wait_for_hosts("the first training step, which each of them compiles")
            met = True
        return function(*arguments)

    return call


def _map_per_device(function, specs, tree):
    return jax.tree.map(
        lambda spec, part: jax.tree.map(function, part) if spec == PER_DEVICE else part,
        specs,
        tree,
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Places a batch on the devices, split on axis 0.

    Args:
      batch: tree of arrays [B, ...], this host's examples.
      mesh: from `make_mesh`.

    Returns:
      The tree as global arrays; with several hosts, the rows of process 0 come first.

    Raises:
      ValueError: B is not divisible by the number of this host's devices.
    """
    local_devices = mesh.local_mesh.size
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))

    def put(array):
        array = np.asarray(array)
        if array.shape[0] % local_devices:
            raise ValueError(
                f"A batch of {array.shape[0]} examples cannot be split evenly over this host's "
                f"{local_devices} devices; choose a multiple of {local_devices}."
            )
        return jax.make_array_from_process_local_data(sharding, array)

    return jax.tree.map(put, batch)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies a tree of arrays and keys, equal on all hosts, to every device.

    The copies share no memory with the originals, so that they can be donated.
    """
    sharding = NamedSharding(mesh, REPLICATED)

    def copy(array):
        if jax.dtypes.issubdtype(getattr(array, "dtype", None), jax.dtypes.prng_key):
            data = copy(jax.random.key_data(array))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
        return jax.make_array_from_process_local_data(sharding, np.array(array))

    return jax.tree.map(copy, tree)


def stack_per_device(tree: Any, mesh: Mesh) -> Any:
    """One copy of a tree of arrays for each device, stacked on a new leading axis.

    The start of state that `parallelize` is told is PER_DEVICE.
    """
    sharding = NamedSharding(mesh, PER_DEVICE)

    def stack(array):
        array = np.asarray(array)
        local = np.broadcast_to(array, (mesh.local_mesh.size, *array.shape))
        return jax.make_array_from_process_local_data(sharding, local)

    return jax.tree.map(stack, tree)


def mean_over_devices(tree: Any, axis_name: str = AXIS) -> Any:
    """`jax.lax.pmean`, for use inside the per-device step; nothing where there is one device.

    Of one device's values compilers would make a copy.
    """
    return tree if jax.lax.axis_size(axis_name) == 1 else jax.lax.pmean(tree, axis_name)


def example_keys(key: jax.Array, step: jax.Array | int, indices: jax.Array) -> jax.Array:
    """One random key per example: a function of the seed, the step and the example's index.

    So a run draws the same numbers on any number of devices, and after being resumed.

    Args:
      key: the run's key.
      step: step number, possibly traced.
      indices: indices in the global batch [B].

    Returns:
      Keys [B].
    """
    step_key = jax.random.fold_in(key, step)
    return jax.vmap(lambda index: jax.random.fold_in(step_key, index))(indices)

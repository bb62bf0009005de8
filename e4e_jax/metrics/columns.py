"""Metrics over sets of images: every image goes once through the networks, on all devices.

A `Pass` is a way through some images; a `Column` is what is computed of each and kept of all; a
metric (see `metric`) turns columns into figures. Columns that the cache knows are not computed.
"""

import dataclasses
import functools
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from e4e_jax.metrics.cache import Cache
from e4e_jax.metrics.moments import FeatureStatistics
from e4e_jax.runtime.hosts import ALL_OF_IT, Share, gather_arrays, gather_json


@dataclasses.dataclass(frozen=True)
class Pass:
    """A way through images, batch by batch.

    Attributes:
      count: how many images.
      batch_size: images of a global batch, a multiple of the number of devices of all hosts.
      batches: () -> this host's part of every batch: (numbers of the images [b], mask [b], False
        for padding, arrays {name: [b, ...]}).
      images: (networks, arrays and "index" [b]) -> what columns read, a dict; traceable.
      identities: what the pass offers, as {role: key}: the roles that columns can ask for, and
        what each depends on; a key of None is not cached.
      image_size: (height, width) of the images that are compared.
      names: of the images, in order.
      share: the hosts that go this way together.
      where: where the images come from, for messages.
    """

    count: int
    batch_size: int
    batches: Callable[[], Iterator]
    images: Callable[[Mapping, dict], dict]
    identities: dict[str, Any]
    image_size: tuple[int, int]
    names: list[str]
    share: Share = ALL_OF_IT
    where: str = "the set"


class Keep(Protocol):
    """What is kept of a column: seen batch by batch, on every host, then merged."""

    def update(self, index: np.ndarray, rows: np.ndarray) -> None:
        """Adds rows [b, ...] of the images of these numbers."""

    def arrays(self) -> dict[str, np.ndarray]:
        """What this host has seen."""

    @staticmethod
    def merged(parts: list[dict[str, np.ndarray]]) -> Any:
        """What a metric gets, from the `arrays` of all hosts."""

    @staticmethod
    def as_arrays(kept: Any) -> dict[str, np.ndarray]:
        """The `arrays` of one host that had seen what was merged."""


@dataclasses.dataclass(frozen=True)
class Column:
    """What is computed of each image and kept of a set.

    Attributes:
      role: which pass can compute it, see `Pass.identities`.
      compute: (the network that measures, or None; what `Pass.images` made) -> [b, ...];
        traceable.
      keep: `Rows`, `Moments` or another `Keep`.
      key: what the result depends on beside the images, JSON; None if it is not to be cached.
      limit: only the first images of the pass; None for all.
      network: name of the network that measures.
    """

    role: str
    compute: Callable[[Any, dict], jax.Array]
    keep: type[Keep]
    key: Any
    limit: int | None = None
    network: str | None = None


class Rows:
    """All rows of a column [N, ...], in the order of the images."""

    def __init__(self):
        self._index, self._rows = [], []

    def update(self, index: np.ndarray | jax.Array, rows: np.ndarray | jax.Array) -> None:
        self._index.append(np.asarray(index))
        self._rows.append(np.asarray(rows))

    def arrays(self) -> dict[str, np.ndarray]:
        return {"index": np.concatenate(self._index), "rows": np.concatenate(self._rows)}

    @staticmethod
    def merged(parts: list[dict]) -> np.ndarray:
        index, rows = (np.concatenate([part[n] for part in parts]) for n in ("index", "rows"))
        return rows if np.all(np.diff(index) > 0) else rows[np.argsort(index)]

    @staticmethod
    def as_arrays(kept: np.ndarray) -> dict[str, np.ndarray]:
        return {"index": np.arange(len(kept)), "rows": kept}


class Moments:
    """Sums of a column of features [N, D], in float64."""

    def __init__(self):
        self._statistics: FeatureStatistics | None = None

    def update(self, index: np.ndarray | jax.Array, rows: np.ndarray | jax.Array) -> None:
        del index
        if self._statistics is None:
            self._statistics = FeatureStatistics(rows.shape[1])
        self._statistics.update(rows)

    def arrays(self) -> dict[str, np.ndarray]:
        assert self._statistics is not None  # there is an image
        return self.as_arrays(self._statistics)

    @staticmethod
    def merged(parts: list[dict]) -> FeatureStatistics:
        total = FeatureStatistics(parts[0]["sum"].size)
        for part in parts:
            total.count += int(part["count"])
            total.sum += part["sum"]
            total.outer_sum += part["outer_sum"]
        return total

    @staticmethod
    def as_arrays(kept: FeatureStatistics) -> dict[str, np.ndarray]:
        return {name: np.asarray(value) for name, value in vars(kept).items()}


class MomentsOfEach:
    """`Moments` of several columns of features: rows are [N, K, D]."""

    def __init__(self):
        self._moments = []

    def update(self, index: np.ndarray | jax.Array, rows: np.ndarray | jax.Array) -> None:
        if not self._moments:
            self._moments = [Moments() for _ in range(rows.shape[1])]
        for k, moments in enumerate(self._moments):
            moments.update(index, rows[:, k])

    def arrays(self) -> dict[str, np.ndarray]:
        return _stacked([moments.arrays() for moments in self._moments])

    @staticmethod
    def merged(parts: list[dict]) -> list[FeatureStatistics]:
        count = len(parts[0]["count"])
        return [
            Moments.merged([{name: array[k] for name, array in part.items()} for part in parts])
            for k in range(count)
        ]

    @staticmethod
    def as_arrays(kept: list[FeatureStatistics]) -> dict[str, np.ndarray]:
        return _stacked([Moments.as_arrays(statistics) for statistics in kept])


def _stacked(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


class Columns:
    """Columns of some ways through images. What is compiled stays, for the next time.

    Args:
      columns: by name; each is computed in the first pass that offers its role.
      passes: the ways through the images.

    Raises:
      ValueError: a role that no pass offers, or a pass with fewer images than a column's limit.
    """

    def __init__(self, columns: Mapping[str, Column], passes: Sequence[Pass]):
        self._columns = dict(columns)
        self._passes = passes
        self._place = {name: find_pass(name, column, passes) for name, column in columns.items()}
        self._programs: dict[tuple[str, ...], Callable] = {}

    def compute(
        self,
        networks: Mapping[str, nnx.Module],
        *,
        cache: Cache,
        progress: Callable,
        count: int | None = None,
    ) -> dict[str, Any]:
        """Computes the columns, or takes them from the cache.

        Args:
          networks: name -> module in evaluation mode: those that measure, and those that the
            passes need.
          cache: of finished columns.
          progress: (number of batches to come, their size) -> a progress bar: a context manager
            with a method `update(batches done)`, such as `runtime.progress.ProgressBar`.
          count: only the first images of each pass, with no cache; None for all.

        Returns:
          name -> what the column keeps: an array [N, ...] of `Rows`, statistics of `Moments`. On
          several hosts the same on each, but for what came from the cache, which the first has.
        """
        keys = {name: _key(column, self._place[name]) for name, column in self._columns.items()}
        kept = {}
        for name, column in self._columns.items():
            found = None if keys[name] is None else cache.get(keys[name])
            hit = found is not None
            if self._place[name].share.hosts > 1:
                hit = gather_json(hit)[0]  # the first host's answer
            if hit:
                kept[name] = None if found is None else column.keep.merged([found])

        missing = []
        for current in self._passes:
            names = [n for n, place in self._place.items() if place is current and n not in kept]
            if names:
                columns = {name: _first(self._columns[name], count) for name in names}
                missing.append((current, columns, _num_batches(current, columns)))
        if not missing:
            return kept
        done = 0
        total = sum(batches for _, _, batches in missing)
        with progress(total, missing[0][0].batch_size) as bar:
            for current, columns, batches in missing:
                computed = self._run(
                    current, columns, batches, networks, lambda n, d=done: bar.update(d + n)
                )
                done += batches
                for name, parts in computed.items():
                    kept[name] = columns[name].keep.merged(parts)
                    if keys[name] is not None:
                        cache.put(keys[name], columns[name].keep.as_arrays(kept[name]))
        return kept

    def _run(self, current, columns, num_batches, networks, progress) -> dict[str, list[dict]]:
        """One way through the images -> for each column the `arrays` of all hosts."""
        graph, state = nnx.split(nnx.Dict(**networks))
        mesh = Mesh(np.array(jax.local_devices()), ("data",))
        if (program := tuple(columns)) not in self._programs:
            self._programs[program] = _program(current, columns, mesh)
        step = self._programs[program]
        state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
        kept = {name: column.keep() for name, column in columns.items()}
        batches = itertools.islice(current.batches(), num_batches)
        for number, (index, mask, arrays) in enumerate(batches, 1):
            outputs = jax.device_get(step(graph, state, arrays | {"index": index.astype(np.int32)}))
            for name, column in columns.items():
                counted = mask if column.limit is None else mask & (index < column.limit)
                kept[name].update(index[counted], outputs[name][counted])
            progress(number)
        gather = _from_all_hosts if current.share.hosts > 1 else lambda arrays: [arrays]
        return {name: gather(keep.arrays()) for name, keep in kept.items()}


def _program(current: Pass, columns, mesh):
    """The compiled (graph of the networks, their state, arrays) -> {name: rows of the column}."""
    rows = PartitionSpec("data")

    @functools.partial(jax.jit, static_argnums=0)
    def step(graph, state, arrays):
        def per_device(state, arrays):
            networks = nnx.merge(graph, state)
            images = current.images(networks, arrays)
            return {
                name: column.compute(column.network and networks[column.network], images)
                for name, column in columns.items()
            }

        return jax.shard_map(
            per_device,
            mesh=mesh,
            in_specs=(PartitionSpec(), rows),
            out_specs=rows,
            check_vma=False,  # no collectives: every device sees to its own images
        )(state, arrays)

    return step


def find_pass(name: str, column: Column, passes: Sequence[Pass], least: int = 1) -> Pass:
    """The first pass that offers the column's role, with as many images as are needed.

    Raises:
      ValueError: there is none, or it has too few images; in one sentence with the metric's name.
    """
    for current in passes:
        if column.role in current.identities:
            count = current.count if column.limit is None else column.limit
            if count > current.count:
                raise ValueError(f"{name} asks for {count} images; there are {current.count}.")
            if count < least:
                raise ValueError(
                    f"{name} needs at least {least} images; it has {count} of {current.where}."
                )
            return current
    offered = sorted({role for current in passes for role in current.identities})
    raise ValueError(f"{name} needs {column.role}; the images at hand give {', '.join(offered)}.")


def _key(column: Column, current: Pass):
    identity = current.identities[column.role]
    return None if None in (identity, column.key) else [identity, column.key, column.limit]


def _num_batches(current: Pass, columns) -> int:
    limits = [current.count if c.limit is None else c.limit for c in columns.values()]
    return -(-max(limits) // current.batch_size)


def _first(column: Column, count: int | None) -> Column:
    """The column of the first `count` images."""
    if count is None:
        return column
    return dataclasses.replace(column, limit=min(count, column.limit or count))


def _from_all_hosts(arrays: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The arrays of every host, bit for bit: JAX's own gathering would round float64."""
    buffer = io.BytesIO()
    named: dict[str, Any] = arrays
    np.savez(buffer, **named)
    parts = []
    for data in gather_arrays(np.frombuffer(buffer.getvalue(), np.uint8)):
        with np.load(io.BytesIO(data.tobytes())) as archive:
            parts.append({name: archive[name] for name in archive.files})
    return parts

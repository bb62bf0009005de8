"""Metrics that are ready to be measured, and what becomes of their columns: a report."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from e4e_jax.metrics.cache import Cache
from e4e_jax.metrics.columns import Column, Columns, Pass, find_pass
from e4e_jax.metrics.metric import Request, Subject
from e4e_jax.metrics.networks import features_of
from e4e_jax.metrics.report import Figure, Report
from e4e_jax.runtime.progress import ProgressBar


class Evaluation:
    """Metrics of some ways through images, again and again; `prepare.prepare` makes it.

    Args:
      requests: the metrics.
      subject: what they ask of.
      passes: the ways through the images.
      networks: what the passes need by its name, and what measures as "@NAME".
      network_keys: "@NAME" -> what the network is, for the cache; see `cache.identify_network`.
      cache: of finished columns.
      progress: (batches to come, images of each) -> a progress bar, as `progress.ProgressBar`; None
        for none.

    Raises:
      ValueError: a metric lacks what it needs; in one sentence.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        subject: Subject,
        passes: Sequence[Pass],
        networks: Mapping[str, nnx.Module],
        *,
        network_keys: Mapping[str, str | None],
        cache: Cache,
        progress: Callable | None = ProgressBar,
    ):
        self._requests = requests
        self._subject = subject
        self._networks = dict(networks)
        self._cache = cache
        self._progress = progress or (lambda batches, batch_size: _NoBar())
        self._place: dict[str, Pass] = {}
        self._counts: dict[str, dict[str, int]] = {}  # metric -> part -> images
        columns = {}
        for request in requests:
            counts = self._counts[request.name] = {}
            for part, column in _columns_of(request, subject, network_keys).items():
                place = find_pass(request.name, column, passes, request.metric.least)
                counts[part] = place.count if column.limit is None else column.limit
                columns[f"{request.name}/{part}"] = column
                self._place[request.name] = place
        self._columns = Columns(columns, passes)

    def measure(
        self, networks: Mapping[str, nnx.Module] | None = None, *, count: int | None = None
    ) -> Report:
        """Measures what was asked for.

        Args:
          networks: "encoder", "generator" and what measures, "@NAME", with other weights, of the
            same architecture: nothing is compiled again. Results of these are not cached.
          count: with the first images alone, for a first look; None for all.

        Returns:
          The report. On several hosts what came from the cache is in that of the first alone.
        """
        with jax.default_matmul_precision("highest"):
            kept = self._columns.compute(
                self._networks | dict(networks or {}),
                cache=Cache(None) if networks or count else self._cache,
                progress=self._progress,
                count=count,
            )
            return self._report(kept, count)

    def _report(self, kept: Mapping[str, Any], first: int | None) -> Report:
        figures, per_image, names = [], {}, []
        for request in self._requests:
            metric, place = request.metric, self._place.get(request.name)
            counts = {
                part: min(count, first or count)
                for part, count in self._counts[request.name].items()
            }
            parts = {part: kept[f"{request.name}/{part}"] for part in counts}
            if any(part is None for part in parts.values()):
                continue  # of the cache, which the first host alone has
            label = features_of(request.network) if request.network else metric.features
            size = "x".join(map(str, place.image_size)) if place else _device()
            for suffix, value in metric.figures(parts, self._subject).items():
                name = f"{request.name} {suffix}".strip()
                images = counts.get("measured", next(iter(counts.values()), 1))
                figures.append(
                    Figure(name, value, images, counts.get("reference"), f"{label}, {size}")
                )
            for suffix, rows in metric.per_image(parts, self._subject).items():
                per_image[f"{request.name} {suffix}".strip()] = rows
                names = list(place.names) if place else []
        return Report(tuple(figures), per_image, names)


def _columns_of(request: Request, subject: Subject, network_keys) -> dict[str, Column]:
    """A metric's columns with their network, limits and keys."""
    written = request.written
    network = None if request.network is None else f"@{request.network}"
    columns = {}
    for part, column in request.metric.columns(subject).items():
        key = column.key if request.is_ours else None  # others' code can have changed
        if key is not None:  # the name stands for its code, whose hash the cache adds
            key = [written.row, key, network_keys.get(network)]
        limit = written.reference_count if part == "reference" else written.count
        columns[part] = dataclasses.replace(column, key=key, limit=limit, network=network)
    return columns


class _NoBar(contextlib.nullcontext):
    def __enter__(self):
        return self

    def update(self, done: int) -> None:
        pass


def _device() -> str:
    return jax.local_devices()[0].device_kind

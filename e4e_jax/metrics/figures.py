"""From metrics that were asked for to figures, and these to a screen and to files."""

import csv
import dataclasses
import json
from collections.abc import Mapping

import numpy as np

from e4e_jax.metrics.cache import Cache
from e4e_jax.metrics.evaluation import Pass, compute_columns, find_pass
from e4e_jax.metrics.fid import FeatureStatistics
from e4e_jax.metrics.table import Request
from e4e_jax.runtime.files import writing


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number and what it is made of.

    Attributes:
      name: the metric as asked for, and which of its figures.
      value: the number.
      images: how many images were measured.
      references: how many they were compared with; None where the comparison is in pairs.
      features: what it was measured in, and the size of the images.
    """

    name: str
    value: float
    images: int
    references: int | None
    features: str


def measure(
    requests: list[Request],
    passes: list[Pass],
    networks: Mapping,
    network_keys: Mapping[str, str],
    *,
    cache: Cache,
    progress,
) -> tuple[list[Figure], dict[str, np.ndarray], list[str]]:
    """Measures what was asked for; metrics without columns are left to the caller.

    Args:
      requests: see `table.parse_metric`.
      passes: the ways through the images.
      networks: name in `table.NETWORKS` -> module, and what the passes need.
      network_keys: name -> hash of its bundle, for the cache.
      cache, progress: see `evaluation.compute_columns`.

    Returns:
      The figures; the values of each image by figure, {name: [N]}; and the names of these images.
    """
    columns, place = {}, {}
    for request in requests:
        limits = {"reference": request.reference_count}
        for part, column in request.metric.columns().items():
            key = column.key
            if key is not None:  # the row's name stands for its code, whose hash the cache adds
                key = [request.row, key, network_keys.get(request.metric.network)]
            column = dataclasses.replace(column, key=key, limit=limits.get(part, request.count))
            columns[f"{request.name}/{part}"] = column
            place[request.name] = way = find_pass(request.name, column, passes)
            count, least = column.limit or way.count, getattr(request.metric, "least", 1)
            if count < least:
                raise ValueError(
                    f"{request.name} needs at least {least} images; it has {count} of {way.where}."
                )
    kept = compute_columns(columns, passes, networks, cache=cache, progress=progress)

    figures, values, names = [], {}, []
    for request in requests:
        parts = {part: kept[f"{request.name}/{part}"] for part in request.metric.columns()}
        if not parts or any(part is None for part in parts.values()):
            continue  # no columns; or another host than the first, which alone has the cache
        counts = {part: _count(value) for part, value in parts.items()}
        size = "x".join(map(str, place[request.name].image_size))
        for suffix, value in request.metric.figures(parts).items():
            figures.append(
                Figure(
                    f"{request.name} {suffix}".strip(),
                    value,
                    counts.get("measured", next(iter(counts.values()))),
                    counts.get("reference"),
                    f"{request.features}, {size}",
                )
            )
        for suffix, rows in request.metric.per_image(parts).items():
            values[f"{request.name} {suffix}".strip()] = rows
            names = place[request.name].names
    return figures, values, names


def format_figures(figures: list[Figure]) -> str:
    """A table for the screen."""
    rows = [("metric", "value", "images", "features")]
    for figure in figures:
        images = str(figure.images)
        if figure.references not in (None, figure.images):
            images += f" against {figure.references}"
        rows.append((figure.name, f"{figure.value:.4f}", images, figure.features))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([
            name.ljust(widths[0]), value.rjust(widths[1]), images.rjust(widths[2]), features,
        ])
        for name, value, images, features in rows
    )  # fmt: skip


def write_json(path: str, figures: list[Figure], about: Mapping) -> None:
    """{**about, "figures": [...]}, whole or not at all; what is not a number becomes null."""
    rows = [dataclasses.asdict(figure) for figure in figures]
    for row in rows:
        row["value"] = row["value"] if np.isfinite(row["value"]) else None

    def write(file):
        json.dump({**about, "figures": rows}, file, indent=2)
        file.write("\n")

    _write(path, write)


def write_csv(path: str, names: list[str], values: Mapping[str, np.ndarray]) -> None:
    """A row for each image: its name and its values; whole or not at all."""

    def write(file):
        writer = csv.writer(file)
        writer.writerow(["image", *values])
        for name, *row in zip(names, *values.values(), strict=True):
            writer.writerow([name, *(f"{float(value):.9g}" for value in row)])

    _write(path, write)


def _write(path, write):
    with writing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        write(file)


def _count(kept) -> int:
    return kept.count if isinstance(kept, FeatureStatistics) else len(kept)

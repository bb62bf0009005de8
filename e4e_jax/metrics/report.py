"""What an evaluation found: a table for a screen, and files."""

import csv
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import jax
import numpy as np

import e4e_jax
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


@dataclasses.dataclass(frozen=True)
class Report(Mapping[str, float]):
    """Figures by name: `report["fid10k"]`; printed, it is a table.

    Attributes:
      figures: in the order of the metrics.
      per_image: figure -> [N], of those that are means over images.
      images: names of these images.
    """

    figures: tuple[Figure, ...]
    per_image: Mapping[str, np.ndarray]
    images: Sequence[str]

    def __getitem__(self, name: str) -> float:
        for figure in self.figures:
            if figure.name == name:
                return figure.value
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (figure.name for figure in self.figures)

    def __len__(self) -> int:
        return len(self.figures)

    def __str__(self) -> str:
        rows = [("metric", "value", "images", "features")]
        for figure in self.figures:
            images = str(figure.images)
            if figure.references not in (None, figure.images):
                images += f" against {figure.references}"
            rows.append((figure.name, f"{figure.value:.4f}", images, figure.features))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            f"{name:{widths[0]}}  {value:>{widths[1]}}  {images:>{widths[2]}}  {features}"
            for name, value, images, features in rows
        )

    def publish(self, folder: str, **about: Any) -> None:
        """Of several hosts the first one prints the table, and does `write`."""
        if jax.process_index() == 0:
            print(self)
            print("\n" + "\n".join(self.write(folder, **about)))

    def write(self, folder: str, **about: Any) -> list[str]:
        """Writes metrics.json, and images.csv where there are figures of images; both whole.

        Args:
          folder: made if need be.
          **about: noted in metrics.json beside the figures and the version; JSON.

        Returns:
          The paths of the files.

        Raises:
          OSError: they cannot be written.
        """
        os.makedirs(folder, exist_ok=True)
        written = [os.path.join(folder, "metrics.json")]
        _write(written[0], lambda file: self._write_json(file, about))
        if self.per_image:
            written.append(os.path.join(folder, "images.csv"))
            _write(written[1], self._write_csv)
        return written

    def _write_json(self, file: IO[str], about: Mapping[str, Any]) -> None:
        """{**about, "figures": [...]}; what is not a number becomes null."""
        rows = [dataclasses.asdict(figure) for figure in self.figures]
        for row in rows:
            row["value"] = row["value"] if np.isfinite(row["value"]) else None
        about = {**about, "version": e4e_jax.__version__}
        json.dump({**about, "figures": rows}, file, indent=2)
        file.write("\n")

    def _write_csv(self, file: IO[str]) -> None:
        """A row for each image: its name and its values."""
        writer = csv.writer(file)
        writer.writerow(["image", *self.per_image])
        for name, *row in zip(self.images, *self.per_image.values(), strict=True):
            writer.writerow([name, *(f"{float(value):.9g}" for value in row)])


def _write(path: str, write: Callable[[IO[str]], None]) -> None:
    with writing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        write(file)

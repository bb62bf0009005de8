"""How well an encoder inverts held-out images: validation, pictures, the table of a run's end."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from e4e_jax import api
from e4e_jax.data.batches import in_batches
from e4e_jax.data.images import to_uint8
from e4e_jax.data.sheets import sheet
from e4e_jax.data.sources import LoadedImages
from e4e_jax.editing.edits import apply_direction
from e4e_jax.inversion.invert import synthesize_like
from e4e_jax.metrics.columns import Column, Rows
from e4e_jax.metrics.metric import Metric, Request, Subject, find_metric
from e4e_jax.metrics.prepare import prepare
from e4e_jax.metrics.registry import Written
from e4e_jax.metrics.report import Report
from e4e_jax.models.encoder import Encoder
from e4e_jax.models.stylegan2 import Generator
from e4e_jax.runtime.hosts import ALL_OF_IT
from e4e_jax.training.tables import format_table

SHOWN, EDITED = 16, 128  # held-out images that pictures show at most, and that are edited


@dataclasses.dataclass(frozen=True)
class ShownEdit:
    """An edit that the picture shows: codes move by strength · direction."""

    name: str
    direction: np.ndarray  # [D] or [L, D]
    strength: float


@dataclasses.dataclass(frozen=True)
class Measured:
    """What an encoder made of the held-out images.

    Attributes:
      report: the figures.
      codes: [at most `EDITED`, L, D], of the first images.
      inversions: [at most `SHOWN`, H, W, 3] in [-1, 1], of the first images.
    """

    report: Report
    codes: np.ndarray
    inversions: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """Mean squared error of each inversion [N]."""
        return self.report.per_image["l2"]


class EncoderEvaluation:
    """Measures encoders on a fixed set of held-out images, each host by itself.

    Args:
      encoder: gives the architecture; the weights are arguments of the methods.
      generator: that draws the inversions.
      held_out: the images.
      metrics: names; l2 is always measured.
      networks: name of a network, as in `metrics` -> what is at hand and need not be loaded.
      mean_image: () -> [H, W, 3] in [-1, 1], the mean of the training images; `table` asks for it.
      edits: what the picture shows beside the inversion.
      batch_size: images that pass through the networks at a time.

    Raises:
      ValueError, FileNotFoundError: a metric is not there, or lacks what it needs; in one sentence.
    """

    def __init__(
        self,
        encoder: Encoder,
        generator: Generator,
        held_out: LoadedImages,
        metrics: Sequence[str],
        *,
        networks: Mapping[str, nnx.Module],
        mean_image: Callable[[], np.ndarray],
        edits: Sequence[ShownEdit],
        batch_size: int,
    ):
        self._held_out = held_out
        self._generator = generator
        self._mean_image = mean_image
        self._edits = edits
        self._batch_size = batch_size
        split: Any = nnx.split(encoder, nnx.Param, nnx.BatchStat)
        self._graph, params, batch_stats = split
        self._options: dict[str, Any] = {
            "networks": networks, "batch_size": batch_size, "share": ALL_OF_IT, "cache": "",
            "progress": None,
        }  # fmt: skip
        self._requests = [find_metric(name) for name in dict.fromkeys(["l2", *metrics])]
        kept = [
            _kept("codes", min(EDITED, len(held_out))),
            _kept("measured", min(SHOWN, len(held_out))),
        ]
        self._evaluation = prepare(
            api.Inverter(self._encoder((params, batch_stats)), generator),
            held_out,
            [*self._requests, *kept],
            **self._options,
        )
        graph, self._frozen = nnx.split(generator)
        size = encoder.config.image_size
        self._syntheses = jax.jit(
            lambda frozen, codes: synthesize_like(nnx.merge(graph, frozen), codes, size)
        )
        readers = [r.network for r in self._requests if r.written.row == "factors"]
        self._reader = networks.get(str(readers[0])) if readers else None

    @property
    def reads_factors(self) -> bool:
        """Whether there are known factors that a network reads back."""
        return self._reader is not None

    def measure(self, weights: tuple[Any, Any], count: int | None = None) -> Measured:
        """Inverts the held-out images, or the first `count` of them.

        Args:
          weights: (params, batch_stats) of the encoder.
        """
        report = self._evaluation.measure({"encoder": self._encoder(weights)}, count=count)
        return Measured(report, report.per_image["codes"], report.per_image["measured"])

    def picture(self, measured: Measured, rows: int) -> np.ndarray:
        """Sheet uint8: input | inversion | one column for each edit; of the first images."""
        codes, inverted = measured.codes[:rows], measured.inversions[:rows]
        images = self._held_out.images[: len(codes)]
        columns, labels = [images, to_uint8(inverted)], ["input", "inversion"]
        for edit in self._edits:
            edited = np.asarray(apply_direction(codes, edit.direction, edit.strength))
            columns.append(to_uint8(self._synthesize(edited)))
            labels.append(f"{edit.name}={edit.strength:g}")
        cells = np.stack(columns, axis=1).reshape(-1, *images.shape[1:])
        return sheet(cells, len(columns), labels)

    def table(self, measured: Measured, untrained: tuple[Any, Any]) -> str:
        """The final table.

        Args:
          measured: of the trained encoder.
          untrained: (params, batch_stats) of the encoder before training.
        """
        rows: dict[str, Mapping[str, float]] = {
            "inversion": measured.report,
            "untrained encoder": self.measure(untrained).report,
        }
        rows |= self._baselines()
        names = [name for name in rows["generator's average image"] if name in measured.report]
        title = f"{len(self._held_out)} held-out images"
        parts = [format_table(title, names, {
            row: [figures[name] for name in names] for row, figures in rows.items()
        })]  # fmt: skip
        factors = {
            name.partition(" ")[2]: value
            for name, value in measured.report.items()
            if name.startswith("factors@")
        }
        if factors:
            read = {"inversion": [*factors.values()]}
            parts.append(format_table("R2 of the factors read back", [*factors], read))
        return "\n\n".join(parts)

    def edit_effects(self, codes: np.ndarray, directions: Mapping[str, np.ndarray]) -> np.ndarray:
        """Mean change of every factor that is read back when each direction is applied.

        Each direction is applied at strength +1 and −1; half of the difference, so the numbers
        are factor units for one unit of strength.

        Args:
          codes: [N, L, D], of the first held-out images.
          directions: name -> direction.

        Returns:
          [edits, K].
        """
        graph, state = nnx.split(self._reader)
        read = jax.jit(lambda state, images: nnx.merge(graph, state)(images))
        effects = []
        for direction in directions.values():
            up, down = (
                in_batches(
                    lambda images: read(state, images),
                    (self._synthesize(np.asarray(apply_direction(codes, direction, strength))),),
                    self._batch_size,
                )
                for strength in (1.0, -1.0)
            )
            effects.append(np.mean(up - down, axis=0) / 2)
        return np.stack(effects)

    def _baselines(self) -> dict[str, dict[str, float]]:
        """What images that are the same for every input come to, in the metrics of pairs."""
        generator = self._generator
        average = self._synthesize(
            np.asarray(generator.broadcast(generator.latent_avg[...][None]))
        )[0]
        images = {"generator's average image": average, "data set's mean image": self._mean_image()}
        constant = [to_uint8(image) for image in images.values()]
        held_out, count = self._held_out.images, len(self._held_out)
        names = [f"{row}, {i}" for row in images for i in range(count)]
        pairs = [r for r in self._requests if set(_roles(r)) == {"pairs"}]
        found = prepare(
            None,
            _Images(names, lambda i: constant[i // count]),
            pairs,
            reference=_Images(names, lambda i: held_out[i % count]),
            image_size=held_out.shape[1:3],
            **self._options,
        ).measure()
        return {
            row: {
                name: float(np.mean(values[i * count : (i + 1) * count], dtype=np.float64))
                for name, values in found.per_image.items()
            }
            for i, row in enumerate(images)
        }

    def _encoder(self, weights) -> Encoder:
        encoder = nnx.merge(self._graph, *weights)
        encoder.eval()
        return encoder

    def _synthesize(self, codes):
        return in_batches(
            lambda codes: self._syntheses(self._frozen, codes), (codes,), self._batch_size
        )


@dataclasses.dataclass(frozen=True)
class _Kept(Metric):
    """No figure, but what an evaluation has made of each image."""

    role: str

    def columns(self, subject: Subject) -> dict[str, Column]:
        del subject
        return {self.role: Column(self.role, lambda _, made: made[self.role], Rows, key=None)}

    def figures(self, kept: Mapping[str, Any], subject: Subject) -> dict[str, float]:
        del kept, subject
        return {}

    def per_image(self, kept: Mapping[str, Any], subject: Subject) -> dict[str, np.ndarray]:
        del subject
        return {"": kept[self.role]}


def _kept(role: str, count: int) -> Request:
    return Request(Written(role, role, count=count), _Kept(role), network=None)


def _roles(request: Request) -> list[str]:
    return [column.role for column in request.metric.columns(Subject()).values()]


@dataclasses.dataclass(frozen=True)
class _Images:
    """Images by number, as a source; see `data.registry.Source`."""

    names: Sequence[str]
    image: Callable[[int], np.ndarray]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.image(index)

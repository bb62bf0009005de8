"""How well an encoder inverts held-out images: metrics, pictures and the table of a run's end."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from e4e_jax.data.batches import in_batches
from e4e_jax.data.images import image_grid, to_uint8
from e4e_jax.editing.directions import apply_direction
from e4e_jax.inversion.invert import invert, synthesize_like
from e4e_jax.metrics.regression import r2_score
from e4e_jax.models.encoder import Encoder
from e4e_jax.training.encoder_step import FrozenNetworks
from e4e_jax.training.tables import format_table


@dataclasses.dataclass(frozen=True)
class Edit:
    """An edit that the picture shows: codes move by strength · direction."""

    name: str
    direction: np.ndarray  # [D] or [L, D]
    strength: float


class EncoderEvaluation:
    """Measures encoders on a fixed set of held-out images.

    Args:
      encoder: gives the architecture; the weights are arguments of the methods.
      networks: generator and feature networks.
      images: uint8 [N, H, W, 3].
      factors: [N, K] true factors of the images, or None.
      factor_names: K names.
      mean_image: () -> [H, W, 3] in [-1, 1], the mean of the training images; `table` asks for it.
      edits: what the picture shows beside the inversion.
      batch_size: images that pass through the networks at a time.
    """

    def __init__(
        self, encoder: Encoder, networks: FrozenNetworks, images, *, factors, factor_names,
        mean_image, edits, batch_size,
    ):  # fmt: skip
        self._images = images
        self._factors = factors
        self._factor_names = factor_names
        self._mean_image = mean_image
        self._edits = edits
        self._batch_size = batch_size
        self._size = encoder.config.image_size
        self._networks_graph, self._frozen = networks.split()
        graph, _, _ = nnx.split(encoder, nnx.Param, nnx.BatchStat)

        @jax.jit
        def inversions(params, batch_stats, frozen, images):
            inverter = nnx.merge(graph, params, batch_stats)
            inverter.eval()
            generator = nnx.merge(self._networks_graph, frozen)["generator"]
            return invert(inverter, generator, _to_float(images))

        @jax.jit
        def comparisons(frozen, images, others):
            return self._compare(nnx.merge(self._networks_graph, frozen), _to_float(images), others)

        @jax.jit
        def syntheses(frozen, codes):
            generator = nnx.merge(self._networks_graph, frozen)["generator"]
            return synthesize_like(generator, codes, self._size)

        @jax.jit
        def factor_readings(frozen, images):
            return nnx.merge(self._networks_graph, frozen)["perceptual"](images)

        self._inversions, self._comparisons, self._syntheses = inversions, comparisons, syntheses
        self._factor_readings = factor_readings

    def validate(self, params, batch_stats) -> dict[str, float]:
        """Means over the held-out images: l2, perceptual, identity, and R² of each factor."""
        _, inverted = self._invert(params, batch_stats, self._images)
        return self._summary(inverted)

    def picture(self, params, batch_stats, rows: int = 8) -> np.ndarray:
        """Grid uint8: input | inversion | one column for each edit."""
        images = self._images[:rows]
        codes, inverted = self._invert(params, batch_stats, images)
        columns = [images, to_uint8(inverted)]
        for edit in self._edits:
            edited = np.asarray(apply_direction(codes, edit.direction, edit.strength))
            columns.append(to_uint8(self._synthesize(edited)))
        return image_grid(np.stack(columns, axis=1).reshape(-1, *images.shape[1:]), len(columns))

    def table(self, trained, untrained) -> str:
        """The final table; both arguments are (params, batch_stats)."""
        generator = nnx.merge(self._networks_graph, self._frozen)["generator"]
        average = self._synthesize(
            np.asarray(generator.broadcast(generator.latent_avg[...][None]))
        )[0]
        shape = self._images.shape
        summaries = {
            "inversion": self.validate(*trained),
            "untrained encoder": self.validate(*untrained),
            "generator's average image": self._summary(np.broadcast_to(average, shape)),
            "data set's mean image": self._summary(np.broadcast_to(self._mean_image(), shape)),
        }
        metrics = [m for m in summaries["inversion"] if not m.startswith("R2 ")]
        title = f"{len(self._images)} held-out images"
        parts = [format_table(title, metrics, {
            name: [summary[m] for m in metrics] for name, summary in summaries.items()
        })]  # fmt: skip
        if self._factors is not None:
            names = list(self._factor_names)
            rows = {"inversion": [summaries["inversion"][f"R2 {n}"] for n in names]}
            parts.append(format_table("R2 of the factors read back", names, rows))
        return "\n\n".join(parts)

    def edit_effects(
        self, params, batch_stats, directions: dict[str, np.ndarray], count: int = 128
    ) -> np.ndarray:
        """Mean change of every factor that is read back when each direction is applied.

        Each direction is applied at strength +1 and −1; half of the difference, so the numbers
        are factor units for one unit of strength.

        Returns:
          [edits, K].
        """
        codes, _ = self._invert(params, batch_stats, self._images[:count])
        effects = []
        for direction in directions.values():
            up, down = (
                self._read_factors(
                    self._synthesize(np.asarray(apply_direction(codes, direction, s)))
                )
                for s in (1.0, -1.0)
            )
            effects.append(np.mean(up - down, axis=0) / 2)
        return np.stack(effects)

    def _compare(self, networks, images, others):
        """Per-image metrics [B] of `others` against `images`, both [B, H, W, 3] in [-1, 1]."""
        metrics = {"l2": jnp.mean(jnp.square(images - others), axis=(1, 2, 3))}
        if "perceptual" in networks:
            network = networks["perceptual"]
            metrics["perceptual"] = network.distance(
                network.features(images), network.features(others)
            )
        if "identity" in networks:
            network = networks["identity"]
            metrics["identity"] = jnp.sum(network.embed(images) * network.embed(others), axis=-1)
        if self._factors is not None:
            metrics["factors"] = networks["perceptual"](others)
        return metrics

    def _summary(self, others) -> dict[str, float]:
        """Means of the metrics of float images [N, H, W, 3] against the held-out ones."""
        metrics = in_batches(
            lambda images, others: self._comparisons(self._frozen, images, others),
            (self._images, np.asarray(others)),
            self._batch_size,
        )
        factors = metrics.pop("factors", None)
        summary = {name: float(np.mean(v, dtype=np.float64)) for name, v in metrics.items()}
        if factors is not None:
            scores = r2_score(self._factors, factors)
            summary |= {
                f"R2 {n}": float(s) for n, s in zip(self._factor_names, scores, strict=True)
            }
        return summary

    def _invert(self, params, batch_stats, images):
        return in_batches(
            lambda images: self._inversions(params, batch_stats, self._frozen, images),
            (images,),
            self._batch_size,
        )

    def _synthesize(self, codes):
        return in_batches(
            lambda codes: self._syntheses(self._frozen, codes), (codes,), self._batch_size
        )

    def _read_factors(self, images):
        return in_batches(
            lambda images: self._factor_readings(self._frozen, images), (images,), self._batch_size
        )


def _to_float(images):
    return images.astype(jnp.float32) / 127.5 - 1.0

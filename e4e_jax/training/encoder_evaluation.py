"""How well an encoder inverts held-out images: metrics, pictures and the table of a run's end."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from e4e_jax.data.batches import in_batches
from e4e_jax.data.images import to_float, to_uint8
from e4e_jax.data.sheets import sheet
from e4e_jax.editing.edits import apply_direction
from e4e_jax.inversion.invert import encode, synthesize_like
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

        # Three programs, each network once: most of what a short run waits for is compilation.
        @jax.jit
        def encodings(params, batch_stats, frozen, images):
            inverter = nnx.merge(graph, params, batch_stats)
            inverter.eval()
            generator = nnx.merge(self._networks_graph, frozen)["generator"]
            return encode(inverter, generator, to_float(images))

        @jax.jit
        def syntheses(frozen, codes):
            generator = nnx.merge(self._networks_graph, frozen)["generator"]
            return synthesize_like(generator, codes, self._size)

        @jax.jit
        def comparisons(frozen, images, others):
            return self._compare(nnx.merge(self._networks_graph, frozen), images, others)

        self._encodings, self._syntheses, self._comparisons = encodings, syntheses, comparisons

    def inversions(self, params, batch_stats, count: int | None = None):
        """Codes [N, L, D] and inversions [N, H, W, 3] of the first `count` held-out images."""
        codes = in_batches(
            lambda images: self._encodings(params, batch_stats, self._frozen, images),
            (self._images[:count],),
            self._batch_size,
        )
        return codes, self._synthesize(codes)

    def compare(self, inverted) -> dict[str, np.ndarray]:
        """Metrics of the inversions [N, H, W, 3] of the first held-out images, each [N].

        l2, perceptual, identity; and where the true factors are known those that are read back,
        "factors" [N, K].
        """
        metrics = in_batches(
            lambda images, others: self._comparisons(self._frozen, to_float(images), others),
            (self._images[: len(inverted)], np.asarray(inverted)),
            self._batch_size,
        )
        metrics.pop("factors of the images", None)
        return metrics

    def summary(self, metrics: dict[str, np.ndarray]) -> dict[str, float]:
        """Means of what `compare` gives, and R² of each factor."""
        means = {
            name: float(np.mean(values, dtype=np.float64))
            for name, values in metrics.items()
            if name != "factors"
        }
        if self._factors is not None:
            scores = r2_score(self._factors, metrics["factors"])
            means |= {f"R2 {n}": float(s) for n, s in zip(self._factor_names, scores, strict=True)}
        return means

    def picture(self, codes, inverted) -> np.ndarray:
        """Sheet uint8: input | inversion | one column for each edit.

        Args:
          codes, inverted: of the first held-out images, a row for each.
        """
        images = self._images[: len(codes)]
        columns, labels = [images, to_uint8(inverted)], ["input", "inversion"]
        for edit in self._edits:
            edited = np.asarray(apply_direction(codes, edit.direction, edit.strength))
            columns.append(to_uint8(self._synthesize(edited)))
            labels.append(f"{edit.name}={edit.strength:g}")
        cells = np.stack(columns, axis=1).reshape(-1, *images.shape[1:])
        return sheet(cells, len(columns), labels)

    def table(self, inversion: dict[str, np.ndarray], untrained) -> str:
        """The final table.

        Args:
          inversion: what `compare` gives for the trained encoder.
          untrained: (params, batch_stats) of the encoder before training.
        """
        generator = nnx.merge(self._networks_graph, self._frozen)["generator"]
        average = self._synthesize(
            np.asarray(generator.broadcast(generator.latent_avg[...][None]))
        )[0]
        shape = self._images.shape
        others = {
            "untrained encoder": self.inversions(*untrained)[1],
            "generator's average image": np.broadcast_to(average, shape),
            "data set's mean image": np.broadcast_to(self._mean_image(), shape),
        }
        summaries = {"inversion": self.summary(inversion)}
        summaries |= {name: self.summary(self.compare(images)) for name, images in others.items()}
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

    def edit_effects(self, codes, directions: dict[str, np.ndarray]) -> np.ndarray:
        """Mean change of every factor that is read back when each direction is applied.

        Each direction is applied at strength +1 and −1; half of the difference, so the numbers
        are factor units for one unit of strength.

        Args:
          codes: [N, L, D], of the first held-out images.
          directions: name -> direction.

        Returns:
          [edits, K].
        """
        effects = []
        for direction in directions.values():
            up, down = (
                self._synthesize(np.asarray(apply_direction(codes, direction, s)))
                for s in (1.0, -1.0)
            )
            read = in_batches(
                lambda down, up: self._comparisons(self._frozen, down, up),
                (down, up),
                self._batch_size,
            )
            effects.append(np.mean(read["factors"] - read["factors of the images"], axis=0) / 2)
        return np.stack(effects)

    def _compare(self, networks, images, others):
        """Per-image metrics [B] of `others` against `images`, both [B, H, W, 3] in [-1, 1]."""
        both = jnp.concatenate([images, others])  # through a network that is compiled once

        def halves(tree):
            return (jax.tree.map(lambda x, i=i: jnp.split(x, 2)[i], tree) for i in (0, 1))

        metrics = {"l2": jnp.mean(jnp.square(images - others), axis=(1, 2, 3))}
        if "perceptual" in networks:
            network = networks["perceptual"]
            metrics["perceptual"] = network.distance(*halves(network.features(both)))
        if "identity" in networks:
            first, second = halves(networks["identity"].embed(both))
            metrics["identity"] = jnp.sum(first * second, axis=-1)
        if self._factors is not None:
            factors = halves(networks["perceptual"](both))
            metrics["factors of the images"], metrics["factors"] = factors
        return metrics

    def _synthesize(self, codes):
        return in_batches(
            lambda codes: self._syntheses(self._frozen, codes), (codes,), self._batch_size
        )

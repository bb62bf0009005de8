"""The metrics by name: to add one, add a row here (and to `networks` a network it needs).

A name can carry counts in the manner of NVIDIA's `fid50k_full`: `fid10k` compares the first 10,000
images of both sets, `fid10k_full` takes all of the reference set.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from e4e_jax.metrics import lec, ms_ssim, pairs, sliced_wasserstein
from e4e_jax.metrics.evaluation import Column, Moments, Rows
from e4e_jax.metrics.fid import frechet_distance
from e4e_jax.metrics.kid import kernel_distance
from e4e_jax.metrics.networks import NETWORKS
from e4e_jax.metrics.precision_recall import precision_recall
from e4e_jax.metrics.regression import r2_score

_MOST = 10_000_000  # images of a set


@dataclasses.dataclass(frozen=True)
class PairMetric:
    """A figure of each pair of an image and its counterpart; reported is the mean.

    Attributes:
      measure: (a, b), or (network, a, b) if there is one -> [B]; traceable.
      network: its name in `NETWORKS`.
      features: label of the figure where no network gives it.
    """

    measure: Callable
    network: str | None = None
    features: str = "pixels"

    def columns(self) -> dict[str, Column]:
        def compute(networks, images):
            network = () if self.network is None else (networks[self.network],)
            return self.measure(*network, images["reference"], images["measured"])

        return {"pairs": Column("pairs", compute, Rows, key=())}

    def figures(self, kept: Mapping[str, Any]) -> dict[str, float]:
        return {"": float(np.mean(kept["pairs"], dtype=np.float64))}

    def per_image(self, kept) -> dict[str, np.ndarray]:
        return {"": kept["pairs"]}


@dataclasses.dataclass(frozen=True)
class SetMetric:
    """A comparison of two sets of images.

    Attributes:
      describe: (network or None, images, their numbers [B]) -> [B, ...]; traceable.
      keep: `Moments` or `Rows`, what is kept of a set.
      compare: (kept of the reference set, kept of the measured set) -> {figure: number}, "" being
        the metric's own name.
      network, features: as in `PairMetric`.
      cached: whether what is kept is small enough for the cache.
      least: images that each set needs.
    """

    describe: Callable
    keep: type
    compare: Callable
    network: str | None = None
    features: str = "pixels"
    cached: bool = True
    least: int = 2

    def columns(self) -> dict[str, Column]:
        def column(role):
            def compute(networks, images):
                network = None if self.network is None else networks[self.network]
                return self.describe(network, images[role], images["index"])

            return Column(role, compute, self.keep, key=() if self.cached else None)

        return {role: column(role) for role in ("reference", "measured")}

    def figures(self, kept) -> dict[str, float]:
        return self.compare(kept["reference"], kept["measured"])

    def per_image(self, kept) -> dict[str, np.ndarray]:
        del kept
        return {}


@dataclasses.dataclass(frozen=True)
class FactorMetric:
    """How well known factors of the images can be read from their counterparts: R² of each.

    Attributes:
      network: its name in `NETWORKS`; images -> factors [B, K].
      names: of the factors.
      least: images that it needs.
    """

    network: str
    names: tuple[str, ...] = ()
    features: str = ""
    least: int = 2

    def columns(self) -> dict[str, Column]:
        def read(networks, images):
            return toy_sized(networks[self.network], images["measured"])(images["measured"])

        return {
            "factors": Column("factors", lambda _, images: images["factors"], Rows, key="true"),
            "measured": Column("measured", read, Rows, key="read"),
        }

    def figures(self, kept) -> dict[str, float]:
        scores = r2_score(kept["factors"], kept["measured"])
        return {name: float(s) for name, s in zip(self.names, scores, strict=True)}

    def per_image(self, kept) -> dict[str, np.ndarray]:
        del kept
        return {}


@dataclasses.dataclass(frozen=True)
class ConsistencyMetric:
    """LEC of some edits.

    Attributes:
      edits: (name, direction [D] or [L, D], strength) of each.
    """

    edits: tuple[tuple[str, np.ndarray, float], ...] = ()
    network: str | None = None
    features: str = "codes w_plus"

    def columns(self) -> dict[str, Column]:
        steps = [np.float32(strength * direction) for _, direction, strength in self.edits]

        def compute(networks, images):
            del networks
            codes = images["codes"]

            def distances(step):
                return lec.editing_distances(
                    images["encode"],
                    images["synthesize"],
                    codes,
                    lambda codes: codes + step,
                    lambda codes: codes - step,
                )

            # One after the other: the networks are compiled once for all edits.
            stacked = jnp.stack([jnp.broadcast_to(step, codes.shape[1:]) for step in steps])
            return jax.lax.map(distances, stacked).T  # [B, edits]

        return {"codes": Column("codes", compute, Rows, key=[s.tolist() for s in steps])}

    def figures(self, kept) -> dict[str, float]:
        return {name: lec.mean_without_outliers(d) for name, d in self.per_image(kept).items()}

    def per_image(self, kept) -> dict[str, np.ndarray]:
        return {name: kept["codes"][:, i] for i, (name, _, _) in enumerate(self.edits)}


@dataclasses.dataclass(frozen=True)
class SpeedMetric:
    """Seconds that a model takes for an image, see `speed.seconds_per_image`; has no columns."""

    network: str | None = None
    features: str = "one image at a time"

    def columns(self) -> dict[str, Column]:
        return {}


def toy_sized(network, images):
    """The toy features, if the images have the size that they read; else a ValueError."""
    side = network.config.image_size
    if images.shape[1:3] != (side, side):
        raise ValueError(
            f"toy features read images of {side}x{side}; these are "
            f"{images.shape[1]}x{images.shape[2]}."
        )
    return network


def _fid(reference, measured):
    parts = (reference.mean, reference.covariance, measured.mean, measured.covariance)
    return {"": frechet_distance(*parts)}


def _kid(reference, measured):
    return {"": kernel_distance(reference, measured)}


def _precision_recall(reference, measured):
    return dict(zip(("precision", "recall"), precision_recall(reference, measured), strict=True))


def _sliced_wasserstein(reference, measured):
    distances = sliced_wasserstein.sliced_wasserstein(reference, measured)
    levels = {f"level {i}": float(d) for i, d in enumerate(distances)}
    return {"": float(distances.mean()), **levels}


def _inception(network, images, index):
    del index
    return network(images)


def _toy(network, images, index):
    del index
    return toy_sized(network, images).pooled(images)


def _patches(network, images, index):
    del network
    return sliced_wasserstein.patch_descriptors(images, index)


METRICS = {
    "l2": PairMetric(pairs.l2),
    "ms_ssim": PairMetric(ms_ssim.ms_ssim, None, "pixels, as many of 5 scales as fit"),
    "lpips": PairMetric(pairs.perceptual_distance, "lpips_alex"),
    "lpips_vgg": PairMetric(pairs.perceptual_distance, "lpips_vgg"),
    "id": PairMetric(pairs.identity_similarity, "arcface"),
    "id_curricular": PairMetric(pairs.identity_similarity, "curricularface"),
    "fid": SetMetric(_inception, Moments, _fid, "inception"),
    "kid": SetMetric(_inception, Rows, _kid, "inception"),
    "pr": SetMetric(_inception, Rows, _precision_recall, "inception", least=4),
    "swd": SetMetric(_patches, Rows, _sliced_wasserstein, None, "7x7 patches", False, 1),
    "lec": ConsistencyMetric(),
    "time": SpeedMetric(),
    # Stand-ins on the toy domain, in toy features.
    "toy_perceptual": PairMetric(
        lambda n, a, b: pairs.perceptual_distance(toy_sized(n, a), a, b), "toy"
    ),
    "toy_id": PairMetric(
        lambda n, a, b: jnp.sum(toy_sized(n, a).embed(a) * n.embed(b), axis=-1), "toy"
    ),
    "toy_fid": SetMetric(_toy, Moments, _fid, "toy"),
    "toy_kid": SetMetric(_toy, Rows, _kid, "toy"),
    "toy_pr": SetMetric(_toy, Rows, _precision_recall, "toy", least=4),
    "toy_r2": FactorMetric("toy"),
}


@dataclasses.dataclass(frozen=True)
class Request:
    """A metric as it was asked for.

    Attributes:
      name: as given, counts included.
      row: its name in `METRICS`.
      metric: what stands there.
      count: images of the measured set, None for all.
      reference_count: images of the reference set, None for all.
    """

    name: str
    row: str
    metric: Any
    count: int | None = None
    reference_count: int | None = None

    @property
    def features(self) -> str:
        network = self.metric.network
        return self.metric.features if network is None else NETWORKS[network].features


def parse_metric(name: str) -> Request:
    """The metric of a name such as "lpips", "fid", "fid10k" or "kid50k_full".

    Raises:
      ValueError: no such metric, or a count for one that does not compare sets; in one sentence.
    """
    if name in METRICS:
        return Request(name, name, METRICS[name])
    match = re.fullmatch(r"([a-z_]+?)([1-9][0-9]{0,8})(k?)(_full)?", name)
    metric = METRICS.get(match[1]) if match else None
    if not isinstance(metric, SetMetric):
        counted = ", ".join(n for n, m in METRICS.items() if isinstance(m, SetMetric))
        raise ValueError(
            f"there is no metric {name!r:.80}; expected one of {', '.join(METRICS)}, where "
            f"{counted} can be followed by a number of images, as in fid50k or fid50k_full."
        )
    count = int(match[2]) * (1000 if match[3] else 1)
    if count > _MOST:
        raise ValueError(f"{name} asks for {count:,} images; expected at most {_MOST:,}.")
    return Request(name, match[1], metric, count, None if match[4] else count)

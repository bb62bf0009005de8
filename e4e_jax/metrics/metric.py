"""What a metric is, and the two forms that most of them have."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np

from e4e_jax import api
from e4e_jax.metrics.columns import Column, Rows
from e4e_jax.metrics.edits import NamedEdit
from e4e_jax.metrics.registry import METRICS, Written, read_name


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is measured, as far as metrics ask.

    Attributes:
      model: an `api.Inverter` or `api.GeneratorModel`; None where images are compared with images.
      factor_names: of the source's factors; () where it knows none.
      find_edits: () -> `edits`; called once, if a metric asks.
    """

    model: api.GeneratorModel | None = None
    factor_names: tuple[str, ...] = ()
    find_edits: Callable[[], tuple[NamedEdit, ...]] = tuple

    @functools.cached_property
    def edits(self) -> tuple[NamedEdit, ...]:
        """The edits that were asked for, ready for the model."""
        return self.find_edits()


class Metric(Protocol):
    """A metric: what is computed of each image, and figures from what is kept of all.

    Those that subclass it have these defaults.

    Attributes:
      network: the network that measures where none is named: of `networks.NETWORKS`, or a bundle.
        None: a metric without one, or whose network has to be named.
      method: what the network has to have, such as "embed"; None for a metric without a network.
      features: label of the figures where no network gives it.
      counted: whether a number of images can follow its name.
      least: images that it needs of each set.
    """

    network: str | None = None
    method: str | None = None
    features: str = ""
    counted: bool = False
    least: int = 1

    def columns(self, subject: Subject) -> dict[str, Column]:
        """What to compute of each image, by name.

        A column's name is free, but that a count as in fid10k_full does not limit "reference". None
        at all for a metric that asks the model itself.

        Raises:
          ValueError: the subject lacks what the metric needs; in one sentence.
        """

    def figures(self, kept: Mapping[str, Any], subject: Subject) -> dict[str, float]:
        """What was kept of each column -> {figure: number}, "" being the metric's own name."""

    def per_image(self, kept: Mapping[str, Any], subject: Subject) -> dict[str, np.ndarray]:
        """{figure: [N]} of each image, where there are such; in the order of the images."""
        return {}


_MEMBERS = (
    "columns", "figures", "per_image", "network", "method", "features", "counted", "least",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class PairMetric(Metric):
    """A figure of each pair of an image and its counterpart; reported is the mean.

    Attributes:
      measure: (a, b), or (network, a, b) where `method` says that there is one: images
        [B, H, W, 3] in [-1, 1] -> [B]; traceable.
      network, method, features: as in `Metric`.
    """

    measure: Callable[..., jax.Array]
    network: str | None = None
    method: str | None = None
    features: str = "pixels"

    def columns(self, subject: Subject) -> dict[str, Column]:
        del subject

        def compute(network, images):
            first = () if self.method is None else (network,)
            return self.measure(*first, images["reference"], images["measured"])

        return {"pairs": Column("pairs", compute, Rows, key=())}

    def figures(self, kept: Mapping[str, Any], subject: Subject) -> dict[str, float]:
        del subject
        return {"": float(np.mean(kept["pairs"], dtype=np.float64))}

    def per_image(self, kept: Mapping[str, Any], subject: Subject) -> dict[str, np.ndarray]:
        del subject
        return {"": kept["pairs"]}


@dataclasses.dataclass(frozen=True)
class SetMetric(Metric):
    """A comparison of two sets of images.

    Attributes:
      describe: (network or None, images [B, H, W, 3] in [-1, 1], their numbers [B]) -> [B, ...];
        traceable.
      keep: `columns.Moments` or `columns.Rows`, what is kept of a set.
      compare: (kept of the reference set, kept of the measured set) -> {figure: number}, "" being
        the metric's own name.
      network, method, features, least: as in `Metric`.
      cached: whether what is kept is small enough for the cache.
    """

    describe: Callable[..., jax.Array]
    keep: type
    compare: Callable[[Any, Any], dict[str, float]]
    network: str | None = None
    method: str | None = None
    features: str = "pixels"
    cached: bool = True
    least: int = 2
    counted: bool = True

    def columns(self, subject: Subject) -> dict[str, Column]:
        del subject

        def column(role):
            def compute(network, images):
                return self.describe(network, images[role], images["index"])

            return Column(role, compute, self.keep, key=() if self.cached else None)

        return {role: column(role) for role in ("reference", "measured")}

    def figures(self, kept: Mapping[str, Any], subject: Subject) -> dict[str, float]:
        del subject
        return self.compare(kept["reference"], kept["measured"])


@dataclasses.dataclass(frozen=True)
class Request:
    """A metric as it was asked for.

    Attributes:
      written: its name taken apart.
      metric: what stands there.
      network: the name of the network that measures; None if there is none.
    """

    written: Written
    metric: Metric
    network: str | None

    @property
    def name(self) -> str:
        return self.written.name

    @property
    def is_ours(self) -> bool:
        """Whether the metric's code is that of this package."""
        return self.written.row in METRICS


def find_metric(name: str) -> Request:
    """The metric of a name, see `registry.read_name`.

    Raises:
      ValueError: there is none, a count or a network for one that takes none, or no network for
        one that needs it named; in one sentence.
    """
    written = read_name(name)
    metric = METRICS.find(written.row)
    if isinstance(metric, type) or not all(hasattr(metric, name) for name in _MEMBERS):
        raise ValueError(
            f"the metric {written.row} is no object with {', '.join(_MEMBERS)}, which subclasses "
            "of e4e_jax.metrics.metric:Metric have."
        )
    if written.count is not None and not metric.counted:
        raise ValueError(
            f"{name} asks for a number of images, which {written.row} does not take; expected "
            f"{written.row}, or a metric of sets as in fid10k."
        )
    if metric.method is None and written.network is not None:
        raise ValueError(f"{name} names a network and {written.row} measures without one.")
    network = written.network or metric.network
    if metric.method is not None and network is None:
        raise ValueError(
            f"{name} does not say which network measures; expected {name}@NETWORK, such as the "
            "path of a bundle."
        )
    return Request(written, metric, network)

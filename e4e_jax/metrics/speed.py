"""How long a model takes."""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from e4e_jax.metrics.columns import Column
from e4e_jax.metrics.metric import Metric, Subject


def seconds_per_image(model: Any, *, repeats: int = 10) -> dict[str, float]:
    """Median seconds for one image on one device, compilation left out.

    Args:
      model: a `api.Inverter`, or a generator alone.
      repeats: how often each is timed.

    Returns:
      {"synthesis": seconds}, and with an encoder also "encoder" and, of both, "inversion".
    """
    code = np.asarray(model.latent_avg)[None]
    seconds = {"synthesis": _median(lambda: model.synthesize(code), repeats)}
    if hasattr(model, "encode"):
        image = np.random.default_rng(0).uniform(-1, 1, (1, *model.image_size, 3))
        seconds["encoder"] = _median(lambda: model.encode(image.astype(np.float32)), repeats)
        seconds["inversion"] = seconds["encoder"] + seconds["synthesis"]
    return seconds


def _median(function, repeats):
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


class Seconds(Metric):
    """Seconds that a model takes for an image, see `seconds_per_image`."""

    features = "one image at a time"

    def columns(self, subject: Subject) -> dict[str, Column]:
        if subject.model is None:
            raise ValueError("time needs a model; here images are compared alone.")
        return {}

    def figures(self, kept: Mapping[str, Any], subject: Subject) -> dict[str, float]:
        del kept
        return {f"{part}, s": s for part, s in seconds_per_image(subject.model).items()}


TIME = Seconds()

"""How long a model takes."""

import statistics
import time

import jax
import numpy as np


def seconds_per_image(model, *, repeats=10) -> dict[str, float]:
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

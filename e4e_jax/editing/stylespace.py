"""StyleSpace: single channels of the style vectors (Wu et al. 2021, arXiv 2011.12799)."""

import jax
import numpy as np
from flax import nnx

from e4e_jax.models.stylegan2 import Generator

_BATCH = 500


@nnx.jit
def _styles(generator, w):
    return generator.synthesis.styles(generator.broadcast(w))


def channel_deviations(
    generator: Generator, samples: int = 10_000, seed: int = 0
) -> list[np.ndarray]:
    """The standard deviation of every style channel over draws of z.

    Returns:
      A list with an array [C_in] for each convolution.
    """
    w = generator.mapping(
        jax.random.normal(jax.random.key(seed), (samples, generator.config.z_dim))
    )
    return [np.std(np.asarray(style, np.float64), axis=0) for style in _styles(generator, w)]


def attribute_channels(
    generator: Generator, w: np.ndarray, scores: np.ndarray, count: int = 5, *, share: float = 0.02
) -> list[tuple[int, int, float]]:
    """The channels that single out the images with the highest scores (section 4).

    Over these images the mean and the deviation of each channel are taken, in units of its
    deviation over all images; the channels with the largest |mean| / deviation are returned.

    Args:
      generator: whose channels.
      w: codes [N, D] of all images.
      scores: [N], of one attribute.
      count: how many channels.
      share: of all images that count as having the attribute; at least 10 of them.

    Returns:
      (layer, channel, mean in standard deviations) of the channels, the clearest first. A positive
      mean says that raising the channel raises the attribute.

    Raises:
      ValueError: shapes do not fit, or too few codes.
    """
    w, scores = np.asarray(w, np.float32), np.asarray(scores)
    if w.ndim != 2 or scores.shape != w.shape[:1] or len(w) < 20:
        raise ValueError(
            f"w and scores have shapes {list(w.shape)} and {list(scores.shape)}; expected [N, D] "
            "and [N] of at least 20 codes."
        )
    parts = [_styles(generator, w[i : i + _BATCH]) for i in range(0, len(w), _BATCH)]
    layers = [np.concatenate(layer) for layer in zip(*parts, strict=True)]  # [N, C_in] each
    places = [(i, c) for i, layer in enumerate(layers) for c in range(layer.shape[1])]
    styles = np.concatenate(layers, axis=1).astype(np.float64)
    styles = (styles - styles.mean(axis=0)) / (styles.std(axis=0) + 1e-12)
    exemplars = styles[np.argsort(scores, kind="stable")[-max(10, int(share * len(w))) :]]
    means = exemplars.mean(axis=0)
    clarity = np.abs(means) / (exemplars.std(axis=0) + 1e-12)
    best = np.argsort(-clarity, kind="stable")[:count]
    return [(*places[k], float(means[k])) for k in best]

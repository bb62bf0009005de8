"""Multi-scale structural similarity (Wang, Simoncelli and Bovik 2003)."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from e4e_jax.metrics.metric import PairMetric

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, fine to coarse
_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2  # for a range of values of 1


def num_scales(height: int, width: int) -> int:
    """The scales on which the window fits, at most the five of the paper.

    Raises:
      ValueError: it does not fit on the images themselves.
    """
    scales, side = 0, min(height, width)
    while side >= _WINDOW and scales < len(_WEIGHTS):
        scales, side = scales + 1, -(-side // 2)
    if not scales:
        raise ValueError(
            f"images of {height}x{width} are too small for MS-SSIM; expected at least "
            f"{_WINDOW}x{_WINDOW}."
        )
    return scales


def ms_ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """MS-SSIM of two batches [B, H, W, 3] in [-1, 1] -> [B], at most 1, more is better.

    Gaussian window of 11 pixels where it fits whole; each colour channel by itself, then their
    mean. Negative terms count as 0. Below 176 pixels the five scales do not all fit: the finest
    ones that do are used, their weights scaled to the sum 1.
    """
    scales = num_scales(*a.shape[1:3])
    weights = np.array(_WEIGHTS[:scales]) / sum(_WEIGHTS[:scales])
    a, b = (a + 1) / 2, (b + 1) / 2
    result = 1.0
    for scale, weight in enumerate(weights):
        luminance, structure = _terms(a, b)
        last = scale == scales - 1
        term = jnp.mean(luminance * structure if last else structure, axis=(1, 2))  # [B, 3]
        result *= jnp.maximum(term, 0.0) ** weight
        if not last:
            a, b = _halve(a), _halve(b)
    return jnp.mean(result, axis=-1)


def _terms(a, b):
    """Luminance, and contrast times structure, of every window: [B, h, w, 3] each."""
    mean_a, mean_b = _smooth(a), _smooth(b)
    variance_a = _smooth(a * a) - mean_a**2
    variance_b = _smooth(b * b) - mean_b**2
    covariance = _smooth(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_a + variance_b + _C2)
    return luminance, structure


def _smooth(x):
    """The Gaussian window's weighted means, where it fits: [B, H, W, 3] -> [B, H-10, W-10, 3]."""
    taps = [math.exp(-((i - _WINDOW // 2) ** 2) / (2 * _SIGMA**2)) for i in range(_WINDOW)]
    total = sum(taps)
    for axis in (1, 2):
        size = x.shape[axis] - _WINDOW + 1
        x = sum(
            tap / total * jax.lax.slice_in_dim(x, i, i + size, axis=axis)
            for i, tap in enumerate(taps)
        )
    return x


def _halve(x):
    """Means of 2x2 pixels; the last row and column of an odd size count twice."""
    x = jnp.pad(x, [(0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)], mode="edge")
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


MS_SSIM = PairMetric(ms_ssim, features="pixels, as many of 5 scales as fit")

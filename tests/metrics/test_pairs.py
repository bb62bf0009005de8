"""Figures of pairs against forms written out in NumPy and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers import relative_error

from e4e_jax.metrics import pairs
from e4e_jax.metrics.ms_ssim import ms_ssim, num_scales


def images(seed, size=(16, 16), count=3):
    return np.random.default_rng(seed).uniform(-1, 1, (count, *size, 3)).astype(np.float32)


def smooth_images(seed, size, count=2):
    """Images with structure at all scales, and a second batch that resembles them."""
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width] / 16
    phase = rng.uniform(0, 6, (count, 1, 1, 3))
    a = 0.5 * np.sin(x[None, :, :, None] + phase) * np.cos(1.7 * y[None, :, :, None])
    a = a + 0.2 * rng.normal(size=a.shape)
    b = 0.8 * a + 0.1 + 0.15 * rng.normal(size=a.shape)
    return np.clip(a, -1, 1).astype(np.float32), np.clip(b, -1, 1).astype(np.float32)


def test_l2():
    a, b = images(0), images(1)
    expected = [np.mean((x - y) ** 2) for x, y in zip(np.float64(a), np.float64(b), strict=True)]
    assert relative_error(pairs.l2(a, b), expected) < 1e-5


def test_psnr():
    a, b = images(0), images(1)
    mse = [np.mean((x - y) ** 2) for x, y in zip(np.float64(a), np.float64(b), strict=True)]
    assert relative_error(pairs.psnr(a, b), 20 * np.log10(2 / np.sqrt(mse))) < 1e-5
    as_bytes = np.mean(((a - b) * 127.5) ** 2, axis=(1, 2, 3))  # the same in units of files
    assert relative_error(pairs.psnr(a, b), 10 * np.log10(255**2 / as_bytes)) < 1e-5
    assert np.isposinf(pairs.psnr(a, a)).all()


class Distance:
    """Two levels of features: the images, and their rows' means."""

    def features(self, images):
        return [images, images.mean(axis=2)]

    def distance(self, a, b):
        return sum(
            jnp.sum((x - y) ** 2, axis=tuple(range(1, x.ndim))) for x, y in zip(a, b, strict=True)
        )


def test_perceptual_distance_asks_the_network():
    a, b = images(0), images(1)
    expected = [
        ((x - y) ** 2).sum() + ((x - y).mean(1) ** 2).sum() for x, y in zip(a, b, strict=True)
    ]
    assert relative_error(pairs.perceptual_distance(Distance(), a, b), expected) < 1e-5


class Identity:
    """The unit vector of the corner pixels."""

    def embed(self, images):
        x = images[:, ::15, ::15].reshape(images.shape[0], -1)
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def test_identity_similarity_is_a_cosine():
    a, b = images(0), images(1)
    x, y = (i[:, ::15, ::15].reshape(3, -1) for i in (a, b))
    cosine = np.sum(x * y, axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    assert relative_error(pairs.identity_similarity(Identity(), a, b), cosine) < 1e-5


def torch_ms_ssim(a, b, scales):
    """MS-SSIM with a two-dimensional window, scale by scale, in float64."""
    weights = torch.tensor([0.0448, 0.2856, 0.3001, 0.2363, 0.1333], dtype=torch.float64)[:scales]
    weights = weights / weights.sum()
    line = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / 4.5)
    window = torch.outer(line, line)
    window = (window / window.sum())[None, None].repeat(3, 1, 1, 1)
    a, b = (torch.tensor(x, dtype=torch.float64).permute(0, 3, 1, 2) / 2 + 0.5 for x in (a, b))
    product = torch.ones(a.shape[:2], dtype=torch.float64)
    for scale in range(scales):

        def mean(x):
            return torch.nn.functional.conv2d(x, window, groups=3)

        ma, mb = mean(a), mean(b)
        va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
        value = (2 * cov + 0.0009) / (va + vb + 0.0009)
        if scale == scales - 1:
            value = value * (2 * ma * mb + 0.0001) / (ma**2 + mb**2 + 0.0001)
        product = product * value.mean(dim=(2, 3)).clamp(min=0) ** weights[scale]
        a, b = (torch.nn.functional.avg_pool2d(x, 2) for x in (a, b))
    return product.mean(dim=1).numpy()


@pytest.mark.parametrize("size, scales", [((176, 192), 5), ((64, 64), 3), ((16, 48), 1)])
def test_ms_ssim(size, scales):
    a, b = smooth_images(0, size)
    assert num_scales(*size) == scales
    value = jax.jit(ms_ssim)(a, b)
    assert relative_error(value, torch_ms_ssim(a, b, scales)) < 1e-5
    np.testing.assert_allclose(jax.jit(ms_ssim)(a, a), 1.0, rtol=1e-5)


def test_ms_ssim_of_odd_sizes_and_of_too_small_ones():
    a, b = smooth_images(1, (45, 67))
    assert np.isfinite(ms_ssim(a, b)).all()
    with pytest.raises(ValueError, match="images of 10x64 are too small"):
        ms_ssim(a[:, :10, :64], b[:, :10, :64])

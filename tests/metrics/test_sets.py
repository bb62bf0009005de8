"""KID, precision and recall, sliced Wasserstein distance and LEC against plain NumPy forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from helpers import relative_error

from e4e_jax.metrics import lec
from e4e_jax.metrics.inception_score import inception_score
from e4e_jax.metrics.kid import kernel_distance
from e4e_jax.metrics.precision_recall import precision_recall
from e4e_jax.metrics.sliced_wasserstein import (
    laplacian_pyramid,
    patch_descriptors,
    sliced_wasserstein,
)


def features(seed, count, size=6, shift=0.0):
    return np.random.default_rng(seed).normal(size=(count, size)) + shift


def plain_mmd(x, y):
    """The unbiased estimate, one pair of vectors after the other."""

    def kernel(u, v):
        return (np.dot(u, v) / len(u) + 1) ** 3

    n = len(x)
    within = sum(
        kernel(s[i], s[j]) / (n * (n - 1))
        for s in (x, y)
        for i in range(n)
        for j in range(n)
        if i != j
    )
    return within - 2 * np.mean([kernel(u, v) for u in x for v in y])


def test_kid_is_the_estimate():
    x, y = features(0, 12), features(1, 12, shift=0.5)
    assert kernel_distance(x, y) == pytest.approx(plain_mmd(x, y), rel=1e-10)
    assert kernel_distance(x.astype(np.float32), y) == pytest.approx(plain_mmd(x, y), rel=1e-5)


def test_kid_is_the_mean_over_subsets():
    x, y = features(0, 30), features(1, 20, shift=0.5)
    rng = np.random.default_rng(7)
    expected = np.mean([
        plain_mmd(x[rng.choice(30, 8, replace=False)], y[rng.choice(20, 8, replace=False)])
        for _ in range(5)
    ])  # fmt: skip
    found = kernel_distance(x, y, subsets=5, subset_size=8, seed=7)
    assert found == pytest.approx(expected, rel=1e-10)


def test_precision_and_recall_are_those_of_balls():
    x, y = features(0, 40, 2), features(1, 30, 2, shift=0.8)

    def covered(points, centres, k=3):
        inside = 0
        for p in points:
            for i, c in enumerate(centres):
                others = np.delete(centres, i, axis=0)
                radius = np.sort(np.linalg.norm(others - c, axis=1))[k - 1]
                if np.linalg.norm(p - c) <= radius:
                    inside += 1
                    break
        return inside / len(points)

    precision, recall = precision_recall(x, y)
    assert precision == covered(y, x) and recall == covered(x, y)
    assert 0 < precision < 1 and 0 < recall < 1
    assert precision_recall(x, x) == (1.0, 1.0)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"found \(4, 6\) and \(4, 5\)"):
        kernel_distance(features(0, 4), features(0, 4, 5))
    with pytest.raises(ValueError, match="at least 2 images in each set, found 1"):
        kernel_distance(features(0, 4), features(0, 1))
    with pytest.raises(ValueError, match=r"found \(4, 6\) and \(4, 5\)"):
        precision_recall(features(0, 4), features(0, 4, 5))
    with pytest.raises(ValueError, match="more than 3 images in each set, found 3"):
        precision_recall(features(0, 4), features(0, 3))


def plain_pyramid(image):
    """One image [H, W, 3], with two-dimensional filters and zeros set between pixels."""
    line = np.array([1, 4, 6, 4, 1]) / 16
    kernel = np.outer(line, line)[:, :, None]
    levels = []
    while min(image.shape[:2]) >= 32:
        smaller = scipy.ndimage.convolve(image, kernel, mode="mirror")[::2, ::2]
        larger = np.zeros_like(image)
        larger[::2, ::2] = 4 * smaller
        levels.append(image - scipy.ndimage.convolve(larger, kernel, mode="mirror"))
        image = smaller
    return [*levels, image]


def noise_images(seed, size, count=2):
    return np.random.default_rng(seed).uniform(-1, 1, (count, *size, 3)).astype(np.float32)


@pytest.mark.parametrize("size", [(64, 64), (48, 64), (16, 16)])
def test_laplacian_pyramid(size):
    images = noise_images(0, size)
    levels = laplacian_pyramid(jnp.asarray(images))
    for image, *found in zip(images, *levels, strict=True):
        expected = plain_pyramid(image.astype(np.float64))
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert relative_error(a, b) < 1e-5


def test_descriptors_are_patches_that_the_number_of_the_image_decides():
    images = noise_images(0, (32, 48), 3)
    cut = jax.jit(lambda images, index: patch_descriptors(images, index, patches=5))
    patches = np.asarray(cut(images, np.arange(3)))
    assert patches.shape == (3, 2, 5, 7, 7, 3)
    for n, level in enumerate(laplacian_pyramid(jnp.asarray(images))):
        windows = np.lib.stride_tricks.sliding_window_view(level, (7, 7), axis=(1, 2))
        windows = np.moveaxis(windows, 3, -1)  # [B, rows, columns, 7, 7, 3]
        for i in range(3):
            for patch in patches[i, n]:
                assert np.abs(windows[i] - patch).max(axis=(2, 3, 4)).min() < 1e-6
    again = np.asarray(cut(images[[2, 0, 1]], np.array([2, 0, 1])))
    np.testing.assert_allclose(again, patches[[2, 0, 1]], atol=1e-6)
    assert np.abs(patches[0] - np.asarray(cut(images[[0, 0, 0]], np.arange(3)))[1]).max() > 0.1
    with pytest.raises(ValueError, match="images of 8x64 are too small"):
        patch_descriptors(images[:, :8].repeat(2, axis=2)[:, :, :64], np.arange(3))


def test_sliced_wasserstein():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(6, 2, 4, 7, 7, 3)).astype(np.float32)
    b = (rng.exponential(size=(8, 2, 4, 7, 7, 3)) * [1, 2, 3] + 5).astype(np.float32)
    directions = np.random.default_rng(3)
    expected = []
    for level in range(2):
        x, y = (s[:6, level].reshape(-1, 49, 3).astype(np.float64) for s in (a, b))
        x, y = ((s - s.mean(axis=(0, 1))) / s.std(axis=(0, 1)) for s in (x, y))
        x, y = (s.reshape(len(s), -1) for s in (x, y))
        gaps = []
        for _ in range(10):
            direction = directions.normal(size=147)
            direction /= np.sqrt(np.sum(direction**2))
            gaps.append(np.abs(np.sort(x @ direction) - np.sort(y @ direction)).mean())
        expected.append(1000 * np.mean(gaps))
    found = sliced_wasserstein(a, b, directions=10, seed=3)
    assert relative_error(found, expected) < 1e-5
    np.testing.assert_array_equal(sliced_wasserstein(a, a, directions=3), 0.0)
    with pytest.raises(ValueError, match="two sets of one shape"):
        sliced_wasserstein(a, b[:, :1])


def test_inception_score_is_that_of_the_splits():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([0.3] * 5, size=23)
    probabilities[0] = [1, 0, 0, 0, 0]
    scores = []
    for part in np.split(probabilities, [8, 16]):
        marginal = part.mean(axis=0)
        terms = [
            sum(p * np.log(p / q) for p, q in zip(row, marginal, strict=True) if p > 0)
            for row in part
        ]
        scores.append(np.exp(np.mean(terms)))
    found = inception_score(probabilities, splits=3)
    assert found == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-10)
    assert inception_score(np.eye(4), splits=1) == pytest.approx((4, 0))
    assert inception_score(np.full((2, 4), 0.25)) == pytest.approx((1, 0))  # splits of one
    with pytest.raises(ValueError, match=r"expected \[N, C\], found \(0, 3\)"):
        inception_score(np.zeros((0, 3)))


def test_mean_without_outliers():
    values = np.r_[1000.0, np.arange(1.0, 300.0), -1000.0]  # 301: the percentiles are the 4th
    kept = np.sort(values)[3:-3]
    rng = np.random.default_rng(0)
    assert lec.mean_without_outliers(rng.permutation(values)) == pytest.approx(kept.mean())
    assert lec.mean_without_outliers([2.0, 4.0]) == 3.0

"""Sliced Wasserstein distance of image patches (Karras et al. 2018, arXiv 1710.10196)."""

import jax
import jax.numpy as jnp
import numpy as np

from e4e_jax.metrics.columns import Rows
from e4e_jax.metrics.metric import SetMetric

PATCH = 7
_SMALLEST = 16  # side of the coarsest level
_TAPS = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


def laplacian_pyramid(images: jax.Array) -> list[jax.Array]:
    """Images [B, H, W, 3] -> levels, the finest first: [B, H, W, 3], [B, H/2, W/2, 3], ...

    Each level is what the next coarser one, expanded, leaves of the image; the coarsest is the
    image itself, with a side of 16 to 31 pixels (or an odd one).
    """
    levels = []
    while min(images.shape[1:3]) >= 2 * _SMALLEST and not any(n % 2 for n in images.shape[1:3]):
        coarser = _smooth(images, 1)[:, ::2, ::2]
        batch, height, width, channels = coarser.shape
        spread = jnp.zeros((batch, height, 2, width, 2, channels), images.dtype)
        spread = spread.at[:, :, 0, :, 0].set(coarser).reshape(images.shape)
        levels.append(images - _smooth(spread, 2))
        images = coarser
    return [*levels, images]


def patch_descriptors(
    images: jax.Array, index: jax.Array, *, patches: int = 128, seed: int = 0
) -> jax.Array:
    """Random patches of each pyramid level of each image.

    Args:
      images: [B, H, W, 3].
      index: [B], numbers of the images: the patches are a function of seed, number and level.
      patches: of each image and level.
      seed: any integer.

    Returns:
      [B, levels, patches, 7, 7, 3].

    Raises:
      ValueError: the images are smaller than 16 pixels.
    """
    if min(images.shape[1:3]) < _SMALLEST:
        raise ValueError(
            f"images of {images.shape[1]}x{images.shape[2]} are too small for the sliced "
            f"Wasserstein distance; expected at least {_SMALLEST}x{_SMALLEST}."
        )

    def cut(level, key):
        rows, columns = (
            jax.random.randint(k, (patches,), 0, size - PATCH + 1)
            for k, size in zip(jax.random.split(key), level.shape[:2], strict=True)
        )
        return jax.vmap(
            lambda row, column: jax.lax.dynamic_slice(level, (row, column, 0), (PATCH, PATCH, 3))
        )(rows, columns)

    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(index)
    levels = [
        jax.vmap(cut)(level, jax.vmap(lambda key, n=n: jax.random.fold_in(key, n))(keys))
        for n, level in enumerate(laplacian_pyramid(images))
    ]
    return jnp.stack(levels, axis=1)


def sliced_wasserstein(
    reference: np.ndarray, measured: np.ndarray, *, directions: int = 512, seed: int = 0
) -> np.ndarray:
    """Distances of two sets of patch descriptors, one for each pyramid level.

    The patches of a level are normalised to mean 0 and deviation 1 of each colour channel over
    their set, projected on random unit directions and sorted; the mean difference of what then
    stands side by side, times 1,000 as in the paper's tables. Of sets of unequal size the first
    images of the larger one are taken.

    Args:
      reference: [N, levels, patches, 7, 7, 3].
      measured: [M, levels, patches, 7, 7, 3].
      directions: how many.
      seed: of the directions.

    Returns:
      [levels], float64.

    Raises:
      ValueError: shapes do not fit, or there are no images.
    """
    count = min(len(reference), len(measured))
    if reference.shape[1:] != measured.shape[1:] or not count:
        raise ValueError(
            f"patches: expected two sets of one shape, found {reference.shape} and {measured.shape}"
        )
    rng = np.random.default_rng(seed)
    distances = []
    for level in range(reference.shape[1]):
        a, b = (_normalized(x[:count, level]) for x in (reference, measured))
        total = 0.0
        for _ in range(directions):  # one at a time: the projections of all would not fit
            direction = rng.normal(size=a.shape[1])
            direction = (direction / np.linalg.norm(direction)).astype(np.float32)
            gaps = np.sort(a @ direction) - np.sort(b @ direction)
            total += np.abs(gaps).mean(dtype=np.float64)
        distances.append(1e3 * total / directions)
    return np.array(distances)


def _normalized(patches):
    """[N, P, 7, 7, 3] -> [N·P, 147], float32."""
    axes = (0, 1, 2, 3)
    mean = patches.mean(axis=axes, dtype=np.float64)
    deviation = patches.std(axis=axes, dtype=np.float64)
    scaled = (patches - mean.astype(np.float32)) / np.maximum(deviation, 1e-8).astype(np.float32)
    return scaled.reshape(-1, scaled[0, 0].size)


def _smooth(x, gain):
    """5x5 binomial filter with mirrored borders, times gain²; the size stays."""
    for axis in (1, 2):
        width = [(2, 2) if i == axis else (0, 0) for i in range(x.ndim)]
        padded = jnp.pad(x, width, mode="reflect")
        x = gain * sum(
            tap * jax.lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis)
            for i, tap in enumerate(_TAPS)
        )
    return x


def _patches(network, images, index):
    del network
    return patch_descriptors(images, index)


def _compare(reference, measured) -> dict[str, float]:
    distances = sliced_wasserstein(reference, measured)
    levels = {f"level {i}": float(d) for i, d in enumerate(distances)}
    return {"": float(distances.mean()), **levels}


SWD = SetMetric(_patches, Rows, _compare, features="7x7 patches", cached=False, least=1)

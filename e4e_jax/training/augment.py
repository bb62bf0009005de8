"""Differentiable augmentation for training a generator on few images.

DiffAugment (Zhao et al. 2020, arXiv 2006.10738): real and generated images pass through the same
random transformations before the discriminator, and gradients pass back through them. Strengths
match mit-han-lab/data-efficient-gans.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def diff_augment(
    images: jax.Array,
    keys: jax.Array,
    policy: Sequence[str] = ("color", "translation", "cutout"),
) -> jax.Array:
    """Augments every image by itself.

    "color" shifts brightness by up to ±0.5, scales saturation by 0 to 2 and contrast by 0.5 to
    1.5; "translation" moves the image by up to an eighth of its size and fills with zeros;
    "cutout" sets a rectangle of half the height and width to zero, which may reach over the edge.

    Args:
      images: [B, H, W, 3] in [-1, 1]; the result can leave that range.
      keys: one key per image [B]; the same key draws the same augmentation.
      policy: names of the augmentations, in their order.

    Returns:
      [B, H, W, 3].

    Raises:
      ValueError: an unknown name in `policy`.
    """
    for name in policy:
        if name not in _AUGMENTATIONS:
            known = ", ".join(_AUGMENTATIONS)
            raise ValueError(f"Unknown augmentation {name!r} in the policy; known are {known}.")

    def augment(image, key):
        for i, name in enumerate(policy):
            image = _AUGMENTATIONS[name](image, jax.random.fold_in(key, i))
        return image

    return jax.vmap(augment)(images, keys)


def _color(image, key):
    brightness, saturation, contrast = jax.random.uniform(key, (3,), image.dtype)
    image = image + (brightness - 0.5)
    grey = jnp.mean(image, axis=-1, keepdims=True)
    image = grey + (image - grey) * (2 * saturation)
    mean = jnp.mean(image)
    return mean + (image - mean) * (contrast + 0.5)


def _translation(image, key):
    height, width, channels = image.shape
    rows, columns = _share(height, 0.125), _share(width, 0.125)
    limits = jnp.array([rows, columns])
    start = jax.random.randint(key, (2,), 0, 2 * limits + 1)  # starting at `limits` is no shift
    padded = jnp.pad(image, ((rows, rows), (columns, columns), (0, 0)))
    return jax.lax.dynamic_slice(padded, (start[0], start[1], 0), (height, width, channels))


def _cutout(image, key):
    height, width, _ = image.shape
    inside = []
    for size, axis_key in zip((height, width), jax.random.split(key), strict=True):
        hole = _share(size, 0.5)
        # The hole's middle lies anywhere in the image, edges included.
        middle = jax.random.randint(axis_key, (), 0, size + 1 - hole % 2)
        distance = jnp.arange(size) - (middle - hole // 2)
        inside.append((distance >= 0) & (distance < hole))
    return jnp.where((inside[0][:, None] & inside[1][None, :])[..., None], 0.0, image)


def _share(size, ratio):
    """`ratio` of a size in whole pixels, half rounded up."""
    return int(size * ratio + 0.5)


_AUGMENTATIONS = {"color": _color, "translation": _translation, "cutout": _cutout}

"""Figures of pairs of images: each function maps two batches [B, H, W, 3] in [-1, 1] to [B]."""

import jax
import jax.numpy as jnp

_FACE_SIZE = 256  # of the aligned images that identity networks crop


def l2(a, b):
    """Mean squared difference of all elements, as the published tables have it."""
    return jnp.mean(jnp.square(a - b), axis=(1, 2, 3))


def perceptual_distance(network, a, b):
    """Distance in a network's feature maps: LPIPS, or the toy features.

    Args:
      network: has `features(images)` and `distance(features, features) -> [B]`.
      a, b: images.
    """
    return network.distance(network.features(a), network.features(b))


def identity_similarity(network, a, b):
    """Cosine of two faces' identity vectors, −1 to 1; more is better.

    The images are aligned faces. Other sizes than 256x256 are resized to it (bilinear,
    antialiased), and the network crops the face as the published identity loss does.

    Args:
      network: has `embed(images [B, 256, 256, 3]) -> unit vectors [B, D]`.
      a, b: images.
    """
    return jnp.sum(network.embed(_face_sized(a)) * network.embed(_face_sized(b)), axis=-1)


def _face_sized(images):
    shape = (images.shape[0], _FACE_SIZE, _FACE_SIZE, 3)
    return images if images.shape == shape else jax.image.resize(images, shape, "bilinear")

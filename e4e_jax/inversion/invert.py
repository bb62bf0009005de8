"""Images -> codes by an encoder, and codes -> images as encoders and losses see them."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from e4e_jax.models.encoder import Encoder
from e4e_jax.models.stylegan2 import Generator


def encode(
    encoder: Encoder,
    generator: Generator,
    images: jax.Array,
    stage: int | jax.Array | None = None,
    *,
    iterations: int | jax.Array | None = None,
) -> jax.Array:
    """Images -> codes w_plus [B, L, D], `latent_avg` added.

    An iterative encoder (ReStyle; Alaluf et al. 2021, arXiv 2104.02699, section 3.2) starts from
    the average code and its image; each iteration adds what it reads from the image beside its
    reconstruction.

    Args:
      encoder, generator: that belong together.
      images: [B, H, W, C] in [-1, 1], of the encoder's size.
      stage: e4e's progressive stage, see `Encoder`.
      iterations: of an iterative encoder, possibly traced; None for those of its configuration.
    """
    config = encoder.config
    average = generator.broadcast(generator.latent_avg[...][None])  # [1, L, D]
    if not config.iterative:
        offsets = encoder(images, stage)
        return average + offsets if config.around_average else offsets

    iterations = config.iterations if iterations is None else iterations

    def improve(_, codes):
        seen = synthesize_like(generator, codes, config.image_size)
        return codes + encoder(jnp.concatenate([images, seen], axis=-1), stage)

    return jax.lax.fori_loop(0, iterations, improve, jnp.repeat(average, images.shape[0], axis=0))


def invert(
    encoder: Encoder,
    generator: Generator,
    images: jax.Array,
    stage: int | jax.Array | None = None,
    **noise,
) -> tuple[jax.Array, jax.Array]:
    """Images [B, H, W, 3] -> codes w_plus [B, L, D] and their synthesis [B, H, W, 3]."""
    codes = encode(encoder, generator, images, stage)
    return codes, synthesize_like(generator, codes, encoder.config.image_size, **noise)


def synthesize_like(generator: Generator, codes: Any, size: Sequence[int], **noise) -> jax.Array:
    """Synthesises codes at the encoder's image size (H, W), as the losses compare them.

    Larger images are averaged over square areas to the width W; of wide formats (cars) the
    generator draws a square with bands above and below, which are cut off.
    """
    images = generator.synthesis(codes, **noise)  # [B, R, R, 3]
    side = images.shape[1]
    height, width = size
    if side > width:
        area = (side // width, side // width)
        images = nnx.avg_pool(images, area, strides=area)
    band = (width - height) // 2
    return images[:, band : band + height]

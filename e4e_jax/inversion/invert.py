"""Images -> codes by an encoder, and codes -> images as encoders and losses see them."""

from e4e_jax.models.encoder import Encoder
from e4e_jax.models.stylegan2 import Generator


def invert(encoder: Encoder, generator: Generator, images, stage=None, **noise):
    """Images [B, H, W, 3] -> codes w_plus [B, L, D] and their synthesis [B, H, W, 3]."""
    codes = generator.latent_avg[...] + encoder(images, stage)
    return codes, synthesize_like(generator, codes, encoder.config.image_size, **noise)


def synthesize_like(generator: Generator, codes, size, **noise):
    """Synthesises codes at the encoder's image size (H, W), as the losses compare them.

    Larger images are averaged over square areas to the width W; of wide formats (cars) the
    generator draws a square with bands above and below, which are cut off.
    """
    images = generator.synthesis(codes, **noise)  # [B, R, R, 3]
    batch, side, _, channels = images.shape
    height, width = size
    if side > width:
        area = side // width
        images = images.reshape(batch, width, area, width, area, channels).mean(axis=(2, 4))
    band = (width - height) // 2
    return images[:, band : band + height]

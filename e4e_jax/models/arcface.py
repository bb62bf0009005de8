"""ArcFace identity features (Deng et al. 2019), as the published identity loss computes them.

CurricularFace (Huang et al. 2020), the published identity metric, is the same network on the
deeper backbone `IRSEConfig.ir_101`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from e4e_jax.models.batch_norm import BatchNorm
from e4e_jax.models.irse import IRSEBackbone, IRSEConfig

# The face in an aligned 256x256 image, and the size that the published network reads.
_ROWS = slice(35, 223)
_COLUMNS = slice(32, 220)
_FACE_SIZE = 112


@dataclasses.dataclass(frozen=True)
class ArcFaceConfig:
    """Shape of the network; the default is the published one.

    Attributes:
      backbone: of IR-SE units.
      embedding_dim: length of the feature vector.
      image_size: S, the side of the face crops.
    """

    backbone: IRSEConfig = IRSEConfig()
    embedding_dim: int = 512
    image_size: int = _FACE_SIZE


class ArcFace(nnx.Module):
    """Face crops [B, S, S, 3] in [-1, 1] -> unit vectors [B, embedding_dim], float32.

    Built in evaluation mode: it measures and is not trained, so its dropout is left out.

    Args:
      config: the shape.
      dtype: compute type of the convolutions.
    """

    def __init__(self, config: ArcFaceConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        features = config.backbone.widths[-1]
        side = -(-config.image_size // 16)  # four halvings, rounded up
        self.backbone = IRSEBackbone(config.backbone, dtype=dtype, rngs=rngs)
        self.norm = BatchNorm(features)
        self.linear = nnx.Linear(side * side * features, config.embedding_dim, rngs=rngs)
        self.embedding_norm = BatchNorm(config.embedding_dim)
        self.eval()

    def __call__(self, images: jax.Array) -> jax.Array:
        """Raises ValueError for images of another size."""
        size = self.config.image_size
        if images.shape[1:3] != (size, size):
            raise ValueError(
                f"ArcFace got images of shape {images.shape}; expected [B, {size}, {size}, C]"
            )
        x = self.norm(self.backbone(images)[-1].astype(jnp.float32))
        # PyTorch's flatten is channel-major: [B, C, H, W] -> [B, C·H·W].
        x = jnp.moveaxis(x, -1, 1).reshape(x.shape[0], -1)
        x = self.embedding_norm(self.linear(x))
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

    def embed(self, images: jax.Array) -> jax.Array:
        """Identity features of aligned faces [B, H, W, 3]: unit vectors [B, embedding_dim].

        Other sizes than 256x256 are resized to it (bilinear, antialiased); the face is cropped out.
        """
        shape = (images.shape[0], 256, 256, 3)
        if images.shape != shape:
            images = jax.image.resize(images, shape, "bilinear")
        return self(crop_face(images))


def crop_face(images: jax.Array) -> jax.Array:
    """The face of an aligned image, as the identity loss sees it: rows 35-223, columns 32-220.

    Matches PyTorch's AdaptiveAvgPool2d: 188 pixels to 112 by windows that overlap.

    Args:
      images: [B, 256, 256, 3].

    Returns:
      [B, 112, 112, 3].

    Raises:
      ValueError: images of another size.
    """
    if images.shape[1:3] != (256, 256):
        raise ValueError(f"crop_face got images of shape {images.shape}; expected [B, 256, 256, 3]")
    face = images[:, _ROWS, _COLUMNS]
    pool = jnp.asarray(_adaptive_pool_matrix(face.shape[1], _FACE_SIZE), images.dtype)
    return jnp.einsum("yh,xw,bhwc->byxc", pool, pool, face)


def _adaptive_pool_matrix(n_in, n_out):
    """[n_out, n_in]: output i is the mean of inputs ⌊i·n_in/n_out⌋ to ⌈(i+1)·n_in/n_out⌉."""
    matrix = np.zeros((n_out, n_in), np.float32)
    for i in range(n_out):
        start, end = i * n_in // n_out, -(-(i + 1) * n_in // n_out)
        matrix[i, start:end] = 1 / (end - start)
    return matrix

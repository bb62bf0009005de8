"""MoCo v2 features (Chen et al. 2020), the identity measure of domains without faces."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from e4e_jax.models.batch_norm import BatchNorm
from e4e_jax.models.layers import Conv


class Bottleneck(nnx.Module):
    """Residual block of ResNet-50 v1.5 (the stride is in the 3x3): [B, H, W, I] -> 4·width."""

    def __init__(
        self, in_channels: int, width: int, stride: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        out_channels = 4 * width
        self.conv1 = Conv(in_channels, width, 1, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(width)
        self.conv2 = Conv(width, width, 3, stride=stride, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(width)
        self.conv3 = Conv(width, out_channels, 1, dtype=dtype, rngs=rngs)
        self.bn3 = BatchNorm(out_channels)
        if stride == 1 and in_channels == out_channels:
            self.downsample_conv: Conv | None = None
            self.downsample_bn: BatchNorm | None = None
        else:
            self.downsample_conv = Conv(
                in_channels, out_channels, 1, stride=stride, dtype=dtype, rngs=rngs
            )
            self.downsample_bn = BatchNorm(out_channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = x
        if self.downsample_conv is not None and self.downsample_bn is not None:
            shortcut = self.downsample_bn(self.downsample_conv(x))
        x = jax.nn.relu(self.bn1(self.conv1(x)))
        x = jax.nn.relu(self.bn2(self.conv2(x)))
        return jax.nn.relu(self.bn3(self.conv3(x)) + shortcut)


@dataclasses.dataclass(frozen=True)
class MoCoConfig:
    """Shape of the network; the default is ResNet-50, the published one.

    Attributes:
      depths: blocks of the four layers.
      width: channels of the stem.
      image_size: side of the images that the network reads; others are resized.
    """

    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    image_size: int = 224


class MoCo(nnx.Module):
    """Images [B, H, W, 3] in [-1, 1] -> unit vectors [B, 32·width], float32.

    As in the published loss: nearest resize, no ImageNet normalisation, ResNet-50
    up to its pooled features. Built in evaluation mode: it measures and is not trained.

    Args:
      config: the shape.
      dtype: compute type of the convolutions.
    """

    def __init__(self, config: MoCoConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        width = config.width
        self.conv1 = Conv(3, width, 7, stride=2, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(width)
        self.layers: nnx.List[nnx.List[Bottleneck]] = nnx.List()
        channels = width
        for i, depth in enumerate(config.depths):
            layer: nnx.List[Bottleneck] = nnx.List()
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                layer.append(Bottleneck(channels, width * 2**i, stride, dtype=dtype, rngs=rngs))
                channels = 4 * width * 2**i
            self.layers.append(layer)
        self.eval()

    def __call__(self, images: jax.Array) -> jax.Array:
        x = resize_nearest(images, self.config.image_size)
        x = jax.nn.relu(self.bn1(self.conv1(x)))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for layer in self.layers:
            for block in layer:
                x = block(x)
        x = jnp.mean(x.astype(jnp.float32), axis=(1, 2))
        return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def resize_nearest(images: jax.Array, size: int) -> jax.Array:
    """Nearest resize to size x size with PyTorch's choice of pixel, ⌊i·n_in/n_out⌋.

    images [B, H, W, C] -> [B, size, size, C].
    """
    rows, columns = (_nearest_index(n, size) for n in images.shape[1:3])
    return images[:, rows][:, :, columns]


def _nearest_index(n_in, n_out):
    # float32 as in PyTorch: where i·n_in/n_out is a whole number the rounding decides.
    scale = np.float32(n_in) / np.float32(n_out)
    index = np.floor(np.arange(n_out, dtype=np.float32) * scale).astype(np.int32)
    return np.minimum(index, n_in - 1)

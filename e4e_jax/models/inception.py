"""The Inception V3 of the Fréchet inception distance (Szegedy et al. 2015; Heusel et al. 2017).

Matches mseitzer/pytorch-fid's port of the TensorFlow network, whose weights are published as
`pt_inception-2015-12-05`: average pooling leaves padding out of its count, and the last block
pools with the maximum. Modules carry the names of the port in lower case.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from e4e_jax.models.batch_norm import BatchNorm


class ConvNorm(nnx.Module):
    """Convolution, batch norm and ReLU: [B, H, W, I] -> [B, H', W', O].

    Args:
      in_channels, out_channels: I and O.
      size: of the kernel, one number or (height, width).
      stride: step in both directions.
      padding: "SAME" keeps the size at stride 1, "VALID" adds nothing.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: int | tuple[int, int],
        stride: int = 1,
        *,
        padding: str = "SAME",
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        size = (size, size) if isinstance(size, int) else size
        shape = (*size, in_channels, out_channels)
        scale = np.sqrt(2 / (size[0] * size[1] * in_channels))
        self.kernel = nnx.Param(scale * jax.random.normal(rngs.params(), shape))
        self.norm = BatchNorm(out_channels, epsilon=1e-3)
        self.stride = stride
        self.padding = padding
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.lax.conv_general_dilated(
            x.astype(self.dtype),
            self.kernel[...].astype(self.dtype),
            (self.stride, self.stride),
            self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return jax.nn.relu(self.norm(x))


class InceptionA(nnx.Module):
    """35x35 block: 1x1, 5x5 and double 3x3 branches, average pooling."""

    def __init__(self, channels: int, pool_features: int, conv: Callable[..., ConvNorm]):
        self.branch1x1 = conv(channels, 64, 1)
        self.branch5x5_1 = conv(channels, 48, 1)
        self.branch5x5_2 = conv(48, 64, 5)
        self.branch3x3dbl_1 = conv(channels, 64, 1)
        self.branch3x3dbl_2 = conv(64, 96, 3)
        self.branch3x3dbl_3 = conv(96, 96, 3)
        self.branch_pool = conv(channels, pool_features, 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        return _join(
            self.branch1x1(x),
            self.branch5x5_2(self.branch5x5_1(x)),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            self.branch_pool(_average_pool(x)),
        )


class InceptionB(nnx.Module):
    """35x35 -> 17x17."""

    def __init__(self, channels: int, conv: Callable[..., ConvNorm]):
        self.branch3x3 = conv(channels, 384, 3, 2, padding="VALID")
        self.branch3x3dbl_1 = conv(channels, 64, 1)
        self.branch3x3dbl_2 = conv(64, 96, 3)
        self.branch3x3dbl_3 = conv(96, 96, 3, 2, padding="VALID")

    def __call__(self, x: jax.Array) -> jax.Array:
        return _join(
            self.branch3x3(x),
            self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x))),
            _max_pool(x),
        )


class InceptionC(nnx.Module):
    """17x17 block: 1x1 and factorised 7x7 branches of `width` channels, average pooling."""

    def __init__(self, channels: int, width: int, conv: Callable[..., ConvNorm]):
        self.branch1x1 = conv(channels, 192, 1)
        self.branch7x7_1 = conv(channels, width, 1)
        self.branch7x7_2 = conv(width, width, (1, 7))
        self.branch7x7_3 = conv(width, 192, (7, 1))
        self.branch7x7dbl_1 = conv(channels, width, 1)
        self.branch7x7dbl_2 = conv(width, width, (7, 1))
        self.branch7x7dbl_3 = conv(width, width, (1, 7))
        self.branch7x7dbl_4 = conv(width, width, (7, 1))
        self.branch7x7dbl_5 = conv(width, 192, (1, 7))
        self.branch_pool = conv(channels, 192, 1)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        return _join(
            self.branch1x1(x),
            self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x))),
            self.branch7x7dbl_5(self.branch7x7dbl_4(y)),
            self.branch_pool(_average_pool(x)),
        )


class InceptionD(nnx.Module):
    """17x17 -> 8x8."""

    def __init__(self, channels: int, conv: Callable[..., ConvNorm]):
        self.branch3x3_1 = conv(channels, 192, 1)
        self.branch3x3_2 = conv(192, 320, 3, 2, padding="VALID")
        self.branch7x7x3_1 = conv(channels, 192, 1)
        self.branch7x7x3_2 = conv(192, 192, (1, 7))
        self.branch7x7x3_3 = conv(192, 192, (7, 1))
        self.branch7x7x3_4 = conv(192, 192, 3, 2, padding="VALID")

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        return _join(
            self.branch3x3_2(self.branch3x3_1(x)),
            self.branch7x7x3_4(y),
            _max_pool(x),
        )


class InceptionE(nnx.Module):
    """8x8 block: branches that fork into 1x3 and 3x1, and `pool`."""

    def __init__(
        self, channels: int, pool: Callable[[jax.Array], jax.Array], conv: Callable[..., ConvNorm]
    ):
        self.branch1x1 = conv(channels, 320, 1)
        self.branch3x3_1 = conv(channels, 384, 1)
        self.branch3x3_2a = conv(384, 384, (1, 3))
        self.branch3x3_2b = conv(384, 384, (3, 1))
        self.branch3x3dbl_1 = conv(channels, 448, 1)
        self.branch3x3dbl_2 = conv(448, 384, 3)
        self.branch3x3dbl_3a = conv(384, 384, (1, 3))
        self.branch3x3dbl_3b = conv(384, 384, (3, 1))
        self.branch_pool = conv(channels, 192, 1)
        self.pool = pool

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.branch3x3_1(x)
        z = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return _join(
            self.branch1x1(x),
            self.branch3x3_2a(y),
            self.branch3x3_2b(y),
            self.branch3x3dbl_3a(z),
            self.branch3x3dbl_3b(z),
            self.branch_pool(self.pool(x)),
        )


@dataclasses.dataclass(frozen=True)
class InceptionConfig:
    """Shape of the network; the default is the published one.

    Attributes:
      image_size: side to which images are resized.
      num_classes: C, that it tells apart; 1008 in the published file, 0 for none.
    """

    image_size: int = 299
    num_classes: int = 0


class Inception(nnx.Module):
    """Images [B, H, W, 3] in [-1, 1] -> the features of the FID [B, 2048], float32.

    Built in evaluation mode: it measures and is not trained.

    Args:
      config: the shape.
      dtype: compute type of the convolutions.
    """

    def __init__(self, config: InceptionConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config

        def conv(*args, padding="SAME"):
            return ConvNorm(*args, padding=padding, dtype=dtype, rngs=rngs)

        self.conv2d_1a_3x3 = conv(3, 32, 3, 2, padding="VALID")
        self.conv2d_2a_3x3 = conv(32, 32, 3, padding="VALID")
        self.conv2d_2b_3x3 = conv(32, 64, 3)
        self.conv2d_3b_1x1 = conv(64, 80, 1)
        self.conv2d_4a_3x3 = conv(80, 192, 3, padding="VALID")
        self.mixed_5b = InceptionA(192, 32, conv)
        self.mixed_5c = InceptionA(256, 64, conv)
        self.mixed_5d = InceptionA(288, 64, conv)
        self.mixed_6a = InceptionB(288, conv)
        self.mixed_6b = InceptionC(768, 128, conv)
        self.mixed_6c = InceptionC(768, 160, conv)
        self.mixed_6d = InceptionC(768, 160, conv)
        self.mixed_6e = InceptionC(768, 192, conv)
        self.mixed_7a = InceptionD(768, conv)
        self.mixed_7b = InceptionE(1280, _average_pool, conv)
        self.mixed_7c = InceptionE(2048, _same_max_pool, conv)
        if config.num_classes:
            self.classes = nnx.Param(jnp.zeros((2048, config.num_classes)))
        self.eval()

    def pooled(self, images: jax.Array) -> jax.Array:
        """The features of a call, by the name that all networks behind FID have for them."""
        return self(images)

    def class_logits(self, images: jax.Array) -> jax.Array:
        """What the inception score takes the softmax of: images -> [B, C], without the bias.

        Raises:
          ValueError: the network has no classes.
        """
        if not self.config.num_classes:
            raise ValueError(
                "this Inception has no classes, as its bundle is of an older version; expected one "
                "that `python -m convert_weights` makes of the published file today."
            )
        return jnp.dot(self(images), self.classes[...], precision="highest")

    def __call__(self, images: jax.Array) -> jax.Array:
        x = resize_bilinear(images.astype(jnp.float32), self.config.image_size)
        x = self.conv2d_2b_3x3(self.conv2d_2a_3x3(self.conv2d_1a_3x3(x)))
        x = self.conv2d_4a_3x3(self.conv2d_3b_1x1(_max_pool(x)))
        x = self.mixed_5d(self.mixed_5c(self.mixed_5b(_max_pool(x))))
        x = self.mixed_6e(self.mixed_6d(self.mixed_6c(self.mixed_6b(self.mixed_6a(x)))))
        x = self.mixed_7c(self.mixed_7b(self.mixed_7a(x)))
        return jnp.mean(x.astype(jnp.float32), axis=(1, 2))


def resize_bilinear(images: jax.Array, size: int) -> jax.Array:
    """Bilinear resize without aligned corners and without anti-aliasing, as PyTorch computes it.

    images [B, H, W, C] -> [B, size, size, C].
    """
    rows, columns = (_bilinear_matrix(n, size) for n in images.shape[1:3])
    return jnp.einsum("yh,xw,bhwc->byxc", rows, columns, images)


def _bilinear_matrix(n_in, n_out):
    """[n_out, n_in] weights. float32 as in PyTorch: its rounding of the positions shows."""
    scale = np.float32(n_in) / np.float32(n_out)
    position = scale * (np.arange(n_out, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    position = np.clip(position, 0, n_in - 1)
    distance = np.abs(position[:, None] - np.arange(n_in, dtype=np.float32))
    return np.maximum(np.float32(0), np.float32(1) - distance)


def _average_pool(x):
    """3x3 at stride 1 over the pixels that there are: padding is not counted."""
    return nnx.avg_pool(x, (3, 3), strides=(1, 1), padding="SAME", count_include_pad=False)


def _same_max_pool(x):
    return nnx.max_pool(x, (3, 3), strides=(1, 1), padding="SAME")


def _max_pool(x):
    return nnx.max_pool(x, (3, 3), strides=(2, 2), padding="VALID")


def _join(*branches):
    return jnp.concatenate(branches, axis=-1)

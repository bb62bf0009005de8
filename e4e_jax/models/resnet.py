"""ResNet backbone of encoders for other domains than faces (He et al. 2016; ReStyle, section 4)."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from e4e_jax.models.batch_norm import STATISTICS, BatchNorm
from e4e_jax.models.layers import Conv, PReLU


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """Shape of the backbone; the default is ResNet-34.

    Attributes:
      widths: channels of the four groups; the stem has those of the first.
      depths: blocks of the four groups; the first block of all but the first group halves the
        resolution, and so does the stem.
      in_channels: channels of the image.
      stem_size: side of the stem's convolution.
    """

    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    in_channels: int = 3
    stem_size: int = 7


class BasicBlock(nnx.Module):
    """Residual block of ResNet-18 and 34: [B, H, W, I] -> [B, ⌈H/stride⌉, ⌈W/stride⌉, O]."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        axis_name: str | None,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.conv1 = Conv(in_channels, out_channels, 3, stride=stride, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(out_channels, axis_name=axis_name)
        self.conv2 = Conv(out_channels, out_channels, 3, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(out_channels, axis_name=axis_name)
        if stride == 1 and in_channels == out_channels:
            self.downsample_conv: Conv | None = None
            self.downsample_bn: BatchNorm | None = None
        else:
            self.downsample_conv = Conv(
                in_channels, out_channels, 1, stride=stride, dtype=dtype, rngs=rngs
            )
            self.downsample_bn = BatchNorm(out_channels, axis_name=axis_name)

    def __call__(self, x: jax.Array) -> jax.Array:
        shortcut = x
        if self.downsample_conv is not None and self.downsample_bn is not None:
            shortcut = self.downsample_bn(self.downsample_conv(x))
        x = jax.nn.relu(self.bn1(self.conv1(x)))
        return jax.nn.relu(self.bn2(self.conv2(x)) + shortcut)


_run_recomputed = nnx.remat(
    BasicBlock.__call__, policy=jax.checkpoint_policies.save_only_these_names(STATISTICS)
)


class ResNetBackbone(nnx.Module):
    """Images [B, H, W, in_channels] -> the outputs of the four groups, at 1/2 to 1/16 of the size.

    Unlike the ResNet of classifiers it has no max pooling behind the stem, and a PReLU there.

    Args:
      config: widths and depths.
      axis_name: named axis of devices over which batch statistics are synchronised.
      dtype: compute type of the convolutions; the outputs have it too.
    """

    def __init__(
        self,
        config: ResNetConfig,
        *,
        axis_name: str | None = None,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        channels = config.widths[0]
        self.stem_conv = Conv(
            config.in_channels, channels, config.stem_size, stride=2, dtype=dtype, rngs=rngs
        )
        self.stem_norm = BatchNorm(channels, axis_name=axis_name)
        self.stem_prelu = PReLU(channels)
        self.body: nnx.List[BasicBlock] = nnx.List()
        for group, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            for i in range(depth):
                stride = 2 if group > 0 and i == 0 else 1
                self.body.append(
                    BasicBlock(channels, width, stride, axis_name=axis_name, dtype=dtype, rngs=rngs)
                )
                channels = width
        self.group_ends = tuple(itertools.accumulate(config.depths))

    def __call__(self, images: jax.Array, *, remat: bool = False) -> list[jax.Array]:
        """With `remat` the backward pass keeps the input of every block and computes it again."""
        run = _run_recomputed if remat else BasicBlock.__call__
        x = self.stem_prelu(self.stem_norm(self.stem_conv(images)))
        outputs = []
        for i, block in enumerate(self.body, start=1):
            x = run(block, x)
            if i in self.group_ends:
                outputs.append(x)
        return outputs

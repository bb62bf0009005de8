"""IR-SE backbone: the ResNet of ArcFace with squeeze-and-excitation (Deng et al. 2019).

The encoder and the identity network share it; modules follow the order of the published
PyTorch layout (`input_layer`, `body.0` to `body.23`).
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from e4e_jax.models.batch_norm import STATISTICS, BatchNorm
from e4e_jax.models.layers import TORCH_INITIALIZER, Conv, PReLU


@dataclasses.dataclass(frozen=True)
class IRSEConfig:
    """Shape of the backbone.

    Attributes:
      widths: channels of the four groups; the stem has those of the first.
      depths: units of the four groups; the first unit of each halves the resolution.
      in_channels: channels of the image.
      squeeze_reduction: channels over hidden units in squeeze-and-excitation; None for none (IR).
    """

    widths: tuple[int, int, int, int] = (64, 128, 256, 512)
    depths: tuple[int, int, int, int] = (3, 4, 14, 3)
    in_channels: int = 3
    squeeze_reduction: int | None = 16

    @classmethod
    def ir_se_50(cls) -> "IRSEConfig":
        """The published network: 50 layers, 512 channels at 1/16 of the resolution."""
        return cls()

    @classmethod
    def ir_101(cls) -> "IRSEConfig":
        """CurricularFace's network: 101 layers, no squeeze-and-excitation."""
        return cls(depths=(3, 13, 30, 3), squeeze_reduction=None)

    @classmethod
    def tiny(cls) -> "IRSEConfig":
        """A small one for images of 64x64."""
        return cls(widths=(16, 32, 64, 128), depths=(1, 2, 2, 1))


class SqueezeExcite(nnx.Module):
    """Scales each channel by a function of all channels' spatial means (Hu et al. 2018)."""

    def __init__(self, features: int, reduction: int, *, rngs: nnx.Rngs):
        hidden = max(features // reduction, 1)
        self.fc1 = nnx.Linear(
            features, hidden, use_bias=False, kernel_init=TORCH_INITIALIZER, rngs=rngs
        )
        self.fc2 = nnx.Linear(
            hidden, features, use_bias=False, kernel_init=TORCH_INITIALIZER, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        squeezed = jnp.mean(x.astype(jnp.float32), axis=(1, 2))  # [B, C]
        gate = jax.nn.sigmoid(self.fc2(jax.nn.relu(self.fc1(squeezed))))
        return x * gate[:, None, None, :].astype(x.dtype)


class Unit(nnx.Module):
    """Residual unit of IR-SE: BN, 3x3, PReLU, 3x3 (stride), BN, squeeze-and-excitation if any.

    The shortcut keeps every stride-th pixel where the channels agree, else it is a strided 1x1
    convolution and BN. [B, H, W, I] -> [B, ⌈H/stride⌉, ⌈W/stride⌉, O].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        squeeze_reduction: int | None,
        axis_name: str | None,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.norm1 = BatchNorm(in_channels, axis_name=axis_name)
        self.conv1 = Conv(in_channels, out_channels, 3, dtype=dtype, rngs=rngs)
        self.prelu = PReLU(out_channels)
        self.conv2 = Conv(out_channels, out_channels, 3, stride=stride, dtype=dtype, rngs=rngs)
        self.norm2 = BatchNorm(out_channels, axis_name=axis_name)
        if squeeze_reduction is None:
            self.squeeze_excite: SqueezeExcite | None = None
        else:
            self.squeeze_excite = SqueezeExcite(out_channels, squeeze_reduction, rngs=rngs)
        if in_channels == out_channels:
            self.shortcut_conv: Conv | None = None
            self.shortcut_norm: BatchNorm | None = None
        else:
            self.shortcut_conv = Conv(
                in_channels, out_channels, 1, stride=stride, dtype=dtype, rngs=rngs
            )
            self.shortcut_norm = BatchNorm(out_channels, axis_name=axis_name)
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        if self.shortcut_conv is None or self.shortcut_norm is None:
            shortcut = x[:, :: self.stride, :: self.stride]
        else:
            shortcut = self.shortcut_norm(self.shortcut_conv(x))
        x = self.prelu(self.conv1(self.norm1(x)))
        x = self.norm2(self.conv2(x))
        return shortcut + (x if self.squeeze_excite is None else self.squeeze_excite(x))


_run_recomputed = nnx.remat(
    Unit.__call__, policy=jax.checkpoint_policies.save_only_these_names(STATISTICS)
)


class IRSEBackbone(nnx.Module):
    """Images [B, H, W, in_channels] -> the outputs of the four groups, at 1/2 to 1/16 of the size.

    Args:
      config: widths and depths.
      axis_name: named axis of devices over which batch statistics are synchronised.
      dtype: compute type of the convolutions; the outputs have it too.
    """

    def __init__(
        self,
        config: IRSEConfig,
        *,
        axis_name: str | None = None,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.stem_conv = Conv(config.in_channels, config.widths[0], 3, dtype=dtype, rngs=rngs)
        self.stem_norm = BatchNorm(config.widths[0], axis_name=axis_name)
        self.stem_prelu = PReLU(config.widths[0])
        self.body: nnx.List[Unit] = nnx.List()
        channels = config.widths[0]
        for width, depth in zip(config.widths, config.depths, strict=True):
            for i in range(depth):
                unit = Unit(
                    channels,
                    width,
                    stride=2 if i == 0 else 1,
                    squeeze_reduction=config.squeeze_reduction,
                    axis_name=axis_name,
                    dtype=dtype,
                    rngs=rngs,
                )
                self.body.append(unit)
                channels = width
        self.group_ends = tuple(itertools.accumulate(config.depths))

    def __call__(self, images: jax.Array, *, remat: bool = False) -> list[jax.Array]:
        """With `remat` the backward pass keeps the input of every unit and computes it again."""
        run = _run_recomputed if remat else Unit.__call__
        x = self.stem_prelu(self.stem_norm(self.stem_conv(images)))
        outputs = []
        for start, end in itertools.pairwise((0, *self.group_ends)):
            first, *others = self.body[start:end]
            x = run(first, x)
            if len(others) == 1:
                x = run(others[0], x)
            elif others:
                x = _run_alike(others, x, run)
            outputs.append(x)
        return outputs


def _run_alike(units, x, run):
    """Runs units of one shape one after another, as a scan that is compiled once for all.

    The scan also ends the sums along the shortcuts: XLA would take the whole sum into the gradient
    of every unit, and its work would grow with the square of the depth.
    """
    graph = nnx.graphdef(units[0])
    states = [nnx.state(unit) for unit in units]
    training = not units[0].norm1.use_running_average

    def step(x, state):
        unit = nnx.merge(graph, state)
        x = run(unit, x)
        return x, nnx.state(unit, nnx.BatchStat) if training else None

    x, statistics = jax.lax.scan(step, x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))
    if training:
        for i, unit in enumerate(units):
            nnx.update(unit, jax.tree.map(lambda leaf, i=i: leaf[i], statistics))
    return x

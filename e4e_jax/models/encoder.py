"""The encoders: e4e (Tov et al. 2021), pSp (Richardson et al. 2021) and the single-w baseline.

All read an IR-SE backbone, or a ResNet. pSp and e4e build a feature pyramid on its last three
levels; every style has a map-to-style head that shrinks one level to a vector. ReStyle's (Alaluf
et al. 2021, arXiv 2104.02699) have all heads on the last level and read the image with its
reconstruction so far. The outputs are offsets: where a model was trained around `latent_avg`, the
caller adds it.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from e4e_jax.models.irse import IRSEBackbone, IRSEConfig
from e4e_jax.models.layers import Conv, EqualLinear
from e4e_jax.models.resnet import ResNetBackbone, ResNetConfig

KINDS = ("e4e", "psp", "single_w")
READS = ("rgb", "grey", "labels")


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Shape of an encoder.

    Attributes:
      kind: "e4e" (one w and a delta for each further style), "psp" (a code for each style) or
        "single_w" (one w).
      num_styles: L, the styles of the generator.
      style_dim: D, the length of a style.
      image_size: (height, width) of the images it reads.
      backbone: of IR-SE units, or a ResNet (ReStyle for other domains than faces); its last
        width is the width of the pyramid.
      coarse, middle: styles below `coarse` read the 1/16 level, those below `middle` the 1/8
        level, the rest the 1/4 level. Both `num_styles`: no pyramid, as in ReStyle.
      iterative: it reads an image and its reconstruction, on the channel axis, and its codes are
        offsets to those of the reconstruction (ReStyle).
      iterations: passes of an iterative one over an image, in training and afterwards; 0 for 5,
        as published. 1 for the others.
      around_average: its codes are offsets to `latent_avg`, as in every published training but
        those without `start_from_latent_avg`.
      reads: "rgb" images in [-1, 1], "grey" ones of one channel in [0, 1] (sketches) or one-hot
        "labels" of as many classes as the backbone has channels; None for what the channels say.
    """

    kind: str = "e4e"
    num_styles: int = 18
    style_dim: int = 512
    image_size: tuple[int, int] = (256, 256)
    backbone: IRSEConfig | ResNetConfig = IRSEConfig()
    coarse: int = 3
    middle: int = 7
    iterative: bool = False
    iterations: int = 0
    around_average: bool = True
    reads: str | None = None

    def __post_init__(self):
        if self.reads is None:
            known = {1: "grey", 3: "rgb"}
            object.__setattr__(self, "reads", known.get(self.image_channels, "labels"))
        iterations = self.iterations or (5 if self.iterative else 1)
        object.__setattr__(self, "iterations", iterations)
        if iterations > 1 and not self.iterative:
            raise ValueError(f"iterations is {iterations}; expected 1, for it is not iterative")
        if self.kind not in KINDS:
            raise ValueError(f"kind of encoder is {self.kind!r}; expected one of {KINDS}")
        pyramid = 0 < self.coarse < self.middle < self.num_styles
        if not pyramid and not 0 < self.coarse == self.middle == self.num_styles:
            raise ValueError(
                f"coarse, middle and num_styles are {self.coarse}, {self.middle} and "
                f"{self.num_styles}; expected 0 < coarse < middle < num_styles, or all the same"
            )
        if self.iterative and self.backbone.in_channels % 2:
            raise ValueError(
                f"an iterative encoder's backbone reads {self.backbone.in_channels} channels; "
                "expected twice those of an image"
            )
        if self.reads not in READS:
            raise ValueError(f"reads is {self.reads!r}; expected one of {READS}")
        expected = {"grey": 1, "rgb": 3}.get(self.reads, self.image_channels)
        if self.image_channels != expected or self.image_channels > 256:
            raise ValueError(
                f"an encoder of {self.reads} has {self.image_channels} channels; expected "
                f"{min(expected, 256)}{' at most' if expected > 256 else ''}"
            )

    @classmethod
    def tiny(cls) -> "EncoderConfig":
        """Ten styles of a 64x64 generator."""
        return cls(num_styles=10, style_dim=64, image_size=(64, 64), backbone=IRSEConfig.tiny())

    @property
    def image_channels(self) -> int:
        """C of the images [B, H, W, C] that it reads, without the reconstructions of ReStyle's."""
        return self.backbone.in_channels // (2 if self.iterative else 1)

    @property
    def has_pyramid(self) -> bool:
        return self.kind != "single_w" and self.coarse < self.num_styles

    @property
    def style_ranges(self) -> tuple[tuple[int, int], ...]:
        """(first, end) of the styles that read each level, coarse to fine."""
        if self.coarse == self.num_styles:
            return ((0, self.num_styles),)
        bounds = (0, self.coarse, self.middle, self.num_styles)
        return tuple(zip(bounds[:-1], bounds[1:], strict=True))


class Encoder(nnx.Module):
    """Images [B, H, W, C] -> w_plus [B, L, D] float32, without `latent_avg`.

    C is 3 and the range [-1, 1], but for what the configuration says in `reads`.

    Args:
      config: kind and shape.
      axis_name: named axis of devices over which batch statistics are synchronised.
      dtype: compute type of the convolutions.
    """

    def __init__(
        self,
        config: EncoderConfig,
        *,
        axis_name: str | None = None,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.config = config
        backbones: dict[type, Callable] = {IRSEConfig: IRSEBackbone, ResNetConfig: ResNetBackbone}
        self.backbone = backbones[type(config.backbone)](
            config.backbone, axis_name=axis_name, dtype=dtype, rngs=rngs
        )
        _, fine, middle, coarse = config.backbone.widths
        if config.kind == "single_w":
            self.linear = EqualLinear(coarse, config.style_dim, rngs=rngs)
            return
        if config.has_pyramid:
            self.lateral_middle = Conv(middle, coarse, 1, bias=True, dtype=dtype, rngs=rngs)
            self.lateral_fine = Conv(fine, coarse, 1, bias=True, dtype=dtype, rngs=rngs)
        self.heads = nnx.List(
            _stacked_heads(
                end - first,
                coarse,
                config.style_dim,
                math.ceil(max(config.image_size) / downscale),
                dtype=dtype,
                rngs=rngs,
            )
            for (first, end), downscale in zip(config.style_ranges, (16, 8, 4), strict=False)
        )

    def __call__(
        self, images: jax.Array, stage: int | jax.Array | None = None, *, remat: bool = False
    ) -> jax.Array:
        """Encodes images.

        Args:
          images: [B, H, W, C], H and W those of the configuration; [B, H, W, 2C] with the
            reconstructions for an iterative encoder.
          stage: e4e's progressive stage, the number of deltas that are open: a number or a traced
            int32 scalar, so that one compiled program serves every stage; the heads of closed
            deltas are not run. 0 repeats w, None opens all. The other kinds have no deltas and
            take no notice.
          remat: the backward pass computes each unit of the backbone again, instead of keeping its
            activations.

        Returns:
          w_plus [B, L, D] float32.

        Raises:
          ValueError: images of another size.
        """
        if images.shape[1:3] != self.config.image_size:
            raise ValueError(
                f"the encoder got images of shape {images.shape}; "
                f"expected height and width {self.config.image_size}"
            )
        backbone = functools.partial(self.backbone, remat=True) if remat else self.backbone
        _, fine, middle, coarse = backbone(images)
        if self.config.kind == "single_w":
            w = self.linear(jnp.mean(coarse.astype(jnp.float32), axis=(1, 2)))
            return jnp.repeat(w[:, None], self.config.num_styles, axis=1)

        levels = [coarse]
        if self.config.has_pyramid:
            middle = upsample_bilinear(coarse, middle.shape[1:3]) + self.lateral_middle(middle)
            fine = upsample_bilinear(middle, fine.shape[1:3]) + self.lateral_fine(fine)
            levels += [middle, fine]
        last_open = stage if self.config.kind == "e4e" else None
        parts = [
            _run_heads(heads, features, first, last_open)
            for heads, features, (first, _) in zip(
                self.heads, levels, self.config.style_ranges, strict=True
            )
        ]
        codes = jnp.moveaxis(jnp.concatenate(parts), 0, 1)  # [B, L, D]
        if self.config.kind == "psp":
            return codes
        w = codes[:, :1]
        return jnp.concatenate([w, w + codes[:, 1:]], axis=1)


# What the backward pass keeps of a head.
_KEPT = "map_to_style"


class MapToStyle(nnx.Module):
    """Head of one style: stride-2 convolutions down to one pixel, then a linear layer.

    Args:
      in_channels: channels of the features.
      style_dim: D.
      size: the longer side of the features, which sets the number of convolutions.
    """

    def __init__(
        self, in_channels: int, style_dim: int, size: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        widths = [in_channels] + [style_dim] * max(1, math.ceil(math.log2(size)))
        self.convs = nnx.List(
            Conv(n_in, n_out, 3, stride=2, bias=True, dtype=dtype, rngs=rngs)
            for n_in, n_out in zip(widths[:-1], widths[1:], strict=True)
        )
        self.linear = EqualLinear(style_dim, style_dim, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, H, W, C] -> [B, D] float32."""
        for conv in self.convs:
            x = jax.nn.leaky_relu(checkpoint_name(conv(x), _KEPT), 0.01)
        return self.linear(x[:, 0, 0].astype(jnp.float32))


def _stacked_heads(num_heads, *args, rngs, **kwargs):
    """`num_heads` map-to-style heads as one module whose arrays have a leading axis."""
    keys = jax.random.split(rngs.params(), num_heads)
    return nnx.vmap(lambda key: MapToStyle(*args, rngs=nnx.Rngs(params=key), **kwargs))(keys)


def _run_heads(heads, features, first, last_open):
    """Runs stacked heads one after another: features [B, H, W, C] -> [n, B, D].

    A scan compiles one head for all; its branch skips the work of closed ones.

    Args:
      heads: n heads of styles first, first + 1, ...
      last_open: index of the last style whose head runs, the others give zeros; None for all.
    """
    graph, params = nnx.split(heads)
    num_heads, _, style_dim = heads.linear.weight.shape
    # Most of the encoder's weights: the loop moves them in the type that it computes in.
    params = jax.tree.map(lambda p: p.astype(features.dtype) if p.ndim == 5 else p, params)

    def run(params, features):
        return nnx.merge(graph, params)(features)

    def step(_, head):
        params, index = head
        if last_open is None:
            return None, run(params, features)
        closed = jnp.zeros((features.shape[0], style_dim))
        return None, jax.lax.cond(index <= last_open, run, lambda *_: closed, params, features)

    # By itself a branch copies all that its gradient needs, features and weights too, for each
    # head and even where it is closed. This keeps the convolutions' outputs alone.
    policy = jax.checkpoint_policies.save_only_these_names(_KEPT)
    step = jax.checkpoint(step, policy=policy, prevent_cse=False)  # a loop merges nothing anyway
    return jax.lax.scan(step, None, (params, first + jnp.arange(num_heads)))[1]


def upsample_bilinear(x: jax.Array, size: Sequence[int]) -> jax.Array:
    """Bilinear resize with aligned corners (PyTorch's `align_corners=True`).

    x [B, H, W, C] -> [B, size[0], size[1], C] in the type of x.
    """
    rows = _aligned_corners_matrix(x.shape[1], size[0])
    columns = _aligned_corners_matrix(x.shape[2], size[1])
    resized = jnp.einsum("yh,xw,bhwc->byxc", rows, columns, x.astype(jnp.float32))
    return resized.astype(x.dtype)


def _aligned_corners_matrix(n_in, n_out):
    """[n_out, n_in] weights: output 0 is input 0, the last output the last input."""
    position = np.arange(n_out) * ((n_in - 1) / max(n_out - 1, 1))
    distance = np.abs(position[:, None] - np.arange(n_in))
    return np.maximum(0, 1 - distance).astype(np.float32)

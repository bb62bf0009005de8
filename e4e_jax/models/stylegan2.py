"""The StyleGAN2 generator (Karras et al. 2020, arXiv 1912.04958, configuration F)."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from e4e_jax.models import blocks, ops
from e4e_jax.models.layers import EqualLinear, leaky_relu, normalize_second_moment


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """Hyperparameters of a generator.

    Attributes:
      resolution: side of the image, a power of two from 8 to 1024.
      z_dim, w_dim: sizes of the latent codes.
      mapping_layers, mapping_lr_mul: depth and learning-rate multiplier of the mapping network.
      channel_base, channel_max: a layer at r x r has min(channel_base / r, channel_max) channels.
      conv_clamp: bound on every layer's output, for generators trained in float16; None for none.
    """

    resolution: int
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 8
    mapping_lr_mul: float = 0.01
    channel_base: int = 32768
    channel_max: int = 512
    conv_clamp: float | None = None

    def __post_init__(self):
        if self.resolution not in (8, 16, 32, 64, 128, 256, 512, 1024):
            raise ValueError(
                f"resolution is {self.resolution}; expected a power of two from 8 to 1024."
            )

    @property
    def block_resolutions(self) -> tuple[int, ...]:
        return tuple(2**i for i in range(2, self.resolution.bit_length()))

    @property
    def num_styles(self) -> int:
        """L = 2·log2(R) − 2: the number of w vectors that one image takes."""
        return 2 * len(self.block_resolutions)

    def channels(self, resolution: int) -> int:
        return min(self.channel_base // resolution, self.channel_max)


class NoiseConst(nnx.Variable):
    """The fixed noise image of a layer: saved with the generator, never trained."""


class LatentAverage(nnx.Variable):
    """The mean of w over the mapping network's output: saved, never trained."""


class MappingNetwork(nnx.Module):
    """z [B, z_dim] -> w [B, w_dim]: normalisation, then slowly learning equalised layers."""

    def __init__(self, config: GeneratorConfig, *, rngs: nnx.Rngs):
        sizes = [config.z_dim] + [config.w_dim] * config.mapping_layers
        self.layers = nnx.List(
            EqualLinear(i, o, lr_mul=config.mapping_lr_mul, rngs=rngs)
            for i, o in zip(sizes[:-1], sizes[1:], strict=True)
        )

    def __call__(self, z):
        x = normalize_second_moment(z)
        for layer in self.layers:
            x = leaky_relu(layer(x))
        return x


class StyledConv(nnx.Module):
    """Modulated 3x3 convolution, noise, bias and activation; doubles the resolution with `up`."""

    def __init__(self, in_channels, out_channels, resolution, w_dim, *, up, clamp, rngs: nnx.Rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (3, 3, in_channels, out_channels)))
        self.modulation = EqualLinear(w_dim, in_channels, bias_init=1.0, rngs=rngs)
        self.noise_strength = nnx.Param(jnp.zeros(()))
        self.noise = NoiseConst(jax.random.normal(rngs.params(), (resolution, resolution)))
        self.bias = nnx.Param(jnp.zeros((out_channels,)))
        self.up = up
        self.clamp = clamp

    def __call__(self, x, style, noise, *, in_blocks=False):
        """x [B, H, W, I], style [B, I], noise [B or 1, H', W'] or None -> [B, H', W', O].

        With `in_blocks` the result is in `blocks` of 2x2 positions, and so is x without `up`.
        """
        kernel = self.kernel[...] / math.sqrt(9 * self.kernel.shape[2])
        x = ops.modulated_conv2d(x, kernel, style, up=self.up, in_blocks=in_blocks)
        bias = self.bias[...].astype(x.dtype)
        if noise is not None:
            noise = (noise[..., None] * self.noise_strength[...]).astype(x.dtype)
        if in_blocks:
            bias = jnp.tile(bias, 4)
            if noise is not None:
                noise = blocks.spread(blocks.from_image(noise), self.bias.size)
        x = leaky_relu((x if noise is None else x + noise) + bias)
        return x if self.clamp is None else jnp.clip(x, -self.clamp, self.clamp)


class ToRGB(nnx.Module):
    """Modulated 1x1 convolution to three channels, without demodulation or activation."""

    def __init__(self, in_channels, w_dim, *, clamp, rngs: nnx.Rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (1, 1, in_channels, 3)))
        self.modulation = EqualLinear(w_dim, in_channels, bias_init=1.0, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros((3,)))
        self.clamp = clamp

    def __call__(self, x, style, *, in_blocks=False):
        """x [B, H, W, I], in blocks or not, style [B, I] -> RGB [B, H, W, 3] float32."""
        kernel = self.kernel[...] / math.sqrt(self.kernel.shape[2])
        weights = style[:, :, None] * kernel[0, 0]  # [B, I, 3]
        if in_blocks:  # each position by itself
            weights = jax.vmap(lambda matrix: jnp.kron(jnp.eye(4), matrix))(weights)
        # One matrix for each example: of so few channels that is less work than scaling x.
        rgb = jnp.einsum(
            "bhwi,bio->bhwo", x, weights.astype(x.dtype), preferred_element_type=jnp.float32
        )
        rgb = (blocks.to_image(rgb) if in_blocks else rgb) + self.bias[...]
        return rgb if self.clamp is None else jnp.clip(rgb, -self.clamp, self.clamp)


class SynthesisNetwork(nnx.Module):
    """w_plus [B, L, w_dim] -> images [B, R, R, 3] float32, nominally in [-1, 1]."""

    def __init__(self, config: GeneratorConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        w_dim, clamp = config.w_dim, config.conv_clamp
        self.constant = nnx.Param(jax.random.normal(rngs.params(), (4, 4, config.channels(4))))
        convs, to_rgbs = [], []
        for resolution in config.block_resolutions:
            out = config.channels(resolution)
            if resolution > 4:
                below = config.channels(resolution // 2)
                convs.append(
                    StyledConv(below, out, resolution, w_dim, up=True, clamp=clamp, rngs=rngs)
                )
            convs.append(StyledConv(out, out, resolution, w_dim, up=False, clamp=clamp, rngs=rngs))
            to_rgbs.append(ToRGB(out, w_dim, clamp=clamp, rngs=rngs))
        self.convs = nnx.List(convs)  # 4x4, then (up, plain) for every resolution above it
        self.to_rgbs = nnx.List(to_rgbs)
        self.dtype = dtype

    def styles(self, w_plus):
        """w_plus [B, L, w_dim] -> the style vectors of all convolutions, a list of [B, C_in].

        These span StyleSpace (Wu et al. 2021, arXiv 2011.12799). Of toRGB they are no part: theirs
        change colours alone, and follow from w_plus.
        """
        return [conv.modulation(w_plus[:, i]) for i, conv in enumerate(self.convs)]

    def __call__(self, w_plus, *, styles=None, noise="constant", keys=None, remat=False):
        """Synthesises images.

        Args:
          w_plus: [B, L, w_dim] float32.
          styles: style vectors as `styles` gives them; None for those of w_plus.
          noise: "constant" (the stored noise images), "random" (from `keys`), "none", or a list
            of one array [B, r, r] for each layer.
          keys: [B] typed PRNG keys, one per example, for random noise.
          remat: the backward pass keeps the inputs of the convolutions and computes what follows
            from them again.

        Returns:
          [B, R, R, 3] float32.
        """
        styles = self.styles(w_plus) if styles is None else styles
        noises = [_layer_noise(conv, i, noise, keys) for i, conv in enumerate(self.convs)]

        def run(module, *args, in_blocks=False):
            call = functools.partial(module, in_blocks=in_blocks)
            return (jax.checkpoint(call) if remat else call)(*args)

        # Style i goes to convolution i; the toRGB behind convolution i shares style i + 1 with
        # the next resolution's up-convolution.
        def to_rgb(i, x, **form):
            layer = self.to_rgbs[i // 2]
            return run(layer, x, layer.modulation(w_plus[:, i + 1]), **form)

        def double(i, x, rgb, in_blocks=False):
            """The layers of the next resolution, of which convolution i is the first."""
            for j in (i, i + 1):
                x = run(self.convs[j], x, styles[j], noises[j], in_blocks=in_blocks)
            rgb = ops.upsample(rgb) + to_rgb(i + 1, x, in_blocks=in_blocks)
            return blocks.to_image(x) if in_blocks else x, rgb

        x = jnp.broadcast_to(self.constant[...], (w_plus.shape[0], *self.constant.shape))
        x = run(self.convs[0], x.astype(self.dtype), styles[0], noises[0])
        rgb = to_rgb(0, x)
        for i in range(1, len(self.convs), 2):
            plain = functools.partial(double, i)
            if blocks.pays(self.convs[i].noise.shape[0], self.convs[i].bias.size):
                tpu = functools.partial(double, i, in_blocks=True)
                x, rgb = jax.lax.platform_dependent(x, rgb, tpu=tpu, default=plain)
            else:
                x, rgb = plain(x, rgb)
        return rgb


def _layer_noise(conv: StyledConv, index, noise, keys):
    """The noise image of one layer: [1, r, r], [B, r, r] or None."""
    if isinstance(noise, list):
        return noise[index]
    if noise == "none":
        return None
    if noise == "constant":
        return conv.noise[...][None]
    if noise == "random":
        shape = conv.noise.shape
        draw = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, index), shape))
        return draw(keys)
    raise ValueError(f"noise is {noise!r}; expected 'constant', 'random' or 'none'.")


class Generator(nnx.Module):
    """Mapping and synthesis networks with the average latent code that truncation needs."""

    def __init__(self, config: GeneratorConfig, *, dtype=jnp.float32, rngs: nnx.Rngs):
        self.config = config
        self.mapping = MappingNetwork(config, rngs=rngs)
        self.synthesis = SynthesisNetwork(config, dtype=dtype, rngs=rngs)
        self.latent_avg = LatentAverage(jnp.zeros((config.w_dim,)))

    def map(self, z, truncation_psi=1.0):
        """z [B, z_dim] -> w [B, w_dim], pulled towards `latent_avg` for `truncation_psi` < 1."""
        w = self.mapping(z)
        return self.latent_avg[...] + truncation_psi * (w - self.latent_avg[...])

    def broadcast(self, w):
        """w [B, w_dim] -> w_plus [B, L, w_dim], the same code for every style."""
        return jnp.repeat(w[:, None], self.config.num_styles, axis=1)


def mean_latent(generator: Generator, key, samples=10_000):
    """The mean of w [w_dim] over `samples` draws of z (what `latent_avg` holds)."""
    z = jax.random.normal(key, (samples, generator.config.z_dim))
    return jnp.mean(generator.mapping(z), axis=0)

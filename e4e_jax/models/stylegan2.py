"""The StyleGAN2 generator (Karras et al. 2020, arXiv 1912.04958, configuration F)."""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from e4e_jax.models.convolution import ops, space_to_depth
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
      image_channels: 3, or 1 for grey images, which leave the synthesis network as grey RGB.
      num_classes: of a class-conditional generator; 0 for one without classes.
    """

    resolution: int
    z_dim: int = 512
    w_dim: int = 512
    mapping_layers: int = 8
    mapping_lr_mul: float = 0.01
    channel_base: int = 32768
    channel_max: int = 512
    conv_clamp: float | None = None
    image_channels: int = 3
    num_classes: int = 0

    def __post_init__(self):
        if self.resolution not in (8, 16, 32, 64, 128, 256, 512, 1024):
            raise ValueError(
                f"resolution is {self.resolution}; expected a power of two from 8 to 1024."
            )
        if self.image_channels not in (1, 3):
            raise ValueError(
                f"the images have {self.image_channels} channels; expected 3, or 1 for grey ones."
            )
        if self.num_classes < 0:
            raise ValueError(f"num_classes is {self.num_classes}; expected 0 or more.")

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
    """z [B, z_dim] -> w [B, w_dim]: normalisation, then slowly learning equalised layers.

    Of a class-conditional generator the first layer reads a normalised embedding of the class
    behind z, as in StyleGAN2-ADA (Karras et al. 2020, arXiv 2006.06676).
    """

    def __init__(self, config: GeneratorConfig, *, rngs: nnx.Rngs):
        classes = config.num_classes
        self.embed = EqualLinear(classes, config.w_dim, rngs=rngs) if classes else None
        first = config.z_dim + (config.w_dim if classes else 0)
        sizes = [first] + [config.w_dim] * config.mapping_layers
        self.layers = nnx.List(
            EqualLinear(i, o, lr_mul=config.mapping_lr_mul, rngs=rngs)
            for i, o in zip(sizes[:-1], sizes[1:], strict=True)
        )

    def __call__(self, z: jax.Array, label: jax.Array | None = None) -> jax.Array:
        """z [..., z_dim], label [..., num_classes] -> w [..., w_dim].

        Args:
          z: standard normal.
          label: of a class-conditional generator: one-hot classes, or weights of several.

        Raises:
          ValueError: a label is missing, or there is one and the generator has no classes.
        """
        x = normalize_second_moment(z)
        if (self.embed is None) != (label is None):
            expected = "no label" if label is not None else "a label (of commands: --class)"
            count = 0 if self.embed is None else self.embed.weight.shape[0]
            raise ValueError(f"the generator has {count} classes; expected {expected}.")
        if self.embed is not None and label is not None:
            y = normalize_second_moment(self.embed(label))
            x = jnp.concatenate([x, jnp.broadcast_to(y, (*x.shape[:-1], y.shape[-1]))], axis=-1)
        for layer in self.layers:
            x = leaky_relu(layer(x))
        return x


class StyledConv(nnx.Module):
    """Modulated 3x3 convolution, noise, bias and activation; doubles the resolution with `up`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        resolution: int,
        w_dim: int,
        *,
        up: bool,
        clamp: float | None,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (3, 3, in_channels, out_channels)))
        self.modulation = EqualLinear(w_dim, in_channels, bias_init=1.0, rngs=rngs)
        self.noise_strength = nnx.Param(jnp.zeros(()))
        self.noise = NoiseConst(jax.random.normal(rngs.params(), (resolution, resolution)))
        self.bias = nnx.Param(jnp.zeros((out_channels,)))
        self.up = up
        self.clamp = clamp

    def __call__(
        self, x: jax.Array, style: jax.Array, noise: jax.Array | None, *, in_blocks: bool = False
    ) -> jax.Array:
        """x [B, H, W, I], style [B, I], noise [B or 1, H', W'] or None -> [B, H', W', O].

        With `in_blocks` the result is in blocks of 2x2 positions, and so is x without `up`.
        """
        kernel = self.kernel[...] / math.sqrt(9 * self.kernel.shape[2])
        x = ops.modulated_conv2d(x, kernel, style, up=self.up, in_blocks=in_blocks)
        bias = self.bias[...].astype(x.dtype)
        if noise is not None:
            noise = (noise[..., None] * self.noise_strength[...]).astype(x.dtype)
        if in_blocks:
            bias = jnp.tile(bias, 4)
            if noise is not None:
                noise = space_to_depth.spread(space_to_depth.from_image(noise), self.bias.size)
        x = leaky_relu((x if noise is None else x + noise) + bias)
        return x if self.clamp is None else jnp.clip(x, -self.clamp, self.clamp)


class ToRGB(nnx.Module):
    """Modulated 1x1 convolution to colours (C: 3, or 1), without demodulation or activation."""

    def __init__(
        self, in_channels: int, colours: int, w_dim: int, *, clamp: float | None, rngs: nnx.Rngs
    ):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (1, 1, in_channels, colours)))
        self.modulation = EqualLinear(w_dim, in_channels, bias_init=1.0, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros((colours,)))
        self.clamp = clamp

    def __call__(self, x: jax.Array, style: jax.Array, *, in_blocks: bool = False) -> jax.Array:
        """x [B, H, W, I], in blocks or not, style [B, I] -> [B, H, W, C] float32."""
        kernel = self.kernel[...] / math.sqrt(self.kernel.shape[2])
        weights = style[:, :, None] * kernel[0, 0]  # [B, I, C]
        if in_blocks:  # each position by itself
            weights = jax.vmap(lambda matrix: jnp.kron(jnp.eye(4), matrix))(weights)
        # One matrix for each example: of so few channels that is less work than scaling x.
        rgb = jnp.einsum(
            "bhwi,bio->bhwo", x, weights.astype(x.dtype), preferred_element_type=jnp.float32
        )
        rgb = (space_to_depth.to_image(rgb) if in_blocks else rgb) + self.bias[...]
        return rgb if self.clamp is None else jnp.clip(rgb, -self.clamp, self.clamp)


class StyleCodes(NamedTuple):
    """Codes of StyleSpace (Wu et al. 2021, arXiv 2011.12799): style vectors that no w_plus has.

    Attributes:
      w_plus: [B, L, w_dim], which the toRGB layers read.
      styles: style vectors of all convolutions, [B, C_in] each, as `SynthesisNetwork.styles`.
    """

    w_plus: jax.Array
    styles: tuple[jax.Array, ...]


class SynthesisNetwork(nnx.Module):
    """w_plus [B, L, w_dim] -> images [B, R, R, 3] float32, nominally in [-1, 1]."""

    def __init__(self, config: GeneratorConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
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
            to_rgbs.append(ToRGB(out, config.image_channels, w_dim, clamp=clamp, rngs=rngs))
        self.convs = nnx.List(convs)  # 4x4, then (up, plain) for every resolution above it
        self.to_rgbs = nnx.List(to_rgbs)
        self.dtype = dtype

    def styles(self, w_plus: jax.Array) -> list[jax.Array]:
        """w_plus [B, L, w_dim] -> the style vectors of all convolutions, a list of [B, C_in].

        These span StyleSpace (Wu et al. 2021, arXiv 2011.12799). Of toRGB they are no part: theirs
        change colours alone, and follow from w_plus.
        """
        return [conv.modulation(w_plus[:, i]) for i, conv in enumerate(self.convs)]

    def __call__(
        self,
        codes: jax.Array | StyleCodes,
        *,
        noise: str | list[jax.Array] = "constant",
        keys: jax.Array | None = None,
        remat: bool = False,
    ) -> jax.Array:
        """Synthesises images.

        Args:
          codes: w_plus [B, L, w_dim] float32, or `StyleCodes`.
          noise: "constant" (the stored noise images), "random" (from `keys`), "none", or a list
            of one array [B, r, r] for each layer.
          keys: [B] typed PRNG keys, one per example, for random noise.
          remat: the backward pass keeps the inputs of the convolutions and computes what follows
            from them again.

        Returns:
          [B, R, R, 3] float32; of a generator of grey images three equal channels.
        """
        if not isinstance(codes, StyleCodes):
            codes = StyleCodes(codes, tuple(self.styles(codes)))
        w_plus, styles = codes
        noises = _layer_noises(self.convs, noise, keys)

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
            return space_to_depth.to_image(x) if in_blocks else x, rgb

        x = jnp.broadcast_to(self.constant[...], (w_plus.shape[0], *self.constant.shape))
        x = run(self.convs[0], x.astype(self.dtype), styles[0], noises[0])
        rgb = to_rgb(0, x)
        for i in range(1, len(self.convs), 2):
            plain = functools.partial(double, i)
            if space_to_depth.pays(self.convs[i].noise.shape[0], self.convs[i].bias.size):
                tpu = functools.partial(double, i, in_blocks=True)
                x, rgb = jax.lax.platform_dependent(x, rgb, tpu=tpu, default=plain)
            else:
                x, rgb = plain(x, rgb)
        # Here alone grey becomes RGB: losses, metrics and files know nothing else.
        return jnp.repeat(rgb, 3, axis=-1) if rgb.shape[-1] == 1 else rgb


def _layer_noises(convs, noise, keys):
    """The noise image of each layer: [1, r, r], [B, r, r] or None."""
    if isinstance(noise, list):
        return noise
    if noise == "none":
        return [None] * len(convs)
    if noise == "constant":
        return [conv.noise[...][None] for conv in convs]
    if noise == "random":
        shapes = [conv.noise.shape for conv in convs]
        ends = np.cumsum([math.prod(shape) for shape in shapes])
        # All at once: a processor's compiler takes a second for each draw, of any size.
        drawn = jax.vmap(lambda key: jax.random.normal(key, (int(ends[-1]),)))(keys)
        parts = jnp.split(drawn, ends[:-1], axis=1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]
    raise ValueError(f"noise is {noise!r}; expected 'constant', 'random' or 'none'.")


class Generator(nnx.Module):
    """Mapping and synthesis networks with the average latent code that truncation needs."""

    def __init__(self, config: GeneratorConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        self.mapping = MappingNetwork(config, rngs=rngs)
        self.synthesis = SynthesisNetwork(config, dtype=dtype, rngs=rngs)
        self.latent_avg = LatentAverage(jnp.zeros((config.w_dim,)))

    def map(
        self, z: jax.Array, truncation_psi: float = 1.0, label: jax.Array | None = None
    ) -> jax.Array:
        """z [B, z_dim] -> w [B, w_dim], pulled towards `latent_avg` for `truncation_psi` < 1.

        `label` [B, num_classes] is that of `MappingNetwork`; `latent_avg` is one for all classes.
        """
        w = self.mapping(z, label)
        return self.latent_avg[...] + truncation_psi * (w - self.latent_avg[...])

    def broadcast(self, w: jax.Array) -> jax.Array:
        """w [B, w_dim] -> w_plus [B, L, w_dim], the same code for every style."""
        return jnp.repeat(w[:, None], self.config.num_styles, axis=1)


def mean_latent(generator: Generator, key: jax.Array, samples: int = 10_000) -> jax.Array:
    """The mean of w [w_dim] over `samples` draws of z (what `latent_avg` holds)."""
    z = jax.random.normal(key, (samples, generator.config.z_dim))
    return jnp.mean(generator.mapping(z), axis=0)


def class_generator(generator: Generator, label: int) -> Generator:
    """A generator without classes that maps z as a class-conditional one does for one class.

    What the first layer reads of the class is the same for every z: it moves into the layer's
    bias. `latent_avg` becomes the mean w of the class, which an encoder of the class starts from.

    Raises:
      ValueError: the generator has no classes, or no such one.
    """
    config, embed = generator.config, generator.mapping.embed
    if embed is None or not 0 <= label < config.num_classes:
        classes = config.num_classes
        expected = f"0 to {classes - 1}" if classes else "none"
        raise ValueError(
            f"class {label} is asked for and the generator has {classes} classes; expected "
            f"{expected}."
        )
    first = generator.mapping.layers[0]
    embedded = embed(jax.nn.one_hot(label, config.num_classes))
    inputs = first.weight.shape[0]
    of_z, of_class = jnp.split(first.weight[...], [config.z_dim])
    state = nnx.to_pure_dict(nnx.state(generator))
    del state["mapping"]["embed"]
    state["mapping"]["layers"][0] = {  # equalised over z_dim inputs instead of all
        "weight": of_z * math.sqrt(config.z_dim / inputs),
        "bias": first.bias[...]
        + jnp.dot(normalize_second_moment(embedded), of_class, precision="highest")
        / math.sqrt(inputs),
    }
    config = dataclasses.replace(config, num_classes=0)
    dtype = generator.synthesis.dtype
    found = nnx.eval_shape(lambda: Generator(config, dtype=dtype, rngs=nnx.Rngs(0)))
    variables = nnx.state(found)
    nnx.replace_by_pure_dict(variables, state)
    nnx.update(found, variables)
    found.latent_avg[...] = mean_latent(found, jax.random.key(0))
    return found

"""StyleGAN2 in the two published layouts: rosinality's (also e4e's decoder) and NVIDIA's.

Kernels carry over unflipped, those of up-convolutions too; the layouts differ in names and ranks.
"""

from typing import Any

import jax
import numpy as np
from flax import nnx

from convert_weights.checkpoint import Checkpoint, to_numpy
from convert_weights.rows import Row, conv, linear
from e4e_jax.models.discriminator import Discriminator
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig, mean_latent

_FILTER = np.outer([1, 3, 3, 1], [1, 3, 3, 1]).astype(np.float32) / 64
_NOISE_SEED = 0
_FILTERS = "FIR filters, constants of the code"


# rosinality


def rosinality_generator_rows(generator: Generator) -> list[Row]:
    """All but `latent_avg`, which stands outside of the state dict."""
    rows = []
    for i in range(len(generator.mapping.layers)):
        rows += linear(f"style.{i + 1}", f"mapping.layers.{i}", "weight")
    rows += [Row("input.input", "synthesis.constant", "1 C y x -> y x C")]
    for i in range(len(generator.synthesis.convs)):
        published = "conv1" if i == 0 else f"convs.{i - 1}"
        ours = f"synthesis.convs.{i}"
        rows += [
            *_rosinality_modulated(f"{published}.conv", ours),
            Row(f"{published}.noise.weight", f"{ours}.noise_strength", "1 ->"),
            Row(f"{published}.activate.bias", f"{ours}.bias"),
            Row(f"noises.noise_{i}", f"{ours}.noise", "1 1 y x -> y x"),
        ]
    for i in range(len(generator.synthesis.to_rgbs)):
        published = "to_rgb1" if i == 0 else f"to_rgbs.{i - 1}"
        ours = f"synthesis.to_rgbs.{i}"
        rows += [
            *_rosinality_modulated(f"{published}.conv", ours),
            Row(f"{published}.bias", f"{ours}.bias", "1 C 1 1 -> C"),
        ]
    return rows


def _rosinality_modulated(published, ours):
    return [
        Row(f"{published}.weight", f"{ours}.kernel", "1 O I y x -> y x I O"),
        *linear(f"{published}.modulation", f"{ours}.modulation", "weight"),
    ]


def rosinality_discriminator_rows(discriminator: Discriminator) -> list[Row]:
    rows = [
        *conv("convs.0.0", "from_rgb"),
        Row("convs.0.1.bias", "from_rgb.bias"),
    ]
    for i in range(len(discriminator.blocks)):
        published, ours = f"convs.{i + 1}", f"blocks.{i}"
        rows += [
            *conv(f"{published}.conv1.0", f"{ours}.conv1"),
            Row(f"{published}.conv1.1.bias", f"{ours}.conv1.bias"),
            *conv(f"{published}.conv2.1", f"{ours}.conv2"),
            Row(f"{published}.conv2.2.bias", f"{ours}.conv2.bias"),
            *conv(f"{published}.skip.1", f"{ours}.skip"),
        ]
    return [
        *rows,
        *conv("final_conv.0", "final_conv"),
        Row("final_conv.1.bias", "final_conv.bias"),
        *linear("final_linear.0", "final_linear", "weight"),
        *linear("final_linear.1", "logit", "weight"),
    ]


def rosinality_filters(network: Generator | Discriminator) -> dict[str, np.ndarray]:
    """The FIR buffers of a state dict, whose values the code fixes."""
    if isinstance(network, Discriminator):
        blocks = range(1, len(network.blocks) + 1)
        return {f"convs.{i}.{name}.0.kernel": _FILTER for i in blocks for name in ("conv2", "skip")}
    levels = range(len(network.synthesis.to_rgbs) - 1)
    # Filters that double the resolution have a gain of four.
    return {f"convs.{2 * i}.conv.blur.kernel": 4 * _FILTER for i in levels} | {
        f"to_rgbs.{i}.upsample.kernel": 4 * _FILTER for i in levels
    }


def read_rosinality_generator(checkpoint: Checkpoint) -> Generator:
    """Plans a generator of the tensors behind the checkpoint's prefix, all but `latent_avg`."""
    convs = checkpoint.count("convs.")
    checkpoint.require(convs > 0 and convs % 2 == 0, "convs.0.conv.weight")
    resolutions = [4 * 2**i for i in range(convs // 2 + 1)]
    channels = [checkpoint.shape("conv1.conv.weight", rank=5)[1]]
    for i in range(1, convs, 2):
        channels.append(checkpoint.shape(f"convs.{i}.conv.weight", rank=5)[1])
    w_dim, z_dim = checkpoint.shape("style.1.weight")
    config = generator_config(
        checkpoint,
        dict(zip(resolutions, channels, strict=True)),
        z_dim=z_dim,
        w_dim=w_dim,
        mapping_layers=checkpoint.count("style.", start=1),
        image_channels=checkpoint.shape("to_rgb1.conv.weight", rank=5)[1],
    )
    generator = nnx.eval_shape(lambda: Generator(config, rngs=nnx.Rngs(0)))
    for name, value in rosinality_filters(generator).items():
        checkpoint.check_constant(name, value, _FILTERS)
    # `latent_avg` is filled in by `read_average` or `set_average`.
    rows = rosinality_generator_rows(generator)
    constants: dict[str, Any] = {"latent_avg": 0.0}
    if not checkpoint.has("noises."):
        noises = _draw_noises(generator)
        rows = [row for row in rows if row.path not in noises]
        constants |= noises
        checkpoint.note(
            f"no noise images in the file, as before 2020-01-15: drawn from seed {_NOISE_SEED}"
        )
        checkpoint.metadata["noises"] = f"drawn from seed {_NOISE_SEED}; the source has none"
    checkpoint.fill(generator, rows, constants)
    return generator


def _draw_noises(generator: Generator) -> dict[str, np.ndarray]:
    """Path -> noise image [y, x] of every convolution, N(0, 1) as that code draws its buffers."""
    rng = np.random.default_rng(_NOISE_SEED)
    return {
        f"synthesis.convs.{i}.noise": rng.standard_normal(layer.noise.shape, np.float32)
        for i, layer in enumerate(generator.synthesis.convs)
    }


def read_rosinality_discriminator(checkpoint: Checkpoint, config: GeneratorConfig) -> Discriminator:
    """Plans a discriminator beside a generator of this configuration."""
    blocks = checkpoint.count("convs.", start=1)
    resolutions = [4 * 2**i for i in range(blocks + 1)][::-1]
    channels = [checkpoint.shape("convs.0.0.weight", rank=4)[0]]
    for i in range(1, blocks + 1):
        channels.append(checkpoint.shape(f"convs.{i}.conv2.1.weight", rank=4)[0])
    config = generator_config(
        checkpoint,
        dict(zip(resolutions, channels, strict=True)),
        z_dim=config.z_dim,
        w_dim=config.w_dim,
        mapping_layers=config.mapping_layers,
        image_channels=config.image_channels,
    )
    discriminator = nnx.eval_shape(lambda: Discriminator(config, rngs=nnx.Rngs(0)))
    for name, value in rosinality_filters(discriminator).items():
        checkpoint.check_constant(name, value, _FILTERS)
    checkpoint.fill(discriminator, rosinality_discriminator_rows(discriminator))
    return discriminator


def take_average(checkpoint: Checkpoint, w_dim: int) -> np.ndarray | None:
    """The `latent_avg` [w_dim] that stands outside of the state dict; None where there is none.

    e4e and pSp repeat it for every style; ours has one for all.
    """
    tensor = checkpoint.tensors.pop("latent_avg", None)
    if tensor is None:
        return None
    average = to_numpy(tensor)
    rows = average.reshape(-1, average.shape[-1]) if average.ndim in (1, 2) else average
    if rows.ndim != 2 or rows.shape[1] != w_dim or len(rows) == 0:
        raise checkpoint.error(
            f"latent_avg has shape {list(average.shape)}, expected [{w_dim}] or [L, {w_dim}]"
        )
    if not (rows == rows[0]).all():
        raise checkpoint.error("latent_avg differs between styles, expected one w for all of them")
    return rows[0].copy()


def set_average(generator: Generator, average: np.ndarray | None) -> None:
    """Sets `latent_avg` of a generator that has its numbers; None computes it."""
    if average is None:
        average = np.asarray(mean_latent(generator, jax.random.key(0)))
    generator.latent_avg[...] = average


# NVIDIA


def nvidia_generator_rows(generator: Generator) -> list[Row]:
    rows = [Row("mapping.w_avg", "latent_avg")]
    if generator.config.num_classes:
        rows += linear("mapping.embed", "mapping.embed", "weight")
    for i in range(len(generator.mapping.layers)):
        rows += linear(f"mapping.fc{i}", f"mapping.layers.{i}", "weight")
    rows += [Row("synthesis.b4.const", "synthesis.constant", "C y x -> y x C")]
    for i in range(len(generator.synthesis.convs)):
        # conv1 at 4x4, then conv0 (up) and conv1 of every block.
        resolution = 4 * 2 ** ((i + 1) // 2)
        published = f"synthesis.b{resolution}.conv{(i + 1) % 2}"
        ours = f"synthesis.convs.{i}"
        rows += [
            *_nvidia_modulated(published, ours),
            Row(f"{published}.noise_strength", f"{ours}.noise_strength", "->"),
            Row(f"{published}.noise_const", f"{ours}.noise", "y x -> y x"),
        ]
    for i in range(len(generator.synthesis.to_rgbs)):
        rows += _nvidia_modulated(f"synthesis.b{4 * 2**i}.torgb", f"synthesis.to_rgbs.{i}")
    return rows


def _nvidia_modulated(published, ours):
    return [
        *conv(published, ours, bias=True),
        *linear(f"{published}.affine", f"{ours}.modulation", "weight"),
    ]


def nvidia_discriminator_rows(discriminator: Discriminator) -> list[Row]:
    resolution = discriminator.config.resolution
    rows = conv(f"b{resolution}.fromrgb", "from_rgb", bias=True)
    for i in range(len(discriminator.blocks)):
        published, ours = f"b{resolution // 2**i}", f"blocks.{i}"
        rows += conv(f"{published}.conv0", f"{ours}.conv1", bias=True)
        rows += conv(f"{published}.conv1", f"{ours}.conv2", bias=True)
        rows += conv(f"{published}.skip", f"{ours}.skip")
    return [
        *rows,
        *conv("b4.conv", "final_conv", bias=True),
        *linear("b4.fc", "final_linear", "weight"),
        *linear("b4.out", "logit", "weight"),
    ]


def read_nvidia_generator(checkpoint: Checkpoint) -> Generator:
    """Plans a generator of the tensors behind the checkpoint's prefix.

    Raises:
      ConvertError: StyleGAN3's, or one of other sizes than this package has.
    """
    values = checkpoint.values
    if checkpoint.has("synthesis.input."):
        raise checkpoint.error("it holds a StyleGAN3 generator; expected StyleGAN2")
    w_dim, z_dim = checkpoint.shape("mapping.fc0.weight")
    classes = 0
    if values.get(f"{checkpoint.prefix}c_dim") or checkpoint.has("mapping.embed."):
        embedded, classes = checkpoint.shape("mapping.embed.weight")
        z_dim -= embedded  # the first layer reads z and the embedding of the class
        if embedded != w_dim or z_dim < 1:
            raise checkpoint.error(
                f"{checkpoint.prefix}mapping embeds {classes} classes as {embedded} numbers beside "
                f"a z of {z_dim}; expected {w_dim}, the size of w, and a z"
            )
    layers = checkpoint.count("mapping.fc")
    config = generator_config(
        checkpoint,
        _nvidia_channels(checkpoint, "synthesis.b{}.conv1.weight", output=True),
        z_dim=z_dim,
        w_dim=w_dim,
        mapping_layers=layers,
        mapping_lr_mul=_nvidia_mapping_lr_mul(checkpoint, layers),
        conv_clamp=values.get(f"{checkpoint.prefix}synthesis.b4.conv1.conv_clamp"),
        image_channels=checkpoint.shape("synthesis.b4.torgb.weight", rank=4)[0],
        num_classes=classes,
    )
    generator = nnx.eval_shape(lambda: Generator(config, rngs=nnx.Rngs(0)))
    _check_nvidia_filters(checkpoint, "synthesis.")
    checkpoint.fill(generator, nvidia_generator_rows(generator))
    return generator


def read_nvidia_discriminator(checkpoint: Checkpoint, config: GeneratorConfig) -> Discriminator:
    """Plans a discriminator beside a generator of this configuration."""
    config = generator_config(
        checkpoint,
        _nvidia_channels(checkpoint, "b{}.conv0.weight", output=False)
        | {4: checkpoint.shape("b4.conv.weight", rank=4)[0]},
        z_dim=config.z_dim,
        w_dim=config.w_dim,
        mapping_layers=config.mapping_layers,
        conv_clamp=checkpoint.values.get(f"{checkpoint.prefix}b4.conv.conv_clamp"),
        image_channels=config.image_channels,
    )
    discriminator = nnx.eval_shape(lambda: Discriminator(config, rngs=nnx.Rngs(0)))
    _check_nvidia_filters(checkpoint, "")
    checkpoint.fill(discriminator, nvidia_discriminator_rows(discriminator))
    return discriminator


def _nvidia_mapping_lr_mul(checkpoint, layers):
    """The multiplier that the mapping network's layers carry beside their tensors."""
    names = [f"{checkpoint.prefix}mapping.fc{i}.bias_gain" for i in range(layers)]
    found = {checkpoint.values.get(name, GeneratorConfig.mapping_lr_mul) for name in names}
    if len(found) > 1 or not all(isinstance(gain, float | int) and gain > 0 for gain in found):
        raise checkpoint.error(
            f"{names[0]} and those of the other layers are {', '.join(map(str, found))}; expected "
            "one positive number"
        )
    (multiplier,) = found
    return float(multiplier)


def _nvidia_channels(checkpoint, pattern, output):
    """{resolution: channels} of the blocks that have such a layer, from 4x4 on without a gap."""
    channels, resolution = {}, 4 if output else 8
    while resolution <= 1024 and checkpoint.has(pattern.format(resolution)):
        shape = checkpoint.shape(pattern.format(resolution), rank=4)
        channels[resolution] = shape[0] if output else shape[1]
        resolution *= 2
    checkpoint.require(len(channels) > 0, pattern.format(4 if output else 8))
    return channels


def _check_nvidia_filters(checkpoint, within):
    for level in range(2, 11):
        for layer in ("", "conv0.", "conv1.", "skip.", "fromrgb.", "torgb.", "conv."):
            name = f"{within}b{2**level}.{layer}resample_filter"
            checkpoint.check_constant(name, _FILTER, _FILTERS)


def generator_config(
    checkpoint: Checkpoint, channels: dict[int, int], **arguments
) -> GeneratorConfig:
    """The configuration with these channels {resolution: channels}, from 4x4 to the image.

    Raises:
      ConvertError: the channels are not min(base / resolution, maximum).
    """
    resolution, widest = max(channels), max(channels.values())
    base = channels[resolution] * resolution
    if channels[resolution] == widest:  # any larger base is the same; 32768 is the published one
        base = max(base, 32768)
    if any(min(base // r, widest) != n for r, n in channels.items()):
        raise checkpoint.error(
            f"the {checkpoint.prefix or 'network'} has channels {channels} by resolution; "
            "expected min(base / resolution, maximum)"
        )
    return GeneratorConfig(resolution, channel_base=base, channel_max=widest, **arguments)

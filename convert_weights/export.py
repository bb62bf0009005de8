"""Bundles -> checkpoints that the published PyTorch code loads with `strict=True`."""

import dataclasses
import os

import numpy as np
from flax import nnx

from convert_weights.checkpoint import ConvertError
from convert_weights.encoder import KINDS, encoder_rows
from convert_weights.rows import Row, variables
from convert_weights.stylegan2 import (
    rosinality_discriminator_rows,
    rosinality_filters,
    rosinality_generator_rows,
)
from e4e_jax.bundle import Bundle
from e4e_jax.models.resnet import ResNetConfig
from e4e_jax.models.stylegan2 import class_generator
from e4e_jax.runtime.files import writing

_MAPPING_LR_MUL = 0.01  # which the published code fixes


def export(bundle: Bundle, label: int | None = None) -> tuple[dict, list[str]]:
    """The checkpoint of an inverter (e4e, pSp) or of a generator (rosinality).

    Args:
      bundle: as `load_bundle` opens it.
      label: the class to keep of a class-conditional generator, which no such layout can hold.

    Returns:
      A dict for `torch.save`, its tensors NumPy arrays, and lines to print about it.

    Raises:
      ConvertError: a bundle of another kind, or a label that does not fit.
    """
    if bundle.kind not in ("inverter", "generator"):
        raise ConvertError(
            f"a bundle of kind {bundle.kind!r} has no layout to go back to; expected an inverter "
            "or a generator."
        )
    bundle = _of_one_class(bundle, label)
    generator = bundle.networks["generator"]
    average = np.array(generator.latent_avg[...])
    if bundle.kind == "generator":
        checkpoint = {"g_ema": _generator_state(generator), "latent_avg": average}
        if "generator_raw" in bundle.networks:
            checkpoint["g"] = _generator_state(bundle.networks["generator_raw"])
        if "discriminator" in bundle.networks:
            discriminator = bundle.networks["discriminator"]
            rows = rosinality_discriminator_rows(discriminator)
            checkpoint["d"] = state_dict(discriminator, rows)
            checkpoint["d"] |= rosinality_filters(discriminator)
        return checkpoint, ["rosinality's layout", *_differences(generator.config)]

    encoder = bundle.networks["encoder"]
    options = _options(encoder.config, generator.config) | bundle.metadata.get("options", {})
    state = {f"decoder.{name}": array for name, array in _generator_state(generator).items()}
    state |= state_dict(encoder, encoder_rows(encoder))
    # pSp's code adds that of its single-w encoder to one w, every other to the w of each style.
    in_w = options["encoder_type"] == "BackboneEncoderUsingLastLayerIntoW"
    checkpoint = {
        "state_dict": state,
        "latent_avg": np.tile(average, (1 if in_w else generator.config.num_styles, 1)),
        "opts": options,
    }
    found = f"the layout of e4e and pSp ({options['encoder_type']})"
    return checkpoint, [found, *_differences(generator.config)]


def _of_one_class(bundle, label):
    """The bundle with generators without classes."""
    classes = bundle.networks["generator"].config.num_classes
    if label is None and not classes:
        return bundle
    if label is None:
        raise ConvertError(
            f"the generator has {classes} classes, which rosinality's layout does not; expected "
            f"--class=N, one of 0 to {classes - 1}."
        )
    try:
        networks = {
            name: class_generator(network, label) if name.startswith("generator") else network
            for name, network in bundle.networks.items()
        }
    except ValueError as error:
        raise ConvertError(str(error)) from None
    return dataclasses.replace(bundle, networks=networks)


def save(checkpoint: dict, path: str | os.PathLike) -> None:
    """Writes a checkpoint with `torch.save`, whole or not at all.

    Raises:
      ConvertError: PyTorch is not installed.
      OSError: the disk is full or not writable.
    """
    try:
        import torch
    except ImportError as error:
        raise ConvertError(
            f"a .pt file can only be written with PyTorch ({error}): "
            "pip install 'e4e-jax[convert]'."
        ) from None

    def to_torch(value):
        if isinstance(value, dict):
            return {key: to_torch(entry) for key, entry in value.items()}
        return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value

    with writing(path) as temporary:
        try:
            torch.save(to_torch(checkpoint), temporary)
        except RuntimeError as error:  # how PyTorch reports a full disk
            raise OSError(" ".join(str(error).split())[:200]) from None


def _generator_state(generator):
    state = state_dict(generator, rosinality_generator_rows(generator))
    multiplier = generator.config.mapping_lr_mul
    if multiplier != _MAPPING_LR_MUL:  # the same w, of weights as that code scales them
        for name in [name for name in state if name.startswith("style.")]:
            state[name] = state[name] * np.float32(multiplier / _MAPPING_LR_MUL)
    return state | rosinality_filters(generator)


def state_dict(network: nnx.Module, rows: list[Row]) -> dict[str, np.ndarray]:
    """The tensors of a network as the rows of its table name and lay them out."""
    ours = variables(network)
    state = {}
    for row in rows:
        state[row.source] = row.to_source(np.asarray(ours[row.path][...]))
        if row.source.endswith("running_var"):
            counter = row.source.removesuffix("running_var") + "num_batches_tracked"
            state[counter] = np.zeros((), np.int64)
    return state


def _options(config, generator):
    """The options that the published code reads from a checkpoint."""
    if config.has_pyramid or config.kind == "single_w":
        published = {kind: name for name, kind in reversed(KINDS.items())}[config.kind]
    else:
        published = "ProgressiveBackboneEncoder" if config.kind == "e4e" else "BackboneEncoder"
    if isinstance(config.backbone, ResNetConfig):
        published = f"ResNet{published}"
    height, width = config.image_size
    dataset = {"grey": "celebs_sketch_to_face", "labels": "celebs_seg_to_face"}.get(
        config.reads, "ffhq_encode" if height == width else "cars_encode"
    )
    return {
        "encoder_type": published,
        "dataset_type": dataset,
        "stylegan_size": generator.resolution,
        "output_size": generator.resolution,
        "n_styles": generator.num_styles,
        "input_nc": config.backbone.in_channels,
        "label_nc": 0 if config.reads == "rgb" else config.image_channels,
        "start_from_latent_avg": config.around_average,
        "learn_in_w": config.kind == "single_w",
        "device": "cpu",
    }


def _differences(config) -> list[str]:
    """What the published code does not build from a checkpoint alone."""
    found = []
    if config.conv_clamp is not None:
        found.append(f"left out: the clamp at {config.conv_clamp:g}, which that code does not have")
    if config.image_channels != 3:
        found.append("one colour channel, where that code builds three unless it is changed")
    usual = (config.z_dim, config.w_dim, config.mapping_layers, config.channel_max) == (
        512,
        512,
        8,
        512,
    )
    if not usual or config.channel_base not in (16384, 32768):
        found.append(
            "this is not configuration F with 8 mapping layers and 512 channels, which that code "
            "builds unless it is changed"
        )
    return found

"""The published layouts: how each is known by its tensors, and what it becomes."""

import collections
import dataclasses
import typing
from collections.abc import Callable

import jax
from flax import nnx

from convert_weights import encoder, features, stylegan2
from convert_weights.checkpoint import Checkpoint, ConvertError
from convert_weights.directions import holds_codes, holds_directions, read_directions
from convert_weights.latents import read_latents
from convert_weights.renaming import name_roots
from convert_weights.strangers import describe_tensors


@dataclasses.dataclass
class Converted:
    """What a source becomes.

    Attributes:
      kind: of the bundle, or one of `ARRAYS`.
      networks: name -> module; for directions and latents name -> array.
      found: lines to print: what it is.
      metadata: further entries for the bundle's JSON.
      left_out: reason -> number of tensors.
    """

    kind: str
    networks: dict[str, typing.Any]
    found: list[str] = dataclasses.field(default_factory=list)
    metadata: dict[str, typing.Any] = dataclasses.field(default_factory=dict)
    left_out: collections.Counter = dataclasses.field(default_factory=collections.Counter)


@dataclasses.dataclass(frozen=True)
class Format:
    """A published layout.

    Attributes:
      description: in the words of the people who have such a file.
      matches: whether a checkpoint is one.
      convert: the checkpoint -> what it becomes; raises ConvertError.
    """

    description: str
    matches: Callable[[Checkpoint], bool]
    convert: Callable[[Checkpoint], Converted]


def convert(checkpoints: list[Checkpoint], name: str | None = None) -> Converted:
    """Converts what one or several files hold.

    Args:
      checkpoints: one, but for LPIPS (trunk and linear weights), directions and latents.
      name: of the format, one of `FORMATS` or `ARRAYS`; None to find it out.

    Raises:
      ConvertError: no format fits, or the tensors are not all of those of the format.
    """
    arrays = _convert_arrays(checkpoints, name)
    if arrays is not None:
        return arrays
    checkpoint = _merge(checkpoints)
    name_roots(checkpoint)
    if name is None:
        name = next((n for n, form in FORMATS.items() if form.matches(checkpoint)), None)
    if name is None:
        shown = ", ".join(list(checkpoint.tensors)[:3]) or "none"
        stranger = describe_tensors(checkpoint)
        if stranger:
            raise checkpoint.error(stranger)
        raise checkpoint.error(
            f"its {len(checkpoint.tensors)} tensors ({shown}, ...) are of no layout that is known: "
            + "; ".join(form.description for form in FORMATS.values())
        )
    try:
        converted = FORMATS[name].convert(checkpoint)
    except ConvertError:
        raise
    except ValueError as error:  # a configuration that a network refuses
        raise checkpoint.error(str(error).rstrip(".")) from None
    converted.left_out = checkpoint.left_out
    converted.found = [*checkpoint.notes, *converted.found]
    converted.metadata |= checkpoint.metadata
    for part, network in converted.networks.items():
        sizes = [v.size for v in jax.tree.leaves(nnx.state(network))]
        converted.found.append(f"{part}: {sum(sizes):,} numbers in {len(sizes)} arrays")
    return converted


def _convert_arrays(checkpoints, name):
    """Directions or codes of images; None for networks."""
    if name is None:
        kinds = {checkpoint.name: _kind_of_arrays(checkpoint) for checkpoint in checkpoints}
        if len(set(kinds.values())) > 1 and None not in kinds.values():
            raise ConvertError(
                "there are files of different kinds, "
                + ", ".join(f"{file} ({kind})" for file, kind in kinds.items())
                + "; expected directions alone or codes alone, or --format to say what they are."
            )
        name = kinds[checkpoints[0].name] if len(set(kinds.values())) == 1 else None
    if name == "directions":
        for checkpoint in checkpoints:
            if set(checkpoint.tensors) != {"tensor"} and not holds_directions(checkpoint):
                raise checkpoint.error("it holds no tensor alone, nor mean, comp and std alone")
        directions = read_directions(checkpoints)
        shapes = sorted({str(list(d.shape)) for d in directions.values()})
        found = [f"{len(directions)} editing directions of shape {' and '.join(shapes)}"]
        found = [line for checkpoint in checkpoints for line in checkpoint.notes] + found
        return Converted("directions", directions, found=found)
    if name == "latents":
        names, codes = read_latents(checkpoints)
        found = [line for checkpoint in checkpoints for line in checkpoint.notes]
        found += [
            f"the codes of {len(codes)} image{'s' * (len(codes) > 1)}, {list(codes.shape[1:])} "
            f"each: {names[0]}{' ...' * (len(codes) > 1)}"
        ]
        if len(codes) == 1 and len(checkpoints) == 1:
            found.append("a direction of all layers needs --format directions")
        return Converted("latents", {"names": names, "codes": codes}, found=found)
    return None


def _kind_of_arrays(checkpoint):
    if holds_codes(checkpoint):
        return "latents"
    return "directions" if holds_directions(checkpoint) else None


def _merge(checkpoints):
    first, *rest = checkpoints
    for other in rest:
        twice = set(first.tensors) & set(other.tensors)
        if twice:
            raise ConvertError(
                f"{first.name} and {other.name} both have {min(twice)}; expected files that "
                "complete each other"
            )
        first.tensors |= other.tensors
        first.values |= other.values
        first.notes += other.notes
        first.name += f" and {other.name}"
    return first


def _convert_inverter(checkpoint):
    for key in ("optimizer", "discriminator_optimizer_state_dict"):
        checkpoint.leave_out(f"^{key}/", "optimiser state")
    checkpoint.leave_out("^discriminator_state_dict/", "latent discriminator")
    if checkpoint.has("state_dict/"):
        checkpoint.leave_out("^(?!state_dict/|latent_avg$)", "bookkeeping of the training")
    options = {
        key.removeprefix("opts/"): value
        for key, value in checkpoint.values.items()
        if key.startswith("opts/")
    }
    root = "state_dict/" if checkpoint.has("state_dict/") else ""
    if checkpoint.has(f"{root}decoder.synthesis."):
        is_stylegan3 = checkpoint.has(f"{root}decoder.synthesis.input.")
        raise checkpoint.error(
            "its decoder is a "
            + ("StyleGAN3 generator" if is_stylegan3 else "generator in NVIDIA's names")
            + "; expected an inverter for StyleGAN2 in rosinality's names, as e4e's own are"
        )
    generator = stylegan2.read_rosinality_generator(checkpoint.under(f"{root}decoder."))
    average = stylegan2.take_average(checkpoint, generator.config.w_dim)
    encoders = checkpoint.under(root)
    network = encoder.read_encoder(encoders, options, generator.config.num_styles, average)
    encoders.fill(network, encoder.encoder_rows(network))
    checkpoint.finish()
    stylegan2.set_average(generator, average)

    config = network.config
    height, width = config.image_size
    what = {"grey": "grey images", "labels": f"maps of {config.image_channels} classes"}
    colours = f"images of {config.backbone.in_channels} channels"
    kept = ("encoder_type", "dataset_type")
    return Converted(
        "inverter",
        {"encoder": network, "generator": generator},
        found=[
            f"{'iterative ' * config.iterative}{config.kind} encoder of {height}x{width} "
            f"{what.get(str(config.reads), colours)} ({options['encoder_type']})",
            *_describe_generator(generator, average),
        ],
        metadata={"options": {key: options[key] for key in kept if key in options}},
    )


def _convert_rosinality(checkpoint):
    checkpoint.leave_out("^[gd]_optim/", "optimiser state")
    checkpoint.leave_out("^(?!(g_ema|g|d)/|latent_avg$)", "bookkeeping of the training")
    generator = stylegan2.read_rosinality_generator(checkpoint.under("g_ema/"))
    average = stylegan2.take_average(checkpoint, generator.config.w_dim)
    networks: dict[str, typing.Any] = {"generator": generator}
    if checkpoint.has("g/"):
        networks["generator_raw"] = stylegan2.read_rosinality_generator(checkpoint.under("g/"))
    if checkpoint.has("d/"):
        networks["discriminator"] = stylegan2.read_rosinality_discriminator(
            checkpoint.under("d/"), generator.config
        )
    _check_alike(checkpoint, networks)
    checkpoint.finish()
    for name in networks:
        if name != "discriminator":
            stylegan2.set_average(networks[name], average)
    return Converted("generator", networks, found=_describe_generator(generator, average))


def _convert_nvidia(checkpoint):
    checkpoint.leave_out("^augment_pipe/", "augmentation")
    checkpoint.leave_out("^(?!(G_ema|G|D)/)", "bookkeeping of the training")
    generator = stylegan2.read_nvidia_generator(checkpoint.under("G_ema/"))
    networks: dict[str, typing.Any] = {"generator": generator}
    if checkpoint.has("G/"):
        networks["generator_raw"] = stylegan2.read_nvidia_generator(checkpoint.under("G/"))
    group = checkpoint.values.get("D/b4.mbstd.group_size", 4)
    if group != 4:
        checkpoint.leave_out("^D/", f"discriminator with groups of {group}, ours has groups of 4")
    if generator.config.num_classes:
        reason = "discriminator of classes, as none is trained here"
        checkpoint.leave_out("^D/", reason)
    if not checkpoint.has(f"D/b{generator.config.resolution}.skip."):
        checkpoint.leave_out("^D/", "discriminator of another architecture than resnet")
    if checkpoint.has("D/"):
        networks["discriminator"] = stylegan2.read_nvidia_discriminator(
            checkpoint.under("D/"), generator.config
        )
    _check_alike(checkpoint, networks)
    checkpoint.finish()
    return Converted("generator", networks, found=_describe_generator(generator, True))


def _check_alike(checkpoint, networks):
    """A generator and the one that it is the average of have one shape."""
    configs = [network.config for name, network in networks.items() if name != "discriminator"]
    if any(config != configs[0] for config in configs):
        raise checkpoint.error(
            "the generator and its training weights differ in their sizes "
            f"({' and '.join(str(config) for config in configs)})"
        )


def _describe_generator(generator, average):
    config = generator.config
    lines = [
        f"StyleGAN2 generator of {config.resolution}x{config.resolution} "
        f"{'grey ' * (config.image_channels == 1)}images, "
        f"{config.num_styles} styles of {config.w_dim}"
    ]
    if config.num_classes:
        lines.append(f"of one of {config.num_classes} classes, which a label names")
    if config.conv_clamp is not None:
        lines.append(f"outputs of its layers clamped at {config.conv_clamp:g}")
    if average is None:
        lines.append("no latent_avg in the file: computed as the mean of 10,000 mapped z")
    return lines


def _convert_features(name, description, read, prefix="", left_out=()):
    def convert(checkpoint):
        for pattern, reason in left_out:
            checkpoint.leave_out(pattern, reason)
        network = read(checkpoint.under(prefix))
        checkpoint.finish()
        network.eval()
        return Converted(name, {name: network}, [description])

    return convert


# What becomes one .npz file of arrays, and no bundle.
ARRAYS = {
    "directions": "editing directions of InterFaceGAN (.pt, .npy), of GANSpace (e4e's .pt or the "
    ".npz of its own), or of SeFa (rosinality's factor.pt)",
    "latents": "codes of images: latents.pt of e4e, latents.npy of ReStyle and HyperStyle, PTI's "
    "pivots, NVIDIA's projected_w.npz",
}

# In the order in which they are tried.
FORMATS = {
    "inverter": Format(
        "an inverter of e4e, pSp, ReStyle or HyperStyle (its W encoder), with encoder.* and "
        "decoder.*",
        lambda c: any(
            c.has(f"{root}encoder.{stem}.")
            for root in ("", "state_dict/")
            for stem in ("input_layer", "conv1")
        ),
        _convert_inverter,
    ),
    "rosinality": Format(
        "StyleGAN2 of rosinality's code with g_ema, or its generator alone",
        lambda c: c.has("g_ema/"),
        _convert_rosinality,
    ),
    "nvidia": Format(
        "StyleGAN2 of NVIDIA's PyTorch projects with G_ema, or its generator alone (PTI's, say)",
        lambda c: c.has("G_ema/"),
        _convert_nvidia,
    ),
    "arcface": Format(
        "ArcFace IR-SE-50 or CurricularFace IR-101 with input_layer, body and output_layer",
        lambda c: c.has("output_layer.") and c.has("input_layer."),
        _convert_features("arcface", "ArcFace identity features", features.read_arcface),
    ),
    "moco": Format(
        "MoCo v2 with module.encoder_q.*",
        lambda c: c.has("state_dict/encoder_q."),
        _convert_features(
            "moco",
            "MoCo v2 features",
            features.read_moco,
            "state_dict/encoder_q.",
            [
                (r"^state_dict/(encoder_k\.|queue)", "key encoder and queue of training"),
                (r"^state_dict/encoder_q\.fc\.", "projection head"),
                ("^optimizer/", "optimiser state"),
            ],
        ),
    ),
    "lpips": Format(
        "LPIPS as torchvision's AlexNet, VGG16 or SqueezeNet 1.1 together with the linear weights",
        lambda c: c.has("features.0.") or c.has("lin0."),
        _convert_features(
            "lpips",
            "LPIPS 0.1",
            features.read_lpips,
            left_out=[(r"^classifier\.", "classifier")],
        ),
    ),
    "inception": Format(
        "Inception of the FID, pt_inception-2015-12-05",
        lambda c: c.has("Mixed_7c."),
        _convert_features(
            "inception",
            "Inception V3 of the FID",
            features.read_inception,
            left_out=[(r"^fc\.bias$", "bias of the classifier")],
        ),
    ),
}

"""The encoders of e4e, pSp and ReStyle, and the IR-SE backbone that ArcFace shares with them."""

import dataclasses

import numpy as np
from flax import nnx

from convert_weights.checkpoint import Checkpoint
from convert_weights.rows import (
    CONV_1X1_AS_LINEAR,
    Row,
    batch_norm,
    conv,
    linear,
    residual_block,
)
from e4e_jax.models.encoder import Encoder, EncoderConfig
from e4e_jax.models.irse import IRSEBackbone, IRSEConfig
from e4e_jax.models.resnet import ResNetBackbone, ResNetConfig

# Published class (`encoder_type` of the options) -> kind. All of ReStyle's read six channels; those
# that begin with ResNet have this backbone.
KINDS = {
    "Encoder4Editing": "e4e",
    "ProgressiveBackboneEncoder": "e4e",
    "GradualStyleEncoder": "psp",
    "BackboneEncoder": "psp",
    "SingleStyleCodeEncoder": "single_w",
    "BackboneEncoderUsingLastLayerIntoW": "single_w",
    "WEncoder": "single_w",  # HyperStyle's
    "ResNetProgressiveBackboneEncoder": "e4e",
    "ResNetGradualStyleEncoder": "psp",
    "ResNetBackboneEncoder": "psp",
}


def backbone_rows(backbone: IRSEBackbone, source: str) -> list[Row]:
    """`source` is what stands before `input_layer` and `body`."""
    rows = [
        *conv(f"{source}input_layer.0", "backbone.stem_conv"),
        *batch_norm(f"{source}input_layer.1", "backbone.stem_norm"),
        Row(f"{source}input_layer.2.weight", "backbone.stem_prelu.slope"),
    ]
    for i, unit in enumerate(backbone.body):
        ours, residual = f"backbone.body.{i}", f"{source}body.{i}.res_layer"
        rows += [
            *batch_norm(f"{residual}.0", f"{ours}.norm1"),
            *conv(f"{residual}.1", f"{ours}.conv1"),
            Row(f"{residual}.2.weight", f"{ours}.prelu.slope"),
            *conv(f"{residual}.3", f"{ours}.conv2"),
            *batch_norm(f"{residual}.4", f"{ours}.norm2"),
        ]
        if unit.squeeze_excite is not None:
            rows += [
                Row(
                    f"{residual}.5.{fc}.weight",
                    f"{ours}.squeeze_excite.{fc}.kernel",
                    CONV_1X1_AS_LINEAR,
                )
                for fc in ("fc1", "fc2")
            ]
        if unit.shortcut_conv is not None:
            shortcut = f"{source}body.{i}.shortcut_layer"
            rows += conv(f"{shortcut}.0", f"{ours}.shortcut_conv")
            rows += batch_norm(f"{shortcut}.1", f"{ours}.shortcut_norm")
    return rows


def resnet_rows(backbone: ResNetBackbone, source: str) -> list[Row]:
    """As `backbone_rows`, for the blocks of torchvision's ResNet-34."""
    rows = [
        *conv(f"{source}conv1", "backbone.stem_conv"),
        *batch_norm(f"{source}bn1", "backbone.stem_norm"),
        Row(f"{source}relu.weight", "backbone.stem_prelu.slope"),
    ]
    for i, block in enumerate(backbone.body):
        projects = block.downsample_conv is not None
        rows += residual_block(f"{source}body.{i}", f"backbone.body.{i}", 2, projects)
    return rows


def encoder_rows(encoder: Encoder, source: str = "encoder.") -> list[Row]:
    is_resnet = isinstance(encoder.backbone, ResNetBackbone)
    rows = (resnet_rows if is_resnet else backbone_rows)(encoder.backbone, source)
    if encoder.config.kind == "single_w":
        return rows + linear(f"{source}linear", "linear", "weight")
    if encoder.config.has_pyramid:
        rows += conv(f"{source}latlayer1", "lateral_middle", bias=True)
        rows += conv(f"{source}latlayer2", "lateral_fine", bias=True)
    for level, (first, end) in enumerate(encoder.config.style_ranges):
        for style in range(first, end):
            published, ours, index = f"{source}styles.{style}", f"heads.{level}", style - first
            for k in range(len(encoder.heads[level].convs)):
                # A leaky ReLU stands between the published convolutions.
                rows += conv(f"{published}.convs.{2 * k}", f"{ours}.convs.{k}", True, index)
            rows += linear(f"{published}.linear", f"{ours}.linear", "weight", index)
    return rows


def read_backbone_config(checkpoint: Checkpoint, source: str) -> IRSEConfig:
    """The shape of the backbone in a checkpoint; raises ConvertError where there is none."""
    stem = checkpoint.shape(f"{source}input_layer.0.weight", rank=4)
    widths, depths = _groups(checkpoint, source, ("res_layer.4", "res_layer.3"))
    reduction = None
    if checkpoint.has(f"{source}body.0.res_layer.5."):
        name = f"{source}body.0.res_layer.5.fc"
        hidden = min(checkpoint.shape(f"{name}1.weight", f"{name}2.weight", rank=4)[:2])
        reduction = max(1, widths[0] // hidden)
    return IRSEConfig(widths, depths, stem[1], reduction)


def read_resnet_config(checkpoint: Checkpoint, source: str) -> ResNetConfig:
    """As `read_backbone_config`, for the blocks of torchvision's ResNet-34."""
    stem = checkpoint.shape(f"{source}conv1.weight", rank=4)
    widths, depths = _groups(checkpoint, source, ("bn2", "conv2"))
    return ResNetConfig(widths, depths, stem[1], stem[2])


def _groups(checkpoint, source, last):
    """Widths and depths of the four groups; `last` names a unit's last modules, one is enough."""
    units = checkpoint.count(f"{source}body.")
    checkpoint.require(units > 0, f"{source}body.0")
    widths, depths = [], []
    for i in range(units):
        names = [f"{source}body.{i}.{module}.weight" for module in last]
        width = checkpoint.shape(*names, rank=None)[0]
        if not widths or width != widths[-1]:
            widths.append(width)
            depths.append(0)
        depths[-1] += 1
    checkpoint.require(len(widths) == 4, f"{source}body with four widths, not {widths}")
    return tuple(widths), tuple(depths)


def read_encoder(
    checkpoint: Checkpoint, options: dict, num_styles: int, average: np.ndarray | None
) -> Encoder:
    """The encoder of a checkpoint, without its numbers.

    Args:
      checkpoint: with tensors `encoder.*`.
      options: the `opts` of the training.
      num_styles: of the decoder.
      average: its `latent_avg`; None where the file has none.

    Raises:
      ConvertError: an encoder that this package does not have.
    """
    published = options.get("encoder_type")
    if published not in KINDS:
        raise checkpoint.error(
            f"the encoder is a {published!r} (encoder_type in the options); expected one of "
            + ", ".join(KINDS)
        )
    is_resnet = published.startswith("ResNet")
    stem = "encoder.conv1" if is_resnet else "encoder.input_layer"
    if not checkpoint.has(f"{stem}."):
        raise checkpoint.error(f"there is no {stem} of a {published!r} (encoder_type)")
    read_config = read_resnet_config if is_resnet else read_backbone_config
    backbone = read_config(checkpoint, "encoder.")
    is_labels = options.get("label_nc") == backbone.in_channels > 1  # ReStyle's and e4e's are 0
    config = EncoderConfig(
        kind=KINDS[published],
        num_styles=num_styles,
        style_dim=checkpoint.shape("encoder.linear.weight", "encoder.styles.0.linear.weight")[0],
        backbone=backbone,
        iterative=backbone.in_channels == 6 and not is_labels,
        around_average=bool(options.get("start_from_latent_avg", average is not None)),
        reads="labels" if is_labels else None,
    )
    if config.kind != "single_w":
        # A head halves its level to one pixel, so that the levels show in its convolutions.
        styles = checkpoint.count("encoder.styles.")
        depths = [checkpoint.count(f"encoder.styles.{i}.convs.", step=2) for i in range(styles)]
        checkpoint.require(styles > 0 and 0 < depths[0] < 10, "encoder.styles.0.convs.0")
        side = 16 << depths[0]
        ends = [sum(depth <= depths[0] + level for depth in depths) for level in (0, 1)]
        coarse, middle = ends if ends[0] < styles else (num_styles, num_styles)
        config = dataclasses.replace(config, image_size=(side, side), coarse=coarse, middle=middle)
    if str(options.get("dataset_type", "")).startswith("cars"):
        width = config.image_size[1]
        config = dataclasses.replace(config, image_size=(width * 3 // 4, width))
    return nnx.eval_shape(lambda: Encoder(config, rngs=nnx.Rngs(0)))

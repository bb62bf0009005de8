"""The feature networks: ArcFace (and CurricularFace), MoCo, LPIPS and Inception."""

import math

from flax import nnx

from convert_weights.checkpoint import Checkpoint
from convert_weights.encoder import backbone_rows, read_backbone_config
from convert_weights.rows import LINEAR, Row, batch_norm, conv, linear, residual_block, variables
from e4e_jax.models.arcface import ArcFace, ArcFaceConfig
from e4e_jax.models.inception import Inception, InceptionConfig
from e4e_jax.models.irse import IRSEConfig
from e4e_jax.models.lpips import LPIPS, LPIPSConfig
from e4e_jax.models.moco import MoCo, MoCoConfig


def arcface_rows(arcface: ArcFace, affine: bool = True) -> list[Row]:
    """`affine`: the last batch norm has a scale and a bias; CurricularFace's has none."""
    return [
        *backbone_rows(arcface.backbone, ""),
        *batch_norm("output_layer.0", "norm"),
        *linear("output_layer.3", "linear"),
        *batch_norm("output_layer.4", "embedding_norm", affine),
    ]


def read_arcface(checkpoint: Checkpoint) -> ArcFace:
    """Plans the network."""
    backbone = read_backbone_config(checkpoint, "")
    embedding_dim, inputs = checkpoint.shape("output_layer.3.weight")
    side = math.isqrt(inputs // backbone.widths[-1])
    checkpoint.require(side > 0, f"output_layer.3.weight of {backbone.widths[-1]} or more inputs")
    config = ArcFaceConfig(backbone, embedding_dim, image_size=16 * side)
    arcface = nnx.eval_shape(lambda: ArcFace(config, rngs=nnx.Rngs(0)))
    affine = backbone != IRSEConfig.ir_101() or checkpoint.has("output_layer.4.weight")
    constants = {} if affine else {"embedding_norm.scale": 1.0, "embedding_norm.bias": 0.0}
    checkpoint.fill(arcface, arcface_rows(arcface, affine), constants)
    return arcface


def moco_rows(moco: MoCo) -> list[Row]:
    rows = [*conv("conv1", "conv1"), *batch_norm("bn1", "bn1")]
    for i, layer in enumerate(moco.layers):
        for j, block in enumerate(layer):
            projects = block.downsample_conv is not None
            rows += residual_block(f"layer{i + 1}.{j}", f"layers.{i}.{j}", 3, projects)
    return rows


def read_moco(checkpoint: Checkpoint) -> MoCo:
    one, two, three, four = (checkpoint.count(f"layer{i}.") for i in (1, 2, 3, 4))
    config = MoCoConfig((one, two, three, four), width=checkpoint.shape("conv1.weight", rank=4)[0])
    moco = nnx.eval_shape(lambda: MoCo(config, rngs=nnx.Rngs(0)))
    checkpoint.fill(moco, moco_rows(moco))
    return moco


def lpips_rows(lpips: LPIPS) -> list[Row]:
    """The trunk as torchvision has it, the linear weights as PerceptualSimilarity has them."""
    rows = []
    for path in variables(lpips):
        if path.endswith(".kernel"):
            ours = path.removesuffix(".kernel")
            rows += conv(ours.replace("trunk", "features", 1), ours, bias=True)
    for i in range(len(lpips.linears)):
        rows.append(Row(f"lin{i}.model.1.weight", f"linears.{i}", "1 C 1 1 -> C"))
    return rows


def read_lpips(checkpoint: Checkpoint) -> LPIPS:
    if checkpoint.has("features.3.squeeze."):
        net = "squeeze"
    elif checkpoint.has("features.28."):
        net = "vgg"
    else:
        net = "alex"
    lpips = nnx.eval_shape(lambda: LPIPS(LPIPSConfig(net), rngs=nnx.Rngs(0)))
    checkpoint.fill(lpips, lpips_rows(lpips))
    return lpips


def inception_rows(inception: Inception) -> list[Row]:
    """The published names are ours with a capital: Mixed_5b, Conv2d_1a_3x3."""
    rows = []
    for path in variables(inception):
        if path.endswith(".kernel"):
            ours = path.removesuffix(".kernel")
            published = ours[0].upper() + ours[1:]
            rows += conv(f"{published}.conv", ours) + batch_norm(f"{published}.bn", f"{ours}.norm")
    if inception.config.num_classes:
        rows.append(Row("fc.weight", "classes", LINEAR))
    return rows


def read_inception(checkpoint: Checkpoint) -> Inception:
    """With the classes that a file has; their bias is no part of the inception score."""
    classes = checkpoint.tensors.get(f"{checkpoint.prefix}fc.weight")
    shape = () if classes is None else tuple(classes.shape)
    config = InceptionConfig(num_classes=shape[0] if shape else 0)
    inception = nnx.eval_shape(lambda: Inception(config, rngs=nnx.Rngs(0)))
    checkpoint.fill(inception, inception_rows(inception))
    return inception

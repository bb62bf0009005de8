"""Published code with our weights, for --peer=PATH: e4e's, and NVIDIA's generators.

Each computes as it was published: with its own operators for CUDA where there is a GPU, in float32
(or TF32) where ours is in bfloat16 and it has no lower precision, NVIDIA's generators in float16.
"""

import argparse
import contextlib
import importlib
import io
import sys
import types
from unittest import mock

import numpy as np
from flax import nnx

from benchmarks import sides
from benchmarks.published_code import checkouts
from convert_weights.export import export, state_dict
from convert_weights.features import arcface_rows, lpips_rows
from convert_weights.rows import linear
from convert_weights.stylegan2 import nvidia_generator_rows
from e4e_jax.bundle import Bundle
from e4e_jax.models.encoder import Encoder
from e4e_jax.models.latent_discriminator import LatentDiscriminator
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig

# NVIDIA's training computes the highest resolutions in float16 and clamps the activations there.
_FLOAT16_RESOLUTIONS = 4
_CLAMP = 256


def precision(name: str, ours: str) -> str:
    """In what a clone computes where ours computes in a precision of `sides.PRECISIONS`."""
    if ours != "bfloat16":
        return ours
    return "tf32" if name == "e4e" else "float16"


def synthesis(path, generator: Generator, *, device=None):
    """e4e's generator as a function of codes [B, L, 512], with its constant noise.

    `device` is PyTorch's, by default `sides.torch_device()`.
    """
    with _importing("e4e", path):
        from models.stylegan2.model import Generator as Published
    checkpoint, _ = export(Bundle("generator", {"generator": generator}, {}))
    config = generator.config
    network = Published(config.resolution, config.w_dim, config.mapping_layers)
    network = _load(network, checkpoint["g_ema"], device)
    return lambda codes: network([codes], input_is_latent=True, randomize_noise=False)[0]


def nvidia_synthesis(name: str, path, generator: Generator, *, float16: bool, device=None):
    """NVIDIA's synthesis network as a function of codes [B, L, D], with its constant noise.

    Args:
      name: "stylegan2-ada" or "stylegan3".
      path: the clone.
      generator: ours.
      float16: whether the highest resolutions compute in float16, as in its training.
      device: PyTorch's, by default `sides.torch_device()`.
    """
    module = {"stylegan2-ada": "networks", "stylegan3": "networks_stylegan2"}[name]
    with _importing(name, path):
        published = importlib.import_module(f"training.{module}").SynthesisNetwork
        if _on_gpu():
            for operator in ("bias_act", "upfirdn2d"):
                if not importlib.import_module(f"torch_utils.ops.{operator}")._init():
                    raise RuntimeError(f"its {operator} could not be compiled")
    config = generator.config
    network = published(
        config.w_dim,
        config.resolution,
        img_channels=3,
        channel_base=config.channel_base,
        channel_max=config.channel_max,
        num_fp16_res=_FLOAT16_RESOLUTIONS if float16 else 0,
        conv_clamp=_CLAMP if float16 else None,
    )
    prefix = "synthesis."
    rows = [row for row in nvidia_generator_rows(generator) if row.source.startswith(prefix)]
    state = state_dict(generator, rows)
    filters = {k: v for k, v in network.state_dict().items() if k.endswith("resample_filter")}
    network = _load(
        network, {k.removeprefix(prefix): v for k, v in state.items()} | filters, device
    )
    return lambda codes: network(codes, noise_mode="const")


def encoder(path, network: Encoder):
    """e4e's encoder as a function of images [B, 3, 256, 256]."""
    config = network.config
    resolution = 2 ** (config.num_styles // 2 + 1)
    with _importing("e4e", path):
        from models.encoders.psp_encoders import Encoder4Editing
    # What it is exported with does not matter: the generator's half is not loaded.
    other = Generator(GeneratorConfig(resolution, channel_max=8), rngs=nnx.Rngs(0))
    state = _inverter_state(network, other)["state_dict"]
    state = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
    published = Encoder4Editing(50, "ir_se", types.SimpleNamespace(stylegan_size=resolution))
    return _load(published, state)


class TrainStep:
    """e4e's training step on a GPU or CPU: images [B, 3, 256, 256] -> the terms of the loss.

    The body of the loop of its `Coach`, with all deltas open.

    Args:
      path: the clone.
      encoder, discriminator, frozen: ours, see `training.encoder_step.make_encoder_step`.
      options: weights of the losses, an `EncoderOptions`.
      batch: images of a step.
    """

    def __init__(
        self, path, encoder: Encoder, discriminator: LatentDiscriminator, frozen, options, batch
    ):
        import torch

        with _importing("e4e", path), _quiet():
            sys.modules |= _torchvision_of_alexnet()
            from criteria.id_loss import IDLoss
            from criteria.lpips.lpips import LPIPS
            from models.discriminator import LatentCodesDiscriminator
            from models.encoders.psp_encoders import ProgressiveStage
            from models.latent_codes_pool import LatentCodesPool
            from models.psp import pSp
            from training.coach import Coach

        device = sides.torch_device()
        coach = self.coach = object.__new__(Coach)  # its constructor reads data sets and files
        coach.opts = _options(frozen.generator.config, options, batch, device)
        coach.device, coach.global_step = device, 0
        checkpoint = _inverter_state(encoder, frozen.generator)
        with mock.patch.object(pSp, "load_weights", lambda self: None):
            coach.net = _load(pSp(coach.opts), checkpoint["state_dict"]).train()
        coach.net.latent_avg = torch.from_numpy(checkpoint["latent_avg"]).to(device)
        with _quiet():
            stage = ProgressiveStage(frozen.generator.config.num_styles - 1)
            coach.net.encoder.set_progressive_stage(stage)
            arcface = _tensors(state_dict(frozen.identity, arcface_rows(frozen.identity)))
            with mock.patch.object(torch, "load", lambda *_: arcface):
                coach.id_loss = IDLoss().to(device).eval()
        state = _tensors(state_dict(frozen.perceptual, lpips_rows(frozen.perceptual)))
        linears = {name: tensor for name, tensor in state.items() if name.startswith("lin")}
        with mock.patch.object(torch.hub, "load_state_dict_from_url", lambda *_, **__: linears):
            coach.lpips_loss = LPIPS("alex").to(device).eval()
        prefix = "features."
        coach.lpips_loss.net.layers.load_state_dict(
            {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        )
        coach.optimizer = coach.configure_optimizers()
        layers = range(len(discriminator.layers))
        rows = [row for i in layers for row in linear(f"mlp.{2 * i}", f"layers.{i}")]
        coach.discriminator = LatentCodesDiscriminator(512, len(layers))
        _load(coach.discriminator, state_dict(discriminator, rows)).train()
        coach.discriminator_optimizer = torch.optim.Adam(
            coach.discriminator.parameters(), lr=coach.opts.w_discriminator_lr
        )
        coach.real_w_pool = LatentCodesPool(options.w_pool_size)
        coach.fake_w_pool = LatentCodesPool(options.w_pool_size)

    def __call__(self, images) -> dict[str, float]:
        coach = self.coach
        coach.train_discriminator((images, images))
        loss, terms, _ = coach.calc_loss(*coach.forward((images, images)))
        coach.optimizer.zero_grad()
        loss.backward()
        coach.optimizer.step()
        coach.global_step += 1
        return {ours: terms[published] for ours, published in _TERMS.items()}


_TERMS = {
    "l2": "loss_l2",
    "perceptual": "loss_lpips",
    "identity": "loss_id",
    "adversarial": "encoder_discriminator_loss",
    "delta_norm": "total_delta_loss",
}


def _options(config, options, batch, device):
    """The options of e4e's command line that its training step reads."""
    return argparse.Namespace(
        stylegan_size=config.resolution,
        encoder_type="Encoder4Editing",
        dataset_type="ffhq_encode",
        start_from_latent_avg=True,
        device=device,
        batch_size=batch,
        optim_name="ranger",
        learning_rate=1e-4,
        train_decoder=False,
        progressive_steps=list(range(config.num_styles)),
        l2_lambda=options.l2,
        lpips_lambda=options.perceptual,
        id_lambda=options.identity,
        delta_norm=2,
        delta_norm_lambda=options.delta_norm,
        w_discriminator_lambda=options.adversarial,
        w_discriminator_lr=2e-5,
        use_w_pool=True,
        w_pool_size=options.w_pool_size,
        r1=options.r1_gamma,
        d_reg_every=options.r1_every,
    )


def _inverter_state(encoder, generator):
    return export(Bundle("inverter", {"encoder": encoder, "generator": generator}, {}))[0]


def _torchvision_of_alexnet():
    """What the step uses of torchvision: AlexNet, here without a download."""
    import torch

    from benchmarks.torch_reference.networks import LPIPS

    def alexnet(pretrained):
        return types.SimpleNamespace(features=torch.nn.Sequential(*LPIPS("alex").trunk))

    torchvision = types.ModuleType("torchvision")
    torchvision.models = types.ModuleType("torchvision.models")
    torchvision.models.alexnet = alexnet
    torchvision.transforms = types.ModuleType("torchvision.transforms")
    parts = (torchvision, torchvision.models, torchvision.transforms)
    return {part.__name__: part for part in parts}


def _on_gpu() -> bool:
    return sides.torch_device() != "cpu"


@contextlib.contextmanager
def _importing(name, path):
    """For imports of a clone, which compile its operators where there is a GPU.

    Raises:
      ValueError: they cannot be imported.
    """
    checkouts.prepare(name, path, gpu=_on_gpu())
    try:
        yield
    except (ImportError, OSError, RuntimeError) as error:
        raise ValueError(f"the code at {path} cannot be used: {error}") from error


def _quiet():
    return contextlib.redirect_stdout(io.StringIO())


def _tensors(arrays):
    import torch

    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def _load(network, state, device=None):
    import torch

    state = {k: torch.as_tensor(np.array(v)) for k, v in state.items()}
    network.load_state_dict(state)
    return network.eval().to(device or sides.torch_device())

"""e4e's published training step with our weights."""

import argparse
import contextlib
import io
import sys
import types
from unittest import mock

from benchmarks import peers, sides
from convert_weights.export import state_dict
from convert_weights.features import arcface_rows, lpips_rows
from convert_weights.rows import linear
from e4e_jax.models.encoder import Encoder
from e4e_jax.models.latent_discriminator import LatentDiscriminator
from e4e_jax.training.encoder_step import FrozenNetworks
from e4e_jax.training.objective import EncoderOptions

# Our names of the losses -> those that it reports.
_TERMS = {
    "l2": "loss_l2",
    "perceptual": "loss_lpips",
    "identity": "loss_id",
    "adversarial": "encoder_discriminator_loss",
    "delta_norm": "total_delta_loss",
}


class TrainStep:
    """Callable: images [B, 3, 256, 256] -> the terms of the loss.

    The body of the loop of e4e's `Coach`, with all deltas open.

    Args:
      path: a clone of encoder4editing.
      encoder, discriminator, frozen: ours.
      options: weights of the losses.
      batch: images of a step.

    Raises:
      ValueError: the clone cannot be imported.

    Attributes:
      coach: the `Coach`.
    """

    def __init__(
        self,
        path,
        encoder: Encoder,
        discriminator: LatentDiscriminator,
        frozen: FrozenNetworks,
        options: EncoderOptions,
        batch: int,
    ):
        import torch

        with peers.importing("e4e", path):
            sys.modules |= _torchvision_of_alexnet()
            from models.latent_codes_pool import LatentCodesPool
            from training.coach import Coach

        coach = self.coach = object.__new__(Coach)  # its constructor reads data sets and files
        coach.device, coach.global_step = sides.torch_device(), 0
        coach.opts = _options(frozen.generator.config, options, batch, coach.device)
        with contextlib.redirect_stdout(io.StringIO()):  # it tells what it does
            coach.net = _network(encoder, frozen.generator, coach.opts)
            coach.id_loss = _identity_loss(frozen.others["identity"])
            coach.lpips_loss = _perceptual_loss(frozen.others["perceptual"])
        coach.optimizer = coach.configure_optimizers()
        coach.discriminator = _discriminator(discriminator)
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
        l2_lambda=options.weights["l2"],
        lpips_lambda=options.weights["perceptual"],
        id_lambda=options.weights["identity"],
        delta_norm=2,
        delta_norm_lambda=options.weights["delta_norm"],
        w_discriminator_lambda=options.weights["adversarial"],
        w_discriminator_lr=2e-5,
        use_w_pool=True,
        w_pool_size=options.w_pool_size,
        r1=options.r1_gamma,
        d_reg_every=options.r1_every,
    )


def _network(encoder, generator, options):
    import torch
    from models.encoders.psp_encoders import ProgressiveStage
    from models.psp import pSp

    checkpoint = peers.inverter_state(encoder, generator)
    with mock.patch.object(pSp, "load_weights", lambda self: None):
        network = peers.load(pSp(options), checkpoint["state_dict"]).train()
    network.latent_avg = torch.from_numpy(checkpoint["latent_avg"]).to(options.device)
    network.encoder.set_progressive_stage(ProgressiveStage(generator.config.num_styles - 1))
    return network


def _identity_loss(arcface):
    import torch
    from criteria.id_loss import IDLoss

    state = peers.tensors(state_dict(arcface, arcface_rows(arcface)))
    with mock.patch.object(torch, "load", lambda *_: state):  # of a file that it needs
        return IDLoss().to(sides.torch_device()).eval()


def _perceptual_loss(lpips):
    import torch
    from criteria.lpips.lpips import LPIPS

    state = peers.tensors(state_dict(lpips, lpips_rows(lpips)))
    linears = {name: tensor for name, tensor in state.items() if name.startswith("lin")}
    with mock.patch.object(torch.hub, "load_state_dict_from_url", lambda *_, **__: linears):
        loss = LPIPS("alex").to(sides.torch_device()).eval()
    prefix = "features."
    trunk = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    loss.net.layers.load_state_dict(trunk)
    return loss


def _discriminator(discriminator):
    from models.discriminator import LatentCodesDiscriminator

    layers = range(len(discriminator.layers))
    rows = [row for i in layers for row in linear(f"mlp.{2 * i}", f"layers.{i}")]
    network = LatentCodesDiscriminator(512, len(layers))
    return peers.load(network, state_dict(discriminator, rows)).train()


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

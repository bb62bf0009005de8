"""Networks of a checkout of omertov/encoder4editing, with our weights, for --peer=PATH.

Its CUDA operators are compiled where PyTorch has a GPU; elsewhere plain PyTorch takes their place.
"""

import importlib
import math
import os
import sys
import types

import numpy as np
from flax import nnx

from benchmarks import sides
from convert_weights.export import export
from e4e_jax.bundle import Bundle
from e4e_jax.models.stylegan2 import Generator, GeneratorConfig

_SQRT2 = math.sqrt(2)


def synthesis(path, generator: Generator):
    """The published generator as a function of codes [B, L, 512], with its constant noise."""
    checkpoint, _ = export(Bundle("generator", {"generator": generator}, {}))
    published = _module(path, "models.stylegan2.model").Generator
    config = generator.config
    network = _load(
        published(config.resolution, config.w_dim, config.mapping_layers), checkpoint["g_ema"]
    )
    return lambda codes: network([codes], input_is_latent=True, randomize_noise=False)[0]


def encoder(path, network):
    """The published encoder as a function of images [B, 3, 256, 256]."""
    config = network.config
    resolution = 2 ** (config.num_styles // 2 + 1)
    # What it is exported with does not matter: the generator's half is not loaded.
    other = Generator(GeneratorConfig(resolution, channel_max=8), rngs=nnx.Rngs(0))
    checkpoint, _ = export(Bundle("inverter", {"encoder": network, "generator": other}, {}))
    state = {
        name.removeprefix("encoder."): array
        for name, array in checkpoint["state_dict"].items()
        if name.startswith("encoder.")
    }
    options = types.SimpleNamespace(stylegan_size=resolution)
    published = _module(path, "models.encoders.psp_encoders").Encoder4Editing
    return _load(published(50, "ir_se", options), state)


def _load(network, state):
    import torch

    network.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in state.items()})
    return network.eval().to(sides.torch_device())


def _module(path, name):
    """A module of the checkout.

    Raises:
      FileNotFoundError: there is none at `path`.
    """
    if not os.path.isfile(os.path.join(path, *name.split(".")) + ".py"):
        raise FileNotFoundError(
            f"--peer is {path!r}, which holds no {name.replace('.', '/')}.py; expected a checkout "
            "of omertov/encoder4editing."
        )
    if path not in sys.path:
        sys.path.insert(0, path)
    if sides.torch_device() == "cpu":
        sys.modules["models.stylegan2.op"] = plain_operators()
    return importlib.import_module(name)


def plain_operators():
    """A module like the one of operators that published generators compile for CUDA.

    e4e, pSp and ReStyle have it as `models.stylegan2.op`; rosinality's repository, which they have
    it from, as `op`, by now with a `conv2d_gradfix`.
    """
    import torch
    import torch.nn.functional as F

    def fused_leaky_relu(x, bias, negative_slope=0.2, scale=_SQRT2):
        bias = bias.view(1, -1, *[1] * (x.ndim - 2))
        return F.leaky_relu(x + bias, negative_slope) * scale

    class FusedLeakyReLU(torch.nn.Module):
        def __init__(self, channels, negative_slope=0.2, scale=_SQRT2, bias=True):
            super().__init__()
            assert bias  # in all the networks
            self.bias = torch.nn.Parameter(torch.zeros(channels))
            self.negative_slope, self.scale = negative_slope, scale

        def forward(self, x):
            return fused_leaky_relu(x, self.bias, self.negative_slope, self.scale)

    def upfirdn2d(x, kernel, up=1, down=1, pad=(0, 0)):
        batch, channels, height, width = x.shape
        if up > 1:
            spread = x.new_zeros(batch, channels, height, up, width, up)
            spread[:, :, :, 0, :, 0] = x
            x = spread.reshape(batch, channels, height * up, width * up)
        kernel = kernel.flip((0, 1)).expand(channels, 1, *kernel.shape)
        return F.conv2d(F.pad(x, (*pad, *pad)), kernel, groups=channels)[:, :, ::down, ::down]

    operators = types.ModuleType("models.stylegan2.op")
    operators.fused_leaky_relu = fused_leaky_relu
    operators.FusedLeakyReLU = FusedLeakyReLU
    operators.upfirdn2d = upfirdn2d
    operators.conv2d_gradfix = types.SimpleNamespace(
        conv2d=F.conv2d, conv_transpose2d=F.conv_transpose2d
    )
    return operators

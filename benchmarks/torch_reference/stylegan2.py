"""Plain PyTorch forms of StyleGAN2's operations and networks.

Written from the papers: weights per example and grouped convolutions, FIR filters as zero
insertion, padding and a depthwise convolution. Parameters are a dict from the JAX module's paths to
tensors in PyTorch's layout.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx


def torch_parameters(module, device="cpu"):
    """Every variable of a JAX module by its path, in PyTorch's layout, asking for its gradient."""
    return {
        name: torch.from_numpy(array).to(device).requires_grad_()
        for name, array in named_arrays(nnx.state(module)).items()
    }


def named_arrays(state):
    """The arrays of an nnx state by their paths, in PyTorch's layout."""
    return {
        ".".join(map(str, path)): _torch_layout(variable[...], path[-1])
        for path, variable in nnx.to_flat_state(state)
    }


def _torch_layout(array, leaf):
    axes = {"kernel": (3, 2, 0, 1), "weight": (1, 0), "constant": (2, 0, 1)}
    array = np.asarray(array)
    return np.array(array.transpose(axes[leaf]) if leaf in axes else array, order="C")


# Operations


def resample(x, *, up=1, down=1, pad, gain=1.0):
    """Zeros between the pixels, padding, the [1, 3, 3, 1] FIR, every `down`-th pixel."""
    batch, channels, height, width = x.shape
    if up > 1:
        spread = x.new_zeros(batch, channels, height, up, width, up)
        spread[:, :, :, 0, :, 0] = x
        x = spread.reshape(batch, channels, height * up, width * up)
    fir = _fir(x.device, x.dtype, gain).expand(channels, 1, 4, 4)
    return F.conv2d(F.pad(x, (*pad, *pad)), fir, groups=channels)[:, :, ::down, ::down]


_FIRS = {}  # one filter for each device, type and gain: copied to a GPU once


def _fir(device, dtype, gain):
    key = (device, dtype, gain)
    if key not in _FIRS:
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        fir = gain * torch.outer(taps, taps) / taps.sum() ** 2
        _FIRS[key] = fir.to(device, dtype)[None, None]
    return _FIRS[key]


def upsample(x):
    return resample(x, up=2, pad=(2, 1), gain=4.0)


def downsample(x):
    return resample(x, down=2, pad=(1, 1))


def upsample_conv2d(x, weight):
    """weight [O, I, 3, 3]."""
    x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    return resample(x, pad=(1, 1), gain=4.0)


def downsample_conv2d(x, weight):
    pad = (weight.shape[-1] + 1) // 2
    return F.conv2d(resample(x, pad=(pad, pad)), weight, stride=2)


def modulated_conv2d(x, weight, style, *, demodulate=True, up=False):
    """One set of weights for each example, one group of a grouped convolution for each."""
    batch, channels, height, width = x.shape
    outputs, _, size, _ = weight.shape
    weights = weight[None] * style[:, None, :, None, None]  # [B, O, I, k, k]
    if demodulate:
        norms = (weights.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
        weights = weights / norms
    x = x.reshape(1, batch * channels, height, width)
    if up:
        weights = weights.transpose(1, 2).reshape(batch * channels, outputs, size, size)
        x = F.conv_transpose2d(x, weights, stride=2, groups=batch)
        return resample(x.reshape(batch, outputs, *x.shape[2:]), pad=(1, 1), gain=4.0)
    weights = weights.reshape(batch * outputs, channels, size, size)
    x = F.conv2d(x, weights, padding=size // 2, groups=batch)
    return x.reshape(batch, outputs, height, width)


# Networks


def leaky_relu(x):
    return math.sqrt(2) * F.leaky_relu(x, 0.2)


def linear(p, name, x, lr_mul=1.0):
    weight = p[name + ".weight"]
    return F.linear(x, weight * (lr_mul / math.sqrt(weight.shape[1])), p[name + ".bias"] * lr_mul)


def mapping(p, config, z, label=None):
    """z [B, Z], and of a class-conditional generator a one-hot label [B, C] -> w [B, D]."""

    def normalised(x):
        return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()

    x = normalised(z)
    if label is not None:
        x = torch.cat([x, normalised(linear(p, "mapping.embed", label))], 1)
    for i in range(config.mapping_layers):
        x = leaky_relu(linear(p, f"mapping.layers.{i}", x, lr_mul=0.01))
    return x


def synthesis(p, config, w_plus, noise="constant"):
    """Codes [B, L, D] -> images [B, 3 or 1, R, R]; noise is "constant", "random" or "none"."""

    def clamp(x):
        return x if config.conv_clamp is None else x.clamp(-config.conv_clamp, config.conv_clamp)

    def styled_conv(x, i, up):
        name = f"synthesis.convs.{i}"
        style = linear(p, name + ".modulation", w_plus[:, i])
        x = modulated_conv2d(x, equalised(p[name + ".kernel"]), style, up=up)
        if noise == "constant":
            x = x + p[name + ".noise_strength"] * p[name + ".noise"]
        elif noise == "random":
            x = x + p[name + ".noise_strength"] * torch.randn_like(x[:, :1])
        return clamp(leaky_relu(x + p[name + ".bias"][:, None, None]))

    def to_rgb(x, block, i):
        name = f"synthesis.to_rgbs.{block}"
        style = linear(p, name + ".modulation", w_plus[:, i])
        rgb = modulated_conv2d(x, equalised(p[name + ".kernel"]), style, demodulate=False)
        return clamp(rgb + p[name + ".bias"][:, None, None])

    x = p["synthesis.constant"].expand(len(w_plus), -1, -1, -1)
    x = styled_conv(x, 0, up=False)
    rgb = to_rgb(x, 0, 1)
    for block in range(1, len(config.block_resolutions)):
        i = 2 * block - 1
        x = styled_conv(styled_conv(x, i, up=True), i + 1, up=False)
        rgb = upsample(rgb) + to_rgb(x, block, i + 2)
    return rgb


def discriminator(p, config, images):
    """Images [B, 3 or 1, R, R] -> logits [B]."""

    def bias(name):
        return p[name + ".bias"][:, None, None]

    x = leaky_relu(F.conv2d(images, equalised(p["from_rgb.kernel"])) + bias("from_rgb"))
    for i in range(len(config.block_resolutions) - 1):
        name = f"blocks.{i}"
        y = F.conv2d(x, equalised(p[name + ".conv1.kernel"]), padding=1)
        y = leaky_relu(y + bias(name + ".conv1"))
        y = downsample_conv2d(y, equalised(p[name + ".conv2.kernel"]))
        y = leaky_relu(y + bias(name + ".conv2"))
        x = (y + downsample_conv2d(x, equalised(p[name + ".skip.kernel"]))) / math.sqrt(2)

    # Every example belongs to the group of those a quarter of the batch apart.
    groups = len(x) // min(4, len(x))
    stddev = x.new_zeros(len(x), 1, *x.shape[2:])
    for m in range(groups):
        variance = x[m::groups].var(0, correction=0)
        stddev[m::groups] = (variance + 1e-8).sqrt().mean()
    x = torch.cat([x, stddev], 1)

    x = F.conv2d(x, equalised(p["final_conv.kernel"]), padding=1) + bias("final_conv")
    x = leaky_relu(linear(p, "final_linear", leaky_relu(x).flatten(1)))
    return linear(p, "logit", x)[:, 0]


def equalised(weight):
    return weight / math.sqrt(weight[0].numel())

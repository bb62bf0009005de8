"""Plain PyTorch forms of StyleGAN2 in rosinality's layout, the one of e4e's decoder too."""

import math

import torch
import torch.nn.functional as F
from published import EqualLinear, StyleGAN
from torch import nn

from benchmarks.torch_reference import stylegan2 as ops


class Filter(nn.Module):
    def __init__(self, gain):
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("kernel", gain * torch.outer(taps, taps) / taps.sum() ** 2)


class Modulated(nn.Module):
    def __init__(self, n_in, n_out, size, w_dim, up=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, n_out, n_in, size, size))
        self.modulation = EqualLinear(w_dim, n_in, bias=1.0)
        self.up = up
        if up:
            self.blur = Filter(4.0)

    def forward(self, x, w, demodulate=True):
        weight = self.weight[0] / math.sqrt(self.weight[0, 0].numel())
        style = self.modulation(w)
        return ops.modulated_conv2d(x, weight, style, demodulate=demodulate, up=self.up)


class StyledConv(nn.Module):
    def __init__(self, n_in, n_out, w_dim, up):
        super().__init__()
        self.conv = Modulated(n_in, n_out, 3, w_dim, up)
        self.noise = nn.Module()
        self.noise.weight = nn.Parameter(torch.zeros(1))
        self.activate = nn.Module()
        self.activate.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x, w, noise):
        x = self.conv(x, w) + self.noise.weight * noise
        return ops.leaky_relu(x + self.activate.bias[:, None, None])


class ToRGB(nn.Module):
    def __init__(self, n_in, w_dim, up, colours):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, colours, 1, 1))
        self.conv = Modulated(n_in, colours, 1, w_dim)
        if up:
            self.upsample = Filter(4.0)

    def forward(self, x, w):
        return self.conv(x, w, demodulate=False) + self.bias


def published_channels(resolution):
    return min(32768 // resolution, 512)


class Generator(StyleGAN):
    def __init__(self, resolution, w_dim=512, layers=8, channels=published_channels, colours=3):
        super().__init__()
        sizes = [2**i for i in range(2, resolution.bit_length())]
        self.style = nn.Sequential(
            nn.Identity(), *(EqualLinear(w_dim, w_dim, lr_mul=0.01) for _ in range(layers))
        )
        self.input = nn.Module()
        self.input.input = nn.Parameter(torch.randn(1, channels(4), 4, 4))
        self.conv1 = StyledConv(channels(4), channels(4), w_dim, up=False)
        self.to_rgb1 = ToRGB(channels(4), w_dim, False, colours)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        self.noises = nn.Module()
        self.noises.register_buffer("noise_0", torch.randn(1, 1, 4, 4))
        for size in sizes[1:]:
            n = channels(size)
            self.convs.append(StyledConv(channels(size // 2), n, w_dim, up=True))
            self.convs.append(StyledConv(n, n, w_dim, up=False))
            self.to_rgbs.append(ToRGB(n, w_dim, True, colours))
            for i in (len(self.convs) - 1, len(self.convs)):
                self.noises.register_buffer(f"noise_{i}", torch.randn(1, 1, size, size))

    def map(self, z):
        x = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
        for layer in self.style[1:]:
            x = ops.leaky_relu(layer(x))
        return x

    def forward(self, codes):
        noises = [getattr(self.noises, f"noise_{i}") for i in range(len(self.convs) + 1)]
        x = self.input.input.repeat(len(codes), 1, 1, 1)
        x = self.conv1(x, codes[:, 0], noises[0])
        rgb = self.to_rgb1(x, codes[:, 1])
        for i, to_rgb in enumerate(self.to_rgbs):
            up, plain = self.convs[2 * i : 2 * i + 2]
            x = up(x, codes[:, 2 * i + 1], noises[2 * i + 1])
            x = plain(x, codes[:, 2 * i + 2], noises[2 * i + 2])
            rgb = ops.upsample(rgb) + to_rgb(x, codes[:, 2 * i + 3])
        return rgb


class Weight(nn.Module):
    """An equalised convolution without bias."""

    def __init__(self, n_in, n_out, size):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in, size, size))

    @property
    def equalised(self):
        return ops.equalised(self.weight)


class Bias(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(n))

    def forward(self, x):
        return ops.leaky_relu(x + self.bias[:, None, None])


class Block(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.conv1 = nn.Sequential(Weight(n_in, n_in, 3), Bias(n_in))
        self.conv2 = nn.Sequential(Filter(1.0), Weight(n_in, n_out, 3), Bias(n_out))
        self.skip = nn.Sequential(Filter(1.0), Weight(n_in, n_out, 1))

    def forward(self, x):
        y = self.conv1[1](F.conv2d(x, self.conv1[0].equalised, padding=1))
        y = self.conv2[2](ops.downsample_conv2d(y, self.conv2[1].equalised))
        return (y + ops.downsample_conv2d(x, self.skip[1].equalised)) / math.sqrt(2)


class Discriminator(StyleGAN):
    def __init__(self, resolution, channels=published_channels, colours=3):
        super().__init__()
        sizes = [2**i for i in range(resolution.bit_length() - 1, 1, -1)]
        blocks = [Block(channels(n), channels(n // 2)) for n in sizes[:-1]]
        stem = nn.Sequential(Weight(colours, channels(resolution), 1), Bias(channels(resolution)))
        self.convs = nn.Sequential(stem, *blocks)
        n = channels(4)
        self.final_conv = nn.Sequential(Weight(n + 1, n, 3), Bias(n))
        self.final_linear = nn.Sequential(EqualLinear(16 * n, n), EqualLinear(n, 1))

    def forward(self, images):
        x = self.convs[0][1](F.conv2d(images, self.convs[0][0].equalised))
        x = append_stddev(self.convs[1:](x))
        x = self.final_conv[1](F.conv2d(x, self.final_conv[0].equalised, padding=1))
        return self.final_linear[1](ops.leaky_relu(self.final_linear[0](x.flatten(1))))[:, 0]


def append_stddev(x):
    """One channel: the mean deviation within groups of four examples, a quarter apart."""
    groups = len(x) // min(4, len(x))
    deviation = x.new_zeros(len(x), 1, *x.shape[2:])
    for m in range(groups):
        deviation[m::groups] = (x[m::groups].var(0, correction=0) + 1e-8).sqrt().mean()
    return torch.cat([x, deviation], 1)

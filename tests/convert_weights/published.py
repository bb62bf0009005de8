"""Plain PyTorch forms whose state dicts are the published layouts, tensor for tensor.

Written from the papers and the layouts, without regard for speed; sizes are arguments, so that
tests can be small. Every module takes and gives images [B, C, H, W].
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.torch_reference.resnet import BasicBlock

PUBLISHED_DEPTHS = (3, 4, 14, 3)
PUBLISHED_WIDTHS = (64, 128, 256, 512)


def randomize(module, seed=0):
    """Random numbers in every parameter and buffer but constants, none of them 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if not tensor.is_floating_point() or name.endswith(("kernel", "resample_filter")):
            continue
        with torch.no_grad():
            if "var" in name:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.numel() == 1 or tensor.ndim == 1:
                sign = torch.randn(tensor.shape, generator=generator).sign()
                tensor.add_(sign * (torch.rand(tensor.shape, generator=generator) * 0.2 + 0.1))
            else:
                spread = tensor[0].numel() ** -0.5
                if isinstance(module, StyleGAN):
                    spread = 100.0 if name.startswith(("style.", "mapping.")) else 1.0
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * spread)
    return module.eval()


class StyleGAN(nn.Module):
    """Marks networks whose weights are equalised: N(0, 1), in the mapping network N(0, 100²)."""


class EqualLinear(nn.Module):
    def __init__(self, n_in, n_out, lr_mul=1.0, bias=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in) / lr_mul)
        self.bias = nn.Parameter(torch.full((n_out,), bias))
        self.lr_mul = lr_mul

    def forward(self, x):
        scale = self.lr_mul / math.sqrt(self.weight.shape[1])
        return F.linear(x, self.weight * scale, self.bias * self.lr_mul)


class SqueezeExcite(nn.Module):
    def __init__(self, width, reduction):
        super().__init__()
        self.fc1 = nn.Conv2d(width, width // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(width // reduction, width, 1, bias=False)

    def forward(self, x):
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Unit(nn.Module):
    def __init__(self, n_in, width, stride, reduction):
        super().__init__()
        self.stride = stride
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(n_in),
            nn.Conv2d(n_in, width, 3, padding=1, bias=False),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            *([] if reduction is None else [SqueezeExcite(width, reduction)]),
        )
        if n_in != width:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(n_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x):
        projects = hasattr(self, "shortcut_layer")
        shortcut = self.shortcut_layer(x) if projects else x[:, :, :: self.stride, :: self.stride]
        return self.res_layer(x) + shortcut


class IRSE(nn.Module):
    """`input_layer` and `body`; the outputs of the four groups."""

    def __init__(self, widths, depths, reduction, in_channels=3):
        super().__init__()
        self.input_layer = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.PReLU(widths[0]),
        )
        self.body = nn.Sequential()
        n_in, self.ends = widths[0], []
        for width, depth in zip(widths, depths, strict=True):
            for i in range(depth):
                self.body.append(Unit(n_in, width, 2 if i == 0 else 1, reduction))
                n_in = width
            self.ends.append(len(self.body) - 1)

    def groups(self, x):
        x, outputs = self.input_layer(x), []
        for i, unit in enumerate(self.body):
            x = unit(x)
            if i in self.ends:
                outputs.append(x)
        return outputs


class ResNet(nn.Module):
    """ReStyle's: `conv1`, `bn1`, `relu` and `body`; the outputs of the four groups."""

    def __init__(self, widths, depths, in_channels=3):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.PReLU(widths[0])
        self.body = nn.Sequential()
        n_in, self.ends = widths[0], []
        for group, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for i in range(depth):
                self.body.append(BasicBlock(n_in, width, 2 if group and i == 0 else 1))
                n_in = width
            self.ends.append(len(self.body) - 1)

    def groups(self, x):
        x, outputs = self.relu(self.bn1(self.conv1(x))), []
        for i, block in enumerate(self.body):
            x = block(x)
            if i in self.ends:
                outputs.append(x)
        return outputs


class Head(nn.Module):
    def __init__(self, width, convs):
        super().__init__()
        layers = []
        for _ in range(convs):
            layers += [nn.Conv2d(width, width, 3, 2, padding=1), nn.LeakyReLU(0.01)]
        self.convs = nn.Sequential(*layers)
        self.linear = EqualLinear(width, width)

    def forward(self, x):
        return self.linear(self.convs(x).flatten(1))


class Heads:
    """What stands on the four groups of a backbone."""

    def add_heads(self, kind, styles, widths, convs, pyramid):
        self.kind, self.count, self.pyramid = kind, styles, pyramid
        _, fine, middle, coarse = widths
        if kind == "single_w":
            self.linear = EqualLinear(coarse, coarse)
            return
        levels = [0 if i < 3 else 1 if i < 7 else 2 for i in range(styles)]
        self.levels = levels if pyramid else [0] * styles
        self.styles = nn.ModuleList(Head(coarse, convs[level]) for level in self.levels)
        if pyramid:
            self.latlayer1 = nn.Conv2d(middle, coarse, 1)
            self.latlayer2 = nn.Conv2d(fine, coarse, 1)

    def forward(self, x):
        _, fine, middle, coarse = self.groups(x)
        if self.kind == "single_w":
            return self.linear(coarse.mean((2, 3)))[:, None].repeat(1, self.count, 1)
        maps = [coarse]
        if self.pyramid:
            for lateral, below in ((self.latlayer1, middle), (self.latlayer2, fine)):
                size = below.shape[2:]
                enlarged = F.interpolate(maps[-1], size, mode="bilinear", align_corners=True)
                maps.append(enlarged + lateral(below))
        codes = [head(maps[level]) for level, head in zip(self.levels, self.styles, strict=True)]
        if self.kind == "e4e":
            codes = [codes[0]] + [codes[0] + delta for delta in codes[1:]]
        return torch.stack(codes, 1)


class Encoder(Heads, IRSE):
    """e4e, pSp, single-w and ReStyle encoders.

    `convs` of the heads on the 1/16, 1/8 and 1/4 level: one number for a level.
    """

    def __init__(
        self,
        kind,
        styles,
        *,
        widths=PUBLISHED_WIDTHS,
        depths=PUBLISHED_DEPTHS,
        reduction=16,
        in_channels=3,
        convs=(4, 5, 6),
        pyramid=True,
    ):
        IRSE.__init__(self, widths, depths, reduction, in_channels)
        self.add_heads(kind, styles, widths, convs, pyramid)


class ResNetEncoder(Heads, ResNet):
    """The same on ReStyle's ResNet-34."""

    def __init__(
        self,
        kind,
        styles,
        *,
        widths=PUBLISHED_WIDTHS,
        depths=(3, 4, 6, 3),
        in_channels=6,
        convs=(4, 5, 6),
        pyramid=False,
    ):
        ResNet.__init__(self, widths, depths, in_channels)
        self.add_heads(kind, styles, widths, convs, pyramid)


class ArcFace(IRSE):
    def __init__(self, widths, depths, reduction, side=7, embedding=512, affine=True):
        super().__init__(widths, depths, reduction)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(widths[-1]),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(widths[-1] * side * side, embedding),
            nn.BatchNorm1d(embedding, affine=affine),
        )

    def forward(self, x):
        return F.normalize(self.output_layer(self.groups(x)[-1]))

"""Plain PyTorch forms of the encoders and feature networks.

Written from the papers and the published layouts. Submodules carry the names of the JAX modules, so
that weights and gradients can be compared by name.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from torch import nn

from benchmarks.torch_reference import resnet
from benchmarks.torch_reference.resnet import Bottleneck
from e4e_jax.models.resnet import ResNetConfig

# Where a name is not that of the JAX module.
_MODULES = {"downsample_conv": "downsample.0", "downsample_bn": "downsample.1"}
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "slope": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


def torch_arrays(path, array):
    """The (PyTorch name, array in PyTorch's layout) pairs of one variable of a JAX module."""
    *parents, leaf = path
    array = np.asarray(array)
    if parents and parents[0] == "heads":  # stacked: one PyTorch module for each leading index
        _, level, *rest = path
        for i, one in enumerate(array):
            for name, value in torch_arrays(rest, one):
                yield f"heads.{level}.{i}.{name}", value
        return
    parents = [_MODULES.get(part, part) for part in parents]
    name = ".".join(str(part) for part in [*parents, _LEAVES.get(leaf, leaf)])
    yield name, array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def copy_weights(module, reference):
    """Copies every variable of the JAX `module` into `reference`; both sides must match up."""
    state = {}
    for path, variable in nnx.to_flat_state(nnx.state(module)):
        for name, array in torch_arrays(path, variable[...]):
            state[name] = torch.from_numpy(np.array(array))
    missing = set(reference.state_dict()) - set(state)
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    reference.load_state_dict(state, strict=False)
    return reference


class SqueezeExcite(nn.Module):
    def __init__(self, features, reduction):
        super().__init__()
        self.fc1 = nn.Linear(features, features // reduction, bias=False)
        self.fc2 = nn.Linear(features // reduction, features, bias=False)

    def forward(self, x):
        gate = torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3))))))
        return x * gate.unflatten(1, (-1, 1, 1))


class Unit(nn.Module):
    def __init__(self, n_in, n_out, stride, reduction):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(n_in)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
        self.prelu = nn.PReLU(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.squeeze_excite = SqueezeExcite(n_out, reduction)
        self.projects = n_in != n_out
        self.stride = stride
        if self.projects:
            self.shortcut_conv = nn.Conv2d(n_in, n_out, 1, stride, bias=False)
            self.shortcut_norm = nn.BatchNorm2d(n_out)

    def forward(self, x):
        residual = self.norm2(self.conv2(self.prelu(self.conv1(self.norm1(x)))))
        if self.projects:
            shortcut = self.shortcut_norm(self.shortcut_conv(x))
        else:
            shortcut = F.max_pool2d(x, 1, self.stride)
        return self.squeeze_excite(residual) + shortcut


class Backbone(nn.Module):
    def __init__(self, widths, depths, reduction, in_channels=3):
        super().__init__()
        self.stem_conv = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(widths[0])
        self.stem_prelu = nn.PReLU(widths[0])
        sizes = [width for width, depth in zip(widths, depths, strict=True) for _ in range(depth)]
        first = [i == 0 for depth in depths for i in range(depth)]
        self.body = nn.ModuleList(
            Unit(n_in, n_out, 2 if is_first else 1, reduction)
            for n_in, n_out, is_first in zip([widths[0], *sizes[:-1]], sizes, first, strict=True)
        )
        self.taps = np.cumsum(depths) - 1

    def forward(self, x):
        x = self.stem_prelu(self.stem_norm(self.stem_conv(x)))
        outputs = []
        for unit in self.body:
            x = unit(x)
            outputs.append(x)
        return [outputs[i] for i in self.taps]


class EqualLinear(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_out, n_in))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, x):
        return F.linear(x, self.weight / math.sqrt(self.weight.shape[1]), self.bias)


class MapToStyle(nn.Module):
    def __init__(self, n_in, n_out, num_convs):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(n_in if i == 0 else n_out, n_out, 3, 2, padding=1) for i in range(num_convs)
        )
        self.linear = EqualLinear(n_out, n_out)

    def forward(self, x):
        for conv in self.convs:
            x = F.leaky_relu(conv(x))
        return self.linear(x.flatten(1))


class Encoder(nn.Module):
    """`num_convs` of a head per level, coarse to fine, is given: the published code has 4, 5, 6."""

    def __init__(self, config, num_convs):
        super().__init__()
        backbone = config.backbone
        if isinstance(backbone, ResNetConfig):
            self.backbone = resnet.Backbone(backbone)
        else:
            self.backbone = Backbone(
                backbone.widths, backbone.depths, backbone.squeeze_reduction, backbone.in_channels
            )
        self.kind, self.num_styles = config.kind, config.num_styles
        _, fine, middle, coarse = backbone.widths
        if self.kind == "single_w":
            self.linear = EqualLinear(coarse, config.style_dim)
            return
        self.has_pyramid = config.coarse < config.num_styles
        counts = [config.num_styles]
        if self.has_pyramid:
            self.lateral_middle = nn.Conv2d(middle, coarse, 1)
            self.lateral_fine = nn.Conv2d(fine, coarse, 1)
            counts = np.diff([0, config.coarse, config.middle, config.num_styles])
        self.heads = nn.ModuleList(
            nn.ModuleList(MapToStyle(coarse, config.style_dim, n) for _ in range(count))
            for count, n in zip(counts, num_convs, strict=True)
        )

    def forward(self, x, stage=None):
        _, fine, middle, coarse = self.backbone(x)
        if self.kind == "single_w":
            return self.linear(coarse.mean((2, 3))).unsqueeze(1).repeat(1, self.num_styles, 1)
        features = (coarse,)
        if self.has_pyramid:
            middle = self.lateral_middle(middle) + self.enlarge(coarse, middle)
            fine = self.lateral_fine(fine) + self.enlarge(middle, fine)
            features = coarse, middle, fine
        levels = zip(self.heads, features, strict=True)
        heads = [(head, features) for heads, features in levels for head in heads]
        if self.kind == "psp":
            return torch.stack([head(features) for head, features in heads], 1)
        last_open = self.num_styles - 1 if stage is None else stage
        (first, coarse), *others = heads
        w = first(coarse)
        deltas = [head(x) if i <= last_open else 0 for i, (head, x) in enumerate(others, start=1)]
        return torch.stack([w, *(w + delta for delta in deltas)], 1)

    def enlarge(self, x, like):
        return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=True)


class ArcFace(nn.Module):
    def __init__(self, config, embedding_dim, side):
        super().__init__()
        features = config.widths[-1]
        self.backbone = Backbone(config.widths, config.depths, config.squeeze_reduction)
        self.norm = nn.BatchNorm2d(features)
        self.linear = nn.Linear(features * side * side, embedding_dim)
        self.embedding_norm = nn.BatchNorm1d(embedding_dim)

    def forward(self, x):
        x = self.embedding_norm(self.linear(self.norm(self.backbone(x)[-1]).flatten(1)))
        return x / x.norm(dim=1, keepdim=True)


class LatentDiscriminator(nn.Module):
    def __init__(self, style_dim, num_layers):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(style_dim, style_dim) for _ in range(num_layers - 1))
        self.layers.append(nn.Linear(style_dim, 1))

    def forward(self, w):
        for layer in self.layers[:-1]:
            w = F.leaky_relu(layer(w), 0.2)
        return self.layers[-1](w)


class MoCo(nn.Module):
    def __init__(self, depths, width, image_size):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layers = nn.ModuleList()
        n_in = width
        for i, depth in enumerate(depths):
            self.layers.append(nn.ModuleList())
            for j in range(depth):
                stride = 2 if j == 0 and i > 0 else 1
                self.layers[i].append(Bottleneck(n_in, width << i, stride))
                n_in = 4 * (width << i)
        self.image_size = image_size

    def forward(self, x):
        x = F.interpolate(x, size=self.image_size)
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        for layer in self.layers:
            for block in layer:
                x = block(x)
        return F.normalize(x.mean((2, 3)), dim=1)


class Fire(nn.Module):
    def __init__(self, n_in, squeeze, expand):
        super().__init__()
        self.squeeze = nn.Conv2d(n_in, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x):
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], 1))


def _alex():
    conv = nn.Conv2d
    stem = [conv(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    second = [conv(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    rest = [conv(192, 384, 3, padding=1), nn.ReLU(), conv(384, 256, 3, padding=1), nn.ReLU()]
    return stem + second + rest + [conv(256, 256, 3, padding=1), nn.ReLU()]


def _vgg():
    layers, n_in = [], 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        layers += [nn.MaxPool2d(2, 2)] if layers else []
        for _ in range(count):
            layers += [nn.Conv2d(n_in, width, 3, padding=1), nn.ReLU()]
            n_in = width
    return layers


def _squeeze():
    def pool():
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    layers = [nn.Conv2d(3, 64, 3, 2), nn.ReLU()]
    layers += [pool(), Fire(64, 16, 64), Fire(128, 16, 64)]
    layers += [pool(), Fire(128, 32, 128), Fire(256, 32, 128)]
    layers += [pool(), Fire(256, 48, 192), Fire(384, 48, 192)]
    return layers + [Fire(384, 64, 256), Fire(512, 64, 256)]


class LPIPS(nn.Module):
    """Taps: every ReLU that a pooling follows or that ends a trunk, and so on as published."""

    TRUNKS = {
        "alex": (_alex, {1: 64, 4: 192, 7: 384, 9: 256, 11: 256}),
        "vgg": (_vgg, {3: 64, 8: 128, 15: 256, 22: 512, 29: 512}),
        "squeeze": (_squeeze, {1: 64, 4: 128, 7: 256, 9: 384, 10: 384, 11: 512, 12: 512}),
    }

    def __init__(self, net):
        super().__init__()
        build, self.taps = self.TRUNKS[net]
        self.trunk = nn.ModuleList(build())
        self.linears = nn.ParameterList(torch.zeros(n) for n in self.taps.values())
        for name, value in (("shift", (-0.030, -0.088, -0.188)), ("scale", (0.458, 0.448, 0.450))):
            self.register_buffer(name, torch.tensor(value)[:, None, None], persistent=False)

    def features(self, x):
        x = (x - self.shift) / self.scale
        maps = []
        for i, layer in enumerate(self.trunk):
            x = layer(x)
            if i in self.taps:
                maps.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return maps

    def forward(self, a, b):
        maps = zip(self.features(a), self.features(b), self.linears, strict=True)
        parts = [((p - q).square() * w[:, None, None]).sum(1).mean((1, 2)) for p, q, w in maps]
        return torch.stack(parts).sum(0)

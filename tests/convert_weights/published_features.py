"""Plain PyTorch forms of the feature networks in their published layouts."""

import torch
import torch.nn.functional as F
from models import torch_reference
from torch import nn


class Bottleneck(nn.Module):
    def __init__(self, n_in, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        if stride != 1 or n_in != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(n_in, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn3(self.conv3(self.bn2(self.conv2(y)).relu()))
        return (y + (self.downsample(x) if hasattr(self, "downsample") else x)).relu()


class ResNet(nn.Module):
    """ResNet with MoCo v2's projection head."""

    def __init__(self, depths=(3, 4, 6, 3), width=64):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        n_in = width
        for i, depth in enumerate(depths):
            layer = nn.Sequential()
            for j in range(depth):
                layer.append(Bottleneck(n_in, width << i, 2 if j == 0 and i > 0 else 1))
                n_in = 4 * (width << i)
            self.add_module(f"layer{i + 1}", layer)
        self.fc = nn.Sequential(nn.Linear(n_in, n_in), nn.ReLU(), nn.Linear(n_in, 128))

    def forward(self, x):
        x = F.max_pool2d(self.bn1(self.conv1(F.interpolate(x, size=224))).relu(), 3, 2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return F.normalize(x.mean((2, 3)))


def moco_checkpoint(network):
    state = {f"module.encoder_q.{k}": v for k, v in network.state_dict().items()}
    state |= {f"module.encoder_k.{k}": v + 1 for k, v in network.state_dict().items()}
    state |= {"module.queue": torch.randn(4, 8), "module.queue_ptr": torch.zeros(1).long()}
    return {"epoch": 800, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}}}


class Trunk(nn.Module):
    """torchvision's `features` with a classifier that LPIPS has no use for."""

    def __init__(self, net):
        super().__init__()
        build, _ = torch_reference.LPIPS.TRUNKS[net]
        self.features = nn.Sequential(*build())
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(5, 7))


def linear_weights(net, seed=0):
    """LPIPS's linear weights, positive as the published ones are."""
    _, taps = torch_reference.LPIPS.TRUNKS[net]
    generator = torch.Generator().manual_seed(seed)
    return {
        f"lin{i}.model.1.weight": torch.rand(1, n, 1, 1, generator=generator) + 0.1
        for i, n in enumerate(taps.values())
    }


def lpips_distance(trunk, linears, net, a, b):
    form = torch_reference.LPIPS(net)
    form.trunk.load_state_dict(trunk.features.state_dict())
    for ours, weight in zip(form.linears, linears.values(), strict=True):
        ours.data = weight.flatten()
    return form(a, b)


class BasicConv(nn.Module):
    def __init__(self, n_in, n_out, size, stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(n_out, eps=0.001)

    def forward(self, x):
        return self.bn(self.conv(x)).relu()


# name: (input channels or the name of the layer before, output channels, kernel, stride, padding)
_WIDE, _TALL = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))


def _block_a(n, pool):
    return {
        "branch1x1": (n, 64, 1),
        "branch5x5_1": (n, 48, 1),
        "branch5x5_2": (48, 64, 5, 1, 2),
        "branch3x3dbl_1": (n, 64, 1),
        "branch3x3dbl_2": (64, 96, 3, 1, 1),
        "branch3x3dbl_3": (96, 96, 3, 1, 1),
        "branch_pool": (n, pool, 1),
    }


def _block_b(n):
    return {
        "branch3x3": (n, 384, 3, 2),
        "branch3x3dbl_1": (n, 64, 1),
        "branch3x3dbl_2": (64, 96, 3, 1, 1),
        "branch3x3dbl_3": (96, 96, 3, 2),
    }


def _block_c(n, c):
    return {
        "branch1x1": (n, 192, 1),
        "branch7x7_1": (n, c, 1),
        "branch7x7_2": (c, c, *_WIDE),
        "branch7x7_3": (c, 192, *_TALL),
        "branch7x7dbl_1": (n, c, 1),
        "branch7x7dbl_2": (c, c, *_TALL),
        "branch7x7dbl_3": (c, c, *_WIDE),
        "branch7x7dbl_4": (c, c, *_TALL),
        "branch7x7dbl_5": (c, 192, *_WIDE),
        "branch_pool": (n, 192, 1),
    }


def _block_d(n):
    return {
        "branch3x3_1": (n, 192, 1),
        "branch3x3_2": (192, 320, 3, 2),
        "branch7x7x3_1": (n, 192, 1),
        "branch7x7x3_2": (192, 192, *_WIDE),
        "branch7x7x3_3": (192, 192, *_TALL),
        "branch7x7x3_4": (192, 192, 3, 2),
    }


def _block_e(n):
    return {
        "branch1x1": (n, 320, 1),
        "branch3x3_1": (n, 384, 1),
        "branch3x3_2a": (384, 384, (1, 3), 1, (0, 1)),
        "branch3x3_2b": (384, 384, (3, 1), 1, (1, 0)),
        "branch3x3dbl_1": (n, 448, 1),
        "branch3x3dbl_2": (448, 384, 3, 1, 1),
        "branch3x3dbl_3a": (384, 384, (1, 3), 1, (0, 1)),
        "branch3x3dbl_3b": (384, 384, (3, 1), 1, (1, 0)),
        "branch_pool": (n, 192, 1),
    }


class Inception(nn.Module):
    """The FID's Inception by its layout: blocks are dicts of branches, chained by their numbers."""

    def __init__(self):
        super().__init__()
        stem = {
            "Conv2d_1a_3x3": (3, 32, 3, 2),
            "Conv2d_2a_3x3": (32, 32, 3),
            "Conv2d_2b_3x3": (32, 64, 3, 1, 1),
            "Conv2d_3b_1x1": (64, 80, 1),
            "Conv2d_4a_3x3": (80, 192, 3),
        }
        for name, arguments in stem.items():
            self.add_module(name, BasicConv(*arguments))
        self.blocks = {
            "Mixed_5b": _block_a(192, 32),
            "Mixed_5c": _block_a(256, 64),
            "Mixed_5d": _block_a(288, 64),
            "Mixed_6a": _block_b(288),
            "Mixed_6b": _block_c(768, 128),
            "Mixed_6c": _block_c(768, 160),
            "Mixed_6d": _block_c(768, 160),
            "Mixed_6e": _block_c(768, 192),
            "Mixed_7a": _block_d(768),
            "Mixed_7b": _block_e(1280),
            "Mixed_7c": _block_e(2048),
        }
        for name, branches in self.blocks.items():
            convs = {key: BasicConv(*arguments) for key, arguments in branches.items()}
            self.add_module(name, nn.ModuleDict(convs))
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x, size=299):
        x = F.interpolate(x, (size, size), mode="bilinear", align_corners=False)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name in self.blocks:
            x = self.run(name, x)
        return x.mean((2, 3))

    def run(self, name, x):
        block, outputs = getattr(self, name), []
        if "branch_pool" not in block:
            pooled = F.max_pool2d(x, 3, 2)
        elif name == "Mixed_7c":
            pooled = block["branch_pool"](F.max_pool2d(x, 3, 1, padding=1))
        else:
            average = F.avg_pool2d(x, 3, 1, padding=1, count_include_pad=False)
            pooled = block["branch_pool"](average)
        y, before = x, ""
        for key, conv in block.items():
            branch, _, number = key.partition("_")
            if branch == "branch" or key == "branch_pool":
                continue
            if branch != before:
                y, before = x, branch
            if number.endswith(("a", "b")):  # a fork: both read what came before it
                outputs.append(conv(y))
                continue
            y = conv(y)
            is_last = not any(other.startswith(f"{branch}_") and other > key for other in block)
            if is_last:
                outputs.append(y)
        return torch.cat([*outputs, pooled], 1)

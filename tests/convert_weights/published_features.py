"""Plain PyTorch forms of the feature networks in their published layouts."""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.torch_reference import networks
from benchmarks.torch_reference.resnet import Bottleneck


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
        build, _ = networks.LPIPS.TRUNKS[net]
        self.features = nn.Sequential(*build())
        self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(5, 7))


def linear_weights(net, seed=0):
    """LPIPS's linear weights, positive as the published ones are."""
    _, taps = networks.LPIPS.TRUNKS[net]
    generator = torch.Generator().manual_seed(seed)
    return {
        f"lin{i}.model.1.weight": torch.rand(1, n, 1, 1, generator=generator) + 0.1
        for i, n in enumerate(taps.values())
    }


def lpips_distance(trunk, linears, net, a, b):
    form = networks.LPIPS(net)
    form.trunk.load_state_dict(trunk.features.state_dict())
    for ours, weight in zip(form.linears, linears.values(), strict=True):
        ours.data = weight.flatten()
    return form(a, b)


def inception_state(network):
    """The state dict of the FID's Inception in its published layout, its classifier included."""
    state = {}
    for name, tensor in network.state_dict().items():
        name = name.capitalize()
        if ".norm." in name:
            name = name.replace(".norm.", ".bn.")
        else:
            name = name.replace(".weight", ".conv.weight")
        state[name] = tensor
    return state | {"fc.weight": torch.randn(1008, 2048), "fc.bias": torch.randn(1008)}

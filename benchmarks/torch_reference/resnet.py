"""ResNets in plain PyTorch: torchvision's residual blocks, and the backbone of ReStyle."""

from torch import nn


class BasicBlock(nn.Module):
    """Of ResNet-18 and 34: two 3x3 convolutions, the first with the stride."""

    def __init__(self, n_in, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(n_in, width, stride)

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + self.downsample(x)).relu()


class Bottleneck(nn.Module):
    """Of ResNet-50: 1x1, 3x3 with the stride, 1x1 to four times the width."""

    def __init__(self, n_in, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _shortcut(n_in, 4 * width, stride)

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn3(self.conv3(self.bn2(self.conv2(y)).relu()))
        return (y + self.downsample(x)).relu()


def _shortcut(n_in, n_out, stride):
    if stride == 1 and n_in == n_out:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))


class Backbone(nn.Module):
    """The backbone of ReStyle's encoders: outputs of the four groups, submodules named as ours."""

    def __init__(self, config):
        super().__init__()
        n_in, size = config.widths[0], config.stem_size
        self.stem_conv = nn.Conv2d(config.in_channels, n_in, size, 2, padding=size // 2, bias=False)
        self.stem_norm = nn.BatchNorm2d(n_in)
        self.stem_prelu = nn.PReLU(n_in)
        self.body, self.depths = nn.ModuleList(), config.depths
        for group, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            for i in range(depth):
                self.body.append(BasicBlock(n_in, width, 2 if group and i == 0 else 1))
                n_in = width

    def forward(self, x):
        x, outputs, blocks = self.stem_prelu(self.stem_norm(self.stem_conv(x))), [], iter(self.body)
        for depth in self.depths:
            for _ in range(depth):
                x = next(blocks)(x)
            outputs.append(x)
        return outputs

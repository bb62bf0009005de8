"""Plain PyTorch form of the FID's Inception; submodules carry the names of the JAX module."""

import torch
import torch.nn.functional as F
from torch import nn


class ConvNorm(nn.Module):
    def __init__(self, n_in, n_out, size, stride=1, padding="same"):
        super().__init__()
        size = (size, size) if isinstance(size, int) else size
        self.weight = nn.Parameter(torch.zeros(n_out, n_in, *size))
        self.norm = nn.BatchNorm2d(n_out, eps=1e-3)
        self.stride = stride
        self.padding = tuple(n // 2 for n in size) if padding == "same" else 0

    def forward(self, x):
        return F.relu(self.norm(F.conv2d(x, self.weight, None, self.stride, self.padding)))


def average_pool(x):
    return F.avg_pool2d(x, 3, 1, padding=1, count_include_pad=False)


class Block(nn.Module):
    """Convolutions by name: (channels in, out, size[, stride[, "valid"]])."""

    def __init__(self, **convs):
        super().__init__()
        for name, arguments in convs.items():
            self.add_module(name, ConvNorm(*arguments))


class InceptionA(Block):
    def __init__(self, n, pool):
        super().__init__(
            branch1x1=(n, 64, 1), branch5x5_1=(n, 48, 1), branch5x5_2=(48, 64, 5),
            branch3x3dbl_1=(n, 64, 1), branch3x3dbl_2=(64, 96, 3), branch3x3dbl_3=(96, 96, 3),
            branch_pool=(n, pool, 1),
        )  # fmt: skip

    def forward(self, x):
        triple = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        double, pooled = self.branch5x5_2(self.branch5x5_1(x)), self.branch_pool(average_pool(x))
        return torch.cat([self.branch1x1(x), double, triple, pooled], 1)


class InceptionB(Block):
    def __init__(self, n):
        super().__init__(
            branch3x3=(n, 384, 3, 2, "valid"), branch3x3dbl_1=(n, 64, 1),
            branch3x3dbl_2=(64, 96, 3), branch3x3dbl_3=(96, 96, 3, 2, "valid"),
        )  # fmt: skip

    def forward(self, x):
        triple = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), triple, F.max_pool2d(x, 3, 2)], 1)


class InceptionC(Block):
    def __init__(self, n, width):
        wide, tall = (1, 7), (7, 1)
        super().__init__(
            branch1x1=(n, 192, 1), branch7x7_1=(n, width, 1), branch7x7_2=(width, width, wide),
            branch7x7_3=(width, 192, tall), branch7x7dbl_1=(n, width, 1),
            branch7x7dbl_2=(width, width, tall), branch7x7dbl_3=(width, width, wide),
            branch7x7dbl_4=(width, width, tall), branch7x7dbl_5=(width, 192, wide),
            branch_pool=(n, 192, 1),
        )  # fmt: skip

    def forward(self, x):
        short = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        long = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        long = self.branch7x7dbl_5(self.branch7x7dbl_4(long))
        return torch.cat([self.branch1x1(x), short, long, self.branch_pool(average_pool(x))], 1)


class InceptionD(Block):
    def __init__(self, n):
        super().__init__(
            branch3x3_1=(n, 192, 1), branch3x3_2=(192, 320, 3, 2, "valid"),
            branch7x7x3_1=(n, 192, 1), branch7x7x3_2=(192, 192, (1, 7)),
            branch7x7x3_3=(192, 192, (7, 1)), branch7x7x3_4=(192, 192, 3, 2, "valid"),
        )  # fmt: skip

    def forward(self, x):
        long = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        short = self.branch3x3_2(self.branch3x3_1(x))
        return torch.cat([short, self.branch7x7x3_4(long), F.max_pool2d(x, 3, 2)], 1)


class InceptionE(Block):
    def __init__(self, n, pool):
        super().__init__(
            branch1x1=(n, 320, 1), branch3x3_1=(n, 384, 1), branch3x3_2a=(384, 384, (1, 3)),
            branch3x3_2b=(384, 384, (3, 1)), branch3x3dbl_1=(n, 448, 1),
            branch3x3dbl_2=(448, 384, 3), branch3x3dbl_3a=(384, 384, (1, 3)),
            branch3x3dbl_3b=(384, 384, (3, 1)), branch_pool=(n, 192, 1),
        )  # fmt: skip
        self.pool = pool

    def forward(self, x):
        y, z = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        forks = [self.branch3x3_2a(y), self.branch3x3_2b(y)]
        forks += [self.branch3x3dbl_3a(z), self.branch3x3dbl_3b(z)]
        return torch.cat([self.branch1x1(x), *forks, self.branch_pool(self.pool(x))], 1)


class Inception(nn.Module):
    """Images [B, 3, H, W] in [-1, 1] -> features [B, 2048]."""

    def __init__(self, image_size=299):
        super().__init__()
        self.conv2d_1a_3x3 = ConvNorm(3, 32, 3, 2, "valid")
        self.conv2d_2a_3x3 = ConvNorm(32, 32, 3, 1, "valid")
        self.conv2d_2b_3x3 = ConvNorm(32, 64, 3)
        self.conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.conv2d_4a_3x3 = ConvNorm(80, 192, 3, 1, "valid")
        self.mixed_5b, self.mixed_5c = InceptionA(192, 32), InceptionA(256, 64)
        self.mixed_5d, self.mixed_6a = InceptionA(288, 64), InceptionB(288)
        self.mixed_6b, self.mixed_6c = InceptionC(768, 128), InceptionC(768, 160)
        self.mixed_6d, self.mixed_6e = InceptionC(768, 160), InceptionC(768, 192)
        self.mixed_7a = InceptionD(768)
        self.mixed_7b = InceptionE(1280, average_pool)
        self.mixed_7c = InceptionE(2048, lambda x: F.max_pool2d(x, 3, 1, padding=1))
        self.image_size = image_size

    def forward(self, x):
        x = F.interpolate(x, (self.image_size, self.image_size), mode="bilinear")
        x = self.conv2d_2b_3x3(self.conv2d_2a_3x3(self.conv2d_1a_3x3(x)))
        x = self.conv2d_4a_3x3(self.conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        x = self.mixed_6a(self.mixed_5d(self.mixed_5c(self.mixed_5b(x))))
        x = self.mixed_6e(self.mixed_6d(self.mixed_6c(self.mixed_6b(x))))
        return self.mixed_7c(self.mixed_7b(self.mixed_7a(x))).mean((2, 3))

"""NVIDIA's PyTorch layout of StyleGAN2, and pickles as their code writes them."""

import contextlib
import copyreg
import math
import pickle
import sys
import types

import torch
import torch.nn.functional as F
from published import EqualLinear, StyleGAN
from published_stylegan2 import append_stddev
from torch import nn

from benchmarks.torch_reference import stylegan2 as ops


def add_filter(module):
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    module.register_buffer("resample_filter", torch.outer(taps, taps) / taps.sum() ** 2)


class Layer(nn.Module):
    """Convolution with `bias`, modulated where there is `w_dim`, with noise where `size`."""

    def __init__(self, n_in, n_out, kernel, clamp, *, w_dim=None, size=None, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(n_out)) if bias else None
        self.conv_clamp = clamp
        if w_dim is not None:
            self.affine = EqualLinear(w_dim, n_in, bias=1.0)
        if size is not None:
            self.noise_strength = nn.Parameter(torch.zeros([]))
            self.register_buffer("noise_const", torch.randn(size, size))
            add_filter(self)

    def clamped(self, x, gain=1.0):
        limit = math.inf if self.conv_clamp is None else self.conv_clamp * gain
        return (x * gain).clamp(-limit, limit)

    def activate(self, x, gain=1.0):
        return self.clamped(ops.leaky_relu(x + self.bias[:, None, None]), gain)


def modulate(layer, x, w, up=False):
    weight = ops.equalised(layer.weight)
    x = ops.modulated_conv2d(x, weight, layer.affine(w), up=up)
    return layer.activate(x + layer.noise_const * layer.noise_strength)


def to_rgb(layer, x, w):
    weight = ops.equalised(layer.weight)
    x = ops.modulated_conv2d(x, weight, layer.affine(w), demodulate=False)
    return layer.clamped(x + layer.bias[:, None, None])


def normalised(x):
    return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()


class Generator(StyleGAN):
    def __init__(
        self,
        resolution,
        w_dim,
        layers,
        channels,
        clamp=None,
        classes=0,
        mapping_lr_mul=0.01,
        colours=3,
    ):
        super().__init__()
        self.sizes = [2**i for i in range(2, resolution.bit_length())]
        self.c_dim = classes
        self.layers = layers
        self.mapping = nn.Module()
        if classes:
            self.mapping.embed = EqualLinear(classes, w_dim)
        for i in range(layers):
            n_in = 2 * w_dim if classes and i == 0 else w_dim
            layer = EqualLinear(n_in, w_dim, lr_mul=mapping_lr_mul)
            layer.bias_gain = mapping_lr_mul
            self.mapping.add_module(f"fc{i}", layer)
        self.mapping.register_buffer("w_avg", torch.zeros(w_dim))
        self.synthesis = nn.Module()
        for size in self.sizes:
            n, block = channels(size), nn.Module()
            if size == 4:
                block.const = nn.Parameter(torch.randn(n, 4, 4))
            else:
                n_in = channels(size // 2)
                block.conv0 = Layer(n_in, n, 3, clamp, w_dim=w_dim, size=size)
            block.conv1 = Layer(n, n, 3, clamp, w_dim=w_dim, size=size)
            block.torgb = Layer(n, colours, 1, clamp, w_dim=w_dim)
            add_filter(block)
            self.synthesis.add_module(f"b{size}", block)

    def map(self, z, label=None):
        x = normalised(z)
        if label is not None:
            x = torch.cat([x, normalised(self.mapping.embed(label))], 1)
        for i in range(self.layers):
            x = ops.leaky_relu(getattr(self.mapping, f"fc{i}")(x))
        return x

    def forward(self, codes):
        rgb, i = None, 0
        for size in self.sizes:
            block = getattr(self.synthesis, f"b{size}")
            if size == 4:
                x = block.const.repeat(len(codes), 1, 1, 1)
            else:
                x = modulate(block.conv0, x, codes[:, i], up=True)
                i += 1
            x = modulate(block.conv1, x, codes[:, i])
            i += 1
            new = to_rgb(block.torgb, x, codes[:, i])
            rgb = new if rgb is None else ops.upsample(rgb) + new
        return rgb


class Discriminator(StyleGAN):
    def __init__(self, resolution, channels, clamp=None, group_size=4, classes=0, colours=3):
        super().__init__()
        self.c_dim = classes
        if classes:
            self.mapping = nn.Module()
            self.mapping.embed = EqualLinear(classes, channels(4))
        self.sizes = [2**i for i in range(resolution.bit_length() - 1, 2, -1)]
        for size in self.sizes:
            n, n_out, block = channels(size), channels(size // 2), nn.Module()
            if size == resolution:
                block.fromrgb = Layer(colours, n, 1, clamp)
            block.conv0 = Layer(n, n, 3, clamp)
            block.conv1 = Layer(n, n_out, 3, clamp)
            block.skip = Layer(n, n_out, 1, clamp, bias=False)
            add_filter(block)
            self.add_module(f"b{size}", block)
        n, self.b4 = channels(4), nn.Module()
        self.b4.mbstd = nn.Module()
        self.b4.mbstd.group_size = group_size
        self.b4.conv = Layer(n + 1, n, 3, clamp)
        self.b4.fc = EqualLinear(n * 16, n)
        self.b4.out = EqualLinear(n, 1)

    def forward(self, x):
        for size in self.sizes:
            block = getattr(self, f"b{size}")
            if hasattr(block, "fromrgb"):
                x = block.fromrgb.activate(F.conv2d(x, ops.equalised(block.fromrgb.weight)))
            y = ops.downsample_conv2d(x, ops.equalised(block.skip.weight))
            y = block.skip.clamped(y, math.sqrt(0.5))
            x = block.conv0.activate(F.conv2d(x, ops.equalised(block.conv0.weight), padding=1))
            x = ops.downsample_conv2d(x, ops.equalised(block.conv1.weight))
            x = y + block.conv1.activate(x, math.sqrt(0.5))
        x = append_stddev(x)
        x = self.b4.conv.activate(F.conv2d(x, ops.equalised(self.b4.conv.weight), padding=1))
        return self.b4.out(ops.leaky_relu(self.b4.fc(x.flatten(1))))[:, 0]


def write_pickle(path, networks, source="raise SystemExit('executed')"):
    """Pickles modules as NVIDIA's persistence does: their state beside `source`, their code."""
    with _persistence(networks.values(), source) as easy_dict:
        settings = easy_dict(path="faces.zip", resolution=16)
        path.write_bytes(pickle.dumps({"training_set_kwargs": settings, **networks}))


def save_whole(path, network, as_zip=True, source="raise SystemExit('executed')"):
    """As PTI saves a tuned generator: the module itself, by torch.save."""
    with _persistence([network], source):
        torch.save(network, path, _use_new_zipfile_serialization=as_zip)


@contextlib.contextmanager
def _persistence(networks, source):
    """Lets modules be pickled as NVIDIA's decorator does; gives the class of dicts."""
    with _nvidia_modules() as (reconstruct, easy_dict):

        def reduce(module):
            state = dict(module.__dict__) | {"_init_kwargs": easy_dict(img_resolution=16)}
            meta = {"type": "class", "version": 6, "module_src": source}
            return reconstruct, (meta | {"class_name": type(module).__name__, "state": state},)

        types_of_modules = {type(part) for network in networks for part in network.modules()}
        before = dict(copyreg.dispatch_table)
        copyreg.dispatch_table.update(dict.fromkeys(types_of_modules, reduce))
        try:
            yield easy_dict
        finally:
            copyreg.dispatch_table.clear()
            copyreg.dispatch_table.update(before)


@contextlib.contextmanager
def _nvidia_modules():
    """Names that a pickle can refer to: torch_utils.persistence and dnnlib.util."""

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("only for pickling")

    class EasyDict(dict):
        pass

    modules = {name: types.ModuleType(name) for name in ("torch_utils", "dnnlib")}
    modules["torch_utils.persistence"] = types.ModuleType("torch_utils.persistence")
    modules["dnnlib.util"] = types.ModuleType("dnnlib.util")
    for value, module in (
        (_reconstruct_persistent_obj, "torch_utils.persistence"),
        (EasyDict, "dnnlib.util"),
    ):
        value.__module__, value.__qualname__ = module, value.__name__
        setattr(modules[module], value.__name__, value)
    sys.modules.update(modules)
    try:
        yield _reconstruct_persistent_obj, EasyDict
    finally:
        for name in modules:
            del sys.modules[name]

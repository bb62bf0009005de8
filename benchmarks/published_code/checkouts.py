"""Clones of public repositories: how they are known, and how their modules are imported."""

import dataclasses
import importlib
import math
import os
import sys
import types

_SQRT2 = math.sqrt(2)


@dataclasses.dataclass(frozen=True)
class Checkout:
    """A public repository.

    Attributes:
      repository: its name on GitHub.
      marker: a file by which it is known.
      root: folder of its modules.
    """

    repository: str
    marker: str
    root: str = "."


CHECKOUTS = {
    "e4e": Checkout("omertov/encoder4editing", "editings/latent_editor.py"),
    "psp": Checkout("eladrich/pixel2style2pixel", "models/encoders/psp_encoders.py"),
    "restyle": Checkout("yuval-alaluf/restyle-encoder", "models/encoders/restyle_e4e_encoders.py"),
    "hyperstyle": Checkout("yuval-alaluf/hyperstyle", "models/encoders/w_encoder.py"),
    "rosinality": Checkout("rosinality/stylegan2-pytorch", "op/upfirdn2d.py"),
    "stylegan2-ada": Checkout("NVlabs/stylegan2-ada-pytorch", "training/networks.py"),
    "stylegan3": Checkout("NVlabs/stylegan3", "training/networks_stylegan2.py"),
    "pytorch-fid": Checkout("mseitzer/pytorch-fid", "src/pytorch_fid/inception.py", "src"),
}


def check(name: str, path) -> None:
    """Raises ValueError where `path` is no clone of the repository of this name."""
    checkout = CHECKOUTS[name]
    if not os.path.isfile(os.path.join(path, checkout.marker)):
        raise ValueError(
            f"--{name} is {str(path)!r}, which holds no {checkout.marker}; expected a clone of "
            f"{checkout.repository}."
        )


def recognise(path, names) -> str:
    """Which of these names `path` is a clone of; ValueError where of none."""
    for name in names:
        if os.path.isfile(os.path.join(path, CHECKOUTS[name].marker)):
            return name
    expected = " or ".join(CHECKOUTS[name].repository for name in names)
    raise ValueError(f"--peer is {str(path)!r}; expected a clone of {expected}.")


def prepare(name: str, path, *, gpu: bool = False) -> None:
    """Makes the modules of a clone importable.

    Packages that they import without need here are left out or may be missing. Without a GPU,
    plain PyTorch takes the place of what they would compile for CUDA, and "cuda" means the CPU.

    Args:
      name: one of `CHECKOUTS`.
      path: the clone.
      gpu: whether it runs on a GPU.
    """
    import packaging.version

    root = os.path.abspath(os.path.join(path, CHECKOUTS[name].root))
    if sys.path[0] == root:  # already done
        return
    sys.path.insert(0, root)
    if not gpu:
        _run_on_the_cpu()
    # These would load much, TensorFlow too, and what is measured draws and writes nothing.
    _stand_in("matplotlib", use=lambda *_: None)
    _stand_in("matplotlib.pyplot")
    _stand_in("torch.utils.tensorboard", SummaryWriter=None)
    _add_missing("pkg_resources", parse_version=packaging.version.parse)
    _add_missing("distutils")
    _add_missing("distutils.util", strtobool=None)


def leave_out_downloads() -> None:
    """torchvision's networks get random weights, whatever is asked for."""
    import torchvision.models

    for name in ("resnet34", "resnet50", "alexnet", "vgg16", "squeezenet1_1"):
        make = getattr(torchvision.models, name)

        def untrained(*_, make=make, **__):
            return make(weights=None)

        setattr(torchvision.models, name, untrained)
        setattr(sys.modules[make.__module__], name, untrained)


def _run_on_the_cpu():
    """Plain PyTorch in place of the operators for CUDA, and the CPU in place of "cuda"."""
    import torch

    operators = _plain_operators()
    sys.modules |= {"models.stylegan2.op": operators, "op": operators}
    for kind in (torch.Tensor, torch.nn.Module):
        kind.cuda = lambda self: self
        kind.to = _to_the_cpu(kind.to)


def _plain_operators():
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
            return operators.fused_leaky_relu(x, self.bias, self.negative_slope, self.scale)

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


def _to_the_cpu(to):
    return lambda self, *args, **kwargs: self if args == ("cuda",) else to(self, *args, **kwargs)


def _add_missing(name, **contents):
    """A stand-in for a module that is not installed."""
    try:
        importlib.import_module(name)
    except ImportError:
        _stand_in(name, **contents)


def _stand_in(name, **contents):
    module = sys.modules.setdefault(name, types.ModuleType(name))
    vars(module).update(contents)

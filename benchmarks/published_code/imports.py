"""Lets modules of the checkouts be imported as they are."""

import importlib
import sys
import types

from benchmarks import peer


def prepare(root) -> None:
    """Makes the modules in `root` importable, to run on the CPU in plain PyTorch.

    What they would compile for CUDA is replaced, "cuda" means the CPU, and packages that they
    import without need here may be missing.
    """
    import packaging.version
    import torch

    sys.path.insert(0, str(root))
    operators = peer.plain_operators()
    sys.modules |= {"models.stylegan2.op": operators, "op": operators}
    for kind in (torch.Tensor, torch.nn.Module):
        kind.cuda = lambda self: self
        kind.to = _to_the_cpu(kind.to)
    _add_missing("matplotlib", use=lambda *_: None)
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


def _to_the_cpu(to):
    return lambda self, *args, **kwargs: self if args == ("cuda",) else to(self, *args, **kwargs)


def _add_missing(name, **contents):
    """A stand-in for a module that is not installed."""
    try:
        importlib.import_module(name)
    except ImportError:
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(contents)

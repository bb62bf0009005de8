"""Pickles of NVIDIA's PyTorch projects: modules with the Python source of their classes.

The original loader executes that source. Here a module is only what its state holds: parameters,
buffers, submodules, and plain numbers among its attributes.
"""

import collections
import mmap

import numpy as np

from convert_weights.torch_file import load_storage
from convert_weights.unpickle import Inert, UnpickleError, Unpickler, check_view

# Deeper than any published network; a crafted file could nest without end.
_MAX_DEPTH = 20


class _EasyDict(dict):
    """NVIDIA's dict with attributes."""


class _Module:
    """A pickled module: its state, and nothing of its class."""

    def __init__(self, meta):
        state = meta.get("state") if isinstance(meta, dict) else None
        if not isinstance(state, dict):
            raise UnpickleError("one of its modules has no state")
        self.state = state


def load(path) -> tuple[dict, dict]:
    """The tensors and the plain values of the networks in a pickle.

    Names are network/module.tensor, such as "G_ema/synthesis.b4.conv1.weight".

    Raises:
      UnpickleError: the pickle asks for a name that such files do not need, or holds no networks.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        contents = _Unpickler(data, _NAMES).load()
    tensors, values = {}, {}
    if isinstance(contents, dict):
        for name, value in contents.items():
            if isinstance(value, _Module):
                _flatten(value, f"{name}/", tensors, values)
    if not tensors:
        raise UnpickleError("it is a pickle without networks")
    return tensors, values


class _Unpickler(Unpickler):
    def find_class(self, module, name):
        if module.startswith("dnnlib.tflib"):
            raise UnpickleError(
                "it is a network of TensorFlow; legacy.py of NVIDIA's stylegan2-ada-pytorch "
                "makes a .pkl of it that can be read"
            )
        return super().find_class(module, name)


def _rebuild_tensor(storage, offset, sizes, strides, *_):
    check_view(storage.size, offset, sizes, strides)
    strides = [step * storage.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], sizes, strides, writeable=False)


_NAMES = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _Module,
    ("dnnlib.util", "EasyDict"): _EasyDict,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("torch.storage", "_load_from_bytes"): load_storage,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch", "Size"): Inert,
    ("torch", "device"): Inert,
    ("torch", "float16"): Inert,
    ("torch", "float32"): Inert,
    # Numbers of the data set and of the augmentation.
    ("numpy", "dtype"): Inert,
    ("numpy", "ndarray"): Inert,
    ("numpy.core.multiarray", "scalar"): Inert,
    ("numpy.core.multiarray", "_reconstruct"): Inert,
    ("numpy._core.multiarray", "scalar"): Inert,
    ("numpy._core.multiarray", "_reconstruct"): Inert,
    ("_codecs", "encode"): Inert,
}


def _flatten(module, prefix, tensors, values, depth=0):
    if depth > _MAX_DEPTH:
        raise UnpickleError(f"its modules are nested more than {_MAX_DEPTH} deep")
    for name, value in module.state.items():
        if isinstance(value, bool | int | float | str | None):
            values[f"{prefix}{name}"] = value
    for kind in ("_parameters", "_buffers", "_modules"):
        entries = module.state.get(kind) or {}
        if not isinstance(entries, dict):
            raise UnpickleError(f"one of its modules has {kind} that are no dict")
        for name, value in entries.items():
            if isinstance(value, _Module):
                _flatten(value, f"{prefix}{name}.", tensors, values, depth + 1)
            elif value is not None:
                if not hasattr(value, "dtype"):
                    raise UnpickleError(f"{prefix}{name} is no tensor")
                tensors[f"{prefix}{name}"] = value

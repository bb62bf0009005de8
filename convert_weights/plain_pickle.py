"""Pickles without PyTorch's container, as NVIDIA's PyTorch projects write them.

Their modules hold the Python source of their classes, which the original loader executes. Here a
module is only what its state holds: parameters, buffers, submodules, and plain attributes.
"""

import mmap
import os
from typing import Any

import numpy as np

from convert_weights.names import NAMES, STORAGE_NAMES
from convert_weights.torch_file import load_storage
from convert_weights.unpickle import UnpickleError, Unpickler

_NAMES = NAMES | STORAGE_NAMES | {("torch.storage", "_load_from_bytes"): load_storage}


def load(path: str | os.PathLike, size: int) -> Any:
    """The object in a pickle; modules are `unpickle.Object`, tensors `unpickle.Tensor`.

    Raises:
      UnpickleError: the pickle asks for a name that such files do not need.
    """
    return _load(path, size, 0)


def load_objects(path: str | os.PathLike, size: int) -> Any:
    """The objects in a .npy file of them, which are pickled behind its header.

    ReStyle and HyperStyle write their latents.npy so, a dict.
    """
    with open(path, "rb") as file:
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(np.lib.format.read_magic(file))
        if read_header is None:
            raise UnpickleError("it is a .npy file of another version; expected 1.0 or 2.0")
        read_header(file)
        return _load(path, size, file.tell())


def _load(path, size, start):
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        data.seek(start)
        return Unpickler(data, _NAMES, size).load()

"""Pickles without PyTorch's container, as NVIDIA's PyTorch projects write them.

Their modules hold the Python source of their classes, which the original loader executes. Here a
module is only what its state holds: parameters, buffers, submodules, and plain attributes.
"""

import mmap

from convert_weights.names import NAMES, STORAGE_NAMES
from convert_weights.torch_file import load_storage
from convert_weights.unpickle import Unpickler

_NAMES = NAMES | STORAGE_NAMES | {("torch.storage", "_load_from_bytes"): load_storage}


def load(path, size: int):
    """The object in a pickle; modules are `unpickle.Object`, tensors `unpickle.Tensor`.

    Raises:
      UnpickleError: the pickle asks for a name that such files do not need.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return Unpickler(data, _NAMES, size).load()

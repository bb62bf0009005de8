"""An unpickler for files that nobody vouches for.

A pickle is a program; here it may build only dicts, lists, numbers and what a short table of names
stands for, none of which runs code or makes room for more than the file holds.
"""

import pickle

import ml_dtypes
import numpy as np

# PyTorch's classes of storages, by their names in a pickle.
STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


class UnpickleError(ValueError):
    """The pickle asks for what is not admitted; in one sentence without the file's name."""


class Inert:
    """Stands for an object of any class: keeps nothing and does nothing."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass


# The C unpickler takes whatever memory a pickle's memo index asks for; the Python one does not.
class Unpickler(pickle._Unpickler):
    """Loads a pickle of admitted names.

    Args:
      file: a binary file.
      names: (module, name) -> what stands for it.
      persistent: resolves persistent ids; None where there are none.
    """

    def __init__(self, file, names, persistent=None):
        super().__init__(file, encoding="latin1")
        self._names = names
        self._persistent = persistent

    def find_class(self, module, name):
        if (module, name) in self._names:
            return self._names[module, name]
        raise UnpickleError(f"it asks for {module}.{name}, which no checkpoint needs")

    def persistent_load(self, pid):
        if self._persistent is None:
            raise UnpickleError("it refers to data outside of itself")
        return self._persistent(pid)

    def get_extension(self, code):
        raise UnpickleError(f"it asks for extension {code}, which no checkpoint needs")


def product(sizes) -> int:
    """The number of entries of a tensor; raises UnpickleError for impossible sizes."""
    total = 1
    for size in sizes:
        if type(size) is not int or size < 0:
            raise UnpickleError(f"it declares a tensor of shape {sizes!r:.80}")
        total *= size
    return total


def check_view(count, offset, sizes, strides) -> int:
    """The entries of a tensor that is a view of `count` numbers.

    Raises:
      UnpickleError: it reaches beyond them, or repeats them.
    """
    entries = product(sizes)
    product(strides)
    last = product([offset]) + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
    if entries > count or (entries and last >= count):
        raise UnpickleError(f"it declares a tensor of shape {list(sizes)} in {count} numbers")
    return entries

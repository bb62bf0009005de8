"""An unpickler for files that nobody vouches for.

A pickle is a program; here it may build only dicts, lists, numbers and what a short table of names
(`names.py`) stands for, none of which runs code or makes room for more than the file holds. An
object of any other class is what its pickle says it holds, without its class; a call of any other
function is refused.
"""

import dataclasses
import pickle
import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

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
    "ComplexFloatStorage": np.dtype(np.complex64),
    "ComplexDoubleStorage": np.dtype(np.complex128),
    "UntypedStorage": np.dtype(np.uint8),
}


class UnpickleError(ValueError):
    """The pickle asks for what is not admitted; in one sentence without the file's name."""


@dataclasses.dataclass(frozen=True)
class Name:
    """A class or function that the pickle names and nobody here knows: never called."""

    module: str
    name: str

    def refusal(self) -> UnpickleError:
        return UnpickleError(
            f"it asks for {self.module}.{self.name}, which no checkpoint needs; with the code that "
            "it comes from, save its state_dict() alone"
        )


class Object(dict):
    """Stands for an object of any class: its items where it has some, and its state.

    Attributes:
      state: its attributes by name.
    """

    def __init__(self, state: Any = None):
        super().__init__()
        self.state = {}
        if state is not None:
            self.set_state(state)

    def set_state(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):  # attributes, slots
            if isinstance(part, dict):
                self.state.update(part)

    def append(self, value: Any) -> None:
        self[len(self)] = value

    def extend(self, values: Iterable[Any]) -> None:
        for value in values:
            self.append(value)


@dataclasses.dataclass
class Storage:
    """The numbers that tensors are views of.

    Attributes:
      kind: key of `STORAGES`.
      count: how many numbers.
      numbers: an array [count]; None until it is known where they are.
    """

    kind: str
    count: int
    numbers: np.ndarray | None = None


@dataclasses.dataclass
class Tensor:
    """A view of a storage, by a type of its own where the storage is of bytes."""

    storage: Storage
    offset: int
    sizes: tuple
    strides: tuple
    dtype: np.dtype

    def array(self) -> np.ndarray:
        """The tensor as a view [*sizes]; nothing is copied."""
        assert self.storage.numbers is not None  # read with the file's other storages
        numbers = self.storage.numbers.view(self.dtype)
        strides = [step * self.dtype.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(
            numbers[self.offset :], self.sizes, strides, writeable=False
        )


class Array:
    """Stands for a pickled NumPy array.

    Attributes:
      value: the array; None for one of objects or of fields.
      objects: what an array of objects holds.
    """

    def __init__(self, value: Any = None):
        self.value = value
        self.objects = []

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise UnpickleError("it declares a NumPy array of another kind than NumPy writes")
        _, shape, dtype, is_fortran, data = state
        if isinstance(data, list):
            self.objects = data
            return
        self.value = make_array(data, dtype, shape, "F" if is_fortran else "C")


# The C unpickler takes whatever memory a pickle's memo index asks for; the Python one does not.
class Unpickler(pickle._Unpickler):
    """Loads a pickle of admitted names.

    Args:
      file: a binary file.
      names: (module, name) -> the function that stands for it.
      size: bytes of the file; its tensors may have twice as many, as some share their numbers.
      persistent: resolves persistent ids; None where there are none.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: Any, names: Mapping, size: int, persistent: Callable | None = None):
        super().__init__(file, encoding="latin1")
        self._names = names
        self._size = size
        self._persistent = persistent
        self._tensors = 0  # bytes that the tensors so far have
        self._copied = 0  # entries that functions of the table have made

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("dnnlib.tflib"):
            raise UnpickleError(
                "it is a network of TensorFlow; legacy.py of NVIDIA's stylegan2-ada-pytorch "
                "makes a .pkl of it that can be read"
            )
        if module.endswith("torch_utils.persistence") and name == "_reconstruct_persistent_obj":
            return _persistent_object
        known = self._names.get((module, name))
        return Name(module, name) if known is None else known

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise UnpickleError("it refers to data outside of itself")
        return self._persistent(pid)

    def get_extension(self, code: int) -> Any:
        raise UnpickleError(f"it asks for extension {code}, which no checkpoint needs")

    def _call(self, function, arguments):
        if isinstance(function, Name):
            raise function.refusal()
        if not callable(function) or not isinstance(arguments, tuple):
            raise UnpickleError("it calls what is no function")
        made = function(*arguments)
        if isinstance(made, Tensor):
            self._tensors += product(made.sizes) * made.dtype.itemsize
            if self._tensors > 2 * self._size:
                raise UnpickleError(
                    f"it declares tensors of more than twice its {self._size} bytes"
                )
        elif isinstance(made, dict | list | set | str | bytes):
            self._copied += len(made)
            if self._copied > self._size + 10_000:  # each was in the file before
                raise UnpickleError(f"it makes more of its {self._size} bytes than it holds")
        return made

    def _new(self, cls, arguments):
        """An object without its class, where that is unknown; NumPy's and others by the table."""
        if isinstance(cls, Name):
            return Object()
        return self._call(cls, arguments)

    def _reduce(self):
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def _newobj(self):
        arguments = self.stack.pop()
        self.stack[-1] = self._new(self.stack[-1], arguments)

    def _newobj_ex(self):
        self.stack.pop()  # keyword arguments
        self._newobj()

    def _instantiate(self, cls, arguments):  # opcodes of protocol 0 and 1
        if arguments:
            self.append(self._call(cls, tuple(arguments)))
        else:
            self.append(self._new(cls, ()))

    def _build(self):
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, Object | Array):
            made.set_state(state)
        elif not isinstance(made, dict | list | set | str):  # a state dict has a `_metadata`
            raise UnpickleError("it gives a state to what has none")

    def _setitem(self):
        check_keys([self.stack[-2]])
        super().load_setitem()

    def _setitems(self):
        check_keys(self.stack[::2])
        super().load_setitems()

    def _dict(self):
        check_keys(self.stack[::2])
        super().load_dict()

    def _additems(self):
        check_keys(self.stack)
        super().load_additems()

    def _frozenset(self):
        check_keys(self.stack)
        super().load_frozenset()

    def _bytearray(self):
        count = int.from_bytes(self.read(8), "little")
        if count > self._size:  # pickle's own makes room for it first
            raise UnpickleError(f"it declares {count:,} bytes in a file of {self._size:,}")
        self.append(self.read(count))

    dispatch |= {
        pickle.BYTEARRAY8[0]: _bytearray,
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _newobj,
        pickle.NEWOBJ_EX[0]: _newobj_ex,
        pickle.BUILD[0]: _build,
        pickle.SETITEM[0]: _setitem,
        pickle.SETITEMS[0]: _setitems,
        pickle.DICT[0]: _dict,
        pickle.ADDITEMS[0]: _additems,
        pickle.FROZENSET[0]: _frozenset,
    }


def _persistent_object(meta=None, *_):
    """A module of NVIDIA's persistence, without the source that its original loader executes."""
    state = meta.get("state") if isinstance(meta, dict) else None
    if not isinstance(state, dict):
        raise UnpickleError("one of its modules has no state")
    return Object(state)


def check_keys(keys: Any) -> None:
    """Refuses keys that are no plain values: Python's hash of deeply nested tuples overflows."""
    for key in keys:
        plain = key if isinstance(key, tuple) else (key,)
        if len(plain) > 32 or not all(
            isinstance(part, str | bytes | bool | int | float | None | Name) for part in plain
        ):
            raise UnpickleError(f"it has a key that is a {type(key).__name__}")


def shown(value: Any) -> str:
    """The beginning of a value: tuples within tuples can be too long to write out."""
    return reprlib.repr(value)[:80]


def product(sizes: Any) -> int:
    """The number of entries of a tensor; raises UnpickleError for impossible sizes."""
    if not isinstance(sizes, tuple | list) or len(sizes) > 32:
        raise UnpickleError("it declares a tensor of no or of more than 32 dimensions")
    total = 1
    for size in sizes:
        if type(size) is not int or not 0 <= size < 1 << 63:
            raise UnpickleError(f"it declares a tensor of shape {shown(sizes)}")
        total *= size
    return total


def make_tensor(storage: Any, offset: int, sizes: Any, strides: Any, dtype: Any = None) -> Tensor:
    """A tensor that is a view of a storage.

    Raises:
      UnpickleError: it reaches beyond it, or repeats its numbers.
    """
    if not isinstance(storage, Storage):
        raise UnpickleError("it has a tensor without a storage")
    dtype = dtype or STORAGES[storage.kind]
    count = storage.count * STORAGES[storage.kind].itemsize // dtype.itemsize
    entries = product(sizes)
    product(strides)
    if len(sizes) != len(strides):
        raise UnpickleError(f"it declares a tensor of shape {shown(sizes)}")
    last = product([offset]) + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
    if entries > count or (entries and last >= count):
        raise UnpickleError(f"it declares a tensor of shape {list(sizes)} in {count} numbers")
    return Tensor(storage, offset if entries else 0, tuple(sizes), tuple(strides), dtype)


def make_array(data: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray:
    """A NumPy array of pickled bytes.

    Raises:
      UnpickleError: they are no bytes, of no plain type, or too few or too many.
    """
    if isinstance(data, str):  # as Python 2 has them
        data = data.encode("latin1")
    shape = (shape,) if isinstance(shape, int) else shape
    if not isinstance(data, bytes | bytearray) or not isinstance(dtype, np.dtype):
        raise UnpickleError("it declares a NumPy array of no plain numbers")
    if product(shape) * dtype.itemsize != len(data):
        raise UnpickleError(f"it declares a NumPy array {dtype} {list(shape)} in {len(data)} bytes")
    return np.ndarray(tuple(shape), dtype, data, order="F" if order == "F" else "C")

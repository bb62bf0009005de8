"""What the names in pickles stand for: (module, name) -> a function of its arguments.

None of them runs anything of the file's. What is left is plain: tensors, arrays, dicts, numbers and
strings; things that say nothing about a network are empty objects.
"""

import posixpath
import re

import ml_dtypes
import numpy as np

from convert_weights.unpickle import (
    STORAGES,
    Array,
    Name,
    Object,
    Tensor,
    UnpickleError,
    check_keys,
    make_array,
    make_tensor,
)

_TORCH_DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    **{name: np.dtype(name) for name in ("int64", "int32", "int16", "int8", "uint8")},
    **{name: np.dtype(name) for name in ("uint64", "uint32", "uint16")},
    "bool": np.dtype(np.bool_),
    "complex64": np.dtype(np.complex64),
    "complex128": np.dtype(np.complex128),
}

# Numbers, booleans and strings of bounded length, in NumPy's short notation.
_NUMPY_DTYPE = re.compile(r"[<>|=]?(?:[biufc]\d{1,2}|[SUV]\d{1,5}|[?bBhHiIlLqQefdFDO])")


def _empty(*_) -> Object:
    return Object()


def _mapping(*arguments) -> dict:
    """Of an OrderedDict, a defaultdict or a Counter: pairs, or another mapping."""
    pairs = arguments[-1] if arguments and isinstance(arguments[-1], dict | list) else {}
    if isinstance(pairs, dict):
        return dict(pairs)
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise UnpickleError("it has a dict of no pairs")
    check_keys([key for key, _ in pairs])
    return {key: value for key, value in pairs}


def _members(members=(), *_) -> set:
    if not isinstance(members, list | tuple | set | frozenset):
        raise UnpickleError("it has a set of no list")
    check_keys(members)
    return set(members)


def _listed(members=(), *_) -> list:
    return list(members) if isinstance(members, list | tuple | set | dict) else []


def _reconstructor(_, base=None, state=None, *__) -> Object:
    """copyreg's, by which protocols 0 and 1 make objects."""
    made = Object()
    if isinstance(state, dict):
        made.update(state)
    return made


def _path(*parts) -> str:
    texts = [part for part in parts if isinstance(part, str)]
    if sum(map(len, texts)) > 10_000:  # it could be joined with itself again and again
        raise UnpickleError("it has a path of more than 10,000 characters")
    return posixpath.join("", *texts)


def _device(kind="cpu", *_) -> str:
    return kind if isinstance(kind, str) else "cpu"


def _encode(text="", *_) -> bytes:
    if not isinstance(text, str):
        raise UnpickleError("it encodes what is no text")
    return text.encode("latin1")


def _dtype(code=None, *_):
    if isinstance(code, str) and _NUMPY_DTYPE.fullmatch(code):
        found = np.dtype(code)
        return Object() if found.hasobject else _Dtype(found)
    return Object()  # of fields, or a class


class _Dtype(Object):
    """NumPy pickles the order of bytes behind the type, as a state."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def set_state(self, state):
        if isinstance(state, tuple) and len(state) > 1 and state[1] in (">", "<", "="):
            self.dtype = self.dtype.newbyteorder(state[1])


def _numpy_scalar(dtype=None, data=b"", *_):
    """A number of Python's, a string, or nothing."""
    if not isinstance(dtype, _Dtype):
        return None
    return make_array(data, dtype.dtype, ()).item()


def _numpy_array(*_) -> Array:
    return _PickledArray()


class _PickledArray(Array):
    def set_state(self, state):
        if isinstance(state, tuple) and len(state) == 5:
            version, shape, dtype, is_fortran, data = state
            if not isinstance(dtype, _Dtype) and not isinstance(data, list):
                return  # of fields
            state = version, shape, getattr(dtype, "dtype", None), is_fortran, data
        super().set_state(state)


def _from_buffer(data=b"", dtype=None, shape=(), order="C", *_) -> Array:
    """NumPy's own since 2.0, of protocol 5."""
    if not isinstance(dtype, _Dtype):
        return Array()
    return Array(make_array(data, dtype.dtype, shape, order))


def _tensor(storage=None, offset=0, sizes=(), strides=(), *_) -> Tensor:
    return make_tensor(storage, offset, sizes, strides)


def _typed_tensor(storage=None, offset=0, sizes=(), strides=(), _=None, __=None, dtype=None, *___):
    known = _TORCH_DTYPES.get(dtype.name) if isinstance(dtype, Name) else None
    if known is None:
        raise UnpickleError(f"it has a tensor of type {getattr(dtype, 'name', dtype)!r:.80}")
    return make_tensor(storage, offset, sizes, strides, known)


def _parameter(tensor=None, *_):
    return tensor


def _tensor_of_a_class(function=None, _=None, arguments=(), *__):
    """A tensor with attributes, or of a subclass: the tensor alone."""
    if function not in (_tensor, _typed_tensor, _parameter) or not isinstance(arguments, tuple):
        raise UnpickleError("it has a tensor that is made in a way of its own")
    return function(*arguments)


_BUILTINS = {
    "set": _members,
    "frozenset": _members,
    "list": _listed,
    "tuple": _listed,
    "dict": _mapping,
    "bytearray": _empty,
    "complex": _empty,
    "slice": _empty,
    "range": _empty,
    "xrange": _empty,  # Python 2's name, in protocol 2
    "bytes": _empty,
    "object": _empty,
}

NAMES = {
    ("collections", "OrderedDict"): _mapping,
    ("collections", "defaultdict"): _mapping,
    ("collections", "Counter"): _mapping,
    ("collections", "deque"): _listed,
    ("copyreg", "_reconstructor"): _reconstructor,
    ("copy_reg", "_reconstructor"): _reconstructor,
    ("copyreg", "__newobj__"): _empty,
    ("argparse", "Namespace"): _empty,
    ("types", "SimpleNamespace"): _empty,
    ("_codecs", "encode"): _encode,
    ("uuid", "UUID"): _empty,
    ("decimal", "Decimal"): _empty,
    ("fractions", "Fraction"): _empty,
    ("torch", "Size"): _listed,
    ("torch", "device"): _device,
    ("torch.serialization", "_get_layout"): _empty,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _typed_tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _tensor_of_a_class,
    ("numpy", "dtype"): _dtype,
    ("numpy", "ndarray"): _numpy_array,
    **{(module, name): value for module in ("builtins", "__builtin__")
       for name, value in _BUILTINS.items()},
    **{("datetime", name): _empty for name in (
        "datetime", "date", "time", "timedelta", "timezone")},
    **{(module, name): _path for module in ("pathlib", "pathlib._local")
       for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath",
                    "PureWindowsPath")},
    **{(f"numpy.{core}.multiarray", name): value for core in ("core", "_core")
       for name, value in {"scalar": _numpy_scalar, "_reconstruct": _numpy_array}.items()},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    **{("numpy.random._pickle", name): _empty for name in (
        "__randomstate_ctor", "__generator_ctor", "__bit_generator_ctor")},
}  # fmt: skip

# Classes of storages are no functions: persistent ids and `Storage` know them by their names.
STORAGE_NAMES = {
    (module, name): name for module in ("torch", "torch.cuda", "torch.storage") for name in STORAGES
}

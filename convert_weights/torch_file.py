"""Files of `torch.save`, in the zip layout and in the older one, read without PyTorch.

The names that the pickle asks for are looked at, and that the declared sizes fit into the file;
tensors are views of the mapped file.
"""

import io
import mmap
import os
import zipfile
from typing import Any

import numpy as np

from convert_weights.names import NAMES, STORAGE_NAMES
from convert_weights.unpickle import (
    STORAGES,
    Storage,
    UnpickleError,
    Unpickler,
    check_keys,
    product,
    shown,
)

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_NAMES = NAMES | STORAGE_NAMES
_LOCAL_HEADER = 30  # bytes of it before a member's name, in a zip archive


def load_zip(path: str | os.PathLike, size: int) -> Any:
    """The object in a file of `torch.save`; tensors are `unpickle.Tensor`.

    Raises:
      UnpickleError: the file is damaged, or asks for more than tensors in dicts, lists and modules.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(m.compress_type != zipfile.ZIP_STORED for m in members):
            raise UnpickleError("it is a compressed archive, which torch.save never writes")
        if sum(m.file_size for m in members) > size:
            raise UnpickleError(f"its archive declares more than the file's {size} bytes")
        pickles = [m for m in members if m.filename.split("/", 1)[-1] == "data.pkl"]
        if any("/code/" in m.filename for m in members):
            raise UnpickleError(
                "it is a program of TorchScript (torch.jit.save); expected the weights alone, the "
                "state_dict() of what it loads as"
            )
        if len(pickles) != 1:
            raise UnpickleError("it is a zip archive, but not one of torch.save")
        damaged = archive.testzip()
        if damaged is not None:
            raise UnpickleError(f"{damaged} in its archive is damaged")
        found = {m.filename.split("/", 1)[-1]: m for m in members}
        if "byteorder" in found and archive.read(found["byteorder"]) != b"little":
            raise UnpickleError("its numbers are in big-endian order; expected little-endian")
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        storages = _Storages(size)
        with archive.open(pickles[0]) as file:
            contents = Unpickler(file, _NAMES, size, storages.find).load()
    for key, storage in storages.found.items():
        length = storage.count * STORAGES[storage.kind].itemsize
        member = found.get(f"data/{key}")
        if member is None or member.file_size != length:
            raise UnpickleError(
                f"data/{key} in its archive has {member.file_size if member else 'no'} bytes; "
                f"expected {length}"
            )
        start = member.header_offset
        name, extra = data[start + 26 : start + 28], data[start + 28 : start + _LOCAL_HEADER]
        start += _LOCAL_HEADER + int.from_bytes(name, "little") + int.from_bytes(extra, "little")
        storage.numbers = _numbers(data, storage, start, size)
    return contents


def load_legacy(path: str | os.PathLike, size: int) -> Any:
    """As `load_zip`, for the layout before PyTorch 1.6."""
    with open(path, "rb") as file:
        return _load_stream(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), size)


def load_storage(data: bytes) -> Storage:
    """The storage in the bytes that a pickled PyTorch module holds for each tensor.

    Raises:
      UnpickleError: the bytes are anything else.
    """
    if not isinstance(data, bytes | bytearray):
        raise UnpickleError("one of its tensors has no storage of its own")
    storage = _load_stream(io.BytesIO(data), len(data), data)
    if not isinstance(storage, Storage):
        raise UnpickleError("one of its tensors has no storage of its own")
    return storage


class _Storages:
    """Adds up what a pickle of tensors declares, without making any of it."""

    def __init__(self, size):
        self.size = size
        self.found = {}  # key -> storage
        self.declared = 0  # bytes

    def find(self, pid):
        """The storage, or view of one, that a persistent id names; also a class of a module."""
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module":
            return pid[1]
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise UnpickleError(f"it refers to {shown(pid)}; expected a tensor's storage")
        _, kind, key, _, count = pid[:5]
        if not isinstance(kind, str) or kind not in STORAGES or not isinstance(key, str):
            raise UnpickleError(f"it has a storage of {shown(kind)}; expected one of numbers")
        length = product([count]) * STORAGES[kind].itemsize
        if key not in self.found:
            self.found[key] = Storage(kind, count)
            self.declared += length
        if (self.found[key].kind, self.found[key].count) != (kind, count):
            raise UnpickleError(f"it declares storage {shown(key)} twice")
        if self.declared > self.size:
            raise UnpickleError(
                f"it declares {self.declared:,} bytes of tensors or more, but the file has "
                f"{self.size:,}; download it again"
            )
        if len(pid) > 5 and pid[5] is not None:
            raise UnpickleError(
                "its storages are views, as of PyTorch before 0.4; load and save it with a newer "
                "one"
            )
        return self.found[key]


def _load_stream(file, size, data=None):
    """Magic number, protocol, platform, the object, the storages' keys; then the storages."""
    storages = _Storages(size)
    magic, protocol, _, contents, keys = (
        Unpickler(file, _NAMES, size, storages.find).load() for _ in range(5)
    )
    if not isinstance(magic, int) or magic != LEGACY_MAGIC or protocol != 1001:
        raise UnpickleError("its magic number is not that of torch.save")
    if isinstance(keys, list):
        check_keys(keys)
    if not isinstance(keys, list) or set(keys) != set(storages.found):
        raise UnpickleError("its list of storages is not that of its tensors")
    for key in keys:
        storage = storages.found[key]
        length = storage.count * STORAGES[storage.kind].itemsize
        header = file.read(8)
        if len(header) < 8 or file.tell() + length > size:
            raise UnpickleError(f"it ends within its tensors, at {size:,} bytes; download it again")
        if int.from_bytes(header, "little") != storage.count:
            raise UnpickleError(
                f"storage {shown(key)} is not of the {storage.count} numbers it declares"
            )
        storage.numbers = _numbers(file if data is None else data, storage, file.tell(), size)
        file.seek(length, 1)
    return contents


def _numbers(data, storage, start, size):
    dtype = STORAGES[storage.kind]
    if start + storage.count * dtype.itemsize > size:
        raise UnpickleError(f"it ends within its tensors, at {size:,} bytes; download it again")
    return np.ndarray((storage.count,), dtype, data, start)

"""Files of `torch.save`, in the zip layout and in the older one.

Everything is looked at before PyTorch sees it: the names that the pickle asks for, and that the
declared sizes fit into the file. PyTorch itself then reads with `weights_only=True`.
"""

import argparse
import collections
import io
import mmap
import zipfile

import numpy as np

from convert_weights.unpickle import (
    STORAGES,
    Inert,
    UnpickleError,
    Unpickler,
    check_view,
    product,
)

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def load(path, size: int):
    """The object in a file of `torch.save`, its tensors on the CPU.

    Raises:
      UnpickleError: the file is damaged, or asks for more than tensors in dicts and lists.
      ImportError: PyTorch is not installed.
    """
    is_zip = zipfile.is_zipfile(path)
    (_check_zip if is_zip else _check_legacy)(path, size)
    import torch

    # Mapped, a file in the zip layout is read tensor by tensor as they are used.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)


def load_storage(data: bytes) -> np.ndarray:
    """The numbers [n] in the bytes that a pickled PyTorch module holds for each tensor.

    Raises:
      UnpickleError: the bytes are anything else.
    """
    storage, offsets = _check_legacy_stream(io.BytesIO(data), len(data))
    if not isinstance(storage, tuple) or len(offsets) != 1:
        raise UnpickleError("one of its tensors has no storage of its own")
    kind, count = storage
    return np.frombuffer(data, STORAGES[kind], count, *offsets)


class _Scan:
    """Adds up what a pickle of tensors declares, without making any of it."""

    def __init__(self, size):
        self.size = size
        self.storages = {}  # key -> (numbers, bytes)
        self.declared = 0  # bytes of storages
        self.tensors = 0  # bytes of tensors
        self.names = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("argparse", "Namespace"): Inert,
            ("torch", "Size"): Inert,
            ("torch._utils", "_rebuild_tensor_v2"): self._tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        } | {("torch", name): name for name in STORAGES}

    def storage(self, pid):
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise UnpickleError(f"it refers to {pid!r:.80}; expected a tensor's storage")
        _, kind, key, _, count = pid[:5]
        if kind not in STORAGES or not isinstance(key, str):
            raise UnpickleError(f"it has a storage of {kind!r:.80}; expected one of numbers")
        length = product([count]) * STORAGES[kind].itemsize
        if key not in self.storages:
            self.storages[key] = count, length
            self.declared += length
        if self.storages[key] != (count, length):
            raise UnpickleError(f"it declares storage {key!r:.80} twice")
        if self.declared > self.size:
            raise UnpickleError(
                f"it declares {self.declared} bytes of tensors or more, but the file has "
                f"{self.size}"
            )
        return kind, count

    def _tensor(self, storage, offset, sizes, strides, *_):
        kind, count = storage
        self.tensors += check_view(count, offset, sizes, strides) * STORAGES[kind].itemsize
        if self.tensors > 2 * self.size:  # tensors may share a storage, within reason
            raise UnpickleError(f"it declares tensors of more than twice its {self.size} bytes")
        return Inert()

    def load(self, file):
        return Unpickler(file, self.names, self.storage).load()


def _check_zip(path, size):
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(m.compress_type != zipfile.ZIP_STORED for m in members):
            raise UnpickleError("it is a compressed archive, which torch.save never writes")
        if sum(m.file_size for m in members) > size:
            raise UnpickleError(f"its archive declares more than the file's {size} bytes")
        pickles = [m for m in members if m.filename.split("/", 1)[-1] == "data.pkl"]
        if len(pickles) != 1 or any("/code/" in m.filename for m in members):
            raise UnpickleError("it is a zip archive, but not one of torch.save")
        damaged = archive.testzip()  # PyTorch's own reader does not check the sums
        if damaged is not None:
            raise UnpickleError(f"{damaged} in its archive is damaged")
        scan = _Scan(size)
        with archive.open(pickles[0]) as file:
            scan.load(file)
        found = {m.filename.split("/", 1)[-1]: m.file_size for m in members}
        for key, (_, length) in scan.storages.items():
            if found.get(f"data/{key}") != length:
                raise UnpickleError(
                    f"data/{key} in its archive has {found.get(f'data/{key}', 'no')} bytes; "
                    f"expected {length}"
                )


def _check_legacy(path, size):
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _check_legacy_stream(data, size)


def _check_legacy_stream(file, size):
    """Magic number, protocol, platform, the object, the storages' keys; then the storages.

    Returns the object as it was scanned, and where in the file the storages begin.
    """
    scan, offsets = _Scan(size), []
    magic, protocol, _, contents, keys = (scan.load(file) for _ in range(5))
    if magic != LEGACY_MAGIC or protocol != 1001:
        raise UnpickleError("its magic number is not that of torch.save")
    if not isinstance(keys, list) or set(keys) != set(scan.storages):
        raise UnpickleError("its list of storages is not that of its tensors")
    for key in keys:
        count, length = scan.storages[key]
        header = file.read(8)
        if len(header) < 8 or file.tell() + length > size:
            raise UnpickleError(f"it ends within its tensors, at {size} bytes")
        if int.from_bytes(header, "little") != count:
            raise UnpickleError(f"storage {key!r:.80} is not of the {count} numbers it declares")
        offsets.append(file.tell())
        file.seek(length, 1)
    return contents, offsets

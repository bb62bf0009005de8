"""Opening a source file: which container it is, and its contents by name."""

import hashlib
import os
import pathlib
import re
import zipfile

import numpy as np

from convert_weights import plain_pickle, strangers, torch_file
from convert_weights.checkpoint import Checkpoint, ConvertError
from convert_weights.contents import Contents
from convert_weights.renaming import strip_wrappers
from convert_weights.unpickle import UnpickleError
from e4e_jax.runtime.files import read_arrays


def read(path: str | os.PathLike) -> Checkpoint:
    """Reads a .pt, .pth, .pkl, .npy or .npz file.

    Raises:
      ConvertError: there is no such file, it is damaged, or of another kind.
    """
    name = os.path.basename(os.path.normpath(path))
    try:
        if os.path.isdir(path):
            raise ConvertError(f"{path} cannot be read: {strangers.describe_folder(path)}.")
        size = os.path.getsize(path)
        if not os.path.isfile(path):
            raise ConvertError(f"{path} is no file; expected a published checkpoint.")
        with open(path, "rb") as file:
            start = file.read(2048)
        contents = _load(path, start, size)
    except UnpickleError as error:
        raise ConvertError(f"{name} cannot be read: {error}.") from None
    except OSError as error:
        raise ConvertError(f"{path} cannot be opened: {error.strerror or error}.") from None
    except ConvertError:
        raise
    except Exception as error:  # a damaged pickle or archive fails in any way it likes
        raise ConvertError(f"{name} {_damage(error)}.") from None
    checkpoint = Checkpoint(name, contents.tensors, contents.values, path=str(path))
    strip_wrappers(checkpoint)
    return checkpoint


def sha256(path: str | os.PathLike) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damage(error) -> str:
    reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    if isinstance(error, EOFError) or re.search(
        "truncated|exhausted|out of input|greater than file size", reason
    ):
        return "is the beginning of a file whose rest is missing; download it again"
    return f"is damaged or no checkpoint: {reason}"


def _load(path, start: bytes, size: int) -> Contents:
    if start.startswith(b"\x93NUMPY"):
        if b"'descr': '|O'" in start[:200]:
            return Contents().add(plain_pickle.load_objects(path, size))
        # Mapped: NumPy compares the declared size with the file's.
        return Contents({"tensor": np.load(path, mmap_mode="r", allow_pickle=False)})
    if start.startswith(b"PK\x03\x04"):
        if not zipfile.is_zipfile(path):
            raise UnpickleError(
                f"it is the beginning of a file of torch.save or NumPy, {size:,} bytes, whose rest "
                "is missing; download it again"
            )
        names = zipfile.ZipFile(path).namelist()
        if names and all(name.endswith(".npy") for name in names):
            try:
                return Contents(read_arrays(path, "arrays"))
            except ValueError as error:
                raise ConvertError(str(error)) from None
        if not any(name.split("/", 1)[-1] == "data.pkl" for name in names):
            stranger = strangers.describe_zip(names)
            if stranger:
                raise UnpickleError(stranger)
        return Contents().add(torch_file.load_zip(path, size))
    legacy_magic = torch_file.LEGACY_MAGIC.to_bytes(10, "little")
    if start.startswith(b"\x80") and legacy_magic in start[:32]:
        return Contents().add(torch_file.load_legacy(path, size))
    stranger = strangers.describe(path, start, size)
    if stranger:
        raise UnpickleError(stranger)
    if start.startswith(b"\x80"):
        contents = Contents().add(plain_pickle.load(path, size))
        if not contents.tensors:
            raise UnpickleError("it is a pickle without networks")
        return contents
    suffix = pathlib.Path(path).suffix or "a file without suffix"
    raise UnpickleError(
        f"it begins with {start[:8]!r} ({suffix}); expected a file of torch.save, a .pkl of "
        "NVIDIA's PyTorch projects, a .npy or a .npz"
    )

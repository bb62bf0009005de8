"""Opening a source file: which container it is, and its contents by name."""

import hashlib
import os
import pathlib

import numpy as np

from convert_weights import nvidia_pickle, torch_file
from convert_weights.checkpoint import Checkpoint, ConvertError
from convert_weights.unpickle import UnpickleError

# Nested dicts of published checkpoints are three or four deep, optimiser state included.
_MAX_DEPTH = 12


def read(path) -> Checkpoint:
    """Reads a .pt, .pth, .pkl or .npy file.

    Raises:
      ConvertError: there is no such file, it is damaged, or of another kind.
    """
    name = os.path.basename(os.path.normpath(path))
    try:
        size = os.path.getsize(path)
        if not os.path.isfile(path):
            raise ConvertError(f"{path} is no file; expected a published checkpoint.")
        with open(path, "rb") as file:
            start = file.read(2048)
        tensors, values = _load(path, start, size)
    except UnpickleError as error:
        raise ConvertError(f"{name} cannot be read: {error}.") from None
    except ImportError as error:
        raise ConvertError(
            f"{name} can only be read with PyTorch ({error}): pip install 'e4e-jax[convert]'."
        ) from None
    except OSError as error:
        raise ConvertError(f"{path} cannot be opened: {error.strerror or error}.") from None
    except ConvertError:
        raise
    except Exception as error:  # a damaged pickle or archive fails in any way it likes
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise ConvertError(f"{name} is damaged or no checkpoint: {reason}.") from None
    return Checkpoint(name, tensors, values)


def sha256(path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load(path, start: bytes, size: int) -> tuple[dict, dict]:
    if start.startswith(b"\x93NUMPY"):
        # Mapped: NumPy compares the declared size with the file's.
        return {"tensor": np.load(path, mmap_mode="r", allow_pickle=False)}, {}
    legacy_magic = torch_file.LEGACY_MAGIC.to_bytes(10, "little")
    is_legacy = start.startswith(b"\x80") and legacy_magic in start[:32]
    if start.startswith(b"PK\x03\x04") or is_legacy:
        contents = torch_file.load(path, size)
    elif start.startswith(b"\x80"):
        return nvidia_pickle.load(path)
    elif start[257:262] == b"ustar":
        raise UnpickleError(
            "it is in the tar layout of PyTorch before 0.2; load and save it with a newer one"
        )
    else:
        suffix = pathlib.Path(path).suffix or "a file without suffix"
        raise UnpickleError(
            f"it begins with {start[:8]!r} ({suffix}); expected a file of torch.save, a .pkl of "
            "NVIDIA's PyTorch projects or a .npy"
        )
    tensors, values = {}, {}
    _flatten(contents, "", tensors, values)
    return tensors, values


def _flatten(value, name, tensors, values, depth=0):
    if depth > _MAX_DEPTH:
        raise UnpickleError(f"it is nested more than {_MAX_DEPTH} deep")
    if type(value).__name__ == "Namespace":
        value = vars(value)
    if isinstance(value, list | tuple):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for key, entry in value.items():
            _flatten(entry, f"{name}/{key}" if name else str(key), tensors, values, depth + 1)
    elif isinstance(value, bool | int | float | str | None):
        values[name] = value
    elif hasattr(value, "layout"):  # a tensor
        if str(value.layout) != "torch.strided" or value.device.type != "cpu":
            raise UnpickleError(f"{name} is a {value.layout} tensor on {value.device.type}")
        tensors[name or "tensor"] = value

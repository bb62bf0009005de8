"""Files: written whole or not at all, and archives of arrays read without trusting them."""

import contextlib
import os
import pathlib
import secrets
import zipfile
from collections.abc import Iterator

import numpy as np


@contextlib.contextmanager
def writing(path) -> Iterator[pathlib.Path]:
    """Gives a temporary path to write to, which becomes `path` once the block has ended well.

    The temporary file lies in the same folder, is hidden, and has the same extension. Its name
    does not grow with that of `path`, which may be as long as the file system allows.

    Raises:
      OSError: the file cannot be written; in one sentence that names `path`.
    """
    path = pathlib.Path(path)
    token = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f".{token}.tmp{path.suffix[:16]}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise OSError(f"{path} cannot be written: {error.strerror or error}.") from error
        raise


def write_arrays(path, arrays: dict[str, np.ndarray]) -> None:
    """Writes a .npz file of named arrays, whole or not at all.

    Raises:
      OSError: the file cannot be written; in one sentence.
    """
    with writing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def read_arrays(path, what: str) -> dict[str, np.ndarray]:
    """Reads a .npz file of named arrays; nothing in it is executed.

    Args:
      path: the file.
      what: what it should hold, for messages, such as "directions".

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged or no such archive; in one sentence.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no file of {what} at {path}.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{path} is no readable .npz file of {what}: {reason}.") from None

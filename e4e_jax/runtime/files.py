"""Files: written whole or not at all, and read without trusting what is in them."""

import contextlib
import json
import math
import os
import pathlib
import re
import secrets
import stat
import time
import warnings
import zipfile
from collections.abc import Collection, Iterator
from typing import Any, BinaryIO

import numpy as np

# What an archive unpacks to at most: codes and images shrink by little, a bomb by a thousand.
_FREE_BYTES, _LARGEST_RATIO = 64 * 2**20, 50
_TEMPORARY = re.compile(r"\.([0-9]{1,9})-[0-9a-f]{8}\.tmp(\..*)?")
_LEFT_SECONDS = 300
_LONGEST_JSON = 16 * 2**20  # bytes


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
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


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Removes what processes that were killed while `writing` have left in a folder.

    Only files of processes that are not there (any more) and that are some minutes old: another
    machine may be writing to the same folder.
    """
    with contextlib.suppress(OSError), os.scandir(os.fspath(folder)) as entries:
        for entry in entries:
            name = _TEMPORARY.fullmatch(entry.name)
            if name and not _is_alive(int(name[1])):
                with contextlib.suppress(OSError):
                    age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                    if age > _LEFT_SECONDS:
                        os.unlink(entry.path)


def _is_alive(process):
    if os.name == "nt":  # where a signal of 0 is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def write_arrays(path: str | os.PathLike, arrays: dict[str, np.ndarray]) -> None:
    """Writes a .npz file of named arrays, whole or not at all.

    Raises:
      OSError: the file cannot be written; in one sentence.
    """
    kept = arrays.keys() & {"file", "allow_pickle"}  # by np.savez, for arguments of its own
    with writing(path) as temporary:
        with open(temporary, "wb") as file:
            others: dict[str, Any] = {n: array for n, array in arrays.items() if n not in kept}
            np.savez(file, **others)
        for name in sorted(kept):
            with zipfile.ZipFile(temporary, "a") as archive:
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, np.asanyarray(arrays[name]), allow_pickle=False)


def read_arrays(
    path: str | os.PathLike, what: str, only: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """Reads a .npz file of named arrays, of numbers or strings; nothing in it is executed.

    No more memory is taken than the file's own size justifies, whatever it claims to hold.

    Args:
      path: the file.
      what: what it should hold, for messages, such as "directions".
      only: the arrays to read, those of them that are there; by default all.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it cannot be read, is damaged, or is no such archive; in one sentence.
    """
    with opened(path, what, ".npz") as file:
        start = file.read(6)
        if start == b"\x93NUMPY":
            raise ValueError("it is a .npy file of one array; expected a .npz file, as np.savez")
        if start[:4] not in (b"PK\3\4", b"PK\5\6"):  # the second of an archive without members
            raise ValueError("it does not begin as one")
        size = file.seek(0, os.SEEK_END)
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            _check_members(members, size)
            named = {member.filename.removesuffix(".npy"): member for member in members}
            return {
                name: _read_member(archive, member)
                for name, member in named.items()
                if only is None or name in only
            }


def read_json(path: str | os.PathLike, what: str) -> Any:
    """Reads a .json file of at most 16 MiB.

    Args:
      path: the file.
      what: what it should hold, for messages.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it cannot be read, or is no JSON; in one sentence.
    """
    with opened(path, what, ".json") as file:
        data = file.read(_LONGEST_JSON + 1)
        if len(data) > _LONGEST_JSON:
            raise ValueError(f"it is longer than {_LONGEST_JSON:,} bytes")
        try:
            return json.loads(data.decode())
        except UnicodeDecodeError:
            raise ValueError("it is no text in UTF-8") from None
        except RecursionError:
            raise ValueError("its brackets are nested too deeply") from None


@contextlib.contextmanager
def opened(path: str | os.PathLike, what: str, kind: str) -> Iterator[BinaryIO]:
    """Gives a file open for reading; whatever the block raises becomes one sentence.

    Libraries raise what they like for damaged bytes, NotImplementedError, struct.error, zlib.error
    and RecursionError among them; a list of all would never be complete.

    Args:
      path: the file.
      what: what it should hold, and `kind` its extension, for messages.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no file, or the block failed.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"there is no file of {what} at {path}.") from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, what, kind, error) from None
    if not stat.S_ISREG(mode):  # a pipe would be waited for, a device has no end
        found = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise ValueError(f"{path} is {found}; expected a {kind} file of {what}.")
    try:
        with open(path, "rb") as file:
            yield file
    except Exception as error:
        raise _unreadable(path, what, kind, error) from None


def _unreadable(path, what, kind, error) -> ValueError:
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())
    reason = reason[:300].rstrip(".") or type(error).__name__
    return ValueError(f"{path} is no readable {kind} file of {what}: {reason}.")


def _check_members(members, size):
    """Looks at what a zip file of `size` bytes claims to hold, before any of it is unpacked."""
    names = set()
    for member in members:
        name = member.filename
        if not name.endswith(".npy") or not name.isprintable() or len(name) > 1000:
            raise ValueError(f"it holds {name!r:.80}, which is no array")
        if name in names:
            raise ValueError(f"it holds {name!r} twice")
        names.add(name)
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{name} is compressed in another way than NumPy does")
    packed = sum(member.compress_size for member in members)
    unpacked = sum(member.file_size for member in members)
    if packed > size or unpacked > _FREE_BYTES + _LARGEST_RATIO * size:
        raise ValueError(f"it claims to hold {unpacked:,} bytes in a file of {size:,}")


def _read_member(archive, member) -> np.ndarray:
    """One array, whose header must ask for as many bytes as there are."""
    with archive.open(member) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd headers: they fit or they do not
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            header = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            header = np.lib.format.read_array_header_2_0(file)
        else:
            raise ValueError(f"{member.filename} is of format {version}; expected 1.0 or 2.0")
        shape, fortran_order, dtype = header
        if dtype.kind not in "biufcSU" or dtype.itemsize == 0:
            raise ValueError(f"{member.filename} is of type {dtype}; expected numbers or strings")
        claimed = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or claimed != member.file_size - file.tell():
            raise ValueError(
                f"{member.filename} claims to be {dtype} {list(shape)}, {claimed:,} bytes, and has "
                f"{member.file_size - file.tell():,}"
            )
        data = bytearray(claimed)
        view, done = memoryview(data), 0
        while done < claimed and (count := file.readinto(view[done : done + 2**20])):
            done += count
        if done < claimed or file.read(1):  # reading past the end compares the checksum
            raise ValueError(f"{member.filename} ends early")
    array = np.ndarray(shape, dtype, data, order="F" if fortran_order else "C")
    if not dtype.isnative:
        array = array.astype(dtype.newbyteorder("="))
    # NumPy looks at the characters of a string only when it becomes one of Python's.
    if dtype.kind == "U" and np.frombuffer(array.tobytes(), np.uint32).max(initial=0) > 0x10FFFF:
        raise ValueError(f"{member.filename} holds characters that do not exist")
    return array

"""Checksums of the files of a folder, in a file beside them: no changed bit goes unnoticed."""

import hashlib
import json
import os

from etils import epath

FILE = "checksums.json"


class Changed(ValueError):
    """A file is not what was written; the message names it."""


def write(folder: str | os.PathLike) -> None:
    """Writes the SHA-256 of all files below `folder` to its file `checksums.json`.

    Args:
      folder: a path, also one such as gs://, whose files are complete.

    Raises:
      OSError: a file cannot be read, or this one not be written.
    """
    root = epath.Path(folder)
    found = {_name(path, root): _digest(path) for path in _files(root)}
    # Hidden, so that a process that is killed here leaves no half of it.
    temporary = root / f".{FILE}.tmp"
    temporary.write_text(json.dumps({"sha256": found}, indent=1) + "\n")
    temporary.replace(root / FILE)


def check(folder: str | os.PathLike) -> None:
    """Holds the files of a folder against its checksums; a folder without any passes.

    Raises:
      Changed: a file is another than when the checksums were written, or is missing; in one
        sentence.
      OSError: a file cannot be read.
    """
    root = epath.Path(folder)
    file = root / FILE
    if not file.exists():
        return
    try:
        expected = dict(json.loads(file.read_text())["sha256"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Changed(
            f"{file} holds no checksums; expected those of the files beside it."
        ) from None
    for name, digest in expected.items():
        path = root / name
        if not path.exists():
            raise Changed(f"{path} is missing, which {FILE} lists.")
        if _digest(path) != digest:
            raise Changed(
                f"{path} is not what was written: its SHA-256 is not that in {FILE} (without that "
                "file the folder is read as it is)."
            )


def _files(folder):
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _files(path)
        elif path.name not in (FILE, f".{FILE}.tmp"):
            yield path


def _name(path, folder):
    return str(path)[len(str(folder)) :].replace("\\", "/").strip("/")


def _digest(path):
    with path.open("rb") as file:
        total = hashlib.sha256()
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()

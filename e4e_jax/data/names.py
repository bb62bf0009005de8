"""Names of images, and the files that results of them go to.

A name is a relative path with forward slashes. Those of files that are read (a latents.npz, say)
are not trusted: `check_names` refuses whatever could lead out of a folder. Every result gets a file
of its own (`settle`) before work starts, on file systems that tell a from A and those that do not.
"""

import collections
import dataclasses
import hashlib
import os
import pathlib
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

_LONGEST_PART, _LONGEST = 255, 1024  # bytes of a file's name, and of a whole path
_LONGEST_STEM, _LONGEST_LABEL = 200, 40  # leave room for endings such as .noise.npz
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # control characters, bytes that are no text, line ends
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclasses.dataclass(frozen=True)
class Numbered(Sequence):
    """Names of `number` images that have none, made when one is asked for: "image 0", ..."""

    number: int

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: Any) -> Any:
        return f"image {range(self.number)[index]}"


def check_names(names: Sequence[str], where: object) -> None:
    """Checks names that a file holds.

    Raises:
      ValueError: one is empty, absolute, over-long, leads to another folder or holds characters
        that no name of ours has, or two are equal; in one sentence that begins with `where`.
    """
    for name in names:
        if fault := _fault(name):
            raise ValueError(
                f"{where} holds the name {name!r:.80}, which {fault}; expected relative names of "
                "images."
            )
    if len(set(names)) < len(names):
        twice = next(name for name, count in collections.Counter(names).items() if count > 1)
        raise ValueError(f"{where} holds the name {twice!r:.80} twice; expected different names.")


def _fault(name):
    if not name:
        return "is empty"
    if not name.isprintable() and any(map(_is_unprintable, name)):
        return "holds control characters"
    if "\\" in name:
        return "holds a backslash"
    if name.startswith("/") or _DRIVE.match(name):
        return "is an absolute path"
    parts = name.split("/")
    if ".." in parts:
        return "leads out of its folder"
    if "" in parts or "." in parts:
        return "has an empty part"
    if len(name.encode()) > _LONGEST or max(len(part.encode()) for part in parts) > _LONGEST_PART:
        return f"is longer than {_LONGEST_PART} bytes between slashes or {_LONGEST} in all"
    return None


def _is_unprintable(character):
    return unicodedata.category(character) in _UNPRINTABLE


def printable(text: str) -> str:
    """A text for the screen: characters that are none are written as in a URL, %0A for instance."""
    if text.isprintable():
        return text
    return "".join(_quoted(c) if _is_unprintable(c) else c for c in text)


def _quoted(character):
    return "".join(f"%{byte:02X}" for byte in os.fsencode(character))


def readable(path: str) -> str:
    """The name of an image at a relative path of a folder: the path itself in nearly all cases.

    What `check_names` would refuse is written as in a URL: %0A for the end of a line.
    """
    name = printable(path).replace("\\", "%5C")
    if _DRIVE.match(name):
        name = f"{name[0]}%3A{name[2:]}"
    return _cut_path(name)


def distinct(labels: Iterable[str]) -> list[str]:
    """Labels as names that `check_names` takes: equal ones get a number, over-long ones are cut."""
    found, used = [], set()
    for label in labels:
        label = _cut_path(label)
        name, number = label, 1
        while name in used:
            number += 1
            name = _cut_path(f"{label} ({number})")
        used.add(name)
        found.append(name)
    return found


def _cut_path(name):
    if len(name.encode()) > _LONGEST:
        name = name.replace("/", "_")
    return "/".join(_cut(part, _LONGEST_PART) for part in name.split("/"))


def _cut(text, most):
    """At most so many bytes; what was cut off is told apart by a digest of the whole."""
    encoded = text.encode()
    if len(encoded) <= most:
        return text
    kept = encoded[: most - 13].decode(errors="ignore")
    return f"{kept}-{_digest(text)}"


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def file_labels(labels: Sequence[str]) -> list[str]:
    """Different parts of file names, without dots and slashes, after labels of any kind."""
    found, used = [], set()
    for label in labels:
        plain = "".join("_" if c in "/\\." or _is_unprintable(c) else c for c in label)
        plain = _cut(plain, _LONGEST_LABEL)
        name, number = plain, 1
        while _key(name) in used:
            number += 1
            name = f"{plain}-{number}"
        used.add(_key(name))
        found.append(name)
    return found


def settle(
    names: Sequence[str],
    *,
    kept: Mapping[str, str] | None = None,
    reserved: Collection[str] = (),
    beside: Collection[str] = (),
) -> list[str]:
    """A PNG file for each image, all different, also where case does not count.

    It has the image's name with another extension. The image's own extension stays in front where
    two images differ in nothing else, or where the file would be taken; then comes a digest of the
    name. Over-long names are cut.

    Args:
      names: of the images, all different.
      kept: name -> file of earlier runs, which stay; of other images, too.
      reserved: files and folders that are no image's.
      beside: endings of further files that an image may have, in place of .png.
    """
    kept = dict(kept or {})
    taken = _Taken(reserved)
    for file in kept.values():
        taken.add(file, beside)
    stems = collections.Counter(_key(os.path.splitext(name)[0]) for name in names)
    files = []
    for name in names:
        if name not in kept:
            shared = stems[_key(os.path.splitext(name)[0])] > 1
            kept[name] = next(
                file for file in _candidates(name, shared) if taken.is_free(file, beside)
            )
            taken.add(kept[name], beside)
        files.append(kept[name])
    return files


def _candidates(name, shared) -> Iterator[str]:
    folder, _, base = name.rpartition("/")
    stem = os.path.splitext(base)[0]
    folder = f"{folder}/" if folder and len(folder.encode()) < _LONGEST - 256 else ""
    if not shared and (folder or "/" not in name):
        yield f"{folder}{_cut(stem, _LONGEST_STEM)}.png"
    if folder or "/" not in name:
        yield f"{folder}{_cut(base, _LONGEST_STEM)}.png"
    marked = f"{_cut(stem, _LONGEST_STEM - 13)}-{_digest(name)}"
    yield f"{folder}{marked}.png"
    yield f"{marked}.png"  # where a folder has the name of a file
    number = 1
    while True:
        number += 1
        yield f"{marked}-{number}.png"


class _Taken:
    """Paths that are in use, as a file system sees them to which a and A are the same."""

    def __init__(self, reserved):
        self._files, self._folders = set(), set()
        for file in reserved:
            self.add(file, ())

    def is_free(self, file, beside):
        return not any(
            key in self._files or key in self._folders or self._files & set(_above(key))
            for key in self._keys(file, beside)
        )

    def add(self, file, beside):
        for key in self._keys(file, beside):
            self._files.add(key)
            self._folders.update(_above(key))

    def _keys(self, file, beside):
        stem = os.path.splitext(file)[0]
        return [_key(path) for path in (file, *(stem + ending for ending in beside))]


def _above(path):
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts))]


def _key(path):
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def check_places(out: str | os.PathLike, files: Iterable[str]) -> None:
    """Checks, before work starts, that files can be written below OUT.

    Raises:
      ValueError: a folder on the way is a symbolic link or no folder, or a folder is where a file
        is to be; in one sentence.
    """
    for folder, inside in _by_folder(files).items():
        _check_folders(out, folder)
        try:
            entries = {entry.name: entry for entry in os.scandir(os.path.join(out, folder))}
        except OSError:
            continue  # not there yet; or writing will say what is wrong with it
        for file in inside & entries.keys():
            if entries[file].is_dir(follow_symlinks=False):
                raise ValueError(
                    f"{entries[file].path} is a folder, where a file is to be written; choose "
                    "another folder for OUT."
                )


def place(out: str | os.PathLike, file: str) -> pathlib.Path:
    """The path of a file below OUT; its folders are made, and no symbolic link is followed.

    Raises:
      ValueError: there is a link or a file where a folder should be; in one sentence.
      OSError: a folder cannot be made; in one sentence.
    """
    folder, _, base = file.rpartition("/")
    _check_folders(out, folder)
    path = pathlib.Path(out, folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{path} cannot be made: {error.strerror or error}.") from error
    return path / base


def _by_folder(files):
    found = collections.defaultdict(set)
    for file in files:
        folder, _, base = file.rpartition("/")
        found[folder].add(base)
    return found


def _check_folders(out, folder):
    for part in [*_above(folder), folder] if folder else []:
        path = pathlib.Path(out, part)
        if path.is_symlink():
            raise ValueError(
                f"{path} is a symbolic link, and results are not written through links; choose "
                "another folder for OUT."
            )
        if path.exists() and not path.is_dir():
            raise ValueError(
                f"{path} is a file, where a folder is to be; choose another folder for OUT."
            )

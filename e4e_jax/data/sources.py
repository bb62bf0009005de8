"""Sources of images that come in files; what a source is says `registry.Source`."""

import collections
import contextlib
import functools
import glob
import logging
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from e4e_jax.data import outputs
from e4e_jax.data.images import decode_image, extensions
from e4e_jax.data.names import Numbered, readable
from e4e_jax.data.registry import Source

_USUAL = (".jpg", ".png", ".webp", ".tiff", ".bmp")  # of some sixty, in messages
_NAMED = 3  # of the files that are passed over for one reason


class ImageFolder:
    """The images of a folder, sorted by name; hidden files and folders are left out.

    Images are the files with an extension that Pillow reads here. The others are passed over and
    named in a warning; so is what is no file to be read to its end, such as a named pipe. The
    sheets and codes that `e4e_jax` itself has written there are no images and not named.

    Attributes:
      path: the folder.
      names: of the images: their paths relative to the folder, with forward slashes.
      paths: of the files.

    Args:
      path: the folder.
      recursive: whether images in folders of the folder count.
      without: a folder in it that is left out, such as one for results.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: no file in it has a known extension.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        recursive: bool = True,
        without: str | os.PathLike | None = None,
    ):
        self.path = Path(path)
        if not self.path.is_dir():
            found = "is not a folder" if os.path.lexists(self.path) else "does not exist"
            raise FileNotFoundError(f"{self.path} {found}, expected a folder of images")
        listing = _Listing()
        listing.add_folder(self.path, recursive, without)
        listing.warn(self.path)
        if not listing.files:
            raise ValueError(f"{self.path} contains no images, {listing.expected()}")
        named = sorted(zip(_different(map(readable, listing.files)), listing.files, strict=True))
        self.names = [name for name, _ in named]
        self._files = [file for _, file in named]

    @property
    def paths(self) -> list[Path]:
        return [self.path / file for file in self._files]

    @property
    def description(self) -> str:
        return f"images of the folder {os.path.basename(os.path.abspath(self.path))}"

    @property
    def origins(self) -> dict[str, str]:
        """Image -> the input whose inversion it is, in a folder that `invert` has written."""
        return outputs.origins(self.path)

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        return decode_image(self.path / self._files[index])


def _different(names):
    """Names as they are; one that was there before, which only odd ones can be, gets a mark."""
    used = set()
    for name in names:
        while name in used:
            name += "~"
        used.add(name)
        yield name


class _Listing:
    """Files that are images, and what was passed over on the way to them.

    Attributes:
      files: as they were found.
      passed_over: why -> files.
      ours: sheets of `e4e_jax`.
    """

    def __init__(self):
        self.files, self.ours = [], []
        self.passed_over = collections.defaultdict(list)
        self._extensions = tuple(extensions())

    def add_folder(self, root, recursive, without):
        """All files under root; linked folders are followed, once each."""
        seen = {os.path.realpath(root)}
        if without is not None and os.path.realpath(without) not in seen:
            seen.add(os.path.realpath(without))
        waiting = [("", outputs.written_above(root))]
        while waiting:
            inside, above = waiting.pop()
            files, folders = self._scan(os.path.join(root, inside), inside)
            if inside and {outputs.INVERSION, outputs.SHEETS} & {entry.name for entry in files}:
                above = [*above, (outputs.written(os.path.join(root, inside)), "")]
            for entry in files:
                self.add_file(inside + entry.name, entry.name, entry, above)
            kept = []
            for entry in folders if recursive else []:
                target = os.path.realpath(entry.path)
                if target not in seen and not _is_our_folder(entry.name, above):
                    seen.add(target)
                    below = [(made, f"{prefix}{entry.name}/") for made, prefix in above]
                    kept.append((f"{inside}{entry.name}/", below))
            waiting += reversed(kept)

    def _scan(self, folder, inside):
        try:
            with os.scandir(folder) as entries:
                shown = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            if not inside:
                raise OSError(f"{folder} cannot be read: {error.strerror or error}.") from error
            self.passed_over[f"cannot be read: {error.strerror}"].append(inside)
            return [], []
        # Which of two links to one folder is taken must not depend on the disk.
        shown.sort(key=lambda entry: entry.name)
        found = {False: [], True: []}
        for entry in shown:
            found[_is(entry, "dir")].append(entry)
        return found[False], found[True]

    def add_file(self, file, name, entry, above):
        """Adds a file if it is an image; entry: an `os.DirEntry` or a path."""
        if any(made.is_ours(prefix + name) for made, prefix in above):
            self.ours += [file] * name.lower().endswith(self._extensions)
        elif not name.lower().endswith(self._extensions):
            self.passed_over["of kinds that Pillow does not read here"].append(file)
        elif not _is(entry, "file"):
            self.passed_over[_kind(entry)].append(file)
        else:
            self.files.append(file)

    def warn(self, where):
        """One line of what was passed over, if anything was."""
        if not self.passed_over:
            return
        parts = []
        for reason, files in self.passed_over.items():
            more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
            listed = ", ".join(map(readable, files[:_NAMED]))
            parts.append(f"{len(files)} {reason} ({listed}{more})")
        logging.warning("%s: files are passed over: %s.", where, "; ".join(parts))

    def expected(self):
        sheets = f"but {len(self.ours)} sheets that e4e_jax made, " if self.ours else ""
        more = len(set(self._extensions) - set(_USUAL))
        return f"{sheets}expected files ending in {', '.join(_USUAL)} or one of {more} others"


def _is(entry, kind):
    """Whether an `os.DirEntry` or a path is a "dir" or a "file"; a link in a circle is neither."""
    try:
        return getattr(entry, f"is_{kind}")()
    except OSError:
        return False


def _is_our_folder(name, above):
    return any(made.is_our_folder(prefix + name) for made, prefix in above)


def _kind(path) -> str:
    """What is no regular file, in words; path: an `os.DirEntry` or a path."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return "broken links" if path.is_symlink() else "that cannot be looked at"
    kinds = {
        stat.S_IFIFO: "named pipes", stat.S_IFSOCK: "sockets", stat.S_IFDIR: "folders",
        stat.S_IFCHR: "devices", stat.S_IFBLK: "devices",
    }  # fmt: skip
    return kinds.get(stat.S_IFMT(mode), "no files")


def folder_source(data: Any, *, held_out: bool) -> ImageFolder:
    """Of a config's `data` section: the images of `path`, or of `validation_path`."""
    return ImageFolder(os.path.expanduser(data.validation_path if held_out else data.path))


class LoadedImages:
    """Images that are in memory, of one size.

    Attributes:
      images: uint8 [N, H, W, 3].
      names: of the images.
      factor_names: of the columns of `factors`; empty where these are not known.
      targets: uint8 [N, H, W, 3], or None.
    """

    def __init__(
        self,
        images: np.ndarray,
        names: Iterable[str],
        *,
        factors: np.ndarray | None = None,
        factor_names: Iterable[str] = (),
        targets: np.ndarray | None = None,
    ):
        self.images = images
        self.names = list(names)
        self.factor_names = tuple(factor_names)
        self.targets = targets
        if factors is not None:
            self.factors = factors.__getitem__

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]

    def read_many(self, indices: Sequence[int]) -> np.ndarray:
        return self.images[indices]


class Subset:
    """Some images of a named source, in any order.

    Attributes:
      names: of the images that are in.
    """

    def __init__(self, source: Source, indices: Iterable[int]):
        self._source = source
        self._indices = list(indices)
        self.names = [source.names[i] for i in self._indices]

    def __len__(self):
        return len(self._indices)

    def __getitem__(self, index):
        return self._source[self._indices[index]]


class ImageFiles:
    """Image files by their paths.

    Attributes:
      names: the paths without the folders that all of them share.
      paths: of the files.

    Raises:
      ValueError: there are none, or one is named twice.
    """

    def __init__(self, paths: Iterable[str | os.PathLike]):
        self.paths = [Path(path) for path in paths]
        if not self.paths:
            raise ValueError("no image files are named, expected at least one")
        whole = [os.path.abspath(path) for path in self.paths]
        shared = os.path.commonpath([os.path.dirname(path) for path in whole])
        names = [Path(os.path.relpath(path, shared)).as_posix() for path in whole]
        if len(set(names)) < len(names):
            raise ValueError("an image file is named twice, expected different files")
        self.names = list(_different(map(readable, names)))

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return decode_image(self.paths[index])


def open_images(
    pattern: str | os.PathLike, without: str | os.PathLike | None = None
) -> ImageFolder | ImageFiles:
    """The images that a folder, a file or a glob pattern such as 'faces/*.png' names.

    Args:
      pattern: which.
      without: a folder for results, which are no images to read where it lies in the folder.

    Raises:
      FileNotFoundError: nothing fits.
      ValueError: a folder without images; what is no file, such as a named pipe.
    """
    path = os.path.expanduser(str(pattern))
    if os.path.isdir(path):
        return ImageFolder(path, without=without)
    if outputs.is_file(path):
        return ImageFiles([path])
    if os.path.lexists(path):
        raise ValueError(f"{path} is one of {_kind(Path(path))}; expected an image file.")
    listing = _Listing()
    above = functools.cache(outputs.written_above)
    for name in sorted(glob.glob(path, recursive=True)):
        if os.path.isdir(name) and not name.lower().endswith(extensions()):
            continue  # of **, and of folders beside images
        folder, base = os.path.split(name)
        listing.add_file(name, base, Path(name), above(folder))
    listing.warn(pattern)
    if not listing.files:
        raise FileNotFoundError(f"there are no images at {pattern}, a folder, file or pattern")
    return ImageFiles(listing.files)


class TfdsImages:
    """Images of a TensorFlow Datasets split; made by `tfds_source`."""

    def __init__(self, data_source: Any, name: str):
        self.names = Numbered(len(data_source))
        self.description = name
        self._data_source = data_source

    def __len__(self):
        return len(self._data_source)

    def fingerprint(self) -> dict[str, Any]:
        """What is to be the same on all hosts, see `same_on_hosts`."""
        info = self._data_source.dataset_info
        found = {"data set": info.full_name, "number of images": len(self)}
        with contextlib.suppress(OSError):  # not on a disk
            for file in os.scandir(info.data_dir):
                found[file.name] = f"{file.stat().st_size} bytes"
        return found

    def __getitem__(self, index):
        encoded = self._data_source[index]["image"]
        return decode_image(encoded, name=f"{self.names[index]} of {self.description}")


def tfds_source(
    name: str, split: str, data_dir: str | os.PathLike | None = None, download: bool = False
) -> TfdsImages:
    """Random access to the feature "image" of a TensorFlow Datasets data set.

    The data set must be prepared as array_record (or be downloaded and prepared here). Reading
    does not import TensorFlow; preparing does.

    Args:
      name: as in the TFDS catalogue, "celeb_a_hq/256" or "my_dataset:1.0.0" for instance.
      split: "train", "test[:1000]", "train+test", ...
      data_dir: where prepared data sets lie; by default $TFDS_DATA_DIR or ~/tensorflow_datasets.
      download: download and prepare the data set if it is not there.

    Raises:
      FileNotFoundError: the data set is not there as array_record; names the command for it.
      ValueError: no such split, or no 8-bit or 16-bit image feature called "image".
    """
    import tensorflow_datasets as tfds

    where = f" --data_dir={data_dir}" if data_dir else ""
    title = f"{name}, split {split}"
    try:
        # The encoded bytes: TFDS's own decoder needs OpenCV for some modes.
        data_source = tfds.data_source(
            name,
            split=split,
            data_dir=data_dir,
            download=download,
            decoders={"image": tfds.decode.SkipDecoding()},
        )
    except (tfds.core.DatasetNotFoundError, FileNotFoundError, NotImplementedError) as error:
        raise FileNotFoundError(
            f"TFDS data set {name} is not prepared as array_record in "
            f"{data_dir or tfds.core.constants.DATA_DIR}: "
            f"run `tfds build {name} --file_format=array_record{where}`"
        ) from error
    except ValueError as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"TFDS data set {title} cannot be opened: {reason}") from error

    features = data_source.dataset_info.features
    feature = features["image"] if "image" in features.keys() else None
    if not isinstance(feature, tfds.features.Image) or feature.np_dtype.kind != "u":
        raise ValueError(
            f"TFDS data set {title} has the features {', '.join(features.keys())}, "
            'expected "image" to be an 8-bit or 16-bit image'
        )
    return TfdsImages(data_source, title)


def tfds_source_of_config(data: Any, *, held_out: bool) -> TfdsImages:
    """Of a config's `data` section: the data set `name`, its `split` or `validation_split`."""
    split = data.validation_split if held_out else data.split
    return tfds_source(data.name, split, data_dir=data.data_dir or None)

"""Where images come from.

A source is anything with `__len__` and `__getitem__(i) -> uint8 [H, W, 3]`; it must be picklable
to be read by worker processes. An image that cannot be decoded raises `ImageError`. A source
may name its images (`names`, a sequence as long as the source) and may know what they show
(`factors(indices) -> float32 [N, K]`).
"""

import glob
import os
from pathlib import Path

from e4e_jax.data.images import decode_image

EXTENSIONS = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff",
              ".webp")  # fmt: skip


class ImageFolder:
    """The images of a folder, sorted by name; hidden files and folders are left out.

    Attributes:
      path: the folder.
      names: paths of the images relative to it, with forward slashes.
      paths: of the files.

    Raises:
      FileNotFoundError: there is no such folder.
      ValueError: no file in it has a known extension.
    """

    def __init__(self, path, recursive=True):
        self.path = Path(path)
        if not self.path.is_dir():
            found = "is not a folder" if self.path.exists() else "does not exist"
            raise FileNotFoundError(f"{self.path} {found}, expected a folder of images")
        self.names = sorted(_image_names(self.path, recursive))
        if not self.names:
            known = ", ".join(EXTENSIONS)
            raise ValueError(f"{self.path} contains no images, expected files ending in {known}")

    @property
    def paths(self):
        return [self.path / name for name in self.names]

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        return decode_image(self.path / self.names[index])


def _image_names(root, recursive):
    """Relative names of the image files under root; linked folders are followed, once each."""
    seen = {os.path.realpath(root)}
    for folder, subfolders, files in os.walk(root, followlinks=True):
        inside = Path(folder).relative_to(root)
        for file in files:
            if file.lower().endswith(EXTENSIONS) and not file.startswith("."):
                yield (inside / file).as_posix()
        subfolders.sort()  # which of two links to one folder is taken must not depend on the disk
        kept = []
        for subfolder in subfolders if recursive else []:
            target = os.path.realpath(os.path.join(folder, subfolder))
            if target not in seen and not subfolder.startswith("."):
                seen.add(target)
                kept.append(subfolder)
        subfolders[:] = kept


class Subset:
    """Some images of a named source, in any order.

    Attributes:
      names: of the images that are in.
    """

    def __init__(self, source, indices):
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

    def __init__(self, paths):
        self.paths = [Path(path) for path in paths]
        if not self.paths:
            raise ValueError("no image files are named, expected at least one")
        parents = [path.parent.as_posix() for path in self.paths]
        shared = os.path.commonpath(parents) if len(set(parents)) > 1 else parents[0]
        self.names = [os.path.relpath(path, shared) for path in self.paths]
        if len(set(self.names)) < len(self.names):
            raise ValueError("an image file is named twice, expected different files")

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return decode_image(self.paths[index])


def open_images(pattern):
    """The images that a folder, a file or a glob pattern such as 'faces/*.png' names.

    Raises:
      FileNotFoundError: nothing fits.
      ValueError: a folder without images.
    """
    path = os.path.expanduser(str(pattern))
    if os.path.isdir(path):
        return ImageFolder(path)
    if os.path.isfile(path):
        return ImageFiles([path])
    found = sorted(
        name for name in glob.glob(path, recursive=True) if name.lower().endswith(EXTENSIONS)
    )
    if not found:
        raise FileNotFoundError(f"there are no images at {pattern}, a folder, file or pattern")
    return ImageFiles(found)


class TfdsImages:
    """Images of a TensorFlow Datasets split; made by `tfds_source`."""

    def __init__(self, data_source, name):
        self._data_source = data_source
        self._name = name

    def __len__(self):
        return len(self._data_source)

    def __getitem__(self, index):
        encoded = self._data_source[index]["image"]
        return decode_image(encoded, name=f"example {index} of {self._name}")


def tfds_source(name, split, data_dir=None, download=False):
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

"""What encoders read beside photographs: sketches as grey images, and maps of labels.

pSp (Richardson et al. 2021, arXiv 2008.00951, section 4.3) draws faces of both. Everywhere else
images are RGB, and so are these until they are on the device: a sketch is its grey, and of a map of
labels each class is a colour (`label_colours`). `to_input` makes of them what the encoder reads.
"""

import functools
import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps

from e4e_jax.data.images import ImageError, read_image
from e4e_jax.data.names import printable
from e4e_jax.data.registry import Source
from e4e_jax.models.encoder import EncoderConfig

# The step between values that Pillow makes of a grey PNG of fewer bits than eight.
_STEPS = {"L;2": 85, "L;4": 17}


def input_source(source: Source, config: EncoderConfig) -> Source:
    """The images of a source as an encoder of this configuration takes them.

    Args:
      source: RGB images; image files (with `paths`) for an encoder of labels.
      config: `EncoderConfig`.

    Returns:
      The source itself for an encoder of photographs; else a source of the same names.

    Raises:
      ValueError: labels cannot be read of a source that is no files.
    """
    if config.reads == "rgb":
        return source
    if config.reads == "labels" and not hasattr(source, "paths"):
        raise ValueError("maps of labels are read from files; expected a folder or files.")
    return _Inputs(source, config)


def to_input(images: jax.Array, config: EncoderConfig) -> jax.Array:
    """RGB images as `input_source` gives them -> what the encoder reads.

    Args:
      images: [B, H, W, 3] in [-1, 1].
      config: `EncoderConfig`.

    Returns:
      The images of an encoder of photographs; of one of sketches their grey [B, H, W, 1] in [0, 1];
      of one of labels one-hot classes [B, H, W, C]. A colour that is no class has none.
    """
    if config.reads == "rgb":
        return images
    classes = config.backbone.in_channels if config.reads == "labels" else None
    return _to_input(images, classes)


@functools.partial(jax.jit, static_argnames="classes")
def _to_input(images, classes):
    levels = jnp.round((images + 1) * 127.5)
    if classes is None:
        return levels[..., :1] / 255
    colours = jnp.asarray(label_colours(classes), jnp.float32)
    return jnp.all(levels[..., None, :] == colours, axis=-1).astype(jnp.float32)


def label_colours(count: int) -> np.ndarray:
    """A colour for each of at most 256 classes, far apart for the first ones: uint8 [count, 3].

    Bits 0, 3 and 6 of the class are the highest of its red, 1, 4 and 7 of its green, 2 and 5 of its
    blue: class 0 is black.
    """
    classes, colours = np.arange(count), np.zeros((count, 3), np.uint8)
    for bit in range(8):
        colours[:, bit % 3] |= ((classes >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return colours


def decode_labels(
    path_or_bytes: str | os.PathLike | bytes, classes: int, name: str | None = None
) -> np.ndarray:
    """Reads an image file as a map of class numbers.

    They are the indices of an image with a palette, or else the values of a grey one; RGB of three
    equal channels counts as grey. (The published pSp turns the colours of a palette to grey.)

    Args:
      path_or_bytes: a path, or the content of an image file.
      classes: how many there are.
      name: what error messages call the image; by default its path.

    Returns:
      uint8 [H, W], below `classes`.

    Raises:
      ImageError: as `decode_image`; or it is in colours or a JPEG file, whose compression changes
        numbers; or a number is none of a class.
    """
    labels = read_image(_labels, path_or_bytes, name)
    lowest, highest = labels.min(), labels.max()
    if lowest < 0 or highest >= classes:
        is_bytes = isinstance(path_or_bytes, bytes)
        name = printable(name or ("the encoded image" if is_bytes else str(path_or_bytes)))
        raise ImageError(
            f"{name} holds class {lowest if lowest < 0 else highest}; expected 0 to {classes - 1}, "
            f"for the encoder knows {classes} classes"
        )
    return labels.astype(np.uint8)


def _labels(image):
    """PIL image as it was opened -> integers [H, W]."""
    if image.format in ("JPEG", "MPO"):
        raise ValueError("JPEG changes class numbers, expected a PNG of them")
    packed = image.tile[0][3] if image.tile else None  # lost by loading
    image.load()
    array = np.asarray(ImageOps.exif_transpose(image))
    if image.mode == "F":
        raise ValueError("it holds float pixels, expected class numbers")
    if array.ndim == 3:
        colours = array[..., : 3 if image.mode.startswith("RGB") else 1]
        if image.mode not in ("RGB", "RGBA", "LA", "PA") or (colours != colours[..., :1]).any():
            raise ValueError("it is in colours, expected class numbers as grey or with a palette")
        array = colours[..., 0]
    return array.astype(np.int64) // (_STEPS.get(packed, 1) if isinstance(packed, str) else 1)


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Takes the nearest pixel: uint8 [H, W], size (height, width) -> uint8 [height, width].

    The published pSp averages class numbers here, and so invents classes between neighbours.
    """
    height, width = size
    if labels.shape == (height, width):
        return labels
    return np.asarray(Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST))


class _Inputs:
    """A source of sketches or of maps of labels, as RGB images.

    Attributes:
      names, path, paths: those of the source behind it, as far as that has them.
    """

    names: Sequence[str]
    paths: Sequence[os.PathLike]

    def __init__(self, source, config):
        self._source = source
        self._config = config
        for name in ("names", "path", "paths"):
            if hasattr(source, name):
                setattr(self, name, getattr(source, name))

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        if self._config.reads == "grey":
            grey = np.asarray(Image.fromarray(self._source[index]).convert("L"))
            return np.repeat(grey[..., None], 3, axis=-1)
        classes = self._config.backbone.in_channels
        labels = decode_labels(os.fspath(self.paths[index]), classes)
        return label_colours(classes)[resize_labels(labels, self._config.image_size)]

"""Image files to arrays and back: decoding, resizing, range conversion, grids."""

import functools
import io
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError, features

from e4e_jax.data.names import printable
from e4e_jax.runtime.files import writing

# Formats that Pillow knows by name alone, needs another program for (which would run what the file
# says), or no longer an image each.
_NOT_READ = ("EPS", "MPEG")
_LIBRARIES = {"AVIF": "avif", "JPEG": "jpg", "JPEG2000": "jpg_2000", "WEBP": "webp"}


class ImageError(ValueError):
    """An image that cannot be read or written; the message is one sentence naming it."""


@functools.cache
def _formats() -> tuple[str, ...]:
    """The formats that Pillow reads here, by its names for them."""
    Image.init()
    return tuple(
        name
        for name, (factory, _) in Image.OPEN.items()
        if name not in _NOT_READ
        and not (isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile))
        and (name not in _LIBRARIES or features.check(_LIBRARIES[name]))
    )


@functools.cache
def extensions() -> tuple[str, ...]:
    """The extensions of image files that can be read here, in lower case, with their dot."""
    formats = {*_formats(), "MPO"}  # which is opened as JPEG
    return tuple(sorted(e for e, name in Image.registered_extensions().items() if name in formats))


def decode_image(path_or_bytes: str | os.PathLike | bytes, name: str | None = None) -> np.ndarray:
    """Reads an image file of any mode as 8-bit RGB.

    Transparent pixels are composited on white, 16-bit grey is scaled to 8 bits, the EXIF
    orientation is applied and of an animation the first frame is taken. Integers of 32 bits, and
    signed ones, are 8-bit values where none is above 255, or else 16-bit values. Colour profiles
    are not applied, as in the published training.

    Args:
      path_or_bytes: a path, or the content of an image file.
      name: what error messages call the image; by default its path.

    Returns:
      uint8 [H, W, 3].

    Raises:
      ImageError: the file is missing, truncated, damaged, not an image, no regular file (a named
        pipe would be waited for), of values without a known range, or so large that it looks like
        a decompression bomb (Pillow's limit, about 179 million pixels).
    """
    return read_image(_decoded, path_or_bytes, name)


def read_image(
    convert: Callable[[Image.Image], Any],
    path_or_bytes: str | os.PathLike | bytes,
    name: str | None = None,
) -> Any:
    """Opens an image file and converts it.

    Args:
      convert: PIL image, opened and not loaded yet -> anything. ValueError says what is wrong.
      path_or_bytes, name: as of `decode_image`.

    Raises:
      ImageError: as `decode_image`, or `convert` raised something.
    """
    is_bytes = isinstance(path_or_bytes, bytes)
    name = printable(name or ("the encoded image" if is_bytes else str(path_or_bytes)))
    try:
        file: Any = path_or_bytes
        if isinstance(path_or_bytes, bytes):
            file = io.BytesIO(path_or_bytes)
        elif not stat.S_ISREG(os.stat(path_or_bytes).st_mode):
            raise ValueError("it is no regular file")
        with Image.open(file, formats=_formats()) as image:
            return convert(image)
    except UnidentifiedImageError:
        reason = "it is not in a known image format"
    except Exception as error:  # Pillow's decoders raise nearly every type on damaged files
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = " ".join(reason.split()).rstrip(".")
    raise ImageError(f"{name} cannot be decoded as an image: {reason}")


def _decoded(image):
    image.load()
    return np.asarray(_to_rgb(ImageOps.exif_transpose(image), image.format))


def _to_rgb(image, format):
    """PIL image of any mode, and the format of its file -> PIL image of mode RGB."""
    if image.mode == "F":
        raise ValueError("float pixels have no known range, expected 8-bit or 16-bit integers")
    if image.mode.startswith("I"):
        # I;16 and its byte orders; I of these formats is 16 bits widened to 32.
        has_16_bits = image.mode != "I" or format in ("PNG", "PPM")
        grey = _to_8_bits(np.asarray(image).astype(np.int64), has_16_bits)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(grey, has_16_bits):
    """Integers [H, W] -> uint8; of 32 bits (or signed) only the values tell the range."""
    lowest, highest = grey.min(), grey.max()
    if not has_16_bits and (lowest < 0 or highest > 65535):
        raise ValueError(
            f"integers from {lowest} to {highest} have no known range, expected 0 to 255 or to "
            "65535"
        )
    if not has_16_bits and highest <= 255:
        return grey.astype(np.uint8)
    grey = np.clip(grey, 0, 65535)
    return ((grey + 128) // 257).astype(np.uint8)  # 65535 = 255 * 257, rounded to nearest


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Antialiased bilinear resize, as torchvision's Resize does on PIL images.

    Args:
      image: uint8 [H, W, 3].
      size: (height, width) of the result; the aspect ratio is not kept.

    Returns:
      uint8 [height, width, 3]; the image itself if it has that size.
    """
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def to_float(images: Any) -> Any:
    """uint8 in 0..255 -> float32 in [-1, 1], any shape; of NumPy or JAX, traced ones included."""
    return images.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(images: Any) -> np.ndarray:
    """float in [-1, 1] -> uint8 in 0..255, any shape; rounded to nearest, clipped outside."""
    return np.clip(np.rint((np.asarray(images, np.float32) + 1) * 127.5), 0, 255).astype(np.uint8)


def image_grid(images: Any, columns: int) -> np.ndarray:
    """Tiles images row by row; cells left over in the last row are white.

    Args:
      images: uint8 [N, H, W, 3], N at least 1.
      columns: images in a row, at least 1.

    Returns:
      uint8 [rows * H, columns * W, 3].
    """
    images = np.asarray(images)
    count, height, width, channels = images.shape
    rows = -(-count // columns)
    blank = np.full((rows * columns - count, height, width, channels), 255, images.dtype)
    grid = np.concatenate([images, blank]).reshape(rows, columns, height, width, channels)
    return grid.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)


def save_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes a uint8 [H, W, 3] image as PNG, under a temporary name first.

    Raises:
      ImageError: the image has another type or shape, or the file cannot be written.
    """
    path, image = Path(path), np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        found = f"{image.dtype} {list(image.shape)}"
        raise ImageError(f"{path} cannot be written: the image is {found}, not uint8 [H, W, 3]")
    try:
        with writing(path) as temporary:
            Image.fromarray(image).save(temporary, format="PNG")
    except OSError as error:
        raise ImageError(str(error).rstrip(".")) from error

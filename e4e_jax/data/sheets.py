"""Sheets of images for looking at: cells that are large enough to see, columns with a name.

Results that other programs read, such as the inversion of one image, keep their resolution and have
no letters in them; a sheet is for people.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from e4e_jax.data.images import image_grid

SMALLEST_CELL = 128  # pixels
_LARGEST_LETTERS, _SMALLEST_LETTERS = 15, 9  # pixels
_CUT = "..."


def sheet(images: Any, columns: int, labels: Sequence[str] = ()) -> np.ndarray:
    """Tiles images row by row under the names of their columns.

    Images of fewer than 128 pixels on a side are enlarged by the smallest whole factor that gives
    as many, smoothly.

    Args:
      images: uint8 [N, H, W, 3], N at least 1; cells left over in the last row are white.
      columns: images in a row, at least 1.
      labels: a text for each column, drawn above it; none for a sheet without.

    Returns:
      uint8 [heading + rows * cell height, columns * cell width, 3].

    Raises:
      ValueError: there are labels, and not one for each column.
    """
    images = np.asarray(images)
    if labels and len(labels) != columns:
        raise ValueError(f"there are {len(labels)} labels for {columns} columns; expected as many.")
    factor = cell_factor(images.shape[1:3])
    if factor > 1:
        height, width = (side * factor for side in images.shape[1:3])
        images = np.stack([
            np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
            for image in images
        ])  # fmt: skip
    grid = image_grid(images, columns)
    return np.concatenate([_heading(labels, images.shape[2]), grid]) if labels else grid


def cell_factor(size: tuple[int, int]) -> int:
    """How many times larger a sheet shows images of this (height, width)."""
    return -(-SMALLEST_CELL // min(size))


def _heading(labels, width):
    """Texts in the middle of cells of this width: uint8 [height, len(labels) * width, 3]."""
    margin = 4
    texts = [_fitting(label, width - 2 * margin) for label in labels]
    height = max(bottom - top for _, _, (_, top, _, bottom) in texts) + 2 * margin
    image = Image.new("RGB", (width * len(labels), height), "white")
    draw = ImageDraw.Draw(image)
    for i, (text, font, (left, top, right, _)) in enumerate(texts):
        x = i * width + (width - (right - left)) // 2 - left
        draw.text((x, margin - top), text, fill="black", font=font)
    return np.asarray(image)


def _fitting(text, width):
    """The text in the largest letters with which it is at most `width` wide, cut if in none.

    Returns:
      (text, font, its box (left, top, right, bottom)).
    """
    text = " ".join(str(text).split()) or " "
    for size in range(_LARGEST_LETTERS, _SMALLEST_LETTERS - 1, -1):
        font = _font(size)
        if isinstance(font, ImageFont.ImageFont):  # these know Latin letters alone
            text = text.encode("latin-1", "replace").decode("latin-1")
        if font.getbbox(text)[2] <= width:
            break
    kept = text
    while font.getbbox(text)[2] > width and kept:
        kept = kept[:-1]
        text = kept.rstrip() + _CUT
    # One line's height for all, with or without letters that reach below it.
    left, _, right, _ = font.getbbox(text)
    _, top, _, bottom = font.getbbox("Ág")
    return text, font, (left, top, right, bottom)


def _font(size):
    """Pillow's own letters; without FreeType, which its wheels have, those of one size."""
    try:
        return ImageFont.load_default(size)
    except (ImportError, OSError):
        return ImageFont.load_default()

"""Anti-aliased shapes on a batch of small images, in NumPy.

A shape is given by the distance of every pixel centre to its outline (negative inside) or to its
line, its coverage by that distance cut off half a pixel to either side. The canvas spans [-1, 1] in
x (right) and y (down) at every resolution. Only +, -, *, /, sqrt, min and max are used: these are
exactly rounded, so an image does not depend on how NumPy walks through its batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Plane = np.ndarray | float  # a value for each pixel, for each image [N, 1, 1], or one for all


def clip(values: Plane, low: Plane, high: Plane) -> np.ndarray:
    """`np.clip` without its call overhead, which counts when the arrays are this small."""
    return np.minimum(np.maximum(values, low), high)


def ellipse(x: Plane, y: Plane, half_width: Plane, half_height: Plane) -> np.ndarray:
    """Signed distance to an axis-aligned ellipse (first order: exact near the outline)."""
    u, v = x / half_width, y / half_height
    radius = np.sqrt(u * u + v * v)
    u, v = u / half_width, v / half_height
    slope = np.sqrt(u * u + v * v)
    return (radius - 1) * (radius + 1e-6) / (slope + 1e-6)  # 1e-6: the centre is inside, not 0 / 0


def rounded_box(
    x: Plane, y: Plane, half_width: Plane, half_height: Plane, radius: Plane
) -> np.ndarray:
    """Signed distance to an axis-aligned box with rounded corners."""
    dx = np.abs(x) - (half_width - radius)
    dy = np.abs(y) - (half_height - radius)
    outside_x, outside_y = np.maximum(dx, 0), np.maximum(dy, 0)
    outside = np.sqrt(outside_x * outside_x + outside_y * outside_y)
    return outside + np.minimum(np.maximum(dx, dy), 0) - radius


def arc(x: Plane, y: Plane, half_width: Plane, height: Plane) -> np.ndarray:
    """Distance to the line y = height (1 - (x / half_width)^2), |x| <= half_width (first order)."""
    on_line = clip(x, -half_width, half_width)
    t = on_line / half_width
    slope = 2 * height * t / half_width
    dx = x - on_line
    dy = (y - height * (1 - t * t)) / np.sqrt(1 + slope * slope)
    return np.sqrt(dx * dx + dy * dy)


def segment(x: Plane, y: Plane, slant: Plane, half_height: Plane) -> np.ndarray:
    """Distance to the line x = slant * y, |y| <= half_height."""
    beyond = np.maximum(np.abs(y) - half_height, 0)
    dx = x - slant * y
    return np.sqrt(dx * dx / (1 + slant * slant) + beyond * beyond)


def spot(x: Plane, y: Plane, half_width: Plane, half_height: Plane) -> np.ndarray:
    """Coverage of a soft round spot: 1 at its centre, falling smoothly to 0 at the ellipse."""
    u, v = x / half_width, y / half_height
    inside = np.maximum(1 - (u * u + v * v), 0)
    return inside * inside


@dataclass(frozen=True)
class Window:
    """A rectangle of the canvas, in coordinates around a point of each image."""

    x: np.ndarray  # [N or 1, 1, w]
    y: np.ndarray  # [N or 1, h, 1]
    pixels: np.ndarray  # [N, 3, h, w], a view of the canvas
    area: tuple[slice, slice]
    pixel_size: float

    def fill(self, distance: np.ndarray, softness: float | None = None) -> np.ndarray:
        """Coverage of a shape given by its signed distance; its edge: `softness` or a pixel."""
        return clip(distance * (-1 / (softness or self.pixel_size)) + 0.5, 0, 1)

    def stroke(self, distance: np.ndarray, half_thickness: Plane) -> np.ndarray:
        """Coverage of a line given by its distance; one thinner than a pixel is as much fainter."""
        coverage = clip((half_thickness - distance) * (1 / self.pixel_size) + 0.5, 0, 1)
        return np.minimum(coverage, half_thickness * (2 / self.pixel_size))

    def paint(self, coverage: np.ndarray, colour: Plane, mask: np.ndarray | None = None) -> None:
        """Blend `colour` ([N, 3, 1, 1], [3, 1, 1] or per pixel) over the window.

        coverage: [N, h, w] in [0, 1]. mask: coverage of the shape to stay in, [N, R, R].
        """
        if mask is not None:
            coverage = coverage * self.crop(mask)
        change = colour - self.pixels
        change *= coverage[:, None]
        self.pixels[...] += change

    def crop(self, plane: np.ndarray) -> np.ndarray:
        """The part of a whole-canvas plane [N, R, R] that lies in this window."""
        return plane[:, self.area[0], self.area[1]]


class Canvas:
    """N square RGB images, kept as float32 planes `pixels` [N, 3, R, R] in [0, 1]."""

    def __init__(self, count: int, resolution: int):
        self.resolution = resolution
        self.pixel_size = 2 / resolution
        self.pixels = np.empty((count, 3, resolution, resolution), np.float32)
        self.centres = (np.arange(resolution, dtype=np.float32) + 0.5) * self.pixel_size - 1

    def window(self, x: Plane, y: Plane, half_width: Plane, half_height: Plane) -> Window:
        """The smallest window that holds, in every image, the given box around (x, y).

        Each argument is a number or one value per image, [N, 1, 1]. A pixel is added all around
        for the soft edge of a shape that fills the box.
        """
        columns = self._pixels_between(x - half_width, x + half_width)
        rows = self._pixels_between(y - half_height, y + half_height)
        return Window(
            x=self.centres[None, None, columns] - x,
            y=self.centres[None, rows, None] - y,
            pixels=self.pixels[:, :, rows, columns],
            area=(rows, columns),
            pixel_size=self.pixel_size,
        )

    def _pixels_between(self, low, high) -> slice:
        first = int((np.min(low) + 1) / self.pixel_size - 1)
        last = int((np.max(high) + 1) / self.pixel_size + 2)
        return slice(max(first, 0), max(last, 0))

    def images(self) -> np.ndarray:
        """The images as uint8 [N, R, R, 3]."""
        values = clip(self.pixels, 0, 1) * 255 + 0.5
        return np.ascontiguousarray(values.astype(np.uint8).transpose(0, 2, 3, 1))

"""Simple faces drawn from eleven known factors: a data set for trying the whole system on a CPU.

A face is a pure function of its factors, and these of (seed, index): the data set needs no files,
and edits and inversions can be scored against the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from e4e_jax.data.names import Numbered
from e4e_jax.toy.portrait import draw

FACTORS: tuple[str, ...] = (
    "yaw", "smile", "age", "skin", "hair", "length",
    "glasses", "eyes", "background", "width", "shirt",
)  # fmt: skip
LOWEST = np.array([-1, -1, 0, 0, 0, 0, 0, 0, 0, 0, 0], np.float32)
HIGHEST = np.ones(len(FACTORS), np.float32)

GLASSES_PROBABILITY = 0.35
# Index ranges of the endless set: what is trained on is never validated on.
HELD_OUT = 1_000_000_000
IMAGES_AT_ONCE = 32  # the planes of this many images stay in the processor's cache


def render(factors: np.ndarray, resolution: int = 64) -> np.ndarray:
    """Draw faces from their factors.

    factors: [N, 11] in the order of `FACTORS`; yaw and smile in [-1, 1], the others in [0, 1].
    Returns uint8 [N, resolution, resolution, 3]. Raises ValueError for another shape or range.
    """
    factors = _checked(factors)
    images = np.empty((len(factors), resolution, resolution, 3), np.uint8)
    for start in range(0, len(factors), IMAGES_AT_ONCE):
        chunk = slice(start, start + IMAGES_AT_ONCE)
        columns = dict(zip(FACTORS, factors[chunk].T, strict=True))
        images[chunk] = draw(columns, resolution)
    return images


def _checked(factors):
    factors = np.asarray(factors, np.float32)
    if factors.ndim != 2 or factors.shape[1] != len(FACTORS):
        raise ValueError(f"factors have shape {list(factors.shape)}, expected [N, {len(FACTORS)}].")
    outside = ~((factors >= LOWEST) & (factors <= HIGHEST))  # also true for NaN
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise ValueError(
            f"factors[{row}]: {FACTORS[column]} is {factors[row, column]:g}, expected a value in "
            f"[{LOWEST[column]:g}, {HIGHEST[column]:g}]."
        )
    return factors


def sample_factors(indices: Sequence[int] | np.ndarray, seed: int = 0) -> np.ndarray:
    """Independent random factors of the faces at `indices`, float32 [N, 11].

    Uniform on their ranges, but glasses are 0 or 1. A row depends on (seed, index) only: each index
    owns three blocks of its seed's Philox stream, so consecutive indices are drawn at once.
    Raises ValueError for a negative index.
    """
    indices = np.asarray(indices, np.int64).reshape(-1)
    if len(indices) and indices.min() < 0:
        raise ValueError(f"index {indices.min()} is negative, expected indices of at least 0.")
    runs = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
    uniform = np.concatenate([_uniform(run, seed) for run in runs])[:, : len(FACTORS)]
    glasses = FACTORS.index("glasses")
    uniform[:, glasses] = uniform[:, glasses] < GLASSES_PROBABILITY
    return (LOWEST + (HIGHEST - LOWEST) * uniform).astype(np.float32)


def _uniform(run, seed):
    first = int(run[0]) if len(run) else 0
    stream = np.random.Philox(key=seed, counter=3 * first)  # a block is four numbers
    return np.random.Generator(stream).random((len(run), 12))


@dataclass(frozen=True)
class ToyFaces:
    """Random access source of `size` faces: those of indices start ... start + size - 1 of `seed`.

    Sources over disjoint ranges of one seed share no face, which is how images are held out.
    """

    size: int
    seed: int = 0
    resolution: int = 64
    start: int = 0

    factor_names: ClassVar[tuple[str, ...]] = FACTORS
    description: ClassVar[str] = "built-in toy faces"

    @property
    def names(self) -> Numbered:
        return Numbered(self.size)

    @staticmethod
    def latents(factors: Any, z: Any) -> Any:
        """Codes of known faces, see `toy.latents.face_latents`."""
        from e4e_jax.toy.latents import face_latents  # JAX's

        return face_latents(factors, z)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index) -> np.ndarray:
        """The image at `index`, uint8 [resolution, resolution, 3]; IndexError when out of range."""
        return self.batch([index])[0][0]

    def factors(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The factors of the images at `indices`, float32 [N, 11]."""
        indices = np.asarray(indices, np.int64).reshape(-1)
        outside = indices[(indices < 0) | (indices >= self.size)]
        if len(outside):
            raise IndexError(f"index {outside[0]} is outside the {self.size} toy faces.")
        return sample_factors(self.start + indices, self.seed)

    def read_many(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The images at `indices`, uint8 [N, resolution, resolution, 3]; a fifth of the time."""
        return self.batch(indices)[0]

    def batch(self, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [N, resolution, resolution, 3] and factors [N, 11] at `indices`."""
        factors = self.factors(indices)
        return render(factors, self.resolution), factors


def toy_source(data: Any, *, held_out: bool) -> ToyFaces:
    """Of a config's `data` section: `num_images` faces of `seed`, or `num_validation` others."""
    size = data.num_validation if held_out else data.num_images
    return ToyFaces(size, seed=data.seed, start=HELD_OUT if held_out else 0)

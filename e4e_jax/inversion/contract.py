"""What an inversion method is given, and what it gives: for those who write one."""

import dataclasses
from typing import Any, Protocol

import jax
import numpy as np

from e4e_jax.models.encoder import Encoder
from e4e_jax.models.stylegan2 import Generator


class Inverter(Protocol):
    """The model that a method works with, as `e4e_jax.load` gives it; see `api.Inverter`."""

    encoder: Encoder
    generator: Generator
    latent_avg: jax.Array  # [L, D]
    image_size: tuple[int, int]  # (height, width) that the encoder reads
    drawn_size: tuple[int, int]  # (height, width) of pictures
    iterations: int
    reads: str
    metadata: dict[str, Any]

    def to_input(self, images: jax.Array) -> jax.Array:
        """RGB images [B, H, W, 3] in [-1, 1] -> what `encode` takes."""

    def encode(self, images: jax.Array, iterations: int | None = None) -> jax.Array:
        """Images -> codes w_plus [B, L, D]."""

    def synthesize(
        self, codes: Any, key: jax.Array | None = None, *, noises: list[jax.Array] | None = None
    ) -> jax.Array:
        """Codes -> images [B, R, R, 3] in [-1, 1]."""

    def drawn(self, images: jax.Array) -> jax.Array:
        """The part of `drawn_size` of images [B, R, R, 3]."""


@dataclasses.dataclass(frozen=True)
class Inverted:
    """What an inversion method makes of a batch of images.

    Attributes:
      codes: w_plus [B, L, D].
      images: the pictures of the codes, [B, height, width, 3] of the model's `drawn_size` in
        [-1, 1]; None for those that the model draws of them.
      noises: optimised noise images, a list of [B, r, r]; None where they stay the generator's.
      generators: a generator for each image, where it was tuned; None where it stays.
      errors: numbers of each image that say how near its inversion is, [B, K]; or None.
    """

    codes: jax.Array
    images: jax.Array | None = None
    noises: list[jax.Array] | None = None
    generators: list[Generator] | None = None
    errors: np.ndarray | None = None


class Method(Protocol):
    """A way from images to codes."""

    def __call__(self, model: Inverter, images: jax.Array, **options: Any) -> Inverted:
        """Inverts a batch.

        Args:
          model: the encoder and its generator, with `encode`, `synthesize`, `generator`, ...
          images: as `model.encode` takes them: [B, H, W, 3] in [-1, 1] for an encoder of RGB.
          **options: parameters by name, each with a default.
        """

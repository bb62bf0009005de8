"""What an inverter was trained on, and which images look like something else.

An encoder knows the images that it was trained on, and a generator draws no others: a photograph
given to a model of drawn faces comes back as a drawn face. A bundle therefore notes what it was
trained on, and by how much inversions of images that were held out differ from these. What differs
by far more is something else.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from e4e_jax.inversion.contract import Inverter

TRAINED_ON, HELD_OUT, STEP = "trained_on", "held_out", "step"  # fields of a bundle's metadata

# By the largest error of the held-out images, or where they are few by their mean. With the
# shipped inverter the worst of 6,000 other faces had 0.9 times the largest error of 512, the worst
# JPEG of a face 1.2 times; photographs of cars and horses had 9 times and more, line drawings 14.
_OF_LARGEST, _OF_MEAN = 2.0, 4.0

# Where nothing was noted, as in published checkpoints: an inversion that is hardly nearer than the
# average image, which is the same for every image, says that the encoder recognised nothing.
_OF_AVERAGE_IMAGE = 0.8

_NAMED = 3  # images, in a message


@dataclasses.dataclass(frozen=True)
class Domain:
    """The images that a model was trained on.

    Attributes:
      images: what they are, in words.
      usual, most: mean squared error of the inversion of a held-out image, and what none of them
        comes near; None where a bundle does not say.
    """

    images: str
    usual: float | None = None
    most: float | None = None

    @classmethod
    def of(cls, metadata: Any) -> "Domain | None":
        """Of a bundle's metadata: a run's notes, or published options; None without either."""
        metadata = metadata if isinstance(metadata, dict) else {}
        about, errors, options = (
            value if isinstance(value := metadata.get(name), dict) else {}
            for name in (TRAINED_ON, HELD_OUT, "options")
        )
        images = about.get("images") or options.get("dataset_type")
        if not isinstance(images, str):
            return None
        size = about.get("size")
        if isinstance(size, list) and len(size) == 2:
            images += f", {size[1]}x{size[0]}"
        mean, largest = (errors.get(name, 0) for name in ("l2_mean", "l2_largest"))
        if not all(isinstance(n, float) and 0 < n < math.inf for n in (mean, largest)):
            return cls(images)
        return cls(images, mean, max(_OF_LARGEST * largest, _OF_MEAN * mean))

    def is_left(self, errors: np.ndarray, average_errors: np.ndarray) -> np.ndarray:
        """Which images look like something else: bool [N].

        Args:
          errors: mean squared errors [N] of their inversions.
          average_errors: those of the model's average image, [N].
        """
        if self.most is not None:
            return np.asarray(errors) > self.most
        return np.asarray(errors) > _OF_AVERAGE_IMAGE * np.asarray(average_errors)

    def sentence(
        self, names: Sequence[str], errors: np.ndarray, average_errors: np.ndarray
    ) -> str | None:
        """What to say of images with these errors, all [N]; None if nothing."""
        left = np.flatnonzero(self.is_left(errors, average_errors))
        if not len(left):
            return None
        some = ", ".join(names[i] for i in left[:_NAMED]) + (", ..." if len(left) > _NAMED else "")
        which = some if len(left) == 1 else f"{len(left)} of {len(names)} images ({some})"
        if self.usual is None:
            how = "inversions hardly nearer than the model's average image"
        else:
            times = float(np.median(np.asarray(errors)[left])) / self.usual
            how = f"inversions {times:.0f} times as far off as those of held-out images"
        verb = "looks" if len(left) == 1 else "look"
        return (
            f"{which} {verb} like something else than what the model was trained on "
            f"({self.images}): {how}."
        )


def noted_errors(errors: Any) -> dict[str, float]:
    """What a bundle notes of the inversions of held-out images, from their errors [N]."""
    errors = np.asarray(errors, np.float64)
    if not np.isfinite(errors).all():  # which JSON cannot hold
        return {}
    return {
        "count": len(errors),
        "l2_mean": float(errors.mean()),
        "l2_largest": float(errors.max()),
    }


def errors_of(images: jax.Array, drawn: jax.Array) -> np.ndarray:
    """Mean squared errors [B] of what a generator drew, at the images' size.

    Args:
      images: [B, H, W, 3] in [-1, 1].
      drawn: [B or 1, f H, f W, 3], f a whole number.
    """
    pictures = np.clip(np.asarray(drawn, np.float32), -1, 1)
    batch, height, width, channels = pictures.shape
    factor = width // images.shape[2]
    areas = (batch, height // factor, factor, width // factor, factor, channels)
    return np.mean(np.square(images - pictures.reshape(areas).mean((2, 4))), axis=(1, 2, 3))


def comparison(model: Inverter) -> Callable[[Any, Any], np.ndarray] | None:
    """How to tell images that are none of the model's domain; None if its bundle names none.

    Returns:
      A function of images [B, H, W, 3] in [-1, 1], as the encoder reads them, and of their
      inversions at the model's `drawn_size`: the mean squared errors of these and of the average
      image, [B, 2].
    """
    domain = Domain.of(model.metadata)
    backbone, iterative = model.encoder.config.backbone, model.encoder.config.iterative
    if domain is None or backbone.in_channels != (6 if iterative else 3):
        return None
    average = None
    if domain.most is None:
        average = model.drawn(model.synthesize(model.latent_avg[None]))

    def compare(images, drawn):
        images = np.asarray(images)
        errors = errors_of(images, drawn)
        far = np.full_like(errors, np.inf) if average is None else errors_of(images, average)
        return np.stack([errors, far], axis=1)

    return compare

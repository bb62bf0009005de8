"""Editing directions: InterFaceGAN's (.pt, .npy) and GANSpace's (.pt)."""

import os

import numpy as np

from convert_weights.checkpoint import Checkpoint, ConvertError, to_numpy


def is_directions(checkpoint: Checkpoint) -> bool:
    return set(checkpoint.tensors) in ({"tensor"}, {"mean", "comp", "std"})


def read_directions(checkpoints: list[Checkpoint]) -> dict[str, np.ndarray]:
    """The directions of several files by name, each [D] (all layers) or [L, D].

    A direction of InterFaceGAN is named after its file. GANSpace's K components become
    `<file>_0`, `<file>_1`, ... [D], scaled to one standard deviation, beside `<file>_mean` [D]: the
    coordinate of a code w along one of them, d, is (w − mean)·d / d·d.

    Raises:
      ConvertError: tensors of other shapes, or two directions of one name.
    """
    directions = {}
    for checkpoint in checkpoints:
        stem = os.path.splitext(checkpoint.name)[0]
        arrays = {name: to_numpy(tensor) for name, tensor in checkpoint.tensors.items()}
        checkpoint.tensors.clear()
        found = {stem: _direction(checkpoint, arrays["tensor"])} if "tensor" in arrays else {}
        if not found:
            found = _components(checkpoint, stem, **arrays)
        twice = set(found) & set(directions)
        if twice:
            raise ConvertError(f"two files hold a direction {min(twice)!r}; rename one of them.")
        directions |= found
    return directions


def _direction(checkpoint, array):
    squeezed = array[0] if array.ndim == 3 and len(array) == 1 else array
    squeezed = squeezed[0] if squeezed.ndim == 2 and len(squeezed) == 1 else squeezed
    if squeezed.ndim not in (1, 2) or squeezed.size == 0:
        raise checkpoint.error(
            f"its shape is {list(array.shape)}; expected a direction [D], [1, D] or [1, L, D]"
        )
    return np.array(squeezed, np.float32)


def _components(checkpoint, stem, mean, comp, std):
    count, size = len(std), mean.shape[-1]
    if mean.shape != (1, size) or comp.shape != (count, 1, size) or std.shape != (count,):
        raise checkpoint.error(
            f"mean, comp and std have shapes {list(mean.shape)}, {list(comp.shape)} and "
            f"{list(std.shape)}; expected [1, D], [K, 1, D] and [K]"
        )
    steps = comp[:, 0] * std[:, None]
    return {f"{stem}_mean": mean[0].copy()} | {f"{stem}_{i}": step for i, step in enumerate(steps)}

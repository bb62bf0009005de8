"""Files of editing directions: NumPy archives of named arrays."""

import os

import numpy as np

from e4e_jax.runtime.files import read_arrays


def save_directions(path: str, directions: dict[str, np.ndarray]) -> None:
    """Writes directions, each [D] (all layers) or [L, D], to a .npz file, whole or not at all."""
    temporary = f"{path}.tmp.npz"
    np.savez(temporary, **directions)
    os.replace(temporary, path)


def load_directions(path: str) -> dict[str, np.ndarray]:
    """Reads what `save_directions` wrote.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged, or an array is not [D] or [L, D] floats; in one sentence.
    """
    directions = read_arrays(path, "directions")
    for name, array in directions.items():
        if array.ndim not in (1, 2) or array.dtype.kind != "f":
            raise ValueError(
                f"{path}: {name} is {array.dtype} of shape {array.shape}; "
                "expected floats of shape [D] or [L, D]."
            )
    return directions

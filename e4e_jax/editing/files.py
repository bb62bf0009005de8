"""Files of editing directions: NumPy archives of named arrays."""

import os
import zipfile

import numpy as np


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
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no file of directions at {path}.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            directions = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no readable .npz file of directions: {error}.") from None
    for name, array in directions.items():
        if array.ndim not in (1, 2) or not np.issubdtype(array.dtype, np.floating):
            raise ValueError(
                f"{path}: {name} is {array.dtype} of shape {array.shape}; "
                "expected floats of shape [D] or [L, D]."
            )
    return directions

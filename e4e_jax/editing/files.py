"""Files of editing directions: NumPy archives of named arrays."""

import os

import numpy as np

from e4e_jax.runtime.files import read_arrays, write_arrays

_OF_OTHERS = (".pt", ".pth", ".npy")  # read by convert_weights, and not here


def save_directions(path: str, directions: dict[str, np.ndarray]) -> None:
    """Writes directions, each [D] (all layers) or [L, D], to a .npz file, whole or not at all.

    Raises:
      ValueError: one has another shape, or a number that is not finite; in one sentence.
      OSError: the file cannot be written; in one sentence.
    """
    _check(path, directions)
    write_arrays(path, directions)


def load_directions(path: str) -> dict[str, np.ndarray]:
    """Reads what `save_directions` wrote.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged, or an array is not [D] or [L, D] finite floats; in one
        sentence.
    """
    made = f"`python -m convert_weights {path} directions.npz` makes one of it"
    if os.path.splitext(path)[1] in _OF_OTHERS and os.path.isfile(path):
        raise ValueError(f"{path} is no .npz file of directions; {made}.")
    directions = read_arrays(path, "directions")
    if "lat_comp" in directions:
        raise ValueError(f"{path} is a file of GANSpace's own; {made}.")
    _check(path, directions)
    return directions


def _check(path, directions):
    for name, array in directions.items():
        array = np.asarray(array)
        if array.ndim not in (1, 2) or array.dtype.kind != "f":
            raise ValueError(
                f"{path}: {name} is {array.dtype} of shape {array.shape}; "
                "expected floats of shape [D] or [L, D]."
            )
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite
            bad = np.count_nonzero(~np.isfinite(array.astype(np.float32)))
        if bad:
            raise ValueError(
                f"{path}: {bad} of the {array.size} numbers of {name} are NaN or infinite in "
                "float32; expected finite ones."
            )

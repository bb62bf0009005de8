"""Codes of images: e4e's latents.pt, PTI's pivots, NVIDIA's projected_w.npz."""

import os
import re

import numpy as np

from convert_weights.checkpoint import Checkpoint, is_float, to_numpy
from convert_weights.directions import is_number_of_styles
from e4e_jax.data.names import check_names


def read_latents(checkpoints: list[Checkpoint]) -> tuple[list[str], np.ndarray]:
    """Names and codes w_plus [N, L, D] of several files.

    The codes of one image are named after its file, or after its folder where files have one name;
    those of several are numbered.

    Raises:
      ConvertError: arrays of other shapes, of several generators, or numbers that are not finite.
      ValueError: names that are equal, or that lead elsewhere.
    """
    stems = [os.path.splitext(checkpoint.name)[0] for checkpoint in checkpoints]
    if len(set(stems)) < len(stems):
        stems = [
            f"{os.path.basename(os.path.dirname(os.path.abspath(checkpoint.path)))}_{stem}"
            for checkpoint, stem in zip(checkpoints, stems, strict=True)
        ]
    names, codes = [], []
    for checkpoint, stem in zip(checkpoints, stems, strict=True):
        found_names, found = _codes(checkpoint, stem)
        if codes and found.shape[1:] != codes[0].shape[1:]:
            raise checkpoint.error(
                f"its codes are {list(found.shape[1:])} and those before {list(codes[0].shape[1:])}"
                "; expected codes of one generator"
            )
        names += found_names
        codes.append(found)
    check_names(names, " and ".join(checkpoint.name for checkpoint in checkpoints[:2]))
    return names, np.concatenate(codes)


def _codes(checkpoint: Checkpoint, stem: str):
    if {"names", "codes"} <= set(checkpoint.tensors):
        raise checkpoint.error("it is a latents.npz already, which the commands take as it is")
    arrays = dict(checkpoint.tensors)
    checkpoint.tensors.clear()
    if len(arrays) == 1:
        (name,) = arrays
        array = arrays[name]
        array = array[None] if array.ndim == 2 else array
        count = len(array) if array.ndim == 3 else 1
        names = [stem] if count == 1 else [f"{stem}_{i:04}" for i in range(count)]
    else:
        names, array = _by_name(checkpoint, arrays)
    fits = array.ndim == 3 and is_number_of_styles(array.shape[1]) and array.size
    if not fits or not is_float(array):
        raise checkpoint.error(
            f"it holds {array.dtype} {list(array.shape)}; expected codes of images, floats "
            "[N, L, D] or [L, D] with an even number of styles L"
        )
    array = to_numpy(array)
    if not np.isfinite(array).all():
        raise checkpoint.error("its codes hold NaN or infinity")
    return names, array


def _by_name(checkpoint, arrays):
    """Of a dict name -> codes [L, D] or [1, L, D], or a list of ReStyle's, one an iteration."""
    steps = [step for name in arrays if (step := re.fullmatch(r"(.+)/(\d+)", name))]
    if len(steps) == len(arrays):
        arrays = {step[1]: arrays[step[0]] for step in steps}  # the last stays
        checkpoint.note("of several iterations for each image the last")
    codes = [
        array[0] if array.ndim == 3 and len(array) == 1 else array for array in arrays.values()
    ]
    shapes = {array.shape for array in codes}
    if len(shapes) != 1 or codes[0].ndim != 2:
        raise checkpoint.error(
            f"it holds {len(arrays)} arrays of shapes {', '.join(map(str, map(list, shapes)))}; "
            "expected the codes of images, all [L, D]"
        )
    return [name.rsplit("/", 1)[-1] for name in arrays], np.stack(codes)

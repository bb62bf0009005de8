"""Editing directions: InterFaceGAN's, GANSpace's in its own layout and in e4e's, SeFa's."""

import os
import re

import numpy as np

from convert_weights.checkpoint import Checkpoint, ConvertError, is_float, to_numpy

_GANSPACE = ("comp", "mean", "stdev")
# Of what a tensor [1, L, D] is, its name may tell: the codes of an image, or a direction.
_CODES = set(
    "latent latents dlatent dlatents code codes projected projection inverted inversion pivot "
    "pivots w wplus encoded".split()
)
_DIRECTIONS = set(
    "direction directions boundary boundaries age old young pose yaw pitch roll rotation smile "
    "smiling expression mouth gender male female glasses eyeglasses sunglasses beard mustache hair "
    "bald bangs makeup lipstick eyes eye nose race".split()
)


def holds_directions(checkpoint: Checkpoint) -> bool:
    names = set(checkpoint.tensors)
    if len(names) == 1 and (names == {"tensor"} or _words(*names) & _DIRECTIONS):
        return not holds_codes(checkpoint)
    return (
        names in ({"mean", "comp", "std"}, {"eigvec"})
        or {f"lat_{part}" for part in _GANSPACE} <= names
        or {f"act_{part}" for part in _GANSPACE} <= names
    )


def holds_codes(checkpoint: Checkpoint) -> bool:
    """Whether these are codes of images: e4e's latents.pt, NVIDIA's projected_w.npz.

    Raises:
      ConvertError: a tensor [1, L, D] that may be one or the other.
    """
    names, words = set(checkpoint.tensors), _words(checkpoint.name.rsplit(".", 1)[0])
    if names == {"names", "codes"}:
        return True
    arrays = list(checkpoint.tensors.values())
    fit = all(x.ndim in (2, 3) and is_number_of_styles(x.shape[-2]) for x in arrays) and arrays
    if len(arrays) == 1 and _words(*names) & _CODES:  # NVIDIA's "w", for one
        return bool(fit)
    if names != {"tensor"}:
        return bool(fit and words & _CODES and len({x.shape[-2:] for x in arrays}) == 1)
    (array,) = arrays
    if array.ndim == 3 and len(array) > 1:
        return True
    if not fit:
        return False
    if words & _CODES:
        return True
    if array.ndim == 2 or words & _DIRECTIONS or _has_unit_length(to_numpy(array)[0]):
        return False
    raise checkpoint.error(
        f"its shape is {list(array.shape)}: the direction of an edit, or the codes of one image; "
        "say which by --format directions or --format latents"
    )


def _words(text):
    return set(re.findall("[a-z]+", text.lower()))


def is_number_of_styles(count: int) -> bool:
    """Whether StyleGAN2 has so many, at a resolution of 8 to 2048."""
    return count % 2 == 0 and 4 <= count <= 20


def read_directions(checkpoints: list[Checkpoint]) -> dict[str, np.ndarray]:
    """The directions of several files by name, each [D] (all layers) or [L, D].

    A direction of InterFaceGAN is named after its file. GANSpace's K components become
    `<file>_0`, `<file>_1`, ... [D], scaled to one standard deviation, beside `<file>_mean` [D]: the
    coordinate of a code w along one of them, d, is (w − mean)·d / d·d. The eigenvectors of SeFa
    become `<file>_0`, ... [D], of unit length and the strongest first.

    Raises:
      ConvertError: tensors of other shapes, numbers that are not finite, or two directions of one
        name.
    """
    directions = {}
    for checkpoint in checkpoints:
        stem = os.path.splitext(checkpoint.name)[0]
        arrays = dict(checkpoint.tensors)
        checkpoint.tensors.clear()
        for name, array in arrays.items():
            if not is_float(array):
                raise checkpoint.error(
                    f"{name} is {array.dtype} {list(array.shape)}, expected floats"
                )
        arrays = {name: to_numpy(array) for name, array in arrays.items()}
        if "eigvec" in arrays:
            found = _eigenvectors(checkpoint, stem, arrays["eigvec"])
        elif len(arrays) == 1:
            (array,) = arrays.values()
            found = {stem: _direction(checkpoint, array)}
        elif "comp" in arrays:
            found = _components(checkpoint, stem, **arrays)
        else:
            found = _components(checkpoint, stem, *_ganspace_arrays(checkpoint, stem, arrays))
        twice = set(found) & set(directions)
        if twice:
            raise ConvertError(f"two files hold a direction {min(twice)!r}; rename one of them.")
        for name, direction in found.items():
            if not np.isfinite(direction).all():
                raise checkpoint.error(f"the direction {name} holds NaN or infinity")
        directions |= found
    return directions


def _direction(checkpoint, array):
    squeezed = array[0] if array.ndim == 3 and len(array) == 1 else array
    squeezed = squeezed[0] if squeezed.ndim == 2 and len(squeezed) == 1 else squeezed
    layers = is_number_of_styles(len(squeezed)) if squeezed.ndim == 2 else squeezed.ndim == 1
    if not layers or squeezed.size == 0:
        raise checkpoint.error(
            f"its shape is {list(array.shape)}; expected a direction [D], [1, D] or [L, D], or the "
            "codes of images [N, L, D]"
        )
    if squeezed.ndim == 2:
        checkpoint.notes.append(
            f"{checkpoint.name} {list(array.shape)} is read as a direction; the codes of an image "
            "need --format latents"
        )
    return np.array(squeezed, np.float32)


def _has_unit_length(array) -> bool:
    """Whether a direction [L, D] is, as a whole or in each layer that it moves."""
    lengths = np.linalg.norm(array, axis=-1)
    moved = lengths[lengths > 0]
    return bool(
        len(moved) > 0
        and (np.abs(moved - 1) < 0.01).all()
        or abs(float(np.linalg.norm(lengths)) - 1) < 0.01
    )


def _components(checkpoint, stem, mean, comp, std):
    mean = mean.reshape(1, -1) if mean.ndim < 2 else mean
    comp = comp[:, None] if comp.ndim == 2 else comp
    count, size = std.size, mean.shape[-1]
    if mean.shape != (1, size) or comp.shape != (count, 1, size) or std.shape != (count,):
        raise checkpoint.error(
            f"mean, comp and std have shapes {list(mean.shape)}, {list(comp.shape)} and "
            f"{list(std.shape)}; expected [1, D], [K, 1, D] and [K]"
        )
    steps = comp[:, 0] * std[:, None]
    return {f"{stem}_mean": mean[0].copy()} | {f"{stem}_{i}": step for i, step in enumerate(steps)}


def _ganspace_arrays(checkpoint, stem, arrays):
    """Mean, components and deviations in W of the file that GANSpace's own program writes.

    Its lat_* are in Z where it ran without --use_w (their deviations are then all 1), and its act_*
    are in W where the layer is the mapping network's last.
    """

    def take(prefix):
        return tuple(arrays[f"{prefix}_{part}"] for part in ("mean", "comp", "stdev"))

    in_w = "lat_stdev" in arrays and not (arrays["lat_stdev"] == 1).all()
    if {f"lat_{part}" for part in _GANSPACE} <= arrays.keys() and in_w:
        found, which = take("lat"), "its codes (lat_*)"
    elif (
        {f"act_{part}" for part in _GANSPACE} <= arrays.keys()
        and arrays["act_comp"].ndim == 3
        and not re.search(r"_style\.\d", stem)
    ):
        found, which = take("act"), "the mapping network's outputs (act_*), as its codes are z"
    else:
        raise checkpoint.error(
            "its components are of z, which no code w_plus can follow; expected those of w: run "
            "GANSpace with --use_w and --layer=style"
        )
    checkpoint.notes.append(f"GANSpace's components of {which}")
    return found


def _eigenvectors(checkpoint, stem, vectors):
    """rosinality's closed_form_factorization.py has them in columns."""
    if vectors.ndim != 2 or vectors.shape[0] < vectors.shape[1] or not vectors.size:
        raise checkpoint.error(f"eigvec has shape {list(vectors.shape)}; expected [D, D]")
    checkpoint.notes.append(
        f"SeFa's factors of {checkpoint.values.get('ckpt', 'a generator')}, the strongest first"
    )
    return {f"{stem}_{i}": column.copy() for i, column in enumerate(vectors.T)}

"""What a folder of inversions knows of itself: how they were made, of what, and where they are.

`inversion.json` says how. Beside the codes in `latents.npz` stand the names of the inputs, the
digests of their content, the files of their inversions, and once more how they were made. While
the work goes on, all that lies in parts, which are merged at the next start or at the end. Every
file is written whole or not at all: whatever moment a process ends at, the same command goes on.
"""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from e4e_jax.data import outputs
from e4e_jax.data.names import check_names, check_places, place, settle
from e4e_jax.runtime.files import read_arrays, remove_leftovers, write_arrays, writing

_OWN_FILES = (outputs.GRID, outputs.LATENTS, outputs.INVERSION, f"{outputs.PARTS}/part.npz")
_LARGEST_SETTINGS = 2**20  # bytes


@dataclasses.dataclass(frozen=True)
class Inversion:
    """What is known of a finished one.

    Attributes:
      file: of its picture, relative to the folder.
      digest: of the content of its input; "" in folders of earlier versions, which did not note it.
    """

    file: str
    digest: str


def check_settings(out: str | os.PathLike, settings: Mapping[str, Any]) -> None:
    """Raises ValueError where `out` holds something else than inversions made with `settings`."""
    if os.path.lexists(out) and not os.path.isdir(out):
        raise ValueError(f"{out} is no folder; choose another name for OUT.")
    check_places(out, _OWN_FILES)
    found, settings = _recorded(out), _as_read(settings)
    if found is None:
        if sheets := os.path.join(out, outputs.SHEETS) if outputs.written(out).sheets else None:
            raise ValueError(f"{sheets} lists what other commands made; choose another folder.")
        if _archives(out):
            raise ValueError(
                f"{out} holds codes and does not say how they were made ({outputs.INVERSION} is "
                "missing or damaged); choose another folder."
            )
        return
    changed = [key for key in {*found, *settings} if found.get(key) != settings.get(key)]
    if changed:
        key = min(changed)
        raise ValueError(
            f"{out} holds inversions made with {key} {found.get(key)!r}, now it is "
            f"{settings.get(key)!r}; choose another folder."
        )


def begin(out: str | os.PathLike, settings: Mapping[str, Any]) -> None:
    """Makes `out` ready for work with `settings`, which `check_settings` has seen.

    Raises:
      OSError: the folder or what belongs there cannot be written; in one sentence.
    """
    out = pathlib.Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{out} cannot be made: {error.strerror or error}.") from error
    for folder in (out, out / outputs.PARTS):
        remove_leftovers(folder)
    if _read_settings(out) is None:  # new, or damaged when a disk was full
        with writing(place(out, outputs.INVERSION)) as temporary:
            temporary.write_text(json.dumps(settings, indent=2) + "\n")
    merge(out, settings)


def finished(out: str | os.PathLike) -> dict[str, Inversion]:
    """Name of an input -> its inversion, for all that are there.

    Raises:
      ValueError: a file of codes is damaged or holds names that lead elsewhere; in one sentence.
    """
    found = {}
    for path in _archives(out):
        arrays = _read(path, ("names", "digests", "files"))
        if arrays is not None:
            found |= _inversions(path, arrays)
    return found


def add_part(
    out: str | os.PathLike,
    names: Sequence[str],
    inversions: Sequence[Inversion],
    codes: np.ndarray,
    settings: Mapping[str, Any],
) -> None:
    """Notes inversions whose files are there.

    Args:
      out: the folder.
      names: of their inputs, [N].
      inversions: what to note, [N].
      codes: w_plus [N, L, D].
      settings: how they were made.

    Raises:
      OSError: the disk takes no more; in one sentence.
    """
    path = place(out, f"{outputs.PARTS}/{secrets.token_hex(8)}.npz")
    _write(path, names, inversions, codes, settings)


def merge(out: str | os.PathLike, settings: Mapping[str, Any]) -> None:
    """All parts and what was there before become one file, sorted by name."""
    out = pathlib.Path(out)
    parts = _parts(out)
    if not parts:
        return
    found, codes = {}, {}
    for path in _archives(out):  # the newest last
        arrays = _read(path, None)
        if arrays is not None:
            found |= _inversions(path, arrays)
            codes |= zip(arrays["names"].tolist(), arrays["codes"], strict=True)
    if found:
        names = sorted(found)
        path = place(out, outputs.LATENTS)
        kept = np.stack([codes[name] for name in names])
        _write(path, names, [found[name] for name in names], kept, settings)
    for part in parts:
        part.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (out / outputs.PARTS).rmdir()


def _write(path, names, inversions, codes, settings):
    arrays = {
        "names": np.asarray(names, str),
        "codes": np.asarray(codes, np.float32),
        "digests": np.asarray([inversion.digest for inversion in inversions], str),
        "files": np.asarray([inversion.file for inversion in inversions], str),
        "settings": np.asarray(json.dumps(settings)),
    }
    write_arrays(path, arrays)


def _archives(out) -> list[pathlib.Path]:
    latents = pathlib.Path(out, outputs.LATENTS)
    return [latents] * os.path.exists(latents) + _parts(out)


def _parts(out) -> list[pathlib.Path]:
    return sorted(pathlib.Path(out, outputs.PARTS).glob("[!.]*.npz"))


def _read(path, only) -> dict[str, np.ndarray] | None:
    """Arrays of a file of codes; None of a damaged part, whose inversions are made anew."""
    try:
        arrays = read_arrays(path, "latents", only)
        _check_arrays(path, arrays, only is None)
    except ValueError as error:
        if path.name == outputs.LATENTS:
            raise
        logging.warning("%s What it held is made anew.", error)
        return None
    except FileNotFoundError:  # another process has merged it
        return None
    return arrays


def _check_arrays(path, arrays, with_codes):
    names = arrays.get("names", np.zeros(0))
    texts = [arrays[key] for key in ("names", "digests", "files") if key in arrays]
    shapes = {array.shape for array in texts}
    if with_codes:
        shapes.add(arrays.get("codes", np.zeros(())).shape[:1])
    if names.ndim != 1 or len(shapes) != 1 or any(array.dtype.kind != "U" for array in texts):
        raise ValueError(f"{path} holds other arrays than names, codes and files of inversions.")
    check_names(names.tolist(), path)


def _inversions(path, arrays) -> dict[str, Inversion]:
    names = arrays["names"].tolist()
    if not {"digests", "files"} <= arrays.keys():  # of an earlier version, which named files so
        files, digests = settle(names, reserved=outputs.RESERVED), [""] * len(names)
    else:
        files, digests = arrays["files"].tolist(), arrays["digests"].tolist()
        check_names(files, path)
        for file in files:
            if not file.endswith(".png") or file.split("/")[0] in outputs.RESERVED:
                raise ValueError(f"{path} names {file!r:.80} as the picture of an inversion.")
    return {
        name: Inversion(file, digest)
        for name, file, digest in zip(names, files, digests, strict=True)
    }


def _recorded(out) -> dict[str, Any] | None:
    """The settings that `out` was made with: those beside the codes, where a file of them lacks."""
    found = _read_settings(out)
    for path in _archives(out) if found is None else []:
        arrays = _read(path, ("names", "settings"))
        if arrays is not None and "settings" in arrays:
            return _parse(str(arrays["settings"]))
    return found


def _read_settings(out) -> dict[str, Any] | None:
    path = os.path.join(out, outputs.INVERSION)
    try:
        if not outputs.is_file(path) or os.path.getsize(path) > _LARGEST_SETTINGS:
            return None
        return _parse(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _parse(text) -> dict[str, Any] | None:
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return settings if isinstance(settings, dict) else None


def _as_read(settings):
    return json.loads(json.dumps(settings))

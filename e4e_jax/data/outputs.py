"""What the folders that `e4e_jax` has written hold beside images of their own.

`invert` leaves an image for each input, and beside them a sheet for looking at (grid.png) and files
of codes; inversion.json marks such a folder. `edit`, `mix` and `interpolate` leave nothing but
sheets, which sheets.json lists. Whoever reads images from such a folder leaves the sheets out.
"""

import dataclasses
import json
import os
import pathlib
import stat
from collections.abc import Mapping, Sequence

from e4e_jax.data.names import check_names, check_places, place, settle
from e4e_jax.runtime.files import read_arrays, writing

GRID, LATENTS, INVERSION, SHEETS, PARTS = (
    "grid.png", "latents.npz", "inversion.json", "sheets.json", ".parts",
)  # fmt: skip
NOISE, GENERATOR = ".noise.npz", ".generator"  # beside an inversion, in place of .png
RESERVED = (GRID, LATENTS, INVERSION, SHEETS, PARTS)
_LARGEST_LIST = 2**28  # bytes


@dataclasses.dataclass(frozen=True)
class Written:
    """What is no image of its own in a folder; paths are relative to it.

    Attributes:
      inversions: whether `invert` wrote it.
      sheets: file -> the input that it shows, or None where it shows several.
    """

    inversions: bool = False
    sheets: Mapping[str, str | None] = dataclasses.field(default_factory=dict)

    def is_ours(self, path: str) -> bool:
        """Whether the file at `path` is none that readers of images should look at."""
        if path in self.sheets or path in (SHEETS, LATENTS) and self.sheets:
            return True
        return self.inversions and (path in RESERVED or path.endswith(NOISE))

    def is_our_folder(self, path: str) -> bool:
        return self.inversions and path.endswith(GENERATOR)


def written(folder: str | os.PathLike) -> Written:
    """What `e4e_jax` has written to a folder, as far as it says so there."""
    inversions = is_file(os.path.join(folder, INVERSION))
    return Written(inversions, _read_sheets(folder) or {})


def written_above(folder: str | os.PathLike) -> list[tuple[Written, str]]:
    """The same of a folder and of all around it, where there is anything.

    Returns:
      Pairs; the second is the folder's path from there with a slash at its end, "" for itself.
    """
    here = os.path.abspath(folder)
    found = []
    for above in [pathlib.Path(here), *pathlib.Path(here).parents]:
        made = _written_once(str(above))
        if made is not None:
            inside = os.path.relpath(here, above)
            found.append((made, "" if inside == "." else f"{pathlib.Path(inside).as_posix()}/"))
    return found


def _written_once(folder):
    names = [os.path.join(folder, name) for name in (INVERSION, SHEETS)]
    return written(folder) if any(map(os.path.lexists, names)) else None


def is_file(path: str | os.PathLike) -> bool:
    """Whether there is a regular file, or a link to one: what can be read to its end."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def sheet_names(out: str | os.PathLike, names: Sequence[str]) -> list[str]:
    """A file for each input's sheet, all different; those that earlier runs gave it stay."""
    listed = _read_sheets(out) or {}
    kept = {name: file for file, name in listed.items() if name and file.endswith(".png")}
    return settle(names, kept=kept, reserved=RESERVED)


def check_for_sheets(out: str | os.PathLike) -> None:
    """Raises ValueError where sheets would replace the results of `invert`; in one sentence."""
    if os.path.lexists(os.path.join(out, INVERSION)):
        raise ValueError(
            f"{out} holds inversions (there is {INVERSION}), which would be replaced; choose "
            "another folder for OUT."
        )


def start_sheets(out: str | os.PathLike, sheets: Mapping[str, str | None]) -> pathlib.Path:
    """Makes a folder for sheets, and lists these there before they are written.

    Args:
      out: the folder.
      sheets: file -> the input that it shows, or None.

    Returns:
      The folder.

    Raises:
      ValueError: something is where a sheet should be; in one sentence.
      OSError: the folder or the list cannot be written; in one sentence.
    """
    check_places(out, [*sheets, LATENTS, SHEETS])
    listed = {"sheets": (_read_sheets(out) or {}) | dict(sheets)}
    with writing(place(out, SHEETS)) as temporary:
        temporary.write_text(json.dumps(listed, indent=1, sort_keys=True) + "\n")
    return pathlib.Path(out)


def _read_sheets(folder) -> dict[str, str | None] | None:
    """The list; None where there is none that can be understood."""
    path = os.path.join(folder, SHEETS)
    if not is_file(path) or os.path.getsize(path) > _LARGEST_LIST:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            sheets = json.load(file)["sheets"]
        check_names(list(sheets), path)
        names = [name for name in sheets.values() if name is not None]
        if not all(isinstance(name, str) for name in names):
            return None
        return sheets
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def origins(folder: str | os.PathLike) -> dict[str, str]:
    """Image in a folder of inversions -> the input that it is the inversion of."""
    latents = os.path.join(folder, LATENTS)
    if not is_file(os.path.join(folder, INVERSION)) or not is_file(latents):
        return {}
    try:
        arrays = read_arrays(latents, "latents", only=("names", "files"))
        names, files = (arrays[key].tolist() for key in ("names", "files"))
        return dict(zip(files, names, strict=True))
    except (OSError, ValueError, KeyError):  # older ones do not know their files
        return {}

"""Inverts the images of a folder: files in, files out, and going on after a stop.

The output folder holds an image per input, `latents.npz` with all names and codes, a grid, and
`inversion.json`, which says how they were made. While the work goes on, finished codes lie in
parts beside it; they are merged at the end.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from e4e_jax.data.images import decode_image, image_grid, resize_image, save_png, to_uint8
from e4e_jax.data.pipeline import make_pipeline
from e4e_jax.data.sources import Subset
from e4e_jax.runtime.files import read_arrays

_SETTINGS, _LATENTS, _GRID, _PARTS = "inversion.json", "latents.npz", "grid.png", ".parts"
_GRID_ROWS, _GRID_PAIRS = 8, 2  # input | inversion, twice in a row
_WRITERS = 4  # threads that compress PNG files beside the device's work


@dataclasses.dataclass(frozen=True)
class Inverted:
    """What one batch gives.

    Attributes:
      codes: w_plus [B, L, D].
      images: [B, R, R, 3] in [-1, 1].
      noises: optimised noise images, a list of [B, r, r]; None where they stay the generator's.
      generators: a bundle writer per image, `write(path)`, where the generator was tuned; or None.
    """

    codes: jax.Array
    images: jax.Array
    noises: list[jax.Array] | None = None
    generators: list[Callable[[str], None]] | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What `invert_folder` did.

    Attributes:
      count: images inverted now, by all hosts.
      already: images that were there before.
      bad: name -> reason of images of this host that could not be decoded.
    """

    count: int
    already: int
    bad: dict[str, str]


def invert_folder(
    invert: Callable[[jax.Array], Inverted],
    source,
    out,
    *,
    image_size: tuple[int, int],
    batch_size: int,
    settings: dict[str, Any],
    max_bad_images: int = 100,
    progress: Callable = None,
) -> Outcome:
    """Inverts every image of a source that `out` does not hold yet.

    Several hosts share the work by file; `out` must then be on a file system that all see.

    Args:
      invert: images [B, H, W, 3] in [-1, 1], of one shape and spread over the local devices.
      source: images with `names`, see `data.sources`.
      out: folder to fill, made if missing.
      image_size: (height, width) that `invert` takes.
      batch_size: images at a time on this host; rounded up to a multiple of its devices.
      settings: what the inversions depend on. `out` must have been made with the same.
      max_bad_images: images that may turn out not to be decodable.
      progress: (total_steps, batch_size) -> progress bar, such as `hooks.ProgressBar`.

    Raises:
      ValueError: `out` holds inversions made with other settings; in one sentence.
      ImageError: too many images could not be decoded, or the disk takes no more.
    """
    out = pathlib.Path(out)
    _check_settings(out, settings)
    files = output_names(source.names)
    done = set(_finished(out))
    todo = [i for i, name in enumerate(source.names) if name not in done]
    already = len(source.names) - len(todo)
    todo = todo[jax.process_index() :: jax.process_count()]
    _over_hosts(0)  # all have seen the same before one adds to it
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ("data",))
    sharding = jax.NamedSharding(mesh, jax.P("data"))
    batch_size = -(-min(batch_size, max(len(todo), 1)) // mesh.size) * mesh.size
    bad = {}
    if todo:
        batches = make_pipeline(
            Subset(source, todo),
            batch_size=batch_size,
            image_size=image_size,
            seed=0,
            shuffle=False,
            repeat=False,
            max_bad_images=max_bad_images,
        )
        with contextlib.ExitStack() as stack:
            stack.callback(batches.close)
            writers = stack.enter_context(concurrent.futures.ThreadPoolExecutor(_WRITERS))
            bar = progress(batches.num_batches, batch_size) if progress else None
            if bar:
                stack.callback(bar.close)
            for step, batch in enumerate(batches, start=1):
                images = jnp.asarray(batch["image"], jnp.float32) / 127.5 - 1
                found = invert(jax.device_put(images, sharding))
                rows = np.flatnonzero(batch["mask"])
                indices = [todo[(step - 1) * batch_size + row] for row in rows]
                _write_batch(out, found, rows, [source.names[i] for i in indices],
                             [files[i] for i in indices], writers)  # fmt: skip
                if bar:
                    bar.update(step, {})
            bad = dict(batches.bad_images)
    count = _over_hosts(len(todo) - len(bad))
    if jax.process_index() == 0:
        _merge(out)
        _write_grid(out, source, files, image_size)
    return Outcome(count, already, bad)


def _over_hosts(number: int) -> int:
    """The sum of the hosts' numbers; none goes on before all have come here."""
    if jax.process_count() == 1:
        return number
    from jax.experimental import multihost_utils

    return int(multihost_utils.process_allgather(np.asarray(number)).sum())


def output_names(names: Sequence[str]) -> list[str]:
    """PNG names after the inputs'.

    The extension stays where two inputs differ in nothing else, and where the name is the grid's.
    """
    stems = [os.path.splitext(name)[0] for name in names]
    inputs = collections.Counter(stems)
    return [
        f"{stem if inputs[stem] == 1 and f'{stem}.png' != _GRID else name}.png"
        for name, stem in zip(names, stems, strict=True)
    ]


def check_output(out, source) -> None:
    """Raises ValueError where results of these image files would replace files of theirs."""
    inputs = {os.path.realpath(path) for path in source.paths}
    for file in [_GRID, *output_names(source.names)]:
        path = os.path.join(out, file)
        if os.path.realpath(path) in inputs:
            raise ValueError(f"{path} is one of the images to read; choose another folder for OUT.")


def load_latents(path) -> tuple[list[str], np.ndarray]:
    """Names and codes w_plus [N, L, D] of a `latents.npz`.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged, or holds something else; in one sentence.
    """
    arrays = read_arrays(path, "latents")
    if not {"names", "codes"} <= arrays.keys():
        raise ValueError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; expected latents, which are arrays "
            "names and codes."
        )
    names, codes = arrays["names"], arrays["codes"]
    fits = codes.ndim == 3 and codes.dtype.kind == "f" and names.dtype.kind == "U"
    if not fits or names.shape != codes.shape[:1]:
        raise ValueError(
            f"{path} holds names {names.dtype} {list(names.shape)} and codes {codes.dtype} "
            f"{list(codes.shape)}; expected strings [N] and floats [N, L, D]."
        )
    with np.errstate(over="ignore"):
        return [str(name) for name in names], codes.astype(np.float32)


def save_latents(path, names, codes) -> None:
    """Writes a `latents.npz`, whole or not at all.

    Raises:
      OSError: the disk takes no more.
    """
    _save_arrays(path, {"names": np.asarray(names, str), "codes": np.asarray(codes, np.float32)})


def _save_arrays(path, arrays):
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp.npz")
    try:
        np.savez(temporary, **arrays)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(f"{path} cannot be written: {error.strerror or error}.") from error


def _check_settings(out, settings):
    out.mkdir(parents=True, exist_ok=True)
    path = out / _SETTINGS
    settings = json.loads(json.dumps(settings))
    if path.exists():
        try:
            found = json.loads(path.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError):
            found = {}
        changed = [key for key in {*found, *settings} if found.get(key) != settings.get(key)]
        if changed:
            key = min(changed)
            raise ValueError(
                f"{out} holds inversions made with {key} {found.get(key)!r}, now it is "
                f"{settings.get(key)!r}; choose another folder."
            )
    elif jax.process_index() == 0:
        path.write_text(json.dumps(settings, indent=2) + "\n")


def _parts(out):
    return sorted((out / _PARTS).glob("*.npz"))


def _finished(out):
    """Names whose image and codes are there."""
    for path in [out / _LATENTS, *_parts(out)]:
        if path.exists():
            yield from load_latents(path)[0]


def _write_batch(out, found, rows, names, files, writers):
    """Images first: a name in a part means that everything of it is there."""
    images = to_uint8(found.images)
    for file in files:
        (out / file).parent.mkdir(parents=True, exist_ok=True)
    list(writers.map(save_png, [out / file for file in files], [images[row] for row in rows]))
    if found.noises is not None:
        for row, file in zip(rows, files, strict=True):
            noises = {f"noise_{i}": np.asarray(n[row]) for i, n in enumerate(found.noises)}
            _save_arrays(out / f"{os.path.splitext(file)[0]}.noise.npz", noises)
    if found.generators is not None:
        for row, file in zip(rows, files, strict=True):
            found.generators[row](str(out / f"{os.path.splitext(file)[0]}.generator"))
    if names:  # else every image of the batch is bad
        (out / _PARTS).mkdir(exist_ok=True)
        part = out / _PARTS / f"{jax.process_index():04d}-{len(_parts(out)):08d}.npz"
        save_latents(part, names, np.asarray(found.codes)[rows])


def _merge(out):
    """All parts and what was there before become one file, sorted by name."""
    parts = _parts(out)
    if not parts:
        return
    before = [out / _LATENTS] if (out / _LATENTS).exists() else []
    names, codes = zip(*(load_latents(path) for path in before + parts), strict=True)
    names, codes = np.concatenate(names), np.concatenate(codes)
    # A name is there twice where a merge was stopped before its parts were removed.
    names, first = np.unique(names, return_index=True)
    save_latents(out / _LATENTS, names, codes[first])
    for part in parts:
        part.unlink()
    (out / _PARTS).rmdir()


def _write_grid(out, source, files, image_size):
    cells, done = [], set(_finished(out))
    for i, name in enumerate(source.names):
        if name in done and len(cells) < 2 * _GRID_ROWS * _GRID_PAIRS:
            cells.append(resize_image(source[i], image_size))
            cells.append(resize_image(decode_image(out / files[i]), image_size))
    if cells:
        save_png(out / _GRID, image_grid(np.stack(cells), 2 * _GRID_PAIRS))

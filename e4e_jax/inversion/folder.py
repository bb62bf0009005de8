"""Inverts the images of a folder: files in, files out, and going on after a stop.

The output folder holds an image per input, `latents.npz` with all names and codes, a grid, and
`inversion.json`, which says how they were made; see `inversion.record`.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import logging
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from e4e_jax import bundle
from e4e_jax.data import outputs
from e4e_jax.data.images import (
    ImageError,
    decode_image,
    resize_image,
    save_png,
    to_float,
    to_uint8,
)
from e4e_jax.data.names import check_names, check_places, distinct, place, settle
from e4e_jax.data.pipeline import make_pipeline
from e4e_jax.data.same_on_hosts import check_same_on_hosts
from e4e_jax.data.sheets import sheet
from e4e_jax.data.sources import Subset
from e4e_jax.inversion import record
from e4e_jax.inversion.contract import Inverted
from e4e_jax.runtime.files import read_arrays, write_arrays
from e4e_jax.runtime.hosts import check_shared, gather_json

_OF_PYTORCH = (".pt", ".pth", ".pkl", ".npy")  # read by convert_weights, and not here
_GRID_ROWS, _GRID_PAIRS = 8, 2  # input | inversion, twice in a row
_WRITERS = 4  # threads that compress PNG files beside the device's work


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What `invert_folder` did.

    Attributes:
      count: images inverted now, by all hosts.
      already: images that were there before.
      bad: name -> reason of images of this host that could not be decoded or inverted.
      changed: images that were there before with another content, and were inverted anew.
      errors: name -> numbers [K] that `invert` gave for the images of this host, if it gave any.
    """

    count: int
    already: int
    bad: dict[str, str]
    changed: tuple[str, ...] = ()
    errors: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


def invert_folder(
    invert: Callable[[jax.Array], Inverted],
    source: Any,
    out: str | os.PathLike,
    *,
    image_size: tuple[int, int],
    batch_size: int,
    settings: dict[str, Any],
    max_bad_images: int = 100,
    progress: Callable[..., Any] | None = None,
) -> Outcome:
    """Inverts every image of a source that `out` does not hold yet.

    An image counts as done where an image of its name and its content was inverted before; what an
    image of the same name and another content has left is replaced. Several hosts share the work by
    file; `out` must then be on a file system that all see.

    Args:
      invert: images [B, H, W, 3] in [-1, 1], of one shape and spread over the local devices.
      source: images with `names`, see `data.sources`.
      out: folder to fill, made if missing.
      image_size: (height, width) that `invert` takes.
      batch_size: images at a time on this host; rounded up to a multiple of its devices.
      settings: what the inversions depend on. `out` must have been made with the same.
      max_bad_images: images that may turn out not to be decodable.
      progress: (total_steps, batch_size) -> progress bar, such as `runtime.progress.ProgressBar`.

    Raises:
      ValueError: `out` holds inversions made with other settings, or something where results
        should go; in one sentence.
      ImageError: too many images could not be decoded, or the disk takes no more.
    """
    check_same_on_hosts(source, "images")  # they are shared by number
    out, source = pathlib.Path(out), _Noted(source)
    record.check_settings(out, settings)
    check_shared(str(out), "OUT")
    if jax.process_index() == 0:
        record.begin(out, settings)
    before = record.finished(out)
    files = output_names(source.names, before)
    check_places(out, files)
    done = _are_done(out, source, files, before)
    if older := sum(not inversion.digest for inversion in before.values()):
        logging.warning(
            "%s holds %d inversions of an earlier version, which did not note the content of their "
            "inputs; those of this input are made anew.", out, older,
        )  # fmt: skip
    todo = np.flatnonzero(~done).tolist()
    changed = [source.names[i] for i in todo if source.names[i] in before]
    already = len(source.names) - len(todo)
    todo = todo[jax.process_index() :: jax.process_count()]
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), ("data",))
    sharding = jax.NamedSharding(mesh, jax.P("data"))
    batch_size = -(-min(batch_size, max(len(todo), 1)) // mesh.size) * mesh.size
    bad, errors = {}, {}
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
                images = to_float(jnp.asarray(batch["image"]))
                found = invert(jax.device_put(images, sharding))
                indices = {
                    row: todo[(step - 1) * batch_size + row]
                    for row in np.flatnonzero(batch["mask"])
                }
                for row in np.flatnonzero(~_are_finite(found.codes, found.images)):
                    if row not in indices:
                        continue
                    name = source.names[indices.pop(row)]
                    bad[name] = f"{name}: its inversion is not finite"
                _write_batch(out, found, indices, source, files, settings, writers)
                if found.errors is not None:
                    errors |= {source.names[i]: found.errors[row] for row, i in indices.items()}
                if bar:
                    bar.update(step, {})
            bad |= batches.bad_images
    count = int(_over_hosts(len(todo) - len(bad)))
    if jax.process_index() == 0:
        record.merge(out, settings)
        _write_grid(out, source, image_size)
    changed = [name for name in changed if name not in bad]
    return Outcome(count, already, bad, tuple(changed), errors)


class _Noted:
    """A source that notes the digest of each image as it is read."""

    def __init__(self, source):
        self.names = source.names
        self.digests = {}
        self._source = source
        self._paths = getattr(source, "paths", None)  # a property, which lists them anew

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        # Before the image is: of one that is replaced meanwhile the next run sees a change.
        self.digests[index] = self.digest(index)
        return self._source[index]

    def digest(self, index) -> str | None:
        """Of an image's file, or of its pixels where there is none; None if it cannot be read."""
        try:
            if self._paths is None:
                return hashlib.sha256(self._source[index].tobytes()).hexdigest()
            if not outputs.is_file(self._paths[index]):
                return None
            with open(self._paths[index], "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ImageError):
            return None


def _are_done(out, source, files, before) -> np.ndarray:
    """Which images [N] of a source are there, bool; the hosts share the reading."""
    done = np.zeros(len(files), np.int32)
    for i in range(jax.process_index(), len(files), jax.process_count()):
        inversion = before.get(source.names[i])
        done[i] = (
            inversion is not None
            and inversion.digest == source.digest(i)
            and outputs.is_file(out / files[i])
        )
    return _over_hosts(done) > 0


def _over_hosts(numbers):
    """The sum of the hosts' numbers; none goes on before all have come here."""
    values = gather_json(np.asarray(numbers).tolist(), "the folder of inversions")
    return np.sum(values, axis=0)


def output_names(names: Sequence[str], before: dict[str, record.Inversion]) -> list[str]:
    """A PNG file for each input, all different; those of finished inversions stay."""
    return settle(
        names,
        kept={name: inversion.file for name, inversion in before.items()},
        reserved=outputs.RESERVED,
        beside=(outputs.NOISE, outputs.GENERATOR),
    )


def check_output(out: str | os.PathLike, source: Any) -> None:
    """Raises ValueError where inversions of these image files would replace files of theirs."""
    check_no_input(out, source, output_names(source.names, record.finished(out)))


def check_no_input(out: str | os.PathLike, source: Any, files: Sequence[str]) -> None:
    """Raises ValueError where results would replace image files that are read, or join them.

    Args:
      out: folder for results.
      source: of image files, with `paths`.
      files: in `out` that are to be written.
    """
    inputs = {os.path.realpath(path) for path in source.paths}
    for file in [outputs.GRID, *files]:
        path = os.path.join(out, file)
        if os.path.realpath(path) in inputs:
            raise ValueError(f"{path} is one of the images to read; choose another folder for OUT.")
    if os.path.realpath(getattr(source, "path", "")) == os.path.realpath(out):
        raise ValueError(f"{out} is the folder of the images; choose another folder for OUT.")


def load_latents(path: str | os.PathLike) -> tuple[list[str], np.ndarray]:
    """Names and codes w_plus [N, L, D] of a `latents.npz`, or of NVIDIA's `projected_w.npz`.

    The latter has the codes of one image as `w`; their name is that of its folder and file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged, or holds something else; in one sentence.
    """
    if os.path.splitext(path)[1] in _OF_PYTORCH:
        raise ValueError(
            f"{path} is no .npz file of latents; `python -m convert_weights {path} latents.npz` "
            "makes one of codes that PyTorch saved."
        )
    arrays = read_arrays(path, "latents")
    if set(arrays) == {"w"}:
        arrays = _name_codes(path, arrays["w"])
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
        codes = codes.astype(np.float32)
    listed = [str(name) for name in names]
    check_names(listed, path)
    for name, code in zip(listed, codes, strict=True):
        if not np.isfinite(code).all():
            raise ValueError(f"{path}: the codes of {name} are not finite numbers.")
    return listed, codes


def _name_codes(path, codes):
    path = pathlib.Path(os.path.abspath(path))
    codes = codes[None] if codes.ndim == 2 else codes
    name = "_".join(part for part in (path.parent.name, path.stem) if part)
    names = [name] if len(codes) == 1 else [f"{name}_{i:04}" for i in range(len(codes))]
    return {"names": np.array(names, str), "codes": codes}


def save_latents(path: str | os.PathLike, names: Sequence[str], codes: np.ndarray) -> None:
    """Writes a `latents.npz`, whole or not at all.

    Names that are equal get a number, and over-long ones are cut.

    Raises:
      OSError: the disk takes no more.
    """
    listed = np.asarray(distinct(names), str)
    write_arrays(path, {"names": listed, "codes": np.asarray(codes, np.float32)})


def _are_finite(*arrays) -> np.ndarray:
    """Of arrays [N, ...] the rows that hold finite numbers alone, bool [N]."""
    finite = [np.isfinite(np.asarray(array)).reshape(len(array), -1).all(1) for array in arrays]
    return np.logical_and.reduce(finite)


def _write_batch(out, found, indices, source, files, settings, writers):
    """Images first: a name in a part means that everything of it is there.

    Args:
      indices: row of the batch -> image of the source.
    """
    if not indices:  # every image of the batch is bad
        return
    rows = list(indices)
    images = to_uint8(found.images)
    paths = [place(out, files[i]) for i in indices.values()]
    list(writers.map(save_png, paths, [images[row] for row in rows]))
    for row, path in zip(rows, paths, strict=True):
        if found.noises is not None:
            noises = {f"noise_{i}": np.asarray(n[row]) for i, n in enumerate(found.noises)}
            write_arrays(path.with_name(path.stem + outputs.NOISE), noises)
        if found.generators is not None:
            generator = path.with_name(path.stem + outputs.GENERATOR)
            if generator.is_symlink():  # or the bundle would be written where it leads
                generator.unlink()
            networks = {"generator": found.generators[row]}
            bundle.save_bundle(str(generator), "generator", networks, overwrite=True)
    record.add_part(
        out,
        [source.names[i] for i in indices.values()],
        [record.Inversion(files[i], source.digests[i] or "") for i in indices.values()],
        np.asarray(found.codes)[rows],
        settings,
    )


def _write_grid(out, source, image_size):
    cells, made = [], record.finished(out)
    for i, name in enumerate(source.names):
        if name in made and len(cells) < 2 * _GRID_ROWS * _GRID_PAIRS:
            with contextlib.suppress(ImageError):  # changed since, or removed
                if made[name].digest == source.digest(i):
                    pair = source[i], decode_image(out / made[name].file)
                    cells += [resize_image(image, image_size) for image in pair]
    if cells:
        labels = ["input", "inversion"] * _GRID_PAIRS
        save_png(out / outputs.GRID, sheet(np.stack(cells), 2 * _GRID_PAIRS, labels))

"""Files in, files out: published checkpoints to bundles, and bundles to PyTorch."""

import os
from collections.abc import Sequence

from convert_weights import export, formats
from convert_weights.checkpoint import ConvertError
from convert_weights.read import read, sha256
from e4e_jax import bundle
from e4e_jax.editing.files import save_directions
from e4e_jax.inversion.folder import save_latents


def convert_files(
    sources: Sequence[str], out: str, *, format: str | None = None, overwrite: bool = False
) -> formats.Converted:
    """Converts published files to a bundle, or to a .npz file of directions or codes.

    Nothing in a file is executed.

    Args:
      sources: a .pt, .pth, .pkl, .npy or .npz file; several for LPIPS, directions and codes.
      out: the bundle's folder, or a .npz file.
      format: one of `FORMATS` or `ARRAYS`; None to find it out.
      overwrite: replace what is at `out`.

    Returns:
      What was found, and what was left out.

    Raises:
      ConvertError: a file is of no known format, incomplete or damaged; in one sentence.
      OSError: a file is missing, `out` exists already, or cannot be written; in one sentence.
    """
    _check_destination(sources, out, overwrite)
    converted = formats.convert([read(path) for path in sources], format)
    if converted.kind in formats.ARRAYS:
        _save_arrays(out, converted)
        return converted
    about = [{"file": os.path.basename(path), "sha256": sha256(path)} for path in sources]
    bundle.save_bundle(
        out,
        converted.kind,
        converted.networks,
        {"sources": about} | converted.metadata,
        overwrite=overwrite,
    )
    return converted


def to_pytorch(
    source: str, out: str, *, label: int | None = None, overwrite: bool = False
) -> list[str]:
    """Writes a bundle as the checkpoint of the published PyTorch code.

    Args:
      source: a bundle.
      out: a .pt file.
      label: the class to keep of a class-conditional generator.
      overwrite: replace what is at `out`.

    Returns:
      Lines that say what it is.

    Raises:
      ConvertError, ValueError, OSError: there is no such checkpoint; in one sentence.
    """
    _check_destination([source], out, overwrite)
    checkpoint, found = export.export(bundle.load_bundle(source), label)
    export.save(checkpoint, out)
    return found


def _check_destination(sources, path, overwrite):
    """Before any work; writing checks again."""
    if os.path.exists(path) and not overwrite:
        raise FileExistsError(f"{path} exists already; choose another name or give --overwrite.")
    if any(os.path.abspath(path) == os.path.abspath(source) for source in sources):
        raise ConvertError(f"{path} is a source; expected another destination.")


def _save_arrays(path, converted):
    if not path.endswith(".npz"):
        raise ConvertError(
            f"{path} is to hold {converted.kind}; expected a name that ends in .npz."
        )
    if os.path.isdir(path):
        raise FileExistsError(f"{path} is a folder; choose another name.")
    if converted.kind == "directions":
        save_directions(path, converted.networks)
    else:
        save_latents(path, **converted.networks)

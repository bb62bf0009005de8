"""encoder4editing in JAX: invert and edit images with StyleGAN2, and train encoders for it."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # `import e4e_jax` does not wait for JAX
    from convert_weights.formats import Converted
    from e4e_jax.api import FeatureModel, GeneratorModel
    from e4e_jax.metrics.report import Report

__version__ = "0.1.0"


def load(name: str | os.PathLike, *, dtype: Any = None) -> "GeneratorModel | FeatureModel":
    """Opens a bundle as a model: `encode`, `map`, `synthesize`, as far as it can.

    Args:
      name: a folder that training or conversion wrote, or "toy" for the shipped inverter.
      dtype: compute type of convolutions, such as "bfloat16"; None for float32.

    Returns:
      A `api.Inverter` or `api.GeneratorModel`, or a `api.FeatureModel`, which is called
      with images.

    Raises:
      FileNotFoundError, ValueError: nothing usable is there; in one sentence.
    """
    from e4e_jax import api

    return api.load(name, dtype=dtype)


def evaluate(
    model: "GeneratorModel | FeatureModel | str | None",
    source: Any = None,
    metrics: Sequence[str] | None = None,
    **options: Any,
) -> "Report":
    """Measures a model, or images beside others.

        report = e4e_jax.evaluate("toy", "faces", metrics=["l2", "ms_ssim"])
        print(report, report["l2"])

    Args:
      model: what `load` gives, or its name; None to compare images with `reference`.
      source: of images, or a folder, file or pattern of them.
      metrics: each a NAME, NAME@NETWORK, or the import path of one's own; counts as in fid10k. By
        default l2, lpips, id, fid and swd.
      **options: `edits`, `reference`, `networks`, `cache` and others; see `metrics.prepare`.

    Returns:
      A `metrics.report.Report`: figures by name.

    Raises:
      FileNotFoundError, ValueError: something is not there or does not fit; in one sentence.
    """
    from e4e_jax.metrics.prepare import prepare

    return prepare(model, source, metrics, **options).measure()


def convert(
    paths: str | os.PathLike | Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    format: str | None = None,
    overwrite: bool = False,
) -> "Converted":
    """Converts published checkpoints to a bundle, or directions and codes to a .npz file.

        e4e_jax.convert("e4e_ffhq_encode.pt", "bundles/e4e_ffhq")

    Args:
      paths: a file, or several for LPIPS (trunk and linear weights), directions and codes. Nothing
        in them is executed.
      out: the bundle's folder, for `load`; or a .npz file.
      format: of the files, where it is not found out rightly; see `convert_weights.formats`.
      overwrite: replace what is at `out`.

    Returns:
      A `convert_weights.formats.Converted`: its `kind`, what was `found`, and what was `left_out`.

    Raises:
      ValueError, OSError: a file is missing, damaged or of no known format, or `out` cannot be
        written; in one sentence.
    """
    from convert_weights.files import convert_files

    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    sources = [os.fspath(path) for path in given]
    return convert_files(sources, os.fspath(out), format=format, overwrite=overwrite)

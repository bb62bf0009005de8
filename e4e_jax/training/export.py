"""A run looked into, while it goes on or after it was stopped: a checkpoint's networks as a model.

No image is read, no step is built, and the run does not notice.
"""

import dataclasses
import os

from e4e_jax import api, bundle
from e4e_jax.inversion.domain import STEP
from e4e_jax.training.checkpoint_reader import read_checkpoint
from e4e_jax.training.registry import BUNDLES
from e4e_jax.training.work_directory import FILE, read_config


def is_run(path: str | os.PathLike) -> bool:
    """Whether a path is the work directory of a run, which is none of its bundle."""
    return os.path.isdir(os.path.join(path, "checkpoints"))


def open_run(workdir: str | os.PathLike, step: int | None = None) -> bundle.Bundle:
    """What a bundle of a run would hold, from its newest whole checkpoint or that of `step`.

    The config that lies in the work directory says how the networks are built. It is trusted as
    little as a bundle: its fields are checked, and nothing that it names is imported. Bundles that
    it names, such as an encoder's generator, are read; their relative paths count from the current
    folder, as when the run was started.

    Args:
      workdir: of train.py; also one that train.py is at work in.
      step: one of those whose checkpoints are there.

    Returns:
      The bundle; its metadata has the `step` and what the run trains on.

    Raises:
      FileNotFoundError: there is no run, no checkpoint yet, none of `step`, or a bundle that the
        config names is not there; in one sentence.
      ValueError: a file is damaged, or they do not fit together; in one sentence.
    """
    workdir = os.path.abspath(os.path.expanduser(workdir))
    if not is_run(workdir):
        raise FileNotFoundError(
            f"{workdir} is no work directory of a run: it has no folder checkpoints."
        )
    config, about = read_config(workdir)
    if config.task not in BUNDLES:
        raise ValueError(
            f"config.task of {os.path.join(workdir, FILE)} is {config.task!r:.80}, whose networks "
            f"are not known here; expected one of {', '.join(BUNDLES)}."
        )
    make = BUNDLES[config.task]
    found, step = read_checkpoint(
        os.path.join(workdir, "checkpoints"), lambda read: make(config, about, read), step
    )
    for network in found.networks.values():
        network.eval()
    return dataclasses.replace(found, metadata={**about, STEP: step})


def export_run(
    workdir: str | os.PathLike,
    out: str | os.PathLike,
    step: int | None = None,
    *,
    half: bool = False,
    overwrite: bool = False,
) -> bundle.Bundle:
    """Writes a bundle of a run, see `open_run`, and returns it.

    Args:
      workdir, step: as there.
      out, half, overwrite: as for `bundle.save_bundle`.

    Raises:
      FileExistsError: something is at `out`; else as `open_run`.
    """
    opened = open_run(workdir, step)
    bundle.save_bundle(
        out, opened.kind, opened.networks, opened.metadata, half=half, overwrite=overwrite
    )
    return opened


def open_model(
    name: str | os.PathLike, step: int | None = None
) -> api.GeneratorModel | api.FeatureModel:
    """A bundle, or the work directory of a run (see `open_run`), as a model.

    Of a run of an older version, which noted no config, it is the bundle of the run's end.

    Args:
      name: as for `bundle.resolve`.
      step: of a run: that of the checkpoint; None for the newest.

    Raises:
      FileNotFoundError, ValueError: as `bundle.load_bundle` and `open_run`; in one sentence.
    """
    path = bundle.resolve(name)
    finished = os.path.join(path, "bundle")
    if is_run(path) and step is None and not os.path.lexists(os.path.join(path, FILE)):
        path = finished if os.path.exists(finished) else path
    if is_run(path):
        return api.of_bundle(open_run(path, step))
    if step is not None:
        raise ValueError(
            f"step {step} is asked for and {name} is a bundle; expected a run's work directory."
        )
    return api.load(path)

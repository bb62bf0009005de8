"""Parts of a run's checkpoints, read by others than the run, which may go on meanwhile.

Nothing in the folder is changed and no device is needed: arrays come as NumPy's, wherever those of
the run were. The run removes old checkpoints as it goes; one that is gone is no error while there
is a newer one.
"""

import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from e4e_jax.runtime import checksums
from e4e_jax.runtime.hosts import gather_json, on_any_host
from e4e_jax.training.checkpoint_folders import ARRAYS, DESCRIPTION, Damaged, checked, read_json
from e4e_jax.training.checkpoints import Checkpoints
from e4e_jax.training.state_arrays import describe, named_leaves

_T = TypeVar("_T")
_TRIES = 10  # that the run may overtake


def read_checkpoint(
    directory: str | os.PathLike, use: Callable[[Callable[[Any], Any]], _T], step: int | None = None
) -> tuple[_T, int]:
    """Calls `use` with a function that reads parts of the newest whole checkpoint, or of `step`.

    Args:
      directory: the checkpoints of a run.
      use: takes `read(template)`, where the template is a tree of arrays or shapes whose names are
        those of the state, and which gives the same tree as NumPy arrays; called again where the
        run has removed the checkpoint meanwhile, or it is damaged and there is an older one.
      step: a step instead of the newest.

    Returns:
      (what `use` gives, step).

    Raises:
      FileNotFoundError: there is no checkpoint, or none of `step`; in one sentence.
      ValueError: it is damaged, or of another state than the template's; in one sentence.
    """
    checkpoints = Checkpoints(directory)
    damaged = {}
    for _ in range(_TRIES):
        steps = gather_json([n for n in checkpoints.steps() if n not in damaged])[0]
        candidate = max(steps, default=None) if step is None else step
        if candidate is None or candidate not in steps:
            break
        folder = epath.Path(checkpoints.path(candidate))
        result: Any = None
        fault = None
        try:
            result = use(lambda template, folder=folder: _read(folder, template))
        except Damaged as error:
            fault = str(error)
        if on_any_host(fault is not None):
            if folder.exists():
                damaged[candidate] = fault or "on another host"
            continue
        if damaged:
            logging.warning("Passing over what cannot be used: %s.", "; ".join(damaged.values()))
        return result, candidate
    if damaged:
        raise ValueError(f"The checkpoint {'; '.join(damaged.values())}.")
    saved = ", ".join(map(str, checkpoints.steps()))
    if step is None or not saved:
        raise FileNotFoundError(f"there is no checkpoint in {checkpoints.directory} yet.")
    raise FileNotFoundError(
        f"there is no checkpoint of step {step} in {checkpoints.directory}; expected one of "
        f"{saved}."
    )


def _read(folder, template):
    """Raises Damaged, and ValueError where the checkpoint is whole but of another state."""
    leaves, treedef = named_leaves(template)
    try:
        checksums.check(folder)
        saved, _ = checked(read_json(folder / DESCRIPTION))
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # Orbax raises what it likes
        raise _damaged(folder, error) from error
    for name, leaf in leaves.items():
        if saved.get(name) != describe(leaf):
            raise ValueError(
                f"the checkpoint {folder} is of another configuration than the run's config.json: "
                f"{name} is {saved.get(name, 'missing')} in it; expected {describe(leaf)}."
            )
    shapes = {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in leaves.items() if x.size}
    as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in shapes}
    try:
        arrays = ocp.PyTreeCheckpointHandler().restore(
            folder / ARRAYS,
            args=ocp.args.PyTreeRestore(shapes, restore_args=as_numpy, partial_restore=True),
        )
    except (MemoryError, PermissionError):
        raise
    except Exception as error:
        raise _damaged(folder, error) from error
    return jax.tree.unflatten(
        treedef, [arrays.get(k, np.zeros(x.shape, x.dtype)) for k, x in leaves.items()]
    )


def _damaged(folder, error):
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return Damaged(f"{os.fspath(folder)} is damaged ({reason[:120]})")

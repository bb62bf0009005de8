"""Checkpoints of a run: written in the background and whole or not at all, by Orbax.

A checkpoint is a folder named after its step. Besides Orbax's own files it holds the arrays of
the training state, one JSON that describes them, with the places of the data iterators of all
hosts and the validation metrics, and the checksums of its files.
"""

import contextlib
import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from e4e_jax.runtime import checksums
from e4e_jax.runtime.hosts import gather_json, wait_for_hosts
from e4e_jax.training.checkpoint_folders import (
    ARRAYS,
    DESCRIPTION,
    ChecksumsWriter,
    Damaged,
    NewestAndMore,
    agreed,
    checked,
    is_checkpoint,
    read_json,
    without_traces,
)
from e4e_jax.training.state_arrays import (
    abstract_array,
    compare,
    describe,
    like,
    named_leaves,
    of_other_devices,
    raw_array,
)

_DAMAGED, _NOT_FINITE = ".damaged", ".not_finite"  # names of what is moved aside
# What Orbax calls a checkpoint that it is still writing, or was when it was killed.
_UNFINISHED = re.compile(r"(\d+)\.orbax-checkpoint-tmp(-\d+)?")


class Restored(NamedTuple):
    """What `Checkpoints.restore` found."""

    state: Any
    data_state: Any
    step: int


class Checkpoints:
    """The checkpoints of one run, in a folder that no other run writes to.

    On several hosts the folder is shared, and all hosts make the same calls. To be closed after
    use, or used as a context manager: a write that is still going on when the interpreter exits
    is lost.

    Args:
      directory: made at the first save; a path that TensorStore knows (local, gs://).
      keep: how many of the newest checkpoints stay.
      best: name of a metric; the checkpoint that has the best finite value of it stays too.
      best_mode: "min" or "max", which values of it are better.

    Attributes:
      directory: where the checkpoints are.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        keep: int = 3,
        best: str | None = None,
        best_mode: str = "min",
    ):
        if keep < 1:
            raise ValueError(f"keep is {keep}; expected at least 1 checkpoint.")
        if best_mode not in ("min", "max"):
            raise ValueError(f"best_mode is {best_mode!r}; expected 'min' or 'max'.")
        root: Any = epath.Path(directory).expanduser()
        # Orbax wants absolute paths; gs:// is one, though pathlib cannot tell.
        self.directory = root if "://" in str(root) else root.resolve()
        self._keep = keep
        self._best_metric = best
        self._best_mode = best_mode
        self._metrics = {}  # step -> metrics, as far as they have been asked for
        self._passed_over = []  # what `restore` could not use
        self._manager: Any = None  # only a run that saves has one: a reader leaves all as it is
        self._own = set()  # steps that were saved or restored here
        self._confirmed: int | None = None  # the newest step that is known to be a good one
        self._checksums: ChecksumsWriter | None = None  # of the latest save
        self._latest: int | None = None  # the step of the latest save, which may still be going on

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def save(
        self,
        step: int,
        state: Any,
        data_state: Any = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts to write a checkpoint; returns when the state may be changed or donated.

        A second save of a step is left out: the state is a function of the step.

        Args:
          step: number of steps done.
          state: pytree of jax arrays and typed PRNG keys; on several hosts global arrays.
          data_state: JSON-serialisable place of this host's data iterator.
          metrics: {name: number} of validation at this step, if there was one.

        Raises:
          OSError: this checkpoint, or the one before it, could not be written.
          ValueError: the folder has an older run's checkpoint of this step.
        """
        if step in self._own:
            return
        leaves, _ = named_leaves(state)
        description = {
            "arrays": {name: describe(leaf) for name, leaf in leaves.items()},
            "data": gather_json(data_state),
            "metrics": {name: float(value) for name, value in (metrics or {}).items()},
        }
        arrays = {name: raw_array(leaf) for name, leaf in leaves.items() if leaf.size}
        self.wait()
        if self._manager is None:
            with self._writing(step):
                self._manager = self._open()
        if step in self._manager.all_steps():
            raise ValueError(
                f"{self.path(step)} exists already and the run did not start from it; move it "
                "away or choose another work directory."
            )
        self._latest = step
        self._metrics[step] = description["metrics"]
        items = {
            ARRAYS: ocp.args.PyTreeSave(arrays),
            DESCRIPTION: ocp.args.JsonSave(description),
        }
        with self._writing(step):
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        self._own.add(step)
        if jax.process_index() == 0:
            self._checksums = ChecksumsWriter(self.path(step), lambda: step in self.steps())

    def confirm(self, step: int) -> None:
        """Says that the state of `step` is a good one: the losses that it led to were finite.

        The newest that is confirmed stays, whatever is saved after it.
        """
        self._confirmed = step

    def reject(self, step: int) -> str | None:
        """Moves the checkpoint of a state aside that turned out to be no good one.

        Returns:
          Where it is now; None if there is none of this step.
        """
        self.close()
        if step not in self.steps():
            return None
        aside = self.directory / f"{step}{_NOT_FINITE}"
        wait_for_hosts("checkpoints: before one is moved aside")
        if jax.process_index() == 0:
            if aside.exists():
                aside.rmtree()
            epath.Path(self.path(step)).rename(aside)
        wait_for_hosts("checkpoints: moved aside")
        return str(aside)

    def restore(
        self,
        template: Any,
        step: int | None = None,
        *,
        accept: Callable[[Any], None] = lambda data_state: None,
        deal: Mapping[str, Callable[[dict, int], dict]] | None = None,
    ) -> Restored | None:
        """Reads the newest checkpoint that is whole, or that of `step`.

        Checkpoints that were cut short, or whose files are not those that were written, are
        passed over with one warning that names them, and moved aside when this run saves its
        first one.

        Args:
          template: pytree like the state, of arrays or `jax.ShapeDtypeStruct`; each array comes
            back bit for bit, with the sharding of its template.
          step: a step to read instead of the newest, such as `best_step()`.
          accept: takes the data_state, and raises ValueError if that makes no sense: such a
            checkpoint is passed over too.
          deal: parts of the state that are the devices' own, and what becomes of them where a run
            goes on on another number of devices: "pool" -> function of ({name below "pool/": array
            [devices then, ...]}, devices now) that gives the same for the devices now, all as
            NumPy arrays.

        Returns:
          (state, data_state, step), or None if there is nothing to start from. The data_state is
          this host's; hosts that were not there when it was saved get the first host's.

        Raises:
          ValueError: the checkpoint is of a state of another structure or other shapes, which is
            another configuration's; or that of `step` is damaged.
          FileNotFoundError: there is no checkpoint of `step`.
        """
        self.wait()
        steps = self.steps()
        if step is not None:
            if step not in steps:
                raise FileNotFoundError(f"There is no checkpoint {self.path(step)}.")
            try:
                return self._read(step, template, accept, deal)
            except Damaged as error:
                raise ValueError(f"The checkpoint {error}.") from error

        self._passed_over = damaged = []
        restored = None
        for candidate in reversed(steps):
            try:
                restored = self._read(candidate, template, accept, deal)
                self._own.add(candidate)
                break
            except Damaged as error:
                damaged.append((candidate, str(error)))
        found = -1 if restored is None else restored.step
        damaged += [
            (unfinished, f"{path} was not finished")
            for unfinished, path in self._unfinished().items()
            if unfinished > found
        ]
        if damaged:
            logging.warning(
                "Passing over what cannot be used: %s; %s.",
                "; ".join(reason for _, reason in sorted(damaged)),
                "starting anew" if restored is None else f"going on from {self.path(found)}",
            )
        return restored

    def steps(self) -> list[int]:
        """Steps whose checkpoints are finished, in order."""
        found = ocp.path.step.standard_name_format().find_all(self.directory)
        return sorted(metadata.step for metadata in found if is_checkpoint(metadata.path))

    def path(self, step: int) -> str:
        """Where the checkpoint of a step is."""
        return str(self.directory / str(step))

    def best_step(self) -> int | None:
        """The finished checkpoint with the best value of the metric, None if none has one."""
        self.wait()
        return self._best_of(self.steps())

    def wait(self) -> None:
        """Returns when the latest save is on the disk.

        Raises:
          OSError: it could not be written.
        """
        if self._manager is not None:
            with self._writing(self._latest):
                self._manager.wait_until_finished()
                if self._checksums is not None:
                    thread, self._checksums = self._checksums, None
                    thread.finish()

    def close(self) -> None:
        """Waits for the latest save and ends the background threads.

        Raises:
          OSError: the latest save could not be written.
        """
        if self._manager is not None:
            try:
                self.wait()
            finally:
                self._manager.close()
                self._manager = None

    def _open(self):
        """Makes the folder ready for writing: only now is anything in it changed."""
        if jax.process_index() == 0:
            for path in self._unfinished().values():
                path.rmtree()
            finished = set(self.steps())
            for step, _ in self._passed_over:
                if step in finished:
                    aside = self.directory / f"{step}{_DAMAGED}"
                    if aside.exists():
                        aside.rmtree()
                    epath.Path(self.path(step)).rename(aside)
        wait_for_hosts("checkpoints: opened")
        logging.getLogger("absl").addFilter(without_traces)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=NewestAndMore(self._keep, self._stay, self.directory)
        )
        return ocp.CheckpointManager(self.directory, options=options)

    def _unfinished(self) -> dict[int, epath.Path]:
        """What a write that was cut short has left, by step; nothing that Orbax has not made."""
        if not self.directory.exists():
            return {}
        finished = set(self.steps())
        found = {}
        for path in self.directory.iterdir():
            match = _UNFINISHED.fullmatch(path.name)
            if not match and "://" in str(self.directory):  # there a mark inside says it instead
                match = re.fullmatch(r"(\d+)", path.name)
                match = match if match and is_checkpoint(path) else None
            if match and int(match[1]) not in finished:
                found[int(match[1])] = path
        return found

    def _read(self, step, template, accept, deal):
        """Raises Damaged, and ValueError where the checkpoint is whole but of another state."""
        leaves, treedef = named_leaves(template)
        folder = epath.Path(self.path(step))
        with agreed(folder):
            if jax.process_index() == 0:
                checksums.check(folder)
            saved, data_states = checked(read_json(folder / DESCRIPTION))
            host = jax.process_index() if jax.process_index() < len(data_states) else 0
            accept(data_states[host])
        expected = {name: describe(leaf) for name, leaf in leaves.items()}
        others = of_other_devices(saved, expected, deal or {})
        compare(folder, saved | {name: expected[name] for name in others}, expected)

        abstract = {name: abstract_array(leaf) for name, leaf in leaves.items() if leaf.size}
        how = ocp.checkpoint_utils.construct_restore_args(abstract)
        for name, shape in others.items():
            if name in abstract:
                abstract[name] = jax.ShapeDtypeStruct(shape, abstract[name].dtype)
                how[name] = ocp.RestoreArgs(restore_type=np.ndarray)
        # The handler alone: a Checkpointer would wait for the other hosts, also for one that has
        # met an error.
        with agreed(folder):
            arrays = ocp.PyTreeCheckpointHandler().restore(
                folder / ARRAYS, args=ocp.args.PyTreeRestore(abstract, restore_args=how)
            )
            jax.block_until_ready(arrays)
        if others:
            arrays |= self._dealt(folder, deal, others, arrays, leaves)
        restored = [like(leaf, arrays.get(name)) for name, leaf in leaves.items()]
        return Restored(jax.tree.unflatten(treedef, restored), data_states[host], step)

    def _dealt(self, folder, deal, shapes, arrays, leaves):
        """Arrays of the devices' own, for the devices of this run; says what happened to them."""
        (then,) = {shape[0] for shape in shapes.values()}
        now = leaves[next(iter(shapes))].shape[0]
        if jax.process_index() == 0:
            logging.warning(
                "The checkpoint %s was saved on %s and goes on on %s: %s dealt anew.",
                *(folder, *(f"{n} device{'s' if n > 1 else ''}" for n in (then, now))),
                ", ".join(sorted({name.split("/")[0] for name in shapes})),
            )
        dealt = {}
        for part, function in deal.items():
            saved = {  # those without elements are not in the file
                name.removeprefix(f"{part}/"): np.asarray(
                    arrays.get(name, np.zeros(shape, leaves[name].dtype))
                )
                for name, shape in shapes.items()
                if name.startswith(f"{part}/")
            }
            dealt |= {f"{part}/{name}": x for name, x in function(saved, now).items()}
        return dealt

    def _stay(self, steps) -> set:
        """Those that stay though they are none of the newest."""
        return {self._best_of(steps), self._confirmed}

    def _best_of(self, steps):
        values = {}
        for step in steps if self._best_metric else ():
            value = self._metrics_of(step).get(self._best_metric, math.nan)
            if math.isfinite(value):
                values[step] = value if self._best_mode == "min" else -value
        return min(values, key=lambda step: values[step]) if values else None

    def _metrics_of(self, step):
        if step not in self._metrics:
            try:
                folder = epath.Path(self.path(step))
                found = read_json(folder / DESCRIPTION)["metrics"]
                self._metrics[step] = {name: float(value) for name, value in found.items()}
            except (OSError, ValueError, KeyError, TypeError, AttributeError):  # so not the best
                self._metrics[step] = {}
        return self._metrics[step]

    @contextlib.contextmanager
    def _writing(self, step):
        """Turns what a disk that is full or gone leads to into one sentence, and tidies up."""
        try:
            yield
        except Exception as error:
            self._own.discard(step)
            self._checksums = None
            if jax.process_index() == 0:
                with contextlib.suppress(OSError, KeyError):
                    self._unfinished()[step].rmtree()
            text = " ".join(str(error).split())
            system = re.search(r": ([^:\[]+) \[os_error_code", text)  # TensorStore's
            reason = system[1] if system else text[:200]
            raise OSError(
                f"The checkpoint {self.path(step)} could not be written: {reason}."
            ) from error

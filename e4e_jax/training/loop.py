"""The training loop: batches, checkpoints, validation, logs and pictures around a compiled step."""

import contextlib
import os
import threading
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from e4e_jax.data.images import save_png
from e4e_jax.data.same_on_hosts import check_same_entries
from e4e_jax.runtime import parallel, tuning
from e4e_jax.runtime.hosts import check_shared
from e4e_jax.runtime.progress import ProgressBar
from e4e_jax.runtime.registry import call
from e4e_jax.runtime.stop_signal import StopSignal
from e4e_jax.training import logs
from e4e_jax.training.checkpoints import Checkpoints
from e4e_jax.training.config_table import check_devices, check_run
from e4e_jax.training.finite import NonFiniteLoss, check_finite
from e4e_jax.training.registry import TASKS
from e4e_jax.training.run import Run, build_optimizer
from e4e_jax.training.state_arrays import first_not_finite
from e4e_jax.training.work_directory import note_config

_nothing = contextlib.nullcontext()
_OF_ONE_HOST = {f"config.data.{n}" for n in ("path", "validation_path", "data_dir", "workers")}


def train(config: ConfigDict, workdir: str) -> None:
    """Trains what `config` describes and leaves everything in `workdir`.

    Starts from the newest usable checkpoint in `workdir` if there is one. On SIGTERM it saves and
    returns; the next call goes on from there, to the same parameters as an uninterrupted run.

    Args:
      config: an `ml_collections.ConfigDict` as in configs/.
      workdir: folder for checkpoints, logs, pictures and the final bundle; made if missing.

    Raises:
      ValueError, FileNotFoundError, OSError: bad config, data, or disk; in one sentence.
      NonFiniteLoss: a loss became NaN or infinite.
      KeyboardInterrupt: Ctrl-C; after the first step all is saved before.
    """
    check_run(config)
    for section in {"optimizer", "discriminator_optimizer"} & {*config}:
        build_optimizer(config[section], config.total_steps)  # says what its schedule lacks
    if jax.process_count() > 1:
        check_same_entries(_settings(config), "settings")
        check_shared(workdir, "work directory")
    mesh = parallel.make_mesh()
    check_devices(config, mesh.size)
    run = call(f"the task {config.task}", TASKS.find(config.task), config, mesh)
    if not isinstance(run, Run):
        raise ValueError(
            f"the task {config.task} gives {type(run).__name__}; expected e4e_jax.training.run.Run."
        )
    run_loop(run, config, mesh, workdir)


def _settings(section, prefix="config.") -> dict[str, str]:
    """All fields but those that say where on a host its files are, and how many read them."""
    found = {}
    for name, value in section.items():
        if hasattr(value, "items"):
            found |= _settings(value, f"{prefix}{name}.")
        elif prefix + name not in _OF_ONE_HOST:
            found[prefix + name] = repr(value)
    return found


def run_loop(run: Run, config: ConfigDict, mesh: Mesh, workdir: str) -> None:
    """`train` for a run that is built already, on the devices of `mesh`."""
    main_host = jax.process_index() == 0
    pictures = os.path.join(workdir, "pictures")
    os.makedirs(pictures, exist_ok=True)
    state, batches = run.state, run.batches

    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(
            Checkpoints(
                os.path.join(workdir, "checkpoints"), keep=config.keep_checkpoints, best=run.best
            )
        )
        restored = checkpoints.restore(state, accept=batches.check_state, deal=run.deal)
        step = 0
        if restored is not None:
            state, data_state, step = restored
            batches.set_state(data_state)
        if main_host:  # only now: another run's work directory stays as it is
            note_config(workdir, config, run.about)
        writer = stack.enter_context(contextlib.closing(logs.make_writer(workdir)))
        progress = stack.enter_context(
            ProgressBar(config.total_steps, config.batch_size, first_step=step)
        )
        stop = StopSignal()
        stack.callback(stop.close)
        if restored is not None:
            progress.write(f"Going on from {checkpoints.path(step)}.")
        saved = Saved(checkpoints, step if restored is not None else None)
        metrics, validation, running = {}, {}, None
        first_picture = config.get("first_picture", 0)

        def validate():
            with progress.patience("The validation"):
                validation = run.validate(state)
            if validation:
                writer.write_scalars(step, {f"validation/{k}": v for k, v in validation.items()})
                progress.write(_sentence(step, validation))
            return validation

        def draw():
            """Draws and saves a picture; where it lies, of the first host alone."""
            path = os.path.join(pictures, f"{step:08d}.png")
            if main_host:
                with progress.patience("The picture"):
                    picture = run.picture(state)
                try:
                    save_png(path, picture)
                except OSError as error:  # a full disk: what can be done without is
                    progress.write(f"{' '.join(str(error).split())} The training goes on.")
            return path

        compiled_for = set()

        def settle(*work):
            """Compilation leaves memory in pieces, which slow down every step that follows."""
            if not compiled_for.issuperset(work) and jax.default_backend() == "cpu":
                tuning.settle_memory()
            compiled_for.update(work)

        warming = None
        if run.warm_up and main_host and step < first_picture:
            warming = threading.Thread(target=run.warm_up, name="warm-up")
            warming.start()
        while step < config.total_steps and not stop.requested:
            try:
                batch = next(batches)
            except Exception:
                if not stop.received:
                    raise
                # Workers may have got the signal too. Several hosts stop after the same step.
                if jax.process_count() == 1:
                    break
                batch = next(batches)
            batch = parallel.put_batch(batch, mesh)
            with progress.patience("The training step") if running is None else _nothing:
                state, metrics = run.step(state, batch)
                if running is None:
                    jax.block_until_ready(metrics)
            step += 1
            if running is None:
                stack.enter_context(stop)  # only now is there something to save
            settle("step")
            if running is not None:
                # One step runs and one waits: a stop that comes now does not wait for more.
                jax.block_until_ready(running)
            running, validation = metrics, {}
            last = step == config.total_steps
            if last or step % config.log_every == 0 or saved.unconfirmed:
                metrics = {name: float(value) for name, value in metrics.items()}
                saved.check(metrics, step)
            if last or step % config.log_every == 0:
                writer.write_scalars(step, {f"train/{k}": v for k, v in metrics.items()})
                progress.update(step, metrics)
            if stop.requested:
                break
            due = last or step % config.validate_every == 0
            if warming and (due or step == first_picture):
                warming.join()  # or its programs would be compiled twice
            if due:
                with stop.cuts_short():
                    validation = validate()
                    draw()
                if last and run.best in validation:
                    saved.check({f"validation/{run.best}": validation[run.best]}, step)
                if not last:
                    settle("validation", "picture")
            elif step == first_picture:
                with stop.cuts_short():
                    progress.write(f"step {step}, the first picture: {draw()}")
                settle("picture")
            if last or step % config.checkpoint_every == 0:
                saved.save(step, state, batches.get_state(), metrics, validation)
        if saved.step != step:
            saved.save(step, state, batches.get_state(), metrics, validation)
        checkpoints.wait()
        batches.close()

        if stop.requested:
            text = f"Stopped at step {step}; the same command goes on from there."
            if stop.interrupted:
                raise KeyboardInterrupt(text)
            progress.write(text)
            return
        written = {"checkpoints": checkpoints.directory, "logs": workdir, "pictures": pictures}
    if main_host:
        written |= run.finish(state, workdir)
        print("\n" + "\n".join(f"{what}: {path}" for what, path in written.items()))


class Saved:
    """Which checkpoint is the last good one: the losses that its parameters led to were finite.

    A loss belongs to the parameters before its step, so that of the step after a save is the
    first to know. Until then the checkpoint is not called good, and the one before it stays.

    Args:
      checkpoints: where they are.
      step: of the checkpoint that the run goes on from; None for none.

    Attributes:
      step: of the newest checkpoint.
      unconfirmed: whether that one still has to prove itself.
    """

    def __init__(self, checkpoints: Checkpoints, step: int | None):
        self.step = step
        self.unconfirmed = step is not None
        self._checkpoints = checkpoints

    def check(self, metrics: Mapping[str, Any], step: int) -> None:
        """Looks at the losses of a step; finite ones confirm an earlier checkpoint.

        Raises:
          NonFiniteLoss: one is NaN or infinite; a checkpoint that led to it without a
            finite loss in between is moved aside.
        """
        try:
            check_finite(metrics, step)
        except NonFiniteLoss as error:
            raise NonFiniteLoss(f"{error}; {self._remedy(step)}.") from None
        if self.step is not None and self.unconfirmed and step > self.step:
            self._checkpoints.confirm(self.step)
            self.unconfirmed = False

    def save(
        self,
        step: int,
        state: Any,
        data_state: Any,
        metrics: Mapping[str, Any],
        validation: Mapping[str, float] | None,
    ) -> None:
        """Never a state that is not finite, or whose step's losses were not.

        Raises:
          NonFiniteLoss: it is such a state.
          OSError: it could not be written, or the one before.
        """
        self.check({name: float(value) for name, value in metrics.items()}, step)
        if name := first_not_finite(state):
            raise NonFiniteLoss(
                f"{name} of the state is no longer finite after step {step}; {self._remedy(step)}."
            )
        self._checkpoints.save(step, state, data_state, validation)
        self.step, self.unconfirmed = step, True

    def _remedy(self, step):
        moved = None
        if self.step is not None and self.unconfirmed and step > self.step:
            bad, self.unconfirmed = self.step, False
            moved = self._checkpoints.reject(bad)
        else:
            self._checkpoints.close()
        good = self._checkpoints.steps()
        text = "there is no checkpoint yet"
        if good:
            text = f"the last good checkpoint is {self._checkpoints.path(good[-1])}"
        if moved:
            text += f" (that of step {bad}, which led to it, is {moved} now)"
        return text


def _sentence(step: int, validation: dict[str, float]) -> str:
    parts, metric = [], None
    for name, value in validation.items():
        first, _, rest = name.partition(" ")
        parts.append(f"{rest if rest and first == metric else name} {value:.4g}")
        metric = first  # several figures of one metric follow one another
    return f"step {step}, held-out images: {', '.join(parts)}"

"""The training loop: batches, checkpoints, validation, logs and pictures around a compiled step."""

import contextlib
import os

import jax

from e4e_jax import process
from e4e_jax.data.images import save_png
from e4e_jax.training import hooks, parallel
from e4e_jax.training.checkpoints import Checkpoints
from e4e_jax.training.config_table import check_devices, check_run
from e4e_jax.training.encoder_run import build_encoder_run
from e4e_jax.training.features_run import build_features_run
from e4e_jax.training.generator_run import build_generator_run
from e4e_jax.training.run import Run, build_optimizer

_RUNS = {
    "encoder": build_encoder_run,
    "generator": build_generator_run,
    "features": build_features_run,
}


def train(config, workdir: str) -> None:
    """Trains what `config` describes and leaves everything in `workdir`.

    Starts from the newest usable checkpoint in `workdir` if there is one. On SIGTERM it saves and
    returns; the next call goes on from there, to the same parameters as an uninterrupted run.

    Args:
      config: an `ml_collections.ConfigDict` as in configs/.
      workdir: folder for checkpoints, logs, pictures and the final bundle; made if missing.

    Raises:
      ValueError, FileNotFoundError, OSError: bad config, data, or disk; in one sentence.
      hooks.NonFiniteLoss: a loss became NaN or infinite.
      KeyboardInterrupt: Ctrl-C; after the first step all is saved before.
    """
    check_run(config)
    for section in {"optimizer", "discriminator_optimizer"} & {*config}:
        build_optimizer(config[section], config.total_steps)  # says what its schedule lacks
    mesh = parallel.make_mesh()
    check_devices(config, mesh.size)
    run_loop(_RUNS[config.task](config, mesh), config, mesh, workdir)


def run_loop(run: Run, config, mesh, workdir: str) -> None:
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
        restored = checkpoints.restore(state)
        step = 0
        if restored is not None:
            state, data_state, step = restored
            batches.set_state(data_state)
        writer = stack.enter_context(contextlib.closing(hooks.make_writer(workdir)))
        progress = stack.enter_context(
            hooks.ProgressBar(config.total_steps, config.batch_size, first_step=step)
        )
        stop = hooks.StopSignal()
        if restored is not None:
            progress.write(f"Going on from {checkpoints.path(step)}.")
        saved = step if restored is not None else None
        metrics, validation, compiled = {}, {}, False

        def save():
            """Never a state whose losses are not finite: it would be called the last good one."""
            nonlocal saved
            numbers = {name: float(value) for name, value in metrics.items()}
            hooks.check_finite(numbers, step, checkpoints.path(saved))
            checkpoints.save(step, state, batches.get_state(), validation)
            saved = step

        while step < config.total_steps and not stop.requested:
            state, metrics = run.step(state, parallel.put_batch(next(batches), mesh))
            step += 1
            if not compiled:
                stack.enter_context(stop)  # only now is there something to save
                if jax.default_backend() == "cpu":
                    process.settle_memory()
            compiled, validation = True, {}
            last = step == config.total_steps
            if last or step % config.log_every == 0:
                metrics = {name: float(value) for name, value in metrics.items()}
                hooks.check_finite(metrics, step, checkpoints.path(saved))
                writer.write_scalars(step, {f"train/{k}": v for k, v in metrics.items()})
                progress.update(step, metrics)
            if last or step % config.validate_every == 0:
                validation = run.validate(state)
                writer.write_scalars(step, {f"validation/{k}": v for k, v in validation.items()})
                progress.write(_sentence(step, validation))
                if main_host:
                    save_png(os.path.join(pictures, f"{step:08d}.png"), run.picture(state))
            if last or step % config.checkpoint_every == 0:
                save()
        if saved != step:
            save()
        checkpoints.wait()
        batches.close()

        if stop.requested and step < config.total_steps:
            text = f"Stopped at step {step}; the same command goes on from there."
            if stop.interrupted:
                raise KeyboardInterrupt(text)
            progress.write(text)
            return
        written = {"checkpoints": checkpoints.directory, "logs": workdir, "pictures": pictures}
    if main_host:
        written |= run.finish(state, workdir)
        print("\n" + "\n".join(f"{what}: {path}" for what, path in written.items()))


def _sentence(step: int, validation: dict[str, float]) -> str:
    return f"step {step}, held-out images: " + ", ".join(
        f"{name} {value:.4g}" for name, value in validation.items()
    )

"""How long the device waits for the host: python -m benchmarks.idle [--steps 200].

Trains by configs/toy.py as train.py does, with its pipeline, logs, validation, pictures and
checkpoints, in a folder that is thrown away. The device is idle between the end of a step and the
start of the next; validation and pictures are work of the device too, and left out.

Before and after the run, the same compiled step runs on batches that lie on the device already.
What a step of the run takes longer than that is no idle time: it is what steps lose to host work on
the same cores, where the device is a CPU.

Every time between two steps is also put down to what the host did meanwhile. The first step, which
compiles, does not count; the final table and bundle, which come after the training, neither.
"""

from e4e_jax.runtime import program

if __name__ == "__main__":
    program.begin("benchmarks.idle")

import argparse
import collections
import contextlib
import dataclasses
import queue
import statistics
import sys
import tempfile
import threading
import time

import jax

from benchmarks import common, machine
from configs import toy
from e4e_jax.runtime import parallel, tuning
from e4e_jax.training.encoder_run import build_encoder_run
from e4e_jax.training.loop import run_loop

LOGS, BATCH, VALIDATION, PICTURE = "logs and progress", "next batch", "validation", "picture"
CHECKPOINT = "checkpoint, until it is on disk"
ON_DEVICE = (VALIDATION, PICTURE)


class Watch:
    """Notes when a run's steps begin and end on the device, and what the host does between.

    A thread of its own waits for the end of each step, so that the run itself does not.
    """

    def __init__(self, run):
        self.run = dataclasses.replace(
            run,
            step=self._step,
            batches=_Batches(run.batches, self),
            validate=self._noted(VALIDATION, run.validate),
            picture=self._noted(PICTURE, run.picture),
            finish=self._finish,
        )
        self.starts, self.ends = [], []  # seconds, one for each step
        self.finished = None
        self._inner = run.step
        self._work = []  # (name, start, end)
        self._steps = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def _step(self, state, batch):
        jax.block_until_ready(batch)  # it is small, and its way belongs to the host's work
        self.starts.append(time.perf_counter())
        state, metrics = self._inner(state, batch)
        self._steps.put(metrics["loss"])
        return state, metrics

    def _wait(self):
        while (loss := self._steps.get()) is not None:
            loss.block_until_ready()
            self.ends.append(time.perf_counter())

    def _noted(self, name, function):
        def noted(state):
            jax.block_until_ready(state)
            with self.note(name):
                return function(state)

        return noted

    @contextlib.contextmanager
    def note(self, name):
        start = time.perf_counter()
        yield
        self._work.append((name, start, time.perf_counter()))

    def _finish(self, state, workdir):
        self.finished = time.perf_counter()
        self._steps.put(None)
        self._thread.join()
        return {}

    def waits(self) -> dict[str, float]:
        """Seconds between steps, from the end of the first one on, by what filled them."""
        waits = collections.Counter({name: 0.0 for name in (*ON_DEVICE, BATCH, LOGS, CHECKPOINT)})
        nexts = [*self.starts[1:], self.finished]
        for i, (end, start) in enumerate(zip(self.ends, nexts, strict=True)):
            rest = max(start - end, 0.0)
            for name, since, until in self._work:
                share = max(min(until, start) - max(since, end), 0.0)
                waits[name] += share
                rest -= share
            waits[CHECKPOINT if i == len(nexts) - 1 else LOGS] += max(rest, 0.0)
        return dict(waits)


class _Batches:
    """A pipeline whose batches' arrival is noted."""

    def __init__(self, batches, watch):
        self._batches, self._watch = batches, watch

    def __next__(self):
        with self._watch.note(BATCH):
            return next(self._batches)

    def __getattr__(self, name):
        return getattr(self._batches, name)


def steps_alone(step, state, batches, count) -> list[float]:
    """Seconds of each of `count` steps on batches that lie on the device."""
    seconds = []
    state = _copy(state)
    for i in range(count):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, batches[i % len(batches)]))
        seconds.append(time.perf_counter() - start)
    return seconds


def _copy(state):
    """The state in memory of its own, since a step takes over what it is given."""
    return jax.tree.map(lambda x: jax.device_put(x, x.sharding, may_alias=False), state)


def measure(config, steps: int, workdir) -> dict:
    """Trains the first `steps` of `config` in `workdir`; the result is what --json writes."""
    mesh = parallel.make_mesh()
    run = build_encoder_run(config, mesh)
    start = run.batches.get_state()
    batches = [parallel.put_batch(next(run.batches), mesh) for _ in range(4)]
    run.batches.set_state(start)
    first = _copy(run.state)
    count = max(steps // 5, 2)
    steps_alone(run.step, first, batches, 2)
    run.validate(first), run.picture(first)  # compiled before they are timed
    tuning.settle_memory()  # as the loop does after its first step

    alone = steps_alone(run.step, first, batches, count)
    watch = Watch(run)
    config.total_steps = steps  # only now: the schedules are those of the whole run
    run_loop(watch.run, config, mesh, workdir)
    alone += steps_alone(run.step, first, batches, count)

    steps -= 1  # the first has compiled
    waits = watch.waits()
    idle = sum(seconds for name, seconds in waits.items() if name not in ON_DEVICE)
    wall = watch.finished - watch.ends[0]
    training = wall - sum(waits[name] for name in ON_DEVICE)
    median = statistics.median(alone)
    every = {"validation": config.validate_every, "checkpoint": config.checkpoint_every}
    return {
        "benchmark": "idle",
        "machine": machine.describe(),
        "config": config.name,
        "steps": steps,
        "batch": config.batch_size,
        "every": {"log": config.log_every, **every},
        "step_alone_seconds": median,
        "step_alone_spread_seconds": [min(alone), max(alone)],
        "loop_seconds": wall,
        "training_seconds": training,
        "idle_share": idle / training,
        "slowed_share": (training - idle - steps * median) / training,
        "between_steps_seconds": waits,
    }


def table(result) -> str:
    about, training = result["machine"], result["training_seconds"]
    low, high = result["step_alone_spread_seconds"]
    lines = [
        f"idle, configs/{result['config']}.py: {about['device']}, {about['cores']} cores, "
        f"jax {about['jax']}",
        "",
        f"{'step alone, median':36}{result['step_alone_seconds']:9.4f} s ({low:.4f} to {high:.4f})",
        f"{str(result['steps']) + ' steps in the run':36}{training:9.2f} s",
        f"{'idle share of the device':36}{result['idle_share']:9.1%}",
        f"{'steps slower than alone':36}{result['slowed_share']:9.1%}",
        "",
        "between steps",
    ]
    for name, seconds in result["between_steps_seconds"].items():
        share = "work of the device" if name in ON_DEVICE else f"{seconds / training:.2%}"
        lines.append(f"  {name:34}{seconds:9.3f} s ({share})")
    return "\n".join(lines)


def main(argv=None):
    description, _, details = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.idle", description=description, epilog=details
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", metavar="PATH", help="write all numbers there")
    flags = parser.parse_args(argv)
    tuning.tune()
    if flags.steps < 2:
        parser.error(f"--steps is {flags.steps}; expected at least 2")
    config = toy.get_config()
    try:
        with tempfile.TemporaryDirectory() as workdir:
            result = measure(config, flags.steps, workdir)
    except (ValueError, OSError) as error:
        print(f"benchmarks.idle: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    print("\n" + table(result))
    common.write_json(result, flags.json)
    return result


if __name__ == "__main__":
    program.end(program.run("benchmarks.idle", main))

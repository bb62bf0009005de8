"""What closed heads cost: python -m benchmarks.stages [--case 256x4].

Times the training step of e4e at the first, a middle and the last progressive stage. One program
serves them all: the stage is a number that it computes from the step's. Beside them stands the
step of an encoder that has neither heads nor pyramid ("single_w"): what it takes less than the
first stage is the cost of the pyramid, of the one open head, and of all the closed ones, whose
weights the optimiser passes over still.
"""

from e4e_jax.runtime import program

if __name__ == "__main__":
    program.begin("benchmarks.stages")

import argparse
import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from benchmarks import common, machine, sides, timing
from benchmarks.encode import random_images
from benchmarks.train_step import IMAGE_SIZE, a_batch, make_networks, make_step
from configs import ffhq
from e4e_jax.models.encoder import Encoder
from e4e_jax.runtime import parallel, tuning
from e4e_jax.training.encoder_step import STATE_SPECS, place_state
from e4e_jax.training.objective import read_objective

OPTIONS = read_objective(ffhq.get_config().objective)
NO_HEADS = "no heads"
_COMPILED = "/jax/core/compile/backend_compile_duration"


class Program:
    """A compiled step that goes on from its own last state.

    Attributes:
      compilations: calls that compiled anything.
      traces: how often the step was traced.
    """

    def __init__(self, encoder, discriminator, frozen, batch, mesh):
        init, step = make_step(encoder, discriminator, frozen, OPTIONS)
        self.compilations = self.traces = 0

        def counted(*arguments):
            self.traces += 1
            return step(*arguments)

        self._step = parallel.parallelize(counted, mesh, state_specs=STATE_SPECS)
        self._state = place_state(init(jax.random.key(0)), mesh)
        self._frozen = parallel.replicate(frozen.split()[1], mesh)
        self._batch, self._mesh = batch, mesh

    def run(self, number: int) -> int:
        """Runs the step with this number; returns its stage."""
        state = self._state.replace(step=parallel.replicate(jnp.int32(number), self._mesh))
        jax.block_until_ready(state)
        compiled = []

        def listen(event, *_, **__):
            compiled.extend([event] * (event == _COMPILED))

        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            self._state, metrics = jax.block_until_ready(
                self._step(state, self._batch, self._frozen)
            )
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)
        self.compilations += bool(compiled)
        return int(metrics["stage"])


def step_number(stage: int) -> int:
    """A step of this stage, not one with the discriminator's gradient penalty."""
    first = 0 if stage == 0 else OPTIONS.progressive_start + (stage - 1) * OPTIONS.progressive_every
    return first + 1 if first % OPTIONS.r1_every == 0 else first


def measure(case, *, precision="float32", repeats=10, small=False) -> dict:
    """Times the stages in turns; the result is what --json writes."""
    resolution, batch_size = common.sizes(case)
    sides.set_precision(precision)
    mesh = Mesh(np.array(jax.devices()[:1]), (parallel.AXIS,))
    batch = parallel.put_batch(a_batch(random_images(IMAGE_SIZE, batch_size)), mesh)
    dtype = sides.compute_dtype(precision)
    encoder, *others = make_networks(resolution, small, dtype, sides.random_module)
    last = encoder.config.num_styles - 1
    without = dataclasses.replace(encoder.config, kind="single_w")
    headless = sides.random_module(
        lambda rngs: Encoder(without, axis_name=parallel.AXIS, dtype=dtype, rngs=rngs)
    )
    headless.train()
    program = Program(encoder, *others, batch, mesh)
    floor = Program(headless, *others, batch, mesh)

    stages = {f"stage {stage}": stage for stage in (0, last // 2, last)}
    runs = {
        name: timing.timed(lambda stage=stage: _check(program.run(step_number(stage)), stage))
        for name, stage in stages.items()
    }
    runs[NO_HEADS] = timing.timed(lambda: floor.run(step_number(0)))
    for run in runs.values():
        run()
    tuning.settle_memory()  # as the training loop does after its first step
    timings = timing.alternate(runs, repeats=repeats)
    slowest = timings[f"stage {last}"].median
    rows = {
        name: {
            "open_heads": stages[name] + 1 if name in stages else 0,
            "median_seconds": timings[name].median,
            "spread_seconds": timings[name].spread,
            "seconds": timings[name].seconds,
            "ratio_to_last_stage": timings[name].median / slowest,
        }
        for name in runs
    }
    if (program.compilations, program.traces) != (1, 1):
        raise RuntimeError(
            f"the stages took {program.compilations} compilations and {program.traces} traces; "
            "expected one of each."
        )
    return {
        "benchmark": "stages",
        "case": case,
        "precision": precision,
        "machine": machine.describe(),
        "heads": last + 1,
        "compilations": program.compilations,
        "traces": program.traces,
        "stages": rows,
    }


def _check(found, expected):
    if found != expected:
        raise RuntimeError(f"the step was of stage {found}; expected {expected}.")


def table(result) -> str:
    about = result["machine"]
    lines = [
        f"stages, {result['case']}, {result['precision']}: {about['device']}, {about['cores']} "
        f"cores, jax {about['jax']}",
        f"compilations for all stages: {result['compilations']}",
        "",
        f"{'':12}{'open heads':>12}{'median s':>10}{'min':>9}{'max':>9}{'to the last':>13}",
    ]
    for name, row in result["stages"].items():
        low, high = row["spread_seconds"]
        lines.append(
            f"{name:12}{row['open_heads']:>9}/{result['heads']:<2}{row['median_seconds']:10.4f}"
            f"{low:9.4f}{high:9.4f}{row['ratio_to_last_stage']:13.2f}"
        )
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stages", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--case", default="256x4", help="the generator's resolution and the batch")
    parser.add_argument("--precision", choices=sides.PRECISIONS, default="float32")
    parser.add_argument("--repeats", type=int, default=10, help="timed steps of each stage")
    parser.add_argument("--small", action="store_true", help="tiny networks, to try the program")
    parser.add_argument("--json", metavar="PATH", help="write all numbers there")
    flags = parser.parse_args(argv)
    tuning.tune(memory_first=True)
    try:
        result = measure(
            flags.case, precision=flags.precision, repeats=flags.repeats, small=flags.small
        )
    except (ValueError, RuntimeError) as error:
        print(f"benchmarks.stages: {error}", file=sys.stderr)
        sys.exit(1)
    print(table(result))
    common.write_json(result, flags.json)
    return result


if __name__ == "__main__":
    program.end(program.run("benchmarks.stages", main))

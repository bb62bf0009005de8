"""What accelerators' compilers make of the programs, without accelerators: benchmarks.ahead.

Compiles synthesis (1024x1024, bfloat16) and the training step of configs/ffhq.py for devices that
are not at hand. For TPUs (pip install libtpu) a time follows from the cycles that the compiler
expects of its operations, one after another: an estimate, not a measurement. For an H100
(pip install 'jax[cuda13]') it is what its operations, one after another, take at the full rates
of memory and arithmetic, each at the one that limits it, as if no cache kept anything; the step is
that of one of eight devices and has their all-reduces. With --peer=PATH that of published code
stands beside it, as it is trained on one device in numbers of four bytes (TF32) or, NVIDIA's, in
float16. It has no compiler to ask: its operations are counted (published_code/traffic.py).
"""

from e4e_jax.runtime import program

if __name__ == "__main__":
    program.begin("benchmarks.ahead")

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks import common, hlo, machine, peers, step_work
from benchmarks.published_code import checkouts
from benchmarks.sides import abstract_module
from benchmarks.synthesis import generator_config
from e4e_jax.models.convolution import space_to_depth
from e4e_jax.models.stylegan2 import Generator

# NVIDIA's data of the H100 SXM5, by the names that XLA has for them.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 registers_per_core_limit: 65536 registers_per_block_limit: 65536
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 l2_cache_size: 52428800
  memory_bandwidth: 3352320000000 device_memory_size: 84942979072
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices to compile for.

    Attributes:
      platform, topology, options: as `topologies.get_topology_desc` takes them.
      clock: Hz of a TPU's core: its peak rate over what its matrix units do in a cycle.
      rates: a GPU's, as NVIDIA publishes them, without sparsity.
    """

    platform: str
    topology: str
    options: dict = dataclasses.field(default_factory=dict)
    clock: float | None = None
    rates: hlo.Rates | None = None


TARGETS = {
    "v5e": Target("tpu", "v5e:2x4", clock=197e12 / (4 * 2 * 128**2)),
    "h100": Target(
        "cuda",
        "1x1x8",
        {"target_config": _H100, "topology": "1x1x8"},
        rates=hlo.Rates(3.352e12, 989e12, 495e12),
    ),
}
PROGRAMS = ("synthesis", "step")
_PEERS = ("e4e", "stylegan2-ada")
_ROOT = pathlib.Path(__file__).resolve().parent.parent


def compile_for(target: Target, name: str, batch: int, small: bool):
    """Compiles one of `PROGRAMS` with `batch` images a device; a step for all devices.

    Raises:
      RuntimeError: the platform's compiler is not installed.
    """
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # this is no machine in Google's cloud
    try:
        devices = topologies.get_topology_desc(
            target.topology, target.platform, **target.options
        ).devices
    except Exception as error:
        package = "libtpu" if target.platform == "tpu" else "'jax[cuda13]'"
        reason = str(error).split("\n")[0]
        raise RuntimeError(
            f"no compiler for {target.platform} ({reason}); pip install {package}."
        ) from None
    if name == "step":
        program, arguments = step_work.abstract_step(
            batch, jnp.bfloat16, small=small, devices=devices
        )
        return program.lower(*arguments).compile()
    config = generator_config(256 if small else 1024, small)
    graph, state = nnx.split(
        abstract_module(lambda rngs: Generator(config, dtype=jnp.bfloat16, rngs=rngs))
    )
    program = jax.jit(
        lambda state, codes: nnx.merge(graph, state).synthesis(codes),
        in_shardings=NamedSharding(Mesh(np.array(devices[:1]), ("data",)), PartitionSpec()),
    )
    codes = jax.ShapeDtypeStruct((batch, config.num_styles, config.w_dim), jnp.float32)
    return program.lower(state, codes).compile()


def ours(target: Target, name: str, batch: int, small: bool) -> dict:
    """Compiles a program of ours and reads what came out."""
    start = time.perf_counter()
    compiled = compile_for(target, name, batch, small)
    row = {"code": "ours"} | hlo.read(compiled.as_text(), target.rates)
    if not target.rates:
        del row["traffic_bytes"], row["least_seconds"]  # a TPU has memory of several kinds
    row["compile_seconds"] = time.perf_counter() - start
    row["peak_bytes"] = compiled.memory_analysis().peak_memory_in_bytes
    return row


def published(path: str, name: str, batch: int) -> dict | None:
    """Counts a program of published code, in a process of its own; None where it has none.

    Raises:
      RuntimeError: it does not run.
    """
    clone = checkouts.recognise(path, _PEERS)
    if clone == "stylegan2-ada" and name == "step":
        return None
    command = [
        sys.executable,
        "-m",
        "benchmarks.published_code.traffic",
        clone,
        os.path.abspath(path),
        name,
    ]
    done = subprocess.run([*command, str(batch)], text=True, capture_output=True, cwd=_ROOT)
    if done.returncode:
        ended = f"the process ended with exit code {done.returncode}"
        raise RuntimeError(f"{path}: {(done.stderr.strip() or ended).splitlines()[-1]}")
    precision = peers.precision(clone, "bfloat16", on_gpu=True)
    return {"code": f"{clone} {precision}"} | json.loads(done.stdout.splitlines()[-1])


def seconds(target: Target, row: dict) -> float | None:
    """What the compiler expects on a TPU; on a GPU, what the operations take at least."""
    if target.rates:
        return row["least_seconds"]
    return row["cycles"] / target.clock if row["cycles"] else None


def show(row: dict) -> str:
    """A line of the table."""
    on_gpu = TARGETS[row["target"]].rates
    kind = "at least" if on_gpu else "about"
    shown = f"{kind} {1e3 * row['seconds']:.1f} ms" if row["seconds"] else "none"
    traffic = f"{row['traffic_bytes'] / 1e9:.1f}" if on_gpu else ""
    line = f"{row['program']:11}{row['target']:6}{row['code']:23}{shown:>18}{traffic:>12}"
    if row["code"] != "ours":
        return line
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(row["convolutions"].items()))
    line += f"{row['peak_bytes'] / 1e9:9.2f}{row['compile_seconds']:10.0f} s  {kinds}; "
    return line + f"{row['copies']} copies, {row['copied_bytes'] / 1e9:.2f} GB"


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ahead", description=__doc__)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--batch", type=int, default=8, help="images of each device")
    parser.add_argument("--plain", action="store_true", help="without space to depth on TPUs")
    common.add_peers(
        parser, "clones of encoder4editing and stylegan2-ada-pytorch to count beside the H100's"
    )
    parser.add_argument("--small", action="store_true", help="tiny networks, to try the program")
    parser.add_argument("--json", metavar="PATH", help="write all numbers there")
    flags = parser.parse_args(argv)

    try:
        for path in flags.peer:
            checkouts.recognise(path, _PEERS)
        if flags.peer and flags.small:
            raise ValueError("the published networks are not small; leave --small or --peer out.")
    except ValueError as error:
        print(f"benchmarks.ahead: {error}", file=sys.stderr)
        sys.exit(1)
    jax.config.update("jax_platforms", "cpu")  # a plugin without its device would not load
    if flags.plain:
        space_to_depth.pays = lambda *sizes: False
    result = {"benchmark": "ahead", "batch": flags.batch, "plain": flags.plain}
    result |= {"machine": machine.describe(), "rows": []}
    print(f"compiled for a batch of {flags.batch} a device, bfloat16; nothing was run there")
    print(
        f"{'program':11}{'for':6}{'code':23}{'time':>18}{'traffic GB':>12}{'peak GB':>9}"
        f"{'compiled in':>12}  convolutions"
    )
    for name in flags.programs:
        for target in flags.targets:
            try:
                rows = [ours(TARGETS[target], name, flags.batch, flags.small)]
                if TARGETS[target].rates:
                    rows += [published(path, name, flags.batch) for path in flags.peer]
            except RuntimeError as error:
                print(f"benchmarks.ahead: {str(error).splitlines()[0]}", file=sys.stderr)
                sys.exit(1)
            for row in filter(None, rows):
                row |= {"program": name, "target": target}
                row["seconds"] = seconds(TARGETS[target], row)
                result["rows"].append(row)
                print(show(row), flush=True)
    common.write_json(result, flags.json)
    return result


if __name__ == "__main__":
    program.end(program.run("benchmarks.ahead", main))

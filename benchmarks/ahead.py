"""What accelerators' compilers make of the programs, without accelerators: benchmarks.ahead.

Compiles synthesis (1024x1024, bfloat16) and the training step of configs/ffhq.py for devices that
are not at hand; nothing runs. For TPUs (pip install libtpu) a time follows from the cycles that
the compiler expects of its operations, one after another: an estimate, not a measurement. For an
H100 (pip install 'jax[cuda13]') the compiler gives none.
"""

import argparse
import collections
import dataclasses
import math
import os
import re
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks import common, machine, step_work
from benchmarks.sides import abstract_module
from benchmarks.synthesis import generator_config
from e4e_jax.models import blocks
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
    """

    platform: str
    topology: str
    options: dict = dataclasses.field(default_factory=dict)
    clock: float | None = None


TARGETS = {
    "v5e": Target("tpu", "v5e:2x4", clock=197e12 / (4 * 2 * 128**2)),
    "h100": Target("cuda", "1x1x8", {"target_config": _H100, "topology": "1x1x8"}),
}
PROGRAMS = ("synthesis", "step")


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


def read(hlo: str) -> dict:
    """What a compiled program's text says.

    Returns:
      "cycles", as the compiler expects them (0 where it says nothing), loops as often as they run;
      "convolutions", how many there are by the type of their result, on a TPU with the products;
      "copies" and "copied_bytes", changes of layout of arrays of 1 MB and more that are not fused.
    """
    computations, entry = _computations(hlo)
    convolutions = collections.Counter(
        re.findall(r"= (\w+)\[[^ ]* convolution\(", hlo)
        + re.findall(r"= \((\w+)\[.*custom_call_target=\"__cudnn\$conv", hlo)
    )

    def walk(name):
        cycles, copied = 0, []
        for line in computations.get(name, ()):
            called, times = [], 1
            if " while(" in line:
                called = re.findall(r"body=%?([\w.\-]+)", line)
                trips = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
                times = int(trips[1]) if trips else 1
            elif " conditional(" in line:
                called = re.findall(r"%([\w.\-]+)", line.split("), ", 1)[1].split("}")[0])
            for inner_cycles, inner_copied in map(walk, called):
                cycles += times * inner_cycles
                copied += times * inner_copied
            if found := re.search(r'"estimated_cycles":"(\d+)"', line):
                cycles += int(found[1])
            if found := re.search(r"= (\w+)\[([\d,]+)\]\S* copy\(", line):
                size = _BYTES.get(found[1], 4) * math.prod(map(int, found[2].split(",")))
                copied += [size] if size >= 1 << 20 else []
        return cycles, copied

    cycles, copied = walk(entry)
    return {
        "cycles": cycles,
        "convolutions": dict(convolutions),
        "copies": len(copied),
        "copied_bytes": sum(copied),
    }


_BYTES = {"bf16": 2, "f16": 2, "pred": 1, "s8": 1, "u8": 1}


def _computations(hlo):
    """Name of a computation -> its lines; and the name of the one that the program is."""
    computations, current, entry = {}, None, None
    for line in hlo.splitlines():
        if found := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            current = computations[found[2]] = []
            entry = found[2] if found[1] else entry
        elif current is not None and line.startswith(" "):
            current.append(line)
    return computations, entry


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ahead", description=__doc__)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--batch", type=int, default=8, help="images of each device")
    parser.add_argument("--plain", action="store_true", help="without models/blocks.py on TPUs")
    parser.add_argument("--small", action="store_true", help="tiny networks, to try the program")
    parser.add_argument("--json", metavar="PATH", help="write all numbers there")
    flags = parser.parse_args(argv)

    if flags.plain:
        blocks.pays = lambda *sizes: False
    result = {"benchmark": "ahead", "batch": flags.batch, "plain": flags.plain}
    result |= {"machine": machine.describe(), "rows": []}
    print(f"compiled for a batch of {flags.batch} a device, bfloat16; nothing was run")
    print(f"{'program':11}{'for':6}{'compiled in':>12}{'peak GB':>9}{'estimate':>10}  convolutions")
    for name in flags.programs:
        for target in flags.targets:
            start = time.perf_counter()
            try:
                compiled = compile_for(TARGETS[target], name, flags.batch, flags.small)
            except RuntimeError as error:
                print(f"benchmarks.ahead: {str(error).splitlines()[0]}", file=sys.stderr)
                sys.exit(1)
            row = {"program": name, "target": target} | read(compiled.as_text())
            row["compile_seconds"] = time.perf_counter() - start
            row["peak_bytes"] = compiled.memory_analysis().peak_memory_in_bytes
            clock = TARGETS[target].clock
            row["estimated_seconds"] = row["cycles"] / clock if clock and row["cycles"] else None
            result["rows"].append(row)
            estimate = row["estimated_seconds"]
            shown = f"{1e3 * estimate:.0f} ms" if estimate else "none"
            kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(row["convolutions"].items()))
            print(
                f"{name:11}{target:6}{row['compile_seconds']:10.0f} s"
                f"{row['peak_bytes'] / 1e9:9.2f}{shown:>10}  {kinds}; "
                f"{row['copies']} copies, {row['copied_bytes'] / 1e9:.2f} GB"
            )
    common.write_json(result, flags.json)
    return result


if __name__ == "__main__":
    main()

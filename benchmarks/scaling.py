"""What a training step of configs/ffhq.py costs on many devices: python -m benchmarks.scaling.

Nothing runs. The step is traced with abstract arrays, its work is counted, and published rates of
the devices turn it into times, at their peaks and at a share of them. With --compile the compiler's
own count for this machine's CPU stands beside it (float32, some minutes), and with --unrolled that
of the same step without the scans over heads and units. The tables of docs/scaling.md are what this
prints.
"""

from e4e_jax.runtime import program

if __name__ == "__main__":
    program.begin("benchmarks.scaling")

import argparse
import dataclasses
import math

from benchmarks import common, machine, step_work
from benchmarks.step_work import Step
from e4e_jax.training.encoder_step import REMAT


@dataclasses.dataclass(frozen=True)
class Slice:
    """Devices and how they are joined.

    Attributes:
      devices: how many.
      flops: peak FLOP/s of bfloat16 products, without sparsity.
      memory_rate: bytes/s of the device's memory.
      memory: bytes of it.
      links: bytes/s that a device can send to its neighbours, one way, through the links that all
        devices of this slice have.
      latency: seconds of an all-reduce of a few bytes; an assumption, not a published number.
    """

    devices: int
    flops: float
    memory_rate: float
    memory: float
    links: float
    latency: float


# TPU: cloud.google.com/tpu/docs/v5e and /v5p; a chip's links carry 400 (4 links) and 1200 GB/s (6
# links), both ways together. 2x4 chips of v5e and 2x4x4 of v5p are no tori: a chip in a corner has
# 2 and 3 links. v5p-64 is 64 cores on 32 chips. H100: NVIDIA's data sheet of the SXM5.
SLICES = {
    "v5e-8": Slice(8, 197e12, 819e9, 16e9, 2 * 50e9, 10e-6),
    "v5p-64": Slice(32, 459e12, 2765e9, 95 * 2**30, 3 * 100e9, 15e-6),
    "8xH100": Slice(8, 989e12, 3350e9, 80e9, 450e9, 20e-6),
}
# What joins slices: 400 Gbit/s for each GPU; 50 Gbit/s for each v5p chip and 6.4 Tbit/s for the
# 256 chips of a v5e pod, by the same pages.
BEYOND = {"v5e-8": 6.4e12 / 8 / 256, "v5p-64": 50e9 / 8, "8xH100": 400e9 / 8}


def plan(step: Step, name: str, batch: int, share=1.0) -> dict[str, float]:
    """Times in seconds and sizes in bytes of a step on the slice `name`.

    Args:
      step: of one device.
      name: of a slice.
      batch: images of each device.
      share: of their peaks that compute and memory reach; the links are taken at their peak.
    """
    part = SLICES[name]
    times = {
        "compute": step.flops / part.flops / share,
        "memory": step.bytes / part.memory_rate / share,
    }
    device = max(times.values())
    reduce = all_reduce(step, part.devices, part.links)
    hidden = overlap(step, part, reduce, share)
    statistics = step.small_reductions * part.latency
    total = device + reduce - hidden + statistics
    needed = step.state_bytes + step.frozen_bytes + step.residual_bytes
    waits = {"gradients": reduce - hidden, "statistics": statistics}
    return times | {
        "device": device,
        "all_reduce": reduce,
        "hidden": hidden,
        "statistics": statistics,
        "total": total,
        "images_per_second": part.devices * batch / total,
        "efficiency": device / total,
        "memory_needed": needed,
        "bottleneck": max(times | waits, key=(times | waits).get),
    }


def all_reduce(step: Step, devices: int, rate: float) -> float:
    """Seconds to all-reduce the gradients: each device sends 2·(n − 1)/n times their bytes."""
    return 2 * (devices - 1) / devices * step.gradient_bytes / rate


def overlap(step: Step, part: Slice, reduce: float, share: float) -> float:
    """Seconds of the all-reduce that can hide behind the rest of the backward pass.

    The heads' gradients are complete when the backbone's backward pass starts.
    """
    heads = reduce * step.head_parameters / step.parameters
    return min(heads, step.backbone_backward / part.flops / share)


def devices_until(step: Step, name: str, share=1.0, efficiency=0.9, limit=2**16) -> int | None:
    """Devices, doubled from one slice on, at which efficiency falls under `efficiency`.

    Every device keeps its batch. Slices are joined by the data-centre network: gradients are
    all-reduced within the slices, then the share of each device between them. Latency grows with
    the logarithm of the number of devices.

    Returns:
      The number, or None where it stays above up to `limit`.
    """
    part = SLICES[name]
    device = max(step.flops / part.flops, step.bytes / part.memory_rate) / share
    devices = 2
    while devices <= limit:
        inside = min(devices, part.devices)
        slices = devices / inside
        reduce = all_reduce(step, inside, part.links)
        reduce += all_reduce(step, slices, BEYOND[name]) / inside
        latency = part.latency * max(1.0, math.log2(devices) / math.log2(part.devices))
        exposed = reduce - overlap(step, part, reduce, share) + step.small_reductions * latency
        if device / (device + exposed) < efficiency:
            return devices
        devices *= 2
    return None


# What would raise the efficiency, as changes of the step.
LEVERS = {
    "as it is": lambda step: step,
    "gradients reduced in bfloat16": lambda step: dataclasses.replace(
        step, gradient_bytes=step.gradient_bytes / 2
    ),
}
SHARES = (1.0, 0.4)


def tables(step: Step, batch: int) -> str:
    """The tables of docs/scaling.md, in Markdown."""
    rows = {
        "convolutions and products": f"{step.flops / 1e12:.2f} TFLOP",
        "least traffic of memory": f"{step.bytes / 1e9:.1f} GB",
        "trained parameters": f"{step.parameters / 1e6:.0f} M, of them in the heads "
        f"{step.head_parameters / step.parameters:.0%}",
        "gradients to all-reduce": f"{step.gradient_bytes / 1e9:.2f} GB",
        "exchanges of statistics, one after another": f"{step.small_reductions}",
        "weights, Ranger's three copies, gradients": f"{step.state_bytes / 1e9:.1f} GB",
        "frozen networks": f"{step.frozen_bytes / 1e9:.2f} GB",
        "kept for the backward pass, at most": f"{step.residual_bytes / 1e9:.1f} GB",
    }
    lines = [f"| one device's step, {batch} images | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in rows.items()]

    def table(title, columns, rows):
        lines.extend(["", f"| {title} | " + " | ".join(columns) + " |"])
        lines.append("|---|" + "---|" * len(columns))
        lines.extend(f"| {name} | " + " | ".join(values) + " |" for name, values in rows.items())

    for share in SHARES:
        plans = [plan(step, name, batch, share) for name in SLICES]
        times = {
            "compute": "compute",
            "memory": "memory",
            "all-reduce of the gradients": "all_reduce",
            "of it hidden behind the backbone's backward pass": "hidden",
            "exchanges of statistics": "statistics",
            "step": "total",
        }
        rows = {name: [f"{1e3 * p[key]:.1f}" for p in plans] for name, key in times.items()}
        rows["images/s of all devices"] = [f"{p['images_per_second']:.0f}" for p in plans]
        rows["efficiency"] = [f"{p['efficiency']:.0%}" for p in plans]
        rows["largest part"] = [p["bottleneck"] for p in plans]
        if share == 1:
            rows["memory, at most"] = [f"{p['memory_needed'] / 1e9:.0f} GB" for p in plans]
        table(f"milliseconds, at {share:.0%} of the peaks", SLICES, rows)

    for share in SHARES:
        rows = {}
        for lever, change in LEVERS.items():
            changed = change(step)
            rows[lever] = [
                f"{plan(changed, name, batch, share)['efficiency']:.0%}; "
                f"{devices_until(changed, name, share) or 'none'}"
                for name in SLICES
            ]
        table(f"efficiency; devices under 90%, at {share:.0%} of the peaks", SLICES, rows)
    return "\n".join(lines)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--batch", type=int, default=8, help="images of each device")
    parser.add_argument("--remat", choices=REMAT, default="none", help="as config.remat")
    parser.add_argument("--compile", action="store_true", help="compile the step for the CPU too")
    parser.add_argument(
        "--unrolled", action="store_true", help="with --compile: also without scans"
    )
    parser.add_argument("--small", action="store_true", help="tiny networks, to try the program")
    parser.add_argument("--json", metavar="PATH", help="write all numbers there")
    flags = parser.parse_args(argv)

    step = step_work.measure(flags.batch, small=flags.small, remat=flags.remat)
    print(tables(step, flags.batch))
    result = {
        "benchmark": "scaling",
        "machine": machine.describe(),
        "batch": flags.batch,
        "remat": flags.remat,
        "step": dataclasses.asdict(step),
        "shares": [
            {
                "share_of_peak": share,
                "slices": {name: plan(step, name, flags.batch, share) for name in SLICES},
                "devices_under_90_percent": {
                    name: devices_until(step, name, share) for name in SLICES
                },
            }
            for share in SHARES
        ],
    }
    forms = {"compiled_for_cpu": False, "compiled_for_cpu_unrolled": True}
    for name, unrolled in forms.items():
        if flags.compile and (flags.unrolled or not unrolled):
            found = step_work.compile_on_cpu(
                flags.batch, small=flags.small, remat=flags.remat, unrolled=unrolled
            )
            numbers = ", ".join(f"{key} {value:.4g}" for key, value in found.items())
            scans = ", without scans" if unrolled else ""
            print(f"\ncompiled for the CPU, float32{scans}: {numbers}")
            result[name] = found
    common.write_json(result, flags.json)
    return result


if __name__ == "__main__":
    program.end(program.run("benchmarks.scaling", main))

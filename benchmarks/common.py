"""The one way in which every comparison runs: check, time in turns, measure memory, report."""

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import statistics
import sys
from collections.abc import Callable

# On a GPU two frameworks share the memory: JAX must not take most of it at the start.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import numpy as np

from benchmarks import machine, peers, sides, timing
from benchmarks.published_code import checkouts
from benchmarks.sides import OURS, Side
from benchmarks.workers import SETTINGS, Worker, WorkerError
from e4e_jax.runtime import tuning

COMPILED = "torch.compile"  # a side's name

# Largest relative error (of the norms) between two sides that are still called the same function.
# Gradients of random networks differ by rounding that flips the sign of activations near zero.
TOLERANCES = {"float32": 1e-3, "tf32": 3e-2, "bfloat16": 0.2}
GRADIENT_TOLERANCES = {"float32": 5e-2, "tf32": 0.2, "bfloat16": 0.5}


@dataclasses.dataclass(frozen=True)
class Case:
    """One size at which the sides are compared.

    Attributes:
      name: as on the command line.
      images: images of one call.
      builders: name of a side -> function that makes it; `OURS` comes first.
    """

    name: str
    images: int
    builders: dict[str, Callable[[], Side]]


class Mismatch(ValueError):
    """Two sides do not compute the same function."""


def run(name, description, default_cases, make_case, argv=None, *, peer=False, training=False):
    """Runs a comparison: `python -m benchmarks.<name>`.

    Args:
      name: the module in this package.
      description: for --help.
      default_cases: names of the cases that run unless others are given.
      make_case: (name of a case, flags) -> `Case`; raises ValueError for a name that is none.
      argv: command line; None for that of the process.
      peer: whether --peer means anything here.
      training: whether the sides train large networks, as train.py and its loop set that up.

    Returns:
      What --json writes, a dictionary.
    """
    flags = _parser(name, description, default_cases, peer).parse_args(argv)
    flags.training = training
    tuning.keep_freed_memory()  # both for the ceilings
    tuning.settle_memory()
    sides.set_precision(flags.precision)
    try:
        cases = [make_case(case, flags) for case in flags.cases]
        result = {
            "benchmark": name,
            "precision": flags.precision,
            "settings": flags.settings,
            "machine": machine.describe(),
            "ceilings": machine.ceilings(flags.precision),
            "cases": [_run_case(case, make_case, flags) for case in cases],
        }
    except (Mismatch, WorkerError, ValueError, OSError) as error:
        print(f"benchmarks.{name}: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    print(_table(result))
    write_json(result, flags.json)
    return result


def write_json(result: dict, path) -> None:
    """Writes the numbers to `path`; None for nowhere."""
    if path:
        pathlib.Path(path).write_text(json.dumps(result, indent=2) + "\n")


def sizes(case: str) -> tuple[int, int]:
    """A case such as "1024x8" as (side of the image, batch).

    Raises:
      ValueError: it is not two positive numbers joined by x.
    """
    side, _, batch = case.partition("x")
    if not (side.isdecimal() and batch.isdecimal() and int(side) and int(batch)):
        raise ValueError(f"case is {case!r}; expected SIDExBATCH, such as 256x8.")
    return int(side), int(batch)


def with_torch(flags, case: dict, pytorch: Callable[[bool], Side], published=None) -> dict:
    """Adds the sides that need PyTorch, where it is installed and as the flags ask.

    Args:
      flags: of the command line.
      case: the builders so far.
      pytorch: (compiled) -> the ordinary form in PyTorch.
      published: name in `checkouts.CHECKOUTS` -> (path of its clone) -> that code's side.

    Raises:
      ValueError: a path of --peer is no clone of these or the second of one, or the networks are
        small.
    """
    if not machine.has_torch():
        return case
    for form in flags.beside:
        case[form] = functools.partial(pytorch, form == COMPILED)
    for path in getattr(flags, "peer", []):
        name = checkouts.recognise(path, published)
        if flags.small:
            raise ValueError("the published networks are not small; leave --small or --peer out.")
        side = f"{name} {peers.precision(name, flags.precision, on_gpu=peers.on_gpu())}"
        if side in case:
            raise ValueError(f"--peer names two clones of {name}; expected one.")
        case[side] = functools.partial(published[name], path)
    return case


def _parser(name, description, default_cases, peer):
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    parser.add_argument("--cases", nargs="+", default=default_cases, metavar="CASE")
    parser.add_argument("--precision", choices=sides.PRECISIONS, default="float32")
    parser.add_argument("--repeats", type=int, default=10, help="timed calls of each side")
    parser.add_argument(
        "--beside",
        nargs="*",
        choices=("pytorch", COMPILED),
        default=["pytorch"],
        help="forms of the ordinary PyTorch to time, none if nothing follows",
    )
    parser.add_argument("--small", action="store_true", help="tiny networks, to try the program")
    parser.add_argument(
        "--settings",
        choices=SETTINGS,
        default="own",
        help="whose process keeps freed memory and has our XLA flags, as our programs do: ours "
        "alone, PyTorch's as well, or none",
    )
    parser.add_argument("--json", metavar="PATH", help="write all numbers there")
    if peer:
        add_peers(
            parser,
            "clones of published code to time: encoder4editing; for synthesis also NVIDIA's "
            "stylegan2-ada-pytorch or stylegan3",
        )
    return parser


def add_peers(parser: argparse.ArgumentParser, about: str) -> None:
    """Adds --peer, a list of paths; `about` is its help."""
    parser.add_argument(
        "--peer", nargs="+", action="extend", default=[], metavar="PATH", help=about
    )


def _run_case(case: Case, make_case, flags) -> dict:
    with contextlib.ExitStack() as stack:
        workers, errors = {}, {}
        for side in case.builders:
            print(f"{case.name}: building {side} ...", file=sys.stderr)
            worker = Worker(make_case, case.name, side, flags)
            workers[side] = stack.enter_context(contextlib.closing(worker))
            errors[side] = _compare(worker, workers[OURS], side, flags.precision)
        for worker in workers.values():
            worker.results.clear()  # gradients are large
        runs = {side: worker.run for side, worker in workers.items()}
        timings = timing.alternate(runs, repeats=flags.repeats)
        peaks = {side: worker.peak_bytes() for side, worker in workers.items()}
    rows = {}
    for side, worker in workers.items():
        pairs = zip(timings[side].seconds, timings[OURS].seconds, strict=True)
        rows[side] = {
            "median_seconds": timings[side].median,
            "spread_seconds": timings[side].spread,
            "seconds": timings[side].seconds,
            "seconds_per_image": timings[side].median / case.images,
            "ratio_to_ours": timings[side].median / timings[OURS].median,
            "median_of_paired_ratios": statistics.median(theirs / ours for theirs, ours in pairs),
            "compile_seconds": worker.compile_seconds,
            "peak_bytes": peaks[side],
            "errors": errors[side],
            "cost_analysis": worker.compiled,
            "counted": worker.counted,
        }
    return {"case": case.name, "images": case.images, "sides": rows}


def _compare(side: Side | Worker, ours: Side | Worker, name, precision) -> dict[str, float]:
    """Relative errors of what two sides compute; Mismatch where they are not the same."""
    errors = {}
    for key, expected in side.results.items():
        if not np.all(np.isfinite(expected)):
            raise Mismatch(f"{key} of {name} is not finite; nothing was timed.")
        errors[key] = sides.relative_error(ours.results[key], expected)
        allowed = (GRADIENT_TOLERANCES if key.startswith("gradient") else TOLERANCES)[precision]
        if errors[key] > allowed:
            raise Mismatch(
                f"{key} of ours and of {name} differ by {errors[key]:.1e}, expected at most "
                f"{allowed:.0e}: they are not the same function, and nothing was timed."
            )
    return errors


_SETTINGS = {"own": "ours alone", "all": "all sides", "none": "no side"}


def _table(result) -> str:
    about, ceiling = result["machine"], result["ceilings"]
    lines = [
        f"{result['benchmark']}, {result['precision']}: {about['device']}, {about['cores']} cores, "
        f"jax {about['jax']}, " + ("torch " + about["torch"] if "torch" in about else "no PyTorch"),
        f"ceilings: {ceiling['flops'] / 1e9:.0f} GFLOP/s (matrix product), "
        f"{ceiling['bytes'] / 1e9:.1f} GB/s (copy)",
        f"a process for each side; settings of runtime.tuning: {_SETTINGS[result['settings']]}",
    ]
    if "torch" not in about:
        lines.append("PyTorch is not installed, so that ours alone was timed.")
    elif about["platform"] != "cpu" and about["torch device"] != about["device"]:
        lines.append(f"Not on one device: PyTorch ran on {about['torch device']}.")
    header = f"{'case':17}{'side':23}{'median s':>10}{'min':>9}{'max':>9}{'s/image':>10}"
    lines += ["", header + f"{'to ours':>9}{'peak MB':>9}{'GFLOP/s':>14}{'GB/s':>14}{'error':>9}"]
    for case in result["cases"]:
        for side, row in case["sides"].items():
            low, high = row["spread_seconds"]
            peak = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.0f}"
            error = "" if side == OURS else f"{max(row['errors'].values()):.0e}"
            lines.append(
                f"{case['case']:17}{side:23}{row['median_seconds']:10.4f}{low:9.4f}{high:9.4f}"
                f"{row['seconds_per_image']:10.4f}{row['ratio_to_ours']:9.2f}{peak:>9}"
                f"{_rate(row, 'counted', 'flops', ceiling):>14}"
                f"{_rate(row, 'cost_analysis', 'bytes', ceiling):>14}{error:>9}"
            )
    return "\n".join(lines)


def _rate(row, source, key, ceiling) -> str:
    """Achieved rate and its share of the ceiling, where the work is known."""
    if not row[source] or not row[source][key]:
        return ""
    rate = row[source][key] / row["median_seconds"]
    return f"{rate / 1e9:.1f} ({rate / ceiling[key]:.0%})"

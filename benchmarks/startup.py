"""How long it takes to start: python -m benchmarks.startup.

Times `import e4e_jax`, and `python train.py` until its first step is done: with an empty
compilation cache, and again with the one which that has filled.
"""

from e4e_jax.runtime import program

if __name__ == "__main__":
    program.begin("benchmarks.startup")

import argparse
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import common, machine

_ROOT = pathlib.Path(__file__).resolve().parent.parent


def import_seconds(module: str, repeats: int) -> list[float]:
    """Seconds that an import takes in new processes, without the interpreter's own start."""
    program = (
        f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    )
    seconds = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=_ROOT, text=True, capture_output=True, check=True
        )
        seconds.append(float(done.stdout))
    return seconds


def first_step_seconds(arguments, cache) -> float:
    """Seconds from the start of `python train.py` to the report of its first step.

    Args:
      arguments: further flags.
      cache: folder of JAX's compilation cache.

    Raises:
      RuntimeError: it ended without a step; with its last lines.
    """
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "-u", "train.py", f"--workdir={workdir}"]
        command += ["--config.log_every=1", *arguments]
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=_ROOT,
            env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(cache)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        lines = []
        try:
            for line in process.stderr:  # the progress bar's first line follows the first step
                lines.append(line)
                if line.startswith("1/"):
                    return time.perf_counter() - start
            raise RuntimeError(f"train.py ended without a step: {''.join(lines[-5:]).strip()}")
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="imports that are timed")
    parser.add_argument("--no-train", action="store_true", help="time the import alone")
    parser.add_argument("--json", metavar="PATH", help="write all numbers there")
    parser.add_argument("flags", nargs="*", help="flags for train.py, behind --")
    flags = parser.parse_args(argv)

    seconds = {"import e4e_jax": import_seconds("e4e_jax", flags.repeats)}
    if not flags.no_train:
        with tempfile.TemporaryDirectory() as cache:
            for name in ("first step, empty cache", "first step, filled cache"):
                try:
                    seconds[name] = [first_step_seconds(flags.flags, cache)]
                except RuntimeError as error:
                    print(f"benchmarks.startup: {error}", file=sys.stderr)
                    sys.exit(1)
    result = {"benchmark": "startup", "machine": machine.describe(), "seconds": seconds}
    about = result["machine"]
    print(f"startup: {about['device']}, {about['cores']} cores, jax {about['jax']}\n")
    for name, values in seconds.items():
        print(f"{name:28}{statistics.median(values):8.2f} s")
    common.write_json(result, flags.json)
    return result


if __name__ == "__main__":
    program.end(program.run("benchmarks.startup", main))

"""Our networks beside published code: python -m benchmarks.published --e4e=PATH [--psp=PATH ...].

Each option names a clone of a public repository, unchanged. For every row the published network
is built with random weights and saved in its published layout; `convert_weights` makes a bundle of
the file, and both run on the same inputs. The error is max|ours - published| / max|published|.
"""

from e4e_jax.runtime import program

if __name__ == "__main__":
    program.begin("benchmarks.published")

import argparse
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from benchmarks import common, machine
from benchmarks.published_code.checkouts import CHECKOUTS, check
from benchmarks.published_code.rows import ROWS


def main(argv=None) -> dict:
    """Measures the rows whose checkouts are given; returns what --json writes."""
    flags = _parser().parse_args(argv)
    paths = {name: getattr(flags, name.replace("-", "_")) for name in CHECKOUTS}
    try:
        _check(paths)
    except ValueError as error:
        print(f"benchmarks.published: {error}", file=sys.stderr)
        sys.exit(1)
    print(f"{'row':20}{'output':42}{'error':>9}")
    found, failed = {}, {}
    for name in flags.rows:
        reason = _left_out(name, paths)
        if reason:
            print(f"{name:20}left out: {reason}")
            continue
        try:
            found[name] = _measure(name, paths[ROWS[name].checkout], flags.small)
        except ValueError as error:
            failed[name] = str(error)
            print(f"{name:20}failed: {error}")
            continue
        for line in table(name, found[name]):
            print(line, flush=True)
    result = {"machine": machine.describe(), "rows": found, "failed": failed}
    common.write_json(result, flags.json)
    if failed:
        sys.exit(1)
    return result


def table(name: str, row: dict) -> list[str]:
    """The lines of a row: {"errors": {output: error}, "same_bits": bool or None}."""
    lines = [f"{name:20}{output:42}{error:9.1e}" for output, error in row["errors"].items()]
    if row["same_bits"] is not None:
        same = "same bits" if row["same_bits"] else "DIFFERS"
        lines.append(f"{name:20}{'weights, converted there and back':42}{same:>9}")
    return lines


def _parser():
    about, _, more = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.published", description=about, epilog=more
    )
    for name, checkout in CHECKOUTS.items():
        parser.add_argument(f"--{name}", metavar="PATH", help=f"a clone of {checkout.repository}")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("--small", action="store_true", help="small images, to try the program")
    parser.add_argument("--json", metavar="PATH", help="write all numbers there")
    return parser


def _check(paths):
    """Raises ValueError for a path that is no checkout of its repository."""
    if not any(paths.values()):
        names = ", ".join(f"--{name}" for name in CHECKOUTS)
        raise ValueError(f"there is no checkout to run beside; expected one or more of {names}.")
    for name, path in paths.items():
        if path:
            check(name, path)
    if not machine.has_torch():
        raise ValueError("PyTorch is not installed, which the published code runs on.")


def _left_out(name, paths) -> str | None:
    """Why a row cannot be measured; None where it can."""
    row = ROWS[name]
    if not paths[row.checkout]:
        return f"--{row.checkout} names no clone of {CHECKOUTS[row.checkout].repository}"
    if row.torchvision and importlib.util.find_spec("torchvision") is None:
        return "torchvision is not installed, which its published code imports"
    return None


def _measure(name, path, small) -> dict:
    """Runs a row in a process of its own; ValueError where that fails."""
    print(f"{name}: running ...", file=sys.stderr)
    root = pathlib.Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.published_code.rows", name]
        command += [os.path.abspath(path), folder, *(["--small"] if small else [])]
        done = subprocess.run(command, cwd=root, text=True, capture_output=True)
    if done.returncode:
        raise ValueError((done.stderr.strip() or "no message").splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    program.end(program.run("benchmarks.published", main))

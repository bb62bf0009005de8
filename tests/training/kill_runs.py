"""Kills train.py many times, and holds what comes of it against a run that nothing disturbed.

    python tests/training/kill_runs.py [--kills 50] [--seed 0]

A tiny encoder is trained once without disturbance. Then it is trained again and again in work
directories that start empty, and killed (SIGKILL) at moments drawn from the seed: at any time of a
run, and on purpose in the middle of its start, a step, a checkpoint, a validation or the bundle at
its end. Every run that gets to its end has to leave the very same bits: all arrays of its last
checkpoint (parameters, optimisers, pools) and of its bundle. Says how many kills met what.
"""

import argparse
import collections
import contextlib
import json
import mmap
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[2]
START, STEP, VALIDATION, PICTURE, CHECKPOINT, BUNDLE, TABLES, END = range(8)
NAMES = ["start, imports and restoring", "steps", "validation", "picture", "checkpoint", "bundle",
         "tables after the bundle", "exit"]  # fmt: skip
# What a kill waits for, and up to how long it waits on from there: seconds, if not overtaken.
AIMS = {START: 4.0, STEP: 0.3, VALIDATION: 0.1, CHECKPOINT: 0.2, BUNDLE: 0.15, TABLES: 0.3}
ANY = -1  # a moment of the whole run


class Different(Exception):
    """A run that was killed and went on has left other bits than the one that was not."""


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args(argv)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            met, runs = kill_many_times(pathlib.Path(folder), flags.kills, flags.seed)
        except Different as error:
            print(f"kill_runs: {error}", file=sys.stderr)
            return 1
    print(f"\n{flags.kills} kills in {time.monotonic() - start:.0f} s, in the middle of")
    for phase, name in enumerate(NAMES):
        if met[phase]:
            print(f"  {name:32}{met[phase]:4}")
    print(f"{runs} runs ended, each with the bits of the one that was never killed")
    return 0


def kill_many_times(folder: pathlib.Path, kills: int, seed: int):
    """Returns how many kills met each phase, and how many runs were brought to an end.

    Args:
      folder: an empty one, to work in.

    Raises:
      Different: a run left other bits, or ended with an error.
    """
    _make_folder(folder)
    whole, cut = folder / "whole", folder / "cut"
    with Child(folder, whole) as child:
        seconds = child.wait()
    expected = read_bits(whole)
    rng = random.Random(seed)
    met, runs = collections.Counter(), 0
    while met.total() < kills or cut.exists():
        with Child(folder, cut) as child:
            if met.total() < kills and child.die(rng, seconds):
                phase = _phase(child, cut)
                met[phase] += 1
                print(f"{met.total():3}: killed in {NAMES[phase]}", flush=True)
                continue
            child.wait()
        compare_bits(expected, read_bits(cut))
        runs += 1
        print(f"     run {runs} has come to its end, bits as they should be", flush=True)
        shutil.rmtree(cut)
    return met, runs


class Child:
    """A process that trains, and notes in a file what it is doing."""

    def __init__(self, folder, workdir):
        self._note = folder / "note"
        self._note.write_bytes(bytes([START]))
        command = [sys.executable, __file__, "--child", str(self._note), f"--workdir={workdir}",
                   f"--config={folder}/tiny.py"]  # fmt: skip
        variables = {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
            "XLA_FLAGS": "--xla_backend_optimization_level=0 "
            "--xla_llvm_disable_expensive_passes=true",
        }
        self._start = time.monotonic()
        self._output = open(folder / "output", "w+b")
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | variables, stdin=subprocess.DEVNULL,
            stdout=self._output, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        self._output.close()

    @property
    def phase(self) -> int:
        return self._note.read_bytes()[0]

    def die(self, rng, seconds) -> bool:
        """Kills it at a moment that is drawn; False if it came to its end before."""
        aim = rng.choice([ANY, ANY, *AIMS])
        share = rng.random()
        if aim == ANY:
            self._sleep_until(lambda: False, share * seconds)
        elif aim == START:
            self._sleep_until(lambda: False, share * AIMS[START])
        else:
            self._sleep_until(lambda: self.phase == aim)
            self._sleep_until(lambda: False, share * AIMS[aim])
        if self._process.poll() is not None:
            return False
        self._process.kill()
        self._process.wait()
        return True

    def _sleep_until(self, happens, seconds=600.0):
        deadline = time.monotonic() + seconds
        while not happens() and time.monotonic() < deadline and self._process.poll() is None:
            time.sleep(0.001)

    def wait(self) -> float:
        """Lets it come to its end; returns how long it took."""
        code = self._process.wait(timeout=900)
        if code != 0:
            self._output.seek(0)
            text = self._output.read().decode(errors="replace")
            raise Different(f"a run that went on ended with code {code}:\n{text[-3000:]}")
        return time.monotonic() - self._start


def _phase(child, workdir) -> int:
    """What a killed process was doing; checkpoints are written beside the steps."""
    folder = workdir / "checkpoints"
    unfinished = folder.exists() and any(
        "tmp" in path.name or path.name.isdigit() and not (path / "checksums.json").exists()
        for path in folder.iterdir()
    )
    return CHECKPOINT if unfinished and child.phase in (STEP, CHECKPOINT) else child.phase


def read_bits(workdir) -> dict:
    """All arrays of the last checkpoint and of the bundle as {name: (type, shape, bytes)}."""
    import jax
    import orbax.checkpoint as ocp

    folder = workdir / "checkpoints"
    last = max(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    found = {"bundle.json": (workdir / "bundle" / "bundle.json").read_text()}
    found["data"] = json.loads((folder / str(last) / "run" / "metadata").read_text())["data"]
    for what, path in (("checkpoint", folder / str(last) / "state"),
                       ("bundle", workdir / "bundle" / "arrays")):  # fmt: skip
        arrays = ocp.PyTreeCheckpointer().restore(path)
        for name, array in jax.tree_util.tree_leaves_with_path(arrays):
            name = jax.tree_util.keystr(name, simple=True, separator="/")
            found[f"{what} {last} {name}"] = (array.dtype, array.shape, array.tobytes())
    return found


def compare_bits(expected: dict, found: dict) -> None:
    """Raises Different where two results of `read_bits` differ."""
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            raise Different(f"{name} is not that of the run that was never killed")


def _make_folder(folder):
    code = f"import pathlib, tiny_run; tiny_run.make_folder(pathlib.Path({str(folder)!r}))"
    paths = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "training")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def _train_and_note(note: str, arguments: list[str]) -> None:
    """The child: train.py, with a byte in a file for what it does."""
    import dataclasses
    import runpy

    file = open(note, "r+b")
    noted = mmap.mmap(file.fileno(), 1)  # what a killed process wrote there stays

    @contextlib.contextmanager
    def doing(phase, then):
        noted[0] = phase
        yield
        noted[0] = then

    def wrapped(function, phase, then):
        def call(*arguments, **options):
            with doing(phase, then):
                return function(*arguments, **options)

        return call

    from e4e_jax import bundle
    from e4e_jax.training import loop
    from e4e_jax.training.checkpoints import Checkpoints

    bundle.save_bundle = wrapped(bundle.save_bundle, BUNDLE, TABLES)
    Checkpoints.save = wrapped(Checkpoints.save, CHECKPOINT, STEP)
    whole_loop = loop.run_loop

    def run_loop(run, *arguments):
        noted_run = dataclasses.replace(
            run,
            step=wrapped(run.step, STEP, STEP),
            validate=wrapped(run.validate, VALIDATION, STEP),
            picture=wrapped(run.picture, PICTURE, STEP),
            finish=wrapped(run.finish, TABLES, END),
        )
        whole_loop(noted_run, *arguments)

    loop.run_loop = run_loop
    sys.argv = ["train.py", *arguments]
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _train_and_note(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(main())

"""What many tests share: random weights, the measure of agreement, a cluster, a face."""

import importlib.util
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

from e4e_jax.data.images import decode_image
from e4e_jax.toy.faces import FACTORS, render, sample_factors
from e4e_jax.training.generator_step import GeneratorOptions

needs_dlib = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("dlib", "face_recognition_models"))),
    reason="needs the extra align",
)


def generator_options(**changed) -> GeneratorOptions:
    """The published game, R1 of 10, but for what a test changes."""
    published = dict(
        r1_gamma=10.0, r1_every=16, path_length_weight=2.0, path_length_every=8, style_mixing=0.9,
        random_noise=True, augment=(), ema_halflife_images=10_000.0,
    )  # fmt: skip
    return GeneratorOptions(**{**published, **changed})


def randomize(module: nnx.Module, seed: int = 0) -> nnx.Module:
    """Fills every float variable of `module` in place with random numbers, none of them 0 or 1.

    Weights keep a sensible scale (1/√fan_in where they are not equalised is the network's
    business; here the standard deviation is that of the initial value, at least 0.1); variables
    whose name holds "var" are positive.
    """
    rng = np.random.default_rng(seed)
    graph, state = nnx.split(module)

    def draw(path, value):
        if not jax.numpy.issubdtype(value.dtype, jax.numpy.floating):
            return value
        name = jax.tree_util.keystr(path)
        if "var" in name:
            noise = rng.uniform(0.5, 1.5, value.shape)
        elif value.ndim <= 1:
            noise = np.asarray(value) + rng.uniform(0.1, 0.3, value.shape) * rng.choice(
                [-1, 1], value.shape
            )
        else:
            noise = rng.normal(size=value.shape) * max(float(np.std(np.asarray(value))), 0.02)
        return jax.numpy.asarray(noise, value.dtype)

    nnx.update(module, jax.tree_util.tree_map_with_path(draw, state))
    return module


def relative_error(actual, expected) -> float:
    """max |actual − expected| / max |expected|, in float64."""
    actual = np.asarray(actual, np.float64)
    expected = np.asarray(expected, np.float64)
    if actual.shape != expected.shape:
        raise AssertionError(f"shapes differ: {actual.shape} and {expected.shape}")
    return float(np.max(np.abs(actual - expected)) / np.max(np.abs(expected)))


def in_float64(function, *args):
    """What a JAX function of float arrays gives in float64: exact beside rounding in float32."""
    with jax.enable_x64(True):
        args = [np.asarray(arg, np.float64) for arg in args]
        return jax.tree.map(np.asarray, jax.jit(function)(*args))


def rounding(actual, exact, absolute) -> float:
    """The largest error of sums, each in units of 2⁻²⁴ · Σ|its terms| (`absolute`), in float64.

    How much float32 may lose in a sum depends on the order of adding, which every processor
    chooses for itself; but each addition loses at most 2⁻²⁴ of a partial sum, up or down. Where
    terms have both signs, partial sums of k terms grow as √k, and so does the sum of losses: one
    unit in all, in any order, whatever the number of terms, and a few in the worst of many sums.
    One lost term of n, or a wrong one, is 2²⁴ / n units.
    """
    arrays = [np.asarray(a, np.float64) for a in (actual, exact, absolute)]
    if len({a.shape for a in arrays}) > 1:
        raise AssertionError(f"shapes differ: {[a.shape for a in arrays]}")
    actual, exact, absolute = arrays
    errors = np.abs(actual - exact)
    empty = np.where(errors > 0, np.inf, 0.0)  # sums without terms are 0
    return float(np.divide(errors, absolute * 2.0**-24, out=empty, where=absolute > 0).max())


def run_two_processes(program: str, *arguments: str, timeout: float = 300) -> list[str]:
    """Runs Python source in two processes that have joined as hosts of two devices each.

    The modules of tests/ and tests/training/ can be imported; `sys.argv[1:]` are the arguments.
    Returns what each printed; AssertionError where one failed.
    """
    tests = pathlib.Path(__file__).parent
    join = f"""
import os, sys
sys.path[:0] = [{str(tests)!r}, {str(tests / "training")!r}, {str(tests.parent)!r}]
import conftest
os.environ["XLA_FLAGS"] = os.environ["XLA_FLAGS"].replace("count=4", "count=2")
from e4e_jax.runtime import parallel
parallel.initialize_distributed()
"""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    cluster = os.environ | {"COORDINATOR_ADDRESS": address, "NUM_PROCESSES": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", join + program, *arguments],
            env=cluster | {"PROCESS_ID": str(i)},
            text=True,
            stdout=subprocess.PIPE,
        )
        for i in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0]
    return outputs


def drawn_face():
    """A photograph of sorts, uint8 [300, 500, 3]: a large toy face beside the middle."""
    factors = sample_factors([0])
    for name, value in (("yaw", 0), ("glasses", 0), ("smile", 0.5), ("eyes", 0.8), ("age", 0)):
        factors[0, FACTORS.index(name)] = value
    image = np.full((300, 500, 3), 128, np.uint8)
    image[20:276, 200:456] = render(factors, 256)[0]
    return image


def sheet_cells(path, rows, columns):
    """The square cells of a sheet's file, without the names above: int [rows, columns, S, S, 3]."""
    image = decode_image(path).astype(int)
    side = image.shape[1] // columns
    assert image.shape[1] == side * columns and 0 < image.shape[0] - rows * side < side
    cells = image[-rows * side :].reshape(rows, side, columns, side, 3)
    return cells.transpose(0, 2, 1, 3, 4)

"""Sides of a comparison: one network, run by this project, by PyTorch, or by a peer's code."""

import contextlib
import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import cost, machine

PRECISIONS = ("float32", "tf32", "bfloat16")
OURS = "ours"
RECOMPUTING = "remat="  # how the names of our other sides start


@dataclasses.dataclass(frozen=True)
class Side:
    """One implementation, ready to be timed.

    Attributes:
      run: one call; its work has ended when it returns.
      results: what it computes from the inputs that all sides share, name -> array.
      compile_seconds: until the program was there.
      compiled: FLOPs, bytes and memory of a call by the compiler's account, if it gives one.
      counted: FLOPs of a call and least bytes of its convolutions and products, likewise.
    """

    run: Callable[[], object]
    results: dict[str, np.ndarray]
    compile_seconds: float
    compiled: dict[str, float] | None = None
    counted: dict[str, float] | None = None


def is_torch(side: str) -> bool:
    """Whether PyTorch runs the side of this name."""
    return side != OURS and not side.startswith(RECOMPUTING)


def set_precision(precision: str) -> None:
    """Products and convolutions of float32 operands: whole, or TF32 where the device has it."""
    whole = precision == "float32"
    jax.config.update("jax_default_matmul_precision", "highest" if whole else "default")
    if machine.has_torch():
        import torch

        torch.set_num_threads(machine.cores())
        torch.backends.cuda.matmul.allow_tf32 = not whole
        torch.backends.cudnn.allow_tf32 = not whole
        torch.backends.cudnn.benchmark = True


def compute_dtype(precision: str):
    """The `dtype` of our networks."""
    return jnp.bfloat16 if precision == "bfloat16" else jnp.float32


def random_module(make: Callable[[nnx.Rngs], nnx.Module], seed: int = 0) -> nnx.Module:
    """A network with random weights, none of them 0 or 1, in evaluation mode."""
    module = make(nnx.Rngs(seed))
    module.eval()
    rng = np.random.default_rng(seed)

    def move(value):
        if value.ndim > 1 or not jnp.issubdtype(value.dtype, jnp.floating):
            return value  # random from the start
        return value + jnp.asarray(rng.uniform(0.1, 0.3, value.shape), value.dtype)

    nnx.update(module, jax.tree.map(move, nnx.state(module)))
    return module


def abstract_module(make: Callable[[nnx.Rngs], nnx.Module]) -> nnx.Module:
    """A network whose arrays are shapes alone, in evaluation mode."""
    module = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    module.eval()
    return module


def jax_side(module: nnx.Module, function, name: str, *arrays) -> Side:
    """`function(module, *arrays)` compiled, with the variables as arguments of the program."""
    graph, state = nnx.split(module)

    def program(state, *arrays):
        return function(nnx.merge(graph, state), *arrays)

    arrays = tuple(jnp.asarray(array) for array in arrays)
    start = time.perf_counter()
    compiled = jax.jit(program).lower(state, *arrays).compile()
    seconds = time.perf_counter() - start
    return Side(
        run=lambda: jax.block_until_ready(compiled(state, *arrays)),
        results={name: np.asarray(compiled(state, *arrays), np.float32)},
        compile_seconds=seconds,
        compiled=cost.compiled_cost(compiled),
        counted=cost.count(program, state, *arrays),
    )


def torch_side(function, name: str, *arrays, precision: str, compiled=False) -> Side:
    """`function(*tensors)` without gradients; 4-D arrays and results change between the layouts."""
    import torch

    tensors = [to_torch(array) for array in arrays]
    if compiled:
        function = torch.compile(function)

    def run():
        with torch.no_grad(), autocast(precision):
            result = function(*tensors)
        synchronize()
        return result

    start = time.perf_counter()
    result = run()
    return Side(
        run=run,
        results={name: to_numpy(result)},
        compile_seconds=time.perf_counter() - start,
    )


def torch_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def synchronize() -> None:
    """Waits for the GPU if PyTorch uses one."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def autocast(precision: str):
    """The context in which PyTorch computes in bfloat16, or none."""
    import torch

    if precision != "bfloat16":
        return contextlib.nullcontext()
    return torch.autocast(torch_device(), dtype=torch.bfloat16)


def to_torch(array):
    """[B, H, W, C] -> [B, C, H, W] on PyTorch's device; other ranks as they are."""
    import torch

    array = np.array(array, np.float32)
    array = np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if array.ndim == 4 else array
    return torch.from_numpy(array).to(torch_device())


def to_numpy(tensor) -> np.ndarray:
    """The inverse of `to_torch`."""
    array = tensor.detach().float().cpu().numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """‖actual − expected‖ / ‖expected‖ over all elements; infinite where shapes differ."""
    if actual.shape != expected.shape:
        return float("inf")
    difference = np.linalg.norm(np.subtract(actual, expected, dtype=np.float64))
    return float(difference / np.linalg.norm(np.asarray(expected, np.float64)))

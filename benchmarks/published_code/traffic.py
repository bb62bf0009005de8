"""Traffic and least time of published code on a GPU, counted without a GPU.

Eager PyTorch runs one operation after another: each reads its inputs and writes its results once,
and so does each operator of the published CUDA code. What is not counted favours the published
code: the starts of kernels and the host between them, workspaces, changes of layout inside of an
operation, second readings by batch normalisation, second passes for a convolution's bias and for
zeros that a gradient is added to, and what the fused activation's gradient reads of its result and
sums for a bias that is frozen.
"""

import argparse
import contextlib
import importlib
import json
import os

import jax
import numpy as np
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks import ahead, hlo, peers, sides, train_step
from benchmarks.encode import random_images
from benchmarks.published_code import checkouts
from benchmarks.published_code.train_step import TrainStep
from benchmarks.synthesis import generator_config
from e4e_jax.models.stylegan2 import Generator

# Their first operand is not read; nor is that of ones_like and its kind.
_WRITES = {"copy_", "zero_", "fill_", "normal_", "uniform_"}
_FREE = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "_unsafe_view"}


class Traffic(TorchDispatchMode):
    """Adds up all operations while it is entered.

    Args:
      rates: of the GPU.

    Attributes:
      bytes: read and written.
      seconds: what the operations take at least.
    """

    def __init__(self, rates: hlo.Rates):
        super().__init__()
        self._rates = rates
        self._paused = False
        self.reset()

    def reset(self) -> None:
        self.bytes, self.seconds = 0, 0.0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        results = function(*args, **kwargs)
        name = function.__name__.split(".")[0]
        returns = function._schema.returns
        is_view = any(r.alias_info and not r.alias_info.is_write for r in returns)
        if self._paused or is_view or name in _FREE:
            return results
        flops = flop_registry.get(function._overloadpacket, lambda *_, **__: 0)
        flops = flops(*args, **kwargs, out_val=results)
        if name in _WRITES or name.endswith("_like"):
            args = args[1:]
        elif name == "convolution_backward":  # two kernels, for the gradients of x and the weights
            gradient, x, *rest = args
            args = [gradient, x, *rest] if args[-1][1] else [gradient, *rest]
            if args[-1][0] and args[-1][1]:
                args.append(gradient.detach())
        self.add((args, kwargs), results, flops)
        return results

    def add(self, operands, results, flops: int = 0) -> None:
        """Counts an operation, of nests of operands and results.

        One that is given twice is read once, and so are repetitions by strides of 0.
        """
        read = {id(leaf): leaf for leaf in pytree.tree_leaves(operands)}.values()
        arrays = [*read, *pytree.tree_leaves(results)]
        arrays = [array for array in arrays if isinstance(array, torch.Tensor)]
        moved = sum(map(_bytes, arrays))
        self.bytes += moved
        itemsize = arrays[-1].element_size() if arrays else 4
        self.seconds += self._rates.seconds(moved, flops, itemsize)

    def as_one(self, function):
        """`function(x, ...)` as one operation, and its gradient as another."""

        def one(x, *args, **kwargs):
            return _One.apply(x, lambda x: function(x, *args, **kwargs), self)

        return one

    @contextlib.contextmanager
    def paused(self):
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before


def _bytes(array):
    sizes = zip(array.shape, array.stride(), strict=True)
    numbers = np.prod([size for size, stride in sizes if stride], dtype=np.int64)
    return int(numbers) * array.element_size()


class _One(torch.autograd.Function):
    @staticmethod
    def forward(context, x, function, traffic):
        with traffic.paused():
            y = function(x)
        traffic.add(x, y)
        context.function, context.traffic = function, traffic
        context.save_for_backward(x)
        return y

    @staticmethod
    def backward(context, gradient):
        (x,) = context.saved_tensors
        with context.traffic.paused(), torch.enable_grad():
            x = x.detach().requires_grad_()
            (found,) = torch.autograd.grad(context.function(x), x, gradient)
        context.traffic.add(gradient, found)
        return found, None, None


def main(argv=None) -> None:
    """Prints the numbers of a program as JSON, last."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.published_code.traffic")
    parser.add_argument("name", choices=("e4e", "stylegan2-ada"))
    parser.add_argument("checkout")
    parser.add_argument("program", choices=("synthesis", "step"))
    parser.add_argument("batch", type=int)
    flags = parser.parse_args(argv)
    if flags.program == "step" and flags.name != "e4e":
        parser.error(f"there is no step of {flags.name}.")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # nothing is to run on one
    jax.config.update("jax_platforms", "cpu")
    traffic = Traffic(ahead.TARGETS["h100"].rates)
    checkouts.prepare(flags.name, flags.checkout)
    _count_operators_as_one(flags.name, traffic)
    if flags.program == "step":
        moved, seconds = _step(traffic, flags.checkout, flags.batch)
    else:
        _synthesis(traffic, flags.name, flags.checkout, flags.batch)
        moved, seconds = traffic.bytes, traffic.seconds
    print(json.dumps({"traffic_bytes": int(moved), "least_seconds": float(seconds)}))


def _count_operators_as_one(name, traffic):
    """What is one CUDA operator in the published code counts as one operation."""
    if name == "e4e":
        operators = [("models.stylegan2.op", f) for f in ("fused_leaky_relu", "upfirdn2d")]
    else:
        operators = [(f"torch_utils.ops.{f}", f) for f in ("bias_act", "upfirdn2d")]
    for module, function in operators:
        module = importlib.import_module(module)
        setattr(module, function, traffic.as_one(getattr(module, function)))


def _synthesis(traffic, name, path, batch):
    config = generator_config(1024, small=False)
    generator = sides.random_module(lambda rngs: Generator(config, rngs=rngs))
    if name == "e4e":
        function = peers.e4e_synthesis(path, generator, device="meta")
    else:
        function = peers.nvidia_synthesis(name, path, generator, precision="float16", device="meta")
    codes = torch.empty(batch, config.num_styles, config.w_dim, device="meta")
    with torch.no_grad(), traffic:
        function(codes)


def _step(traffic, path, batch):
    """e4e's training step looks at its numbers and so has to run: with two images and with three.

    They give those of more, since all that depends on the batch is proportional to it; of the
    time that is nearly so. The step is one of many: Ranger's state is there and rectified. What
    comes every sixth or sixteenth step (Lookahead, R1) is left out.

    Returns:
      Bytes and seconds.
    """
    networks = train_step.make_networks(1024, False, "float32", sides.random_module)
    counted = []
    for images in (2, 3):
        step = TrainStep(path, *networks, train_step.OPTIONS, images)
        inputs = sides.to_torch(random_images(train_step.IMAGE_SIZE, images))
        step(inputs)
        for state in step.coach.optimizer.state.values():
            state["step"] = 1000
        traffic.reset()
        with traffic:
            step(inputs)
        counted.append(np.array([traffic.bytes, traffic.seconds]))
    return counted[0] + (batch - 2) * (counted[1] - counted[0])


if __name__ == "__main__":
    main()

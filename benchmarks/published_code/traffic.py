"""Traffic and least time of published code on a GPU, counted without a GPU.

Eager PyTorch runs one operation after another: each reads its inputs and writes its results once,
and so does each operator of the published CUDA code. What is not counted favours the published
code: starts of kernels, workspaces, changes of layout inside of an operation, second readings of
batch normalisation.
"""

import argparse
import contextlib
import importlib
import json

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
        elif name == "convolution_backward" and not args[-1][1]:
            args = (args[0], *args[2:])  # without the kernel's gradient
        self.add((args, kwargs, results), flops)
        return results

    def add(self, operands, flops: int = 0) -> None:
        """Counts an operation: nests of operands, without repetitions by strides of 0."""
        moved, itemsize = 0, 4
        for leaf in pytree.tree_leaves(operands):
            if isinstance(leaf, torch.Tensor):
                sizes = zip(leaf.shape, leaf.stride(), strict=True)
                numbers = np.prod([size for size, stride in sizes if stride], dtype=np.int64)
                moved += int(numbers) * leaf.element_size()
                itemsize = leaf.element_size()
        self.bytes += moved
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


class _One(torch.autograd.Function):
    @staticmethod
    def forward(context, x, function, traffic):
        with traffic.paused():
            y = function(x)
        traffic.add((x, y))
        context.function, context.traffic = function, traffic
        context.save_for_backward(x)
        return y

    @staticmethod
    def backward(context, gradient):
        (x,) = context.saved_tensors
        with context.traffic.paused(), torch.enable_grad():
            x = x.detach().requires_grad_()
            (found,) = torch.autograd.grad(context.function(x), x, gradient)
        context.traffic.add((gradient, found))
        return found, None, None


def main(argv=None) -> None:
    """Prints the numbers of a program as JSON, last."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.published_code.traffic")
    parser.add_argument("name", choices=("e4e", "stylegan2-ada"))
    parser.add_argument("checkout")
    parser.add_argument("program", choices=("synthesis", "step"))
    parser.add_argument("batch", type=int)
    parser.add_argument("--precision", choices=sides.PRECISIONS, default="bfloat16", help="of ours")
    flags = parser.parse_args(argv)
    traffic = Traffic(ahead.TARGETS["h100"].rates)
    checkouts.prepare(flags.name, flags.checkout)
    _count_operators_as_one(flags.name, traffic)
    if flags.program == "step":  # e4e's
        moved, seconds = _step(traffic, flags.checkout, flags.batch)
    else:
        precision = peers.precision(flags.name, flags.precision)
        _synthesis(traffic, flags.name, flags.checkout, flags.batch, precision)
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


def _synthesis(traffic, name, path, batch, precision):
    config = generator_config(1024, small=False)
    generator = sides.random_module(lambda rngs: Generator(config, rngs=rngs))
    if name == "e4e":
        function = peers.synthesis(path, generator, device="meta")
    else:
        float16 = precision == "float16"
        function = peers.nvidia_synthesis(name, path, generator, float16=float16, device="meta")
    codes = torch.empty(batch, config.num_styles, config.w_dim, device="meta")
    with torch.no_grad(), traffic:
        function(codes)


def _step(traffic, path, batch):
    """e4e's training step looks at its numbers and so has to run: with one image and with two.

    They give those of more, since all that depends on the batch is proportional to it; of the
    time that is nearly so.

    Returns:
      Bytes and seconds.
    """
    networks = train_step.make_networks(1024, False, "float32", sides.random_module)
    counted = []
    for images in (1, 2):
        step = TrainStep(path, *networks, train_step.OPTIONS, images)
        inputs = sides.to_torch(random_images(train_step.IMAGE_SIZE, images))
        traffic.reset()
        with traffic:
            step(inputs)
        counted.append(np.array([traffic.bytes, traffic.seconds]))
    return counted[0] + (batch - 1) * (counted[1] - counted[0])


if __name__ == "__main__":
    main()

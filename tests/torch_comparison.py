"""Arrays between JAX's and PyTorch's layout, and how far a JAX module is from its PyTorch form.

The PyTorch forms compute in float64, so that only our own rounding is measured. How large that is
depends on the processor: on the order in which it adds, and on whether it rounds a product before
it adds it. Two things keep the bounds of these tests free of it:

- Errors are measured against the largest number of an array. Each layer rounds to about 2⁻²⁴ of
  the sum of the absolute terms of its sums (see `helpers.rounding`), which is some times their
  result, and networks of ten layers come to 1e-6: the bound of 1e-5 leaves room, and is far below
  what a wrong weight or a lost term does. A number that is one sum over a whole image may have
  cancelled: it is measured against the sum of its absolute terms.
- A gradient jumps where an activation crosses 0, or where two numbers of a pooling change their
  order. `Corners` shows that, in float64, no input comes so near that rounding could decide.
"""

import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from torch.overrides import TorchFunctionMode

from benchmarks.torch_reference import stylegan2
from benchmarks.torch_reference.networks import torch_arrays


def to_torch(array):
    """[B, H, W, C] -> [B, C, H, W], other ranks as they are: float64, asking for its gradient."""
    array = np.asarray(array, np.float64)
    array = array.transpose(0, 3, 1, 2) if array.ndim == 4 else array
    return torch.from_numpy(np.array(array, order="C")).requires_grad_()


def to_jax(tensor):
    """The inverse of `to_torch`, as an array."""
    array = tensor.detach().numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def kernel_to_torch(kernel):
    """[k, k, I, O] -> [O, I, k, k], float64, asking for its gradient."""
    kernel = np.transpose(np.asarray(kernel, np.float64), (3, 2, 0, 1))
    return torch.from_numpy(np.array(kernel, order="C")).requires_grad_()


def kernel_to_jax(tensor):
    """[O, I, k, k] -> [k, k, I, O]."""
    return tensor.detach().numpy().transpose(2, 3, 1, 0)


def torch_parameters(module):
    """Those of `stylegan2.torch_parameters` in float64."""
    parameters = stylegan2.torch_parameters(module)
    return {name: p.detach().double().requires_grad_() for name, p in parameters.items()}


class Corners(TorchFunctionMode):
    """Notes how near the inputs of rectifiers and poolings come to a corner, while it is entered.

    `nearest` is the smallest distance of any, as a share of the largest number of its array.
    """

    def __init__(self):
        super().__init__()
        self.nearest = float("inf")

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (F.leaky_relu, F.relu, torch.relu, torch.Tensor.relu, torch.prelu):
            x = args[0].detach()
            self._note(x.abs().min(), x)
        elif "max_pool2d" in function.__name__ and args[1] != 1:
            size, stride = args[1], (args[2:] or (kwargs["stride"],))[0]
            x = args[0].detach()
            windows = F.unfold(x.flatten(0, 1)[:, None], size, stride=stride)
            first, second = windows.topk(2, dim=1).values.unbind(1)
            gaps = first - second
            self._note(torch.where(gaps == 0, torch.inf, gaps).min(), x)  # behind a ReLU many are 0
        elif function is torch.Tensor.clamp:
            x, low, high = args[0].detach(), *args[1:]
            self._note(torch.minimum((x - low).abs(), (x - high).abs()).min(), x)
        return function(*args, **kwargs or {})

    def _note(self, distance, x):
        self.nearest = min(self.nearest, float(distance / x.abs().max()))

    @property
    def are_far(self) -> bool:
        """Whether no input comes as near as ten times what layers round."""
        print(f"nearest corner: {self.nearest:.1e}")  # pytest shows it when a test fails
        return self.nearest > 2e-6


def sum_error(actual, terms):
    """|actual - Σ terms| / Σ|terms|, of the terms of one number as a float64 tensor.

    To add them costs about 2⁻²⁴ (see `helpers.rounding`), and each has the error of its network.
    """
    return float((actual.item() - terms.sum()).abs() / terms.abs().sum())


def state_error(state, reference):
    """The largest max|a - b| / max|b| of a variable, running statistics included."""
    return _largest_error(state, reference.state_dict(), floor=0.0)


def gradient_error(state, reference):
    """The same for the gradients of the weights.

    Where a gradient cancels, as that of a bias before a batch norm, rounding is all that is left:
    it is measured against a tenth of the largest gradient in the network.
    """
    expected = {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
    return _largest_error(state, expected, floor=0.1)


def _largest_error(state, expected, floor):
    floor *= max(float(e.abs().max()) for e in expected.values())
    errors = {}
    for path, variable in nnx.to_flat_state(state):
        for name, array in torch_arrays(path, variable[...]):
            e = expected[name].numpy().astype(np.float64)
            errors[name] = np.abs(array - e).max() / max(np.abs(e).max(), floor)
    worst = max(errors, key=errors.get)
    print(f"largest error {errors[worst]:.1e} at {worst}")  # pytest shows it when a test fails
    return errors[worst]

"""Arrays between JAX's and PyTorch's layout, and how far a JAX module is from its PyTorch form."""

import numpy as np
import torch
from flax import nnx

from benchmarks.torch_reference.networks import torch_arrays


def to_torch(array):
    """[B, H, W, C] -> [B, C, H, W], other ranks as they are, asking for its gradient."""
    array = np.asarray(array)
    array = array.transpose(0, 3, 1, 2) if array.ndim == 4 else array
    return torch.from_numpy(np.array(array, order="C")).requires_grad_()


def to_jax(tensor):
    """The inverse of `to_torch`, as an array."""
    array = tensor.detach().numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def kernel_to_torch(kernel):
    """[k, k, I, O] -> [O, I, k, k], asking for its gradient."""
    return torch.from_numpy(
        np.array(np.transpose(kernel, (3, 2, 0, 1)), order="C")
    ).requires_grad_()


def kernel_to_jax(tensor):
    """[O, I, k, k] -> [k, k, I, O]."""
    return tensor.detach().numpy().transpose(2, 3, 1, 0)


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
